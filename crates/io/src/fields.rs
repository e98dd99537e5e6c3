//! The columns of a row, found by name; a guess from the row before makes finding them cheap.

use arrow_array::ArrayRef;
use arrow_schema::FieldRef;
use millstream_core::Result;

use crate::column::{Column, Decode};

/// Guesses kept per object; a row with more fields looks the rest up.
const GUESSES_MAX: usize = 256;
/// The longest name worth guessing, in bytes.
const GUESS_BYTES_MAX: usize = 256;

/// The columns of an object (a row, or a struct in it).
#[derive(Debug)]
pub(crate) struct Fields {
    pub columns: Vec<Column>,
    guesses: Vec<Guess>,
}

/// What stood at a place among the fields of the last object.
#[derive(Debug)]
struct Guess {
    /// `"name":`, as written.
    prefix: Vec<u8>,
    column: Option<usize>,
}

impl Fields {
    pub fn new(fields: &[FieldRef], parent: &str) -> Result<Fields> {
        let columns = fields.iter().map(|f| Column::new(f, parent)).collect::<Result<_>>()?;
        Ok(Fields { columns, guesses: Vec::new() })
    }

    /// The column (`None`: a field nobody needs) and the length of `"name":`, if `rest` goes on
    /// as the last object did at its `nth` field.
    #[inline(always)]
    pub fn guess(&self, nth: usize, rest: &[u8]) -> Option<(Option<usize>, usize)> {
        let guess = self.guesses.get(nth)?;
        rest.starts_with(&guess.prefix).then_some((guess.column, guess.prefix.len()))
    }

    /// The column named `name`; `prefix` is remembered as the `nth` field's.
    pub fn find(&mut self, nth: usize, name: &[u8], prefix: &[u8]) -> Option<usize> {
        let column = self.columns.iter().position(|c| own_name(c).as_bytes() == name);
        if nth < GUESSES_MAX && prefix.len() <= GUESS_BYTES_MAX {
            while self.guesses.len() <= nth {
                self.guesses.push(Guess { prefix: b"\n".to_vec(), column: None });
            }
            let guess = &mut self.guesses[nth];
            guess.prefix.clear();
            guess.prefix.extend_from_slice(prefix);
            guess.column = column;
        }
        column
    }

    /// Ends a row: whatever it lacked becomes null, or a fault if it cannot be.
    #[inline]
    pub fn complete(&mut self, rows: usize) -> Decode {
        for column in &mut self.columns {
            if column.len() < rows {
                column.push_missing()?;
            }
        }
        Ok(())
    }

    pub fn truncate(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|c| c.truncate(rows));
    }

    pub fn finish(&mut self) -> Vec<ArrayRef> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

/// A column's own name, without its path.
fn own_name(column: &Column) -> &str {
    column.field().name()
}
