//! Faults built in on purpose: each must turn the simulation red, or the simulation proves nothing.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "simulation/flows.rs"]
mod flows;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/run.rs"]
mod run;

use std::panic::catch_unwind;

use millstream_core::mutant::{self, Mutant};

/// Seeds a mutant may survive, at most.
const SEEDS: u64 = 30;

#[test]
fn every_mutant_is_noticed() {
    // One after another in one test: a mutant lives in the whole process.
    for mutant in Mutant::ALL {
        mutant::set(Some(mutant));
        let noticed = (0..SEEDS).find(|seed| catch_unwind(|| run::run(*seed)).is_err());
        mutant::set(None);
        match noticed {
            Some(seed) => println!("{mutant:?} was noticed with seed {seed}"),
            None => panic!("{mutant:?} lived through {SEEDS} seeds"),
        }
    }
}
