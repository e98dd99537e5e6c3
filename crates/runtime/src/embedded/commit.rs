//! The committer: makes committed turns durable, many with one sync.
//!
//! *What:* a state machine with one operation, [`Committer::step`]: take what is queued, append it,
//! sync, tell. It owns no thread and reads no clock.
//!
//! *Invariants*
//! - `durable` advances only after the sync that covers it, and never over a gap.
//! - A batch is written again until it is durable; nothing else is written before it.
//! - A segment's first record is durable before anything follows it.
//!
//! *Failure:* after a failed append the partial tail is cut off before the next try. After a failed
//! sync nothing that was not durable before is trusted any more; see [`Committer::sync`].

use std::{
    mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use millstream_core::{Code, Error, Result, disk::DiskFile};

use super::{
    index,
    options::Durability,
    record::{Entry, Kind, Record},
    recover::Found,
    segment,
    shared::{Inner, Shared, Wakes},
    snapshot::{Extent, Snapshot, Start},
    space::Segment,
};

/// The compactor looks for work when this much has become durable.
const UPKEEP_BYTES: u64 = 1 << 20;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing: there is nothing to do.
    Idle,
    /// Something; there may be more.
    Worked,
    /// It failed; [`millstream_core::engine::Health::error`] says why. Try again later.
    Failed,
}

/// Makes committed turns durable. There is one per engine.
pub struct Committer {
    shared: Arc<Shared>,
    active: Option<Active>,
    /// Taken from the queue and not yet durable.
    batch: Vec<Record>,
    /// A segment to start before the batch is written.
    before: Option<Plan>,
    /// A segment to start once the batch is durable.
    after: Option<Plan>,
    /// Where the log ends, and up to where a sync has confirmed it.
    position: u64,
    synced: u64,
    /// Records of the first batch that recovery has found, until they are durable anew.
    again: u32,
    /// What lies in the segment, for its index.
    entries: Vec<Entry>,
    /// Bytes made durable since the compactor was told.
    untold: u64,
    /// Indexes that recovery had to rebuild.
    unindexed: Vec<(Extent, Vec<Entry>)>,
    /// Segments that recovery has found and that nothing needs.
    orphans: Vec<u64>,
}

/// The segment being written.
struct Active {
    base: u64,
    file: Arc<dyn DiskFile>,
    /// A failed append has left bytes behind the end.
    torn: bool,
}

/// A segment to start.
struct Plan {
    snapshot: Option<Snapshot>,
    seq: u64,
    /// Segments that the snapshot does not need.
    dead: Vec<u64>,
    /// Records that come next and are in the segment before, too.
    again: u32,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, found: Found) -> Committer {
        let mut committer = Committer {
            shared,
            active: None,
            batch: found.tail,
            before: None,
            after: None,
            position: found.position,
            synced: found.position,
            again: 0,
            entries: Vec::new(),
            untold: 0,
            unindexed: found.unindexed,
            orphans: found.orphan_segments,
        };
        let shared = committer.shared.clone();
        let plan = committer.plan(&mut shared.lock());
        match committer.batch.first() {
            None => committer.before = Some(plan),
            // What was found and may not be durable is written anew, as after a failed sync.
            Some(first) => {
                let (seq, dead) = (first.seq, Vec::new());
                committer.again = committer.batch.len() as u32;
                let again = committer.again;
                committer.before = Some(Plan { snapshot: None, seq, dead, again });
                committer.after = Some(plan);
            }
        }
        committer
    }

    /// Writes and syncs one batch, or finishes what an earlier step could not.
    pub fn step(&mut self) -> Progress {
        let result = self.try_step();
        let mut inner = self.shared.lock();
        match result {
            Ok(progress) => {
                inner.commit_error = None;
                progress
            }
            Err(e) => {
                inner.commit_error = Some(e);
                Progress::Failed
            }
        }
    }

    /// Steps until the engine stops, on the calling thread, at most once in
    /// [`super::Options::sync_every`]. Waits without using the processor when there is nothing to
    /// do, and [`super::Options::retry`] after a failure.
    pub fn run(mut self) {
        loop {
            // Clock: this loop is the committer's own thread; simulations call `step`.
            let begun = Instant::now();
            let progress = self.step();
            if !self.wait(progress, begun.elapsed()) {
                return;
            }
        }
    }

    /// Waits after a step that did `progress` and took `elapsed`; whether there is to be another.
    pub(super) fn wait(&self, progress: Progress, elapsed: Duration) -> bool {
        let inner = self.shared.lock();
        let quiet = inner.queue.is_empty() && !inner.roll;
        // A poisoned lock ends it: the engine is dead.
        match progress {
            Progress::Worked => {
                drop(inner);
                thread::sleep(self.shared.options.sync_every.saturating_sub(elapsed));
                true
            }
            Progress::Failed if inner.stopping => false,
            // What was queued since the step is still written.
            Progress::Idle if !quiet => true,
            Progress::Idle if inner.stopping => false,
            Progress::Idle => self.shared.work.wait(inner).is_ok(),
            Progress::Failed => {
                let retry = self.shared.options.retry;
                let waits = |inner: &mut Inner| !inner.stopping;
                self.shared.work.wait_timeout_while(inner, retry, waits).is_ok()
            }
        }
    }

    fn try_step(&mut self) -> Result<Progress> {
        // A snapshot that is due tells of nothing behind the last batch: it comes before the next.
        if self.batch.is_empty() && self.after.is_some() {
            self.before = self.after.take();
        } else if self.batch.is_empty() {
            self.take();
            if self.batch.is_empty() && self.after.is_none() {
                return Ok(Progress::Idle);
            }
        }
        if let Some(plan) = self.before.take() {
            match self.start(&plan) {
                Ok(active) => self.started(active, plan),
                Err(e) => {
                    self.before = Some(plan);
                    return Err(e);
                }
            }
        }
        if !self.batch.is_empty() {
            self.write()?;
            self.sync()?;
            self.publish();
        }
        Ok(Progress::Worked)
    }

    /// Takes a batch, and with it the snapshot behind which the next segment will start.
    fn take(&mut self) {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        let base = self.active.as_ref().map_or(self.position, |a| a.base);
        let written = self.position - base;
        // A snapshot does not fill its segment: a large one would have the next one start at once.
        let head = inner.state.space.segments.get(&base).map_or(0, |segment| segment.head);
        // A snapshot tells of everything that was committed, so all of it must come before.
        let close = self.after.is_none()
            && ((written > 0 && inner.roll)
                || (written + inner.pending_bytes).saturating_sub(head)
                    >= shared.options.segment_bytes);
        let mut bytes = 0;
        while let Some(record) = inner.queue.front() {
            if !close && bytes > 0 && bytes + record.len() > shared.options.batch_bytes {
                break;
            }
            bytes += record.len();
            self.batch.extend(inner.queue.pop_front());
        }
        if close {
            self.after = Some(self.plan(&mut inner));
        }
        inner.roll = false;
    }

    /// Takes a snapshot of the state as it is now.
    fn plan(&self, inner: &mut Inner) -> Plan {
        let active = self.active.as_ref().map(|a| a.base);
        let segments = inner.state.space.segments.iter();
        let dead = segments.filter(|(base, s)| s.live == 0 && Some(**base) != active);
        Plan {
            dead: dead.map(|(base, _)| *base).collect(),
            snapshot: Some(inner.state.snapshot()),
            seq: inner.next_seq,
            again: 0,
        }
    }

    fn write(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else {
            return Err(Error::new(Code::Bug, "no segment to write to"));
        };
        let len = self.position - active.base;
        let place = |e| Error::io(segment::path(active.base), &e);
        if active.torn {
            active.file.truncate(len).map_err(place)?;
        }
        active.torn = true;
        let mut position = self.position;
        let mut heads = Vec::with_capacity(self.batch.len());
        for record in &self.batch {
            heads.push(record.head(position, self.synced));
            position += record.len();
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(4 * heads.len());
        for (head, record) in heads.iter().zip(&self.batch) {
            parts.push(head);
            parts.extend(record.body());
        }
        active.file.append(&parts).map_err(place)?;
        active.torn = false;
        self.shared.lock().stats.bytes_written += position - self.position;
        Ok(())
    }

    /// Makes the batch durable.
    ///
    /// A failed sync must not be repeated: the kernel reports a lost write once, marks the pages
    /// clean and lets the next sync succeed although nothing was saved (PostgreSQL's "fsyncgate").
    /// So the batch, which is exactly what was not durable yet, is written anew to a fresh segment
    /// that starts at the last durable position; the old segment ends there, whatever follows in
    /// it.
    fn sync(&mut self) -> Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        if self.shared.options.durability == Durability::OsCache {
            return Ok(());
        }
        let synced = active.file.sync();
        self.shared.lock().stats.fsyncs += 1;
        synced.map_err(|e| {
            let seq = self.batch.first().map_or(0, |r| r.seq);
            let again = self.again;
            self.before = Some(Plan { snapshot: None, seq, dead: Vec::new(), again });
            Error::io(segment::path(active.base), &e)
        })
    }

    /// Tells everybody that the batch is durable.
    fn publish(&mut self) {
        let Some(active) = &self.active else { return };
        let mut wakes = Wakes::default();
        let batch = mem::take(&mut self.batch);
        self.again = 0;
        {
            let mut inner = self.shared.lock();
            for record in &batch {
                let offset = self.position - active.base + record.parts_at();
                for entry in &record.entries {
                    let entry = Entry { offset: entry.offset + offset, ..*entry };
                    inner.state.place(active.base, &entry);
                    self.entries.push(entry);
                }
                let asked = matches!(record.kind, Kind::Manifest | Kind::Evacuate);
                self.untold += if asked { UPKEEP_BYTES } else { record.len() };
                self.position += record.len();
                inner.pending_bytes -= record.len();
                if let Some(task) = record.task {
                    inner.wake_task(task, &mut wakes);
                }
            }
            if let Some(segment) = inner.state.space.segments.get_mut(&active.base) {
                segment.end = self.position;
            }
            let state = &mut inner.state;
            state.space.shrink(&mut state.streams, self.shared.options.cache_bytes);
            if let Some(last) = batch.last() {
                self.shared.set_durable(last.seq);
            }
            if self.untold >= UPKEEP_BYTES {
                self.untold = 0;
                inner.upkeep += 1;
                self.shared.upkeep.notify_one();
            }
        }
        if self.shared.options.durability == Durability::Fsync {
            self.synced = self.position;
        }
        wakes.call();
        // Freeing what was written is no reader's business: it happens outside the lock.
        drop(batch);
    }

    /// Starts a segment at the end of the log, durably.
    fn start(&mut self, plan: &Plan) -> Result<Active> {
        let os_cache = self.shared.options.durability == Durability::OsCache;
        if let Some(active) = self.active.as_ref().filter(|_| os_cache) {
            // Segments behind the last are taken for durable when the log is opened.
            active.file.sync().map_err(|e| Error::io(segment::path(active.base), &e))?;
        }
        let base = self.position;
        let mut segments = self.shared.lock().state.space.extents();
        segments.retain(|s| !plan.dead.contains(&s.base));
        let start = Start { segments, snapshot: plan.snapshot.clone(), again: plan.again };
        let mut record = Record::new(Kind::Start, &start, Vec::new())?;
        record.seq = plan.seq;
        let head = record.head(base, self.position);
        let mut parts = vec![head.as_slice()];
        parts.extend(record.body());
        let path = segment::path(base);
        let place = |e| Error::io(&path, &e);
        let file = self.shared.disk.create(&path).map_err(place)?;
        file.append(&parts).map_err(place)?;
        file.sync().map_err(place)?;
        self.shared.disk.sync_dir(segment::LOG).map_err(place)?;
        self.position += record.len();
        self.synced = self.position;
        let mut inner = self.shared.lock();
        inner.stats.fsyncs += 1;
        inner.stats.bytes_written += record.len();
        let segment =
            Segment { file: file.clone(), end: self.position, live: 0, head: record.len() };
        inner.state.space.segments.insert(base, segment);
        Ok(Active { base, file, torn: false })
    }

    /// Takes leave of the segment before, and of what the new one's snapshot does not need.
    fn started(&mut self, active: Active, plan: Plan) {
        let old = self.active.replace(active);
        self.index(old);
        self.remove(&plan.dead);
        if plan.snapshot.is_some() {
            let mut orphans = mem::take(&mut self.orphans);
            // One may have got the name of a segment that was started meanwhile.
            let inner = self.shared.lock();
            orphans.retain(|base| !inner.state.space.segments.contains_key(base));
            drop(inner);
            self.remove(&orphans);
        }
    }

    /// Writes the index of a closed segment, and those that recovery has missed. They only save
    /// time, so a failure is of no account.
    fn index(&mut self, closed: Option<Active>) {
        let entries = mem::take(&mut self.entries);
        if let Some(closed) = closed {
            let end = self.active.as_ref().map_or(self.position, |a| a.base);
            self.unindexed.push((Extent { base: closed.base, end }, entries));
        }
        for (extent, entries) in mem::take(&mut self.unindexed) {
            let written = index::write(&*self.shared.disk, extent, &entries).unwrap_or(0);
            self.shared.lock().stats.bytes_written += written;
        }
    }

    /// Removes segments that no snapshot needs. What cannot be removed now goes when the log is
    /// opened next.
    fn remove(&mut self, dead: &[u64]) {
        for base in dead {
            let segment = self.shared.lock().state.space.segments.remove(base);
            let removed = self.shared.disk.remove(&segment::path(*base));
            let _ = self.shared.disk.remove(&index::path(*base));
            if segment.is_some() && removed.is_ok() {
                self.shared.lock().stats.segments_trimmed += 1;
            }
        }
    }
}
