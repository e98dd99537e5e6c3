//! `kafka-throughput`: events from a topic, decoded, counted per key, encoded into another topic,
//! exactly once; against a plain loop over a consumer and an idempotent producer (lz4, linger 5
//! ms, no transactions, state in memory only) that does the same. One node, and all events are
//! there before it starts.
//!
//! *The clock* runs, for both, from when the process is there (the node: from when the flow is
//! deployed; the loop: from before its consumer is made) until a read_committed reader has as many
//! records as there were events. The output is compared with the oracle afterwards.

use std::{
    collections::HashMap,
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use millstream_brokers::Brokers;
use rdkafka::{Message, consumer::BaseConsumer, producer::Producer};
use serde::Deserialize;

use super::{
    brokers,
    ends::{Judge, consumer, event, producer, send},
    nodes::{Nodes, Part},
};
use crate::{
    cli::KafkaThroughput,
    machine,
    report::{Report, Result, Totals},
};

const PARTITIONS: u32 = 6;
/// No record for so long is the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the bench.
pub fn run(args: &KafkaThroughput) -> Result<ExitCode> {
    let mut report = Report::new("kafka-throughput", args.common.seed, args.common.rounds);
    let (mut ours, mut plains, mut ratios) = (vec![], vec![], vec![]);
    for round in 1..=args.common.rounds {
        // Its own: the application goes on where the round before has ended.
        let brokers = brokers()?;
        let from = brokers.topic("from", PARTITIONS, &[]);
        fill(&brokers.bootstrap(), &from, args.events, args.keys)?;
        println!("load     {} events of {} keys are there", args.events, args.keys);
        let rate = |seconds: f64| args.events as f64 / seconds;
        let plain = rate(one(&brokers, &mut report, args, &from, plain_loop)?);
        let node = rate(one(&brokers, &mut report, args, &from, node)?);
        println!("round {round}  {node:.0} events/s, plain loop {plain:.0}: {:.3}", node / plain);
        ours.push(node);
        plains.push(plain);
        ratios.push(node / plain);
    }
    report.totals(Totals {
        rows_in: args.events,
        rows_out: args.events,
        cpu_s: machine::cpu_s(),
        peak_rss_bytes: machine::peak_rss_bytes(),
        ..Totals::default()
    });
    report.spread(["events_per_s", "events_per_s_min", "events_per_s_max"], &ours);
    report.spread(["plain_per_s", "plain_per_s_min", "plain_per_s_max"], &plains);
    report.spread(["ratio", "ratio_min", "ratio_max"], &ratios);
    Ok(report.finish())
}

/// Puts all events into a topic.
fn fill(servers: &str, topic: &str, events: u64, keys: u64) -> Result<()> {
    let producer = producer(servers)?;
    for n in 1..=events {
        let (key, value) = event(n, keys, 0);
        send(&producer, topic, &key, value.as_bytes())?;
    }
    Ok(producer.flush(PATIENCE)?)
}

/// From a topic to another; ends when all is there, and says how long that took.
type Way = fn(&Brokers, &KafkaThroughput, &str, &str, &BaseConsumer) -> Result<f64>;

/// One measurement, and whether its output is right.
fn one(
    brokers: &Brokers,
    report: &mut Report,
    args: &KafkaThroughput,
    from: &str,
    way: Way,
) -> Result<f64> {
    let to = brokers.topic("to", PARTITIONS, &[]);
    let servers = brokers.bootstrap();
    let seconds = way(brokers, args, from, &to, &consumer(&servers, &to, PARTITIONS)?)?;
    let judge = Judge::start(&servers, (&to, PARTITIONS), (args.keys, 1), |_| 0)?;
    judge.finish(args.events, PATIENCE)?;
    let found = judge.found();
    let right = found.lost(args.events) + found.duplicated + found.wrong == 0;
    report.check(right, || {
        let lost = found.lost(args.events);
        format!(
            "{lost} lost, {} twice, {} wrong: {:?}",
            found.duplicated, found.wrong, found.example
        )
    });
    Ok(seconds)
}

/// The product.
fn node(
    brokers: &Brokers,
    args: &KafkaThroughput,
    from: &str,
    to: &str,
    reader: &BaseConsumer,
) -> Result<f64> {
    let part = Part { keyed: args.keyed, ..Part::between(from, to, Some(args.tasks)) };
    let _nodes = Nodes::past_the_proxy(brokers.bootstrap(), part)?;
    let begun = Instant::now();
    count(reader, args.events)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Reads until `events` records were there.
fn count(reader: &BaseConsumer, events: u64) -> Result<()> {
    let (mut read, mut last) = (0, Instant::now());
    while read < events {
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(_)) => {
                read += 1;
                last = Instant::now();
            }
            _ if last.elapsed() > PATIENCE => {
                return Err(format!("after {read} of {events} records none came").into());
            }
            _ => {}
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Event<'a> {
    key: &'a str,
    n: u64,
}

/// The baseline.
fn plain_loop(
    brokers: &Brokers,
    args: &KafkaThroughput,
    from: &str,
    to: &str,
    reader: &BaseConsumer,
) -> Result<f64> {
    let begun = Instant::now();
    let (source, sink) =
        (consumer(&brokers.bootstrap(), from, PARTITIONS)?, producer(&brokers.bootstrap())?);
    let working = || -> Result<()> {
        let (mut counts, mut value): (HashMap<String, u64, ahash::RandomState>, _) =
            (HashMap::default(), Vec::new());
        for _ in 0..args.events {
            let message = loop {
                if let Some(Ok(message)) = source.poll(Duration::from_millis(100)) {
                    break message;
                }
            };
            let event: Event<'_> = serde_json::from_slice(message.payload().unwrap_or_default())?;
            let count = match counts.get_mut(event.key) {
                Some(count) => count,
                None => counts.entry(event.key.to_string()).or_default(),
            };
            *count += 1;
            value.clear();
            let (key, n) = (event.key, event.n);
            write!(value, "{{\"key\":\"{key}\",\"n\":{n},\"count\":{count}}}")?;
            send(&sink, to, key, &value)?;
        }
        Ok(sink.flush(PATIENCE)?)
    };
    std::thread::scope(|scope| {
        let working = scope.spawn(working);
        count(reader, args.events)?;
        working.join().map_err(|_| "the plain loop panicked")?
    })?;
    Ok(begun.elapsed().as_secs_f64())
}
