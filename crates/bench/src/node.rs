//! What all benches ask of a node: its configuration, what it has done, what it has set aside.

use std::time::Duration;

use millstream::{Flow, Node, PARTITIONS, Running};
use millstream_core::{
    ledger::OperatorCounters,
    letter::{self, Letter},
};
use millstream_runtime::{embedded, node, node::FlowState, stage::Limits};

use crate::{
    machine,
    report::{Result, Totals},
};

/// Prints the configuration that all benches leave as it is.
pub fn print_configuration() {
    println!("engine   {:?}", embedded::Options::default());
    println!("node     {:?}", node::Options::default());
    println!("turn     {:?}", Limits::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    println!("workers  {workers}, {PARTITIONS} partitions per keyed stream");
}

/// Starts a node as a user would and lets it run a flow.
///
/// # Errors
/// As [`Node::start`] and [`Running::deploy`].
pub fn start(node: Node, flow: &Flow) -> Result<Running> {
    let running = node.start()?;
    running.deploy(flow)?;
    Ok(running)
}

/// Waits until a flow has read all its input and handed everything over.
///
/// # Errors
/// If it fails or stops instead.
pub fn finish(running: &Running, flow: &Flow) -> Result<()> {
    match running.wait(flow.name()) {
        FlowState::Finished => Ok(()),
        FlowState::Failed(error) => Err(error.into()),
        other => Err(format!("the flow is {other:?}").into()),
    }
}

/// Waits until `done`, looking every millisecond; an error after `at_most`.
///
/// # Errors
/// If the time is over.
pub fn wait_until(what: &str, at_most: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let begun = std::time::Instant::now();
    while !done() {
        if begun.elapsed() > at_most {
            return Err(format!("after {at_most:?} there was still no {what}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What the node has done so far, by its own counters, and the laws of the ledger that are broken.
pub fn totals(running: &Running) -> (Totals, Vec<String>) {
    let (ledger, stats) = (running.ledger(), running.engine().stats());
    let sum = |of: fn(&OperatorCounters) -> u64| ledger.operators.values().map(of).sum::<u64>();
    let undecodable = ledger.sources.values().map(|s| s.undecodable).sum::<u64>();
    let sinks = ledger.operators.iter().filter(|(name, _)| name.ends_with("/out/out"));
    let totals = Totals {
        rows_in: ledger.sources.values().map(|s| s.rows).sum(),
        rows_out: sinks.map(|(_, c)| c.processed).sum(),
        late: sum(|c| c.late),
        dead: undecodable + sum(|c| c.dead + c.dead_firings),
        turns: stats.turns,
        fsyncs: stats.fsyncs,
        bytes_written: stats.bytes_written,
        cpu_s: machine::cpu_s(),
        peak_rss_bytes: machine::peak_rss_bytes(),
    };
    (totals, ledger.violations())
}

/// Everything a flow has set aside and still keeps, in order.
///
/// # Errors
/// If a frame cannot be read.
pub fn letters(running: &Running, flow: &Flow) -> Result<Vec<Letter>> {
    let engine = running.engine();
    let name = format!("{}/$dead", flow.name());
    let Some(info) = engine.streams().into_iter().find(|s| s.spec.name == name) else {
        return Err(format!("there is no stream {name}").into());
    };
    let mut letters = Vec::new();
    for (partition, range) in info.frames.iter().enumerate() {
        let mut at = range.start;
        while at < range.end {
            let frames = engine.read(info.id, partition as u32, at, 16 << 20)?;
            let Some((last, _)) = frames.last() else { break };
            at = last + 1;
            for (_, frame) in frames.iter().filter(|(_, f)| f.header.rows > 0) {
                letters.extend(letter::from_frame(frame)?);
            }
        }
    }
    Ok(letters)
}
