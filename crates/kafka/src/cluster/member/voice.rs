//! What a node says of itself: heartbeats, changes, and all of it again from time to time.
//!
//! *Invariant:* a heartbeat is sent only when the last one has come back or is known to be lost.
//!
//! *Limits:* a record has at most [`ENTRIES_MAX`] tasks; what is left goes into the next.

use std::collections::{BTreeMap, BTreeSet};

use millstream_core::Time;

use crate::cluster::{
    Options, TaskKey,
    record::{Beat, Body, ENTRIES_MAX, Entry, Record, State, Whole},
};

/// Heartbeats between two that say how far standbys lag.
const LATER_BEATS: u32 = 10;

/// Who speaks.
pub(super) struct Speaker<'a> {
    pub name: &'a str,
    pub address: &'a str,
    pub incarnation: u64,
    pub state: State,
}

pub(super) struct Voice {
    /// Of the last record.
    pub seq: u64,
    /// The heartbeat that has not come back.
    pub in_flight: Option<u64>,
    /// When the next one is due.
    pub due: Time,
    /// All there is to say.
    says: BTreeMap<TaskKey, Entry>,
    /// What others have not been told.
    news: BTreeSet<TaskKey>,
    /// What they need not be told at once.
    later: BTreeSet<TaskKey>,
    later_at: Time,
    /// When all is said again.
    refresh_at: Time,
    /// The first key of what is still to be said again.
    again: Option<u64>,
    /// Whether the news cannot wait for the next heartbeat.
    urgent: bool,
}

impl Voice {
    pub fn new() -> Voice {
        Voice {
            seq: 0,
            in_flight: None,
            due: Time::MIN,
            says: BTreeMap::new(),
            news: BTreeSet::new(),
            later: BTreeSet::new(),
            later_at: Time::MIN,
            refresh_at: Time::MIN,
            again: None,
            urgent: false,
        }
    }

    /// Says this of a task from now on.
    pub fn say(&mut self, task: TaskKey, entry: Option<Entry>, urgent: bool) {
        let before = match entry {
            Some(entry) => self.says.insert(task, entry),
            None => self.says.remove(&task),
        };
        if before != entry {
            self.news.insert(task);
            self.urgent |= urgent;
        }
    }

    /// Says within about a second how far a standby lags.
    pub fn say_later(&mut self, task: TaskKey, entry: Entry) {
        if self.says.insert(task, entry) != Some(entry) {
            self.later.insert(task);
        }
    }

    /// Says all again: something may have been lost.
    pub fn repeat(&mut self) {
        self.again = Some(0);
    }

    /// Says at once what is new, or that the state is.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// The next record, if one is to be written now; the caller asks until there is none.
    pub fn next(&mut self, options: &Options, speaker: &Speaker<'_>, now: Time) -> Option<Vec<u8>> {
        let beats = self.in_flight.is_none() && now >= self.due;
        if !beats && !self.urgent {
            return None;
        }
        self.seq += 1;
        let mut again = None;
        if beats {
            self.due = now + options.every;
            self.in_flight = Some(self.seq);
            if now >= self.refresh_at {
                self.refresh_at = now + options.refresh;
                self.again = Some(0);
            }
            if now >= self.later_at {
                self.later_at = now + options.every * LATER_BEATS;
                self.news.append(&mut self.later);
            }
            again = self.again;
        }
        let (whole, tasks) = match again {
            Some(from) => {
                let (to, tasks) = self.repetition(TaskKey(from));
                let address = speaker.address;
                (Some(Whole { from: TaskKey(from), to, address }), tasks)
            }
            None => (None, self.changes()),
        };
        self.urgent &= !self.news.is_empty();
        let beat = Beat { seq: self.seq, state: speaker.state, whole, tasks };
        let body = Body::Beat(beat);
        Some(Record { node: speaker.name, incarnation: speaker.incarnation, body }.encode())
    }

    fn repetition(&mut self, from: TaskKey) -> (TaskKey, Vec<(TaskKey, Option<Entry>)>) {
        let rest = self.says.range(from..).map(|(task, entry)| (*task, Some(*entry)));
        let tasks: Vec<_> = rest.take(ENTRIES_MAX).collect();
        let to = match tasks.last() {
            Some((last, _)) if tasks.len() == ENTRIES_MAX => *last,
            _ => TaskKey(u64::MAX),
        };
        self.news.retain(|task| !(from..=to).contains(task));
        self.later.retain(|task| !(from..=to).contains(task));
        self.again = to.0.checked_add(1);
        (to, tasks)
    }

    fn changes(&mut self) -> Vec<(TaskKey, Option<Entry>)> {
        let first: Vec<TaskKey> = self.news.iter().copied().take(ENTRIES_MAX).collect();
        first
            .into_iter()
            .map(|task| {
                self.news.remove(&task);
                (task, self.says.get(&task).copied())
            })
            .collect()
    }
}
