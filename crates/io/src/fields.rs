//! The columns of a row, found by name; a guess from the row before makes finding them cheap.

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{FieldRef, SchemaRef};
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
    /// Its first bytes as a number and a mask, to compare them in one step.
    first: u128,
    mask: u128,
    column: Option<usize>,
}

impl Default for Guess {
    /// Fits nothing: no field starts with a line end.
    fn default() -> Guess {
        let mut guess = Guess { prefix: Vec::new(), first: 0, mask: 0, column: None };
        guess.learn(b"\n", None);
        guess
    }
}

impl Guess {
    fn learn(&mut self, prefix: &[u8], column: Option<usize>) {
        let len = prefix.len().min(FIRST_BYTES);
        let mut first = [0; FIRST_BYTES];
        let mut mask = [0; FIRST_BYTES];
        first[..len].copy_from_slice(&prefix[..len]);
        mask[..len].fill(0xff);
        self.first = u128::from_le_bytes(first);
        self.mask = u128::from_le_bytes(mask);
        self.prefix.clear();
        self.prefix.extend_from_slice(prefix);
        self.column = column;
    }
}

/// What fits a [`Guess::first`].
const FIRST_BYTES: usize = 16;

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
        let len = guess.prefix.len();
        let found = match rest.first_chunk::<FIRST_BYTES>() {
            Some(first) => {
                u128::from_le_bytes(*first) & guess.mask == guess.first
                    && (len <= FIRST_BYTES || rest.starts_with(&guess.prefix))
            }
            None => rest.starts_with(&guess.prefix),
        };
        found.then_some((guess.column, len))
    }

    /// The column named `name`; `prefix` is remembered as the `nth` field's.
    pub fn find(&mut self, nth: usize, name: &[u8], prefix: &[u8]) -> Option<usize> {
        let column = self.columns.iter().position(|c| own_name(c).as_bytes() == name);
        if nth < GUESSES_MAX && prefix.len() <= GUESS_BYTES_MAX {
            while self.guesses.len() <= nth {
                self.guesses.push(Guess::default());
            }
            self.guesses[nth].learn(prefix, column);
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

    /// Takes out `n` rows of `schema`, which these columns were made from.
    pub fn rows(&mut self, schema: &SchemaRef, n: usize) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        RecordBatch::try_new_with_options(schema.clone(), self.finish(), &options)
            .expect("the columns were made from the schema")
    }

    pub fn finish(&mut self) -> Vec<ArrayRef> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

/// A column's own name, without its path.
fn own_name(column: &Column) -> &str {
    column.field().name()
}
