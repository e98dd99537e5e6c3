//! Departures and their mean and worst delay, per airport and hour.
//!
//!     cargo run -p millstream --example departures_hourly
//!
//! The hour is that of the *scheduled* departure, while the file is in the order of the real ones:
//! a flight that leaves five hours late is a row that comes five hours late. A window stays open
//! until two hours past its end have been seen; what comes later is kept apart, not dropped.

use millstream::prelude::*;

/// The topology: from rows to results.
pub fn flow(csv: &str, hours: &str, late: &str) -> Flow {
    let hour = Window::tumble("sched_dep", Duration::from_hours(1));
    let columns = [
        Aggregate::count("flights"),
        Aggregate::mean("dep_delay", "mean_delay"),
        Aggregate::max("dep_delay", "max_delay"),
    ];
    Flow::new("departures_hourly")
        .source("flights", CsvFile::open(csv))
        .event_time("sched_dep", Duration::from_hours(2))
        .key_by("origin")
        .window("hourly", hour, columns)
        .sink("hours", JsonLinesFile::create(hours))
        .from_side("hourly", "$late")
        .sink("late", JsonLinesFile::create(late))
}

fn main() -> Result<()> {
    let (hours, late) = ("out/hours.jsonl", "out/hours-late.jsonl");
    let flow = flow("examples/data/flights-2013-01.csv", hours, late);
    Node::from_args("millstream-data")?.run(flow)?;
    for path in [hours, late] {
        println!("{} rows in {path}", std::fs::read_to_string(path)?.lines().count());
    }
    Ok(())
}
