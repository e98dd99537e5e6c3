//! Random flows on a failing node, against an oracle that shares no operator code.
//!
//! `cargo test -p millstream --test simulation` runs ten fixed seeds and a fresh one;
//! `MILLSTREAM_SEEDS=1000 cargo test --release -p millstream --test simulation -- long --ignored`
//! runs as many as you like. A failure prints its seed; `MILLSTREAM_SEED=n` runs that one alone.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "simulation/flows.rs"]
mod flows;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/run.rs"]
mod run;

use millstream::runtime::sim::Coverage;
use run::run;

fn seeds() -> Vec<u64> {
    match std::env::var("MILLSTREAM_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..10).chain([std::process::id() as u64 * 7919]).collect(),
    }
}

#[test]
fn random_flows_equal_the_oracle() {
    let mut all = Vec::new();
    for seed in seeds() {
        println!("seed {seed}");
        all.push(run(seed));
    }
    if all.len() > 1 {
        check_coverage(&all);
    }
}

/// A fault, and how often a run has met it.
type Met = (&'static str, fn(&Coverage) -> u64);

/// A run that has met none of a fault proves nothing about it.
fn check_coverage(all: &[Coverage]) {
    let met: [Met; 16] = [
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
    ];
    for (name, count) in met {
        let total: u64 = all.iter().map(count).sum();
        println!("{name}: {total}");
        assert!(total > 0, "no run has met: {name}");
    }
}

#[test]
#[ignore = "as long as you like"]
fn long() {
    let n: u64 = std::env::var("MILLSTREAM_SEEDS").map_or(200, |n| n.parse().unwrap());
    for seed in 1000..1000 + n {
        println!("seed {seed}");
        run(seed);
    }
}
