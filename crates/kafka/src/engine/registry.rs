//! Which streams and tasks there are: the fold of one small topic that every node reads.
//!
//! *Invariant:* numbers follow from the order of the lines alone, so every node gives the same. Two
//! nodes that write the same line at once do no harm: the first one counts.

use std::{collections::HashMap, sync::Arc};

use millstream_core::{
    Code, Error, Result,
    engine::{InputSpec, StreamSpec, TaskSpec},
    turn::{StreamId, TaskId},
};

use super::{
    codec::{Line, foreign, unpack},
    moving::begun,
};
use crate::client::{Reader, TopicPartition};

/// A stream that exists.
#[derive(Debug)]
pub(super) struct Stream {
    pub id: StreamId,
    pub spec: StreamSpec,
    /// Its partitions in Kafka.
    pub partitions: Vec<TopicPartition>,
}

/// A task that exists.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub id: TaskId,
    pub name: String,
    pub inputs: Vec<InputSpec>,
}

pub(super) struct Registry {
    at: TopicPartition,
    reader: Box<dyn Reader>,
    /// The first offset that was not read.
    pub next: u64,
    names: super::names::Names,
    pub streams: Vec<Arc<Stream>>,
    stream_ids: HashMap<String, usize>,
    /// Task number n is at n - 1; number 0 is "no task".
    pub tasks: Vec<Task>,
    task_ids: HashMap<String, usize>,
    consumers: HashMap<InputSpec, Vec<(TaskId, usize)>>,
    /// What another engine has is being moved here.
    moving: bool,
}

impl Registry {
    pub fn new(
        names: super::names::Names,
        at: TopicPartition,
        reader: Box<dyn Reader>,
    ) -> Registry {
        Registry {
            at,
            reader,
            next: 0,
            names,
            streams: Vec::new(),
            stream_ids: HashMap::new(),
            tasks: Vec::new(),
            task_ids: HashMap::new(),
            consumers: HashMap::new(),
            moving: false,
        }
    }

    /// Reads what has come. Whether anything has.
    pub fn pump(&mut self) -> Result<bool> {
        let mut moved = false;
        while let Some(piece) = self.reader.poll()? {
            for (offset, record) in piece.iter() {
                let line = record.value.and_then(unpack::<Line>);
                match line.ok_or_else(|| foreign(&self.at, offset))? {
                    Line::Stream(spec) => self.add_stream(spec)?,
                    Line::Task { name, inputs } => self.add_task(name, inputs),
                    Line::Moving { .. } => self.moving = true,
                    Line::Whole => self.moving = false,
                }
                self.next = offset + 1;
                moved = true;
            }
        }
        Ok(moved)
    }

    /// Whether all is here that the application begins with.
    ///
    /// # Errors
    /// [`Code::Conflict`] if not.
    pub fn is_whole(&self) -> Result<()> {
        if self.moving { Err(begun(self.names.app())) } else { Ok(()) }
    }

    fn add_stream(&mut self, spec: StreamSpec) -> Result<()> {
        if self.stream_ids.contains_key(&spec.name) {
            return Ok(());
        }
        let id = self.streams.len();
        self.stream_ids.insert(spec.name.clone(), id);
        let topic: Arc<str> = self.names.stream(&spec.name)?.into();
        let partitions = (0..spec.partitions).map(|p| TopicPartition::new(topic.clone(), p));
        let partitions = partitions.collect();
        self.streams.push(Arc::new(Stream { id: StreamId(id as u32), spec, partitions }));
        Ok(())
    }

    fn add_task(&mut self, name: String, inputs: Vec<InputSpec>) {
        let at = *self.task_ids.entry(name.clone()).or_insert(self.tasks.len());
        if at == self.tasks.len() {
            self.tasks.push(Task { id: TaskId(at as u32 + 1), name, inputs: Vec::new() });
        }
        let task = &mut self.tasks[at];
        if !inputs.starts_with(&task.inputs) {
            return;
        }
        for (n, input) in inputs.iter().enumerate().skip(task.inputs.len()) {
            self.consumers.entry(*input).or_default().push((task.id, n));
        }
        task.inputs = inputs;
    }

    /// A stream by name.
    pub fn stream_called(&self, name: &str) -> Option<&Arc<Stream>> {
        self.stream_ids.get(name).map(|at| &self.streams[*at])
    }

    /// A stream by number.
    pub fn stream(&self, id: StreamId) -> Option<&Arc<Stream>> {
        self.streams.get(id.0 as usize)
    }

    /// A stream's partition.
    ///
    /// # Errors
    /// [`Code::Unknown`] if there is none.
    pub fn partition(&self, stream: StreamId, partition: u32) -> Result<TopicPartition> {
        let found = self.stream(stream).and_then(|s| s.partitions.get(partition as usize));
        found.cloned().ok_or_else(|| {
            let what = format!("there is no partition {partition} of stream {}", stream.0);
            Error::new(Code::Unknown, what)
                .help("streams are created before tasks read them: Engine::create_stream")
        })
    }

    /// A task by number.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get((id.0 as usize).checked_sub(1)?)
    }

    /// A task's number.
    pub fn id(&self, name: &str) -> Option<TaskId> {
        self.task_ids.get(name).map(|at| self.tasks[*at].id)
    }

    /// The tasks that read a partition, and as which of their inputs.
    pub fn consumers(&self, input: &InputSpec) -> &[(TaskId, usize)] {
        self.consumers.get(input).map_or(&[], Vec::as_slice)
    }

    /// The task as it is asked for; `None` if it has to be written first.
    ///
    /// # Errors
    /// [`Code::Conflict`] if it has other inputs; [`Code::Unknown`] if there is no such input.
    pub fn find(&self, spec: &TaskSpec) -> Result<Option<&Task>> {
        for input in &spec.inputs {
            self.partition(input.stream, input.partition)?;
        }
        let Some(task) = self.task_ids.get(&spec.name).map(|at| &self.tasks[*at]) else {
            return Ok(None);
        };
        if !spec.inputs.starts_with(&task.inputs) {
            return Err(spec.conflict(&task.inputs));
        }
        Ok(Some(task).filter(|task| task.inputs == spec.inputs))
    }
}
