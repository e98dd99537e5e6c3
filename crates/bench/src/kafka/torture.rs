//! `cluster-torture`: random SIGKILLs, pauses (SIGSTOP, longer than a death takes to be declared)
//! and cut links of random nodes while numbered events of every key flow. In the end the committed
//! output must hold every event once, in order per key, with the number that its key's process
//! gave it.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use millstream_core::rng::Rng;
use rustix::process::Signal;

use super::{brokers, nodes::NODES, scene::Scene};
use crate::{
    cli::ClusterTorture,
    report::{Report, Result},
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
    let Scene { mut nodes, members, judge, load, tasks } = Scene::start(
        &brokers,
        &own,
        PARTITIONS,
        (args.keys, args.tasks, args.keyed),
        args.events_per_s,
    )?;
    members.wait_balanced(NODES, tasks, PATIENCE)?;

    let mut random = Rng::new(args.common.seed);
    let wait = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let mut counts = [0u64; 3];
    for fault in 1..=args.faults {
        let (node, kind) = (random.below(NODES as u64) as usize, random.below(3) as usize);
        let away = AWAY_MAX_MS - random.below(1000);
        match kind {
            0 => {
                nodes.kill(node)?;
                wait(random.below(REST_MAX_MS));
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
        wait(random.below(REST_MAX_MS));
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
    found.judge(&mut report, sent);
    let [kills, pauses, cuts] = counts;
    report.figure("kills", kills);
    report.figure("pauses", pauses);
    report.figure("cuts", cuts);
    report.figure("deaths", deaths);
    report.figure("takeovers", takeovers);
    report.figure("lost", found.lost(sent));
    report.figure("duplicated", found.duplicated);
    report.figure("wrong", found.wrong);
    Ok(report.finish())
}
