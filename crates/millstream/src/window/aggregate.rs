//! What is computed in a window.

use std::{fmt, sync::Arc};

use arrow_schema::{DataType, Field};
use serde::{Serialize, de::DeserializeOwned};

use crate::process::{Failure, Result};

/// A user-written aggregate over one numeric column. A panic in it costs the row, or the window's
/// firing, not the flow.
pub trait Accumulator: Default + Serialize + DeserializeOwned + Send + 'static {
    /// Takes a value in.
    fn add(&mut self, value: f64);
    /// Takes another accumulator in (two sessions that grow together).
    fn merge(&mut self, other: &Self);
    /// The result, when the window closes.
    fn value(&self) -> f64;
}

/// One column of a window's result.
#[derive(Clone)]
pub struct Aggregate {
    pub(crate) kind: Kind,
    column: Option<String>,
    name: String,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Custom(Arc<dyn Custom>),
}

impl Aggregate {
    /// How many rows, as `name` (unsigned 64-bit integer).
    pub fn count(name: &str) -> Aggregate {
        Aggregate { kind: Kind::Count, column: None, name: name.to_string() }
    }

    /// The sum of a column's values that are not null, as `name` (64-bit float; null if none).
    pub fn sum(column: &str, name: &str) -> Aggregate {
        Aggregate::of(Kind::Sum, column, name)
    }

    /// Their mean.
    pub fn mean(column: &str, name: &str) -> Aggregate {
        Aggregate::of(Kind::Mean, column, name)
    }

    /// The least of them.
    pub fn min(column: &str, name: &str) -> Aggregate {
        Aggregate::of(Kind::Min, column, name)
    }

    /// The greatest of them.
    pub fn max(column: &str, name: &str) -> Aggregate {
        Aggregate::of(Kind::Max, column, name)
    }

    /// What a user-written accumulator makes of them.
    pub fn custom<A: Accumulator>(column: &str, name: &str) -> Aggregate {
        let custom: Arc<dyn Custom> = Arc::new(Typed::<A>(std::marker::PhantomData));
        Aggregate::of(Kind::Custom(custom), column, name)
    }

    fn of(kind: Kind, column: &str, name: &str) -> Aggregate {
        Aggregate { kind, column: Some(column.to_string()), name: name.to_string() }
    }

    pub(crate) fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    pub(crate) fn field(&self) -> Field {
        match self.kind {
            Kind::Count => Field::new(&self.name, DataType::UInt64, false),
            _ => Field::new(&self.name, DataType::Float64, true),
        }
    }
}

impl fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aggregate({} of {:?})", self.name, self.column)
    }
}

/// An accumulator behind bytes: its state is serialised between calls.
pub(crate) trait Custom: Send + Sync {
    fn add(&self, state: &mut Vec<u8>, value: f64) -> Result<()>;
    fn merge(&self, state: &mut Vec<u8>, other: &[u8]) -> Result<()>;
    fn value(&self, state: &[u8]) -> Result<f64>;
}

struct Typed<A>(std::marker::PhantomData<fn() -> A>);

impl<A: Accumulator> Typed<A> {
    fn load(state: &[u8]) -> Result<A> {
        match state {
            [] => Ok(A::default()),
            bytes => rmp_serde::from_slice(bytes).map_err(Failure::from),
        }
    }

    fn change(state: &mut Vec<u8>, change: impl FnOnce(&mut A)) -> Result<()> {
        let mut a = Self::load(state)?;
        change(&mut a);
        *state = rmp_serde::to_vec_named(&a)?;
        Ok(())
    }
}

impl<A: Accumulator> Custom for Typed<A> {
    fn add(&self, state: &mut Vec<u8>, value: f64) -> Result<()> {
        Self::change(state, |a| a.add(value))
    }

    fn merge(&self, state: &mut Vec<u8>, other: &[u8]) -> Result<()> {
        let other = Self::load(other)?;
        Self::change(state, |a| a.merge(&other))
    }

    fn value(&self, state: &[u8]) -> Result<f64> {
        Ok(Self::load(state)?.value())
    }
}
