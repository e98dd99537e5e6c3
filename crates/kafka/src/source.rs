//! A topic as a source.
//!
//! *Units* are records. A partition of the topic is a partition of the source; its positions are
//! offsets. JSON and CSV are values of one object or one record each; raw takes the value as it is.
//! Key, time, partition, offset and headers of a record become columns where that is asked for.
//!
//! *No data:* a record without a value, which deletes its key where Kafka compacts, is skipped;
//! raw, it is a row whose value is null, if the column may be null. A value of no bytes is an error
//! in JSON and CSV.
//!
//! *Invariants*
//! - Opened at a position, a partition gives the records behind it again, as long as Kafka keeps
//!   them. Where the source begins and, if it is finite, where it ends, is settled when a partition
//!   is first opened, and is part of each position.
//! - What cannot be decoded names topic, partition and offset.
//! - Only committed records are seen.
//!
//! *Failure:* while brokers are away it waits for them. Records that were removed before they were
//! read are an error, and so is another number of partitions than the flow was made with.
//!
//! *Limits:* 16 MiB for a value; about 4 MiB of each partition lie here unread; chunks of at most
//! 16,384 records. It looks at the number of partitions every 30 s, and tells a group how far it is
//! every 5 s.

mod layout;
mod reader;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use arrow_schema::SchemaRef;
use millstream_core::{
    Code, Error, Result, Time,
    connector::{Source, SourceReader},
    partitioner::Partitioner,
};

use self::{layout::Layout, reader::KafkaReader};
use crate::client::{Client, TopicPartition};

/// The longest value that is decoded, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// A topic, as a source. See the [module](self) for what becomes of its records.
#[derive(Clone)]
pub struct KafkaSource {
    client: Arc<dyn Client>,
    topic: Arc<str>,
    partitions: u32,
    format: Format,
    columns: Vec<(String, Part)>,
    begin: Begin,
    finite: bool,
    value_bytes_max: usize,
    group: Option<String>,
    /// The column that the topic is partitioned by.
    keyed: Option<String>,
}

/// What values are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv { names: Vec<String>, separator: u8 },
    Raw,
}

/// A part of a record that can be a column.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Key,
    Value,
    Time,
    Partition,
    Offset,
    Header(String),
}

/// Where a source begins in partitions that it has not read yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// At the oldest record that Kafka keeps.
    #[default]
    Earliest,
    /// Behind what is there when the partition is first opened.
    Latest,
    /// At the first record of this time or later, by Kafka's index; at the end if there is none.
    Time(Time),
    /// At these offsets by partition; where none is given, at the oldest record.
    Offsets(BTreeMap<u32, u64>),
}

impl KafkaSource {
    /// A topic whose values are a JSON object each.
    ///
    /// # Errors
    /// [`Code::Unknown`] if there is no such topic, [`Code::Unreachable`] if no broker answers.
    pub fn json(client: Arc<dyn Client>, topic: &str) -> Result<KafkaSource> {
        KafkaSource::new(client, topic, Format::Json)
    }

    /// A topic whose values are a record of CSV each, without a header: `names` are its columns.
    ///
    /// # Errors
    /// As [`KafkaSource::json`].
    pub fn csv<'a>(
        client: Arc<dyn Client>,
        topic: &str,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<KafkaSource> {
        let names = names.into_iter().map(str::to_string).collect();
        KafkaSource::new(client, topic, Format::Csv { names, separator: b',' })
    }

    /// A topic whose values are to be column `value`, text or bytes, as they are.
    ///
    /// # Errors
    /// As [`KafkaSource::json`].
    pub fn raw(client: Arc<dyn Client>, topic: &str, value: &str) -> Result<KafkaSource> {
        Ok(KafkaSource::new(client, topic, Format::Raw)?.column(value, Part::Value))
    }

    fn new(client: Arc<dyn Client>, topic: &str, format: Format) -> Result<KafkaSource> {
        let found = client.topic(topic)?.ok_or_else(|| no_topic(topic))?;
        Ok(KafkaSource {
            client,
            topic: topic.into(),
            partitions: found.partitions,
            format,
            columns: Vec::new(),
            begin: Begin::default(),
            finite: false,
            value_bytes_max: VALUE_BYTES_MAX,
            group: None,
            keyed: None,
        })
    }

    fn column(mut self, name: &str, part: Part) -> KafkaSource {
        self.columns.push((name.into(), part));
        self
    }

    /// Takes another byte than `,` between fields of CSV.
    pub fn separator(mut self, by: u8) -> KafkaSource {
        if let Format::Csv { separator, .. } = &mut self.format {
            *separator = by;
        }
        self
    }

    /// Column `name` is the record's key: text, or bytes.
    pub fn key(self, name: &str) -> KafkaSource {
        self.column(name, Part::Key)
    }

    /// As [`KafkaSource::key`], and the topic was written with Kafka's default partitioner (murmur2
    /// of the key): all records of a key are in one partition, so the process of that key can live
    /// where the partition is read. A step behind `key_by(name)` then has as many tasks as the
    /// topic has partitions, and rows need no second turn to get there. A record that is in another
    /// partition than its key's is set aside, and so is one without a key.
    pub fn keyed(mut self, name: &str) -> KafkaSource {
        self.keyed = Some(name.into());
        self.column(name, Part::Key)
    }

    /// Column `name` is the record's time: a timestamp, or milliseconds since 1970. It can be the
    /// flow's event time.
    pub fn timestamp(self, name: &str) -> KafkaSource {
        self.column(name, Part::Time)
    }

    /// Column `name` is the record's partition, a whole number.
    pub fn partition(self, name: &str) -> KafkaSource {
        self.column(name, Part::Partition)
    }

    /// Column `name` is the record's offset, a whole number.
    pub fn offset(self, name: &str) -> KafkaSource {
        self.column(name, Part::Offset)
    }

    /// Column `name` is the last header that is called `header`: text, or bytes.
    pub fn header(self, header: &str, name: &str) -> KafkaSource {
        self.column(name, Part::Header(header.into()))
    }

    /// Begins elsewhere than at the oldest record, where it has not read yet.
    pub fn begin(mut self, begin: Begin) -> KafkaSource {
        self.begin = begin;
        self
    }

    /// Ends where a partition ends when it is first opened, instead of waiting for more.
    pub fn finite(mut self) -> KafkaSource {
        self.finite = true;
        self
    }

    /// Sets values of more than `bytes` aside; [`VALUE_BYTES_MAX`] unless told otherwise.
    pub fn value_bytes_max(mut self, bytes: usize) -> KafkaSource {
        self.value_bytes_max = bytes;
        self
    }

    /// Tells consumer group `group` how far it has read, durably, for tools that show lags. Nothing
    /// is read back from there.
    pub fn group(mut self, group: &str) -> KafkaSource {
        self.group = Some(group.into());
        self
    }
}

impl Source for KafkaSource {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn finite(&self) -> bool {
        self.finite
    }

    fn place(&self, partition: u32, place: u64) -> Option<String> {
        // Places count from 1.
        Some(layout::place(&TopicPartition::new(&*self.topic, partition), place.saturating_sub(1)))
    }

    fn partitioned_by(&self) -> Option<(&str, Partitioner)> {
        Some((self.keyed.as_deref()?, Partitioner::Murmur2))
    }

    /// Those of CSV and raw; JSON objects may have any.
    fn fields(&self) -> Result<Option<Vec<String>>> {
        let own = self.columns.iter().map(|(name, _)| name.clone());
        Ok(match &self.format {
            Format::Json => None,
            Format::Csv { names, .. } => Some(names.iter().cloned().chain(own).collect()),
            Format::Raw => Some(own.collect()),
        })
    }

    /// # Errors
    /// [`Code::Plan`] if a column cannot be made, [`Code::Corrupt`] if the position is none.
    fn open(
        &self,
        partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> Result<Box<dyn SourceReader>> {
        let layout = Layout::new(self, schema)?;
        Ok(Box::new(KafkaReader::open(self.clone(), partition, layout, position)?))
    }
}

fn no_topic(topic: &str) -> Error {
    Error::new(Code::Unknown, format!("there is no topic {topic}"))
        .help("check its name, and that these are the right brokers: `kafka-topics.sh --list`")
        .help("Kafka also hides topics that this user may not describe")
}
