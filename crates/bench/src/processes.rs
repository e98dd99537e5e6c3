//! `processes`: ten million live processes, with 16-byte keys and 16 bytes of state each, created
//! by durable events; then a second event for a million of them; then the node is opened again.
//!
//! Memory is what the operating system says the whole node holds, less what it held before the
//! first event: nothing is left out.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use millstream::{Running, io::Discard, prelude::*};
use serde::{Deserialize, Serialize};

use crate::{
    cli::Processes,
    feed::Feed,
    machine::{self, Scratch},
    node,
    report::{self, Report, Totals},
};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// What a process of its own does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub data: PathBuf,
    pub keys: u64,
    pub again: u64,
    pub seed: u64,
    /// Opens what another process has left, instead of making it.
    pub reopen: bool,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Made {
    pub totals: Totals,
    pub violations: Vec<String>,
    pub create_s: f64,
    pub reopen_s: f64,
    pub again_s: f64,
    pub read_bytes: u64,
    pub rss_before: u64,
    pub rss_after: u64,
    pub alive: u64,
    /// Processes whose state is not what their events say, of those looked at.
    pub wrong: u64,
}

/// Runs the bench.
pub fn run(args: &Processes) -> report::Result<ExitCode> {
    let mut report = Report::new("processes", args.common.seed, args.common.rounds);
    node::print_configuration();
    let (mut bytes, mut create, mut again, mut reopen) = (vec![], vec![], vec![], vec![]);
    for round in 1..=args.common.rounds {
        let scratch = Scratch::new(args.common.dir.as_deref())?;
        let part = |reopen| Part {
            data: scratch.join("data"),
            keys: args.keys,
            again: args.again,
            seed: args.common.seed,
            reopen,
        };
        let made: Made = machine::part("processes", &part(false))?;
        let opened: Made = machine::part("processes", &part(true))?;
        bytes.push(made.rss_after.saturating_sub(made.rss_before) as f64 / args.keys as f64);
        create.push(made.create_s);
        again.push(made.again_s);
        reopen.push(opened.reopen_s);
        println!(
            "round {round}  made in {:.2} s, {:.0} bytes each; again {} in {:.2} s, {} bytes read; \
             reopened in {:.2} s",
            made.create_s,
            bytes.last().copied().unwrap_or_default(),
            args.again,
            made.again_s,
            made.read_bytes,
            opened.reopen_s
        );
        for m in [&made, &opened] {
            report.check(m.violations.is_empty(), || m.violations.join("; "));
            report.check(m.alive == args.keys, || format!("{} processes live", m.alive));
            report.check(m.wrong == 0, || format!("{} processes have another state", m.wrong));
        }
        report.check(made.read_bytes == 0, || format!("{} bytes were read", made.read_bytes));
        report.totals(made.totals);
    }
    report.figure("processes", args.keys);
    report.spread(["bytes_per_process", "bytes_per_process_min", "bytes_per_process_max"], &bytes);
    report.spread(["create_s", "create_s_min", "create_s_max"], &create);
    report.spread(["again_s", "again_s_min", "again_s_max"], &again);
    report.spread(["reopen_s", "reopen_s_min", "reopen_s_max"], &reopen);
    Ok(report.finish())
}

#[derive(Serialize, Deserialize)]
struct Event {
    value: u64,
}

/// 16 bytes of state.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    events: u64,
    sum: u64,
}

impl Process for Counter {
    type In = Event;
    type Out = Event;

    fn handle(&mut self, e: Event, _ctx: &mut Context<Self>) -> Result<()> {
        self.events += 1;
        self.sum += e.value;
        Ok(())
    }
}

/// The key of an event: the first `keys` events make all processes, later ones meet random ones.
fn key_of(event: u64, keys: u64, seed: u64) -> u64 {
    match event < keys {
        true => event,
        false => mix(event ^ seed) % keys,
    }
}

/// Spreads numbers (splitmix64).
pub fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn name(key: u64) -> String {
    format!("key-{key:012}")
}

/// Makes or opens the processes.
pub fn part(part: &Part) -> report::Result<Made> {
    let (keys, seed) = (part.keys, part.seed);
    let begun = Instant::now();
    let feed = Feed::new(&["key", "value"], move |n, line| {
        let key = name(key_of(n, keys, seed));
        line.extend_from_slice(format!("{{\"key\":\"{key}\",\"value\":{n}}}").as_bytes());
    });
    let flow = Flow::new("processes")
        .source("events", feed.clone())
        .key_by("key")
        .process::<Counter>("counter", OnError::DeadLetter)
        .sink("out", Discard::new());
    let running = node::start(Node::embedded(&part.data), &flow)?;
    let mut made = Made::default();
    if part.reopen {
        node::wait_until("process", PATIENCE, || alive(&running) == keys)?;
        made.reopen_s = begun.elapsed().as_secs_f64();
    } else {
        std::thread::sleep(Duration::from_secs(1));
        made.rss_before = machine::rss_bytes();
        let begun = Instant::now();
        feed.allow(keys);
        handled(&running, keys)?;
        made.create_s = begun.elapsed().as_secs_f64();
        made.rss_after = machine::rss_bytes();
        let (begun, read) = (Instant::now(), machine::workers_read_bytes());
        feed.allow(keys + part.again);
        handled(&running, keys + part.again)?;
        made.again_s = begun.elapsed().as_secs_f64();
        made.read_bytes = machine::workers_read_bytes() - read;
    }
    made.alive = alive(&running);
    made.wrong = wrong(&running, part)?;
    (made.totals, made.violations) = node::totals(&running);
    running.stop();
    Ok(made)
}

/// Waits until `events` events were handled and are durable.
fn handled(running: &Running, events: u64) -> report::Result<()> {
    node::wait_until("event handled", PATIENCE, || {
        let ledger = running.ledger();
        let done = ledger.operators.values().map(|c| c.processed).sum::<u64>() == events;
        done && running.engine().health().pending_bytes == 0
    })
}

fn alive(running: &Running) -> u64 {
    running.heart().tasks().iter().map(|t| t.keys as u64).sum()
}

/// How many of a thousand processes have another state than their events make.
fn wrong(running: &Running, part: &Part) -> report::Result<u64> {
    let looked_at: Vec<u64> = (0..1000).map(|n| mix(n) % part.keys).collect();
    let mut should: std::collections::BTreeMap<u64, (u64, u64)> =
        looked_at.iter().map(|k| (*k, (1, *k))).collect();
    for event in part.keys..part.keys + part.again {
        if let Some((events, sum)) = should.get_mut(&key_of(event, part.keys, part.seed)) {
            *events += 1;
            *sum += event;
        }
    }
    let mut wrong = 0;
    for (key, (events, sum)) in should {
        let bytes = running.heart().inspect("counter", Key::text(&name(key)).bytes());
        let state = bytes.map(|b| millstream::process_state(&b)).transpose()?;
        let state = state.and_then(|s| serde_json::from_value::<Counter>(s.state).ok());
        wrong += u64::from(state.is_none_or(|s| (s.events, s.sum) != (events, sum)));
    }
    Ok(wrong)
}
