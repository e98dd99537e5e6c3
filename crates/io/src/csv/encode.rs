//! Columns into records.

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use millstream_core::Result;

use crate::{json::JsonEncoder, text::TextColumn};

/// Encodes rows as records: columns in the schema's order, no header, no line ends.
///
/// The same rows give the same bytes, and [`super::CsvDecoder`] reads the same rows back: a null is
/// nothing between two separators, the empty text is `""`. Columns whose name starts with `$` are
/// left out, as in JSON.
pub struct CsvEncoder {
    separator: u8,
    numbers: JsonEncoder,
}

impl CsvEncoder {
    /// An encoder that puts `separator` between fields.
    pub fn new(separator: u8) -> CsvEncoder {
        CsvEncoder { separator, numbers: JsonEncoder::new() }
    }

    /// Whether rows of `schema` can be encoded.
    ///
    /// # Errors
    /// [`millstream_core::Code::Plan`], naming the first column that cannot.
    pub fn check(schema: &Schema) -> Result<()> {
        let printed = |name: &str| !name.starts_with('$');
        let mut printed = schema.fields().iter().filter(|f| printed(f.name()));
        printed.try_for_each(|f| TextColumn::check(f))
    }

    /// Appends the rows to `out`, and where each ends to `ends`.
    ///
    /// # Errors
    /// As [`CsvEncoder::check`]; nothing is appended then.
    pub fn encode(
        &mut self,
        rows: &RecordBatch,
        out: &mut Vec<u8>,
        ends: &mut Vec<usize>,
    ) -> Result<()> {
        let schema = rows.schema_ref();
        let printed = schema.fields().iter().zip(rows.columns());
        let printed = printed.filter(|(f, _)| !f.name().starts_with('$'));
        let columns = printed
            .map(|(field, array)| TextColumn::new(field, array.as_ref()))
            .collect::<Result<Vec<_>>>()?;
        for row in 0..rows.num_rows() {
            for (n, column) in columns.iter().enumerate() {
                if n > 0 {
                    out.push(self.separator);
                }
                let begin = out.len();
                let is_null = !column.append(row, &mut self.numbers, out);
                if !is_null && column.is_text() {
                    quote(out, begin, self.separator);
                }
            }
            ends.push(out.len());
        }
        Ok(())
    }
}

/// Puts the field from `begin` on between quotes if it would be read otherwise.
fn quote(out: &mut Vec<u8>, begin: usize, separator: u8) {
    let special = |b: &u8| *b == separator || matches!(b, b'"' | b'\n' | b'\r');
    if out.len() > begin && !out[begin..].iter().any(special) {
        return;
    }
    let field = out.split_off(begin);
    out.push(b'"');
    for byte in field {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
