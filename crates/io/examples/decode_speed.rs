//! Rows per second of the decoders and the encoder, on one core.
//!
//! `cargo run --release -p millstream-io --example decode_speed`

use std::{
    hint::black_box,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_core::{
    Time,
    connector::{Pull, Source},
};
use millstream_io::{
    CsvDecoder, CsvFile, JsonDecoder, JsonEncoder, JsonLinesFile, Place, rng::Rng,
};
use serde::Deserialize;

const ROWS: usize = 200_000;
const CHUNK: usize = 1 << 20;
const RUNS: usize = 7;

#[derive(Deserialize)]
struct Reading<'a> {
    sensor: &'a str,
    ts: i64,
    celsius: f64,
    seq: u64,
}

fn main() {
    let readings = readings();
    let wide = wide();
    let csv = csv();
    report("serde_json, borrowed struct", &readings, |chunk| {
        let lines = chunk.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        lines.fold(0, |rows, line| {
            let reading: Reading = serde_json::from_slice(line).expect("made above");
            black_box((reading.sensor.len(), reading.ts, reading.celsius, reading.seq));
            rows + 1
        })
    });
    let mut decoder = JsonDecoder::new(schema()).expect("supported");
    report("JSON, 4 of 4 fields", &readings, |chunk| {
        black_box(decoder.decode(chunk, Place::default())).places.len()
    });
    let two = Arc::new(schema().project(&[0, 2]).expect("two of four"));
    let mut decoder = JsonDecoder::new(two).expect("supported");
    report("JSON, 2 of 4 fields", &readings, |chunk| {
        black_box(decoder.decode(chunk, Place::default())).places.len()
    });
    let mut decoder = JsonDecoder::new(schema()).expect("supported");
    report("JSON, 4 of 14 fields", &wide, |chunk| {
        black_box(decoder.decode(chunk, Place::default())).places.len()
    });
    let mut decoder = JsonDecoder::new(schema()).expect("supported");
    report("JSON, time as text", &text_times(), |chunk| {
        black_box(decoder.decode(chunk, Place::default())).places.len()
    });
    let header = ["sensor", "ts", "celsius", "seq"].map(String::from);
    let mut decoder = CsvDecoder::new(schema(), &header).expect("supported");
    report("CSV, 4 of 4 fields", &csv, |chunk| {
        black_box(decoder.decode(chunk, Place::default())).places.len()
    });
    from_file("JSON", &readings, |path| Box::new(JsonLinesFile::open(path)));
    let csv_file = [b"sensor,ts,celsius,seq\n", csv.as_slice()].concat();
    from_file("CSV", &csv_file, |path| Box::new(CsvFile::open(path)));
    let quoted = [csv_file.as_slice(), b"\"a\",1,1,1\n"].concat();
    from_file("CSV (with quotes)", &quoted, |path| Box::new(CsvFile::open(path)));
    let mut decoder = JsonDecoder::new(schema()).expect("supported");
    let rows = decoder.decode(&readings[..cut(&readings)], Place::default()).rows;
    let mut encoder = JsonEncoder::new();
    let mut out = Vec::new();
    let mut bytes = Vec::new();
    encoder.encode(&rows, &mut bytes).expect("supported");
    let many = bytes.repeat(readings.len() / bytes.len());
    report("JSON, encode 4 columns", &many, |_| {
        out.clear();
        encoder.encode(&rows, &mut out).expect("supported");
        black_box(&out);
        rows.num_rows()
    });
}

/// Reads a file of some 100 MB from the page cache: cutting alone, and with decoding.
fn from_file(name: &str, content: &[u8], source: impl Fn(PathBuf) -> Box<dyn Source>) {
    let path = std::env::temp_dir().join(format!("millstream-speed-{}", std::process::id()));
    let bytes = content.repeat(8);
    std::fs::write(&path, &bytes).expect("room for a temporary file");
    let source = source(path.clone());
    for decode in [false, true] {
        let what = if decode { "cut and decoded" } else { "cut" };
        best(&format!("{name} file, {what}"), bytes.len(), || {
            let mut reader = source.open(0, schema(), &[]).expect("written above");
            let mut rows = 0;
            while let Pull::Chunk(chunk) = reader.pull(Duration::ZERO).expect("written above") {
                if decode {
                    rows += chunk().places.len();
                }
            }
            if decode { rows } else { ROWS * 8 }
        });
    }
    let _ = std::fs::remove_file(path);
}

fn schema() -> SchemaRef {
    let ts = DataType::Timestamp(TimeUnit::Millisecond, None);
    Arc::new(Schema::new(vec![
        Field::new("sensor", DataType::Utf8, false),
        Field::new("ts", ts, false),
        Field::new("celsius", DataType::Float64, false),
        Field::new("seq", DataType::UInt64, false),
    ]))
}

fn readings() -> Vec<u8> {
    lines(|row, rng| {
        let (sensor, ts) = (rng.below(100_000), 1_700_000_000_000 + row * 10);
        let celsius = rng.below(6_000) as f64 / 100.0 - 20.0;
        format!(
            "{{\"sensor\":\"sensor-{sensor:06}\",\"ts\":{ts},\"celsius\":{celsius},\"seq\":{row}}}"
        )
    })
}

fn text_times() -> Vec<u8> {
    lines(|row, rng| {
        let (sensor, ts) = (rng.below(100_000), Time::from_ms(1_700_000_000_000 + row as i64 * 10));
        format!(
            "{{\"sensor\":\"sensor-{sensor:06}\",\"ts\":\"{ts}\",\"celsius\":21.5,\"seq\":{row}}}"
        )
    })
}

fn wide() -> Vec<u8> {
    lines(|row, rng| {
        let extra: String = (0..10)
            .map(|i| format!(", \"extra_{i}\": \"{:x} {:x}\"", rng.next_u64(), rng.next_u64()))
            .collect();
        let celsius = rng.below(6_000) as f64 / 100.0;
        format!(
            "{{\"sensor\": \"s-{row}\", \"ts\": {row}{extra}, \"celsius\": {celsius}, \"seq\": {row}}}"
        )
    })
}

fn csv() -> Vec<u8> {
    lines(|row, rng| {
        let (sensor, ts) = (rng.below(100_000), 1_700_000_000_000 + row * 10);
        format!("sensor-{sensor:06},{ts},{},{row}", rng.below(6_000) as f64 / 100.0)
    })
}

fn lines(line: impl Fn(u64, &mut Rng) -> String) -> Vec<u8> {
    let mut rng = Rng::new(7143);
    (0..ROWS as u64).flat_map(|row| (line(row, &mut rng) + "\n").into_bytes()).collect()
}

/// Where the first chunk ends.
fn cut(bytes: &[u8]) -> usize {
    let chunk = &bytes[..bytes.len().min(CHUNK)];
    memchr::memrchr(b'\n', chunk).map_or(chunk.len(), |end| end + 1)
}

/// The best of some runs over all chunks.
fn report(what: &str, bytes: &[u8], mut run: impl FnMut(&[u8]) -> usize) {
    best(what, bytes.len(), || {
        let (mut rest, mut rows) = (bytes, 0);
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(cut(rest));
            rows += run(chunk);
            rest = tail;
        }
        rows
    });
}

/// The best of some runs over `bytes` bytes; a run says how many rows they are.
fn best(what: &str, bytes: usize, mut run: impl FnMut() -> usize) {
    let (mut seconds, mut rows) = (f64::INFINITY, 0);
    for _ in 0..RUNS {
        let start = Instant::now();
        rows = run();
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    let (rate, speed) = (rows as f64 / seconds / 1e6, bytes as f64 / seconds / 1e6);
    println!("{what:34} {rate:7.2} M rows/s {speed:7.0} MB/s {:5} B/row", bytes / rows.max(1));
}
