//! Nodes that disagree about who is there, on real brokers: a node does not hear the others any
//! more, nor itself, and works on.
//!
//! *How it is made:* nothing that a node asks the broker for which leads the members topic comes
//! back to it as long as the way is held; all it writes, and all it reads from other brokers, goes
//! through. So its heartbeats stop, and it learns nothing of what the others make of it. Its view
//! is old and it knows no death, least of all its own.
//!
//! *What must hold:* a split costs one fencing for each task of that node, and none of another's:
//! a task whose owner lives is moved by its owner alone, and who was fenced claims nothing before
//! its claim has come back to it. Every row comes out in time, also while the split lasts; the rows
//! are those of a plain loop, in the order of their keys. It is judged by Kafka's own client, from
//! Kafka's times.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc::sync_channel},
    time::{Duration, Instant},
};

use millstream::{
    Running, Target,
    core::engine::{ClusterView, NodeState, TaskView},
    prelude::*,
};
use millstream_brokers::{Api, Brokers, DEADLINE, Held, or_skip};
use millstream_kafka::{
    KafkaSink, KafkaSource,
    client::{Client, Record, Records, TopicPartition},
};

const APP: &str = "split";
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Of the input; a task reads each.
const PARTITIONS: u32 = 4;
/// Those, and the keyed ones.
const TASKS: usize = PARTITIONS as usize + 10;
const KEYS: u64 = 40;
/// Brokers, three nodes and all other tests share two cores.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a row may take at most, a split included: a node that others know to commit is given
/// 10 s, then a death and a takeover.
const ROW_MAX: Duration = Duration::from_secs(40);

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
    key: String,
    n: u64,
    count: u64,
}

impl Process for Counter {
    type In = Event;
    type Out = Counted;

    fn handle(&mut self, event: Event, ctx: &mut Context<Self>) -> Result<()> {
        self.count += 1;
        ctx.emit(Counted { key: event.key, n: event.n, count: self.count });
        Ok(())
    }
}

struct Scene<'a> {
    brokers: &'a Brokers,
    own: [millstream_brokers::Node<'a>; 3],
    nodes: Vec<Running>,
    client: Arc<dyn Client>,
    from: String,
    to: String,
    sent: u64,
}

fn key(n: u64) -> String {
    format!("k{}", n % KEYS)
}

impl<'a> Scene<'a> {
    fn start(brokers: &'a Brokers) -> Scene<'a> {
        let own: [_; 3] = brokers.nodes();
        let appended = [("message.timestamp.type", "LogAppendTime")];
        let from = brokers.topic("split-from", PARTITIONS, &appended);
        let to = brokers.topic("split-to", 2, &appended);
        let mut nodes = Vec::new();
        for (name, links) in NAMES.iter().zip(&own) {
            let address = format!("kafka://{}", links.bootstrap());
            let node = Node::kafka(&address, APP, name).unwrap().http(":0").workers(1);
            let client = node.kafka_client().unwrap();
            let flow = Flow::new("f")
                .partitions(10)
                .source("events", KafkaSource::json(client.clone(), &from).unwrap())
                .key_by("key")
                .process::<Counter>("counter", OnError::DeadLetter)
                .sink("out", KafkaSink::json(client, &to).key(["key"]).exactly_once(&to));
            let node = node.signals(false).start().unwrap();
            node.deploy(&flow).unwrap();
            nodes.push(node);
        }
        let past = Node::kafka(&format!("kafka://{}", brokers.bootstrap()), APP, "load").unwrap();
        let client = past.kafka_client().unwrap();
        Scene { brokers, own, nodes, client, from, to, sent: 0 }
    }

    /// Appends the next events; back when they are acknowledged.
    fn send(&mut self, events: u64) {
        if events == 0 {
            return;
        }
        let mut records = Records::default();
        for n in self.sent..self.sent + events {
            let event = serde_json::to_vec(&Event { key: key(n), n }).unwrap();
            let at = TopicPartition::new(&*self.from, (n % KEYS) as u32 % PARTITIONS);
            records.push(&at, Record::of(key(n).as_bytes(), Some(&event)));
        }
        self.sent += events;
        // Bounded by 1: the one answer.
        let (done, acknowledged) = sync_channel(1);
        self.client.append(records, Box::new(move |result| drop(done.send(result))));
        acknowledged.recv_timeout(DEADLINE).unwrap().unwrap();
    }

    /// The cluster as a node shows it.
    fn view(&self, node: usize) -> ClusterView {
        let address = self.nodes[node].http().unwrap().to_string();
        Target::find(Some(&address), None).unwrap().cluster().unwrap()
    }

    /// From now on a node hears nothing of what the broker has that leads the members topic.
    fn deafen(&self, node: usize) -> Held {
        let leader = self.brokers.leader(&format!("{APP}.members"), 0);
        self.own[node].to(leader.into()).hold(Api::FETCH, u32::MAX)
    }

    /// All is as it should be: three nodes share the tasks, and each is followed.
    fn settled(&self) -> ClusterView {
        let of = |view: &ClusterView, name: &str| {
            view.tasks.iter().filter(|t| t.owner == name && t.open && t.standbys.len() == 1).count()
        };
        let fair = |n: usize| (TASKS / 3 - 1..=TASKS.div_ceil(3) + 1).contains(&n);
        until("three nodes share the tasks", || {
            let view = self.view(1);
            let shares = NAMES.map(|name| of(&view, name));
            let settled = shares.iter().sum::<usize>() == TASKS && shares.into_iter().all(fair);
            if settled { Ok(view) } else { Err(view) }
        })
    }

    /// All that was sent has come out.
    fn answered(&self) {
        until("all that was sent has come out", || {
            let found = self.brokers.committed(&self.to).len() as u64;
            if found >= self.sent { Ok(()) } else { Err((found, self.sent)) }
        });
    }

    /// How often each task was opened, and by whom last: what fences whoever had it before.
    fn openings(&self) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for stage in ["events", "counter"] {
            for record in self.brokers.committed(&format!("{APP}.state.f.{stage}")) {
                // See engine/codec.rs.
                if let (Some([1, ..]), Some(node)) = (record.key.as_deref(), record.value) {
                    let by = String::from_utf8(node).unwrap();
                    found.entry(format!("f/{stage}/{}", record.partition)).or_default().push(by);
                }
            }
        }
        found
    }

    /// What came out is what a plain loop makes of what was sent, and came in time.
    fn verdict(&self) {
        let sent: BTreeMap<u64, i64> = self
            .brokers
            .committed(&self.from)
            .iter()
            .map(|r| (serde_json::from_str::<Event>(r.text()).unwrap().n, r.timestamp_ms))
            .collect();
        assert!(sent.keys().copied().eq(0..self.sent));
        let mut by_key: BTreeMap<String, Vec<Counted>> = BTreeMap::new();
        let mut took = Vec::new();
        for record in self.brokers.committed(&self.to) {
            let counted: Counted = serde_json::from_str(record.text()).unwrap();
            took.push(record.timestamp_ms - sent[&counted.n]);
            by_key.entry(counted.key.clone()).or_default().push(counted);
        }
        let mut expected: BTreeMap<String, Vec<Counted>> = BTreeMap::new();
        for n in 0..self.sent {
            let all = expected.entry(key(n)).or_default();
            all.push(Counted { key: key(n), n, count: all.len() as u64 + 1 });
        }
        assert_eq!(by_key, expected);
        took.sort_unstable();
        let (half, most) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{} rows took {half} ms, the slowest {most} ms", took.len());
        assert!(most < ROW_MAX.as_millis() as i64, "a row took {most} ms");
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
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn state(view: &ClusterView, name: &str) -> NodeState {
    view.nodes.iter().find(|n| n.name == name).unwrap().state
}

fn names<'a>(tasks: impl Iterator<Item = &'a TaskView>) -> BTreeSet<String> {
    tasks.map(|t| t.name.clone()).collect()
}

/// Tasks that run at another node than this one.
fn elsewhere(view: &ClusterView, name: &str) -> BTreeSet<String> {
    let runs = |t: &&TaskView| t.open && !t.owner.is_empty() && t.owner != name;
    names(view.tasks.iter().filter(runs))
}

#[test]
fn a_node_that_hears_nothing_and_works_on_costs_work_and_no_row() {
    let brokers = or_skip!(Brokers::shared());
    let mut scene = Scene::start(brokers);
    scene.send(KEYS);
    scene.settled();
    scene.answered();

    let (name, witness) = (NAMES[0], 1);
    // With rows all the time it commits, and who sees that lets it be for a while; with none it is
    // declared dead first and gets to work then.
    for busy in [true, false] {
        let before = scene.settled();
        let had = names(before.tasks.iter().filter(|t| t.owner == name));
        let opened = scene.openings();
        let deaf = scene.deafen(0);
        let begun = Instant::now(); // Clock: shown to people.
        until("a silent node is declared dead", || {
            scene.send(if busy { 10 } else { 0 });
            let view = scene.view(witness);
            if state(&view, name) == NodeState::Dead { Ok(()) } else { Err(view) }
        });
        let dead = begun.elapsed();
        scene.send(5 * KEYS);
        let own = scene.view(0);
        assert_eq!(state(&own, name), NodeState::Active, "it has heard of its death: {own:#?}");
        until("its tasks run elsewhere", || {
            scene.send(if busy { 10 } else { 0 });
            let view = scene.view(witness);
            if had.is_subset(&elsewhere(&view, name)) { Ok(()) } else { Err(view) }
        });
        let (dead, replaced) = (dead.as_secs_f64(), begun.elapsed().as_secs_f64());
        println!("busy: {busy}; dead after {dead:.1} s, replaced after {replaced:.1} s");
        scene.send(KEYS);
        scene.answered();
        let mut taken = BTreeSet::new();
        for (task, by) in scene.openings() {
            let new = &by[opened.get(&task).map_or(0, Vec::len)..];
            assert!(new.len() <= 1, "busy: {busy}; {task} was opened by {new:?}");
            assert!(new.iter().all(|by| by != name), "busy: {busy}; {task} by {new:?}");
            taken.extend(new.first().map(|_| task));
        }
        assert_eq!(taken, had, "busy: {busy}; what was taken over is what {name} had");
        deaf.release(DEADLINE);
        scene.own[0].heal();
    }
    scene.settled();
    scene.send(KEYS);
    scene.answered();
    scene.verdict();
}
