//! Waiting for a client to wake us, on a connector's own thread.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use millstream_core::engine::Waker;

/// Rings when the client has news.
#[derive(Clone, Default)]
pub(crate) struct Bell(Arc<(Mutex<bool>, Condvar)>);

impl Bell {
    pub fn waker(&self) -> Waker {
        let bell = self.clone();
        Arc::new(move || {
            *bell.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            bell.0.1.notify_all();
        })
    }

    /// Waits until it has rung since it was last heard; false if that takes longer than `wait`.
    pub fn hear(&self, wait: Duration) -> bool {
        let rung = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(rung, wait, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rung)
    }

    /// What `look` finds within `wait`, looking again each time it rings; once at least.
    pub fn wait<T>(&self, wait: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let until = Instant::now() + wait; // Clock: waits for brokers as long as it was told.
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now()); // Clock: as above.
            if left.is_zero() {
                return None;
            }
            self.hear(left);
        }
    }
}
