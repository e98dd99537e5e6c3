//! From records to rows: which column comes from where.
//!
//! *How:* in three passes without a memory request per record: which records are rows at all; their
//! values, decoded where they lie; the other columns, for those that could be decoded.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use arrow_array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, TimestampMillisecondArray,
    UInt32Array, UInt64Array,
    builder::{BinaryBuilder, LargeBinaryBuilder, ListBuilder, StringBuilder, UInt8Builder},
};
use arrow_schema::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use millstream_core::{
    Code, Error, Result,
    connector::{Chunk, Undecodable},
    partitioner::murmur2_of,
};
use millstream_io::{CsvDecoder, Decoded, JsonDecoder, OVERSIZE_RAW_BYTES, RAW_BYTES_MAX};

use super::{Format, KafkaSource, Part};
use crate::client::{Fetched, Record, TopicPartition};

/// Decoders kept for the next chunk, at most.
const SPARE_MAX: usize = 8;

/// A decoder for values.
pub(super) enum Decoder {
    Json(JsonDecoder),
    Csv(CsvDecoder),
    /// Values are columns like keys are.
    None,
}

impl Decoder {
    fn decode<'a>(&mut self, units: impl Iterator<Item = (u64, &'a [u8])>) -> Option<Decoded> {
        match self {
            Decoder::Json(decoder) => Some(decoder.decode_each(units)),
            Decoder::Csv(decoder) => Some(decoder.decode_each(units)),
            Decoder::None => None,
        }
    }
}

/// Where the columns of a schema come from.
pub(super) struct Layout {
    schema: SchemaRef,
    format: Format,
    /// The columns that values are decoded to.
    decoded: SchemaRef,
    /// Of each column of the schema.
    from: Vec<From>,
    value_bytes_max: usize,
    /// The column of the key by which records are in partitions, and how many of these there are.
    keyed: Option<(String, u32)>,
    spare: Mutex<Vec<Decoder>>,
}

enum From {
    /// The decoder's column of this number.
    Decoded(usize),
    Part(Part),
}

/// What is to become of a record.
enum Verdict {
    Row,
    Skip,
    Bad { column: String, error: String },
}

impl Layout {
    pub fn new(source: &KafkaSource, schema: SchemaRef) -> Result<Layout> {
        let mut decoded = Vec::new();
        let from = schema.fields().iter().map(|field| {
            match source.columns.iter().find(|(name, _)| name == field.name()) {
                Some((_, part)) => {
                    part.check(field)?;
                    Ok(From::Part(part.clone()))
                }
                None if source.format == Format::Raw => Err(no_column(field.name(), source)),
                None => {
                    decoded.push(field.clone());
                    Ok(From::Decoded(decoded.len() - 1))
                }
            }
        });
        let from = from.collect::<Result<_>>()?;
        let layout = Layout {
            format: source.format.clone(),
            decoded: Arc::new(Schema::new(decoded)),
            from,
            value_bytes_max: source.value_bytes_max,
            keyed: source.keyed.clone().map(|name| (name, source.partitions)),
            spare: Mutex::default(),
            schema,
        };
        let first = layout.decoder()?; // what cannot be decoded is told when it is opened
        layout.give(first);
        Ok(layout)
    }

    pub fn decoder(&self) -> Result<Decoder> {
        if let Some(spare) = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(spare);
        }
        let (schema, max) = (self.decoded.clone(), self.value_bytes_max);
        Ok(match &self.format {
            Format::Json => Decoder::Json(JsonDecoder::new(schema)?.line_bytes_max(max)),
            Format::Csv { names, separator } => {
                let decoder = CsvDecoder::new(schema, names)?;
                Decoder::Csv(decoder.separator(*separator).record_bytes_max(max))
            }
            Format::Raw => Decoder::None,
        })
    }

    fn give(&self, decoder: Decoder) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(decoder);
        }
    }

    /// A chunk of no units.
    pub fn nothing(&self) -> Chunk {
        Chunk {
            rows: RecordBatch::new_empty(self.schema.clone()),
            places: Vec::new(),
            undecodable: Vec::new(),
            units: 0,
            skipped: 0,
            position: Vec::new(),
            durable: None,
        }
    }

    /// Decodes records `range`. Places are offsets, counted from 1.
    pub fn decode(
        &self,
        mut decoder: Decoder,
        at: &TopicPartition,
        fetched: &Fetched,
        range: Range<usize>,
    ) -> Chunk {
        let mut chunk = Chunk { units: range.len() as u64, ..self.nothing() };
        let mut kept: Vec<u64> = Vec::with_capacity(range.len());
        let mut bad: Vec<(usize, Undecodable)> = Vec::new();
        let aside = |n: usize, column: String, error: String| {
            let (offset, record) = fetched.record(n);
            (n, undecodable(at, offset, &record, column, error, self.value_bytes_max))
        };
        for n in range {
            match self.judge(at.partition, &fetched.record(n).1) {
                Verdict::Row => kept.push(n as u64),
                Verdict::Skip => chunk.skipped += 1,
                Verdict::Bad { column, error } => bad.push(aside(n, column, error)),
            }
        }
        let value = |n: &u64| (*n, fetched.record(*n as usize).1.value.unwrap_or_default());
        let decoded = decoder.decode(kept.iter().map(value));
        self.give(decoder);
        let decoded = decoded.map(|decoded| {
            for unit in decoded.undecodable {
                bad.push(aside(unit.place as usize, unit.column, unit.error));
            }
            kept = decoded.places;
            decoded.rows
        });
        let record = |n: &u64| fetched.record(*n as usize);
        let columns = self.schema.fields().iter().zip(&self.from).map(|(field, from)| match from {
            From::Decoded(n) => match &decoded {
                Some(rows) => rows.column(*n).clone(),
                None => arrow_array::new_null_array(field.data_type(), kept.len()),
            },
            From::Part(part) => part.column(field, at.partition, kept.iter().map(record)),
        });
        let columns: Vec<ArrayRef> = columns.collect();
        let options = RecordBatchOptions::new().with_row_count(Some(kept.len()));
        chunk.rows = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .expect("each column was made for its field, of as many rows");
        kept.iter_mut().for_each(|n| *n = fetched.record(*n as usize).0 + 1);
        chunk.places = kept;
        bad.sort_by_key(|(n, _)| *n);
        chunk.undecodable = bad.into_iter().map(|(_, unit)| unit).collect();
        chunk
    }

    /// Whether a record can be a row, as far as that can be told without decoding its value.
    fn judge(&self, partition: u32, record: &Record<'_>) -> Verdict {
        if self.format != Format::Raw {
            match record.value {
                None => return Verdict::Skip,
                Some([]) => return bad("", "the value is empty".into()),
                Some(value) if value.len() > self.value_bytes_max => {
                    return bad("", too_long(value.len(), self.value_bytes_max));
                }
                Some(value) if value.trim_ascii().is_empty() => {
                    return bad("", "the value is blank".into());
                }
                Some(_) => {}
            }
        }
        if let Some((column, partitions)) = &self.keyed {
            let Some(key) = record.key else { return bad(column, "the record has no key".into()) };
            let own = murmur2_of(key, *partitions);
            if own != partition {
                return bad(column, format!("the key belongs into partition {own}"));
            }
        }
        for (field, from) in self.schema.fields().iter().zip(&self.from) {
            let From::Part(part) = from else { continue };
            let bytes = match part {
                Part::Key => record.key,
                Part::Value => record.value,
                Part::Header(name) => header(record, name),
                Part::Time if record.time.is_none() && !field.is_nullable() => {
                    return bad(field.name(), "the record has no time".into());
                }
                Part::Time | Part::Partition | Part::Offset => continue,
            };
            match bytes {
                None if field.is_nullable() => {}
                None if *part == Part::Value => return Verdict::Skip,
                None => return bad(field.name(), format!("the record has no {part}")),
                Some(bytes) if bytes.len() > self.value_bytes_max => {
                    return bad(field.name(), too_long(bytes.len(), self.value_bytes_max));
                }
                Some(bytes) if *field.data_type() == DataType::Utf8 => {
                    if let Err(e) = std::str::from_utf8(bytes) {
                        let at = e.valid_up_to() + 1;
                        return bad(field.name(), format!("invalid UTF-8 at byte {at}"));
                    }
                }
                Some(_) => {}
            }
        }
        Verdict::Row
    }
}

fn bad(column: &str, error: String) -> Verdict {
    Verdict::Bad { column: column.into(), error }
}

fn too_long(len: usize, max: usize) -> String {
    format!("{len} bytes long; the limit is {max}")
}

fn header<'a>(record: &Record<'a>, name: &str) -> Option<&'a [u8]> {
    record.headers.iter().rev().find(|(of, _)| of == name).map(|(_, value)| value.as_slice())
}

/// A record that is no row. Its place is all in `file`, since it is no line.
#[cold]
fn undecodable(
    at: &TopicPartition,
    offset: u64,
    record: &Record<'_>,
    column: String,
    error: String,
    bytes_max: usize,
) -> Undecodable {
    let value = record.value.unwrap_or_default();
    let kept = if value.len() > bytes_max { OVERSIZE_RAW_BYTES } else { RAW_BYTES_MAX };
    Undecodable {
        place: 0,
        bytes: (0, 0),
        column,
        error,
        raw: value[..value.len().min(kept)].to_vec(),
        file: place(at, offset),
    }
}

/// Where a record is, as a person reads it.
pub(super) fn place(at: &TopicPartition, offset: u64) -> String {
    format!("topic {}, partition {}, offset {offset}", at.topic, at.partition)
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Key => f.write_str("key"),
            Part::Value => f.write_str("value"),
            Part::Time => f.write_str("time"),
            Part::Partition => f.write_str("partition"),
            Part::Offset => f.write_str("offset"),
            Part::Header(name) => write!(f, "header `{name}`"),
        }
    }
}

/// A list of bytes, as a struct's `Vec<u8>` is.
fn is_byte_list(kind: &DataType) -> bool {
    matches!(kind, DataType::List(item) if *item.data_type() == DataType::UInt8)
}

impl Part {
    /// Whether it can be a column of this field.
    fn check(&self, field: &FieldRef) -> Result<()> {
        use DataType::*;
        let kind = field.data_type();
        let (fits, possible) = match self {
            Part::Key | Part::Value | Part::Header(_) => (
                matches!(kind, Utf8 | Binary | LargeBinary) || is_byte_list(kind),
                "Utf8, Binary, LargeBinary, a list of UInt8",
            ),
            Part::Time => (
                matches!(kind, Int64 | Timestamp(TimeUnit::Millisecond, _)),
                "Int64, Timestamp(Millisecond)",
            ),
            Part::Partition => {
                (matches!(kind, Int32 | Int64 | UInt32 | UInt64), "Int32, Int64, UInt32, UInt64")
            }
            Part::Offset => (matches!(kind, Int64 | UInt64), "Int64, UInt64"),
        };
        if fits {
            return Ok(());
        }
        let name = field.name();
        let message = format!("column `{name}` is of type {kind}, which a record's {self} is not");
        Err(Error::new(Code::Plan, message).help(format!("possible: {possible}")))
    }

    /// The column of these records, which were judged to be rows.
    fn column<'a>(
        &self,
        field: &FieldRef,
        partition: u32,
        records: impl ExactSizeIterator<Item = (u64, Record<'a>)>,
    ) -> ArrayRef {
        let kind = field.data_type();
        let bytes = |record: &Record<'a>| match self {
            Part::Key => record.key,
            Part::Value => record.value,
            Part::Header(name) => header(record, name),
            _ => None,
        };
        let len = records.len();
        match (self, kind) {
            (Part::Time, DataType::Int64) => {
                let times = records.map(|(_, r)| r.time.map(|t| t.ms()));
                Arc::new(Int64Array::from_iter(times))
            }
            (Part::Time, _) => {
                let times = records.map(|(_, r)| r.time.map(|t| t.ms()));
                let array = TimestampMillisecondArray::from_iter(times);
                Arc::new(array.with_data_type(kind.clone()))
            }
            (Part::Partition, DataType::Int32) => {
                Arc::new(Int32Array::from_value(partition as i32, len))
            }
            (Part::Partition, DataType::UInt32) => {
                Arc::new(UInt32Array::from_value(partition, len))
            }
            (Part::Partition, DataType::Int64) => {
                Arc::new(Int64Array::from_value(i64::from(partition), len))
            }
            (Part::Partition, _) => Arc::new(UInt64Array::from_value(u64::from(partition), len)),
            (Part::Offset, DataType::Int64) => {
                Arc::new(Int64Array::from_iter_values(records.map(|(offset, _)| offset as i64)))
            }
            (Part::Offset, _) => {
                Arc::new(UInt64Array::from_iter_values(records.map(|(offset, _)| offset)))
            }
            (_, DataType::Utf8) => {
                let mut out = StringBuilder::with_capacity(len, 0);
                let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
                records.for_each(|(_, r)| out.append_option(bytes(&r).map(text)));
                Arc::new(out.finish())
            }
            (_, DataType::Binary) => {
                let mut out = BinaryBuilder::with_capacity(len, 0);
                records.for_each(|(_, r)| out.append_option(bytes(&r)));
                Arc::new(out.finish())
            }
            (_, DataType::List(item)) => {
                let mut out = ListBuilder::new(UInt8Builder::new()).with_field(item.clone());
                records.for_each(|(_, r)| {
                    out.values().append_slice(bytes(&r).unwrap_or_default());
                    out.append(bytes(&r).is_some());
                });
                Arc::new(out.finish())
            }
            (_, _) => {
                let mut out = LargeBinaryBuilder::with_capacity(len, 0);
                records.for_each(|(_, r)| out.append_option(bytes(&r)));
                Arc::new(out.finish())
            }
        }
    }
}

fn no_column(name: &str, source: &KafkaSource) -> Error {
    let names: Vec<&str> = source.columns.iter().map(|(name, _)| name.as_str()).collect();
    let message = format!("topic {}, read raw, has no column `{name}`", source.topic);
    Error::new(Code::Plan, message).help(format!("it has: {}", names.join(", ")))
}
