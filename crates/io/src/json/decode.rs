//! JSON lines into columns.

use arrow_schema::SchemaRef;
use millstream_core::{Result, Time};

use super::scan::{Scan, quoted, shorten, unescape};
use crate::{
    column::{Column, Decode, Fault, Values},
    fields::Fields,
    number::Number,
    unit::{Decoded, Place, undecodable},
};

/// The longest line that is decoded, in bytes.
pub const LINE_BYTES_MAX: usize = 16 << 20;
/// The largest piece to decode at once: offsets of Arrow text are 32 bits wide.
const DECODE_BYTES_MAX: usize = i32::MAX as usize;

/// Decodes lines of JSON into rows of a schema. Reusable; remembers only what makes it fast.
///
/// ```
/// use std::sync::Arc;
/// use arrow_schema::{DataType, Field, Schema};
/// use millstream_io::{JsonDecoder, Place};
///
/// let schema = Schema::new(vec![Field::new("celsius", DataType::Float64, false)]);
/// let mut decoder = JsonDecoder::new(Arc::new(schema))?;
/// let lines = b"{\"sensor\":7,\"celsius\":21.5}\n{\"celsius\":\"NA\"}\n";
/// let decoded = decoder.decode(lines, Place::default());
/// assert_eq!(decoded.rows.num_rows(), 1);
/// assert_eq!(decoded.undecodable[0].place, 2);
/// assert_eq!(decoded.undecodable[0].reason(), "celsius: 'NA' is not a number");
/// # Ok::<(), millstream_core::Error>(())
/// ```
#[derive(Debug)]
pub struct JsonDecoder {
    schema: SchemaRef,
    fields: Fields,
    line_bytes_max: usize,
    places_hint: usize,
}

impl JsonDecoder {
    /// A decoder for rows of `schema`.
    ///
    /// # Errors
    /// [`millstream_core::Code::Plan`] if a column's type is none that can be decoded into.
    pub fn new(schema: SchemaRef) -> Result<JsonDecoder> {
        let fields = Fields::new(schema.fields(), "")?;
        Ok(JsonDecoder { schema, fields, line_bytes_max: LINE_BYTES_MAX, places_hint: 0 })
    }

    /// The schema of its rows.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Takes lines of at most `bytes`; the default is [`LINE_BYTES_MAX`].
    pub fn line_bytes_max(mut self, bytes: usize) -> JsonDecoder {
        self.line_bytes_max = bytes;
        self
    }

    /// Decodes all lines in `bytes`, of which the first is at `first`. The last one needs no end.
    ///
    /// # Panics
    /// If `bytes` are 2 GiB or more.
    pub fn decode(&mut self, bytes: &[u8], first: Place) -> Decoded {
        assert!(bytes.len() < DECODE_BYTES_MAX, "less than 2 GiB to decode at once");
        let utf8 = bytes.is_ascii() || std::str::from_utf8(bytes).is_ok();
        let mut scan = Scan::new(bytes);
        let mut place = first.line;
        let mut places = Vec::with_capacity(self.places_hint);
        let mut bad = Vec::new();
        let mut skipped = 0;
        while scan.at < bytes.len() {
            scan.line = scan.at;
            match self.line(&mut scan, places.len(), utf8) {
                Ok(true) => places.push(place),
                Ok(false) => skipped += 1,
                Err(fault) => {
                    self.fields.truncate(places.len());
                    scan.at = line_end(bytes, scan.line);
                    let unit = &bytes[scan.line..scan.at];
                    let at = Place { line: place, offset: first.offset + scan.line as u64 };
                    bad.push(undecodable(*fault, at, unit, self.line_bytes_max));
                }
            }
            scan.at += 1;
            place += 1;
        }
        self.places_hint = places.len() + places.len() / 16;
        let rows = self.fields.rows(&self.schema, places.len());
        Decoded { rows, places, undecodable: bad, skipped }
    }

    /// Decodes units that were cut before, each with its place: a unit is one object, over however
    /// many lines, and blank ones are skipped. Of those that cannot be decoded `bytes` count within
    /// the unit.
    ///
    /// # Panics
    /// If the units are 2 GiB or more.
    pub fn decode_each<'a>(&mut self, units: impl IntoIterator<Item = (u64, &'a [u8])>) -> Decoded {
        let mut places = Vec::with_capacity(self.places_hint);
        let (mut bad, mut skipped, mut room, mut total) = (Vec::new(), 0, Vec::new(), 0);
        for (place, unit) in units {
            total += unit.len();
            assert!(total < DECODE_BYTES_MAX, "less than 2 GiB to decode at once");
            let decoded = match memchr::memchr(b'\n', unit) {
                None => self.unit(unit, places.len()),
                // White space between tokens as well, and within a text as wrong.
                Some(_) => {
                    room.clear();
                    room.extend(unit.iter().map(|b| if *b == b'\n' { b'\r' } else { *b }));
                    self.unit(&room, places.len())
                }
            };
            match decoded {
                Ok(true) => places.push(place),
                Ok(false) => skipped += 1,
                Err(fault) => {
                    self.fields.truncate(places.len());
                    let at = Place { line: place, offset: 0 };
                    bad.push(undecodable(*fault, at, unit, self.line_bytes_max));
                }
            }
        }
        self.places_hint = places.len() + places.len() / 16;
        let rows = self.fields.rows(&self.schema, places.len());
        Decoded { rows, places, undecodable: bad, skipped }
    }

    #[inline]
    fn unit(&mut self, unit: &[u8], row: usize) -> Decode<bool> {
        self.line(&mut Scan::new(unit), row, unit.is_ascii())
    }

    /// Decodes one line and stops at its end; false if it is blank.
    #[inline]
    fn line(&mut self, scan: &mut Scan<'_>, row: usize, utf8: bool) -> Decode<bool> {
        if !utf8 {
            check_utf8(&scan.bytes[scan.at..line_end(scan.bytes, scan.at)])?;
        }
        scan.depth = 0;
        scan.space();
        match scan.peek() {
            b'{' => object(scan, &mut self.fields, row)?,
            b'\n' => return Ok(false),
            _ => return Err(not_an_object(scan)),
        }
        scan.space();
        if scan.peek() != b'\n' {
            return Err(scan.expected("the end of the line"));
        }
        if scan.at - scan.line > self.line_bytes_max {
            return Err(Fault::new("too long"));
        }
        Ok(true)
    }
}

/// Where the line that holds `at` ends.
pub(crate) fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n)
}

/// That a line is UTF-8, or where it stops being so, counted from 1.
pub(crate) fn check_utf8(line: &[u8]) -> Decode {
    match std::str::from_utf8(line) {
        Ok(_) => Ok(()),
        Err(e) => Err(Fault::new(format!("invalid UTF-8 at byte {}", e.valid_up_to() + 1))),
    }
}

#[cold]
fn not_an_object(scan: &mut Scan<'_>) -> Box<Fault> {
    match scan.describe() {
        Ok(value) => Fault::new(format!("{value} is not an object")),
        Err(_) => Fault::new("the line is not a JSON object"),
    }
}

/// Decodes the object that starts here as row `row` of `fields`.
#[inline]
fn object(scan: &mut Scan<'_>, fields: &mut Fields, row: usize) -> Decode {
    scan.enter()?;
    scan.space();
    if scan.peek() != b'}' {
        let mut nth = 0;
        loop {
            let column = match fields.guess(nth, &scan.bytes[scan.at..]) {
                Some((column, len)) => {
                    scan.at += len;
                    column
                }
                None => name(scan, fields, nth)?,
            };
            scan.space();
            match column {
                Some(column) => {
                    let column = &mut fields.columns[column];
                    if column.len() > row {
                        column.truncate(row); // the field again: the last one wins
                    }
                    value(scan, column)?;
                }
                None => scan.skip()?,
            }
            if !scan.more(b'}', "',' or '}'")? {
                break;
            }
            nth += 1;
        }
    }
    scan.leave();
    fields.complete(row + 1)
}

/// Reads a field's name and colon; the column it is for.
#[cold]
fn name(scan: &mut Scan<'_>, fields: &mut Fields, nth: usize) -> Decode<Option<usize>> {
    let start = scan.at;
    if scan.peek() != b'"' {
        return Err(scan.expected("a field name in quotes"));
    }
    let text = scan.string()?;
    scan.colon()?;
    let prefix = &scan.bytes[start..scan.at];
    if !text.escaped {
        return Ok(fields.find(nth, text.raw, prefix));
    }
    let mut name = Vec::new();
    unescape(text.raw, &mut name)?;
    Ok(fields.find(nth, &name, prefix))
}

/// Decodes the value that starts here and appends it to `column`.
#[inline(always)]
fn value(scan: &mut Scan<'_>, column: &mut Column) -> Decode {
    let row = column.len();
    match scan.peek() {
        b'"' => return text(scan, column),
        b'-' | b'0'..=b'9' => {
            let number = scan.number()?;
            push_number(column, number)?;
        }
        b'n' => {
            scan.literal("null")?;
            return column.push_null();
        }
        b'[' => return list(scan, column),
        first => match &mut column.values {
            Values::Boolean(v) if matches!(first, b't' | b'f') => {
                scan.literal(if first == b't' { "true" } else { "false" })?;
                v.push(first == b't');
            }
            Values::Struct { fields } if first == b'{' => object(scan, fields, row)?,
            _ => return Err(wrong(scan, column)),
        },
    }
    column.push_valid();
    Ok(())
}

#[inline(always)]
fn text(scan: &mut Scan<'_>, column: &mut Column) -> Decode {
    let Values::Utf8 { offsets, bytes } = &mut column.values else { return time(scan, column) };
    let text = scan.string()?;
    if text.escaped {
        unescape(text.raw, bytes)
            .map_err(|f| Box::new(Fault { column: column.name.clone(), ..*f }))?;
    } else {
        bytes.extend_from_slice(text.raw);
    }
    offsets.push(bytes.len() as i32);
    column.push_valid();
    Ok(())
}

#[inline(always)]
fn push_number(column: &mut Column, number: Number<'_>) -> Decode {
    macro_rules! push {
        ($to:ident, $values:ident, $fit:expr) => {
            match number.$to().and_then($fit) {
                Some(value) => $values.push(value),
                None => return Err(misfit(column, number.text, number.whole)),
            }
        };
    }
    match &mut column.values {
        Values::Int64(v) | Values::Timestamp(v) => push!(to_i64, v, Some),
        Values::Float64(v) => push!(to_f64, v, Some),
        Values::UInt64(v) => push!(to_u64, v, Some),
        Values::Int8(v) => push!(to_i64, v, |n| n.try_into().ok()),
        Values::Int16(v) => push!(to_i64, v, |n| n.try_into().ok()),
        Values::Int32(v) => push!(to_i64, v, |n| n.try_into().ok()),
        Values::UInt8(v) => push!(to_u64, v, |n| n.try_into().ok()),
        Values::UInt16(v) => push!(to_u64, v, |n| n.try_into().ok()),
        Values::UInt32(v) => push!(to_u64, v, |n| n.try_into().ok()),
        Values::Float32(v) => push!(to_f32, v, Some),
        _ => {
            let text = String::from_utf8_lossy(number.text);
            return Err(column.fault(format!("{} is not {}", shorten(&text), wanted(column))));
        }
    }
    Ok(())
}

fn list(scan: &mut Scan<'_>, column: &mut Column) -> Decode {
    let Values::List { offsets, items } = &mut column.values else {
        return Err(wrong(scan, column));
    };
    scan.enter()?;
    scan.space();
    if scan.peek() != b']' {
        loop {
            nested_value(scan, items)?;
            if !scan.more(b']', "',' or ']'")? {
                break;
            }
        }
    }
    scan.leave();
    offsets.push(items.len() as i32);
    column.push_valid();
    Ok(())
}

/// Not inlined: breaks the cycle that `value` and `list` are.
#[inline(never)]
fn nested_value(scan: &mut Scan<'_>, column: &mut Column) -> Decode {
    value(scan, column)
}

fn time(scan: &mut Scan<'_>, column: &mut Column) -> Decode {
    let Values::Timestamp(values) = &mut column.values else { return Err(wrong(scan, column)) };
    let text = scan.string()?;
    match std::str::from_utf8(text.raw).ok().and_then(Time::parse) {
        Some(time) => {
            values.push(time.ms());
            column.push_valid();
            Ok(())
        }
        None => {
            let text = String::from_utf8_lossy(text.raw);
            Err(column.fault(format!("{} is not a time", quoted(&text))))
        }
    }
}

/// The value here is of another kind than the column.
#[cold]
fn wrong(scan: &mut Scan<'_>, column: &Column) -> Box<Fault> {
    match scan.describe() {
        Ok(value) => column.fault(format!("{value} is not {}", wanted(column))),
        Err(fault) => fault,
    }
}

fn wanted(column: &Column) -> &'static str {
    match column.values {
        Values::Utf8 { .. } => "text",
        Values::Boolean(_) => "true or false",
        Values::Timestamp(_) => "a time",
        Values::List { .. } => "a list",
        Values::Struct { .. } => "an object",
        _ => "a number",
    }
}

/// A number that the column cannot hold.
#[cold]
pub(crate) fn misfit(column: &Column, text: &[u8], whole: bool) -> Box<Fault> {
    let text = shorten(&String::from_utf8_lossy(text));
    let float = matches!(column.values, Values::Float32(_) | Values::Float64(_));
    column.fault(if float {
        format!("{text} is too large")
    } else if whole {
        format!("{text} is out of range ({})", column.range())
    } else {
        format!("{text} is not a whole number")
    })
}
