//! Nodes in processes of their own, each on its own way to the brokers.

use std::{
    io::{BufRead, BufReader, Read},
    process::Child,
    sync::atomic::{AtomicU64, Ordering},
};

use millstream::prelude::*;
use millstream_brokers::{Brokers, Links};
use millstream_kafka::{
    KafkaSink, KafkaSource, Options,
    client::{Client, rd::RdClient},
};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::{machine, node, report};

/// How many nodes share the work.
pub const NODES: usize = 3;
/// The application, and the flow.
pub const APP: &str = "bench";

/// A node: counts events per key, topic to topic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    pub servers: String,
    pub name: String,
    pub from: String,
    pub to: String,
    /// `None`: the product's own number.
    pub tasks: Option<u32>,
    /// Read by the topic's own partitions, without an exchange.
    pub keyed: bool,
    /// How long the handler waits with each event, in ms.
    pub wait_ms: u64,
}

impl Part {
    /// What all nodes share; [`Nodes`] adds who each is and how it reaches the brokers.
    pub fn between(from: &str, to: &str, tasks: Option<u32>) -> Part {
        let (servers, name, keyed, wait_ms) = Default::default();
        Part { servers, name, from: from.into(), to: to.into(), tasks, keyed, wait_ms }
    }
}

/// An event of a key; no two have the same number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Event {
    pub n: u64,
    /// Bytes to keep.
    pub keep: u32,
}

/// What becomes of it: how many events its key had with this one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Counted {
    pub key: String,
    pub n: u64,
    pub count: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u64,
    kept: String,
}

impl Process for Counter {
    type In = Event;
    type Out = Counted;

    fn handle(&mut self, e: Event, ctx: &mut Context<Self>) -> Result<()> {
        match WAIT_MS.load(Ordering::Relaxed) {
            0 => {}
            ms => std::thread::sleep(std::time::Duration::from_millis(ms)),
        }
        self.count += 1;
        if self.kept.len() < e.keep as usize {
            self.kept = "k".repeat(e.keep as usize);
        }
        let key = ctx.key().into_owned();
        ctx.emit(Counted { key, n: e.n, count: self.count });
        Ok(())
    }
}

/// For how many ms [`Counter`] waits: a process has nothing but what its key has given it.
static WAIT_MS: AtomicU64 = AtomicU64::new(0);

/// Runs the node until it is killed, or its stdin ends.
pub fn part(part: &Part) -> report::Result<()> {
    WAIT_MS.store(part.wait_ms, Ordering::Relaxed);
    let address = format!("kafka://{}", part.servers);
    let properties = Options::parse(&address, [])?.properties()?;
    let client: std::sync::Arc<dyn Client> = RdClient::connect(properties, APP)?;
    let mut flow = Flow::new(APP);
    if let Some(tasks) = part.tasks {
        flow = flow.partitions(tasks);
    }
    let events = KafkaSource::json(client.clone(), &part.from)?;
    let flow = flow
        .source("events", if part.keyed { events.keyed("key") } else { events })
        .key_by("key")
        .process::<Counter>("counter", OnError::DeadLetter)
        .sink("out", KafkaSink::json(client, &part.to).key(["key"]).exactly_once(APP));
    let running = node::start(Node::kafka(&address, APP, &part.name)?, &flow)?;
    println!("runs");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    running.stop();
    Ok(())
}

/// Some nodes; they are killed when this is dropped.
pub struct Nodes {
    links: Vec<Links>,
    running: Vec<Option<Child>>,
    part: Part,
}

impl Nodes {
    /// Starts all. `links` are their ways to the brokers.
    pub fn start(links: Vec<Links>, part: Part) -> report::Result<Nodes> {
        let running = links.iter().map(|_| None).collect();
        let mut nodes = Nodes { links, running, part };
        (0..nodes.links.len()).try_for_each(|n| nodes.start_again(n))?;
        Ok(nodes)
    }

    /// Starts one that reaches the brokers without the proxy, for measuring speed.
    pub fn past_the_proxy(servers: String, part: Part) -> report::Result<Nodes> {
        let mut nodes = Nodes { links: Vec::new(), running: Vec::new(), part };
        nodes.add(servers)?;
        Ok(nodes)
    }

    /// Starts another one that reaches the brokers without the proxy.
    pub fn add(&mut self, servers: String) -> report::Result<()> {
        self.running.push(None);
        self.start_at(self.running.len() - 1, servers)
    }

    /// The way of node `n` to the brokers.
    pub fn links(&self, n: usize) -> &Links {
        &self.links[n]
    }

    /// Starts node `n`, which does not run; back when it has said that it does.
    pub fn start_again(&mut self, n: usize) -> report::Result<()> {
        self.start_at(n, self.links[n].bootstrap())
    }

    /// Starts node `n`, which does not run, with another way to the brokers.
    pub fn start_at(&mut self, n: usize, servers: String) -> report::Result<()> {
        let part = Part { servers, name: format!("node-{}", n + 1), ..self.part.clone() };
        let child = machine::start("kafka", &part)?;
        let child = self.running[n].insert(child);
        let mut said = String::new();
        BufReader::new(child.stdout.take().ok_or("the node has no stdout")?)
            .read_line(&mut said)?;
        match said.trim() {
            "runs" => Ok(()),
            _ => Err(format!("node {} said {said:?} instead of running", n + 1).into()),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, n: usize) -> report::Result<()> {
        let mut child = self.running[n].take().ok_or("a node that does not run is to be killed")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    pub fn signal(&self, n: usize, signal: Signal) -> report::Result<()> {
        let child = self.running[n].as_ref().ok_or("a node that does not run gets no signal")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Topics of a bench: where events come from and where they go.
pub fn topics(brokers: &Brokers, partitions: u32) -> (String, String) {
    (brokers.topic("from", partitions, &[]), brokers.topic("to", partitions, &[]))
}
