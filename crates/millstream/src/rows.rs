//! Stateless steps on typed rows: filter, map, flat map.

use std::{marker::PhantomData, sync::Arc};

use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use millstream_core::{
    Batch,
    key::KEY_BYTES_MAX,
    letter::{Trigger, row_payload},
    operator::{Mode, Operator, Outcome, Scope, Unit},
    table::StateTable,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    flow::failure,
    process::{Failure, Result},
};

/// What a stateless step knows.
#[derive(Clone)]
pub(crate) struct RowSpec {
    pub name: String,
    pub output: SchemaRef,
}

/// Calls `each` with every row, contained in careful mode. Returns how many rows were set aside.
fn for_each_row<A: DeserializeOwned>(
    rows: &Batch,
    scope: &mut Scope<'_>,
    mut each: impl FnMut(usize, A) -> Result<()>,
) -> Result<u64> {
    let inputs = serde_arrow::Deserializer::from_record_batch(rows.rows())?;
    let mut dead = 0;
    for (row, item) in inputs.iter().enumerate() {
        let run = |each: &mut dyn FnMut(usize, A) -> Result<()>| {
            let item = inputs.get(row).ok_or_else(|| failure("a row beyond the batch"))?;
            each(row, A::deserialize(item)?)
        };
        if scope.mode == Mode::Optimistic {
            scope.enter()?;
            each(row, A::deserialize(item)?)?;
            continue;
        }
        if let Outcome::Failed(why) = scope.unit(|_| run(&mut each))? {
            let unit = Unit { trigger: Trigger::Record, key: &[], origin: rows.origin(row) };
            scope.dead(&unit, why, row_payload(rows.rows(), row));
            dead += 1;
        }
    }
    Ok(dead)
}

/// Keeps the rows for which a predicate holds.
pub(crate) struct Filter<A, F> {
    spec: RowSpec,
    f: F,
    row: PhantomData<fn(A)>,
}

impl<A, F> Filter<A, F> {
    pub fn new(spec: RowSpec, f: F) -> Self {
        Filter { spec, f, row: PhantomData }
    }
}

impl<A: DeserializeOwned + Send, F: Fn(&A) -> bool + Send> Operator for Filter<A, F> {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn tables(&mut self) -> Vec<&mut dyn StateTable> {
        Vec::new()
    }

    fn process(&mut self, rows: &Batch, scope: &mut Scope<'_>) -> Result<()> {
        let mut kept: Vec<u32> = Vec::new();
        let dead = for_each_row(rows, scope, |row, item: A| {
            if (self.f)(&item) {
                kept.push(row as u32);
            }
            Ok(())
        })?;
        let counters = &mut scope.out.counters;
        counters.read += rows.len() as u64;
        counters.processed += kept.len() as u64;
        counters.dead += dead;
        counters.filtered += rows.len() as u64 - kept.len() as u64 - dead;
        counters.emitted += kept.len() as u64;
        if kept.len() == rows.len() {
            scope.out.rows.push((0, rows.clone()));
        } else if !kept.is_empty() {
            scope.out.rows.push((0, rows.take(&UInt32Array::from(kept)).map_err(failure)?));
        }
        Ok(())
    }
}

/// Why nothing can live under a key, if so.
pub(crate) fn too_long(key: &[u8]) -> Option<Failure> {
    (key.len() > KEY_BYTES_MAX).then(|| {
        Failure::new(format!("a key of {} bytes; the limit is {KEY_BYTES_MAX}", key.len()))
    })
}

/// Sets a row aside whose key is too long, or stops the flow at it. `true` if it is.
pub(crate) fn reject_long_key(
    key: &[u8],
    rows: &Batch,
    row: usize,
    stop: bool,
    scope: &mut Scope<'_>,
) -> Result<bool> {
    let Some(failure) = too_long(key) else { return Ok(false) };
    if let Outcome::Failed(failure) = scope.unit(|_| Err(failure.clone()))? {
        if stop {
            return Err(Failure { stop, ..failure });
        }
        // The letter is not filed under a key that nothing can have; the row tells it.
        let unit = Unit { trigger: Trigger::Record, key: &[], origin: rows.origin(row) };
        scope.dead(&unit, failure, row_payload(rows.rows(), row));
        scope.out.counters.dead += 1;
    }
    Ok(true)
}

/// Turns each row into any number of others.
pub(crate) struct FlatMap<A, B, F> {
    spec: RowSpec,
    f: Arc<F>,
    row: PhantomData<fn(A) -> B>,
}

impl<A, B, F> FlatMap<A, B, F> {
    pub fn new(spec: RowSpec, f: F) -> Self {
        FlatMap { spec, f: Arc::new(f), row: PhantomData }
    }
}

impl<A, B, I, F> Operator for FlatMap<A, B, F>
where
    A: DeserializeOwned + Send,
    B: Serialize + Send,
    I: IntoIterator<Item = B>,
    F: Fn(A) -> I + Send + Sync,
{
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn tables(&mut self) -> Vec<&mut dyn StateTable> {
        Vec::new()
    }

    fn process(&mut self, rows: &Batch, scope: &mut Scope<'_>) -> Result<()> {
        let mut made: Vec<B> = Vec::new();
        let mut from: Vec<u32> = Vec::new();
        let (f, fields) = (self.f.clone(), self.spec.output.fields().clone());
        let careful = scope.mode == Mode::Careful;
        let dead = for_each_row(rows, scope, |row, item: A| {
            // A panic in the row before may have left some of its rows.
            made.truncate(from.len());
            let before = made.len();
            made.extend(f(item));
            if careful
                && let Err(e) = serde_arrow::to_record_batch(
                    &fields,
                    &made[before..].iter().collect::<Vec<_>>(),
                )
            {
                made.truncate(before);
                return Err(e.into());
            }
            from.resize(made.len(), row as u32);
            Ok(())
        })?;
        made.truncate(from.len());
        let counters = &mut scope.out.counters;
        counters.read += rows.len() as u64;
        counters.processed += rows.len() as u64 - dead;
        counters.dead += dead;
        counters.emitted += made.len() as u64;
        if !made.is_empty() {
            let columns = serde_arrow::to_record_batch(&fields, &made)?;
            let columns =
                RecordBatch::try_new(self.spec.output.clone(), columns.columns().to_vec())?;
            let stamps = from.iter().map(|r| rows.stamps()[*r as usize]).collect();
            let origins = from.iter().map(|r| rows.origins()[*r as usize]).collect();
            scope.out.rows.push((0, Batch::new(columns, stamps, origins)));
        }
        Ok(())
    }
}
