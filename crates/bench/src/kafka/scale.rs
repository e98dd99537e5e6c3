//! `scale`: a handler that waits a millisecond, so that cores are not what limits; one node, and
//! then two more that join it while it works. How many times as fast are three?
//!
//! *The clock:* both rates are counted at a read_committed reader while every task has events
//! waiting: one node's once it has written for a few seconds, three nodes' once they share all
//! tasks and each task has a warm standby. All events are in the topic before the first node
//! starts, and in the end the output of all of them is compared with the oracle.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use rdkafka::producer::Producer;

use super::{
    brokers,
    ends::{Judge, event, producer, send},
    members::Members,
    nodes::{NODES, Nodes, Part, topics},
};
use crate::{
    cli::Scale,
    node::wait_until,
    report::{Report, Result},
};

/// Of both topics: one source task reads the input, and is done with it soon.
const PARTITIONS: u32 = 1;
/// Everything that must happen does within this.
const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds that one node writes before its rate counts.
const WARM_S: u64 = 5;

/// Runs the bench.
pub fn run(args: &Scale) -> Result<ExitCode> {
    let mut report = Report::new("scale", args.common.seed, args.common.rounds);
    let (mut ones, mut threes, mut ratios) = (vec![], vec![], vec![]);
    for round in 1..=args.common.rounds {
        let (one, three) = measure(args, &mut report)?;
        println!("round {round}  one node {one:.0} events/s, three {three:.0}: {:.2}", three / one);
        ones.push(one);
        threes.push(three);
        ratios.push(three / one);
    }
    report.figure("wait_ms", args.wait_ms);
    report.figure("tasks", args.tasks);
    report.spread(["one_per_s", "one_per_s_min", "one_per_s_max"], &ones);
    report.spread(["three_per_s", "three_per_s_min", "three_per_s_max"], &threes);
    report.spread(["ratio", "ratio_min", "ratio_max"], &ratios);
    Ok(report.finish())
}

/// Events a second of one node, and of three.
fn measure(args: &Scale, report: &mut Report) -> Result<(f64, f64)> {
    // Their own: the application goes on where the round before has ended.
    let brokers = brokers()?;
    let servers = brokers.bootstrap();
    let (from, to) = topics(&brokers, PARTITIONS);
    let sender = producer(&servers)?;
    for n in 1..=args.events {
        let (key, value) = event(n, args.keys, 0);
        send(&sender, &from, &key, value.as_bytes())?;
    }
    sender.flush(PATIENCE)?;

    let judge = Judge::start(&servers, (&to, PARTITIONS), (args.keys, 1), |_| 0)?;
    let part = Part { wait_ms: args.wait_ms, ..Part::between(&from, &to, Some(args.tasks)) };
    let mut nodes = Nodes::past_the_proxy(servers.clone(), part)?;
    let members = Members::start(&servers)?;
    wait_until("first output", PATIENCE, || judge.found().read > 0)?;
    std::thread::sleep(Duration::from_secs(WARM_S));
    let one = rate(&judge, args.seconds);
    for _ in 1..NODES {
        nodes.add(servers.clone())?;
    }
    let tasks = (args.tasks + PARTITIONS) as usize;
    members.wait_balanced(NODES, tasks, PATIENCE)?;
    let three = rate(&judge, args.seconds);
    let left = args.events - judge.found().read.min(args.events);
    // So many that no task had too few.
    let enough = args.events / 10;
    report.check(left > enough, || format!("only {left} events were left: raise --events"));
    judge.finish(args.events, PATIENCE)?;
    judge.found().judge(report, args.events);
    Ok((one, three))
}

/// Answers a second from now on.
fn rate(judge: &Judge, seconds: u64) -> f64 {
    let (begun, before) = (Instant::now(), judge.found().read);
    std::thread::sleep(Duration::from_secs(seconds));
    let read = judge.found().read - before;
    read as f64 / begun.elapsed().as_secs_f64()
}
