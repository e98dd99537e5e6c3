//! The cluster for people: who is there, who runs what, and how long the last takeovers took.

use std::sync::Arc;

use millstream_core::Time;

use super::{Member, NodeKey, State, Took};

/// The cluster as one node knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Who says so.
    pub by: Arc<str>,
    /// Why that node claims no task of a dead node at the moment, if so.
    pub hold: Option<&'static str>,
    /// By name.
    pub nodes: Vec<NodeSummary>,
    /// By name.
    pub tasks: Vec<TaskSummary>,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSummary {
    /// Its name.
    pub name: Arc<str>,
    /// Where it can be asked.
    pub address: Arc<str>,
    /// Which life.
    pub incarnation: u64,
    /// What it is.
    pub state: State,
    /// When its last record was read here.
    pub seen: Time,
    /// Tasks that it owns.
    pub owns: usize,
    /// Tasks that it follows.
    pub standbys: usize,
}

/// A task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSummary {
    /// Its name.
    pub name: Arc<str>,
    /// Who runs it, or is about to.
    pub owner: Option<Arc<str>>,
    /// Whether it runs.
    pub open: bool,
    /// Who follows it, and at most how far behind; `None`: not known yet.
    pub standbys: Vec<(Arc<str>, Option<u64>)>,
    /// The last takeover that was told: by whom, from whom if that is still known, how long.
    pub took: Option<(Arc<str>, Option<Arc<str>>, Took)>,
}

impl Member {
    /// What people want to know.
    pub fn summary(&self) -> Summary {
        let view = self.view();
        let name = |key: NodeKey| view.node(key).map(|n| n.name.clone());
        let nodes = view.nodes().map(|n| {
            let count = |of: fn(&super::Entry) -> bool| n.entries().filter(|(_, e)| of(e)).count();
            NodeSummary {
                name: n.name.clone(),
                address: n.address.clone(),
                incarnation: n.incarnation,
                state: n.state,
                seen: n.seen,
                owns: count(|e| e.is_owner()),
                standbys: count(|e| e.lag().is_some()),
            }
        });
        let tasks = self.names().map(|(task, task_name)| {
            let owner = view.owner(task);
            let open = owner.and_then(|owner| view.entry(owner, task));
            // The bits of a number bound it.
            let bound = |lag: u8| 1u64.checked_shl(u32::from(lag)).map(|bound| bound - 1);
            let standbys = view.standbys(task);
            let standbys = standbys.filter_map(|(node, lag)| Some((name(node)?, bound(lag))));
            let took = view.took(task);
            TaskSummary {
                name: task_name.clone(),
                owner: owner.and_then(name),
                open: matches!(open, Some(super::Entry::Owner { open: true, .. })),
                standbys: standbys.collect(),
                took: took.and_then(|(by, took)| Some((name(by)?, name(took.from), took))),
            }
        });
        let mut summary = Summary {
            by: view.node(self.key()).map_or_else(|| "".into(), |n| n.name.clone()),
            hold: self.hold(),
            nodes: nodes.collect(),
            tasks: tasks.collect(),
        };
        summary.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        summary.tasks.sort_by(|a, b| a.name.cmp(&b.name));
        summary
    }
}
