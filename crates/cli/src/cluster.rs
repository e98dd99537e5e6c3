//! Questions about a cluster, and their answers as lines.

use std::process::ExitCode;

use millstream::Target;
use millstream_core::{
    Result,
    engine::{ClusterView, StandbyView, TaskView},
};

use crate::say::{Say, count, number};

/// Takeovers that are shown to people; programs get the last one of each task.
const TAKEOVERS: usize = 10;

/// Says how a cluster is.
pub fn status(target: &Target, say: &mut Say) -> Result<ExitCode> {
    let cluster = target.cluster()?;
    say.result(&cluster, |say| show(&cluster, say))?;
    let other = cluster.nodes.iter().find(|n| n.state.is_alive() && n.name != cluster.node);
    match other {
        Some(node) => say.next(&[&["cluster", "drain", &node.name], &["status"]]),
        None => say.next(&[&["status"]]),
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets a node hand its tasks over.
pub fn drain(target: &Target, node: &str, say: &mut Say) -> Result<ExitCode> {
    let drained = target.drain(node)?;
    say.result(&drained, |say| {
        let to = drained.to.iter().map(|(to, n)| format!("{} to {to}", count(*n, "task", "tasks")));
        let to = match drained.to.is_empty() {
            true => "it had no tasks".into(),
            false => to.collect::<Vec<_>>().join(", "),
        };
        say.line(format!("{node} has left after {}: {to}", seconds(drained.took_ms)));
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(cluster: &ClusterView, say: &mut Say) {
    let alive = cluster.nodes.iter().filter(|n| n.state.is_alive()).count() as u64;
    let rows: u64 = cluster.tasks.iter().map(|t| t.backlog_rows).sum();
    say.line(format!(
        "application {}   {}   {}   {} waiting   as node {} knows it",
        cluster.app,
        count(alive, "node", "nodes"),
        count(cluster.tasks.len() as u64, "task", "tasks"),
        count(rows, "row", "rows"),
        cluster.node
    ));
    if !cluster.hold.is_empty() {
        say.line(format!("{} takes nothing over now: {}", cluster.node, cluster.hold));
    }
    let nodes = cluster.nodes.iter().map(|n| {
        let (tasks, standbys) = (number(n.tasks), number(n.standbys));
        let seen = format!("{} ago", seconds(n.seen_ms));
        vec![n.name.clone(), n.address.clone(), n.state.word().into(), tasks, standbys, seen]
    });
    say.line("");
    table("node  address  state  >tasks  >standbys  >seen", nodes, say);
    let tasks = cluster.tasks.iter().map(|t| {
        let standbys = t.standbys.iter().map(standby).collect::<Vec<_>>().join(", ");
        vec![t.name.clone(), owner(t), standbys, number(t.backlog_rows)]
    });
    say.line("");
    table("task  owner  standby  >waiting", tasks, say);
    let mut took: Vec<_> =
        cluster.tasks.iter().filter_map(|t| Some((t, t.takeover.as_ref()?))).collect();
    took.sort_by_key(|(_, t)| t.ago_ms);
    say.line("");
    if took.is_empty() {
        say.line("no takeovers that this node has seen");
        return;
    }
    takeovers(took.iter().take(TAKEOVERS).map(|(task, _)| *task), say);
    if took.len() > TAKEOVERS {
        say.line(format!("and {} before; --json has all", number((took.len() - TAKEOVERS) as u64)));
    }
}

/// How long the last takeover of each task took, and each part of it.
pub fn takeovers<'a>(tasks: impl Iterator<Item = &'a TaskView>, say: &mut Say) {
    let rows = tasks.filter_map(|task| {
        let t = task.takeover.as_ref()?;
        let whole = t.detected_ms + t.fenced_ms + t.output_ms;
        let parts = [t.detected_ms, t.fenced_ms, t.output_ms, whole].map(seconds);
        let names = [&task.name, &t.from, &t.by].map(|name| or_dash(name));
        let told = format!("{} ago", seconds(t.ago_ms));
        Some(names.into_iter().chain(parts).chain([told]).collect())
    });
    table("takeover  from  by  >detected  >fenced  >first output  >in all  >told", rows, say);
}

fn owner(task: &TaskView) -> String {
    match (task.owner.is_empty(), task.open) {
        (true, _) => "nobody".into(),
        (false, true) => task.owner.clone(),
        (false, false) => format!("{}, opening", task.owner),
    }
}

fn standby(standby: &StandbyView) -> String {
    match standby.lag_turns {
        Some(0) => standby.node.clone(),
        Some(turns) => format!("{}, <= {} behind", standby.node, count(turns, "turn", "turns")),
        None => format!("{}, warming up", standby.node),
    }
}

fn or_dash(name: &str) -> String {
    if name.is_empty() { "-".into() } else { name.into() }
}

fn seconds(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.2} s", ms as f64 / 1000.0),
        _ => format!("{} s", number(ms / 1000)),
    }
}

/// Lines of cells below a head: columns stand two blanks apart in it, those with `>` to the right.
fn table(head: &str, rows: impl Iterator<Item = Vec<String>>, say: &mut Say) {
    let head: Vec<(&str, bool)> = head
        .split("  ")
        .map(|title| (title.trim_start_matches('>'), title.starts_with('>')))
        .collect();
    let titles = head.iter().map(|(title, _)| (*title).to_string()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(rows).collect();
    let width = |n: usize| lines.iter().filter_map(|line| Some(line.get(n)?.len())).max();
    let widths: Vec<usize> = (0..head.len()).map(|n| width(n).unwrap_or_default()).collect();
    for line in &lines {
        let cells = line.iter().zip(&head).zip(&widths);
        let cells = cells.map(|((cell, (_, right)), &width)| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:width$}"),
        });
        say.remark(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
