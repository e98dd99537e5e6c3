//! The engine itself: opening a disk, and what everybody may ask.

use std::sync::Arc;

use millstream_core::{
    Code, Error, Frame, Result,
    disk::Disk,
    engine::{
        AtRest, Backlog, Engine, EngineStats, Health, Lease, StreamInfo, StreamSpec, TaskSpec,
        Ticket,
    },
    ledger::Ledger,
    turn::{Change, Progress, StreamId, TaskId},
};

use super::{
    commit::Committer,
    compact::Compactor,
    lease::EmbeddedLease,
    ledger,
    lock::DirLock,
    options::Options,
    record::{Kind, OpenMeta, Record},
    recover::recover,
    shared::{Inner, Reader, Shared},
    state::{no_partition, partition},
};

/// State handed out at once to a visitor, in bytes.
const VISIT_BYTES: usize = 4 << 20;

/// A segment log on one disk. Cheap to clone: share it.
#[derive(Clone)]
pub struct EmbeddedEngine {
    pub(super) shared: Arc<Shared>,
}

/// An engine and the two state machines that work for it.
pub struct Opened {
    /// What tasks and people talk to.
    pub engine: Arc<EmbeddedEngine>,
    /// Makes turns durable; step or run it, or nothing ever is.
    pub committer: Committer,
    /// Keeps state and old segments small; step or run it, or they grow.
    pub compactor: Compactor,
}

impl EmbeddedEngine {
    /// Opens the log on a disk, or begins one if the disk is empty. Writes only what it has found
    /// at the end of the log and cannot tell to be durable.
    ///
    /// # Errors
    /// [`Code::Corrupt`] naming file and byte if something that was durable is damaged.
    pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Opened> {
        EmbeddedEngine::open_locked(options, disk, None)
    }

    pub(super) fn open_locked(
        options: Options,
        disk: Arc<dyn Disk>,
        lock: Option<DirLock>,
    ) -> Result<Opened> {
        let mut found = recover(&*disk)?;
        let last = found.next_seq - 1;
        let obsolete = std::mem::take(&mut found.orphan_runs).into_iter().map(|run| (last, run));
        let mut inner = Inner::new(std::mem::take(&mut found.state), found.next_seq);
        inner.pending_bytes = found.tail.iter().map(Record::len).sum();
        let shared = Arc::new(Shared::new(disk, options, inner, found.durable, lock));
        let rewrite = !found.tail.is_empty();
        let mut committer = Committer::new(shared.clone(), found);
        if rewrite {
            // What was durable should be so at once. If it fails, the next step tries again.
            committer.step();
        }
        let compactor = Compactor::new(shared.clone(), obsolete.collect());
        Ok(Opened { engine: Arc::new(EmbeddedEngine { shared }), committer, compactor })
    }

    /// Opens the log to look at it: nothing is written, no task can be opened.
    ///
    /// # Errors
    /// As [`EmbeddedEngine::open`].
    pub fn read_only(options: Options, disk: Arc<dyn Disk>) -> Result<Arc<EmbeddedEngine>> {
        let found = recover(&*disk)?;
        let inner = Inner::new(found.state, found.next_seq);
        let mut shared = Shared::new(disk, options, inner, found.next_seq - 1, None);
        shared.read_only = true;
        Ok(Arc::new(EmbeddedEngine { shared: Arc::new(shared) }))
    }

    /// Bytes of turns that are committed but not durable. Whoever produces turns stops at a bound.
    pub fn pending_bytes(&self) -> u64 {
        self.shared.lock().pending_bytes
    }

    /// Refuses further turns and lets [`Committer::run`] return once everything queued was written
    /// (or could not be).
    pub fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
        self.shared.upkeep.notify_all();
    }

    /// The lock on the engine's directory, if [`super::open_dir`] has opened it.
    pub fn dir_lock(&self) -> Option<&DirLock> {
        self.shared.dir_lock.as_ref()
    }

    /// What it knows beside frames and state, for another engine to go on there.
    pub fn at_rest(&self) -> AtRest {
        ledger::at_rest(&self.shared.lock().state)
    }

    /// Queues a task's open record, or finds the one that is queued. Returns its sequence number.
    fn opening(&self, spec: &TaskSpec) -> Result<(TaskId, u64)> {
        let mut inner = self.shared.lock();
        self.shared.writable(&inner)?;
        let id = inner.state.task_id(&spec.name);
        if let Some(task) = inner.state.task(id) {
            if !spec.inputs.starts_with(&task.inputs) {
                return Err(spec.conflict(&task.inputs));
            }
            task.waker = Some(spec.waker.clone());
            if let Some(seq) = task.opening {
                return Ok((id, seq));
            }
        }
        for input in &spec.inputs {
            if partition(&mut inner.state.streams, input.stream.0, input.partition).is_none() {
                return Err(no_partition(input.stream.0, input.partition));
            }
        }
        let meta = OpenMeta { task: id, name: spec.name.clone(), inputs: spec.inputs.clone() };
        let mut record = Record::new(Kind::Open, &meta, Vec::new())?;
        record.task = Some(id);
        // A number is used up only by a record that is queued: a gap would end the log.
        let seq = inner.next_seq;
        inner.state.apply_open(meta, seq)?;
        record.seq = inner.sequence();
        if let Some(task) = inner.state.task(id) {
            task.waker = Some(spec.waker.clone());
        }
        self.shared.enqueue(inner, record);
        Ok((id, seq))
    }
}

impl Engine for EmbeddedEngine {
    fn create_stream(&self, spec: &StreamSpec) -> Result<StreamId> {
        spec.check()?;
        let mut record = Record::new(Kind::Stream, spec, Vec::new())?;
        let mut inner = self.shared.lock();
        if let Some(id) = inner.state.stream_ids.get(&spec.name).copied() {
            return match inner.state.streams.get(id as usize) {
                Some(stream) if stream.spec != *spec => Err(stream.spec.conflict(spec)),
                _ => Ok(StreamId(id)),
            };
        }
        self.shared.writable(&inner)?;
        record.seq = inner.sequence();
        let id = inner.state.apply_stream(spec.clone());
        self.shared.enqueue(inner, record);
        Ok(StreamId(id))
    }

    fn streams(&self) -> Vec<StreamInfo> {
        ledger::streams(&self.shared.lock().state)
    }

    fn open(&self, spec: &TaskSpec) -> Result<Option<Box<dyn Lease>>> {
        let (id, seq) = self.opening(spec)?;
        if seq > self.shared.durable() {
            return Ok(None);
        }
        Ok(Some(Box::new(EmbeddedLease::new(self.shared.clone(), id)?)))
    }

    fn read(
        &self,
        stream: StreamId,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Frame)>> {
        self.shared.frames(stream.0, partition, from, bytes_max, Reader::Person)
    }

    fn backlog(&self, stream: StreamId) -> Backlog {
        ledger::backlog(&self.shared.lock().state, stream)
    }

    fn append(&self, stream: StreamId, partition: u32, frame: Frame) -> Result<Ticket> {
        self.shared.append(stream.0, partition, frame).map(Ticket)
    }

    fn durable(&self, ticket: Ticket) -> bool {
        ticket.0 <= self.shared.durable()
    }

    fn committed(&self) -> Ticket {
        Ticket(self.shared.lock().next_seq - 1)
    }

    fn visit_state(
        &self,
        task: TaskId,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut look = EmbeddedLease::look(self.shared.clone(), task)?;
        while !look.restore(VISIT_BYTES, take)? {}
        Ok(())
    }

    fn ledger(&self) -> Ledger {
        ledger::ledger(&self.shared.lock().state)
    }

    fn tasks(&self) -> Vec<(String, TaskId, Progress)> {
        let inner = self.shared.lock();
        let tasks = inner.state.tasks.iter();
        let tasks: Vec<_> = tasks.map(|t| (t.name.clone(), t.id, t.progress.clone())).collect();
        drop(inner);
        tasks.into_iter().map(|(name, id, progress)| (name, id, (*progress).clone())).collect()
    }

    fn stats(&self) -> EngineStats {
        let inner = self.shared.lock();
        EngineStats { bytes_stored: inner.stored(), ..inner.stats }
    }

    fn health(&self) -> Health {
        let mut inner = self.shared.lock();
        let full = inner.is_full(&self.shared.options);
        if full {
            // Nothing may be written that would tell the compactor; and whoever asks waits for it.
            inner.upkeep += 1;
            self.shared.upkeep.notify_one();
        }
        let limit = || {
            let max = self.shared.options.disk_bytes_max.filter(|_| full)?;
            let stored = inner.stored();
            let message = format!("{stored} bytes are stored; the limit is {max}, so sources wait");
            let error = Error::new(Code::DiskFull, message);
            Some(error.help("raise `disk_bytes_max`, and leave room on the disk beyond it"))
        };
        let error = inner.commit_error.clone().or_else(|| inner.upkeep_error.clone());
        let place = self.shared.dir_lock.as_ref().map(|lock| lock.dir().display());
        Health {
            error: error.or_else(limit).map(|e| match place {
                Some(place) => e.at(place),
                None => e,
            }),
            pending_bytes: inner.pending_bytes,
            full,
            bad_reads: self.shared.bad_reads.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}
