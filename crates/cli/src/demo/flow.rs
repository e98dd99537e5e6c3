//! The flow of the demo: an aircraft alerts when it leaves an hour late three times in a row.

use std::{path::Path, sync::OnceLock, time::Instant};

use millstream::{Sink, io::Paced, prelude::*};

/// How far out of order departures come: the file is in the order of what happened.
pub const DELAY: Duration = Duration::from_secs(2 * 3600);
/// Minutes from which a departure is late.
pub const LATE: f64 = 60.0;

/// One departure, as far as the flow looks at it.
#[derive(Serialize, Deserialize)]
pub struct Departure {
    sched_dep: i64,
    flight: i64,
    tailnum: String,
    origin: String,
    dest: String,
    dep_delay: f64, // 'NA' is no f64: that row becomes a dead letter
}

/// The state of one process.
#[derive(Default, Serialize, Deserialize)]
pub struct Aircraft {
    departures: u32,
    late_in_a_row: u32,
}

impl Process for Aircraft {
    type In = Departure;
    type Out = Departure;

    fn handle(&mut self, departure: Departure, ctx: &mut Context<Self>) -> Result<()> {
        fault::point(&ctx.key(), ctx.origin().place(), self.departures);
        self.departures += 1;
        self.late_in_a_row = if departure.dep_delay >= LATE { self.late_in_a_row + 1 } else { 0 };
        if self.late_in_a_row == 3 {
            ctx.emit(departure);
        }
        Ok(())
    }
}

/// `flights.csv -> key_by tailnum -> process aircraft -> alerts`
pub fn flow(csv: &Path, alerts: impl Sink + 'static, rate: u64) -> Flow {
    Flow::new("departures")
        .source("flights", Paced::new(CsvFile::open(csv), rate))
        .event_time("sched_dep", DELAY)
        .key_by("tailnum")
        .process::<Aircraft>("aircraft", OnError::DeadLetter)
        .sink("alerts", alerts)
}

/// What is injected, and how fast the process is back: the only lines here that are no flow.
pub mod fault {
    use std::sync::Mutex;

    use super::{super::node::Said, *};

    /// A panic at a line of the file.
    #[derive(Clone, Debug)]
    pub struct Plan {
        /// The line, counted from 1.
        pub line: u64,
        /// The key it belongs to.
        pub key: String,
    }

    static PLAN: OnceLock<Plan> = OnceLock::new();
    static STRUCK: Mutex<Option<Instant>> = Mutex::new(None);

    /// Says what is to be injected; once.
    pub fn inject(plan: Plan) {
        // A second plan would be a mistake of the caller; the first one holds.
        let _ = PLAN.set(plan);
    }

    /// Called at the beginning of each call: panics at the planned line, and says how long after
    /// the panic the same process was called again, and what it remembers.
    pub fn point(key: &str, line: u64, departures: u32) {
        let Some(plan) = PLAN.get().filter(|plan| plan.key == key) else { return };
        let mut struck = STRUCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(since) = struck.take() {
            let after_us = since.elapsed().as_micros() as u64;
            Said::Resumed { after_us, departures }.say();
        }
        if line == plan.line {
            *struck = Some(Instant::now());
            drop(struck);
            panic!("injected");
        }
    }
}
