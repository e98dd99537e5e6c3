//! A task that counts, and what must be true of it whatever has happened.
//!
//! *The oracle:* the task's turn `n` appends the number `n` to two partitions of a stream and, as
//! a sink's row, to a topic of the user's, and changes keys that follow from `n` alone, but for a
//! sum that it keeps in its state. Whoever has seen `n` turns can tell all that is committed: a
//! turn that is lost, torn, or counted twice shows.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_brokers::{Brokers, Committed};
use millstream_core::{
    Batch, Frame, Result,
    connector::{Carried, RowEncoder},
    engine::{Engine, Lease, Settlement, StreamSpec, TaskSpec, Ticket},
    turn::{Change, Delta, InputProgress, Position, StreamId, TableId, Turn},
};
use millstream_kafka::{
    KafkaSink,
    client::{Client, TopicSpec, rd::RdClient},
    engine::{KafkaEngine, Options, Threads},
};
use millstream_runtime::conformance;
use serde::Deserialize;

/// How long anything may take that happens in the end.
pub const WITHIN: Duration = Duration::from_secs(60);
/// Said by an owner that is to be fenced, with all it writes.
pub const ZOMBIE: i64 = 666;
const PARTITIONS: u32 = 2;
const SUM: &[u8] = b"sum";

pub type State = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

/// Something to wait at, instead of sleeping.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<u64>,
    changed: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    /// Looks whenever it rings, and now and then, until there is something.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        // Clock: real brokers keep to it.
        let begun = Instant::now();
        loop {
            let seen = *self.rung.lock().unwrap();
            if let Some(found) = look() {
                return found;
            }
            assert!(begun.elapsed() < WITHIN, "not within {WITHIN:?}: {what}");
            let rung = self.rung.lock().unwrap();
            let wait = Duration::from_millis(20);
            drop(self.changed.wait_timeout_while(rung, wait, |rung| *rung == seen).unwrap());
        }
    }
}

/// A row in the user's topic.
#[derive(Deserialize)]
struct Said {
    n: i64,
    tag: i64,
}

/// An application of a test's own.
pub struct Scene<'a> {
    pub brokers: &'a Brokers,
    pub app: String,
}

/// A node of it.
pub struct Running {
    app: String,
    pub engine: KafkaEngine,
    pub client: Arc<dyn Client>,
    _threads: Threads,
}

/// A setting of librdkafka's.
type Setting = (&'static str, &'static str);
/// Of a node that does not wait for lost answers as long as it would in production.
pub const HASTE: Setting = ("socket.timeout.ms", "2000");
/// Of a node that gives a transaction up sooner.
pub const GIVES_UP: Setting = ("transaction.timeout.ms", "3000");

pub fn client(bootstrap: &str, settings: &[Setting]) -> Arc<dyn Client> {
    let servers = ("bootstrap.servers", bootstrap);
    let all = settings.iter().chain([&servers]);
    let all = all.map(|(name, value)| (name.to_string(), value.to_string()));
    RdClient::connect(all.collect(), "faults").unwrap()
}

/// Joins application `app`.
pub fn try_join(app: &str, bootstrap: &str) -> Result<Running> {
    try_join_with(app, bootstrap, &[])
}

fn try_join_with(app: &str, bootstrap: &str, settings: &[Setting]) -> Result<Running> {
    static RUNS: AtomicU64 = AtomicU64::new(1);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let (app, node) = (app.to_string(), format!("node-{}-{run}", std::process::id()));
    let incarnation = u64::from(std::process::id()) << 32 | run;
    let client = client(bootstrap, settings);
    let options = Options { app: app.clone(), node, incarnation, member: None };
    let connected = KafkaEngine::connect(&options, client.clone())?;
    let engine = connected.engine.clone();
    Ok(Running { app, engine, client, _threads: Threads::start(connected)? })
}

pub fn join(app: &str, bootstrap: &str) -> Running {
    try_join(app, bootstrap).unwrap()
}

/// The user's topic that the task writes to.
fn said(app: &str) -> String {
    format!("{app}-said")
}

/// Encodes rows for it, as the runtime has it done.
fn encoder(node: &Running) -> Box<dyn RowEncoder> {
    let name = said(&node.app);
    let spec = TopicSpec { name: name.clone(), partitions: 1, settings: Vec::new() };
    node.client.create_topic(&spec).unwrap();
    let sink = KafkaSink::json(node.client.clone(), &name);
    assert_eq!(Some(sink.place().unwrap()), node.engine.place().unwrap());
    sink.encoder(0, &schema()).unwrap()
}

fn schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![field("n"), field("tag")]))
}

/// What the task writes to.
pub fn out() -> StreamSpec {
    conformance::stream("f/out", PARTITIONS, u64::MAX)
}

fn change(delta: &mut Delta, key: &[u8], value: Option<&[u8]>) {
    delta.push(Change { table: TableId::of("t"), key, value });
}

/// What turn `n` does to the state.
fn delta(n: u64, sum: u64) -> Delta {
    let mut delta = Delta::default();
    change(&mut delta, &(n % 7).to_le_bytes(), Some(&n.to_le_bytes()));
    if n.is_multiple_of(3) {
        change(&mut delta, &((n + 1) % 7).to_le_bytes(), None);
    }
    change(&mut delta, SUM, Some(&sum.to_le_bytes()));
    delta
}

fn apply(state: &mut State, change: &Change<'_>) {
    let key = (change.table, change.key.to_vec());
    match change.value {
        Some(value) => drop(state.insert(key, value.to_vec())),
        None => drop(state.remove(&key)),
    }
}

/// The state after `turns` turns.
pub fn model(turns: u64) -> State {
    let mut state = State::new();
    for n in 1..=turns {
        for c in millstream_core::turn::changes(delta(n, n * (n + 1) / 2).bytes()) {
            apply(&mut state, &c.unwrap());
        }
    }
    state
}

/// A lease's state.
pub fn restored(lease: &mut dyn Lease) -> State {
    let mut state = State::new();
    let mut take = |c: Change<'_>| {
        apply(&mut state, &c);
        Ok(())
    };
    while !lease.restore(256, &mut take).unwrap() {}
    state
}

/// Opens a task, or says why it cannot be.
pub fn try_open(engine: &KafkaEngine, spec: &TaskSpec, bell: &Bell) -> Result<Box<dyn Lease>> {
    bell.until(&format!("to open {}", spec.name), || engine.open(spec).transpose())
}

/// The task's specification, and what it rings.
pub fn task(name: &str, inputs: &[(StreamId, u32)]) -> (TaskSpec, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    let rings = bell.clone();
    let spec = conformance::task(name, inputs);
    (TaskSpec { tasks: 1, waker: Arc::new(move || rings.ring()), ..spec }, bell)
}

/// Who owns the counting task, or believes so.
pub struct Owner {
    engine: KafkaEngine,
    spec: TaskSpec,
    out: StreamId,
    encoder: Box<dyn RowEncoder>,
    bell: Arc<Bell>,
    pub lease: Option<Box<dyn Lease>>,
    /// Turns known to be committed.
    pub turns: u64,
    /// Turns handed in, and their sum.
    handed: u64,
    sum: u64,
    /// What it says with every number.
    pub tag: i64,
}

impl Owner {
    /// Takes the task over; what it restores is what the turns until then make.
    pub fn open(node: &Running) -> Owner {
        let engine = node.engine.clone();
        let out = engine.create_stream(&out()).unwrap();
        let (spec, bell) = task("f/write/0", &[]);
        let encoder = encoder(node);
        let (lease, turns, handed, sum, tag) = (None, 0, 0, 0, 0);
        let mut owner = Owner { engine, spec, out, encoder, bell, lease, turns, handed, sum, tag };
        owner.reopen();
        owner
    }

    pub fn reopen(&mut self) {
        self.lease = None;
        let mut lease = try_open(&self.engine, &self.spec, &self.bell).unwrap();
        let turns = lease.recovered().progress.turn;
        let state = restored(&mut *lease);
        assert_eq!(state, model(turns), "the state that turn {turns} has left");
        let sum = state.get(&(TableId::of("t"), SUM.to_vec()));
        self.sum = sum.map_or(0, |sum| u64::from_le_bytes(sum.as_slice().try_into().unwrap()));
        (self.turns, self.handed) = (turns, turns);
        self.lease = Some(lease);
    }

    /// Hands in the next turn.
    pub fn commit(&mut self) -> Ticket {
        let lease = self.lease.as_mut().unwrap();
        self.handed += 1;
        let n = self.handed;
        self.sum += n;
        let frame = |p| (self.out, p, conformance::frame(lease.task(), n, &[n as i64, self.tag]));
        let outputs = (0..PARTITIONS).map(frame).collect();
        let mut turn = conformance::turn(n, outputs, delta(n, self.sum));
        let column = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
        let row = RecordBatch::try_new(schema(), vec![column(n as i64), column(self.tag)]);
        let row = Batch::derived(row.unwrap());
        turn.carried.push(self.encoder.encode(&[row], n).unwrap());
        turn.progress.counters.sent.insert(self.out, 2 * n * u64::from(PARTITIONS));
        lease.commit(turn)
    }

    /// What becomes of a turn.
    pub fn settled(&mut self, ticket: Ticket) -> Settlement {
        let lease = self.lease.as_mut().unwrap();
        let end = self.bell.until("a turn settles", || {
            Some(lease.settled(ticket)).filter(|end| *end != Settlement::Pending)
        });
        if end == Settlement::Ok {
            self.turns += 1;
        }
        end
    }

    /// Commits `more` turns, two at a time, as a task does: a lease that is lost is opened again,
    /// and what it recovers says what was committed.
    pub fn run(&mut self, more: u64) {
        let to = self.turns + more;
        while self.turns < to {
            let tickets: Vec<_> = (self.turns..to).take(2).map(|_| self.commit()).collect();
            for ticket in tickets {
                match self.settled(ticket) {
                    Settlement::Ok => {}
                    Settlement::Fenced | Settlement::Unknown => {
                        let (known, handed) = (self.turns, self.handed);
                        self.reopen();
                        assert!((known..=handed).contains(&self.turns), "{} turns", self.turns);
                        break;
                    }
                    end => panic!("turn {} after {} turns: {end:?}", self.handed, self.turns),
                }
            }
        }
    }
}

/// Turns that an owner commits in a thread of its own.
#[derive(Default)]
pub struct Steady {
    bell: Bell,
    turns: AtomicU64,
    stop: AtomicBool,
}

impl Steady {
    /// Commits until told to stop; the turns that are committed then.
    pub fn run(&self, owner: &mut Owner) -> u64 {
        while !self.stop.load(Ordering::Relaxed) {
            owner.run(2);
            self.turns.store(owner.turns, Ordering::Relaxed);
            self.bell.ring();
        }
        owner.turns
    }

    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Waits until `more` turns are committed.
    pub fn goes_on(&self, more: u64, what: &str) {
        let to = self.turns() + more;
        self.bell.until(what, || (self.turns() >= to).then_some(()));
    }

    /// Gives it a while for what was done to its links to have its effect; it need not go on.
    pub fn a_while(&self) {
        let enough = self.turns() + 20;
        let rung = self.bell.rung.lock().unwrap();
        // Longer than a hasty node waits for an answer.
        let wait = Duration::from_millis(2500);
        let lacks = |_: &mut u64| self.turns() < enough;
        drop(self.bell.changed.wait_timeout_while(rung, wait, lacks).unwrap());
    }

    /// Shows for a while that nothing is committed but what was on its way.
    pub fn stands_still(&self) {
        let most = self.turns() + 2;
        let rung = self.bell.rung.lock().unwrap();
        let wait = Duration::from_secs(3);
        let over = |_: &mut u64| self.turns() <= most;
        drop(self.bell.changed.wait_timeout_while(rung, wait, over).unwrap());
        assert!(self.turns() <= most, "it goes on: {} turns", self.turns());
    }

    /// Runs `disturb` while the owner commits; the turns that are committed in the end.
    pub fn while_it_runs(owner: &mut Owner, disturb: impl FnOnce(&Steady)) -> u64 {
        struct Stop<'a>(&'a Steady);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop.store(true, Ordering::Relaxed);
            }
        }
        let steady = Steady::default();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| steady.run(owner));
            let stop = Stop(&steady);
            disturb(&steady);
            drop(stop);
            running.join().unwrap()
        })
    }
}

/// The numbers that are committed in a partition, and what was said with them.
pub fn numbers(records: &[Committed], partition: u32) -> Vec<(i64, i64)> {
    let records = records.iter().filter(|r| r.partition == partition);
    let rows = records.flat_map(|r| {
        let bytes = r.value.clone().unwrap();
        conformance::numbers(&Frame::decode(bytes.into()).unwrap())
    });
    let rows: Vec<i64> = rows.collect();
    rows.chunks_exact(2).map(|pair| (pair[0], pair[1])).filter(|(n, _)| *n > 0).collect()
}

impl<'a> Scene<'a> {
    pub fn new(brokers: &'a Brokers, app: &str) -> Scene<'a> {
        Scene { brokers, app: app.into() }
    }

    /// A node that reaches the brokers through a proxy's links, or past it.
    pub fn node(&self, bootstrap: String) -> Running {
        self.node_with(bootstrap, &[])
    }

    /// One that is set otherwise than in production, so that the test takes less time.
    pub fn node_with(&self, bootstrap: String, settings: &[Setting]) -> Running {
        try_join_with(&self.app, &bootstrap, settings).unwrap()
    }

    pub fn out(&self) -> String {
        format!("{}.stream.f.out", self.app)
    }

    pub fn state(&self) -> String {
        format!("{}.state.f.write", self.app)
    }

    /// The turns that are committed, as the judge sees them; waits for `turns` of them. A commit is
    /// told when it is decided, and each partition shows it when the mark has come there.
    pub fn committed(&self, turns: u64) -> Vec<i64> {
        Bell::default().until(&format!("{turns} turns, whole, in {}", self.out()), || {
            let records = self.brokers.committed(&self.out());
            let (one, two) = (numbers(&records, 0), numbers(&records, 1));
            let rows = self.brokers.committed(&said(&self.app));
            let rows = rows.iter().map(|r| serde_json::from_str::<Said>(r.text()).unwrap());
            let said: Vec<_> = rows.map(|row| (row.n, row.tag)).collect();
            for other in [&two, &said] {
                let same = one.iter().zip(other).all(|(one, other)| one == other);
                assert!(same, "the partitions of a turn: {one:?} {other:?}");
            }
            assert!(one.iter().all(|(_, tag)| *tag != ZOMBIE), "a zombie has written: {one:?}");
            let whole = one.len() == two.len() && one.len() == said.len();
            let there = whole && one.len() as u64 >= turns;
            there.then(|| one.into_iter().map(|(n, _)| n).collect())
        })
    }

    /// Whether a reader of all numbers gets its turn committed.
    fn reads(&self, turns: u64, engine: &KafkaEngine, spec: &TaskSpec, bell: &Bell) -> bool {
        let mut reader = try_open(engine, spec, bell).unwrap();
        if reader.recovered().progress.turn == 1 {
            return true;
        }
        let mut turn = Turn::default();
        turn.progress.turn = 1;
        for input in 0..PARTITIONS as usize {
            let (next, rows) = bell.until("all numbers are read", || {
                let frames = reader.poll(input, Position::default(), usize::MAX).unwrap();
                let rows: Vec<_> =
                    frames.iter().flat_map(|(_, f)| conformance::numbers(f)).collect();
                let read = rows.chunks_exact(2).map(|pair| pair[0]).filter(|n| *n > 0);
                let next = frames.last().map_or(0, |(number, _)| number + 1);
                read.eq(1..=turns as i64).then_some((next, rows.len() as u64))
            });
            let position = Position { frame: next, row: 0 };
            let read = InputProgress { position, rows, ..InputProgress::default() };
            turn.progress.inputs.push(read);
        }
        let ticket = reader.commit(turn);
        bell.until("the reader's turn", || match reader.settled(ticket) {
            Settlement::Pending => None,
            Settlement::Ok => Some(true),
            Settlement::Fenced | Settlement::Unknown => Some(false),
            end => panic!("the reader's turn: {end:?}"),
        })
    }

    /// Each of `turns` turns is committed once and in order, the state is what its log replays to,
    /// whoever opens the task next finds both, and the ledger balances.
    pub fn verdict(&self, turns: u64) {
        assert_eq!(self.committed(turns), (1..=turns as i64).collect::<Vec<_>>(), "{}", self.app);
        let mut replayed = State::new();
        for record in self.brokers.committed(&self.state()) {
            // 2, the table, the key; see engine/codec.rs.
            if let [2, a, b, c, d, key @ ..] = record.key.as_deref().unwrap() {
                let table = TableId(u32::from_le_bytes([*a, *b, *c, *d]));
                apply(&mut replayed, &Change { table, key, value: record.value.as_deref() });
            }
        }
        assert_eq!(replayed, model(turns), "{}: the state that the log replays to", self.app);
        let node = self.node(self.brokers.bootstrap());
        let owner = Owner::open(&node);
        assert_eq!(owner.turns, turns);
        let inputs: Vec<_> = (0..PARTITIONS).map(|p| (owner.out, p)).collect();
        let (spec, bell) = task("f/read/0", &inputs);
        // Its id may have expired before it commits.
        Bell::default().until("a reader's turn is committed", || {
            self.reads(turns, &node.engine, &spec, &bell).then_some(())
        });
        let balances = || node.engine.ledger().violations().is_empty().then_some(());
        bell.until(&format!("{}: the ledger balances", self.app), balances);
    }
}
