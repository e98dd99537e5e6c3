//! How flows and their stages are, and whether every row is accounted for.

use std::collections::BTreeMap;

use millstream_core::{
    Result, Time,
    engine::{Engine, EngineStats},
    ledger::Ledger,
    turn::TableId,
};
use millstream_runtime::node::{FlowState, Node};
use serde::{Deserialize, Serialize};

use super::task_path;

/// How a node is, or what its directory says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version that answers.
    pub version: String,
    /// Whether a node runs; else its directory was read.
    pub running: bool,
    /// The node's process; 0 if none runs.
    pub pid: u32,
    /// How long it runs, in ms; 0 if it does not.
    pub uptime_ms: u64,
    /// Where it can be asked; empty if it does not run.
    pub http: String,
    /// Whether it takes nothing in any more.
    pub draining: bool,
    /// Why the process should be replaced, as printed: handlers that never returned; empty if it
    /// need not be.
    pub worn_out: String,
    /// A task that was in the middle of a step, as `flow/stage/task`; empty if none was.
    pub in_step: String,
    /// The flows, by name.
    pub flows: Vec<FlowView>,
    /// What the engine has done since it was opened.
    pub engine: EngineStats,
    /// What keeps the engine from writing, as printed; empty if nothing does. It goes on by itself.
    pub engine_error: String,
    /// Bytes that are committed and not durable yet.
    pub pending_bytes: u64,
}

/// How a flow is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowView {
    /// Its name.
    pub name: String,
    /// `running`, `finished`, `failed`, `stopped`; `at rest` if no node runs.
    pub state: String,
    /// Why it failed, as printed; empty if it has not.
    pub error: String,
    /// Records its sources have seen.
    pub records: u64,
    /// Rows they made of them.
    pub rows: u64,
    /// Dead letters: undecodable units, and records and firings whose handler failed.
    pub dead: u64,
    /// Times a handler failed and its process went on from the state before.
    pub restarts: u64,
    /// Rows that wait to be read.
    pub backlog_rows: u64,
    /// The highest time up to which its sources say that all events have come.
    pub watermark_ms: Option<i64>,
    /// Its stages, by name.
    pub stages: Vec<StageView>,
}

/// How a stage of a flow is, or a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// Its name.
    pub name: String,
    /// How many tasks it has; none if it is a sink whose rows go there with the turns they come
    /// from.
    pub tasks: u32,
    /// Live keys: processes, or windows that are open.
    pub keys: u64,
    /// Records it has seen, if it is a source; else rows it has read.
    pub read: u64,
    /// Times its tasks were opened again since the node started.
    pub reopened: u64,
    /// How often each row gets to its sink: `exactly once`, `at least once`; empty if it has none,
    /// or no node runs.
    pub each_row: String,
}

impl FlowView {
    /// Live keys in all stages.
    pub fn keys(&self) -> u64 {
        self.stages.iter().map(|s| s.keys).sum()
    }
}

/// How everything is; `node` if one runs in this process.
///
/// # Errors
/// If state cannot be read.
pub fn status(engine: &dyn Engine, node: Option<&Node>) -> Result<Status> {
    let health = engine.health();
    let in_step = node.map(|n| n.tasks()).unwrap_or_default().into_iter().find(|t| t.running);
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        running: node.is_some(),
        draining: node.is_some_and(|n| n.is_draining()),
        worn_out: node.and_then(Node::worn_out).map(|e| e.to_string()).unwrap_or_default(),
        in_step: in_step.map(|task| task.path.to_string()).unwrap_or_default(),
        flows: flows(engine, node)?,
        engine: engine.stats(),
        engine_error: health.error.map(|e| e.to_string()).unwrap_or_default(),
        pending_bytes: health.pending_bytes,
        ..Status::default()
    })
}

/// The flows, by name.
///
/// # Errors
/// If state cannot be read.
pub fn flows(engine: &dyn Engine, node: Option<&Node>) -> Result<Vec<FlowView>> {
    let mut flows: BTreeMap<String, (FlowView, BTreeMap<String, StageView>)> = BTreeMap::new();
    let mut elsewhere = Vec::new();
    for (name, id, progress) in engine.tasks() {
        let Some((flow, stage, _)) = task_path(&name) else { continue };
        let (view, stages) = flows.entry(flow.to_string()).or_default();
        let entry = stages.entry(stage.to_string()).or_default();
        entry.tasks += 1;
        if node.is_none() {
            entry.keys += keys(engine, id, stage)?;
        }
        if progress.counters.source.is_some() && progress.watermark > Time::MIN {
            view.watermark_ms = view.watermark_ms.max(Some(progress.watermark.ms()));
        }
        let last = progress.counters.operators.get(stage).or_else(|| {
            // A stage is called after its first step; where that is a source, any other will do.
            progress.counters.operators.values().next()
        });
        let seen = progress.counters.source.map(|s| s.units.saturating_sub(s.skipped));
        entry.read += seen.or(last.map(|counted| counted.read)).unwrap_or_default();
        let others = progress.counters.operators.iter().filter(|(name, _)| *name != stage);
        elsewhere.extend(others.map(|(name, c)| (flow.to_string(), name.clone(), c.read)));
    }
    for sink in node.map(Node::sinks).unwrap_or_default() {
        let entry = flows.entry(sink.flow).or_default().1.entry(sink.name).or_default();
        entry.each_row = sink.promise.to_string();
    }
    // Rows that a turn has taken to a sink are counted in the task they come from.
    for (flow, stage, read) in elsewhere {
        if let Some(entry) = flows.get_mut(&flow).and_then(|(_, stages)| stages.get_mut(&stage)) {
            entry.read += read;
        }
    }
    for (name, state) in node.map(|n| n.flows()).unwrap_or_default() {
        let view = &mut flows.entry(name).or_default().0;
        let (state, error) = match state {
            FlowState::Running => ("running", String::new()),
            FlowState::Finished => ("finished", String::new()),
            FlowState::Stopped => ("stopped", String::new()),
            FlowState::Failed(error) => ("failed", error.to_string()),
        };
        (view.state, view.error) = (state.into(), error);
    }
    for task in node.map(|n| n.tasks()).unwrap_or_default() {
        let stages = &mut flows.entry(task.path.flow).or_default().1;
        let entry = stages.entry(task.path.stage).or_default();
        entry.keys += task.keys as u64;
        entry.reopened += task.stats.opens.saturating_sub(1);
    }
    let ledger = engine.ledger();
    let streams = engine.streams();
    let view = |(name, (mut view, stages)): (String, (FlowView, BTreeMap<String, StageView>))| {
        let own = |place: &str| place.strip_prefix(&name).is_some_and(|rest| rest.starts_with('/'));
        for (_, counted) in ledger.sources.iter().filter(|(place, _)| own(place)) {
            view.records += counted.units - counted.skipped.min(counted.units);
            view.rows += counted.rows;
            view.dead += counted.undecodable;
        }
        for (_, counted) in ledger.operators.iter().filter(|(place, _)| own(place)) {
            view.dead += counted.dead + counted.dead_firings;
            view.restarts += counted.dead + counted.dead_firings;
        }
        view.backlog_rows =
            streams.iter().filter(|s| own(&s.spec.name)).map(|s| s.backlog.rows).sum();
        if view.state.is_empty() {
            view.state = "at rest".into();
        }
        view.stages = stages.into_iter().map(|(name, s)| StageView { name, ..s }).collect();
        view.name = name;
        view
    };
    Ok(flows.into_iter().map(view).collect())
}

/// Keys with state in a task, counted in the log.
fn keys(engine: &dyn Engine, task: millstream_core::turn::TaskId, stage: &str) -> Result<u64> {
    let table = TableId::of(stage);
    let mut keys = std::collections::HashSet::new();
    engine.visit_state(task, &mut |change| {
        if change.table == table {
            match change.value {
                Some(_) => keys.insert(change.key.to_vec()),
                None => keys.remove(change.key),
            };
        }
        Ok(())
    })?;
    Ok(keys.len() as u64)
}

/// The ledger, and what does not balance in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerView {
    /// Whether every law holds.
    pub balanced: bool,
    /// The lines that do not balance, as a person reads them.
    pub violations: Vec<String>,
    /// Every law, line by line.
    #[serde(flatten)]
    pub ledger: Ledger,
}

/// The ledger over what is committed.
pub fn ledger(engine: &dyn Engine) -> LedgerView {
    let ledger = engine.ledger();
    let violations = ledger.violations();
    LedgerView { balanced: violations.is_empty(), violations, ledger }
}
