//! Stops a flow that turns its input into dead letters.
//!
//! *Why it exists:* dead letters escalate nothing, so a wrong schema or a broken handler would set
//! a whole stream aside, row by row. When most rows are bad, the rows are not the problem.

use std::{collections::VecDeque, time::Duration};

use millstream_core::Time;

use super::{Backoff, backoff::Failures};

/// When a breaker opens and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Records within `period` below which nothing is judged; default 1,000.
    pub records_min: u64,
    /// How far back records count, in steps of a tenth; default 10 s.
    pub period: Duration,
    /// Records by which a half-open breaker is judged; default 100.
    pub probe: u64,
    /// How long it stays open; default 10 s, doubled while it does not help, up to 5 min.
    pub backoff: Backoff,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            records_min: 1000,
            period: Duration::from_secs(10),
            probe: 100,
            backoff: Backoff {
                first: Duration::from_secs(10),
                max: Duration::from_secs(300),
                reset_after: Duration::from_secs(300),
            },
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All is well.
    Closed,
    /// The flow's sources are to be paused.
    Open {
        /// Until then, or until somebody says resume.
        until: Time,
    },
    /// The sources run; the next records decide.
    HalfOpen,
}

const BUCKETS: usize = 10;

/// One stage's breaker.
///
/// Over half of at least `records_min` records bad within `period`: [`State::Open`]. After the
/// back-off [`State::HalfOpen`]: if over half of the next `probe` records are bad it opens again,
/// for twice as long, else it closes. What a stage works off while open is not judged.
///
/// *Limits:* ten buckets, so a record counts for between nine and ten tenths of the period.
/// *Cost:* O(1) per call.
#[derive(Clone, Debug)]
pub struct Breaker {
    options: Options,
    state: State,
    openings: Failures,
    /// Good and bad by tenth of the period, oldest first; only tenths in which something happened.
    buckets: VecDeque<(i64, u64, u64)>,
    good: u64,
    bad: u64,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(options: Options) -> Breaker {
        Breaker {
            options,
            state: State::Closed,
            openings: Failures::default(),
            buckets: VecDeque::new(),
            good: 0,
            bad: 0,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// When to call [`Breaker::tick`] at the latest.
    pub fn next_wake(&self) -> Option<Time> {
        match self.state {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    /// Counts records; the new state if it changes.
    pub fn record(&mut self, good: u64, bad: u64, now: Time) -> Option<State> {
        if let Some(state) = self.tick(now) {
            // This turn was worked off while open.
            return Some(state);
        }
        if matches!(self.state, State::Open { .. }) {
            return None;
        }
        self.count(good, bad, now);
        let seen = self.good + self.bad;
        let mostly_bad = self.bad > self.good;
        match self.state {
            State::Closed if seen >= self.options.records_min && mostly_bad => self.open(now),
            State::HalfOpen if seen >= self.options.probe && mostly_bad => self.open(now),
            State::HalfOpen if seen >= self.options.probe => self.enter(State::Closed),
            _ => None,
        }
    }

    /// Lets time pass; the new state if it changes.
    pub fn tick(&mut self, now: Time) -> Option<State> {
        match self.state {
            State::Open { until } if until <= now => self.enter(State::HalfOpen),
            _ => None,
        }
    }

    /// Closes it because a person says so; the new state if it changes.
    pub fn resume(&mut self) -> Option<State> {
        if self.state == State::Closed {
            return None;
        }
        self.openings = Failures::default();
        self.enter(State::Closed)
    }

    fn count(&mut self, good: u64, bad: u64, now: Time) {
        let tenth = i64::try_from(self.options.period.as_millis() / BUCKETS as u128);
        let bucket = now.ms().div_euclid(tenth.unwrap_or(i64::MAX).max(1));
        match self.buckets.back_mut() {
            // A clock that goes back counts into the latest bucket.
            Some((last, g, b)) if *last >= bucket => {
                *g += good;
                *b += bad;
            }
            _ => self.buckets.push_back((bucket, good, bad)),
        }
        self.good += good;
        self.bad += bad;
        // A half-open breaker waits for its probe however long that takes.
        let oldest = bucket.saturating_sub(BUCKETS as i64 - 1);
        while self.state == State::Closed && self.buckets.front().is_some_and(|b| b.0 < oldest) {
            if let Some((_, good, bad)) = self.buckets.pop_front() {
                self.good -= good;
                self.bad -= bad;
            }
        }
    }

    fn open(&mut self, now: Time) -> Option<State> {
        let until = self.openings.next(now, &self.options.backoff, false);
        self.enter(State::Open { until })
    }

    fn enter(&mut self, state: State) -> Option<State> {
        self.buckets.clear();
        (self.good, self.bad) = (0, 0);
        self.state = state;
        Some(state)
    }
}
