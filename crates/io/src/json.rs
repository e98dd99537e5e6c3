//! JSON lines: one object per line, decoded straight into the columns of a schema, and back.
//!
//! *Why our own:* decoding is the budget of a stream processor. A general parser builds a tree or
//! a tape first and decodes fields nobody asked for, and the one in `arrow-json` fails a whole
//! batch for one bad line. This one knows the schema, guesses the next field from the line
//! before, skips what is not needed, and takes back exactly the line that fails.
//!
//! *Invariants*
//! - A bad line never changes what its neighbours decode to.
//! - Decoding is a pure function of bytes and schema: the same bytes give the same rows and the
//!   same faults, whatever was decoded before.
//!
//! *What is accepted:* RFC 8259, UTF-8, one object per line; `\n` or `\r\n` ends a line, and the
//! last line needs no end. Blank lines are skipped. A field given twice: each value has to fit, the
//! last one wins. Fields that the schema lacks are checked for structure and dropped. A `null` or
//! missing field is a null where the column may have one and a fault where not. Nothing is turned
//! into anything: `"7"` is not a number, `7.0` and `7e0` are not whole numbers, `7` is not text.
//! Times are a number, taken as milliseconds since the epoch, or text that
//! [`millstream_core::Time::parse`] reads.
//!
//! *Limits:* 16 MiB per line ([`LINE_BYTES_MAX`]), nesting of 128 ([`DEPTH_MAX`]).

mod decode;
mod encode;
mod scan;

#[cfg(test)]
mod tests;

pub use decode::{JsonDecoder, LINE_BYTES_MAX};
pub use encode::JsonEncoder;
pub(crate) use encode::{Values, values};
pub use scan::DEPTH_MAX;

pub(crate) use decode::{check_utf8, line_end, misfit};
pub(crate) use scan::{keys, quoted};
