//! What people see of a cluster and ask of it: three nodes on real brokers.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream::{
    Error, Target,
    core::{
        Code,
        engine::{ClusterView, NodeState},
    },
    io::{Paced, http::Client},
    prelude::*,
};
use millstream_brokers::{Brokers, or_skip};
use millstream_kafka::KafkaSink;

/// Sources and keyed tasks; the sink has none.
const TASKS: u64 = 4 + 12;
const ROWS: u64 = 2_000;
/// Brokers, three nodes and all other tests share two cores.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize, Deserialize)]
struct Reading {
    machine: u64,
    n: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Machine {
    readings: u64,
}

#[derive(Serialize, Deserialize)]
struct Counted {
    n: u64,
    nth: u64,
}

impl Process for Machine {
    type In = Reading;
    type Out = Counted;

    fn handle(&mut self, reading: Reading, ctx: &mut Context<Self>) -> Result<()> {
        self.readings += 1;
        ctx.emit(Counted { n: reading.n, nth: self.readings });
        Ok(())
    }
}

fn node(brokers: &Brokers, app: &str, name: &str) -> Node {
    let address = format!("kafka://{}", brokers.bootstrap());
    Node::kafka(&address, app, name).unwrap().http(":0").workers(1).signals(false)
}

/// Twenty seconds of 100 rows each: some before all that happens, some after it.
fn flow(node: &Node, topic: &str) -> Flow {
    let readings =
        Generator::from_fn(1, ROWS / 4, 4, |n, _| serde_json::json!({ "machine": n % 20, "n": n }));
    let client = node.kafka_client().unwrap();
    Flow::new("machines")
        .partitions(12)
        .source("readings", Paced::new(readings, 25))
        .key_by("machine")
        .process::<Machine>("machine", OnError::DeadLetter)
        .sink("counted", KafkaSink::json(client, topic).exactly_once(topic))
}

/// A program that does nothing but run the flow.
fn program(brokers: &Brokers, app: &str, name: &str, topic: &str) -> JoinHandle<Result<(), Error>> {
    let node = node(brokers, app, name);
    let flow = flow(&node, topic);
    std::thread::spawn(move || node.run(flow))
}

/// The cluster as a node shows it, once something is true of it.
fn until(asked: &Target, what: &str, is: impl Fn(&ClusterView) -> bool) -> ClusterView {
    let begun = Instant::now(); // Clock: a test that hangs is to end.
    loop {
        let view = asked.cluster().unwrap();
        if is(&view) {
            return view;
        }
        assert!(begun.elapsed() < PATIENCE, "not {what}: {view:#?}");
        std::thread::yield_now();
    }
}

fn shares(view: &ClusterView) -> Vec<u64> {
    view.nodes.iter().filter(|n| n.state == NodeState::Active).map(|n| n.tasks).collect()
}

fn balanced(view: &ClusterView, nodes: u64) -> bool {
    let fair = |n: &u64| (TASKS / nodes..=TASKS.div_ceil(nodes)).contains(n);
    let followed = |t: &millstream::core::engine::TaskView| t.open && t.standbys.len() == 1;
    let shares = shares(view);
    shares.len() as u64 == nodes
        && shares.iter().sum::<u64>() == TASKS
        && shares.iter().all(fair)
        && (nodes == 1 || view.tasks.iter().all(followed))
}

#[test]
fn three_nodes_share_the_work_and_one_hands_it_over() {
    let brokers = or_skip!(Brokers::shared());
    let app = "people";
    let topic = brokers.topic("people-counted", 2, &[]);
    let a = node(brokers, app, "a");
    let rows = flow(&a, &topic);
    let a = a.start().unwrap();
    a.deploy(&rows).unwrap();
    let [b, c] = ["b", "c"].map(|name| program(brokers, app, name, &topic));
    let address = a.http().unwrap().to_string();
    let asked = Target::find(Some(&address), None).unwrap();

    let view = until(&asked, "balanced on three", |v| balanced(v, 3));
    assert_eq!((&*view.app, &*view.node, &*view.hold), (app, "a", ""));
    assert_eq!(view.nodes[0].address, address);
    // Where another one listens was told after the system had chosen its port; it knows the same.
    let of_b = Target::find(Some(&view.nodes[1].address), None).unwrap();
    until(&of_b, "the same elsewhere", |v| v.node == "b" && balanced(v, 3));

    let e = asked.drain("d").unwrap_err();
    assert_eq!((e.code(), e.message()), (Code::Unknown, "application people has no node `d`"));
    let wrong = Client::new(&address).post::<ClusterView>("/v1/cluster/drain?node=b");
    assert_eq!(wrong.unwrap_err().code(), Code::Conflict);

    let drained = asked.drain("b").unwrap();
    assert_eq!(drained.to.values().sum::<u64>(), view.nodes[1].tasks);
    assert!(drained.to.keys().eq(["a", "c"]), "{drained:?}");
    b.join().unwrap().unwrap();
    let view = until(&asked, "balanced on two", |v| balanced(v, 2));
    assert_eq!(view.nodes[1].state, NodeState::Left);
    assert!(view.tasks.iter().all(|t| t.takeover.is_none()), "nobody died: {view:#?}");

    // The other way round: who is asked is the one that leaves.
    let of_c = Target::find(Some(&view.nodes[2].address), None).unwrap();
    assert_eq!(of_c.drain("c").unwrap().to.into_keys().collect::<Vec<_>>(), ["a"]);
    c.join().unwrap().unwrap();
    let e = asked.drain("a").unwrap_err();
    assert_eq!(e.code(), Code::Conflict, "{e}");

    let begun = Instant::now(); // Clock: a test that hangs is to end.
    let rows = loop {
        let rows = brokers.committed(&topic);
        if rows.len() as u64 >= ROWS || begun.elapsed() > PATIENCE {
            break rows;
        }
    };
    let found: Vec<Counted> =
        rows.iter().map(|r| serde_json::from_str(r.text()).unwrap()).collect();
    assert_eq!(found.len() as u64, ROWS);
    let found: BTreeSet<(u64, u64)> = found.iter().map(|c| (c.n, c.nth)).collect();
    // Nothing lost, nothing twice, and each machine has remembered what it had seen.
    assert!(found.into_iter().eq((0..ROWS).map(|n| (n, n / 20 + 1))));
    a.stop();
}

#[test]
fn of_two_programs_with_one_name_the_first_ends_and_says_why() {
    let brokers = or_skip!(Brokers::shared());
    let topic = brokers.topic("name-counted", 2, &[]);
    let first = program(brokers, "name", "a", &topic);
    let b = node(brokers, "name", "b").start().unwrap();
    let asked = Target::find(Some(&b.http().unwrap().to_string()), None).unwrap();
    let here = |v: &ClusterView| v.nodes.iter().any(|n| n.name == "a" && n.state.is_alive());
    until(&asked, "a is here", here);
    let second = node(brokers, "name", "a").start().unwrap();
    let e = first.join().unwrap().unwrap_err();
    assert_eq!(e.code(), Code::InUse);
    let expected = "another program has joined the application as node `a`; this one ends";
    assert_eq!(e.message(), expected);
    assert!(second.engine().left().is_none() && b.engine().left().is_none());
}
