//! What the brokers know, what is on its way to and from them, and what happens when it arrives.
//!
//! *How:* everything that takes time is an event. One that arrives may put others on their way; a
//! writer has at most one request under way, as Kafka's protocol wants it. *Source:* KIP-98; the
//! coordinator's answers are those of Kafka 4 under transaction version 1.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use millstream_core::{Code, Error, Result, Time, engine::Waker};

use super::{Cluster, What, log::Log};
use crate::client::{Appended, Fetched, Outcome, Records, TopicPartition, TopicSpec};

/// What topics have unless they say otherwise, as far as anybody here asks for it.
const SETTINGS: [(&str, &str); 13] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("delete.retention.ms", "86400000"),
    ("max.compaction.lag.ms", "9223372036854775807"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.type", "CreateTime"),
    ("min.cleanable.dirty.ratio", "0.5"),
    ("min.insync.replicas", "1"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.bytes", "1073741824"),
    ("segment.ms", "604800000"),
    ("unclean.leader.election.enable", "false"),
];

/// What a test does while somebody waits.
pub(super) type Hook = Arc<dyn Fn(&Cluster) + Send + Sync>;

/// All of a cluster.
#[derive(Default)]
pub(super) struct State {
    pub topics: BTreeMap<String, Topic>,
    pub clients: BTreeMap<u64, Client>,
    pub writers: BTreeMap<u64, Writing>,
    pub readers: BTreeMap<u64, Reading>,
    pub mirrored: BTreeMap<(String, TopicPartition), u64>,
    /// The time of records that have none of their own.
    pub now: Time,
    pub held: bool,
    pub asked: Option<Hook>,
    ids: BTreeMap<String, Coordinated>,
    /// In the order in which they were put on their way.
    events: Vec<Event>,
    last: u64,
    /// To be called once nothing is locked.
    pub wakes: Vec<Waker>,
    pub calls: Vec<(Appended, Result<u64>)>,
}

pub(super) struct Topic {
    pub settings: BTreeMap<String, String>,
    pub logs: Vec<Log>,
}

pub(super) struct Client {
    pub name: String,
    /// It reaches no broker, and none reaches it.
    pub cut: bool,
    pub crashed: bool,
}

/// A writer, as its client knows it.
pub(super) struct Writing {
    pub client: u64,
    pub id: String,
    waker: Waker,
    /// Handed in and not begun.
    queue: VecDeque<Records>,
    /// Whether a transaction is under way.
    busy: bool,
    epoch: Option<u64>,
    over: bool,
    pub outcomes: VecDeque<Outcome>,
}

pub(super) struct Reading {
    pub client: u64,
    pub at: TopicPartition,
    /// Where it goes on; `None`: at the oldest record, when it is first asked.
    pub offset: Option<u64>,
    pub bytes_max: usize,
    pub waker: Waker,
    /// It has seen all there was.
    pub waits: bool,
}

/// What the brokers know of a transactional id.
#[derive(Default)]
struct Coordinated {
    epoch: u64,
    phase: Phase,
    /// Those who take over, each with its epoch, until the phase is over.
    waiting: Vec<(u64, u64)>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    Open {
        transaction: u64,
        touched: BTreeSet<TopicPartition>,
    },
    Ending {
        transaction: u64,
        committed: bool,
        left: BTreeSet<TopicPartition>,
    },
}

struct Event {
    number: u64,
    /// Whose it is; `None`: the brokers' own.
    client: Option<u64>,
    way: Way,
}

enum Way {
    TakeOver { writer: u64, id: String },
    Produce { writer: u64, id: String, epoch: u64, records: Records },
    Commit { writer: u64, id: String, epoch: u64 },
    Mark { id: String, at: TopicPartition },
    Answer { writer: u64, id: String, epoch: u64, outcome: Outcome },
    Append { records: Records, done: Appended },
    Acknowledge { answer: Result<u64>, done: Appended },
}

impl State {
    /// A number that nothing else has.
    pub fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub fn create_topic(&mut self, spec: &TopicSpec) -> Result<()> {
        if spec.partitions == 0 {
            let message = format!("topic {} would have no partition", spec.name);
            return Err(Error::new(Code::Plan, message));
        }
        let made = || {
            let settings = SETTINGS.iter().map(|(k, v)| (k.to_string(), v.to_string()));
            let settings = settings.chain(spec.settings.iter().cloned()).collect();
            Topic { settings, logs: (0..spec.partitions).map(|_| Log::default()).collect() }
        };
        self.topics.entry(spec.name.clone()).or_insert_with(made);
        Ok(())
    }

    pub fn log(&mut self, at: &TopicPartition) -> Result<&mut Log> {
        let topic = self.topics.get_mut(&*at.topic).ok_or_else(|| no_topic(&at.topic))?;
        let partitions = topic.logs.len();
        topic.logs.get_mut(at.partition as usize).ok_or_else(|| {
            let message = format!(
                "topic {} has {partitions} partitions, and no partition {}",
                at.topic, at.partition
            );
            Error::new(Code::Unknown, message)
        })
    }

    /// Wakes the readers of a partition that wait, if there is something for them.
    pub fn wake_readers(&mut self, at: &TopicPartition) {
        let gone = self.log(at).is_err();
        for number in self.readers.keys().copied().collect::<Vec<_>>() {
            let reader = &self.readers[&number];
            let (own, offset) = (reader.at == *at && reader.waits, reader.offset);
            let cut = self.clients.get(&reader.client).is_none_or(|c| c.cut);
            let news = |log: &mut Log| log.has_news(offset.unwrap_or(log.start()));
            if own && !cut && (gone || self.log(at).is_ok_and(news)) {
                self.wake_reader(number);
            }
        }
    }

    pub fn wake_reader(&mut self, number: u64) {
        if let Some(reader) = self.readers.get_mut(&number) {
            reader.waits = false;
            self.wakes.push(reader.waker.clone());
        }
    }

    fn send(&mut self, client: Option<u64>, way: Way) {
        let number = self.number();
        self.events.push(Event { number, client, way });
    }

    // What clients do.

    pub fn poll(&mut self, reader: u64) -> Result<Option<Fetched>> {
        let Some(reading) = self.readers.get_mut(&reader) else { return Ok(None) };
        reading.waits = true;
        if self.clients.get(&reading.client).is_none_or(|c| c.cut) {
            return Ok(None);
        }
        let (at, offset, bytes_max) = (reading.at.clone(), reading.offset, reading.bytes_max);
        let log = self.log(&at)?;
        let (fetched, offset) = log.read(&at, offset.unwrap_or(log.start()), bytes_max)?;
        if let Some(reading) = self.readers.get_mut(&reader) {
            reading.offset = Some(offset);
            reading.waits = fetched.is_none();
        }
        Ok(fetched)
    }

    pub fn take_over(&mut self, client: u64, id: &str, waker: Waker) -> u64 {
        let (writer, id) = (self.number(), id.to_string());
        let writing = Writing {
            client,
            id: id.clone(),
            waker,
            queue: VecDeque::new(),
            busy: false,
            epoch: None,
            over: false,
            outcomes: VecDeque::new(),
        };
        if self.clients.get(&client).is_some_and(|c| !c.crashed) {
            self.writers.insert(writer, writing);
            self.send(Some(client), Way::TakeOver { writer, id });
        }
        writer
    }

    pub fn submit(&mut self, writer: u64, records: Records) {
        let Some(writing) = self.writers.get_mut(&writer) else { return };
        if writing.over {
            self.tell(writer, Outcome::Fenced);
            return;
        }
        let undecided = writing.queue.len() + usize::from(writing.busy);
        assert!(undecided < 2, "at most two transactions are undecided");
        writing.queue.push_back(records);
        self.begin(writer);
    }

    pub fn append(&mut self, client: u64, records: Records, done: Appended) {
        if self.clients.get(&client).is_none_or(|c| c.crashed) {
            return;
        }
        self.send(Some(client), Way::Append { records, done });
    }

    /// Begins the next transaction if none is under way.
    fn begin(&mut self, writer: u64) {
        let Some(writing) = self.writers.get_mut(&writer) else { return };
        let (Some(epoch), false) = (writing.epoch, writing.busy) else { return };
        let Some(records) = writing.queue.pop_front() else { return };
        writing.busy = true;
        let (client, id) = (writing.client, writing.id.clone());
        self.send(Some(client), Way::Produce { writer, id, epoch, records });
    }

    fn tell(&mut self, writer: u64, outcome: Outcome) {
        if let Some(writing) = self.writers.get_mut(&writer) {
            writing.outcomes.push_back(outcome);
            self.wakes.push(writing.waker.clone());
        }
    }

    /// An answer has come to a writer, or the certainty that none will.
    fn answered(&mut self, writer: u64, epoch: u64, outcome: Outcome) {
        let Some(writing) = self.writers.get_mut(&writer) else { return };
        if writing.over {
            return;
        }
        match outcome {
            Outcome::Ready => writing.epoch = Some(epoch),
            Outcome::Committed => writing.busy = false,
            _ => {
                writing.over = true;
                writing.busy = false;
            }
        }
        let left = if writing.over { std::mem::take(&mut writing.queue).len() } else { 0 };
        self.tell(writer, outcome);
        (0..left).for_each(|_| self.tell(writer, Outcome::Fenced));
        self.begin(writer);
    }

    // What may happen, and what then does.

    /// Whether it can happen now: who sends and who is to receive are connected, and it waits for
    /// nothing else.
    fn is_due(&self, event: &Event) -> bool {
        let connected = |client: u64| self.clients.get(&client).is_some_and(|c| !c.cut);
        let first_append = |client| {
            let mut appends = self.events.iter().filter(|e| matches!(e.way, Way::Append { .. }));
            appends.find(|e| e.client == client).is_some_and(|e| e.number == event.number)
        };
        event.client.is_none_or(connected)
            && match &event.way {
                // Until the last one has left its marks, Kafka takes no other transaction.
                Way::Produce { id, .. } => {
                    !self.ids.get(id).is_some_and(|c| matches!(c.phase, Phase::Ending { .. }))
                }
                Way::Append { .. } => first_append(event.client),
                _ => true,
            }
    }

    pub fn due(&self) -> Vec<u64> {
        self.events.iter().filter(|e| self.is_due(e)).map(|e| e.number).collect()
    }

    pub fn first_due(&self) -> Option<u64> {
        self.events.iter().find(|e| self.is_due(e)).map(|e| e.number)
    }

    /// Everything on its way, whether due or not.
    pub fn describe(&self, number: u64) -> Option<(String, What)> {
        let event = self.events.iter().find(|e| e.number == number)?;
        let client = event.client.and_then(|c| self.clients.get(&c)).map(|c| c.name.clone());
        let what = match &event.way {
            Way::TakeOver { id, .. } => What::TakeOver { id: id.clone() },
            Way::Produce { id, .. } => What::Produce { id: id.clone() },
            Way::Commit { id, .. } => What::Commit { id: id.clone() },
            Way::Mark { id, at } => What::Mark { id: id.clone(), at: at.clone() },
            Way::Answer { id, outcome, .. } => {
                What::Answer { id: id.clone(), outcome: outcome.clone() }
            }
            Way::Append { records, .. } => What::Append { records: records.len() },
            Way::Acknowledge { .. } => What::Acknowledge,
        };
        Some((client.unwrap_or_default(), what))
    }

    fn remove(&mut self, number: u64) -> Option<Event> {
        let at = self.events.iter().position(|e| e.number == number)?;
        Some(self.events.remove(at))
    }

    /// Lets an event happen that is due.
    pub fn perform(&mut self, number: u64) -> bool {
        if !self.events.iter().any(|e| e.number == number && self.is_due(e)) {
            return false;
        }
        let Some(Event { client, way, .. }) = self.remove(number) else { return false };
        match way {
            Way::TakeOver { writer, id } => self.coordinator_takes_over(client, writer, id),
            Way::Produce { writer, id, epoch, records } => {
                self.coordinator_produces(client, writer, id, epoch, &records);
            }
            Way::Commit { writer, id, epoch } => {
                self.coordinator_commits(client, writer, id, epoch);
            }
            Way::Mark { id, at } => self.mark(&id, &at),
            Way::Answer { writer, epoch, outcome, .. } => self.answered(writer, epoch, outcome),
            Way::Append { records, done } => {
                let mut touched = BTreeSet::new();
                let answer = self.written(&records, None, &mut touched);
                let answer = answer.map(|last| last.unwrap_or_default());
                touched.iter().for_each(|at| self.wake_readers(at));
                self.send(client, Way::Acknowledge { answer, done });
            }
            Way::Acknowledge { answer, done } => self.calls.push((done, answer)),
        }
        true
    }

    /// Whoever waits for this gives up; if `lost`, it never arrives either.
    pub fn give_up(&mut self, number: u64, lost: bool) -> bool {
        let Some(at) = self.events.iter().position(|e| e.number == number) else { return false };
        let answer = matches!(self.events[at].way, Way::Answer { .. } | Way::Acknowledge { .. });
        let writer = match &self.events[at].way {
            Way::TakeOver { writer, .. }
            | Way::Produce { writer, .. }
            | Way::Commit { writer, .. }
            | Way::Answer { writer, .. } => Some(*writer),
            Way::Append { .. } | Way::Acknowledge { .. } => None,
            // Brokers try until they succeed.
            Way::Mark { .. } => return false,
        };
        if let Some(writer) = writer {
            if lost || answer {
                self.events.remove(at);
            }
            self.answered(writer, 0, Outcome::Unknown);
            return true;
        }
        let nothing: Appended = Box::new(|_| ());
        let done = match &mut self.events[at].way {
            Way::Append { done, .. } | Way::Acknowledge { done, .. } => {
                std::mem::replace(done, nothing)
            }
            _ => nothing,
        };
        self.calls.push((done, Err(unreachable())));
        if lost || answer {
            self.events.remove(at);
        }
        true
    }

    /// The brokers refuse what arrives.
    pub fn refuse(&mut self, number: u64, error: Error) -> bool {
        let Some(at) = self.events.iter().position(|e| e.number == number) else { return false };
        match &self.events[at].way {
            Way::Append { .. } | Way::Produce { .. } => {}
            _ => return false,
        }
        let Some(Event { client, way, .. }) = self.remove(number) else { return false };
        match way {
            Way::Produce { writer, id, epoch, .. } => {
                let outcome = Outcome::Refused(error);
                self.send(client, Way::Answer { writer, id, epoch, outcome });
            }
            Way::Append { done, .. } => {
                self.send(client, Way::Acknowledge { answer: Err(error), done });
            }
            _ => {}
        }
        true
    }

    /// The brokers' patience with an open transaction is over.
    pub fn expire(&mut self, id: &str) -> bool {
        let Some(of) = self.ids.get_mut(id) else { return false };
        if !matches!(of.phase, Phase::Open { .. }) {
            return false;
        }
        of.epoch += 1;
        self.end(id, false);
        true
    }

    pub fn open_transactions(&self) -> Vec<String> {
        let open = self.ids.iter().filter(|(_, of)| !matches!(of.phase, Phase::Idle));
        open.map(|(id, _)| id.clone()).collect()
    }

    fn coordinator_takes_over(&mut self, client: Option<u64>, writer: u64, id: String) {
        let of = self.ids.entry(id.clone()).or_default();
        of.epoch += 1;
        let epoch = of.epoch;
        if matches!(of.phase, Phase::Idle) {
            return self.send(client, Way::Answer { writer, id, epoch, outcome: Outcome::Ready });
        }
        of.waiting.push((writer, epoch));
        if matches!(of.phase, Phase::Open { .. }) {
            self.end(&id, false);
        }
    }

    /// The answer to a request of an epoch that is over.
    fn fence(&mut self, client: Option<u64>, writer: u64, id: String, epoch: u64) -> bool {
        let fenced = self.ids.get(&id).is_none_or(|of| of.epoch != epoch);
        if fenced {
            self.send(client, Way::Answer { writer, id, epoch, outcome: Outcome::Fenced });
        }
        fenced
    }

    fn coordinator_produces(
        &mut self,
        client: Option<u64>,
        writer: u64,
        id: String,
        epoch: u64,
        records: &Records,
    ) {
        if self.fence(client, writer, id.clone(), epoch) {
            return;
        }
        let transaction = self.number();
        let mut touched = BTreeSet::new();
        let written = self.written(records, Some(transaction), &mut touched);
        if let Some(of) = self.ids.get_mut(&id) {
            of.phase = Phase::Open { transaction, touched };
        }
        if let Err(e) = written {
            // As a client does: what was written before the one that was refused is aborted.
            self.end(&id, false);
            let outcome = Outcome::Refused(e);
            return self.send(client, Way::Answer { writer, id, epoch, outcome });
        }
        // Its answer is no event: without it, the client would just not send what follows.
        if self.writers.get(&writer).is_some_and(|w| !w.over) {
            self.send(client, Way::Commit { writer, id, epoch });
        }
    }

    fn coordinator_commits(&mut self, client: Option<u64>, writer: u64, id: String, epoch: u64) {
        if self.fence(client, writer, id.clone(), epoch) {
            return;
        }
        self.end(&id, true);
        self.send(client, Way::Answer { writer, id, epoch, outcome: Outcome::Committed });
    }

    /// Decides an open transaction. Its marks are on their way.
    fn end(&mut self, id: &str, committed: bool) {
        let Some(of) = self.ids.get_mut(id) else { return };
        let Phase::Open { transaction, touched } = std::mem::take(&mut of.phase) else { return };
        of.phase = Phase::Ending { transaction, committed, left: touched.clone() };
        for at in touched {
            self.send(None, Way::Mark { id: id.to_string(), at });
        }
        self.complete(id);
    }

    fn mark(&mut self, id: &str, at: &TopicPartition) {
        let Some(of) = self.ids.get_mut(id) else { return };
        let Phase::Ending { transaction, committed, left } = &mut of.phase else { return };
        let (transaction, committed) = (*transaction, *committed);
        left.remove(at);
        if let Ok(log) = self.log(at) {
            log.mark(transaction, committed);
        }
        self.wake_readers(at);
        self.complete(id);
    }

    /// If all marks are written, the id is free for whoever waits for it.
    fn complete(&mut self, id: &str) {
        let Some(of) = self.ids.get_mut(id) else { return };
        if !matches!(&of.phase, Phase::Ending { left, .. } if left.is_empty()) {
            return;
        }
        of.phase = Phase::Idle;
        let last = of.epoch;
        for (writer, epoch) in std::mem::take(&mut of.waiting) {
            let client = self.writers.get(&writer).map(|w| w.client);
            let outcome = if epoch == last { Outcome::Ready } else { Outcome::Fenced };
            let way = Way::Answer { writer, id: id.to_string(), epoch, outcome };
            if client.is_some() {
                self.send(client, way);
            }
        }
    }

    /// Writes records to their partitions, up to the first that is refused; the last one's offset.
    fn written(
        &mut self,
        records: &Records,
        transaction: Option<u64>,
        touched: &mut BTreeSet<TopicPartition>,
    ) -> Result<Option<u64>> {
        let (mut last, now) = (None, self.now);
        for (at, record) in records.iter() {
            self.log(at)?;
            let topic = &self.topics[&*at.topic];
            let setting = |name: &str| topic.settings.get(name).map_or("", String::as_str);
            let len = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            if setting("max.message.bytes").parse().is_ok_and(|max: usize| len > max) {
                return Err(too_large(at, len, setting("max.message.bytes")));
            }
            if record.key.is_none() && setting("cleanup.policy").contains("compact") {
                return Err(no_key(at));
            }
            last = Some(self.log(at)?.append(record, now, transaction));
            if !touched.contains(at) {
                touched.insert(at.clone());
            }
        }
        Ok(last)
    }

    /// A client has died: nobody waits for answers any more. What was on its way may still arrive.
    pub fn crash(&mut self, client: u64) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.crashed = true;
        }
        self.writers.retain(|_, w| w.client != client);
        self.readers.retain(|_, r| r.client != client);
        self.events.retain(|e| {
            e.client != Some(client)
                || !matches!(e.way, Way::Answer { .. } | Way::Acknowledge { .. })
        });
        let nothing = || -> Appended { Box::new(|_| ()) };
        for event in self.events.iter_mut().filter(|e| e.client == Some(client)) {
            if let Way::Append { done, .. } = &mut event.way {
                *done = nothing();
            }
        }
    }
}

pub(super) fn no_topic(name: &str) -> Error {
    Error::new(Code::Unknown, format!("there is no topic {name}"))
        .help("check its name, and whether somebody has deleted it")
}

pub(super) fn unreachable() -> Error {
    Error::new(Code::Unreachable, "the brokers cannot be reached")
}

fn too_large(at: &TopicPartition, len: usize, max: &str) -> Error {
    let place = format!("{}-{}", at.topic, at.partition);
    let message = format!("a record of {len} bytes for {place}; the topic takes {max}");
    Error::new(Code::Limit, message).help("raise the topic's max.message.bytes")
}

fn no_key(at: &TopicPartition) -> Error {
    let place = format!("{}-{}", at.topic, at.partition);
    Error::new(Code::Input, format!("a record without a key for {place}, which is compacted"))
}
