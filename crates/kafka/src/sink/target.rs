//! Where a turn's records go: appended, or in a transaction together with the turn's number.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millstream_core::{Code, Error, Result};

use super::KafkaSink;
use crate::{
    bell::Bell,
    client::{Client, Outcome, Record, Records, TopicPartition, TopicSpec, Writer},
};

/// How many of its client's patiences a write waits.
const PATIENCES: u32 = 4;
/// How often a turn whose fate is unknown is looked for, and written if it is not there.
const ATTEMPTS: usize = 3;
/// After so many turns their numbers are trimmed.
const TRIM_EVERY: u64 = 10_000;
/// How often, and how many times, a topic that is not as it should be is looked at again.
const HEARSAY_EVERY: Duration = Duration::from_millis(50);
const HEARSAY_TRIES: usize = 20;
/// The key of a turn's number.
const KEY: &[u8] = b"turn";
/// How many offsets a turn's number takes: the record, and the mark of its transaction.
const OFFSETS_EACH: u64 = 2;

/// Where records go.
pub(super) enum Target {
    /// At least once.
    Append { client: Arc<dyn Client>, topic: Arc<str> },
    /// Exactly once.
    Transaction {
        client: Arc<dyn Client>,
        /// Of the transactions.
        id: String,
        /// Where numbers of turns are.
        numbers: TopicPartition,
        writer: Option<(Box<dyn Writer>, Bell)>,
        /// The last turn that is there, and its checksum.
        written: Option<(u64, u64)>,
    },
}

impl Target {
    /// The target, and the last turn that it has, if it can tell.
    pub fn open(sink: &KafkaSink, partition: u32) -> Result<(Target, Option<(u64, u64)>)> {
        let client = sink.client.clone();
        if !sink.exactly_once {
            return Ok((Target::Append { client, topic: sink.topic.clone() }, None));
        }
        check_name(&sink.name)?;
        let id = format!("{}-{partition}", sink.name);
        let numbers = TopicPartition::new(format!("millstream-sink-{id}"), 0);
        make_numbers(&*client, &numbers.topic)?;
        let mut target = Target::Transaction { client, id, numbers, writer: None, written: None };
        let written = target.take_over()?;
        Ok((target, written))
    }

    /// Writes a turn, durably; in a transaction only if it is not there yet.
    pub fn write(&mut self, number: u64, checksum: u64, records: Records) -> Result<()> {
        if let Target::Append { client, topic } = self {
            return append(&**client, topic, records);
        }
        for _ in 0..ATTEMPTS {
            self.take_over()?;
            let Target::Transaction { client, id, numbers, writer, written } = self else { break };
            match written {
                Some((last, sum)) if *last == number && *sum == checksum => return Ok(()),
                Some((last, _)) if *last >= number => return Err(taken(id, *last)),
                _ => {}
            }
            let Some((open, bell)) = writer else { break };
            let mut records = records.clone();
            let value = [number.to_le_bytes(), checksum.to_le_bytes()].concat();
            let record = Record { key: Some(KEY), value: Some(&value), headers: &[], time: None };
            records.push(numbers, record);
            open.submit(records);
            let outcome = bell.wait(client.patience() * PATIENCES, || open.outcome());
            if outcome == Some(Outcome::Committed) {
                *written = Some((number, checksum));
                if number.is_multiple_of(TRIM_EVERY) {
                    trim(&**client, numbers);
                }
                return Ok(());
            }
            *writer = None;
            match outcome {
                Some(Outcome::Refused(e)) => return Err(e),
                Some(Outcome::Fenced) => return Err(fenced(id)),
                None => return Err(silent(id)),
                // Nobody knows: whoever takes over can read it.
                Some(_) => {}
            }
        }
        Err(Error::new(Code::Unreachable, "kafka: it stays unknown whether a turn was committed")
            .help("it is tried again; look at the brokers' logs"))
    }

    /// Takes over the id, if it is not ours, and reads the last number. From then on nobody else
    /// can write one.
    fn take_over(&mut self) -> Result<Option<(u64, u64)>> {
        let Target::Transaction { client, id, numbers, writer, written } = self else {
            return Ok(None);
        };
        if writer.is_some() {
            return Ok(*written);
        }
        let bell = Bell::default();
        let mut taken = client.writer(id, bell.waker())?;
        match bell.wait(client.patience() * PATIENCES, || taken.outcome()) {
            Some(Outcome::Ready) => {}
            Some(Outcome::Refused(e)) => return Err(e),
            Some(Outcome::Fenced) => return Err(fenced(id)),
            _ => return Err(silent(id)),
        }
        let last = last_number(&**client, numbers)?;
        if let Some((offset, ..)) = last {
            // Exactly before it: aborted ones may lie behind. That this fails does no harm.
            drop(client.delete_before(&[(numbers.clone(), offset)]));
        }
        *written = last.map(|(_, number, checksum)| (number, checksum));
        *writer = Some((taken, bell));
        Ok(*written)
    }
}

/// Appends and waits until all are there.
fn append(client: &dyn Client, topic: &str, records: Records) -> Result<()> {
    let (bell, answer) = (Bell::default(), Arc::new(Mutex::new(None)));
    let (wake, there) = (bell.waker(), answer.clone());
    let lock = |answer: &Mutex<Option<Result<u64>>>| {
        answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    };
    let done = move |result| {
        *there.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        wake();
    };
    client.append(records, Box::new(done));
    let wait: Duration = client.patience() * PATIENCES;
    match bell.wait(wait, || lock(&answer)) {
        Some(result) => result.map(drop),
        None => Err(client.trouble().unwrap_or_else(|| silent(topic))),
    }
}

/// Makes the topic of numbers, or checks that it is as we make it.
fn make_numbers(client: &dyn Client, topic: &str) -> Result<()> {
    let settings = [
        ("cleanup.policy", "delete"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("segment.bytes", "1048576"),
    ];
    let settings = settings.map(|(name, value)| (name.to_string(), value.to_string()));
    let spec = TopicSpec { name: topic.into(), partitions: 1, settings: settings.into() };
    client.create_topic(&spec)?;
    let mut tries = 0;
    loop {
        let Some(found) = client.topic(topic)? else { return Err(super::no_topic(topic)) };
        let differs = spec.settings[..3].iter().find(|setting| !found.settings.contains(setting));
        let what = match differs {
            Some((name, value)) => format!("{name} is not {value}"),
            None if found.partitions != 1 => format!("it has {} partitions", found.partitions),
            None => return Ok(()),
        };
        // A broker may tell the defaults of a topic that was just made.
        if tries < HEARSAY_TRIES {
            tries += 1;
            std::thread::sleep(HEARSAY_EVERY);
            continue;
        }
        let message = format!("topic {topic} holds the numbers of a sink's turns, and {what}");
        return Err(Error::new(Code::Conflict, message).help(
            "has somebody changed it, or made it? put it back, or give the sink another name",
        ));
    }
}

/// Where the last number is, the number, and its turn's checksum.
fn last_number(client: &dyn Client, numbers: &TopicPartition) -> Result<Option<(u64, u64, u64)>> {
    let mut last = None;
    client.read_all(numbers, |offset, record| {
        let foreign = || foreign(numbers, offset);
        let value = record.value.filter(|_| record.key == Some(KEY)).ok_or_else(foreign)?;
        let (number, checksum) = value.split_first_chunk().ok_or_else(foreign)?;
        let checksum = checksum.try_into().map_err(|_| foreign())?;
        last = Some((offset, u64::from_le_bytes(*number), u64::from_le_bytes(checksum)));
        Ok(())
    })?;
    Ok(last)
}

/// Removes numbers before one that was committed just now. It and its mark are the last of what
/// was written here, so it is at most two offsets before the end. That this fails does no harm.
fn trim(client: &dyn Client, numbers: &TopicPartition) {
    if let Ok(range) = client.range(numbers) {
        let last = range.end.saturating_sub(OFFSETS_EACH);
        if last > range.start {
            drop(client.delete_before(&[(numbers.clone(), last)]));
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= 200 && name.chars().all(fine) {
        return Ok(());
    }
    Err(Error::new(Code::Plan, format!("`{name}` cannot be the name of a sink in Kafka"))
        .help("take letters, digits, `.`, `_` and `-`, 200 at most"))
}

fn foreign(numbers: &TopicPartition, offset: u64) -> Error {
    let message = format!("topic {}: what is at offset {offset} is not ours", numbers.topic);
    Error::new(Code::Conflict, message)
        .help("something else has written to it: give the sink another name")
}

fn fenced(id: &str) -> Error {
    Error::new(Code::InUse, format!("another writer has taken the transactional id `{id}`"))
        .help("does another flow, or a second node, write under this name? each sink has its own")
}

fn taken(id: &str, last: u64) -> Error {
    let message = format!("turn {last} under `{id}` is there, and is not the one to be written");
    Error::new(Code::Conflict, message)
        .help("does another flow write under this name? each sink has its own")
}

fn silent(what: &str) -> Error {
    Error::new(Code::Unreachable, format!("kafka: no answer from the brokers about {what}"))
        .help("it is tried again; check that the brokers run")
}
