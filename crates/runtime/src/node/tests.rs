#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::OnceLock;

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{
    connector::{Chunk, Pull, Source, SourceReader},
    engine::StreamSpec as Spec,
    letter,
    operator::{Failure, Operator, Scope},
    table::StateTable,
};

use super::*;
use crate::{
    disk::sim::SimDisk,
    embedded::{self, EmbeddedEngine, Opened},
    sim::connectors::StepConnectors,
    stage::{Front, Limits, SourceFront},
};

/// Three rows, then nothing for ever.
struct Rows;

impl Source for Rows {
    fn finite(&self) -> bool {
        false
    }

    fn open(&self, _: u32, schema: SchemaRef, at: &[u8]) -> Result<Box<dyn SourceReader>> {
        Ok(Box::new(Reader(at.is_empty().then_some(schema))))
    }
}

struct Reader(Option<SchemaRef>);

impl SourceReader for Reader {
    fn pull(&mut self, _: Duration) -> Result<Pull> {
        let Some(schema) = self.0.take() else { return Ok(Pull::Idle) };
        Ok(Pull::Chunk(Box::new(move || Chunk {
            rows: RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2, 3]))])
                .unwrap(),
            places: vec![1, 2, 3],
            undecodable: Vec::new(),
            units: 3,
            skipped: 0,
            position: vec![1],
            durable: None,
        })))
    }
}

/// What a step does with a batch. It runs where a handler would, so the test can do in the middle
/// of a step what other threads do.
type Work = Arc<dyn Fn(&Node, &mut Scope<'_>) + Send + Sync>;

struct Worker(Work, Arc<OnceLock<Arc<Node>>>);

impl Operator for Worker {
    fn name(&self) -> &str {
        "worker"
    }

    fn tables(&mut self) -> Vec<&mut dyn StateTable> {
        Vec::new()
    }

    fn process(&mut self, _: &Batch, scope: &mut Scope<'_>) -> Result<(), Failure> {
        scope.enter()?;
        (self.0)(self.1.get().unwrap(), scope);
        Ok(())
    }
}

/// A node with one flow `f` of one task, driven by hand.
struct Bench {
    node: Arc<Node>,
    opened: Opened,
    connectors: Arc<StepConnectors>,
    fed: bool,
}

const NOW: Time = Time::from_ms(0);

impl Bench {
    fn new(work: impl Fn(&Node, &mut Scope<'_>) + Send + Sync + 'static) -> Bench {
        let disk = Arc::new(SimDisk::new(1));
        let opened = EmbeddedEngine::open(embedded::Options::default(), disk).unwrap();
        let connectors = Arc::new(StepConnectors::default());
        let (engine, work): (_, Work) = (opened.engine.clone(), Arc::new(work));
        let place = Arc::new(OnceLock::new());
        let known = place.clone();
        let dead = Spec {
            name: "dead".into(),
            schema: letter::SCHEMA.clone(),
            partitions: 1,
            retain_bytes: 1 << 20,
        };
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let stage = Stage {
            flow: "f".into(),
            name: "s".into(),
            partitions: 1,
            front: Front {
                source: Some(SourceFront {
                    name: "rows".into(),
                    source: Arc::new(Rows),
                    schema,
                    event_time: None,
                }),
                streams: Vec::new(),
            },
            chain: Arc::new(move |_| vec![Box::new(Worker(work.clone(), known.clone()))]),
            edges: Vec::new(),
            carried: Vec::new(),
            mailboxes: Vec::new(),
            sink: None,
            dead: engine.create_stream(&dead).unwrap(),
            limits: Limits::default(),
        };
        let node = Node::new(engine, connectors.clone(), Options::default()).unwrap();
        assert!(place.set(node.clone()).is_ok());
        node.deploy(vec![stage], NOW).unwrap();
        Bench { node, opened, connectors, fed: false }
    }

    /// Lets everything happen but steps of the task. `false` if none is due.
    fn ready(&mut self) -> bool {
        while self.opened.committer.step() == embedded::Progress::Worked {}
        // Asked again, it would only wake the task: nothing follows the first chunk.
        self.fed = self.fed || self.connectors.step(0);
        self.node.queue.quiet(&[0]).is_none()
    }

    /// Steps until nothing is to be done.
    fn run(&mut self) {
        while self.ready() {
            self.node.crank(NOW, &|| Duration::ZERO);
        }
    }

    fn tenant(&self) -> Arc<Tenant> {
        tenant(&self.node)
    }
}

fn tenant(node: &Node) -> Arc<Tenant> {
    lock(&lock(&node.slots)[0].current).clone()
}

/// Lets the watchdog see a call until it has had its time.
fn watch(node: &Node) -> usize {
    let mut seen = Seen::new();
    assert_eq!(node.watch(&mut seen, Duration::ZERO, NOW), 0);
    let stepped = NOW + Duration::from_secs(3600);
    assert_eq!(node.watch(&mut seen, Duration::ZERO, stepped), 0, "a clock was set right");
    node.watch(&mut seen, node.options.call_timeout, NOW)
}

#[test]
fn a_task_that_is_stopped_while_it_runs_lets_go_of_what_it_holds() {
    let mut bench = Bench::new(|node, _| node.tell(Event::StopFlow("f".into()), NOW));
    bench.run();
    assert_eq!(bench.node.flow("f"), Some(FlowState::Stopped));
    assert_eq!(bench.node.tasks()[0].stats.turns, 1, "its step came to an end");
    assert!(lock(&bench.tenant().task).is_closed());
}

#[test]
fn a_stopped_task_whose_thread_is_given_up_does_not_start_again() {
    // What fails in here would be caught: so it is only seen here, and judged below.
    let saw = Arc::new(Mutex::new(Vec::new()));
    let sees = saw.clone();
    let mut bench = Bench::new(move |node, _| {
        node.tell(Event::StopFlow("f".into()), NOW);
        lock(&sees).push((watch(node), node.queue.quiet(&[0]).is_some()));
    });
    let floor = bench.node.floor.clone();
    let hold = floor.take(0, true).unwrap();
    bench.run();
    assert_eq!(*lock(&saw), [(1, true)], "given up, and the new task is not to run");
    assert!(floor.take(1, true).is_some(), "what the old one held back goes on");
    drop(hold);
    assert_eq!(bench.tenant().running(), None);
    assert_eq!(bench.node.tasks()[0].stats, TaskStats::default(), "it has not run");
}

#[test]
fn a_thread_that_was_given_up_changes_nothing_and_its_task_goes_on() {
    let given_up = AtomicBool::new(false);
    let mut bench = Bench::new(move |node, _| {
        if !given_up.swap(true, Ordering::Relaxed) {
            assert_eq!(watch(node), 1);
            assert_eq!(node.queue.pop(NOW), Some(0), "another worker takes it at once");
            node.queue.wake(0);
            assert!(node.queue.done(0, Duration::ZERO, Next::Wait(None)));
        }
    });
    while bench.tenant().running().is_none() && !bench.node.is_stuck() {
        assert!(bench.ready());
        let slot = bench.node.queue.pop(NOW).unwrap();
        let returned = bench.node.run(slot, NOW, &|| Duration::ZERO);
        assert_eq!(returned, !bench.node.is_stuck(), "the thread ends");
    }
    assert!(bench.ready(), "the wake-up is not lost");
    bench.run();
    assert_eq!(bench.node.tasks()[0].stats.opens, 1, "of the new task");
}

#[test]
fn a_step_that_ends_just_in_time_is_not_given_up() {
    let saw = Arc::new(Mutex::new(None));
    let sees = saw.clone();
    let mut bench = Bench::new(move |node, _| *lock(&sees) = watch::running(&tenant(node)));
    bench.run();
    // The watchdog has looked before the step ended, and acts after it.
    let slot = lock(&bench.node.slots)[0].clone();
    let before = bench.tenant();
    let call = lock(&saw).take().unwrap();
    assert!(!bench.node.abandon(0, &slot, &before, call, NOW));
    assert!(Arc::ptr_eq(&before, &bench.tenant()) && !bench.node.is_stuck());
}
