//! `failover`: one of three nodes is killed with SIGKILL while events flow. How long from the kill
//! until a read_committed reader has seen the output of a later input of every task?
//!
//! *Open transactions:* before every other kill the proxy holds the victim's next EndTxn; the
//! victim dies with it, so its transaction is open for certain. The other kills come at a random
//! moment.
//!
//! *Later input:* an event that was handed to the producer after the kill. Load goes on all the
//! time, and every task has keys enough to get several events in any tenth of a second.
//!
//! *The parts* are what the nodes tell each other: how long the death took to be seen, how long
//! from there until the task was fenced and its log drained (one figure: the two follow each other
//! without a record between them), how long until its first turn was committed.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use millstream_brokers::Api;
use millstream_core::rng::Rng;

use super::{
    brokers,
    ends::{Judge, Load},
    nodes::NODES,
    scene::Scene,
};
use crate::{
    cli::Failover,
    node::wait_until,
    report::{Report, Result, quantile, rounded},
};

/// Partitions of both topics: as many tasks read them.
const PARTITIONS: u32 = 6;
/// Everything that must happen does within this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the bench.
pub fn run(args: &Failover) -> Result<ExitCode> {
    let mut report = Report::new("failover", args.common.seed, 1);
    let brokers = brokers()?;
    let own: [_; NODES] = brokers.nodes();
    println!(
        "load     {} keys, then {} events/s; {} tasks of the keyed stage on {NODES} nodes",
        args.keys, args.events_per_s, args.tasks
    );
    let Scene { mut nodes, members, judge, load, tasks } = Scene::start(
        &brokers,
        &own,
        PARTITIONS,
        (args.keys, args.tasks, args.keyed),
        args.events_per_s,
    )?;
    let begun = Instant::now();
    wait_until("state of all keys", PATIENCE * 5, || judge.found().read >= args.keys)?;
    println!("state of {} keys after {:.1} s", args.keys, begun.elapsed().as_secs_f64());
    let read = judge.found().read;
    let before = requests(&own);
    std::thread::sleep(Duration::from_secs(10));
    let all: Vec<String> = requests(&own)
        .iter()
        .zip(&before)
        .map(|((name, now), (_, before))| format!("{name} {}", (now - before) / 10))
        .collect();
    let answers = (judge.found().read - read) / 10;
    println!("a second {answers} answers; requests of nodes: {}", all.join(", "));

    let mut random = Rng::new(args.common.seed);
    let mut seconds = Vec::new();
    let mut parts: [Vec<f64>; 3] = Default::default();
    for kill in 0..args.kills {
        members.wait_balanced(NODES, tasks, PATIENCE)?;
        caught_up(&load, &judge, args.events_per_s)?;
        std::thread::sleep(Duration::from_millis(random.below(500)));
        let victim = random.below(NODES as u64) as usize;
        let (_, before, _) = members.counts();
        let open = kill % 2 == 0;
        let held = open.then(|| nodes.links(victim).hold(Api::END_TXN, 1));
        if let Some(held) = &held {
            held.wait(1, PATIENCE);
        }
        let killed = Instant::now();
        nodes.kill(victim)?;
        judge.mark(load.sent());
        drop(held);
        let firsts = judge.firsts(PATIENCE)?;
        let ms = |at: &Instant| at.duration_since(killed).as_secs_f64() * 1e3;
        let all: Vec<f64> = firsts.iter().map(ms).collect();
        let last = quantile(&all, 1.0) / 1e3;
        seconds.push(last);
        let seen = members.deaths(killed).first().map_or(f64::NAN, |death| ms(&death.0));
        nodes.start_again(victim)?;
        members.wait_balanced(NODES, tasks, PATIENCE)?;
        let tooks = members.tooks(before);
        let of = |part: fn(&millstream_kafka::cluster::Took) -> u64| {
            let all: Vec<f64> = tooks.iter().map(|t| part(t) as f64).collect();
            (quantile(&all, 0.5), quantile(&all, 1.0))
        };
        let (fenced, output) = (of(|t| t.fenced_ms), of(|t| t.output_ms));
        println!(
            "kill {:>2}  {last:.2} s{}; death in the log {seen:.0} ms; {} tasks taken: \
             fence and drain {:.0} ms (max {:.0}), first turn {:.0} ms (max {:.0}); {:.1} s to balance",
            kill + 1,
            if open { ", open transaction" } else { "" },
            tooks.len(),
            fenced.0,
            fenced.1,
            output.0,
            output.1,
            killed.elapsed().as_secs_f64()
        );
        for (at, name) in members.deaths(killed).iter().skip(1) {
            println!("         {name} was declared dead, too, {:.0} ms after the kill", ms(at));
        }
        for (all, one) in parts.iter_mut().zip([seen, fenced.1, output.1]) {
            all.push(one);
        }
    }
    members.wait_balanced(NODES, tasks, PATIENCE)?;
    let (deaths, takeovers, moves) = members.counts();
    report.check(deaths == args.kills, || format!("{deaths} deaths were declared"));
    if args.quiet_minutes > 0 {
        std::thread::sleep(Duration::from_secs(60 * args.quiet_minutes));
        let now = members.counts();
        report.figure("quiet_minutes", args.quiet_minutes);
        report.figure("quiet_deaths", now.0 - deaths);
        report.figure("quiet_takeovers", now.1 - takeovers);
        report.figure("quiet_moves", now.2 - moves);
        report.check(now == (deaths, takeovers, moves), || "tasks moved without a fault".into());
    }
    let sent = load.stop()?;
    judge.finish(sent, PATIENCE)?;
    let found = judge.found();
    found.judge(&mut report, sent);
    report.figure("kills", args.kills);
    report.figure("keys", args.keys);
    report.figure("tasks", args.tasks);
    report.figure("events_per_s", args.events_per_s);
    report.figure("p50_s", rounded(quantile(&seconds, 0.5)));
    report.figure("max_s", rounded(quantile(&seconds, 1.0)));
    let [detect, fence, turn] = &parts;
    report.spread(["detect_ms", "detect_ms_min", "detect_ms_max"], detect);
    report.spread(["fence_drain_ms", "fence_drain_ms_min", "fence_drain_ms_max"], fence);
    report.spread(["first_turn_ms", "first_turn_ms_min", "first_turn_ms_max"], turn);
    Ok(report.finish())
}

/// How many requests of which kind the nodes have sent.
fn requests(nodes: &[millstream_brokers::Node<'_>]) -> Vec<(&'static str, u64)> {
    let apis = [
        ("Fetch", Api::FETCH),
        ("Produce", Api::PRODUCE),
        ("AddPartitionsToTxn", Api::ADD_PARTITIONS_TO_TXN),
        ("EndTxn", Api::END_TXN),
        ("InitProducerId", Api::INIT_PRODUCER_ID),
        ("Metadata", Api::METADATA),
        ("ListOffsets", Api::LIST_OFFSETS),
    ];
    let sum = |api| nodes.iter().map(|node| node.requests(api)).sum();
    apis.map(|(name, api)| (name, sum(api))).into()
}

/// Waits until the flow keeps up with the load: what is behind is at most two seconds' worth.
fn caught_up(load: &Load, judge: &Judge, per_s: u64) -> Result<()> {
    let behind = || load.sent() - judge.found().read.min(load.sent());
    wait_until("flow that keeps up with the load", PATIENCE, || behind() <= 2 * per_s)
        .map_err(|e| format!("{e}: it is {} of {} events behind", behind(), load.sent()).into())
}
