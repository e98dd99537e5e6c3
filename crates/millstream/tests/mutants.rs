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

/// Of so many seeds, so many must notice a mutant: one alone may be lucky.
const SEEDS: u64 = 30;
const NOTICE: usize = 3;

#[test]
fn every_mutant_is_noticed() {
    // One after another in one test: a mutant lives in the whole process.
    for mutant in Mutant::ALL {
        // Late rows are sorted out in two operators; each must be watched.
        let each =
            if mutant == Mutant::SwallowLate { &[Some(false), Some(true)][..] } else { &[None] };
        for sessions in each {
            let fits = |seed: &u64| sessions.is_none_or(|s| s == run::draws_sessions(*seed));
            is_noticed(mutant, (0..SEEDS).filter(fits));
        }
    }
    // What is lost, or comes twice, between tasks is noticed by the ledger alone too.
    for mutant in [Mutant::DropFrame, Mutant::ApplyTwice] {
        mutant::set(Some(mutant));
        let violations = run::violations(0);
        mutant::set(None);
        assert!(violations.iter().any(|v| v.contains("rows sent")), "{mutant:?}: {violations:?}");
        assert_eq!(run::violations(0), Vec::<String>::new());
    }
}

fn is_noticed(mutant: Mutant, seeds: impl Iterator<Item = u64>) {
    mutant::set(Some(mutant));
    let (mut lived, mut red) = (Vec::new(), Vec::new());
    for seed in seeds {
        match fails(seed) {
            Some(why) => red.push((seed, why)),
            None => lived.push(seed),
        }
        if red.len() == NOTICE {
            break;
        }
    }
    let again = red.first().map(|(seed, _)| fails(*seed));
    mutant::set(None);
    let by: Vec<_> = red.iter().map(|(seed, _)| seed).collect();
    println!("{mutant:?} was noticed with seeds {by:?}, and not with {lived:?}");
    assert_eq!(red.len(), NOTICE, "{mutant:?} lives through {lived:?}");
    assert_eq!(again.flatten().as_ref(), Some(&red[0].1), "{mutant:?}: another run, another end");
    if let Some(why) = fails(red[0].0) {
        panic!("seed {} is red without {mutant:?} too: {why}", red[0].0);
    }
}

/// Why the run fails, if it does.
fn fails(seed: u64) -> Option<String> {
    let panicked = catch_unwind(|| run::run(seed)).err()?;
    let text = panicked.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panicked.downcast_ref::<&str>().map(|s| s.to_string()));
    let text = text.unwrap_or_default();
    // Long lists are compared; their beginning says what about.
    Some(text.chars().take(600).collect())
}
