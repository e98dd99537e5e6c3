//! The results of every example: on a real node, on simulated ones whatever fails, and by a plain
//! loop that shares no code with them.

#![expect(clippy::unwrap_used, reason = "tests")]

mod departures;
mod departures_hourly;
mod payments;
mod sensors;
mod social;

use std::{collections::BTreeMap, path::Path};

use millstream::{
    prelude::*,
    runtime::{node::FlowState, sim::faults::Faults},
    test::{Crash, Folder, TestNode},
};
use serde_json::{Value, json};

/// What must not matter: the seed, the size of turns, what fails.
///
/// The power fails at most three times: an event at which a node died more often than that is
/// taken for the culprit and set aside.
#[derive(Clone, Copy, Debug)]
struct Weather {
    seed: u64,
    turn_rows: usize,
    /// Commits out of 1,000 that each fault hits.
    faults: u64,
    /// The power fails after each so many steps; 0: never.
    crash_every: u64,
}

const WEATHER: [Weather; 6] = [
    Weather { seed: 1, turn_rows: 1, faults: 0, crash_every: 0 },
    Weather { seed: 2, turn_rows: 65_536, faults: 0, crash_every: 0 },
    Weather { seed: 3, turn_rows: 1, faults: 0, crash_every: 1_100 },
    Weather { seed: 4, turn_rows: 7, faults: 30, crash_every: 0 },
    Weather { seed: 5, turn_rows: 100, faults: 0, crash_every: 700 },
    Weather { seed: 6, turn_rows: 65_536, faults: 60, crash_every: 0 },
];

/// Steps taken between two pieces of the input.
const STEPS: u64 = 300;
/// Pieces the input comes in.
const PIECES: usize = 8;

/// Runs a flow to the end of its input on a simulated node.
fn simulate(flow: Flow, source: &str, input: &[Value], weather: Weather) -> TestNode {
    let Weather { seed, turn_rows, faults: n, crash_every } = weather;
    let faults = Faults { fence: n, unknown: n, retry: n, delay: n };
    let mut t = TestNode::new(flow).seed(seed).turn_rows(turn_rows).setup(|s| s.faults = faults);
    let mut steps = 0;
    for piece in input.chunks(input.len().div_ceil(PIECES).max(1)) {
        for row in piece {
            t.put(source, row.clone());
        }
        for _ in 0..STEPS {
            t.world().step();
            steps += 1;
            if crash_every > 0 && u64::is_multiple_of(steps, crash_every) {
                t.crash(Crash::Now);
            }
        }
    }
    t.end().run_until_idle();
    assert_eq!(t.coverage().crashes > 0, crash_every > 0, "{weather:?}: the power failed");
    t.assert_ledger_balanced();
    t
}

/// Runs a flow on a real node in a folder, checks its ledger, and gives the node to look at.
fn run(flow: &Flow, folder: &Folder, look: impl FnOnce(&millstream::Running)) {
    let node = Node::embedded(folder.path().join("data")).start().unwrap();
    node.deploy(flow).unwrap();
    assert_eq!(node.wait(flow.name()), FlowState::Finished);
    assert_eq!(node.ledger().violations(), Vec::<String>::new());
    look(&node);
    node.stop();
}

/// The lines of a file of JSON lines.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same rows, each as often, in whatever order: that of partitions is nobody's business.
fn assert_same(got: &[Value], wanted: &[Value], what: impl std::fmt::Debug) {
    let mut balance: BTreeMap<String, i64> = BTreeMap::new();
    got.iter().for_each(|row| *balance.entry(row.to_string()).or_default() += 1);
    wanted.iter().for_each(|row| *balance.entry(row.to_string()).or_default() -= 1);
    balance.retain(|_, n| *n != 0);
    let some: Vec<_> = balance.iter().take(5).collect();
    let (g, w, off) = (got.len(), wanted.len(), balance.len());
    assert!(off == 0, "{what:?}: {g} rows, {w} wanted, {off} of them off, such as {some:#?}");
}

/// Where the real data lies.
fn flights_csv() -> String {
    format!("{}/../../examples/data/flights-2013-01.csv", env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the file as JSON, a number where there is one.
fn flights() -> Vec<Value> {
    let text = std::fs::read_to_string(flights_csv()).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let value = |name: &str, text: &str| match text.parse::<f64>() {
        Ok(n) if name == "dep_delay" => json!(n),
        _ => json!(text),
    };
    lines
        .map(|line| header.iter().zip(line.split(',')).map(|(n, v)| (n.to_string(), value(n, v))))
        .map(|fields| Value::Object(fields.collect()))
        .collect()
}

/// Rows 0 to `rows` of a generator with seed 7.
fn generated(rows: u64, row: fn(u64, &mut millstream::io::rng::Rng) -> Value) -> Vec<Value> {
    (0..rows).map(|n| row(n, &mut millstream::io::rng::Rng::for_item(7, n))).collect()
}
