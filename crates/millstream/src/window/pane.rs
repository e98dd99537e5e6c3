//! Tumbling and hopping windows: one table entry per key and window.
//!
//! *Invariant:* a row is late for a window iff the window's end <= the row's stamp; so the late set
//! does not depend on when a window happens to be closed.

use std::collections::BTreeMap;

use millstream_core::{
    Batch, Time,
    key::hash,
    letter::{Trigger, row_payload},
    operator::{Advance, Mode, Outcome, Scope, Unit},
    table::StateTable,
};
use millstream_runtime::table::{EntryId, Table};

use super::columns::{Closed, Columns, Input, Sums, give_late};
use crate::{process::Result, rows::reject_long_key};

/// The operator for windows of fixed size.
pub(crate) struct Panes {
    columns: Columns,
    size: i64,
    slide: i64,
    table: Table<Sums>,
    /// By end: the entries that may close then. May name entries that are gone.
    open: BTreeMap<i64, Vec<EntryId>>,
    /// What [`Panes::advance`] has taken out of `open` since the last seal.
    taken: Vec<(i64, EntryId)>,
    scratch: Vec<u8>,
}

impl Panes {
    pub fn new(columns: Columns, size: i64, slide: i64) -> Panes {
        Panes {
            table: Table::new(&columns.name),
            columns,
            size,
            slide,
            open: BTreeMap::new(),
            taken: Vec::new(),
            scratch: Vec::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.columns.name
    }

    pub fn table(&mut self) -> &mut dyn StateTable {
        &mut self.table
    }

    pub fn process(&mut self, rows: &Batch, scope: &mut Scope<'_>) -> Result<()> {
        scope.out.counters.read += rows.len() as u64;
        let input = self.columns.read(rows.rows())?;
        let mut late = Vec::new();
        for row in 0..rows.len() {
            let stamp = rows.stamp(row).ms();
            if reject_long_key(input.keys.get(row), rows, row, false, scope)? {
                continue;
            }
            let added = match scope.mode {
                Mode::Optimistic => {
                    scope.enter()?;
                    self.add(&input, row, stamp)?
                }
                Mode::Careful => match self.add_carefully(&input, row, stamp, rows, scope)? {
                    Some(added) => added,
                    None => continue,
                },
            };
            match added {
                true => scope.out.counters.processed += 1,
                false => late.push(row as u32),
            }
        }
        give_late(rows, late, scope)
    }

    /// Adds a row to its windows; `false` if all of them had closed before it.
    fn add(&mut self, input: &Input<'_>, row: usize, stamp: i64) -> Result<bool> {
        let time = input.time(row)?;
        let mut start = time - time.rem_euclid(self.slide);
        let mut added = false;
        while start + self.size > time {
            let end = start + self.size;
            if end > stamp {
                let entry = self.entry(input.keys.get(row), start);
                let sums = self.table.value_mut(entry)?;
                if sums.is_none() {
                    self.open.entry(end).or_default().push(entry);
                }
                let sums = sums.get_or_insert_with(|| self.columns.empty());
                self.columns.add(sums, input, row)?;
                added = true;
            }
            start -= self.slide;
        }
        Ok(added)
    }

    /// The table's entry for a key's window.
    fn entry(&mut self, key: &[u8], start: i64) -> EntryId {
        self.scratch.clear();
        self.scratch.extend_from_slice(key);
        self.scratch.extend_from_slice(&start.to_be_bytes());
        self.table.entry(hash(&self.scratch), &self.scratch)
    }

    /// As [`Panes::add`], contained. `None` if the row was set aside.
    fn add_carefully(
        &mut self,
        input: &Input<'_>,
        row: usize,
        stamp: i64,
        rows: &Batch,
        scope: &mut Scope<'_>,
    ) -> Result<Option<bool>> {
        let mut saved = Vec::new();
        if let Ok(time) = input.time(row) {
            let mut start = time - time.rem_euclid(self.slide);
            while start + self.size > time {
                if start + self.size > stamp {
                    let entry = self.entry(input.keys.get(row), start);
                    saved.push((entry, self.table.save(entry)?));
                }
                start -= self.slide;
            }
        }
        let mut added = false;
        let outcome = scope.unit(|_| {
            added = self.add(input, row, stamp)?;
            Ok(())
        })?;
        let Outcome::Failed(failure) = outcome else { return Ok(Some(added)) };
        for (entry, saved) in &saved {
            self.table.put_back(*entry, saved)?;
        }
        let unit =
            Unit { trigger: Trigger::Record, key: input.keys.get(row), origin: rows.origin(row) };
        scope.dead(&unit, failure, row_payload(rows.rows(), row));
        scope.out.counters.dead += 1;
        Ok(None)
    }

    pub fn is_due(&self, watermark: Time) -> bool {
        self.open.first_key_value().is_some_and(|(end, _)| *end <= watermark.ms())
    }

    pub fn advance(&mut self, budget: usize, scope: &mut Scope<'_>) -> Result<Advance> {
        let mut closed = Vec::new();
        let mut state = Advance::Done;
        // Failed firings count, too: each leaves a letter in the turn.
        let fired_max = scope.out.counters.fired.saturating_add(budget as u64);
        while let Some(mut first) = self.open.first_entry() {
            let end = *first.key();
            if end > scope.watermark.ms() {
                break;
            }
            let left = (fired_max - scope.out.counters.fired) as usize;
            if left == 0 {
                state = Advance::More;
                break;
            }
            let entries = first.get_mut();
            let rest = entries.len().saturating_sub(left);
            let now = entries.split_off(rest);
            if entries.is_empty() {
                first.remove();
            }
            // All at once: a failure in the middle must find the others again.
            self.taken.extend(now.iter().map(|entry| (end, *entry)));
            for entry in now {
                self.close(entry, end, &mut closed, scope)?;
            }
        }
        self.columns.give(&closed, scope)?;
        Ok(state)
    }

    fn close(
        &mut self,
        entry: EntryId,
        end: i64,
        closed: &mut Vec<Closed>,
        scope: &mut Scope<'_>,
    ) -> Result<()> {
        if !self.table.is_used(entry) {
            return Ok(());
        }
        let Some((key, start)) = self.table.key(entry).split_last_chunk::<8>() else {
            return Ok(());
        };
        let (key, start): (Box<[u8]>, _) = (key.into(), i64::from_be_bytes(*start));
        if start + self.size != end {
            return Ok(()); // the place was reused for another window
        }
        let Some(sums) = self.table.value_mut(entry)?.take() else { return Ok(()) };
        self.columns.fire(&key, start..end, &sums, closed, scope)
    }

    pub fn undone(&mut self) {
        for (end, entry) in self.taken.drain(..) {
            self.open.entry(end).or_default().push(entry);
        }
    }

    pub fn sealed(&mut self) {
        self.taken.clear();
    }

    pub fn restored(&mut self) {
        let (open, size) = (&mut self.open, self.size);
        self.table.for_each_sealed(|entry, key, _| {
            if let Some(start) = key.last_chunk::<8>() {
                open.entry(i64::from_be_bytes(*start) + size).or_default().push(entry);
            }
        });
    }
}
