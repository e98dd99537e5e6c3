//! Real-time stream processing that fails the way Erlang does: one key at a time.
//!
//! Every key is a supervised process with durable state. A record that cannot be handled is set
//! aside; a crash of the node loses nothing and counts nothing twice.
//!
//! ```no_run
//! use millstream::prelude::*;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Departure {
//!     tailnum: String,
//!     dep_delay: f64, // "NA" is no number: that row becomes a dead letter
//! }
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Aircraft {
//!     late_in_a_row: u32, // the state of one process
//! }
//!
//! impl Process for Aircraft {
//!     type In = Departure;
//!     type Out = Departure;
//!
//!     fn handle(&mut self, d: Departure, ctx: &mut Context<Self>) -> Result<()> {
//!         self.late_in_a_row = if d.dep_delay >= 60.0 { self.late_in_a_row + 1 } else { 0 };
//!         if self.late_in_a_row == 3 {
//!             ctx.emit(d);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> Result<()> {
//!     let flow = Flow::new("departures")
//!         .source("flights", CsvFile::open("examples/data/flights-2013-01.csv"))
//!         .key_by("tailnum") // one supervised process per aircraft
//!         .process::<Aircraft>("aircraft", OnError::DeadLetter)
//!         .sink("alerts", JsonLinesFile::create("out/departures.jsonl"));
//!     Node::embedded("millstream-data").run(flow)?;
//!     Ok(())
//! }
//! ```
//!
//! [`Flow`] says what there is to do, [`Process`] and [`Context`] what a key does, [`Window`] and
//! [`Aggregate`] what is counted, [`Node`] runs it, and [`test::TestNode`] runs it in a test, with
//! time and crashes in the test's hand.

#[cfg(feature = "kafka")]
mod cluster;
#[cfg(test)]
mod drive;
mod flow;
mod host;
mod inspect;
mod migrate;
mod node;
mod options;
mod place;
mod plan;
mod process;
mod progress;
mod rows;
mod signals;
mod target;
pub mod test;
mod window;

pub use flow::{Checked, Flow, PARTITIONS};
pub use host::{OnError, ProcessOptions};
pub use inspect::{ProcessState, TimerState, process_state};
pub use migrate::migrate;
pub use millstream_core::{
    self as core, Error, Time,
    connector::{Guarantee, Sink, Source},
    key::Key,
};
pub use millstream_io as io;
pub use millstream_runtime as runtime;
pub use node::{Node, Running};
pub use process::{At, Context, Failure, Process, Result};
pub use signals::Signals;
pub use target::{DEFAULT_DATA, Drained, Target};
pub use window::{Accumulator, Aggregate, WINDOW_END, WINDOW_START, Window};

/// What a flow's author needs, in one line.
pub mod prelude {
    pub use std::time::Duration;

    pub use millstream_io::{
        CsvFile, Discard, Generator, HttpSource, JsonLinesFile, Stdin, Stdout,
    };
    pub use serde::{Deserialize, Serialize};

    pub use crate::{
        Accumulator, Aggregate, At, Context, Failure, Flow, Key, Node, OnError, Process,
        ProcessOptions, Result, Time, Window,
    };
}

/// What a connector's author needs, in one line; see `docs/connectors.md`.
///
/// Columns are those of the Arrow version that the node uses, so that no other can get in between.
pub mod connector {
    pub use std::{sync::Arc, time::Duration};

    pub use arrow_array::{self, RecordBatch};
    pub use arrow_schema::{self, SchemaRef};
    pub use millstream_core::{
        Batch, Code, Error, Result,
        connector::*,
        partitioner::{Partitioner, murmur2_of},
    };
    pub use millstream_io::{Decoded, JsonDecoder, JsonEncoder, Place};

    use serde::Serialize;

    /// Structs as columns: those of `schema`, found by name.
    ///
    /// # Errors
    /// If a row does not fit its column.
    pub fn columns<T: Serialize>(schema: &SchemaRef, rows: &[T]) -> Result<RecordBatch> {
        let rows = serde_arrow::to_record_batch(schema.fields(), &rows);
        rows.map_err(|e| Error::new(Code::Input, e.to_string()))
    }
}

/// Compiles and runs the code in the project's documents.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../../README.md")]
    mod readme {}
    #[doc = include_str!("../../../docs/getting-started.md")]
    mod getting_started {}
    #[doc = include_str!("../../../docs/typed-api.md")]
    mod typed_api {}
    #[doc = include_str!("../../../docs/connectors.md")]
    mod connectors {}
    #[doc = include_str!("../../../docs/testing.md")]
    mod testing {}
    #[doc = include_str!("../../../docs/errors.md")]
    mod errors {}
}
