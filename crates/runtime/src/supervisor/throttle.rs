//! Keeps a failing stage from flooding the stream that says so.

use std::{collections::BTreeMap, time::Duration};

use millstream_core::Time;

use super::Report;

/// Lets one entry a second through per (flow, stage, error code); merges the others by what was
/// decided and carries their count, so that no count is ever lost.
///
/// Where several kinds of decision wait, the gravest goes first and the others follow, one a
/// second. Errors without a code share the empty code.
///
/// *Limits:* per (flow, stage, code) at most one waiting entry for each [`super::What`]; forgotten
/// at the first tick after a quiet second.
#[derive(Clone, Debug)]
pub struct Throttle {
    every: Duration,
    entries: BTreeMap<(String, String, String), Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    next: Time,
    waiting: BTreeMap<super::What, Report>,
}

impl Default for Throttle {
    /// One a second.
    fn default() -> Throttle {
        Throttle::new(Duration::from_secs(1))
    }
}

impl Throttle {
    /// One per `every`.
    pub fn new(every: Duration) -> Throttle {
        Throttle { every, entries: BTreeMap::new() }
    }

    /// Hands in an entry; gives it back if it may pass now.
    pub fn offer(&mut self, report: Report, now: Time) -> Option<Report> {
        let key = (report.flow.clone(), report.stage.clone(), report.code.clone());
        let next = now + self.every;
        let Some(entry) = self.entries.get_mut(&key) else {
            self.entries.insert(key, Entry { next, waiting: BTreeMap::new() });
            return Some(report);
        };
        match entry.waiting.get_mut(&report.what) {
            Some(waiting) => merge(waiting, report),
            None => {
                entry.waiting.insert(report.what, report);
            }
        }
        entry.take(now, self.every)
    }

    /// When to call [`Throttle::tick`] at the latest.
    pub fn next_wake(&self) -> Option<Time> {
        self.entries.values().filter(|e| !e.waiting.is_empty()).map(|e| e.next).min()
    }

    /// What may pass now that time has passed.
    pub fn tick(&mut self, now: Time) -> Vec<Report> {
        let every = self.every;
        self.entries.retain(|_, e| !e.waiting.is_empty() || now < e.next);
        self.entries.values_mut().filter_map(|e| e.take(now, every)).collect()
    }

    /// All that waits, whatever the time: the node stops.
    pub fn drain(&mut self) -> Vec<Report> {
        let entries = std::mem::take(&mut self.entries);
        entries.into_values().flat_map(|e| e.waiting.into_values().rev()).collect()
    }
}

impl Entry {
    fn take(&mut self, now: Time, every: Duration) -> Option<Report> {
        if now < self.next {
            return None;
        }
        let (_, report) = self.waiting.pop_last()?;
        self.next = now + every;
        Some(report)
    }
}

fn merge(into: &mut Report, other: Report) {
    let count = into.count.saturating_add(other.count);
    let task = into.task.filter(|t| other.task == Some(*t));
    *into = Report { count, task, ..other };
}
