//! Messages between processes, and control records: the other kind of frame in a mailbox.
//!
//! *Invariant:* messages of one sender to one receiver arrive in the order they were sent.
//! *Limits:* a message that has caused itself more than [`HOPS_MAX`] times is a dead letter.

use std::sync::{Arc, LazyLock};

use arrow_array::{
    Array, BinaryArray, Int64Array, RecordBatch, StringArray, UInt8Array, UInt32Array, UInt64Array,
    cast::AsArray,
    types::{Int64Type, UInt8Type, UInt32Type, UInt64Type},
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::{Error, Frame, FrameHeader, FrameKind, Origin, Result, Time, frame::FrameEncoder};

/// How often a message may cause another before the chain is cut.
pub const HOPS_MAX: u32 = 1000;

/// The largest message, as its type was serialised, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What a message asks for. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MailKind {
    /// `send` from a process: handle the payload.
    Sent = 1,
    /// A monitored process has gone down (reserved).
    Down = 2,
    /// `exit(Pid, kill)`: end the process; it resumes from its last committed state.
    Kill = 3,
    /// Resume, skip or drop a parked key (reserved).
    Control = 4,
    /// A dead letter handed in again (reserved).
    Replay = 5,
}

impl MailKind {
    fn from_u8(v: u8) -> Result<MailKind> {
        use MailKind::*;
        [Sent, Down, Kill, Control, Replay]
            .into_iter()
            .find(|k| *k as u8 == v)
            .ok_or_else(|| Error::corrupt(format!("mail kind {v}")))
    }
}

/// One message, with its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// What it asks for.
    pub kind: MailKind,
    /// The receiver's key.
    pub key: Vec<u8>,
    /// The version of the payload's type.
    pub version: u32,
    /// The message, as its type was serialised.
    pub payload: Vec<u8>,
    /// Who sent it, as `kind/key`; empty for the outside world.
    pub sender: String,
    /// Unique per sending task.
    pub id: u64,
    /// How many messages led to this one.
    pub hops: u32,
    /// The source row that caused it.
    pub origin: Origin,
    /// The event time it was sent at.
    pub event_time: Time,
}

/// The schema of mail frames.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("kind", DataType::UInt8, false),
        Field::new("key", DataType::Binary, false),
        Field::new("version", DataType::UInt32, false),
        Field::new("payload", DataType::Binary, false),
        Field::new("sender", DataType::Utf8, false),
        Field::new("id", DataType::UInt64, false),
        Field::new("hops", DataType::UInt32, false),
        Field::new("origin", DataType::UInt64, false),
        Field::new("event_time", DataType::Int64, false),
    ]))
});

/// A frame that ends the process of a key, from the outside world.
pub fn kill(key: &[u8]) -> Result<Frame> {
    let mail = Mail {
        kind: MailKind::Kill,
        key: key.to_vec(),
        version: 1,
        payload: Vec::new(),
        sender: String::new(),
        id: 0,
        hops: 0,
        origin: Origin::NONE,
        event_time: Time::MIN,
    };
    let header = FrameHeader::from_outside(FrameKind::Mail, &SCHEMA);
    FrameEncoder::default().encode(header, Some(&to_rows(&[mail])?))
}

/// Messages as rows of [`SCHEMA`].
pub fn to_rows(mail: &[Mail]) -> Result<RecordBatch> {
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(UInt8Array::from_iter_values(mail.iter().map(|m| m.kind as u8))),
        Arc::new(BinaryArray::from_iter_values(mail.iter().map(|m| &m.key))),
        Arc::new(UInt32Array::from_iter_values(mail.iter().map(|m| m.version))),
        Arc::new(BinaryArray::from_iter_values(mail.iter().map(|m| &m.payload))),
        Arc::new(StringArray::from_iter_values(mail.iter().map(|m| &m.sender))),
        Arc::new(UInt64Array::from_iter_values(mail.iter().map(|m| m.id))),
        Arc::new(UInt32Array::from_iter_values(mail.iter().map(|m| m.hops))),
        Arc::new(UInt64Array::from_iter_values(mail.iter().map(|m| m.origin.0))),
        Arc::new(Int64Array::from_iter_values(mail.iter().map(|m| m.event_time.ms()))),
    ];
    Ok(RecordBatch::try_new(SCHEMA.clone(), columns)?)
}

/// Rows of [`SCHEMA`] as messages.
///
/// # Errors
/// [`crate::Code::Corrupt`] if the rows have another schema or an unknown kind.
pub fn from_rows(rows: &RecordBatch) -> Result<Vec<Mail>> {
    if rows.schema().fields() != SCHEMA.fields() {
        return Err(Error::corrupt("not a batch of mail"));
    }
    let column = |i: usize| rows.column(i).as_ref();
    (0..rows.num_rows())
        .map(|row| {
            Ok(Mail {
                kind: MailKind::from_u8(column(0).as_primitive::<UInt8Type>().value(row))?,
                key: column(1).as_binary::<i32>().value(row).to_vec(),
                version: column(2).as_primitive::<UInt32Type>().value(row),
                payload: column(3).as_binary::<i32>().value(row).to_vec(),
                sender: column(4).as_string::<i32>().value(row).to_string(),
                id: column(5).as_primitive::<UInt64Type>().value(row),
                hops: column(6).as_primitive::<UInt32Type>().value(row),
                origin: Origin(column(7).as_primitive::<UInt64Type>().value(row)),
                event_time: Time::from_ms(column(8).as_primitive::<Int64Type>().value(row)),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_comes_back_from_its_rows() {
        let mail = vec![Mail {
            kind: MailKind::Kill,
            key: vec![1],
            version: 2,
            payload: vec![],
            sender: "aircraft/N1".into(),
            id: u64::MAX,
            hops: 3,
            origin: Origin::new(4, 5),
            event_time: Time::MIN,
        }];
        assert_eq!(from_rows(&to_rows(&mail).unwrap()).unwrap(), mail);
        assert!(MailKind::from_u8(0).is_err());
    }
}
