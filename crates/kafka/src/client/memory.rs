//! Brokers in memory, for tests and for the simulator: what Kafka promises, and each way in which
//! it can fail us, one event at a time.
//!
//! *Why it exists:* real brokers cannot be told to lose the answer of one commit, or to deliver it
//! after the next. These can, and the same calls give the same history.
//!
//! *How:* many [`Connection`]s share a [`Cluster`]. At first everything happens at once. After
//! [`Cluster::hold`] nothing does: requests, marks and answers are [`Event`]s on their way, which a
//! test lets happen ([`Cluster::perform`]), lets go by in vain ([`Cluster::lose`]), outlasts
//! ([`Cluster::give_up`]) or has refused ([`Cluster::refuse`]). A transaction goes through
//! `Produce`, `Commit`, a `Mark` for each partition that it has touched, and the `Answer`; the last
//! two in any order. Readers see a partition's part of it after its mark.
//!
//! *Invariants*
//! - No clock, thread or randomness: what happens next is what a test picks.
//! - Nothing is called back while anything is locked.
//!
//! *Left out:* brokers are one; replicas, leaders and their elections are real brokers' tests.

mod log;
mod state;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millstream_core::{Error, Result, Time, engine::Waker};

use self::state::{Reading, State, no_topic, unreachable};
use super::{
    Appended, Client, Fetched, Lane, Outcome, Reader, Records, Start, TopicPartition, TopicSpec,
    Writer,
};

/// Brokers in memory. Clones are the same brokers.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Shared>);

/// Something that is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Names it.
    pub number: u64,
    /// The connection it comes from or goes to; empty if it is the brokers' own.
    pub client: String,
    /// What it is.
    pub what: What,
}

/// What is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The request to take over a transactional id.
    TakeOver {
        /// The id.
        id: String,
    },
    /// A transaction's records. They take offsets, and readers stop before them.
    Produce {
        /// Of this transactional id.
        id: String,
    },
    /// The request to commit. When it has arrived the transaction is decided.
    Commit {
        /// Of this transactional id.
        id: String,
    },
    /// The mark that ends a transaction in a partition: readers go on.
    Mark {
        /// Of this transactional id.
        id: String,
        /// Where it is put.
        at: TopicPartition,
    },
    /// What a writer is to learn.
    Answer {
        /// Of this transactional id.
        id: String,
        /// What it will say.
        outcome: Outcome,
    },
    /// Records outside any transaction.
    Append {
        /// How many.
        records: usize,
    },
    /// What became of an append.
    Acknowledge,
}

#[derive(Default)]
struct Shared(Mutex<State>);

impl Shared {
    /// Does something with the state, then all that happens by itself, then calls whom it has to.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut state);
        while !state.held
            && let Some(number) = state.first_due()
        {
            state.perform(number);
        }
        let wakes = std::mem::take(&mut state.wakes);
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        wakes.iter().for_each(|wake| wake());
        calls.into_iter().for_each(|(done, answer)| done(answer));
        result
    }
}

impl Cluster {
    /// Brokers without a topic. Everything happens at once.
    pub fn new() -> Cluster {
        Cluster::default()
    }

    /// Another client of them, named for people.
    pub fn connect(&self, name: &str) -> Arc<Connection> {
        let number = self.0.with(|state| {
            let number = state.number();
            let client = state::Client { name: name.to_string(), cut: false, crashed: false };
            state.clients.insert(number, client);
            number
        });
        Arc::new(Connection { shared: self.0.clone(), number })
    }

    /// From now on nothing happens unless it is told to.
    pub fn hold(&self) {
        self.0.with(|state| state.held = true);
    }

    /// What was held happens, and everything at once from now on.
    pub fn release(&self) {
        self.0.with(|state| state.held = false);
    }

    /// What can happen next, oldest first. What waits for a connection that is cut, or for
    /// something else to happen, is not among it.
    pub fn pending(&self) -> Vec<Event> {
        self.0.with(|state| {
            let of = |number| {
                let (client, what) = state.describe(number)?;
                Some(Event { number, client, what })
            };
            state.due().into_iter().filter_map(of).collect()
        })
    }

    /// Lets something happen; false if it cannot, or has.
    pub fn perform(&self, number: u64) -> bool {
        self.0.with(|state| state.perform(number))
    }

    /// Lets the oldest thing happen that can and that is `wanted`; false if there is none.
    pub fn step(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        let next = self.pending().into_iter().find(wanted);
        next.is_some_and(|event| self.perform(event.number))
    }

    /// Lets everything happen that can.
    pub fn settle(&self) {
        while self.step(|_| true) {}
    }

    /// A request or answer never arrives: whoever waits for it learns that nobody knows
    /// ([`Outcome::Unknown`]). False for a mark: brokers try until they succeed.
    pub fn lose(&self, number: u64) -> bool {
        self.0.with(|state| state.give_up(number, true))
    }

    /// Whoever waits for a request's answer gives up, as [`Cluster::lose`]; yet the request is
    /// still on its way, and may arrive.
    pub fn give_up(&self, number: u64) -> bool {
        self.0.with(|state| state.give_up(number, false))
    }

    /// The brokers refuse records that arrive: [`Outcome::Refused`].
    pub fn refuse(&self, number: u64, error: Error) -> bool {
        self.0.with(|state| state.refuse(number, error))
    }

    /// The brokers' patience with an id's open transaction (`transaction.timeout.ms`) is over: it
    /// is aborted, and its writer fenced. False if there is none.
    pub fn expire(&self, id: &str) -> bool {
        self.0.with(|state| state.expire(id))
    }

    /// The transactional ids with a transaction that is open, or decided and not yet marked
    /// everywhere.
    pub fn open_transactions(&self) -> Vec<String> {
        self.0.with(|state| state.open_transactions())
    }

    /// Cleans a topic as Kafka's compaction would at its keenest: of each key the last decided
    /// record is left, or nothing if it deletes the key and `deletions` are not kept.
    ///
    /// # Errors
    /// [`millstream_core::Code::Unknown`] if there is no such topic.
    pub fn compact(&self, topic: &str, deletions: bool) -> Result<()> {
        self.0.with(|state| {
            let topic = state.topics.get_mut(topic).ok_or_else(|| no_topic(topic))?;
            topic.logs.iter_mut().for_each(|log| log.compact(deletions));
            Ok(())
        })
    }

    /// Calls `hook` whenever a writer is asked for an outcome, before it answers: there a test
    /// whose only thread waits for a held event can let it happen.
    pub fn when_asked(&self, hook: impl Fn(&Cluster) + Send + Sync + 'static) {
        self.0.with(|state| state.asked = Some(Arc::new(hook)));
    }

    /// Removes a topic, as somebody might by mistake.
    pub fn delete_topic(&self, name: &str) {
        self.0.with(|state| {
            let logs = state.topics.remove(name).map_or(0, |topic| topic.logs.len());
            for partition in 0..logs as u32 {
                state.wake_readers(&TopicPartition::new(name, partition));
            }
        });
    }

    /// The time of records that come without one, from now on.
    pub fn set_time(&self, now: Time) {
        self.0.with(|state| state.now = now);
    }

    /// How far a consumer group is said to have read.
    pub fn mirrored(&self, group: &str) -> BTreeMap<TopicPartition, u64> {
        self.0.with(|state| {
            let own = state.mirrored.iter().filter(|((of, _), _)| of == group);
            own.map(|((_, at), offset)| (at.clone(), *offset)).collect()
        })
    }

    /// Records that a partition holds, decided or not.
    pub fn records(&self, at: &TopicPartition) -> usize {
        self.0.with(|state| state.log(at).map_or(0, |log| log.len()))
    }
}

/// One client's connection to a [`Cluster`].
pub struct Connection {
    shared: Arc<Shared>,
    number: u64,
}

impl Connection {
    /// Nothing of it reaches the brokers any more, and nothing of them reaches it; what is on its
    /// way waits for [`Connection::mend`]. With this a test pauses a client, too.
    pub fn cut(&self) {
        self.shared.with(|state| {
            state.clients.entry(self.number).and_modify(|c| c.cut = true);
        });
    }

    /// It reaches the brokers again.
    pub fn mend(&self) {
        self.shared.with(|state| {
            state.clients.entry(self.number).and_modify(|c| c.cut = false);
            let own = state.readers.iter().filter(|(_, r)| r.client == self.number);
            let own: Vec<u64> = own.map(|(number, _)| *number).collect();
            own.into_iter().for_each(|reader| state.wake_reader(reader));
        });
    }

    /// Its process dies: its writers and readers are gone, transactions they had begun stay open,
    /// and requests that were on their way may still arrive.
    pub fn crash(&self) {
        self.shared.with(|state| state.crash(self.number));
    }

    fn reached<T>(&self, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.shared.with(|state| match state.clients.get(&self.number) {
            Some(client) if !client.cut && !client.crashed => act(state),
            _ => Err(unreachable()),
        })
    }
}

impl Client for Connection {
    fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.reached(|state| state.create_topic(topic))
    }

    fn topic(&self, name: &str) -> Result<Option<TopicSpec>> {
        self.reached(|state| {
            Ok(state.topics.get(name).map(|topic| TopicSpec {
                name: name.to_string(),
                partitions: topic.logs.len() as u32,
                settings: topic.settings.clone().into_iter().collect(),
            }))
        })
    }

    fn set_topic(&self, name: &str, settings: &[(String, String)]) -> Result<()> {
        self.reached(|state| {
            let topic = state.topics.get_mut(name).ok_or_else(|| no_topic(name))?;
            topic.settings.extend(settings.iter().cloned());
            Ok(())
        })
    }

    fn range(&self, at: &TopicPartition) -> Result<Range<u64>> {
        self.reached(|state| {
            let log = state.log(at)?;
            Ok(log.start()..log.readable().max(log.start()))
        })
    }

    fn offset_of(&self, at: &TopicPartition, time: Time) -> Result<Option<u64>> {
        self.reached(|state| Ok(state.log(at)?.offset_of(time)))
    }

    fn delete_before(&self, offsets: &[(TopicPartition, u64)]) -> Result<()> {
        self.reached(|state| {
            offsets.iter().try_for_each(|(at, offset)| {
                state.log(at)?.delete_before(at, *offset)?;
                state.wake_readers(at);
                Ok(())
            })
        })
    }

    fn mirror(&self, group: &str, offsets: &[(TopicPartition, u64)]) -> Result<()> {
        self.reached(|state| {
            let entry =
                |(at, offset): &(TopicPartition, u64)| ((group.to_string(), at.clone()), *offset);
            state.mirrored.extend(offsets.iter().map(entry));
            Ok(())
        })
    }

    fn writer(&self, id: &str, waker: Waker) -> Result<Box<dyn Writer>> {
        let number = self.shared.with(|state| state.take_over(self.number, id, waker));
        Ok(Box::new(MemoryWriter { shared: self.shared.clone(), number }))
    }

    fn reader(
        &self,
        at: &TopicPartition,
        start: Start,
        _: Lane,
        bytes_max: usize,
        waker: Waker,
    ) -> Result<Box<dyn Reader>> {
        let number = self.shared.with(|state| {
            let offset = match start {
                Start::Earliest => None,
                Start::Offset(offset) => Some(offset),
            };
            let number = state.number();
            let client = self.number;
            let at = at.clone();
            let reading = Reading { client, at: at.clone(), offset, bytes_max, waker, waits: true };
            state.readers.insert(number, reading);
            state.wake_readers(&at);
            number
        });
        Ok(Box::new(MemoryReader { shared: self.shared.clone(), number }))
    }

    fn read(&self, at: &TopicPartition, start: Start, bytes_max: usize) -> Result<Option<Fetched>> {
        self.reached(|state| {
            let log = state.log(at)?;
            let from = match start {
                Start::Earliest => log.start(),
                Start::Offset(offset) => offset,
            };
            Ok(log.read(at, from, bytes_max)?.0)
        })
    }

    fn append(&self, records: Records, done: Appended) {
        self.shared.with(|state| state.append(self.number, records, done));
    }

    fn identity(&self) -> Result<String> {
        self.reached(|_| Ok(format!("{:p}", Arc::as_ptr(&self.shared))))
    }

    fn trouble(&self) -> Option<Error> {
        self.reached(|_| Ok(())).err()
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}

struct MemoryWriter {
    shared: Arc<Shared>,
    number: u64,
}

impl Writer for MemoryWriter {
    fn submit(&mut self, records: Records) {
        self.shared.with(|state| state.submit(self.number, records));
    }

    fn outcome(&mut self) -> Option<Outcome> {
        if let Some(hook) = self.shared.with(|state| state.asked.clone()) {
            hook(&Cluster(self.shared.clone()));
        }
        self.shared.with(|state| state.writers.get_mut(&self.number)?.outcomes.pop_front())
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        self.shared.with(|state| state.writers.remove(&self.number));
    }
}

struct MemoryReader {
    shared: Arc<Shared>,
    number: u64,
}

impl Reader for MemoryReader {
    fn poll(&mut self) -> Result<Option<Fetched>> {
        self.shared.with(|state| state.poll(self.number))
    }

    fn reached(&self) -> Option<u64> {
        self.shared.with(|state| state.readers.get(&self.number)?.offset)
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        self.shared.with(|state| state.readers.remove(&self.number));
    }
}
