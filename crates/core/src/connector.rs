//! The two traits through which data enters and leaves: sources and sinks.
//!
//! Connectors do their I/O on threads of their own, joined to their task by bounded queues; a task
//! never waits for them.
//!
//! *Invariants*
//! - A source partition hands out its units in one order, and the same units again when it is
//!   opened at an earlier position.
//! - A sink's `prepare` is a pure function of the rows: the same rows give the same bytes.

use std::{fmt, time::Duration};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::{Batch, Result, partitioner::Partitioner};

/// Something that rows come from. One value describes the source; each partition is opened apart.
pub trait Source: Send + Sync {
    /// How many partitions; each has its own order, position and watermark.
    fn partitions(&self) -> u32 {
        1
    }

    /// Whether the input ends by itself (a file that is not followed). A finite source has no
    /// limit on how far its event times may lie ahead of the clock.
    fn finite(&self) -> bool;

    /// Whether opening at a position gives the units behind it again. If not (requests that were
    /// answered), a chunk is committed whole, with one turn, however large.
    fn replays(&self) -> bool {
        true
    }

    /// The file that places count in, as a person reads it; `None` if there is none.
    fn file(&self) -> Option<String> {
        None
    }

    /// A row's place in a partition, as a person reads it, if that is no line of a file.
    fn place(&self, _partition: u32, _place: u64) -> Option<String> {
        None
    }

    /// The names of the fields that rows have, if that can be told before opening.
    ///
    /// # Errors
    /// If the source cannot be read at all (a file is missing).
    fn fields(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Whether [`Source::fields`] are those of one row, and others may have more or fewer. A flow
    /// is then not refused for a field that this row happens to lack.
    fn fields_vary(&self) -> bool {
        false
    }

    /// The column whose values say which partition a row is in, and how, if that is certain: steps
    /// that are keyed by it read the source without an exchange.
    fn partitioned_by(&self) -> Option<(&str, Partitioner)> {
        None
    }

    /// Opens a partition to produce rows of `schema`, from a position a chunk has named before, or
    /// from the beginning if `position` is empty.
    ///
    /// # Errors
    /// If the source cannot be read, or has changed so that the position means nothing any more.
    fn open(
        &self,
        partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> Result<Box<dyn SourceReader>>;
}

/// An opened source partition.
pub trait SourceReader: Send {
    /// The next chunk; waits at most about `wait` for it.
    ///
    /// # Errors
    /// What a retry can heal is retried by the supervisor, who opens the source again.
    fn pull(&mut self, wait: Duration) -> Result<Pull>;

    /// Asks for chunks of at most about `units` from now on; a source that cannot, need not.
    fn limit(&mut self, _units: u64) {}
}

/// What a source has to say.
pub enum Pull {
    /// Units to decode; decoding is pure and may run on any thread, chunks keep their order.
    Chunk(Box<dyn FnOnce() -> Chunk + Send>),
    /// Nothing now.
    Idle,
    /// Nothing ever again.
    End,
}

/// Some decoded units of a source, in order.
pub struct Chunk {
    /// The rows, of the schema the source was opened with.
    pub rows: RecordBatch,
    /// Each row's place in the source (a line of a file), counted from 1.
    pub places: Vec<u64>,
    /// Units that could not be decoded.
    pub undecodable: Vec<Undecodable>,
    /// Units seen: rows + undecodable + skipped. Counted by whoever splits the input into units.
    pub units: u64,
    /// Units that are no data: a header, a blank line.
    pub skipped: u64,
    /// Where to open the source to get what follows this chunk.
    pub position: Vec<u8>,
    /// Called when the turn that holds this chunk is durable.
    pub durable: Option<Box<dyn FnOnce() + Send>>,
}

/// A unit that could not be decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undecodable {
    /// Its place in the source, counted from 1; 0 if `file` says where it is.
    pub place: u64,
    /// Its bytes in the source: first, one past the last; both 0 if that says nothing.
    pub bytes: (u64, u64),
    /// The column at fault; empty if none can be named.
    pub column: String,
    /// Why, in words; does not repeat the column.
    pub error: String,
    /// The unit itself, cut to a bound.
    pub raw: Vec<u8>,
    /// The file it is in, if it is not [`Source::file`], for example a rotated one; of a message
    /// its topic, partition and offset.
    pub file: String,
}

impl Undecodable {
    /// The column and why, as a person reads it: `dep_delay: 'NA' is not a number`.
    pub fn reason(&self) -> String {
        match self.column.as_str() {
            "" => self.error.clone(),
            column => format!("{column}: {}", self.error),
        }
    }
}

/// What a sink promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Each row once, whatever crashes.
    ExactlyOnce,
    /// Each row at least once.
    AtLeastOnce,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guarantee::ExactlyOnce => "exactly once",
            Guarantee::AtLeastOnce => "at least once",
        })
    }
}

/// Something that rows go to.
pub trait Sink: Send + Sync {
    /// What it promises.
    fn guarantee(&self) -> Guarantee;

    /// One writer, or one per partition of the stream it reads (a folder of parts).
    fn partitioned(&self) -> bool {
        false
    }

    /// The place that it alone may write to, as a person reads it, and the same however it was
    /// named (through a link); `None` if others may write there, too.
    fn file(&self) -> Option<String> {
        None
    }

    /// Opens a writer for rows of `schema`. `note` is what [`SinkWriter::prepare`] returned for
    /// the last committed turn, empty if there is none. Whether that turn was written is unknown;
    /// its rows will be prepared and written again.
    ///
    /// # Errors
    /// If the target cannot be written, or holds less than was confirmed.
    fn open(&self, partition: u32, schema: SchemaRef, note: &[u8]) -> Result<Box<dyn SinkWriter>>;

    /// Itself, if an engine may write its rows; see [`Carried`].
    fn carried(&self) -> Option<&dyn Carried> {
        None
    }
}

/// A sink whose rows can be written with the turn they come from, by the engine that keeps the
/// turn: then they are there if and only if the turn is.
pub trait Carried {
    /// Where its rows are kept; an engine with this [`crate::engine::Engine::place`] can write
    /// them.
    ///
    /// # Errors
    /// If it cannot be told now.
    fn place(&self) -> Result<String>;

    /// Encodes rows of `schema` that come from task number `task`.
    ///
    /// # Errors
    /// As [`Sink::open`].
    fn encoder(&self, task: u32, schema: &SchemaRef) -> Result<Box<dyn RowEncoder>>;
}

/// Encodes rows that an engine writes.
pub trait RowEncoder: Send {
    /// The rows of turn `turn`, for [`crate::Turn::carried`].
    ///
    /// # Errors
    /// A row that cannot be encoded.
    fn encode(&mut self, rows: &[Batch], turn: u64) -> Result<Vec<u8>>;
}

/// A turn's rows, encoded for a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Kept with the turn: where the bytes go, how many they are, their checksum.
    pub note: Vec<u8>,
    /// What to write.
    pub bytes: Vec<u8>,
}

/// An opened sink.
pub trait SinkWriter: Send {
    /// Encodes the rows of the turn that follows the last written one. Writes nothing.
    ///
    /// # Errors
    /// A row that cannot be encoded.
    fn prepare(&mut self, rows: &[Batch]) -> Result<Prepared>;

    /// Writes what was prepared, durably. Called after the turn is durable, in order; called again
    /// with the same bytes after an error or a crash, and must then change nothing that is there.
    ///
    /// # Errors
    /// What a retry can heal is retried.
    fn write(&mut self, prepared: &Prepared) -> Result<()>;
}
