//! The sketch of the typed API, as a test.

use millstream::{
    prelude::*,
    test::{Crash, TestNode},
};
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Departure {
    tailnum: String,
    dep_delay: f64,
}

#[derive(Default, Clone, Serialize, Deserialize)]
struct Aircraft {
    late_in_a_row: u32,
}

impl Process for Aircraft {
    type In = Departure;
    type Out = Departure;

    fn handle(&mut self, d: Departure, ctx: &mut Context<Self>) -> Result<()> {
        self.late_in_a_row = if d.dep_delay >= 60.0 { self.late_in_a_row + 1 } else { 0 };
        if d.dep_delay == 666.0 {
            panic!("injected");
        }
        if self.late_in_a_row == 3 {
            ctx.emit(d);
        }
        Ok(())
    }
}

fn flow() -> Flow {
    Flow::new("departures")
        .source("flights", CsvFile::open("flights.csv"))
        .key_by("tailnum")
        .process::<Aircraft>("aircraft", OnError::DeadLetter)
        .sink("alerts", JsonLinesFile::create("alerts.jsonl"))
}

#[test]
fn a_process_alerts_once_whatever_crashes() {
    for seed in 0..20 {
        let mut t = TestNode::new(flow()).seed(seed).turn_rows(1);
        for m in [75.0, 61.0, 90.0, 62.0] {
            t.put("flights", json!({"tailnum": "N1", "dep_delay": m}));
        }
        t.put("flights", json!({"tailnum": "N1", "dep_delay": "NA"}));
        t.crash(Crash::AtCommit(3)).run_until_idle();
        assert_eq!(t.sink("alerts").len(), 1, "seed {seed}");
        assert_eq!(t.state::<Aircraft>("N1").late_in_a_row, 4, "seed {seed}");
        assert_eq!(t.dead_letters()[0].column(), "dep_delay", "seed {seed}");
        t.assert_ledger_balanced();
    }
}

#[test]
fn a_panic_costs_one_event_of_one_key() {
    let mut t = TestNode::new(flow()).seed(1);
    for (n, m) in [("N1", 75.0), ("N2", 61.0), ("N1", 666.0), ("N2", 62.0), ("N1", 90.0)] {
        t.put("flights", json!({"tailnum": n, "dep_delay": m}));
    }
    t.run_until_idle();
    assert_eq!(t.state::<Aircraft>("N1").late_in_a_row, 2);
    assert_eq!(t.state::<Aircraft>("N2").late_in_a_row, 2);
    let dead = t.dead_letters();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].error.starts_with("panic 'injected' at"), "{}", dead[0].error);
    assert_eq!((dead[0].source.as_str(), dead[0].place), ("flights", 3));
    t.assert_ledger_balanced();
}
