//! Comma-separated values with a header, decoded straight into the columns of a schema.
//!
//! *What is accepted:* RFC 4180, UTF-8, `\n` or `\r\n`. The header names the columns. A field that
//! starts with a quote ends at the next single one; `""` in it is a quote, and it may hold
//! separators and line ends. A quote within an unquoted field is just a character. Blank lines are
//! skipped. Every record has as many fields as the header. Around numbers, times and truth values
//! (`true`, `false` in any case, `1`, `0`) spaces are ignored.
//!
//! *Nothing between two separators* is null where the column may have nulls, else the empty text,
//! else a fault; `""` is the empty text.
//!
//! *Invariants*
//! - A record's extent is a function of the bytes from its start on, at most [`RECORD_BYTES_MAX`]
//!   of them, so it is the same wherever reading started.
//! - A record whose quotes are wrong costs one line: the next record starts on the next line.
//!
//! *Why our own:* only a splitter that knows where a broken record ends can name it and go on.

mod decode;
mod encode;
mod split;

#[cfg(test)]
mod tests;

use millstream_core::{Code, Error};

pub use decode::CsvDecoder;
pub use encode::CsvEncoder;
pub(crate) use split::{Extent, extent, header};

/// The longest record that is decoded, in bytes.
pub const RECORD_BYTES_MAX: usize = crate::json::LINE_BYTES_MAX;

/// A file whose first line does not name its columns.
pub(crate) fn no_header(why: &str) -> Error {
    Error::new(Code::Input, format!("there is no header: {why}"))
        .help("the first line has to name the columns, also if no records follow")
}
