//! Kafka as an engine: a turn is a transaction.
//!
//! *Why:* Kafka already replicates, orders and fences. A task has a transactional id; a turn's
//! frames, its state and where it stands in its inputs are one transaction under that id. Whoever
//! takes the id over fences the one before, and reads in the task's state what was committed last.
//! Group offsets are not used: they would be a second truth, and they expire.
//!
//! *Invariants*
//! - Frame numbers are Kafka's offsets: they rise and have gaps.
//! - A commit whose outcome nobody knows is never repeated: the lease ends, and the next one finds
//!   in the log whether it was committed.
//! - A task without work holds no transaction open.
//!
//! *Failure:* a lost lease costs its undecided turns, which are run again. So does a right that
//! Kafka denies; its task waits until it is given, and [`Engine::health`] says what is lacking.
//! *Source:* KIP-98, KIP-360, KIP-447.

mod codec;
mod input;
mod lease;
mod membership;
mod moving;
pub mod names;
mod opening;
mod outside;
mod placed;
mod registry;
mod shared;
mod tail;
mod topics;
pub mod upkeep;
mod views;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use millstream_core::{
    Code, Error, Frame, Result, Time,
    engine::{
        Backlog, ClusterView, Engine, EngineStats, Health, Lease, StreamInfo, StreamSpec, TaskSpec,
        Ticket, alone,
    },
    ledger::Ledger,
    turn::{Change, Output, Progress, StreamId, TaskId},
};

use self::{
    codec::{Line, State},
    membership::Public,
    names::Names,
    opening::{Advanced, Opening},
    placed::{Asked, Hold, Placed},
    registry::{Registry, Stream},
    shared::{Shared, Signal, lock},
    views::is_of_a_flow,
};
pub use self::{
    membership::Membership,
    moving::take_over,
    upkeep::{Threads, Trimmer, Upkeep, clock},
};
use crate::{
    client::{Client, Lane, Start, TopicPartition},
    cluster::Member,
};

/// What the registry and the progress of all tasks may take in memory unread, in bytes.
const AHEAD_BYTES: usize = 4 << 20;

/// Who this is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The application; nodes of one application share its tasks.
    pub app: String,
    /// This node's name, unique in the application.
    pub node: String,
    /// Another number for each run of the node.
    pub incarnation: u64,
    /// How it is a member of the application's cluster; without, it takes all tasks for itself.
    pub member: Option<MemberOptions>,
}

/// How a node is a member.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// Where people can ask it; not empty.
    pub address: String,
    /// How patient it is with others.
    pub patience: crate::cluster::Options,
    /// Now; in production, [`clock`].
    pub now: Time,
}

/// An engine and the two that work for it.
pub struct Connected {
    /// What tasks and people talk to.
    pub engine: KafkaEngine,
    /// Step or run it, or no task is ever opened.
    pub upkeep: Upkeep,
    /// Step or run it, or what was read stays in Kafka.
    pub trimmer: Trimmer,
    /// Step or run it, or no task is placed here.
    pub membership: Option<Membership>,
}

/// The engine. Cheap to clone: share it.
#[derive(Clone)]
pub struct KafkaEngine {
    shared: Arc<Shared>,
    openings: Arc<Mutex<HashMap<String, Box<Opening>>>>,
    public: Arc<Public>,
}

impl KafkaEngine {
    /// Makes the application's topics or checks them, and reads which streams and tasks there are.
    ///
    /// # Errors
    /// If Kafka cannot be reached, or the topics are not what they should be.
    pub fn connect(options: &Options, client: Arc<dyn Client>) -> Result<Connected> {
        KafkaEngine::connect_to(options, client, false)
    }

    /// As [`KafkaEngine::connect`]; whoever moves data there looks at it before it is whole.
    fn connect_to(options: &Options, client: Arc<dyn Client>, is_mover: bool) -> Result<Connected> {
        let names = Names::new(&options.app)?;
        topics::common(client.as_ref(), &names)?;
        let signal = Arc::new(Signal::default());
        let reader = |topic: String| -> Result<_> {
            let (at, signal) = (TopicPartition::new(topic, 0), signal.clone());
            let waker = Arc::new(move || signal.raise());
            let reader = client.reader(&at, Start::Earliest, Lane::Words, AHEAD_BYTES, waker)?;
            Ok((client.range(&at)?.end, at, reader))
        };
        let (lines, at, registry) = reader(names.registry())?;
        let (told, _, progress) = reader(names.progress())?;
        let registry = Registry::new(names.clone(), at, registry);
        let (node, incarnation) = (options.node.clone(), options.incarnation);
        let public = Arc::<Public>::default();
        let placed = options.member.is_some().then(|| Arc::new(Placed::new(public.signal.clone())));
        let shared =
            Shared::new(client, names, node, incarnation, registry, signal, placed.clone());
        let engine = KafkaEngine { shared, openings: Arc::default(), public: public.clone() };
        let mut upkeep = Upkeep::new(engine.clone(), progress);
        engine.wait("what the application has", || {
            engine.shared.pump()?;
            Ok(lock(&engine.shared.registry).next >= lines && upkeep.has_heard(told)?)
        })?;
        if !is_mover {
            lock(&engine.shared.registry).is_whole()?;
        }
        let trimmer = Trimmer::new(engine.shared.clone());
        let member = options.member.as_ref().zip(placed);
        let membership = member
            .map(|(member, placed)| membership::join(&engine, placed, public, member))
            .transpose()?;
        Ok(Connected { engine, upkeep, trimmer, membership })
    }

    /// Waits until `done`; for people and at the start, never in a task.
    fn wait(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        // Clock: whoever asks is no task.
        let begun = Instant::now();
        let patience = self.shared.client.patience();
        loop {
            let seen = self.shared.signal.seen();
            if done()? {
                return Ok(());
            }
            if begun.elapsed() > patience {
                let message = format!("kafka: no answer for {} s: {what}", patience.as_secs());
                let error = Error::new(Code::Unreachable, message);
                return Err(self.shared.trouble().unwrap_or(error));
            }
            self.shared.signal.wait(seen, Duration::from_millis(50));
        }
    }

    /// Opens a task whether or not it is placed here.
    fn take_over(
        &self,
        spec: &TaskSpec,
        hold: Option<&Arc<Hold>>,
    ) -> Result<Option<Box<dyn Lease>>> {
        if self.shared.is_denied(&spec.name, &spec.waker) {
            return Ok(None);
        }
        loop {
            let opening = lock(&self.openings).remove(&spec.name);
            let opening = match opening {
                Some(opening) => *opening,
                None => {
                    let Some((task, state)) = self.shared.register(spec)? else { return Ok(None) };
                    Opening::begin(&self.shared, spec, task, state, hold.cloned())?
                }
            };
            match opening.advance(&spec.waker) {
                Ok(Some(Advanced::Open(lease))) => return Ok(Some(lease)),
                Ok(Some(Advanced::Waits(opening))) => {
                    lock(&self.openings).insert(spec.name.clone(), opening);
                    return Ok(None);
                }
                Ok(None) => {}
                Err(error) if error.code() == Code::Permission => {
                    self.shared.deny(&spec.name, error, &spec.waker, None);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn stream_called(&self, name: &str) -> Result<Option<Arc<Stream>>> {
        self.shared.pump()?;
        let registry = lock(&self.shared.registry);
        registry.is_whole()?;
        Ok(registry.stream_called(name).cloned())
    }

    fn stream_info(&self, stream: &Stream) -> Result<StreamInfo> {
        let shared = &self.shared;
        let frames = stream.partitions.iter().map(|at| shared.client.range(at));
        let frames = frames.collect::<Result<Vec<_>>>()?;
        let (registry, views) = (lock(&shared.registry), lock(&shared.views));
        Ok(StreamInfo {
            id: stream.id,
            spec: stream.spec.clone(),
            appended_rows: views.appended(stream),
            frames,
            backlog: views.backlog(&registry, stream),
        })
    }
}

impl Engine for KafkaEngine {
    fn place(&self) -> Result<Option<String>> {
        self.shared.client.identity().map(Some)
    }

    fn create_stream(&self, spec: &StreamSpec) -> Result<StreamId> {
        spec.check()?;
        let find = || match self.stream_called(&spec.name)? {
            Some(stream) if stream.spec != *spec => Err(stream.spec.conflict(spec)),
            stream => Ok(stream.map(|stream| stream.id)),
        };
        let mut found = find()?;
        let topic = self.shared.names.stream(&spec.name)?;
        topics::stream(self.shared.client.as_ref(), &topic, spec, found.is_some())?;
        if found.is_none() {
            let signal = self.shared.signal.clone();
            let refused = Arc::new(Mutex::new(None));
            let said = refused.clone();
            let done = move |written: Result<u64>| {
                *lock(&said) = written.err();
                signal.raise();
            };
            self.shared.write(&Line::Stream(spec.clone()), Box::new(done))?;
            self.wait(&format!("to make stream {}", spec.name), || {
                found = find()?;
                lock(&refused).take().map_or(Ok(found.is_some()), Err)
            })?;
        }
        found.ok_or_else(|| Error::new(Code::Bug, "a stream was made and is not there"))
    }

    fn has_stream(&self, name: &str) -> Result<bool> {
        Ok(self.stream_called(name)?.is_some())
    }

    fn streams(&self) -> Vec<StreamInfo> {
        let streams = lock(&self.shared.registry).streams.clone();
        streams.iter().filter_map(|stream| self.stream_info(stream).ok()).collect()
    }

    fn open(&self, spec: &TaskSpec) -> Result<Option<Box<dyn Lease>>> {
        let Some(placed) = &self.shared.placed else { return self.take_over(spec, None) };
        // What is known of in the registry can be placed.
        if self.shared.register(spec)?.is_none() {
            return Ok(None);
        }
        let hold = match placed.ask(spec) {
            Asked::Here(hold) => hold,
            Asked::Later => return Ok(None),
            Asked::Elsewhere => {
                drop(lock(&self.openings).remove(&spec.name));
                self.shared.allow(&spec.name);
                return Ok(None);
            }
        };
        let lease = self.take_over(spec, Some(&hold))?;
        if lease.is_some() {
            placed.opened(&spec.name);
        }
        Ok(lease)
    }

    fn read(
        &self,
        stream: StreamId,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Frame)>> {
        let at = self.shared.partition(stream, partition)?;
        let client = &self.shared.client;
        let read = || {
            let from = client.range(&at)?.start.max(from);
            client.read(&at, Start::Offset(from), bytes_max)
        };
        let found = match read() {
            // Removed between the two questions.
            Err(e) if e.code() == Code::Limit => read()?,
            found => found?,
        };
        let (mut out, mut bytes) = (Vec::new(), 0);
        let Some(fetched) = found else { return Ok(out) };
        for (n, (number, _)) in fetched.iter().enumerate() {
            let Some(value) = fetched.value(n) else { return Err(codec::foreign(&at, number)) };
            if bytes > 0 && bytes + value.len() > bytes_max {
                break;
            }
            bytes += value.len();
            let frame = Frame::decode(value).map_err(|e| e.at(format!("{at}, offset {number}")))?;
            out.push((number, frame));
        }
        Ok(out)
    }

    fn backlog(&self, stream: StreamId) -> Backlog {
        let registry = lock(&self.shared.registry);
        let Some(stream) = registry.stream(stream) else { return Backlog::default() };
        lock(&self.shared.views).backlog(&registry, stream)
    }

    fn append(&self, stream: StreamId, partition: u32, frame: Frame) -> Result<Ticket> {
        self.shared.partition(stream, partition)?;
        let ticket = self.shared.ticket();
        lock(&self.shared.outside).push(ticket, Output { stream, partition, frame })?;
        self.shared.submitted(ticket, 0);
        self.shared.signal.raise();
        Ok(ticket)
    }

    fn durable(&self, ticket: Ticket) -> bool {
        self.shared.is_decided(ticket)
    }

    fn ledger(&self) -> Ledger {
        let registry = lock(&self.shared.registry);
        lock(&self.shared.views).ledger(&registry)
    }

    fn committed(&self) -> Ticket {
        // What Kafka shows to readers is replicated.
        Ticket(0)
    }

    fn visit_state(
        &self,
        task: TaskId,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<()> {
        let unknown = || Error::new(Code::Unknown, format!("there is no task {}", task.0));
        let name = self.task_name(task).ok_or_else(unknown)?;
        let (stage, partition) = names::split(&name)?;
        let at = TopicPartition::new(self.shared.names.state(stage)?, partition);
        self.shared.client.read_all(&at, |offset, record| {
            match codec::state(record.key, record.value) {
                Some(State::Changed(change)) => take(change),
                Some(_) => Ok(()),
                None => Err(codec::foreign(&at, offset)),
            }
        })
    }

    fn tasks(&self) -> Vec<(String, TaskId, Progress)> {
        let registry = lock(&self.shared.registry);
        let views = lock(&self.shared.views);
        let flows = registry.tasks.iter().filter(|task| is_of_a_flow(&task.name));
        let progress = |id| views.task(id).map(|t| t.progress.clone()).unwrap_or_default();
        flows.map(|task| (task.name.clone(), task.id, progress(task.id))).collect()
    }

    fn task_name(&self, id: TaskId) -> Option<String> {
        lock(&self.shared.registry).task(id).map(|task| task.name.clone())
    }

    fn has_ended(&self, task: &str) -> bool {
        let elsewhere = |member: &Arc<Mutex<Member>>| lock(member).runs_elsewhere(task);
        if !self.public.member.get().is_some_and(elsewhere) {
            return false;
        }
        let registry = lock(&self.shared.registry);
        let views = lock(&self.shared.views);
        let turned = registry.id(task).and_then(|id| views.task(id));
        turned.is_some_and(|turned| turned.progress.ended)
    }

    fn stats(&self) -> EngineStats {
        *lock(&self.shared.stats)
    }

    fn health(&self) -> Health {
        let error = lock(&self.public.error).clone().or_else(|| self.shared.trouble());
        Health { error, pending_bytes: self.shared.pending_bytes(), ..Health::default() }
    }

    fn cluster(&self) -> Option<ClusterView> {
        let mut cluster = lock(&self.public.summary).clone()?;
        let registry = lock(&self.shared.registry);
        let views = lock(&self.shared.views);
        for task in &mut cluster.tasks {
            let known = registry.id(&task.name).and_then(|id| registry.task(id));
            task.backlog_rows = known.map_or(0, |known| views.unread(known));
        }
        Some(cluster)
    }

    fn leave(&self) -> Result<()> {
        self.shared.placed.as_ref().ok_or_else(alone)?;
        self.public.ask_to_leave();
        Ok(())
    }

    fn left(&self) -> Option<Result<()>> {
        self.public.left()
    }
}
