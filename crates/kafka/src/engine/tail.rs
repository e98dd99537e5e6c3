//! A task's state, read from its topic.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use millstream_core::{Result, engine::Waker, turn::Change};

use super::codec::{Nonce, State, Turned, foreign, state, unpack};
use crate::client::{Client, Fetched, Reader, Start, TopicPartition};

/// What lies unread between librdkafka and the tail, in bytes.
const AHEAD_BYTES: usize = 8 << 20;

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
}

impl Tail {
    pub fn new(client: &Arc<dyn Client>, at: TopicPartition, waker: Waker) -> Result<Tail> {
        let reader = client.reader(&at, Start::Earliest, AHEAD_BYTES, waker)?;
        Ok(Tail {
            at,
            reader,
            pieces: VecDeque::new(),
            done: 0,
            changes: 0,
            turned: Turned::default(),
            opens: BTreeSet::new(),
        })
    }

    /// Reads on. Whether `nonce` was met: all that was written before it is here then, since Kafka
    /// hands out in order, and only what is decided.
    pub fn reach(&mut self, nonce: &Nonce) -> Result<bool> {
        while !self.opens.contains(nonce) {
            let Some(piece) = self.reader.poll()? else { return Ok(false) };
            for (offset, record) in piece.iter() {
                let alien = || foreign(&self.at, offset);
                match state(record.key, record.value).ok_or_else(alien)? {
                    State::Turned(bytes) => self.turned = unpack(bytes).ok_or_else(alien)?,
                    State::Opened(nonce) => drop(self.opens.insert(nonce)),
                    State::Forgotten(nonce) => drop(self.opens.remove(&nonce)),
                    State::Changed(_) => self.changes += 1,
                }
            }
            self.pieces.push_back(piece);
        }
        Ok(true)
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
