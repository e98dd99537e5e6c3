//! The compactor: sorts state changes into runs, merges runs, and empties old segments.
//!
//! *What:* a state machine with one operation, [`Compactor::step`]. It owns no thread and reads no
//! clock; everything it decides goes through the log, so a crash anywhere leaves the state whole.
//!
//! *How runs are chosen:* a task's changes become a run of their own once they are as large as all
//! its runs together. Then, while there are too many runs or they are together more than twice the
//! largest, the cheapest pair of neighbours is merged. So state that grows is written about 1.3
//! times by compactions and state that is overwritten about once, and a restore reads at most about
//! four times the state.
//!
//! *Invariants*
//! - A run is complete and durable before the manifest that names it is queued.
//! - What a manifest replaces is removed only when the manifest is durable.
//! - A change in a later run, and any change in no run yet, replaces those in earlier runs.
//!
//! *Limits:* a step reads at most [`super::Options::compact_bytes_max`] of changes into memory, or
//! streams two runs, or copies [`super::Options::evacuate_bytes`].

use std::{collections::BTreeSet, sync::Arc};

use millstream_core::{
    Result,
    disk::DiskFile,
    turn::{Change, Delta, TaskId, changes},
};

use super::{
    commit::Progress,
    evacuate,
    lease::with_delta,
    options::Options,
    record::{Kind, ManifestMeta, Record, RunMeta},
    run::{self, RunReader, RunWriter},
    shared::{Inner, Shared},
    state::{DeltaSlot, Task},
};

/// Keeps state and old segments small. There is one per engine.
pub struct Compactor {
    pub(super) shared: Arc<Shared>,
    /// Files that can go once a record is durable.
    obsolete: Vec<(u64, String)>,
    /// The copy that is on its way to the log.
    pub(super) evacuating: Option<u64>,
    /// Segments that could not be read; they stay as they are.
    pub(super) damaged: BTreeSet<u64>,
    /// What [`Inner::upkeep`] was when the last step began.
    seen: u64,
}

/// What to make of a task's state.
enum Job {
    /// A run of the deltas up to `through`.
    Sort { deltas: Vec<(DeltaSlot, Option<Arc<dyn DiskFile>>)>, through: u64 },
    /// One run of runs `at` and `at + 1`.
    Merge { at: usize },
}

struct Plan {
    task: TaskId,
    runs: Vec<RunMeta>,
    through: u64,
    /// The new run's number.
    number: u64,
    job: Job,
}

impl Compactor {
    pub(super) fn new(shared: Arc<Shared>, obsolete: Vec<(u64, String)>) -> Compactor {
        Compactor { shared, obsolete, evacuating: None, damaged: BTreeSet::new(), seen: 0 }
    }

    /// Does one piece of work: one compaction, or one copy out of an old segment.
    pub fn step(&mut self) -> Progress {
        let result = self.try_step();
        let mut inner = self.shared.lock();
        match result {
            Ok(worked) => {
                inner.upkeep_error = None;
                if worked { Progress::Worked } else { Progress::Idle }
            }
            Err(e) => {
                inner.upkeep_error = Some(e);
                Progress::Failed
            }
        }
    }

    /// Steps until the engine stops, on the calling thread; waits as [`super::Committer::run`].
    pub fn run(mut self) {
        loop {
            let progress = self.step();
            let inner = self.shared.lock();
            let seen = self.seen;
            let dead = match progress {
                _ if inner.stopping => return,
                Progress::Worked => continue,
                Progress::Idle => {
                    let quiet = |inner: &mut Inner| !inner.stopping && inner.upkeep == seen;
                    self.shared.upkeep.wait_while(inner, quiet).map(drop).is_err()
                }
                Progress::Failed => {
                    let waits = |inner: &mut Inner| !inner.stopping;
                    let retry = self.shared.options.retry;
                    self.shared.upkeep.wait_timeout_while(inner, retry, waits).map(drop).is_err()
                }
            };
            if dead {
                return; // The lock is poisoned: the engine is dead.
            }
        }
    }

    fn try_step(&mut self) -> Result<bool> {
        self.seen = self.shared.lock().upkeep;
        self.remove_obsolete();
        if let Some(plan) = self.plan() {
            self.compact(plan)?;
            return Ok(true);
        }
        evacuate::step(self)
    }

    fn remove_obsolete(&mut self) {
        let durable = self.shared.durable();
        let disk = &self.shared.disk;
        self.obsolete.retain(|(seq, path)| {
            // What cannot be removed now goes when the log is opened next.
            *seq > durable || {
                let _ = disk.remove(path);
                false
            }
        });
    }

    /// The task that needs it most.
    fn plan(&self) -> Option<Plan> {
        let options = &self.shared.options;
        let inner = self.shared.lock();
        let space = &inner.state.space;
        let plan = |task: &Task, job| Plan {
            task: task.id,
            runs: task.runs.clone(),
            through: task.through,
            number: inner.next_seq,
            job,
        };
        let tasks = &inner.state.tasks;
        if let Some((task, at)) = tasks.iter().find_map(|t| Some((t, to_merge(&t.runs, options)?)))
        {
            return Some(plan(task, Job::Merge { at }));
        }
        let due = tasks.iter().filter(|t| t.delta_bytes >= threshold(&t.runs, options));
        let task = due.max_by_key(|t| t.delta_bytes)?;
        let mut bytes = 0;
        let written = task.deltas.iter().take_while(|d| {
            bytes += u64::from(d.meta.len);
            d.place.is_some() && bytes <= options.compact_bytes_max.max(u64::from(d.meta.len))
        });
        let file = |d: &DeltaSlot| d.place.and_then(|p| space.file(p.segment));
        let deltas: Vec<_> = written.map(|d| (d.clone(), file(d))).collect();
        let through = deltas.last()?.0.seq;
        Some(plan(task, Job::Sort { deltas, through }))
    }

    fn compact(&mut self, plan: Plan) -> Result<()> {
        let mut runs = plan.runs.clone();
        let mut through = plan.through;
        // An orphan of the same name is replaced, and must not be removed later.
        let path = run::path(plan.task, plan.number);
        self.obsolete.retain(|(_, obsolete)| *obsolete != path);
        let mut writer = Writer::new(&self.shared, plan.task, plan.number)?;
        let replaced = match &plan.job {
            Job::Sort { deltas, through: last } => {
                writer.keep_deletions = !runs.is_empty();
                self.sort(deltas, &mut writer)?;
                through = *last;
                runs.len()..runs.len()
            }
            Job::Merge { at } => {
                writer.keep_deletions = *at > 0;
                self.merge(plan.task, &runs[*at..*at + 2], &mut writer)?;
                *at..*at + 2
            }
        };
        runs.splice(replaced, writer.finish()?);
        let meta = ManifestMeta { task: plan.task, through, runs };
        let mut record = Record::new(Kind::Manifest, &meta, Vec::new())?;
        let mut inner = self.shared.lock();
        self.shared.writable(&inner)?;
        record.seq = inner.sequence();
        let seq = record.seq;
        let old = inner.state.apply_manifest(meta);
        self.obsolete.extend(old.iter().map(|r| (seq, run::path(plan.task, r.number))));
        inner.stats.compactions += 1;
        self.shared.enqueue(inner, record);
        Ok(())
    }

    fn sort(
        &self,
        deltas: &[(DeltaSlot, Option<Arc<dyn DiskFile>>)],
        writer: &mut Writer,
    ) -> Result<()> {
        let bytes: u64 = deltas.iter().map(|(slot, _)| u64::from(slot.meta.len)).sum();
        let mut all = Vec::with_capacity(bytes as usize);
        for (slot, file) in deltas {
            with_delta(&self.shared, slot, file.clone(), &mut |bytes| {
                all.extend_from_slice(bytes);
                Ok(())
            })?;
        }
        let mut sorted = changes(&all).collect::<Result<Vec<_>>>()?;
        // Stable: of the changes of one key the last stays last.
        sorted.sort_by(|a, b| order(a).cmp(&order(b)));
        for pair in sorted.windows(2) {
            if order(&pair[0]) != order(&pair[1]) {
                writer.push(pair[0])?;
            }
        }
        sorted.last().map_or(Ok(()), |last| writer.push(*last))
    }

    fn merge(&self, task: TaskId, runs: &[RunMeta], writer: &mut Writer) -> Result<()> {
        let cursor = |meta: &RunMeta| {
            let file = run::open(&*self.shared.disk, task, meta)?;
            Cursor::new(RunReader::new(task, meta, file))
        };
        let (mut old, mut new) = (cursor(&runs[0])?, cursor(&runs[1])?);
        loop {
            let next = match (old.change()?, new.change()?) {
                (None, None) => return Ok(()),
                (Some(o), None) => (o, true, false),
                (None, Some(n)) => (n, false, true),
                (Some(o), Some(n)) => match order(&o).cmp(&order(&n)) {
                    std::cmp::Ordering::Less => (o, true, false),
                    std::cmp::Ordering::Equal => (n, true, true),
                    std::cmp::Ordering::Greater => (n, false, true),
                },
            };
            let (change, from_old, from_new) = next;
            writer.push(change)?;
            if from_old {
                old.advance()?;
            }
            if from_new {
                new.advance()?;
            }
        }
    }
}

fn order<'a>(c: &Change<'a>) -> (u32, &'a [u8]) {
    (c.table.0, c.key)
}

/// How many bytes of changes a task gathers before they become a run.
fn threshold(runs: &[RunMeta], o: &Options) -> u64 {
    let runs: u64 = runs.iter().map(|r| r.bytes).sum();
    (runs * o.compact_percent / 100).min(o.compact_bytes_max).max(o.compact_bytes_min)
}

/// The first of the two neighbours to merge, if the runs are too many or hold too much twice.
fn to_merge(runs: &[RunMeta], o: &Options) -> Option<usize> {
    let total: u64 = runs.iter().map(|r| r.bytes).sum();
    let largest = runs.iter().map(|r| r.bytes).max()?;
    if runs.len() < 2 || (runs.len() <= o.runs_max && total <= 2 * largest + o.compact_bytes_min) {
        return None;
    }
    let pairs = runs.windows(2).enumerate();
    pairs.min_by_key(|(_, pair)| pair.iter().map(|r| r.bytes).sum::<u64>()).map(|(at, _)| at)
}

/// The next change of a run.
struct Cursor {
    reader: RunReader,
    block: Vec<u8>,
    at: usize,
}

impl Cursor {
    fn new(reader: RunReader) -> Result<Cursor> {
        let mut cursor = Cursor { reader, block: Vec::new(), at: 0 };
        cursor.fill()?;
        Ok(cursor)
    }

    fn fill(&mut self) -> Result<()> {
        if self.at >= self.block.len() {
            self.at = 0;
            self.block.clear();
            if let Some(block) = self.reader.block()? {
                self.block.extend_from_slice(block);
            }
        }
        Ok(())
    }

    fn change(&self) -> Result<Option<Change<'_>>> {
        changes(&self.block[self.at..]).next().transpose()
    }

    fn advance(&mut self) -> Result<()> {
        let len = self.change()?.map_or(0, |c| encoded_len(&c));
        self.at += len;
        self.fill()
    }
}

/// Bytes of a change in the format of [`Delta`].
fn encoded_len(c: &Change<'_>) -> usize {
    let leb = |n: usize| (usize::BITS - (n | 1).leading_zeros()).div_ceil(7) as usize;
    let value = c.value.map_or(0, |v| v.len() + 1);
    4 + leb(c.key.len()) + c.key.len() + leb(value) + value.saturating_sub(1)
}

/// Writes changes in blocks, counting what it writes.
struct Writer {
    shared: Arc<Shared>,
    run: RunWriter,
    number: u64,
    block: Delta,
    block_bytes: usize,
    keep_deletions: bool,
}

impl Writer {
    fn new(shared: &Arc<Shared>, task: TaskId, number: u64) -> Result<Writer> {
        Ok(Writer {
            shared: shared.clone(),
            run: RunWriter::create(&*shared.disk, task, number)?,
            number,
            block: Delta::default(),
            block_bytes: shared.options.block_bytes,
            keep_deletions: true,
        })
    }

    fn push(&mut self, change: Change<'_>) -> Result<()> {
        if change.value.is_none() && !self.keep_deletions {
            return Ok(());
        }
        self.block.push(change);
        if self.block.bytes().len() >= self.block_bytes { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        if block.is_empty() {
            return Ok(());
        }
        // An engine that stops does not wait for a long compaction; it is made again.
        self.shared.writable(&self.shared.lock())?;
        self.run.block(block.bytes(), block.len() as u32)
    }

    /// The run, durable.
    fn finish(mut self) -> Result<[RunMeta; 1]> {
        self.flush()?;
        let (bytes, entries) = self.run.finish(&*self.shared.disk)?;
        self.shared.lock().stats.bytes_written += bytes;
        Ok([RunMeta { number: self.number, bytes, entries }])
    }
}
