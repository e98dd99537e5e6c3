//! The record: what the log is made of. One turn is one record.
//!
//! *Format, version 1*, little-endian: `0` magic `MSLR` · `4` version · `5` kind · `6` 0 ·
//! `8` count of numbers u32 · `12` metadata length u32 · `16` body length u64 · `24` sequence u64 ·
//! `32` position u64 · `40` synced u64 · `48` body checksum u64 · `56` head checksum u64 (of
//! `0..56` and the numbers) · the frame numbers given to the record's frames, u64 each · the body:
//! metadata (MessagePack), then the delta, then the frames, each padded to 8 bytes.
//!
//! *Why two checksums:* the body's is computed on the task's thread, before the record has a place;
//! the head's when the committer writes it. A head with a right checksum and the position it lies
//! at is a record even if its body is bad, so a scan can tell a torn tail from damage.
//!
//! *Invariant:* `synced` is a position up to which the log was known durable when the record was
//! written. Bad bytes before it are damage, never a torn tail.

use std::sync::Arc;

use arrow_buffer::Buffer;
use millstream_core::{
    Error, Frame, Result,
    engine::{InputSpec, StreamSpec},
    turn::{Delta, Progress, TaskId},
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of a record's head without its numbers.
pub(super) const HEAD_BYTES: usize = 64;
/// A body larger than this is taken for damage.
pub(super) const BODY_BYTES_MAX: u64 = 1 << 36;
const NUMBERS_MAX: u32 = 1 << 20;
const MAGIC: [u8; 4] = *b"MSLR";
const VERSION: u8 = 1;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first record of a segment: [`super::snapshot::Start`].
    Start = 1,
    /// A stream was created.
    Stream = 2,
    /// A task was opened.
    Open = 3,
    /// A turn.
    Turn = 4,
    /// A frame from outside any task.
    Append = 5,
    /// A task's deltas and runs became other runs.
    Manifest = 6,
    /// Frames and deltas were copied here from old segments.
    Evacuate = 7,
}

/// The fixed part of a record's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub kind: Kind,
    pub numbers: u32,
    pub meta_len: u32,
    pub body_len: u64,
    pub seq: u64,
    pub position: u64,
    pub synced: u64,
    pub body_sum: u64,
    head_sum: u64,
}

impl Head {
    /// Reads a head; `None` if the bytes are none.
    pub fn read(b: &[u8; HEAD_BYTES]) -> Option<Head> {
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if b[..4] != MAGIC || b[4] != VERSION || b[6..8] != [0, 0] {
            return None;
        }
        let kind = match b[5] {
            1 => Kind::Start,
            2 => Kind::Stream,
            3 => Kind::Open,
            4 => Kind::Turn,
            5 => Kind::Append,
            6 => Kind::Manifest,
            7 => Kind::Evacuate,
            _ => return None,
        };
        let head = Head {
            kind,
            numbers: u32_at(8),
            meta_len: u32_at(12),
            body_len: u64_at(16),
            seq: u64_at(24),
            position: u64_at(32),
            synced: u64_at(40),
            body_sum: u64_at(48),
            head_sum: u64_at(56),
        };
        let fits = head.numbers <= NUMBERS_MAX
            && head.body_len <= BODY_BYTES_MAX
            && head.body_len.is_multiple_of(8)
            && u64::from(head.meta_len) <= head.body_len;
        fits.then_some(head)
    }

    /// Whether the head's checksum is right. `numbers` are the bytes that follow it.
    pub fn verified(&self, bytes: &[u8], numbers: &[u8]) -> bool {
        head_sum(&bytes[..HEAD_BYTES - 8], numbers) == self.head_sum
    }

    /// Bytes of head and numbers.
    pub fn len(&self) -> u64 {
        HEAD_BYTES as u64 + 8 * u64::from(self.numbers)
    }

    /// Bytes of the whole record.
    pub fn record_len(&self) -> u64 {
        self.len() + self.body_len
    }

    /// Where the part behind the metadata starts, counted from the record's first byte.
    pub fn parts_at(&self) -> u64 {
        self.len() + u64::from(self.meta_len).next_multiple_of(8)
    }
}

fn head_sum(head: &[u8], numbers: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(head);
    sum.update(numbers);
    sum.digest()
}

/// Metadata of [`Kind::Turn`]; `P` is borrowed when written and owned when read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TurnMeta<P> {
    pub task: TaskId,
    pub delta: Option<DeltaMeta>,
    pub outputs: Vec<OutputMeta>,
    pub progress: P,
}

/// A delta's size and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeltaMeta {
    pub len: u32,
    pub entries: u32,
    pub sum: u64,
}

/// Where one of a record's frames goes; its number is in the record's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OutputMeta {
    pub stream: u32,
    pub partition: u32,
    pub rows: u32,
    pub len: u32,
}

impl OutputMeta {
    pub fn of(stream: u32, partition: u32, frame: &Frame) -> OutputMeta {
        // A frame is at most FRAME_BYTES_MAX, far below u32::MAX.
        OutputMeta { stream, partition, rows: frame.header.rows, len: frame.bytes().len() as u32 }
    }
}

/// Metadata of [`Kind::Open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenMeta {
    pub task: TaskId,
    pub name: String,
    pub inputs: Vec<InputSpec>,
}

/// Metadata of [`Kind::Manifest`]: a task's runs from now on, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManifestMeta {
    pub task: TaskId,
    /// Deltas up to this sequence number are in the runs.
    pub through: u64,
    pub runs: Vec<RunMeta>,
}

/// A file of sorted state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunMeta {
    pub number: u64,
    pub bytes: u64,
    pub entries: u64,
}

/// Metadata of [`Kind::Evacuate`]: what the parts are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EvacuateMeta {
    pub items: Vec<(Item, u32)>,
}

/// Something in a segment that is needed for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Item {
    /// A frame of a stream.
    Frame { stream: u32, partition: u32, number: u64, rows: u32, seq: u64 },
    /// State changes of a task's turn.
    Delta { task: u32, seq: u64, entries: u32, sum: u64 },
}

/// An item and where it lies, counted from the start of its record or of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub item: Item,
    pub offset: u64,
    pub len: u32,
}

/// A record's metadata, decoded.
pub(super) enum Meta {
    Start(super::snapshot::Start),
    Stream(StreamSpec),
    Open(OpenMeta),
    Turn(TurnMeta<Progress>),
    Append(OutputMeta),
    Manifest(ManifestMeta),
    Evacuate(EvacuateMeta),
}

impl Meta {
    /// Decodes the metadata of a record of kind `kind`.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Meta> {
        Ok(match kind {
            Kind::Start => Meta::Start(unpack(bytes)?),
            Kind::Stream => Meta::Stream(unpack(bytes)?),
            Kind::Open => Meta::Open(unpack(bytes)?),
            Kind::Turn => Meta::Turn(unpack(bytes)?),
            Kind::Append => Meta::Append(unpack(bytes)?),
            Kind::Manifest => Meta::Manifest(unpack(bytes)?),
            Kind::Evacuate => Meta::Evacuate(unpack(bytes)?),
        })
    }

    /// The items in the record's parts, with offsets from the first part.
    pub fn entries(&self, seq: u64, numbers: &[u64]) -> Result<Vec<Entry>> {
        match self {
            Meta::Turn(m) => {
                enough(m.outputs.len(), numbers)?;
                Ok(turn_entries(m.task, m.delta, &m.outputs, seq, numbers))
            }
            Meta::Append(output) => {
                enough(1, numbers)?;
                Ok(turn_entries(TaskId(0), None, &[*output], seq, numbers))
            }
            Meta::Evacuate(meta) => Ok(place(meta.items.iter().copied())),
            _ => Ok(Vec::new()),
        }
    }
}

/// The items in a turn's parts, with offsets from the first part; one number for each output.
pub(super) fn turn_entries(
    task: TaskId,
    delta: Option<DeltaMeta>,
    outputs: &[OutputMeta],
    seq: u64,
    numbers: &[u64],
) -> Vec<Entry> {
    let delta =
        delta.map(|d| (Item::Delta { task: task.0, seq, entries: d.entries, sum: d.sum }, d.len));
    let frames = outputs.iter().zip(numbers).map(|(o, n)| (frame_item(o, seq, *n), o.len));
    place(delta.into_iter().chain(frames))
}

pub(super) fn frame_item(output: &OutputMeta, seq: u64, number: u64) -> Item {
    let OutputMeta { stream, partition, rows, .. } = *output;
    Item::Frame { stream, partition, number, rows, seq }
}

fn enough(frames: usize, numbers: &[u64]) -> Result<()> {
    if frames == numbers.len() {
        return Ok(());
    }
    Err(Error::corrupt(format!("a record of {frames} frames has {} numbers", numbers.len())))
}

/// Lays items out one behind the other, each padded to 8 bytes.
pub(super) fn place(items: impl IntoIterator<Item = (Item, u32)>) -> Vec<Entry> {
    let mut offset = 0;
    let laid = items.into_iter().map(|(item, len)| {
        let entry = Entry { item, offset, len };
        offset += u64::from(len).next_multiple_of(8);
        entry
    });
    laid.collect()
}

/// Something behind the metadata; sharing, not copying.
pub(super) enum Part {
    Frame(Frame),
    Delta(Arc<Delta>),
    Bytes(Buffer),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Frame(frame) => frame.bytes(),
            Part::Delta(delta) => delta.bytes(),
            Part::Bytes(bytes) => bytes,
        }
    }
}

/// A record on its way to the log.
pub(super) struct Record {
    pub kind: Kind,
    pub seq: u64,
    /// Given under the engine's lock, like `seq`.
    pub numbers: Vec<u64>,
    /// Items, with offsets from the first part.
    pub entries: Vec<Entry>,
    /// Whom to wake when it is durable.
    pub task: Option<TaskId>,
    meta: Vec<u8>,
    meta_len: u32,
    parts: Vec<Part>,
    body_len: u64,
    body_sum: u64,
}

const ZEROS: [u8; 8] = [0; 8];

impl Record {
    /// Encodes everything but what is known only under the lock.
    pub fn new<M: Serialize>(kind: Kind, meta: &M, parts: Vec<Part>) -> Result<Record> {
        let mut meta = pack(meta)?;
        let meta_len = meta.len() as u32;
        meta.resize(meta.len().next_multiple_of(8), 0);
        let mut record = Record {
            kind,
            seq: 0,
            numbers: Vec::new(),
            entries: Vec::new(),
            task: None,
            meta,
            meta_len,
            parts,
            body_len: 0,
            body_sum: 0,
        };
        let (mut sum, mut len) = (Xxh3::new(), 0);
        for slice in record.body() {
            len += slice.len() as u64;
            sum.update(slice);
        }
        (record.body_len, record.body_sum) = (len, sum.digest());
        Ok(record)
    }

    /// A record that was read, to be written at another place. `rest` is the body behind the
    /// metadata.
    pub fn again(
        head: &Head,
        numbers: Vec<u64>,
        mut meta: Vec<u8>,
        rest: Buffer,
        entries: Vec<Entry>,
    ) -> Record {
        meta.resize(meta.len().next_multiple_of(8), 0);
        Record {
            kind: head.kind,
            seq: head.seq,
            numbers,
            entries,
            task: None,
            meta,
            meta_len: head.meta_len,
            parts: vec![Part::Bytes(rest)],
            body_len: head.body_len,
            body_sum: head.body_sum,
        }
    }

    /// Bytes of the whole record.
    pub fn len(&self) -> u64 {
        (HEAD_BYTES + 8 * self.numbers.len()) as u64 + self.body_len
    }

    /// Where the first part lies, counted from the record's first byte.
    pub fn parts_at(&self) -> u64 {
        (HEAD_BYTES + 8 * self.numbers.len() + self.meta.len()) as u64
    }

    /// Head and numbers, for the place where the record is written.
    pub fn head(&self, position: u64, synced: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + 8 * self.numbers.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, self.kind as u8, 0, 0]);
        out.extend_from_slice(&(self.numbers.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.meta_len.to_le_bytes());
        for word in [self.body_len, self.seq, position, synced, self.body_sum] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let numbers: Vec<u8> = self.numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let sum = head_sum(&out, &numbers);
        out.extend_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&numbers);
        out
    }

    /// The body, slice by slice, padding included.
    pub fn body(&self) -> impl Iterator<Item = &[u8]> {
        let parts = self.parts.iter().flat_map(|part| {
            let bytes = part.bytes();
            let pad = bytes.len().next_multiple_of(8) - bytes.len();
            [bytes, &ZEROS[..pad]]
        });
        std::iter::once(self.meta.as_slice()).chain(parts).filter(|s| !s.is_empty())
    }
}

/// MessagePack with field names, so that fields can be added.
pub(super) fn pack<M: Serialize>(meta: &M) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(meta)
        .map_err(|e| Error::new(millstream_core::Code::Bug, format!("record metadata: {e}")))
}

pub(super) fn unpack<'a, M: Deserialize<'a>>(bytes: &'a [u8]) -> Result<M> {
    rmp_serde::from_slice(bytes).map_err(|e| Error::corrupt(format!("record metadata: {e}")))
}
