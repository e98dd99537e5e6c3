//! For tests and benches: three real Kafka brokers, a proxy that disturbs the way to them, and a
//! judge that reads what is committed without a line of ours.
//!
//! *Why it exists:* what a client does when an answer is lost, a broker dies or a request comes
//! late is known only with the real thing. A container would need a container runtime; this needs
//! Java, and Maven once.
//!
//! *Invariants*
//! - No broker outlives its test process, however that ends; nor do its files.
//! - Nobody waits by sleeping: what a test waits for is an event with a deadline, and what has not
//!   happened by then is a panic that says what has.
//! - A fault disturbs the links it was asked for: one node of a test, one broker, or both.
//!
//! *Failure:* where Java is missing, or Maven before it has fetched Kafka once, [`or_skip`] ends a
//! test with a line that names it; with `CI=true` it fails.
//!
//! *Limits:* 3 brokers, [`NODES`] nodes, about 500 MB of memory per cluster, 7 s to start one.
//!
//! ```no_run
//! use millstream_brokers::{Api, Brokers, DEADLINE, or_skip};
//!
//! fn an_answer_is_lost() {
//!     let brokers = or_skip!(Brokers::shared());
//!     let [node] = brokers.nodes();
//!     node.lose_answers(Api::END_TXN, 1);
//!     // ... a client of `node.bootstrap()` commits a transaction ...
//!     node.wait_answers(Api::END_TXN, 1, DEADLINE);
//!     assert_eq!(brokers.committed("topic").len(), 1);
//! }
//! ```

mod broker;
mod cluster;
mod committed;
mod ports;
mod proxy;
mod wire;

use std::{io::Write, time::Duration};

pub use self::{
    cluster::{Brokers, NODES, Node},
    committed::Committed,
    proxy::{Api, Held, Links, Proxy},
    wire::{Operation, Resource, Right},
};

/// How long a test should wait for what must happen soon.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Why there are no brokers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine lacks what they need.
    #[error("{0}")]
    Absent(String),
    /// They were started and did not come up.
    #[error("Kafka's brokers: {0}")]
    Failed(String),
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error::Failed(e.to_string())
    }
}

/// The brokers; or the end of the test, with a line `skipped: NAME: why` on standard error, if this
/// machine cannot have any.
///
/// # Panics
/// If brokers did not come up though they could, and with `CI=true` if they cannot.
#[macro_export]
macro_rules! or_skip {
    ($brokers:expr) => {
        match $brokers {
            Ok(brokers) => brokers,
            Err(why) => {
                fn here() {}
                let name = ::std::any::type_name_of_val(&here);
                return $crate::skipped(name.trim_end_matches("::here"), &why);
            }
        }
    };
}

/// Says that the test `name` is skipped; see [`or_skip`].
///
/// # Panics
/// If it must not be.
pub fn skipped(name: &str, why: &Error) {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    match why {
        // Not `eprintln`, which a test that passes is not heard with.
        Error::Absent(_) if !ci => {
            let name = name.split_once("::").map_or(name, |(_, name)| name);
            let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
        }
        Error::Absent(_) => panic!("{why}; with CI=true no test is skipped"),
        Error::Failed(_) => panic!("{why}"),
    }
}
