//! Real-time stream processing that fails the way Erlang does: one key at a time.

mod flow;
mod host;
mod inspect;
mod node;
mod plan;
mod process;
mod rows;
mod target;
pub mod test;
mod window;

pub use flow::{Flow, PARTITIONS};
pub use host::{OnError, ProcessOptions};
pub use inspect::{ProcessState, TimerState, process_state};
pub use millstream_core::{
    self as core, Error, Time,
    connector::{Sink, Source},
    key::Key,
};
pub use millstream_io as io;
pub use millstream_runtime as runtime;
pub use node::{Node, Running};
pub use process::{At, Context, Failure, Process, Result};
pub use target::{DEFAULT_DATA, Target};
pub use window::{Accumulator, Aggregate, WINDOW_END, WINDOW_START, Window};

/// What a flow's author needs, in one line.
pub mod prelude {
    pub use std::time::Duration;

    pub use millstream_io::{CsvFile, Discard, Generator, JsonLinesFile, Stdin, Stdout};
    pub use serde::{Deserialize, Serialize};

    pub use crate::{
        Accumulator, Aggregate, At, Context, Failure, Flow, Key, Node, OnError, Process,
        ProcessOptions, Result, Time, Window,
    };
}
