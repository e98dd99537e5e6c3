//! The cluster for people: who is there, who runs what, and how long the last takeovers took.

use millstream_core::{
    Time,
    engine::{ClusterView, NodeView, StandbyView, Takeover, TaskView},
};

use super::{Entry, Member, NodeKey};

impl Member {
    /// What people want to know, as far as nodes tell each other.
    pub fn summary(&self, now: Time) -> ClusterView {
        let view = self.view();
        let name = |key: NodeKey| view.node(key).map(|n| n.name.to_string());
        let since = |then: Time| now.ms().saturating_sub(then.ms()).max(0).unsigned_abs();
        let nodes = view.nodes().map(|n| {
            let count = |of: fn(&Entry) -> bool| n.entries().filter(|(_, e)| of(e)).count() as u64;
            NodeView {
                name: n.name.to_string(),
                address: n.address.to_string(),
                state: n.state,
                tasks: count(|e| e.is_owner()),
                standbys: count(|e| e.lag().is_some()),
                seen_ms: since(n.seen),
            }
        });
        let tasks = self.names().map(|(task, task_name)| {
            let owner = view.owner(task);
            let open = owner.and_then(|owner| view.entry(owner, task));
            // The bits of a number bound it.
            let bound = |lag: u8| 1u64.checked_shl(u32::from(lag)).map(|bound| bound - 1);
            let standbys = view.standbys(task).filter_map(|(node, lag)| {
                Some(StandbyView { node: name(node)?, lag_turns: bound(lag) })
            });
            let takeover = view.took(task).and_then(|(by, took, told)| {
                Some(Takeover {
                    from: name(took.from).unwrap_or_default(),
                    by: name(by)?,
                    detected_ms: took.detected_ms,
                    fenced_ms: took.fenced_ms,
                    output_ms: took.output_ms,
                    ago_ms: since(told),
                })
            });
            TaskView {
                name: task_name.to_string(),
                owner: owner.and_then(name).unwrap_or_default(),
                open: matches!(open, Some(Entry::Owner { open: true, .. })),
                standbys: standbys.collect(),
                takeover,
                ..TaskView::default()
            }
        });
        let mut summary = ClusterView {
            node: self.name().into(),
            hold: self.hold().unwrap_or_default().into(),
            nodes: nodes.collect(),
            tasks: tasks.collect(),
            ..ClusterView::default()
        };
        summary.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        summary.tasks.sort_by(|a, b| by_number(&a.name).cmp(&by_number(&b.name)));
        summary
    }
}

/// Partition 10 of a stage comes after its partition 9.
fn by_number(task: &str) -> (&str, u32) {
    let (stage, partition) = task.rsplit_once('/').unwrap_or((task, ""));
    (stage, partition.parse().unwrap_or_default())
}
