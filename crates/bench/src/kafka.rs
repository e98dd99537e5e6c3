//! The benches on real brokers, which run on the same machine and share its cores with node, load
//! and reader.
//!
//! *Who judges:* a plain consumer with read_committed, in this process, and none of the engine's
//! code. What the nodes tell each other is read beside it, for the parts of a takeover.

mod ends;
mod failover;
mod latency;
mod members;
mod nodes;
mod restore;
mod scale;
mod scene;
mod throughput;
mod torture;

use std::process::ExitCode;

use millstream_brokers::Brokers;

pub use self::nodes::part;
use crate::{cli::Kafka, node, report::Result};

/// Runs a bench.
pub fn run(bench: &Kafka) -> Result<ExitCode> {
    match bench {
        Kafka::Failover(args) => failover::run(args),
        Kafka::ClusterTorture(args) => torture::run(args),
        Kafka::KafkaThroughput(args) => throughput::run(args),
        Kafka::KafkaLatency(args) => latency::run(args),
        Kafka::Restore(args) => restore::run(args),
        Kafka::Scale(args) => scale::run(args),
    }
}

/// Starts brokers, and says what everything is measured on.
fn brokers() -> Result<Brokers> {
    node::print_configuration();
    println!("cluster  {:?}", millstream_kafka::cluster::Options::default());
    let brokers = Brokers::start()?;
    println!("brokers  3 real ones on this machine (client-side JIT, 256 MB heap), 3 replicas");
    Ok(brokers)
}
