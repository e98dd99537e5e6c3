//! Cuts a stream of bytes into chunks at the ends of lines or records.
//!
//! *Why apart from decoding:* cutting is sequential and runs at memory speed on the thread that
//! reads; decoding costs a hundred times more and runs anywhere. Units are counted here, where
//! they are cut, so that the ledger can compare them with what the decoder made of them.
//!
//! *Invariants*
//! - Chunks join up to the input; each but the last ends with a line end.
//! - The same bytes give the same units, however they were read.
//!
//! *Limits:* holds one unit of at most `unit_bytes_max` and one read; of a longer line only the
//! first 4 KiB are kept while the rest goes by.

use memchr::{memchr, memchr_iter, memrchr};

use crate::{
    csv::{Extent, extent},
    pool::Pool,
    unit::{OVERSIZE_RAW_BYTES, Place},
};

/// How bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Each line is a unit.
    JsonLines,
    /// Each record is a unit; quotes may hold line ends. The first is the header.
    Csv { separator: u8 },
}

/// Some whole units.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub kind: PieceKind,
    pub bytes: Vec<u8>,
    pub start: Place,
    /// What follows.
    pub end: Place,
    pub units: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// To be decoded.
    Data,
    /// The header of a CSV file.
    Header,
    /// The head of one unit that was too long to be kept; it had `len` bytes.
    Oversize { len: u64 },
}

/// Cuts bytes into pieces.
#[derive(Debug)]
pub(crate) struct Cutter {
    format: Format,
    unit_bytes_max: usize,
    units_max: u64,
    /// Bytes not handed out yet, which start at `at`.
    bytes: Vec<u8>,
    at: Place,
    header_due: bool,
    /// Bytes of the oversize line that have gone by; its head is in `head`.
    gone: Option<u64>,
    head: Vec<u8>,
    spare: Pool<Vec<u8>>,
}

/// Some units at the start of the bytes.
#[derive(Default)]
struct Cut {
    len: usize,
    units: u64,
    lines: u64,
}

impl Cutter {
    /// Cuts what is read from `at` on. A header is due at the beginning of a CSV file.
    pub fn new(format: Format, unit_bytes_max: usize, at: Place, spare: Pool<Vec<u8>>) -> Cutter {
        Cutter {
            format,
            unit_bytes_max,
            units_max: u64::MAX,
            bytes: Vec::new(),
            at,
            header_due: at.line == 1 && matches!(format, Format::Csv { .. }),
            gone: None,
            head: Vec::new(),
            spare,
        }
    }

    /// Hands out pieces of at most `units` from now on.
    pub fn limit(&mut self, units: u64) {
        self.units_max = units.max(1);
    }

    /// Whether pieces are limited, so that reading far ahead is of no use.
    pub fn limited(&self) -> bool {
        self.units_max != u64::MAX
    }

    /// The bytes held now.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Where to put what is read next.
    pub fn room(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Steps over a byte order mark at the beginning.
    pub fn skip_mark(&mut self) {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        if self.at.offset == 0 && self.bytes.starts_with(MARK) {
            self.bytes.drain(..MARK.len());
            self.at.offset = MARK.len() as u64;
        }
    }

    /// The next piece; `None` if more bytes are needed. `ended`: there will be none.
    pub fn next(&mut self, ended: bool) -> Option<Piece> {
        if self.gone.is_some() {
            return self.oversize(ended);
        }
        if self.bytes.is_empty() {
            return None;
        }
        let units_max = if self.header_due { 1 } else { self.units_max };
        let cut = match self.format {
            Format::JsonLines => cut_lines(&self.bytes, ended, units_max),
            Format::Csv { .. } if memchr(b'"', &self.bytes).is_none() => {
                cut_lines(&self.bytes, ended, units_max)
            }
            Format::Csv { separator } => {
                cut_records(&self.bytes, separator, ended, units_max, self.unit_bytes_max)
            }
        };
        if cut.len > 0 {
            let header = std::mem::take(&mut self.header_due);
            let len = cut.len - usize::from(self.bytes[cut.len - 1] == b'\n');
            let kind = match header {
                true if len > self.unit_bytes_max => PieceKind::Oversize { len: len as u64 },
                true => PieceKind::Header,
                false => PieceKind::Data,
            };
            return Some(self.piece(kind, &cut));
        }
        if self.bytes.len() > self.unit_bytes_max {
            self.gone = Some(0);
            self.head = self.bytes[..OVERSIZE_RAW_BYTES.min(self.bytes.len())].to_vec();
            return self.oversize(ended);
        }
        None
    }

    /// Cuts `cut` off the bytes.
    fn piece(&mut self, kind: PieceKind, cut: &Cut) -> Piece {
        let start = self.at;
        self.at.offset += cut.len as u64;
        self.at.line += cut.lines;
        let mut rest = self.spare.take().unwrap_or_default();
        rest.clear();
        rest.extend_from_slice(&self.bytes[cut.len..]);
        let mut bytes = std::mem::replace(&mut self.bytes, rest);
        bytes.truncate(cut.len);
        Piece { kind, bytes, start, end: self.at, units: cut.units }
    }

    /// Lets a line that is too long go by; its piece once its end has come.
    fn oversize(&mut self, ended: bool) -> Option<Piece> {
        let end = memchr(b'\n', &self.bytes);
        let gone = self.gone.get_or_insert(0);
        *gone += end.map_or(self.bytes.len(), |n| n + 1) as u64;
        match end {
            Some(n) => {
                self.bytes.drain(..=n);
            }
            None => {
                self.bytes.clear();
                self.bytes.shrink_to(1 << 20);
            }
        }
        if end.is_none() && !ended {
            return None;
        }
        let start = self.at;
        let len = self.gone.take().unwrap_or_default();
        self.at.offset += len;
        self.at.line += 1;
        self.header_due = false;
        let kind = PieceKind::Oversize { len: len - u64::from(end.is_some()) };
        let bytes = std::mem::take(&mut self.head);
        Some(Piece { kind, bytes, start, end: self.at, units: 1 })
    }
}

/// As many whole lines as there are, at most `units_max`.
fn cut_lines(bytes: &[u8], ended: bool, units_max: u64) -> Cut {
    if units_max != u64::MAX {
        let nth = usize::try_from(units_max - 1).unwrap_or(usize::MAX);
        if let Some(end) = memchr_iter(b'\n', bytes).nth(nth) {
            return Cut { len: end + 1, units: units_max, lines: units_max };
        }
    }
    let len = if ended { bytes.len() } else { memrchr(b'\n', bytes).map_or(0, |n| n + 1) };
    let ends = memchr_iter(b'\n', &bytes[..len]).count() as u64;
    let open = u64::from(len > 0 && bytes[len - 1] != b'\n');
    Cut { len, units: ends + open, lines: ends + open }
}

/// As many whole records as there are, at most `units_max`.
fn cut_records(bytes: &[u8], separator: u8, ended: bool, units_max: u64, bytes_max: usize) -> Cut {
    let mut cut = Cut::default();
    while cut.len < bytes.len() && cut.units < units_max {
        let start = cut.len;
        let end = match extent(bytes, start, separator, bytes_max) {
            Extent::Line(end) => Some(end),
            Extent::Open if ended => None,
            Extent::Quoted if !ended && bytes.len() - start <= bytes_max => break,
            Extent::Open => break,
            Extent::Broken | Extent::Quoted => match memchr(b'\n', &bytes[start..]) {
                Some(n) => {
                    cut.lines += 1;
                    cut.units += 1;
                    cut.len = start + n + 1;
                    continue;
                }
                None if ended => None,
                None => break,
            },
        };
        let end = end.map_or(bytes.len(), |end| end + 1);
        let lines = memchr_iter(b'\n', &bytes[start..end]).count() as u64;
        cut.lines += lines + u64::from(bytes[end - 1] != b'\n');
        cut.units += 1;
        cut.len = end;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// The units' extents, and the limits' effect, when reading in steps.
    fn cut(content: &[u8], step: usize, limit: u64) -> Vec<(u64, usize)> {
        let mut cutter = Cutter::new(Format::JsonLines, 8, Place::default(), Pool::new());
        cutter.limit(limit);
        let mut units = Vec::new();
        let mut at = Place::default();
        for bytes in content.chunks(step).map(Some).chain([None]) {
            cutter.room().extend_from_slice(bytes.unwrap_or_default());
            while let Some(piece) = cutter.next(bytes.is_none()) {
                assert_eq!(piece.start, at, "pieces join up");
                at = piece.end;
                let mut lines: Vec<usize> = match piece.kind {
                    PieceKind::Oversize { len } => vec![len as usize],
                    _ => piece.bytes.split(|b| *b == b'\n').map(<[u8]>::len).collect(),
                };
                if piece.kind == PieceKind::Data && piece.bytes.ends_with(b"\n") {
                    lines.pop();
                }
                assert_eq!(piece.units, lines.len() as u64);
                assert!(piece.units <= limit);
                units.extend(lines.iter().zip(piece.start.line..).map(|(len, line)| (line, *len)));
            }
        }
        assert_eq!(at.offset, content.len() as u64);
        units
    }

    #[test]
    fn the_same_lines_however_the_bytes_come() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let content: Vec<u8> =
                (0..rng.below(80)).map(|_| if rng.below(6) == 0 { b'\n' } else { b'x' }).collect();
            let mut whole: Vec<_> = content.split(|b| *b == b'\n').map(<[u8]>::len).collect();
            if content.is_empty() || content.ends_with(b"\n") {
                whole.pop();
            }
            let whole: Vec<_> = (1..).zip(whole).collect();
            for step in [1, 2, 5, 9, 100] {
                for limit in [1, 3, u64::MAX] {
                    assert_eq!(cut(&content, step, limit), whole, "seed {seed}, {step}, {limit}");
                }
            }
        }
    }
}
