//! What both kinds of windows share: reading a batch's columns, accumulating, writing results.

use std::{borrow::Cow, ops::Range, sync::Arc};

use arrow_array::{
    Array, ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt64Array, builder::*, cast::AsArray, types::*,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use millstream_core::{
    Batch, Origin,
    key::{Keys, OwnedPart, decode},
    letter::Trigger,
    mutant::{self, Mutant},
    operator::{Failure, Outcome, Scope, Unit},
};
use millstream_runtime::table::Value;

use super::aggregate::{Aggregate, Kind};
use crate::process::Result;

/// How far from 1970 an event time in a window may lie, ms (36 million years): so that no sum of
/// times overflows.
const TIME_MS_MAX: u64 = 1 << 60;

/// Hands over the rows of a batch that came too late for every window of theirs.
pub(crate) fn give_late(rows: &Batch, mut late: Vec<u32>, scope: &mut Scope<'_>) -> Result<()> {
    if mutant::is(Mutant::SwallowLate) {
        late.pop();
    }
    if !late.is_empty() {
        scope.out.counters.late += late.len() as u64;
        scope.out.rows.push((1, rows.take(&late.into()).map_err(crate::flow::failure)?));
    }
    Ok(())
}

/// Whether a column can be aggregated.
pub(crate) fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
        && !matches!(
            data_type,
            DataType::Float16 | DataType::Decimal128(..) | DataType::Decimal256(..)
        )
}

/// The accumulators of one window: per aggregate `n` (rows with a value) and `x`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    pub slots: Box<[(f64, f64)]>,
    pub custom: Vec<Vec<u8>>,
}

/// The shape of a window's input and output.
pub(crate) struct Columns {
    pub name: String,
    pub kinds: Vec<Kind>,
    time: usize,
    keys: Vec<usize>,
    inputs: Vec<Option<usize>>,
    output: SchemaRef,
}

/// The numbers of a column, and which of them are there.
type Values<'a> = (Cow<'a, [f64]>, Option<&'a NullBuffer>);

/// A batch, ready to be accumulated row by row.
pub(crate) struct Input<'a> {
    pub keys: Keys,
    pub times: &'a [i64],
    valid_times: Option<&'a NullBuffer>,
    /// Per aggregate, what it reads; `None` for a count.
    values: Vec<Option<Values<'a>>>,
}

impl Input<'_> {
    pub fn time(&self, row: usize) -> Result<i64> {
        match self.valid_times {
            Some(valid) if valid.is_null(row) => Err(Failure::new("event time is null")),
            _ if self.times[row].unsigned_abs() > TIME_MS_MAX => Err(Failure::new(format!(
                "event time {} lies further from 1970 than windows reach",
                self.times[row]
            ))),
            _ => Ok(self.times[row]),
        }
    }
}

impl Columns {
    pub fn new(
        name: &str,
        time: &str,
        aggregates: &[Aggregate],
        input: &SchemaRef,
        keys: &[String],
        output: SchemaRef,
    ) -> Columns {
        let index = |name: &str| input.index_of(name).unwrap_or_default(); // the plan has checked
        Columns {
            name: name.to_string(),
            kinds: aggregates.iter().map(|a| a.kind.clone()).collect(),
            time: index(time),
            keys: keys.iter().map(|k| index(k)).collect(),
            inputs: aggregates.iter().map(|a| a.column().map(index)).collect(),
            output,
        }
    }

    pub fn read<'a>(&self, rows: &'a RecordBatch) -> Result<Input<'a>> {
        let keys: Vec<&dyn Array> = self.keys.iter().map(|c| rows.column(*c).as_ref()).collect();
        let times = crate::host::times(rows, self.time)
            .ok_or_else(|| Failure::new("event time is neither a timestamp nor an integer"))?;
        let value = |column: usize| {
            let array = rows.column(column);
            Ok::<_, Failure>((numbers(array.as_ref())?, array.nulls()))
        };
        Ok(Input {
            keys: Keys::of(&keys, rows.num_rows()).map_err(|e| Failure::new(e.to_string()))?,
            times,
            valid_times: rows.column(self.time).nulls(),
            values: self.inputs.iter().map(|i| i.map(value).transpose()).collect::<Result<_>>()?,
        })
    }

    pub fn empty(&self) -> Sums {
        Sums {
            slots: vec![(0.0, 0.0); self.kinds.len()].into(),
            custom: vec![Vec::new(); self.customs()],
        }
    }

    fn customs(&self) -> usize {
        self.kinds.iter().filter(|k| matches!(k, Kind::Custom(_))).count()
    }

    /// Takes a row into a window's accumulators.
    #[inline]
    pub fn add(&self, sums: &mut Sums, input: &Input<'_>, row: usize) -> Result<()> {
        let mut custom = 0;
        for ((kind, slot), value) in self.kinds.iter().zip(sums.slots.iter_mut()).zip(&input.values)
        {
            let Some((values, valid)) = value else {
                slot.0 += 1.0;
                continue;
            };
            let at = custom;
            custom += usize::from(matches!(kind, Kind::Custom(_)));
            if valid.is_some_and(|v| v.is_null(row)) {
                continue;
            }
            let value = values[row];
            match kind {
                Kind::Count => {}
                Kind::Sum | Kind::Mean => slot.1 += value,
                Kind::Min if slot.0 == 0.0 || value < slot.1 => slot.1 = value,
                Kind::Max if slot.0 == 0.0 || value > slot.1 => slot.1 = value,
                Kind::Min | Kind::Max => {}
                Kind::Custom(c) => c.add(&mut sums.custom[at], value)?,
            }
            slot.0 += 1.0;
        }
        Ok(())
    }

    /// Takes another window's accumulators in.
    pub fn merge(&self, into: &mut Sums, other: &Sums) -> Result<()> {
        let mut custom = 0;
        for ((kind, a), b) in self.kinds.iter().zip(into.slots.iter_mut()).zip(&other.slots) {
            match kind {
                Kind::Min if b.0 > 0.0 && (a.0 == 0.0 || b.1 < a.1) => a.1 = b.1,
                Kind::Max if b.0 > 0.0 && (a.0 == 0.0 || b.1 > a.1) => a.1 = b.1,
                Kind::Min | Kind::Max => {}
                Kind::Custom(c) => {
                    c.merge(&mut into.custom[custom], &other.custom[custom])?;
                    custom += 1;
                }
                _ => a.1 += b.1,
            }
            a.0 += b.0;
        }
        Ok(())
    }

    /// The results of one window, in the order of the aggregates.
    pub fn results(&self, sums: &Sums) -> Result<Vec<Option<f64>>> {
        let mut custom = sums.custom.iter();
        let results = self.kinds.iter().zip(&sums.slots).map(|(kind, (n, x))| {
            let some = *n > 0.0;
            Ok(match kind {
                Kind::Count => Some(*n),
                Kind::Sum | Kind::Min | Kind::Max => some.then_some(*x),
                Kind::Mean => some.then_some(x / n),
                Kind::Custom(c) => {
                    let state = custom.next().map(Vec::as_slice).unwrap_or_default();
                    some.then(|| c.value(state)).transpose()?
                }
            })
        });
        results.collect()
    }

    /// Fires a window. A failed firing is consumed; its accumulators are kept in the letter.
    pub fn fire(
        &self,
        key: &[u8],
        window: Range<i64>,
        sums: &Sums,
        closed: &mut Vec<Closed>,
        scope: &mut Scope<'_>,
    ) -> Result<()> {
        scope.out.counters.fired += 1;
        let mut results = Vec::new();
        let outcome = scope.unit(|_| {
            results = self.results(sums)?;
            Ok(())
        })?;
        match outcome {
            Outcome::Done => {
                let Range { start, end } = window;
                closed.push(Closed { key: key.into(), start, end, results });
            }
            Outcome::Failed(failure) => {
                let mut payload = Vec::new();
                sums.encode(&mut payload)?;
                let unit = Unit { trigger: Trigger::Firing, key, origin: Origin::NONE };
                scope.dead(&unit, failure, payload);
                scope.out.counters.dead_firings += 1;
            }
        }
        Ok(())
    }

    /// Hands over the results of windows that have closed.
    pub fn give(&self, closed: &[Closed], scope: &mut Scope<'_>) -> Result<()> {
        if !closed.is_empty() {
            scope.out.counters.emitted += closed.len() as u64;
            scope.out.rows.push((0, self.rows(closed)?));
        }
        Ok(())
    }

    /// Rows of closed windows: `(key, start, end, results)` each.
    pub fn rows(&self, closed: &[Closed]) -> Result<Batch> {
        let mut columns: Vec<ArrayRef> = self.keys_back(closed)?;
        let starts = TimestampMillisecondArray::from_iter_values(closed.iter().map(|c| c.start));
        let ends = TimestampMillisecondArray::from_iter_values(closed.iter().map(|c| c.end));
        columns.push(Arc::new(starts));
        columns.push(Arc::new(ends));
        for (at, kind) in self.kinds.iter().enumerate() {
            let values = closed.iter().map(|c| c.results[at]);
            columns.push(match kind {
                Kind::Count => {
                    Arc::new(UInt64Array::from_iter_values(values.map(|v| v.unwrap_or(0.0) as u64)))
                }
                _ => Arc::new(Float64Array::from_iter(values)),
            });
        }
        let rows = RecordBatch::try_new(self.output.clone(), columns)?;
        // A closed window was on time just before it closed.
        let stamps = closed.iter().map(|c| c.end.saturating_sub(1)).collect();
        Ok(Batch::new(rows, stamps, vec![0; closed.len()].into()))
    }

    fn keys_back(&self, closed: &[Closed]) -> Result<Vec<ArrayRef>> {
        if let ([_], DataType::Utf8) = (self.keys.as_slice(), self.output.field(0).data_type())
            && closed.iter().all(|c| plain_text(&c.key).is_some())
        {
            let texts = closed.iter().filter_map(|c| plain_text(&c.key));
            return Ok(vec![Arc::new(StringArray::from_iter_values(texts))]);
        }
        let parts: Vec<Vec<OwnedPart>> = closed
            .iter()
            .map(|c| decode(&c.key).map_err(|e| Failure::new(e.to_string())))
            .collect::<Result<_>>()?;
        (0..self.keys.len())
            .map(|at| column_of(self.output.field(at).data_type(), parts.iter().map(|p| p.get(at))))
            .collect()
    }
}

/// A window that has closed.
pub(crate) struct Closed {
    pub key: Box<[u8]>,
    pub start: i64,
    pub end: i64,
    pub results: Vec<Option<f64>>,
}

fn plain_text(key: &[u8]) -> Option<&str> {
    match key {
        [0x20, text @ .., 0] if !text.contains(&0) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn numbers(array: &dyn Array) -> Result<Cow<'_, [f64]>> {
    macro_rules! cast {
        ($t:ty) => {
            Cow::Owned(array.as_primitive::<$t>().values().iter().map(|v| *v as f64).collect())
        };
    }
    Ok(match array.data_type() {
        DataType::Float64 => Cow::Borrowed(array.as_primitive::<Float64Type>().values()),
        DataType::Float32 => cast!(Float32Type),
        DataType::Int8 => cast!(Int8Type),
        DataType::Int16 => cast!(Int16Type),
        DataType::Int32 => cast!(Int32Type),
        DataType::Int64 => cast!(Int64Type),
        DataType::UInt8 => cast!(UInt8Type),
        DataType::UInt16 => cast!(UInt16Type),
        DataType::UInt32 => cast!(UInt32Type),
        DataType::UInt64 => cast!(UInt64Type),
        other => {
            return Err(Failure::new(format!("a column of type {other} cannot be aggregated")));
        }
    })
}

fn column_of<'a>(
    data_type: &DataType,
    parts: impl Iterator<Item = Option<&'a OwnedPart>>,
) -> Result<ArrayRef> {
    let int = |part: Option<&OwnedPart>| match part {
        Some(OwnedPart::Int(v) | OwnedPart::Timestamp(v)) => Some(*v),
        Some(OwnedPart::BigUint(v)) => Some(*v as i64),
        _ => None,
    };
    macro_rules! ints {
        ($builder:ty, $t:ty) => {{
            let mut b = <$builder>::new();
            parts.for_each(|p| b.append_option(int(p).map(|v| v as $t)));
            Arc::new(b.finish()) as ArrayRef
        }};
    }
    Ok(match data_type {
        DataType::Utf8 => {
            let mut b = StringBuilder::new();
            parts.for_each(|p| match p {
                Some(OwnedPart::Text(s)) => b.append_value(s),
                _ => b.append_null(),
            });
            Arc::new(b.finish())
        }
        DataType::Boolean => {
            let mut b = BooleanBuilder::new();
            parts.for_each(|p| match p {
                Some(OwnedPart::Bool(v)) => b.append_value(*v),
                _ => b.append_null(),
            });
            Arc::new(b.finish())
        }
        DataType::Binary => {
            let mut b = BinaryBuilder::new();
            parts.for_each(|p| match p {
                Some(OwnedPart::Bytes(v)) => b.append_value(v),
                _ => b.append_null(),
            });
            Arc::new(b.finish())
        }
        DataType::Int8 => ints!(Int8Builder, i8),
        DataType::Int16 => ints!(Int16Builder, i16),
        DataType::Int32 => ints!(Int32Builder, i32),
        DataType::Int64 => ints!(Int64Builder, i64),
        DataType::UInt8 => ints!(UInt8Builder, u8),
        DataType::UInt16 => ints!(UInt16Builder, u16),
        DataType::UInt32 => ints!(UInt32Builder, u32),
        DataType::UInt64 => ints!(UInt64Builder, u64),
        DataType::Timestamp(TimeUnit::Millisecond, _) => ints!(TimestampMillisecondBuilder, i64),
        other => return Err(Failure::new(format!("a key of type {other}"))),
    })
}

impl Value for Sums {
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&(self.slots.len() as u16).to_le_bytes());
        for (n, x) in &self.slots {
            out.extend_from_slice(&n.to_le_bytes());
            out.extend_from_slice(&x.to_le_bytes());
        }
        for custom in &self.custom {
            out.extend_from_slice(&u32::try_from(custom.len())?.to_le_bytes());
            out.extend_from_slice(custom);
        }
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        let sums = read_sums(&mut rest)?;
        Ok(sums)
    }
}

/// Reads what `Sums::encode` wrote; custom accumulators fill what is left.
pub(crate) fn read_sums(rest: &mut &[u8]) -> Result<Sums> {
    let cut = || Failure::new("a window's state is cut off");
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n).ok_or_else(cut)?;
        *rest = tail;
        Ok::<_, Failure>(head)
    };
    let word = |b: &[u8]| b.try_into().map(f64::from_le_bytes).map_err(|_| cut());
    let n = usize::from(u16::from_le_bytes(take(2)?.try_into()?));
    let mut slots = Vec::with_capacity(n);
    for _ in 0..n {
        slots.push((word(take(8)?)?, word(take(8)?)?));
    }
    let mut custom = Vec::new();
    while let Ok(len) = take(4) {
        let len = u32::from_le_bytes(len.try_into()?) as usize;
        custom.push(take(len)?.to_vec());
    }
    Ok(Sums { slots: slots.into(), custom })
}
