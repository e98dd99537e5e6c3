//! A flow that has run on one machine goes on in Kafka where it stopped, on real brokers.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{sync::Arc, time::Instant};

use millstream::{
    Running, Target,
    core::Code,
    io::{Paced, view::Status},
    migrate,
    prelude::*,
    runtime::node::FlowState,
    test::Folder,
};
use millstream_brokers::{Brokers, or_skip};
use millstream_kafka::{
    KafkaSink, Options,
    client::{Client, rd::RdClient},
};

const ROWS: u64 = 3_000;
const SOURCES: u64 = 4;
const KEYS: u64 = 20;
/// Of event time between two readings.
const STEP_MS: u64 = 1_000;
const WINDOW_MS: u64 = 300_000;
/// A reminder comes so much later.
const LATER_MS: u64 = 600_000;
/// Brokers, a node and all other tests share two cores.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize, Deserialize)]
struct Reading {
    machine: u64,
    n: u64,
    at: i64,
}

/// Counts, and reminds of every tenth reading after a while.
#[derive(Default, Serialize, Deserialize)]
struct Machine {
    readings: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Counted {
    n: u64,
    nth: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Sum {
    machine: u64,
    window_start: i64,
    readings: u64,
}

fn is_bad(n: u64) -> bool {
    n % 997 == 500
}

impl Process for Machine {
    type In = Reading;
    type Out = Counted;

    fn handle(&mut self, reading: Reading, ctx: &mut Context<Self>) -> Result<()> {
        if is_bad(reading.n) {
            return Err(Failure::new("no such reading"));
        }
        self.readings += 1;
        if self.readings.is_multiple_of(10) {
            let due = Time::from_ms(reading.at + LATER_MS as i64);
            ctx.set_timer(&reading.n.to_string(), At::Event(due));
        }
        ctx.emit(Counted { n: reading.n, nth: self.readings });
        Ok(())
    }

    fn on_timer(&mut self, name: &str, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(Counted { n: name.parse().unwrap_or_default(), nth: 0 });
        Ok(())
    }
}

/// Eight seconds of readings. Each machine's come from one source, so their order is known.
fn flow(client: &Arc<dyn Client>, counted: &str, sums: &str) -> Flow {
    let readings = Generator::from_fn(
        1,
        ROWS / SOURCES,
        SOURCES as u32,
        |n, _| serde_json::json!({ "machine": n % KEYS, "n": n, "at": n * STEP_MS }),
    );
    let to = |topic: &str| KafkaSink::json(client.clone(), topic).exactly_once(topic);
    let window = Window::tumble("at", Duration::from_millis(WINDOW_MS));
    Flow::new("machines")
        .partitions(8)
        .source("readings", Paced::new(readings, 100))
        .event_time("at", Duration::ZERO)
        .key_by("machine")
        .process::<Machine>("machine", OnError::DeadLetter)
        .sink("counted", to(counted))
        .from("readings")
        .key_by("machine")
        .window("sum", window, [Aggregate::count("readings")])
        .sink("sums", to(sums))
}

/// Starts it, and waits until the sources have read so much.
fn run_until(node: Node, flow: &Flow, rows: u64) -> Running {
    let running = node.start().unwrap();
    running.deploy(flow).unwrap();
    let begun = Instant::now(); // Clock: a test that hangs is to end.
    let read = || running.ledger().sources.values().map(|s| s.rows).sum::<u64>();
    while read() < rows {
        assert!(begun.elapsed() < PATIENCE, "{} rows", read());
        std::thread::yield_now();
    }
    running
}

fn found<T: serde::de::DeserializeOwned + Ord>(brokers: &Brokers, topic: &str) -> Vec<T> {
    let records = brokers.committed(topic);
    let mut found: Vec<T> =
        records.iter().map(|r| serde_json::from_str(r.text()).unwrap()).collect();
    found.sort();
    found
}

/// What an unbroken run finds: a plain loop.
fn expected() -> (Vec<Counted>, Vec<Sum>) {
    let mut counted = Vec::new();
    let mut nth = [0; KEYS as usize];
    for n in (0..ROWS).filter(|n| !is_bad(*n)) {
        let nth = &mut nth[(n % KEYS) as usize];
        *nth += 1;
        counted.push(Counted { n, nth: *nth });
        if *nth % 10 == 0 {
            counted.push(Counted { n, nth: 0 });
        }
    }
    counted.sort();
    let rows_of_window = WINDOW_MS / STEP_MS;
    let windows = ROWS / rows_of_window;
    let sum = |(machine, w)| Sum {
        machine,
        window_start: (w * WINDOW_MS) as i64,
        readings: rows_of_window / KEYS,
    };
    let all = (0..KEYS).flat_map(|machine| (0..windows).map(move |w| (machine, w)));
    (counted, all.map(sum).collect())
}

#[test]
fn a_flow_goes_on_in_kafka_where_it_stopped_on_one_machine() {
    let brokers = or_skip!(Brokers::shared());
    let (app, address) = ("moves", format!("kafka://{}", brokers.bootstrap()));
    let options = Options::parse(&address, []).unwrap();
    let client: Arc<dyn Client> = RdClient::connect(options.properties().unwrap(), "test").unwrap();
    let counted = brokers.topic("moves-counted", 2, &[]);
    let sums = brokers.topic("moves-sums", 2, &[]);
    let flow = flow(&client, &counted, &sums);
    let folder = Folder::new("moves-to-kafka");
    let dir = folder.path().join("data");

    let nothing = migrate(&dir, &address, app).unwrap_err();
    assert_eq!(nothing.code(), Code::Unknown, "{nothing}");
    let here = run_until(Node::embedded(&dir).signals(false), &flow, ROWS / 3);
    let in_use = migrate(&dir, &address, app).unwrap_err();
    assert_eq!(in_use.code(), Code::InUse, "{in_use}");
    // It is not drained: what is between steps and in the sinks is moved, too.
    here.stop();
    let before = Target::find(None, Some(&dir)).unwrap();
    let letters = before.dead(None, Some(1), 100).unwrap();
    assert!((1..3).contains(&letters.len()), "{letters:#?}");
    let timers = |target: &Target| -> usize {
        let all = target.processes("machine").unwrap();
        all.iter().map(|p| p.process["timers"].as_array().map_or(0, Vec::len)).sum()
    };
    assert!(timers(&before) > 10, "timers are open");
    let ledger = before.ledger().unwrap();
    assert!(ledger.balanced, "{:#?}", ledger.violations);

    let moved = migrate(&dir, &address, app).unwrap();
    assert_eq!(moved.tasks, SOURCES + 8 + 1 + 8 + 1);
    assert!(moved.keys >= 2 * KEYS, "{moved:?}");
    let again = migrate(&dir, &address, app).unwrap_err();
    assert_eq!(again.code(), Code::Conflict, "{again}");

    let there = Node::kafka(&address, app, "a").unwrap().http(":0").workers(2).signals(false);
    let there = there.start().unwrap();
    let asked = Target::find(Some(&there.http().unwrap().to_string()), None).unwrap();
    // All of it is there before the flow is.
    assert_eq!(asked.dead(None, Some(1), 100).unwrap(), letters);
    assert_eq!(timers(&asked), timers(&before));
    there.deploy(&flow).unwrap();
    assert_eq!(there.wait("machines"), FlowState::Finished);
    let ledger = asked.ledger().unwrap();
    assert!(ledger.balanced, "{:#?}", ledger.violations);
    let status: Status = asked.status().unwrap();
    assert_eq!(status.flows[0].records, ROWS);
    let bad = asked.dead(None, Some(1), 100).unwrap();
    assert_eq!(bad.iter().map(|l| l.n).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(bad.starts_with(&letters));
    there.stop();

    let (expected_counted, expected_sums) = expected();
    let found_counted: Vec<Counted> = found(brokers, &counted);
    assert!(found_counted == expected_counted, "{} rows", found_counted.len());
    assert_eq!(found::<Sum>(brokers, &sums), expected_sums);
}
