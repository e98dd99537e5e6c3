//! Ctrl-C and SIGTERM while a program runs a flow: the first one asks it to come to an end, the
//! second one ends it at once.
//!
//! *Why flags and no thread:* the second signal must work whatever is stuck, so the handler itself
//! ends the process. Losing nothing then is the log's business, as it is after SIGKILL.
//!
//! *Invariant:* while nothing runs, both signals do what they did before: they end the program.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_core::{Error, Result};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// With which code a program ends at a second Ctrl-C.
const EXIT: i32 = 130;

/// Somebody asked.
static ASKED: AtomicBool = AtomicBool::new(false);
/// Nobody listens.
static IDLE: AtomicBool = AtomicBool::new(true);
/// How many listen; `None` if the handlers are not there yet. Once there, they stay.
static LISTENING: Mutex<Option<usize>> = Mutex::new(None);

/// Listens for Ctrl-C and SIGTERM as long as it lives: [`Node::run`](crate::Node::run) does so by
/// itself, and a program that starts nodes otherwise may.
pub struct Signals(());

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn listen() -> Result<Signals> {
        let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match *listening {
            Some(before) => before,
            None => {
                register().map_err(|e| {
                    Error::io("Ctrl-C cannot be listened for", &e)
                        .help("go without: Node::embedded(..).signals(false)")
                })?;
                0
            }
        };
        if before == 0 {
            ASKED.store(false, Ordering::SeqCst);
            IDLE.store(false, Ordering::SeqCst);
        }
        *listening = Some(before + 1);
        Ok(Signals(()))
    }

    /// Whether the program was asked to come to an end.
    pub fn asked(&self) -> bool {
        ASKED.load(Ordering::SeqCst)
    }
}

/// In this order: what the first signal sets, the second one finds.
fn register() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, &IDLE)?;
        flag::register_conditional_shutdown(signal, EXIT, &ASKED)?;
        flag::register(signal, &ASKED)?;
    }
    Ok(())
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
        let left = listening.map_or(0, |n| n - 1);
        *listening = Some(left);
        IDLE.store(left == 0, Ordering::SeqCst);
    }
}
