//! Alerts when an aircraft leaves an hour or more late for the third time in a row.
//!
//!     cargo run -p millstream --example departures
//!
//! Reads 27,004 real departures, keeps one process per aircraft, writes `out/departures.jsonl`.
//! 521 rows have no delay ("NA"): they become dead letters, and nothing stops. Run it again and
//! it goes on where it was: at the end. To start anew, remove `millstream-data` and `out`.

use millstream::prelude::*;

/// A row of the file. "NA" is no `f64`: that row becomes a dead letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Departure {
    tailnum: String,
    dep_delay: f64,
}

/// The state of one aircraft.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Aircraft {
    /// Departures an hour or more late, without one in time since.
    pub late_in_a_row: u32,
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

/// The topology: from rows to results.
pub fn flow(csv: &str, alerts: &str) -> Flow {
    Flow::new("departures")
        .source("flights", CsvFile::open(csv))
        .key_by("tailnum") // one supervised process per aircraft
        .process::<Aircraft>("aircraft", OnError::DeadLetter)
        .sink("alerts", JsonLinesFile::create(alerts))
}

fn main() -> Result<()> {
    let alerts = "out/departures.jsonl";
    Node::from_args("millstream-data")?.run(flow("examples/data/flights-2013-01.csv", alerts))?;
    println!("{} alerts in {alerts}", std::fs::read_to_string(alerts)?.lines().count());
    Ok(())
}
