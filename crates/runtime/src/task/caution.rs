//! How a task goes on that was opened more than once without a commit: something in what it reads
//! next ends the process (a stack overflow, an abort, all memory taken).
//!
//! Each turn is announced durably before it is tried, and each death in it makes the next
//! announcement smaller, until one event is left. An event that was announced alone as often as
//! [`crate::stage::Limits::attempts_max`] allows is set aside unexecuted.
//!
//! *Invariant:* one task of a node at a time tries an event alone, from its announcement until its
//! turn is durable; so a death has one suspect, and what another task has done is not lost with it.

use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::turn::Progress;

use crate::queue::SlotId;

/// How much smaller an announcement is than the one before: four deaths lead from the largest turn
/// to one event, and sixteen turns past it if no event was to blame.
const DIVISOR: usize = 16;

/// How careful a task is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Caution {
    /// Events among which the cause may be.
    left: usize,
    /// Events in a turn.
    pub step: usize,
}

impl Caution {
    /// What the last announcement, or its absence, says.
    pub fn of(opens: u32, progress: &Progress, rows_max: usize) -> Option<Caution> {
        let left = match progress.announced {
            0 if opens > 1 => rows_max,
            0 => return None,
            announced => announced as usize,
        };
        Some(Caution { left, step: (left / DIVISOR).max(1) })
    }

    /// A turn went well.
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

/// The right to try an event alone; a node has one.
#[derive(Debug, Default)]
pub struct Floor(Mutex<Holder>);

#[derive(Debug, Default)]
struct Holder {
    /// How often it was given away: tells a hold from those before it.
    given: u64,
    slot: Option<SlotId>,
}

/// The floor, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    floor: Arc<Floor>,
    given: u64,
}

impl Floor {
    /// Takes the floor for the task in `slot`, if it is free.
    pub fn take(self: &Arc<Self>, slot: SlotId) -> Option<Hold> {
        let mut holder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holder.slot.is_some() {
            return None;
        }
        holder.given += 1;
        holder.slot = Some(slot);
        Some(Hold { floor: self.clone(), given: holder.given })
    }

    /// Takes the floor from the task in `slot`, if it has it: its thread was given up and gives
    /// nothing back.
    pub fn free(&self, slot: SlotId) {
        let mut holder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holder.slot.take_if(|has| *has == slot);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holder = self.floor.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holder.given == self.given {
            holder.slot = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_makes_the_next_announcement_smaller_and_quiet_turns_end_it() {
        let announced = |n| Progress { announced: n, ..Progress::default() };
        assert_eq!(Caution::of(1, &announced(0), 65_536), None);
        let steps = [(0, 4096), (4096, 256), (256, 16), (16, 1), (1, 1)];
        for (announced_before, step) in steps {
            let caution = Caution::of(2, &announced(announced_before), 65_536).unwrap();
            assert_eq!(caution.step, step);
        }
        let mut caution = Caution::of(2, &announced(256), 65_536);
        let mut turns = 0;
        while let Some(careful) = caution {
            caution = careful.after(3);
            turns += 1;
        }
        assert_eq!(turns, 16, "few rows count as a step: nothing keeps a task careful for long");
    }

    #[test]
    fn every_call_of_an_event_is_left_out_again_and_again() {
        let tries: Vec<u32> = (1..=10).map(suspect).collect();
        assert_eq!(tries, [1, 1, 2, 1, 2, 3, 1, 2, 3, 4]);
    }

    #[test]
    fn one_task_at_a_time_has_the_floor_and_a_lost_hold_has_no_say() {
        let floor = Arc::new(Floor::default());
        let lost = floor.take(1).unwrap();
        assert!(floor.take(2).is_none());
        floor.free(2);
        assert!(floor.take(2).is_none(), "it is another's");
        floor.free(1);
        let again = floor.take(2).unwrap();
        drop(lost);
        assert!(floor.take(1).is_none(), "the thread that was given up has no say");
        drop(again);
        assert!(floor.take(1).is_some());
    }
}
