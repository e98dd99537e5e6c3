//! Records on our own topics.
//!
//! *Frames* (one message each): the key says who has appended it and how many rows it has appended
//! to this partition, this frame included; a reader can tell what it should have seen.
//! *State* (a compacted topic, a partition for each task): the key's first byte tells
//! - `0` the last turn ([`Turned`]);
//! - `1` + 16 bytes: somebody has opened the task; deleted by its next turn;
//! - `2` + table + key: a value.
//!
//! *Invariant:* what is no record of ours is refused, never skipped: somebody else writes there.

use std::collections::BTreeMap;

use millstream_core::{
    Code, Error, Result,
    turn::{Change, Progress, StreamId, TableId, TaskId},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::client::TopicPartition;

/// The key of a task's last turn.
pub(super) const TURNED: &[u8] = &[0];
const OPENED: u8 = 1;
const CHANGED: u8 = 2;

/// Names one opening of a task.
pub(super) type Nonce = [u8; 16];

/// What a task's last turn has left, beside its state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Turned {
    /// The task's own words.
    pub progress: Progress,
    /// What it has appended to each partition, counted from the frames.
    pub appended: Vec<Appended>,
    /// What has reached it by each input, counted from the frames.
    pub arrived: Vec<Arrived>,
}

/// What a task has appended to a partition since it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Appended {
    pub stream: StreamId,
    pub partition: u32,
    pub rows: u64,
    pub bytes: u64,
}

/// What has reached a task by an input, up to its position (of a frame that was read in part,
/// nothing).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Arrived {
    /// What each producer says that it has appended to the partition.
    pub said: BTreeMap<TaskId, u64>,
    /// The part of it that was gone before this task came.
    pub before: u64,
    pub bytes: u64,
}

impl Arrived {
    /// The rows that should have been read.
    pub fn rows(&self) -> u64 {
        self.said.values().sum::<u64>().saturating_sub(self.before)
    }
}

/// A line of the registry. The order of lines gives streams and tasks their numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Line {
    Stream(millstream_core::engine::StreamSpec),
    Task {
        name: String,
        inputs: Vec<millstream_core::engine::InputSpec>,
    },
    /// What another engine has is moved here from now on, by who names itself so.
    Moving {
        by: u64,
    },
    /// All of that is here.
    Whole,
}

/// What a record of a task's state says.
pub(super) enum State<'a> {
    Turned(&'a [u8]),
    Opened(Nonce),
    /// A turn has been committed since.
    Forgotten(Nonce),
    Changed(Change<'a>),
}

/// Reads a record of a task's state.
pub(super) fn state<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Option<State<'a>> {
    match (key?, value) {
        (TURNED, Some(value)) => Some(State::Turned(value)),
        ([OPENED, nonce @ ..], value) => {
            let nonce = nonce.try_into().ok()?;
            Some(if value.is_some() { State::Opened(nonce) } else { State::Forgotten(nonce) })
        }
        ([CHANGED, a, b, c, d, key @ ..], value) => {
            let table = TableId(u32::from_le_bytes([*a, *b, *c, *d]));
            Some(State::Changed(Change { table, key, value }))
        }
        _ => None,
    }
}

/// The key of an opening.
pub(super) fn opened(nonce: &Nonce) -> [u8; 17] {
    let mut key = [OPENED; 17];
    key[1..].copy_from_slice(nonce);
    key
}

/// The key of a value, into `out`.
pub(super) fn changed(change: &Change<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.push(CHANGED);
    out.extend_from_slice(&change.table.0.to_le_bytes());
    out.extend_from_slice(change.key);
}

/// The key of a frame: who, and how many rows up to and with it.
pub(super) fn frame_key(producer: TaskId, rows: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&producer.0.to_le_bytes());
    key[4..].copy_from_slice(&rows.to_le_bytes());
    key
}

/// The reverse of [`frame_key`].
pub(super) fn read_frame_key(key: &[u8]) -> Option<(TaskId, u64)> {
    let (producer, rows) = key.split_first_chunk::<4>()?;
    let rows = rows.try_into().ok()?;
    Some((TaskId(u32::from_le_bytes(*producer)), u64::from_le_bytes(rows)))
}

pub(super) fn pack<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|e| Error::new(Code::Bug, format!("record: {e}")))
}

pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    rmp_serde::from_slice(bytes).ok()
}

/// The error of a record that is none of ours.
pub(super) fn foreign(at: &TopicPartition, offset: u64) -> Error {
    Error::new(Code::Conflict, format!("{at}, offset {offset}: this record is none of Millstream's"))
        .help("somebody else writes into this topic, or a newer version did; only this application may write there")
}
