//! The `millstream` binary: says what the libraries know, and nothing of its own.
//!
//! *Why a library:* its tests run the program with the feature `kafka`, which is off elsewhere.
//! *Streams:* results on stdout, everything else on stderr.
//! *Exit codes:* 0 ok · 1 a flow failed or the ledger is unbalanced · 2 usage · 3 plan or
//! input is wrong · 4 node or engine cannot be reached · 130 stopped by a second Ctrl-C.

mod args;
mod ask;
mod cluster;
mod demo;
mod migrate;
mod say;

use std::process::ExitCode;

use args::{Args, Command};
use say::Say;

/// Does what the command line asks for.
pub fn run() -> ExitCode {
    let args = Args::read();
    let mut say = Say::new(&args);
    let done = match &args.command {
        Command::Demo(options) if options.cluster => demo::cluster::run(options, &args, &mut say),
        Command::Demo(options) => demo::run(options, &args, &mut say),
        Command::DemoNode(options) => demo::node::run(|| demo::node::start(options)),
        Command::DemoMember(options) => demo::cluster::member(options),
        Command::Migrate(options) => migrate::run(options, &mut say),
        question => ask::ask(question, &args, &mut say),
    };
    done.unwrap_or_else(|error| say.error(&error))
}
