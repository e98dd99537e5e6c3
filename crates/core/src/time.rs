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
        Time::parse_plain(text.as_bytes()).or_else(|| Time::parse_any(text))
    }

    /// The forms that files are full of, without a time zone other than `Z`. It accepts nothing
    /// that [`Time::parse_any`] would read otherwise.
    fn parse_plain(text: &[u8]) -> Option<Time> {
        let number = |from: usize, to: usize| {
            let digits = text.get(from..to)?;
            digits
                .iter()
                .try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
        };
        let is = |at: usize, of: &[u8]| text.get(at).is_some_and(|b| of.contains(b));
        if !(is(4, b"-") && is(7, b"-") && is(10, b"T ") && is(13, b":")) {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute) = (number(11, 13)?, number(14, 16)?);
        let (mut second, mut ms, mut end) = (0, 0, 16);
        if is(16, b":") {
            second = number(17, 19)?;
            end = 19;
            if is(19, b".") {
                let digits = text[20..].iter().take_while(|b| b.is_ascii_digit()).count();
                if !(1..=9).contains(&digits) {
                    return None;
                }
                end = 20 + digits;
                let thousandths = number(20, 20 + digits.min(3))?;
                ms = thousandths * [100, 10, 1][digits.min(3) - 1];
            }
            end += usize::from(is(end, b"Z"));
        }
        let days_in_month = match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let is_time = (1..=12).contains(&month)
            && (1..=days_in_month).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !is_time || end != text.len() {
            return None;
        }
        let seconds =
            days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        Some(Time(seconds * 1000 + ms))
    }

    fn parse_any(text: &str) -> Option<Time> {
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

/// Days from 1970-01-01 to a date of the Gregorian calendar. Source: H. Hinnant, "chrono-compatible
/// low-level date algorithms", `days_from_civil`.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2); // years start in March
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
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
    fn the_short_way_is_the_long_way() {
        let day = 86_400_000i64;
        for n in (-719_528i64..2_932_896).step_by(97) {
            let time = Time::from_ms(n * day + (n * 7_919_353).rem_euclid(day));
            let text = time.to_string();
            assert_eq!(Time::parse_plain(text.as_bytes()), Some(time), "{text}");
            for len in 0..=text.len() {
                let forms = [text[..len].to_string(), text[..len].replace('T', " ")];
                let broken = [text[..len].replace('-', "0"), text[..len].replace("02", "13")];
                for form in forms.iter().chain(&broken).filter(|_| n % 13 == 0) {
                    let plain = Time::parse_plain(form.as_bytes());
                    assert!(plain.is_none() || plain == Time::parse_any(form), "{form}");
                }
            }
        }
        for text in ["2013-02-29 00:00", "2013-01-01 24:00", "2013-01-01 10:60", "2013-13-01 10:00"]
        {
            assert_eq!(Time::parse(text), None, "{text}");
        }
        assert_eq!(Time::parse("2013-01-01 00:00:00.1239"), Time::parse("2013-01-01 00:00:00.123"));
        assert!(Time::parse_plain(b"2013-01-01T05:15Z").is_none(), "RFC 3339 wants seconds");
    }

    #[test]
    fn ended_stays_ended() {
        assert_eq!(Time::MAX - Duration::from_secs(2), Time::MAX);
        assert_eq!(Time::MAX + Duration::from_secs(2), Time::MAX);
        assert_eq!(Time::MIN - Duration::from_secs(2), Time::MIN);
    }
}
