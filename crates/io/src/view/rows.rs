//! Frames as JSON rows, whatever is in them.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, cast::AsArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{Batch, Frame, FrameKind, Result, key, mail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::json::JsonEncoder;

/// A row of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TailRow {
    /// Its partition.
    pub partition: u32,
    /// Its frame's number in the partition, counted from 0.
    pub frame: u64,
    /// Its place in the frame, counted from 0.
    pub row: u32,
    /// The row itself.
    pub value: Value,
}

/// The rows of a frame of a stream with the users' columns `schema`; for a frame of mail, its
/// messages without their payloads.
///
/// # Errors
/// If the frame is damaged or has other columns.
pub fn json_rows(schema: &SchemaRef, frame: &Frame) -> Result<Vec<Value>> {
    if frame.header.rows == 0 {
        return Ok(Vec::new());
    }
    if frame.header.kind == FrameKind::Mail {
        let mail = mail::from_rows(&frame.rows(&mail::SCHEMA)?)?;
        let shown = mail.iter().map(|m| {
            json!({
                "mail": format!("{:?}", m.kind).to_lowercase(),
                "key": key::display(&m.key),
                "sender": m.sender,
                "payload_bytes": m.payload.len(),
            })
        });
        return Ok(shown.collect());
    }
    let wire = frame.rows(&Batch::wire_schema(schema))?;
    let batch = Batch::from_wire(&wire, schema)?;
    values(batch.rows())
}

/// Rows as JSON objects.
///
/// # Errors
/// If a column is of a type that no stream has.
pub(super) fn values(rows: &RecordBatch) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    JsonEncoder::new().encode(&printable(rows)?, &mut lines)?;
    let lines = lines.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|l| serde_json::from_slice(l).map_err(|e| corrupt(&e))).collect()
}

fn corrupt(e: &serde_json::Error) -> millstream_core::Error {
    millstream_core::Error::corrupt(format!("a row that is no JSON: {e}"))
}

/// The same rows, with bytes in hex: JSON has none.
fn printable(rows: &RecordBatch) -> Result<RecordBatch> {
    let schema = rows.schema();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
        let DataType::Binary = field.data_type() else { return (field.clone(), column.clone()) };
        let texts: StringArray =
            column.as_binary::<i32>().iter().map(|bytes| bytes.map(hex)).collect();
        let field = Field::new(field.name(), DataType::Utf8, field.is_nullable());
        (Arc::new(field), Arc::new(texts) as ArrayRef)
    });
    let (fields, columns): (Vec<_>, Vec<_>) = columns.unzip();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
