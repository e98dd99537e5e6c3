//! Both ends of a flow between topics: who writes events, and who reads what became of them. Plain
//! clients without a line of the engine's.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream_core::{key::Key, partitioner::Partitioner};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode,
};
use serde::Deserialize;

use crate::{
    machine,
    node::wait_until,
    processes::mix,
    report::{Report, Result, Totals},
};

/// A consumer of everything in a topic that is committed, from its beginning. It says where the
/// topic ends.
pub fn consumer(servers: &str, topic: &str, partitions: u32) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bench-judge")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "20")
        .create()?;
    let mut from = TopicPartitionList::new();
    for partition in 0..partitions {
        from.add_partition_offset(topic, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&from)?;
    Ok(consumer)
}

/// A producer as a careful user would set it, without transactions.
pub fn producer(servers: &str) -> Result<BaseProducer> {
    lingering(servers, "5")
}

/// One that gathers for `ms` milliseconds. librdkafka spins through the last one of them, so a
/// steady load that lingers for 5 ms costs half a core.
pub fn lingering(servers: &str, ms: &str) -> Result<BaseProducer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", ms)
        .set("delivery.report.only.error", "true")
        .set("partitioner", "murmur2_random") // Kafka's own; librdkafka's would be another
        .create()?)
}

/// Event `n` for a topic: its key, and its value, which asks the key to keep `keep` bytes.
pub fn event(n: u64, keys: u64, keep: usize) -> (String, String) {
    let key = name(key_of(n, keys));
    let value = format!("{{\"key\":\"{key}\",\"n\":{n},\"keep\":{keep}}}");
    (key, value)
}

/// Hands a record to a producer, waiting while its queue is full.
pub fn send(producer: &BaseProducer, topic: &str, key: &str, value: &[u8]) -> Result<()> {
    let mut record = BaseRecord::<str, [u8]>::to(topic).key(key).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(1));
                record = back;
            }
            Err((e, _)) => return Err(e.into()),
        }
    }
}

/// The key's name.
pub fn name(key: u64) -> String {
    format!("key-{key:012}")
}

/// The key of event `n`, counted from 1: first each key once, then at random.
pub fn key_of(n: u64, keys: u64) -> u64 {
    if n <= keys { n - 1 } else { mix(n) % keys }
}

/// Which task a key belongs to; used to know when every task has been heard of.
pub fn task_of(key: &str, tasks: u32, keyed: bool) -> u32 {
    let by = if keyed { Partitioner::Murmur2 } else { Partitioner::Slots };
    by.of(Key::text(key).bytes(), tasks)
}

/// Writes events, first one of each key as fast as it goes, then at a steady pace; stops when it is
/// dropped.
pub struct Load {
    shared: Arc<Sending>,
    thread: Option<JoinHandle<()>>,
}

struct Sending {
    sent: AtomicU64,
    stop: AtomicBool,
    error: Mutex<Option<String>>,
}

impl Load {
    pub fn start(servers: &str, topic: &str, keys: u64, per_s: u64) -> Result<Load> {
        let shared = Arc::new(Sending {
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            error: Mutex::default(),
        });
        let (producer, topic, own) = (lingering(servers, "50")?, topic.to_string(), shared.clone());
        let thread = std::thread::spawn(move || {
            if let Err(e) = own.run(&producer, &topic, keys, per_s) {
                *lock(&own.error) = Some(e.to_string());
            }
        });
        Ok(Load { shared, thread: Some(thread) })
    }

    /// Events handed to the producer so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Stops; back with how many events there are, when Kafka has all of them.
    pub fn stop(mut self) -> Result<u64> {
        self.end();
        match lock(&self.shared.error).take() {
            Some(e) => Err(e.into()),
            None => Ok(self.sent()),
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Sending {
    fn run(&self, producer: &BaseProducer, topic: &str, keys: u64, per_s: u64) -> Result<()> {
        let put = |n: u64| {
            // Before: what is counted as sent may be there.
            self.sent.store(n, Ordering::SeqCst);
            let (key, value) = event(n, keys, 0);
            send(producer, topic, &key, value.as_bytes())
        };
        let stopped = || self.stop.load(Ordering::Relaxed);
        for n in (1..=keys).take_while(|_| !stopped()) {
            put(n)?;
        }
        let (begun, first) = (Instant::now(), self.sent.load(Ordering::SeqCst) + 1);
        let mut next = first;
        while !stopped() {
            let due = first + (begun.elapsed().as_secs_f64() * per_s as f64) as u64;
            while next < due {
                put(next)?;
                next += 1;
            }
            producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(producer.flush(Duration::from_secs(60))?)
    }
}

/// Reads what comes out and compares it with what was sent.
pub struct Judge {
    shared: Arc<Judging>,
    thread: Option<JoinHandle<()>>,
}

struct Judging {
    stop: AtomicBool,
    found: Mutex<Found>,
}

/// What was found so far.
#[derive(Default)]
pub struct Found {
    /// Answers, those included that came twice.
    pub read: u64,
    pub duplicated: u64,
    /// Answers that are not what they must be: another key, another count, or another order.
    pub wrong: u64,
    /// The first of them, in words.
    pub example: Option<String>,
    /// By event.
    seen: Vec<bool>,
    /// The last event of each key, and how many it had.
    keys: Vec<(u64, u64)>,
    /// Only events after this one are of interest, and when the first of each task was seen.
    mark: u64,
    first: Vec<Option<Instant>>,
    task: Vec<u32>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    key: &'a str,
    n: u64,
    count: u64,
}

impl Found {
    /// Takes an answer that was read at `now`.
    fn take(&mut self, value: &[u8], now: Instant) -> Result<()> {
        let answer: Answer<'_> = serde_json::from_slice(value)?;
        self.read += 1;
        let key = key_of(answer.n.max(1), self.keys.len() as u64);
        if answer.n > self.mark {
            let task = self.task[key as usize] as usize;
            self.first[task].get_or_insert(now);
        }
        if self.seen.len() <= answer.n as usize {
            self.seen.resize(answer.n as usize + 1, false);
        }
        if std::mem::replace(&mut self.seen[answer.n as usize], true) {
            self.duplicated += 1;
            return Ok(());
        }
        let (last, count) = self.keys[key as usize];
        if answer.key != name(key) || answer.n < last || answer.count != count + 1 {
            self.wrong += 1;
            self.example.get_or_insert_with(|| {
                format!(
                    "event {} of {}, its number {}, came after event {last}, number {count}",
                    answer.n, answer.key, answer.count
                )
            });
        }
        self.keys[key as usize] = (answer.n, answer.count);
        Ok(())
    }

    /// Says in the report what must hold of the answers to `sent` events, and how many there were.
    pub fn judge(&self, report: &mut Report, sent: u64) {
        let lost = self.lost(sent);
        report.check(lost == 0, || format!("{lost} events were lost"));
        report.check(self.duplicated == 0, || format!("{} came twice", self.duplicated));
        report.check(self.wrong == 0, || format!("{} wrong: {:?}", self.wrong, self.example));
        report.totals(Totals {
            rows_in: sent,
            rows_out: self.read,
            cpu_s: machine::cpu_s(),
            peak_rss_bytes: machine::peak_rss_bytes(),
            ..Totals::default()
        });
    }

    /// Events up to `sent` that have no answer.
    pub fn lost(&self, sent: u64) -> u64 {
        let seen = self.seen.iter().skip(1).filter(|s| **s).count() as u64;
        sent.saturating_sub(seen)
    }
}

impl Judge {
    /// Begins to read; `task_of` says which task a key belongs to.
    pub fn start(
        servers: &str,
        (topic, partitions): (&str, u32),
        (keys, tasks): (u64, u32),
        task_of: impl Fn(&str) -> u32,
    ) -> Result<Judge> {
        let consumer = consumer(servers, topic, partitions)?;
        let found = Found {
            keys: vec![(0, 0); keys as usize],
            task: (0..keys).map(|key| task_of(&name(key))).collect(),
            mark: u64::MAX,
            first: vec![None; tasks as usize],
            ..Found::default()
        };
        let shared = Arc::new(Judging { stop: AtomicBool::new(false), found: Mutex::new(found) });
        let own = shared.clone();
        let thread = std::thread::spawn(move || {
            while !own.stop.load(Ordering::Relaxed) {
                let Some(message) = consumer.poll(Duration::from_millis(20)) else { continue };
                let now = Instant::now();
                let taken = match &message {
                    Ok(m) => lock(&own.found).take(m.payload().unwrap_or_default(), now),
                    // Of the connection; it heals itself.
                    Err(_) => Ok(()),
                };
                if let Err(e) = taken {
                    lock(&own.found).error.get_or_insert(e.to_string());
                }
            }
        });
        Ok(Judge { shared, thread: Some(thread) })
    }

    pub fn found(&self) -> MutexGuard<'_, Found> {
        lock(&self.shared.found)
    }

    /// From now on events after `mark` are waited for, in every task.
    pub fn mark(&self, mark: u64) {
        let mut found = self.found();
        found.mark = mark;
        found.first.fill(None);
    }

    /// When the first event after the mark was seen, by task; waits until one of each was.
    pub fn firsts(&self, patience: Duration) -> Result<Vec<Instant>> {
        let mut firsts = None;
        wait_until("output of every task", patience, || {
            firsts = self.found().first.iter().copied().collect();
            firsts.is_some()
        })
        .map_err(|e| format!("{e}; not of tasks {:?}", self.silent()))?;
        Ok(firsts.unwrap_or_default())
    }

    /// The tasks of which none was seen.
    fn silent(&self) -> Vec<usize> {
        let found = self.found();
        found.first.iter().enumerate().filter(|(_, f)| f.is_none()).map(|(n, _)| n).collect()
    }

    /// Waits until there are as many answers as `sent`, or until none came for `patience`.
    pub fn finish(&self, sent: u64, patience: Duration) -> Result<()> {
        let (mut before, mut since) = (0, Instant::now());
        loop {
            let found = self.found();
            if let Some(e) = &found.error {
                return Err(format!("the output cannot be read: {e}").into());
            }
            if found.read != before {
                (before, since) = (found.read, Instant::now());
            }
            if found.read >= sent || since.elapsed() > patience {
                return Ok(());
            }
            drop(found);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
