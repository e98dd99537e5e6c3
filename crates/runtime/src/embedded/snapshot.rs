//! The first record of every segment: all metadata, so that older segments hold only data.
//!
//! *Invariant:* a snapshot says everything that the records before it have said and nothing that a
//! record behind it says. A segment started because a sync failed *continues* its predecessor
//! instead: at that moment the state in memory is already ahead of the log.

use millstream_core::{
    engine::{InputSpec, StreamSpec},
    turn::{Progress, TaskId},
};
use serde::{Deserialize, Serialize};

use super::record::RunMeta;

/// The metadata of a segment's first record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// The segments that are needed beside this one; each ends where it says, whatever follows.
    pub segments: Vec<Extent>,
    /// `None`: continues the last of `segments`.
    pub snapshot: Option<Snapshot>,
    /// Records that follow and lie behind the end of the last of `segments`, too. Until all of them
    /// are here, they are good there, and this segment is none.
    #[serde(default)]
    pub again: u32,
}

/// Where a segment lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    /// Position of its first byte.
    pub base: u64,
    /// Position one past its last.
    pub end: u64,
}

/// All metadata at one point of the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub streams: Vec<StreamSnap>,
    pub tasks: Vec<TaskSnap>,
}

/// A stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StreamSnap {
    pub stream: StreamSpec,
    pub partitions: Vec<PartitionSnap>,
}

/// A partition: which frames it has, and what was counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct PartitionSnap {
    pub first: u64,
    pub next: u64,
    pub base_row: u64,
    pub base_byte: u64,
    pub appended_rows: u64,
    #[serde(default)]
    pub outside_rows: u64,
    pub expired_rows: u64,
}

/// A task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TaskSnap {
    pub task: TaskId,
    pub name: String,
    pub inputs: Vec<InputSpec>,
    pub attached: Vec<Attached>,
    pub opens: u32,
    pub progress: Progress,
    pub through: u64,
    pub runs: Vec<RunMeta>,
    /// How many deltas lie in older segments, to notice a missing one.
    pub deltas: u64,
}

/// Where a consumer began to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    pub frame: u64,
    pub row: u64,
}
