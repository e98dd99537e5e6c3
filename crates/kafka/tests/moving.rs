//! What one engine has is moved to Kafka, on brokers in memory: nothing is lost, and the books go
//! on.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{sync::Arc, time::Duration};

use millstream_core::{
    Code, Error,
    engine::{AtRest, Engine, Lease, Settlement},
    ledger::{OperatorCounters, Sent, SourceCounters},
    turn::{Change, Delta, InputProgress, Position, StreamId, TableId, TaskId},
};
use millstream_kafka::{
    client::{Client, Start, TopicPartition, memory},
    engine::{Connected, KafkaEngine, Options, take_over},
};
use millstream_runtime::{
    conformance::{frame, numbers, restored, stream, task, turn},
    disk::SimDisk,
    embedded::{EmbeddedEngine, Opened, Options as Embedded},
    task::sink,
};

const TABLE: TableId = TableId(7);

fn options(incarnation: u64) -> Options {
    Options { app: "moved".into(), node: "one".into(), incarnation, member: None }
}

fn change(delta: &mut Delta, key: &str, value: Option<&str>) {
    delta.push(Change { table: TABLE, key: key.as_bytes(), value: value.map(str::as_bytes) });
}

fn commit(lease: &mut dyn Lease, turn: millstream_core::Turn) {
    let ticket = lease.commit(turn);
    assert_eq!(lease.settled(ticket), Settlement::Ok);
}

fn open_here(opened: &mut Opened, name: &str, inputs: &[(StreamId, u32)]) -> Box<dyn Lease> {
    let spec = task(name, inputs);
    assert!(opened.engine.open(&spec).unwrap().is_none());
    opened.committer.step();
    opened.engine.open(&spec).unwrap().unwrap()
}

/// A flow half way: a source has sent five rows in four frames, an outsider two; the counter has
/// read two frames and a row of the third, the last task nothing.
fn half_way() -> Opened {
    let mut opened = EmbeddedEngine::open(Embedded::default(), Arc::new(SimDisk::new(1))).unwrap();
    let rows = opened.engine.create_stream(&stream("flow/rows", 2, 0)).unwrap();
    let out = opened.engine.create_stream(&stream("flow/out", 1, 0)).unwrap();
    let kept = opened.engine.create_stream(&stream("flow/$dead", 1, 400)).unwrap();

    let mut source = open_here(&mut opened, "flow/source/0", &[]);
    let mut counter = open_here(&mut opened, "flow/count/0", &[(rows, 0)]);
    open_here(&mut opened, "flow/out/0", &[(out, 0)]);
    let id = source.task();
    let sent = vec![(rows, 0, frame(id, 1, &[1, 2])), (rows, 1, frame(id, 1, &[9]))];
    commit(&mut *source, turn(1, sent, Delta::default()));
    let outside = frame(TaskId(u32::MAX), 0, &[100, 101]);
    opened.engine.append(rows, 0, outside).unwrap();
    let mut second = turn(2, vec![(rows, 0, frame(id, 2, &[3, 4]))], Delta::default());
    // Letters of which only the last are kept.
    second.outputs.extend((0..5).map(|n| millstream_core::turn::Output {
        stream: kept,
        partition: 0,
        frame: frame(id, 2, &[n]),
    }));
    second.progress.counters.sent = Sent::from([(rows, 5), (kept, 5)]);
    second.progress.counters.source =
        Some(SourceCounters { units: 5, rows: 5, ..SourceCounters::default() });
    second.progress.note = b"line 5".to_vec();
    commit(&mut *source, second);

    let mut delta = Delta::default();
    change(&mut delta, "a", Some("1"));
    change(&mut delta, "b", Some("2"));
    let out_frame = (out, 0, frame(counter.task(), 1, &[1, 2, 3]));
    let mut first = turn(1, vec![out_frame], delta);
    first.progress.inputs = vec![InputProgress {
        position: Position { frame: 2, row: 1 },
        keep_from: 2,
        rows: 5,
        ..InputProgress::default()
    }];
    first.progress.counters.sent = Sent::from([(out, 3)]);
    let counted = OperatorCounters { read: 5, processed: 5, ..OperatorCounters::default() };
    first.progress.counters.operators.insert("count".into(), counted);
    let mut delta = Delta::default();
    change(&mut delta, "b", None);
    change(&mut delta, "c", Some("3"));
    let mut again = first.clone();
    commit(&mut *counter, first);
    (again.progress.turn, again.delta, again.outputs) = (2, delta, Vec::new());
    commit(&mut *counter, again);
    opened.committer.step();
    assert_eq!(opened.engine.ledger().violations(), [""; 0]);
    assert!(opened.engine.streams()[2].frames[0].start > 0, "letters have expired");
    opened
}

fn rest(opened: &Opened) -> AtRest {
    opened.engine.at_rest().renumbered(sink::moved).unwrap()
}

fn step(connected: &mut Connected) {
    connected.upkeep.step(Duration::ZERO).unwrap();
    connected.upkeep.step(Duration::from_secs(3600)).unwrap();
    connected.trimmer.step().unwrap();
}

fn open_there(connected: &mut Connected, name: &str, inputs: &[(StreamId, u32)]) -> Box<dyn Lease> {
    let mut spec = task(name, inputs);
    spec.tasks = if name == "flow/count/0" { 2 } else { 1 };
    for _ in 0..10 {
        if let Some(lease) = connected.engine.open(&spec).unwrap() {
            return lease;
        }
        step(connected);
    }
    panic!("{name} is not opened")
}

#[test]
fn everything_goes_on_where_it_stopped() {
    let from = half_way();
    let brokers = memory::Cluster::new();
    let client = brokers.connect("one");
    let moved = take_over(from.engine.as_ref(), &rest(&from), &options(1), client.clone()).unwrap();
    assert_eq!((moved.streams, moved.partitions, moved.tasks), (3, 4, 3));
    assert_eq!((moved.keys, moved.state_bytes), (2, 4));
    // The counter needs no more of the first two frames; the other partition is kept for nobody.
    let letters = from.engine.streams()[2].clone();
    let kept = letters.frames[0].end - letters.frames[0].start;
    assert_eq!((moved.frames, moved.rows), (1 + 1 + kept, 2 + 3 + kept));

    let mut there = KafkaEngine::connect(&options(2), client.clone()).unwrap();
    assert_eq!(there.engine.ledger().violations(), [""; 0]);
    assert_eq!(there.engine.streams()[2].appended_rows, 5);
    assert_eq!(there.engine.streams()[2].frames[0].start, 1, "that letters are gone is seen");
    let (rows, out) = (StreamId(0), StreamId(1));
    let mut counter = open_there(&mut there, "flow/count/0", &[(rows, 0)]);
    assert_eq!(counter.task(), TaskId(2));
    let found = restored(&mut *counter);
    let is = |key: &str| found.get(&(TABLE, key.as_bytes().to_vec())).map(Vec::as_slice);
    assert_eq!([is("a"), is("b"), is("c")], [Some(&b"1"[..]), None, Some(b"3")]);
    let mut progress = counter.recovered().progress.clone();
    assert_eq!((progress.turn, progress.inputs[0].position.row), (2, 1));
    let left = counter.poll(0, progress.inputs[0].position, 1 << 20).unwrap();
    assert_eq!(left.iter().flat_map(|(_, f)| numbers(f)).collect::<Vec<_>>(), [3, 4]);

    // It reads the rest, and what the source sends then.
    let mut source = open_there(&mut there, "flow/source/0", &[]);
    assert_eq!(source.recovered().progress.note, b"line 5");
    let mut third = turn(3, vec![(rows, 0, frame(source.task(), 3, &[5]))], Delta::default());
    third.progress.counters.sent = Sent::from([(rows, 6), (StreamId(2), 5)]);
    commit(&mut *source, third);
    let at = Position { frame: left[0].0 + 1, row: 0 };
    let new = counter.poll(0, at, 1 << 20).unwrap();
    assert_eq!(new.iter().flat_map(|(_, f)| numbers(f)).collect::<Vec<_>>(), [5]);
    let after = new[0].0 + 1;
    progress.turn = 3;
    progress.inputs[0] = InputProgress {
        position: Position { frame: after, row: 0 },
        keep_from: after,
        rows: 7,
        ..InputProgress::default()
    };
    let counted = OperatorCounters { read: 7, processed: 7, ..OperatorCounters::default() };
    progress.counters.operators.insert("count".into(), counted);
    commit(&mut *counter, millstream_core::Turn { progress, ..Default::default() });
    let mut last = open_there(&mut there, "flow/out/0", &[(out, 0)]);
    let seen = last.poll(0, Position::default(), 1 << 20).unwrap();
    assert_eq!(seen.iter().flat_map(|(_, f)| numbers(f)).collect::<Vec<_>>(), [1, 2, 3]);
    let mut first = turn(1, Vec::new(), Delta::default());
    first.progress.inputs = vec![InputProgress {
        position: Position { frame: seen[0].0 + 1, row: 0 },
        rows: 3,
        ..InputProgress::default()
    }];
    commit(&mut *last, first);
    step(&mut there);
    let again = KafkaEngine::connect(&options(3), client).unwrap();
    for engine in [&there.engine, &again.engine] {
        assert_eq!(engine.ledger().violations(), [""; 0]);
        assert_eq!(engine.backlog(rows).rows, 0, "nobody reads the other partition");
    }
}

fn refused(from: &Opened, client: Arc<dyn Client>) -> Error {
    take_over(from.engine.as_ref(), &rest(from), &options(9), client).err().unwrap()
}

#[test]
fn an_application_that_exists_is_refused() {
    let from = half_way();
    let brokers = memory::Cluster::new();
    let client = brokers.connect("one");
    drop(KafkaEngine::connect(&options(1), client.clone()).unwrap());
    let e = refused(&from, client.clone());
    assert_eq!(
        (e.code(), e.message()),
        (Code::Conflict, "application moved is not new: there is a topic moved.registry")
    );
    // Also what somebody has forgotten to delete.
    brokers.delete_topic("moved.registry");
    brokers.delete_topic("moved.progress");
    let spec = millstream_kafka::client::TopicSpec {
        name: "moved.state.flow.count".into(),
        partitions: 1,
        settings: Vec::new(),
    };
    client.create_topic(&spec).unwrap();
    assert!(refused(&from, client).message().ends_with("there is a topic moved.state.flow.count"));
}

#[test]
fn what_was_interrupted_is_of_no_use_to_anybody() {
    let from = half_way();
    let brokers = memory::Cluster::new();
    let client = brokers.connect("one");
    // A read that is not in the books is noticed when they are compared.
    let rest = rest(&from);
    let mut wrong = rest.clone();
    wrong.tasks[1].progress.inputs[0].rows = 6;
    let e = take_over(from.engine.as_ref(), &wrong, &options(1), client.clone()).err().unwrap();
    assert_eq!(e.code(), Code::Corrupt, "{e}");
    let e = KafkaEngine::connect(&options(2), client.clone()).err().unwrap();
    assert!(e.message().starts_with("application moved is half made"), "{e}");
    let e = refused(&from, client.clone());
    assert!(e.message().starts_with("application moved is half made"), "{e}");
    assert!(e.to_string().contains(r"--delete --topic 'moved\..*'"), "{e}");

    // Once that is done, it can be moved.
    for topic in
        ["registry", "progress", "stream.flow.rows", "stream.flow.out", "stream.flow..dead"]
    {
        brokers.delete_topic(&format!("moved.{topic}"));
    }
    for stage in ["source", "count", "out"] {
        brokers.delete_topic(&format!("moved.state.flow.{stage}"));
    }
    take_over(from.engine.as_ref(), &rest, &options(3), client.clone()).unwrap();
    let at = TopicPartition::new("moved.registry", 0);
    assert!(client.read(&at, Start::Earliest, 1 << 20).unwrap().is_some());
}
