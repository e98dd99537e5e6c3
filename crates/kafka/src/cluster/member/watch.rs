//! Who seems to be dead.
//!
//! *Why by counting own heartbeats:* what a node's clock says of another's silence is worth nothing
//! while the node itself was paused or its broker stood still. Its own heartbeats come back through
//! the same log in the same order: as long as they do and another's do not, the other is at fault.
//!
//! *Why commits excuse silence, and not for ever:* who commits is needed, so a broken way to the
//! members topic alone moves nothing. But what keeps a node's heartbeats back may keep some of its
//! tasks, too, and nobody else can tell: after [`Options::mute_max`] they are given to others.
//!
//! *Invariant:* only heartbeats count that were sent after the one before had come back.

use std::collections::{BTreeMap, VecDeque};

use millstream_core::Time;

use crate::cluster::{Entry, Node, NodeKey, Options, View, weight};

/// Nodes that accuse a dead one at once; all others wait for [`LATER`] heartbeats more, so that a
/// thousand nodes do not all write the same.
const FIRST: usize = 3;
/// See [`FIRST`].
const LATER: usize = 3;

/// So many times longer a node is waited for that has no task and is to get none now: its death
/// would change nothing, and who joins has a lot to do.
const IDLE: usize = 3;

/// Heartbeats before a death is declared, when it is already counted among the losses: nodes that
/// died at once are not declared dead at once.
const SOON: usize = 2;

#[derive(Default)]
pub(super) struct Watch {
    /// Offsets of the last own heartbeats.
    echoes: VecDeque<u64>,
    count: u64,
    /// How far the log was read when a node was last seen to be alive by something else.
    signs: BTreeMap<NodeKey, u64>,
    /// After how many echoes a node was last accused.
    accused: BTreeMap<NodeKey, u64>,
}

impl Watch {
    /// A heartbeat has come back.
    pub fn echo(&mut self, options: &Options, offset: u64) {
        self.count += 1;
        self.echoes.push_back(offset);
        if self.echoes.len() > IDLE * options.missed + LATER {
            self.echoes.pop_front();
        }
    }

    /// A node did something that only the living do.
    pub fn sign(&mut self, node: NodeKey, end: u64) {
        self.signs.insert(node, end);
    }

    /// Whether as many heartbeats have come back as a death needs.
    pub fn has_settled(&self, options: &Options) -> bool {
        self.echoes.len() >= options.missed
    }

    /// The nodes that look as if they were about to be declared dead.
    pub fn silent(&self, options: &Options, view: &View, me: NodeKey) -> Vec<NodeKey> {
        let soon = |missed: usize| self.back(missed.saturating_sub(SOON).max(1));
        let Some(since) = soon(options.missed) else { return Vec::new() };
        let silent = view.alive().filter(|n| n.key != me && n.last < since);
        let gone = |n: &&Node| soon(missed(options, view, n)).is_some_and(|since| n.last < since);
        silent.filter(gone).map(|n| n.key).collect()
    }

    /// Whether a node that said something at `seen` gave another sign of life within the time that
    /// a death needs.
    pub fn has_sign(&self, options: &Options, node: NodeKey, seen: Time, now: Time) -> bool {
        let since = self.back(options.missed).unwrap_or(0);
        now < seen + options.mute_max && self.signs.get(&node).is_some_and(|end| *end > since)
    }

    /// The offset of the heartbeat `count` ago.
    fn back(&self, count: usize) -> Option<u64> {
        self.echoes.get(self.echoes.len().checked_sub(count)?).copied()
    }

    /// The nodes to declare dead now: key, incarnation, where they were seen last.
    pub fn accuse(
        &mut self,
        options: &Options,
        view: &View,
        me: NodeKey,
        now: Time,
    ) -> Vec<(NodeKey, u64, u64)> {
        let Some(since) = self.back(options.missed) else { return Vec::new() };
        self.signs.retain(|node, _| view.node(*node).is_some());
        self.accused.retain(|node, _| view.node(*node).is_some_and(|n| n.state.is_alive()));
        let silent = view.alive().filter(|n| n.key != me && n.last < since);
        let silent = silent.map(|n| (n, missed(options, view, n)));
        let gone = |(n, missed): &(&Node, usize)| self.back(*missed).is_some_and(|at| n.last < at);
        let silent: Vec<(&Node, usize)> = silent.filter(gone).collect();
        let mut dead = Vec::new();
        for (node, missed) in silent {
            let again = self
                .accused
                .get(&node.key)
                .is_some_and(|then| self.count < then + options.missed as u64);
            if again || self.has_sign(options, node.key, node.seen, now) {
                continue;
            }
            let before = |other: &&Node| {
                let rank = |key: NodeKey| weight(node.key.0, key.0);
                other.key != node.key && other.last >= since && rank(other.key) > rank(me)
            };
            let late = self.back(missed + LATER).is_some_and(|long_since| node.last < long_since);
            if late || view.alive().filter(before).count() < FIRST {
                dead.push((node.key, node.incarnation, node.last));
                self.accused.insert(node.key, self.count);
            }
        }
        dead
    }
}

/// How many own heartbeats come back before a node that says nothing is dead.
fn missed(options: &Options, view: &View, node: &Node) -> usize {
    let has = node.entries().any(|(_, entry)| entry.is_owner());
    let to_it = |entry: Entry| matches!(entry, Entry::Granted { to, .. } if to == node.key);
    let gets = || view.alive().any(|n| n.entries().any(|(_, entry)| to_it(entry)));
    if has || gets() { options.missed } else { IDLE * options.missed }
}
