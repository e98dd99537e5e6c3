//! Transactions of one id, on a thread of their own: librdkafka's calls wait.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_core::{Code, Error, Result, engine::Waker};
use rdkafka::{
    ClientContext,
    bindings::rd_kafka_flush,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, Message, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
    types::RDKafkaRespErr,
};

use super::{Context, Properties, TRANSACTION_TIMEOUT_MS, error, lock, tokens::LoggedIn};
use crate::client::{Outcome, Records, Writer};

/// How long librdkafka waits in one call; then we look whether the writer is still wanted.
const CALL: Duration = Duration::from_millis(500);
/// So while it is to be seen soon that a taking over came too early.
const LOOK: Duration = Duration::from_millis(20);
/// How often we look so; then it is left to librdkafka, which is in no haste: the brokers may be in
/// trouble.
const LOOKS_MAX: u32 = 50;
/// After the transaction's timeout and this the outcome of a commit counts as unknown: Kafka has
/// given it up by then.
const COMMIT_GRACE: Duration = Duration::from_secs(2);
/// How often a transaction that was aborted is tried again.
const TRIES: usize = 3;
/// So long, once some records of a transaction have failed, the others may still be answered.
const SETTLE: Duration = Duration::from_secs(1);
/// Stack of a writer's thread.
const STACK_BYTES: usize = 256 << 10;

/// Says whether something went wrong on the way to the brokers.
#[derive(Clone)]
struct Watch {
    context: Context,
    id: Arc<str>,
    /// How long Kafka lets a transaction be open.
    timeout: Duration,
    /// The end of a transaction may have been sent more than once.
    disturbed: Arc<AtomicBool>,
    /// And in writing to which topic, if that is known.
    failed: Arc<Mutex<Option<(KafkaError, String)>>>,
}

impl Watch {
    /// A call has ended before the transaction has. One whose time is up has sent nothing again,
    /// and the next call waits on; what librdkafka sends again meanwhile, its log tells.
    fn call_ended(&self, code: RDKafkaErrorCode) {
        if code != RDKafkaErrorCode::OperationTimedOut {
            self.disturbed.store(true, Ordering::Relaxed);
        }
    }

    /// The transaction lacks records of a topic.
    fn lacks(&self, e: KafkaError, topic: &str) {
        lock(&self.failed).get_or_insert_with(|| (e, topic.into()));
    }
}

impl ClientContext for Watch {
    /// What librdkafka tells nobody but its debug log.
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        match facility {
            // It sends the end of a transaction again when its connection is lost. And if Kafka
            // has forgotten the id it takes it over anew to abort, not knowing who had it since.
            "ENDTXN" => {
                let answered = message.contains("EndTxn returned") && message.contains("NO_ERROR");
                if !answered {
                    self.disturbed.store(true, Ordering::Relaxed);
                }
            }
            // It takes records for written, whose request has failed, because those behind them
            // are. A broker that had not heard of their topic has refused them; and then, knowing
            // nothing of this producer there, it has taken the others, gap or no gap.
            "IMPLICITACK" => {
                self.lacks(KafkaError::MessageProduction(RDKafkaErrorCode::Inconsistent), "")
            }
            // It drops all records then, and of those it says no more than that.
            "ADDPARTS" if message.contains("Topic authorization failed") => {
                let denied = RDKafkaErrorCode::TopicAuthorizationFailed;
                let topic = message.split('"').nth(1).unwrap_or_default();
                self.lacks(KafkaError::MessageProduction(denied), topic);
            }
            _ => {}
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Watch {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((e, message)) = result {
            self.lacks(e.clone(), message.topic());
        }
    }
}

type Transactional = LoggedIn<BaseProducer<Watch>>;

pub(super) struct RdWriter {
    shared: Arc<Shared>,
}

struct Shared {
    waker: Waker,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Bounded by whoever submits: at most two are undecided.
    jobs: VecDeque<Records>,
    outcomes: VecDeque<Outcome>,
    /// The writer was dropped.
    closed: bool,
    /// No transaction will be committed any more.
    dead: bool,
}

impl State {
    /// Decides everything that follows as lost.
    fn lock_out(&mut self) {
        self.dead = true;
        let left = std::mem::take(&mut self.jobs).len();
        self.outcomes.extend(std::iter::repeat_n(Outcome::Fenced, left));
    }
}

impl Shared {
    fn say(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        let end = !matches!(outcome, Outcome::Ready | Outcome::Committed);
        state.outcomes.push_back(outcome);
        if end {
            state.lock_out();
        }
        drop(state);
        (self.waker)();
    }

    fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// The next transaction, `None` when the writer was dropped.
    fn next(&self) -> Option<Records> {
        let state = lock(&self.state);
        let mut state = self
            .work
            .wait_while(state, |s| s.jobs.is_empty() && !s.closed)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.jobs.pop_front().filter(|_| !state.closed)
    }
}

impl RdWriter {
    pub fn start(
        properties: &Arc<Properties>,
        context: Context,
        id: &str,
        waker: Waker,
    ) -> Result<RdWriter> {
        let shared = Arc::new(Shared { waker, state: Mutex::default(), work: Condvar::new() });
        let (properties, id) = (properties.clone(), id.to_string());
        let own = shared.clone();
        std::thread::Builder::new()
            .name("kafka-writer".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&own, &properties, &context, &id))
            .map_err(|e| Error::io("thread kafka-writer", &e))?;
        Ok(RdWriter { shared })
    }
}

impl Drop for RdWriter {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.work.notify_all();
    }
}

impl Writer for RdWriter {
    fn submit(&mut self, records: Records) {
        let mut state = lock(&self.shared.state);
        if state.dead {
            state.outcomes.push_back(Outcome::Fenced);
            drop(state);
            (self.shared.waker)();
            return;
        }
        state.jobs.push_back(records);
        drop(state);
        self.shared.work.notify_all();
    }

    fn outcome(&mut self) -> Option<Outcome> {
        lock(&self.shared.state).outcomes.pop_front()
    }
}

/// One of a writer's two ids.
struct Hand {
    producer: Transactional,
    watch: Watch,
}

impl Hand {
    fn new(properties: &Properties, context: Context, id: &str) -> Result<Hand> {
        let (disturbed, failed) = Default::default();
        let timeout = properties.transaction_timeout();
        let watch = Watch { context, id: id.into(), timeout, disturbed, failed };
        let timeout = timeout.as_millis().to_string();
        let mut config = properties.producer(&[
            ("transactional.id", id),
            // For `Watch::log`.
            ("debug", "eos"),
            (TRANSACTION_TIMEOUT_MS, &timeout),
            // Whatever waits is sent by flushing; till then it gathers.
            ("linger.ms", "50"),
            ("delivery.report.only.error", "true"),
        ]);
        config.set_log_level(RDKafkaLogLevel::Debug);
        let producer = properties.make(&config, watch.clone());
        Ok(Hand { producer: producer.map_err(|e| error("making a producer", &e))?, watch })
    }
}

fn run(shared: &Shared, properties: &Properties, context: &Context, id: &str) {
    let [first, second] = [id.to_string(), format!("{id}~2")];
    let hands = std::thread::scope(|threads| {
        let second = std::thread::Builder::new()
            .name("kafka-writer".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(threads, || take_over(shared, properties, context, &second))
            .map_err(|e| Outcome::Refused(Error::io("thread kafka-writer", &e)))?;
        let first = take_over(shared, properties, context, &first)?;
        let second = second.join().map_err(|_| Outcome::Unknown)??;
        Ok(first.zip(second).map(|(first, second)| [first, second]))
    });
    let hands = match hands {
        Ok(Some(hands)) => hands,
        Ok(None) => return,
        Err(outcome) => return shared.say(outcome),
    };
    shared.say(Outcome::Ready);
    for hand in hands.iter().cycle() {
        context.well();
        let Some(records) = shared.next() else { return };
        let outcome = commit(hand, &records);
        let committed = outcome == Outcome::Committed;
        shared.say(outcome);
        if committed && hand.watch.disturbed.swap(false, Ordering::Relaxed) {
            // The commit may have been sent twice, and the second one may arrive during a later
            // transaction (KAFKA-17754). A new writer's epoch keeps it out.
            lock(&shared.state).lock_out();
            (shared.waker)();
        }
        if lock(&shared.state).dead {
            return;
        }
    }
}

/// Fences whoever had the id. Goes on until the brokers answer; `None` if nobody wants it any more.
///
/// While the transaction of the one before is being ended, the brokers answer that it is too
/// early, and librdkafka asks again after 500 ms, whatever is set. Another producer asks at once.
/// The first one is gone by then, threads and connections: having been answered, it has sent
/// nothing since, and can fence nobody later.
fn take_over(
    shared: &Shared,
    properties: &Properties,
    context: &Context,
    id: &str,
) -> Result<Option<Hand>, Outcome> {
    let make = || Hand::new(properties, context.clone(), id).map_err(Outcome::Refused);
    let mut hand = make()?;
    let mut looks = LOOKS_MAX;
    while !shared.is_closed() {
        let hasty = looks > 0;
        looks = looks.saturating_sub(1);
        let ready = hand.producer.init_transactions(if hasty { LOOK } else { CALL });
        hear(&hand.producer);
        let Err(failed) = ready else { return Ok(Some(hand)) };
        match &failed {
            KafkaError::Transaction(e) if e.is_fatal() => {
                return Err(ending(e.code(), &failed, id, ""));
            }
            KafkaError::Transaction(e) if e.is_retriable() => {
                if e.code() == RDKafkaErrorCode::ConcurrentTransactions && hasty {
                    drop(hand);
                    hand = make()?;
                }
            }
            _ => return Err(Outcome::Refused(error(&format!("taking over {id}"), &failed))),
        }
    }
    Ok(None)
}

/// What a fatal error means, of a writer of `id` and maybe of a topic.
fn ending(code: RDKafkaErrorCode, failed: &KafkaError, id: &str, topic: &str) -> Outcome {
    use RDKafkaErrorCode as K;
    match code {
        K::Fenced | K::ProducerFenced | K::InvalidProducerEpoch => Outcome::Fenced,
        _ => given_up(error(&writing(&format!("as {id}"), topic), failed)),
    }
}

fn writing(what: &str, topic: &str) -> String {
    let to = if topic.is_empty() { "" } else { " to " };
    format!("writing {what}{to}{topic}")
}

/// What became of an attempt before its commit was asked for.
enum Stop {
    /// It was aborted and may be tried again.
    Again(Error),
    End(Outcome),
}

fn commit(hand: &Hand, records: &Records) -> Outcome {
    let mut last = None;
    for _ in 0..TRIES {
        let begun = hand.producer.begin_transaction().map_err(|e| stopped(hand, &e, ""));
        let sent = begun.and_then(|()| send(hand, records));
        match sent {
            Ok(()) => return finish(hand),
            Err(Stop::Again(error)) if matches!(error.code(), Code::Limit | Code::Permission) => {
                return Outcome::Refused(error);
            }
            Err(Stop::Again(error)) => last = Some(error),
            Err(Stop::End(outcome)) => return outcome,
        }
    }
    last.map_or(Outcome::Unknown, given_up)
}

/// What is told of a transaction that was aborted and is not tried again: the brokers are there and
/// refuse it, or something on the way fails and a new writer may have more luck.
fn given_up(error: Error) -> Outcome {
    if error.code().retry() { Outcome::Unknown } else { Outcome::Refused(error) }
}

/// Sends everything and waits until all of it is acknowledged. If some of it has failed, what was
/// answered cannot come late.
fn send(hand: &Hand, records: &Records) -> Result<(), Stop> {
    let Hand { producer, watch } = hand;
    lock(&watch.failed).take();
    let deadline = Instant::now() + watch.timeout;
    'all: for (at, record) in records.iter() {
        let mut message = BaseRecord {
            topic: &at.topic,
            partition: Some(at.partition as i32),
            payload: record.value,
            key: record.key,
            timestamp: record.time.map(|t| t.ms()),
            headers: headers(record.headers),
            delivery_opaque: (),
        };
        while let Err((e, back)) = producer.send(message) {
            if e.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull)
                || Instant::now() > deadline
            {
                watch.lacks(e, &at.topic);
                break 'all;
            }
            flush(producer, Duration::from_millis(10));
            message = back;
        }
    }
    let mut patience = deadline;
    while !flush(producer, CALL) {
        hear(producer);
        let now = Instant::now();
        if now > deadline {
            watch.lacks(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut), "");
        }
        if lock(&watch.failed).is_some() {
            patience = patience.min(now + SETTLE);
        }
        if now >= patience || producer.client().fatal_error().is_some() {
            break;
        }
    }
    hear(producer);
    // Not locked any more when it is stopped: more records may be told to have failed then.
    let failed = lock(&watch.failed).take();
    match failed {
        Some((e, topic)) => Err(stopped(hand, &e, &topic)),
        None => Ok(()),
    }
}

/// Waits until nothing is on its way, at most `wait`; `BaseProducer::flush` looks every 100 ms.
#[expect(unsafe_code, reason = "rdkafka has no flush that returns as soon as it is done")]
fn flush(producer: &Transactional, wait: Duration) -> bool {
    // SAFETY: the pointer is that of a live client, borrowed for the call; librdkafka's functions
    // may be called from any thread.
    let code = unsafe { rd_kafka_flush(producer.client().native_ptr(), wait.as_millis() as i32) };
    code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// Takes in all that librdkafka has to say: `BaseProducer::poll` takes one thing at a time.
fn hear(producer: &Transactional) {
    // Counts messages that are on their way too, which makes it more than enough.
    for _ in 0..producer.in_flight_count() {
        producer.poll(Duration::ZERO);
    }
}

/// Ends a transaction that cannot be committed, since something has failed with a topic.
fn stopped(hand: &Hand, e: &KafkaError, topic: &str) -> Stop {
    let Hand { producer, watch } = hand;
    if let KafkaError::Transaction(inner) = e
        && inner.is_fatal()
    {
        return Stop::End(ending(inner.code(), e, &watch.id, topic));
    }
    if let Some((code, _)) = producer.client().fatal_error() {
        return Stop::End(ending(code, &KafkaError::Global(code), &watch.id, topic));
    }
    hear(producer);
    watch.disturbed.store(false, Ordering::Relaxed);
    let deadline = Instant::now() + watch.timeout + COMMIT_GRACE;
    loop {
        let aborted = producer.abort_transaction(CALL);
        hear(producer);
        match aborted {
            Ok(()) => {
                let error = error(&writing("a turn", topic), e);
                // An end that comes late would cut the next attempt in two.
                return match watch.disturbed.load(Ordering::Relaxed) {
                    true => Stop::End(given_up(error)),
                    false => Stop::Again(error),
                };
            }
            Err(KafkaError::Transaction(inner)) if inner.is_fatal() => {
                return Stop::End(ending(inner.code(), e, &watch.id, topic));
            }
            Err(_) if Instant::now() > deadline => return Stop::End(Outcome::Unknown),
            Err(KafkaError::Transaction(inner)) => watch.call_ended(inner.code()),
            Err(_) => watch.disturbed.store(true, Ordering::Relaxed),
        }
    }
}

/// Commits what was sent.
fn finish(hand: &Hand) -> Outcome {
    let Hand { producer, watch } = hand;
    hear(producer);
    watch.disturbed.store(false, Ordering::Relaxed);
    let deadline = Instant::now() + watch.timeout + COMMIT_GRACE;
    loop {
        let committed = producer.commit_transaction(CALL);
        hear(producer);
        let failed = match committed {
            Ok(()) => return Outcome::Committed,
            Err(failed) => failed,
        };
        match &failed {
            KafkaError::Transaction(e) if e.is_fatal() => {
                return match ending(e.code(), &failed, &watch.id, "") {
                    Outcome::Fenced => Outcome::Fenced,
                    _ => Outcome::Unknown,
                };
            }
            KafkaError::Transaction(e) if e.is_retriable() && Instant::now() < deadline => {
                watch.call_ended(e.code());
            }
            // Also where librdkafka would have it aborted: the broker may have committed it.
            _ => return Outcome::Unknown,
        }
    }
}

pub(super) fn headers(headers: &[(String, Vec<u8>)]) -> Option<OwnedHeaders> {
    if headers.is_empty() {
        return None;
    }
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    let add = |all: OwnedHeaders, (key, value): &(String, Vec<u8>)| {
        all.insert(Header { key, value: Some(value) })
    };
    Some(headers.iter().fold(empty, add))
}
