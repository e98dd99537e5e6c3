//! Records into columns.

use arrow_schema::SchemaRef;
use millstream_core::{Code, Error, Result, Time};

use super::{
    RECORD_BYTES_MAX,
    split::{Extent, Field, Fields, extent, trim_end},
};
use crate::{
    column::{Column, Decode, Fault, Values},
    fields,
    json::{check_utf8, line_end, misfit, quoted},
    number,
    unit::{Decoded, Place, undecodable},
};

/// The largest piece to decode at once: offsets of Arrow text are 32 bits wide.
const DECODE_BYTES_MAX: usize = i32::MAX as usize;

/// Decodes records into rows of a schema; the header is read beforehand.
///
/// ```
/// use std::sync::Arc;
/// use arrow_schema::{DataType, Field, Schema};
/// use millstream_io::{CsvDecoder, Place};
///
/// let schema = Schema::new(vec![Field::new("dep_delay", DataType::Float64, false)]);
/// let header = ["tailnum".to_string(), "dep_delay".to_string()];
/// let mut decoder = CsvDecoder::new(Arc::new(schema), &header)?;
/// let decoded = decoder.decode(b"N14228,2\nN644JB,NA\n", Place { line: 2, offset: 18 });
/// assert_eq!(decoded.places, [2]);
/// assert_eq!(decoded.undecodable[0].reason(), "dep_delay: 'NA' is not a number");
/// # Ok::<(), millstream_core::Error>(())
/// ```
#[derive(Debug)]
pub struct CsvDecoder {
    schema: SchemaRef,
    fields: fields::Fields,
    /// Per column of the file, the schema's column it is for.
    targets: Vec<Option<usize>>,
    separator: u8,
    record_bytes_max: usize,
    places_hint: usize,
}

impl CsvDecoder {
    /// A decoder for rows of `schema` out of records whose fields are named by `header`.
    ///
    /// # Errors
    /// [`Code::Plan`] if a column is missing from the header or there twice, or if its type is none
    /// that can be decoded into.
    pub fn new(schema: SchemaRef, header: &[String]) -> Result<CsvDecoder> {
        let mut targets = vec![None; header.len()];
        for (column, field) in schema.fields().iter().enumerate() {
            if field.data_type().is_nested() {
                let kind = format!("column `{}` is of type {}", field.name(), field.data_type());
                return Err(Error::new(Code::Plan, format!("{kind}, which CSV cannot hold"))
                    .help("take it as a String, or read JSON lines"));
            }
            let mut places = (0..header.len()).filter(|i| header[*i] == *field.name());
            match (places.next(), places.next()) {
                (Some(place), None) => targets[place] = Some(column),
                (None, _) => return Err(no_column(field.name(), header)),
                (Some(_), Some(_)) => {
                    let message = format!("the header names column `{}` twice", field.name());
                    return Err(Error::new(Code::Plan, message)
                        .help("give one of them another name in the header"));
                }
            }
        }
        let fields = fields::Fields::new(schema.fields(), "")?;
        Ok(CsvDecoder {
            schema,
            fields,
            targets,
            separator: b',',
            record_bytes_max: RECORD_BYTES_MAX,
            places_hint: 0,
        })
    }

    /// Takes another byte than `,` between fields.
    pub fn separator(mut self, separator: u8) -> CsvDecoder {
        self.separator = separator;
        self
    }

    /// Takes records of at most `bytes`; the default is [`RECORD_BYTES_MAX`].
    pub fn record_bytes_max(mut self, bytes: usize) -> CsvDecoder {
        self.record_bytes_max = bytes;
        self
    }

    /// Decodes all records in `bytes`, of which the first is at `first`. The last one needs no end.
    ///
    /// # Panics
    /// If `bytes` are 2 GiB or more.
    pub fn decode(&mut self, bytes: &[u8], first: Place) -> Decoded {
        assert!(bytes.len() < DECODE_BYTES_MAX, "less than 2 GiB to decode at once");
        let utf8 = bytes.is_ascii() || std::str::from_utf8(bytes).is_ok();
        let mut line = first.line;
        let mut places = Vec::with_capacity(self.places_hint);
        let mut bad = Vec::new();
        let mut skipped = 0;
        let mut at = 0;
        while at < bytes.len() {
            let (end, whole) = self.record_end(bytes, at);
            let record = &bytes[at..end];
            let content = trim_end(record);
            if content.is_empty() {
                skipped += 1;
            } else {
                match self.record(content, places.len(), utf8, whole) {
                    Ok(()) => places.push(line),
                    Err(fault) => {
                        self.fields.truncate(places.len());
                        let place = Place { line, offset: first.offset + at as u64 };
                        bad.push(undecodable(*fault, place, record, self.record_bytes_max));
                    }
                }
            }
            line += 1 + line_ends_in(record, whole);
            at = end + 1;
        }
        self.places_hint = places.len() + places.len() / 16;
        let rows = self.fields.rows(&self.schema, places.len());
        Decoded { rows, places, undecodable: bad, skipped }
    }

    /// Decodes units that were cut before, each with its place: a unit is one record, and blank
    /// ones are skipped. Of those that cannot be decoded `bytes` count within the unit.
    ///
    /// # Panics
    /// If the units are 2 GiB or more.
    pub fn decode_each<'a>(&mut self, units: impl IntoIterator<Item = (u64, &'a [u8])>) -> Decoded {
        let mut places = Vec::with_capacity(self.places_hint);
        let (mut bad, mut skipped, mut total) = (Vec::new(), 0, 0);
        for (place, unit) in units {
            total += unit.len();
            assert!(total < DECODE_BYTES_MAX, "less than 2 GiB to decode at once");
            let content = trim_end(unit.strip_suffix(b"\n").unwrap_or(unit));
            if content.is_empty() {
                skipped += 1;
                continue;
            }
            let decoded = match extent(content, 0, self.separator, self.record_bytes_max) {
                Extent::Line(_) => Err(Fault::new("more than one record")),
                _ => self.record(content, places.len(), content.is_ascii(), true),
            };
            match decoded {
                Ok(()) => places.push(place),
                Err(fault) => {
                    self.fields.truncate(places.len());
                    let at = Place { line: place, offset: 0 };
                    bad.push(undecodable(*fault, at, unit, self.record_bytes_max));
                }
            }
        }
        self.places_hint = places.len() + places.len() / 16;
        let rows = self.fields.rows(&self.schema, places.len());
        Decoded { rows, places, undecodable: bad, skipped }
    }

    /// Where the unit at `at` ends, and whether it is a whole record.
    fn record_end(&self, bytes: &[u8], at: usize) -> (usize, bool) {
        match extent(bytes, at, self.separator, self.record_bytes_max) {
            Extent::Line(end) => (end, true),
            Extent::Open => (bytes.len(), true),
            Extent::Quoted | Extent::Broken => (line_end(bytes, at), false),
        }
    }

    fn record(&mut self, record: &[u8], row: usize, utf8: bool, whole: bool) -> Decode {
        if !utf8 {
            check_utf8(record)?;
        }
        if record.len() > self.record_bytes_max {
            return Err(Fault::new("too long"));
        }
        let mut fields = Fields::new(record, self.separator);
        let mut count = 0;
        while let Some(field) = fields.next()? {
            if let Some(Some(column)) = self.targets.get(count) {
                append(&mut self.fields.columns[*column], field)?;
            }
            count += 1;
        }
        if !whole {
            return Err(Fault::new("a quoted field is longer than a record may be"));
        }
        if count != self.targets.len() {
            let wanted = self.targets.len();
            let plural = if count == 1 { "" } else { "s" };
            return Err(Fault::new(format!("{count} field{plural}, but the header has {wanted}")));
        }
        self.fields.complete(row + 1)
    }
}

/// Line ends within a record; only a quoted field can have one.
fn line_ends_in(record: &[u8], whole: bool) -> u64 {
    if !whole { 0 } else { memchr::memchr_iter(b'\n', record).count() as u64 }
}

fn no_column(name: &str, header: &[String]) -> Error {
    Error::new(Code::Plan, format!("the header names no column `{name}`"))
        .help(format!("it names: {}", header.join(", ")))
}

/// Decodes a field and appends it to `column`.
#[inline]
fn append(column: &mut Column, field: Field<'_>) -> Decode {
    if field.raw.is_empty() && !field.quoted && column.nullable {
        return column.push_null();
    }
    if let Values::Utf8 { offsets, bytes } = &mut column.values {
        if field.quoted {
            field.unquote(bytes);
        } else {
            bytes.extend_from_slice(field.raw);
        }
        offsets.push(bytes.len() as i32);
        column.push_valid();
        return Ok(());
    }
    let text = field.raw.trim_ascii();
    macro_rules! number {
        ($to:ident, $values:ident, $fit:expr) => {{
            let Some(number) = whole_number(text) else {
                return Err(wrong(column, text, "a number"));
            };
            match number.$to().and_then($fit) {
                Some(value) => $values.push(value),
                None => return Err(misfit(column, number.text, number.whole)),
            }
        }};
    }
    match &mut column.values {
        Values::Float64(v) => number!(to_f64, v, Some),
        Values::Int64(v) => number!(to_i64, v, Some),
        Values::Timestamp(v) => match time(text) {
            Some(ms) => v.push(ms),
            None => return Err(wrong(column, text, "a time")),
        },
        Values::Boolean(v) => match truth(text) {
            Some(value) => v.push(value),
            None => return Err(wrong(column, text, "true or false")),
        },
        Values::Int8(v) => number!(to_i64, v, |n| n.try_into().ok()),
        Values::Int16(v) => number!(to_i64, v, |n| n.try_into().ok()),
        Values::Int32(v) => number!(to_i64, v, |n| n.try_into().ok()),
        Values::UInt8(v) => number!(to_u64, v, |n| n.try_into().ok()),
        Values::UInt16(v) => number!(to_u64, v, |n| n.try_into().ok()),
        Values::UInt32(v) => number!(to_u64, v, |n| n.try_into().ok()),
        Values::UInt64(v) => number!(to_u64, v, Some),
        Values::Float32(v) => number!(to_f32, v, Some),
        Values::Utf8 { .. } | Values::List { .. } | Values::Struct { .. } => {}
    }
    column.push_valid();
    Ok(())
}

/// The number that `text` is, from end to end. More lenient than JSON: `+7`, `007`, `.5`, `5.`
fn whole_number(text: &[u8]) -> Option<number::Number<'_>> {
    let mut at = 0;
    if let Some(number) = number::read(text, &mut at).filter(|_| at == text.len()) {
        return Some(number);
    }
    number::Number::lenient(text)
}

fn truth(text: &[u8]) -> Option<bool> {
    match text {
        b"1" => Some(true),
        b"0" => Some(false),
        _ if text.eq_ignore_ascii_case(b"true") => Some(true),
        _ if text.eq_ignore_ascii_case(b"false") => Some(false),
        _ => None,
    }
}

fn time(text: &[u8]) -> Option<i64> {
    let mut at = 0;
    match number::read(text, &mut at) {
        Some(number) if at == text.len() => number.to_i64(),
        _ => Some(Time::parse(std::str::from_utf8(text).ok()?)?.ms()),
    }
}

#[cold]
fn wrong(column: &Column, text: &[u8], wanted: &str) -> Box<Fault> {
    column.fault(match text {
        b"" => format!("empty, but {wanted} is required"),
        _ => format!("{} is not {wanted}", quoted(&String::from_utf8_lossy(text))),
    })
}
