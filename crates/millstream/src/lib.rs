//! Real-time stream processing that fails the way Erlang does: one key at a time.

mod flow;
mod host;
mod plan;
mod process;
mod rows;
mod window;

pub use flow::{Flow, PARTITIONS};
pub use host::{OnError, ProcessOptions};
pub use millstream_core::{Error, Time, key::Key};
pub use process::{At, Context, Failure, Process, Result};
pub use window::{Accumulator, Aggregate, Window};
