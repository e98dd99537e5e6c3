//! `restart`: how long after a panic a process handles its next event.
//!
//! Each measurement is a turn of two events of one key, through the running node. The first changes
//! the state and panics; the clock stops when the second enters `handle`. In between lie the
//! unwound panic, the undo and, in a turn that was optimistic, its second run, in which the first
//! event panics again. The clock starts at the first panic of all.
//!
//! Then the same while other keys get 100,000 events a second, each of which was due at a certain
//! time: how late is it when the handler whose effects count has it?

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream::{Running, io::Discard, prelude::*};
use serde::{Deserialize, Serialize};

use crate::{
    cli::Restart,
    feed::Feed,
    machine::{self, Scratch},
    node,
    processes::mix,
    report::{self, Report, Spread, Totals, quantile},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Keys that panic, and keys that do not.
const BAD_KEYS: u64 = 997;
const GOOD_KEYS: u64 = 100_000;

/// One round in a process of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub data: PathBuf,
    pub panics: u64,
    pub seed: u64,
    /// Other events a second; none if 0.
    pub others: u64,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    pub totals: Totals,
    pub violations: Vec<String>,
    /// From panic to the next event, µs.
    pub restart_us: Vec<f64>,
    pub others_p50_ms: f64,
    pub others_p99_ms: f64,
    pub others_max_ms: f64,
    pub others_per_s: f64,
}

/// Runs the bench.
pub fn run(args: &Restart) -> report::Result<ExitCode> {
    let mut report = Report::new("restart", args.common.seed, args.common.rounds);
    node::print_configuration();
    let mut alone = vec![vec![]; 3];
    let mut loaded = vec![vec![]; 5];
    for round in 1..=args.common.rounds {
        for others in [0, args.others] {
            let scratch = Scratch::new(args.common.dir.as_deref())?;
            let (panics, seed) = (args.panics, args.common.seed);
            let m: Measured = machine::part(
                "restart",
                &Part { data: scratch.join("data"), panics, seed, others },
            )?;
            let (p50, p99) = (quantile(&m.restart_us, 0.5), quantile(&m.restart_us, 0.99));
            let max = quantile(&m.restart_us, 1.0);
            println!(
                "round {round}  {others} others/s: median {p50:.1} µs, p99 {p99:.1}, max {max:.1}; \
                 others p50 {:.2} ms, p99 {:.2}, max {:.2} at {:.0}/s",
                m.others_p50_ms, m.others_p99_ms, m.others_max_ms, m.others_per_s
            );
            report.check(m.violations.is_empty(), || m.violations.join("; "));
            report.check(m.totals.dead == panics, || format!("{} dead letters", m.totals.dead));
            report.check(m.restart_us.len() as u64 == panics, || {
                format!("{} of {panics} panics were measured", m.restart_us.len())
            });
            let figures = match others {
                0 => &mut alone,
                _ => &mut loaded,
            };
            for (all, value) in
                figures.iter_mut().zip([p50, p99, max, m.others_p99_ms, m.others_max_ms])
            {
                all.push(value);
            }
            report.totals(m.totals);
        }
    }
    report.spread(["median_us", "median_us_min", "median_us_max"], &alone[0]);
    report.spread(["p99_us", "p99_us_min", "p99_us_max"], &alone[1]);
    report.spread(["loaded_median_us", "loaded_median_us_min", "loaded_median_us_max"], &loaded[0]);
    report.spread(["loaded_p99_us", "loaded_p99_us_min", "loaded_p99_us_max"], &loaded[1]);
    report.spread(["others_p99_ms", "others_p99_ms_min", "others_p99_ms_max"], &loaded[3]);
    report.figure("others_max_ms", report::rounded(Spread::of(&loaded[4]).max));
    Ok(report.finish())
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// When the running measurement's first panic was, ns; 0 while there was none.
static PANIC: AtomicU64 = AtomicU64::new(0);
/// When the event behind it was handled, ns; 0 while it was not.
static HANDLED: AtomicU64 = AtomicU64::new(0);
/// When each of the other events was last handled, ns.
static OTHERS: OnceLock<Vec<AtomicU64>> = OnceLock::new();

fn now_ns() -> u64 {
    START.elapsed().as_nanos() as u64 + 1
}

#[derive(Serialize, Deserialize)]
struct Event {
    /// 0: panic; 1: the event behind it; n + 2: the n-th of the others.
    what: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Account {
    events: u64,
    sum: u64,
}

impl Process for Account {
    type In = Event;
    type Out = Event;

    fn handle(&mut self, e: Event, _ctx: &mut Context<Self>) -> Result<()> {
        if e.what == 1 {
            HANDLED.store(now_ns(), Ordering::Relaxed);
        }
        self.events += 1;
        if e.what == 0 {
            // The first panic of all counts, not that of a second run.
            let _ = PANIC.compare_exchange(0, now_ns(), Ordering::Relaxed, Ordering::Relaxed);
            panic!("injected");
        }
        self.sum += e.what;
        if e.what > 1
            && let Some(slot) = OTHERS.get().and_then(|o| o.get(e.what as usize - 2))
        {
            slot.store(now_ns(), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn flow(pairs: &Feed, others: &Feed) -> Flow {
    Flow::new("restart")
        .source("others", others.clone())
        .source("pairs", pairs.clone())
        .connect("others")
        .key_by("key")
        .process::<Account>("account", OnError::DeadLetter)
        .sink("out", Discard::new())
}

/// Measures one round.
pub fn part(part: &Part) -> report::Result<Measured> {
    let seed = part.seed;
    let pairs = Feed::new(&["key", "what"], move |n, line| {
        let key = mix(n / 2 + seed) % BAD_KEYS;
        line.extend_from_slice(format!("{{\"key\":\"bad-{key}\",\"what\":{}}}", n % 2).as_bytes());
    });
    let others = Feed::new(&["key", "what"], move |n, line| {
        let key = mix(n ^ seed) % GOOD_KEYS;
        line.extend_from_slice(format!("{{\"key\":\"good-{key}\",\"what\":{}}}", n + 2).as_bytes());
    });
    let flow = flow(&pairs, &others);
    let running = node::start(Node::embedded(&part.data), &flow)?;
    std::thread::sleep(Duration::from_millis(500));
    // A panic takes at most 5 ms with its turn; more room than that is for slow machines.
    OTHERS.get_or_init(|| (0..part.others * 300).map(|_| AtomicU64::new(0)).collect());
    let (stop, begun) = (AtomicU64::new(u64::MAX), Instant::now());
    let offset = now_ns();
    let (restart_us, sent) = std::thread::scope(|scope| {
        let pace = scope.spawn(|| pace(&others, part.others, begun, &stop));
        let restart_us = measure(&pairs, part.panics);
        stop.store(0, Ordering::Relaxed);
        (restart_us, pace.join().unwrap_or(0))
    });
    let restart_us = restart_us?;
    let seconds = begun.elapsed().as_secs_f64();
    settled(&running, sent + part.panics * 2)?;
    let late: Vec<f64> = OTHERS
        .get()
        .into_iter()
        .flatten()
        .take(sent as usize)
        .enumerate()
        .map(|(n, at)| {
            let due = offset + n as u64 * 1_000_000_000 / part.others.max(1);
            at.load(Ordering::Relaxed).saturating_sub(due) as f64 / 1e6
        })
        .collect();
    let (totals, violations) = node::totals(&running);
    running.stop();
    Ok(Measured {
        totals,
        violations,
        restart_us,
        others_p50_ms: quantile(&late, 0.5),
        others_p99_ms: quantile(&late, 0.99),
        others_max_ms: quantile(&late, 1.0),
        others_per_s: sent as f64 / seconds,
    })
}

/// Sends a pair at a time and waits until it was handled.
fn measure(pairs: &Feed, panics: u64) -> report::Result<Vec<f64>> {
    let mut restart_us = Vec::with_capacity(panics as usize);
    for n in 1..=panics {
        PANIC.store(0, Ordering::Relaxed);
        HANDLED.store(0, Ordering::Relaxed);
        pairs.allow(n * 2);
        let begun = Instant::now();
        while HANDLED.load(Ordering::Relaxed) == 0 {
            if begun.elapsed() > PATIENCE {
                return Err("a process never came back".into());
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        // Runs once more if the turn does; wait for the turn to be over by waiting a little.
        std::thread::sleep(Duration::from_micros(500));
        let handled = HANDLED.load(Ordering::Relaxed);
        let panicked = PANIC.load(Ordering::Relaxed);
        restart_us.push(handled.saturating_sub(panicked) as f64 / 1e3);
    }
    Ok(restart_us)
}

/// Lets the other events go when they are due, until told to stop. Returns how many.
fn pace(others: &Feed, per_s: u64, begun: Instant, stop: &AtomicU64) -> u64 {
    let mut sent = 0;
    while per_s > 0 && stop.load(Ordering::Relaxed) != 0 {
        let due = (begun.elapsed().as_secs_f64() * per_s as f64) as u64;
        sent = due.min(per_s * 300);
        others.allow(sent);
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

fn settled(running: &Running, events: u64) -> report::Result<()> {
    node::wait_until("event handled", PATIENCE, || {
        let read = running.ledger().operators.values().map(|c| c.read).sum::<u64>();
        read == events && running.engine().health().pending_bytes == 0
    })
}
