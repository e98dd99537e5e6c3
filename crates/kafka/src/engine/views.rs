//! What is known of every task of the application, here or elsewhere: for people, the ledger, and
//! back-pressure. Tasks that run here are known as of their last turn, others as of about a second
//! ago.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millstream_core::{
    engine::{Backlog, InputSpec},
    ledger::{EdgeLine, Ledger, Sent, StreamLine},
    turn::{InputProgress, StreamId, TaskId},
};

use super::{
    codec::{Appended, Turned},
    registry::{Registry, Stream, Task},
};

/// Tasks whose names begin so are nodes that append from outside of any flow.
pub(super) const OUTSIDE: &str = "$outside";
/// It stands for all tasks that have sent something to a stream that was moved here.
pub(super) const BEFORE: &str = "$before";

/// Whether a task is one of a flow's, and not ours.
pub(super) fn is_of_a_flow(task: &str) -> bool {
    !task.starts_with('$')
}

#[derive(Default)]
pub(super) struct Views {
    tasks: BTreeMap<TaskId, Turned>,
    /// Rows and bytes appended to each partition by all.
    appended: HashMap<InputSpec, (u64, u64)>,
    /// Tasks that others have not been told of.
    pub fresh: BTreeSet<TaskId>,
    /// Partitions of which something may be removed.
    pub read: BTreeSet<(StreamId, u32)>,
}

impl Views {
    /// Takes a later view of a task. Whether it is one.
    pub fn update(&mut self, id: TaskId, turned: Turned) -> bool {
        let known = self.tasks.entry(id).or_default();
        if turned.progress.turn <= known.progress.turn {
            return false;
        }
        let old = std::mem::replace(known, turned);
        let place = |a: &Appended| InputSpec { stream: a.stream, partition: a.partition };
        for a in &old.appended {
            let sum = self.appended.entry(place(a)).or_default();
            *sum = (sum.0 - a.rows, sum.1 - a.bytes);
        }
        for a in &self.tasks[&id].appended {
            let sum = self.appended.entry(place(a)).or_default();
            *sum = (sum.0 + a.rows, sum.1 + a.bytes);
        }
        true
    }

    pub fn task(&self, id: TaskId) -> Option<&Turned> {
        self.tasks.get(&id)
    }

    /// Rows appended to a stream.
    pub fn appended(&self, stream: &Stream) -> u64 {
        inputs(stream).map(|p| self.appended.get(&p).map_or(0, |sum| sum.0)).sum()
    }

    fn consumer(&self, id: TaskId, input: usize) -> Option<(&InputProgress, u64, u64)> {
        let turned = self.tasks.get(&id)?;
        let (progress, arrived) = (turned.progress.inputs.get(input)?, turned.arrived.get(input)?);
        // Of the frame at the position, these rows were read.
        let rows = arrived.rows() + u64::from(progress.position.row);
        Some((progress, rows + arrived.before, arrived.bytes))
    }

    /// Rows in a task's inputs that it has not read.
    pub fn unread(&self, task: &Task) -> u64 {
        let unread = |(n, at): (usize, &InputSpec)| {
            let appended = self.appended.get(at).map_or(0, |sum| sum.0);
            let read = self.consumer(task.id, n).map_or(0, |(_, rows, _)| rows);
            appended.saturating_sub(read)
        };
        task.inputs.iter().enumerate().map(unread).sum()
    }

    /// The oldest record of a partition that anybody may still read; `None` if that is not known.
    pub fn keep_from(&self, registry: &Registry, at: &InputSpec) -> Option<u64> {
        let consumers = registry.consumers(at).iter();
        let keep = consumers.map(|(id, n)| {
            let (progress, ..) = self.consumer(*id, *n)?;
            // A task that wants less than it has read would lose what it has not read.
            Some(progress.keep_from.min(progress.position.frame))
        });
        keep.min().flatten()
    }

    /// What the slowest consumer of each partition has not read; nothing if nobody reads.
    pub fn backlog(&self, registry: &Registry, stream: &Stream) -> Backlog {
        let mut sum = Backlog::default();
        for at in inputs(stream) {
            let (rows, bytes) = self.appended.get(&at).copied().unwrap_or_default();
            let read = registry.consumers(&at).iter().map(|(id, n)| {
                self.consumer(*id, *n).map_or((0, 0), |(_, rows, bytes)| (rows, bytes))
            });
            if let Some(read) = read.min() {
                sum.rows += rows.saturating_sub(read.0);
                sum.bytes += bytes.saturating_sub(read.1);
            }
        }
        sum
    }

    pub fn ledger(&self, registry: &Registry) -> Ledger {
        let mut ledger = Ledger::default();
        let mut sent = Sent::new();
        let mut outside: BTreeMap<StreamId, (u64, u64)> = BTreeMap::new();
        for task in &registry.tasks {
            let Some(turned) = self.tasks.get(&task.id) else { continue };
            ledger.count(&task.name, &turned.progress.counters, &mut sent);
            for a in &turned.appended {
                let (all, from_outside) = outside.entry(a.stream).or_default();
                *all += a.rows;
                if task.name.starts_with(OUTSIDE) {
                    *from_outside += a.rows;
                }
            }
        }
        for task in &registry.tasks {
            for (n, input) in task.inputs.iter().enumerate() {
                let Some(stream) = registry.stream(input.stream) else { continue };
                ledger.streams.push(self.line(task.id, n, input, stream, &task.name));
            }
        }
        for (id, sent) in sent {
            let Some(stream) = registry.stream(id) else { continue };
            let (appended, outside) = outside.get(&id).copied().unwrap_or_default();
            let stream = stream.spec.name.clone();
            ledger.edges.push(EdgeLine { stream, sent, outside, appended });
        }
        ledger
    }

    /// What its producers say was appended, up to where a consumer stands and behind it, against
    /// what the consumer says that it has read.
    fn line(
        &self,
        id: TaskId,
        n: usize,
        input: &InputSpec,
        stream: &Stream,
        name: &str,
    ) -> StreamLine {
        let (all, _) = self.appended.get(input).copied().unwrap_or_default();
        let said = self.consumer(id, n).map_or(0, |(_, rows, _)| rows);
        let turned = self.tasks.get(&id);
        let before = turned.and_then(|t| t.arrived.get(n)).map_or(0, |a| a.before);
        StreamLine {
            stream: format!("{}/{}", stream.spec.name, input.partition),
            consumer: name.into(),
            appended: all.max(said) - before,
            read: turned.and_then(|t| t.progress.inputs.get(n)).map_or(0, |p| p.rows),
            backlog: all.saturating_sub(said),
            expired: 0,
        }
    }
}

fn inputs(stream: &Stream) -> impl Iterator<Item = InputSpec> {
    (0..stream.spec.partitions).map(|partition| InputSpec { stream: stream.id, partition })
}
