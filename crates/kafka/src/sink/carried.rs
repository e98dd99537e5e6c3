//! Rows for a topic on the brokers that keep the turns, too: records of the turn's own transaction.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use millstream_core::{Batch, Code, Result, connector::RowEncoder};

use super::{
    Found, KafkaSink,
    rows::{Rows, Turn},
};

/// What was found, for many tasks that open at once. A task that opens again has failed, perhaps
/// because the topic is another one by now: it asks again. If it may not ask any more, what was
/// found holds: that it may not write either its turn will tell, and wait until it may.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<(Option<Found>, BTreeSet<u32>)>);

impl Known {
    fn of(&self, task: u32, sink: &KafkaSink) -> Result<Found> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, used) = &mut *known;
        if let Some(found) = found.filter(|_| used.insert(task)) {
            return Ok(found);
        }
        let asked = match (Found::ask(sink), found.take()) {
            (Err(e), Some(before)) if e.code() == Code::Permission => before,
            (asked, _) => asked?,
        };
        *known = (Some(asked), BTreeSet::from([task]));
        Ok(asked)
    }
}

/// Encodes the rows of one task.
pub(super) struct TaskRows {
    rows: Rows,
    found: Found,
    task: u32,
}

impl TaskRows {
    pub fn new(sink: &KafkaSink, task: u32, rows: Rows) -> Result<TaskRows> {
        Ok(TaskRows { rows, found: sink.known.of(task, sink)?, task })
    }
}

impl RowEncoder for TaskRows {
    fn encode(&mut self, rows: &[Batch], turn: u64) -> Result<Vec<u8>> {
        let Found { partitions, bytes_max } = self.found;
        // Where neither key nor column names a partition, tasks begin at different ones.
        let number = turn + u64::from(self.task);
        let (bytes, _) =
            self.rows.encode(rows, &Turn { number, partitions, id: None, bytes_max })?;
        Ok(bytes)
    }
}
