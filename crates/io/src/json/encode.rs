//! Columns into JSON lines.

use std::sync::Arc;

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{
        Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
        TimestampMillisecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use millstream_core::{Code, Error, Result};

use super::scan::plain;

/// Encodes rows as lines of JSON: columns in the schema's order, no space, `\n` after each row.
///
/// The same rows give the same bytes. Columns whose name starts with `$` are left out. Floats have
/// the fewest digits that read back the same; those that are no number or infinite, which JSON
/// lacks, are `null`. Times are milliseconds since the epoch, as the decoder takes them.
#[derive(Default)]
pub struct JsonEncoder {
    whole: itoa::Buffer,
    float: zmij::Buffer,
}

/// A column with its type resolved, so that a row costs no look-ups.
pub(crate) struct Cells<'a> {
    /// `{"name":` or `,"name":`.
    prefix: Vec<u8>,
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

pub(crate) enum Values<'a> {
    Null,
    Boolean(&'a arrow_array::BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt8(&'a [u8]),
    UInt16(&'a [u16]),
    UInt32(&'a [u32]),
    UInt64(&'a [u64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Utf8(&'a arrow_array::StringArray),
    Utf8View(&'a arrow_array::StringViewArray),
    LargeUtf8(&'a arrow_array::LargeStringArray),
    List(&'a [i32], Box<Values<'a>>, Option<&'a NullBuffer>),
    Struct(Vec<Cells<'a>>),
}

impl JsonEncoder {
    /// An encoder.
    pub fn new() -> JsonEncoder {
        JsonEncoder::default()
    }

    /// Whether rows of `schema` can be encoded.
    ///
    /// # Errors
    /// [`Code::Plan`], naming the first column that cannot.
    pub fn check(schema: &Schema) -> Result<()> {
        schema.fields().iter().filter(|f| printed(f)).try_for_each(|f| supported(f))
    }

    /// Appends a line for each row to `out`.
    ///
    /// # Errors
    /// [`Code::Plan`] if a column is of a type that cannot be encoded; `out` is then unchanged.
    pub fn encode(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let schema = rows.schema_ref();
        let columns = cells(schema.fields(), rows.columns())?;
        out.reserve(rows.num_rows() * columns.iter().map(|c| c.prefix.len() + 8).sum::<usize>());
        for row in 0..rows.num_rows() {
            self.object(&columns, row, out);
            out.push(b'\n');
        }
        Ok(())
    }

    #[inline]
    fn object(&mut self, columns: &[Cells<'_>], row: usize, out: &mut Vec<u8>) {
        for column in columns {
            out.extend_from_slice(&column.prefix);
            self.value(&column.values, column.nulls, row, out);
        }
        out.extend_from_slice(if columns.is_empty() { b"{}" } else { b"}" });
    }

    /// Appends one value.
    #[inline]
    pub(crate) fn value(
        &mut self,
        values: &Values<'_>,
        nulls: Option<&NullBuffer>,
        row: usize,
        out: &mut Vec<u8>,
    ) {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return out.extend_from_slice(b"null");
        }
        macro_rules! whole {
            ($values:expr) => {
                out.extend_from_slice(self.whole.format($values[row]).as_bytes())
            };
        }
        macro_rules! float {
            ($values:expr) => {
                match $values[row] {
                    v if v.is_finite() => {
                        out.extend_from_slice(self.float.format_finite(v).as_bytes())
                    }
                    _ => out.extend_from_slice(b"null"),
                }
            };
        }
        match values {
            Values::Null => out.extend_from_slice(b"null"),
            Values::Boolean(v) => {
                out.extend_from_slice(if v.value(row) { b"true" } else { b"false" })
            }
            Values::Int8(v) => whole!(v),
            Values::Int16(v) => whole!(v),
            Values::Int32(v) => whole!(v),
            Values::Int64(v) => whole!(v),
            Values::UInt8(v) => whole!(v),
            Values::UInt16(v) => whole!(v),
            Values::UInt32(v) => whole!(v),
            Values::UInt64(v) => whole!(v),
            Values::Float32(v) => float!(v),
            Values::Float64(v) => float!(v),
            Values::Utf8(v) => text(v.value(row).as_bytes(), out),
            Values::Utf8View(v) => text(v.value(row).as_bytes(), out),
            Values::LargeUtf8(v) => text(v.value(row).as_bytes(), out),
            Values::List(offsets, items, nulls) => {
                out.push(b'[');
                for item in offsets[row]..offsets[row + 1] {
                    if item > offsets[row] {
                        out.push(b',');
                    }
                    self.value(items, *nulls, item as usize, out);
                }
                out.push(b']');
            }
            Values::Struct(columns) => self.object(columns, row, out),
        }
    }
}

fn printed(field: &Field) -> bool {
    !field.name().starts_with('$')
}

fn supported(field: &Field) -> Result<()> {
    match field.data_type() {
        DataType::List(item) => supported(item),
        DataType::Struct(fields) => fields.iter().try_for_each(|f| supported(f)),
        DataType::Null | DataType::Boolean | DataType::Float32 | DataType::Float64 => Ok(()),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Ok(()),
        DataType::Timestamp(TimeUnit::Millisecond, _) => Ok(()),
        t if t.is_integer() => Ok(()),
        other => Err(Error::new(
            Code::Plan,
            format!(
                "column `{}` is of type {other}, which cannot be written as JSON",
                field.name()
            ),
        )
        .help("cast it to text or to a number first")),
    }
}

fn cells<'a>(fields: &[Arc<Field>], arrays: &'a [Arc<dyn Array>]) -> Result<Vec<Cells<'a>>> {
    let mut cells = Vec::with_capacity(fields.len());
    for (field, array) in fields.iter().zip(arrays).filter(|(f, _)| printed(f)) {
        let mut prefix = vec![if cells.is_empty() { b'{' } else { b',' }];
        text(field.name().as_bytes(), &mut prefix);
        prefix.push(b':');
        supported(field)?;
        cells.push(Cells { prefix, nulls: array.nulls(), values: values(array.as_ref())? });
    }
    Ok(cells)
}

pub(crate) fn values(array: &dyn Array) -> Result<Values<'_>> {
    Ok(match array.data_type() {
        DataType::Boolean => Values::Boolean(array.as_boolean()),
        DataType::Int8 => Values::Int8(array.as_primitive::<Int8Type>().values()),
        DataType::Int16 => Values::Int16(array.as_primitive::<Int16Type>().values()),
        DataType::Int32 => Values::Int32(array.as_primitive::<Int32Type>().values()),
        DataType::Int64 => Values::Int64(array.as_primitive::<Int64Type>().values()),
        DataType::UInt8 => Values::UInt8(array.as_primitive::<UInt8Type>().values()),
        DataType::UInt16 => Values::UInt16(array.as_primitive::<UInt16Type>().values()),
        DataType::UInt32 => Values::UInt32(array.as_primitive::<UInt32Type>().values()),
        DataType::UInt64 => Values::UInt64(array.as_primitive::<UInt64Type>().values()),
        DataType::Float32 => Values::Float32(array.as_primitive::<Float32Type>().values()),
        DataType::Float64 => Values::Float64(array.as_primitive::<Float64Type>().values()),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Values::Int64(array.as_primitive::<TimestampMillisecondType>().values())
        }
        DataType::Utf8 => Values::Utf8(array.as_string()),
        DataType::Utf8View => Values::Utf8View(array.as_string_view()),
        DataType::LargeUtf8 => Values::LargeUtf8(array.as_string()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let items = list.values();
            Values::List(list.value_offsets(), Box::new(values(items)?), items.nulls())
        }
        DataType::Struct(fields) => Values::Struct(cells(fields, array.as_struct().columns())?),
        _ => Values::Null,
    })
}

/// Appends `text` between quotes, escaped as `serde_json` does.
#[inline]
fn text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut at = 0;
    loop {
        let end = plain(text, at);
        out.extend_from_slice(&text[at..end]);
        let Some(byte) = text.get(end) else { break };
        escape(*byte, out);
        at = end + 1;
    }
    out.push(b'"');
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        _ => {
            out.extend_from_slice(b"\\u00");
            return out.extend_from_slice(&[HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
