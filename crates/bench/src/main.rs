//! Every figure that `docs/benchmarks.md` states, measured.
//!
//! `cargo run --release -p millstream-bench -- NAME` prints readable lines and ends with one line
//! of JSON. A bench brings its own input, oracle and baseline, uses the product's defaults and
//! prints them. Results that differ from the oracle, or a ledger that does not balance, give
//! `"valid": false` and exit code 1.

mod cli;
mod machine;
mod mersenne;
mod node;
mod plain;
mod readings;
mod report;
mod sensors;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

use crate::{cli::Bench, report::Result};

fn main() -> ExitCode {
    let result = match cli::Cli::parse().bench {
        Bench::Telemetry(args) => telemetry::run(&args),
        Bench::Part { bench, part } => run_part(&bench, &part),
    };
    result.unwrap_or_else(|e| {
        eprintln!("{e}");
        ExitCode::from(2)
    })
}

fn run_part(bench: &str, part: &str) -> Result<ExitCode> {
    let answer = match bench {
        "telemetry" => serde_json::to_string(&sensors::run(&serde_json::from_str(part)?)?)?,
        other => return Err(format!("no bench {other} has parts").into()),
    };
    println!("{answer}");
    Ok(ExitCode::SUCCESS)
}
