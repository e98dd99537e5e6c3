//! What a bench says: readable lines while it runs, and one line of JSON at the end.

use std::{fmt, process::ExitCode};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Any error: a bench that cannot go on says why and fails.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What every bench measures beside its own figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Rows taken in.
    pub rows_in: u64,
    /// Rows handed out.
    pub rows_out: u64,
    /// Rows too late for their window.
    pub late: u64,
    /// Dead letters.
    pub dead: u64,
    /// Turns committed.
    pub turns: u64,
    /// Times the engine has made its log durable.
    pub fsyncs: u64,
    /// Bytes the engine has written.
    pub bytes_written: u64,
    /// Processor time of all threads, in seconds.
    pub cpu_s: f64,
    /// The most memory the process had at once.
    pub peak_rss_bytes: u64,
}

/// The figures of one bench, in the order in which they were added.
pub struct Report {
    name: &'static str,
    seed: u64,
    rounds: usize,
    wrong: Vec<String>,
    totals: Totals,
    figures: Vec<(&'static str, Value)>,
}

impl Report {
    /// A report without figures.
    pub fn new(name: &'static str, seed: u64, rounds: usize) -> Report {
        Report {
            name,
            seed,
            rounds,
            wrong: Vec::new(),
            totals: Totals::default(),
            figures: Vec::new(),
        }
    }

    /// Replaces the totals; benches with rounds report the last one's.
    pub fn totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    /// Adds a figure, and prints it.
    pub fn figure(&mut self, name: &'static str, value: impl Into<Value>) {
        let value = value.into();
        println!("{name:>24}  {value}");
        self.figures.push((name, value));
    }

    /// Adds the median as `name`, and the spread as `name_min` and `name_max`.
    pub fn spread(&mut self, [name, min, max]: [&'static str; 3], values: &[f64]) {
        let s = Spread::of(values);
        println!("{name:>24}  {s}");
        for (name, value) in [(name, s.median), (min, s.min), (max, s.max)] {
            self.figures.push((name, rounded(value)));
        }
    }

    /// Notes that a result is wrong; the bench goes on and fails at its end.
    pub fn check(&mut self, right: bool, what: impl FnOnce() -> String) {
        if !right {
            let what = what();
            println!("WRONG: {what}");
            self.wrong.push(what);
        }
    }

    /// Prints the line of JSON.
    pub fn finish(self) -> ExitCode {
        let t = &self.totals;
        let mut all = vec![
            ("bench", json!(self.name)),
            ("valid", json!(self.wrong.is_empty())),
            ("seed", json!(self.seed)),
            ("rounds", json!(self.rounds)),
            ("rows_in", json!(t.rows_in)),
            ("rows_out", json!(t.rows_out)),
            ("late", json!(t.late)),
            ("dead", json!(t.dead)),
            ("turns", json!(t.turns)),
            ("fsyncs", json!(t.fsyncs)),
            ("bytes_written", json!(t.bytes_written)),
            ("cpu_s", rounded(t.cpu_s)),
            ("peak_rss_bytes", json!(t.peak_rss_bytes)),
        ];
        let right = self.wrong.is_empty();
        all.extend(self.figures);
        if !right {
            all.push(("wrong", json!(self.wrong)));
        }
        let fields: Vec<String> = all.iter().map(|(name, v)| format!("\"{name}\":{v}")).collect();
        println!("{{{}}}", fields.join(","));
        if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Middle, least and greatest of some measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; zeros if there are none.
    pub fn of(values: &[f64]) -> Spread {
        let sorted = sorted(values);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(0.0);
        let n = sorted.len();
        let median = (at(n.saturating_sub(1) / 2) + at(n / 2)) / 2.0;
        Spread { median, min: at(0), max: at(n.saturating_sub(1)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} (min {:.3}, max {:.3})", self.median, self.min, self.max)
    }
}

/// The value below which `part` of all lie, by the nearest rank; 0 if there are none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let rank = (values.len() as f64 * part).ceil() as usize;
    sorted(values).get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Three digits behind the point are more than any run repeats.
pub fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_are_those_of_the_book() {
        let s = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((s.median, s.min, s.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[1.0, 2.0]).median, 1.5);
        assert_eq!(Spread::of(&[]).median, 0.0);
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.999)), (500.0, 999.0));
        assert_eq!(quantile(&values, 1.0), 1000.0);
    }
}
