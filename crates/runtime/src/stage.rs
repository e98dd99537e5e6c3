//! What a stage is: the description a flow hands to the node, from which its tasks are made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow_schema::SchemaRef;
use millstream_core::{
    Code, Error, Result,
    connector::{Carried, Guarantee, Sink, Source},
    engine::Engine,
    operator::{Operator, Port},
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

    /// How often each row gets to its sink, if it has one: with the turn it comes from if `engine`
    /// carries it there, as it does for a flow that never did otherwise.
    pub fn promise(&self, engine: &dyn Engine) -> Option<Guarantee> {
        let sink = self.sink.as_deref()?;
        let Front::Streams(fronts) = &self.front else { return Some(sink.guarantee()) };
        let used = |stream| engine.tasks().iter().any(|t| t.2.counters.sent.contains_key(stream));
        let is_carried = carried(sink, engine).is_ok_and(|carried| carried.is_some());
        let once = is_carried && !fronts.iter().any(|front| used(&front.stream));
        Some(if once { Guarantee::ExactlyOnce } else { sink.guarantee() })
    }

    /// Its sink, if it has one, and the sink's name.
    pub fn named_sink(&self) -> Option<(String, &dyn Sink)> {
        Some((format!("{}/{}", self.flow, self.name), self.sink.as_deref()?))
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
        if let Some(other) = seen.get(&file) {
            let message = format!("sinks `{other}` and `{name}` both write to {file}");
            return Err(Error::new(Code::Conflict, message)
                .help("give each a file of its own, or `connect` the streams before one sink"));
        }
        seen.insert(file, name);
    }
    Ok(())
}

/// A sink as one whose rows the engine writes with the turn, if it can.
///
/// # Errors
/// If it cannot be told now.
pub fn carried<'a>(sink: &'a dyn Sink, engine: &dyn Engine) -> Result<Option<&'a dyn Carried>> {
    let Some(carried) = sink.carried() else { return Ok(None) };
    let Some(place) = engine.place()? else { return Ok(None) };
    Ok((carried.place()? == place).then_some(carried))
}

/// Where a stage's rows come from.
#[derive(Clone)]
pub enum Front {
    /// A connector.
    Source(SourceFront),
    /// Partitions of streams, one input per stream.
    Streams(Vec<StreamFront>),
}

/// A connector in front of a stage.
#[derive(Clone)]
pub struct SourceFront {
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
    /// The sink that reads the stream, if one does, and its stage's name. On an engine that can
    /// carry its rows they go there with the turn, and none into the stream.
    pub sink: Option<(String, Arc<dyn Sink>)>,
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
