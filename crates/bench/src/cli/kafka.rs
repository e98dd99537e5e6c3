//! The benches on real Kafka brokers. They are listed in every build, and work with the feature.

#![cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "the benches are not built"))]

use clap::{Args, Subcommand};

use super::Common;

/// What can be measured on Kafka.
#[derive(Debug, Subcommand)]
pub enum Kafka {
    /// From SIGKILL of one of three nodes to new output of every task.
    Failover(Failover),
    /// SIGKILL, SIGSTOP and cut links of three nodes, and nothing lost or twice.
    ClusterTorture(ClusterTorture),
    /// Topic to topic, exactly once, against a plain loop.
    KafkaThroughput(KafkaThroughput),
    /// From the record's due time until it can be read in the other topic.
    KafkaLatency(KafkaLatency),
    /// Reading state back from its topic, against a plain consumer.
    Restore(Restore),
    /// Three nodes against one, with a handler that waits.
    Scale(Scale),
}

#[cfg(not(feature = "kafka"))]
impl Kafka {
    /// What to do to have these.
    pub fn how_to_build(&self) -> &'static str {
        "this bench runs real Kafka brokers, and was built without them: cargo run --release \
         -p millstream-bench --features kafka -- NAME (it needs a C compiler, make, the headers of \
         OpenSSL and zlib, a JDK, and Maven once)"
    }
}

/// Arguments of `failover`.
#[derive(Clone, Debug, Args)]
pub struct Failover {
    #[command(flatten)]
    pub common: Common,
    /// SIGKILLs; every other one while a transaction of the victim is open.
    #[arg(long, default_value_t = 60)]
    pub kills: usize,
    /// Keys.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// Tasks of the keyed stage.
    #[arg(long, default_value_t = 64)]
    pub tasks: u32,
    /// Events a second, all the time.
    #[arg(long, default_value_t = 2000)]
    pub events_per_s: u64,
    /// Minutes of load without a fault, in which no task may change hands.
    #[arg(long, default_value_t = 0)]
    pub quiet_minutes: u64,
    /// The flow reads by the topic's own partitions, which are by key, without an exchange; each is
    /// a task.
    #[arg(long)]
    pub keyed: bool,
}

/// Arguments of `cluster-torture`.
#[derive(Clone, Debug, Args)]
pub struct ClusterTorture {
    #[command(flatten)]
    pub common: Common,
    /// Faults.
    #[arg(long, default_value_t = 200)]
    pub faults: usize,
    /// Keys.
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    /// Tasks of the keyed stage.
    #[arg(long, default_value_t = 16)]
    pub tasks: u32,
    /// Events a second.
    #[arg(long, default_value_t = 2000)]
    pub events_per_s: u64,
    /// The flow reads by the topic's own partitions, which are by key, without an exchange; each is
    /// a task.
    #[arg(long)]
    pub keyed: bool,
}

/// Arguments of `kafka-throughput`.
#[derive(Clone, Debug, Args)]
pub struct KafkaThroughput {
    #[command(flatten)]
    pub common: Common,
    /// Events of a round.
    #[arg(long, default_value_t = 2_000_000)]
    pub events: u64,
    /// Keys.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Tasks of the keyed stage: two for each core.
    #[arg(long, default_value_t = 4)]
    pub tasks: u32,
    /// The flow reads by the topic's own partitions, which are by key, without an exchange; each is
    /// a task.
    #[arg(long)]
    pub keyed: bool,
}

/// Arguments of `kafka-latency`.
#[derive(Clone, Debug, Args)]
pub struct KafkaLatency {
    #[command(flatten)]
    pub common: Common,
    /// Events a second.
    #[arg(long, default_value_t = 20_000)]
    pub events_per_s: u64,
    /// Seconds of a round.
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    /// Partitions of both topics.
    #[arg(long, default_value_t = 2)]
    pub partitions: u32,
    /// Tasks of the keyed stage, if there is an exchange: one for each core.
    #[arg(long, default_value_t = 2)]
    pub tasks: u32,
    /// The events go through an exchange, as if their topic were not partitioned by key: a second
    /// hop.
    #[arg(long)]
    pub exchange: bool,
}

/// Arguments of `restore`.
#[derive(Clone, Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    pub common: Common,
    /// Keys.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// Bytes of state of each.
    #[arg(long, default_value_t = 100)]
    pub bytes: usize,
}

/// Arguments of `scale`.
#[derive(Clone, Debug, Args)]
pub struct Scale {
    #[command(flatten)]
    pub common: Common,
    /// Events, all there before the first node starts.
    #[arg(long, default_value_t = 300_000)]
    pub events: u64,
    /// Keys.
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    /// How long the handler waits with each event, in ms.
    #[arg(long, default_value_t = 1)]
    pub wait_ms: u64,
    /// Tasks of the keyed stage.
    #[arg(long, default_value_t = 48)]
    pub tasks: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
}
