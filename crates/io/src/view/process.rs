//! Processes: the state of one key, read from the log or from its task.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_core::{
    Code, Error, Key, Result,
    engine::Engine,
    key::display,
    partitioner::Partitioner,
    turn::{TableId, TaskId},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{instead, task_path};

/// Turns a process's committed bytes into something to look at: an object with at least `version`,
/// `timers` and `state`. Handed in, since only the typed API knows what it has written.
pub type ShowState = Arc<dyn Fn(&[u8]) -> Result<Value> + Send + Sync>;

/// A process as it was last committed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Its flow.
    pub flow: String,
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: String,
    /// The partition that has it, which is also its task's number.
    pub partition: u32,
    /// Version, timers and state.
    #[serde(flatten)]
    pub process: Value,
}

/// The tasks of a process kind, per flow that has it: `(flow, tasks by partition)`.
///
/// # Errors
/// [`Code::Unknown`] with "did you mean" if no flow has the kind.
fn tasks(engine: &dyn Engine, kind: &str) -> Result<Vec<(String, BTreeMap<u32, TaskId>)>> {
    let mut flows: BTreeMap<String, BTreeMap<u32, TaskId>> = BTreeMap::new();
    let mut stages: BTreeMap<String, Vec<TaskId>> = BTreeMap::new();
    for (name, id, _) in engine.tasks() {
        let Some((flow, stage, partition)) = task_path(&name) else { continue };
        if stage == kind
            && let Ok(partition) = partition.parse()
        {
            flows.entry(flow.to_string()).or_default().insert(partition, id);
        }
        stages.entry(stage.to_string()).or_default().push(id);
    }
    if !flows.is_empty() {
        return Ok(flows.into_iter().collect());
    }
    // Sources and sinks are stages too: a kind is what has state under its own name.
    let mut kinds = BTreeSet::new();
    for (stage, tasks) in &stages {
        let table = TableId::of(stage);
        let mut has = false;
        for task in tasks {
            engine.visit_state(*task, &mut |change| {
                has |= change.table == table;
                Ok(())
            })?;
            if has {
                kinds.insert(stage.as_str());
                break;
            }
        }
    }
    Err(unknown_kind(kind, &kinds))
}

/// That there is no such kind, and which there are.
pub(crate) fn unknown_kind(kind: &str, kinds: &BTreeSet<&str>) -> Error {
    let error = Error::new(Code::Unknown, format!("there is no process kind `{kind}`"));
    instead(error, kind, kinds.iter().copied(), "no flow here has processes yet")
}

/// That there is no such process.
pub(crate) fn unknown_key(kind: &str, key: &str) -> Error {
    Error::new(Code::Unknown, format!("there is no process {kind}/{key}"))
        .help("a process exists from its first event until it ends; keys are case-sensitive")
}

/// A process's committed bytes, read from the log.
///
/// *Cost:* reads the state of its partition.
///
/// # Errors
/// [`Code::Unknown`] if there is no such kind or key.
pub fn process_in_log(engine: &dyn Engine, kind: &str, key: &str) -> Result<(Found, Vec<u8>)> {
    let table = TableId::of(kind);
    for (flow, tasks) in tasks(engine, kind)? {
        // Tasks are numbered from 0 and all exist, or none has state.
        let partitions = tasks.last_key_value().map_or(1, |(last, _)| last + 1);
        let places = |key: Key| {
            // The log does not say by which one the flow works.
            let all = [Partitioner::Slots, Partitioner::Murmur2];
            let all = BTreeSet::from(all.map(|by| by.of(key.bytes(), partitions)));
            all.into_iter().map(move |at| (key.clone(), at))
        };
        for (candidate, partition) in Key::candidates(key).into_iter().flat_map(places) {
            let Some(task) = tasks.get(&partition) else { continue };
            let mut found = None;
            engine.visit_state(*task, &mut |change| {
                if change.table == table && change.key == candidate.bytes() {
                    found = change.value.map(<[u8]>::to_vec);
                }
                Ok(())
            })?;
            if let Some(bytes) = found {
                let key = candidate.bytes().to_vec();
                return Ok((Found { flow, kind: kind.into(), key, partition }, bytes));
            }
        }
    }
    Err(unknown_key(kind, key))
}

/// Which process was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its flow.
    pub flow: String,
    /// Its kind.
    pub kind: String,
    /// Its key's bytes.
    pub key: Vec<u8>,
    /// Its partition.
    pub partition: u32,
}

impl Found {
    /// The whole view, given how state is shown.
    ///
    /// # Errors
    /// If the bytes cannot be shown.
    pub fn view(self, bytes: &[u8], show: &ShowState) -> Result<ProcessView> {
        let Found { flow, kind, key, partition } = self;
        Ok(ProcessView { flow, kind, key: display(&key), partition, process: show(bytes)? })
    }
}

/// A process, read from the log.
///
/// # Errors
/// As [`process_in_log`].
pub fn find_process(
    engine: &dyn Engine,
    kind: &str,
    key: &str,
    show: &ShowState,
) -> Result<ProcessView> {
    let (found, bytes) = process_in_log(engine, kind, key)?;
    found.view(&bytes, show)
}

/// All processes of a kind behind key `after`, in the order of their key bytes, at most `limit`.
///
/// *Cost:* reads the kind's whole state.
///
/// # Errors
/// [`Code::Unknown`] if there is no such kind, or no process behind `after` any more.
pub fn processes(
    engine: &dyn Engine,
    kind: &str,
    after: Option<&str>,
    limit: usize,
    show: &ShowState,
) -> Result<Vec<ProcessView>> {
    let table = TableId::of(kind);
    let after = match after {
        Some(key) => Some(process_in_log(engine, kind, key)?.0.key),
        None => None,
    };
    let mut all = BTreeMap::new();
    for (flow, tasks) in tasks(engine, kind)? {
        for (partition, task) in tasks {
            engine.visit_state(task, &mut |change| {
                if change.table != table || after.as_deref().is_some_and(|a| change.key <= a) {
                    return Ok(());
                }
                let place = (change.key.to_vec(), flow.clone());
                match change.value {
                    Some(value) => all.insert(place, (partition, value.to_vec())),
                    None => all.remove(&place),
                };
                Ok(())
            })?;
            while all.len() > limit {
                all.pop_last();
            }
        }
    }
    let view = |((key, flow), (partition, bytes)): ((Vec<u8>, String), (u32, Vec<u8>))| {
        Found { flow, kind: kind.into(), key, partition }.view(&bytes, show)
    };
    all.into_iter().map(view).collect()
}
