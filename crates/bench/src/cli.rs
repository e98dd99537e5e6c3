//! The command line of the benches.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
