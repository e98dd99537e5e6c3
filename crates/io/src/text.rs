//! A column's values one by one as plain text: fields of CSV, keys and headers of messages.

use arrow_array::{Array, BinaryArray, LargeBinaryArray, cast::AsArray};
use arrow_schema::{DataType, Field, TimeUnit};
use millstream_core::{Code, Error, Result};

use crate::json::{JsonEncoder, Values, values};

/// A column whose values are to become text.
///
/// Text and bytes stay as they are; numbers, times and truth values are what JSON makes of them.
pub struct TextColumn<'a> {
    array: &'a dyn Array,
    kind: Kind<'a>,
}

/// Its type resolved.
enum Kind<'a> {
    Plain(Values<'a>),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
}

impl<'a> TextColumn<'a> {
    /// Whether values of a column have a text.
    ///
    /// # Errors
    /// [`Code::Plan`] if it is nested, or of a type that nothing here writes.
    pub fn check(field: &Field) -> Result<()> {
        match field.data_type() {
            DataType::Null | DataType::Boolean | DataType::Float32 | DataType::Float64 => Ok(()),
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Ok(()),
            DataType::Binary | DataType::LargeBinary => Ok(()),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Ok(()),
            t if t.is_integer() => Ok(()),
            other => Err(Error::new(
                Code::Plan,
                format!("column `{}` is of type {other}, which has no plain text", field.name()),
            )
            .help("cast it to text or to a number first, or write JSON")),
        }
    }

    /// The column `field` with these values.
    ///
    /// # Errors
    /// As [`TextColumn::check`].
    pub fn new(field: &Field, array: &'a dyn Array) -> Result<TextColumn<'a>> {
        TextColumn::check(field)?;
        let kind = match array.data_type() {
            DataType::Binary => Kind::Binary(array.as_binary()),
            DataType::LargeBinary => Kind::LargeBinary(array.as_binary()),
            _ => Kind::Plain(values(array)?),
        };
        Ok(TextColumn { array, kind })
    }

    /// Appends the text of a row's value; false, and nothing appended, if it is null or a float
    /// that is no number.
    pub fn append(&self, row: usize, numbers: &mut JsonEncoder, out: &mut Vec<u8>) -> bool {
        if self.array.is_null(row) {
            return false;
        }
        match &self.kind {
            Kind::Binary(v) => out.extend_from_slice(v.value(row)),
            Kind::LargeBinary(v) => out.extend_from_slice(v.value(row)),
            Kind::Plain(Values::Utf8(v)) => out.extend_from_slice(v.value(row).as_bytes()),
            Kind::Plain(Values::Utf8View(v)) => out.extend_from_slice(v.value(row).as_bytes()),
            Kind::Plain(Values::LargeUtf8(v)) => out.extend_from_slice(v.value(row).as_bytes()),
            Kind::Plain(Values::Float32(v)) if !v[row].is_finite() => return false,
            Kind::Plain(Values::Float64(v)) if !v[row].is_finite() => return false,
            Kind::Plain(Values::Null) => return false,
            Kind::Plain(values) => numbers.value(values, None, row, out),
        }
        true
    }

    /// Whether its values are text, as opposed to numbers.
    pub(crate) fn is_text(&self) -> bool {
        !matches!(self.kind, Kind::Plain(ref v) if !matches!(v,
            Values::Utf8(_) | Values::Utf8View(_) | Values::LargeUtf8(_)))
    }
}
