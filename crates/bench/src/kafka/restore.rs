//! `restore`: a node that had the state of a million keys is killed and started again; what it had
//! in memory is gone, and all comes back from the topic of state. Against a plain consumer that
//! reads the same topic and does nothing with it.
//!
//! *The clock* of the node runs from its first claim of a task, as the members topic tells, until
//! a reader has seen the output of an event of every task; these events wait in the topic before
//! the node starts. So fencing, rebuilding tables and a turn of every task count, joining the
//! cluster does not; `from_exec_s` has that too.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use rdkafka::{Message, error::KafkaError, producer::Producer};

use super::{
    brokers,
    ends::{Judge, consumer, event, producer, send, task_of},
    members::Members,
    nodes::{APP, Nodes, Part, topics},
};
use crate::{
    cli::Restore,
    node::wait_until,
    report::{Report, Result},
};

const PARTITIONS: u32 = 6;
const TASKS: u32 = millstream::PARTITIONS;
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the bench.
pub fn run(args: &Restore) -> Result<ExitCode> {
    let mut report = Report::new("restore", args.common.seed, args.common.rounds);
    let brokers = brokers()?;
    let (from, to) = topics(&brokers, PARTITIONS);
    let servers = brokers.bootstrap();
    let part = Part::between(&from, &to, None);
    let mut nodes = Nodes::past_the_proxy(servers.clone(), part)?;
    let members = Members::start(&servers)?;
    let judge = Judge::start(&servers, (&to, PARTITIONS), (args.keys, TASKS), |key| {
        task_of(key, TASKS, false)
    })?;
    let sender = producer(&servers)?;
    let put = |range: std::ops::RangeInclusive<u64>| -> Result<()> {
        for n in range {
            let (key, value) = event(n, args.keys, args.bytes);
            send(&sender, &from, &key, value.as_bytes())?;
        }
        Ok(sender.flush(PATIENCE)?)
    };
    let mut sent = args.keys;
    put(1..=sent)?;
    wait_until("state of all keys", PATIENCE, || judge.found().read >= sent)?;
    let (mut restores, mut plains, mut ratios, mut execs) = (vec![], vec![], vec![], vec![]);
    for round in 1..=args.common.rounds {
        nodes.kill(0)?;
        // Enough for every task to have some.
        judge.mark(sent);
        put(sent + 1..=sent + 50 * u64::from(TASKS))?;
        sent += 50 * u64::from(TASKS);
        let (plain, records, bytes) = plain(&servers)?;
        let exec = Instant::now();
        nodes.start_at(0, servers.clone())?;
        let last = judge.firsts(PATIENCE)?.into_iter().max().ok_or("no task")?;
        let claimed = members.claim(exec).ok_or("the node has claimed no task")?;
        let seconds = last.duration_since(claimed).as_secs_f64();
        println!(
            "round {round}  {seconds:.2} s, {:.2} s from exec; plain consumer {plain:.2} s for \
             {records} records of {:.1} MB: {:.3}",
            last.duration_since(exec).as_secs_f64(),
            bytes as f64 / 1e6,
            plain / seconds
        );
        restores.push(seconds);
        execs.push(last.duration_since(exec).as_secs_f64());
        plains.push(plain);
        ratios.push(plain / seconds);
        judge.finish(sent, Duration::from_secs(10))?;
    }
    let found = judge.found();
    found.judge(&mut report, sent);
    report.figure("keys", args.keys);
    report.spread(["restore_s", "restore_s_min", "restore_s_max"], &restores);
    report.spread(["from_exec_s", "from_exec_s_min", "from_exec_s_max"], &execs);
    report.spread(["plain_s", "plain_s_min", "plain_s_max"], &plains);
    report.spread(["ratio", "ratio_min", "ratio_max"], &ratios);
    Ok(report.finish())
}

/// Reads the topic of state to its end: in seconds, records, bytes.
fn plain(servers: &str) -> Result<(f64, u64, u64)> {
    let begun = Instant::now();
    let consumer = consumer(servers, &format!("{APP}.state.{APP}.counter"), TASKS)?;
    let (mut ended, mut records, mut bytes) = (0, 0, 0);
    while ended < TASKS {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(m)) => {
                records += 1;
                bytes +=
                    (m.payload().map_or(0, <[u8]>::len) + m.key().map_or(0, <[u8]>::len)) as u64;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            _ if begun.elapsed() > PATIENCE => return Err("the topic of state has no end".into()),
            _ => {}
        }
    }
    Ok((begun.elapsed().as_secs_f64(), records, bytes))
}
