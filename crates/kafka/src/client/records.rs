//! Records in memory, many in one piece: one allocation for all, and frames that need no copy.

use std::{ops::Range, sync::Arc};

use arrow_buffer::{Buffer, MutableBuffer};
use millstream_core::Time;

use super::TopicPartition;

/// Values begin at a multiple of this, so that a frame's columns can be used where they lie.
const ALIGN: usize = 8;

/// Records to write, in order.
#[derive(Clone, Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    list: Vec<Entry>,
    payload: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    at: TopicPartition,
    key: Option<Range<usize>>,
    value: Option<Value>,
    headers: Vec<(String, Vec<u8>)>,
    time: Option<Time>,
}

#[derive(Clone, Debug)]
enum Value {
    Here(Range<usize>),
    Shared(Buffer),
}

/// One record, to write or as read.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` deletes the key where Kafka compacts.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order.
    pub headers: &'a [(String, Vec<u8>)],
    /// Its time, if it has one.
    pub time: Option<Time>,
}

impl<'a> Record<'a> {
    /// A record of a key and a value, or the deletion of a key.
    pub fn of(key: &'a [u8], value: Option<&'a [u8]>) -> Record<'a> {
        Record { key: Some(key), value, headers: &[], time: None }
    }
}

impl Records {
    /// Adds a record.
    pub fn push(&mut self, at: &TopicPartition, record: Record<'_>) {
        let mut keep = |bytes: &[u8]| {
            let begin = self.bytes.len();
            self.bytes.extend_from_slice(bytes);
            begin..self.bytes.len()
        };
        let key = record.key.map(&mut keep);
        let value = record.value.map(&mut keep).map(Value::Here);
        let (headers, time) = (record.headers.to_vec(), record.time);
        self.add(Entry { at: at.clone(), key, value, headers, time });
    }

    /// Adds a record whose value is not copied.
    pub fn push_shared(&mut self, at: &TopicPartition, key: &[u8], value: Buffer) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let key = Some(begin..self.bytes.len());
        let value = Some(Value::Shared(value));
        self.add(Entry { at: at.clone(), key, value, headers: Vec::new(), time: None });
    }

    fn add(&mut self, entry: Entry) {
        self.payload += entry.key.as_ref().map_or(0, Range::len);
        self.payload += match &entry.value {
            Some(Value::Here(range)) => range.len(),
            Some(Value::Shared(buffer)) => buffer.len(),
            None => 0,
        };
        self.list.push(entry);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.payload
    }

    /// All of them, each with where it goes.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, Record<'_>)> {
        self.list.iter().map(|e| {
            let value = e.value.as_ref().map(|value| match value {
                Value::Here(range) => &self.bytes[range.clone()],
                Value::Shared(buffer) => buffer.as_slice(),
            });
            let key = e.key.clone().map(|range| &self.bytes[range]);
            (&e.at, Record { key, value, headers: &e.headers, time: e.time })
        })
    }
}

/// Records that were read from one partition, in order.
#[derive(Clone, Debug)]
pub struct Fetched {
    bytes: Buffer,
    list: Arc<[Place]>,
}

#[derive(Clone, Debug)]
struct Place {
    offset: u64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Vec<(String, Vec<u8>)>,
    time: Option<Time>,
}

impl Fetched {
    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, each with its offset.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Record<'_>)> {
        self.list.iter().map(|p| {
            let bytes = |range: &Range<usize>| &self.bytes.as_slice()[range.clone()];
            let (key, value) = (p.key.as_ref().map(bytes), p.value.as_ref().map(bytes));
            (p.offset, Record { key, value, headers: &p.headers, time: p.time })
        })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.list.len() * size_of::<Place>()
    }

    /// Record `at`, and its offset.
    pub fn record(&self, at: usize) -> (u64, Record<'_>) {
        let p = &self.list[at];
        let bytes = |range: &Range<usize>| &self.bytes.as_slice()[range.clone()];
        let (key, value) = (p.key.as_ref().map(bytes), p.value.as_ref().map(bytes));
        (p.offset, Record { key, value, headers: &p.headers, time: p.time })
    }

    /// The value of record `at`, sharing its memory.
    pub fn value(&self, at: usize) -> Option<Buffer> {
        let range = self.list[at].value.clone()?;
        Some(self.bytes.slice_with_length(range.start, range.len()))
    }
}

/// Collects what is read.
#[derive(Debug)]
pub struct Collected {
    bytes: MutableBuffer,
    list: Vec<Place>,
}

impl Default for Collected {
    fn default() -> Collected {
        Collected { bytes: MutableBuffer::new(0), list: Vec::new() }
    }
}

impl Collected {
    /// Adds the record at an offset.
    pub fn push(&mut self, offset: u64, record: Record<'_>) {
        let key = record.key.map(|bytes| self.keep(bytes));
        let padded = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(padded, 0);
        let value = record.value.map(|bytes| self.keep(bytes));
        let (headers, time) = (record.headers.to_vec(), record.time);
        self.list.push(Place { offset, key, value, headers, time });
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        begin..self.bytes.len()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.list.len() * size_of::<Place>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The offset of the first one.
    pub fn first(&self) -> Option<u64> {
        self.list.first().map(|place| place.offset)
    }

    /// Takes all that were collected, if any.
    pub fn take(&mut self) -> Option<Fetched> {
        if self.list.is_empty() {
            return None;
        }
        let Collected { bytes, list } = std::mem::take(self);
        Some(Fetched { bytes: bytes.into(), list: list.into() })
    }
}
