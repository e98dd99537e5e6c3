//! Transactional ids that Kafka forgets, and epochs that run out. On brokers of their own, which
//! forget within seconds what Kafka by itself remembers for a day or a week.

use std::{collections::BTreeMap, sync::OnceLock};

use millstream_brokers::{Brokers, Error, or_skip};
use millstream_core::{
    engine::{Engine, Settlement},
    turn::TaskId,
};
use millstream_kafka::client::{Record, Records, TopicPartition};
use millstream_runtime::conformance;

use crate::oracle::{Bell, Owner, Scene, ZOMBIE};

fn brokers() -> Result<&'static Brokers, &'static Error> {
    static FORGETFUL: OnceLock<Result<Brokers, Error>> = OnceLock::new();
    let properties = [
        ("transactional.id.expiration.ms", "2000"),
        ("transaction.remove.expired.transaction.cleanup.interval.ms", "200"),
        ("producer.id.expiration.ms", "2000"),
        ("producer.id.expiration.check.interval.ms", "200"),
        // Taking over does not wait for other brokers: a test does so 32,767 times.
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
    ];
    FORGETFUL.get_or_init(|| Brokers::start_with(&properties)).as_ref()
}

/// The transactional ids of an application, and whether Kafka knows of each: the last record about
/// it in Kafka's own topic is none that removes it.
fn ids(brokers: &Brokers, app: &str) -> BTreeMap<String, bool> {
    let mut ids = BTreeMap::new();
    for record in brokers.committed("__transaction_state") {
        // A version, a length, the id.
        let key = record.key.unwrap();
        let id = String::from_utf8(key[4..].to_vec()).unwrap();
        if id.starts_with(&format!("{app}/")) {
            ids.insert(id, record.value.is_some());
        }
    }
    ids
}

fn are_forgotten(brokers: &Brokers, app: &str) {
    Bell::default().until("Kafka forgets the ids of who is idle", || {
        let ids = ids(brokers, app);
        (!ids.is_empty() && ids.values().all(|known| !known)).then_some(())
    });
}

#[test]
fn a_task_goes_on_after_its_id_has_expired() {
    let brokers = or_skip!(brokers());
    let scene = Scene::new(brokers, "expired");
    let node = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&node);
    let out = node.engine.create_stream(&crate::oracle::out()).unwrap();
    owner.run(3);
    let outside = |turn| {
        let frame = conformance::frame(TaskId(0), turn, &[-1, 0]);
        let ticket = node.engine.append(out, 0, frame).unwrap();
        Bell::default().until("rows from outside", || node.engine.durable(ticket).then_some(()));
    };
    outside(1);
    for turn in 2..4 {
        are_forgotten(brokers, &scene.app);
        owner.run(2);
        outside(turn);
    }
    let negative = |r: &millstream_brokers::Committed| {
        let frame = millstream_core::Frame::decode(r.value.clone().unwrap().into()).unwrap();
        conformance::numbers(&frame)[0] < 0
    };
    let from_outside = brokers.committed(&scene.out()).iter().filter(|r| negative(r)).count();
    assert_eq!(from_outside, 3);
    scene.verdict(7);
}

#[test]
fn an_owner_whose_id_has_expired_is_fenced_by_its_successor() {
    let brokers = or_skip!(brokers());
    let scene = Scene::new(brokers, "expired-zombie");
    let [old, new] = [(); 2].map(|()| scene.node(brokers.bootstrap()));
    let mut owner = Owner::open(&old);
    owner.run(3);
    are_forgotten(brokers, &scene.app);
    let mut successor = Owner::open(&new);
    successor.run(2);
    owner.tag = ZOMBIE;
    is_fenced(&mut owner);
    successor.run(2);
    scene.verdict(7);
}

/// Nothing of a successor is left at the coordinator by then: that there was one is known from the
/// task's state alone.
#[test]
fn an_owner_does_not_go_on_because_its_successor_was_forgotten_too() {
    let brokers = or_skip!(brokers());
    let scene = Scene::new(brokers, "expired-twice");
    let [old, new] = [(); 2].map(|()| scene.node(brokers.bootstrap()));
    let mut owner = Owner::open(&old);
    owner.run(3);
    are_forgotten(brokers, &scene.app);
    let mut successor = Owner::open(&new);
    successor.run(2);
    are_forgotten(brokers, &scene.app);
    owner.tag = ZOMBIE;
    is_fenced(&mut owner);
    owner.reopen();
    assert_eq!(owner.turns, 5);
    owner.tag = 0;
    owner.run(1);
    scene.verdict(6);
}

/// Or does not know what became of its turn; it has to look, whereby it would learn it.
fn is_fenced(owner: &mut Owner) {
    let ticket = owner.commit();
    let end = owner.settled(ticket);
    assert!(matches!(end, Settlement::Fenced | Settlement::Unknown), "{end:?}");
}

/// The last epoch of a producer is one less than can be counted; then the id gets another producer.
#[test]
fn an_epoch_that_overflows_fences_all_the_same() {
    let brokers = or_skip!(brokers());
    let scene = Scene::new(brokers, "overflow");
    let nodes = [(); 2].map(|()| scene.node(brokers.bootstrap()));
    let mut owner = Owner::open(&nodes[0]);
    owner.run(3);
    let ids: Vec<String> = ids(brokers, &scene.app).into_keys().collect();
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| assert!(brokers.wear(id, i16::MAX - 4) < i16::MAX));
        }
    });
    owner.tag = ZOMBIE;
    is_fenced(&mut owner);
    for n in 0..6 {
        let mut successor = Owner::open(&nodes[n % 2]);
        successor.run(1);
        let mut before = std::mem::replace(&mut owner, successor);
        before.tag = ZOMBIE;
        is_fenced(&mut before);
        owner.run(1);
    }
    for id in &ids {
        assert!(brokers.wear(id, 0) < 100, "the epoch of {id} has not overflown");
    }
    scene.verdict(owner.turns);
}

/// Kafka forgets who has written to a partition, too, transactions or none.
#[test]
fn who_appends_records_goes_on_after_kafka_has_forgotten_it() {
    let brokers = or_skip!(brokers());
    let topic = brokers.topic("forgotten", 1, &[]);
    let client = crate::oracle::client(&brokers.bootstrap(), &[]);
    let append = |value: &str| {
        let (done, heard) = std::sync::mpsc::sync_channel(1);
        let mut records = Records::default();
        records.push(&TopicPartition::new(&*topic, 0), Record::of(b"k", Some(value.as_bytes())));
        client.append(records, Box::new(move |said| drop(done.send(said))));
        heard.recv().unwrap().unwrap()
    };
    for n in 0..3 {
        assert_eq!(append(&n.to_string()), n);
        let forgotten = || (brokers.producers(&topic, 0) == 0).then_some(());
        assert_eq!(brokers.committed(&topic).len() as u64, n + 1);
        Bell::default().until("Kafka forgets who is idle", forgotten);
    }
    let found = brokers.committed(&topic);
    assert!(found.iter().map(|r| r.text()).eq(["0", "1", "2"]));
}
