//! The test kit: a flow on a simulated node, with time, crashes and randomness in the test's hand.
//!
//! Sources are replaced by [`TestNode::put`], sinks by [`TestNode::sink`], unless a test keeps
//! them; everything else is production code on a simulated disk. The same seed gives the same run.

pub mod conformance;

use std::{
    any::TypeId,
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arrow_schema::SchemaRef;
use millstream_core::{
    Batch, Code, Error, Key, Result, Time,
    connector::{Chunk, Guarantee, Prepared, Pull, Sink, SinkWriter, Source, SourceReader},
    engine::Engine,
    frame::Frame,
    ledger::Ledger,
    letter::{self, Letter},
    partitioner::Partitioner,
    rng::Rng,
};
use millstream_io::{JsonDecoder, JsonEncoder, Place};
pub use millstream_runtime::sim::hang;
use millstream_runtime::sim::{Coverage, Setup, World};
use serde_json::Value;

use crate::{
    flow::{Flow, StepKind},
    host::decode_state,
    plan::plan,
    process::Process,
};

/// Steps after which a run is taken to be endless.
const STEPS_MAX: u64 = 5_000_000;

/// A flow under test.
pub struct TestNode {
    flow: Arc<Flow>,
    setup: Setup,
    inputs: BTreeMap<String, Arc<MemorySource>>,
    outputs: BTreeMap<String, Arc<MemorySink>>,
    world: Option<World>,
    lose: Option<u64>,
    /// Whether the test has looked at the ledger.
    asked: bool,
}

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The answer to the n-th commit from now is lost; its task finds out what happened.
    AtCommit(u64),
    /// The power fails now: what was not durable may be lost.
    Now,
    /// The process is killed now.
    Kill,
}

impl TestNode {
    /// A node that runs one flow.
    pub fn new(flow: Flow) -> TestNode {
        TestNode::keeping(flow, &[])
    }

    /// As [`TestNode::new`], but the sources and sinks called `own` stay the flow's. A run can only
    /// be repeated if they always do the same, without waiting: a generator, a file that nobody
    /// changes, a sink that drops everything.
    pub fn keeping(mut flow: Flow, own: &[&str]) -> TestNode {
        let mut inputs = BTreeMap::new();
        let mut outputs = BTreeMap::new();
        for step in flow.steps.iter_mut().filter(|step| !own.contains(&step.name.as_str())) {
            match &mut step.kind {
                StepKind::Source { source, .. } => {
                    let keyed = source.partitioned_by().map(|(column, by)| (column.into(), by));
                    let memory = Arc::new(MemorySource { keyed, ..MemorySource::default() });
                    inputs.insert(step.name.clone(), memory.clone());
                    *source = Arc::new(Shared(memory));
                }
                StepKind::Sink { sink } => {
                    let memory = Arc::new(MemorySink::default());
                    outputs.insert(step.name.clone(), memory.clone());
                    *sink = Arc::new(Shared(memory));
                }
                _ => {}
            }
        }
        TestNode {
            flow: Arc::new(flow),
            setup: Setup::default(),
            inputs,
            outputs,
            world: None,
            lose: None,
            asked: false,
        }
    }

    /// Everything random follows from it. Before the first run.
    pub fn seed(mut self, seed: u64) -> TestNode {
        self.setup.seed = seed;
        self
    }

    /// Rows in a turn, at most. Before the first run.
    pub fn turn_rows(mut self, rows: usize) -> TestNode {
        if let Some(flow) = Arc::get_mut(&mut self.flow) {
            flow.limits.rows_max = rows.max(1);
        }
        self
    }

    /// Faults, limits and the like. Before the first run.
    pub fn setup(mut self, change: impl FnOnce(&mut Setup)) -> TestNode {
        change(&mut self.setup);
        self
    }

    /// Adds a row to a source's input.
    ///
    /// # Panics
    /// If the flow has no such source.
    pub fn put(&mut self, source: &str, row: Value) -> &mut TestNode {
        self.put_line(source, &row.to_string())
    }

    /// Adds a line to a source's input, whatever it is.
    ///
    /// # Panics
    /// If the flow has no such source.
    pub fn put_line(&mut self, source: &str, line: &str) -> &mut TestNode {
        let input = self.inputs.get(source).unwrap_or_else(|| panic!("no source `{source}`"));
        lock(&input.lines).lines.push(line.as_bytes().to_vec());
        self
    }

    /// Ends all sources: windows close, timers of event time fire.
    pub fn end(&mut self) -> &mut TestNode {
        self.inputs.values().for_each(|i| lock(&i.lines).ended = true);
        self
    }

    /// Lets something go wrong.
    ///
    /// # Panics
    /// If the node does not come back.
    pub fn crash(&mut self, crash: Crash) -> &mut TestNode {
        match (crash, &mut self.world) {
            (Crash::AtCommit(n), Some(world)) => world.lose_answer(n),
            (Crash::AtCommit(n), None) => self.lose = Some(n),
            (Crash::Now, Some(world)) => {
                self.outputs.values().for_each(|sink| lock(&sink.file).power_cut());
                world.crash().unwrap_or_else(|e| panic!("after a crash: {e}"))
            }
            (Crash::Kill, Some(world)) => {
                world.kill().unwrap_or_else(|e| panic!("after a kill: {e}"))
            }
            (Crash::Now | Crash::Kill, None) => {}
        }
        self
    }

    /// Lets the next write to each sink fail half-way.
    pub fn fail_writes(&mut self) -> &mut TestNode {
        self.outputs.values().for_each(|sink| lock(&sink.file).fail = true);
        self
    }

    /// Ends a process as `millstream kill` does: it goes on from its committed state.
    ///
    /// # Panics
    /// If the flow has no such kind.
    pub fn kill(&mut self, kind: &str, key: impl Into<Key>) -> &mut TestNode {
        let (key, now, node) = (key.into(), self.now(), self.world().node().clone());
        let info = node.kinds().into_iter().find(|k| k.name == kind);
        let info = info.unwrap_or_else(|| panic!("no process kind `{kind}`"));
        node.kill(&info, key.bytes()).unwrap_or_else(|e| panic!("a kill of `{key}`: {e}"));
        node.note_kill(&info, key.bytes(), now);
        self
    }

    /// The world below.
    ///
    /// # Panics
    /// If the flow cannot be deployed.
    pub fn world(&mut self) -> &mut World {
        let (flow, setup, lose) = (&self.flow, &self.setup, &mut self.lose);
        self.world.get_or_insert_with(|| {
            let flow = flow.clone();
            let deploy = Box::new(move |engine: &dyn Engine| plan(&flow, Some(engine)));
            let mut world = World::new(setup.clone(), deploy).unwrap_or_else(|e| panic!("{e}"));
            if let Some(n) = lose.take() {
                world.lose_answer(n);
            }
            world
        })
    }

    /// Runs until nothing can happen without new input or time.
    ///
    /// # Panics
    /// If the flow fails or never comes to rest.
    pub fn run_until_idle(&mut self) -> &mut TestNode {
        self.try_run().unwrap_or_else(|e| panic!("{e}"));
        self
    }

    /// As [`TestNode::run_until_idle`], for flows that are to fail.
    ///
    /// # Errors
    /// Why the flow failed.
    pub fn try_run(&mut self) -> Result<()> {
        self.world().run_until_idle(STEPS_MAX)
    }

    /// Moves the clock and runs.
    pub fn advance(&mut self, by: Duration) -> &mut TestNode {
        self.world().advance(by);
        self.run_until_idle()
    }

    /// What a sink has been given, in order.
    ///
    /// # Panics
    /// If the flow has no such sink.
    pub fn sink(&self, name: &str) -> Vec<Value> {
        let sink = self.outputs.get(name).unwrap_or_else(|| panic!("no sink `{name}`"));
        let bytes = lock(&sink.file).seen.clone();
        bytes
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                serde_json::from_slice(line).unwrap_or_else(|e| panic!("sink `{name}`: {e}"))
            })
            .collect()
    }

    /// The committed state of a process.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn state<P: Process>(&mut self, key: &str) -> P {
        self.find_state::<P>(key).unwrap_or_else(|| panic!("no process with key `{key}`"))
    }

    /// The committed state of a process, if there is one.
    pub fn find_state<P: Process>(&mut self, key: &str) -> Option<P> {
        let kind = self.flow.steps.iter().find_map(|s| match &s.kind {
            StepKind::Process(p) if p.type_id == TypeId::of::<P>() => Some(s.name.clone()),
            _ => None,
        })?;
        let node = self.world().node().clone();
        let bytes = Key::candidates(key).iter().find_map(|k| node.inspect(&kind, k.bytes()))?;
        Some(decode_state(&bytes).unwrap_or_else(|e| panic!("state of `{key}`: {e}")))
    }

    /// What was set aside, in order.
    pub fn dead_letters(&mut self) -> Vec<Letter> {
        let frames = self.stream("$dead");
        let full = frames.iter().filter(|f| f.header.rows > 0);
        full.flat_map(|f| letter::from_frame(f).unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    /// The rows that came too late for a window, in order.
    pub fn late(&mut self, window: &str) -> Vec<Value> {
        let name = format!("{}/{window}$late", self.flow.name);
        let engine = self.world().engine().clone();
        let info = engine.streams().into_iter().find(|s| s.spec.name == name);
        let schema = info.unwrap_or_else(|| panic!("no stream `{name}`")).spec.schema;
        let mut bytes = Vec::new();
        for frame in self.stream(&format!("{window}$late")) {
            let wire = frame.rows(&Batch::wire_schema(&schema)).unwrap_or_else(|e| panic!("{e}"));
            let batch = Batch::from_wire(&wire, &schema).unwrap_or_else(|e| panic!("{e}"));
            JsonEncoder::new().encode(batch.rows(), &mut bytes).unwrap_or_else(|e| panic!("{e}"));
        }
        bytes
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap_or_else(|e| panic!("{e}")))
            .collect()
    }

    fn stream(&mut self, name: &str) -> Vec<Frame> {
        let name = format!("{}/{name}", self.flow.name);
        let engine = self.world().engine().clone();
        let Some(info) = engine.streams().into_iter().find(|s| s.spec.name == name) else {
            return Vec::new();
        };
        let mut frames = Vec::new();
        for (partition, range) in info.frames.iter().enumerate() {
            let mut at = range.start;
            while let Ok(read) = engine.read(info.id, partition as u32, at, usize::MAX)
                && let Some((last, _)) = read.last()
            {
                at = last + 1;
                frames.extend(read.into_iter().map(|(_, f)| f));
            }
        }
        frames
    }

    /// Every law of the ledger.
    pub fn ledger(&mut self) -> Ledger {
        self.asked = true;
        self.world().engine().ledger()
    }

    /// # Panics
    /// If a row is unaccounted for, naming every law that is broken.
    pub fn assert_ledger_balanced(&mut self) {
        let violations = self.ledger().violations();
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }

    /// What has happened to the node so far.
    pub fn coverage(&mut self) -> Coverage {
        let mut coverage = self.world().coverage();
        for file in self.outputs.values().map(|sink| lock(&sink.file)) {
            coverage.writes_failed += file.writes_failed;
            coverage.writes_lost += file.writes_lost;
        }
        coverage
    }

    /// The simulated clock.
    pub fn now(&mut self) -> Time {
        self.world().now()
    }
}

/// No test of a flow passes with a row unaccounted for, unless it has looked at the ledger itself.
impl Drop for TestNode {
    fn drop(&mut self) {
        if self.world.is_some() && !self.asked && !std::thread::panicking() {
            self.assert_ledger_balanced();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connector that the test and the node share.
struct Shared<T>(Arc<T>);

/// Lines handed in by the test.
#[derive(Default)]
struct MemorySource {
    lines: Mutex<Lines>,
    /// As the flow's own source has it; one partition is partitioned by anything.
    keyed: Option<(String, Partitioner)>,
}

#[derive(Default)]
struct Lines {
    lines: Vec<Vec<u8>>,
    ended: bool,
    /// How many lines were acknowledged as durable.
    acknowledged: usize,
}

impl Source for Shared<MemorySource> {
    fn finite(&self) -> bool {
        true
    }

    fn partitioned_by(&self) -> Option<(&str, Partitioner)> {
        self.0.keyed.as_ref().map(|(column, by)| (column.as_str(), *by))
    }

    fn open(&self, _: u32, schema: SchemaRef, position: &[u8]) -> Result<Box<dyn SourceReader>> {
        let at = match position {
            [] => 0,
            bytes => u64::from_le_bytes(bytes.try_into().map_err(|_| Error::corrupt("position"))?),
        };
        let acknowledged = lock(&self.0.lines).acknowledged as u64;
        assert!(at >= acknowledged, "line {acknowledged} was acknowledged and is lost");
        Ok(Box::new(MemoryReader { source: self.0.clone(), schema, at: at as usize }))
    }
}

struct MemoryReader {
    source: Arc<MemorySource>,
    schema: SchemaRef,
    at: usize,
}

impl SourceReader for MemoryReader {
    fn pull(&mut self, _: Duration) -> Result<Pull> {
        let lines = lock(&self.source.lines);
        let new = lines.lines[self.at..].to_vec();
        if new.is_empty() {
            return Ok(if lines.ended { Pull::End } else { Pull::Idle });
        }
        let first = Place { line: self.at as u64 + 1, offset: 0 };
        self.at += new.len();
        let (schema, at) = (self.schema.clone(), self.at as u64);
        let (source, end) = (self.source.clone(), self.at);
        let durable = move || {
            let mut lines = lock(&source.lines);
            lines.acknowledged = lines.acknowledged.max(end);
        };
        let mut decoder = JsonDecoder::new(schema)?;
        Ok(Pull::Chunk(Box::new(move || {
            let decoded = decoder.decode(&new.join(&b'\n'), first);
            Chunk {
                rows: decoded.rows,
                places: decoded.places,
                undecodable: decoded.undecodable,
                units: new.len() as u64,
                skipped: decoded.skipped,
                position: at.to_le_bytes().to_vec(),
                durable: Some(Box::new(durable)),
            }
        })))
    }
}

/// Bytes a sink has been given; once a write has succeeded, they are checked never to change.
#[derive(Default)]
struct MemorySink {
    file: Mutex<MemoryFile>,
}

/// What readers see, of which a power cut may take or spoil what no write has made durable.
#[derive(Default)]
struct MemoryFile {
    seen: Vec<u8>,
    durable: usize,
    fail: bool,
    writes_failed: u64,
    writes_lost: u64,
}

impl MemoryFile {
    /// Some number up to `max`, the same in every run of the same input.
    fn any(&self, max: usize) -> usize {
        let n = (self.writes_failed << 32) + (self.writes_lost << 16) + self.seen.len() as u64;
        Rng::new(n).below(max as u64 + 1) as usize
    }

    fn write(&mut self, at: usize, new: &[u8]) -> Result<()> {
        assert!(at <= self.durable, "a sink leaves a gap");
        let known = new.len().min(self.durable - at);
        assert_eq!(&self.seen[at..at + known], &new[..known], "a sink's bytes changed");
        let new = &new[known..];
        if new.is_empty() {
            return Ok(());
        }
        self.seen.truncate(self.durable);
        if std::mem::take(&mut self.fail) {
            self.writes_failed += 1;
            let part = self.any(new.len());
            self.seen.extend_from_slice(&new[..part]);
            return Err(Error::new(Code::Io, "the sink's disk has failed a write"));
        }
        self.seen.extend_from_slice(new);
        self.durable = self.seen.len();
        Ok(())
    }

    fn power_cut(&mut self) {
        let loose = self.seen.len() - self.durable;
        if loose > 0 {
            self.writes_lost += 1;
            let (kept, whole) =
                (self.durable + self.any(loose), self.durable + self.any(loose / 2));
            self.seen.truncate(kept);
            self.seen.iter_mut().skip(whole).for_each(|byte| *byte = 0);
        }
    }
}

impl Sink for Shared<MemorySink> {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn open(&self, _: u32, _: SchemaRef, note: &[u8]) -> Result<Box<dyn SinkWriter>> {
        let start = match note {
            [] => 0,
            bytes => u64::from_le_bytes(bytes.try_into().map_err(|_| Error::corrupt("note"))?),
        };
        Ok(Box::new(MemoryWriter {
            sink: self.0.clone(),
            at: start as usize,
            encoder: JsonEncoder::new(),
        }))
    }
}

struct MemoryWriter {
    sink: Arc<MemorySink>,
    at: usize,
    encoder: JsonEncoder,
}

impl SinkWriter for MemoryWriter {
    fn prepare(&mut self, rows: &[Batch]) -> Result<Prepared> {
        let mut bytes = Vec::new();
        rows.iter().try_for_each(|b| self.encoder.encode(b.rows(), &mut bytes))?;
        Ok(Prepared { note: (self.at as u64).to_le_bytes().to_vec(), bytes })
    }

    fn write(&mut self, prepared: &Prepared) -> Result<()> {
        lock(&self.sink.file).write(self.at, &prepared.bytes)?;
        self.at += prepared.bytes.len();
        Ok(())
    }
}

/// A folder for one test, removed when it is dropped.
pub struct Folder(std::path::PathBuf);

impl Folder {
    /// A new, empty folder among the system's temporary files.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(name: &str) -> Folder {
        static N: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("millstream-{name}-{}-{n}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Folder(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
