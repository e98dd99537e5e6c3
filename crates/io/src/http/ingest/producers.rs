//! The last request of each producer, so that a retry is known as one.
//!
//! *Invariant:* of a known producer, every number from `first` to `last` was taken, and no other:
//! a number that leaves a gap is refused.
//! *Limits:* [`PRODUCERS_MAX`]; the one that has been silent longest is forgotten first.

use std::collections::{BTreeMap, HashMap};

use millstream_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_128;

use super::intake::Wait;

/// Producers that are remembered.
pub const PRODUCERS_MAX: usize = 10_000;

/// A producer's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// A hash of its id.
    producer: u128,
    /// The request's number.
    pub number: u64,
}

impl Sequence {
    pub fn new(producer: &str, number: u64) -> Sequence {
        Sequence { producer: xxh3_128(producer.as_bytes()), number }
    }
}

/// What a request is.
pub enum Known {
    /// The next one, or the first of a producer that is not known.
    New,
    /// One that was taken. Durable when the last one is; at once if there is nothing to wait for.
    Taken(Option<Wait>),
    /// One that leaves a gap.
    Gap { expected: u64 },
}

struct Entry {
    first: u64,
    last: u64,
    used: u64,
    wait: Option<Wait>,
}

/// Who has sent what.
#[derive(Default)]
pub struct Producers {
    known: HashMap<u128, Entry>,
    by_use: BTreeMap<u64, u128>,
    uses: u64,
}

impl Producers {
    /// What a request is, by its number.
    pub fn look(&self, sequence: &Sequence) -> Known {
        match self.known.get(&sequence.producer) {
            None => Known::New,
            Some(e) if (e.first..=e.last).contains(&sequence.number) => {
                Known::Taken(e.wait.clone())
            }
            Some(e) if Some(sequence.number) == e.last.checked_add(1) => Known::New,
            Some(e) => Known::Gap { expected: e.last.saturating_add(1) },
        }
    }

    /// Remembers a request that is taken; `wait` says when it is durable.
    pub fn take(&mut self, sequence: &Sequence, wait: Option<Wait>) {
        self.uses += 1;
        let number = sequence.number;
        let new = Entry { first: number, last: number, used: 0, wait: None };
        let entry = self.known.entry(sequence.producer).or_insert(new);
        self.by_use.remove(&entry.used);
        (entry.last, entry.used, entry.wait) = (number, self.uses, wait);
        self.by_use.insert(self.uses, sequence.producer);
        if self.known.len() > PRODUCERS_MAX
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.known.remove(&oldest);
        }
    }

    /// Appends them, the one that has been silent longest first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, self.known.len() as u64);
        for producer in self.by_use.values() {
            let Some(entry) = self.known.get(producer) else { continue };
            out.extend_from_slice(&producer.to_le_bytes());
            put(out, entry.first);
            put(out, entry.last - entry.first);
        }
    }

    /// Reads what [`Producers::encode`] has written.
    pub fn decode(mut bytes: &[u8]) -> Result<Producers> {
        let mut producers = Producers::default();
        for _ in 0..get(&mut bytes)? {
            let (id, rest) = bytes.split_first_chunk::<16>().ok_or_else(cut)?;
            bytes = rest;
            let (first, more) = (get(&mut bytes)?, get(&mut bytes)?);
            let last = first.checked_add(more).ok_or_else(cut)?;
            let producer = u128::from_le_bytes(*id);
            producers.uses += 1;
            let entry = Entry { first, last, used: producers.uses, wait: None };
            producers.known.insert(producer, entry);
            producers.by_use.insert(producers.uses, producer);
        }
        if bytes.is_empty() { Ok(producers) } else { Err(cut()) }
    }
}

fn cut() -> Error {
    Error::corrupt("not the producers of an HTTP source")
}

/// LEB128.
fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn get(bytes: &mut &[u8]) -> Result<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(cut)?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(cut())
}
