//! The input of `telemetry`: readings of sensors, event time advancing, up to 2 s out of order.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use crate::{mersenne::Mersenne, report::Result};

/// The first event time, ms.
const START: i64 = 1_700_000_000_000;
/// How much event time the file spans, ms.
const SPAN: f64 = 60_000.0;

/// Writes `n` readings of `sensors` sensors.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, n: u64, sensors: u64, seed: u64) -> Result<()> {
    let mut random = Mersenne::new(seed);
    let per_ms = n as f64 / SPAN;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for i in 0..n {
        let ts = START + (i as f64 / per_ms) as i64 - random.below(2000) as i64;
        let sensor = random.below(sensors);
        let celsius = 15.0 + random.random() * 20.0;
        writeln!(
            out,
            "{{\"sensor\":\"sensor-{sensor:06}\",\"ts\":{ts},\"celsius\":{celsius:.2},\"seq\":{i}}}"
        )?;
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_script() {
        // `telemetry_gen.py 100000 1000 out.jsonl 42`: its last line, length and FNV-1a hash.
        let path = std::env::temp_dir().join(format!("readings-{}.jsonl", std::process::id()));
        write(&path, 100_000, 1000, 42).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let last = r#"{"sensor":"sensor-000143","ts":1700000059567,"celsius":18.71,"seq":99999}"#;
        assert_eq!(text.lines().last(), Some(last));
        assert_eq!(text.len(), 7_388_890);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        assert_eq!(hash, 0xce4cdcaa9f837bff);
    }
}
