//! What a stage is: the description a flow hands to the node, from which its tasks are made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow_schema::SchemaRef;
use millstream_core::{
    Code, Error, Result,
    connector::{Guarantee, Sink, Source},
    engine::Engine,
    operator::{Operator, Port},
    partitioner::Partitioner,
    turn::StreamId,
};

/// Makes the operators of one task of a stage, fused into one chain.
pub type Chain = Arc<dyn Fn(u32) -> Vec<Box<dyn Operator>> + Send + Sync>;

/// The operators between two exchanges, and what is before and behind them.
#[derive(Clone)]
pub struct Stage {
    /// The flow's name.
    pub flow: String,
    /// The stage's name, unique in the flow.
    pub name: String,
    /// How many tasks.
    pub partitions: u32,
    /// Where rows come from.
    pub front: Front,
    /// What happens to them.
    pub chain: Chain,
    /// Where the chain's outputs go.
    pub edges: Vec<Edge>,
    /// Sinks that they go to with the turn.
    pub carried: Vec<CarriedSink>,
    /// The mailboxes its processes can send to, in the order the operators number them.
    pub mailboxes: Vec<Mailbox>,
    /// Where the last operator's rows leave the node, if they do.
    pub sink: Option<Arc<dyn Sink>>,
    /// The flow's dead-letter stream.
    pub dead: StreamId,
    /// Bounds of a turn.
    pub limits: Limits,
}

impl Stage {
    /// The engine's name for a task of this stage.
    pub fn task_name(&self, partition: u32) -> String {
        format!("{}/{}/{partition}", self.flow, self.name)
    }

    /// The sinks that its rows go to, by name, with how often each row gets there: one that its
    /// tasks write to, and those that the engine writes to with their turns.
    pub fn sinks(&self) -> impl Iterator<Item = (&str, &dyn Sink, Guarantee)> {
        let own = self.sink.iter().map(|s| (self.name.as_str(), s.as_ref(), s.guarantee()));
        let once = Guarantee::ExactlyOnce;
        own.chain(self.carried.iter().map(move |c| (c.name.as_str(), c.sink.as_ref(), once)))
    }
}

/// That no two sinks write to one place; each comes with its name, `flow/sink`.
///
/// # Errors
/// [`Code::Conflict`], naming both: what they write there together is not what either has promised.
pub fn apart<'a>(sinks: impl IntoIterator<Item = (String, &'a dyn Sink)>) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (name, sink) in sinks {
        let Some(file) = sink.file() else { continue };
        // A sink that the engine carries is every stage's that leads to it.
        if let Some(other) = seen.get(&file).filter(|other| **other != name) {
            let message = format!("sinks `{other}` and `{name}` both write to {file}");
            return Err(Error::new(Code::Conflict, message)
                .help("give each a file of its own, or `connect` the streams before one sink"));
        }
        seen.insert(file, name);
    }
    Ok(())
}

/// Whether `engine` writes a sink's rows with the turns they come from, so that the sink needs
/// neither `stream` nor a task.
///
/// Where the stream is there already, rows go through it: some may lie in it from before the flow
/// was moved to this engine, or from when the sink was another one, and none may overtake them. So
/// all nodes that run the same flow find the same: a stream never goes away, and none of them makes
/// this one.
///
/// # Errors
/// If it cannot be told now.
pub fn is_carried(sink: &dyn Sink, stream: &str, engine: &dyn Engine) -> Result<bool> {
    let Some(carried) = sink.carried() else { return Ok(false) };
    let Some(place) = engine.place()? else { return Ok(false) };
    Ok(!engine.has_stream(stream)? && carried.place()? == place)
}

/// Where a stage's rows come from: a connector, streams, or a connector and the mailbox of the
/// processes that it feeds without an exchange.
#[derive(Clone)]
pub struct Front {
    /// The connector.
    pub source: Option<SourceFront>,
    /// Partitions of streams, one input per stream.
    pub streams: Vec<StreamFront>,
}

/// A connector in front of a stage.
#[derive(Clone)]
pub struct SourceFront {
    /// The source's name in the flow; the stage may have that of its keyed step.
    pub name: String,
    /// Describes and opens it.
    pub source: Arc<dyn Source>,
    /// Rows are decoded into this.
    pub schema: SchemaRef,
    /// How event time is read and how far it lags.
    pub event_time: Option<EventTime>,
}

/// How a source's watermark is made: the highest event time seen, less a delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// The column's index; of type timestamp (ms) or 64-bit integer (ms).
    pub column: usize,
    /// How far out of order events may come.
    pub delay: Duration,
    /// An event further ahead of the turn's clock than this is set aside; never for finite
    /// sources.
    pub future_max: Duration,
    /// A source silent for so long no longer holds the watermark back.
    pub idle_after: Duration,
}

/// A stream in front of a stage.
#[derive(Clone, Debug)]
pub struct StreamFront {
    /// Which one.
    pub stream: StreamId,
    /// Its users' columns.
    pub schema: SchemaRef,
    /// Who feeds it with watermarks; time stands until each task has said something.
    pub producers: Vec<Producers>,
    /// How many partitions it has; each task reads its own.
    pub partitions: u32,
}

/// The tasks of a stage that feed a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producers {
    /// How many tasks the stage has.
    pub tasks: u32,
    /// Whether each of them feeds every partition ([`Route::Key`]), or only one ([`Route::Same`]).
    pub everywhere: bool,
}

impl Producers {
    /// How many of the tasks feed partition `partition` of `partitions`.
    pub fn of(self, partition: u32, partitions: u32) -> usize {
        match self.everywhere {
            true => self.tasks as usize,
            false => (0..self.tasks).filter(|t| t % partitions == partition).count(),
        }
    }
}

/// Where an operator's port leads.
#[derive(Clone)]
pub struct Edge {
    /// The operator's index in the chain and its port. The main port of any but the last leads to
    /// the next operator and has no edge.
    pub from: (usize, Port),
    /// The stream.
    pub stream: StreamId,
    /// Its users' columns.
    pub schema: SchemaRef,
    /// How many partitions it has.
    pub partitions: u32,
    /// Which partition a row goes to.
    pub route: Route,
    /// Whether its readers care for watermarks; a sink only wants to know the end.
    pub timed: bool,
}

/// A sink whose rows the engine writes with the turns they come from.
#[derive(Clone)]
pub struct CarriedSink {
    /// The operator's index in the chain and its port, as an [`Edge`]'s.
    pub from: (usize, Port),
    /// The sink's name in its flow.
    pub name: String,
    /// Its users' columns.
    pub schema: SchemaRef,
    /// Encodes the rows; it has [`Sink::carried`].
    pub sink: Arc<dyn Sink>,
}

/// Which partition a row goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By the key in these columns.
    Key(Vec<usize>),
    /// The task's own number, modulo the stream's partitions.
    Same,
}

/// A process kind's mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// The stream that its tasks read.
    pub stream: StreamId,
    /// How many partitions it has.
    pub partitions: u32,
    /// Which process lives in which.
    pub partitioner: Partitioner,
}

impl Mailbox {
    /// The partition of a process's key.
    pub fn partition_of(&self, key: &[u8]) -> u32 {
        self.partitioner.of(key, self.partitions)
    }
}

/// Bounds of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows taken in.
    pub rows_max: usize,
    /// Bytes of frames, or of a source's rows, taken in.
    pub bytes_max: usize,
    /// Timers and windows fired.
    pub firings_max: usize,
    /// How long it takes: after a longer one, fewer rows are taken in and less is fired.
    pub time_max: Duration,
    /// How long a source gathers what arrives after a turn before it begins the next one; less if
    /// its inlet is full. So an event that comes alone is taken at once, and a steady stream of
    /// them makes few turns with frames worth their cost.
    pub gather: Duration,
    /// How long a watermark may wait for rows to travel with.
    pub watermark_every: Duration,
    /// Times that an event is announced alone and ends the process, until it is set aside
    /// unexecuted.
    pub attempts_max: u32,
}

impl Limits {
    /// The same, with at most so many rows, and firings.
    pub fn at_most(self, units: usize) -> Limits {
        let (rows_max, firings_max) = (self.rows_max.min(units), self.firings_max.min(units));
        Limits { rows_max, firings_max, ..self }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            rows_max: 65_536,
            bytes_max: 8 << 20,
            firings_max: 16_384,
            time_max: Duration::from_millis(250),
            gather: Duration::from_millis(5),
            watermark_every: Duration::from_millis(100),
            attempts_max: 3,
        }
    }
}
