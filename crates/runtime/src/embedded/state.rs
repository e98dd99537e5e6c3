//! The engine's state: the fold of all records of the log.
//!
//! *Why one fold:* a live commit and the replay of a record after a crash run the same code, so a
//! restart finds exactly what was there.
//!
//! *Invariants*
//! - Applying depends on the records alone, not on what is written, cached or read.
//! - What was applied is visible to every reader at once: a turn is one call under one lock.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use millstream_core::{
    Code, Error, Frame, Result,
    engine::{InputSpec, StreamSpec, Waker},
    turn::{Delta, InputProgress, Position, Progress, TaskId},
};

use super::{
    record::{
        DeltaMeta, Entry, EvacuateMeta, Item, ManifestMeta, Meta, OpenMeta, OutputMeta, RunMeta,
        TurnMeta,
    },
    snapshot::{Attached, Snapshot, StreamSnap, TaskSnap},
    space::Space,
    stream::{Arrival, Partition, Place, Stream},
};

/// State changes of one turn that no run holds yet.
#[derive(Clone, Debug)]
pub(super) struct DeltaSlot {
    pub seq: u64,
    pub meta: DeltaMeta,
    /// `None` until written.
    pub place: Option<Place>,
    /// The changes, until written.
    pub memory: Option<Arc<Delta>>,
}

pub(super) struct Task {
    pub id: TaskId,
    pub name: String,
    pub inputs: Vec<InputSpec>,
    pub attached: Vec<Attached>,
    /// Raised by every open; only the lease with this number may commit.
    pub epoch: u64,
    pub opens: u32,
    /// The open record that nobody has got a lease for yet.
    pub opening: Option<u64>,
    pub progress: Arc<Progress>,
    pub waker: Option<Waker>,
    pub runs: Vec<RunMeta>,
    pub through: u64,
    pub deltas: VecDeque<DeltaSlot>,
    pub delta_bytes: u64,
}

impl Task {
    fn new(id: TaskId, name: String) -> Task {
        Task {
            id,
            name,
            inputs: Vec::new(),
            attached: Vec::new(),
            epoch: 0,
            opens: 0,
            opening: None,
            progress: Arc::default(),
            waker: None,
            runs: Vec::new(),
            through: 0,
            deltas: VecDeque::new(),
            delta_bytes: 0,
        }
    }

    /// Where the task stands in an input, and the oldest frame it may read again.
    pub fn stand(&self, input: usize) -> (Position, u64) {
        let start = self.attached.get(input).map_or(0, |a| a.frame);
        let at = self.progress.inputs.get(input).cloned().unwrap_or_default();
        let position = at.position.max(Position { frame: start, row: 0 });
        // A task that wants less than it has read would lose what it has not read.
        (position, at.keep_from.clamp(start, position.frame))
    }

    fn add_delta(&mut self, slot: DeltaSlot) {
        self.delta_bytes += u64::from(slot.meta.len);
        self.deltas.push_back(slot);
    }

    pub fn delta(&mut self, seq: u64) -> Option<&mut DeltaSlot> {
        let at = self.deltas.binary_search_by_key(&seq, |d| d.seq).ok()?;
        self.deltas.get_mut(at)
    }
}

/// Everything the log has said.
#[derive(Default)]
pub(super) struct State {
    pub streams: Vec<Stream>,
    pub stream_ids: HashMap<String, u32>,
    /// Task number n is at n - 1; number 0 is "no task".
    pub tasks: Vec<Task>,
    pub task_ids: HashMap<String, TaskId>,
    pub space: Space,
}

impl State {
    pub fn task(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut((id.0 as usize).checked_sub(1)?)
    }

    pub fn apply_stream(&mut self, spec: StreamSpec) -> u32 {
        let id = self.streams.len() as u32;
        self.stream_ids.insert(spec.name.clone(), id);
        self.streams.push(Stream::new(spec));
        id
    }

    /// The number a task has or would get.
    pub fn task_id(&self, name: &str) -> TaskId {
        let next = TaskId(self.tasks.len() as u32 + 1);
        self.task_ids.get(name).copied().unwrap_or(next)
    }

    /// Opens a task: attaches its inputs at the oldest kept frames and fences older leases.
    pub fn apply_open(&mut self, meta: OpenMeta, seq: u64) -> Result<()> {
        if self.task_id(&meta.name) != meta.task {
            return Err(Error::corrupt(format!("task {} has two numbers", meta.name)));
        }
        if self.task(meta.task).is_none() {
            self.task_ids.insert(meta.name.clone(), meta.task);
            self.tasks.push(Task::new(meta.task, meta.name.clone()));
        }
        let State { streams, tasks, .. } = self;
        let Some(task) = tasks.get_mut(meta.task.0 as usize - 1) else { return Ok(()) };
        task.epoch += 1;
        task.opens += 1;
        task.opening = Some(seq);
        for input in meta.inputs.iter().skip(task.inputs.len()) {
            let Some(part) = partition(streams, input.stream.0, input.partition) else {
                return Err(no_partition(input.stream.0, input.partition));
            };
            let attached = Attached { frame: part.first, row: part.base_row };
            part.consumers.push((task.id.0, task.inputs.len()));
            task.inputs.push(*input);
            task.attached.push(attached);
            let progress = Arc::make_mut(&mut task.progress);
            progress.inputs.resize(task.inputs.len() - 1, InputProgress::default());
            progress.inputs.push(InputProgress {
                position: Position { frame: attached.frame, row: 0 },
                keep_from: attached.frame,
                ..InputProgress::default()
            });
        }
        Ok(())
    }

    /// Checks what [`State::apply_turn`] takes for granted.
    pub fn check_outputs(&mut self, outputs: &[OutputMeta]) -> Result<()> {
        for o in outputs {
            if partition(&mut self.streams, o.stream, o.partition).is_none() {
                return Err(no_partition(o.stream, o.partition));
            }
        }
        Ok(())
    }

    /// A turn, whole. Returns the numbers of its frames.
    pub fn apply_turn(
        &mut self,
        seq: u64,
        id: TaskId,
        progress: Progress,
        delta: Option<DeltaSlot>,
        outputs: Vec<(u32, u32, Arrival)>,
    ) -> Vec<u64> {
        let numbers = outputs.into_iter().map(|(s, p, new)| self.append(seq, s, p, new)).collect();
        let Some(task) = self.task(id) else { return numbers };
        if !progress.quiet {
            task.opens = 0;
        }
        task.progress = Arc::new(progress);
        if let Some(delta) = delta {
            task.add_delta(delta);
        }
        for input in task.inputs.clone() {
            self.trim(input);
        }
        numbers
    }

    /// Appends one frame. Returns its number.
    pub fn append(&mut self, seq: u64, stream: u32, partition: u32, new: Arrival) -> u64 {
        match self.streams.get_mut(stream as usize) {
            Some(s) => s.append(partition as usize, seq, new, &mut self.space),
            None => 0,
        }
    }

    /// As [`State::append`], for a frame that comes from no task.
    pub fn append_from_outside(&mut self, seq: u64, stream: u32, part: u32, new: Arrival) -> u64 {
        if let Some(part) = partition(&mut self.streams, stream, part) {
            part.outside_rows += u64::from(new.rows);
        }
        self.append(seq, stream, part, new)
    }

    /// Drops what no consumer of a partition may still read.
    fn trim(&mut self, input: InputSpec) {
        let State { streams, tasks, space, .. } = self;
        let Some(stream) = streams.get_mut(input.stream.0 as usize) else { return };
        let Some(part) = stream.partitions.get(input.partition as usize) else { return };
        let keep = |(task, input): &(u32, usize)| {
            tasks.get(*task as usize - 1).map_or(0, |t| t.stand(*input).1)
        };
        if let Some(keep_from) = part.consumers.iter().map(keep).min() {
            stream.trim(input.partition as usize, keep_from, space);
        }
    }

    /// Replaces a task's runs and forgets the deltas that are in them.
    pub fn apply_manifest(&mut self, meta: ManifestMeta) -> Vec<RunMeta> {
        let State { tasks, space, .. } = self;
        let Some(task) = tasks.get_mut((meta.task.0 as usize).wrapping_sub(1)) else {
            return Vec::new();
        };
        task.through = task.through.max(meta.through);
        let old = std::mem::replace(&mut task.runs, meta.runs);
        while let Some(delta) = task.deltas.pop_front_if(|d| d.seq <= meta.through) {
            task.delta_bytes -= u64::from(delta.meta.len);
            space.release(delta.place, delta.meta.len, false);
        }
        old.into_iter().filter(|old| task.runs.iter().all(|r| r.number != old.number)).collect()
    }

    /// Notes where something lies now.
    pub fn place(&mut self, segment: u64, entry: &Entry) {
        let to = Place { segment, offset: entry.offset };
        let State { streams, tasks, space, .. } = self;
        match entry.item {
            Item::Frame { stream, partition: p, number, .. } => {
                let Some(part) = partition(streams, stream, p) else { return };
                let Some(slot) = part.slot(number) else { return };
                if slot.place.is_none() && slot.frame.is_some() {
                    space.cache(stream, p, number, slot.len);
                }
                space.settle(slot.place, to, slot.len);
                slot.place = Some(to);
            }
            Item::Delta { task, seq, .. } => {
                let task = tasks.get_mut((task as usize).wrapping_sub(1));
                let Some(slot) = task.and_then(|t| t.delta(seq)) else { return };
                space.settle(slot.place, to, slot.meta.len);
                slot.place = Some(to);
                slot.memory = None;
            }
        }
    }

    /// Applies a record that was read back. `offset` is where its parts start in the segment.
    pub fn replay(
        &mut self,
        meta: Meta,
        seq: u64,
        numbers: &[u64],
        segment: u64,
        offset: u64,
    ) -> Result<()> {
        let entries = meta.entries(seq, numbers)?;
        let given = match meta {
            Meta::Start(_) => return Err(Error::corrupt("a segment starts twice")),
            Meta::Stream(meta) => {
                self.apply_stream(meta);
                Vec::new()
            }
            Meta::Open(meta) => self.apply_open(meta, seq).map(|()| Vec::new())?,
            Meta::Turn(meta) => self.replay_turn(meta, seq)?,
            Meta::Append(output) => {
                self.check_outputs(&[output])?;
                let arrival = arrival(&output);
                vec![self.append_from_outside(seq, output.stream, output.partition, arrival)]
            }
            Meta::Manifest(meta) => {
                self.apply_manifest(meta);
                Vec::new()
            }
            Meta::Evacuate(EvacuateMeta { .. }) => Vec::new(),
        };
        if given != numbers {
            return Err(Error::corrupt(format!(
                "the frames are numbered {numbers:?} and should be {given:?}"
            )));
        }
        for entry in entries {
            self.place(segment, &Entry { offset: entry.offset + offset, ..entry });
        }
        Ok(())
    }

    fn replay_turn(&mut self, meta: TurnMeta<Progress>, seq: u64) -> Result<Vec<u64>> {
        self.check_outputs(&meta.outputs)?;
        if self.task(meta.task).is_none() {
            return Err(Error::corrupt(format!("a turn of unknown task {}", meta.task.0)));
        }
        let slot = |meta| DeltaSlot { seq, meta, place: None, memory: None };
        let outputs = meta.outputs.iter().map(|o| (o.stream, o.partition, arrival(o))).collect();
        Ok(self.apply_turn(seq, meta.task, meta.progress, meta.delta.map(slot), outputs))
    }

    pub fn snapshot(&self) -> Snapshot {
        let stream = |s: &Stream| StreamSnap {
            stream: s.spec.clone(),
            partitions: s.partitions.iter().map(Partition::snap).collect(),
        };
        let task = |t: &Task| TaskSnap {
            task: t.id,
            name: t.name.clone(),
            inputs: t.inputs.clone(),
            attached: t.attached.clone(),
            opens: t.opens,
            progress: Progress::clone(&t.progress),
            through: t.through,
            runs: t.runs.clone(),
            deltas: t.deltas.len() as u64,
        };
        Snapshot {
            streams: self.streams.iter().map(stream).collect(),
            tasks: self.tasks.iter().map(task).collect(),
        }
    }

    /// The state a snapshot tells of, still without frames and deltas.
    pub fn from_snapshot(snap: &Snapshot) -> Result<State> {
        let mut state = State::default();
        for s in &snap.streams {
            let id = state.apply_stream(s.stream.clone()) as usize;
            state.streams[id].partitions = s.partitions.iter().map(Partition::of).collect();
        }
        for t in &snap.tasks {
            let mut task = Task::new(t.task, t.name.clone());
            task.inputs = t.inputs.clone();
            task.attached = t.attached.clone();
            task.opens = t.opens;
            task.progress = Arc::new(t.progress.clone());
            task.through = t.through;
            task.runs = t.runs.clone();
            for (at, input) in t.inputs.iter().enumerate() {
                partition(&mut state.streams, input.stream.0, input.partition)
                    .ok_or_else(|| no_partition(input.stream.0, input.partition))?
                    .consumers
                    .push((t.task.0, at));
            }
            state.task_ids.insert(t.name.clone(), t.task);
            state.tasks.push(task);
        }
        Ok(state)
    }

    /// Takes a delta that an older segment holds.
    pub fn restore_delta(&mut self, task: TaskId, slot: DeltaSlot) {
        if let Some(task) = self.task(task) {
            task.add_delta(slot);
        }
    }
}

fn arrival(o: &OutputMeta) -> Arrival {
    Arrival { rows: o.rows, len: o.len, frame: None }
}

/// A frame to append, with its bytes.
pub(super) fn arrival_of(frame: &Frame) -> Arrival {
    Arrival { rows: frame.header.rows, len: frame.bytes().len() as u32, frame: Some(frame.clone()) }
}

pub(super) fn partition(
    streams: &mut [Stream],
    stream: u32,
    partition: u32,
) -> Option<&mut Partition> {
    streams.get_mut(stream as usize)?.partitions.get_mut(partition as usize)
}

pub(super) fn no_partition(stream: u32, partition: u32) -> Error {
    Error::new(Code::Unknown, format!("there is no partition {partition} of stream {stream}"))
        .help("streams are created before tasks read them: Engine::create_stream")
}
