//! A topic as a sink: one record per row.
//!
//! *Guarantee.* At least once, unless told otherwise: a turn that was written when its node died is
//! written again. Each record then has a header `millstream-id`, the same whenever it is written
//! and of no other record, by which a reader can tell (see [`KafkaSink::named`]).
//!
//! [`KafkaSink::exactly_once`] makes it exactly once, for readers with `read_committed`: a turn is
//! one transaction of Kafka, and its number is a record of the same transaction, in a small topic
//! of ours. Opening fences whoever wrote under this name before, has Kafka decide what that one
//! left open, and reads the number of the last turn that is there: the target wins. So a turn is
//! written iff its number is not there; both are there or neither; nobody else can add one in
//! between.
//!
//! *On a Kafka engine* of the same cluster and user none of this is needed: rows are records of the
//! transaction that commits the turn they come from ([`Carried`]). Each is there once, for readers
//! with `read_committed`, without a header of ours.
//!
//! *Invariants*
//! - `prepare` is a function of the rows and of what the note says: number, run, partitions.
//! - A key's records go where Kafka's own clients put that key.
//!
//! *The topic of numbers*, `millstream-sink-NAME-PARTITION`, is not compacted but trimmed by us: a
//! cleaner runs hours later, and opening reads all of it. Nothing else may write to it. It is not
//! shared, so that no other sink's open transaction hides its end.
//!
//! *Failure:* while brokers are away a write waits up to four times the client's patience, and is
//! then tried again by the supervisor. A record that Kafka refuses is an error of the task.

mod carried;
pub mod encoding;
mod rows;
mod target;
mod writer;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use arrow_schema::SchemaRef;
use millstream_core::{
    Code, Error, Result,
    connector::{Carried, Guarantee, RowEncoder, Sink, SinkWriter},
};

use self::{
    carried::{Known, TaskRows},
    rows::Rows,
    writer::KafkaWriter,
};
use crate::client::Client;

/// What Kafka adds to a record's key and value, generously.
const RECORD_OVERHEAD: usize = 512;

/// Writes rows to a topic. See the [module](self) for what it guarantees.
#[derive(Clone)]
pub struct KafkaSink {
    client: Arc<dyn Client>,
    topic: Arc<str>,
    format: Format,
    key: Vec<String>,
    partition: Option<String>,
    time: Option<String>,
    /// Header and column.
    headers: Vec<(String, String)>,
    left_out: BTreeSet<String>,
    name: String,
    exactly_once: bool,
    partitioned: bool,
    known: Arc<Known>,
}

/// What values are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv { separator: u8 },
    Raw { column: String },
}

impl KafkaSink {
    /// Values are a JSON object each, of all columns.
    pub fn json(client: Arc<dyn Client>, topic: &str) -> KafkaSink {
        KafkaSink::new(client, topic, Format::Json)
    }

    /// Values are a record of CSV each, of all columns in their order, without a header.
    pub fn csv(client: Arc<dyn Client>, topic: &str) -> KafkaSink {
        KafkaSink::new(client, topic, Format::Csv { separator: b',' })
    }

    /// Values are what column `value` holds, text or bytes; a null deletes its key where Kafka
    /// compacts.
    pub fn raw(client: Arc<dyn Client>, topic: &str, value: &str) -> KafkaSink {
        KafkaSink::new(client, topic, Format::Raw { column: value.into() })
    }

    fn new(client: Arc<dyn Client>, topic: &str, format: Format) -> KafkaSink {
        KafkaSink {
            client,
            topic: topic.into(),
            format,
            key: Vec::new(),
            partition: None,
            time: None,
            headers: Vec::new(),
            left_out: BTreeSet::new(),
            name: "millstream".into(),
            exactly_once: false,
            partitioned: false,
            known: Arc::default(),
        }
    }

    /// Puts another byte than `,` between fields of CSV.
    pub fn separator(mut self, by: u8) -> KafkaSink {
        if let Format::Csv { separator } = &mut self.format {
            *separator = by;
        }
        self
    }

    /// Records have a key: of one column its text or bytes, none if it is null; of several a JSON
    /// object of them. It decides the partition, as in Kafka's own clients (murmur2).
    pub fn key<'a>(mut self, columns: impl IntoIterator<Item = &'a str>) -> KafkaSink {
        self.key = columns.into_iter().map(str::to_string).collect();
        self
    }

    /// The partition is what whole-number column `column` holds, whatever the key.
    ///
    /// Without this, and without a key, the rows of a turn go to one partition, those of the next
    /// turn to the next one.
    pub fn partition_by(mut self, column: &str) -> KafkaSink {
        self.partition = Some(column.into());
        self
    }

    /// A record's time is what column `column` holds, a timestamp or milliseconds since 1970;
    /// without this, or where it is null, the time at which it is sent.
    pub fn timestamp(mut self, column: &str) -> KafkaSink {
        self.time = Some(column.into());
        self
    }

    /// Records have header `header`, the text or bytes of column `column`; where that is null, not.
    pub fn header(mut self, header: &str, column: &str) -> KafkaSink {
        self.headers.push((header.into(), column.into()));
        self
    }

    /// Leaves columns out of the value, for example those that are key or header.
    pub fn leave_out<'a>(mut self, columns: impl IntoIterator<Item = &'a str>) -> KafkaSink {
        self.left_out.extend(columns.into_iter().map(str::to_string));
        self
    }

    /// What ids of records begin with. Two sinks that write to one topic at the same time need
    /// names of their own, or their ids could be the same.
    pub fn named(mut self, name: &str) -> KafkaSink {
        self.name = name.into();
        self
    }

    /// Writes each row exactly once, for readers with `read_committed`. `name` is this sink's
    /// alone, on these brokers, for ever: letters, digits, `.`, `_`, `-`. The user needs the right
    /// to write to transactional ids `NAME-*`, and all rights to topics `millstream-sink-NAME-*`.
    pub fn exactly_once(mut self, name: &str) -> KafkaSink {
        self.exactly_once = true;
        self.named(name)
    }

    /// Writes with one writer per partition of the stream that it reads, instead of one in all.
    pub fn partitioned(mut self) -> KafkaSink {
        self.partitioned = true;
        self
    }
}

impl Sink for KafkaSink {
    fn guarantee(&self) -> Guarantee {
        match self.exactly_once {
            true => Guarantee::ExactlyOnce,
            false => Guarantee::AtLeastOnce,
        }
    }

    fn partitioned(&self) -> bool {
        self.partitioned
    }

    /// A name that promises exactly once; two sinks of a node under one would fence each other.
    fn file(&self) -> Option<String> {
        self.exactly_once.then(|| format!("Kafka under the name `{}`", self.name))
    }

    /// # Errors
    /// [`Code::Plan`] if a column is missing or of a type that does not fit; [`Code::Unknown`] if
    /// there is no such topic; [`Code::Conflict`] if turns are there that this flow has not
    /// written, or are missing that it has.
    fn open(&self, partition: u32, schema: SchemaRef, note: &[u8]) -> Result<Box<dyn SinkWriter>> {
        let rows = Rows::new(self, &schema)?;
        Ok(Box::new(KafkaWriter::open(self, partition, rows, note)?))
    }

    fn carried(&self) -> Option<&dyn Carried> {
        Some(self)
    }
}

impl Carried for KafkaSink {
    fn place(&self) -> Result<String> {
        self.client.identity()
    }

    fn encoder(&self, task: u32, schema: &SchemaRef) -> Result<Box<dyn RowEncoder>> {
        Ok(Box::new(TaskRows::new(self, task, Rows::new(self, schema)?)?))
    }
}

/// What a sink needs to know of its topic.
#[derive(Clone, Copy, Debug)]
struct Found {
    partitions: u32,
    /// The largest record that it takes, in bytes of key and value.
    bytes_max: usize,
}

impl Found {
    /// Asks the brokers.
    fn ask(sink: &KafkaSink) -> Result<Found> {
        let topic = sink.client.topic(&sink.topic)?.ok_or_else(|| no_topic(&sink.topic))?;
        let max = topic.settings.iter().find(|(name, _)| name == "max.message.bytes");
        let max: usize = max.and_then(|(_, max)| max.parse().ok()).unwrap_or(usize::MAX);
        let bytes_max = max.saturating_sub(RECORD_OVERHEAD);
        Ok(Found { partitions: topic.partitions, bytes_max })
    }
}

fn no_topic(topic: &str) -> Error {
    Error::new(Code::Unknown, format!("there is no topic {topic} to write to"))
        .help("create it first: `kafka-topics.sh --create`; how many partitions is yours to say")
        .help("Kafka also hides topics that this user may not describe")
}
