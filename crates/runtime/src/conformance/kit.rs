//! What the suite's checks are made of: frames, tasks, leases that are opened again when lost.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{
    Frame, FrameHeader, FrameKind, Status, Time, Turn,
    engine::{InputSpec, Lease, Settlement, StreamSpec, TaskSpec, Ticket},
    frame::{FrameEncoder, fingerprint},
    turn::{Change, Delta, InputProgress, Output, Position, Progress, StreamId, TableId, TaskId},
};

use super::Subject;

/// How often something is waited for.
const SETTLES_MAX: usize = 500;

/// The schema of the suite's frames.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

/// A frame of the given numbers.
pub fn frame(producer: TaskId, turn: u64, rows: &[i64]) -> Frame {
    let schema = schema();
    let header = FrameHeader {
        kind: FrameKind::Rows,
        status: Status::Active,
        producer,
        turn,
        watermark: Time::from_ms(0),
        rows: 0,
        schema: fingerprint(&schema),
    };
    let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(rows.to_vec()))]);
    FrameEncoder::default().encode(header, Some(&rows.unwrap())).unwrap()
}

/// The numbers in a frame.
pub fn numbers(frame: &Frame) -> Vec<i64> {
    use arrow_array::{cast::AsArray, types::Int64Type};
    let rows = frame.rows(&schema()).unwrap();
    rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// A stream of the suite's schema.
pub fn stream(name: &str, partitions: u32, retain_bytes: u64) -> StreamSpec {
    StreamSpec { name: name.into(), schema: schema(), partitions, retain_bytes }
}

/// A task (of two) that reads `inputs`; nobody is woken.
pub fn task(name: &str, inputs: &[(StreamId, u32)]) -> TaskSpec {
    TaskSpec {
        name: name.into(),
        tasks: 2,
        inputs: inputs.iter().map(|(s, p)| InputSpec { stream: *s, partition: *p }).collect(),
        waker: Arc::new(|| ()),
    }
}

/// Opens a task, settling the engine until it answers.
pub fn open(subject: &mut dyn Subject, spec: &TaskSpec) -> Box<dyn Lease> {
    for _ in 0..SETTLES_MAX {
        if let Some(lease) = subject.engine().open(spec).unwrap() {
            return lease;
        }
        subject.settle();
    }
    panic!("task {} is not opened", spec.name);
}

/// The turn after what `lease` has recovered, or after `turns` more.
pub fn turn(number: u64, outputs: Vec<(StreamId, u32, Frame)>, delta: Delta) -> Turn {
    Turn {
        progress: Progress { turn: number, ..Progress::default() },
        delta,
        outputs: outputs
            .into_iter()
            .map(|(stream, partition, frame)| Output { stream, partition, frame })
            .collect(),
        carried: Vec::new(),
    }
}

/// The input progress of a task that has read `rows` rows and all of the frames before `frame`.
pub fn read_up_to(frame: u64, rows: u64) -> InputProgress {
    InputProgress {
        position: Position { frame, row: 0 },
        keep_from: frame,
        rows,
        ..InputProgress::default()
    }
}

/// Everything a lease restores, the last change of each key.
pub fn restored(lease: &mut dyn Lease) -> BTreeMap<(TableId, Vec<u8>), Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut take = |c: Change<'_>| {
        match c.value {
            Some(value) => out.insert((c.table, c.key.to_vec()), value.to_vec()),
            None => out.remove(&(c.table, c.key.to_vec())),
        };
        Ok(())
    };
    while !lease.restore(64, &mut take).unwrap() {}
    out
}

/// Settles the subject until `found` gives what is expected.
pub(super) fn eventually<T: PartialEq + std::fmt::Debug>(
    subject: &mut dyn Subject,
    what: &str,
    expected: &T,
    mut found: impl FnMut(&mut dyn Subject) -> T,
) {
    for _ in 0..SETTLES_MAX {
        if found(subject) == *expected {
            return;
        }
        subject.settle();
    }
    assert_eq!(found(subject), *expected, "{what}");
}

/// A lease's frames from a position on.
pub(super) fn frames(lease: &mut dyn Lease, input: usize, from: u64) -> Vec<(u64, Frame)> {
    let found = lease.poll(input, Position { frame: from, row: 0 }, usize::MAX).unwrap();
    let before = std::iter::once(from).chain(found.iter().map(|(n, _)| n + 1));
    assert!(before.zip(&found).all(|(from, (n, _))| *n >= from), "frame numbers rise");
    found
}

/// Waits until a lease's input holds these rows from frame `from` on. Returns the frames' numbers.
pub fn polled(
    subject: &mut dyn Subject,
    lease: &mut dyn Lease,
    input: usize,
    from: u64,
    expected: &[i64],
) -> Vec<u64> {
    eventually(subject, "rows polled", &expected.to_vec(), |_| {
        frames(lease, input, from).iter().flat_map(|(_, f)| numbers(f)).collect()
    });
    frames(lease, input, from).iter().map(|(n, _)| *n).collect()
}

/// The rows of a stream's partition 0 that people can read.
pub(super) fn kept_rows(subject: &dyn Subject, stream: StreamId) -> Vec<i64> {
    let read = subject.engine().read(stream, 0, 0, usize::MAX).unwrap();
    read.iter().flat_map(|(_, f)| numbers(f)).collect()
}

/// A lease, and what it takes to open its task again.
pub(super) struct Held {
    spec: TaskSpec,
    /// Not there while it is opened again: a task drops its lease first.
    lease: Option<Box<dyn Lease>>,
}

impl Deref for Held {
    type Target = dyn Lease;

    fn deref(&self) -> &Self::Target {
        self.lease.as_deref().unwrap()
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.lease.as_deref_mut().unwrap()
    }
}

pub(super) fn hold(subject: &mut dyn Subject, spec: &TaskSpec) -> Held {
    Held { spec: spec.clone(), lease: Some(open(subject, spec)) }
}

/// What became of a turn in the end.
pub(super) fn settled(
    subject: &mut dyn Subject,
    lease: &mut dyn Lease,
    ticket: Ticket,
) -> Settlement {
    for _ in 0..SETTLES_MAX {
        match lease.settled(ticket) {
            Settlement::Pending => subject.settle(),
            Settlement::Retry => lease.retry(ticket),
            end => return end,
        }
    }
    panic!("a turn does not settle");
}

/// Hands a turn in until it is committed or refused for good, as a task does: a lease that is lost
/// is opened again, and what it recovers says whether the turn was committed.
pub(super) fn handed_in(
    subject: &mut dyn Subject,
    held: &mut Held,
    turn: &Turn,
) -> (Ticket, Settlement) {
    for _ in 0..SETTLES_MAX {
        let ticket = held.commit(turn.clone());
        let end = settled(subject, &mut **held, ticket);
        if !matches!(end, Settlement::Fenced | Settlement::Unknown) {
            return (ticket, end);
        }
        assert!(subject.loses_leases(), "{end:?}, and nobody has taken over");
        held.lease = None;
        held.lease = Some(open(subject, &held.spec));
        if held.recovered().progress.turn == turn.progress.turn {
            return (Ticket(0), Settlement::Ok); // before this lease, hence durable
        }
    }
    panic!("a turn is never committed");
}

pub(super) fn committed(subject: &mut dyn Subject, held: &mut Held, turn: Turn) -> Ticket {
    let (ticket, end) = handed_in(subject, held, &turn);
    assert_eq!(end, Settlement::Ok);
    ticket
}
