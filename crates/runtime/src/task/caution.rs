//! How a task goes on that was opened more than once and has done nothing since: something in what
//! it reads next ends the process (a stack overflow, an abort, all memory taken).
//!
//! *How it is found:* the first turns after an opening are small, and each is durable before the
//! next is tried. So whatever ended the process twice is among the 1,024 events behind the
//! task's position. These are announced before they are tried: in blocks of 128, and those of
//! the block that ends the process once more, one by one. One that was announced alone as often as
//! [`crate::stage::Limits::attempts_max`] allows is set aside unexecuted. That takes six deaths, of
//! which the first two happen unannounced; seven if it came later than these events. (With one
//! attempt less, deaths for other reasons would now and then blame an innocent event.)
//!
//! *Why blocks:* which task of a node was to blame is not known at first. One that was not has
//! passed them after eight announcements; they are one task's at a time, so there are few.
//!
//! *Invariant:* a task has the [`Floor`] from its announcement until its turn is durable, and
//! shares it in its first turn after an opening. So a death while something is announced has one
//! suspect, unless a task dies of what it meets later; and what another task has done is not lost
//! with it.

use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::turn::Progress;

use super::pace::FIRST;
use crate::queue::SlotId;

/// Turns after an opening that stay small: as many as it takes to pass all that the two largest
/// turns may have held, which the death before has cut off.
pub const SMALL_TURNS: u32 = 128;
/// Events that are announced together.
const BLOCK: usize = 128;

/// How careful a task is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Caution {
    /// Events among which the cause may be.
    pub left: usize,
    /// Events in a turn, at most.
    pub step: usize,
}

impl Caution {
    /// What the openings without a result say, and what the task has said of its suspicion.
    pub fn of(opens: u32, progress: &Progress, rows_max: usize) -> Option<Caution> {
        let left = match (progress.announced, progress.suspected) {
            (0, 0) if opens > 1 => FIRST.min(rows_max),
            (0, 0) => return None,
            (0 | 1, suspected) => suspected.max(1) as usize,
            (block, _) => block as usize,
        };
        let step = if left > BLOCK { BLOCK } else { 1 };
        Some(Caution { left, step })
    }

    /// A turn went well. Few rows count as a step: nothing keeps a task careful for long.
    pub fn after(self, rows: usize) -> Option<Caution> {
        let left = self.left.saturating_sub(rows.max(self.step));
        (left > 0).then_some(Caution { left, ..self })
    }
}

/// Which call of an event to leave out in the `n`-th try beyond the last: 1, then 1, 2, then 1, 2,
/// 3, and so on. An event may be several calls, since its key's timers come before it, and a try
/// may end for another reason; so each call has its turn again and again.
pub fn suspect(n: u32) -> u32 {
    let (mut left, mut round) = (n, 1);
    while left > round {
        left -= round;
        round += 1;
    }
    left
}

/// The right to try what may end the process; a node has one. A task has it alone, or together with
/// others that announce nothing.
#[derive(Debug, Default)]
pub struct Floor(Mutex<Holders>);

#[derive(Debug, Default)]
struct Holders {
    now: Vec<Holder>,
    /// How often it was given away: tells a hold from those before it.
    given: u64,
    /// Who had it alone last, and whether somebody was refused meanwhile.
    last: Option<SlotId>,
    refused: bool,
}

#[derive(Debug)]
struct Holder {
    slot: SlotId,
    given: u64,
    alone: bool,
}

/// The floor, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    floor: Arc<Floor>,
    given: u64,
}

impl Floor {
    /// Takes the floor for the task in `slot`, if no other is in the way. Who had it alone last
    /// comes after those that have waited for it; ask again.
    pub fn take(self: &Arc<Self>, slot: SlotId, alone: bool) -> Option<Hold> {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holders.now.iter().any(|h| h.slot != slot && (alone || h.alone)) {
            holders.refused = true;
            return None;
        }
        if std::mem::take(&mut holders.refused) && holders.last == Some(slot) {
            return None;
        }
        holders.last = alone.then_some(slot);
        holders.given += 1;
        let given = holders.given;
        holders.now.push(Holder { slot, given, alone });
        Some(Hold { floor: self.clone(), given })
    }

    /// Takes the floor from the task in `slot`, if it has it: its thread was given up and gives
    /// nothing back.
    pub fn free(&self, slot: SlotId) {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holders.now.retain(|h| h.slot != slot);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holders = self.floor.0.lock().unwrap_or_else(PoisonError::into_inner);
        holders.now.retain(|h| h.given != self.given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS_MAX: usize = 65_536;

    fn announced(events: u32) -> Progress {
        Progress { announced: events, ..Progress::default() }
    }

    /// Turns until a task is careful no more, each of so many rows.
    fn turns(mut caution: Option<Caution>, rows: usize) -> usize {
        let mut turns = 0;
        while let Some(careful) = caution {
            caution = careful.after(rows);
            turns += 1;
        }
        turns
    }

    #[test]
    fn a_block_leads_to_its_events_and_quiet_turns_end_it() {
        assert_eq!(Caution::of(1, &announced(0), ROWS_MAX), None);
        let block = Caution::of(2, &announced(0), ROWS_MAX);
        assert_eq!(block.unwrap().step, 128);
        assert_eq!(turns(block, 128), 8);
        assert_eq!(turns(block, 1), 8, "few rows count as a step");
        let alone = Caution::of(1, &announced(128), ROWS_MAX);
        assert_eq!(alone.unwrap().step, 1);
        assert_eq!(turns(alone, 1), 128);
        assert_eq!(turns(Caution::of(2, &announced(0), 7), 1), 7, "no more than a turn holds");
    }

    #[test]
    fn whoever_goes_on_suspects_what_is_left() {
        let of = |announced, suspected| {
            let progress = Progress { announced, suspected, ..Progress::default() };
            Caution::of(1, &progress, ROWS_MAX).map(|caution| (caution.left, caution.step))
        };
        assert_eq!(of(0, 896), Some((896, 128)), "handed over between two blocks");
        assert_eq!(of(128, 896), Some((128, 1)));
        assert_eq!(of(0, 17), Some((17, 1)), "between two events");
        assert_eq!(of(1, 17), Some((17, 1)), "also if the one announced was not to blame");
    }

    #[test]
    fn every_call_of_an_event_is_left_out_again_and_again() {
        let tries: Vec<u32> = (1..=10).map(suspect).collect();
        assert_eq!(tries, [1, 1, 2, 1, 2, 3, 1, 2, 3, 4]);
    }

    #[test]
    fn one_task_at_a_time_has_the_floor_and_a_lost_hold_has_no_say() {
        let floor = Arc::new(Floor::default());
        let lost = floor.take(1, true).unwrap();
        assert!(floor.take(2, true).is_none());
        floor.free(2);
        assert!(floor.take(2, true).is_none(), "it is another's");
        floor.free(1);
        let again = floor.take(2, true).unwrap();
        drop(lost);
        assert!(floor.take(1, true).is_none(), "the thread that was given up has no say");
        drop(again);
        assert!(floor.take(1, true).is_some());
    }

    #[test]
    fn those_that_announce_nothing_share_the_floor_and_nobody_is_passed_over() {
        let floor = Arc::new(Floor::default());
        let first = [floor.take(1, false).unwrap(), floor.take(2, false).unwrap()];
        assert!(floor.take(3, true).is_none());
        drop(first);
        let alone = floor.take(3, true).unwrap();
        assert!(floor.take(1, false).is_none());
        drop(alone);
        assert!(floor.take(3, true).is_none(), "another has waited");
        drop(floor.take(1, false).unwrap());
        assert!(floor.take(3, true).is_some());
        assert!(floor.take(3, true).is_some(), "and one that is alone need not wait");
    }
}
