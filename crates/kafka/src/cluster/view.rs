//! The cluster as the members topic tells it, up to an offset.
//!
//! *Why a fold:* everybody who has read up to the same offset has the same view, so there is no
//! leader to elect and nothing to agree on.
//!
//! *Invariants*
//! - [`Node::seen`], [`Node::since`] and what is known of lost owners are the reader's own times,
//!   for people and for damping; nothing else depends on when a record was read.
//! - A task's owner is alive and says so. Of several who say so it is the one whose claim is the
//!   greatest, of equal claims the first in the log.
//! - A life that has ended (left, declared dead, or followed by another of the same node) says
//!   nothing any more.
//!
//! *Limits:* of nodes that have ended, the last 64 are kept.

use std::{collections::BTreeMap, sync::Arc};

use millstream_core::Time;

use super::{
    NodeKey, TaskKey,
    record::{Beat, Body, Entry, Record, State, Took},
};

/// Nodes that have ended and are still shown.
const ENDED_MAX: usize = 64;

/// A node as others know it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, hashed.
    pub key: NodeKey,
    /// Its name.
    pub name: Arc<str>,
    /// Where it can be asked; empty until it has said so.
    pub address: Arc<str>,
    /// Which life.
    pub incarnation: u64,
    /// What it is.
    pub state: State,
    /// The offset of its last record.
    pub last: u64,
    /// When the reader read the first record of this life.
    pub since: Time,
    /// When it read the last one.
    pub seen: Time,
    /// The key up to which it has repeated itself; `None`: all.
    covered: Option<u64>,
    entries: BTreeMap<TaskKey, Entry>,
}

impl Node {
    /// Whether all is known that it has to say.
    pub fn is_complete(&self) -> bool {
        self.covered.is_none()
    }

    /// What it has to do with which tasks.
    pub fn entries(&self) -> impl Iterator<Item = (TaskKey, Entry)> {
        self.entries.iter().map(|(task, entry)| (*task, *entry))
    }
}

/// What a record has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// Nothing.
    Ignored,
    /// A node lives.
    Beat,
    /// A node is here in another life than before; what it had is anybody's.
    Returned,
    /// A node is dead; what it had is anybody's.
    Died(NodeKey),
    /// A node has left.
    Left,
    /// Somebody says how long a takeover took.
    Took,
}

/// When a task lost its owner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub from: NodeKey,
    pub seen: Time,
    pub detected: Time,
}

/// Who says something of a task.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    /// By place in [`View::places`].
    pub list: Vec<(usize, Entry)>,
    pub owner: Option<usize>,
}

/// All nodes and tasks, as of an offset.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// A node's place never changes while it is in `index`.
    places: Vec<Node>,
    free: Vec<usize>,
    index: BTreeMap<NodeKey, usize>,
    tasks: BTreeMap<TaskKey, Holders>,
    lost: BTreeMap<TaskKey, Lost>,
    took: BTreeMap<TaskKey, (NodeKey, Took, Time)>,
    end: u64,
    version: u64,
}

impl View {
    /// The offset after the last record folded.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Changes with everything that a plan depends on.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All nodes that are known, also ended ones, in the order of their keys.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.index.values().map(|at| &self.places[*at])
    }

    /// The nodes that are there.
    pub fn alive(&self) -> impl Iterator<Item = &Node> {
        self.nodes().filter(|n| n.state.is_alive())
    }

    /// A node.
    pub fn node(&self, key: NodeKey) -> Option<&Node> {
        self.index.get(&key).map(|at| &self.places[*at])
    }

    /// Who runs a task, or is about to.
    pub fn owner(&self, task: TaskKey) -> Option<NodeKey> {
        self.tasks.get(&task)?.owner.map(|at| self.places[at].key)
    }

    /// What a node has to do with a task.
    pub fn entry(&self, node: NodeKey, task: TaskKey) -> Option<Entry> {
        self.node(node)?.entries.get(&task).copied()
    }

    /// The living nodes that follow a task's state, and how far behind they are.
    pub fn standbys(&self, task: TaskKey) -> impl Iterator<Item = (NodeKey, u8)> {
        let holders = self.tasks.get(&task).map(|h| h.list.iter()).into_iter().flatten();
        holders.filter_map(|(at, entry)| Some((self.places[*at].key, entry.lag()?)))
    }

    /// The greatest claim to a task that anybody holds; 0 if nobody does.
    pub fn claim(&self, task: TaskKey) -> u64 {
        let holders = self.tasks.get(&task).map(|h| h.list.iter()).into_iter().flatten();
        holders.filter_map(|(_, entry)| entry.claim()).max().unwrap_or(0)
    }

    /// The last takeover of a task that was told, who told it, and when it was read here.
    pub fn took(&self, task: TaskKey) -> Option<(NodeKey, Took, Time)> {
        self.took.get(&task).copied()
    }

    pub(super) fn lost(&self, task: TaskKey) -> Option<Lost> {
        self.lost.get(&task).copied()
    }

    /// Whether a task that lost its owner after `since` has not been opened by another one yet.
    pub(super) fn takes_over(&self, since: Time) -> bool {
        self.lost.values().any(|lost| lost.detected > since)
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = (TaskKey, &Holders)> {
        self.tasks.iter().map(|(task, holders)| (*task, holders))
    }

    pub(super) fn places(&self) -> &[Node] {
        &self.places
    }

    /// Folds the next record of the log.
    pub fn fold(&mut self, offset: u64, record: &Record<'_>, now: Time) -> Folded {
        self.end = offset + 1;
        match &record.body {
            Body::Beat(beat) => self.beat(offset, record, beat, now),
            Body::Dead { node, incarnation, last_seen } => {
                let Some(&at) = self.index.get(node) else { return Folded::Ignored };
                let of = &self.places[at];
                let stands = of.incarnation == *incarnation && of.last <= *last_seen;
                if !stands || !of.state.is_alive() {
                    return Folded::Ignored;
                }
                self.end_life(at, State::Dead, now);
                Folded::Died(*node)
            }
            Body::Leave => match self.living(record) {
                Some(at) => {
                    self.places[at].last = offset;
                    self.end_life(at, State::Left, now);
                    Folded::Left
                }
                None => Folded::Ignored,
            },
            Body::Took(took) => {
                self.took.insert(took.task, (NodeKey::of(record.node), *took, now));
                Folded::Took
            }
        }
    }

    /// The place of the life that a record is of, if that life goes on.
    fn living(&self, record: &Record<'_>) -> Option<usize> {
        let at = *self.index.get(&NodeKey::of(record.node))?;
        let of = &self.places[at];
        let same = of.incarnation == record.incarnation && *of.name == *record.node;
        (same && of.state.is_alive()).then_some(at)
    }

    fn beat(&mut self, offset: u64, record: &Record<'_>, beat: &Beat<'_>, now: Time) -> Folded {
        let mut folded = Folded::Beat;
        let at = match self.living(record) {
            Some(at) => at,
            None => match self.begin_life(record, now) {
                Some((at, returned)) => {
                    folded = if returned { Folded::Returned } else { folded };
                    at
                }
                None => return Folded::Ignored,
            },
        };
        let node = &mut self.places[at];
        (node.last, node.seen) = (offset, now);
        if node.state != beat.state {
            node.state = beat.state;
            self.version += 1;
        }
        if let Some(whole) = &beat.whole {
            if *node.address != *whole.address {
                node.address = whole.address.into();
            }
            let begins = whole.from.0 == 0 && !node.is_complete();
            if begins || node.covered == Some(whole.from.0) {
                node.covered = whole.to.0.checked_add(1);
                self.version += u64::from(node.covered.is_none());
            }
            let node = &self.places[at];
            let mut said = beat.tasks.iter().map(|(task, _)| *task).collect::<Vec<_>>();
            said.sort_unstable();
            let range = whole.from..=whole.to.max(whole.from);
            let gone = node.entries.range(range).map(|(task, _)| *task);
            let gone: Vec<_> = gone.filter(|t| said.binary_search(t).is_err()).collect();
            gone.into_iter().for_each(|task| self.set(at, task, None));
        }
        beat.tasks.iter().for_each(|(task, entry)| self.set(at, *task, *entry));
        folded
    }

    /// A node that was not there, or a later life of one. `None` if the record is of an older life,
    /// or of another node whose name has the same hash.
    fn begin_life(&mut self, record: &Record<'_>, now: Time) -> Option<(usize, bool)> {
        let key = NodeKey::of(record.node);
        let mut returned = false;
        let at = match self.index.get(&key).copied() {
            Some(at) => {
                let of = &self.places[at];
                if *of.name != *record.node || of.incarnation >= record.incarnation {
                    return None;
                }
                returned = of.state.is_alive();
                if returned {
                    self.end_life(at, State::Dead, now);
                }
                at
            }
            None => self.free.pop().unwrap_or(self.places.len()),
        };
        let node = Node {
            key,
            name: record.node.into(),
            address: "".into(),
            incarnation: record.incarnation,
            state: State::Joining,
            last: 0,
            since: now,
            seen: now,
            covered: Some(0),
            entries: BTreeMap::new(),
        };
        if at == self.places.len() {
            self.places.push(node);
        } else {
            self.places[at] = node;
        }
        self.index.insert(key, at);
        self.version += 1;
        Some((at, returned))
    }

    fn end_life(&mut self, at: usize, state: State, now: Time) {
        let tasks = std::mem::take(&mut self.places[at].entries);
        let Node { key: from, seen, .. } = self.places[at];
        for (task, entry) in tasks {
            if state == State::Dead && entry.is_owner() {
                self.lost.insert(task, Lost { from, seen, detected: now });
            }
            self.unhold(at, task);
        }
        self.places[at].state = state;
        self.version += 1;
        let ended = || self.nodes().filter(|n| !n.state.is_alive());
        if ended().count() > ENDED_MAX
            && let Some(oldest) = ended().min_by_key(|n| n.last).map(|n| n.key)
            && let Some(place) = self.index.remove(&oldest)
        {
            self.free.push(place);
        }
    }

    fn set(&mut self, at: usize, task: TaskKey, entry: Option<Entry>) {
        let before = match entry {
            Some(entry) => self.places[at].entries.insert(task, entry),
            None => self.places[at].entries.remove(&task),
        };
        if before == entry {
            return;
        }
        let Some(entry) = entry else { return self.unhold(at, task) };
        let holders = self.tasks.entry(task).or_default();
        match holders.list.iter_mut().find(|(holder, _)| *holder == at) {
            Some(held) => held.1 = entry,
            None => holders.list.push((at, entry)),
        }
        let others = holders.list.iter().filter(|(holder, _)| *holder != at);
        let rival = others.filter_map(|(_, e)| e.claim()).max().unwrap_or(0);
        match entry {
            Entry::Owner { claim, .. } if holders.owner != Some(at) && claim > rival => {
                holders.owner = Some(at);
            }
            Entry::Owner { .. } => {}
            _ if holders.owner == Some(at) => holders.owner = best(&self.places, &holders.list),
            _ => {}
        }
        if matches!(entry, Entry::Owner { open: true, .. }) {
            self.lost.remove(&task);
        }
        // How far a standby lags and whether an owner has opened change no plan.
        let plain = |e: Entry| match e {
            Entry::Owner { claim, taken, .. } => Entry::Owner { claim, taken, open: false },
            Entry::Standby { declines, .. } => Entry::Standby { lag: 0, declines },
            other => other,
        };
        self.version += u64::from(before.map(plain) != Some(plain(entry)));
    }

    fn unhold(&mut self, at: usize, task: TaskKey) {
        let Some(holders) = self.tasks.get_mut(&task) else { return };
        holders.list.retain(|(holder, _)| *holder != at);
        if holders.owner == Some(at) {
            holders.owner = best(&self.places, &holders.list);
        }
        if holders.list.is_empty() {
            self.tasks.remove(&task);
        }
        self.version += 1;
    }
}

/// Who owns a task after its owner has gone.
fn best(places: &[Node], list: &[(usize, Entry)]) -> Option<usize> {
    let claims = list.iter().filter_map(|(at, e)| Some((e.is_owner().then_some(e.claim()?)?, *at)));
    claims.max_by_key(|(claim, at)| (*claim, places[*at].key)).map(|(_, at)| at)
}
