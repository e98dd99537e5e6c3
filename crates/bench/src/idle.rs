//! `idle`: a node with one flow and no input. It should need next to nothing.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use millstream::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    cli::Idle,
    machine::{self, Scratch},
    node,
    report::{self, Report, Spread, Totals, rounded},
};

/// A node in a process of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub dir: PathBuf,
    pub seconds: u64,
    pub settle: u64,
}

/// What it needed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rest {
    pub totals: Totals,
    pub violations: Vec<String>,
    pub rss_bytes: u64,
    pub fsyncs: u64,
    pub cpu_s: f64,
}

/// Runs the bench.
pub fn run(args: &Idle) -> report::Result<ExitCode> {
    let mut report = Report::new("idle", args.common.seed, args.common.rounds);
    node::print_configuration();
    let (mut rss, mut cpu, mut fsyncs) = (vec![], vec![], vec![]);
    for round in 1..=args.common.rounds {
        let scratch = Scratch::new(args.common.dir.as_deref())?;
        let part = Part { dir: scratch.join(""), seconds: args.seconds, settle: args.settle };
        let rest: Rest = machine::part("idle", &part)?;
        rss.push(rest.rss_bytes as f64 / 1e6);
        cpu.push(rest.cpu_s / args.seconds as f64 * 100.0);
        fsyncs.push(rest.fsyncs as f64);
        println!(
            "round {round}  {} MB, {} fsyncs, {:.3} s of processor time in {} s",
            rest.rss_bytes / 1_000_000,
            rest.fsyncs,
            rest.cpu_s,
            args.seconds
        );
        report.check(rest.violations.is_empty(), || rest.violations.join("; "));
        report.totals(rest.totals);
    }
    report.spread(["rss_mb", "rss_mb_min", "rss_mb_max"], &rss);
    report.spread(["cpu_percent", "cpu_percent_min", "cpu_percent_max"], &cpu);
    report.figure("fsyncs_idle", rounded(Spread::of(&fsyncs).max));
    Ok(report.finish())
}

/// Rests.
pub fn part(part: &Part) -> report::Result<Rest> {
    let input = part.dir.join("readings.jsonl");
    fs::write(&input, "")?;
    let flow = Flow::new("idle")
        .source("readings", JsonLinesFile::open(&input).follow(true))
        .event_time("ts", Duration::from_secs(2))
        .key_by("sensor")
        .window("stats", Window::tumble("ts", Duration::from_secs(10)), [Aggregate::count("n")])
        .sink("out", JsonLinesFile::create(part.dir.join("out.jsonl")));
    let running = node::start(Node::embedded(part.dir.join("data")), &flow)?;
    std::thread::sleep(Duration::from_secs(part.settle));
    let (fsyncs, cpu_s) = (running.engine().stats().fsyncs, machine::threads_cpu_s());
    std::thread::sleep(Duration::from_secs(part.seconds));
    let spent = machine::threads_cpu_s() - cpu_s;
    let (totals, violations) = node::totals(&running);
    let rest = Rest {
        rss_bytes: machine::rss_bytes(),
        fsyncs: totals.fsyncs - fsyncs,
        cpu_s: spent,
        totals,
        violations,
    };
    running.stop();
    Ok(rest)
}
