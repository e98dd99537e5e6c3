//! Reads a partition and says where it stands.
//!
//! *Position, version 1*, little-endian: `0` version · `1` next offset u64 · `9` the offset at
//! which a finite source ends u64, else all ones.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_core::{
    Code, Error, Result,
    connector::{Chunk, Pull, SourceReader},
};

use super::{Begin, KafkaSource, layout::Layout, no_topic};
use crate::{
    bell::Bell,
    client::{Fetched, Lane, Reader, Start, TopicPartition},
};

const VERSION: u8 = 1;
const LEN: usize = 17;
/// About how much of a partition lies here unread.
const READ_BYTES: usize = 4 << 20;
/// Records of a chunk, at most.
const UNITS_MAX: usize = 16_384;
/// How often a group is told how far we are.
const MIRROR_EVERY: Duration = Duration::from_secs(5);
/// How often the number of partitions is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Where a reader stands, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    next: u64,
    end: u64,
}

impl Position {
    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Position> {
        let corrupt = || Error::corrupt("not a position in a topic");
        if bytes.len() != LEN || bytes[0] != VERSION {
            return Err(corrupt());
        }
        let u64_at = |at: usize| {
            let field = bytes[at..].first_chunk::<8>().ok_or_else(corrupt)?;
            Ok::<u64, Error>(u64::from_le_bytes(*field))
        };
        let position = Position { next: u64_at(1)?, end: u64_at(9)? };
        if position.next > position.end { Err(corrupt()) } else { Ok(position) }
    }
}

/// An opened partition.
pub(super) struct KafkaReader {
    source: KafkaSource,
    at: TopicPartition,
    layout: Arc<Layout>,
    bell: Bell,
    /// `None`: opened for the first time, and not connected yet.
    position: Option<Position>,
    /// `None`: not connected yet.
    reader: Option<Box<dyn Reader>>,
    /// What was read, and how much of it went into chunks.
    rest: Option<(Fetched, usize)>,
    units_max: usize,
    /// The last offset behind which all is durable, and what the group was told.
    durable: Arc<AtomicU64>,
    told: u64,
    tell_at: Instant,
    look_at: Instant,
}

impl KafkaReader {
    pub fn open(
        source: KafkaSource,
        partition: u32,
        layout: Layout,
        position: &[u8],
    ) -> Result<KafkaReader> {
        let position = match position {
            [] => None,
            bytes => Some(Position::decode(bytes)?),
        };
        let now = Instant::now(); // Clock: when to look is nobody's order.
        Ok(KafkaReader {
            at: TopicPartition::new(source.topic.clone(), partition),
            source,
            layout: Arc::new(layout),
            bell: Bell::default(),
            position,
            reader: None,
            rest: None,
            units_max: UNITS_MAX,
            durable: Arc::default(),
            told: 0,
            tell_at: now + MIRROR_EVERY,
            look_at: now + LOOK_EVERY,
        })
    }

    /// Begins to read; where, if that was settled only now.
    fn connect(&mut self) -> Result<Option<Position>> {
        self.check_partitions()?;
        let (position, settled) = match self.position {
            Some(position) => (position, None),
            None => {
                let position = self.first_position()?;
                (position, Some(position))
            }
        };
        let start = Start::Offset(position.next);
        let client = &self.source.client;
        self.reader =
            Some(client.reader(&self.at, start, Lane::Inputs, READ_BYTES, self.bell.waker())?);
        self.position = Some(position);
        Ok(settled)
    }

    fn first_position(&self) -> Result<Position> {
        let client = &self.source.client;
        let range = client.range(&self.at)?;
        let next = match &self.source.begin {
            Begin::Earliest => range.start,
            Begin::Latest => range.end,
            Begin::Time(time) => client.offset_of(&self.at, *time)?.unwrap_or(range.end),
            Begin::Offsets(of) => of.get(&self.at.partition).copied().unwrap_or(range.start),
        };
        let end = if self.source.finite { range.end.max(next) } else { u64::MAX };
        Ok(Position { next, end })
    }

    /// That the topic has as many partitions as when the flow was made.
    fn check_partitions(&self) -> Result<()> {
        let (topic, expected) = (&self.source.topic, self.source.partitions);
        let found = self.source.client.partitions(topic)?.ok_or_else(|| no_topic(topic))?;
        if found == expected {
            return Ok(());
        }
        let message = format!(
            "topic {topic} has {found} partitions; the flow was made when it had {expected}"
        );
        Err(Error::new(Code::Conflict, message).help(
            "start the node again: a flow reads the partitions that it finds when it is made",
        ))
    }

    /// What is to be done now and then, as long as brokers answer.
    fn look_around(&mut self) -> Result<()> {
        let now = Instant::now(); // Clock: as where it was opened.
        if self.at.partition == 0 && now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            match self.check_partitions() {
                Err(e) if e.code() != Code::Unreachable => return Err(e),
                _ => {}
            }
        }
        let Some(group) = self.source.group.as_ref().filter(|_| now >= self.tell_at) else {
            return Ok(());
        };
        self.tell_at = now + MIRROR_EVERY;
        let durable = self.durable.load(Ordering::Relaxed);
        if durable > self.told {
            // For people only: what goes wrong is tried again with the next offset.
            let told = self.source.client.mirror(group, &[(self.at.clone(), durable)]);
            self.told = if told.is_ok() { durable } else { self.told };
        }
        Ok(())
    }

    /// The next piece, if there is one.
    fn piece(&mut self) -> Result<Option<(Fetched, Range<usize>)>> {
        let (Some(position), Some(reader)) = (&mut self.position, &mut self.reader) else {
            return Ok(None);
        };
        let (fetched, first) = match self.rest.take() {
            Some(rest) => rest,
            None => {
                let found = reader.poll().map_err(|e| unread(e, &self.at))?;
                let Some(fetched) = found else { return Ok(None) };
                (fetched, 0)
            }
        };
        let ours = first..fetched.len().min(first + self.units_max);
        let last = ours.clone().rev().find(|n| fetched.record(*n).0 < position.end);
        let Some(last) = last else {
            position.next = position.end; // all that is left lies behind the end
            return Ok(None);
        };
        position.next = fetched.record(last).0 + 1;
        if ours.end < fetched.len() {
            self.rest = Some((fetched.clone(), ours.end));
        }
        Ok(Some((fetched, first..last + 1)))
    }

    /// Whether a finite source has come to its end, as far as that is known; `ask` costs something.
    fn ended(&mut self, ask: bool) -> bool {
        let (Some(position), Some(reader)) = (&mut self.position, &self.reader) else {
            return false;
        };
        if position.end == u64::MAX || !ask {
            return position.next >= position.end;
        }
        if position.next < position.end && reader.reached().is_some_and(|at| at >= position.end) {
            position.next = position.end;
        }
        position.next >= position.end
    }

    fn chunk(&self, fetched: Fetched, range: Range<usize>) -> Result<Pull> {
        let decoder = self.layout.decoder()?;
        let (layout, at) = (self.layout.clone(), self.at.clone());
        let position = self.position.ok_or_else(|| Error::corrupt("a chunk without a position"))?;
        let durable = self.source.group.as_ref().map(|_| {
            let durable = self.durable.clone();
            let told = move || durable.store(position.next, Ordering::Relaxed);
            Box::new(told) as Box<dyn FnOnce() + Send>
        });
        let position = position.encode();
        Ok(Pull::Chunk(Box::new(move || {
            let chunk = layout.decode(decoder, &at, &fetched, range);
            Chunk { position, durable, ..chunk }
        })))
    }
}

impl SourceReader for KafkaReader {
    fn pull(&mut self, wait: Duration) -> Result<Pull> {
        let until = Instant::now() + wait; // Clock: waits as long as it was told.
        if self.reader.is_none() {
            match self.connect() {
                Ok(Some(settled)) => {
                    // Committed before anything is read, so that a crash does not move it.
                    let chunk = Chunk { position: settled.encode(), ..self.layout.nothing() };
                    return Ok(Pull::Chunk(Box::new(move || chunk)));
                }
                Ok(None) => {}
                Err(e) if e.code() == Code::Unreachable => {
                    self.bell.hear(wait);
                    return Ok(Pull::Idle);
                }
                Err(e) => return Err(e),
            }
        }
        self.look_around()?;
        loop {
            if let Some((fetched, range)) = self.piece()? {
                return self.chunk(fetched, range);
            }
            let left = until.saturating_duration_since(Instant::now()); // Clock: as above.
            // Only when nothing has come for a while: marks may lie behind the last record.
            let quiet = left.is_zero() || !self.ended(false) && !self.bell.hear(left);
            if self.ended(quiet) {
                return Ok(Pull::End);
            }
            if quiet {
                return Ok(Pull::Idle);
            }
        }
    }

    fn limit(&mut self, units: u64) {
        self.units_max = usize::try_from(units).unwrap_or(UNITS_MAX).clamp(1, UNITS_MAX);
    }
}

/// What a person can do when records are gone.
fn unread(e: Error, at: &TopicPartition) -> Error {
    let place = format!("topic {}, partition {}", at.topic, at.partition);
    match e.code() {
        Code::Limit => Error::new(e.code(), format!("{place}: {}", e.message()))
            .help("they were removed before they were read, or the topic was made anew")
            .help("keep them longer (retention.ms), and start the flow anew, in another directory"),
        _ => e.at(place),
    }
}
