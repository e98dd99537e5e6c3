//! Rows in motion: an Arrow batch whose rows remember where they came from and how late they are.

use std::{fmt, sync::Arc};

use arrow_array::{
    ArrayRef, Int64Array, RecordBatch, UInt32Array, UInt64Array,
    cast::AsArray,
    types::{Int64Type, UInt64Type},
};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::{Error, Result, Time};

/// Name of the hidden column with each row's lateness stamp.
pub const STAMP: &str = "$stamp";
/// Name of the hidden column with each row's origin.
pub const ORIGIN: &str = "$origin";

/// Where a row entered: the source task's number and the row's place there (a line of a file,
/// the n-th record of an HTTP stream; both count from 1). [`Origin::NONE`] for derived rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

impl Origin {
    /// A row that no source row can be named for, such as a window's result.
    pub const NONE: Origin = Origin(0);

    /// Packs a source task's number (16 bits) and a place (48 bits); more saturates.
    pub fn new(source: u32, place: u64) -> Origin {
        Origin(u64::from(source.min(0xffff)) << 48 | place.min((1 << 48) - 1))
    }

    /// The source task's number.
    pub fn source(self) -> u32 {
        (self.0 >> 48) as u32
    }

    /// The place within the source, counted from 1.
    pub fn place(self) -> u64 {
        self.0 & ((1 << 48) - 1)
    }
}

/// Rows of one schema. Each has a *stamp*, the watermark that preceded it at its source, and an
/// [`Origin`].
///
/// *Invariant:* `rows`, `stamps` and `origins` have the same length.
#[derive(Clone)]
pub struct Batch {
    rows: RecordBatch,
    stamps: ScalarBuffer<i64>,
    origins: ScalarBuffer<u64>,
}

impl Batch {
    /// Joins rows with their stamps and origins. Panics if the lengths differ.
    pub fn new(rows: RecordBatch, stamps: ScalarBuffer<i64>, origins: ScalarBuffer<u64>) -> Batch {
        assert_eq!(rows.num_rows(), stamps.len(), "a stamp for each row");
        assert_eq!(rows.num_rows(), origins.len(), "an origin for each row");
        Batch { rows, stamps, origins }
    }

    /// Rows that are never late and come from nowhere.
    pub fn derived(rows: RecordBatch) -> Batch {
        let n = rows.num_rows();
        Batch::new(rows, vec![i64::MIN; n].into(), vec![0; n].into())
    }

    /// The users' columns.
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The watermark that preceded row `row` at its source. Panics if there is no such row.
    pub fn stamp(&self, row: usize) -> Time {
        Time::from_ms(self.stamps[row])
    }

    /// All stamps, in ms.
    pub fn stamps(&self) -> &ScalarBuffer<i64> {
        &self.stamps
    }

    /// Where row `row` entered. Panics if there is no such row.
    pub fn origin(&self, row: usize) -> Origin {
        Origin(self.origins[row])
    }

    /// All origins.
    pub fn origins(&self) -> &ScalarBuffer<u64> {
        &self.origins
    }

    /// A view of `len` rows from `start`, without copying.
    pub fn slice(&self, start: usize, len: usize) -> Batch {
        Batch {
            rows: self.rows.slice(start, len),
            stamps: self.stamps.slice(start, len),
            origins: self.origins.slice(start, len),
        }
    }

    /// The rows named by `indices`, in that order.
    pub fn take(&self, indices: &UInt32Array) -> Result<Batch> {
        let pick = |i: &u32| *i as usize;
        Ok(Batch {
            rows: arrow_select::take::take_record_batch(&self.rows, indices)?,
            stamps: indices.values().iter().map(|i| self.stamps[pick(i)]).collect(),
            origins: indices.values().iter().map(|i| self.origins[pick(i)]).collect(),
        })
    }

    /// The schema on the wire: the users' columns, then stamp and origin.
    pub fn wire_schema(schema: &Schema) -> SchemaRef {
        let mut fields = schema.fields().to_vec();
        fields.push(Arc::new(Field::new(STAMP, DataType::Int64, false)));
        fields.push(Arc::new(Field::new(ORIGIN, DataType::UInt64, false)));
        Arc::new(Schema::new(fields))
    }

    /// The batch as written to a stream, under a schema made by [`Batch::wire_schema`].
    pub fn to_wire(&self, wire: &SchemaRef) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = self.rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::new(self.stamps.clone(), None)));
        columns.push(Arc::new(UInt64Array::new(self.origins.clone(), None)));
        Ok(RecordBatch::try_new(wire.clone(), columns)?)
    }

    /// Takes apart what [`Batch::to_wire`] has put together.
    ///
    /// # Errors
    /// [`crate::Code::Corrupt`] if the hidden columns are missing.
    pub fn from_wire(wire: &RecordBatch, schema: &SchemaRef) -> Result<Batch> {
        let n = schema.fields().len();
        let hidden = |i: usize| wire.columns().get(n + i).ok_or_else(|| missing(wire));
        let stamps = hidden(0)?.as_primitive_opt::<Int64Type>().ok_or_else(|| missing(wire))?;
        let origins = hidden(1)?.as_primitive_opt::<UInt64Type>().ok_or_else(|| missing(wire))?;
        let columns = wire.columns().iter().take(n).cloned().collect();
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(wire.num_rows()));
        let rows = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
        Ok(Batch { rows, stamps: stamps.values().clone(), origins: origins.values().clone() })
    }
}

fn missing(wire: &RecordBatch) -> Error {
    Error::corrupt(format!("no stamp and origin columns in {}", wire.schema()))
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} rows of {})", self.len(), self.rows.schema())
    }
}
