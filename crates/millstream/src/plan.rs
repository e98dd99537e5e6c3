//! From a flow to its stages: finds every step's columns, cuts the topology at exchanges, and says
//! in words what does not fit.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow_schema::{DataType, Field, FieldRef, SchemaRef, TimeUnit};
use millstream_core::{
    Code, Error, Result,
    connector::Source,
    engine::{Engine, StreamSpec},
    key::is_key_type,
    letter, nearest,
    operator::Operator,
    turn::StreamId,
};
use millstream_runtime::stage::{
    self, CarriedSink, Edge, EventTime, Front, Mailbox, Producers, Route, SourceFront, Stage,
    StreamFront,
};

use crate::{
    flow::{EventTimeSpec, Flow, Step, StepKind, Upstream, schema_of},
    host::HostSpec,
    process::Kinds,
    rows::RowSpec,
    window::{Shape, WindowOperator},
};

/// Bytes of dead letters, late rows and side outputs that are kept for a reader to come.
const RETAIN_BYTES: u64 = 1 << 30;

/// A mailbox keeps everything for its task, even while the task has not been opened yet; from then
/// on it keeps what the task has not read.
const KEEP_ALL: u64 = u64::MAX;

/// The stages of a flow, with their streams made on `engine`; without one it is only found out
/// whether the flow fits.
pub(crate) fn plan(flow: &Flow, engine: Option<&dyn Engine>) -> Result<Vec<Stage>> {
    if let Some(wrong) = flow.wrong.first() {
        return Err(wrong.clone());
    }
    let planner = Planner { flow, engine, consumers: consumers(flow) };
    planner.names()?;
    planner.kinds()?;
    stage::apart(flow.sinks().map(|(name, sink)| (format!("{}/{name}", flow.name()), sink)))?;
    let schemas = planner.schemas()?;
    planner.stages(&schemas)
}

struct Planner<'a> {
    flow: &'a Flow,
    engine: Option<&'a dyn Engine>,
    /// Who reads each step's port.
    consumers: BTreeMap<Upstream, Vec<usize>>,
}

/// Where rows go from the steps of a stage.
struct Ways<'a> {
    schemas: &'a BTreeMap<Upstream, SchemaRef>,
    /// The streams that are read by a stage, by the step at its head.
    inboxes: &'a BTreeMap<usize, Mailbox>,
    edges: Vec<Edge>,
    carried: Vec<CarriedSink>,
}

fn consumers(flow: &Flow) -> BTreeMap<Upstream, Vec<usize>> {
    let mut consumers: BTreeMap<Upstream, Vec<usize>> = BTreeMap::new();
    for (at, step) in flow.steps.iter().enumerate() {
        step.from.iter().for_each(|from| consumers.entry(*from).or_default().push(at));
    }
    consumers
}

impl Planner<'_> {
    fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::new(Code::Plan, format!("flow `{}`: {message}", self.flow.name))
    }

    fn step(&self, at: usize) -> &Step {
        &self.flow.steps[at]
    }

    fn names(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let good = |name: &str| !name.is_empty() && name.chars().all(plain);
        let bad = |what: String| {
            Err(self.error(what).help("names are made of letters, digits, `_` and `-`"))
        };
        if !good(self.flow.name()) {
            return bad("that cannot name a flow".into());
        }
        let mut seen = BTreeSet::new();
        for step in self.flow.steps.iter().filter(|s| !matches!(s.kind, StepKind::KeyBy { .. })) {
            if !good(&step.name) {
                return bad(format!("`{}` cannot name a step", step.name));
            }
            if !seen.insert(&step.name) {
                return Err(self.error(format!("two steps are called `{}`", step.name)).help(
                    "state and streams are found again by name, so each step needs its own",
                ));
            }
        }
        if !(1..=1024).contains(&self.flow.partitions) {
            return Err(
                self.error(format!("{} partitions; 1 to 1024 are possible", self.flow.partitions))
            );
        }
        Ok(())
    }

    /// `send::<P>` finds its mailbox by the type, so a type is one step's.
    fn kinds(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for step in &self.flow.steps {
            if let StepKind::Process(process) = &step.kind
                && let Some(other) = seen.insert(process.type_id, &step.name)
            {
                return Err(self
                    .error(format!("`{other}` and `{}` are processes of one type", step.name))
                    .help("a message is sent to a type: `struct Other(First);` makes another"));
            }
        }
        Ok(())
    }

    /// The columns of every step's ports, in the order of the steps.
    fn schemas(&self) -> Result<BTreeMap<Upstream, SchemaRef>> {
        let mut schemas = BTreeMap::new();
        for (at, step) in self.flow.steps.iter().enumerate() {
            let input = match step.from.as_slice() {
                [] => None,
                [first, rest @ ..] => {
                    let schema: &SchemaRef = &schemas[first];
                    if let Some(other) = rest.iter().find(|o| schemas[*o] != *schema) {
                        return Err(self.error(format!(
                            "`{}` and `{}` have other columns and cannot be connected",
                            self.step(first.0).name,
                            self.step(other.0).name
                        )));
                    }
                    Some(schema.clone())
                }
            };
            let need = || {
                input.clone().ok_or_else(|| {
                    self.error(format!(
                        "`{}` has nothing before it; start with `source`",
                        step.name
                    ))
                })
            };
            let fields = |fields: &crate::flow::Fields| fields.clone().map_err(|e| self.error(e));
            match &step.kind {
                StepKind::Source { source, event_time, rows } => {
                    let rows = rows.as_ref().map(&fields).transpose()?;
                    let schema =
                        self.source_schema(at, source.as_ref(), event_time.as_ref(), rows)?;
                    schemas.insert((at, 0), schema);
                }
                StepKind::Rows { input, output, .. } => {
                    let schema = need()?;
                    self.has(&schema, &fields(input)?, &step.name)?;
                    let output = output.as_ref().map(&fields).transpose()?;
                    schemas.insert((at, 0), output.map_or(schema, |f| schema_of(&f)));
                }
                StepKind::KeyBy { columns } => {
                    let schema = need()?;
                    for column in columns {
                        let field = self.column(&schema, column, "key_by")?;
                        if !is_key_type(field.data_type()) {
                            let is = field.data_type();
                            return Err(self
                                .error(format!("column `{column}` is {is} and cannot be a key"))
                                .help("a key is text, an integer, a bool, bytes or a timestamp"));
                        }
                    }
                    schemas.insert((at, 0), schema);
                }
                StepKind::Process(process) => {
                    let schema = need()?;
                    self.keys_of(at)?;
                    self.has(&schema, &fields(&process.input)?, &step.name)?;
                    schemas.insert((at, 0), schema_of(&fields(&process.output)?));
                    for (n, (_, side)) in process.sides.iter().enumerate() {
                        schemas.insert((at, n + 1), schema_of(&fields(side)?));
                    }
                }
                StepKind::Window { window, aggregates } => {
                    let schema = need()?;
                    let keys = self.keys_of(at)?;
                    if let Shape::Fixed { size, slide } = window.shape
                        && slide > size
                    {
                        return Err(self
                            .error(format!(
                                "window `{}` starts every {slide} ms and is {size} ms long: rows \
                                 between two windows would be in none",
                                step.name
                            ))
                            .help("make the slide no longer than the window"));
                    }
                    self.column(&schema, &window.time, &step.name)?;
                    self.has_event_time(at)?;
                    for aggregate in aggregates {
                        if let Some(column) = aggregate.column() {
                            self.column(&schema, column, &step.name)?;
                        }
                    }
                    let output = WindowOperator::output(&schema, &keys, aggregates);
                    schemas.insert((at, 0), output.map_err(|e| self.error(e))?);
                    schemas.insert((at, 1), schema);
                }
                StepKind::Sink { .. } => {
                    need()?;
                }
            }
        }
        Ok(schemas)
    }

    /// What a source is to decode: the columns its readers ask for.
    fn source_schema(
        &self,
        at: usize,
        source: &dyn Source,
        event_time: Option<&EventTimeSpec>,
        rows: Option<Vec<FieldRef>>,
    ) -> Result<SchemaRef> {
        let known = source.fields()?;
        let mut wanted = Wanted::default();
        match rows {
            Some(rows) => wanted.strong = rows,
            None => self.demand(at, &mut wanted)?,
        }
        let mut fields = wanted.fields();
        if fields.is_empty() {
            // What is read as text is what is in a CSV file; elsewhere it may be something else.
            let Some(names) = known.as_ref().filter(|_| !source.fields_vary()) else {
                return Err(self
                    .error(format!(
                        "nothing says what the rows of `{}` look like",
                        self.step(at).name
                    ))
                    .help("put `.rows::<T>()` behind the source"));
            };
            fields = names.iter().map(|n| Arc::new(Field::new(n, DataType::Utf8, true))).collect();
        }
        if let Some(spec) = event_time {
            let time =
                Field::new(&spec.column, DataType::Timestamp(TimeUnit::Millisecond, None), false);
            match fields.iter_mut().find(|f| f.name() == &spec.column) {
                Some(field)
                    if *field.data_type() == DataType::Utf8
                        && wanted.strong.iter().any(|f| f.name() == &spec.column) =>
                {
                    let column = &spec.column;
                    return Err(self
                        .error(format!("event time `{column}` is read as text by a later step"))
                        .help("make the field a millstream::Time, or an i64 (ms since 1970)"));
                }
                Some(field) => *field = Arc::new(time),
                None => fields.push(Arc::new(time)),
            }
        }
        if let Some(names) = known {
            let any = fields.iter().any(|f| names.contains(f.name()));
            for field in &fields {
                // One row may lack a field, or be a bad one; a name close to it is a slip.
                let slip = || nearest(field.name(), names.iter().map(String::as_str)).is_some();
                let may_lack = source.fields_vary() && (field.is_nullable() || any && !slip());
                if !names.contains(field.name()) && !may_lack {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    return Err(missing(
                        self.error(format!(
                            "source `{}` has no field `{}`",
                            self.step(at).name,
                            field.name()
                        )),
                        field.name(),
                        &names,
                    ));
                }
            }
        }
        Ok(schema_of(&fields))
    }

    /// Collects what the readers of step `at` ask for, through steps that keep its columns.
    fn demand(&self, at: usize, wanted: &mut Wanted) -> Result<()> {
        for &reader in self.consumers.get(&(at, 0)).into_iter().flatten() {
            match &self.step(reader).kind {
                StepKind::Rows { input, output, .. } => {
                    wanted.strong(input.clone().map_err(|e| self.error(e))?);
                    if output.is_none() {
                        self.demand(reader, wanted)?;
                    }
                }
                StepKind::KeyBy { columns } => {
                    columns.iter().for_each(|c| wanted.weak(c, DataType::Utf8));
                    self.demand(reader, wanted)?;
                }
                StepKind::Process(p) => wanted.strong(p.input.clone().map_err(|e| self.error(e))?),
                StepKind::Window { window, aggregates } => {
                    wanted.weak(&window.time, DataType::Timestamp(TimeUnit::Millisecond, None));
                    let columns = aggregates.iter().filter_map(|a| a.column());
                    columns.for_each(|c| wanted.weak(c, DataType::Float64));
                }
                StepKind::Source { .. } | StepKind::Sink { .. } => {}
            }
        }
        Ok(())
    }

    fn column<'s>(&self, schema: &'s SchemaRef, name: &str, step: &str) -> Result<&'s FieldRef> {
        schema.fields().iter().find(|f| f.name() == name).ok_or_else(|| {
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            missing(
                self.error(format!("`{step}` asks for column `{name}`, which its stream lacks")),
                name,
                &names,
            )
        })
    }

    /// Every field a row type needs must be there, as what it is read as; an `Option` may be
    /// missing.
    fn has(&self, schema: &SchemaRef, fields: &[FieldRef], step: &str) -> Result<()> {
        for field in fields {
            let column = match schema.field_with_name(field.name()) {
                Err(_) if field.is_nullable() => continue,
                _ => self.column(schema, field.name(), step)?,
            };
            let (is, read) = (column.data_type(), field.data_type());
            if sort(is).zip(sort(read)).is_some_and(|(is, read)| is != read) {
                return Err(self
                    .error(format!(
                        "column `{}` is {is}, and `{step}` reads it as {read}",
                        field.name()
                    ))
                    .help("change the field's type, or the step before, so that they agree"));
            }
        }
        Ok(())
    }

    /// A window closes when time passes its end, and only a source with event time moves time.
    fn has_event_time(&self, at: usize) -> Result<()> {
        for producer in self.producers(at) {
            match &self.step(producer.0).kind {
                StepKind::Source { event_time: Some(_), .. } => {}
                StepKind::Source { .. } => {
                    let source = &self.step(producer.0).name;
                    return Err(self
                        .error(format!("source `{source}` has no event time, so no window closes"))
                        .help("put `.event_time(column, delay)` behind the source"));
                }
                _ => self.has_event_time(producer.0)?,
            }
        }
        Ok(())
    }

    /// The key columns a keyed step reads by.
    fn keys_of(&self, at: usize) -> Result<Vec<String>> {
        let keys = self.step(at).from.iter().map(|from| match &self.step(from.0).kind {
            StepKind::KeyBy { columns } => Ok(columns.clone()),
            _ => Err(self
                .error(format!("nothing says by which key `{}` works", self.step(at).name))
                .help("put `.key_by(column)` before it")),
        });
        let keys = keys.collect::<Result<Vec<_>>>()?;
        Ok(keys.into_iter().next().unwrap_or_default())
    }

    /// The keyed step that reads source `at` without an exchange: rows are in its partitions by
    /// that step's key, and nobody else reads them.
    fn feeds(&self, at: usize) -> Option<usize> {
        let StepKind::Source { source, .. } = &self.step(at).kind else { return None };
        let (by, _) = source.partitioned_by()?;
        let mut at = at;
        loop {
            let [reader] = self.consumers.get(&(at, 0))?.as_slice() else { return None };
            let [_] = self.step(*reader).from.as_slice() else { return None };
            match &self.step(*reader).kind {
                // It keeps the column.
                StepKind::Rows { output: None, .. } => {}
                StepKind::KeyBy { columns } if *columns == [by] => {}
                StepKind::Process(_) | StepKind::Window { .. } => return Some(*reader),
                _ => return None,
            }
            at = *reader;
        }
    }

    /// The source in the stage of this head, if there is one, and which step it is.
    fn source_of(&self, head: usize) -> Option<(usize, &Arc<dyn Source>)> {
        let source = |at| match &self.step(at).kind {
            StepKind::Source { source, .. } if self.head(at) == head => Some((at, source)),
            _ => None,
        };
        (0..=head).find_map(source)
    }

    /// The step that stands at the head of the stage to which `at` belongs, and names it: a source,
    /// unless it is a keyed step's own.
    fn head(&self, at: usize) -> usize {
        match (&self.step(at).kind, self.step(at).from.as_slice()) {
            (StepKind::Source { .. }, _) => self.feeds(at).unwrap_or(at),
            (StepKind::Rows { .. }, [from]) if from.1 == 0 && self.consumers[from].len() == 1 => {
                self.head(from.0)
            }
            (StepKind::KeyBy { .. }, [from]) => self.head(from.0),
            _ => at,
        }
    }

    fn is_head(&self, at: usize) -> bool {
        !self.is_key_by(at) && self.head(at) == at
    }

    /// The real steps before `at`: key_by steps stand for what is before them.
    fn producers(&self, at: usize) -> Vec<Upstream> {
        let through = |from: &Upstream| match self.step(from.0).kind {
            StepKind::KeyBy { .. } => self.producers(from.0),
            _ => vec![*from],
        };
        self.step(at).from.iter().flat_map(through).collect()
    }

    fn partitions_of(&self, head: usize) -> u32 {
        if let Some((_, source)) = self.source_of(head) {
            return source.partitions();
        }
        match &self.step(head).kind {
            StepKind::Process(_) | StepKind::Window { .. } => self.flow.partitions,
            StepKind::Sink { sink } if !sink.partitioned() => 1,
            _ => self
                .producers(head)
                .iter()
                .map(|p| self.partitions_of(self.head(p.0)))
                .max()
                .unwrap_or(1),
        }
    }

    /// Makes stream `name`, or finds it.
    fn stream(
        &self,
        name: &str,
        schema: &SchemaRef,
        partitions: u32,
        retain_bytes: u64,
    ) -> Result<StreamId> {
        let name = format!("{}/{name}", self.flow.name);
        let spec = StreamSpec { name, schema: schema.clone(), partitions, retain_bytes };
        self.engine.map_or(Ok(StreamId(0)), |engine| engine.create_stream(&spec))
    }

    /// Whether a step is a sink that needs neither stream nor stage: see [`stage::is_carried`].
    fn is_carried(&self, at: usize) -> Result<bool> {
        match (&self.step(at).kind, self.engine) {
            (StepKind::Sink { sink }, Some(engine)) => {
                let stream = format!("{}/{}", self.flow.name, self.step(at).name);
                stage::is_carried(sink.as_ref(), &stream, engine)
            }
            _ => Ok(false),
        }
    }

    fn stages(&self, schemas: &BTreeMap<Upstream, SchemaRef>) -> Result<Vec<Stage>> {
        let flow = &self.flow.name;
        let dead = self.stream("$dead", &letter::SCHEMA, 1, RETAIN_BYTES)?;
        let (mut heads, mut inboxes) = (Vec::new(), BTreeMap::new());
        for head in (0..self.flow.steps.len()).filter(|at| self.is_head(*at)) {
            if self.is_carried(head)? {
                continue;
            }
            heads.push(head);
            if let [from, ..] = self.step(head).from[..] {
                let partitions = self.partitions_of(head);
                let name = &self.step(head).name;
                let stream = self.stream(name, &schemas[&from], partitions, KEEP_ALL)?;
                let by = self.source_of(head).and_then(|(_, source)| source.partitioned_by());
                let partitioner = by.map(|(_, partitioner)| partitioner).unwrap_or_default();
                inboxes.insert(head, Mailbox { stream, partitions, partitioner });
            }
        }
        let mailbox_order: Vec<usize> = heads
            .iter()
            .copied()
            .filter(|h| matches!(self.step(*h).kind, StepKind::Process(_)))
            .collect();
        let mailbox_index = mailbox_order.iter().enumerate().map(|(n, h)| (*h, n)).collect();
        let kinds = Kinds(Arc::new(self.flow.kinds(&mailbox_index)));
        let mailboxes: Vec<Mailbox> = mailbox_order.iter().map(|h| inboxes[h]).collect();
        let mut stages = Vec::new();
        for &head in &heads {
            let members: Vec<usize> = (0..self.flow.steps.len())
                .filter(|at| !self.is_key_by(*at) && self.head(*at) == head)
                .collect();
            let mut ways =
                Ways { schemas, inboxes: &inboxes, edges: Vec::new(), carried: Vec::new() };
            let operators = members.iter().filter(|m| self.has_operator(**m));
            for (operator, &member) in operators.clone().enumerate() {
                self.side_edges(member, operator, &mut ways)?;
            }
            let last = *members.last().unwrap_or(&head);
            self.edges_from((last, 0), operators.count().saturating_sub(1), &mut ways);
            let Ways { edges, carried, .. } = ways;
            stages.push(Stage {
                flow: flow.clone(),
                name: self.step(head).name.clone(),
                partitions: self.partitions_of(head),
                front: self.front(head, schemas, &inboxes),
                chain: self.chain(&members, schemas, &kinds)?,
                edges,
                carried,
                mailboxes: mailboxes.clone(),
                sink: match &self.step(head).kind {
                    StepKind::Sink { sink } => Some(sink.clone()),
                    _ => None,
                },
                dead,
                limits: self.flow.limits,
            });
        }
        Ok(stages)
    }

    fn has_operator(&self, at: usize) -> bool {
        !matches!(
            self.step(at).kind,
            StepKind::Source { .. } | StepKind::Sink { .. } | StepKind::KeyBy { .. }
        )
    }

    fn front(
        &self,
        head: usize,
        schemas: &BTreeMap<Upstream, SchemaRef>,
        inboxes: &BTreeMap<usize, Mailbox>,
    ) -> Front {
        let source = self.source_of(head).map(|(at, source)| {
            let schema = schemas[&(at, 0)].clone();
            let spec = match &self.step(at).kind {
                StepKind::Source { event_time, .. } => event_time.as_ref(),
                _ => None,
            };
            let event_time = spec.map(|spec| EventTime {
                column: schema.index_of(&spec.column).unwrap_or_default(),
                delay: spec.delay,
                future_max: spec.future_max,
                idle_after: spec.idle_after,
            });
            SourceFront {
                name: self.step(at).name.clone(),
                source: source.clone(),
                schema,
                event_time,
            }
        });
        let producer = |from: &Upstream| Producers {
            tasks: self.partitions_of(self.head(from.0)),
            everywhere: self.step(head).from.iter().any(|f| self.is_key_by(f.0)),
        };
        let streams = inboxes.get(&head).map(|inbox| {
            let (schema, producers) = match &source {
                // Nothing else comes to its processes but messages, and those tell no time.
                Some(source) => (source.schema.clone(), Vec::new()),
                None => (
                    schemas[&self.step(head).from[0]].clone(),
                    self.producers(head).iter().map(producer).collect(),
                ),
            };
            StreamFront { stream: inbox.stream, schema, producers, partitions: inbox.partitions }
        });
        Front { streams: streams.into_iter().collect(), source }
    }

    fn is_key_by(&self, at: usize) -> bool {
        matches!(self.step(at).kind, StepKind::KeyBy { .. })
    }

    /// Ways from a step's port to all its readers.
    fn edges_from(&self, from: Upstream, operator: usize, ways: &mut Ways<'_>) {
        for &reader in self.consumers.get(&from).into_iter().flatten() {
            let StepKind::KeyBy { columns } = &self.step(reader).kind else {
                self.edge(from, operator, reader, Route::Same, ways);
                continue;
            };
            let schema = &ways.schemas[&from];
            let keys: Vec<_> = columns.iter().filter_map(|c| schema.index_of(c).ok()).collect();
            for &target in self.consumers.get(&(reader, 0)).into_iter().flatten() {
                self.edge(from, operator, target, Route::Key(keys.clone()), ways);
            }
        }
    }

    fn edge(
        &self,
        from: Upstream,
        operator: usize,
        target: usize,
        route: Route,
        ways: &mut Ways<'_>,
    ) {
        let (step, schema) = (self.step(target), ways.schemas[&from].clone());
        let from = (operator, from.1);
        match (&step.kind, ways.inboxes.get(&target)) {
            (kind, Some(&Mailbox { stream, partitions, .. })) => {
                let timed = !matches!(kind, StepKind::Sink { .. });
                ways.edges.push(Edge { from, stream, schema, partitions, route, timed });
            }
            (StepKind::Sink { sink }, None) => {
                let (name, sink) = (step.name.clone(), sink.clone());
                ways.carried.push(CarriedSink { from, name, schema, sink });
            }
            // The next one in the chain.
            (_, None) => {}
        }
    }

    /// Ways from a step's side ports: to their readers, or to a stream that keeps the rows.
    fn side_edges(&self, at: usize, operator: usize, ways: &mut Ways<'_>) -> Result<()> {
        let names: Vec<String> = match &self.step(at).kind {
            StepKind::Process(p) => p.sides.iter().map(|(name, _)| format!("${name}")).collect(),
            StepKind::Window { .. } => vec!["$late".into()],
            _ => Vec::new(),
        };
        for (n, name) in names.iter().enumerate() {
            let from = (at, n + 1);
            if self.consumers.contains_key(&from) {
                self.edges_from(from, operator, ways);
                continue;
            }
            let schema = ways.schemas[&from].clone();
            let name = format!("{}{name}", self.step(at).name);
            let stream = self.stream(&name, &schema, 1, RETAIN_BYTES)?;
            ways.edges.push(Edge {
                from: (operator, n + 1),
                stream,
                schema,
                partitions: 1,
                route: Route::Same,
                timed: false,
            });
        }
        Ok(())
    }

    fn chain(
        &self,
        members: &[usize],
        schemas: &BTreeMap<Upstream, SchemaRef>,
        kinds: &Kinds,
    ) -> Result<millstream_runtime::stage::Chain> {
        let mut makers: Vec<Box<dyn Fn() -> Box<dyn Operator> + Send + Sync>> = Vec::new();
        for &at in members {
            let step = self.step(at);
            let name = step.name.clone();
            match &step.kind {
                StepKind::Rows { make, .. } => {
                    let (make, spec) =
                        (make.clone(), RowSpec { name, output: schemas[&(at, 0)].clone() });
                    makers.push(Box::new(move || make(spec.clone())));
                }
                StepKind::Process(process) => {
                    let input = &schemas[&step.from[0]];
                    let keys = self.keys_of(at)?;
                    let spec = Arc::new(HostSpec {
                        kind: name,
                        keys: keys.iter().filter_map(|k| input.index_of(k).ok()).collect(),
                        event_time: self
                            .event_time_column(at)
                            .and_then(|c| input.index_of(&c).ok()),
                        output: schemas[&(at, 0)].clone(),
                        sides: process
                            .sides
                            .iter()
                            .enumerate()
                            .map(|(n, (name, _))| (name.clone(), schemas[&(at, n + 1)].clone()))
                            .collect(),
                        kinds: kinds.clone(),
                        options: process.options.clone(),
                    });
                    let make = process.make.clone();
                    makers.push(Box::new(move || make(spec.clone())));
                }
                StepKind::Window { window, aggregates } => {
                    let input = schemas[&step.from[0]].clone();
                    let keys = self.keys_of(at)?;
                    let (window, aggregates, output) =
                        (window.clone(), aggregates.clone(), schemas[&(at, 0)].clone());
                    makers.push(Box::new(move || {
                        Box::new(WindowOperator::new(
                            &name,
                            &window,
                            &aggregates,
                            &input,
                            &keys,
                            output.clone(),
                        ))
                    }));
                }
                StepKind::Source { .. } | StepKind::Sink { .. } | StepKind::KeyBy { .. } => {}
            }
        }
        Ok(Arc::new(move |_| makers.iter().map(|make| make()).collect()))
    }

    /// The event-time column that reaches a step from its source, if its rows still have it.
    fn event_time_column(&self, at: usize) -> Option<String> {
        self.producers(at).iter().find_map(|p| match &self.step(p.0).kind {
            StepKind::Source { event_time, .. } => event_time.as_ref().map(|e| e.column.clone()),
            StepKind::Sink { .. } => None,
            _ => self.event_time_column(p.0),
        })
    }
}

/// Columns asked for: by type (strong), or by name with a guess at the type (weak).
#[derive(Default)]
struct Wanted {
    strong: Vec<FieldRef>,
    weak: Vec<(String, DataType)>,
}

impl Wanted {
    fn strong(&mut self, fields: Vec<FieldRef>) {
        for field in fields {
            if !self.strong.iter().any(|f| f.name() == field.name()) {
                self.strong.push(field);
            }
        }
    }

    fn weak(&mut self, name: &str, data_type: DataType) {
        if !self.weak.iter().any(|(n, _)| n == name) {
            self.weak.push((name.to_string(), data_type));
        }
    }

    fn fields(&self) -> Vec<FieldRef> {
        let mut fields = self.strong.clone();
        for (name, data_type) in &self.weak {
            if !fields.iter().any(|f| f.name() == name) {
                fields.push(Arc::new(Field::new(name, data_type.clone(), false)));
            }
        }
        fields
    }
}

/// What sort of value a column holds, where another sort cannot be read from it.
fn sort(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => Some("text"),
        DataType::Boolean => Some("truth"),
        DataType::Timestamp(..) => Some("number"), // milliseconds, or a `Time`
        other if other.is_numeric() => Some("number"),
        _ => None,
    }
}

fn missing(error: Error, name: &str, names: &[&str]) -> Error {
    let near = nearest(name, names.iter().copied());
    match near {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("it has: {}", names.join(", "))),
    }
}
