//! What runs a flow: tasks and their turns, isolation, supervision, state, scheduling, the engines.
//!
//! *Invariants*
//! - Production and simulation run the same code; threads, clock, disk and sockets are handed in.
//! - A task owns no thread, reads no clock and does no I/O.

pub mod catch;
pub mod conformance;
pub mod connect;
pub mod disk;
pub mod embedded;
pub mod node;
pub mod queue;
pub mod sim;
pub mod stage;
pub mod supervisor;
pub mod table;
pub mod task;
pub mod threads;
