//! Lets a node hand its tasks over, and waits until others run them.
//!
//! *Who is asked:* the node that leaves, to leave; another one, whether it has, since who leaves
//! ends when it is done.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use millstream_core::{
    Code, Error, Result,
    engine::{ClusterView, NodeView, TaskView},
    nearest,
};
use millstream_io::http::{Client, escape};
use serde::{Deserialize, Serialize};

/// How often another node is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it may go no further. It goes on by itself; a person waits no longer.
const STILL_MAX: Duration = Duration::from_secs(60);
/// The address of a node that does not listen.
const SILENT: &str = "-";

/// A node has handed its tasks over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Which one.
    pub node: String,
    /// How many tasks each of the others has got.
    pub to: BTreeMap<String, u64>,
    /// From when it was asked until all of them ran, in ms.
    pub took_ms: u64,
}

pub(super) fn drain(asked: &Client, name: &str) -> Result<Drained> {
    let before: ClusterView = asked.get("/v1/cluster")?;
    let leaver = alive(&before).find(|n| n.name == name).ok_or_else(|| unknown(&before, name))?;
    let others: Vec<&NodeView> = alive(&before).filter(|n| n.name != name).collect();
    if others.is_empty() {
        let message = format!("`{name}` is the only node: there is none to hand its tasks to");
        return Err(Error::new(Code::Conflict, message)
            .help("start another one first, or end its program: Ctrl-C or SIGTERM"));
    }
    let (leaver, watchers) = match before.node == name {
        true => (asked.clone(), others.iter().filter_map(|n| client(n)).collect()),
        false => (client(leaver).ok_or_else(|| silent(name))?, vec![asked.clone()]),
    };
    if watchers.is_empty() {
        let message = format!("no node but `{name}` listens: nobody could say when it has left");
        return Err(Error::new(Code::Unreachable, message)
            .help("end its program instead: SIGTERM hands its tasks over, too"));
    }
    // Clock: a person waits.
    let begun = Instant::now();
    let then: ClusterView = leaver.post(&format!("/v1/cluster/drain?node={}", escape(name)))?;
    let owned: Vec<&TaskView> = then.tasks.iter().filter(|t| t.owner == name).collect();
    let (mut left, mut changed) = (usize::MAX, begun);
    loop {
        let now = look(&watchers)?;
        let to = new_owners(&now, &owned, name);
        let waits = owned.len().saturating_sub(to.len());
        let there = alive(&now).any(|n| n.name == name);
        if waits == 0 && !there {
            let mut drained = Drained { node: name.into(), ..Drained::default() };
            to.into_iter().for_each(|owner| *drained.to.entry(owner).or_default() += 1);
            drained.took_ms = begun.elapsed().as_millis() as u64;
            return Ok(drained);
        }
        if waits < left {
            (left, changed) = (waits, Instant::now()); // Clock: a person waits.
        }
        if changed.elapsed() > STILL_MAX {
            let message = format!(
                "{waits} of {} tasks of `{name}` are with no other node, for {} s; it goes on",
                owned.len(),
                STILL_MAX.as_secs()
            );
            return Err(Error::new(Code::Unreachable, message)
                .help("what it waits for: `millstream cluster status`"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn alive(view: &ClusterView) -> impl Iterator<Item = &NodeView> {
    view.nodes.iter().filter(|n| n.state.is_alive())
}

fn client(node: &NodeView) -> Option<Client> {
    (node.address != SILENT).then(|| Client::new(&node.address))
}

/// What the first of them says that answers.
fn look(watchers: &[Client]) -> Result<ClusterView> {
    let mut said = Err(Error::new(Code::Bug, "nobody was asked"));
    for client in watchers {
        said = client.get("/v1/cluster");
        if said.is_ok() {
            break;
        }
    }
    said
}

/// The new owners of those tasks that run elsewhere now; what never ran need not.
fn new_owners(view: &ClusterView, tasks: &[&TaskView], old: &str) -> Vec<String> {
    let now: HashMap<&str, &TaskView> = view.tasks.iter().map(|t| (&*t.name, t)).collect();
    let owners = tasks.iter().filter_map(|before| {
        let task = now.get(&*before.name)?;
        let moved = task.owner != old && !task.owner.is_empty() && (task.open || !before.open);
        moved.then(|| task.owner.clone())
    });
    owners.collect()
}

fn unknown(view: &ClusterView, name: &str) -> Error {
    if let Some(node) = view.nodes.iter().find(|n| n.name == name) {
        let message = format!("node `{name}` is not there any more: {}", node.state.word());
        return Error::new(Code::Unknown, message);
    }
    let error = Error::new(Code::Unknown, format!("application {} has no node `{name}`", view.app));
    let names: Vec<&str> = alive(view).map(|n| n.name.as_str()).collect();
    match nearest(name, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("there are: {}", names.join(", "))),
    }
}

fn silent(name: &str) -> Error {
    Error::new(Code::Unreachable, format!("node `{name}` does not listen: it cannot be asked"))
        .help("end its program instead: SIGTERM hands its tasks over, too")
        .help("or start it with --http ADDRESS")
}
