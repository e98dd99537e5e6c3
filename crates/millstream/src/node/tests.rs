//! Flows on the Kafka engine, on brokers in memory: which sinks have tasks of their own, and when a
//! flow has come to its end.

use std::time::Instant;

use millstream_core::connector::Guarantee;
use millstream_io::view;
use millstream_kafka::{
    KafkaSink, KafkaSource,
    client::{Client, Record, Records, Start, TopicPartition, TopicSpec, memory::Cluster},
    engine::{KafkaEngine, MemberOptions, Options, Threads, clock, take_over},
};
use millstream_runtime::task::sink;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    host::OnError,
    process::{At, Context, Result as Handled},
    test::Folder,
};

/// Other tests share the machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    key: u64,
    n: u64,
}

/// Passes rows on.
#[derive(Default, Serialize, Deserialize)]
struct Pass;

impl Process for Pass {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Handled<()> {
        ctx.emit(row);
        Ok(())
    }
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
    for (name, partitions) in [("in", 2), ("out", 1)] {
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

/// The numbers in topic `out`, as they lie there, and whether each record has an id in a header.
fn found(cluster: &Cluster) -> (Vec<u64>, Vec<bool>) {
    let at = TopicPartition::new("out", 0);
    let piece = cluster.connect("test").read(&at, Start::Earliest, usize::MAX).unwrap();
    let row = |record: Record<'_>| {
        let row: Row = serde_json::from_slice(record.value.unwrap()).unwrap();
        (row.n, !record.headers.is_empty())
    };
    piece.iter().flat_map(|piece| piece.iter()).map(|(_, record)| row(record)).unzip()
}

fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
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

/// The names of all streams and tasks of the flow.
fn made(node: &Running) -> (Vec<String>, Vec<String>) {
    let streams = node.engine.streams().into_iter().map(|s| s.spec.name);
    let mut tasks: Vec<String> = node.engine.tasks().into_iter().map(|(name, ..)| name).collect();
    tasks.sort();
    (streams.filter(|name| name.starts_with("f/")).collect(), tasks)
}

fn promises(node: &Running) -> Vec<(String, Guarantee)> {
    node.heart.sinks().into_iter().map(|sink| (sink.name, sink.promise)).collect()
}

#[test]
fn a_sink_on_the_engines_brokers_has_no_stream_and_no_task() {
    let (here, there) = (brokers(), brokers());
    fill(&here, 0..300);
    let node = start(&here, "a");
    // Two stages lead to `again`; `elsewhere` is on other brokers and has a task, as anywhere.
    let flow = flow::<Pass>(source(&here).finite(), to_out(&here).exactly_once("out"))
        .sink("elsewhere", to_out(&there))
        .from("rows")
        .filter("some", |row: &Row| row.n < 10)
        .connect("step")
        .sink("again", to_out(&here).exactly_once("again"));
    node.deploy(&flow).unwrap();
    ends(&node);
    let (streams, tasks) = made(&node);
    assert_eq!(streams, ["f/$dead", "f/step", "f/elsewhere", "f/some"]);
    let expected = ["elsewhere/0", "rows/0", "rows/1", "some/0", "some/1", "step/0", "step/1"];
    assert_eq!(tasks, expected.map(|task| format!("f/{task}")));
    let (numbers, named) = found(&here);
    let expected = (0..300).chain(0..300).chain(0..10).collect();
    assert_eq!(sorted(numbers), sorted(expected));
    assert!(!named.contains(&true), "of the engine's own transactions");
    assert!(sorted(found(&there).0).into_iter().eq(0..300));
    // It is to be seen nevertheless, with what it has got and what it promises.
    let (once, least) = (Guarantee::ExactlyOnce, Guarantee::AtLeastOnce);
    let expected = [("again", once), ("elsewhere", least), ("out", once)];
    assert_eq!(promises(&node), expected.map(|(name, promise)| (name.into(), promise)));
    let shown = view::flows(node.engine.as_ref(), Some(&node.heart)).unwrap().remove(0).stages;
    let sinks = shown.into_iter().filter(|stage| !stage.each_row.is_empty());
    let sinks: Vec<_> = sinks.map(|s| (s.name, s.tasks, s.read, s.each_row)).collect();
    let expected = [
        ("again", 0, 310, "exactly once"),
        ("elsewhere", 1, 300, "at least once"),
        ("out", 0, 300, "exactly once"),
    ];
    assert_eq!(sinks, expected.map(|(name, n, read, each)| (name.into(), n, read, each.into())));
}

/// Rows that were on their way to a sink when a flow was moved are written by the sink's own task,
/// and none overtakes them.
#[test]
fn a_flow_that_was_moved_writes_what_was_on_its_way() {
    let cluster = brokers();
    fill(&cluster, 0..100);
    let folder = Folder::new("moved-with-rows");
    let dir = folder.path().join("data");
    let here = Node::embedded(&dir).workers(1).start().unwrap();
    // All but the sink's task: its rows stay where they are.
    let flow_here = flow::<Pass>(source(&cluster), to_out(&cluster));
    let mut stages = plan(&flow_here, Some(here.engine.as_ref())).unwrap();
    stages.retain(|stage| stage.name != "out");
    here.heart.deploy(stages, now()).unwrap();
    let waiting = || {
        let streams = here.engine.streams();
        streams.iter().find(|s| s.spec.name == "f/out").map_or(0, |out| out.appended_rows)
    };
    until("all on their way", || waiting() == 100);
    here.stop();
    let (lock, engine) = embedded::open_at_rest(&dir, Default::default()).unwrap();
    let rest = engine.at_rest().renumbered(sink::moved).unwrap();
    let to = Options { app: "app".into(), node: "mover".into(), incarnation: 7, member: None };
    take_over(engine.as_ref(), &rest, &to, cluster.connect("mover")).unwrap();
    drop(lock);

    fill(&cluster, 100..200);
    let there = start(&cluster, "a");
    there.deploy(&flow::<Pass>(source(&cluster), to_out(&cluster))).unwrap();
    until("all out", || found(&cluster).0.len() >= 200);
    assert_eq!(there.ledger().violations(), [""; 0]);
    assert_eq!(made(&there).0, ["f/$dead", "f/step", "f/out"]);
    assert!(made(&there).1.contains(&"f/out/0".to_string()));
    assert_eq!(promises(&there), [("out".into(), Guarantee::AtLeastOnce)]);
    let (numbers, named) = found(&cluster);
    assert!(!named.contains(&false), "written by the sink's own task");
    assert!(numbers[..100].iter().all(|n| *n < 100), "none has overtaken another");
    assert!(sorted(numbers).into_iter().eq(0..200));
}

#[test]
fn a_sink_whose_brokers_do_not_answer_is_not_guessed_at() {
    let cluster = brokers();
    fill(&cluster, 0..10);
    let node = start(&cluster, "a");
    let client = cluster.connect("sink");
    let sink = KafkaSink::json(client.clone(), "out");
    let flow = flow::<Pass>(source(&cluster).finite(), sink);
    client.cut();
    assert_eq!(node.deploy(&flow).unwrap_err().code(), Code::Unreachable);
    assert!(!node.engine.has_stream("f/out").unwrap());
    client.mend();
    node.deploy(&flow).unwrap();
    ends(&node);
    assert!(!node.engine.has_stream("f/out").unwrap());
    assert!(sorted(found(&cluster).0).into_iter().eq(0..10));
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
    assert!(sorted(found(&cluster).0).into_iter().eq(0..20));
    nodes.iter().for_each(ends);
}
