//! The nodes that share an application's tasks, as people see them.

use serde::{Deserialize, Serialize};

use crate::{Code, Error};

/// What a node is to the others.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It reads what the others say and gets no tasks yet.
    #[default]
    Joining,
    /// It runs tasks.
    Active,
    /// It hands its tasks over.
    Leaving,
    /// It has left as planned.
    Left,
    /// It was declared dead.
    Dead,
}

impl NodeState {
    /// Whether the node is there.
    pub fn is_alive(self) -> bool {
        matches!(self, NodeState::Joining | NodeState::Active | NodeState::Leaving)
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            NodeState::Joining => "joining",
            NodeState::Active => "active",
            NodeState::Leaving => "leaving",
            NodeState::Left => "left",
            NodeState::Dead => "dead",
        }
    }
}

/// The cluster as one of its nodes knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The application.
    pub app: String,
    /// Who says so.
    pub node: String,
    /// Why that node takes over no task of a dead one at the moment; empty if nothing keeps it.
    pub hold: String,
    /// By name, some that have ended among them.
    pub nodes: Vec<NodeView>,
    /// By name.
    pub tasks: Vec<TaskView>,
}

/// A node of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Where it answers, as `host:port`; `-` if it does not listen.
    pub address: String,
    /// What it is.
    pub state: NodeState,
    /// Tasks that it owns.
    pub tasks: u64,
    /// Tasks that it follows.
    pub standbys: u64,
    /// Since its last sign of life, in ms.
    pub seen_ms: u64,
}

/// A task of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its name: `flow/stage/partition`.
    pub name: String,
    /// Who runs it, or is about to; empty if nobody does.
    pub owner: String,
    /// Whether it runs.
    pub open: bool,
    /// Who follows it.
    pub standbys: Vec<StandbyView>,
    /// Rows in its inputs that it has not read.
    pub backlog_rows: u64,
    /// Its last takeover, if one was told since the node that answers is there.
    pub takeover: Option<Takeover>,
}

/// A node that follows a task, to take it over at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyView {
    /// Its name.
    pub node: String,
    /// Turns that it is behind, at most; `None`: not known yet.
    pub lag_turns: Option<u64>,
}

/// How long it took to take a task over from a node that died.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// Whose the task was; empty if nobody knows any more.
    pub from: String,
    /// Who took it over.
    pub by: String,
    /// From the dead node's last sign of life until it was declared dead.
    pub detected_ms: u64,
    /// From there until the task was open elsewhere, so that the dead node could not write.
    pub fenced_ms: u64,
    /// From there until its first turn was committed.
    pub output_ms: u64,
    /// Since it was told.
    pub ago_ms: u64,
}

/// What a node without others answers to questions about others.
pub fn alone() -> Error {
    let message = "this node keeps all it has in a directory of its own: it is not one of many";
    Error::new(Code::Plan, message)
        .help("nodes share the work of an application through Kafka: --engine kafka://HOST:PORT --app NAME")
        .help("from one machine to many: docs/cluster.md")
}
