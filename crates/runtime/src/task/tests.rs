//! A task whose engine refuses turns.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{
    Frame,
    connector::{Chunk, Source, SourceReader},
    engine::{Backlog, EngineStats, Lease, Recovered, Settlement, StreamInfo, StreamSpec},
    ledger::Ledger,
    letter,
    operator::{Failure, Operator, Outcome, Scope, Unit},
    table::StateTable,
    turn::{Change, StreamId},
};

use super::*;
use crate::{
    connect::{SourceJob, WriteJob},
    disk::SimDisk,
    embedded::{EmbeddedEngine, Opened, Options, Progress as Stepped},
    stage::{Front, SourceFront},
};

const NOW: Time = Time::from_ms(0);
/// The ticket of a turn that was refused.
const REFUSED: Ticket = Ticket(u64::MAX);

/// An engine that can refuse the turns of events that are tried alone, if the event was executed.
struct Refusing {
    inner: Arc<dyn Engine>,
    said: Arc<Said>,
}

#[derive(Default)]
struct Said {
    /// As what it refuses, if it does.
    refuses: Mutex<Option<Code>>,
    /// What each announcement said about how often the event was tried.
    attempts: Mutex<Vec<u32>>,
}

struct RefusingLease {
    inner: Box<dyn Lease>,
    said: Arc<Said>,
    refused: Option<Error>,
}

impl Engine for Refusing {
    fn create_stream(&self, spec: &StreamSpec) -> Result<StreamId> {
        self.inner.create_stream(spec)
    }

    fn streams(&self) -> Vec<StreamInfo> {
        self.inner.streams()
    }

    fn open(&self, spec: &TaskSpec) -> Result<Option<Box<dyn Lease>>> {
        let opened = self.inner.open(spec)?;
        Ok(opened.map(|inner| -> Box<dyn Lease> {
            Box::new(RefusingLease { inner, said: self.said.clone(), refused: None })
        }))
    }

    fn read(&self, s: StreamId, p: u32, from: u64, bytes_max: usize) -> Result<Vec<(u64, Frame)>> {
        self.inner.read(s, p, from, bytes_max)
    }

    fn backlog(&self, stream: StreamId) -> Backlog {
        self.inner.backlog(stream)
    }

    fn append(&self, stream: StreamId, partition: u32, frame: Frame) -> Result<Ticket> {
        self.inner.append(stream, partition, frame)
    }

    fn durable(&self, ticket: Ticket) -> bool {
        self.inner.durable(ticket)
    }

    fn ledger(&self) -> Ledger {
        self.inner.ledger()
    }

    fn committed(&self) -> Ticket {
        self.inner.committed()
    }

    fn visit_state(
        &self,
        task: TaskId,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<()> {
        self.inner.visit_state(task, take)
    }

    fn tasks(&self) -> Vec<(String, TaskId, Progress)> {
        self.inner.tasks()
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }
}

impl Lease for RefusingLease {
    fn task(&self) -> TaskId {
        self.inner.task()
    }

    fn recovered(&self) -> &Recovered {
        self.inner.recovered()
    }

    fn restore(
        &mut self,
        bytes_max: usize,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<bool> {
        self.inner.restore(bytes_max, take)
    }

    fn poll(&mut self, input: usize, from: Position, max: usize) -> Result<Vec<(u64, Frame)>> {
        self.inner.poll(input, from, max)
    }

    fn commit(&mut self, turn: Turn) -> Ticket {
        if turn.progress.announced > 0 {
            self.said.attempts.lock().unwrap().push(turn.progress.attempts);
            return self.inner.commit(turn);
        }
        let refuses = self.said.refuses.lock().unwrap().filter(|_| turn.outputs.is_empty());
        let Some(code) = refuses else { return self.inner.commit(turn) };
        self.refused = Some(Error::new(code, "not this one"));
        REFUSED
    }

    fn settled(&mut self, ticket: Ticket) -> Settlement {
        match self.refused.clone().filter(|_| ticket == REFUSED) {
            Some(error) => Settlement::Fatal(error),
            None => self.inner.settled(ticket),
        }
    }

    fn durable(&self, ticket: Ticket) -> bool {
        ticket != REFUSED && self.inner.durable(ticket)
    }
}

/// One row, then nothing.
struct OneRow;

impl Source for OneRow {
    fn finite(&self) -> bool {
        false
    }

    fn open(&self, _: u32, _: SchemaRef, _: &[u8]) -> Result<Box<dyn SourceReader>> {
        Err(Error::corrupt("not asked to be opened"))
    }
}

impl Connectors for OneRow {
    fn read(&self, job: SourceJob) {
        if !job.position.is_empty() {
            return;
        }
        let rows = vec![Arc::new(Int64Array::from(vec![1])) as _];
        let chunk = Chunk {
            rows: RecordBatch::try_new(job.schema.clone(), rows).unwrap(),
            places: vec![1],
            undecodable: Vec::new(),
            units: 1,
            skipped: 0,
            position: vec![1],
            durable: None,
        };
        let place = job.inlet.reserve().unwrap();
        job.inlet.fill(place, chunk);
    }

    fn write(&self, _: WriteJob) {}
}

/// Counts the calls that are executed.
struct Calls(Arc<AtomicU64>);

impl Operator for Calls {
    fn name(&self) -> &str {
        "calls"
    }

    fn tables(&mut self) -> Vec<&mut dyn StateTable> {
        Vec::new()
    }

    fn process(&mut self, rows: &Batch, scope: &mut Scope<'_>) -> Result<(), Failure> {
        for row in 0..rows.len() {
            let called = scope.unit(|_| {
                self.0.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })?;
            if let Outcome::Failed(failure) = called {
                let unit = Unit { origin: rows.origin(row), ..Unit::default() };
                scope.dead(&unit, failure, Vec::new());
            }
        }
        Ok(())
    }
}

/// A task driven by hand that tries its only event alone: it was opened twice without a turn.
struct Bench {
    opened: Opened,
    stage: Arc<Stage>,
    around: Surroundings,
    task: Task,
    said: Arc<Said>,
    calls: Arc<AtomicU64>,
}

impl Bench {
    fn new(refuses: Code) -> Bench {
        let opened = EmbeddedEngine::open(Options::default(), Arc::new(SimDisk::new(1))).unwrap();
        let said = Arc::new(Said { refuses: Mutex::new(Some(refuses)), ..Said::default() });
        let engine = Arc::new(Refusing { inner: opened.engine.clone(), said: said.clone() });
        let dead = StreamSpec {
            name: "f/dead".into(),
            schema: letter::SCHEMA.clone(),
            partitions: 1,
            retain_bytes: 1 << 20,
        };
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let calls = Arc::new(AtomicU64::new(0));
        let count = calls.clone();
        let stage = Arc::new(Stage {
            flow: "f".into(),
            name: "s".into(),
            partitions: 1,
            front: Front {
                source: Some(SourceFront {
                    name: "rows".into(),
                    source: Arc::new(OneRow),
                    schema,
                    event_time: None,
                }),
                streams: Vec::new(),
            },
            chain: Arc::new(move |_| vec![Box::new(Calls(count.clone()))]),
            edges: Vec::new(),
            carried: Vec::new(),
            mailboxes: Vec::new(),
            sink: None,
            dead: engine.create_stream(&dead).unwrap(),
            limits: Limits { rows_max: 1, ..Limits::default() },
        });
        let around = Surroundings {
            engine,
            connectors: Arc::new(OneRow),
            gate: Arc::new(|| true),
            sources: Arc::default(),
            floor: Arc::default(),
            slot: 0,
            waker: Arc::new(|| ()),
        };
        let task = Task::new(stage.clone(), 0, around.clone());
        let mut bench = Bench { opened, stage, around, task, said, calls };
        while bench.task.is_closed() {
            bench.task.step(NOW);
            bench.write();
        }
        bench.dies();
        bench
    }

    /// Makes everything durable. Whether there was anything.
    fn write(&mut self) -> bool {
        let mut wrote = false;
        while self.opened.committer.step() == Stepped::Worked {
            wrote = true;
        }
        wrote
    }

    /// The process ends and begins anew.
    fn dies(&mut self) {
        self.task = Task::new(self.stage.clone(), 0, self.around.clone());
    }

    /// Steps until it fails, or until nothing is left to be done.
    fn run(&mut self) -> Did {
        loop {
            let did = self.task.step(NOW);
            let wrote = self.write();
            if !wrote && did != Did::Worked || matches!(did, Did::Failed(_)) {
                return did;
            }
        }
    }

    fn is_refused(&mut self, code: Code) {
        let did = self.run();
        assert!(matches!(&did, Did::Failed(e) if e.code() == code), "{did:?}");
    }

    fn attempts(&self) -> Vec<u32> {
        self.said.attempts.lock().unwrap().clone()
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[test]
fn a_turn_that_the_engine_refuses_is_no_attempt_at_its_event() {
    let mut bench = Bench::new(Code::Unreachable);
    let refused = Limits::default().attempts_max + 2;
    (0..refused).for_each(|_| bench.is_refused(Code::Unreachable));
    assert_eq!(bench.attempts(), vec![1; refused as usize]);
    // A death is one, also after that.
    bench.dies();
    bench.is_refused(Code::Unreachable);
    assert_eq!(bench.attempts().last(), Some(&2));
    *bench.said.refuses.lock().unwrap() = None;
    assert!(matches!(bench.run(), Did::Idle { .. }));
    assert_eq!(bench.attempts().last(), Some(&2), "refused once more");
    assert_eq!((bench.task.stats().letters, bench.calls()), (0, u64::from(refused) + 2));
    assert_eq!(bench.opened.engine.tasks()[0].2.attempts, 0, "it is done with");
}

#[test]
fn an_event_whose_turn_is_too_large_is_set_aside_in_the_end() {
    let mut bench = Bench::new(Code::Limit);
    let attempts = Limits::default().attempts_max;
    (0..attempts).for_each(|_| bench.is_refused(Code::Limit));
    assert!(matches!(bench.run(), Did::Idle { .. }));
    assert_eq!(bench.attempts(), (1..=attempts + 1).collect::<Vec<_>>());
    assert_eq!((bench.task.stats().letters, bench.calls()), (1, u64::from(attempts)));
}
