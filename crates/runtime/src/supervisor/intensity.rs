//! How many restarts within how long are too many.

use std::{collections::VecDeque, time::Duration};

use millstream_core::Time;

/// `max` restarts within `period` are granted; one more makes the supervisor give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts granted; 0 grants none.
    pub max: u32,
    /// Within this time, both ends included.
    pub period: Duration,
}

impl Intensity {
    /// `max` restarts in `secs` seconds.
    pub const fn new(max: u32, secs: u64) -> Intensity {
        Intensity { max, period: Duration::from_secs(secs) }
    }
}

impl Default for Intensity {
    /// OTP's: 1 restart in 5 s.
    fn default() -> Intensity {
        Intensity::new(1, 5)
    }
}

/// The restarts that still count.
///
/// A restart exactly `period` old still counts, as in OTP, which however rounds to seconds.
/// *Limit:* remembers `max` + 1 times.
#[derive(Clone, Debug)]
pub(super) struct Window {
    intensity: Intensity,
    restarts: VecDeque<Time>,
}

impl Window {
    pub(super) fn new(intensity: Intensity) -> Window {
        Window { intensity, restarts: VecDeque::new() }
    }

    /// Counts a restart; false if it is one too many.
    pub(super) fn add(&mut self, now: Time) -> bool {
        let threshold = now - self.intensity.period;
        while self.restarts.front().is_some_and(|t| *t < threshold) {
            self.restarts.pop_front();
        }
        self.restarts.push_back(now);
        self.restarts.len() as u64 <= u64::from(self.intensity.max)
    }
}
