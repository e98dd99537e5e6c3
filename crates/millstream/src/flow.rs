//! A flow: a named topology of sources, operators, processes and sinks.
//!
//! The builder only writes down what is asked for; [`crate::plan`] finds schemas, cuts stages and
//! says what does not fit.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::Duration,
};

use arrow_schema::{FieldRef, SchemaRef};
use millstream_core::{
    Error,
    connector::{Guarantee, Sink, Source},
    operator::Operator,
};
use millstream_io::HttpSource;
use millstream_runtime::stage::Limits;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_arrow::schema::{SchemaLike, TracingOptions};

use crate::{
    host::{HostSpec, ProcessHost, ProcessOptions},
    process::{Failure, Process},
    rows::{Filter, FlatMap, RowSpec},
    window::{Aggregate, Window},
};

/// Partitions of a keyed stream, unless the flow says otherwise: enough for as many cores, and few
/// enough for a turn of 500 rows to be worth its cost in each.
pub const PARTITIONS: u32 = 32;

/// A row type's columns, or why it has none.
pub(crate) type Fields = Result<Vec<FieldRef>, String>;

/// Makes the operator of a step from the schemas around it.
pub(crate) type MakeRows = Arc<dyn Fn(RowSpec) -> Box<dyn Operator> + Send + Sync>;
pub(crate) type MakeHost = Arc<dyn Fn(Arc<HostSpec>) -> Box<dyn Operator> + Send + Sync>;

pub(crate) enum StepKind {
    Source { source: Arc<dyn Source>, event_time: Option<EventTimeSpec>, rows: Option<Fields> },
    Rows { input: Fields, output: Option<Fields>, make: MakeRows },
    KeyBy { columns: Vec<String> },
    Process(ProcessStep),
    Window { window: Window, aggregates: Vec<Aggregate> },
    Sink { sink: Arc<dyn Sink> },
}

pub(crate) struct ProcessStep {
    pub type_id: TypeId,
    pub input: Fields,
    pub output: Fields,
    pub options: ProcessOptions,
    pub sides: Vec<(String, Fields)>,
    pub make: MakeHost,
}

/// What comes before a step: a step's index and its port.
pub(crate) type Upstream = (usize, usize);

pub(crate) struct Step {
    pub name: String,
    pub from: Vec<Upstream>,
    pub kind: StepKind,
}

/// How a source's event time is read.
#[derive(Clone, Debug)]
pub(crate) struct EventTimeSpec {
    pub column: String,
    pub delay: Duration,
    pub future_max: Duration,
    pub idle_after: Duration,
}

/// A named topology; see the crate's first page for one in full.
pub struct Flow {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) partitions: u32,
    pub(crate) limits: Limits,
    pub(crate) wrong: Vec<Error>,
    /// Sources that a node's HTTP server feeds.
    pub(crate) http: Vec<HttpSource>,
    at: Vec<Upstream>,
}

impl Flow {
    /// An empty flow. The name is how its streams and state are found again.
    pub fn new(name: &str) -> Flow {
        Flow {
            name: name.to_string(),
            steps: Vec::new(),
            partitions: PARTITIONS,
            limits: Limits::default(),
            wrong: Vec::new(),
            http: Vec::new(),
            at: Vec::new(),
        }
    }

    /// The flow's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Partitions of its keyed streams, 1 to 1024: how many tasks a stage has. Fixed once the flow
    /// has run.
    pub fn partitions(mut self, partitions: u32) -> Flow {
        self.partitions = partitions;
        self
    }

    /// Bounds of a turn, for tests and benches.
    pub fn limits(mut self, limits: Limits) -> Flow {
        self.limits = limits;
        self
    }

    /// Rows from a connector. Only the columns that later steps ask for are decoded.
    pub fn source(mut self, name: &str, source: impl Source + 'static) -> Flow {
        self.at = Vec::new();
        // The server must know it too; no other source concerns the node.
        self.http.extend((&source as &dyn Any).downcast_ref::<HttpSource>().cloned());
        let kind = StepKind::Source { source: Arc::new(source), event_time: None, rows: None };
        self.push(name, kind)
    }

    /// Says what the rows of the source just added look like, if no later step does.
    pub fn rows<T: Serialize + DeserializeOwned>(mut self) -> Flow {
        match self.last() {
            Some(StepKind::Source { rows, .. }) => *rows = Some(fields_of::<T>()),
            _ => self.complain("`rows` says what a source's rows look like and follows it"),
        }
        self
    }

    /// Reads event time from a column of the source just added (ms since the epoch, or text such as
    /// `2013-01-03 18:15`); its watermark is the highest time seen less `delay`.
    pub fn event_time(mut self, column: &str, delay: Duration) -> Flow {
        let spec = EventTimeSpec {
            column: column.to_string(),
            delay,
            future_max: Duration::from_secs(3600),
            idle_after: Duration::from_secs(5),
        };
        match self.last() {
            Some(StepKind::Source { event_time, .. }) => *event_time = Some(spec),
            _ => self.complain("`event_time` belongs to a source and follows it"),
        }
        self
    }

    /// How long the source just added may be silent before it no longer holds time back (5 s).
    pub fn idle_after(mut self, idle: Duration) -> Flow {
        match self.last() {
            Some(StepKind::Source { event_time: Some(spec), .. }) => spec.idle_after = idle,
            _ => self.complain("`idle_after` follows the `event_time` of a source"),
        }
        self
    }

    /// Turns each row into another.
    pub fn map<A, B>(self, name: &str, f: impl Fn(A) -> B + Send + Sync + Clone + 'static) -> Flow
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        B: Serialize + DeserializeOwned + Send + 'static,
    {
        self.flat_map(name, move |row: A| Some(f(row)))
    }

    /// Turns each row into any number of others.
    pub fn flat_map<A, B, I>(
        self,
        name: &str,
        f: impl Fn(A) -> I + Send + Sync + Clone + 'static,
    ) -> Flow
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        B: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = B> + 'static,
    {
        let make: MakeRows =
            Arc::new(move |spec| Box::new(FlatMap::<A, B, _>::new(spec, f.clone())));
        let kind = StepKind::Rows { input: fields_of::<A>(), output: Some(fields_of::<B>()), make };
        self.push(name, kind)
    }

    /// Keeps the rows for which `f` is true; the others are counted as filtered.
    pub fn filter<A>(
        self,
        name: &str,
        f: impl Fn(&A) -> bool + Send + Sync + Clone + 'static,
    ) -> Flow
    where
        A: Serialize + DeserializeOwned + Send + 'static,
    {
        let make: MakeRows = Arc::new(move |spec| Box::new(Filter::<A, _>::new(spec, f.clone())));
        self.push(name, StepKind::Rows { input: fields_of::<A>(), output: None, make })
    }

    /// The column that says which process a row belongs to.
    pub fn key_by(self, column: &str) -> Flow {
        self.key_by_all(&[column])
    }

    /// Several such columns.
    pub fn key_by_all(self, columns: &[&str]) -> Flow {
        let columns = columns.iter().map(|c| c.to_string()).collect();
        self.push("", StepKind::KeyBy { columns })
    }

    /// One supervised process per key. `options` is an [`crate::OnError`] or [`ProcessOptions`].
    pub fn process<P: Process>(self, name: &str, options: impl Into<ProcessOptions>) -> Flow {
        let make: MakeHost = Arc::new(|spec| Box::new(ProcessHost::<P>::new(spec)));
        let step = ProcessStep {
            type_id: TypeId::of::<P>(),
            input: fields_of::<P::In>(),
            output: fields_of::<P::Out>(),
            options: options.into(),
            sides: Vec::new(),
            make,
        };
        self.push(name, StepKind::Process(step))
    }

    /// Declares a side output of the process just added; see [`crate::Context::side_output`].
    pub fn side_output<T: Serialize + DeserializeOwned>(mut self, name: &str) -> Flow {
        match self.last() {
            Some(StepKind::Process(step)) => step.sides.push((name.to_string(), fields_of::<T>())),
            _ => self.complain("`side_output` belongs to a process and follows it"),
        }
        self
    }

    /// Aggregates per key and window of event time; one row per key and window, when it closes.
    pub fn window(self, name: &str, window: Window, aggregates: impl Into<Vec<Aggregate>>) -> Flow {
        self.push(name, StepKind::Window { window, aggregates: aggregates.into() })
    }

    /// Goes on from an earlier step, so that a stream can have several readers.
    pub fn from(mut self, step: &str) -> Flow {
        match self.find(step) {
            Some(at) => self.at = vec![(at, 0)],
            None => self.complain(&format!("there is no step `{step}` to go on from")),
        }
        self
    }

    /// Goes on from a side output of an earlier process, or from `$late` of an earlier window.
    pub fn from_side(mut self, step: &str, side: &str) -> Flow {
        let port = self.find(step).and_then(|at| match &self.steps[at].kind {
            StepKind::Process(p) => {
                p.sides.iter().position(|(name, _)| name == side).map(|n| (at, n + 1))
            }
            StepKind::Window { .. } if side == "$late" => Some((at, 1)),
            _ => None,
        });
        match port {
            Some(port) => self.at = vec![port],
            None => self.complain(&format!("step `{step}` has no side output `{side}`")),
        }
        self
    }

    /// Joins the stream of another step to the current one; both must have the same columns.
    pub fn connect(mut self, step: &str) -> Flow {
        match self.find(step) {
            Some(at) => self.at.push((at, 0)),
            None => self.complain(&format!("there is no step `{step}` to connect")),
        }
        self
    }

    /// Rows leave the node. The cursor stays before the sink, so that another can follow.
    pub fn sink(self, name: &str, sink: impl Sink + 'static) -> Flow {
        let before = self.at.clone();
        let mut flow = self.push(name, StepKind::Sink { sink: Arc::new(sink) });
        flow.at = before;
        flow
    }

    /// Finds everything that does not fit, without running anything; what fits says what is
    /// promised of it.
    ///
    /// # Errors
    /// The first thing that does not fit, with advice.
    pub fn check(&self) -> Result<Checked, Error> {
        crate::plan::plan(self, None)?;
        let sinks = self.sinks().map(|(name, sink)| (name.to_string(), sink.guarantee()));
        Ok(Checked { flow: self.name.clone(), sinks: sinks.collect() })
    }

    /// Its sinks, by name.
    pub(crate) fn sinks(&self) -> impl Iterator<Item = (&str, &dyn Sink)> {
        self.steps.iter().filter_map(|step| match &step.kind {
            StepKind::Sink { sink } => Some((step.name.as_str(), sink.as_ref())),
            _ => None,
        })
    }

    fn push(mut self, name: &str, kind: StepKind) -> Flow {
        let from = std::mem::take(&mut self.at);
        self.steps.push(Step { name: name.to_string(), from, kind });
        self.at = vec![(self.steps.len() - 1, 0)];
        self
    }

    fn last(&mut self) -> Option<&mut StepKind> {
        self.steps.last_mut().map(|s| &mut s.kind)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|s| s.name == name && !s.name.is_empty())
    }

    fn complain(&mut self, message: &str) {
        let message = format!("flow `{}`: {message}", self.name);
        self.wrong.push(Error::new(millstream_core::Code::Plan, message));
    }

    pub(crate) fn kinds(
        &self,
        mailbox: &BTreeMap<usize, usize>,
    ) -> BTreeMap<TypeId, (usize, String)> {
        let kinds = self.steps.iter().enumerate().filter_map(|(at, step)| match &step.kind {
            StepKind::Process(p) => Some((p.type_id, (*mailbox.get(&at)?, step.name.clone()))),
            _ => None,
        });
        kinds.collect()
    }
}

/// A flow that fits. Printed, it says of each sink what it promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The flow's name.
    pub flow: String,
    /// What each sink promises, by its name, in the order of the flow.
    pub sinks: Vec<(String, Guarantee)>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flow `{}` fits", self.flow)?;
        self.sinks.iter().try_for_each(|(sink, guarantee)| {
            write!(f, "\n  sink `{sink}` gets each row {guarantee}")
        })
    }
}

/// The columns that rows of type `T` need.
pub(crate) fn fields_of<T: for<'de> Deserialize<'de>>() -> Fields {
    let options =
        TracingOptions::default().strings_as_large_utf8(false).sequence_as_large_list(false);
    Vec::<FieldRef>::from_type::<T>(options)
        .map_err(|e| format!("{}: {}", std::any::type_name::<T>(), e.message()))
}

/// A schema of fields.
pub(crate) fn schema_of(fields: &[FieldRef]) -> SchemaRef {
    Arc::new(arrow_schema::Schema::new(fields.to_vec()))
}

/// An error of user code as a failure.
pub(crate) fn failure(e: impl std::fmt::Display) -> Failure {
    Failure::new(e.to_string())
}
