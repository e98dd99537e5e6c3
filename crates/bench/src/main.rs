//! Every figure that `docs/benchmarks.md` states, measured.
//!
//! `cargo run --release -p millstream-bench -- NAME` prints readable lines and ends with one line
//! of JSON. A bench brings its own input, oracle and baseline, uses the product's defaults and
//! prints them. Results that differ from the oracle, or a ledger that does not balance, give
//! `"valid": false` and exit code 1.

mod cli;
mod engine;
mod feed;
mod idle;
#[cfg(feature = "kafka")]
mod kafka;
mod latency;
mod machine;
mod mersenne;
mod node;
mod placement;
mod plain;
mod poison;
mod processes;
mod readings;
mod recovery;
mod report;
mod restart;
mod sensors;
mod tally;
mod telemetry;
mod torture;

use std::process::ExitCode;

use clap::Parser;
use serde::{Serialize, de::DeserializeOwned};

use crate::{cli::Bench, report::Result};

fn main() -> ExitCode {
    let result = match cli::Cli::parse().bench {
        Bench::Telemetry(args) => telemetry::run(&args),
        Bench::Poison(args) => poison::run(&args),
        Bench::Restart(args) => restart::run(&args),
        Bench::Processes(args) => processes::run(&args),
        Bench::Idle(args) => idle::run(&args),
        Bench::Engine(args) => engine::run(&args),
        Bench::Recovery(args) => recovery::run(&args),
        Bench::Torture(args) => torture::run(&args),
        Bench::Latency(args) => latency::run(&args),
        Bench::Placement(args) => placement::run(&args),
        #[cfg(feature = "kafka")]
        Bench::Kafka(bench) => kafka::run(&bench),
        #[cfg(not(feature = "kafka"))]
        Bench::Kafka(bench) => Err(bench.how_to_build().into()),
        Bench::Part { bench, part } => run_part(&bench, &part),
    };
    result.unwrap_or_else(|e| {
        eprintln!("{e}");
        ExitCode::from(2)
    })
}

fn run_part(bench: &str, part: &str) -> Result<ExitCode> {
    match bench {
        "telemetry" => answer(part, sensors::run),
        "restart" => answer(part, restart::part),
        "processes" => answer(part, processes::part),
        "idle" => answer(part, idle::part),
        "engine" => answer(part, engine::part),
        "latency" => answer(part, latency::part),
        "tally" => answer(part, tally::part),
        #[cfg(feature = "kafka")]
        "kafka" => answer(part, kafka::part),
        other => Err(format!("no bench {other} has parts").into()),
    }
}

/// Does a part and prints what came of it.
fn answer<P: DeserializeOwned, A: Serialize>(
    part: &str,
    run: impl FnOnce(&P) -> Result<A>,
) -> Result<ExitCode> {
    println!("{}", serde_json::to_string(&run(&serde_json::from_str(part)?)?)?);
    Ok(ExitCode::SUCCESS)
}
