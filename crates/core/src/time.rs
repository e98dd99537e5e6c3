//! Event time and clock time, as milliseconds since the Unix epoch.

use std::{fmt, time::Duration};

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since the Unix epoch, UTC.
///
/// [`Time::MIN`] as a watermark means "nothing known yet", [`Time::MAX`] "ended".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(i64);

impl Time {
    /// Before everything: the watermark of a producer that has said nothing.
    pub const MIN: Time = Time(i64::MIN);
    /// After everything: the watermark of a producer that has ended.
    pub const MAX: Time = Time(i64::MAX);

    /// Wraps milliseconds since the Unix epoch.
    pub const fn from_ms(ms: i64) -> Time {
        Time(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339, or `YYYY-MM-DD[ |T]HH:MM[:SS[.fff]]` taken as UTC, or a bare date.
    pub fn parse(text: &str) -> Option<Time> {
        let naive = |format| NaiveDateTime::parse_from_str(text, format).ok();
        DateTime::parse_from_rfc3339(text)
            .map(|t| t.timestamp_millis())
            .ok()
            .or_else(|| {
                ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f"]
                    .into_iter()
                    .find_map(naive)
                    .or_else(|| {
                        NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0)
                    })
                    .map(|t| t.and_utc().timestamp_millis())
            })
            .map(Time)
    }
}

impl Default for Time {
    /// [`Time::MIN`]: nothing known yet.
    fn default() -> Time {
        Time::MIN
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;
    /// Saturates, so that [`Time::MAX`] stays "ended".
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Time {
    type Output = Time;
    /// Saturates; [`Time::MAX`] ("ended") has nothing before it and stays.
    fn sub(self, d: Duration) -> Time {
        if self == Time::MAX {
            return self;
        }
        Time(self.0.saturating_sub(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Time::MIN => f.write_str("-"),
            Time::MAX => f.write_str("end"),
            Time(ms) => match DateTime::from_timestamp_millis(ms) {
                Some(t) => write!(f, "{}", t.format("%Y-%m-%dT%H:%M:%S%.3fZ")),
                None => write!(f, "{ms} ms"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_csv_files_hold() {
        let expected = Time::from_ms(1_357_236_900_000);
        for text in [
            "2013-01-03 18:15",
            "2013-01-03 18:15:00",
            "2013-01-03T18:15:00.000",
            "2013-01-03T18:15:00Z",
            "2013-01-03T19:15:00+01:00",
        ] {
            assert_eq!(Time::parse(text), Some(expected), "{text}");
        }
        assert_eq!(Time::parse("NA"), None);
        assert_eq!(expected.to_string(), "2013-01-03T18:15:00.000Z");
    }

    #[test]
    fn ended_stays_ended() {
        assert_eq!(Time::MAX - Duration::from_secs(2), Time::MAX);
        assert_eq!(Time::MAX + Duration::from_secs(2), Time::MAX);
        assert_eq!(Time::MIN - Duration::from_secs(2), Time::MIN);
    }
}
