//! `engine`: frames of 64 KiB through the embedded engine, with a consumer that lets them be
//! trimmed and state that is compacted, against a raw file with the same number of bytes per sync.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow_array::{BinaryArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{
    Batch, Frame, FrameHeader, FrameKind, Status, Time,
    engine::{Engine, EngineStats, InputSpec, Lease, StreamSpec, TaskSpec},
    frame::{FrameEncoder, fingerprint},
    turn::{Change, Delta, Output, Position, Progress, StreamId, TableId, TaskId, Turn},
};
use millstream_runtime::embedded::{self, EmbeddedEngine};
use serde::{Deserialize, Serialize};

use crate::{
    cli::Engine as Args,
    machine::{self, Scratch},
    node,
    processes::mix,
    report::{Report, Result, Totals},
};

/// Bytes of a frame, about.
const FRAME: usize = 64 << 10;
/// Frames of a turn.
const FRAMES: u64 = 16;
/// Keys of the producer's state, changes to them in a turn, and bytes of a value.
const KEYS: u64 = 50_000;
const CHANGES: u64 = 256;
const VALUE: usize = 128;
/// The producer stops while so much is committed and not durable.
const PENDING_MAX: u64 = 64 << 20;

/// Half a round, in a process of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub dir: PathBuf,
    pub frames: u64,
    pub seed: u64,
    /// Bytes per sync of the raw file; the engine if there are none.
    pub raw: Option<u64>,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Written {
    pub wall_s: f64,
    pub stats: EngineStats,
    pub totals: Totals,
    pub violations: Vec<String>,
    pub read: u64,
}

/// Runs the bench.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut report = Report::new("engine", args.common.seed, args.common.rounds);
    node::print_configuration();
    let frames = args.bytes.div_ceil(FRAME as u64).next_multiple_of(FRAMES);
    println!("input    {frames} frames of {FRAME} bytes, {FRAMES} in a turn");
    let (mut ratios, mut amplification, mut rate, mut raw_rate) = (vec![], vec![], vec![], vec![]);
    for round in 1..=args.common.rounds {
        let scratch = Scratch::new(args.common.dir.as_deref())?;
        let part = |raw| Part { dir: scratch.join(""), frames, seed: args.common.seed, raw };
        let engine: Written = machine::part("engine", &part(None))?;
        scratch.clear("data");
        let s = engine.stats;
        let cadence = s.bytes_written / s.fsyncs.max(1);
        let raw: Written = machine::part("engine", &part(Some(cadence)))?;
        let mb = |w: &Written| (frames * FRAME as u64) as f64 / 1e6 / w.wall_s;
        ratios.push(raw.wall_s / engine.wall_s);
        amplification.push(s.bytes_written as f64 / s.bytes_committed as f64);
        rate.push(mb(&engine));
        raw_rate.push(mb(&raw));
        println!(
            "round {round}  engine {:.0} MB/s, raw {:.0} MB/s at {cadence} bytes per sync; \
             {} compactions, {} segments trimmed, {} MB stored",
            mb(&engine),
            mb(&raw),
            s.compactions,
            s.segments_trimmed,
            s.bytes_stored / 1_000_000
        );
        report.check(engine.violations.is_empty(), || engine.violations.join("; "));
        report.check(engine.read == frames, || format!("{} of {frames} frames read", engine.read));
        // A small run for a smoke test ends before there is anything to tidy up.
        let large = args.bytes >= 1 << 30;
        report.check(!large || (s.compactions > 0 && s.segments_trimmed > 0), || {
            "nothing was compacted or nothing trimmed".into()
        });
        report.totals(Totals { rows_in: frames, rows_out: engine.read, ..engine.totals });
    }
    report.spread(["ratio_to_raw", "ratio_to_raw_min", "ratio_to_raw_max"], &ratios);
    report.spread(
        ["write_amplification", "write_amplification_min", "write_amplification_max"],
        &amplification,
    );
    report.spread(["mb_per_s", "mb_per_s_min", "mb_per_s_max"], &rate);
    report.spread(["raw_mb_per_s", "raw_mb_per_s_min", "raw_mb_per_s_max"], &raw_rate);
    Ok(report.finish())
}

/// Does one half.
pub fn part(part: &Part) -> Result<Written> {
    match part.raw {
        Some(cadence) => raw(&part.dir.join("raw"), part.frames * FRAME as u64, cadence),
        None => engine(part),
    }
}

fn raw(path: &Path, bytes: u64, cadence: u64) -> Result<Written> {
    let block = noise(FRAME, 1);
    let begun = Instant::now();
    let mut file = File::create(path)?;
    let mut since = 0;
    for _ in 0..bytes / FRAME as u64 {
        file.write_all(&block)?;
        since += FRAME as u64;
        if since >= cadence {
            file.sync_data()?;
            since = 0;
        }
    }
    file.sync_data()?;
    let wall_s = begun.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(Written { wall_s, ..Written::default() })
}

fn engine(part: &Part) -> Result<Written> {
    let opened = embedded::open_dir(&part.dir.join("data"), embedded::Options::default())?;
    let (engine, threads) = embedded::Threads::start(opened)?;
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("blob", DataType::Binary, false)]));
    let stream = engine.create_stream(&StreamSpec {
        name: "bench/frames".into(),
        schema: schema.clone(),
        partitions: 1,
        retain_bytes: 0,
    })?;
    let producer = open(&engine, "bench/producer/0", vec![])?;
    let consumer = open(&engine, "bench/consumer/0", vec![InputSpec { stream, partition: 0 }])?;
    let frame = frame(&schema, producer.task())?;
    let begun = Instant::now();
    let read = std::thread::scope(|scope| {
        let produced = scope.spawn(|| produce(&engine, producer, stream, &frame, part));
        let read = consume(consumer, part.frames);
        produced.join().map_err(|_| "the producer panicked")?;
        read
    })?;
    while engine.pending_bytes() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let wall_s = begun.elapsed().as_secs_f64();
    let (stats, violations) = (engine.stats(), engine.ledger().violations());
    drop(threads);
    let totals = Totals {
        turns: stats.turns,
        fsyncs: stats.fsyncs,
        bytes_written: stats.bytes_written,
        cpu_s: machine::cpu_s(),
        peak_rss_bytes: machine::peak_rss_bytes(),
        ..Totals::default()
    };
    Ok(Written { wall_s, stats, totals, violations, read })
}

fn open(engine: &EmbeddedEngine, name: &str, inputs: Vec<InputSpec>) -> Result<Box<dyn Lease>> {
    let spec = TaskSpec { name: name.into(), tasks: 1, inputs, waker: Arc::new(|| {}) };
    loop {
        if let Some(lease) = engine.open(&spec)? {
            return Ok(lease);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn frame(schema: &SchemaRef, producer: TaskId) -> Result<Frame> {
    let blob = noise(FRAME - 512, 2);
    let column = Arc::new(BinaryArray::from_iter_values([blob]));
    let wire = Batch::wire_schema(schema);
    let rows =
        Batch::derived(RecordBatch::try_new(schema.clone(), vec![column])?).to_wire(&wire)?;
    let header = FrameHeader {
        kind: FrameKind::Rows,
        status: Status::Active,
        producer,
        turn: 1,
        watermark: Time::MIN,
        rows: 0,
        schema: fingerprint(&wire),
    };
    Ok(FrameEncoder::default().encode(header, Some(&rows))?)
}

fn produce(
    engine: &EmbeddedEngine,
    mut lease: Box<dyn Lease>,
    stream: StreamId,
    frame: &Frame,
    part: &Part,
) {
    let table = TableId::of("state");
    let value = noise(VALUE, 3);
    for turn in 1..=part.frames / FRAMES {
        let mut delta = Delta::default();
        for n in 0..CHANGES {
            let key = mix(part.seed ^ (turn * CHANGES + n)) % KEYS;
            delta.push(Change { table, key: &key.to_be_bytes(), value: Some(&value) });
        }
        let outputs = (0..FRAMES).map(|_| Output { stream, partition: 0, frame: frame.clone() });
        let progress = Progress { turn, ..Progress::default() };
        let outputs = outputs.collect();
        lease.commit(Turn { progress, delta, outputs, ..Turn::default() });
        while engine.pending_bytes() > PENDING_MAX {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn consume(mut lease: Box<dyn Lease>, frames: u64) -> Result<u64> {
    let mut progress = Progress::default();
    progress.inputs.resize_with(1, Default::default);
    let mut read = 0;
    while read < frames {
        let found = lease.poll(0, progress.inputs[0].position, 8 << 20)?;
        let Some((last, _)) = found.last() else {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        };
        progress.inputs[0].position = Position { frame: last + 1, row: 0 };
        progress.inputs[0].keep_from = last + 1;
        progress.inputs[0].rows += found.iter().map(|(_, f)| u64::from(f.header.rows)).sum::<u64>();
        read += found.len() as u64;
        progress.turn += 1;
        lease.commit(Turn { progress: progress.clone(), ..Turn::default() });
    }
    Ok(read)
}

/// Bytes that do not compress.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let words = (0..bytes.div_ceil(8) as u64).map(|n| mix(n ^ (seed << 48)));
    words.flat_map(u64::to_le_bytes).take(bytes).collect()
}
