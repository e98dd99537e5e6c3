//! What people are shown of an engine: the same whether a node runs or only its directory is read.
//!
//! *Why it exists:* the control API and the command line answer the same questions, one from a
//! running node, the other from a directory. Each question is answered here, once.
//!
//! *Invariants*
//! - Nothing here waits for a task or takes a task's lock, so it answers while every worker is
//!   stuck. What a task has not committed is not shown.
//! - Rows, letters and reports are read from durable frames only.
//!
//! *Limits:* [`LIMIT_MAX`] things per answer.

mod letters;
mod process;
mod reports;
mod rows;
mod status;
mod streams;
mod walk;

use millstream_core::{
    Error, Result,
    engine::{ClusterView, Engine, alone},
    nearest,
};

pub use letters::{LetterView, dead, letter};
pub use process::{Found, ProcessView, ShowState, find_process, process_in_log, processes};
pub(crate) use process::{unknown_key, unknown_kind};
pub use reports::{ReportView, supervisor};
pub use rows::{TailRow, json_rows};
pub use status::{FlowView, LedgerView, StageView, Status, flows, ledger, status};
pub use streams::{StreamView, resolve, streams, tail};

/// The nodes that share the application's tasks, as this one knows them.
///
/// # Errors
/// [`millstream_core::Code::Plan`] if it is not one of many.
pub fn cluster(engine: &dyn Engine) -> Result<ClusterView> {
    engine.cluster().ok_or_else(alone)
}

/// Flow, stage and partition of a task, which its name is made of.
fn task_path(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.rsplitn(3, '/');
    let (partition, stage, flow) = (parts.next()?, parts.next()?, parts.next()?);
    Some((flow, stage, partition))
}

/// What can be asked for instead of `wrong`; `none` is the advice if there is nothing.
fn instead<'a>(
    error: Error,
    wrong: &str,
    known: impl Iterator<Item = &'a str>,
    none: &str,
) -> Error {
    let all: Vec<&str> = known.collect();
    match nearest(wrong, all.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None if all.is_empty() => error.help(none),
        None => error.help(format!("there are: {}", all.join(", "))),
    }
}

/// Things in one answer, at most.
pub const LIMIT_MAX: usize = 10_000;
/// Things in one answer, unless said otherwise.
pub const LIMIT: usize = 100;
