//! Session windows: per key the sessions that are open, merged when a row closes the gap between
//! two.
//!
//! *Invariant:* the sessions of a key are sorted, and more than the gap apart.

use std::{cmp::Reverse, collections::BinaryHeap};

use millstream_core::{
    Batch, Time,
    key::hash,
    letter::{Trigger, row_payload},
    operator::{Advance, Failure, Mode, Outcome, Scope, Unit},
    table::StateTable,
};
use millstream_runtime::table::{EntryId, Table, Value};

use super::columns::{Closed, Columns, Input, Sums, give_late, read_sums};
use crate::{process::Result, rows::reject_long_key};

#[derive(Clone, Debug)]
struct Session {
    first: i64,
    last: i64,
    sums: Sums,
}

/// The open sessions of one key.
#[derive(Clone, Debug, Default)]
struct Open(Vec<Session>);

impl Value for Open {
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        for session in &self.0 {
            let mut sums = Vec::new();
            session.sums.encode(&mut sums)?;
            out.extend_from_slice(&session.first.to_le_bytes());
            out.extend_from_slice(&session.last.to_le_bytes());
            out.extend_from_slice(&u32::try_from(sums.len())?.to_le_bytes());
            out.extend_from_slice(&sums);
        }
        Ok(())
    }

    fn decode(mut bytes: &[u8]) -> Result<Self> {
        let mut open = Open::default();
        while let Some((head, rest)) = bytes.split_first_chunk::<20>() {
            let (first, head) = head.split_at(8);
            let (last, len) = head.split_at(8);
            let len = u32::from_le_bytes(len.try_into()?) as usize;
            let (mut sums, rest) =
                rest.split_at_checked(len).ok_or_else(|| Failure::new("a session is cut off"))?;
            bytes = rest;
            open.0.push(Session {
                first: i64::from_le_bytes(first.try_into()?),
                last: i64::from_le_bytes(last.try_into()?),
                sums: read_sums(&mut sums)?,
            });
        }
        Ok(open)
    }
}

/// The operator for session windows.
pub(crate) struct Sessions {
    columns: Columns,
    gap: i64,
    table: Table<Open>,
    /// When sessions may close: for each key an entry no later than the end of its first one.
    due: BinaryHeap<Reverse<(i64, EntryId)>>,
    taken: Vec<(i64, EntryId)>,
}

impl Sessions {
    pub fn new(columns: Columns, gap: i64) -> Sessions {
        let table = Table::new(&columns.name);
        Sessions { table, columns, gap, due: BinaryHeap::new(), taken: Vec::new() }
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
            if reject_long_key(input.keys.get(row), rows, row, false, scope)? {
                continue;
            }
            let stamp = rows.stamp(row).ms();
            if input.time(row).is_ok_and(|t| t.saturating_add(self.gap) <= stamp) {
                late.push(row as u32);
                continue;
            }
            let key = input.keys.get(row);
            let entry = self.table.entry(hash(key), key);
            let watermark = scope.watermark_at(rows.stamp(row)).ms();
            if scope.mode == Mode::Optimistic {
                scope.enter()?;
                self.add(entry, &input, row, watermark)?;
                scope.out.counters.processed += 1;
                continue;
            }
            let saved = self.table.save(entry)?;
            match scope.unit(|_| self.add(entry, &input, row, watermark))? {
                Outcome::Done => scope.out.counters.processed += 1,
                Outcome::Failed(failure) => {
                    self.table.put_back(entry, &saved)?;
                    let unit = Unit { trigger: Trigger::Record, key, origin: rows.origin(row) };
                    scope.dead(&unit, failure, row_payload(rows.rows(), row));
                    scope.out.counters.dead += 1;
                }
            }
        }
        give_late(rows, late, scope)
    }

    fn add(&mut self, entry: EntryId, input: &Input<'_>, row: usize, watermark: i64) -> Result<()> {
        let time = input.time(row)?;
        let mut sums = self.columns.empty();
        self.columns.add(&mut sums, input, row)?;
        let mut session = Session { first: time, last: time, sums };
        let open = self.table.value_mut(entry)?.get_or_insert_default();
        // A session that the watermark has passed is closed, though it may not have fired yet.
        let gone = |end: i64| end < time || end <= watermark;
        let before = open.0.partition_point(|s| gone(s.last.saturating_add(self.gap)));
        let joined = open.0[before..]
            .iter()
            .take_while(|s| s.first <= time.saturating_add(self.gap))
            .count();
        for other in open.0.drain(before..before + joined) {
            session.first = session.first.min(other.first);
            session.last = session.last.max(other.last);
            let mut merged = other.sums;
            self.columns.merge(&mut merged, &session.sums)?;
            session.sums = merged;
        }
        if joined == 0 {
            // One that grows keeps the entry it has: that one is put off when it comes up.
            self.due.push(Reverse((session.last.saturating_add(self.gap), entry)));
        }
        open.0.insert(before, session);
        Ok(())
    }

    pub fn is_due(&self, watermark: Time) -> bool {
        self.due.peek().is_some_and(|Reverse((due, _))| *due <= watermark.ms())
    }

    pub fn advance(&mut self, budget: usize, scope: &mut Scope<'_>) -> Result<Advance> {
        let mut closed = Vec::new();
        let mut state = Advance::Done;
        let watermark = scope.watermark.ms();
        // Failed firings count, too: each leaves a letter in the turn.
        let fired_max = scope.out.counters.fired.saturating_add(budget as u64);
        while let Some(&Reverse((due, entry))) = self.due.peek() {
            if due > watermark {
                break;
            }
            let left = (fired_max - scope.out.counters.fired) as usize;
            if left == 0 {
                state = Advance::More;
                break;
            }
            self.due.pop();
            if self.taken.last() == Some(&(due, entry)) {
                continue; // of two that grew together, or set twice since a turn was undone
            }
            self.taken.push((due, entry));
            if self.table.is_used(entry) {
                self.close(entry, watermark, left, &mut closed, scope)?;
            }
        }
        self.columns.give(&closed, scope)?;
        Ok(state)
    }

    /// Closes the key's sessions that have ended, at most `left`, and puts the key off until the
    /// first of the others ends.
    fn close(
        &mut self,
        entry: EntryId,
        watermark: i64,
        left: usize,
        closed: &mut Vec<Closed>,
        scope: &mut Scope<'_>,
    ) -> Result<()> {
        let key: Box<[u8]> = self.table.key(entry).into();
        let value = self.table.value_mut(entry)?;
        let Some(mut open) = value.take() else { return Ok(()) };
        let ended = open.0.partition_point(|s| s.last.saturating_add(self.gap) <= watermark);
        let ended: Vec<Session> = open.0.drain(..ended.min(left)).collect();
        if let Some(first) = open.0.first() {
            self.due.push(Reverse((first.last.saturating_add(self.gap), entry)));
            *value = Some(open);
        }
        for session in ended {
            let end = session.last.saturating_add(self.gap);
            self.columns.fire(&key, session.first..end, &session.sums, closed, scope)?;
        }
        Ok(())
    }

    pub fn undone(&mut self) {
        self.due.extend(self.taken.drain(..).map(Reverse));
    }

    pub fn sealed(&mut self) {
        self.taken.clear();
    }

    pub fn restored(&mut self) {
        let (due, gap) = (&mut self.due, self.gap);
        self.table.for_each_sealed(|entry, _, value| {
            let sessions = Open::decode(value).unwrap_or_default();
            due.extend(sessions.0.first().map(|s| Reverse((s.last.saturating_add(gap), entry))));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Aggregate, Window,
        drive::turn,
        window::{
            WindowOperator,
            tests::{batch, operator},
        },
    };

    const GAP: i64 = 10;

    fn sessions() -> WindowOperator {
        let window = Window::session("ts", Duration::from_millis(GAP as u64));
        operator(&window, Aggregate::count("n"))
    }

    fn entries(operator: &WindowOperator) -> usize {
        match operator {
            WindowOperator::Sessions(sessions) => sessions.due.len(),
            WindowOperator::Panes(_) => unreachable!("they are sessions"),
        }
    }

    #[test]
    fn a_session_that_grows_has_one_entry_in_the_heap_and_closes_once() {
        let mut operator = sessions();
        for n in 0..100 {
            let rows = batch((n * 1_000..(n + 1) * 1_000).map(|time| ("k".to_string(), time)));
            // The watermark follows behind, as from a source with some lateness.
            let watermark = Time::from_ms(n * 1_000 - 5_000);
            let (out, _) = turn(&mut operator, Some(&rows), watermark, 64);
            assert_eq!((out.counters.fired, entries(&operator)), (0, 1), "{n}");
        }
        let (out, state) = turn(&mut operator, None, Time::from_ms(99_999 + GAP), 64);
        assert_eq!((out.counters.fired, state, entries(&operator)), (1, Advance::Done, 0));
    }

    #[test]
    fn sessions_that_grow_together_and_those_behind_them_close_once() {
        let mut operator = sessions();
        // Sessions at 0, 20, .. 1,980; the rows between them join them in tens.
        let apart = (0..100).map(|n| n * 2 * GAP);
        let joining = apart.clone().filter(|time| time % 200 != 180).map(|time| time + GAP);
        let rows = batch(apart.chain(joining).map(|time| ("k".to_string(), time)));
        turn(&mut operator, Some(&rows), Time::MIN, 64);
        let mut fired = Vec::new();
        for watermark in [0, 180, 190, 191, 1_000, 1_980 + GAP] {
            let (out, _) = turn(&mut operator, None, Time::from_ms(watermark), 64);
            fired.push(out.counters.fired);
        }
        assert_eq!(fired, [0, 0, 1, 0, 4, 5]);
        assert_eq!(entries(&operator), 0);
    }
}
