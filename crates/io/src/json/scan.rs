//! Walks over JSON text without building anything.
//!
//! *Invariant:* no step crosses the end of a line, because nothing it steps over may hold a line
//! feed; so lines need not be split before they are read.

use crate::{
    column::{Decode, Fault},
    number::{self, Number},
};

/// Objects and lists within each other, at most.
pub const DEPTH_MAX: usize = 128;

/// A place in JSON text.
pub(crate) struct Scan<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    /// Where the line started, to tell columns.
    pub line: usize,
    pub depth: usize,
}

/// A string as it stands in the text.
pub(crate) struct Text<'a> {
    /// Between the quotes.
    pub raw: &'a [u8],
    pub escaped: bool,
}

impl<'a> Scan<'a> {
    pub fn new(bytes: &'a [u8]) -> Scan<'a> {
        Scan { bytes, at: 0, line: 0, depth: 0 }
    }

    /// The next byte; the end of the text looks like the end of a line.
    #[inline(always)]
    pub fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(b'\n')
    }

    /// Steps over white space.
    #[inline(always)]
    pub fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r') {
            self.at += 1;
        }
    }

    /// Something else was expected here.
    #[cold]
    pub fn expected(&self, what: &str) -> Box<Fault> {
        let column = self.at - self.line + 1;
        match self.peek() {
            b'\n' => Fault::new(format!("expected {what} at column {column}, but the line ends")),
            _ => Fault::new(format!("expected {what} at column {column}")),
        }
    }

    /// Enters an object or list.
    #[inline]
    pub fn enter(&mut self) -> Decode {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::new(format!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(())
    }

    /// Leaves it.
    #[inline]
    pub fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// Steps over `:` and the space around it.
    #[inline]
    pub fn colon(&mut self) -> Decode {
        self.space();
        if self.peek() != b':' {
            return Err(self.expected("':'"));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a string, of which the opening quote is here.
    #[inline(always)]
    pub fn string(&mut self) -> Decode<Text<'a>> {
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            at = plain(self.bytes, at);
            match self.bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at = at;
                    at = self.escape()?;
                    escaped = true;
                }
                _ => {
                    self.at = at;
                    return Err(self.unfinished_string());
                }
            }
        }
        self.at = at + 1;
        Ok(Text { raw: &self.bytes[start..at], escaped })
    }

    #[cold]
    fn unfinished_string(&self) -> Box<Fault> {
        let column = self.at - self.line + 1;
        match self.peek() {
            b'\n' => Fault::new(format!("the line ends within a text, at column {column}")),
            byte => Fault::new(format!("control character 0x{byte:02x} at column {column}")),
        }
    }

    /// Where the escape sequence that starts here ends. Surrogates are judged by [`unescape`].
    fn escape(&mut self) -> Decode<usize> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(self.at + 2),
            Some(b'u') if hex(self.bytes, self.at + 2).is_some() => Ok(self.at + 6),
            _ => Err(Fault::new(format!(
                "unknown escape sequence at column {}",
                self.at - self.line + 1
            ))),
        }
    }

    /// Reads a number.
    #[inline(always)]
    pub fn number(&mut self) -> Decode<Number<'a>> {
        match number::read(self.bytes, &mut self.at) {
            Some(number) => Ok(number),
            None => Err(self.expected("a digit")),
        }
    }

    /// Steps over `true`, `false` or `null`.
    #[inline]
    pub fn literal(&mut self, word: &str) -> Decode {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Steps over any value.
    pub fn skip(&mut self) -> Decode {
        match self.peek() {
            b'"' => self.string().map(|_| ()),
            b'{' => self.skip_object(),
            b'[' => self.skip_list(),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => Err(self.expected("a value")),
        }
    }

    fn skip_object(&mut self) -> Decode {
        self.enter()?;
        self.space();
        if self.peek() != b'}' {
            loop {
                if self.peek() != b'"' {
                    return Err(self.expected("a field name in quotes"));
                }
                self.string()?;
                self.colon()?;
                self.space();
                self.skip()?;
                if !self.more(b'}', "',' or '}'")? {
                    break;
                }
            }
        }
        self.leave();
        Ok(())
    }

    fn skip_list(&mut self) -> Decode {
        self.enter()?;
        self.space();
        if self.peek() != b']' {
            loop {
                self.skip()?;
                if !self.more(b']', "',' or ']'")? {
                    break;
                }
            }
        }
        self.leave();
        Ok(())
    }

    /// Whether another element follows: steps over the comma, or stays at `close`.
    #[inline(always)]
    pub fn more(&mut self, close: u8, expected: &str) -> Decode<bool> {
        self.space();
        match self.peek() {
            b',' => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            byte if byte == close => Ok(false),
            _ => Err(self.expected(expected)),
        }
    }

    /// The value that is here, as a person would call it. A value that is none is a fault.
    #[cold]
    pub fn describe(&mut self) -> Decode<String> {
        let start = self.at;
        self.skip()?;
        let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
        Ok(match self.bytes[start] {
            b'"' => quoted(&text[1..text.len() - 1]),
            b'{' => "an object".into(),
            b'[' => "a list".into(),
            _ => shorten(&text),
        })
    }
}

/// The longest value shown in an error, in characters.
const SHOWN_MAX: usize = 40;

/// A text in an error, between single quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", shorten(text))
}

pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// The first place from `at` on that is a quote, a backslash, a control character or the end.
#[inline(always)]
pub(crate) fn plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*eight);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found =
            zero(word ^ (ONES * b'"' as u64)) | zero(word ^ (ONES * b'\\' as u64)) | control;
        if found != 0 {
            // The lowest mark is always right; only those above it can be false.
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|b| *b >= 0x20 && *b != b'"' && *b != b'\\') {
        at += 1;
    }
    at
}

/// Four hexadecimal digits at `at`.
fn hex(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |n, b| Some(n << 4 | (*b as char).to_digit(16)?))
}

/// Appends what the escaped text `raw` stands for. `raw` comes from [`Scan::string`].
pub(crate) fn unescape(raw: &[u8], out: &mut Vec<u8>) -> Decode {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let mut used = 2;
        let c = match rest[at + 1] {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let (c, len) = unicode(&rest[at..])?;
                used = len;
                c
            }
            byte => byte as char,
        };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[at + used..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// The character that `\uXXXX`, or a pair of them, stands for, and the length of it.
fn unicode(escape: &[u8]) -> Decode<(char, usize)> {
    let first = hex(escape, 2).unwrap_or_default();
    let (code, len) = match first {
        0xd800..0xdc00 if escape.get(6..8) == Some(b"\\u") => {
            let second = hex(escape, 8).unwrap_or_default();
            match second {
                0xdc00..0xe000 => (0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00), 12),
                _ => (first, 6),
            }
        }
        _ => (first, 6),
    };
    char::from_u32(code)
        .map(|c| (c, len))
        .ok_or_else(|| Fault::new(format!("\\u{first:04x} is half of a surrogate pair")))
}

/// The names of the fields of the object on a line, each once; `None` if there is none.
pub(crate) fn keys(line: &[u8]) -> Option<Vec<String>> {
    let mut scan = Scan::new(line);
    let mut keys: Vec<String> = Vec::new();
    scan.space();
    if scan.peek() != b'{' {
        return None;
    }
    scan.enter().ok()?;
    scan.space();
    while scan.peek() == b'"' {
        let text = scan.string().ok()?;
        let mut name = Vec::new();
        unescape(text.raw, &mut name).ok()?;
        let name = String::from_utf8(name).ok()?;
        if !keys.contains(&name) {
            keys.push(name);
        }
        scan.colon().ok()?;
        scan.space();
        scan.skip().ok()?;
        if !scan.more(b'}', "',' or '}'").ok()? {
            break;
        }
    }
    (scan.peek() == b'}').then_some(keys)
}
