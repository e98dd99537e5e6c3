//! The Kafka engine when things go wrong: real brokers behind a proxy that holds requests, loses
//! answers and cuts lines; brokers and processes that are killed or stopped.
//!
//! *How it is judged:* see `faults/oracle.rs`. docs/semantics.md says which scenario is proven by
//! which of these tests.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "faults/answers.rs"]
mod answers;
#[path = "faults/batches.rs"]
mod batches;
#[path = "faults/broken.rs"]
mod broken;
#[path = "faults/ids.rs"]
mod ids;
#[path = "faults/killed.rs"]
mod killed;
#[path = "faults/links.rs"]
mod links;
#[path = "faults/oracle.rs"]
mod oracle;
#[path = "faults/process.rs"]
mod process;
#[path = "faults/tails.rs"]
mod tails;
#[path = "faults/topics.rs"]
mod topics;
#[path = "faults/zombies.rs"]
mod zombies;
