//! Where rows enter and leave: formats, files, standard streams, generators.
//!
//! *Why it exists:* a source and a sink do I/O and understand bytes; the heart does neither.
//! Formats ([`json`], [`csv`]) turn bytes into columns and know no files; connectors ([`file`])
//! turn files into bytes and know no rows.

mod column;
pub mod csv;
mod decoding;
mod fields;
pub mod file;
pub mod json;
mod lines;
mod number;
mod pool;
pub mod rng;
mod unit;

pub use csv::CsvDecoder;
pub use file::{CsvFile, JsonLinesFile, JsonLinesSink};
pub use json::{JsonDecoder, JsonEncoder};
pub use unit::{Decoded, OVERSIZE_RAW_BYTES, Place, RAW_BYTES_MAX};
