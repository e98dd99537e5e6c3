//! The baseline of `telemetry`: one thread of plain Rust, nothing durable, nothing supervised.
//!
//! Memory-mapped input, borrowed strings, a hash map of windows, written out at the end.

use std::{fs::File, io::Write, path::Path};

use hashbrown::HashMap;
use serde::Deserialize;

use crate::report::Result;

#[derive(Deserialize)]
struct Reading<'a> {
    #[serde(borrow)]
    sensor: &'a str,
    ts: i64,
    celsius: f64,
    seq: u64,
}

struct Stats {
    n: u64,
    sum: f64,
    min: f64,
    max: f64,
}

/// Aggregates the readings in `input`, but those to `skip` (by `seq`), into `output`. Returns how
/// many rows went in and out.
///
/// # Errors
/// If a file cannot be read or written, or a line cannot be decoded.
pub fn run(input: &Path, output: &Path, skip: impl Fn(u64) -> bool) -> Result<(u64, u64)> {
    let file = File::open(input)?;
    #[expect(unsafe_code, reason = "see SAFETY; the product itself maps no memory")]
    // SAFETY: the file is this bench's own, in a folder that it has just made under a name of its
    // own; it was written completely before, and is neither changed nor cut until the map is gone.
    let data = unsafe { memmap2::Mmap::map(&file)? };
    let mut windows: HashMap<(&str, i64), Stats, ahash::RandomState> = HashMap::default();
    let mut rows = 0;
    for line in data.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let r: Reading<'_> = serde_json::from_slice(line)?;
        if skip(r.seq) {
            continue;
        }
        let window = r.ts - r.ts.rem_euclid(10_000);
        let s = windows.entry((r.sensor, window)).or_insert(Stats {
            n: 0,
            sum: 0.0,
            min: f64::MAX,
            max: f64::MIN,
        });
        s.n += 1;
        s.sum += r.celsius;
        s.min = s.min.min(r.celsius);
        s.max = s.max.max(r.celsius);
        rows += 1;
    }
    let mut out = std::io::BufWriter::with_capacity(1 << 20, File::create(output)?);
    for ((sensor, window), s) in &windows {
        let mean = s.sum / s.n as f64;
        writeln!(
            out,
            "{{\"sensor\":\"{sensor}\",\"window\":{window},\"n\":{},\"mean\":{mean},\"min\":{},\
             \"max\":{}}}",
            s.n, s.min, s.max
        )?;
    }
    out.flush()?;
    Ok((rows, windows.len() as u64))
}
