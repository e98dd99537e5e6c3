//! What decoders of all formats take and give: places, rows, and units that are none.

use arrow_array::RecordBatch;
use millstream_core::connector::Undecodable;

use crate::column::Fault;

/// How much of a unit that could not be decoded is kept, in bytes.
pub const RAW_BYTES_MAX: usize = 1 << 20;
/// How much is kept of a unit that was too long to be read whole, in bytes.
pub const OVERSIZE_RAW_BYTES: usize = 4 << 10;

/// Where bytes begin in their source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first line's number, counted from 1.
    pub line: u64,
    /// The first byte's offset.
    pub offset: u64,
}

impl Default for Place {
    /// The beginning.
    fn default() -> Place {
        Place { line: 1, offset: 0 }
    }
}

/// What became of the units of a piece of input: rows + undecodable + skipped.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The rows, of the decoder's schema.
    pub rows: RecordBatch,
    /// The line on which each row starts.
    pub places: Vec<u64>,
    /// Units that are no rows, and why.
    pub undecodable: Vec<Undecodable>,
    /// Units that are no data, such as blank lines.
    pub skipped: u64,
}

/// The unit `unit`, which starts at `at`, could not be decoded. A unit longer than `bytes_max` is
/// called too long, whatever else is wrong with it, so that it does not matter who notices first.
#[cold]
pub(crate) fn undecodable(fault: Fault, at: Place, unit: &[u8], bytes_max: usize) -> Undecodable {
    if unit.len() > bytes_max {
        return oversize(at, unit.len() as u64, unit, bytes_max);
    }
    Undecodable {
        place: at.line,
        bytes: (at.offset, at.offset + unit.len() as u64),
        column: fault.column,
        error: fault.error,
        raw: unit[..unit.len().min(RAW_BYTES_MAX)].to_vec(),
        file: String::new(),
    }
}

/// A unit of `len` bytes, more than the limit, which begins with `head`.
pub(crate) fn oversize(at: Place, len: u64, head: &[u8], bytes_max: usize) -> Undecodable {
    Undecodable {
        place: at.line,
        bytes: (at.offset, at.offset + len),
        column: String::new(),
        error: format!("{len} bytes long; the limit is {bytes_max}"),
        raw: head[..head.len().min(OVERSIZE_RAW_BYTES).min(bytes_max)].to_vec(),
        file: String::new(),
    }
}
