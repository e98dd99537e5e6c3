//! Finds the processes that only fail.

use std::{collections::HashMap, mem};

/// What a failure amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So many in a row, this one included.
    Failing(u32),
    /// Park the process. Its count is gone: after a resume it starts at one.
    Park,
}

/// Failures in a row by key; a success clears a key's.
///
/// Parking is for the process alone: it never escalates and counts toward no intensity.
///
/// *Limits:* only keys that are failing are held, in two generations of at most `keys_max` / 2.
/// When the young one is full, the old one is forgotten. So a key keeps its count for at least
/// `keys_max` / 2 failures of other keys; one that fails more rarely than that starts at one and
/// may never be parked (its failures are dead letters all the same).
/// *Cost:* O(1); a success while nothing is failing is one comparison.
#[derive(Clone, Debug)]
pub struct Streaks {
    failures_max: u32,
    generation_max: usize,
    young: HashMap<Box<[u8]>, u32>,
    old: HashMap<Box<[u8]>, u32>,
}

impl Default for Streaks {
    /// Parks after 100 failures in a row; holds up to 65,536 keys.
    fn default() -> Streaks {
        Streaks::new(100, 65_536)
    }
}

impl Streaks {
    /// Parks after `failures_max` failures in a row; holds up to `keys_max` keys, at least two.
    pub fn new(failures_max: u32, keys_max: usize) -> Streaks {
        Streaks {
            failures_max,
            generation_max: (keys_max / 2).max(1),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// How many keys are held.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether nothing is failing.
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// The process of this key has handled something.
    pub fn succeeded(&mut self, key: &[u8]) {
        if !self.is_empty() {
            self.young.remove(key);
            self.old.remove(key);
        }
    }

    /// The process of this key has failed.
    pub fn failed(&mut self, key: &[u8]) -> Verdict {
        let known = self.young.remove(key).or_else(|| self.old.remove(key));
        let count = known.unwrap_or(0).saturating_add(1);
        if count >= self.failures_max {
            return Verdict::Park;
        }
        if self.young.len() >= self.generation_max {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key.into(), count);
        Verdict::Failing(count)
    }
}
