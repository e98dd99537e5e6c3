//! Who lives in a slot: a task, and what others may know of it without waiting for its step to end.
//!
//! *Invariant:* a step ends once: its worker brings it to an end, or the watchdog has given it up.
//! One of the two comes first and the other hears of it, so a worker that was given up changes
//! nothing, and one that came back in time is not replaced.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use millstream_core::{Time, operator::Probe};

use crate::task::{Task, TaskStats};

/// In place of the number of steps: the thread of the last one was given up.
const GIVEN_UP: u64 = u64::MAX - 1;

/// A task in its slot.
pub(super) struct Tenant {
    pub task: Mutex<Task>,
    pub probe: Arc<Probe>,
    /// Counts beginnings and ends of steps: odd while one runs.
    steps: AtomicU64,
    /// Whether its last step said so.
    pub ended: AtomicBool,
    /// What is to be known without waiting for the task: as of its last step.
    pub keys: AtomicU64,
    pub settled: AtomicBool,
    pub stats: Mutex<TaskStats>,
    /// When the tree was last told of handled records, and how many there were by then.
    pub told: Mutex<(Time, u64)>,
}

impl Tenant {
    pub fn new(task: Task) -> Arc<Tenant> {
        Arc::new(Tenant {
            probe: task.probe(),
            task: Mutex::new(task),
            steps: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            keys: AtomicU64::new(0),
            settled: AtomicBool::new(true),
            stats: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// A step begins; the queue sees to it that none runs. Returns its number.
    pub fn begin(&self) -> u64 {
        self.steps.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The step that runs just now.
    pub fn running(&self) -> Option<u64> {
        Some(self.steps.load(Ordering::Acquire)).filter(|step| step % 2 == 1)
    }

    /// The step has ended. `false` if it was given up before.
    pub fn end(&self, step: u64) -> bool {
        self.turn(step, step + 1)
    }

    /// Gives a step up. `false` if it has ended.
    pub fn give_up(&self, step: u64) -> bool {
        self.turn(step, GIVEN_UP)
    }

    fn turn(&self, from: u64, to: u64) -> bool {
        self.steps.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
