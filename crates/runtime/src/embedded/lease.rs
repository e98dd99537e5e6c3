//! A task's hold on the engine.

use std::sync::Arc;

use millstream_core::{
    Code, Error, Frame, Result, Turn,
    engine::{InputSpec, Lease, Recovered, Settlement, Ticket},
    turn::{Change, Position, TaskId, changes},
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    record::RunMeta,
    run::{self, RunReader},
    shared::{Reader, Shared},
    state::{DeltaSlot, State},
};

/// The ticket of a turn that was not committed; never durable.
const REFUSED: Ticket = Ticket(u64::MAX);

pub(super) struct EmbeddedLease {
    shared: Arc<Shared>,
    task: TaskId,
    epoch: u64,
    inputs: Vec<InputSpec>,
    recovered: Recovered,
    restore: Restore,
    /// Why a turn was refused; there is no way back.
    end: Option<Settlement>,
}

/// What is left to hand out: runs oldest first, then deltas in order. Their files stay readable
/// although a compaction may remove them meanwhile.
struct Restore {
    runs: std::vec::IntoIter<RunReader>,
    run: Option<RunReader>,
    deltas: std::vec::IntoIter<(DeltaSlot, Option<Arc<dyn millstream_core::disk::DiskFile>>)>,
}

impl EmbeddedLease {
    /// The lease of a task whose open record is durable.
    pub fn new(shared: Arc<Shared>, id: TaskId) -> Result<EmbeddedLease> {
        if let Some(task) = shared.lock().state.task(id) {
            task.opening = None;
        }
        EmbeddedLease::look(shared, id)
    }

    /// A lease of a task that somebody else may hold, to read its state.
    pub fn look(shared: Arc<Shared>, id: TaskId) -> Result<EmbeddedLease> {
        loop {
            let (mut lease, metas) = EmbeddedLease::without_runs(&shared, id)?;
            let open =
                |meta: &RunMeta| Ok(RunReader::new(id, meta, run::open(&*shared.disk, id, meta)?));
            match metas.iter().map(open).collect::<Result<Vec<_>>>() {
                Ok(runs) => {
                    lease.restore.runs = runs.into_iter();
                    return Ok(lease);
                }
                // A compaction has replaced the runs meanwhile.
                Err(_) if shared.lock().state.task(id).is_some_and(|t| t.runs != metas) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn without_runs(shared: &Arc<Shared>, id: TaskId) -> Result<(EmbeddedLease, Vec<RunMeta>)> {
        let mut inner = shared.lock();
        let State { tasks, space, .. } = &mut inner.state;
        let unknown = || Error::new(Code::Unknown, format!("there is no task {}", id.0));
        let task = tasks.get_mut((id.0 as usize).wrapping_sub(1)).ok_or_else(unknown)?;
        let entries = task.runs.iter().map(|r| r.entries);
        let changes_max =
            entries.chain(task.deltas.iter().map(|d| u64::from(d.meta.entries))).sum();
        let file = |d: &DeltaSlot| d.place.and_then(|p| space.file(p.segment));
        let deltas: Vec<_> = task.deltas.iter().map(|d| (d.clone(), file(d))).collect();
        let lease = EmbeddedLease {
            shared: shared.clone(),
            task: id,
            epoch: task.epoch,
            inputs: task.inputs.clone(),
            recovered: Recovered {
                progress: (*task.progress).clone(),
                opens: task.opens,
                changes_max,
            },
            restore: Restore {
                runs: Vec::new().into_iter(),
                run: None,
                deltas: deltas.into_iter(),
            },
            end: None,
        };
        Ok((lease, task.runs.clone()))
    }
}

impl Lease for EmbeddedLease {
    fn task(&self) -> TaskId {
        self.task
    }

    fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn restore(
        &mut self,
        bytes_max: usize,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<bool> {
        let mut bytes = 0;
        let mut hand_out = |blob: &[u8]| {
            bytes += blob.len();
            changes(blob).try_for_each(|change| take(change?)).map(|()| bytes >= bytes_max)
        };
        loop {
            if let Some(run) = &mut self.restore.run {
                match run.block()? {
                    Some(block) if hand_out(block)? => return Ok(false),
                    Some(_) => {}
                    None => self.restore.run = None,
                }
            } else if let Some(run) = self.restore.runs.next() {
                self.restore.run = Some(run);
            } else if let Some((slot, file)) = self.restore.deltas.next() {
                if with_delta(&self.shared, &slot, file, &mut hand_out)? {
                    return Ok(false);
                }
            } else {
                return Ok(true);
            }
        }
    }

    fn poll(
        &mut self,
        input: usize,
        from: Position,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Frame)>> {
        let spec = self.inputs.get(input).ok_or_else(|| {
            Error::new(Code::Bug, format!("input {input} of {}", self.inputs.len()))
        })?;
        self.shared.frames(spec.stream.0, spec.partition, from.frame, bytes_max, Reader::Task)
    }

    fn commit(&mut self, turn: Turn) -> Ticket {
        if self.end.is_some() {
            return REFUSED;
        }
        match self.shared.commit(self.task, self.epoch, turn) {
            Ok(seq) => Ticket(seq),
            Err(end) => {
                self.end = Some(end);
                REFUSED
            }
        }
    }

    fn settled(&mut self, ticket: Ticket) -> Settlement {
        match &self.end {
            Some(end) if ticket == REFUSED => end.clone(),
            _ => Settlement::Ok,
        }
    }

    fn durable(&self, ticket: Ticket) -> bool {
        ticket.0 <= self.shared.durable()
    }
}

/// Reads a delta from memory or disk and hands its bytes to `take`.
pub(super) fn with_delta<T>(
    shared: &Shared,
    slot: &DeltaSlot,
    file: Option<Arc<dyn millstream_core::disk::DiskFile>>,
    take: &mut dyn FnMut(&[u8]) -> Result<T>,
) -> Result<T> {
    match (&slot.memory, slot.place, file) {
        (Some(delta), _, _) => take(delta.bytes()),
        (None, Some(place), Some(file)) => {
            let bytes = shared.read(&file, place, slot.meta.len)?;
            if xxh3_64(&bytes) != slot.meta.sum {
                return Err(shared.bad(place, "state changes do not match their checksum"));
            }
            take(&bytes)
        }
        _ => Err(Error::new(Code::Bug, "state changes that are nowhere")),
    }
}
