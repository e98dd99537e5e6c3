//! Real data through a real node: the answers are those a plain script counts.

use millstream::{prelude::*, test::Folder};

#[derive(Serialize, Deserialize)]
struct Departure {
    tailnum: String,
    dep_delay: f64,
}

#[derive(Default, Serialize, Deserialize)]
struct Aircraft {
    late_in_a_row: u32,
}

impl Process for Aircraft {
    type In = Departure;
    type Out = Departure;

    fn handle(&mut self, d: Departure, ctx: &mut Context<Self>) -> Result<()> {
        self.late_in_a_row = if d.dep_delay >= 60.0 { self.late_in_a_row + 1 } else { 0 };
        if self.late_in_a_row == 3 {
            ctx.emit(d);
        }
        Ok(())
    }
}

fn data() -> String {
    format!("{}/../../examples/data/flights-2013-01.csv", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_aircraft_late_three_times_in_a_row_alerts_once() {
    let folder = Folder::new("departures");
    let out = folder.path().join("alerts.jsonl");
    let flow = Flow::new("departures")
        .source("flights", CsvFile::open(data()))
        .key_by("tailnum")
        .process::<Aircraft>("aircraft", OnError::DeadLetter)
        .sink("alerts", JsonLinesFile::create(&out));
    let node = Node::embedded(folder.path().join("data")).start().unwrap();
    node.deploy(&flow).unwrap();
    assert_eq!(node.wait("departures"), millstream::runtime::node::FlowState::Finished);
    let alerts = std::fs::read_to_string(&out).unwrap();
    assert_eq!(alerts.lines().count(), 45);
    let ledger = node.ledger();
    assert_eq!(ledger.violations(), Vec::<String>::new());
    let source = &ledger.sources["departures/flights"];
    assert_eq!(
        (source.units, source.rows, source.undecodable, source.skipped),
        (27_005, 26_483, 521, 1)
    );
    assert_eq!(ledger.operators["departures/aircraft/aircraft"].processed, 26_483);
    assert_eq!(node.heart().tasks().iter().map(|t| t.keys).sum::<usize>(), 3_141);
    node.stop();
}
