//! `kafka-latency`: one hop at a steady pace, from topic to process to topic in one transaction.
//! How long is it from the moment an event was due until a read_committed reader has what became
//! of it?
//!
//! *What is strict about it:* events have a timetable; a producer that falls behind makes them
//! late. Load and reader share the machine with the node and the brokers, and both times come from
//! one clock.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use rdkafka::{Message, producer::Producer};
use serde::Deserialize;

use super::{
    brokers,
    ends::{consumer, event, lingering, send},
    nodes::{Nodes, Part},
};
use crate::{
    cli::KafkaLatency,
    machine,
    report::{Report, Result, Totals, quantile},
};

const KEYS: u64 = 100_000;
/// Seconds before the timetable counts: topics are made, tasks opened, code and caches are warm.
const WARM_S: u64 = 5;
/// How long the last records may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Answer {
    n: u64,
}

/// Runs the bench.
pub fn run(args: &KafkaLatency) -> Result<ExitCode> {
    let mut report = Report::new("kafka-latency", args.common.seed, args.common.rounds);
    let mut figures: [Vec<f64>; 4] = Default::default();
    for round in 1..=args.common.rounds {
        // Their own, so that no round's state or streams are another's.
        let brokers = brokers()?;
        let servers = brokers.bootstrap();
        let (from, to) = super::nodes::topics(&brokers, args.partitions);
        let part = Part { keyed: !args.exchange, ..Part::between(&from, &to, Some(args.tasks)) };
        let _nodes = Nodes::past_the_proxy(servers.clone(), part)?;
        let warm = WARM_S * args.events_per_s;
        let events = warm + args.seconds * args.events_per_s;
        let late = measure(&servers, (&from, &to), args.partitions, events, args.events_per_s)?;
        let late = &late[warm as usize..];
        let missing = late.iter().filter(|ms| ms.is_nan()).count();
        report.check(missing == 0, || format!("{missing} events never came out"));
        for (all, part) in figures.iter_mut().zip([0.5, 0.99, 0.999, 1.0]) {
            all.push(quantile(late, part));
        }
        let of = |n: usize| figures[n].last().copied().unwrap_or_default();
        println!(
            "round {round}  p50 {:.1} ms, p99 {:.1}, p99.9 {:.1}, max {:.1}",
            of(0),
            of(1),
            of(2),
            of(3)
        );
        report.totals(Totals {
            rows_in: events,
            rows_out: events - missing as u64,
            cpu_s: machine::cpu_s(),
            peak_rss_bytes: machine::peak_rss_bytes(),
            ..Totals::default()
        });
    }
    report.figure("events_per_s", args.events_per_s);
    report.spread(["p50_ms", "p50_ms_min", "p50_ms_max"], &figures[0]);
    report.spread(["p99_ms", "p99_ms_min", "p99_ms_max"], &figures[1]);
    report.spread(["p999_ms", "p999_ms_min", "p999_ms_max"], &figures[2]);
    report.spread(["max_ms", "max_ms_min", "max_ms_max"], &figures[3]);
    Ok(report.finish())
}

/// Sends all events on time. How late each came out, ms; NaN if it never did.
fn measure(
    servers: &str,
    (from, to): (&str, &str),
    partitions: u32,
    events: u64,
    per_s: u64,
) -> Result<Vec<f64>> {
    let (reader, sender) = (consumer(servers, to, partitions)?, lingering(servers, "0")?);
    let begun = Instant::now() + Duration::from_millis(200);
    let due = |n: u64| begun + Duration::from_nanos((n - 1) * 1_000_000_000 / per_s);
    // Not one by one: what load and reader cost the brokers is not what is measured. The first of
    // ten milliseconds' events is late for as long.
    let burst = per_s.div_ceil(100);
    let sending = || -> Result<()> {
        for n in 1..=events {
            if (n - 1) % burst == 0 {
                sender.poll(Duration::ZERO);
                std::thread::sleep(due(n + burst - 1).saturating_duration_since(Instant::now()));
            }
            let (key, value) = event(n, KEYS, 0);
            send(&sender, from, &key, value.as_bytes())?;
        }
        Ok(sender.flush(PATIENCE)?)
    };
    std::thread::scope(|scope| {
        let sending = scope.spawn(sending);
        let mut late = vec![f64::NAN; events as usize];
        let (mut read, until) = (0, due(events) + PATIENCE);
        while read < events && Instant::now() < until {
            let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) else { continue };
            let now = Instant::now();
            let answer: Answer = serde_json::from_slice(message.payload().unwrap_or_default())?;
            let place = answer.n.checked_sub(1).and_then(|n| late.get_mut(n as usize));
            let place = place.ok_or("an event that was never sent")?;
            if !place.is_nan() {
                return Err(format!("event {} came twice", answer.n).into());
            }
            *place = now.saturating_duration_since(due(answer.n)).as_secs_f64() * 1e3;
            read += 1;
        }
        sending.join().map_err(|_| "the producer panicked")??;
        Ok(late)
    })
}
