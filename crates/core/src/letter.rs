//! Dead letters: what is set aside, with all that is needed to understand, repair and replay it.

use std::sync::{Arc, LazyLock};

use arrow_array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, UInt64Array,
    cast::AsArray,
    types::{Int64Type, UInt64Type},
};
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::{Code, Error, Frame, Result, Time, batch::Batch};

/// What was being done when it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A record that could not be decoded.
    #[default]
    Undecodable,
    /// A record whose event time lies too far ahead of the clock.
    Ahead,
    /// A record.
    Record,
    /// A message from another process.
    Message,
    /// A timer.
    Timer,
    /// A window that closed.
    Firing,
    /// A record or message at which a call never returned, or the whole node died.
    Suspect,
}

impl Trigger {
    const ALL: [(Trigger, &'static str); 7] = [
        (Trigger::Undecodable, "undecodable"),
        (Trigger::Ahead, "ahead"),
        (Trigger::Record, "record"),
        (Trigger::Message, "message"),
        (Trigger::Timer, "timer"),
        (Trigger::Firing, "firing"),
        (Trigger::Suspect, "suspect"),
    ];

    /// The word as printed.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(t, _)| *t == self).map_or("?", |(_, n)| n)
    }

    /// The inverse of [`Trigger::name`].
    pub fn of_name(name: &str) -> Option<Trigger> {
        Self::ALL.into_iter().find(|(_, n)| *n == name).map(|(t, _)| t)
    }

    /// Whether it is a record that was set aside; else it is something that had become due.
    pub fn is_record(self) -> bool {
        !matches!(self, Trigger::Timer | Trigger::Firing)
    }

    /// The stable number of this kind of letter; `docs/errors.md` has a section each.
    pub fn code(self) -> Code {
        match self {
            Trigger::Undecodable => Code::Undecodable,
            Trigger::Ahead => Code::Ahead,
            Trigger::Suspect => Code::Unexecuted,
            _ => Code::Handler,
        }
    }

    /// What to do about it.
    pub fn help(self) -> &'static str {
        match self {
            Trigger::Undecodable => {
                "mend the record and hand it in again; a field that may be missing is an Option"
            }
            Trigger::Ahead => {
                "look at the clock of whoever sent it; a file that is read once has no such limit"
            }
            Trigger::Suspect => {
                "mend the handler, which did not return or took the node down; then hand it in again"
            }
            Trigger::Timer | Trigger::Firing => {
                "mend the handler; what was due is consumed, and its key goes on without it"
            }
            _ => {
                "mend the handler or the record; then hand it in again. Its key went on without it"
            }
        }
    }
}

/// Something set aside in the turn that consumed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The clock of the turn.
    pub time: Time,
    /// Which flow.
    pub flow: String,
    /// Which stage of it.
    pub stage: String,
    /// The operator that failed.
    pub operator: String,
    /// What was being done.
    pub trigger: Trigger,
    /// The key's bytes; empty if there is none.
    pub key: Vec<u8>,
    /// The source's name; empty for a derived row.
    pub source: String,
    /// The file that `place` and `bytes` count in; empty if the source reads none.
    #[serde(default)]
    pub file: String,
    /// The place in the source (a line, counted from 1); 0 if none.
    pub place: u64,
    /// The bytes in the source, first and one past the last; both 0 if unknown.
    pub bytes: (u64, u64),
    /// The column at fault; empty if none can be named.
    pub column: String,
    /// Why.
    pub error: String,
    /// Where in the code, if it was a panic.
    pub backtrace: String,
    /// The input itself: raw bytes if undecodable, else the row as a frame, a message or a timer.
    pub payload: Vec<u8>,
}

impl Letter {
    /// The column at fault.
    pub fn column(&self) -> &str {
        &self.column
    }
}

/// The schema of every flow's dead-letter stream.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        Field::new("time", DataType::Int64, false),
        text("flow"),
        text("stage"),
        text("operator"),
        text("trigger"),
        Field::new("key", DataType::Binary, false),
        text("source"),
        Field::new("place", DataType::UInt64, false),
        Field::new("first_byte", DataType::UInt64, false),
        Field::new("end_byte", DataType::UInt64, false),
        text("column"),
        text("error"),
        text("backtrace"),
        Field::new("payload", DataType::Binary, false),
        text("file"),
    ]))
});

/// Letters as rows of [`SCHEMA`].
pub fn to_batch(letters: &[Letter]) -> Result<Batch> {
    let text = |f: fn(&Letter) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(letters.iter().map(f)))
    };
    let bytes = |f: fn(&Letter) -> &[u8]| -> ArrayRef {
        Arc::new(BinaryArray::from_iter_values(letters.iter().map(f)))
    };
    let number = |f: fn(&Letter) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(letters.iter().map(f)))
    };
    let time = Int64Array::from_iter_values(letters.iter().map(|l| l.time.ms()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(time),
        text(|l| &l.flow),
        text(|l| &l.stage),
        text(|l| &l.operator),
        text(|l| l.trigger.name()),
        bytes(|l| &l.key),
        text(|l| &l.source),
        number(|l| l.place),
        number(|l| l.bytes.0),
        number(|l| l.bytes.1),
        text(|l| &l.column),
        text(|l| &l.error),
        text(|l| &l.backtrace),
        bytes(|l| &l.payload),
        text(|l| &l.file),
    ];
    Ok(Batch::derived(RecordBatch::try_new(SCHEMA.clone(), columns)?))
}

/// The letters in a frame.
///
/// # Errors
/// If the frame is damaged or holds something else.
pub fn from_frame(frame: &Frame) -> Result<Vec<Letter>> {
    let rows = frame.rows(&Batch::wire_schema(&SCHEMA))?;
    from_batch(Batch::from_wire(&rows, &SCHEMA)?.rows())
}

/// Rows of [`SCHEMA`] as letters.
///
/// # Errors
/// [`crate::Code::Corrupt`] if the batch has another schema.
pub fn from_batch(rows: &RecordBatch) -> Result<Vec<Letter>> {
    if rows.schema().fields() != SCHEMA.fields() {
        return Err(Error::corrupt("not a batch of dead letters"));
    }
    let column = |i: usize| rows.column(i).as_ref();
    let text = |i: usize, row: usize| column(i).as_string::<i32>().value(row).to_string();
    let bytes = |i: usize, row: usize| column(i).as_binary::<i32>().value(row).to_vec();
    let number = |i: usize, row: usize| column(i).as_primitive::<UInt64Type>().value(row);
    let trigger = |name: &str| Trigger::of_name(name).unwrap_or_default();
    Ok((0..rows.num_rows())
        .map(|row| Letter {
            time: Time::from_ms(column(0).as_primitive::<Int64Type>().value(row)),
            flow: text(1, row),
            stage: text(2, row),
            operator: text(3, row),
            trigger: trigger(&text(4, row)),
            key: bytes(5, row),
            source: text(6, row),
            place: number(7, row),
            bytes: (number(8, row), number(9, row)),
            column: text(10, row),
            error: text(11, row),
            backtrace: text(12, row),
            payload: bytes(13, row),
            file: text(14, row),
        })
        .collect())
}

/// A row as it is kept in a letter: an Arrow IPC stream of its own, schema included.
pub fn row_payload(rows: &RecordBatch, row: usize) -> Vec<u8> {
    let write = || {
        let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
        writer.write(&rows.slice(row, 1))?;
        writer.into_inner()
    };
    // Writing to memory fails only for types that no stream has; the letter still says why.
    write().unwrap_or_default()
}

/// What [`row_payload`] has kept; `None` if the payload is something else.
pub fn payload_row(payload: &[u8]) -> Option<RecordBatch> {
    StreamReader::try_new(payload, None).ok()?.next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_back_from_their_rows() {
        let letters = vec![
            Letter {
                flow: "departures".into(),
                trigger: Trigger::Timer,
                key: vec![0x20, b'N', 0],
                place: 21,
                bytes: (7, 99),
                payload: vec![0xff, 0],
                file: "in/flights.csv".into(),
                ..Letter::default()
            },
            Letter::default(),
        ];
        assert_eq!(from_batch(to_batch(&letters).unwrap().rows()).unwrap(), letters);
    }
}
