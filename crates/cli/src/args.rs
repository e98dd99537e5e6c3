//! The command line.

use std::path::PathBuf;

use clap::{
    Args as Group, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::RangedU64ValueParser, parser::ValueSource,
};

/// Real-time stream processing that fails the way Erlang does: one key at a time.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, max_term_width = 100)]
pub struct Args {
    /// The node to ask [default: the one that uses --data, or 127.0.0.1:7070]
    #[arg(long, global = true, env = "MILLSTREAM_NODE", value_name = "HOST:PORT")]
    pub node: Option<String>,
    /// The directory of a node; read as it is when no node runs [default: ./millstream-data]
    #[arg(long, global = true, env = "MILLSTREAM_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Whether `data` was written on the command line, and not taken from the environment
    #[arg(skip)]
    pub data_named: bool,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// What was written on the command line, or the usage and the end.
    pub fn read() -> Args {
        let matches = Args::command().get_matches();
        let mut args = Args::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
        let typed = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        args.data_named = typed("data");
        if typed("data") && !typed("node") {
            // What is typed counts for more than what the environment says.
            args.node = None;
        }
        args
    }
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch real data flow through a node that crashes, is killed, and loses nothing
    Demo(Demo),
    /// How the node and its flows are
    Status,
    /// The state of one process
    Inspect {
        /// The process kind, such as `aircraft`
        kind: String,
        /// Its key, such as `N730MQ`; of several columns, `hall,7`
        #[arg(allow_hyphen_values = true)]
        key: String,
    },
    /// End one process, as Erlang's exit(Pid, kill) does; it resumes from its last committed state
    Kill {
        /// The process kind
        kind: String,
        /// Its key, as `inspect` takes it
        #[arg(allow_hyphen_values = true)]
        key: String,
    },
    /// Streams and their rows
    #[command(subcommand)]
    Streams(Streams),
    /// What was set aside
    #[command(subcommand)]
    Dead(Dead),
    /// Whether every row is accounted for
    Ledger {
        /// Say only whether it balances, and what does not; exit with 1 if anything does not
        #[arg(long)]
        check: bool,
    },
    /// What supervisors decided
    #[command(subcommand)]
    Supervisor(Supervisor),
    /// Many nodes that share the work of an application through Kafka
    #[command(subcommand)]
    Cluster(Cluster),
    /// Move what a node's directory holds to Kafka, for many nodes to go on with
    Migrate(Migrate),
    /// The node of the demo
    #[command(hide = true)]
    DemoNode(DemoNode),
    /// One of the nodes of the demo's cluster
    #[command(hide = true)]
    DemoMember(DemoMember),
}

/// A list of nothing at all would look like one of which there is nothing.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Questions about streams.
#[derive(Debug, Subcommand)]
pub enum Streams {
    /// All streams
    List,
    /// The last rows of a stream
    Tail {
        /// The stream, as `flow/stream` or `stream`
        name: String,
        /// Of one partition only
        #[arg(long)]
        partition: Option<u32>,
        /// From this frame on, instead of the last rows
        #[arg(long)]
        from: Option<u64>,
        /// Rows, at most
        #[arg(long, default_value_t = 20, value_parser = at_least_one())]
        limit: usize,
    },
}

/// Questions about dead letters.
#[derive(Debug, Subcommand)]
pub enum Dead {
    /// The last dead letters
    List {
        /// Of one flow only
        #[arg(long)]
        flow: Option<String>,
        /// From this number on, instead of the last ones
        #[arg(long)]
        from: Option<u64>,
        /// Letters of each flow, at most
        #[arg(long, default_value_t = 20, value_parser = at_least_one())]
        limit: usize,
    },
    /// One dead letter with all that is known of it
    Show {
        /// Its number
        n: u64,
        /// Its flow, if several have one of this number
        #[arg(long)]
        flow: Option<String>,
    },
}

/// Questions about supervision.
#[derive(Debug, Subcommand)]
pub enum Supervisor {
    /// The last decisions
    Tail {
        /// From this number on, instead of the last ones
        #[arg(long)]
        from: Option<u64>,
        /// Decisions, at most
        #[arg(long, default_value_t = 20, value_parser = at_least_one())]
        limit: usize,
    },
}

/// What can be asked of a cluster; any of its nodes answers for all.
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Who is there, who runs and who follows which task, and how long takeovers took
    Status,
    /// Let a node hand its tasks over to the others, and end
    Drain {
        /// Its name
        #[arg(value_name = "NODE")]
        name: String,
    },
}

/// What is moved, and where to.
#[derive(Debug, Group)]
pub struct Migrate {
    /// The directory of a node that does not run; it stays as it is
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The brokers
    #[arg(long, value_name = "kafka://HOST:PORT,...")]
    pub to: String,
    /// The application that goes on with it; there must be nothing of it yet
    #[arg(long, value_name = "NAME")]
    pub app: String,
}

/// How the demo runs.
#[derive(Debug, Group)]
pub struct Demo {
    /// Three nodes that share the work through Kafka: one is killed, one paused; needs --engine
    #[arg(long, conflicts_with = "listen")]
    pub cluster: bool,
    /// Brokers for --cluster; `scripts/kafka-up` starts three on this machine
    #[arg(long, requires = "cluster", value_name = "kafka://HOST:PORT,...")]
    pub engine: Option<String>,
    /// Another file of departures, with the columns of the built-in one
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Rows per second [default: 2500, with --cluster 600]
    #[arg(long, value_parser = clap::value_parser!(u64).range(100..=100_000))]
    pub rate: Option<u64>,
    /// As fast as is still worth watching: 25,000 rows per second
    #[arg(long, conflicts_with = "rate")]
    pub fast: bool,
    /// What draws the moment of the kill [default: drawn from the clock, and printed]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where the node listens [default: 127.0.0.1:7070, or any free port if that is taken]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
}

/// One of the nodes of the demo's cluster.
#[derive(Debug, Group)]
pub struct DemoMember {
    #[arg(long)]
    pub engine: String,
    #[arg(long)]
    pub app: String,
    #[arg(long)]
    pub name: String,
    #[arg(long)]
    pub csv: PathBuf,
    #[arg(long)]
    pub rate: u64,
}

/// The node of the demo.
#[derive(Debug, Group)]
pub struct DemoNode {
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long)]
    pub csv: PathBuf,
    #[arg(long)]
    pub rate: u64,
    #[arg(long)]
    pub listen: String,
    /// Take any free port if that one is taken.
    #[arg(long)]
    pub or_any_port: bool,
    /// The line at which the handler panics, and the key it must belong to.
    #[arg(long, num_args = 2, value_names = ["LINE", "KEY"])]
    pub panic_at: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_any_text_and_options_go_anywhere() {
        for key in ["-5", "-5,hall", "hall,-5", "-x", ""] {
            for words in [["--data", "d", "sensor", key], ["sensor", key, "--data", "d"]] {
                let args = Args::try_parse_from(["millstream", "inspect"].iter().chain(&words));
                let args = args.unwrap_or_else(|e| panic!("{words:?}: {e}"));
                let Command::Inspect { key: read, .. } = args.command else { panic!("{words:?}") };
                assert_eq!((read.as_str(), args.data), (key, Some("d".into())), "{words:?}");
            }
        }
    }
}
