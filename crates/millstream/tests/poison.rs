//! Poison in every place where a user's code runs, drawn three ways, with turns of three sizes.
//! Healthy keys are exact each time, the letters name the poisoned places and no others, and the
//! ledger balances.
//!
//! The expectations are plain loops over the rows; they know no turns and no operators.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "poison/processes.rs"]
mod processes;
#[path = "poison/windows.rs"]
mod windows;

use millstream::test::TestNode;

const ROWS: usize = 1_200;
const KEYS: usize = 13;

/// Which rows are bad.
#[derive(Clone, Copy, Debug)]
enum Spread {
    OnePercent,
    Burst,
    AllOfOneKey,
}

/// One row before it is given a meaning.
#[derive(Clone, Debug)]
struct Plain {
    /// Counted from 1, as places are.
    line: u64,
    key: String,
    n: i64,
    bad: bool,
}

fn rows(spread: Spread) -> Vec<Plain> {
    let row = |i: usize| {
        let key = (i * i + i / 7) % KEYS;
        let bad = match spread {
            Spread::OnePercent => i % 100 == 37,
            Spread::Burst => (400..900).contains(&i),
            Spread::AllOfOneKey => key == 3,
        };
        Plain { line: i as u64 + 1, key: format!("k{key}"), n: 1 + (i as i64 * 37) % 101, bad }
    };
    (0..ROWS).map(row).collect()
}

/// Every spread with every size of a turn, each with a seed of its own.
fn in_any_way(mut check: impl FnMut(&[Plain], &str, &dyn Fn(TestNode) -> TestNode)) {
    let mut seed = 0;
    for spread in [Spread::OnePercent, Spread::Burst, Spread::AllOfOneKey] {
        for turn_rows in [1, 7, 100_000] {
            seed += 1;
            let at = format!("{spread:?}, turns of {turn_rows}, seed {seed}");
            check(&rows(spread), &at, &|node| node.seed(seed).turn_rows(turn_rows));
        }
    }
}
