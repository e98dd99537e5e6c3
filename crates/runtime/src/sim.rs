//! Simulation: the production code under a seeded schedule, virtual time and failing surroundings.
//!
//! *Why it exists:* trust. What can go wrong between two instructions of a node goes wrong here a
//! thousand times a second, and the same seed does it again.
//!
//! What is replaced: threads (a seeded choice of who goes on), the clock, the disk
//! ([`crate::disk::sim`]), connectors ([`connectors`]) and the engine's answers ([`faults`]).
//! What is not: scheduler, supervisor, tasks, operators, sinks' protocol, the embedded engine.

pub mod connectors;
mod driver;
pub mod faults;
mod world;

pub use driver::{die, hang};
pub use world::{Coverage, Setup, World};
