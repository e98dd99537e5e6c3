//! `millstream demo --cluster`: three nodes share real departures; one is killed, one is paused and
//! wakes up as a zombie; then the recount.
//!
//! *Why the brokers are given:* they are somebody else's servers, with Java and a download of their
//! own; the repository has a script for them, and a cluster in earnest has its own.
//!
//! *Invariant:* nothing is staged, as in the demo of one node. How long takeovers took is what the
//! nodes tell each other; alerts are read from their topic as any reader would.
//!
//! *Failure:* exit code 1 if anything differs, or if the input ended before all was done.

#[cfg(feature = "kafka")]
mod acts;
#[cfg(feature = "kafka")]
mod member;
#[cfg(feature = "kafka")]
mod nodes;

use std::process::ExitCode;

#[cfg(not(feature = "kafka"))]
use millstream::Node;
use millstream_core::Result;

use crate::{
    args::{Args, Demo, DemoMember},
    say::Say,
};

/// Runs the demo.
pub fn run(options: &Demo, args: &Args, say: &mut Say) -> Result<ExitCode> {
    #[cfg(feature = "kafka")]
    return acts::run(options, args, say);
    #[cfg(not(feature = "kafka"))]
    {
        let _ = (args, say);
        let engine = options.engine.as_deref().unwrap_or("kafka://");
        Node::kafka(engine, "demo", "demo").map(|_| ExitCode::FAILURE)
    }
}

/// Runs one of its nodes.
pub fn member(options: &DemoMember) -> Result<ExitCode> {
    #[cfg(feature = "kafka")]
    return member::run(options);
    #[cfg(not(feature = "kafka"))]
    Node::kafka(&options.engine, &options.app, &options.name).map(|_| ExitCode::FAILURE)
}
