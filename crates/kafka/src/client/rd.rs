//! Real brokers, through librdkafka.
//!
//! *Why librdkafka:* a decade old, and what other stream processors trust. Three of its gaps are
//! worked around in [`writer`]: committing waits in steps of 100 ms unless everything was flushed
//! before; a commit that was disturbed may reach the broker late (KAFKA-17754), so that its
//! writer is not used again; and records may count as written that a broker has refused, only
//! because those behind them are, so that such a transaction is aborted.
//! *Threads:* one per writer, one per consumer, one for appending, one for [`tokens`] if the
//! brokers want them, beside librdkafka's own (about one for each broker and client).
//! *Limits:* [`PATIENCE`], [`RECORD_BYTES_MAX`]; a reader's is its own.

mod append;
mod fetch;
mod tokens;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    ops::Range,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as Polling, Poll, Wake},
    thread::Thread,
    time::Duration,
};

use millstream_core::{Code, Error, Result, Time, engine::Waker};
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
    },
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};
use xxhash_rust::xxh3::xxh3_64;

use self::{
    append::Appender,
    fetch::Fetchers,
    tokens::{LogIn, LoggedIn, Source, Tokens},
    writer::RdWriter,
};
use super::{
    Appended, Client, Fetched, Lane, Reader, Records, Start, TopicPartition, TopicSpec, Writer,
};

/// How long a question to the brokers may take.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// So long we wait before we look whether they keep us out; then twice as long, and so on.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// The largest record that is sent.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Kafka aborts what a dead writer has begun after this long, unless a successor does before.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// librdkafka's name of it.
const TRANSACTION_TIMEOUT_MS: &str = "transaction.timeout.ms";
/// A connection that leaves a request unanswered for this long is given up: silence may be a way
/// that loses everything.
const ANSWER_MS: &str = "10000";
/// How often, and how many times, a topic is asked for that is not known (yet).
const HEARSAY_EVERY: Duration = Duration::from_millis(50);
const HEARSAY_TRIES: usize = 40;
/// Replicas of a topic, where there are as many brokers.
const REPLICAS_MAX: usize = 3;

/// A connection to real brokers.
pub struct RdClient {
    properties: Arc<Properties>,
    context: Context,
    admin: LoggedIn<AdminClient<Context>>,
    /// Asks about offsets; reads nothing.
    asking: Mutex<Arc<LoggedIn<BaseConsumer<Context>>>>,
    /// The cluster's id, once it is known.
    cluster: Mutex<Option<String>>,
    /// A hash of all that was given but where the brokers are.
    login: u64,
    /// Topics that are there, whoever has not heard of them yet.
    made: Mutex<BTreeSet<String>>,
    fetchers: Fetchers,
    appender: Appender,
}

/// librdkafka's settings.
pub(super) struct Properties {
    given: Vec<(String, String)>,
    /// What reading counts as.
    group: String,
    /// For brokers that want them.
    tokens: Option<Tokens>,
}

impl Properties {
    /// A configuration with these settings and more.
    fn with(&self, more: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        let ours = [
            ("socket.nagle.disable", "true"),
            ("socket.timeout.ms", ANSWER_MS),
            ("reconnect.backoff.ms", "20"),
            ("reconnect.backoff.max.ms", "250"),
            ("retry.backoff.ms", "10"),
            ("retry.backoff.max.ms", "200"),
            ("allow.auto.create.topics", "false"),
            ("topic.metadata.propagation.max.ms", "2000"),
        ];
        for (key, value) in ours.iter().chain(more) {
            config.set(*key, *value);
        }
        for (key, value) in &self.given {
            config.set(key, value);
        }
        config.set_log_level(RDKafkaLogLevel::Critical);
        config
    }

    /// Makes a client that the brokers let in.
    fn make<C, X>(&self, config: &ClientConfig, context: X) -> Result<LoggedIn<C>, KafkaError>
    where
        C: FromClientConfigAndContext<X> + LogIn,
        X: ClientContext,
    {
        let client = config.create_with_context(context)?;
        Ok(LoggedIn::new(client, self.tokens.as_ref()))
    }

    /// [`TRANSACTION_TIMEOUT`], or what was given: only tests may, that wait for it.
    fn transaction_timeout(&self) -> Duration {
        let given = self.given.iter().rfind(|(name, _)| name == TRANSACTION_TIMEOUT_MS);
        let ms = given.and_then(|(_, ms)| ms.parse().ok());
        ms.map_or(TRANSACTION_TIMEOUT, Duration::from_millis)
    }

    fn producer(&self, more: &[(&str, &str)]) -> ClientConfig {
        let bytes_max = (RECORD_BYTES_MAX + (1 << 20)).to_string();
        let ours = [
            ("message.max.bytes", bytes_max.as_str()),
            ("enable.idempotence", "true"),
            ("batch.size", "1000000"),
            ("compression.type", "lz4"),
            ("queue.buffering.max.kbytes", "262144"),
            ("queue.buffering.max.messages", "1000000"),
        ];
        self.with(&[&ours[..], more].concat())
    }

    fn consumer(&self, more: &[(&str, &str)]) -> ClientConfig {
        let ours = [
            ("group.id", self.group.as_str()),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
        ];
        self.with(&[&ours[..], more].concat())
    }
}

/// Hears what librdkafka has to say. Clients of one cluster may have one in common: what one of
/// them hears is trouble of all.
#[derive(Clone, Default)]
pub struct Context(Arc<Heard>);

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

#[derive(Default)]
struct Heard {
    trouble: Mutex<Option<Error>>,
    /// Why there is no token. It says more than what the brokers say about that.
    no_token: Mutex<Option<Error>>,
    /// What is denied to this account with which topic, until it is not.
    denied: Mutex<BTreeMap<(Doing, String), Error>>,
    is_denied: AtomicBool,
}

/// What is done with topics outside of transactions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    Reading,
    Appending,
    Removing,
}

impl Context {
    /// An answer has come: the brokers are there.
    fn well(&self) {
        lock(&self.0.trouble).take();
    }

    /// Whether there is no token, though one is needed, and why.
    fn no_token(&self, why: Option<Error>) {
        *lock(&self.0.no_token) = why;
    }

    /// Something was done with a topic, or was not.
    fn heard(&self, doing: Doing, topic: &str, error: Option<&Error>) {
        let denied = error.filter(|error| error.code() == Code::Permission);
        if denied.is_none() && !self.0.is_denied.load(Ordering::Relaxed) {
            return; // As always.
        }
        let mut all = lock(&self.0.denied);
        match denied {
            Some(error) => drop(all.insert((doing, topic.into()), error.clone())),
            None => drop(all.remove(&(doing, topic.into()))),
        }
        self.0.is_denied.store(!all.is_empty(), Ordering::Relaxed);
    }

    fn trouble(&self) -> Option<Error> {
        let no_token = lock(&self.0.no_token).clone();
        let denied = || lock(&self.0.denied).values().next().cloned();
        no_token.or_else(denied).or_else(|| lock(&self.0.trouble).clone())
    }

    /// Why no broker answers us, if that is for us to change.
    fn kept_out(&self) -> Option<Error> {
        let no_token = lock(&self.0.no_token).clone();
        no_token.or_else(|| lock(&self.0.trouble).clone().filter(is_kept_out))
    }
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as K;
        let mut trouble = lock(&self.0.trouble);
        match error.rdkafka_error_code() {
            // A lost connection is made again, and nobody needs to know; an end is no error.
            Some(K::BrokerTransportFailure | K::PartitionEOF) => {}
            Some(K::Authentication | K::SSL) => *trouble = Some(kept_out(reason)),
            // What follows from being kept out says less.
            Some(K::AllBrokersDown) if trouble.as_ref().is_some_and(is_kept_out) => {}
            _ => *trouble = Some(unreachable(reason)),
        }
    }
}

impl ConsumerContext for Context {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unreachable(reason: impl fmt::Display) -> Error {
    Error::new(Code::Unreachable, format!("kafka: {reason}"))
        .help("check that the brokers run, and the address behind `kafka://`")
}

fn kept_out(reason: &str) -> Error {
    Error::new(Code::Permission, format!("kafka: {reason}")).help(
        "check `security.protocol`, `ssl.ca.location`, and of `sasl`: mechanism, username, password \
         or token",
    )
}

fn is_kept_out(error: &Error) -> bool {
    error.code() == Code::Permission
}

/// An error's words, without the value of an option: that may be a password.
fn words(e: &KafkaError) -> String {
    match e {
        KafkaError::ClientConfig(_, why, name, _) => format!("option {name}: {why}"),
        e => e.to_string(),
    }
}

/// What an error of librdkafka is to us.
fn error(what: &str, e: &KafkaError) -> Error {
    let code = e.rdkafka_error_code();
    let message = format!("kafka: {what}: {}", code.map_or(words(e), |c| c.to_string()));
    use RDKafkaErrorCode as K;
    match code {
        Some(K::TopicAuthorizationFailed | K::ClusterAuthorizationFailed)
        | Some(K::TransactionalIdAuthorizationFailed | K::GroupAuthorizationFailed) => {
            Error::new(Code::Permission, message)
                .help("the account needs the rights that docs/cluster.md lists")
        }
        Some(K::UnknownTopicOrPartition | K::UnknownTopic | K::UnknownPartition) => {
            Error::new(Code::Unknown, message)
        }
        Some(K::MessageSizeTooLarge | K::InvalidMessageSize) => Error::new(Code::Limit, message)
            .help("raise the topic's `max.message.bytes`, or write smaller records"),
        Some(K::InvalidTopic | K::InvalidConfig | K::InvalidReplicationFactor) => {
            Error::new(Code::Conflict, message)
        }
        Some(K::AutoOffsetReset | K::OffsetOutOfRange) => Error::new(Code::Limit, message),
        _ => unreachable(message.trim_start_matches("kafka: ")),
    }
}

impl RdClient {
    /// Connects with librdkafka's `properties`, `bootstrap.servers` among them. `group` names the
    /// consumer group that reading counts as; no member ever joins it. Answers at once, whether or
    /// not a broker does.
    ///
    /// # Errors
    /// If a property is none of librdkafka's, or a thread cannot be started.
    pub fn connect(properties: Vec<(String, String)>, group: &str) -> Result<Arc<RdClient>> {
        RdClient::connect_in(&Context::default(), properties, group)
    }

    /// As [`RdClient::connect`], in a context that other clients have, too.
    ///
    /// # Errors
    /// As [`RdClient::connect`].
    pub fn connect_in(
        context: &Context,
        mut properties: Vec<(String, String)>,
        group: &str,
    ) -> Result<Arc<RdClient>> {
        let context = context.clone();
        let login = login(&properties);
        let tokens = Source::take(&mut properties)?;
        let tokens = tokens.map(|source| Tokens::start(source, context.clone())).transpose()?;
        let properties = Arc::new(Properties { given: properties, group: group.into(), tokens });
        let make = |e: KafkaError| Error::new(Code::Plan, format!("kafka: {}", words(&e)));
        let admin = properties.make(&properties.with(&[]), context.clone()).map_err(make)?;
        let asking = properties.make(&properties.consumer(&[]), context.clone()).map_err(make)?;
        Ok(Arc::new(RdClient {
            fetchers: Fetchers::new(properties.clone(), context.clone()),
            appender: Appender::new(&properties, context.clone()).map_err(make)?,
            properties,
            context,
            admin,
            asking: Mutex::new(Arc::new(asking)),
            cluster: Mutex::default(),
            login,
            made: Mutex::default(),
        }))
    }

    /// What an error is to us; that no broker answers has a reason if they keep us out.
    fn error(&self, what: &str, e: &KafkaError) -> Error {
        match error(what, e) {
            e if e.code() == Code::Unreachable => self.context.kept_out().unwrap_or(e),
            e => e,
        }
    }

    fn admin_options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
    }

    /// What the brokers say about a topic. It is the first question of all others, so whoever is
    /// kept out is told so here, ahead of [`PATIENCE`]: what keeps us out is known by another
    /// client, while this one waits.
    fn metadata(&self, topic: &str) -> Result<Metadata, KafkaError> {
        let mut patience = FIRST_PATIENCE;
        let mut rest = PATIENCE;
        loop {
            let answer = self.asking().fetch_metadata(Some(topic), patience);
            rest = rest.saturating_sub(patience);
            if answer.is_ok() || rest.is_zero() || self.context.kept_out().is_some() {
                return answer;
            }
            patience = rest.min(2 * patience);
        }
    }

    fn brokers(&self) -> Result<usize> {
        let metadata = self.metadata("millstream");
        Ok(metadata.map_err(|e| self.error("asking which brokers there are", &e))?.brokers().len())
    }

    /// How many partitions a topic has; `None` if there is no such topic, 0 if not all of them can
    /// be used now.
    fn counted(&self, name: &str) -> Result<Option<u32>> {
        let metadata =
            self.metadata(name).map_err(|e| self.error(&format!("asking for topic {name}"), &e))?;
        self.context.well();
        let topic = metadata.topics().iter().find(|t| t.name() == name);
        if let Some(code) = topic.and_then(|topic| topic.error()).map(RDKafkaErrorCode::from)
            && code == RDKafkaErrorCode::TopicAuthorizationFailed
        {
            let what = format!("asking for topic {name}");
            return Err(self.error(&what, &KafkaError::MetadataFetch(code)));
        }
        let topic = topic.filter(|topic| topic.error().is_none());
        Ok(topic.map(|topic| {
            let led = topic.partitions().iter().all(|p| p.leader() >= 0 && p.error().is_none());
            if led { topic.partitions().len() as u32 } else { 0 }
        }))
    }

    /// What the broker that is asked says about a topic.
    fn look_up(&self, name: &str) -> Result<Option<TopicSpec>> {
        let Some(partitions) = self.led(name)? else { return Ok(None) };
        let settings = self.settings(name)?.into_iter().map(|(k, v, _)| (k, v)).collect();
        Ok(Some(TopicSpec { name: name.into(), partitions, settings }))
    }

    /// As [`RdClient::counted`]; waits until all partitions can be used.
    fn led(&self, name: &str) -> Result<Option<u32>> {
        let mut partitions = self.counted(name)?;
        // Clock: while its brokers are away a topic has no leader, which is not "there is none".
        let begun = std::time::Instant::now();
        while partitions == Some(0) {
            if begun.elapsed() > PATIENCE {
                return Err(unreachable(format!("topic {name} has a partition without a leader")));
            }
            std::thread::sleep(HEARSAY_EVERY);
            partitions = self.counted(name)?;
        }
        Ok(partitions)
    }

    /// Asks again for a while about a topic that was made here: each question goes to any broker,
    /// and one hears of it before another.
    fn hear_of<T>(&self, name: &str, ask: impl Fn() -> Result<Option<T>>) -> Result<Option<T>> {
        let mut tries = 0;
        loop {
            let found = ask();
            let hearsay = match &found {
                Ok(None) => lock(&self.made).contains(name),
                Ok(Some(_)) => false,
                Err(e) => e.code() == Code::Unknown,
            };
            if hearsay && tries < HEARSAY_TRIES {
                tries += 1;
                std::thread::sleep(HEARSAY_EVERY);
                continue;
            }
            if let Ok(None) = found {
                lock(&self.made).remove(name); // Somebody has deleted it.
            }
            return found;
        }
    }

    fn asking(&self) -> Arc<LoggedIn<BaseConsumer<Context>>> {
        lock(&self.asking).clone()
    }

    /// Asks again for a while, if a topic is not known or has no leader. librdkafka may have heard
    /// of it while it was being made, and keeps for minutes what it has heard, hence a new client.
    fn patiently<T>(
        &self,
        ask: impl Fn(&BaseConsumer<Context>) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        use RDKafkaErrorCode as K;
        let mut tries = 0;
        loop {
            let answer = ask(&self.asking());
            let code = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code);
            let hearsay = matches!(
                code,
                Some(K::UnknownPartition | K::UnknownTopic | K::UnknownTopicOrPartition)
                    | Some(K::NotLeaderForPartition | K::LeaderNotAvailable)
            );
            if !hearsay || tries == HEARSAY_TRIES {
                return answer;
            }
            tries += 1;
            std::thread::sleep(HEARSAY_EVERY);
            let new = self.properties.consumer(&[]);
            *lock(&self.asking) = Arc::new(self.properties.make(&new, self.context.clone())?);
        }
    }

    fn settings(&self, name: &str) -> Result<Vec<(String, String, bool)>> {
        let what = || format!("asking for the settings of topic {name}");
        let resource = [ResourceSpecifier::Topic(name)];
        let found = wait(self.admin.describe_configs(&resource, &RdClient::admin_options()))
            .map_err(|e| self.error(&what(), &e))?;
        let mut settings = Vec::new();
        for resource in found {
            let code = |c: RDKafkaErrorCode| self.error(&what(), &KafkaError::AdminOp(c));
            for entry in resource.map_err(code)?.entries {
                let own = entry.source == rdkafka::admin::ConfigSource::DynamicTopic;
                settings.extend(entry.value.map(|value| (entry.name, value, own)));
            }
        }
        Ok(settings)
    }
}

/// A hash of how, and as whom, brokers are spoken to. Secrets are in it; it shows nothing of them.
fn login(properties: &[(String, String)]) -> u64 {
    let mut given: Vec<_> = properties.iter().filter(|(n, _)| n != "bootstrap.servers").collect();
    given.sort();
    xxh3_64(format!("{given:?}").as_bytes())
}

/// Waits for librdkafka's answer, which comes by its own patience.
fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Polling::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn list(offsets: &[(TopicPartition, u64)]) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (at, offset) in offsets {
        list.add_partition_offset(&at.topic, at.partition as i32, Offset::Offset(*offset as i64))
            .map_err(|e| error(&format!("offset {offset}"), &e))?;
    }
    Ok(list)
}

impl Client for RdClient {
    fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        let what = || format!("making topic {}", topic.name);
        let replicas = self.brokers()?.clamp(1, REPLICAS_MAX) as i32;
        let new =
            NewTopic::new(&topic.name, topic.partitions as i32, TopicReplication::Fixed(replicas));
        let new = topic.settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        // Kafka's default is 1: a record that only one broker has would count as committed.
        let new = if replicas >= 3 { new.set("min.insync.replicas", "2") } else { new };
        let made = wait(self.admin.create_topics([&new], &RdClient::admin_options()))
            .map_err(|e| self.error(&what(), &e))?;
        for one in made {
            match one {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(self.error(&what(), &KafkaError::AdminOp(code))),
            }
        }
        // Clock: a broker that has not heard of the topic yet would refuse what comes next.
        let begun = std::time::Instant::now();
        while self.counted(&topic.name)?.unwrap_or(0) == 0 {
            if begun.elapsed() > PATIENCE {
                return Err(unreachable(format!("topic {} has no leaders yet", topic.name)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        lock(&self.made).insert(topic.name.clone());
        Ok(())
    }

    fn topic(&self, name: &str) -> Result<Option<TopicSpec>> {
        self.hear_of(name, || self.look_up(name))
    }

    fn partitions(&self, name: &str) -> Result<Option<u32>> {
        self.hear_of(name, || self.led(name))
    }

    fn set_topic(&self, name: &str, settings: &[(String, String)]) -> Result<()> {
        // Kafka takes the new settings for all there are.
        let mut all: Vec<(String, String)> = self
            .settings(name)?
            .into_iter()
            .filter(|(key, _, own)| *own && settings.iter().all(|(k, _)| k != key))
            .map(|(key, value, _)| (key, value))
            .collect();
        all.extend_from_slice(settings);
        let change = AlterConfig::new(ResourceSpecifier::Topic(name));
        let change = all.iter().fold(change, |change, (key, value)| change.set(key, value));
        let what = || format!("changing topic {name}");
        let changed = wait(self.admin.alter_configs([&change], &RdClient::admin_options()))
            .map_err(|e| self.error(&what(), &e))?;
        for one in changed {
            one.map_err(|(_, code)| self.error(&what(), &KafkaError::AdminOp(code)))?;
        }
        Ok(())
    }

    fn range(&self, at: &TopicPartition) -> Result<Range<u64>> {
        let found = self
            .patiently(|asking| asking.fetch_watermarks(&at.topic, at.partition as i32, PATIENCE));
        let (low, high) =
            found.map_err(|e| self.error(&format!("asking how far {at} goes"), &e))?;
        Ok(low.max(0) as u64..high.max(0) as u64)
    }

    fn offset_of(&self, at: &TopicPartition, time: Time) -> Result<Option<u64>> {
        let what = || format!("asking for an offset of {at}");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&at.topic, at.partition as i32, Offset::Offset(time.ms()))
            .map_err(|e| self.error(&what(), &e))?;
        let found = self.patiently(|asking| asking.offsets_for_times(list.clone(), PATIENCE));
        let found = found.map_err(|e| self.error(&what(), &e))?;
        let offset = found.elements().first().map(|e| e.offset());
        match offset {
            Some(Offset::Offset(offset)) => Ok(u64::try_from(offset).ok()),
            _ => Ok(None),
        }
    }

    fn delete_before(&self, offsets: &[(TopicPartition, u64)]) -> Result<()> {
        let what = "removing old records";
        let deleted = wait(self.admin.delete_records(&list(offsets)?, &RdClient::admin_options()));
        let mut failed = Ok(());
        for one in deleted.map_err(|e| self.error(what, &e))?.elements() {
            let topic = one.topic();
            let removed = one.error().map_err(|e| self.error(&format!("{what} of {topic}"), &e));
            self.context.heard(Doing::Removing, topic, removed.as_ref().err());
            failed = failed.and(removed);
        }
        failed
    }

    fn mirror(&self, group: &str, offsets: &[(TopicPartition, u64)]) -> Result<()> {
        let what = || format!("noting offsets of group {group}");
        let config = self.properties.consumer(&[("group.id", group)]);
        let made = self.properties.make(&config, self.context.clone());
        let consumer: LoggedIn<BaseConsumer<_>> = made.map_err(|e| self.error(&what(), &e))?;
        let list = list(offsets)?;
        consumer.commit(&list, CommitMode::Sync).map_err(|e| self.error(&what(), &e))
    }

    fn writer(&self, id: &str, waker: Waker) -> Result<Box<dyn Writer>> {
        let writer = RdWriter::start(&self.properties, self.context.clone(), id, waker)?;
        Ok(Box::new(writer))
    }

    fn reader(
        &self,
        at: &TopicPartition,
        start: Start,
        lane: Lane,
        bytes_max: usize,
        waker: Waker,
    ) -> Result<Box<dyn Reader>> {
        self.fetchers.reader(at, start, lane, bytes_max, waker)
    }

    fn read(&self, at: &TopicPartition, start: Start, bytes_max: usize) -> Result<Option<Fetched>> {
        fetch::read(&self.properties, self.context.clone(), at, start, bytes_max)
    }

    fn append(&self, records: Records, done: Appended) {
        self.appender.append(&records, done);
    }

    fn identity(&self) -> Result<String> {
        let mut known = lock(&self.cluster);
        if known.is_none() {
            *known = self.asking().client().fetch_cluster_id(PATIENCE);
        }
        let silent = || unreachable("no broker has said which cluster it belongs to");
        let cluster = known.clone().ok_or_else(|| self.trouble().unwrap_or_else(silent))?;
        Ok(format!("{cluster}/{:016x}", self.login))
    }

    fn trouble(&self) -> Option<Error> {
        self.context.trouble()
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}
