//! The embedded engine: a segment log on one machine's disk.
//!
//! *Why our own log:* a turn must become durable whole, many turns with one fsync, and a full disk
//! must heal when there is room. A general store (an LSM) was measured and gives none of the three.
//!
//! *How it fits together:* a [`Lease`] encodes its turn, and under one short lock the turn gets its
//! sequence number, is applied to the state in memory and queued. That makes it *committed*. The
//! [`Committer`] appends what is queued and syncs once; that makes it *durable*. The [`Compactor`]
//! sorts state changes into runs and empties old segments. Neither owns a thread or reads a clock:
//! production drives them with [`Threads`], the simulator step by step.
//!
//! *Invariants*
//! - The log's order is the commit order. What is durable is always a prefix of it.
//! - A segment is removed only when a durable snapshot says that nothing in it is needed.
//! - Bytes before a position known durable are never cut: if they are bad, opening is refused.
//!
//! *Failure:* a failed or full write leaves the batch queued, and the next step tries again. After
//! a failed sync the tail is written anew elsewhere. A crash loses what was not durable, nothing
//! else.
//!
//! *Limits:* [`Options`]. The queue of turns not yet durable is bounded by its producers, who watch
//! [`EmbeddedEngine::pending_bytes`].

mod commit;
mod compact;
mod engine;
mod evacuate;
mod index;
mod lease;
mod ledger;
mod lock;
mod options;
mod record;
mod recover;
mod run;
mod segment;
mod shared;
mod snapshot;
mod space;
mod state;
mod stream;
mod threads;

pub use commit::{Committer, Progress};
pub use compact::Compactor;
pub use engine::{EmbeddedEngine, Opened};
pub use lock::{DirLock, dir_holder, holder_http, open_at_rest, open_dir, open_read_only};
pub use options::{Durability, Options};
pub use threads::Threads;

#[expect(unused_imports, reason = "named in the documentation above")]
use millstream_core::engine::Lease;

#[cfg(test)]
mod tests;
