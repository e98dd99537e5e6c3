//! What the runtime relies on in a connector, checked: for the tests of your own source or sink.
//!
//! *Why it exists:* "nothing is lost, nothing comes twice" rests on two promises that no type can
//! make: a source opened at a position gives what follows it, and a sink writes a turn again
//! without changing what is there. Both are needed only after a crash, which is too late to learn.
//!
//! *Limits:* 100,000 units of a source are read. Crashes fall between calls and not into them.

use std::{collections::BTreeSet, time::Duration};

use arrow_schema::SchemaRef;
use millstream_core::{
    Batch,
    connector::{
        Chunk, Guarantee, Prepared, Pull, Sink, SinkWriter, Source, SourceReader, Undecodable,
    },
};
use millstream_io::JsonEncoder;
use serde::{Serialize, de::DeserializeOwned};

use crate::flow::{fields_of, schema_of};

/// Units read of a source, at most.
const UNITS_MAX: u64 = 100_000;
/// How long a source is waited for in one call, and how often in a row before it is at its end.
const WAIT: Duration = Duration::from_millis(10);
const IDLE_MAX: u32 = 5;
const IDLE_MAX_FINITE: u32 = 1_000;
/// Chunks decoded out of their order.
const AHEAD: usize = 4;
/// Positions at which a source is opened again, about.
const REOPENED: usize = 16;

/// What was read of a partition, and after how much of it each position came.
#[derive(Default)]
struct Read {
    rows: Vec<String>,
    undecodable: Vec<Undecodable>,
    skipped: u64,
    positions: Vec<Position>,
    known: BTreeSet<Vec<u8>>,
}

struct Position {
    bytes: Vec<u8>,
    rows: usize,
    undecodable: usize,
    skipped: u64,
}

/// Checks that a source keeps its promises, in each partition: its counts add up, its positions go
/// on, decoding does not depend on when it is done, and opened at any position, however chunks are
/// cut, it gives the same as before.
///
/// Rows are read as `T`. A finite source is read to its end, another until it has nothing more.
///
/// # Panics
/// If a promise is broken, naming it.
pub fn source<T: Serialize + DeserializeOwned>(source: &dyn Source) {
    let schema = schema::<T>();
    assert!(source.partitions() > 0, "a source has at least one partition");
    for partition in 0..source.partitions() {
        let open = |position: &[u8]| source.open(partition, schema.clone(), position);
        let from = |position: &[u8], units: Option<u64>| {
            let mut reader = open(position).unwrap_or_else(|e| panic!("the source opens: {e}"));
            units.into_iter().for_each(|n| reader.limit(n));
            read(reader, &schema, source.finite())
        };
        let whole = from(&[], None);
        if !source.replays() {
            continue;
        }
        let small = from(&[], Some(1));
        let begin = Position { bytes: Vec::new(), rows: 0, undecodable: 0, skipped: 0 };
        follows(&small, &whole, &begin, "read again, in small chunks");
        let step = small.positions.len().div_ceil(REOPENED).max(1);
        for at in small.positions.iter().step_by(step).chain(&whole.positions) {
            let when = format!("opened again at the position behind row {}", at.rows);
            follows(&from(&at.bytes, None), &whole, at, &when);
        }
        let nonsense = open(b"\xffno position of any source").and_then(|mut r| r.pull(WAIT));
        assert!(nonsense.is_err(), "a position that means nothing is an error");
    }
}

/// Reads to the end. Chunks are decoded last to first, a few at a time.
fn read(mut reader: Box<dyn SourceReader>, schema: &SchemaRef, finite: bool) -> Read {
    let (mut read, mut units, mut idle, mut ended) = (Read::default(), 0, 0, false);
    let idle_max = if finite { IDLE_MAX_FINITE } else { IDLE_MAX };
    while !ended && units < UNITS_MAX {
        let mut decoders = Vec::new();
        while !ended && decoders.len() < AHEAD {
            match reader.pull(WAIT).unwrap_or_else(|e| panic!("the source is read: {e}")) {
                Pull::Chunk(decode) => decoders.push(decode),
                Pull::Idle if idle < idle_max => idle += 1,
                Pull::Idle => {
                    assert!(!finite, "a source that calls itself finite comes to its end");
                    ended = true;
                }
                Pull::End => ended = true,
            }
        }
        let mut chunks: Vec<Chunk> = decoders.into_iter().rev().map(|decode| decode()).collect();
        chunks.reverse();
        for chunk in chunks {
            (units, idle) = (units + chunk.units, 0);
            read.add(chunk, schema);
        }
    }
    read
}

impl Read {
    fn add(&mut self, chunk: Chunk, schema: &SchemaRef) {
        let (rows, bad) = (chunk.rows.num_rows(), chunk.undecodable.len());
        let parts = rows as u64 + bad as u64 + chunk.skipped;
        assert_eq!(chunk.units, parts, "units are rows + undecodable + skipped");
        assert_eq!(chunk.rows.schema_ref(), schema, "rows have the schema they were asked for");
        assert_eq!(chunk.places.len(), rows, "each row has its place");
        assert!(!chunk.places.contains(&0), "places are counted from 1");
        assert!(!chunk.position.is_empty(), "an empty position means the beginning");
        let new = self.known.insert(chunk.position.clone());
        assert!(new || chunk.units == 0, "each chunk has a position of its own");
        let mut lines = Vec::new();
        let encoded = JsonEncoder::new().encode(&chunk.rows, &mut lines);
        encoded.unwrap_or_else(|e| panic!("rows can be shown: {e}"));
        let lines = String::from_utf8_lossy(&lines);
        let placed = chunk.places.iter().zip(lines.lines());
        self.rows.extend(placed.map(|(place, line)| format!("{place}: {line}")));
        self.undecodable.extend(chunk.undecodable);
        self.skipped += chunk.skipped;
        self.positions.push(Position {
            bytes: chunk.position,
            rows: self.rows.len(),
            undecodable: self.undecodable.len(),
            skipped: self.skipped,
        });
    }
}

/// That a reading from `at` gave what the first one had given from there on.
fn follows(read: &Read, whole: &Read, at: &Position, when: &str) {
    let expected = whole.rows.get(at.rows..).unwrap_or_default();
    let pairs = read.rows.iter().zip(expected);
    for (found, expected) in pairs {
        assert_eq!(found, expected, "{when}, the source gives other rows");
    }
    let (found, expected) = (read.rows.len(), expected.len());
    assert_eq!(found, expected, "{when}, the source gives another number of rows");
    let bad = whole.undecodable.get(at.undecodable..).unwrap_or_default();
    assert_eq!(read.undecodable, bad, "{when}, the source sets other units aside");
    assert_eq!(read.skipped + at.skipped, whole.skipped, "{when}, the source skips others");
}

/// Checks that a sink keeps its promises when its node dies before, between and after `prepare` and
/// `write`: the same rows are prepared to the same bytes, a turn written again changes nothing that
/// is there, and each row is there as often as the sink's [`Guarantee`] says.
///
/// `rows` are three at least. `contents` says what the target holds, a text per row, in order.
///
/// # Panics
/// If a promise is broken, naming it.
pub fn sink<T: Serialize + DeserializeOwned>(
    sink: &dyn Sink,
    rows: &[T],
    contents: impl Fn() -> Vec<String>,
) {
    assert!(rows.len() >= 3, "three rows at least, for three turns");
    let (third, schema) = (rows.len() / 3, schema::<T>());
    let turns = [&rows[..third], &rows[third..2 * third], &rows[2 * third..]];
    let turns = turns.map(|rows| batch(&schema, rows));
    let open = |note: &[u8]| {
        let writer = sink.open(0, schema.clone(), note);
        Writer(writer.unwrap_or_else(|e| panic!("the sink opens: {e}")))
    };
    let mut target = Target { sink, before: contents(), contents };

    let mut writer = open(&[]);
    let first = writer.prepare(&turns[0]);
    target.holds(0, "after `prepare`, which writes nothing");
    writer.write(&first);
    target.holds(turns[0].len(), "after the first turn");
    writer.write(&first);
    target.holds(0, "after the same turn was written again");

    let second = writer.prepare(&turns[1]);
    drop(writer); // dies when the turn is committed and not written
    let mut writer = open(&second.note);
    assert_eq!(writer.prepare(&turns[1]), second, "the same rows are prepared to the same bytes");
    writer.write(&second);
    target.holds(turns[1].len(), "after a turn that was committed before a crash");

    drop(writer); // dies when the turn is written, and nobody knows
    let mut writer = open(&second.note);
    let again = writer.prepare(&turns[1]);
    assert_eq!(again, second, "the same rows are prepared to the same bytes");
    writer.write(&again);
    target.holds(0, "after a turn that was written before a crash was written again");

    let third = writer.prepare(&turns[2]);
    drop(writer); // dies when the turn is prepared and not committed
    let mut writer = open(&second.note);
    let again = writer.prepare(&turns[1]);
    writer.write(&again);
    assert_eq!(writer.prepare(&turns[2]), third, "the same rows are prepared to the same bytes");
    writer.write(&third);
    target.holds(turns[2].len(), "after a turn that was prepared twice");
}

/// What a sink has written, and what it may have.
struct Target<'a, C> {
    sink: &'a dyn Sink,
    before: Vec<String>,
    contents: C,
}

impl<C: Fn() -> Vec<String>> Target<'_, C> {
    /// That `new` rows are there besides those that were.
    fn holds(&mut self, new: usize, when: &str) {
        let now = (self.contents)();
        assert!(now.starts_with(&self.before), "{when}, the sink has changed what was there");
        let added = now.len() - self.before.len();
        match self.sink.guarantee() {
            Guarantee::ExactlyOnce => assert_eq!(
                added, new,
                "{when}: a sink that promises each row exactly once has not added each once"
            ),
            Guarantee::AtLeastOnce => {
                assert!(added >= new, "{when}: {added} rows were added, not all {new}");
            }
        }
        self.before = now;
    }
}

struct Writer(Box<dyn SinkWriter>);

impl Writer {
    fn prepare(&mut self, rows: &Batch) -> Prepared {
        // In two batches, as rows may come.
        let half = rows.len() / 2;
        let rows = [rows.slice(0, half), rows.slice(half, rows.len() - half)];
        self.0.prepare(&rows).unwrap_or_else(|e| panic!("the sink prepares: {e}"))
    }

    fn write(&mut self, prepared: &Prepared) {
        self.0.write(prepared).unwrap_or_else(|e| panic!("the sink writes: {e}"));
    }
}

fn schema<T: Serialize + DeserializeOwned>() -> SchemaRef {
    schema_of(&fields_of::<T>().unwrap_or_else(|e| panic!("{e}")))
}

fn batch<T: Serialize>(schema: &SchemaRef, rows: &[T]) -> Batch {
    let rows = serde_arrow::to_record_batch(schema.fields(), &rows);
    Batch::derived(rows.unwrap_or_else(|e| panic!("rows become columns: {e}")))
}
