//! Reading: many partitions over one consumer for each lane, each into an inbox of its own.
//!
//! A partition whose inbox is full is paused at the consumer and goes on where it was. A consumer
//! reads a partition only once; whoever wants it a second time gets another consumer.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_core::{Code, Error, Result, Time, engine::Waker};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::Headers,
};

use super::{Context, Doing, PATIENCE, Properties, error, lock, tokens::LoggedIn, unreachable};
use crate::client::{Collected, Fetched, Lane, Reader, Record, Start, TopicPartition};

/// How long a consumer waits for records before it looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a topic that may not be read is tried again.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// What librdkafka fetches ahead for all partitions of a consumer.
const AHEAD_KBYTES: &str = "32768";

/// The consumers of a connection.
pub(super) struct Fetchers {
    properties: Arc<Properties>,
    context: Context,
    all: Mutex<Vec<Arc<Fetcher>>>,
}

/// A consumer and who reads what from it.
struct Fetcher {
    consumer: LoggedIn<BaseConsumer<Context>>,
    lane: Lane,
    properties: Arc<Properties>,
    context: Context,
    /// Also held while what is read no more leaves the consumer.
    routes: Mutex<Routes>,
    /// Topics that may not be read.
    denied: Mutex<Vec<Arc<str>>>,
    stop: AtomicBool,
}

type Routes = HashMap<Arc<str>, HashMap<u32, Arc<Inbox>>>;

struct Inbox {
    at: TopicPartition,
    bytes_max: usize,
    waker: Waker,
    state: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    collected: Collected,
    /// The lowest offset that was not handed over yet.
    next: u64,
    /// Whether that is known: not before the first record, if it reads from the oldest.
    begun: bool,
    /// Nothing can be read before this one but what was handed over.
    reached: u64,
    paused: bool,
    error: Option<Error>,
}

impl Fetchers {
    pub fn new(properties: Arc<Properties>, context: Context) -> Fetchers {
        Fetchers { properties, context, all: Mutex::default() }
    }

    pub fn reader(
        &self,
        at: &TopicPartition,
        start: Start,
        lane: Lane,
        bytes_max: usize,
        waker: Waker,
    ) -> Result<Box<dyn Reader>> {
        let (next, begun) = match start {
            Start::Earliest => (0, false),
            Start::Offset(offset) => (offset, true),
        };
        let state = Mutex::new(Contents { next, begun, ..Contents::default() });
        let inbox = Arc::new(Inbox { at: at.clone(), bytes_max, waker, state });
        let fetcher = self.take_in(&inbox, lane)?;
        let mut list = TopicPartitionList::new();
        let assigned = {
            // Held so that nothing pauses it between the two.
            let _state = lock(&inbox.state);
            list.add_partition_offset(&at.topic, at.partition as i32, start.into())
                .and_then(|()| fetcher.consumer.incremental_assign(&list))
                // librdkafka remembers that the reader before this one had it paused.
                .and_then(|()| fetcher.consumer.resume(&list))
        };
        let reader = RdReader { fetcher, inbox };
        assigned.map_err(|e| error(&format!("reading {at}"), &e))?;
        Ok(Box::new(reader))
    }

    /// Finds a consumer of the lane that does not read the partition yet, or makes one.
    fn take_in(&self, inbox: &Arc<Inbox>, lane: Lane) -> Result<Arc<Fetcher>> {
        let mut all = lock(&self.all);
        for fetcher in all.iter().filter(|fetcher| fetcher.lane == lane) {
            let mut routes = lock(&fetcher.routes);
            let topic = routes.entry(inbox.at.topic.clone()).or_default();
            if let Entry::Vacant(free) = topic.entry(inbox.at.partition) {
                free.insert(inbox.clone());
                return Ok(fetcher.clone());
            }
        }
        let config = self.properties.consumer(&[
            ("fetch.wait.max.ms", "50"),
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.error.backoff.ms", "20"),
            ("queued.max.messages.kbytes", AHEAD_KBYTES),
            ("receive.message.max.bytes", "200000000"),
        ]);
        let consumer = self
            .properties
            .make(&config, self.context.clone())
            .map_err(|e| error("making a consumer", &e))?;
        let fetcher = Arc::new(Fetcher {
            consumer,
            lane,
            properties: self.properties.clone(),
            context: self.context.clone(),
            routes: Mutex::default(),
            denied: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let topic = HashMap::from([(inbox.at.partition, inbox.clone())]);
        lock(&fetcher.routes).insert(inbox.at.topic.clone(), topic);
        let (weak, context) = (Arc::downgrade(&fetcher), self.context.clone());
        std::thread::Builder::new()
            .name("kafka-reader".into())
            .stack_size(256 << 10)
            .spawn(move || fetch(&weak, &context))
            .map_err(|e| Error::io("thread kafka-reader", &e))?;
        all.push(fetcher.clone());
        Ok(fetcher)
    }
}

impl Drop for Fetchers {
    fn drop(&mut self) {
        lock(&self.all).iter().for_each(|f| f.stop.store(true, Ordering::Relaxed));
    }
}

/// Runs while anybody holds the consumer.
fn fetch(fetcher: &Weak<Fetcher>, context: &Context) {
    // Clock: this thread is production's.
    let mut tried = Instant::now();
    while let Some(fetcher) = fetcher.upgrade().filter(|f| !f.stop.load(Ordering::Relaxed)) {
        match fetcher.consumer.poll(LOOK_EVERY) {
            Some(Ok(message)) => {
                context.well();
                fetcher.deliver(&message);
            }
            Some(Err(KafkaError::PartitionEOF(_))) | None => {}
            // It is not told which partition has failed.
            Some(Err(e)) => fetcher.look_around(&e),
        }
        if tried.elapsed() > TRY_EVERY {
            tried = Instant::now();
            let denied = std::mem::take(&mut *lock(&fetcher.denied));
            fetcher.ask_for(&denied);
        }
    }
}

impl Fetcher {
    fn inbox(&self, topic: &str, partition: i32) -> Option<Arc<Inbox>> {
        lock(&self.routes).get(topic)?.get(&(partition as u32)).cloned()
    }

    fn deliver<M: Message>(&self, message: &M) {
        let Some(inbox) = self.inbox(message.topic(), message.partition()) else { return };
        let offset = message.offset().max(0) as u64;
        let mut state = lock(&inbox.state);
        if offset < state.next {
            return; // fetched before the partition was asked for again
        }
        let empty = state.collected.is_empty();
        (state.next, state.begun) = (offset + 1, true);
        collect(&mut state.collected, message);
        if !state.paused && state.collected.bytes() >= inbox.bytes_max {
            // While it is locked, so that nobody resumes what is not paused yet.
            state.paused = true;
            self.pause(&inbox.at, true);
        }
        drop(state);
        if empty {
            (inbox.waker)();
        }
    }

    fn pause(&self, at: &TopicPartition, pause: bool) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&at.topic, at.partition as i32);
        // Refused only for a partition that is no longer read.
        drop(match pause {
            true => self.consumer.pause(&list),
            false => self.consumer.resume(&list),
        });
    }

    /// From the oldest record on, once more: what was the oldest was removed before it came, and
    /// librdkafka has stopped there.
    fn begin_again(&self, inbox: &Arc<Inbox>) {
        let routes = lock(&self.routes);
        let of = |at: &TopicPartition| routes.get(&at.topic)?.get(&at.partition);
        if !of(&inbox.at).is_some_and(|now| Arc::ptr_eq(now, inbox)) {
            return; // Nobody reads it any more.
        }
        let mut list = TopicPartitionList::new();
        let again = list
            .add_partition_offset(&inbox.at.topic, inbox.at.partition as i32, Offset::Beginning)
            .and_then(|()| self.consumer.incremental_unassign(&list))
            .and_then(|()| self.consumer.incremental_assign(&list));
        if let Err(e) = again {
            lock(&inbox.state).error = Some(error(&format!("reading {}", inbox.at), &e));
            (inbox.waker)();
        }
    }

    /// Finds out which of these topics may not be read, and says so until they may be: librdkafka
    /// tells neither. It goes on by itself.
    fn ask_for(&self, topics: &[Arc<str>]) {
        for topic in topics {
            let inbox = lock(&self.routes).get(topic).and_then(|all| all.values().next().cloned());
            let denied = inbox.and_then(|inbox| {
                let next = Start::Offset(lock(&inbox.state).next);
                // Who may not even see it is told nothing when he reads.
                self.sees(topic)
                    .and_then(|()| {
                        let context = self.context.clone();
                        read(&self.properties, context, &inbox.at, next, 1).map(drop)
                    })
                    .err()
                    .filter(|error| matches!(error.code(), Code::Permission | Code::Unreachable))
            });
            self.context.heard(Doing::Reading, topic, denied.as_ref());
            if denied.is_some() {
                lock(&self.denied).push(topic.clone());
            }
        }
    }

    fn sees(&self, topic: &str) -> Result<()> {
        let found = self.consumer.fetch_metadata(Some(topic), PATIENCE);
        let error = found.map(|all| all.topics().iter().find_map(|topic| topic.error()));
        let error = match error {
            Ok(None) => return Ok(()),
            Ok(Some(code)) => KafkaError::MetadataFetch(code.into()),
            Err(e) => e,
        };
        Err(super::error(&format!("reading {topic}"), &error))
    }

    /// Some partition cannot be read: finds out which.
    fn look_around(&self, e: &KafkaError) {
        use RDKafkaErrorCode as K;
        let gone = match e.rdkafka_error_code() {
            Some(K::AutoOffsetReset | K::OffsetOutOfRange | K::NoOffset) => false,
            Some(K::UnknownTopicOrPartition | K::UnknownTopic | K::UnknownPartition) => true,
            Some(K::TopicAuthorizationFailed) => {
                let all: Vec<_> = lock(&self.routes).keys().cloned().collect();
                return self.ask_for(&all);
            }
            // Everything else passes, or shows as trouble of the connection.
            _ => return,
        };
        let all: Vec<_> = {
            let routes = lock(&self.routes);
            routes.values().flat_map(HashMap::values).cloned().collect()
        };
        for inbox in all {
            let (topic, partition) = (&inbox.at.topic, inbox.at.partition as i32);
            let found = self.consumer.fetch_watermarks(topic, partition, PATIENCE);
            let mut state = lock(&inbox.state);
            let next = state.next;
            let error = match found {
                Ok(_) if !state.begun => {
                    drop(state);
                    self.begin_again(&inbox);
                    continue;
                }
                Ok((low, _)) if next < low.max(0) as u64 => Error::new(
                    Code::Limit,
                    format!("{}: record {next} was removed; the oldest is {low}", inbox.at),
                ),
                Ok((_, high)) if next > high.max(0) as u64 => Error::new(
                    Code::Limit,
                    format!("{}: there is no record {next}; it ends at {high}", inbox.at),
                ),
                Err(e) if gone => error(&format!("reading {}", inbox.at), &e),
                _ => continue,
            };
            state.error = Some(error);
            drop(state);
            (inbox.waker)();
        }
    }
}

fn collect<M: Message>(collected: &mut Collected, message: &M) {
    let mut headers = Vec::new();
    if let Some(found) = message.headers() {
        let bytes = |value: Option<&[u8]>| value.unwrap_or_default().to_vec();
        headers.extend(found.iter().map(|h| (h.key.to_string(), bytes(h.value))));
    }
    let time = message.timestamp().to_millis().map(Time::from_ms);
    let record = Record { key: message.key(), value: message.payload(), headers: &headers, time };
    collected.push(message.offset().max(0) as u64, record);
}

/// Reads one partition by a consumer of its own, up to the end or a bound.
pub(super) fn read(
    properties: &Properties,
    context: Context,
    at: &TopicPartition,
    start: Start,
    bytes_max: usize,
) -> Result<Option<Fetched>> {
    let what = || format!("reading {at}");
    let more = [("enable.partition.eof", "true"), ("fetch.wait.max.ms", "10")];
    let config = properties.consumer(&more);
    let consumer: LoggedIn<BaseConsumer<_>> =
        properties.make(&config, context).map_err(|e| error(&what(), &e))?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&at.topic, at.partition as i32, start.into())
        .and_then(|()| consumer.assign(&list))
        .map_err(|e| error(&what(), &e))?;
    let mut collected = Collected::default();
    while collected.bytes() < bytes_max.max(1) {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => collect(&mut collected, &message),
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(e)) => return Err(error(&what(), &e)),
            None => return Err(unreachable(format!("no answer, {}", what()))),
        }
    }
    Ok(collected.take())
}

impl From<Start> for Offset {
    fn from(start: Start) -> Offset {
        match start {
            Start::Earliest => Offset::Beginning,
            Start::Offset(offset) => Offset::Offset(offset as i64),
        }
    }
}

struct RdReader {
    fetcher: Arc<Fetcher>,
    inbox: Arc<Inbox>,
}

impl Reader for RdReader {
    fn poll(&mut self) -> Result<Option<Fetched>> {
        let mut state = lock(&self.inbox.state);
        let fetched = state.collected.take();
        if std::mem::take(&mut state.paused) {
            self.fetcher.pause(&self.inbox.at, false);
        }
        let error = state.error.clone().filter(|_| fetched.is_none());
        error.map_or(Ok(fetched), Err)
    }

    fn reached(&self) -> Option<u64> {
        let (next, reached) = {
            let state = lock(&self.inbox.state);
            if let Some(first) = state.collected.first() {
                return Some(first);
            }
            (state.next, state.reached.max(state.next))
        };
        let at = &self.inbox.at;
        let found =
            self.fetcher.consumer.fetch_watermarks(&at.topic, at.partition as i32, PATIENCE);
        let (low, high) = found.ok()?;
        let (next, high) = (next.max(low.max(0) as u64), high.max(0) as u64);
        if high > reached && self.is_end(next).ok()? {
            lock(&self.inbox.state).reached = high;
            return Some(high);
        }
        Some(reached)
    }
}

impl RdReader {
    /// Whether nothing can be read from `next` on. librdkafka tells that only to a consumer that
    /// reads nothing else.
    fn is_end(&self, next: u64) -> Result<bool> {
        let (properties, context) = (&self.fetcher.properties, self.fetcher.context.clone());
        let rest = read(properties, context, &self.inbox.at, Start::Offset(next), 1)?;
        Ok(rest.is_none())
    }
}

impl Drop for RdReader {
    fn drop(&mut self) {
        let at = &self.inbox.at;
        let mut list = TopicPartitionList::new();
        list.add_partition(&at.topic, at.partition as i32);
        let mut routes = lock(&self.fetcher.routes);
        // First the consumer: what it still delivers goes to an inbox that nobody reads.
        drop(self.fetcher.consumer.incremental_unassign(&list));
        if let Some(topic) = routes.get_mut(&at.topic) {
            topic.remove(&at.partition);
            if topic.is_empty() {
                routes.remove(&at.topic);
            }
        }
    }
}
