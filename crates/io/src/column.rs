//! Columns being filled: plain vectors that become Arrow arrays without a copy.
//!
//! *Invariants*
//! - A column can be cut back to any earlier length, so a row that fails half-way leaves nothing.
//! - `valid` is empty while a column has no null, else as long as the values.
//! - Text is UTF-8: whoever appends has checked it; the array's constructor checks again.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array,
    Int64Array, ListArray, StringArray, StructArray, TimestampMillisecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow_buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, FieldRef, TimeUnit};
use millstream_core::{Code, Error, Result};

use crate::fields::Fields;

/// Why a unit could not be decoded. Boxed, because it is rare and the way past it must be short.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The column at fault; empty if none can be named.
    pub column: String,
    pub error: String,
}

impl Fault {
    #[cold]
    pub fn new(error: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { column: String::new(), error: error.into() })
    }
}

pub(crate) type Decode<T = ()> = std::result::Result<T, Box<Fault>>;

/// The values of a column.
#[derive(Debug)]
pub(crate) enum Values {
    Boolean(Vec<bool>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt8(Vec<u8>),
    UInt16(Vec<u16>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    /// Milliseconds since the epoch.
    Timestamp(Vec<i64>),
    /// `offsets` starts with 0.
    Utf8 {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
    },
    /// `offsets` starts with 0.
    List {
        offsets: Vec<i32>,
        items: Box<Column>,
    },
    Struct {
        fields: Box<Fields>,
    },
}

/// Does the same with the vector of every flat type.
macro_rules! each_flat {
    ($values:expr, $v:ident => $flat:expr, $($rest:tt)*) => {
        match $values {
            Values::Boolean($v) => $flat,
            Values::Int8($v) => $flat,
            Values::Int16($v) => $flat,
            Values::Int32($v) => $flat,
            Values::Int64($v) => $flat,
            Values::UInt8($v) => $flat,
            Values::UInt16($v) => $flat,
            Values::UInt32($v) => $flat,
            Values::UInt64($v) => $flat,
            Values::Float32($v) => $flat,
            Values::Float64($v) => $flat,
            Values::Timestamp($v) => $flat,
            $($rest)*
        }
    };
}

/// A column being filled.
#[derive(Debug)]
pub(crate) struct Column {
    /// For errors; of a nested column the path, as `address.zip`.
    pub name: String,
    field: FieldRef,
    pub nullable: bool,
    pub values: Values,
    /// Rows so far; kept apart because asking the values means asking for their type.
    len: usize,
    valid: Vec<bool>,
}

impl Column {
    /// An empty column for `field`, which lies under `parent`.
    ///
    /// # Errors
    /// [`Code::Plan`] if there is no way to decode its type.
    pub fn new(field: &FieldRef, parent: &str) -> Result<Column> {
        let name = match (parent, field.name().as_str()) {
            ("", name) => name.to_string(),
            (parent, name) => format!("{parent}.{name}"),
        };
        let values = match field.data_type() {
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Int8 => Values::Int8(Vec::new()),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::UInt8 => Values::UInt8(Vec::new()),
            DataType::UInt16 => Values::UInt16(Vec::new()),
            DataType::UInt32 => Values::UInt32(Vec::new()),
            DataType::UInt64 => Values::UInt64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Values::Timestamp(Vec::new()),
            DataType::Utf8 => Values::Utf8 { offsets: vec![0], bytes: Vec::new() },
            DataType::List(item) => Values::List {
                offsets: vec![0],
                items: Box::new(Column { name: name.clone(), ..Column::new(item, &name)? }),
            },
            DataType::Struct(fields) => {
                Values::Struct { fields: Box::new(Fields::new(fields, &name)?) }
            }
            other => {
                return Err(Error::new(
                    Code::Plan,
                    format!("column `{name}` is of type {other}, which cannot be decoded"),
                )
                .help("possible: Boolean, Int8..Int64, UInt8..UInt64, Float32, Float64, Utf8, Timestamp(Millisecond), List, Struct"));
            }
        };
        Ok(Column {
            name,
            field: field.clone(),
            nullable: field.is_nullable(),
            values,
            len: 0,
            valid: Vec::new(),
        })
    }

    /// What it is a column of.
    pub fn field(&self) -> &FieldRef {
        &self.field
    }

    /// How many rows it has.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Cuts it back to `rows`.
    pub fn truncate(&mut self, rows: usize) {
        self.valid.truncate(rows);
        self.len = rows.min(self.len);
        each_flat!(&mut self.values, v => v.truncate(rows),
            Values::Utf8 { offsets, bytes } => {
                offsets.truncate(rows + 1);
                bytes.truncate(end(offsets)); // also what a failed text has left
            },
            Values::List { offsets, items } => {
                offsets.truncate(rows + 1);
                items.truncate(end(offsets));
            },
            Values::Struct { fields } => fields.truncate(rows),
        )
    }

    /// Says that the value just appended is one.
    #[inline(always)]
    pub fn push_valid(&mut self) {
        self.len += 1;
        if !self.valid.is_empty() {
            self.valid.push(true);
        }
    }

    /// Appends a null, or says that the column cannot have one.
    pub fn push_null(&mut self) -> Decode {
        if !self.nullable {
            return Err(self.fault("null, but a value is required"));
        }
        self.valid.resize(self.len, true);
        self.push_default();
        self.valid.truncate(self.len - 1);
        self.valid.push(false);
        Ok(())
    }

    /// Appends a null for a field that is missing, or says that it cannot be missing.
    pub fn push_missing(&mut self) -> Decode {
        if !self.nullable {
            return Err(self.fault("the field is missing"));
        }
        self.push_null()
    }

    /// Appends some value, to stand under a null.
    fn push_default(&mut self) {
        each_flat!(&mut self.values, v => v.push(Default::default()),
            Values::Utf8 { offsets, bytes } => offsets.push(bytes.len() as i32),
            Values::List { offsets, items } => offsets.push(items.len() as i32),
            Values::Struct { fields } => fields.columns.iter_mut().for_each(Column::push_default),
        );
        self.push_valid();
    }

    /// A fault of this column.
    #[cold]
    pub fn fault(&self, error: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { column: self.name.clone(), error: error.into() })
    }

    /// The range of a whole-number column, for people.
    pub fn range(&self) -> String {
        let (low, high) = match &self.values {
            Values::Int8(_) => (i64::from(i8::MIN), i8::MAX as u64),
            Values::Int16(_) => (i64::from(i16::MIN), i16::MAX as u64),
            Values::Int32(_) => (i64::from(i32::MIN), i32::MAX as u64),
            Values::UInt8(_) => (0, u64::from(u8::MAX)),
            Values::UInt16(_) => (0, u64::from(u16::MAX)),
            Values::UInt32(_) => (0, u64::from(u32::MAX)),
            Values::UInt64(_) => (0, u64::MAX),
            _ => (i64::MIN, i64::MAX as u64),
        };
        format!("{low} to {high}")
    }

    /// Makes the array and starts anew, with room for as much again.
    pub fn finish(&mut self) -> ArrayRef {
        let len = std::mem::take(&mut self.len);
        let nulls = Some(NullBuffer::from(std::mem::take(&mut self.valid)))
            .filter(|nulls| nulls.null_count() > 0);
        macro_rules! primitive {
            ($array:ident, $values:expr) => {
                Arc::new($array::new(renew($values).into(), nulls))
            };
        }
        match &mut self.values {
            Values::Boolean(v) => Arc::new(BooleanArray::new(BooleanBuffer::from(renew(v)), nulls)),
            Values::Int8(v) => primitive!(Int8Array, v),
            Values::Int16(v) => primitive!(Int16Array, v),
            Values::Int32(v) => primitive!(Int32Array, v),
            Values::Int64(v) => primitive!(Int64Array, v),
            Values::UInt8(v) => primitive!(UInt8Array, v),
            Values::UInt16(v) => primitive!(UInt16Array, v),
            Values::UInt32(v) => primitive!(UInt32Array, v),
            Values::UInt64(v) => primitive!(UInt64Array, v),
            Values::Float32(v) => primitive!(Float32Array, v),
            Values::Float64(v) => primitive!(Float64Array, v),
            Values::Timestamp(v) => {
                let array = TimestampMillisecondArray::new(renew(v).into(), nulls);
                Arc::new(array.with_data_type(self.field.data_type().clone()))
            }
            Values::Utf8 { offsets, bytes } => {
                Arc::new(StringArray::new(renew_offsets(offsets), renew(bytes).into(), nulls))
            }
            Values::List { offsets, items } => {
                let values = items.finish();
                Arc::new(ListArray::new(items.field.clone(), renew_offsets(offsets), values, nulls))
            }
            Values::Struct { fields } => {
                let kinds = fields.columns.iter().map(|c| c.field.clone()).collect();
                let arrays = fields.finish();
                Arc::new(if arrays.is_empty() {
                    StructArray::new_empty_fields(len, nulls)
                } else {
                    StructArray::new(kinds, arrays, nulls)
                })
            }
        }
    }
}

fn end(offsets: &[i32]) -> usize {
    offsets.last().map_or(0, |end| *end as usize)
}

/// Takes a vector and leaves an empty one with as much room as was used.
fn renew<T>(v: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(v.len() + v.len() / 16);
    std::mem::replace(v, room)
}

fn renew_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let full = renew(offsets);
    offsets.push(0);
    OffsetBuffer::new(full.into())
}
