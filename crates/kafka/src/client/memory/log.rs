//! A partition in memory: records with offsets, some of them not decided yet.
//!
//! *Invariants*
//! - Offsets rise and are never given twice, whatever is removed.
//! - What lies before [`Log::readable`] is committed; what was aborted has left its offsets only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millstream_core::{Code, Error, Result, Time};

use crate::client::{Collected, Fetched, Record, TopicPartition};

/// A record as it is kept.
#[derive(Debug)]
pub(super) struct Kept {
    offset: u64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    time: Time,
    /// The transaction that wrote it, until that is decided.
    open: Option<u64>,
}

/// A partition.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The oldest offset that can be read.
    start: u64,
    /// The next offset to be given.
    next: u64,
    records: VecDeque<Kept>,
    /// The first offset of each transaction that is not decided.
    open: BTreeMap<u64, u64>,
}

impl Log {
    /// Appends a record, of a transaction if `open`; its offset.
    pub fn append(&mut self, record: Record<'_>, now: Time, open: Option<u64>) -> u64 {
        let offset = self.next;
        self.next += 1;
        self.records.push_back(Kept {
            offset,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers.to_vec(),
            time: record.time.unwrap_or(now),
            open,
        });
        if let Some(transaction) = open {
            self.open.entry(transaction).or_insert(offset);
        }
        offset
    }

    /// Marks the end of a transaction. The mark takes an offset, and so do records that it removes.
    pub fn mark(&mut self, transaction: u64, committed: bool) {
        self.next += 1;
        self.open.remove(&transaction);
        if committed {
            let own = |r: &&mut Kept| r.open == Some(transaction);
            self.records.iter_mut().filter(own).for_each(|r| r.open = None);
        } else {
            self.records.retain(|r| r.open != Some(transaction));
        }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where readers stop: at the first offset that is not decided (Kafka's last stable offset).
    pub fn readable(&self) -> u64 {
        self.open.values().copied().min().unwrap_or(self.next)
    }

    /// Decided records from `offset` on, about `bytes_max` but one at least if there is one, and
    /// how far that has come.
    pub fn read(
        &self,
        at: &TopicPartition,
        offset: u64,
        bytes_max: usize,
    ) -> Result<(Option<Fetched>, u64)> {
        if offset < self.start || offset > self.next {
            return Err(out_of_range(at, offset, self.start, self.next));
        }
        let end = self.readable().max(offset);
        let (mut collected, mut bytes) = (Collected::default(), 0);
        let from = self.records.partition_point(|r| r.offset < offset);
        for r in self.records.range(from..).take_while(|r| r.offset < end) {
            let len = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
            bytes += len(&r.key) + len(&r.value);
            if bytes > bytes_max
                && let Some(fetched) = collected.take()
            {
                return Ok((Some(fetched), r.offset));
            }
            collected.push(r.offset, r.record());
        }
        Ok((collected.take(), end))
    }

    /// Whether there is something to read from `offset` on, be it an error.
    pub fn has_news(&self, offset: u64) -> bool {
        offset < self.start || offset > self.next || {
            let from = self.records.partition_point(|r| r.offset < offset);
            self.records.get(from).is_some_and(|r| r.offset < self.readable())
        }
    }

    /// The first readable offset whose record is of `time` or later.
    pub fn offset_of(&self, time: Time) -> Option<u64> {
        let end = self.readable();
        let mut readable = self.records.iter().take_while(|r| r.offset < end);
        readable.find(|r| r.time >= time).map(|r| r.offset)
    }

    /// Removes what lies before `offset`.
    pub fn delete_before(&mut self, at: &TopicPartition, offset: u64) -> Result<()> {
        if offset > self.next {
            return Err(out_of_range(at, offset, self.start, self.next));
        }
        self.start = self.start.max(offset);
        let gone = self.records.partition_point(|r| r.offset < self.start);
        self.records.drain(..gone);
        Ok(())
    }

    /// Keeps the last decided record of each key, as a cleaner would; that of a deleted key only
    /// `if deletions`.
    pub fn compact(&mut self, deletions: bool) {
        let end = self.readable();
        let mut seen = BTreeSet::new();
        let mut kept: VecDeque<Kept> = VecDeque::with_capacity(self.records.len());
        for r in self.records.drain(..).rev() {
            let decided = r.offset < end;
            let last = !decided || r.key.as_ref().is_none_or(|key| seen.insert(key.clone()));
            if last && (!decided || deletions || r.value.is_some()) {
                kept.push_front(r);
            }
        }
        self.records = kept;
    }

    /// How many records are there, also those that are not decided.
    pub fn len(&self) -> usize {
        self.records.len()
    }
}

impl Kept {
    fn record(&self) -> Record<'_> {
        Record {
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
            time: Some(self.time),
        }
    }
}

fn out_of_range(at: &TopicPartition, offset: u64, start: u64, next: u64) -> Error {
    let place = format!("{}-{}", at.topic, at.partition);
    Error::new(Code::Limit, format!("{place} has offsets {start} to {next}, and not {offset}"))
        .help("records were removed before they were read, or the topic was made anew")
}
