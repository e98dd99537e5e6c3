//! What lies at the end of logs: aborted records, marks of transactions, and what Kafka has left
//! of them.

use std::{collections::BTreeSet, sync::Arc};

use millstream_brokers::{Api, Brokers, DEADLINE, or_skip};
use millstream_core::{
    engine::Engine,
    turn::{Change, Position, TableId},
};
use millstream_kafka::client::{Lane, Start, TopicPartition};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::oracle::{Bell, Owner, Scene, State, ZOMBIE, model, out, task, try_open};

/// Has Kafka compact a topic as soon as it can: each append begins a segment, and all segments but
/// the last are compacted; what was deleted goes with the second time.
const AT_ONCE: [(&str, &str); 3] =
    [("segment.ms", "1"), ("min.cleanable.dirty.ratio", "0.01"), ("delete.retention.ms", "0")];
/// The value of records that are aborted.
const ABORTED: &[u8] = b"aborted";

/// What people are shown of the task's state, without taking it over: what a standby reads.
fn shown(node: &crate::oracle::Running) -> State {
    let mut state = State::new();
    let tasks = node.engine.tasks();
    let (_, id, _) = tasks.iter().find(|(name, ..)| name == "f/write/0").unwrap();
    let mut take = |c: Change<'_>| {
        match c.value {
            Some(value) => drop(state.insert((c.table, c.key.to_vec()), value.to_vec())),
            None => drop(state.remove(&(c.table, c.key.to_vec()))),
        }
        Ok(())
    };
    node.engine.visit_state(*id, &mut take).unwrap();
    state
}

/// A record as it lies in a log, whatever has become of its transaction.
struct Lying {
    offset: u64,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// All that lies in partition 0 of a topic.
fn lying(brokers: &Brokers, topic: &str) -> Vec<Lying> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers.bootstrap()).set("group.id", "whoever looks");
    config.set("isolation.level", "read_uncommitted").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut all = Vec::new();
    loop {
        match consumer.poll(DEADLINE) {
            Some(Ok(record)) => all.push(Lying {
                offset: record.offset() as u64,
                key: record.key().unwrap().to_vec(),
                value: record.payload().map(<[u8]>::to_vec),
            }),
            Some(Err(KafkaError::PartitionEOF(_))) => return all,
            other => panic!("{topic}: {other:?}"),
        }
    }
}

/// Whether Kafka has removed all that something newer stands for, and all that was aborted.
fn is_compacted(log: &[Lying]) -> bool {
    let keys: BTreeSet<&[u8]> = log.iter().map(|record| &*record.key).collect();
    keys.len() == log.len() && log.iter().all(|record| record.value.as_deref() != Some(ABORTED))
}

/// A transaction in partition 0 of a topic, without the engine.
fn transact(writer: &BaseProducer, topic: &str, log: &[(Vec<u8>, Option<&[u8]>)], commits: bool) {
    writer.begin_transaction().unwrap();
    for (key, value) in log {
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(key);
        let record = value.iter().fold(record, |record, value| record.payload(value));
        writer.send(record).map_err(|(e, _)| e).unwrap();
    }
    // Before its end is asked for: nothing is sent that is aborted earlier.
    writer.flush(DEADLINE).unwrap();
    match commits {
        true => writer.commit_transaction(DEADLINE).unwrap(),
        false => writer.abort_transaction(DEADLINE).unwrap(),
    }
}

#[test]
fn aborted_data_in_a_states_tail_is_never_restored() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "aborted");
    let [one, two] = brokers.nodes();
    let new = scene.node(two.bootstrap());
    for round in 0..3 {
        let old = scene.node(one.bootstrap());
        let mut owner = Owner::open(&old);
        owner.run(2);
        let turns = owner.turns;
        assert_eq!(turns, 3 * round + 2);
        owner.tag = ZOMBIE;
        let held = one.hold(Api::END_TXN, u32::MAX);
        owner.commit();
        // All of it is in the log; what lacks is the decision.
        held.wait(1, DEADLINE);
        assert_eq!(shown(&new), model(turns));
        one.cut();
        drop((held, owner, old));
        // Restores, and compares with the model.
        let mut successor = Owner::open(&new);
        assert_eq!(successor.turns, turns);
        assert_eq!(shown(&new), model(turns));
        successor.run(1);
        one.heal();
    }
    scene.verdict(9);
}

#[test]
fn logs_that_end_in_aborted_records_are_read_to_their_end() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "ends");
    let [one, two] = brokers.nodes();
    let (old, new) = (scene.node(one.bootstrap()), scene.node(two.bootstrap()));
    let mut owner = Owner::open(&old);
    owner.run(3);
    owner.tag = ZOMBIE;
    let held = one.hold(Api::END_TXN, u32::MAX);
    owner.commit();
    held.wait(1, DEADLINE);
    // It aborts what is open, and writes nothing to the stream.
    let successor = Owner::open(&new);
    assert_eq!(successor.turns, 3);
    let at = TopicPartition::new(scene.out(), 0);
    let range = new.client.range(&at).unwrap();
    let last = brokers.committed(&scene.out()).into_iter().rfind(|r| r.partition == 0).unwrap();
    assert!(range.end > last.offset + 2, "{range:?} ends in more than one record's mark");
    let rest = new.client.read(&at, Start::Offset(last.offset + 1), 1 << 20).unwrap();
    assert!(rest.is_none(), "nothing that can be read");
    // A reader from the beginning, and one from where that one ended; each on a node that joins.
    let mut turns = 0;
    for from in [0, last.offset + 1] {
        let node = scene.node(brokers.bootstrap());
        let stream = node.engine.create_stream(&out()).unwrap();
        let (spec, bell) = task("f/ends/0", &[(stream, 0)]);
        let mut reader = try_open(&node.engine, &spec, &bell).unwrap();
        let expected = if from == 0 { 3 } else { 0 };
        let position = Position { frame: from, row: 0 };
        bell.until("what is left", || {
            let frames = reader.poll(0, position, usize::MAX).unwrap();
            (frames.len() == expected).then_some(())
        });
        turns += 1;
        let mut turn = millstream_runtime::conformance::turn(turns, vec![], Default::default());
        let read = millstream_runtime::conformance::read_up_to(last.offset + 1, 6);
        turn.progress.inputs.push(read);
        let ticket = reader.commit(turn);
        bell.until("the reader's turn", || {
            (reader.settled(ticket) == millstream_core::engine::Settlement::Ok).then_some(())
        });
    }
    drop(held);
    let mut successor = successor;
    successor.run(1);
    scene.verdict(4);
}

/// Kafka compacts all but the last segment of a log, so that nothing but marks need be left at its
/// end: what was deleted there, what was aborted and what was opened in vain is gone.
#[test]
fn a_state_whose_end_was_compacted_away_is_restored() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "compacted");
    let (state, progress) = (scene.state(), format!("{}.progress", scene.app));
    // Each node says how far it has come before it goes.
    for turns in [4, 8, 12] {
        let node = scene.node(brokers.bootstrap());
        let mut owner = Owner::open(&node);
        let settings = AT_ONCE.map(|(name, value)| (name.to_string(), value.to_string()));
        for topic in [&state, &progress] {
            node.client.set_topic(topic, &settings).unwrap();
        }
        owner.run(4);
        assert_eq!(owner.turns, turns);
    }
    // 2, the table, the key; see engine/codec.rs.
    let key = |key: &[u8]| [&[2], &TableId::of("t").0.to_le_bytes()[..], key].concat();
    let all: Vec<_> = (0..7_u64).map(|n| key(&n.to_le_bytes())).collect();
    let model = model(12);
    assert!(model.len() < 1 + all.len(), "a key is deleted, and the sum is not among these");

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers.bootstrap());
    config.set("transactional.id", format!("{}/f/write/0", scene.app));
    let writer: BaseProducer = config.create().unwrap();
    writer.init_transactions(DEADLINE).unwrap();
    // Opened, and handed over without a turn.
    let opening = vec![1; 17];
    transact(&writer, &state, &[(opening.clone(), Some(b"node"))], true);
    transact(&writer, &state, &[(opening, None)], true);
    // An aborted turn begins a segment, so that all before it is compacted: once to remove what is
    // old, once more to remove what is deleted.
    let aborted: Vec<_> = all.iter().map(|key| (key.clone(), Some(ABORTED))).collect();
    let bell = Arc::new(Bell::default());
    transact(&writer, &state, &aborted, false);
    bell.until("old values are gone", || is_compacted(&lying(brokers, &state)).then_some(()));
    transact(&writer, &state, &aborted, false);
    let left = bell.until("what was deleted is gone", || {
        let left = lying(brokers, &state);
        let deleted = left.iter().any(|record| record.value.is_none());
        (is_compacted(&left) && !deleted).then_some(left)
    });
    bell.until("old progress is gone", || {
        let told = lying(brokers, &progress);
        told.first().is_some_and(|first| first.offset > 0).then_some(())
    });

    // The key of turns is 0; the last one is the last record.
    let (last, values) = left.split_last().unwrap();
    assert_eq!(last.key, [0]);
    let values = values.iter().map(|record| (record.key.clone(), record.value.clone().unwrap()));
    let expected = model.iter().map(|((_, name), value)| (key(name), value.clone()));
    assert_eq!(values.collect::<BTreeSet<_>>(), expected.collect());

    // A node that joins reads progress to its end, and people read the state to its end.
    let node = scene.node(brokers.bootstrap());
    let at = TopicPartition::new(state, 0);
    let end = node.client.range(&at).unwrap().end;
    assert!(end > last.offset + 2, "{} is the last record, {end} the end", last.offset);
    assert_eq!(shown(&node), model);
    // So does a source.
    let (rings, mut read) = (bell.clone(), 0);
    let waker = Arc::new(move || rings.ring());
    let mut reader =
        node.client.reader(&at, Start::Earliest, Lane::States, 1 << 20, waker).unwrap();
    bell.until("the end of what was compacted", || {
        while let Some(piece) = reader.poll().unwrap() {
            read += piece.len();
        }
        reader.reached().filter(|reached| *reached >= end)
    });
    assert_eq!(read, left.len());
    // Restores, and compares with the model.
    let mut owner = Owner::open(&node);
    assert_eq!(owner.turns, 12);
    owner.run(1);
    scene.verdict(13);
}
