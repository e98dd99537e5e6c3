//! Connectors that go on one step at a time.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millstream_core::connector::Pull;

use crate::connect::{Connectors, SourceJob, WriteJob};

/// Sources and sinks under the simulator's schedule.
#[derive(Default)]
pub struct StepConnectors {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sources: Vec<SourceJob>,
    writes: VecDeque<WriteJob>,
}

impl StepConnectors {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one connector go on: the `n`-th of those that exist. `true` if anything moved.
    pub fn step(&self, n: usize) -> bool {
        let mut inner = self.lock();
        let all = inner.sources.len() + inner.writes.len();
        if all == 0 {
            return false;
        }
        let n = n % all;
        if n < inner.sources.len() {
            let mut job = inner.sources.remove(n);
            drop(inner);
            let (moved, open) = pull(&mut job);
            if open {
                self.lock().sources.insert(n, job); // in its place, so that none is passed over
            }
            return moved || !open;
        }
        let Some(job) = inner.writes.pop_front() else { return false };
        drop(inner);
        let outlet = job.outlet.clone();
        let written = job.write();
        outlet.finish(written);
        true
    }

    /// How many connectors there are to step.
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.sources.len() + inner.writes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Pulls once. Whether anything moved, and whether the job goes on.
fn pull(job: &mut SourceJob) -> (bool, bool) {
    let Some(place) = job.inlet.reserve() else { return (false, !job.inlet.is_closed()) };
    match job.pull(Duration::ZERO) {
        Some(Pull::Chunk(decode)) => {
            job.inlet.decode(place, decode);
            (true, true)
        }
        other => {
            job.inlet.release(place);
            (other.is_none(), other.is_some())
        }
    }
}

impl Connectors for StepConnectors {
    fn read(&self, job: SourceJob) {
        self.lock().sources.push(job);
    }

    fn write(&self, job: WriteJob) {
        self.lock().writes.push_back(job);
    }
}
