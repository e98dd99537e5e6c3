//! What the engine's parts have in common.
//!
//! *Locks* are taken in the order of the fields, and none while Kafka is waited for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_core::{
    Error, Result,
    engine::{EngineStats, TaskSpec, Ticket, Waker},
    turn::{StreamId, TaskId},
};

use super::{
    codec::{Line, Nonce, Turned, pack},
    names::{Names, split},
    outside::Outside,
    placed::Placed,
    registry::Registry,
    views::Views,
};
use crate::client::{Client, Record, Records, TopicPartition};

pub(super) struct Shared {
    pub client: Arc<dyn Client>,
    pub names: Names,
    /// Which tasks this node may have; without it, all.
    pub placed: Option<Arc<Placed>>,
    /// This node's name, unique in the application.
    pub node: String,
    /// Of this run of the node; with a count it names an opening.
    pub incarnation: u64,
    pub registry: Mutex<Registry>,
    pub views: Arc<Mutex<Views>>,
    pub topics: Arc<Mutex<Topics>>,
    pub outside: Mutex<Outside>,
    /// Called when a stream, a task or a topic has come to be.
    waiting: Mutex<HashMap<String, Waker>>,
    count: AtomicU64,
    undecided: Mutex<BTreeSet<Ticket>>,
    pending_bytes: AtomicU64,
    pub stats: Mutex<EngineStats>,
    pub signal: Arc<Signal>,
    /// Appends to the progress topic that are on their way.
    pub telling: Arc<AtomicU64>,
    /// Why the upkeep cannot go on.
    pub trouble: Mutex<Option<Error>>,
    denied: Mutex<BTreeMap<String, Denied>>,
}

/// What Kafka denies a task.
struct Denied {
    error: Error,
    /// Called when it is time to try again; `None` while it is tried.
    waker: Option<Waker>,
    /// Openings that came to nothing for it: no sign of a crash.
    openings: Vec<Nonce>,
}

/// Topics of state.
#[derive(Default)]
pub(super) struct Topics {
    /// Made and checked.
    pub there: HashMap<String, Arc<str>>,
    /// To be made, each with its partitions.
    pub wanted: HashMap<String, u32>,
    /// Those that cannot be, and why.
    pub wrong: HashMap<String, Error>,
    /// Tasks whose line was written to the registry and was not read yet.
    pub asked: BTreeSet<String>,
}

/// Wakes whoever waits for something to change.
#[derive(Default)]
pub(super) struct Signal {
    raised: Mutex<u64>,
    changed: Condvar,
}

impl Signal {
    pub fn raise(&self) {
        *lock(&self.raised) += 1;
        self.changed.notify_all();
    }

    /// How often it was raised.
    pub fn seen(&self) -> u64 {
        *lock(&self.raised)
    }

    /// Waits until it was raised since `seen`, at most `wait`.
    pub fn wait(&self, seen: u64, wait: Duration) {
        let raised = lock(&self.raised);
        drop(self.changed.wait_timeout_while(raised, wait, |raised| *raised == seen));
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(
        client: Arc<dyn Client>,
        names: Names,
        node: String,
        incarnation: u64,
        registry: Registry,
        signal: Arc<Signal>,
        placed: Option<Arc<Placed>>,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            client,
            names,
            placed,
            node,
            incarnation,
            registry: Mutex::new(registry),
            views: Arc::default(),
            topics: Arc::default(),
            outside: Mutex::default(),
            waiting: Mutex::default(),
            count: AtomicU64::new(1),
            undecided: Mutex::default(),
            pending_bytes: AtomicU64::new(0),
            stats: Mutex::default(),
            signal,
            telling: Arc::default(),
            trouble: Mutex::default(),
            denied: Mutex::default(),
        })
    }

    /// A number that was not given before.
    pub fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    pub fn ticket(&self) -> Ticket {
        Ticket(self.number())
    }

    /// A turn is on its way.
    pub fn submitted(&self, ticket: Ticket, bytes: u64) {
        lock(&self.undecided).insert(ticket);
        self.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It is no longer.
    pub fn decided(&self, ticket: Ticket, bytes: u64) {
        lock(&self.undecided).remove(&ticket);
        self.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn is_decided(&self, ticket: Ticket) -> bool {
        !lock(&self.undecided).contains(&ticket)
    }

    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// A turn is committed.
    pub fn turned(&self, id: TaskId, turned: Turned) {
        let inputs = {
            let registry = lock(&self.registry);
            registry.task(id).map(|t| t.inputs.clone()).unwrap_or_default()
        };
        let mut views = lock(&self.views);
        views.update(id, turned);
        views.fresh.insert(id);
        views.read.extend(inputs.iter().map(|i| (i.stream, i.partition)));
        drop(views);
        lock(&self.stats).turns += 1;
    }

    pub fn partition(&self, stream: StreamId, partition: u32) -> Result<TopicPartition> {
        lock(&self.registry).partition(stream, partition)
    }

    /// Reads the registry; those who wait for something may look again.
    pub fn pump(&self) -> Result<()> {
        if lock(&self.registry).pump()? {
            self.wake_all();
        }
        Ok(())
    }

    pub fn wake_all(&self) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        waiting.into_values().for_each(|waker| waker());
        self.signal.raise();
    }

    /// Writes a line to the registry; `done` hears whether it is there. It must not hold the
    /// client: a thread of the client's calls it, and would wait for itself if it were the last to.
    pub fn write(&self, line: &Line, done: crate::client::Appended) -> Result<()> {
        let mut records = Records::default();
        let at = TopicPartition::new(self.names.registry(), 0);
        records.push(&at, Record::of(&[], Some(&pack(line)?)));
        self.client.append(records, done);
        Ok(())
    }

    /// The number of a task and its partition of state; `None` while they are made.
    pub fn register(&self, spec: &TaskSpec) -> Result<Option<(TaskId, TopicPartition)>> {
        // First, so that nothing that comes from here on goes unnoticed.
        lock(&self.waiting).insert(spec.name.clone(), spec.waker.clone());
        self.pump()?;
        let id = lock(&self.registry).find(spec)?.map(|task| task.id);
        // Not locked while it is written: what cannot be sent is told at once.
        let asks = id.is_none() && lock(&self.topics).asked.insert(spec.name.clone());
        if asks {
            let line = Line::Task { name: spec.name.clone(), inputs: spec.inputs.clone() };
            let (asked, name, waker) = (self.topics.clone(), spec.name.clone(), spec.waker.clone());
            let done = move |written: Result<u64>| {
                if written.is_err() {
                    // To be tried again.
                    lock(&asked).asked.remove(&name);
                    waker();
                }
            };
            self.write(&line, Box::new(done))?;
        }
        let (stage, partition) = split(&spec.name)?;
        let mut topics = lock(&self.topics);
        if let Some(error) = topics.wrong.remove(stage) {
            return Err(error);
        }
        if id.is_some() {
            topics.asked.remove(&spec.name);
        }
        drop(topics);
        let topic = self.topic_of_state(stage, spec.tasks);
        let (Some(id), Some(topic)) = (id, topic) else { return Ok(None) };
        lock(&self.waiting).remove(&spec.name);
        Ok(Some((id, TopicPartition::new(topic, partition))))
    }

    /// The topic of a stage's state; `None` while it is made.
    pub fn topic_of_state(&self, stage: &str, tasks: u32) -> Option<Arc<str>> {
        let mut topics = lock(&self.topics);
        let there = topics.there.get(stage).cloned();
        if there.is_none() {
            topics.wanted.insert(stage.into(), tasks);
            drop(topics);
            self.signal.raise();
        }
        there
    }

    /// Kafka denies a task something, maybe when it was open. That is for people to mend, so it is
    /// said until the task has committed a turn; and it is no failure of the task, which is opened
    /// again and again.
    pub fn deny(&self, task: &str, error: Error, waker: &Waker, opening: Option<Nonce>) {
        let mut all = lock(&self.denied);
        let openings = all.remove(task).map(|denied| denied.openings).unwrap_or_default();
        let openings = openings.into_iter().chain(opening).collect();
        let (error, waker) = (error.at(task), Some(waker.clone()));
        all.insert(task.into(), Denied { error, waker, openings });
    }

    /// Openings of a task that were denied something, and that nobody has forgotten yet.
    pub fn denied_openings(&self, task: &str) -> Vec<Nonce> {
        lock(&self.denied).get(task).map(|denied| denied.openings.clone()).unwrap_or_default()
    }

    /// They are forgotten.
    pub fn forgotten(&self, task: &str, openings: &[Nonce]) {
        if let Some(denied) = lock(&self.denied).get_mut(task) {
            denied.openings.retain(|opening| !openings.contains(opening));
        }
    }

    /// It does not, or another node has the task.
    pub fn allow(&self, task: &str) {
        lock(&self.denied).remove(task);
    }

    /// Whether a task is to wait before it tries again.
    pub fn is_denied(&self, task: &str, waker: &Waker) -> bool {
        let mut denied = lock(&self.denied);
        let waiting = denied.get_mut(task).and_then(|denied| denied.waker.as_mut());
        waiting.map(|old| old.clone_from(waker)).is_some()
    }

    /// Lets those try again that are denied something.
    pub fn try_again(&self) {
        let wakers: Vec<Waker> =
            lock(&self.denied).values_mut().filter_map(|denied| denied.waker.take()).collect();
        wakers.into_iter().for_each(|waker| waker());
    }

    /// What keeps this node from its work, as people read it.
    pub fn trouble(&self) -> Option<Error> {
        let denied = lock(&self.denied).values().next().map(|denied| denied.error.clone());
        denied.or_else(|| self.client.trouble()).or_else(|| lock(&self.trouble).clone())
    }
}
