//! From rows to records: which column becomes what.

use std::collections::BTreeSet;

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{
        Int8Type, Int16Type, Int32Type, Int64Type, TimestampMillisecondType, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
};
use arrow_schema::{DataType, Schema, SchemaRef, TimeUnit};
use millstream_core::{Batch, Code, Error, Result, Time, partitioner::murmur2_of};
use millstream_io::{CsvEncoder, JsonEncoder, TextColumn};

use super::{Format, KafkaSink, encoding};

/// The header by which a record is known again.
pub(super) const ID_HEADER: &str = "millstream-id";

/// Which columns of a schema become what.
pub(super) struct Rows {
    topic: String,
    format: Format,
    key: Vec<usize>,
    partition: Option<usize>,
    time: Option<usize>,
    headers: Vec<(String, usize)>,
    /// The columns of the value.
    value: Vec<usize>,
    json: JsonEncoder,
    csv: CsvEncoder,
}

/// What the records of a turn have in common.
pub(super) struct Turn {
    pub number: u64,
    pub partitions: u32,
    /// How the ids of its records begin, if they have any.
    pub id: Option<String>,
    /// The largest record that Kafka takes, in bytes of key and value.
    pub bytes_max: usize,
}

/// Texts of many rows in one piece.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    /// Where each ends, and whether it is there at all.
    ends: Vec<(usize, bool)>,
}

impl Texts {
    fn get(&self, row: usize) -> Option<&[u8]> {
        let begin = if row == 0 { 0 } else { self.ends[row - 1].0 };
        let (end, is_some) = self.ends[row];
        is_some.then(|| &self.bytes[begin..end])
    }
}

impl Rows {
    pub fn new(sink: &KafkaSink, schema: &SchemaRef) -> Result<Rows> {
        let index = |name: &String| -> Result<usize> {
            schema.index_of(name).map_err(|_| no_column(name, schema))
        };
        let text = |name: &String| -> Result<usize> {
            let index = index(name)?;
            TextColumn::check(schema.field(index))?;
            Ok(index)
        };
        let key = match &sink.key[..] {
            [one] => vec![text(one)?],
            several => several.iter().map(index).collect::<Result<_>>()?,
        };
        let partition = sink.partition.as_ref().map(index).transpose()?;
        if let Some(index) = partition
            && !schema.field(index).data_type().is_integer()
        {
            return Err(misfit(schema, index, "a partition is a whole number"));
        }
        let time = sink.time.as_ref().map(index).transpose()?;
        if let Some(index) = time {
            let kind = schema.field(index).data_type();
            if !matches!(kind, DataType::Int64 | DataType::Timestamp(TimeUnit::Millisecond, _)) {
                let wanted = "a time is Timestamp(Millisecond), or Int64 in ms since 1970";
                return Err(misfit(schema, index, wanted));
            }
        }
        let headers = sink.headers.iter().map(|(name, column)| Ok((name.clone(), text(column)?)));
        let headers = headers.collect::<Result<Vec<_>>>()?;
        sink.left_out.iter().try_for_each(|name| index(name).map(drop))?;
        let value = value_columns(&sink.format, schema, &sink.left_out)?;
        let only = |columns: &[usize]| schema.project(columns);
        let separator = match sink.format {
            Format::Csv { separator } => separator,
            _ => b',',
        };
        match &sink.format {
            Format::Json => JsonEncoder::check(&only(&value)?)?,
            Format::Csv { .. } => CsvEncoder::check(&only(&value)?)?,
            Format::Raw { .. } => {
                value.iter().try_for_each(|n| TextColumn::check(schema.field(*n)))?;
            }
        }
        if key.len() > 1 {
            JsonEncoder::check(&only(&key)?)?;
        }
        Ok(Rows {
            topic: sink.topic.to_string(),
            format: sink.format.clone(),
            key,
            partition,
            time,
            headers,
            value,
            json: JsonEncoder::new(),
            csv: CsvEncoder::new(separator),
        })
    }

    /// The records of a turn's rows as [`encoding`] has them, and how many.
    pub fn encode(&mut self, rows: &[Batch], turn: &Turn) -> Result<(Vec<u8>, u64)> {
        let mut out = encoding::begin(&self.topic);
        let mut count = 0;
        for batch in rows {
            self.batch(batch.rows(), turn, &mut count, &mut out)?;
        }
        Ok((out, count))
    }

    fn batch(
        &mut self,
        rows: &RecordBatch,
        turn: &Turn,
        count: &mut u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let values = self.values(rows)?;
        let keys = match self.key.clone()[..] {
            [] => None,
            [one] => Some(self.texts(rows, one)?),
            ref several => Some(self.objects(rows, several)?),
        };
        let columns: Vec<usize> = self.headers.iter().map(|(_, column)| *column).collect();
        let columns = columns.iter().map(|n| self.texts(rows, *n)).collect::<Result<Vec<_>>>()?;
        let mut id = turn.id.as_ref().map(|begin| (begin.len(), begin.clone()));
        let mut number = itoa::Buffer::new();
        for row in 0..rows.num_rows() {
            let key = keys.as_ref().and_then(|keys| keys.get(row));
            let value = values.get(row);
            let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
            if bytes > turn.bytes_max {
                return Err(too_large(&self.topic, key, bytes, turn.bytes_max));
            }
            let partition = match (self.partition, key) {
                (Some(column), _) => self.chosen(rows, column, row, turn.partitions)?,
                (None, Some(key)) => murmur2_of(key, turn.partitions),
                (None, None) => (turn.number % u64::from(turn.partitions)) as u32,
            };
            let mut headers: Vec<(&str, &[u8])> = Vec::with_capacity(columns.len() + 1);
            let named = self.headers.iter().zip(&columns);
            headers.extend(named.filter_map(|((name, _), texts)| Some((&**name, texts.get(row)?))));
            if let Some((begin, id)) = &mut id {
                id.truncate(*begin);
                id.push_str(number.format(*count));
                headers.push((ID_HEADER, id.as_bytes()));
            }
            let time = self.time.and_then(|column| time(rows.column(column).as_ref(), row));
            encoding::push(out, partition, (key, value), time, &headers);
            *count += 1;
        }
        Ok(())
    }

    fn values(&mut self, rows: &RecordBatch) -> Result<Texts> {
        let columns = self.value.clone();
        match &self.format {
            Format::Json => self.objects(rows, &columns),
            Format::Raw { .. } => self.texts(rows, columns[0]),
            Format::Csv { .. } => {
                let (mut bytes, mut ends) = (Vec::new(), Vec::new());
                self.csv.encode(&rows.project(&columns)?, &mut bytes, &mut ends)?;
                Ok(Texts { bytes, ends: ends.into_iter().map(|end| (end, true)).collect() })
            }
        }
    }

    /// JSON objects of some columns.
    fn objects(&mut self, rows: &RecordBatch, columns: &[usize]) -> Result<Texts> {
        let mut bytes = Vec::new();
        self.json.encode(&rows.project(columns)?, &mut bytes)?;
        // A line each; within one there is no line feed.
        let mut ends = Vec::with_capacity(rows.num_rows());
        let mut kept = 0;
        let mut begin = 0;
        while let Some(len) = memchr::memchr(b'\n', &bytes[begin..]) {
            bytes.copy_within(begin..begin + len, kept);
            kept += len;
            ends.push((kept, true));
            begin += len + 1;
        }
        bytes.truncate(kept);
        Ok(Texts { bytes, ends })
    }

    fn texts(&mut self, rows: &RecordBatch, column: usize) -> Result<Texts> {
        let texts = TextColumn::new(rows.schema_ref().field(column), rows.column(column))?;
        let mut found = Texts::default();
        for row in 0..rows.num_rows() {
            let is_some = texts.append(row, &mut self.json, &mut found.bytes);
            found.ends.push((found.bytes.len(), is_some));
        }
        Ok(found)
    }

    /// The partition that a row names.
    fn chosen(
        &self,
        rows: &RecordBatch,
        column: usize,
        row: usize,
        partitions: u32,
    ) -> Result<u32> {
        let array = rows.column(column).as_ref();
        let number = if array.is_null(row) { None } else { whole(array, row) };
        let fits = number.and_then(|n| u32::try_from(n).ok()).filter(|n| *n < partitions);
        fits.ok_or_else(|| {
            let name = rows.schema_ref().field(column).name();
            let shown = number.map_or("null".to_string(), |n| n.to_string());
            let message = format!(
                "column `{name}` says partition {shown}; topic {} has 0 to {}",
                self.topic,
                partitions - 1
            );
            Error::new(Code::Limit, message).help("filter such rows out before the sink")
        })
    }
}

fn value_columns(
    format: &Format,
    schema: &Schema,
    left_out: &BTreeSet<String>,
) -> Result<Vec<usize>> {
    if let Format::Raw { column } = format {
        return Ok(vec![schema.index_of(column).map_err(|_| no_column(column, schema))?]);
    }
    let all = schema.fields().iter().enumerate();
    Ok(all.filter(|(_, f)| !left_out.contains(f.name())).map(|(n, _)| n).collect())
}

fn whole(array: &dyn Array, row: usize) -> Option<i64> {
    macro_rules! value {
        ($kind:ty) => {
            i64::try_from(array.as_primitive::<$kind>().value(row)).ok()
        };
    }
    match array.data_type() {
        DataType::Int8 => value!(Int8Type),
        DataType::Int16 => value!(Int16Type),
        DataType::Int32 => value!(Int32Type),
        DataType::Int64 => value!(Int64Type),
        DataType::UInt8 => value!(UInt8Type),
        DataType::UInt16 => value!(UInt16Type),
        DataType::UInt32 => value!(UInt32Type),
        DataType::UInt64 => value!(UInt64Type),
        _ => None,
    }
}

fn time(array: &dyn Array, row: usize) -> Option<Time> {
    if array.is_null(row) {
        return None;
    }
    Some(Time::from_ms(match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
        _ => array.as_primitive::<TimestampMillisecondType>().value(row),
    }))
}

fn no_column(name: &str, schema: &Schema) -> Error {
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    Error::new(Code::Plan, format!("the sink's rows have no column `{name}`"))
        .help(format!("they have: {}", names.join(", ")))
}

fn misfit(schema: &Schema, column: usize, wanted: &str) -> Error {
    let field = schema.field(column);
    let message = format!("column `{}` is of type {}: {wanted}", field.name(), field.data_type());
    Error::new(Code::Plan, message).help("cast it first, or name another column")
}

fn too_large(topic: &str, key: Option<&[u8]>, bytes: usize, max: usize) -> Error {
    let key = key.map_or("without a key".into(), |key| {
        format!("of key {}", String::from_utf8_lossy(&key[..key.len().min(80)]))
    });
    let message = format!("a record {key} has {bytes} bytes; topic {topic} takes {max}");
    Error::new(Code::Limit, message)
        .help("raise the topic's max.message.bytes, or filter such rows out before the sink")
}
