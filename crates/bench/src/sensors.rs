//! The flows of `telemetry` and `poison`, and how their results are compared with the baseline's.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use millstream::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    machine, node, plain,
    report::{self, Totals},
};

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);
/// How far out of order readings come.
const DELAY: Duration = Duration::from_secs(2);

/// What a part of a bench does, in a process of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub what: What,
    pub input: PathBuf,
    pub output: PathBuf,
    pub data: PathBuf,
}

/// Who aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The baseline.
    Plain,
    /// The baseline, without the poisoned readings.
    PlainHealthy,
    /// The window helper.
    Window,
    /// A user-written process.
    Process,
    /// The same, which panics at poisoned readings.
    Poison,
}

/// What came of a part.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// From start to the output being there (fsynced, except the baseline's).
    pub wall_s: f64,
    pub totals: Totals,
    /// Broken laws of the ledger.
    pub violations: Vec<String>,
    /// Source lines of the dead letters, in order, where they were asked for.
    pub dead_lines: Vec<u64>,
    /// Turns by stage.
    pub stages: BTreeMap<String, u64>,
}

/// Whether a reading is poisoned: one of each hundred, by hash.
pub fn poisoned(seq: u64) -> bool {
    let hash = (seq / 100).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    seq % 100 == (hash >> 32) % 100
}

/// Runs a part.
pub fn run(part: &Part) -> report::Result<Run> {
    let begun = Instant::now();
    let flow = match part.what {
        What::Plain => return baseline(part, begun, |_| false),
        What::PlainHealthy => return baseline(part, begun, poisoned),
        What::Window => window_flow(part),
        What::Process => process_flow::<false>(part),
        What::Poison => process_flow::<true>(part),
    };
    let running = node::start(Node::embedded(&part.data), &flow)?;
    node::finish(&running, &flow)?;
    let wall_s = begun.elapsed().as_secs_f64();
    let (totals, violations) = node::totals(&running);
    let dead_lines = match part.what {
        What::Poison => node::letters(&running, &flow)?.iter().map(|l| l.place).collect(),
        _ => Vec::new(),
    };
    let mut stages = BTreeMap::new();
    for task in running.heart().tasks() {
        *stages.entry(task.path.stage).or_default() += task.stats.turns;
    }
    running.stop();
    Ok(Run { wall_s, totals, violations, dead_lines, stages })
}

fn baseline(part: &Part, begun: Instant, skip: impl Fn(u64) -> bool) -> report::Result<Run> {
    let (rows_in, rows_out) = plain::run(&part.input, &part.output, skip)?;
    let wall_s = begun.elapsed().as_secs_f64();
    let totals = Totals {
        rows_in,
        rows_out,
        cpu_s: machine::cpu_s(),
        peak_rss_bytes: machine::peak_rss_bytes(),
        ..Totals::default()
    };
    Ok(Run { wall_s, totals, violations: Vec::new(), dead_lines: vec![], stages: BTreeMap::new() })
}

fn source(part: &Part) -> Flow {
    Flow::new("telemetry")
        .source("readings", JsonLinesFile::open(&part.input))
        .event_time("ts", DELAY)
        .key_by("sensor")
}

fn window_flow(part: &Part) -> Flow {
    let aggregates = [
        Aggregate::count("n"),
        Aggregate::mean("celsius", "mean"),
        Aggregate::min("celsius", "min"),
        Aggregate::max("celsius", "max"),
    ];
    source(part)
        .window("stats", Window::tumble("ts", WINDOW), aggregates)
        .sink("out", JsonLinesFile::create(&part.output))
}

fn process_flow<const POISON: bool>(part: &Part) -> Flow {
    source(part)
        .process::<Sensor<POISON>>("stats", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(&part.output))
}

/// What a sensor says.
#[derive(Serialize, Deserialize)]
pub struct Reading {
    ts: i64,
    celsius: f64,
    seq: u64,
}

/// A window that has closed.
#[derive(Serialize, Deserialize)]
pub struct Closed {
    sensor: String,
    window: i64,
    n: u64,
    mean: f64,
    min: f64,
    max: f64,
}

/// A sensor's open windows, earliest first.
#[derive(Default, Serialize, Deserialize)]
pub struct Sensor<const POISON: bool> {
    open: Vec<Open>,
}

#[derive(Serialize, Deserialize)]
struct Open {
    start: i64,
    n: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl<const POISON: bool> Process for Sensor<POISON> {
    type In = Reading;
    type Out = Closed;

    fn handle(&mut self, r: Reading, ctx: &mut Context<Self>) -> Result<()> {
        let start = r.ts - r.ts.rem_euclid(WINDOW.as_millis() as i64);
        let at = self.open.partition_point(|w| w.start < start);
        if self.open.get(at).is_none_or(|w| w.start != start) {
            let (min, max) = (f64::MAX, f64::MIN);
            self.open.insert(at, Open { start, n: 0, sum: 0.0, min, max });
            ctx.set_timer("close", self.next_close());
        }
        let window = &mut self.open[at];
        window.n += 1;
        window.sum += r.celsius;
        if POISON && poisoned(r.seq) {
            panic!("poison");
        }
        window.min = window.min.min(r.celsius);
        window.max = window.max.max(r.celsius);
        Ok(())
    }

    fn on_timer(&mut self, _name: &str, ctx: &mut Context<Self>) -> Result<()> {
        let Open { start, n, sum, min, max } = self.open.remove(0);
        let (sensor, mean) = (ctx.key().into_owned(), sum / n as f64);
        ctx.emit(Closed { sensor, window: start, n, mean, min, max });
        if !self.open.is_empty() {
            ctx.set_timer("close", self.next_close());
        }
        Ok(())
    }
}

impl<const POISON: bool> Sensor<POISON> {
    fn next_close(&self) -> At {
        At::Event(Time::from_ms(self.open.first().map_or(0, |w| w.start)) + WINDOW)
    }
}

/// A line of either output.
#[derive(Deserialize)]
struct Line {
    sensor: String,
    #[serde(alias = "window_start")]
    window: i64,
    n: u64,
    mean: f64,
    min: f64,
    max: f64,
}

/// Every window of an output, by sensor and start; floats as bits, since they must be the same.
pub type Windows = BTreeMap<(String, i64), [u64; 4]>;

/// Reads an output.
///
/// # Errors
/// If it cannot be read, or holds a window twice.
pub fn windows(path: &Path) -> report::Result<Windows> {
    let mut windows = Windows::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let l: Line = serde_json::from_str(line)?;
        let values = [l.n, l.mean.to_bits(), l.min.to_bits(), l.max.to_bits()];
        if windows.insert((l.sensor, l.window), values).is_some() {
            return Err(format!("{} has a window twice: {line}", path.display()).into());
        }
    }
    Ok(windows)
}

/// In words, how an output differs from what it should be; `None` if it does not.
pub fn difference(should: &Windows, is: &Windows) -> Option<String> {
    let missing = should.keys().find(|k| !is.contains_key(*k));
    let extra = is.keys().find(|k| !should.contains_key(*k));
    let other = should.iter().find(|(k, v)| is.get(*k).is_some_and(|is| is != *v));
    match (missing, extra, other) {
        (Some(k), ..) => Some(format!("window {k:?} is missing")),
        (_, Some(k), _) => Some(format!("window {k:?} should not be there")),
        (.., Some((k, _))) => Some(format!("window {k:?} has other values")),
        _ => None,
    }
}
