//! What the engine, its leases, the committer and the compactor share.
//!
//! *Invariant:* one lock, held for memory work only: never during I/O, encoding or a waker's call.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow_buffer::MutableBuffer;
use millstream_core::{
    Code, Error, Frame, Result, Turn,
    disk::{Disk, DiskFile},
    engine::{EngineStats, Settlement, Waker},
    mutant::{self, Mutant},
    turn::TaskId,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    lock::DirLock,
    options::Options,
    record::{DeltaMeta, Kind, OutputMeta, Part, Record, TurnMeta, turn_entries as entries},
    segment,
    state::{DeltaSlot, State, arrival_of, no_partition, partition},
    stream::{Found, Place},
};

pub(super) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub options: Options,
    pub read_only: bool,
    /// Wakes the committer's thread.
    pub work: Condvar,
    /// Wakes the compactor's thread.
    pub upkeep: Condvar,
    /// The last sequence number that is durable.
    durable: AtomicU64,
    pub bad_reads: AtomicU64,
    inner: Mutex<Inner>,
    /// Held as long as the engine lives.
    pub dir_lock: Option<DirLock>,
}

pub(super) struct Inner {
    pub state: State,
    pub queue: VecDeque<Record>,
    /// Bytes queued or being written.
    pub pending_bytes: u64,
    pub next_seq: u64,
    pub stats: EngineStats,
    pub commit_error: Option<Error>,
    pub upkeep_error: Option<Error>,
    pub stopping: bool,
    /// Close the segment with the next batch although it is not full.
    pub roll: bool,
    /// Counts what could give the compactor work.
    pub upkeep: u64,
}

/// Who reads.
#[derive(Clone, Copy)]
pub(super) enum Reader {
    /// Committed frames, and never past a gap.
    Task,
    /// Durable frames, from the oldest that is there.
    Person,
}

/// Wakers to call once the lock is released, one per task.
#[derive(Default)]
pub(super) struct Wakes(Vec<(TaskId, Waker)>);

impl Wakes {
    pub fn add(&mut self, task: TaskId, waker: &Option<Waker>) {
        if let Some(waker) = waker
            && self.0.iter().all(|(t, _)| *t != task)
        {
            self.0.push((task, waker.clone()));
        }
    }

    pub fn call(self) {
        self.0.iter().for_each(|(_, wake)| wake());
    }
}

impl Inner {
    pub fn new(state: State, next_seq: u64) -> Inner {
        Inner {
            state,
            queue: VecDeque::new(),
            pending_bytes: 0,
            next_seq,
            stats: EngineStats::default(),
            commit_error: None,
            upkeep_error: None,
            stopping: false,
            roll: false,
            upkeep: 0,
        }
    }

    /// The next sequence number, for a record that is applied and queued under the same lock.
    pub fn sequence(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// Bytes in segments and runs.
    pub fn stored(&self) -> u64 {
        let segments = self.state.space.segments.iter().map(|(base, s)| s.end - base);
        let runs = self.state.tasks.iter().flat_map(|t| &t.runs).map(|r| r.bytes);
        segments.chain(runs).sum()
    }

    /// Whether they have reached their limit.
    pub fn is_full(&self, options: &Options) -> bool {
        options.disk_bytes_max.is_some_and(|max| self.stored() >= max)
    }

    pub fn consumers(&mut self, stream: u32, part: u32, wakes: &mut Wakes) {
        let State { streams, tasks, .. } = &mut self.state;
        let Some(part) = partition(streams, stream, part) else { return };
        for (task, _) in &part.consumers {
            if let Some(task) = tasks.get(*task as usize - 1) {
                wakes.add(task.id, &task.waker);
            }
        }
    }

    pub fn wake_task(&self, task: TaskId, wakes: &mut Wakes) {
        if let Some(task) = self.state.tasks.get((task.0 as usize).wrapping_sub(1)) {
            wakes.add(task.id, &task.waker);
        }
    }
}

impl Shared {
    pub fn new(
        disk: Arc<dyn Disk>,
        options: Options,
        inner: Inner,
        durable: u64,
        dir_lock: Option<DirLock>,
    ) -> Shared {
        Shared {
            disk,
            options,
            read_only: false,
            work: Condvar::new(),
            upkeep: Condvar::new(),
            durable: AtomicU64::new(durable),
            bad_reads: AtomicU64::new(0),
            inner: Mutex::new(inner),
            dir_lock,
        }
    }

    /// Takes the lock. Panics if a thread has panicked under it: what it left half done must not
    /// be built upon.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        #[expect(clippy::expect_used, reason = "state half changed is worse than a dead engine")]
        self.inner.lock().expect("no panic under the engine's lock")
    }

    pub fn durable(&self) -> u64 {
        if mutant::is(Mutant::AcknowledgeBeforeSync) {
            return u64::MAX;
        }
        self.durable.load(Ordering::Acquire)
    }

    pub fn set_durable(&self, seq: u64) {
        self.durable.store(seq, Ordering::Release);
    }

    /// Refuses what would write.
    pub fn writable(&self, inner: &Inner) -> Result<()> {
        if self.read_only {
            return Err(Error::new(Code::Permission, "the engine was opened read-only").help(
                "only a node that runs changes anything: start one, and ask it with --node",
            ));
        }
        if inner.stopping {
            return Err(Error::new(Code::Failed, "the engine is stopping")
                .help("start the node again; it goes on from what was committed"));
        }
        Ok(())
    }

    /// Queues a record for the committer, which waits only while nothing is queued.
    pub fn enqueue(&self, mut inner: MutexGuard<'_, Inner>, record: Record) {
        let waits = inner.queue.is_empty();
        inner.pending_bytes += record.len();
        inner.queue.push_back(record);
        drop(inner);
        if waits {
            self.work.notify_one();
        }
    }

    /// Commits a turn: it gets its place in the order, becomes visible, and is queued.
    pub fn commit(&self, task: TaskId, epoch: u64, turn: Turn) -> Result<u64, Settlement> {
        let Turn { progress, delta, outputs, carried: _ } = turn;
        let fatal = Settlement::Fatal;
        let delta_meta = match (delta.is_empty(), u32::try_from(delta.bytes().len())) {
            (true, _) => None,
            (false, Ok(len)) => {
                Some(DeltaMeta { len, entries: delta.len() as u32, sum: xxh3_64(delta.bytes()) })
            }
            (false, Err(_)) => {
                return Err(fatal(
                    Error::new(Code::Limit, "state changes of more than 4 GiB in one turn")
                        .help("let fewer rows into a turn: Flow::limits"),
                ));
            }
        };
        let meta = TurnMeta {
            task,
            delta: delta_meta,
            outputs: outputs
                .iter()
                .map(|o| OutputMeta::of(o.stream.0, o.partition, &o.frame))
                .collect(),
            progress: &progress,
        };
        let delta = delta_meta.map(|_| Arc::new(delta));
        let parts = delta.iter().map(|d| Part::Delta(d.clone()));
        let parts = parts.chain(outputs.iter().map(|o| Part::Frame(o.frame.clone()))).collect();
        let mut record = Record::new(Kind::Turn, &meta, parts).map_err(fatal)?;
        let output_metas = meta.outputs;

        let mut wakes = Wakes::default();
        let seq = {
            let mut inner = self.lock();
            self.writable(&inner).map_err(fatal)?;
            match inner.state.task(task) {
                Some(task) if task.epoch == epoch || mutant::is(Mutant::AcceptFenced) => {}
                _ => return Err(Settlement::Fenced),
            }
            inner.state.check_outputs(&output_metas).map_err(fatal)?;
            let seq = inner.sequence();
            for output in &output_metas {
                inner.consumers(output.stream, output.partition, &mut wakes);
            }
            let slot = delta_meta.zip(delta);
            let slot =
                slot.map(|(meta, delta)| DeltaSlot { seq, meta, place: None, memory: Some(delta) });
            let arrivals =
                outputs.iter().map(|o| (o.stream.0, o.partition, arrival_of(&o.frame))).collect();
            record.seq = seq;
            record.task = Some(task);
            record.numbers = inner.state.apply_turn(seq, task, progress, slot, arrivals);
            record.entries = entries(task, delta_meta, &output_metas, seq, &record.numbers);
            inner.stats.turns += 1;
            inner.stats.bytes_committed +=
                record.entries.iter().map(|e| u64::from(e.len)).sum::<u64>();
            self.enqueue(inner, record);
            seq
        };
        wakes.call();
        Ok(seq)
    }

    /// Appends a frame from outside any task.
    pub fn append(&self, stream: u32, part: u32, frame: Frame) -> Result<u64> {
        let output = OutputMeta::of(stream, part, &frame);
        let mut record = Record::new(Kind::Append, &output, vec![Part::Frame(frame.clone())])?;
        let mut wakes = Wakes::default();
        let seq = {
            let mut inner = self.lock();
            self.writable(&inner)?;
            if partition(&mut inner.state.streams, stream, part).is_none() {
                return Err(no_partition(stream, part));
            }
            let seq = inner.sequence();
            inner.consumers(stream, part, &mut wakes);
            let number = inner.state.append_from_outside(seq, stream, part, arrival_of(&frame));
            record.seq = seq;
            record.numbers = vec![number];
            let item = super::record::frame_item(&output, seq, number);
            record.entries = super::record::place([(item, output.len)]);
            inner.stats.bytes_committed += u64::from(output.len);
            self.enqueue(inner, record);
            seq
        };
        wakes.call();
        Ok(seq)
    }

    /// Frames of a partition, as far as `reader` may see them.
    pub fn frames(
        &self,
        stream: u32,
        part: u32,
        from: u64,
        bytes_max: usize,
        reader: Reader,
    ) -> Result<Vec<(u64, Frame)>> {
        let found = {
            let mut inner = self.lock();
            let State { streams, space, .. } = &mut inner.state;
            let part_of =
                partition(streams, stream, part).ok_or_else(|| no_partition(stream, part))?;
            match reader {
                Reader::Person => part_of.find(from, bytes_max, self.durable(), space),
                Reader::Task if from < part_of.first => {
                    let first = part_of.first;
                    return Err(Error::new(
                        Code::Limit,
                        format!("frame {from} was trimmed; the oldest kept is {first}"),
                    ));
                }
                Reader::Task => part_of.find(from, bytes_max, u64::MAX, space),
            }
        };
        let fetch = |(number, found)| match found {
            Found::Memory(frame) => Ok((number, frame)),
            Found::Disk { file, place, len } => {
                let bytes = self.read(&file, place, len)?;
                let frame = Frame::decode(bytes.into()).map_err(|e| self.bad(place, e.message()));
                Ok((number, frame?))
            }
        };
        found.into_iter().map(fetch).collect()
    }

    /// Reads an item back.
    pub fn read(&self, file: &Arc<dyn DiskFile>, at: Place, len: u32) -> Result<MutableBuffer> {
        let mut bytes = MutableBuffer::from_len_zeroed(len as usize);
        file.read_at(at.offset, &mut bytes).map_err(|e| {
            self.bad_reads.fetch_add(1, Ordering::Relaxed);
            Error::io(format!("{} at byte {}", segment::path(at.segment), at.offset), &e)
        })?;
        Ok(bytes)
    }

    /// The error of an item that was read back and is not what was written.
    pub fn bad(&self, at: Place, why: &str) -> Error {
        self.bad_reads.fetch_add(1, Ordering::Relaxed);
        damaged(&segment::path(at.segment), at.offset, why)
    }
}

/// The error of bytes that were durable and are damaged.
pub(super) fn damaged(file: &str, offset: u64, why: &str) -> Error {
    Error::corrupt(format!("{file} is damaged at byte {offset}: {why}"))
        .help("the disk has changed what was written; restore the directory from a backup")
}
