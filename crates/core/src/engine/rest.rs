//! What an engine knows beside frames and state while nothing runs: what another engine needs to go
//! on where it stopped.

use std::ops::Range;

use serde::Serialize;

use super::{InputSpec, StreamSpec};
use crate::{
    Result,
    turn::{Position, Progress},
};

/// Everything but frames and state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AtRest {
    /// In the order of their numbers, from 0.
    pub streams: Vec<StreamAtRest>,
    /// In the order of their numbers, from 1.
    pub tasks: Vec<TaskAtRest>,
}

/// A stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamAtRest {
    /// What it was created as.
    pub spec: StreamSpec,
    /// Its partitions in order.
    pub partitions: Vec<PartitionAtRest>,
}

/// A partition of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionAtRest {
    /// Frames that are kept.
    pub frames: Range<u64>,
    /// Rows of the frames before them.
    pub rows_before: u64,
    /// Bytes of the frames before them.
    pub bytes_before: u64,
    /// Rows appended since it exists.
    pub appended_rows: u64,
    /// Those of them that no task has sent.
    pub outside_rows: u64,
}

/// A task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskAtRest {
    /// `flow/stage/partition`.
    pub name: String,
    /// What it reads.
    pub inputs: Vec<InputSpec>,
    /// Per input, the rows that were gone before it came.
    pub rows_before: Vec<u64>,
    /// Opens since its last turn.
    pub opens: u32,
    /// What its last turn said, with positions at frames that are kept or one past them.
    pub progress: Progress,
}

impl AtRest {
    /// The number that a frame has behind as few as possible.
    fn rebase(&self, input: &InputSpec, frame: u64) -> u64 {
        let stream = self.streams.get(input.stream.0 as usize);
        let partition = stream.and_then(|s| s.partitions.get(input.partition as usize));
        let first = partition.map_or(0, |p| p.frames.start);
        frame.saturating_sub(first) + first.min(1)
    }

    /// Numbers frames anew, here and in every position: those that are kept from 0, or from 1 where
    /// there were some before, which must stay to be seen. `note` does so in what a task that has
    /// inputs keeps in its note; it is handed the note, and what an input's position becomes.
    ///
    /// # Errors
    /// If a note cannot be read.
    pub fn renumbered(
        self,
        note: impl Fn(&[u8], &dyn Fn(usize, Position) -> Position) -> Result<Vec<u8>>,
    ) -> Result<AtRest> {
        let mut out = self.clone();
        for task in &mut out.tasks {
            let moved = |n: usize, at: Position| match task.inputs.get(n) {
                Some(input) => Position { frame: self.rebase(input, at.frame), ..at },
                None => at,
            };
            if !task.inputs.is_empty() && !task.progress.note.is_empty() {
                task.progress.note = note(&task.progress.note, &moved)?;
            }
            for (n, progress) in task.progress.inputs.iter_mut().enumerate() {
                progress.keep_from = moved(n, Position { frame: progress.keep_from, row: 0 }).frame;
                progress.position = moved(n, progress.position);
            }
        }
        for partition in out.streams.iter_mut().flat_map(|s| &mut s.partitions) {
            let first = partition.frames.start.min(1);
            partition.frames = first..first + (partition.frames.end - partition.frames.start);
        }
        Ok(out)
    }
}

/// What was moved from one engine to another, and read back there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Streams.
    pub streams: u64,
    /// Their partitions.
    pub partitions: u64,
    /// Frames in them.
    pub frames: u64,
    /// Rows of these frames.
    pub rows: u64,
    /// Bytes of these frames.
    pub frame_bytes: u64,
    /// Tasks.
    pub tasks: u64,
    /// Keys of their states, timers among them.
    pub keys: u64,
    /// Bytes of their states.
    pub state_bytes: u64,
}
