//! Reads back what was moved, and compares: content, counts, and the books.

use std::collections::HashMap;

use millstream_core::{
    Error, Frame, Result,
    engine::{AtRest, Engine, InputSpec, Moved},
    ledger::Ledger,
    turn::{Change, Progress, TaskId},
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{super::KafkaEngine, each, read};

/// What was written or read: content and counts.
pub struct Digest {
    pub contents: Vec<Content>,
    pub states: Vec<StateSum>,
}

/// Of a partition's frames, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    frames: u64,
    rows: u64,
    bytes: u64,
    sum: u64,
}

/// Of a task's state, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateSum {
    keys: u64,
    bytes: u64,
    sum: u64,
}

/// A state while it is read: of each key the last value counts.
#[derive(Default)]
pub struct StateDigest(HashMap<u128, (u64, u64)>);

impl StateDigest {
    pub fn take(&mut self, change: &Change<'_>) {
        let mut key = Xxh3::new();
        key.update(&change.table.0.to_le_bytes());
        key.update(change.key);
        let key = key.digest128();
        match change.value {
            Some(value) => {
                let bytes = change.key.len() + value.len();
                self.0.insert(key, (bytes as u64, xxh3_64(value)))
            }
            None => self.0.remove(&key),
        };
    }

    pub fn sum(&self) -> StateSum {
        let mut sum = StateSum { keys: self.0.len() as u64, ..StateSum::default() };
        for (key, (bytes, value)) in &self.0 {
            sum.bytes += bytes;
            let both = [key.to_le_bytes(), u128::from(*value).to_le_bytes()].concat();
            sum.sum = sum.sum.wrapping_add(xxh3_64(&both));
        }
        sum
    }
}

impl Content {
    pub fn take(&mut self, frame: &Frame) {
        self.frames += 1;
        self.rows += u64::from(frame.header.rows);
        self.bytes += frame.bytes().len() as u64;
        let both = [self.sum, xxh3_64(frame.bytes())].map(u64::to_le_bytes).concat();
        self.sum = xxh3_64(&both);
    }
}

impl Digest {
    pub fn moved(&self, rest: &AtRest) -> Moved {
        let sum = |of: fn(&Content) -> u64| self.contents.iter().map(of).sum();
        Moved {
            streams: rest.streams.len() as u64,
            partitions: rest.streams.iter().map(|s| s.partitions.len() as u64).sum(),
            frames: sum(|c| c.frames),
            rows: sum(|c| c.rows),
            frame_bytes: sum(|c| c.bytes),
            tasks: rest.tasks.len() as u64,
            keys: self.states.iter().map(|s| s.keys).sum(),
            state_bytes: self.states.iter().map(|s| s.bytes).sum(),
        }
    }
}

/// Whether `to` has what `from` has.
///
/// # Errors
/// [`Code::Corrupt`](millstream_core::Code::Corrupt) naming what differs.
pub fn same(
    from: &dyn Engine,
    rest: &AtRest,
    to: &KafkaEngine,
    partitions: &[InputSpec],
    written: &Digest,
) -> Result<()> {
    let found = to.streams();
    for (n, stream) in rest.streams.iter().enumerate() {
        let name = &stream.spec.name;
        let appended = stream.partitions.iter().map(|p| p.appended_rows).sum();
        let info = found.get(n).map(|info| (&info.spec, info.appended_rows, &info.frames[..]));
        let frames: Vec<_> = stream.partitions.iter().map(|p| p.frames.clone()).collect();
        equal(|| format!("stream {name}"), &info, &Some((&stream.spec, appended, &frames[..])))?;
    }
    let written_there: Vec<_> = partitions.iter().zip(&written.contents).collect();
    each(&written_there, |(at, written)| {
        let mut content = Content::default();
        read(to, **at, written.frames, |frame| {
            content.take(&frame);
            Ok(())
        })?;
        equal(|| format!("partition {} of stream {}", at.partition, at.stream.0), &content, written)
    })?;
    let tasks = to.tasks();
    equal(|| "the number of tasks".into(), &tasks.len(), &rest.tasks.len())?;
    let tasks: Vec<_> = tasks.iter().zip(&rest.tasks).zip(&written.states).zip(1..).collect();
    each(&tasks, |((((name, id, progress), task), written), number)| {
        let begun = task.progress.turn > 0;
        let expected = if begun { &task.progress } else { &Progress::default() };
        let named = (name, *id, progress);
        equal(|| format!("task {name}"), &named, &(&task.name, TaskId(*number), expected))?;
        let mut state = StateDigest::default();
        to.visit_state(*id, &mut |change| {
            state.take(&change);
            Ok(())
        })?;
        equal(|| format!("the state of task {name}"), &state.sum(), written)
    })?;
    books(from.ledger(), to.ledger())
}

/// Whether the books say the same. What a task that has not begun calls appended depends on what
/// was gone before, which is told with its first turn.
fn books(from: Ledger, to: Ledger) -> Result<()> {
    let lines = |ledger: &Ledger| -> Vec<_> {
        let lines = ledger.streams.iter();
        lines.map(|l| (l.stream.clone(), l.consumer.clone(), l.read, l.backlog)).collect()
    };
    equal(|| "the ledger's streams".into(), &lines(&to), &lines(&from))?;
    equal(|| "what the ledger does not account for".into(), &to.violations(), &from.violations())?;
    let rest = |ledger: Ledger| (ledger.sources, ledger.operators, ledger.edges);
    equal(|| "the ledger".into(), &rest(to), &rest(from))
}

fn equal<T: PartialEq + std::fmt::Debug>(
    what: impl Fn() -> String,
    found: &T,
    expected: &T,
) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let what = what();
    let message = format!("{what} was read back as {found:?}, and should be {expected:?}");
    Err(Error::corrupt(message)
        .help("what was written is not to be used: move it to a new application, --app NAME"))
}
