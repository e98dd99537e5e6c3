//! Random flows on a failing node, against an oracle that shares no operator code.
//!
//! `cargo test -p millstream --test simulation` runs ten fixed seeds and a fresh one;
//! `MILLSTREAM_SEEDS=1000 cargo test --release -p millstream --test simulation -- long --ignored`
//! runs as many as you like. Each run prints its seed before it begins, and what it has met after;
//! `MILLSTREAM_SEED=n` runs one seed alone.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "simulation/flows.rs"]
mod flows;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/run.rs"]
mod run;

use flows::Plan;
use millstream::runtime::sim::Coverage;
use run::{Ran, run, run_to_the_first_failure};

fn runs(seeds: impl IntoIterator<Item = u64>) -> Vec<Ran> {
    let run = |seed| {
        println!("seed {seed}");
        run(seed)
    };
    seeds.into_iter().map(run).collect()
}

#[test]
fn random_flows_equal_the_oracle() {
    if let Ok(seed) = std::env::var("MILLSTREAM_SEED") {
        runs([seed.parse().unwrap()]);
        return;
    }
    // The fresh seed may find something new; what is met must not depend on it.
    check_coverage(&runs(0..10));
    runs([u64::from(std::process::id()) * 7919]);
}

#[test]
fn a_flow_that_stops_at_a_failure_has_done_what_was_before_it() {
    let stopped = (0..8).filter(|seed| run_to_the_first_failure(*seed)).count();
    println!("{stopped} of 8 have stopped");
    assert!(stopped > 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..3 {
        let (once, again) = (run(seed), run(seed));
        assert_eq!(once.trace, again.trace, "seed {seed}");
        assert_eq!(once, again, "seed {seed}");
    }
    assert_ne!(run(0).trace, run(1).trace);
}

/// A fault or a feature, and how often a run has met it.
type Met<R> = (&'static str, fn(&R) -> u64);

/// A feature, and whether a flow has it.
type Drawn = (&'static str, fn(&Plan) -> bool);

/// A run that has met none of a fault, or not drawn a feature, proves nothing about it.
fn check_coverage(all: &[Ran]) {
    let drawn: [Drawn; 6] = [
        ("a CSV file", |p| p.copies),
        ("a generator", |p| p.makes.is_some()),
        ("processes that end when idle", |p| p.expires),
        ("two sources", |p| p.connects),
        ("late rows that are read", |p| p.reads_late),
        ("a key of two columns", |p| p.zoned),
    ];
    for (name, drawn) in drawn {
        let n = all.iter().filter(|r| drawn(&r.plan)).count();
        println!("{name}: {n} of {}", all.len());
        assert!(0 < n && n < all.len(), "drawn always or never: {name}");
    }
    let done: [Met<Ran>; 9] = [
        ("mean of nothing", |r| r.no_mean),
        ("process with a key of two columns", |r| r.zoned),
        ("key without one of its columns", |r| r.no_zone),
        ("record before its time", |r| r.before_time),
        ("late record that is read", |r| r.late_read),
        ("too large a state", |r| r.too_large),
        ("killed process", |r| r.acts.kills),
        ("drained node", |r| r.acts.drains),
        ("drain cut short", |r| r.acts.drains_cut),
    ];
    let met: [Met<Coverage>; 18] = [
        ("fence", |c| c.engine.fence),
        ("unknown commit", |c| c.engine.unknown),
        ("retry", |c| c.engine.retry),
        ("delay", |c| c.engine.delay),
        ("torn tail", |c| c.disk.appends_torn),
        ("lost unsynced write", |c| c.disk.pages_lost),
        ("lost name", |c| c.disk.names_lost),
        ("full disk", |c| c.disk.full),
        ("failed write", |c| c.disk.appends_failed),
        ("failed sync", |c| c.disk.syncs_failed),
        ("isolating turn", |c| c.isolated),
        ("trim", |c| c.trims),
        ("compaction", |c| c.compactions),
        ("crash", |c| c.crashes),
        ("crash in compaction", |c| c.compactions_cut),
        ("watchdog", |c| c.watchdog),
        ("failed write to a sink", |c| c.writes_failed),
        ("lost write to a sink", |c| c.writes_lost),
    ];
    let sum = |count: &dyn Fn(&Ran) -> u64| all.iter().map(count).sum::<u64>();
    let done = done.map(|(name, count)| (name, sum(&count)));
    let met = met.map(|(name, count)| (name, sum(&|r| count(&r.coverage))));
    for (name, total) in done.into_iter().chain(met) {
        println!("{name}: {total}");
        assert!(total > 0, "no run has met: {name}");
    }
}

#[test]
#[ignore = "as long as you like"]
fn long() {
    let n: u64 = std::env::var("MILLSTREAM_SEEDS").map_or(200, |n| n.parse().unwrap());
    check_coverage(&runs(1000..1000 + n));
}
