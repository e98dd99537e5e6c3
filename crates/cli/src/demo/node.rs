//! The node of the demo, a process of its own: it is killed by its heart, and started again.

use std::{io::Read, process::ExitCode, time::Duration};

use millstream::{Node, Running, io::JsonLinesFile};
use millstream_core::{Code, Result};
use millstream_io::http::ErrorBody;
use serde::{Deserialize, Serialize};

use super::flow::{fault, flow};
use crate::args::DemoNode;

/// What the heart says before it closes the pipe, if the node is to work off what it has.
pub const DRAIN: &[u8] = b"drain";

/// How long a node that is to stop may work off what it has taken in.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What the node says to its heart beside what its API tells: a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// The process that panicked was called again.
    Resumed {
        /// Microseconds from the panic to that call.
        after_us: u64,
        /// Departures that it then remembered.
        departures: u32,
    },
    /// Where a node of many can be asked.
    Listens {
        /// As `host:port`.
        address: String,
    },
    /// Why it does not start. The heart says it to people, once, and ends as that error does.
    Failed(ErrorBody),
}

impl Said {
    /// Says it.
    pub fn say(&self) {
        println!("{}", serde_json::to_string(self).unwrap_or_default());
    }
}

/// Runs until the heart closes the pipe, then drains if told to, and stops. The exit code says
/// whether all was worked off.
pub fn run(start: impl FnOnce() -> Result<Running>) -> Result<ExitCode> {
    let running = match start() {
        Ok(running) => running,
        Err(e) => {
            Said::Failed(ErrorBody::from(&e)).say();
            return Ok(ExitCode::FAILURE);
        }
    };
    // Ends when the heart closes it, or dies.
    let mut asked = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut asked);
    let drained = asked == DRAIN && running.drain(DRAIN_MAX);
    running.stop();
    Ok(ExitCode::from(u8::from(!drained)))
}

/// Starts the node, and its flow.
pub fn start(args: &DemoNode) -> Result<Running> {
    if let Some([line, key]) = args.panic_at.as_deref() {
        let line = line.parse().unwrap_or_default();
        fault::inject(fault::Plan { line, key: key.clone() });
    }
    let start = |listen: &str| Node::embedded(&args.dir).http(listen).start();
    let running = match start(&args.listen) {
        Err(e) if e.code() == Code::InUse && args.or_any_port => start("127.0.0.1:0")?,
        other => other?,
    };
    let alerts = JsonLinesFile::create(args.dir.join("alerts.jsonl"));
    running.deploy(&flow(&args.csv, alerts, args.rate))?;
    Ok(running)
}
