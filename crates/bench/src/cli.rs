//! The command line of the benches.

mod kafka;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::kafka::Kafka;
#[cfg(feature = "kafka")]
pub use self::kafka::{ClusterTorture, Failover, KafkaLatency, KafkaThroughput, Restore, Scale};

/// Runs one bench and ends with one line of JSON; exits with 1 if a result is wrong.
#[derive(Debug, Parser)]
#[command(name = "millstream-bench")]
pub struct Cli {
    #[command(subcommand)]
    pub bench: Bench,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Readings from a file into windows into a file, against plain Rust.
    Telemetry(Telemetry),
    /// `telemetry --process` with one poisoned reading in a hundred.
    Poison(Telemetry),
    /// From a panic to the next event of the same key.
    Restart(Restart),
    /// Memory and time of ten million live processes.
    Processes(Processes),
    /// A node without input.
    Idle(Idle),
    /// The embedded engine against a raw file.
    Engine(Engine),
    /// From SIGKILL to new output.
    Recovery(Recovery),
    /// SIGKILL, again and again, and nothing lost or twice.
    Torture(Torture),
    /// From HTTP request to fsynced sink.
    Latency(Latency),
    /// A thousand nodes and twenty thousand tasks, simulated.
    Placement(Placement),
    /// Those on real brokers.
    #[command(flatten)]
    Kafka(Kafka),
    /// A part of a bench, in a process of its own.
    #[command(hide = true)]
    Part {
        /// Whose.
        bench: String,
        /// What to do, as JSON.
        part: String,
    },
}

/// What all benches take.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// What everything random follows from.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Where the bench keeps its files while it runs, instead of the system's temporary folder.
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// Arguments of `telemetry` and `poison`.
#[derive(Clone, Debug, Args)]
pub struct Telemetry {
    #[command(flatten)]
    pub common: Common,
    /// Readings.
    #[arg(long, default_value_t = 5_000_000)]
    pub rows: u64,
    /// Sensors.
    #[arg(long, default_value_t = 100_000)]
    pub sensors: u64,
    /// With a user-written process instead of the window helper.
    #[arg(long)]
    pub process: bool,
}

/// Arguments of `restart`.
#[derive(Clone, Debug, Args)]
pub struct Restart {
    #[command(flatten)]
    pub common: Common,
    /// Panics per round.
    #[arg(long, default_value_t = 10_000)]
    pub panics: u64,
    /// Events a second of other keys, in the second half of a round.
    #[arg(long, default_value_t = 100_000)]
    pub others: u64,
}

/// Arguments of `processes`.
#[derive(Clone, Debug, Args)]
pub struct Processes {
    #[command(flatten)]
    pub common: Common,
    /// Processes.
    #[arg(long, default_value_t = 10_000_000)]
    pub keys: u64,
    /// Processes that get a second event.
    #[arg(long, default_value_t = 1_000_000)]
    pub again: u64,
}

/// Arguments of `idle`.
#[derive(Clone, Debug, Args)]
pub struct Idle {
    #[command(flatten)]
    pub common: Common,
    /// How long a round looks, in seconds.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// How long the node has to come to rest before, in seconds.
    #[arg(long, default_value_t = 8)]
    pub settle: u64,
}

/// Arguments of `engine`.
#[derive(Clone, Debug, Args)]
pub struct Engine {
    #[command(flatten)]
    pub common: Common,
    /// Bytes of frames in a round.
    #[arg(long, default_value_t = 8 << 30)]
    pub bytes: u64,
}

/// Arguments of `recovery`.
#[derive(Clone, Debug, Args)]
pub struct Recovery {
    #[command(flatten)]
    pub common: Common,
    /// Keys, and how often each is updated before the first kill.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// See `keys`.
    #[arg(long, default_value_t = 5)]
    pub updates: u64,
    /// The same once more with so many keys; 0: not.
    #[arg(long, default_value_t = 10_000_000)]
    pub keys_large: u64,
    /// See `keys_large`.
    #[arg(long, default_value_t = 3)]
    pub updates_large: u64,
}

/// Arguments of `torture`.
#[derive(Clone, Debug, Args)]
pub struct Torture {
    #[command(flatten)]
    pub common: Common,
    /// Kills while a turn is open.
    #[arg(long, default_value_t = 200)]
    pub kills: usize,
    /// Kills while state is compacted.
    #[arg(long, default_value_t = 20)]
    pub compactions: usize,
    /// Kills within 200 ms of the start.
    #[arg(long, default_value_t = 20)]
    pub starts: usize,
}

/// Arguments of `latency`.
#[derive(Clone, Debug, Args)]
pub struct Latency {
    #[command(flatten)]
    pub common: Common,
    /// Requests a second, of 100 rows each.
    #[arg(long, default_value_t = 1000)]
    pub requests_per_s: u64,
    /// Seconds of a round.
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
}

/// Arguments of `placement`.
#[derive(Clone, Debug, Args)]
pub struct Placement {
    #[command(flatten)]
    pub common: Common,
    /// Nodes.
    #[arg(long, default_value_t = 1000)]
    pub nodes: usize,
    /// Tasks.
    #[arg(long, default_value_t = 20_000)]
    pub tasks: usize,
    /// Nodes that are lost in a round, one after the other.
    #[arg(long, default_value_t = 20)]
    pub losses: usize,
}
