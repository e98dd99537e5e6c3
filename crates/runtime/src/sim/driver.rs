//! Runs steps on a thread that can be left behind, so that a handler that never returns is part of
//! the simulation.
//!
//! *Invariant:* the simulator waits for each step, so nothing runs at the same time as anything
//! else; a step that hangs stays hung.

use std::{
    cell::RefCell,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

thread_local! {
    static REPORT: RefCell<Option<Sender<Stepped>>> = const { RefCell::new(None) };
}

type Job = Box<dyn FnOnce() -> bool + Send>;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stepped {
    /// It returned this.
    Done(bool),
    /// It never will.
    Hung,
    /// The process ended in it.
    Died,
}

/// Never returns. For handlers under simulation: the simulator goes on without this thread.
///
/// Outside of a simulation it really never returns.
pub fn hang() -> ! {
    leave(Stepped::Hung)
}

/// Ends the process, as a stack overflow or an abort does, and lets it be started again. For
/// handlers under simulation.
///
/// Outside of a simulation it never returns.
pub fn die() -> ! {
    leave(Stepped::Died)
}

fn leave(how: Stepped) -> ! {
    REPORT.with_borrow(|report| {
        if let Some(report) = report {
            let _ = report.send(how); // whoever waited is gone: nothing to tell
        }
    });
    loop {
        thread::park();
    }
}

/// A thread that runs one step at a time.
pub(super) struct Driver {
    jobs: Sender<Job>,
    reports: Receiver<Stepped>,
}

impl Driver {
    pub fn start() -> Driver {
        // Bounded by use: one job is handed in and one report awaited.
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (outbox, reports) = mpsc::channel();
        thread::spawn(move || {
            REPORT.set(Some(outbox.clone()));
            crate::catch::without_backtraces();
            while let Ok(job) = inbox.recv() {
                let done = job();
                if outbox.send(Stepped::Done(done)).is_err() {
                    return;
                }
            }
        });
        Driver { jobs, reports }
    }

    /// Runs a step; a thread that hangs is replaced.
    ///
    /// # Panics
    /// If the step panics: a bug in what is simulated.
    pub fn run(&mut self, job: Job) -> Stepped {
        self.jobs.send(job).expect("the driver lives until it hangs or panics");
        let stepped = self.reports.recv().expect("a step of the simulated node panicked");
        if !matches!(stepped, Stepped::Done(_)) {
            *self = Driver::start();
        }
        stepped
    }
}
