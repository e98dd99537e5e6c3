//! Keys, their order-preserving bytes, and the slot they live in.
//!
//! *Why our own codec:* key bytes are hashed into slots and stored on disk for years, so they may
//! not change with a library's version.
//!
//! *Format, version 1.* A key is its parts one after another, each a tag and a body:
//! `01` null · `02` false · `03` true · `10` integer (i64, sign bit flipped, big-endian) · `11` an
//! unsigned integer above `i64::MAX` (big-endian) · `12` timestamp (ms, as `10`) · `20` text and
//! `21` bytes (`00` inside as `00 ff`, ended by `00`).
//!
//! *Invariant:* comparing key bytes compares the values, part by part; nulls come first.

use std::{borrow::Cow, fmt};

use arrow_array::{Array, cast::AsArray, types as arrow};
use arrow_schema::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Code, Error, Result, Time};

/// The version of the codec; written into every frame and state file.
pub const KEY_CODEC_VERSION: u8 = 1;
/// How many slots there are, for every stream and for ever.
pub const SLOTS: u16 = 1024;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Keys that a person can mean by one text, at most.
pub const CANDIDATES_MAX: usize = 256;
/// Commas of a text that may lie between parts.
const COMMAS_MAX: usize = 6;

const NULL: u8 = 0x01;
const FALSE: u8 = 0x02;
const TRUE: u8 = 0x03;
const INT: u8 = 0x10;
const BIG_UINT: u8 = 0x11;
const TIMESTAMP: u8 = 0x12;
const TEXT: u8 = 0x20;
const BYTES: u8 = 0x21;

/// The hash that slots and tables use.
pub fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Where a key lives: its hash modulo [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of key bytes.
    pub fn of(key: &[u8]) -> Slot {
        Slot::of_hash(hash(key))
    }

    /// The slot of an already hashed key.
    pub fn of_hash(hash: u64) -> Slot {
        Slot((hash % u64::from(SLOTS)) as u16)
    }

    /// The partition of a stream with `partitions` partitions that owns this slot.
    pub fn partition(self, partitions: u32) -> u32 {
        u32::from(self.0) * partitions / u32::from(SLOTS)
    }
}

/// One part of a key, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part<'a> {
    /// A missing value.
    Null,
    /// A truth value.
    Bool(bool),
    /// Any integer that fits.
    Int(i64),
    /// An unsigned integer above `i64::MAX`.
    BigUint(u64),
    /// Milliseconds since the epoch.
    Timestamp(i64),
    /// UTF-8 text.
    Text(&'a str),
    /// Arbitrary bytes.
    Bytes(&'a [u8]),
}

impl<'a> Part<'a> {
    /// What a person can mean by `text`.
    fn candidates(text: &'a str) -> Vec<Part<'a>> {
        let mut parts = vec![Part::Text(text)];
        match text.parse() {
            Ok(v) => parts.push(Part::Int(v)),
            Err(_) => parts.extend(text.parse().ok().map(Part::BigUint)),
        }
        parts.extend(text.parse().ok().map(Part::Bool));
        parts.extend(Time::parse(text).map(|t| Part::Timestamp(t.ms())));
        parts.extend((text == "null").then_some(Part::Null));
        parts
    }

    /// Appends the part's bytes.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Part::Null => out.push(NULL),
            Part::Bool(b) => out.push(if b { TRUE } else { FALSE }),
            Part::Int(v) => put_i64(out, INT, v),
            Part::Timestamp(v) => put_i64(out, TIMESTAMP, v),
            Part::BigUint(v) => match i64::try_from(v) {
                Ok(v) => put_i64(out, INT, v),
                Err(_) => {
                    out.push(BIG_UINT);
                    out.extend_from_slice(&v.to_be_bytes());
                }
            },
            Part::Text(s) => put_escaped(out, TEXT, s.as_bytes()),
            Part::Bytes(b) => put_escaped(out, BYTES, b),
        }
    }
}

fn put_i64(out: &mut Vec<u8>, tag: u8, v: i64) {
    out.push(tag);
    out.extend_from_slice(&((v as u64) ^ (1 << 63)).to_be_bytes());
}

fn put_escaped(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    if bytes.contains(&0) {
        for &b in bytes {
            out.push(b);
            if b == 0 {
                out.push(0xff);
            }
        }
    } else {
        out.extend_from_slice(bytes);
    }
    out.push(0);
}

/// The bytes of one key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Box<[u8]>);

impl Key {
    /// A key of one text part, the most common kind.
    pub fn text(s: &str) -> Key {
        Key::from_parts(&[Part::Text(s)])
    }

    /// A key of several parts.
    pub fn from_parts(parts: &[Part<'_>]) -> Key {
        let mut out = Vec::new();
        parts.iter().for_each(|p| p.encode(&mut out));
        Key(out.into())
    }

    /// Takes bytes that the codec has written.
    pub fn from_bytes(bytes: &[u8]) -> Key {
        Key(bytes.into())
    }

    /// The codec's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Every key that a person can mean by `text`, as [`display`] shows it: one part, or several
    /// joined by commas (of which a text may have its own), each of them text, an integer, a truth
    /// value, a timestamp or null. The likeliest come first; at most [`CANDIDATES_MAX`] of them.
    pub fn candidates(text: &str) -> Vec<Key> {
        let commas: Vec<usize> =
            text.match_indices(',').map(|(at, _)| at).take(COMMAS_MAX).collect();
        let mut keys = Vec::new();
        // Each set of commas that lie between parts: none, all, then the others.
        let all = (1u32 << commas.len()) - 1;
        for between in [0].into_iter().chain((all > 0).then_some(all)).chain(1..all) {
            let mut starts = vec![Vec::new()];
            let mut begin = 0;
            let cuts = commas.iter().enumerate().filter(|(n, _)| between & (1 << n) != 0);
            for end in cuts.map(|(_, at)| *at).chain([text.len()]) {
                let parts = Part::candidates(&text[begin..end]);
                let longer = starts.iter().flat_map(|start: &Vec<Part<'_>>| {
                    parts.iter().map(move |part| [start.as_slice(), &[*part]].concat())
                });
                starts = longer.take(CANDIDATES_MAX).collect();
                begin = end + 1;
            }
            keys.extend(starts.iter().map(|parts| Key::from_parts(parts)));
            if keys.len() >= CANDIDATES_MAX {
                break;
            }
        }
        keys.truncate(CANDIDATES_MAX);
        keys
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Key {
        key.clone()
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Key {
        Key::text(text)
    }
}

impl From<&String> for Key {
    fn from(text: &String) -> Key {
        Key::text(text)
    }
}

impl From<String> for Key {
    fn from(text: String) -> Key {
        Key::text(&text)
    }
}

impl From<i64> for Key {
    fn from(number: i64) -> Key {
        Key::from_parts(&[Part::Int(number)])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", display(&self.0))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&display(&self.0))
    }
}

/// What a person reads: the parts, joined by commas; bytes that are no key in hex.
pub fn display(key: &[u8]) -> String {
    let Ok(parts) = decode(key) else {
        return key.iter().map(|b| format!("{b:02x}")).collect();
    };
    let texts: Vec<String> = parts
        .into_iter()
        .map(|part| match part {
            OwnedPart::Null => "null".into(),
            OwnedPart::Bool(b) => b.to_string(),
            OwnedPart::Int(v) => v.to_string(),
            OwnedPart::BigUint(v) => v.to_string(),
            OwnedPart::Timestamp(v) => Time::from_ms(v).to_string(),
            OwnedPart::Text(s) => s,
            OwnedPart::Bytes(b) => b.iter().map(|b| format!("{b:02x}")).collect(),
        })
        .collect();
    texts.join(",")
}

/// One part of a decoded key.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the same variants as Part, owned")]
pub enum OwnedPart {
    Null,
    Bool(bool),
    Int(i64),
    BigUint(u64),
    Timestamp(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// Decodes key bytes.
///
/// # Errors
/// [`Code::Corrupt`] if the codec cannot have written them.
pub fn decode(mut key: &[u8]) -> Result<Vec<OwnedPart>> {
    let corrupt = || Error::corrupt("not a key");
    let mut parts = Vec::new();
    while let Some((&tag, rest)) = key.split_first() {
        key = rest;
        let mut int = || -> Result<u64> {
            let (head, tail) = key.split_first_chunk::<8>().ok_or_else(corrupt)?;
            key = tail;
            Ok(u64::from_be_bytes(*head))
        };
        parts.push(match tag {
            NULL => OwnedPart::Null,
            FALSE => OwnedPart::Bool(false),
            TRUE => OwnedPart::Bool(true),
            INT => OwnedPart::Int((int()? ^ (1 << 63)) as i64),
            TIMESTAMP => OwnedPart::Timestamp((int()? ^ (1 << 63)) as i64),
            BIG_UINT => OwnedPart::BigUint(int()?),
            TEXT | BYTES => {
                let (bytes, rest) = take_escaped(key).ok_or_else(corrupt)?;
                key = rest;
                match tag {
                    TEXT => OwnedPart::Text(String::from_utf8(bytes).map_err(|_| corrupt())?),
                    _ => OwnedPart::Bytes(bytes),
                }
            }
            _ => return Err(corrupt()),
        });
    }
    Ok(parts)
}

/// What was given as a key: of one text or bytes, their own bytes; of anything else, the encoded
/// ones.
pub fn raw(key: &[u8]) -> Cow<'_, [u8]> {
    match key {
        [TEXT | BYTES, bytes @ .., 0] if !bytes.contains(&0) => Cow::Borrowed(bytes),
        [TEXT | BYTES, escaped @ ..] => match take_escaped(escaped) {
            Some((bytes, [])) => Cow::Owned(bytes),
            _ => Cow::Borrowed(key),
        },
        _ => Cow::Borrowed(key),
    }
}

fn take_escaped(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let &b = bytes.get(at)?;
        at += 1;
        match (b, bytes.get(at)) {
            (0, Some(0xff)) => {
                out.push(0);
                at += 1;
            }
            (0, _) => return Some((out, bytes.get(at..)?)),
            _ => out.push(b),
        }
    }
}

/// The keys of a batch's rows, in row order.
#[derive(Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    /// Encodes the key of every row from its key columns.
    ///
    /// # Errors
    /// [`Code::Plan`] if a column has a type that cannot be a key.
    pub fn of(columns: &[&dyn Array], rows: usize) -> Result<Keys> {
        let mut keys =
            Keys { bytes: Vec::with_capacity(rows * 20), ends: Vec::with_capacity(rows) };
        if let [column] = columns
            && let Some(texts) = column.as_string_opt::<i32>()
            && texts.null_count() == 0
        {
            for row in 0..rows {
                put_escaped(&mut keys.bytes, TEXT, texts.value(row).as_bytes());
                keys.ends.push(keys.bytes.len() as u32);
            }
            return Ok(keys);
        }
        let encoders = columns.iter().map(|c| encoder(*c)).collect::<Result<Vec<_>>>()?;
        for row in 0..rows {
            encoders.iter().for_each(|e| e(row, &mut keys.bytes));
            keys.ends.push(keys.bytes.len() as u32);
        }
        Ok(keys)
    }

    /// The bytes of row `row`'s key. Panics if there is no such row.
    pub fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.bytes[start..self.ends[row] as usize]
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The keys in row order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|row| self.get(row))
    }
}

type Encoder<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

/// Whether a column of this type can be a key.
pub fn is_key_type(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Utf8
            | LargeUtf8
            | Binary
            | Timestamp(TimeUnit::Millisecond, _)
    )
}

fn encoder(column: &dyn Array) -> Result<Encoder<'_>> {
    macro_rules! int {
        ($t:ty) => {{
            let values = column.as_primitive::<$t>();
            nullable(column, move |row| Part::Int(i64::from(values.value(row))))
        }};
    }
    Ok(match column.data_type() {
        DataType::Boolean => {
            let values = column.as_boolean();
            nullable(column, move |row| Part::Bool(values.value(row)))
        }
        DataType::Int8 => int!(arrow::Int8Type),
        DataType::Int16 => int!(arrow::Int16Type),
        DataType::Int32 => int!(arrow::Int32Type),
        DataType::Int64 => int!(arrow::Int64Type),
        DataType::UInt8 => int!(arrow::UInt8Type),
        DataType::UInt16 => int!(arrow::UInt16Type),
        DataType::UInt32 => int!(arrow::UInt32Type),
        DataType::UInt64 => {
            let values = column.as_primitive::<arrow::UInt64Type>();
            nullable(column, move |row| Part::BigUint(values.value(row)))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let values = column.as_primitive::<arrow::TimestampMillisecondType>();
            nullable(column, move |row| Part::Timestamp(values.value(row)))
        }
        DataType::Utf8 => {
            let values = column.as_string::<i32>();
            nullable(column, move |row| Part::Text(values.value(row)))
        }
        DataType::LargeUtf8 => {
            let values = column.as_string::<i64>();
            nullable(column, move |row| Part::Text(values.value(row)))
        }
        DataType::Binary => {
            let values = column.as_binary::<i32>();
            nullable(column, move |row| Part::Bytes(values.value(row)))
        }
        other => {
            return Err(Error::new(
                Code::Plan,
                format!("a column of type {other} cannot be a key"),
            )
            .help("keys are made of booleans, integers, text, bytes and timestamps"));
        }
    })
}

fn nullable<'a>(column: &'a dyn Array, part: impl Fn(usize) -> Part<'a> + 'a) -> Encoder<'a> {
    Box::new(
        move |row, out| {
            if column.is_null(row) { Part::Null.encode(out) } else { part(row).encode(out) }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_vectors_of_version_1() {
        let cases: &[(Part<'_>, &str, u16)] = &[
            (Part::Null, "01", 747),
            (Part::Bool(true), "03", 1005),
            (Part::Int(0), "108000000000000000", 960),
            (Part::Int(-1), "107fffffffffffffff", 608),
            (Part::BigUint(u64::MAX), "11ffffffffffffffff", 420),
            (Part::Timestamp(1_357_236_900_000), "128000013c019f90a0", 85),
            (Part::Text("N730MQ"), "204e3733304d5100", 253),
            (Part::Bytes(b"a\0b"), "216100ff6200", 242),
        ];
        let got: Vec<_> = cases
            .iter()
            .map(|(part, _, _)| {
                let key = Key::from_parts(&[*part]);
                (hex(key.bytes()), Slot::of(key.bytes()).0)
            })
            .collect();
        let expected: Vec<_> = cases.iter().map(|(_, h, s)| (h.to_string(), *s)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn bytes_compare_as_values_do() {
        let ordered = [
            vec![Part::Null],
            vec![Part::Bool(false)],
            vec![Part::Int(i64::MIN)],
            vec![Part::Int(-5)],
            vec![Part::Int(7)],
            vec![Part::BigUint(u64::MAX)],
            vec![Part::Text("")],
            vec![Part::Text("a")],
            vec![Part::Text("a"), Part::Int(1)],
            vec![Part::Text("a\0")],
            vec![Part::Text("a\0b")],
            vec![Part::Text("ab")],
        ];
        let keys: Vec<Key> = ordered.iter().map(|parts| Key::from_parts(parts)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        for (key, parts) in keys.iter().zip(&ordered) {
            assert_eq!(decode(key.bytes()).unwrap().len(), parts.len());
        }
    }

    #[test]
    fn a_key_is_among_those_its_text_can_mean() {
        let keys: [&[Part<'_>]; 9] = [
            &[Part::Text("N730MQ")],
            &[Part::Int(-17)],
            &[Part::BigUint(u64::MAX)],
            &[Part::Null],
            &[Part::Text("JFK"), Part::Int(17)],
            &[Part::Text("a,b"), Part::Bool(true), Part::Text("")],
            &[Part::Text(",")],
            &[Part::Timestamp(1_357_236_900_000), Part::Null],
            &[Part::Int(1); 7],
        ];
        for parts in keys {
            let key = Key::from_parts(parts);
            let candidates = Key::candidates(&key.to_string());
            assert!(candidates.contains(&key), "{key}: {candidates:?}");
            assert!(candidates.len() <= CANDIDATES_MAX, "{key}: {}", candidates.len());
            let all: std::collections::BTreeSet<_> = candidates.iter().collect();
            assert_eq!(all.len(), candidates.len(), "{key}: one comes twice");
        }
        assert_eq!(Key::candidates("7"), [Key::text("7"), Key::from(7)]);
        assert!(Key::candidates(&"1,".repeat(1_000)).len() <= CANDIDATES_MAX);
    }

    #[test]
    fn cut_and_foreign_bytes_are_errors() {
        let key = Key::from_parts(&[Part::Text("abc"), Part::Int(3)]);
        for end in 1..key.bytes().len() {
            // Cutting between the two parts leaves a shorter, valid key.
            assert_eq!(decode(&key.bytes()[..end]).is_ok(), end == 5, "{end}");
        }
        assert!(decode(&[0xfe]).is_err());
        assert!(decode(&[TEXT, 0xff, 0]).is_err());
    }

    #[test]
    fn every_partition_count_covers_every_partition() {
        for partitions in [1, 2, 3, 64, 100, 1024] {
            let mut seen = vec![false; partitions as usize];
            (0..SLOTS).for_each(|s| seen[Slot(s).partition(partitions) as usize] = true);
            assert!(seen.iter().all(|s| *s), "{partitions}");
        }
    }
}
