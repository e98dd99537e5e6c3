//! Who is there, and who runs which task: membership and placement, as pure state machines.
//!
//! *Why it exists:* Kafka's own groups need 6 to 45 s to notice a death, and decide the placement
//! themselves. All nodes append to one topic with one partition and read it in the same order, so a
//! [`View`] is a fold over that log and all nodes agree at each offset. "Cannot reach Kafka" is
//! "dead" here, which is what we need: a node that cannot commit is of no use, however well it
//! gossips.
//!
//! ```text
//! log -> record -> View (fold) -> Plan (pure) -> Member: what this node does next
//! ```
//!
//! *Invariants*
//! - Nothing in here reads a clock, draws a random number, starts a thread or does I/O; equal
//!   inputs give equal actions.
//! - Correctness does not depend on any of it: Kafka's fencing by transactional.id decides.
//!   Nodes that disagree waste work.
//! - What a node says is its state (who, which tasks), not what has happened: whoever begins to
//!   read late agrees with all others once everybody has repeated itself ([`Options::refresh`]).
//! - A node is declared dead by who saw [`Options::missed`] of its own later heartbeats in the log
//!   and none of the other's. A node sends no heartbeat before the last one came back: so a paused
//!   observer, or a broker that stalls and then takes all that was queued, declares nobody dead.
//! - A task with a living owner is moved by that owner alone, by a hand-over.
//!
//! *Failure:* a node that reads its own death steps down and joins anew. Records that cannot be
//! read are passed over.
//!
//! *Limits:* [`Options`]; a record has at most 2,048 tasks, a name 128 bytes.
//!
//! *Source:* rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit
//! rates", 1998; bounded loads: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded
//! loads", 2018.

mod damping;
mod member;
mod plan;
mod record;
mod summary;
mod view;

#[cfg(test)]
mod tests;

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

pub use self::{
    member::{Action, Member},
    plan::{Move, Open, Plan},
    record::{Beat, Body, Entry, Record, State, Took, Whole},
    view::{Folded, Node, View},
};

/// A task's name, hashed: what records and plans carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey(pub u64);

/// A node's name, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub u64);

impl TaskKey {
    /// The key of a task's name.
    pub fn of(name: &str) -> TaskKey {
        TaskKey(xxh3_64(name.as_bytes()))
    }

    /// How much this task would like that node; the greatest weight wins.
    fn weight(self, node: NodeKey) -> u64 {
        weight(self.0, node.0)
    }
}

impl NodeKey {
    /// The key of a node's name.
    pub fn of(name: &str) -> NodeKey {
        NodeKey(xxh3_64(name.as_bytes()))
    }
}

fn weight(a: u64, b: u64) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&a.to_le_bytes());
    both[8..].copy_from_slice(&b.to_le_bytes());
    xxh3_64(&both)
}

/// How patient a cluster is. All nodes of one should have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Between two heartbeats: 100 ms.
    pub every: Duration,
    /// Own heartbeats seen without one of another node before it is dead: 7, so that a death is
    /// seen 0.6 to 0.7 s after the last heartbeat. Three times as many of a node without tasks.
    pub missed: usize,
    /// Between two repetitions of all that a node has to say: 5 s.
    pub refresh: Duration,
    /// A standby that lags by no more is warm; in whatever unit [`Member::on_lag`] is told: 1,024.
    pub warm_lag: u64,
    /// Tasks that a node hands over at the same time: 8.
    pub handovers_max: usize,
    /// Tasks that a node warms up at the same time in order to take them over as planned: 32.
    pub warming_max: usize,
    /// How long a node waits for one that it has released a task to, before the task is anybody's:
    /// 5 s.
    pub grant: Duration,
    /// How long the survivors of a loss of more than half of the nodes wait for them, and how long
    /// takeovers are counted: 10 s.
    pub budget: Duration,
    /// How long a node that says nothing is taken for alive because it commits: 10 s.
    pub mute_max: Duration,
    /// The first pause of a node that was fenced, before it may claim the task again: 2 s. It
    /// doubles each time.
    pub fenced: Duration,
    /// Its longest pause: 60 s.
    pub fenced_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            every: Duration::from_millis(100),
            missed: 7,
            refresh: Duration::from_secs(5),
            warm_lag: 1024,
            handovers_max: 8,
            warming_max: 32,
            grant: Duration::from_secs(5),
            budget: Duration::from_secs(10),
            mute_max: Duration::from_secs(10),
            fenced: Duration::from_secs(2),
            fenced_max: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// How long a death takes to be seen at most; a view that is older decides nothing.
    pub fn detection(&self) -> Duration {
        self.every * u32::try_from(self.missed).unwrap_or(u32::MAX)
    }
}
