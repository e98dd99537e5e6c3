//! Windows of event time: which there are, what is computed in them, and the operator.

mod aggregate;
mod columns;
mod pane;
mod session;

use std::{sync::Arc, time::Duration};

use arrow_schema::{DataType, Field, SchemaRef, TimeUnit};
use millstream_core::{
    Batch, Time,
    operator::{Advance, Operator, Scope},
    table::StateTable,
};

pub use self::aggregate::{Accumulator, Aggregate};
use self::{pane::Panes, session::Sessions};
use crate::{flow::schema_of, process::Result};

/// Name of the column with a window's first millisecond.
pub const WINDOW_START: &str = "window_start";
/// Name of the column with the millisecond after a window's last.
pub const WINDOW_END: &str = "window_end";

/// How event time is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub(crate) time: String,
    pub(crate) shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Every `slide` ms a window of `size` ms, aligned to the epoch.
    Fixed { size: i64, slide: i64 },
    /// Rows no more than `gap` ms apart.
    Session { gap: i64 },
}

impl Window {
    /// Windows of `size`, one after another, aligned to the epoch, over the time in `column`.
    pub fn tumble(column: &str, size: Duration) -> Window {
        Window::hop(column, size, size)
    }

    /// Windows of `size`, one starting every `slide`.
    pub fn hop(column: &str, size: Duration, slide: Duration) -> Window {
        let shape = Shape::Fixed { size: ms(size), slide: ms(slide) };
        Window { time: column.to_string(), shape }
    }

    /// Windows that end when no row of the key has come for `gap`.
    pub fn session(column: &str, gap: Duration) -> Window {
        Window { time: column.to_string(), shape: Shape::Session { gap: ms(gap) } }
    }
}

fn ms(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// The operator behind [`crate::Flow::window`].
pub(crate) enum WindowOperator {
    Panes(Panes),
    Sessions(Sessions),
}

impl WindowOperator {
    pub fn new(
        name: &str,
        window: &Window,
        aggregates: &[Aggregate],
        input: &SchemaRef,
        keys: &[String],
        output: SchemaRef,
    ) -> WindowOperator {
        let columns = columns::Columns::new(name, &window.time, aggregates, input, keys, output);
        match window.shape {
            Shape::Fixed { size, slide } => WindowOperator::Panes(Panes::new(columns, size, slide)),
            Shape::Session { gap } => WindowOperator::Sessions(Sessions::new(columns, gap)),
        }
    }

    /// The columns of its rows: keys, window start and end, aggregates.
    pub fn output(
        input: &SchemaRef,
        keys: &[String],
        aggregates: &[Aggregate],
    ) -> Result<SchemaRef, String> {
        let mut fields = Vec::new();
        for key in keys {
            let field = input.field_with_name(key).map_err(|e| e.to_string())?;
            fields.push(Arc::new(field.clone()));
        }
        let time = DataType::Timestamp(TimeUnit::Millisecond, None);
        fields.push(Arc::new(Field::new(WINDOW_START, time.clone(), false)));
        fields.push(Arc::new(Field::new(WINDOW_END, time, false)));
        for aggregate in aggregates {
            if let Some(column) = aggregate.column() {
                let field = input.field_with_name(column).map_err(|e| e.to_string())?;
                if !columns::is_number(field.data_type()) {
                    return Err(format!(
                        "`{column}` is of type {} and cannot be aggregated",
                        field.data_type()
                    ));
                }
            }
            fields.push(Arc::new(aggregate.field()));
        }
        let names: std::collections::BTreeSet<_> = fields.iter().map(|f| f.name()).collect();
        match names.len() == fields.len() {
            true => Ok(schema_of(&fields)),
            false => Err("a window's result has two columns of one name".into()),
        }
    }
}

impl Operator for WindowOperator {
    fn name(&self) -> &str {
        match self {
            WindowOperator::Panes(p) => p.name(),
            WindowOperator::Sessions(s) => s.name(),
        }
    }

    fn tables(&mut self) -> Vec<&mut dyn StateTable> {
        match self {
            WindowOperator::Panes(p) => vec![p.table()],
            WindowOperator::Sessions(s) => vec![s.table()],
        }
    }

    fn process(&mut self, rows: &Batch, scope: &mut Scope<'_>) -> Result<()> {
        match self {
            WindowOperator::Panes(p) => p.process(rows, scope),
            WindowOperator::Sessions(s) => s.process(rows, scope),
        }
    }

    fn advance(&mut self, budget: usize, scope: &mut Scope<'_>) -> Result<Advance> {
        match self {
            WindowOperator::Panes(p) => p.advance(budget, scope),
            WindowOperator::Sessions(s) => s.advance(budget, scope),
        }
    }

    fn is_due(&self, watermark: Time, _clock: Time) -> bool {
        match self {
            WindowOperator::Panes(p) => p.is_due(watermark),
            WindowOperator::Sessions(s) => s.is_due(watermark),
        }
    }

    fn undone(&mut self) {
        match self {
            WindowOperator::Panes(p) => p.undone(),
            WindowOperator::Sessions(s) => s.undone(),
        }
    }

    fn sealed(&mut self) {
        match self {
            WindowOperator::Panes(p) => p.sealed(),
            WindowOperator::Sessions(s) => s.sealed(),
        }
    }

    fn restored(&mut self) -> millstream_core::Result<()> {
        match self {
            WindowOperator::Panes(p) => p.restored(),
            WindowOperator::Sessions(s) => s.restored(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
