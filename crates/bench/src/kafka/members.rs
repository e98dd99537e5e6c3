//! What the nodes tell each other: who lives, who has which task, how long takeovers took.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream_core::Time;
use millstream_kafka::cluster::{Entry, Folded, Options, Record, State, TaskKey, Took, View};
use rdkafka::Message;

use super::{
    ends::{consumer, lock},
    nodes::APP,
};
use crate::{node::wait_until, report::Result};

/// Reads the members topic.
pub struct Members {
    shared: Arc<Reading>,
    thread: Option<JoinHandle<()>>,
}

struct Reading {
    stop: AtomicBool,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    view: View,
    deaths: Vec<(Instant, String)>,
    tooks: Vec<Took>,
    /// When tasks were claimed.
    claims: Vec<Instant>,
    /// How often a task was found with another owner than before.
    moves: u64,
}

impl Members {
    /// Begins to read; a node has been started before.
    pub fn start(servers: &str) -> Result<Members> {
        let consumer = consumer(servers, &format!("{APP}.members"), 1)?;
        let shared = Arc::new(Reading { stop: AtomicBool::new(false), heard: Mutex::default() });
        let own = shared.clone();
        let begun = Instant::now();
        let thread = std::thread::spawn(move || {
            while !own.stop.load(Ordering::Relaxed) {
                let Some(Ok(m)) = consumer.poll(Duration::from_millis(20)) else { continue };
                let Ok(record) = Record::decode(m.payload().unwrap_or_default()) else { continue };
                let now = Time::from_ms(begun.elapsed().as_millis() as i64);
                lock(&own.heard).take(m.offset() as u64, &record, now);
            }
        });
        Ok(Members { shared, thread: Some(thread) })
    }

    /// How many deaths, takeovers and changes of owner there were.
    pub fn counts(&self) -> (usize, usize, u64) {
        let heard = lock(&self.shared.heard);
        (heard.deaths.len(), heard.tooks.len(), heard.moves)
    }

    /// The deaths after `since`: when, and of whom.
    pub fn deaths(&self, since: Instant) -> Vec<(Instant, String)> {
        let heard = lock(&self.shared.heard);
        heard.deaths.iter().filter(|death| death.0 > since).cloned().collect()
    }

    /// The takeovers since the first `before`.
    pub fn tooks(&self, before: usize) -> Vec<Took> {
        lock(&self.shared.heard).tooks[before..].to_vec()
    }

    /// When the first task was claimed after `since`.
    pub fn claim(&self, since: Instant) -> Option<Instant> {
        lock(&self.shared.heard).claims.iter().find(|at| **at > since).copied()
    }

    /// Waits until `nodes` nodes share `tasks` tasks as a plan lets them, all of them run, and each
    /// has a standby that is warm.
    pub fn wait_balanced(&self, nodes: usize, tasks: usize, at_most: Duration) -> Result<()> {
        let balanced = || lock(&self.shared.heard).is_balanced(nodes, tasks);
        wait_until("balance", at_most, || balanced().is_ok())
            .map_err(|e| format!("{e}: {}", balanced().err().unwrap_or_default()).into())
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Heard {
    fn take(&mut self, offset: u64, record: &Record<'_>, now: Time) {
        let mentioned: Vec<TaskKey> = match &record.body {
            millstream_kafka::cluster::Body::Beat(beat) => beat.tasks.iter().map(|t| t.0).collect(),
            _ => Vec::new(),
        };
        let owners = |view: &View| mentioned.iter().map(|t| view.owner(*t)).collect::<Vec<_>>();
        let before = owners(&self.view);
        match self.view.fold(offset, record, now) {
            Folded::Died(node) => {
                let name = self.view.node(node).map(|n| n.name.to_string()).unwrap_or_default();
                self.deaths.push((Instant::now(), name));
            }
            Folded::Took => {
                if let millstream_kafka::cluster::Body::Took(took) = &record.body {
                    self.tooks.push(*took);
                }
            }
            _ => {}
        }
        let after = owners(&self.view);
        if before != after {
            self.claims.push(Instant::now());
        }
        self.moves +=
            before.iter().zip(&after).filter(|(b, a)| a.is_some() && b != a).count() as u64;
    }

    fn is_balanced(&self, nodes: usize, tasks: usize) -> Result<(), String> {
        let active: Vec<_> = self.view.alive().filter(|n| n.state == State::Active).collect();
        if active.len() != nodes {
            return Err(format!("{} nodes are active", active.len()));
        }
        let open = |e: &Entry| matches!(e, Entry::Owner { open: true, .. });
        let counts: Vec<usize> =
            active.iter().map(|n| n.entries().filter(|(_, e)| open(e)).count()).collect();
        // As the plan has it: nobody more than one task away from the mean.
        let (floor, ceil) = (tasks / nodes, tasks.div_ceil(nodes));
        let uneven = counts.iter().any(|n| n + 1 < floor || *n > ceil + 1);
        if counts.iter().sum::<usize>() != tasks || uneven {
            return Err(format!("they run {counts:?} of {tasks} tasks"));
        }
        let warm = u64::BITS - Options::default().warm_lag.leading_zeros();
        let all: BTreeSet<TaskKey> = active
            .iter()
            .flat_map(|n| n.entries().filter(|(_, e)| open(e)).map(|(t, _)| t))
            .collect();
        let cold =
            |task: &&TaskKey| !self.view.standbys(**task).any(|(_, lag)| u32::from(lag) <= warm);
        match all.iter().filter(cold).count() {
            0 => Ok(()),
            cold => Err(format!("{cold} tasks have no warm standby")),
        }
    }
}
