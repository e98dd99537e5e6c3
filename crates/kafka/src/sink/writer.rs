//! Numbers turns, prepares them, and hands them to the target.
//!
//! *Note, version 1*, little-endian: `0` version · `1` number of the turn u64 · `9` run u64 · `17`
//! partitions of the topic u32 · `21` length u64 · `29` xxh3 u64 of the bytes. Turns without a row
//! have the number of the next one with rows.

use millstream_core::{
    Batch, Code, Error, Result,
    connector::{Prepared, SinkWriter},
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Found, KafkaSink, encoding,
    rows::{Rows, Turn},
    target::Target,
};
use crate::client::TopicPartition;

const VERSION: u8 = 1;
const LEN: usize = 37;

/// What is known of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    number: u64,
    run: u64,
    partitions: u32,
    len: u64,
    checksum: u64,
}

impl Note {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.run.to_le_bytes());
        out.extend_from_slice(&self.partitions.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Note> {
        let corrupt = || Error::corrupt("not the note of a Kafka sink");
        if bytes.len() != LEN || bytes[0] != VERSION {
            return Err(corrupt());
        }
        let u64_at = |at: usize| {
            let field = bytes[at..].first_chunk::<8>().ok_or_else(corrupt)?;
            Ok::<u64, Error>(u64::from_le_bytes(*field))
        };
        let partitions = bytes[17..].first_chunk::<4>().ok_or_else(corrupt)?;
        Ok(Note {
            number: u64_at(1)?,
            run: u64_at(9)?,
            partitions: u32::from_le_bytes(*partitions),
            len: u64_at(21)?,
            checksum: u64_at(29)?,
        })
    }
}

/// An opened sink.
pub(super) struct KafkaWriter {
    topic: String,
    rows: Rows,
    target: Target,
    /// How ids of records begin, if they have any.
    id: Option<String>,
    run: u64,
    partitions: u32,
    bytes_max: usize,
    /// The number of the next turn with rows.
    next: u64,
    /// The last committed turn, until it is written.
    last: Option<Note>,
}

impl KafkaWriter {
    pub fn open(sink: &KafkaSink, partition: u32, rows: Rows, note: &[u8]) -> Result<KafkaWriter> {
        let last = if note.is_empty() { None } else { Some(Note::decode(note)?) };
        let Found { partitions, bytes_max } = Found::ask(sink)?;
        let (target, written) = Target::open(sink, partition)?;
        let run = match (last, &target) {
            (Some(note), _) => note.run,
            (None, Target::Append { .. }) => run(sink, partitions)?,
            (None, _) => 0,
        };
        let id = match target {
            Target::Append { .. } => Some(format!("{}-{partition}-{run}-", sink.name)),
            Target::Transaction { .. } => None,
        };
        let next = match last {
            Some(note) => note.number,
            None => written.map_or(1, |(number, _)| number + 1),
        };
        let writer = KafkaWriter {
            topic: sink.topic.to_string(),
            rows,
            target,
            id,
            run,
            partitions,
            bytes_max,
            next,
            last,
        };
        writer.agrees(written)?;
        Ok(writer)
    }

    /// That the target holds what was confirmed, and nothing else.
    fn agrees(&self, written: Option<(u64, u64)>) -> Result<()> {
        let (Some(note), Target::Transaction { id, .. }) = (&self.last, &self.target) else {
            return Ok(());
        };
        let (number, checksum) = written.unwrap_or_default();
        let what = match () {
            _ if number == note.number && checksum == note.checksum => return Ok(()),
            _ if number + 1 == note.number => return Ok(()),
            _ if number < note.number => format!(
                "{number} turns are there, but {} were written and confirmed",
                note.number - 1
            ),
            _ => format!("turn {number} is there, and is not the one that this flow has prepared"),
        };
        let message = format!("topic {}, written exactly once as `{id}`: {what}", self.topic);
        Err(Error::new(Code::Conflict, message)
            .help("does another flow write under this name, or was the data directory put back?")
            .help("give the sink another name, and start the flow anew"))
    }

    fn note(&self, number: u64, bytes: &[u8], partitions: u32) -> Note {
        let (len, checksum) = (bytes.len() as u64, xxh3_64(bytes));
        Note { number, run: self.run, partitions, len, checksum }
    }
}

/// A number that grows as soon as anything is written to the topic: ids of a run that begins anew
/// are none that are there.
fn run(sink: &KafkaSink, partitions: u32) -> Result<u64> {
    let ends = (0..partitions).map(|n| {
        let at = TopicPartition::new(sink.topic.clone(), n);
        sink.client.range(&at).map(|range| range.end)
    });
    ends.sum()
}

impl SinkWriter for KafkaWriter {
    fn prepare(&mut self, rows: &[Batch]) -> Result<Prepared> {
        // A turn that is prepared again keeps the partitions that it was prepared for.
        let number = self.next;
        let partitions = self.last.map_or(self.partitions, |last| last.partitions);
        let id = self.id.as_ref().map(|begin| format!("{begin}{number}-"));
        let turn = Turn { number, partitions, id, bytes_max: self.bytes_max };
        let (bytes, _) = self.rows.encode(rows, &turn)?;
        let note = self.note(number, &bytes, partitions);
        match self.last {
            Some(last) if last != note => Err(self.differs(&last, &note)),
            _ => Ok(Prepared { note: note.encode(), bytes }),
        }
    }

    fn write(&mut self, prepared: &Prepared) -> Result<()> {
        let note = Note::decode(&prepared.note)?;
        let expected = self.note(note.number, &prepared.bytes, note.partitions);
        assert_eq!(note, expected, "the note of these bytes");
        let records = encoding::records(&prepared.bytes)?;
        if records.is_empty() {
            self.last = None;
            return Ok(());
        }
        let again = note.number + 1 == self.next;
        if note.number != self.next && !again {
            let (got, next) = (note.number, self.next);
            return Err(Error::new(
                Code::Bug,
                format!("turn {got} is to be written, but {next} is next"),
            ));
        }
        self.target.write(note.number, note.checksum, records)?;
        self.next = note.number + 1;
        self.last = None;
        Ok(())
    }
}

impl KafkaWriter {
    fn differs(&self, last: &Note, now: &Note) -> Error {
        let message = format!(
            "topic {}: the last turn's rows gave {} bytes as turn {}, and now give {} others",
            self.topic, last.len, last.number, now.len
        );
        Error::new(Code::Bug, message)
            .help("was the node updated in between? let the version that stopped finish the turn")
    }
}
