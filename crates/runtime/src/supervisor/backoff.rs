//! How long a restart waits. OTP does not wait; children that meet a world that is down should.

use std::time::Duration;

use millstream_core::Time;

/// Exponential back-off with a cap.
///
/// It draws no jitter: tasks of one node share the disk or broker they wait for, and their starts
/// are serialised by the node anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait; each further one is twice as long.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// Who has not failed for this long after a wait starts again from `first`.
    pub reset_after: Duration,
}

impl Backoff {
    /// Never waits: OTP's behaviour.
    pub const NONE: Backoff =
        Backoff { first: Duration::ZERO, max: Duration::ZERO, reset_after: Duration::ZERO };

    /// The wait after `n` waits in a row.
    pub fn after(&self, n: u32) -> Duration {
        let factor = 1u32.checked_shl(n).unwrap_or(u32::MAX);
        self.first.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }
}

impl Default for Backoff {
    /// 100 ms, doubling up to 30 s, forgotten after a quiet minute.
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_millis(100),
            max: Duration::from_secs(30),
            reset_after: Duration::from_secs(60),
        }
    }
}

/// Failures in a row of one child.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    count: u32,
    until: Option<Time>,
}

impl Failures {
    /// Counts a failure and says until when to wait. The first of a row waits only if `eager` is
    /// false: most failures happen once, and a restart should go unnoticed.
    pub(super) fn next(&mut self, now: Time, backoff: &Backoff, eager: bool) -> Time {
        if self.until.is_some_and(|t| now > t + backoff.reset_after) {
            self.count = 0;
        }
        let until = match self.count {
            0 if eager => now,
            n => now + backoff.after(n - u32::from(eager)),
        };
        self.count = self.count.saturating_add(1);
        self.until = Some(until);
        until
    }
}
