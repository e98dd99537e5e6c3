//! What the `$supervisor` stream says: one row for each thing that was decided.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use arrow_array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
    cast::AsArray,
    types::{Int64Type, UInt32Type, UInt64Type},
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{Batch, Error, Result, Time};

/// What was decided. Later ones are graver: where entries must wait, the gravest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Records, timers or firings were set aside. A handled failure.
    DeadLetters,
    /// A person ended a process; it resumes from its last committed state. Counts as nothing.
    Killed,
    /// A stage's sources run again.
    BreakerClosed,
    /// A stage's sources run again, on probation.
    BreakerHalfOpen,
    /// A task was taken over, or nobody knows what became of its commit; it is opened again, as the
    /// log says. Counts as nothing.
    Fenced,
    /// A task failed and is restarted.
    Restarted,
    /// A process that only fails was parked.
    Parked,
    /// A handler did not return; its thread was left behind.
    AbandonedThread,
    /// Most of a stage's records are bad; its flow's sources pause.
    BreakerOpen,
    /// A task failed too often; its stage gave up and is restarted as a whole.
    Escalated,
    /// A stage failed too often; its flow gave up.
    GaveUp,
}

impl What {
    const ALL: [(What, &'static str); 11] = [
        (What::DeadLetters, "dead_letters"),
        (What::Killed, "killed"),
        (What::BreakerClosed, "breaker_closed"),
        (What::BreakerHalfOpen, "breaker_half_open"),
        (What::Fenced, "fenced"),
        (What::Restarted, "restarted"),
        (What::Parked, "parked"),
        (What::AbandonedThread, "abandoned_thread"),
        (What::BreakerOpen, "breaker_open"),
        (What::Escalated, "escalated"),
        (What::GaveUp, "gave_up"),
    ];

    /// The word as printed and stored.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(w, _)| *w == self).map_or("?", |(_, n)| n)
    }

    /// The inverse of [`What::name`].
    pub fn from_name(name: &str) -> Option<What> {
        Self::ALL.into_iter().find(|(_, n)| *n == name).map(|(w, _)| w)
    }
}

/// One row of `$supervisor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// When; of the last one if several were merged.
    pub time: Time,
    /// Which flow.
    pub flow: String,
    /// Which stage of it; empty for the flow itself.
    pub stage: String,
    /// Which task of it; none for the stage itself, or if several were merged.
    pub task: Option<u32>,
    /// What was decided.
    pub what: What,
    /// The error's stable code (`M0007`); empty if there is no error.
    pub code: String,
    /// Why, for people.
    pub reason: String,
    /// How often.
    pub count: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.time, self.what.name(), self.flow)?;
        if !self.stage.is_empty() {
            write!(f, "/{}", self.stage)?;
        }
        if let Some(task) = self.task {
            write!(f, "/{task}")?;
        }
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        write!(f, ": {}", self.reason)?;
        match self.count {
            1 => Ok(()),
            n => write!(f, " ({n} times)"),
        }
    }
}

/// The schema of `$supervisor`: `time` in ms since 1970, `task` null where there is none.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        Field::new("time", DataType::Int64, false),
        text("flow"),
        text("stage"),
        Field::new("task", DataType::UInt32, true),
        text("what"),
        text("code"),
        text("reason"),
        Field::new("count", DataType::UInt64, false),
    ]))
});

/// Reports as rows of [`SCHEMA`].
pub fn to_batch(reports: &[Report]) -> Result<Batch> {
    let text = |f: fn(&Report) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(reports.iter().map(f)))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(reports.iter().map(|r| r.time.ms()))),
        text(|r| &r.flow),
        text(|r| &r.stage),
        Arc::new(reports.iter().map(|r| r.task).collect::<UInt32Array>()),
        text(|r| r.what.name()),
        text(|r| &r.code),
        text(|r| &r.reason),
        Arc::new(UInt64Array::from_iter_values(reports.iter().map(|r| r.count))),
    ];
    Ok(Batch::derived(RecordBatch::try_new(SCHEMA.clone(), columns)?))
}

/// Rows of [`SCHEMA`] as reports.
///
/// # Errors
/// `Corrupt` if the batch has another schema, or names something that was never decided.
pub fn from_batch(rows: &RecordBatch) -> Result<Vec<Report>> {
    if rows.schema().fields() != SCHEMA.fields() {
        return Err(Error::corrupt("not a batch of supervision reports"));
    }
    let column = |i: usize| rows.column(i).as_ref();
    let text = |i: usize, row: usize| column(i).as_string::<i32>().value(row).to_string();
    let tasks = column(3).as_primitive::<UInt32Type>();
    (0..rows.num_rows())
        .map(|row| {
            let what = text(4, row);
            Ok(Report {
                time: Time::from_ms(column(0).as_primitive::<Int64Type>().value(row)),
                flow: text(1, row),
                stage: text(2, row),
                task: tasks.is_valid(row).then(|| tasks.value(row)),
                what: What::from_name(&what)
                    .ok_or_else(|| Error::corrupt(format!("report of {what:?}")))?,
                code: text(5, row),
                reason: text(6, row),
                count: column(7).as_primitive::<UInt64Type>().value(row),
            })
        })
        .collect()
}
