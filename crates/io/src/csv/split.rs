//! Finds where records and fields end.

use memchr::{memchr, memchr2};

use crate::column::{Decode, Fault};

/// How far the record reaches that starts at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Up to, and not including, the line feed at this place.
    Line(usize),
    /// The bytes end before the record does, outside of quotes.
    Open,
    /// The bytes end within quotes.
    Quoted,
    /// Its quotes are wrong: it is not a record, and its first line is to be given up.
    Broken,
}

/// How far the record at `start` reaches. Quoted line ends count only within `max` bytes.
pub(crate) fn extent(bytes: &[u8], start: usize, separator: u8, max: usize) -> Extent {
    let found = reach(bytes, start, separator);
    let end = match found {
        Extent::Line(end) => end,
        _ => bytes.len(),
    };
    if end - start > max && memchr(b'\n', &bytes[start..end]).is_some() {
        return Extent::Broken;
    }
    found
}

fn reach(bytes: &[u8], start: usize, separator: u8) -> Extent {
    let mut at = start;
    loop {
        let Some(n) = memchr2(b'"', b'\n', &bytes[at..]) else { return Extent::Open };
        at += n;
        if bytes[at] == b'\n' {
            return Extent::Line(at);
        }
        if at > start && bytes[at - 1] != separator {
            at += 1; // a quote within an unquoted field
            continue;
        }
        let Some(close) = closing_quote(bytes, at + 1) else { return Extent::Quoted };
        at = close + 1;
        match bytes.get(at) {
            None => return Extent::Open,
            Some(b'\n') => return Extent::Line(at),
            Some(b'\r') => match bytes.get(at + 1) {
                None => return Extent::Open,
                Some(b'\n') => return Extent::Line(at + 1),
                Some(_) => return Extent::Broken,
            },
            Some(byte) if *byte == separator => {}
            Some(_) => return Extent::Broken,
        }
    }
}

/// The quote that ends the field whose first character is at `at`.
fn closing_quote(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr(b'"', bytes.get(at..)?)?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

/// A field as it stands in a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    /// Without its quotes; `""` still stands for a quote if `quoted`.
    pub raw: &'a [u8],
    pub quoted: bool,
}

impl Field<'_> {
    /// Appends its text.
    pub fn unquote(&self, out: &mut Vec<u8>) {
        let mut rest = self.raw;
        while let Some(at) = memchr(b'"', rest).filter(|_| self.quoted) {
            out.extend_from_slice(&rest[..=at]);
            rest = rest.get(at + 2..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
    }
}

/// Walks over the fields of a record, of which the line end is cut off.
pub(crate) struct Fields<'a> {
    record: &'a [u8],
    separator: u8,
    /// Where the next field starts; past the end if there is none.
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(record: &'a [u8], separator: u8) -> Fields<'a> {
        Fields { record, separator, at: 0 }
    }

    /// The next field, if there is one.
    #[inline]
    pub fn next(&mut self) -> Decode<Option<Field<'a>>> {
        let Some(rest) = self.record.get(self.at..) else { return Ok(None) };
        if rest.first() == Some(&b'"') {
            return self.quoted().map(Some);
        }
        let len = find(rest, self.separator);
        self.at += len + 1;
        Ok(Some(Field { raw: &rest[..len], quoted: false }))
    }

    fn quoted(&mut self) -> Decode<Field<'a>> {
        let start = self.at + 1;
        let Some(end) = closing_quote(self.record, start) else {
            return Err(Fault::new(format!("the quote at column {start} is never closed")));
        };
        if self.record.get(end + 1).is_some_and(|byte| *byte != self.separator) {
            return Err(Fault::new(format!(
                "expected '{}' after the closing quote, at column {}",
                self.separator as char,
                end + 2
            )));
        }
        self.at = end + 2;
        Ok(Field { raw: &self.record[start..end], quoted: true })
    }
}

/// Where `byte` first is, or how long `bytes` are. Fields are short: this beats a call.
#[inline(always)]
fn find(bytes: &[u8], byte: u8) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*eight) ^ (ONES * u64::from(byte));
        let found = word.wrapping_sub(ONES) & !word & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    bytes[at..].iter().position(|b| *b == byte).map_or(bytes.len(), |n| at + n)
}

/// A line or record without its `\r`.
pub(crate) fn trim_end(record: &[u8]) -> &[u8] {
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// The names in a header record.
pub(crate) fn header(record: &[u8], separator: u8) -> Decode<Vec<String>> {
    let mut fields = Fields::new(trim_end(record), separator);
    let mut names = Vec::new();
    while let Some(field) = fields.next()? {
        let mut name = Vec::new();
        field.unquote(&mut name);
        let name = String::from_utf8(name).map_err(|_| Fault::new("a name that is not UTF-8"))?;
        names.push(if field.quoted { name } else { name.trim().to_string() });
    }
    Ok(names)
}
