//! Flows on the Kafka engine, on brokers in memory.

use std::time::Instant;

use millstream_kafka::{
    KafkaSink, KafkaSource,
    client::{Client, Record, Records, Start, TopicPartition, TopicSpec, memory::Cluster},
    engine::{KafkaEngine, MemberOptions, Options, Threads, clock},
};
use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    host::OnError,
    process::{At, Context, Result as Handled},
};

/// Other tests share the machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    key: u64,
    n: u64,
}

/// Passes a row on after two seconds, more than it takes until other nodes know how far this is.
#[derive(Default, Serialize, Deserialize)]
struct Later;

impl Process for Later {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Handled<()> {
        let due = At::Processing(ctx.now() + Duration::from_secs(2));
        ctx.set_timer(&row.n.to_string(), due);
        Ok(())
    }

    fn on_timer(&mut self, name: &str, ctx: &mut Context<Self>) -> Handled<()> {
        ctx.emit(Row { key: 0, n: name.parse().unwrap_or_default() });
        Ok(())
    }
}

/// Brokers with topics `in` and `out`.
fn brokers() -> Cluster {
    let cluster = Cluster::new();
    let client = cluster.connect("test");
    for (name, partitions) in [("in", 2), ("out", 2)] {
        let spec = TopicSpec { name: name.into(), partitions, settings: Vec::new() };
        client.create_topic(&spec).unwrap();
    }
    cluster
}

/// Appends these rows to topic `in`.
fn fill(cluster: &Cluster, rows: std::ops::Range<u64>) {
    let mut records = Records::default();
    for n in rows {
        let value = serde_json::to_vec(&Row { key: n % 7, n }).unwrap();
        let at = TopicPartition::new("in", (n % 2) as u32);
        records.push(&at, Record::of(&[], Some(&value)));
    }
    cluster.connect("test").append(records, Box::new(|appended| assert!(appended.is_ok())));
}

/// The numbers in topic `out`, in order.
fn found(cluster: &Cluster) -> Vec<u64> {
    let (client, mut found) = (cluster.connect("test"), Vec::new());
    for partition in 0..2 {
        let at = TopicPartition::new("out", partition);
        let piece = client.read(&at, Start::Earliest, usize::MAX).unwrap();
        for (_, record) in piece.iter().flat_map(|piece| piece.iter()) {
            found.push(serde_json::from_slice::<Row>(record.value.unwrap()).unwrap().n);
        }
    }
    found.sort_unstable();
    found
}

fn to_out(cluster: &Cluster) -> KafkaSink {
    KafkaSink::json(cluster.connect("sink"), "out")
}

fn source(cluster: &Cluster) -> KafkaSource {
    KafkaSource::json(cluster.connect("source"), "in").unwrap()
}

/// `in -> step -> out`
fn flow<P: Process>(source: KafkaSource, sink: KafkaSink) -> Flow {
    Flow::new("f")
        .partitions(2)
        .source("rows", source)
        .key_by("key")
        .process::<P>("step", OnError::DeadLetter)
        .sink("out", sink)
}

/// A node of one application.
fn start(cluster: &Cluster, name: &str) -> Running {
    let member = MemberOptions { address: "-".into(), patience: Default::default(), now: clock() };
    let options =
        Options { app: "app".into(), node: name.into(), incarnation: 1, member: Some(member) };
    let connected = KafkaEngine::connect(&options, cluster.connect(name)).unwrap();
    let engine: Arc<dyn Engine> = Arc::new(connected.engine.clone());
    let keeper = Some(Keeper::Kafka(Threads::start(connected).unwrap()));
    let connectors = ThreadConnectors::start(1).unwrap();
    let heart = Heart::new(engine.clone(), connectors, Default::default()).unwrap();
    let workers = Workers::start(heart.clone(), 1).unwrap();
    Running { heart, engine, workers, keeper, server: None }
}

/// Waits until something is so.
fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now(); // Clock: a test that hangs is to end.
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "not {what}");
        std::thread::yield_now();
    }
}

fn ends(node: &Running) {
    until("at the end", || node.heart.flow("f") == Some(FlowState::Finished));
    let ledger = node.ledger();
    assert_eq!(ledger.violations(), [""; 0]);
}

#[test]
fn a_flow_has_not_ended_anywhere_while_a_timer_is_left_somewhere() {
    let cluster = brokers();
    let nodes = ["a", "b"].map(|name| start(&cluster, name));
    fill(&cluster, 0..20);
    for node in &nodes {
        node.deploy(&flow::<Later>(source(&cluster).finite(), to_out(&cluster))).unwrap();
    }
    let ended = |node: &Running| node.heart.flow("f") == Some(FlowState::Finished);
    until("ended on one", || nodes.iter().any(ended));
    assert_eq!(found(&cluster), (0..20).collect::<Vec<_>>());
    nodes.iter().for_each(ends);
}
