//! An account with the rights that docs/cluster.md lists and no others: they suffice, and what a
//! flow does while one of them is gone. And a quota that slows it down.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, mpsc::sync_channel},
    time::{Duration, Instant},
};

use millstream::{Error, Running, core::Code, prelude::*, runtime::node::FlowState, test::Folder};
use millstream_brokers::{Brokers, DEADLINE, Operation, Resource, Right, or_skip};
use millstream_kafka::{
    KafkaSink, KafkaSource,
    client::{Client, Record, Records, TopicPartition},
};

const APP: &str = "rights";
/// Far less than what the flow writes, at each broker, in bytes a second; and how much slower it
/// has to be for it.
const QUOTA: u32 = 4_000;
const SLOWED: Duration = Duration::from_secs(3);
const KEYS: u64 = 8;
/// Brokers, the node and all other tests share two cores.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Event {
    key: String,
    n: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    n: u64,
    count: u64,
}

impl Process for Counter {
    type In = Event;
    type Out = Counted;

    fn handle(&mut self, event: Event, ctx: &mut Context<Self>) -> Result<()> {
        self.count += 1;
        ctx.emit(Counted { n: event.n, count: self.count });
        Ok(())
    }
}

struct Scene<'a> {
    brokers: &'a Brokers,
    node: Running,
    /// Of who has all rights.
    client: Arc<dyn Client>,
    from: String,
    to: String,
    sent: u64,
}

/// What docs/cluster.md and docs/connectors.md list.
fn rights<'a>(from: &'a str, to: &'a str) -> Vec<Right<'a>> {
    use Operation as O;
    let ours = [O::CREATE, O::DESCRIBE, O::DESCRIBE_CONFIGS, O::READ, O::WRITE, O::DELETE];
    let ours = ours.map(|operation| (Resource::Topics("rights."), operation));
    let ids = [O::DESCRIBE, O::WRITE].map(|operation| (Resource::Ids("rights/"), operation));
    let own = [
        (Resource::Groups(APP), O::READ),
        (Resource::Topics(from), O::READ),
        (Resource::Topics(from), O::DESCRIBE_CONFIGS),
        (Resource::Topics(to), O::WRITE),
        (Resource::Topics(to), O::DESCRIBE_CONFIGS),
    ];
    ours.into_iter().chain(ids).chain(own).collect()
}

fn password(folder: &Folder) -> PathBuf {
    let file = folder.path().join("password");
    std::fs::write(&file, "alice-secret").unwrap();
    file
}

/// Where and how alice reaches the brokers.
fn as_alice(brokers: &Brokers, folder: &Folder) -> String {
    format!(
        "kafka://{}?ssl.ca.location={}&sasl.mechanism=PLAIN&sasl.username=alice&\
         sasl.password.file={}",
        brokers.secured(),
        brokers.certificate().display(),
        password(folder).display()
    )
}

impl<'a> Scene<'a> {
    /// Runs the flow on a node that comes by `address`, once `prepare` has seen its topics.
    fn start(brokers: &'a Brokers, address: &str, prepare: impl FnOnce(&str, &str)) -> Scene<'a> {
        let [from, to] = ["from", "to"].map(|name| brokers.topic(name, 2, &[]));
        prepare(&from, &to);
        let node = Node::kafka(address, APP, "a").unwrap().workers(1).signals(false);
        let client = node.kafka_client().unwrap();
        let flow = Flow::new("f")
            .partitions(2)
            .source("events", KafkaSource::json(client.clone(), &from).unwrap())
            .key_by("key")
            .process::<Counter>("counter", OnError::DeadLetter)
            .sink("out", KafkaSink::json(client, &to));
        let node = node.start().unwrap();
        node.deploy(&flow).unwrap();
        let past = Node::kafka(&format!("kafka://{}", brokers.bootstrap()), APP, "load").unwrap();
        Scene { brokers, node, client: past.kafka_client().unwrap(), from, to, sent: 0 }
    }

    fn send(&mut self, events: u64) {
        let mut records = Records::default();
        for n in self.sent..self.sent + events {
            let key = format!("k{}", n % KEYS);
            let event = serde_json::to_vec(&Event { key: key.clone(), n }).unwrap();
            let at = TopicPartition::new(&*self.from, (n % KEYS) as u32 % 2);
            records.push(&at, Record::of(key.as_bytes(), Some(&event)));
        }
        self.sent += events;
        // Bounded by 1: the one answer.
        let (done, acknowledged) = sync_channel(1);
        self.client.append(records, Box::new(move |result| drop(done.send(result))));
        acknowledged.recv_timeout(DEADLINE).unwrap().unwrap();
    }

    /// All that was sent has come out, once and in the order of its key, and nothing is amiss.
    fn verdict(&self) {
        let found = until("all that was sent has come out", || {
            let found = self.brokers.committed(&self.to);
            let there = found.len() as u64 >= self.sent;
            if there { Ok(found) } else { Err((found.len(), self.sent, self.error())) }
        });
        let mut counted: Vec<Counted> =
            found.iter().map(|r| serde_json::from_str(r.text()).unwrap()).collect();
        counted.sort_by_key(|counted| counted.n);
        let expected = (0..self.sent).map(|n| Counted { n, count: n / KEYS + 1 });
        assert!(counted.into_iter().eq(expected), "{} rows", self.sent);
        until("it says that all is well", || self.error().map_or(Ok(()), Err));
        assert_eq!(self.node.heart().flow("f"), Some(FlowState::Running));
    }

    /// How often the counting tasks were opened, and how many of these openings have come to
    /// nothing that is known of.
    fn openings(&self) -> (usize, usize) {
        let (mut made, mut left) = (0, BTreeSet::new());
        for record in self.brokers.committed("rights.state.f.counter") {
            // See engine/codec.rs.
            let key = record.key.filter(|key| key[0] == 1);
            match (key, record.value) {
                (Some(key), Some(_)) => {
                    made += 1;
                    left.insert(key);
                }
                (Some(key), None) => drop(left.remove(&key)),
                (None, _) => {}
            }
        }
        (made, left.len())
    }

    fn error(&self) -> Option<Error> {
        self.node.engine().health().error
    }

    /// What the node says while a right is gone, with rows all the time.
    fn without(&mut self, right: &Right<'_>) -> Error {
        self.brokers.forbid(right);
        let said = until(&format!("it says that {right:?} is gone"), || {
            self.send(KEYS);
            let error = self.error();
            error.clone().filter(|error| error.code() == Code::Permission).ok_or(error)
        });
        self.brokers.allow(right);
        said
    }
}

/// Looks until there is something.
fn until<T, N: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<T, N>) -> T {
    let begun = Instant::now(); // Clock: a test that hangs is to end.
    loop {
        match look() {
            Ok(found) => return found,
            Err(not) => assert!(begun.elapsed() < PATIENCE, "not {what}: {not:#?}"),
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn a_flow_says_which_right_it_lacks_and_goes_on_when_it_has_it() {
    let brokers = or_skip!(Brokers::start_guarded());
    let folder = Folder::new("rights");
    let allow = |from: &str, to: &str| {
        rights(from, to).iter().for_each(|right| brokers.allow(right));
    };
    let mut scene = Scene::start(&brokers, &as_alice(&brokers, &folder), allow);
    scene.send(KEYS);
    scene.verdict();
    let (from, to) = (scene.from.clone(), scene.to.clone());
    let cases = [
        ((Resource::Ids("rights/"), Operation::WRITE), "rights/"),
        ((Resource::Topics(&to), Operation::WRITE), &*to),
        ((Resource::Topics("rights."), Operation::WRITE), "rights."),
        ((Resource::Topics(&from), Operation::READ), &*from),
        ((Resource::Topics("rights."), Operation::READ), "rights."),
        ((Resource::Topics("rights."), Operation::DELETE), "rights."),
    ];
    for (right, named) in cases {
        let begun = Instant::now(); // Clock: shown to people.
        let said = scene.without(&right).to_string();
        println!("{right:?}, after {:?}: {said}", begun.elapsed());
        assert!(said.contains(named), "{right:?}: {said}");
        scene.verdict();
        println!("all is well after {:?}", begun.elapsed());
    }
    // However long it lasts: a task that was opened and denied something has met no crash.
    let ((before, _), right) = (scene.openings(), (Resource::Topics(&to), Operation::WRITE));
    scene.brokers.forbid(&right);
    let left = until("both tasks were opened some times", || {
        scene.send(KEYS);
        let (made, left) = scene.openings();
        if made >= before + 6 { Ok(left) } else { Err((before, made)) }
    });
    assert!(left <= 4, "{left} openings of two tasks look like crashes");
    scene.brokers.allow(&right);
    scene.verdict();
}

#[test]
fn a_quota_slows_a_flow_down_and_does_no_more() {
    let brokers = or_skip!(Brokers::start());
    let address = format!("kafka://{}", brokers.bootstrap());
    let mut scene = Scene::start(&brokers, &address, |_, _| ());
    let mut takes = || {
        let begun = Instant::now(); // Clock: that is what a quota is about.
        for _ in 0..20 {
            scene.send(20 * KEYS);
        }
        scene.verdict();
        begun.elapsed()
    };
    takes();
    let before = takes();
    brokers.throttle(Some(QUOTA));
    let with = takes();
    brokers.throttle(None);
    let after = takes();
    println!("{before:?} without a quota, {with:?} with it, {after:?} again without");
    assert!(with > before + SLOWED, "{before:?} without a quota, {with:?} with it");
}
