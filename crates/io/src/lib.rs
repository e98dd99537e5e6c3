//! Where rows enter and leave: formats, files, standard streams, generators.
//!
//! *Why it exists:* a source and a sink do I/O and understand bytes; the heart does neither.
//! Formats ([`json`], [`csv`]) turn bytes into columns and know no files; connectors
//! ([`mod@file`], [`stdio`]) turn files into bytes and know no rows.

mod column;
pub mod csv;
mod decoding;
mod discard;
mod fields;
pub mod file;
mod generator;
pub mod http;
pub mod json;
mod lines;
mod number;
mod paced;
mod pool;
pub mod stdio;
mod text;
mod unit;
pub mod view;

pub use csv::{CsvDecoder, CsvEncoder};
pub use discard::Discard;
pub use file::{CsvFile, JsonLinesFile, JsonLinesSink};
pub use generator::Generator;
pub use http::HttpSource;
pub use json::{JsonDecoder, JsonEncoder};
pub use millstream_core::rng;
pub use paced::{Pace, Paced};
pub use stdio::{Stdin, Stdout};
pub use text::TextColumn;
pub use unit::{Decoded, OVERSIZE_RAW_BYTES, Place, RAW_BYTES_MAX};
