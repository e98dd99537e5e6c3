//! The unit of append: a header of fixed size and an Arrow IPC body, under one checksum.
//!
//! *Format, version 1*, little-endian, 64 bytes of header:
//! `0` magic `MF` · `2` version · `3` key codec version · `4` kind · `5` status · `6` flags (0) ·
//! `8` producer u32 · `12` rows u32 · `16` turn u64 · `24` watermark i64 · `32` schema u64 ·
//! `40` body length u32 · `44` metadata length u32 · `48` checksum u64 (xxh3 of everything else) ·
//! `56` reserved. The body is an IPC record-batch message: padded metadata, then buffers aligned
//! to 8 bytes. The schema itself is not repeated; its fingerprint is.
//!
//! *Invariant:* a frame that decodes is byte for byte what was encoded.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::{
    MessageHeader, root_as_message,
    writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions},
};
use arrow_schema::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{Code, Error, Result, Time, key::KEY_CODEC_VERSION, turn::TaskId, wire::Reader};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 64;
/// The largest frame, in bytes; the engine's turns and the decoders rely on it.
pub const FRAME_BYTES_MAX: usize = 256 << 20;
const MAGIC: &[u8; 2] = b"MF";
const VERSION: u8 = 1;
const CHECKSUM_AT: usize = 48;

/// What a frame's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Rows of the stream's schema.
    Rows,
    /// Messages in [`crate::mail`]'s schema.
    Mail,
}

/// Whether a producer still moves time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It does.
    #[default]
    Active,
    /// It has nothing to say; the minimum over producers leaves it out.
    Idle,
    /// It will never say anything again.
    Ended,
}

/// What is known of a frame without decoding its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the rows are.
    pub kind: FrameKind,
    /// Whether the producer still moves time.
    pub status: Status,
    /// The task that wrote it.
    pub producer: TaskId,
    /// The number of that task's turn.
    pub turn: u64,
    /// The producer's watermark after these rows.
    pub watermark: Time,
    /// How many rows; 0 for a frame that only moves the watermark.
    pub rows: u32,
    /// [`fingerprint`] of the rows' schema.
    pub schema: u64,
}

impl FrameHeader {
    /// Of a frame that no task has written: it moves no time.
    pub fn from_outside(kind: FrameKind, schema: &Schema) -> FrameHeader {
        FrameHeader {
            kind,
            status: Status::Active,
            producer: TaskId(u32::MAX),
            turn: 0,
            watermark: Time::MIN,
            rows: 0,
            schema: fingerprint(schema),
        }
    }
}

/// A header and the bytes of its rows. Cloning shares the bytes.
#[derive(Clone)]
pub struct Frame {
    /// What is known without decoding.
    pub header: FrameHeader,
    bytes: Buffer,
}

/// A number for a schema: the same names, types and nullability give the same number.
pub fn fingerprint(schema: &Schema) -> u64 {
    /// Every frame that is read asks: text goes into the hash without being kept.
    struct Sum(Xxh3);
    impl fmt::Write for Sum {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }
    let mut sum = Sum(Xxh3::new());
    for field in schema.fields() {
        let (name, ty, nullable) = (field.name(), field.data_type(), field.is_nullable());
        // A sum takes any text.
        let _ = write!(sum, "{name}\0{ty}\0{nullable}\0");
    }
    sum.0.digest()
}

/// Encodes frames, reusing its scratch space.
#[derive(Default)]
pub struct FrameEncoder {
    context: IpcWriteContext,
}

impl FrameEncoder {
    /// Encodes `rows` behind `header`; `header.rows` is set from the batch.
    ///
    /// # Errors
    /// [`Code::Limit`] if the frame would exceed [`FRAME_BYTES_MAX`].
    pub fn encode(&mut self, mut header: FrameHeader, rows: Option<&RecordBatch>) -> Result<Frame> {
        let mut out =
            MutableBuffer::new(HEADER_BYTES + rows.map_or(0, |r| r.num_rows() * 64 + 512));
        out.resize(HEADER_BYTES, 0);
        header.rows = 0;
        let mut metadata_len = 0;
        if let Some(rows) = rows {
            header.rows = u32::try_from(rows.num_rows())
                .map_err(|_| Error::new(Code::Limit, "a frame of more than 4,294,967,295 rows"))?;
            let options = IpcWriteOptions::try_new(8, false, arrow_ipc::MetadataVersion::V5)?;
            let mut dictionaries = DictionaryTracker::new(true);
            let (_, message) = IpcDataGenerator::default().encode(
                rows,
                &mut dictionaries,
                &options,
                &mut self.context,
            )?;
            out.extend_from_slice(&message.ipc_message);
            out.resize(out.len().next_multiple_of(8), 0);
            metadata_len = out.len() - HEADER_BYTES;
            out.extend_from_slice(&message.arrow_data);
        }
        if out.len() > FRAME_BYTES_MAX {
            return Err(Error::new(
                Code::Limit,
                format!("a frame of {} bytes; the limit is {FRAME_BYTES_MAX}", out.len()),
            ));
        }
        write_header(&mut out, &header, metadata_len);
        Ok(Frame { header, bytes: out.into() })
    }
}

fn write_header(out: &mut [u8], header: &FrameHeader, metadata_len: usize) {
    let body = out.len() - HEADER_BYTES;
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(2, &[VERSION, KEY_CODEC_VERSION]);
    put(4, &[matches!(header.kind, FrameKind::Mail) as u8, header.status as u8]);
    put(8, &header.producer.0.to_le_bytes());
    put(12, &header.rows.to_le_bytes());
    put(16, &header.turn.to_le_bytes());
    put(24, &header.watermark.ms().to_le_bytes());
    put(32, &header.schema.to_le_bytes());
    put(40, &(body as u32).to_le_bytes());
    put(44, &(metadata_len as u32).to_le_bytes());
    let sum = checksum(out);
    out[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(frame: &[u8]) -> u64 {
    xxh3_64(&frame[..CHECKSUM_AT]) ^ xxh3_64(&frame[CHECKSUM_AT + 8..]).rotate_left(1)
}

impl Frame {
    /// Checks and takes the bytes of one frame.
    ///
    /// # Errors
    /// [`Code::Corrupt`] if length, magic, version or checksum are wrong.
    pub fn decode(bytes: Buffer) -> Result<Frame> {
        let frame = Frame::trusted(bytes)?;
        let raw = &frame.bytes[CHECKSUM_AT..CHECKSUM_AT + 8];
        if raw != checksum(&frame.bytes).to_le_bytes() {
            return Err(Error::corrupt("frame checksum does not match"));
        }
        Ok(frame)
    }

    /// Takes the bytes of a frame whose checksum was checked before (the log's covers it too).
    pub fn trusted(bytes: Buffer) -> Result<Frame> {
        let mut r = Reader(&bytes);
        if r.bytes(2)? != MAGIC {
            return Err(Error::corrupt("not a frame"));
        }
        let (version, codec) = (r.u8()?, r.u8()?);
        if (version, codec) != (VERSION, KEY_CODEC_VERSION) {
            return Err(Error::corrupt(format!(
                "frame version {version}, key codec {codec}; this binary reads {VERSION} and {KEY_CODEC_VERSION}"
            )));
        }
        let kind = match r.u8()? {
            0 => FrameKind::Rows,
            1 => FrameKind::Mail,
            k => return Err(Error::corrupt(format!("frame kind {k}"))),
        };
        let status = match r.u8()? {
            0 => Status::Active,
            1 => Status::Idle,
            2 => Status::Ended,
            s => return Err(Error::corrupt(format!("frame status {s}"))),
        };
        r.u16()?;
        let header = FrameHeader {
            kind,
            status,
            producer: TaskId(r.u32()?),
            rows: r.u32()?,
            turn: r.u64()?,
            watermark: Time::from_ms(r.i64()?),
            schema: r.u64()?,
        };
        if r.u32()? as usize + HEADER_BYTES != bytes.len() {
            return Err(Error::corrupt("frame length does not match"));
        }
        Ok(Frame { header, bytes })
    }

    /// Header and body as written.
    pub fn bytes(&self) -> &Buffer {
        &self.bytes
    }

    /// Decodes the rows under `schema`; buffers are shared with the frame, not copied.
    ///
    /// # Errors
    /// [`Code::Conflict`] if the frame was written under another schema, [`Code::Corrupt`] if its
    /// Arrow message is damaged.
    pub fn rows(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        if self.header.rows == 0 {
            return Ok(RecordBatch::new_empty(schema.clone()));
        }
        if self.header.schema != fingerprint(schema) {
            return Err(Error::new(
                Code::Conflict,
                format!("a frame was written under another schema than {schema}"),
            ));
        }
        let metadata_len = Reader(&self.bytes[44..]).u32()? as usize;
        let split = HEADER_BYTES + metadata_len;
        let metadata = self
            .bytes
            .get(HEADER_BYTES..split)
            .ok_or_else(|| Error::corrupt("frame metadata runs past its end"))?;
        let message = root_as_message(metadata).map_err(|e| Error::corrupt(e.to_string()))?;
        let (MessageHeader::RecordBatch, Some(header)) =
            (message.header_type(), message.header_as_record_batch())
        else {
            return Err(Error::corrupt("frame body is no record batch"));
        };
        // arrow panics on some messages that contradict themselves; from outside, those are errors.
        let rows = std::panic::catch_unwind(|| {
            arrow_ipc::reader::read_record_batch(
                &self.bytes.slice(split),
                header,
                schema.clone(),
                &HashMap::new(),
                None,
                &message.version(),
            )
        })
        .map_err(|_| Error::corrupt("frame body contradicts itself"))??;
        if rows.num_rows() != self.header.rows as usize {
            return Err(Error::corrupt("frame header and body count different rows"));
        }
        Ok(rows)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} + {} bytes", self.header, self.bytes.len())
    }
}

#[cfg(test)]
mod tests;
