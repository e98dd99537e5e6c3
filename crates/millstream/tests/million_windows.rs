//! One watermark step at which a million windows close, and one at which a million timers fire: a
//! turn stays bounded, so memory hardly grows, and every one of them comes out once.
//!
//! A binary of its own, since it measures the memory of the process it is in.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use arrow_array::{RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_schema::{DataType, SchemaRef};
use millstream::{Running, prelude::*, test::Folder};
use millstream_core::{
    Batch,
    connector::{Chunk, Guarantee, Prepared, Pull, Sink, SinkWriter, Source, SourceReader},
};

const WINDOWS: u64 = 1_000_000;
const CHUNK: u64 = 8_192;
/// What memory may grow by during the step.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// The first window begins here.
const START: i64 = 1_700_000_000_000;
const SIZE: Duration = Duration::from_secs(3600);
/// Longer than anything here takes; a test that hangs must say so.
const PATIENCE: Duration = Duration::from_secs(100);

type Answer<T> = millstream_core::Result<T>;

/// A row for each of a million keys; then, when it may, one that moves the watermark past them all.
#[derive(Clone, Default)]
struct Million {
    go: Arc<AtomicBool>,
}

impl Source for Million {
    fn finite(&self) -> bool {
        false
    }

    fn open(&self, _: u32, schema: SchemaRef, at: &[u8]) -> Answer<Box<dyn SourceReader>> {
        let at = at.try_into().map_or(0, u64::from_le_bytes);
        Ok(Box::new(Reader { source: self.clone(), schema, at }))
    }
}

struct Reader {
    source: Million,
    schema: SchemaRef,
    at: u64,
}

impl SourceReader for Reader {
    fn pull(&mut self, wait: Duration) -> Answer<Pull> {
        let may =
            self.at < WINDOWS || (self.at == WINDOWS && self.source.go.load(Ordering::SeqCst));
        if !may {
            std::thread::park_timeout(wait);
            return Ok(Pull::Idle);
        }
        let end = match self.at {
            WINDOWS => WINDOWS + 1,
            at => (at + CHUNK).min(WINDOWS),
        };
        let (numbers, schema) = (self.at..end, self.schema.clone());
        self.at = end;
        Ok(Pull::Chunk(Box::new(move || {
            let keys = StringArray::from_iter_values(numbers.clone().map(|n| format!("key-{n}")));
            let ts = numbers.clone().map(|n| START + if n == WINDOWS { 7_200_000 } else { 1 });
            let columns = |t: &DataType| -> arrow_array::ArrayRef {
                match t {
                    DataType::Utf8 => Arc::new(keys.clone()),
                    _ => Arc::new(TimestampMillisecondArray::from_iter_values(ts.clone())),
                }
            };
            let columns = schema.fields().iter().map(|f| columns(f.data_type())).collect();
            Chunk {
                rows: RecordBatch::try_new(schema, columns).unwrap(),
                places: numbers.clone().map(|n| n + 1).collect(),
                undecodable: Vec::new(),
                units: end - numbers.start,
                skipped: 0,
                position: end.to_le_bytes().to_vec(),
                durable: None,
            }
        })))
    }
}

/// Counts rows.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

impl Sink for Count {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn open(&self, _: u32, _: SchemaRef, _: &[u8]) -> Answer<Box<dyn SinkWriter>> {
        Ok(Box::new(self.clone()))
    }
}

impl SinkWriter for Count {
    fn prepare(&mut self, rows: &[Batch]) -> Answer<Prepared> {
        let n: usize = rows.iter().map(Batch::len).sum();
        Ok(Prepared { note: Vec::new(), bytes: (n as u64).to_le_bytes().to_vec() })
    }

    fn write(&mut self, prepared: &Prepared) -> Answer<()> {
        let n = u64::from_le_bytes(prepared.bytes.as_slice().try_into().unwrap());
        self.0.fetch_add(n, Ordering::SeqCst);
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    ts: i64,
}

#[derive(Default, Serialize, Deserialize)]
struct Alarm {
    rang: u32,
}

impl Process for Alarm {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        ctx.set_timer("ring", At::Event(Time::from_ms(row.ts) + SIZE));
        Ok(())
    }

    fn on_timer(&mut self, _: &str, ctx: &mut Context<Self>) -> Result<()> {
        self.rang += 1;
        ctx.emit(Row { key: ctx.key().into_owned(), ts: ctx.time().ms() });
        Ok(())
    }
}

/// A line of this process's status, in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    found.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Looks again and again, without keeping a core busy.
fn until(node: &Running, what: &str, reached: impl Fn() -> bool) {
    // Clock: only so that a hang is a failure.
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < PATIENCE, "still waiting: {what}");
        drop(node.heart().wait("million", Duration::from_millis(20)));
    }
}

fn step(name: &str, partitions: u32, flow: impl FnOnce(Flow) -> Flow) {
    let folder = Folder::new("million");
    let (source, out) = (Million::default(), Count::default());
    let go = source.go.clone();
    let flow = flow(
        Flow::new("million")
            .partitions(partitions)
            .source("rows", source)
            .event_time("ts", Duration::ZERO)
            .rows::<Row>()
            .key_by("key"),
    )
    .sink("out", out.clone());
    let node = Node::embedded(folder.path()).start().unwrap();
    node.deploy(&flow).unwrap();
    let read = || node.ledger().operators.get("million/closing/closing").map_or(0, |c| c.read);
    // Clock: what a person wants to know.
    let begun = Instant::now();
    until(&node, "all rows are in", || read() == WINDOWS);
    let open = begun.elapsed();
    assert_eq!(out.0.load(Ordering::SeqCst), 0, "{name}: nothing may close yet");

    std::fs::write("/proc/self/clear_refs", "5").unwrap(); // the peak is now
    let before = memory("VmRSS");
    go.store(true, Ordering::SeqCst);
    until(&node, "all windows are out", || out.0.load(Ordering::SeqCst) >= WINDOWS);
    let growth = memory("VmHWM").saturating_sub(before);
    println!(
        "{name}, {partitions} partitions: {WINDOWS} open after {open:?}, closed {:?} later; memory was {} MB and grew by {} MB",
        begun.elapsed() - open,
        before >> 20,
        growth >> 20
    );
    assert!(node.drain(PATIENCE));
    assert_eq!(out.0.load(Ordering::SeqCst), WINDOWS, "{name}");
    assert_eq!(node.ledger().operators["million/closing/closing"].fired, WINDOWS, "{name}");
    assert_eq!(node.ledger().violations(), Vec::<String>::new(), "{name}");
    node.stop();
    assert!(growth < GROWTH_BYTES_MAX, "{name}: memory grew by {growth} bytes");
}

/// One after the other: they share the memory that is measured. With four partitions each task
/// needs many turns for the step; sixty-four are what a flow has unless it says otherwise.
#[test]
fn a_step_that_closes_a_million_windows_or_fires_a_million_timers_takes_little_memory() {
    for partitions in [4, millstream::PARTITIONS] {
        let count = [Aggregate::count("n")];
        let windows = |flow: Flow| flow.window("closing", Window::tumble("ts", SIZE), count);
        step("windows", partitions, windows);
        step("timers", partitions, |flow| flow.process::<Alarm>("closing", OnError::DeadLetter));
    }
}
