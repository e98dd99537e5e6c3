//! What the demo must find, counted by a plain loop over the file.
//!
//! *Invariant:* nothing here is used by the engine, and nothing of the engine is used here.

use std::collections::{BTreeMap, BTreeSet};

/// An alert: the aircraft, when it was to leave (ms since 1970), and the flight.
pub type Alert = (String, i64, i64);

/// What one aircraft is to remember: its departures, and how many in a row were late.
pub type State = (u32, u32);

/// The answers.
#[derive(Debug, Default)]
pub struct Expected {
    /// Records in the file, without its header.
    pub rows: u64,
    /// Lines whose values cannot be read.
    pub bad: BTreeSet<u64>,
    /// The line of the injected panic, if the file has it.
    pub injected: Option<u64>,
    /// Alerts; a list, since one could occur twice.
    pub alerts: Vec<Alert>,
    /// Per aircraft.
    pub states: BTreeMap<String, State>,
}

/// Counts. The `nth` departure of `victim` is the one that panics.
pub fn recount(csv: &str, victim: &str, nth: usize) -> Result<Expected, String> {
    let mut lines = csv.lines();
    let header = split(lines.next().unwrap_or_default().trim_start_matches('\u{feff}'));
    let column = |name: &str| {
        header.iter().position(|h| h == name).ok_or_else(|| format!("no column `{name}`"))
    };
    let (when, flight, tail) = (column("sched_dep")?, column("flight")?, column("tailnum")?);
    let delay = column("dep_delay")?;
    let mut expected = Expected::default();
    let mut departures = 0;
    for (at, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        let number = at as u64 + 2;
        expected.rows += 1;
        let fields = split(line);
        let field = |at: usize| fields.get(at).map(String::as_str).unwrap_or_default();
        let read = (millis(field(when)), field(flight).parse::<i64>(), minutes(field(delay)));
        let (Some(when), Ok(flight), Some(minutes)) = read else {
            expected.bad.insert(number);
            continue;
        };
        let aircraft = field(tail).to_string();
        if aircraft == victim {
            departures += 1;
            if departures == nth {
                expected.injected = Some(number);
                continue;
            }
        }
        let state = expected.states.entry(aircraft.clone()).or_default();
        state.0 += 1;
        state.1 = if minutes >= 60.0 { state.1 + 1 } else { 0 };
        if state.1 == 3 {
            expected.alerts.push((aircraft, when, flight));
        }
    }
    Ok(expected)
}

/// The fields of a line; one in quotes may hold commas.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match (c, fields.last_mut()) {
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => fields.push(String::new()),
            (c, Some(field)) => field.push(c),
            (_, None) => {}
        }
    }
    fields
}

/// A number; words such as `NA`, `nan` or `inf` are none.
fn minutes(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|_| !text.contains(|c: char| c.is_ascii_alphabetic()))
}

/// `2013-01-01 05:15:00` as milliseconds since 1970.
fn millis(text: &str) -> Option<i64> {
    let mut parts = text.split(['-', ' ', ':']).map(|p| p.parse::<i64>().ok());
    let mut next = || parts.next().flatten();
    let (y, m, d, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let fits = (1..=12).contains(&m) && (1..=31).contains(&d) && hour < 24 && minute < 60;
    // Days since 1970 in the Gregorian calendar, counted in years that start in March.
    let y = if m <= 2 { y - 1 } else { y };
    let (era, year) = (y.div_euclid(400), y.rem_euclid(400));
    let day = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day - 719_468;
    fits.then_some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_the_data_are_known() {
        let csv = include_str!("../../../../examples/data/flights-2013-01.csv");
        let all = recount(csv, "", 0).unwrap();
        assert_eq!((all.rows, all.bad.len(), all.states.len()), (27_004, 521, 3_141));
        assert_eq!(all.alerts.len(), 45);
        assert_eq!(all.bad.first(), Some(&21));
    }

    #[test]
    fn a_date_is_what_the_clock_says() {
        assert_eq!(millis("2013-01-03 18:15:00"), Some(1_357_236_900_000));
        assert_eq!(millis("1970-01-01 00:00:01"), Some(1000));
        assert_eq!(millis("NA"), None);
    }
}
