//! How much a task takes into a turn, so that a turn of slow handlers does not take minutes.
//!
//! *How:* a task begins with small turns. One that was full makes the next one as much larger as
//! fits into half of [`Limits::time_max`], at most [`GROWTH`] times; one that took longer than all
//! of it makes the next one smaller, in proportion. The time is measured by whoever runs the task,
//! and handed in.
//!
//! *Invariant:* results do not depend on where turns end, so neither do they on the time.
//!
//! *Limits:* a turn cannot be cut while it runs. The first one with slow handlers takes as long as
//! it takes, at most [`FIRST`] calls if they were slow from the beginning.

use std::time::Duration;

use crate::stage::Limits;

/// Rows, and firings, of a task's first turn.
pub const FIRST: usize = 1_024;
/// By how much a turn may be larger than the one before: what is in it may be of another kind.
const GROWTH: u128 = 8;

/// Bounds the turns of one task.
#[derive(Debug)]
pub struct Pace {
    /// Rows, or firings, that a turn may have.
    units: usize,
    /// A turn of which is not known yet how long it took: its rows, and whether it has fired all it
    /// might.
    turn: Option<(usize, bool)>,
}

impl Pace {
    /// Before the first turn.
    pub fn new() -> Pace {
        Pace { units: FIRST, turn: None }
    }

    /// The bounds of the next turn.
    pub fn bound(&self, limits: &Limits) -> Limits {
        limits.at_most(self.units)
    }

    /// A turn takes in `rows`, and fires all it may if there is `more` to fire.
    pub fn turn(&mut self, rows: usize, more: bool) {
        self.turn = Some((rows, more));
    }

    /// What was done last, a turn or not, has taken this long.
    pub fn took(&mut self, used: Duration, limits: &Limits) {
        let Some((rows, more)) = self.turn.take() else { return };
        let bound = self.bound(limits);
        let full = rows >= bound.rows_max || more;
        if used > limits.time_max {
            // Without rows it was firings, as many as it may have been.
            let units = if rows == 0 || more { self.units.max(rows) } else { rows };
            let share = units as u128 * limits.time_max.as_nanos() / used.as_nanos();
            self.units = usize::try_from(share).unwrap_or(usize::MAX).max(1);
        } else if full {
            let room = limits.time_max.as_nanos() / (2 * used.as_nanos()).max(1);
            let most = limits.rows_max.max(limits.firings_max).max(1);
            self.units = self.units.saturating_mul(room.clamp(1, GROWTH) as usize).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        rows_max: 65_536,
        bytes_max: 1,
        firings_max: 16_384,
        time_max: Duration::from_millis(250),
        gather: Duration::ZERO,
        watermark_every: Duration::ZERO,
        attempts_max: 3,
    };

    /// Runs full turns whose rows take this long each.
    fn run(pace: &mut Pace, turns: usize, each: Duration) -> usize {
        for _ in 0..turns {
            let rows = pace.bound(&LIMITS).rows_max;
            pace.turn(rows, false);
            pace.took(each * rows as u32, &LIMITS);
        }
        pace.bound(&LIMITS).rows_max
    }

    #[test]
    fn turns_grow_while_they_are_fast_and_shrink_when_they_are_slow() {
        let mut pace = Pace::new();
        assert_eq!(run(&mut pace, 1, Duration::from_millis(1)), 250);
        assert_eq!(run(&mut pace, 9, Duration::from_millis(1)), 250, "and stay there");
        assert_eq!(run(&mut pace, 20, Duration::from_micros(1)), 65_536);
        assert_eq!(pace.bound(&LIMITS).firings_max, 16_384);
        assert_eq!(run(&mut pace, 2, Duration::from_secs(1)), 1, "one call is the least");
        assert_eq!(run(&mut pace, 16, Duration::from_micros(1)), 65_536);
    }

    #[test]
    fn turns_that_are_not_full_say_nothing_of_larger_ones() {
        let mut pace = Pace::new();
        pace.turn(1_023, false);
        pace.took(Duration::ZERO, &LIMITS);
        assert_eq!(pace.bound(&LIMITS).rows_max, FIRST);
        pace.turn(0, true);
        pace.took(Duration::ZERO, &LIMITS);
        assert_eq!(pace.bound(&LIMITS).firings_max, 8 * FIRST, "all firings were used");
        pace.turn(0, false);
        pace.took(Duration::from_millis(500), &LIMITS);
        assert_eq!(pace.bound(&LIMITS).firings_max, 4 * FIRST);
        pace.took(Duration::from_millis(500), &LIMITS);
        assert_eq!(pace.bound(&LIMITS).firings_max, 4 * FIRST, "a step without a turn");
    }

    #[test]
    fn what_is_bounded_by_rows_alone_stays_so() {
        let mut pace = Pace::new();
        let few = Limits { rows_max: 7, firings_max: 7, ..LIMITS };
        pace.turn(7, false);
        pace.took(Duration::ZERO, &few);
        assert_eq!(pace.bound(&few), few);
    }
}
