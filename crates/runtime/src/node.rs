//! A node: many flows, their tasks, the supervision tree, and who runs next.
//!
//! It owns no thread. Workers call [`Node::crank`]; in production there is one per core (see
//! [`crate::threads`]), in the simulator there is one, with a seeded choice of what happens next.
//!
//! *Supervision:* node > flow > stage > task. A task's failure goes to the tree, and what the tree
//! decides is done here.
//! *Limits:* [`Options`].

mod tenant;
mod watch;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_core::{
    Batch, Code, Error, FrameHeader, FrameKind, Result, Time,
    connector::Guarantee,
    engine::{Engine, StreamSpec, Ticket},
    frame::FrameEncoder,
    key::display,
    mail,
    turn::StreamId,
};

use self::tenant::Tenant;
pub(crate) use self::watch::Seen;
use crate::{
    connect::Connectors,
    queue::{Next, Queue, SlotId},
    stage::{self, Mailbox, SourceFront, Stage},
    supervisor::{
        Exit, FlowSpec, Report, TaskPath, Throttle, Tree, What, report,
        tree::{Decision, Event},
    },
    task::{Did, Surroundings, Task, TaskStats, caution::Floor},
};

/// The stream of what supervisors decided.
pub const SUPERVISOR: &str = "$supervisor";

/// How often the tree hears of records that were handled without trouble.
const ACCOUNT_EVERY: Duration = Duration::from_secs(1);

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Unread rows in a flow's streams at which its sources pause; they go on at half of it.
    pub backlog_rows_max: u64,
    /// Unread bytes at which they pause.
    pub backlog_bytes_max: u64,
    /// Committed bytes that are not durable yet at which all sources pause: a disk that is full or
    /// slow must not fill the memory.
    pub pending_bytes_max: u64,
    /// A handler that has not returned for this long is given up.
    pub call_timeout: Duration,
    /// Handlers given up, and the threads they are in, beyond which the node takes in nothing more
    /// and asks to be started again.
    pub abandoned_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            backlog_rows_max: 1_000_000,
            backlog_bytes_max: 256 << 20,
            pending_bytes_max: 256 << 20,
            call_timeout: Duration::from_secs(5),
            abandoned_max: 2,
        }
    }
}

/// How a flow is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// It runs.
    Running,
    /// All its input has ended and everything is handed over.
    Finished,
    /// Its supervisor has given it up.
    Failed(Error),
    /// It was asked to stop.
    Stopped,
}

/// What is to be known about a task that lives.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    /// Its place.
    pub path: TaskPath,
    /// What it has been through.
    pub stats: TaskStats,
    /// Keys that live there.
    pub keys: usize,
    /// Whether a step of it is running just now.
    pub running: bool,
}

/// A sink of a flow that was added here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkInfo {
    /// The flow it belongs to.
    pub flow: String,
    /// Its name, which is also its stage's if it has tasks of its own.
    pub name: String,
    /// How often each row gets there.
    pub promise: Guarantee,
}

/// A process kind that runs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// The flow it belongs to.
    pub flow: String,
    /// Its name, which is also its stage's.
    pub name: String,
    /// Where its messages go.
    pub mailbox: Mailbox,
}

/// What a look at a process has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Its committed bytes.
    Found(Vec<u8>),
    /// There is no such process.
    Missing,
    /// Its task is in the middle of a step, or is being opened: ask again, or ask the engine.
    Busy,
}

/// One running node.
pub struct Node {
    engine: Arc<dyn Engine>,
    connectors: Arc<dyn Connectors>,
    options: Options,
    queue: Arc<Queue>,
    slots: Mutex<Vec<Arc<Slot>>>,
    flows: Mutex<BTreeMap<String, FlowEntry>>,
    tree: Mutex<Tree>,
    reports: Mutex<Reports>,
    changed: Condvar,
    abandoned: AtomicU64,
    draining: Arc<AtomicBool>,
    floor: Arc<Floor>,
}

struct FlowEntry {
    number: usize,
    state: FlowState,
    slots: Vec<SlotId>,
    streams: Vec<StreamId>,
    /// By a breaker.
    paused: Arc<AtomicBool>,
}

struct Reports {
    throttle: Throttle,
    stream: StreamId,
    encoder: FrameEncoder,
}

/// A task's place on the node. The task in it is replaced when its thread is given up.
struct Slot {
    path: TaskPath,
    stage: Arc<Stage>,
    around: Surroundings,
    current: Mutex<Arc<Tenant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // User code is caught before it can unwind through these; poison means a bug that the
    // supervisor has already counted.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A node without flows.
    ///
    /// # Errors
    /// If the engine cannot create `$supervisor`.
    pub fn new(
        engine: Arc<dyn Engine>,
        connectors: Arc<dyn Connectors>,
        options: Options,
    ) -> Result<Arc<Node>> {
        let stream = engine.create_stream(&StreamSpec {
            name: SUPERVISOR.into(),
            schema: report::SCHEMA.clone(),
            partitions: 1,
            retain_bytes: 16 << 20,
        })?;
        Ok(Arc::new(Node {
            engine,
            connectors,
            options,
            queue: Arc::default(),
            slots: Mutex::default(),
            flows: Mutex::default(),
            tree: Mutex::new(Tree::new()),
            reports: Mutex::new(Reports {
                throttle: Throttle::default(),
                stream,
                encoder: FrameEncoder::default(),
            }),
            changed: Condvar::new(),
            abandoned: AtomicU64::new(0),
            draining: Arc::default(),
            floor: Arc::default(),
        }))
    }

    /// The engine below.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Its options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Adds a flow and lets it run. The stages come from one flow and are in its order.
    ///
    /// # Errors
    /// If a flow of this name runs already.
    pub fn deploy(self: &Arc<Self>, stages: Vec<Stage>, now: Time) -> Result<()> {
        let Some(name) = stages.first().map(|s| s.flow.clone()) else {
            return Err(Error::new(Code::Plan, "a flow without stages")
                .help("it needs a source and a sink: Flow::new(..).source(..).sink(..)"));
        };
        let mut flows = lock(&self.flows);
        if flows.contains_key(&name) {
            return Err(Error::new(Code::Conflict, format!("a flow `{name}` runs already"))
                .help("give one of them another name"));
        }
        let there = self.stages();
        let sinks = there.iter().map(Arc::as_ref).chain(&stages).flat_map(|stage| {
            let named = |name: &str| format!("{}/{name}", stage.flow);
            stage.sinks().map(move |(name, sink, _)| (named(name), sink))
        });
        stage::apart(sinks)?;
        let number = flows.len();
        let streams: Vec<StreamId> = stages.iter().flat_map(inputs).collect();
        let paused = Arc::new(AtomicBool::new(false));
        let gate = self.gate(streams.clone(), paused.clone());
        let mut spec = FlowSpec::new(&name);
        let mut slots = Vec::new();
        let source = |stage: &Stage| Some((stage.name.clone(), stage.front.source.clone()?));
        let sources = Arc::new(stages.iter().filter_map(source).collect());
        // Consumers before producers, so that sources start last.
        for stage in stages.into_iter().rev() {
            spec = spec.stage(&stage.name, stage.partitions);
            let stage = Arc::new(stage);
            for partition in 0..stage.partitions {
                slots.push(self.add_slot(number, stage.clone(), partition, &gate, &sources));
            }
        }
        flows.insert(name, FlowEntry { number, state: FlowState::Running, slots, streams, paused });
        drop(flows);
        self.tell(Event::StartFlow(spec), now);
        Ok(())
    }

    fn add_slot(
        self: &Arc<Self>,
        flow: usize,
        stage: Arc<Stage>,
        partition: u32,
        gate: &Arc<dyn Fn() -> bool + Send + Sync>,
        sources: &Arc<BTreeMap<String, SourceFront>>,
    ) -> SlotId {
        let ends = stage.front.source.is_some() || stage.sink.is_some();
        let id = self.queue.add(flow, ends);
        let queue = self.queue.clone();
        let around = Surroundings {
            engine: self.engine.clone(),
            connectors: self.connectors.clone(),
            gate: gate.clone(),
            sources: sources.clone(),
            floor: self.floor.clone(),
            slot: id,
            waker: Arc::new(move || queue.wake(id)),
        };
        let path = TaskPath::new(&stage.flow, &stage.name, partition);
        let tenant = Tenant::new(Task::new(stage.clone(), partition, around.clone()));
        let current = Mutex::new(tenant);
        lock(&self.slots).push(Arc::new(Slot { path, stage, around, current }));
        id
    }

    /// The stages of all flows.
    fn stages(&self) -> Vec<Arc<Stage>> {
        let slots = lock(&self.slots);
        slots.iter().filter(|slot| slot.path.task == 0).map(|slot| slot.stage.clone()).collect()
    }

    /// Sources pause at the high-water mark and go on at half of it. They pause, too, while the
    /// engine cannot take more; what was taken in is still worked off, with what room is left.
    fn gate(
        &self,
        streams: Vec<StreamId>,
        paused: Arc<AtomicBool>,
    ) -> Arc<dyn Fn() -> bool + Send + Sync> {
        let (engine, options) = (self.engine.clone(), self.options.clone());
        let draining = self.draining.clone();
        let full = AtomicBool::new(false);
        Arc::new(move || {
            let (mut rows, mut bytes) = (0, 0);
            for stream in &streams {
                let backlog = engine.backlog(*stream);
                rows += backlog.rows;
                bytes += backlog.bytes;
            }
            let health = engine.health();
            let part = if full.load(Ordering::Relaxed) { 2 } else { 1 };
            let over = rows > options.backlog_rows_max / part
                || bytes > options.backlog_bytes_max / part
                || health.pending_bytes > options.pending_bytes_max / part
                || health.full;
            full.store(over, Ordering::Relaxed);
            !over && !paused.load(Ordering::Relaxed) && !draining.load(Ordering::Relaxed)
        })
    }

    /// Whether a flow's sources take in more: false under back-pressure and while it drains.
    pub fn accepts(&self, flow: &str) -> bool {
        let Some(slot) = lock(&self.flows).get(flow).and_then(|f| f.slots.last().copied()) else {
            return false;
        };
        let gate = lock(&self.slots).get(slot).map(|s| s.around.gate.clone());
        gate.is_some_and(|gate| gate())
    }

    /// Runs one ready task for one step. `false` if there was none.
    pub fn crank(&self, now: Time, clock: &dyn Fn() -> Duration) -> bool {
        self.tick(now);
        match self.queue.pop(now) {
            Some(slot) => {
                self.run(slot, now, clock);
                true
            }
            None => false,
        }
    }

    /// Runs a task that was popped. `false` if its thread was given up meanwhile: the thread ends.
    pub(crate) fn run(&self, id: SlotId, now: Time, clock: &dyn Fn() -> Duration) -> bool {
        let Some(slot) = lock(&self.slots).get(id).cloned() else { return true };
        let tenant = lock(&slot.current).clone();
        let before = *lock(&tenant.stats);
        let step = tenant.begin();
        let begun = clock();
        let (did, used) = {
            let mut task = lock(&tenant.task);
            let did = task.step(now);
            let used = clock().saturating_sub(begun);
            task.took(used);
            tenant.keys.store(task.keys() as u64, Ordering::Relaxed);
            tenant.settled.store(task.is_settled(), Ordering::Relaxed);
            *lock(&tenant.stats) = task.stats();
            (did, used)
        };
        if !tenant.end(step) {
            return false;
        }
        tenant.ended.store(did == Did::Ended, Ordering::Relaxed);
        self.account(&slot.path, &tenant, before, now);
        let next = match &did {
            Did::Worked => Next::Now,
            Did::Idle { until } => Next::Wait(*until),
            Did::Ended => Next::Wait(None),
            Did::Failed(error) if error.code() == Code::Fenced => Next::Now,
            Did::Failed(_) => Next::Off,
        };
        if !self.queue.done(id, used, next) {
            // It was stopped meanwhile, so what came of the step is nobody's business.
            lock(&tenant.task).close();
            self.queue.release(id, next);
            return true;
        }
        match did {
            Did::Worked | Did::Idle { .. } => {}
            Did::Ended => self.look_for_the_end(&slot.path.flow, now),
            Did::Failed(error) if error.code() == Code::Fenced => {
                // Another lease has it, or nobody knows what became of a commit: the log will say.
                let code = error.code().id();
                self.note(&slot.path, What::Fenced, code, error.message(), 1, now);
            }
            Did::Failed(error) => self.failed(&slot.path, error, now),
        }
        true
    }

    /// Tells the tree how many records were handled and how many were set aside: at once if any
    /// were, else once a second.
    fn account(&self, path: &TaskPath, tenant: &Tenant, before: TaskStats, now: Time) {
        let after = *lock(&tenant.stats);
        let letters = after.letters.saturating_sub(before.letters);
        let mut told = lock(&tenant.told);
        if letters == 0 && now < told.0 + ACCOUNT_EVERY {
            return;
        }
        // Rows that were made of one record may all be bad: it counts once.
        let records = after.records.saturating_sub(told.1);
        let bad = after.bad.saturating_sub(before.bad).min(records);
        let good = records - bad;
        *told = (now, after.records);
        drop(told);
        if good + bad > 0 {
            self.tell(Event::Handled { task: path.clone(), good, bad }, now);
        }
        if letters > 0 {
            self.note(path, What::DeadLetters, "", "set aside; see the dead letters", letters, now);
        }
    }

    /// Says on `$supervisor` what counts as nothing.
    fn note(&self, path: &TaskPath, what: What, code: &str, reason: &str, count: u64, now: Time) {
        let (task, code, reason) = (path.clone(), code.to_string(), reason.to_string());
        self.tell(Event::Noted { task, what, code, reason, count }, now);
    }

    fn failed(&self, path: &TaskPath, error: Error, now: Time) {
        if matches!(error.code(), Code::Stopped | Code::StateVersion | Code::Conflict | Code::Plan)
        {
            // The policy of a process, or a flow that does not fit what is on disk: trying again
            // would only fail again.
            self.set_state(&path.flow, FlowState::Failed(error));
            self.tell(Event::StopFlow(path.flow.clone()), now);
            return;
        }
        self.tell(Event::Exited { task: path.clone(), exit: Exit::Abnormal(error) }, now);
    }

    /// Hands an event to the tree and does what it decides.
    fn tell(&self, event: Event, now: Time) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let decisions = lock(&self.tree).handle(event, now);
            decisions.into_iter().for_each(|d| self.obey(d, now, &mut events));
        }
    }

    fn obey(&self, decision: Decision, now: Time, events: &mut VecDeque<Event>) {
        match decision {
            Decision::StartTask(path) => {
                if let Some((id, _)) = self.slot(&path) {
                    self.queue.switch_on(id);
                    events.push_back(Event::Started(path));
                }
            }
            Decision::StopTask { task, .. } => {
                if let Some((id, slot)) = self.slot(&task) {
                    // Whoever runs it just now drops what it holds after the step.
                    if !self.queue.switch_off(id) {
                        let tenant = lock(&slot.current).clone();
                        lock(&tenant.task).close();
                    }
                    events.push_back(Event::Exited { task, exit: Exit::Shutdown });
                }
            }
            Decision::PauseSources(flow) => self.pause(&flow, true),
            Decision::ResumeSources(flow) => self.pause(&flow, false),
            Decision::FlowFailed { flow, error } => self.set_state(&flow, FlowState::Failed(error)),
            Decision::FlowFinished(flow) => self.set_state(&flow, FlowState::Finished),
            Decision::FlowStopped(flow) => self.set_state(&flow, FlowState::Stopped),
            Decision::Refused { .. } | Decision::Stopped => self.changed.notify_all(),
            Decision::Report(report) => {
                let passed = lock(&self.reports).throttle.offer(report, now);
                self.publish(passed.into_iter().collect());
            }
        }
    }

    fn pause(&self, flow: &str, pause: bool) {
        if let Some(entry) = lock(&self.flows).get(flow) {
            entry.paused.store(pause, Ordering::Relaxed);
            entry.slots.iter().for_each(|s| self.queue.wake(*s));
        }
    }

    fn set_state(&self, flow: &str, state: FlowState) {
        if let Some(entry) = lock(&self.flows).get_mut(flow) {
            // The first reason to end stays.
            if entry.state == FlowState::Running {
                entry.state = state;
            }
        }
        self.changed.notify_all();
    }

    fn publish(&self, reports: Vec<Report>) {
        if reports.is_empty() {
            return;
        }
        let mut out = lock(&self.reports);
        let wire = Batch::wire_schema(&report::SCHEMA);
        let header = FrameHeader::from_outside(FrameKind::Rows, &wire);
        let stream = out.stream;
        let appended = report::to_batch(&reports)
            .and_then(|b| b.to_wire(&wire))
            .and_then(|rows| out.encoder.encode(header, Some(&rows)))
            .and_then(|frame| self.engine.append(stream, 0, frame));
        // A report that cannot be written must not fail what it reports on.
        drop(appended);
    }

    /// Says what still waits to be said on `$supervisor`: the node stops.
    pub(crate) fn say_the_rest(&self) {
        let waiting = lock(&self.reports).throttle.drain();
        self.publish(waiting);
    }

    /// Lets supervisors and reports see that time has passed.
    pub fn tick(&self, now: Time) {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(lock(&self.tree).next_wake()) {
            self.tell(Event::Tick, now);
        }
        let waiting = {
            let mut reports = lock(&self.reports);
            if due(reports.throttle.next_wake()) { reports.throttle.tick(now) } else { Vec::new() }
        };
        self.publish(waiting);
    }

    /// When [`Node::crank`] has something to do without being woken.
    pub fn next_wake(&self) -> Option<Time> {
        let tree = lock(&self.tree).next_wake();
        let reports = lock(&self.reports).throttle.next_wake();
        [self.queue.next_due(), tree, reports].into_iter().flatten().min()
    }

    fn slot(&self, path: &TaskPath) -> Option<(SlotId, Arc<Slot>)> {
        let slots = lock(&self.slots);
        slots.iter().enumerate().find(|(_, s)| s.path == *path).map(|(id, s)| (id, s.clone()))
    }

    /// A flow has finished when all its tasks have ended, nothing lies in its streams, and nothing
    /// has moved while that was found out.
    fn look_for_the_end(&self, flow: &str, now: Time) {
        let (slots, streams) = {
            let flows = lock(&self.flows);
            let Some(entry) = flows.get(flow).filter(|e| e.state == FlowState::Running) else {
                return;
            };
            (entry.slots.clone(), entry.streams.clone())
        };
        let Some(before) = self.queue.quiet(&slots) else { return };
        let all: Vec<Arc<Slot>> = {
            let all = lock(&self.slots);
            slots.iter().filter_map(|s| all.get(*s).cloned()).collect()
        };
        let ended = all.iter().all(|s| lock(&s.current).ended.load(Ordering::Relaxed));
        let empty = streams.iter().all(|s| self.engine.backlog(*s).rows == 0);
        if ended && empty && self.queue.quiet(&slots) == Some(before) {
            for slot in all {
                self.tell(Event::Exited { task: slot.path.clone(), exit: Exit::Normal }, now);
            }
            self.set_state(flow, FlowState::Finished);
        }
    }

    /// How a flow is; `None` if there is none of this name.
    pub fn flow(&self, name: &str) -> Option<FlowState> {
        lock(&self.flows).get(name).map(|f| f.state.clone())
    }

    /// The flows by name.
    pub fn flows(&self) -> Vec<(String, FlowState)> {
        let flows = lock(&self.flows);
        let mut all: Vec<_> =
            flows.iter().map(|(n, f)| (f.number, n.clone(), f.state.clone())).collect();
        all.sort_by_key(|f| f.0);
        all.into_iter().map(|(_, name, state)| (name, state)).collect()
    }

    /// Waits until a flow no longer runs or the node is worn out, at most `wait`.
    pub fn wait(&self, flow: &str, wait: Duration) -> Option<FlowState> {
        let flows = lock(&self.flows);
        let running = |f: &mut BTreeMap<String, FlowEntry>| {
            f.get(flow).is_some_and(|f| f.state == FlowState::Running) && self.worn_out().is_none()
        };
        let (flows, _) = self
            .changed
            .wait_timeout_while(flows, wait, running)
            .unwrap_or_else(PoisonError::into_inner);
        flows.get(flow).map(|f| f.state.clone())
    }

    /// The tasks that live here.
    pub fn tasks(&self) -> Vec<TaskInfo> {
        let slots = lock(&self.slots).clone();
        let info = |slot: Arc<Slot>| {
            let tenant = lock(&slot.current).clone();
            // The task itself is not asked: it may be running, for long.
            let (stats, keys) = (*lock(&tenant.stats), tenant.keys.load(Ordering::Relaxed));
            let running = tenant.running().is_some();
            TaskInfo { path: slot.path.clone(), stats, keys: keys as usize, running }
        };
        slots.into_iter().map(info).collect()
    }

    /// The sinks of all flows, by flow and name.
    pub fn sinks(&self) -> Vec<SinkInfo> {
        let mut sinks = BTreeMap::new();
        for stage in self.stages() {
            for (name, _, promise) in stage.sinks() {
                sinks.insert((stage.flow.clone(), name.to_string()), promise);
            }
        }
        let info = |((flow, name), promise)| SinkInfo { flow, name, promise };
        sinks.into_iter().map(info).collect()
    }

    /// The process kinds that run here, in the order of their flows.
    pub fn kinds(&self) -> Vec<KindInfo> {
        let kind = |stage: &Arc<Stage>| {
            let mailbox = stage.mailboxes.iter().find(|m| inputs(stage).contains(&m.stream))?;
            let (flow, name) = (stage.flow.clone(), stage.name.clone());
            Some(KindInfo { flow, name, mailbox: *mailbox })
        };
        self.stages().iter().filter_map(kind).collect()
    }

    /// The committed state of a process, without waiting for its task.
    pub fn look(&self, kind: &KindInfo, key: &[u8]) -> Looked {
        let task = kind.mailbox.partition_of(key);
        let path = TaskPath::new(&kind.flow, &kind.name, task);
        let Some((_, slot)) = self.slot(&path) else { return Looked::Missing };
        let tenant = lock(&slot.current).clone();
        let task = tenant.task.try_lock();
        task.map_or(Looked::Busy, |mut task| task.look(&kind.name, key))
    }

    /// Puts a kill into a process's mailbox: durable, fenced and in order, like any other message.
    ///
    /// # Errors
    /// If the engine does not take it.
    pub fn kill(&self, kind: &KindInfo, key: &[u8]) -> Result<Ticket> {
        let partition = kind.mailbox.partition_of(key);
        self.engine.append(kind.mailbox.stream, partition, mail::kill(key)?)
    }

    /// Says on `$supervisor` that a person has ended a process.
    pub fn note_kill(&self, kind: &KindInfo, key: &[u8], now: Time) {
        let task = kind.mailbox.partition_of(key);
        let task = TaskPath::new(&kind.flow, &kind.name, task);
        let reason = format!("{}/{} was killed by request", kind.name, display(key));
        self.note(&task, What::Killed, "", &reason, 1, now);
    }

    /// The committed state of a process, found on whichever task has it.
    pub fn inspect(&self, kind: &str, key: &[u8]) -> Option<Vec<u8>> {
        let slots = lock(&self.slots).clone();
        slots.iter().find_map(|slot| {
            let tenant = lock(&slot.current).clone();
            lock(&tenant.task).inspect(kind, key)
        })
    }

    /// Stops the sources of all flows for good; what was taken in is still worked off.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`Node::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether nothing is left to work off: all streams are read, no task is ready, and sinks have
    /// written what was committed.
    pub fn is_drained(&self) -> bool {
        // What a flow has left that no longer runs waits for it to be mended.
        let running = |f: &&FlowEntry| f.state == FlowState::Running;
        let flows: Vec<_> = {
            let flows = lock(&self.flows);
            let running = flows.values().filter(running);
            running.map(|f| (f.slots.clone(), f.streams.clone())).collect()
        };
        let slots = lock(&self.slots).clone();
        let settled = |id: &SlotId| {
            let slot = slots.get(*id);
            slot.is_none_or(|s| lock(&s.current).settled.load(Ordering::Relaxed))
        };
        flows.iter().all(|(ids, streams)| {
            let Some(before) = self.queue.quiet(ids) else { return false };
            ids.iter().all(settled)
                && streams.iter().all(|s| self.engine.backlog(*s).rows == 0)
                && self.queue.quiet(ids) == Some(before)
        })
    }
}

fn inputs(stage: &Stage) -> Vec<StreamId> {
    stage.front.streams.iter().map(|front| front.stream).collect()
}

#[cfg(test)]
mod tests;
