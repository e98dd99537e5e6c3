//! An event whose handler ends the process (an abort), on three nodes and real brokers: each death
//! moves its task to another node, and the event must not end node after node for ever.
//!
//! Nodes are this test's own program, started with [`ROLE`] set, and started again whenever they
//! die, as a service manager does.
//!
//! *What must hold:* a few deaths, then the event is set aside, by name; every other one is handled
//! once, also by a step behind it that tells time on. It is judged by Kafka's own client.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, mpsc::sync_channel},
    time::{Duration, Instant},
};

use millstream::{Error, Target, core::engine::ClusterView, io::view::LetterView, prelude::*};
use millstream_brokers::{Brokers, DEADLINE, or_skip};
use millstream_kafka::{
    KafkaSink, KafkaSource,
    client::{Client, Record, Records, TopicPartition},
};

const ROLE: &str = "MILLSTREAM_DEADLY_NODE";
/// Begins the line in which a node says where it listens.
const LISTENS: &str = "node: ";
const APP: &str = "deadly";
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Of the input; a task reads each.
const PARTITIONS: u32 = 4;
/// Of both keyed steps.
const KEYED: u32 = 6;
/// Those of the input and of both keyed steps.
const TASKS: usize = (PARTITIONS + 2 * KEYED) as usize;
const KEYS: u64 = 60;
const EVENTS: u64 = 3_000;
/// It ends whoever handles it.
const DEADLY: u64 = 1_700;
/// Of a node that comes to it unprepared, one in whose first turn it is, one that tries its block,
/// and three that try it alone; one more if the first turn has not all that waits.
const DEATHS_MAX: usize = 7;
const SIGABRT: i32 = 6;
/// Brokers, three nodes and all other tests share two cores.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize, Deserialize)]
struct Event {
    key: String,
    n: u64,
    at: i64,
}

/// Counts what it is sent.
#[derive(Default, Serialize, Deserialize)]
struct First {
    count: u64,
}

/// So does it, behind a step of the watermark.
#[derive(Default, Serialize, Deserialize)]
struct Second {
    count: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    key: String,
    n: u64,
    first: u64,
    second: u64,
}

impl Process for First {
    type In = Event;
    type Out = Counted;

    fn handle(&mut self, event: Event, ctx: &mut Context<Self>) -> Result<()> {
        if event.n == DEADLY {
            std::process::abort();
        }
        self.count += 1;
        ctx.emit(Counted { key: event.key, n: event.n, first: self.count, second: 0 });
        Ok(())
    }
}

impl Process for Second {
    type In = Counted;
    type Out = Counted;

    fn handle(&mut self, counted: Counted, ctx: &mut Context<Self>) -> Result<()> {
        self.count += 1;
        ctx.emit(Counted { second: self.count, ..counted });
        Ok(())
    }
}

fn flow(client: Arc<dyn Client>, from: &str, to: &str) -> Flow {
    Flow::new("f")
        .partitions(KEYED)
        .source("events", KafkaSource::json(client.clone(), from).unwrap())
        .event_time("at", Duration::ZERO)
        .key_by("key")
        .process::<First>("first", OnError::DeadLetter)
        .key_by("key")
        .process::<Second>("second", OnError::DeadLetter)
        .sink("out", KafkaSink::json(client, to).key(["key"]).exactly_once(to))
}

/// A node's life, in its own process: until its heart closes the pipe.
#[test]
fn the_node_itself() {
    let Ok(told) = std::env::var(ROLE) else { return };
    let told: Vec<&str> = told.split(' ').collect();
    let [name, bootstrap, from, to] = told[..] else { panic!("{told:?}") };
    let node = Node::kafka(&format!("kafka://{bootstrap}"), APP, name).unwrap();
    let flow = flow(node.kafka_client().unwrap(), from, to);
    let node = node.http(":0").workers(1).signals(false).start().unwrap();
    node.deploy(&flow).unwrap();
    println!("{LISTENS}{}", node.http().unwrap());
    let _ = std::io::stdin().lines().count();
    node.stop();
}

/// A node, and where it listens.
struct Mortal {
    process: Child,
    _said: BufReader<ChildStdout>,
    address: String,
}

impl Mortal {
    fn start(told: &str) -> Mortal {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_node_itself", "--nocapture"])
            .env(ROLE, told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let mut lines = said.by_ref().lines().map(Result::unwrap);
        // The test's own name may stand before it.
        let address = lines.find_map(|line| Some(line.split_once(LISTENS)?.1.to_string()));
        Mortal { process, address: address.expect("a node that listens"), _said: said }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        // Also one that has died.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Scene<'a> {
    brokers: &'a Brokers,
    client: Arc<dyn Client>,
    nodes: [Mortal; 3],
    /// When nodes have died.
    deaths: Vec<Instant>,
    from: String,
    to: String,
    sent: u64,
}

fn key(n: u64) -> String {
    format!("k{}", n % KEYS)
}

fn told(brokers: &Brokers, name: &str, from: &str, to: &str) -> String {
    format!("{name} {} {from} {to}", brokers.bootstrap())
}

impl<'a> Scene<'a> {
    fn start(brokers: &'a Brokers) -> Scene<'a> {
        let from = brokers.topic("deadly-from", PARTITIONS, &[]);
        let to = brokers.topic("deadly-to", 2, &[]);
        let nodes = NAMES.map(|name| Mortal::start(&told(brokers, name, &from, &to)));
        let past = Node::kafka(&format!("kafka://{}", brokers.bootstrap()), APP, "load").unwrap();
        let client = past.kafka_client().unwrap();
        Scene { brokers, client, nodes, deaths: Vec::new(), from, to, sent: 0 }
    }

    /// Starts again who has died, and looks until there is something.
    fn until<T, N: std::fmt::Debug>(
        &mut self,
        what: &str,
        look: impl Fn(&Scene<'_>) -> Result<T, N>,
    ) -> T {
        let begun = Instant::now(); // Clock: a test that hangs is to end.
        loop {
            for (name, node) in NAMES.iter().zip(&mut self.nodes) {
                let Some(status) = node.process.try_wait().unwrap() else { continue };
                assert_eq!(status.signal(), Some(SIGABRT), "node {name} has ended: {status}");
                self.deaths.push(Instant::now()); // Clock: shown to people.
                *node = Mortal::start(&told(self.brokers, name, &self.from, &self.to));
            }
            match look(self) {
                Ok(found) => return found,
                Err(not) => {
                    let deaths = self.deaths.len();
                    assert!(begun.elapsed() < PATIENCE, "{deaths} deaths; not {what}: {not:#?}");
                }
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Appends the next events; back when they are acknowledged.
    fn send(&mut self, events: u64) {
        let mut records = Records::default();
        for n in self.sent..self.sent + events {
            let event = serde_json::to_vec(&Event { key: key(n), n, at: n as i64 }).unwrap();
            let at = TopicPartition::new(&*self.from, (n % KEYS) as u32 % PARTITIONS);
            records.push(&at, Record::of(key(n).as_bytes(), Some(&event)));
        }
        self.sent += events;
        // Bounded by 1: the one answer.
        let (done, acknowledged) = sync_channel(1);
        self.client.append(records, Box::new(move |result| drop(done.send(result))));
        acknowledged.recv_timeout(DEADLINE).unwrap().unwrap();
    }

    /// The answer of a node that answers.
    fn asked<T>(&self, ask: impl Fn(&Target) -> Result<T, Error>) -> Option<T> {
        let target = |node: &Mortal| Target::find(Some(&node.address), None).unwrap();
        self.nodes.iter().find_map(|node| ask(&target(node)).ok())
    }

    /// Three nodes share the tasks, and each task is followed.
    fn is_settled(&self) -> Result<(), Option<ClusterView>> {
        let Some(view) = self.asked(Target::cluster) else { return Err(None) };
        let of = |name: &&str| {
            let own = |t: &&_| is_open(t) && t.owner == *name;
            view.tasks.iter().filter(own).count()
        };
        let fair = |n: usize| (TASKS / 3 - 1..=TASKS.div_ceil(3) + 1).contains(&n);
        let shares: Vec<usize> = NAMES.iter().map(of).collect();
        match shares.iter().sum::<usize>() == TASKS && shares.into_iter().all(fair) {
            true => Ok(()),
            false => Err(Some(view)),
        }
    }

    /// All that was sent has come out, but for `set_aside`.
    fn is_answered(&self, set_aside: u64) -> Result<(), (u64, u64)> {
        let found = self.brokers.committed(&self.to).len() as u64;
        if found + set_aside >= self.sent { Ok(()) } else { Err((found, self.sent)) }
    }

    /// What came out is what a plain loop makes of what was sent, without the deadly one.
    fn verdict(&self) {
        let mut found: BTreeMap<String, Vec<Counted>> = BTreeMap::new();
        for record in self.brokers.committed(&self.to) {
            let counted: Counted = serde_json::from_str(record.text()).unwrap();
            found.entry(counted.key.clone()).or_default().push(counted);
        }
        let mut expected: BTreeMap<String, Vec<Counted>> = BTreeMap::new();
        for n in (0..self.sent).filter(|n| *n != DEADLY) {
            let all = expected.entry(key(n)).or_default();
            let nth = all.len() as u64 + 1;
            all.push(Counted { key: key(n), n, first: nth, second: nth });
        }
        assert_eq!(found, expected);
    }

    /// Where the deadly event lies.
    fn place(&self) -> String {
        let records = self.brokers.committed(&self.from);
        let is_deadly = |text: &str| serde_json::from_str::<Event>(text).unwrap().n == DEADLY;
        let record = records.iter().find(|r| is_deadly(r.text())).unwrap();
        format!("topic {}, partition {}, offset {}", self.from, record.partition, record.offset)
    }

    fn letters(&self) -> Vec<LetterView> {
        self.asked(|target| target.dead(Some("f"), None, 100)).unwrap_or_default()
    }
}

fn is_open(task: &millstream::core::engine::TaskView) -> bool {
    task.open && task.standbys.len() == 1
}

#[test]
fn a_deadly_event_costs_a_cluster_a_few_deaths_and_itself() {
    let brokers = or_skip!(Brokers::shared());
    let mut scene = Scene::start(brokers);
    scene.send(KEYS);
    scene.until("three nodes share the tasks", |s| s.is_settled());
    scene.until("all that was sent has come out", |s| s.is_answered(0));

    scene.send(EVENTS - KEYS);
    let begun = Instant::now(); // Clock: shown to people.
    scene.until("the event is set aside", |s| {
        let letters = s.letters();
        if letters.is_empty() { Err(letters) } else { Ok(()) }
    });
    let aside = begun.elapsed().as_secs_f64();
    scene.until("all that was sent has come out", |s| s.is_answered(1));
    let out = begun.elapsed().as_secs_f64();
    let deaths: Vec<String> =
        scene.deaths.iter().map(|d| format!("{:.1}", (*d - begun).as_secs_f64())).collect();
    println!("{} deaths, after {} s", deaths.len(), deaths.join(", "));
    println!("set aside after {aside:.1} s, all out after {out:.1} s");

    // It is over: nodes stay, and what comes is handled.
    scene.send(KEYS);
    scene.until("three nodes share the tasks", |s| s.is_settled());
    scene.until("all that was sent has come out", |s| s.is_answered(1));
    scene.verdict();
    let letters = scene.letters();
    let place = scene.place();
    let said: Vec<_> =
        letters.iter().map(|l| [&*l.operator, &*l.trigger, &*l.key, &*l.file]).collect();
    assert_eq!(said, [["first", "suspect", &*key(DEADLY), &*place]]);
    assert!((2..=DEATHS_MAX).contains(&scene.deaths.len()), "{} deaths", scene.deaths.len());
}
