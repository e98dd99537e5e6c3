//! Figures for the design's budgets: `cargo test --release -p millstream-runtime measure --
//! --ignored --nocapture`.

use std::time::Instant;

use millstream_core::{
    Frame, FrameHeader, FrameKind, Status, Time,
    engine::Engine,
    frame::{FrameEncoder, fingerprint},
    turn::{Change, Delta, TableId, TaskId},
};

use super::*;
use crate::conformance::{open, read_up_to, schema, stream, task, turn};

struct Running {
    engine: Arc<EmbeddedEngine>,
    threads: Option<Threads>,
    dir: std::path::PathBuf,
}

impl Subject for Running {
    fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }
    fn settle(&mut self) {
        wait(&self.engine, 0);
    }
    fn restart(&mut self) {
        self.threads = None;
        let opened =
            EmbeddedEngine::open(Options::default(), Arc::new(OsDisk::new(&self.dir))).unwrap();
        let (engine, threads) = Threads::start(opened).unwrap();
        (self.engine, self.threads) = (engine, Some(threads));
    }
}

fn start(dir: &Temp) -> Running {
    let opened = EmbeddedEngine::open(Options::default(), Arc::new(OsDisk::new(&dir.0))).unwrap();
    let (engine, threads) = Threads::start(opened).unwrap();
    Running { engine, threads: Some(threads), dir: dir.0.clone() }
}

fn big(producer: TaskId, n: u64) -> Frame {
    let schema = schema();
    let rows: Vec<i64> = (0..8000).map(|i| i * n as i64).collect();
    let header = FrameHeader {
        kind: FrameKind::Rows,
        status: Status::Active,
        producer,
        turn: n,
        watermark: Time::from_ms(0),
        rows: 0,
        schema: fingerprint(&schema),
    };
    let column = Arc::new(arrow_array::Int64Array::from(rows));
    let rows = arrow_array::RecordBatch::try_new(schema, vec![column]).unwrap();
    FrameEncoder::default().encode(header, Some(&rows)).unwrap()
}

fn wait(engine: &EmbeddedEngine, below: u64) {
    while engine.pending_bytes() > below {
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_frames() {
    let dir = Temp::new("measure-frames");
    let mut node = start(&dir);
    let id = node.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let mut reader = open(&mut node, &task("f/read/0", &[(id, 0)]));
    let mut writer = open(&mut node, &task("f/write/0", &[]));
    let frame = big(writer.task(), 1);
    let size = frame.bytes().len() as u64;
    let (turns, start, mut in_commit) = (32_000u64, Instant::now(), std::time::Duration::ZERO);
    for n in 1..=turns {
        let began = Instant::now();
        writer.commit(turn(n, vec![(id, 0, frame.clone())], Delta::default()));
        in_commit += began.elapsed();
        if n % 16 == 0 {
            let mut t = turn(n, vec![], Delta::default());
            t.progress.inputs = vec![read_up_to(n, n * 8000)];
            reader.commit(t);
        }
        wait(&node.engine, 64 << 20);
    }
    wait(&node.engine, 0);
    let (t, stats) = (start.elapsed().as_secs_f64(), node.engine.stats());
    println!(
        "{} frames of {size} B durable in {t:.2} s: {:.0} MB/s, {:.0} turns/s, {:.1} us in commit; {stats:?}",
        turns,
        (turns * size) as f64 / t / 1e6,
        turns as f64 / t,
        in_commit.as_secs_f64() * 1e6 / turns as f64,
    );
    // Small turns, one writer, group commit.
    let start = Instant::now();
    for n in 0..200_000u64 {
        writer.commit(turn(turns + n, vec![], Delta::default()));
    }
    wait(&node.engine, 0);
    let t = start.elapsed().as_secs_f64();
    println!("200,000 empty turns durable in {t:.2} s: {:.0} turns/s", 200_000.0 / t);
    // One turn at a time: the latency of a lone commit.
    let start = Instant::now();
    for n in 0..200u64 {
        let ticket = writer.commit(turn(300_000 + n, vec![], Delta::default()));
        while !writer.durable(ticket) {
            std::thread::yield_now();
        }
    }
    println!("one turn at a time: {:.2} ms each", start.elapsed().as_secs_f64() * 1000.0 / 200.0);
    let start = Instant::now();
    node.restart();
    println!("restart: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
}

#[test]
#[ignore = "a measurement"]
fn measure_state() {
    let dir = Temp::new("measure-state");
    let mut node = start(&dir);
    let mut lease = open(&mut node, &task("f/count/0", &[]));
    let (keys, per_turn) = (10_000_000u64, 20_000u64);
    let start = Instant::now();
    let mut bytes = 0;
    for n in 0..keys / per_turn {
        let mut delta = Delta::default();
        for k in n * per_turn..(n + 1) * per_turn {
            let key = k.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            delta.push(Change { table: TableId(1), key: &key, value: Some(&[7; 34]) });
        }
        bytes += delta.bytes().len() as u64;
        lease.commit(turn(n + 1, vec![], delta));
        wait(&node.engine, 64 << 20);
    }
    wait(&node.engine, 0);
    let t = start.elapsed().as_secs_f64();
    let stats = node.engine.stats();
    println!(
        "{keys} keys, {} MB of changes durable in {t:.2} s; written {} %; {stats:?}",
        bytes >> 20,
        100 * stats.bytes_written / bytes
    );
    node.threads = None;
    let start = Instant::now();
    let disk = Arc::new(OsDisk::new(&dir.0));
    let mut opened = EmbeddedEngine::open(Options::default(), disk).unwrap();
    println!("open: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    while opened.committer.step() == Progress::Worked || opened.compactor.step() == Progress::Worked
    {
    }
    let stats = opened.engine.stats();
    println!("compacted in {:.2} s: {stats:?}", start.elapsed().as_secs_f64());
    drop(opened);
    node.restart();
    let mut lease = open(&mut node, &task("f/count/0", &[]));
    let start = Instant::now();
    let (mut n, mut sum) = (0u64, 0u64);
    let mut take = |c: Change<'_>| {
        n += 1;
        sum += u64::from(c.key[0]);
        Ok(())
    };
    while !lease.restore(1 << 20, &mut take).unwrap() {}
    println!("{n} changes restored in {:.2} s ({sum})", start.elapsed().as_secs_f64());
}

#[test]
#[ignore = "a measurement"]
fn measure_opening_a_full_log() {
    let dir = Temp::new("measure-open");
    let mut node = start(&dir);
    let id = node.engine().create_stream(&stream("f/a", 1, u64::MAX)).unwrap();
    let mut writer = open(&mut node, &task("f/write/0", &[]));
    let frame = big(writer.task(), 1);
    for n in 1..=32_000u64 {
        writer.commit(turn(n, vec![(id, 0, frame.clone())], Delta::default()));
        wait(&node.engine, 64 << 20);
    }
    wait(&node.engine, 0);
    let stored = node.engine.stats().bytes_stored;
    let start = Instant::now();
    node.restart();
    println!("{} MB opened in {:.0} ms", stored >> 20, start.elapsed().as_secs_f64() * 1e3);
    node.threads = None;
    for file in std::fs::read_dir(dir.0.join("log")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "idx") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let start = Instant::now();
    node.restart();
    println!("without indexes in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let mut lease = open(&mut node, &task("f/read/0", &[(id, 0)]));
    let (start, mut from) = (Instant::now(), 0);
    loop {
        let at = millstream_core::turn::Position { frame: from, row: 0 };
        let found = lease.poll(0, at, 1 << 20).unwrap();
        let Some((last, _)) = found.last() else { break };
        from = last + 1;
    }
    println!("{from} frames read back in {:.2} s", start.elapsed().as_secs_f64());
}
