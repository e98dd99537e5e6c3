//! A task's state, read from its topic.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use millstream_core::{Result, engine::Waker, turn::Change};

use super::codec::{Nonce, State, Turned, foreign, state, unpack};
use crate::client::{Client, Collected, Fetched, Lane, Reader, Record, Start, TopicPartition};

/// What lies unread between librdkafka and the tail, in bytes.
const AHEAD_BYTES: usize = 8 << 20;

/// How much more than is needed may lie here before the rest is dropped, in bytes.
const SQUEEZE_BYTES: usize = 4 << 20;

pub(super) struct Tail {
    at: TopicPartition,
    reader: Box<dyn Reader>,
    /// What was read and not handed out; the first one from record `done` on.
    pieces: VecDeque<Fetched>,
    done: usize,
    changes: u64,
    turned: Turned,
    /// Openings since the last turn.
    opens: BTreeSet<Nonce>,
    /// The node that opened it last.
    owner: Option<String>,
    /// Bytes of `pieces`, and how many of them were needed when that was last looked at.
    bytes: usize,
    needed: usize,
}

impl Tail {
    pub fn new(client: &Arc<dyn Client>, at: TopicPartition, waker: Waker) -> Result<Tail> {
        let reader = client.reader(&at, Start::Earliest, Lane::States, AHEAD_BYTES, waker)?;
        Ok(Tail {
            at,
            reader,
            pieces: VecDeque::new(),
            done: 0,
            changes: 0,
            turned: Turned::default(),
            opens: BTreeSet::new(),
            owner: None,
            bytes: 0,
            needed: 0,
        })
    }

    /// Reads on. Whether `nonce` was met: all that was written before it is here then, since Kafka
    /// hands out in order, and only what is decided.
    pub fn reach(&mut self, nonce: &Nonce) -> Result<bool> {
        while !self.opens.contains(nonce) {
            if !self.read()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what has come. Whether anything has.
    pub fn advance(&mut self) -> Result<bool> {
        let mut moved = false;
        while self.read()? {
            moved = true;
        }
        Ok(moved)
    }

    fn read(&mut self) -> Result<bool> {
        let Some(piece) = self.reader.poll()? else { return Ok(false) };
        for (offset, record) in piece.iter() {
            let alien = || foreign(&self.at, offset);
            match state(record.key, record.value).ok_or_else(alien)? {
                State::Turned(bytes) => self.turned = unpack(bytes).ok_or_else(alien)?,
                State::Opened(nonce) => {
                    self.opens.insert(nonce);
                    let node = record.value.map(String::from_utf8_lossy);
                    self.owner = node.map(std::borrow::Cow::into_owned);
                }
                State::Forgotten(nonce) => drop(self.opens.remove(&nonce)),
                State::Changed(_) => self.changes += 1,
            }
        }
        self.bytes += piece.bytes();
        self.pieces.push_back(piece);
        if self.bytes > 2 * self.needed + SQUEEZE_BYTES {
            self.squeeze();
        }
        Ok(true)
    }

    /// Keeps of each key the last value only: a tail that follows for long does not grow.
    fn squeeze(&mut self) {
        let mut last: HashMap<&[u8], Option<&[u8]>> = HashMap::new();
        for (_, record) in self.pieces.iter().flat_map(Fetched::iter) {
            if let (Some(key), Some(State::Changed(change))) =
                (record.key, state(record.key, record.value))
            {
                last.insert(key, change.value);
            }
        }
        let mut kept = Collected::default();
        for (key, value) in last.iter().filter(|(_, value)| value.is_some()) {
            kept.push(0, Record::of(key, *value));
        }
        let kept = kept.take();
        self.pieces = kept.into_iter().collect();
        self.changes = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        self.needed = self.pieces.iter().map(Fetched::bytes).sum();
        self.bytes = self.needed;
    }

    /// The node that has opened the task last.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// What the last turn has left.
    pub fn turned(&self) -> &Turned {
        &self.turned
    }

    /// Openings since then.
    pub fn opens(&self) -> &BTreeSet<Nonce> {
        &self.opens
    }

    /// An upper bound of the changes that [`Tail::restore`] hands out.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Hands out changes, oldest first, at most about `bytes_max`. Whether all are handed out.
    pub fn restore(
        &mut self,
        bytes_max: usize,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<bool> {
        let mut bytes = 0;
        while let Some(piece) = self.pieces.front() {
            for (_, record) in piece.iter().skip(self.done) {
                if bytes >= bytes_max {
                    return Ok(false);
                }
                self.done += 1;
                if let Some(State::Changed(change)) = state(record.key, record.value) {
                    bytes += change.key.len() + change.value.map_or(0, <[u8]>::len);
                    take(change)?;
                }
            }
            self.pieces.pop_front();
            self.done = 0;
        }
        Ok(true)
    }
}
