//! All that we ask of Kafka.
//!
//! *Why a trait:* engine and connectors are tested against brokers that a test owns, and another
//! client library can take the place of today's.
//!
//! *Invariants*
//! - A [`Reader`] hands out committed records only, in offset order, none twice and none left out;
//!   offsets rise and may have gaps (marks of transactions, aborted records).
//! - A [`Writer`]'s transaction becomes visible whole or never.
//! - Once a writer is [`Outcome::Ready`], no older writer of its id can commit, and what that one
//!   has begun is decided.

pub mod conformance;
pub mod memory;
#[cfg(feature = "brokers")]
pub mod rd;
mod records;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use millstream_core::{Error, Result, Time, engine::Waker};

pub use self::records::{Collected, Fetched, Record, Records};

/// What [`Client::read`] is asked for at once to read all, in bytes.
const READ_BYTES: usize = 4 << 20;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Kafka's name of the topic.
    pub topic: Arc<str>,
    /// Counted from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.topic, self.partition)
    }
}

/// A topic as it is to be made, or as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Kafka's name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// Kafka's settings by Kafka's names. When making: those that differ from the broker's. When
    /// found: all of them.
    pub settings: Vec<(String, String)>,
}

/// What a transaction, or the taking over of an id, has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The id is this writer's: nobody else's transaction can follow.
    Ready,
    /// Committed; everybody can read it soon.
    Committed,
    /// Another writer has taken the id.
    Fenced,
    /// Nobody knows whether it was committed. A new writer of the id decides it.
    Unknown,
    /// It was not committed, and trying again would not help (a record too large, no permission).
    Refused(Error),
}

/// Writes transactions under one id, one after the other.
///
/// After [`Outcome::Fenced`], [`Outcome::Unknown`] or [`Outcome::Refused`] it answers nothing but
/// [`Outcome::Fenced`]; make another.
pub trait Writer: Send {
    /// Hands in a transaction. At most two may be undecided, the taking over not counted.
    fn submit(&mut self, records: Records);

    /// The next outcome, if it is there: first that of taking over, then one for each transaction
    /// in their order. The waker is called when one comes.
    fn outcome(&mut self) -> Option<Outcome>;
}

/// Reads one partition from an offset on.
pub trait Reader: Send {
    /// Records that have come, if any, in pieces of at most about the reader's bound. The waker is
    /// called when there are some where none were.
    ///
    /// # Errors
    /// [`millstream_core::Code::Limit`] if records were removed before they were read;
    /// [`millstream_core::Code::Unknown`] if the topic is gone.
    fn poll(&mut self) -> Result<Option<Fetched>>;

    /// Everything readable before this offset was handed out; `None` while that is not known. It
    /// passes marks of transactions and aborted records, of which no record tells, at the latest
    /// when [`Reader::poll`] has nothing more. To read up to an offset that [`Client::range`] has
    /// given, wait for this: the last record may lie well before.
    fn reached(&self) -> Option<u64>;
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that is kept.
    Earliest,
    /// At this offset.
    Offset(u64),
}

/// Readers of one lane share a queue, and one fetch from each broker at a time: each waits for what
/// is there for the others. So what must not wait is read apart from what is much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What nodes tell each other.
    Words,
    /// What tasks read.
    Inputs,
    /// What tasks have kept: all of it, when it is read for the first time.
    States,
}

/// Called with the record's offset, or why there is none.
pub type Appended = Box<dyn FnOnce(Result<u64>) + Send>;

/// A connection to a cluster. The methods that answer at once, and only those, may be called from
/// a task: `writer`, `reader`, `append`.
pub trait Client: Send + Sync {
    /// Makes a topic with three replicas, of which two must have a record before it counts as
    /// committed; with fewer brokers, fewer. Answers when it can be used, and [`Client::topic`]
    /// tells of it from then on; another client may be told for a moment longer that there is none.
    /// A topic that is there already is left as it is.
    ///
    /// # Errors
    /// If Kafka refuses it, or cannot be reached within the client's patience.
    fn create_topic(&self, topic: &TopicSpec) -> Result<()>;

    /// What a topic is, `None` if there is none.
    ///
    /// # Errors
    /// If Kafka cannot be reached within the client's patience.
    fn topic(&self, name: &str) -> Result<Option<TopicSpec>>;

    /// How many partitions a topic has, `None` if there is none: a question less than all of it.
    ///
    /// # Errors
    /// As [`Client::topic`].
    fn partitions(&self, name: &str) -> Result<Option<u32>> {
        Ok(self.topic(name)?.map(|topic| topic.partitions))
    }

    /// Changes settings of a topic.
    ///
    /// # Errors
    /// As [`Client::create_topic`].
    fn set_topic(&self, name: &str, settings: &[(String, String)]) -> Result<()>;

    /// The offsets of a partition that can be read: from the oldest that is kept up to the first
    /// one that is not decided yet.
    ///
    /// # Errors
    /// As [`Client::topic`].
    fn range(&self, at: &TopicPartition) -> Result<Range<u64>>;

    /// The first offset of a partition whose record is of `time` or later, `None` if there is none.
    ///
    /// # Errors
    /// As [`Client::topic`].
    fn offset_of(&self, at: &TopicPartition, time: Time) -> Result<Option<u64>>;

    /// Removes the records before an offset, of many partitions at once.
    ///
    /// # Errors
    /// As [`Client::create_topic`].
    fn delete_before(&self, offsets: &[(TopicPartition, u64)]) -> Result<()>;

    /// Notes how far a partition was read as a consumer group's offset, for people and their
    /// tools; nothing here reads it.
    ///
    /// # Errors
    /// As [`Client::create_topic`].
    fn mirror(&self, group: &str, offsets: &[(TopicPartition, u64)]) -> Result<()>;

    /// Begins to take over a transactional id. [`Writer::outcome`] says when it has.
    ///
    /// # Errors
    /// If the machine has no thread or memory to spare.
    fn writer(&self, id: &str, waker: Waker) -> Result<Box<dyn Writer>>;

    /// Begins to read a partition; at most about `bytes_max` lie here unread.
    ///
    /// # Errors
    /// As [`Client::writer`].
    fn reader(
        &self,
        at: &TopicPartition,
        start: Start,
        lane: Lane,
        bytes_max: usize,
        waker: Waker,
    ) -> Result<Box<dyn Reader>>;

    /// What a partition holds from `start` on, at most about `bytes_max` but at least one record;
    /// `None` at its end. For people: it waits.
    ///
    /// # Errors
    /// As [`Client::topic`], and as [`Reader::poll`].
    fn read(&self, at: &TopicPartition, start: Start, bytes_max: usize) -> Result<Option<Fetched>>;

    /// Appends records outside any transaction, durably, in the order of the calls for each
    /// partition. `done` is called once, from any thread, when the last one is acknowledged.
    fn append(&self, records: Records, done: Appended);

    /// Names the cluster, and as whom it is spoken to: clients with one identity can do the same.
    ///
    /// # Errors
    /// As [`Client::topic`].
    fn identity(&self) -> Result<String>;

    /// What keeps it from reaching the brokers, if anything does.
    fn trouble(&self) -> Option<Error>;

    /// How long the methods that wait will wait.
    fn patience(&self) -> Duration;
}

impl dyn Client + '_ {
    /// Hands out all that a partition holds from its oldest record on, with offsets. It waits.
    ///
    /// # Errors
    /// As [`Client::read`], and those of `take`.
    pub fn read_all(
        &self,
        at: &TopicPartition,
        mut take: impl FnMut(u64, Record<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut start = Start::Earliest;
        while let Some(piece) = self.read(at, start, READ_BYTES)? {
            for (offset, record) in piece.iter() {
                start = Start::Offset(offset + 1);
                take(offset, record)?;
            }
        }
        Ok(())
    }
}
