//! What the engine does beside its tasks: makes topics, tells others how far tasks are, removes
//! what was read, appends what comes from outside.
//!
//! *Determinism:* [`Upkeep::step`] and [`Trimmer::step`] are driven from outside; [`Threads`] does
//! so in production.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use millstream_core::{
    Error, Result, Time,
    engine::{InputSpec, TaskSpec},
    turn::{StreamId, TaskId},
};

use super::{
    Connected, KafkaEngine,
    codec::{Turned, foreign, pack, unpack},
    membership::Public,
    shared::{Shared, lock},
    topics,
    views::OUTSIDE,
};
use crate::client::{Reader, Record, Records, TopicPartition};

/// How often others are told how far tasks are.
pub const TELL_EVERY: Duration = Duration::from_millis(500);
/// How often what was read is removed.
pub const TRIM_EVERY: Duration = Duration::from_secs(1);
/// How often a task that Kafka denies something tries again.
pub const TRY_EVERY: Duration = Duration::from_secs(1);
/// How long the thread waits when nothing is asked of it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The work beside the tasks.
pub struct Upkeep {
    engine: KafkaEngine,
    at: TopicPartition,
    progress: Box<dyn Reader>,
    /// The first offset of the progress topic that was not read.
    next: u64,
    told: Duration,
    tried: Duration,
}

impl Upkeep {
    pub(super) fn new(engine: KafkaEngine, progress: Box<dyn Reader>) -> Upkeep {
        let at = TopicPartition::new(engine.shared.names.progress(), 0);
        Upkeep { engine, at, progress, next: 0, told: Duration::ZERO, tried: Duration::ZERO }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.engine.shared
    }

    /// Does what is due at `elapsed`, a time since the node's start. Waits for Kafka where it has
    /// to ask it something.
    ///
    /// # Errors
    /// If Kafka refuses or cannot be reached; another step tries again.
    pub fn step(&mut self, elapsed: Duration) -> Result<()> {
        if elapsed >= self.tried + TRY_EVERY || elapsed < self.tried {
            self.tried = elapsed;
            self.shared().try_again();
        }
        self.shared().pump()?;
        self.hear()?;
        self.make_topics();
        self.append_outside()?;
        if elapsed >= self.told + TELL_EVERY || elapsed < self.told {
            self.told = elapsed;
            self.tell()?;
        }
        Ok(())
    }

    /// Whether everything that was in the progress topic at `end` was read.
    pub(super) fn has_heard(&mut self, end: u64) -> Result<bool> {
        self.hear()?;
        Ok(self.next >= end)
    }

    fn hear(&mut self) -> Result<()> {
        while let Some(piece) = self.progress.poll()? {
            for (offset, record) in piece.iter() {
                let id = record.key.and_then(|key| key.try_into().ok()).map(u32::from_le_bytes);
                let turned = record.value.and_then(unpack::<Turned>);
                let (Some(id), Some(turned)) = (id, turned) else {
                    return Err(foreign(&self.at, offset));
                };
                let shared = self.shared();
                let ended = turned.progress.ended;
                let later = lock(&shared.views).update(TaskId(id), turned);
                if let (true, true, Some(placed)) = (later, ended, &shared.placed) {
                    let name = lock(&shared.registry).task(TaskId(id)).map(|t| t.name.clone());
                    name.iter().for_each(|name| placed.wake(name));
                }
                self.next = offset + 1;
            }
        }
        Ok(())
    }

    /// Tells others of turns since the last time.
    pub(super) fn tell(&mut self) -> Result<()> {
        let mut records = Records::default();
        let mut views = lock(&self.shared().views);
        let fresh = std::mem::take(&mut views.fresh);
        for id in &fresh {
            if let Some(turned) = views.task(*id) {
                records.push(&self.at, Record::of(&id.0.to_le_bytes(), Some(&pack(turned)?)));
            }
        }
        drop(views);
        if !records.is_empty() {
            let shared = self.shared();
            // Not all that is shared: who drops the client must not be a thread of the client's.
            let (views, telling) = (shared.views.clone(), shared.telling.clone());
            let signal = shared.signal.clone();
            let again = move |told: Result<u64>| {
                if told.is_err() {
                    lock(&views).fresh.extend(&fresh);
                }
                telling.fetch_sub(1, Ordering::Relaxed);
                signal.raise();
            };
            shared.telling.fetch_add(1, Ordering::Relaxed);
            shared.client.append(records, Box::new(again));
        }
        Ok(())
    }

    fn make_topics(&self) {
        let shared = self.shared();
        let wanted = std::mem::take(&mut lock(&shared.topics).wanted);
        for (stage, tasks) in wanted {
            let made = topics::state(shared.client.as_ref(), &shared.names, &stage, tasks);
            let mut topics = lock(&shared.topics);
            match made {
                Ok(topic) => drop(topics.there.insert(stage, topic)),
                Err(error) => drop(topics.wrong.insert(stage, error)),
            }
            drop(topics);
            shared.wake_all();
        }
    }

    fn append_outside(&self) -> Result<()> {
        let shared = self.shared();
        if lock(&shared.outside).wants_lease() {
            let signal = shared.signal.clone();
            let spec = TaskSpec {
                name: format!("{OUTSIDE}/{}/0", shared.node),
                tasks: 1,
                inputs: Vec::new(),
                waker: Arc::new(move || signal.raise()),
            };
            if let Some(lease) = self.engine.take_over(&spec, None)? {
                let done = lock(&shared.outside).take_over(lease);
                done.into_iter().for_each(|ticket| shared.decided(ticket, 0));
            }
        }
        let done = lock(&shared.outside).pump();
        done.into_iter().for_each(|ticket| shared.decided(ticket, 0));
        Ok(())
    }
}

/// Removes what all consumers have read: apart, since Kafka takes its time for it.
pub struct Trimmer {
    shared: Arc<Shared>,
    removed: BTreeMap<(StreamId, u32), u64>,
}

impl Trimmer {
    pub(super) fn new(shared: Arc<Shared>) -> Trimmer {
        Trimmer { shared, removed: BTreeMap::new() }
    }

    /// Removes what was read since the last step, and waits for it.
    ///
    /// # Errors
    /// If Kafka refuses or cannot be reached; another step tries again.
    pub fn step(&mut self) -> Result<()> {
        let (mut offsets, mut keeps) = (Vec::new(), Vec::new());
        {
            let registry = lock(&self.shared.registry);
            let mut views = lock(&self.shared.views);
            for at @ (stream, partition) in std::mem::take(&mut views.read) {
                let keep = views.keep_from(&registry, &InputSpec { stream, partition });
                let removed = self.removed.get(&at).copied().unwrap_or_default();
                if let Some(keep) = keep.filter(|keep| *keep > removed) {
                    offsets.push((registry.partition(stream, partition)?, keep));
                    keeps.push((at, keep));
                }
            }
        }
        if offsets.is_empty() {
            return Ok(());
        }
        match self.shared.client.delete_before(&offsets) {
            Ok(()) => self.removed.extend(keeps),
            Err(error) => {
                lock(&self.shared.views).read.extend(keeps.into_iter().map(|(at, _)| at));
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Drives an engine's upkeep until dropped.
pub struct Threads {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    public: Arc<Public>,
    threads: Vec<JoinHandle<()>>,
}

/// The wall clock at the start, and from then on one that never goes back.
pub fn clock() -> Time {
    use std::time::{Instant, SystemTime, UNIX_EPOCH};
    // Clock: this thread is production's.
    static START: LazyLock<(Instant, Duration)> = LazyLock::new(|| {
        (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    });
    Time::from_ms((START.1 + START.0.elapsed()).as_millis() as i64)
}

impl Threads {
    /// Starts the threads.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start(connected: Connected) -> Result<Threads> {
        let Connected { mut upkeep, mut trimmer, membership, .. } = connected;
        let stop = Arc::new(AtomicBool::new(false));
        let shared = upkeep.engine.shared.clone();
        let public = upkeep.engine.public.clone();
        let mut threads = Threads { stop, shared, public: public.clone(), threads: Vec::new() };
        let (shared, stop) = (threads.shared.clone(), threads.stop.clone());
        threads.spawn("kafka-upkeep", move || {
            // Clock: this thread is production's.
            let begun = std::time::Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let seen = shared.signal.seen();
                let stepped = upkeep.step(begun.elapsed());
                lock(&shared.trouble).clone_from(&stepped.err());
                shared.signal.wait(seen, LOOK_EVERY);
            }
            // The last word on how far tasks are. Without it others know a moment less.
            drop(upkeep.tell());
            drop(upkeep.engine.wait("to say how far tasks are", || {
                Ok(shared.telling.load(Ordering::Relaxed) == 0)
            }));
        })?;
        let stop = threads.stop.clone();
        threads.spawn("kafka-trim", move || {
            while !stop.load(Ordering::Relaxed) {
                // What cannot be removed now can be later, and lies there meanwhile.
                drop(trimmer.step());
                std::thread::park_timeout(TRIM_EVERY);
            }
        })?;
        if let Some(mut membership) = membership {
            let stop = threads.stop.clone();
            threads.spawn("kafka-members", move || {
                while !stop.load(Ordering::Relaxed) {
                    let seen = public.signal.seen();
                    let now = clock();
                    // What cannot be read now is read later; a node that is silent counts as dead.
                    drop(membership.step(now));
                    let wait = membership.next_wake().ms().saturating_sub(now.ms()).clamp(1, 100);
                    public.signal.wait(seen, Duration::from_millis(wait as u64));
                }
            })?;
        }
        Ok(threads)
    }

    /// Lets other nodes take over all tasks. Whether they have, within `wait`.
    pub fn leave(&self, wait: Duration) -> bool {
        self.public.ask_to_leave();
        // Clock: whoever asks is no task.
        let begun = std::time::Instant::now();
        loop {
            let seen = self.public.signal.seen();
            if self.public.left.load(Ordering::Relaxed) {
                return true;
            }
            let Some(left) = wait.checked_sub(begun.elapsed()) else { return false };
            self.public.signal.wait(seen, left.min(LOOK_EVERY));
        }
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
        self.threads.push(spawned.map_err(|e| Error::io(format!("thread {name}"), &e))?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.shared.signal.raise();
        self.public.signal.raise();
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // It has panicked, or it has ended: nothing is left to do either way.
            drop(thread.join());
        }
    }
}
