//! What loses answers must keep the contract all the same: all of it without faults, with
//! faults what a task relies on.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{
    conformance::{self, Subject},
    disk::SimDisk,
    embedded::{EmbeddedEngine, Opened, Options, Progress},
};

struct Lossy {
    rates: Faults,
    seed: u64,
    disk: SimDisk,
    opened: Opened,
    faulty: Arc<FaultyEngine>,
    /// Of the engines before.
    seen: Arc<Mutex<Faults>>,
}

fn open(disk: &SimDisk, seed: u64, rates: Faults) -> (Opened, Arc<FaultyEngine>) {
    let opened = EmbeddedEngine::open(Options::default(), Arc::new(disk.clone())).unwrap();
    let faulty = Arc::new(FaultyEngine::new(opened.engine.clone(), seed, rates));
    (opened, faulty)
}

impl Lossy {
    fn new(seed: u64, rates: Faults, seen: &Arc<Mutex<Faults>>) -> Lossy {
        let disk = SimDisk::new(seed);
        let (opened, faulty) = open(&disk, seed, rates);
        Lossy { rates, seed, disk, opened, faulty, seen: seen.clone() }
    }

    fn count(&self) {
        let (now, mut all) = (self.faulty.seen(), self.seen.lock().unwrap());
        all.fence += now.fence;
        all.unknown += now.unknown;
        all.retry += now.retry;
        all.delay += now.delay;
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.count();
    }
}

impl Subject for Lossy {
    fn engine(&self) -> Arc<dyn Engine> {
        self.faulty.clone()
    }

    fn settle(&mut self) {
        while self.opened.committer.step() == Progress::Worked {}
    }

    fn restart(&mut self) {
        self.count();
        self.seed += 1;
        (self.opened, self.faulty) = open(&self.disk, self.seed, self.rates);
    }

    fn loses_leases(&self) -> bool {
        self.rates.fence + self.rates.unknown > 0
    }
}

/// Runs the suite with the given rates of faults; what has occurred.
fn conforms(seeds: u64, rates: Faults) -> Faults {
    let seen = Arc::new(Mutex::new(Faults::default()));
    for seed in 0..seeds {
        conformance::run_all(|_| Lossy::new(seed, rates, &seen));
    }
    *seen.lock().unwrap()
}

#[test]
fn conforms_without_faults() {
    assert_eq!(conforms(1, Faults::default()), Faults::default());
}

#[test]
fn conforms_when_answers_are_late_or_ask_for_more() {
    let seen = conforms(10, Faults { retry: 200, delay: 200, ..Faults::default() });
    assert!(seen.retry > 100 && seen.delay > 100, "{seen:?}");
}

#[test]
fn conforms_when_leases_and_answers_get_lost() {
    let seen = conforms(20, Faults { fence: 100, unknown: 100, retry: 100, delay: 100 });
    assert!(seen.fence > 100 && seen.unknown > 100, "{seen:?}");
}
