//! The words every other crate speaks: time, keys, batches, frames, turns, and the traits behind
//! which engines, disks and operators can be exchanged.
//!
//! *Why it exists:* the runtime, the connectors and the engines must agree on bytes and on
//! contracts without knowing each other.
//!
//! *Invariants*
//! - Nothing in here starts a thread, reads a clock, draws a random number or does I/O.
//! - Bytes read from outside never panic: every decoder returns [`Error`].
//! - A format has a version byte and a checksum, and golden vectors in its tests.

pub mod batch;
pub mod connector;
pub mod disk;
pub mod engine;
pub mod error;
pub mod frame;
pub mod key;
pub mod ledger;
pub mod letter;
pub mod mail;
pub mod mutant;
mod nearest;
pub mod operator;
pub mod partitioner;
pub mod rng;
pub mod table;
pub mod time;
pub mod turn;
mod wire;

pub use batch::{Batch, Origin};
pub use error::{Code, Error, Kind, Result};
pub use frame::{Frame, FrameHeader, FrameKind, Status};
pub use key::{Key, Slot};
pub use nearest::nearest;
pub use time::Time;
pub use turn::Turn;
