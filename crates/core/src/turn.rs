//! The turn: everything one pass of a task did, to become visible as one or not at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Frame, Result, Status, Time,
    ledger::TaskCounters,
    wire::{Reader, put_len},
};

/// A stream's number, given by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u32);

/// A task's number, given by the engine when it is first opened; also the producer of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub u32);

/// A place in a partition: `row` rows of frame `frame` have been consumed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The frame's number in its partition, counted from 0.
    pub frame: u64,
    /// Rows of it that were consumed.
    pub row: u32,
}

/// What a consumer knows of one producer's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerTime {
    /// The highest watermark seen.
    pub watermark: Time,
    /// Whether the producer still moves time.
    pub status: Status,
}

/// How far a task is in one of its inputs, as committed with a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputProgress {
    /// The next row to read.
    pub position: Position,
    /// The oldest frame the task may still read again; frames before it can be trimmed.
    pub keep_from: u64,
    /// Rows consumed since the beginning, for the ledger.
    pub rows: u64,
    /// Time per producer.
    pub producers: BTreeMap<TaskId, ProducerTime>,
}

impl InputProgress {
    /// The minimum over the producers that are not idle, or `None` if all are (or none is known).
    pub fn watermark(&self) -> Option<Time> {
        let active = self.producers.values().filter(|p| p.status != Status::Idle);
        active.map(|p| if p.status == Status::Ended { Time::MAX } else { p.watermark }).min()
    }
}

/// What a task commits beside its data, and finds again when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The turn's number, counted from 1 for the task's first.
    pub turn: u64,
    /// The turn's clock; never goes back.
    pub clock: Time,
    /// In the order of the task's inputs.
    pub inputs: Vec<InputProgress>,
    /// The task's own watermark; never goes back.
    pub watermark: Time,
    /// How often the event at the position was announced alone by a cautious task (one that had
    /// been opened more than once without a commit); 0 otherwise.
    #[serde(default)]
    pub attempts: u32,
    /// Events behind the position that were announced last, and not committed; 0 if none were.
    #[serde(default)]
    pub announced: u32,
    /// Events behind the position among which something is thought to end the process.
    #[serde(default)]
    pub suspected: u32,
    /// Whether nothing was taken in or done since the task was opened: no sign that it gets past
    /// what ended it before, so its openings are counted on.
    #[serde(default)]
    pub quiet: bool,
    /// Whether it has come to its end: its input has, nothing is left to fire, and all of that is
    /// in its streams.
    #[serde(default)]
    pub ended: bool,
    /// Everything the task has counted since it exists.
    pub counters: TaskCounters,
    /// What the task's connector wants back: a source's position, a sink's unconfirmed range.
    #[serde(with = "crate::wire::bytes")]
    pub note: Vec<u8>,
}

/// A frame for a partition of a stream.
#[derive(Clone, Debug)]
pub struct Output {
    /// Which stream.
    pub stream: StreamId,
    /// Which partition of it.
    pub partition: u32,
    /// What to append.
    pub frame: Frame,
}

/// One pass of a task.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Positions, clock, counters, note.
    pub progress: Progress,
    /// State changes.
    pub delta: Delta,
    /// Frames to append; a task's frames for one partition keep their order.
    pub outputs: Vec<Output>,
    /// Rows that the engine writes to sinks with the turn, as their sinks have encoded them (see
    /// [`crate::connector::Carried`]); none if it has no [`crate::engine::Engine::place`].
    pub carried: Vec<Vec<u8>>,
}

/// A table's number: a hash of its name, so that it is never positional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableId(pub u32);

impl TableId {
    /// The number of the table called `name`.
    pub fn of(name: &str) -> TableId {
        TableId(crate::key::hash(name.as_bytes()) as u32)
    }
}

/// State changes of a turn: upserts and deletions, at most one per table and key.
///
/// *Format:* entries, each `table u32 · key length · key · value length + 1, or 0 for a deletion ·
/// value`; lengths are LEB128. Not sorted: sorting is the compactor's work, off the task threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    bytes: Vec<u8>,
    entries: usize,
}

/// One state change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Whose.
    pub table: TableId,
    /// Which key.
    pub key: &'a [u8],
    /// The new value; `None` deletes the key.
    pub value: Option<&'a [u8]>,
}

impl Delta {
    /// Appends a change.
    pub fn push(&mut self, change: Change<'_>) {
        self.bytes.extend_from_slice(&change.table.0.to_le_bytes());
        put_len(&mut self.bytes, change.key.len());
        self.bytes.extend_from_slice(change.key);
        put_len(&mut self.bytes, change.value.map_or(0, |v| v.len() + 1));
        self.bytes.extend_from_slice(change.value.unwrap_or_default());
        self.entries += 1;
    }

    /// How many changes were pushed.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The encoded changes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads changes back from [`Delta::bytes`], or any concatenation of them.
///
/// Yields [`crate::Code::Corrupt`] once and then ends if the bytes are damaged.
pub fn changes(bytes: &[u8]) -> impl Iterator<Item = Result<Change<'_>>> {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || {
        if reader.0.is_empty() {
            return None;
        }
        let change = read_change(&mut reader);
        if change.is_err() {
            reader.0 = &[];
        }
        Some(change)
    })
}

fn read_change<'a>(r: &mut Reader<'a>) -> Result<Change<'a>> {
    let table = TableId(r.u32()?);
    let n = r.len()?;
    let key = r.bytes(n)?;
    let value = match r.len()? {
        0 => None,
        n => Some(r.bytes(n - 1)?),
    };
    Ok(Change { table, key, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_order() {
        let table = TableId::of("aircraft");
        let mut delta = Delta::default();
        let long = vec![7; 300];
        let all = [
            Change { table, key: b"a", value: Some(b"1") },
            Change { table, key: b"", value: None },
            Change { table, key: &long, value: Some(&[]) },
        ];
        all.iter().for_each(|c| delta.push(*c));
        let back: Vec<_> = changes(delta.bytes()).map(Result::unwrap).collect();
        assert_eq!(back, all);
        for cut in 1..delta.bytes().len() {
            let cut = &delta.bytes()[..cut];
            let good = changes(cut).filter(Result::is_ok).count();
            assert!(good < 3, "a cut blob has fewer changes");
        }
    }

    #[test]
    fn an_input_is_as_late_as_its_slowest_active_producer() {
        let at = |ms, status| ProducerTime { watermark: Time::from_ms(ms), status };
        let mut input = InputProgress::default();
        assert_eq!(input.watermark(), None);
        input.producers.insert(TaskId(1), at(10, Status::Active));
        input.producers.insert(TaskId(2), at(5, Status::Idle));
        assert_eq!(input.watermark(), Some(Time::from_ms(10)));
        input.producers.insert(TaskId(3), at(7, Status::Active));
        assert_eq!(input.watermark(), Some(Time::from_ms(7)));
        input.producers.values_mut().for_each(|p| p.status = Status::Ended);
        assert_eq!(input.watermark(), Some(Time::MAX));
    }
}
