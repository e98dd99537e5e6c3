//! `cluster-torture`: random SIGKILLs, pauses (SIGSTOP, longer than a death takes to be declared)
//! and cut links of random nodes while numbered events of every key flow. In the end the committed
//! output must hold every event once, in order per key, with the number that its key's process
//! gave it.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    brokers,
    ends::{Judge, Load},
    failover::task_of,
    members::Members,
    nodes::{NODES, Nodes, Part, topics},
};
use crate::{
    cli::ClusterTorture,
    machine,
    processes::mix,
    report::{Report, Result, Totals},
};

const PARTITIONS: u32 = 3;
/// How long the last answers may keep the judge waiting.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest a node is paused or cut off, in ms; the shortest is a second less than that.
const AWAY_MAX_MS: u64 = 2500;
/// The longest time between two faults, in ms.
const REST_MAX_MS: u64 = 3000;

/// Runs the bench.
pub fn run(args: &ClusterTorture) -> Result<ExitCode> {
    let mut report = Report::new("cluster-torture", args.common.seed, 1);
    let brokers = brokers()?;
    let own: [_; NODES] = brokers.nodes();
    let (from, to) = topics(&brokers, PARTITIONS);
    let servers = brokers.bootstrap();
    let part = Part {
        servers: String::new(),
        name: String::new(),
        from: from.clone(),
        to: to.clone(),
        tasks: Some(args.tasks),
    };
    let mut nodes = Nodes::start(own.iter().map(|n| (**n).clone()).collect(), part)?;
    let members = Members::start(&servers)?;
    let judge = Judge::start(&servers, (&to, PARTITIONS), (args.keys, args.tasks), |key| {
        task_of(key, args.tasks)
    })?;
    let load = Load::start(&servers, &from, args.keys, args.events_per_s)?;
    let tasks = (args.tasks + PARTITIONS + 1) as usize;
    members.wait_balanced(NODES, tasks, PATIENCE)?;

    let mut random = args.common.seed;
    let mut below = |n: u64| {
        random = mix(random);
        random % n
    };
    let wait = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let mut counts = [0u64; 3];
    for fault in 1..=args.faults {
        let (node, kind) = (below(NODES as u64) as usize, below(3) as usize);
        let away = AWAY_MAX_MS - below(1000);
        match kind {
            0 => {
                nodes.kill(node)?;
                wait(below(REST_MAX_MS));
                nodes.start_again(node)?;
            }
            1 => {
                nodes.signal(node, Signal::STOP)?;
                wait(away);
                nodes.signal(node, Signal::CONT)?;
            }
            _ => {
                nodes.links(node).cut();
                wait(away);
                nodes.links(node).heal();
            }
        }
        counts[kind] += 1;
        wait(below(REST_MAX_MS));
        if fault % 20 == 0 || fault == args.faults {
            let (deaths, takeovers, _) = members.counts();
            println!(
                "{fault} of {} faults; {} events, {} answers; {deaths} deaths, {takeovers} takeovers",
                args.faults,
                load.sent(),
                judge.found().read
            );
        }
    }
    let sent = load.stop()?;
    let begun = Instant::now();
    judge.finish(sent, PATIENCE)?;
    println!("all that came had come {:.1} s after the last event", begun.elapsed().as_secs_f64());
    let (deaths, takeovers, _) = members.counts();
    let found = judge.found();
    let lost = found.lost(sent);
    report.check(lost == 0, || format!("{lost} events were lost"));
    report.check(found.duplicated == 0, || format!("{} came twice", found.duplicated));
    report.check(found.wrong == 0, || format!("{} wrong: {:?}", found.wrong, found.example));
    report.totals(Totals {
        rows_in: sent,
        rows_out: found.read,
        cpu_s: machine::cpu_s(),
        peak_rss_bytes: machine::peak_rss_bytes(),
        ..Totals::default()
    });
    let [kills, pauses, cuts] = counts;
    report.figure("kills", kills);
    report.figure("pauses", pauses);
    report.figure("cuts", cuts);
    report.figure("deaths", deaths);
    report.figure("takeovers", takeovers);
    report.figure("lost", lost);
    report.figure("duplicated", found.duplicated);
    report.figure("wrong", found.wrong);
    Ok(report.finish())
}
