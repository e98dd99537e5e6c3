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

pub use letters::{LetterView, dead, letter};
pub use process::{Found, ProcessView, ShowState, find_process, process_in_log, processes};
pub(crate) use process::{unknown_key, unknown_kind};
pub use reports::{ReportView, supervisor};
pub use rows::{TailRow, json_rows};
pub use status::{FlowView, LedgerView, StageView, Status, flows, ledger, status};
pub use streams::{StreamView, resolve, streams, tail};

/// Things in one answer, at most.
pub const LIMIT_MAX: usize = 10_000;
/// Things in one answer, unless said otherwise.
pub const LIMIT: usize = 100;
