//! The suite every [`Client`] must pass, whatever brokers it talks to.
//!
//! *How:* [`run_all`] on a client, with a beginning for names that nothing else on these brokers
//! has. Each check in [`CHECKS`] makes topics of its own. Nothing is taken to be there at once: a
//! check waits until the client wakes it, 30 s at most.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test suite: a panic is its verdict")]

use std::{
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use millstream_core::{Code, Result, Time, engine::Waker};

use super::{
    Client, Fetched, Lane, Outcome, Reader, Record, Records, Start, TopicPartition, TopicSpec,
    Writer,
};

/// How long a check waits for anything.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often it looks for what nobody wakes it for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What readers of the suite hold, unless it is about that.
const BYTES_MAX: usize = 1 << 20;

/// A client under test.
pub struct Subject {
    /// The client.
    pub client: Arc<dyn Client>,
    /// How the names of topics and ids begin.
    pub prefix: String,
}

/// One behaviour, and the check for it.
pub type Check = (&'static str, fn(&Subject));

/// Every check, by name.
pub const CHECKS: &[Check] = &[
    ("a_topic_is_made_once", a_topic_is_made_once),
    ("committed_records_come_in_order", committed_records_come_in_order),
    ("two_may_be_undecided", two_may_be_undecided),
    ("a_transaction_may_be_empty", a_transaction_may_be_empty),
    ("a_new_writer_fences_the_old_one", a_new_writer_fences_the_old_one),
    ("what_was_open_is_decided_whole", what_was_open_is_decided_whole),
    ("reopening_tells_what_was_committed", reopening_tells_what_was_committed),
    ("what_is_refused_is_never_seen", what_is_refused_is_never_seen),
    ("writers_do_not_wait_for_each_other", writers_do_not_wait_for_each_other),
    ("reading_begins_at_any_offset", reading_begins_at_any_offset),
    ("an_offset_out_of_range_is_an_error", an_offset_out_of_range_is_an_error),
    ("nothing_and_empty_are_kept_apart", nothing_and_empty_are_kept_apart),
    ("headers_keys_and_times_are_kept", headers_keys_and_times_are_kept),
    ("big_values_come_whole_and_aligned", big_values_come_whole_and_aligned),
    ("appends_keep_their_order", appends_keep_their_order),
    ("an_append_that_fails_says_so", an_append_that_fails_says_so),
    ("records_are_deleted_up_to_an_offset", records_are_deleted_up_to_an_offset),
    ("an_offset_is_found_by_time", an_offset_is_found_by_time),
    ("a_reader_holds_a_bounded_amount", a_reader_holds_a_bounded_amount),
    (
        "a_reader_that_was_full_is_followed_by_another",
        a_reader_that_was_full_is_followed_by_another,
    ),
    ("readers_are_woken", readers_are_woken),
    ("an_offset_is_mirrored", an_offset_is_mirrored),
];

/// Runs every check; `prefix` is how the names of its topics and ids begin.
pub fn run_all(client: &Arc<dyn Client>, prefix: &str) {
    for (name, check) in CHECKS {
        check(&Subject { client: client.clone(), prefix: format!("{prefix}{name}") });
    }
}

/// Rings when a client wakes somebody.
#[derive(Clone, Default)]
struct Bell(Arc<(Mutex<u64>, Condvar)>);

impl Bell {
    fn waker(&self) -> Waker {
        let bell = self.clone();
        Arc::new(move || {
            *bell.0.0.lock().unwrap() += 1;
            bell.0.1.notify_all();
        })
    }

    /// What `look` finds, looking again each time the bell rings.
    fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE; // Clock: real brokers need time.
        loop {
            let rung = *self.0.0.lock().unwrap();
            if let Some(found) = look() {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now()); // Clock: as above.
            let quiet = |now: &mut u64| *now == rung;
            let waited = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), left, quiet);
            assert!(!waited.unwrap().1.timed_out(), "woken within {DEADLINE:?}: {what}");
        }
    }
}

/// What `look` finds, looking again and again.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE; // Clock: real brokers need time.
    let (quiet, bell) = (Mutex::new(()), Condvar::new());
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "within {DEADLINE:?}: {what}"); // Clock: as above.
        drop(bell.wait_timeout(quiet.lock().unwrap(), LOOK_EVERY).unwrap());
    }
}

/// A writer, and its bell.
struct Hand {
    writer: Box<dyn Writer>,
    bell: Bell,
}

impl Hand {
    fn outcome(&mut self) -> Outcome {
        let writer = &mut self.writer;
        self.bell.wait("an outcome", || writer.outcome())
    }

    /// Writes and waits until it is committed.
    fn commit(&mut self, records: Records) {
        self.writer.submit(records);
        assert_eq!(self.outcome(), Outcome::Committed);
    }
}

/// A reader, its bell, and what was read so far: the offset and a text for each record.
struct Eye {
    reader: Box<dyn Reader>,
    bell: Bell,
}

impl Eye {
    /// The next piece.
    fn piece(&mut self) -> Fetched {
        let reader = &mut self.reader;
        self.bell.wait("a record", || reader.poll().unwrap())
    }

    /// At least `count` records.
    fn read(&mut self, count: usize) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        while found.len() < count {
            found.extend(texts(&self.piece()));
        }
        found
    }

    /// All records before `end`.
    fn read_up_to(&mut self, end: u64) -> Vec<(u64, String)> {
        let (reader, mut found) = (&mut self.reader, Vec::new());
        eventually("the end is reached", || {
            while let Some(piece) = reader.poll().unwrap() {
                found.extend(texts(&piece));
            }
            reader.reached().is_some_and(|at| at >= end).then_some(())
        });
        found.retain(|(offset, _)| *offset < end);
        found
    }

    fn error(&mut self) -> Code {
        let reader = &mut self.reader;
        self.bell.wait("an error", || match reader.poll() {
            Ok(None) => None,
            Ok(Some(piece)) => panic!("an error was due, and not {:?}", texts(&piece)),
            Err(e) => Some(e.code()),
        })
    }
}

fn texts(piece: &Fetched) -> Vec<(u64, String)> {
    assert!(!piece.is_empty(), "a piece has records");
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or(b"-")).into_owned();
    piece.iter().map(|(offset, record)| (offset, text(record.value))).collect()
}

impl Subject {
    /// A topic of this check's own.
    fn topic(&self, name: &str, partitions: u32, settings: &[(&str, &str)]) -> String {
        let name = format!("{}-{name}", self.prefix);
        let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        self.client.create_topic(&TopicSpec { name: name.clone(), partitions, settings }).unwrap();
        name
    }

    fn partition(&self, name: &str) -> TopicPartition {
        TopicPartition::new(self.topic(name, 1, &[]), 0)
    }

    /// A writer that is to take over.
    fn writer(&self, id: &str) -> Hand {
        let bell = Bell::default();
        let id = format!("{}-{id}", self.prefix);
        Hand { writer: self.client.writer(&id, bell.waker()).unwrap(), bell }
    }

    /// A writer that has taken over.
    fn ready(&self, id: &str) -> Hand {
        let mut hand = self.writer(id);
        assert_eq!(hand.outcome(), Outcome::Ready);
        hand
    }

    fn reader(&self, at: &TopicPartition, start: Start) -> Eye {
        self.reader_of(at, start, BYTES_MAX)
    }

    fn reader_of(&self, at: &TopicPartition, start: Start, bytes_max: usize) -> Eye {
        let bell = Bell::default();
        let reader = self.client.reader(at, start, Lane::Inputs, bytes_max, bell.waker()).unwrap();
        Eye { reader, bell }
    }

    /// All that can be read of a partition now.
    fn all(&self, at: &TopicPartition) -> Vec<String> {
        let end = self.client.range(at).unwrap().end;
        let found = self.reader(at, Start::Earliest).read_up_to(end);
        let rising = found.windows(2).all(|pair| pair[0].0 < pair[1].0);
        assert!(rising, "offsets rise: {found:?}");
        found.into_iter().map(|(_, text)| text).collect()
    }

    /// Appends outside any transaction, and waits.
    fn append(&self, records: Records) -> Result<u64> {
        let (bell, answer) = (Bell::default(), Arc::new(Mutex::new(None)));
        let (wake, there) = (bell.waker(), answer.clone());
        let done = move |result| {
            assert!(there.lock().unwrap().replace(result).is_none(), "answered once");
            wake();
        };
        self.client.append(records, Box::new(done));
        bell.wait("an answer", || answer.lock().unwrap().clone())
    }
}

fn plain<'a>(value: &'a str) -> Record<'a> {
    Record { key: Some(b"k"), value: Some(value.as_bytes()), headers: &[], time: None }
}

fn records(of: &[(&TopicPartition, &str)]) -> Records {
    let mut records = Records::default();
    of.iter().for_each(|(at, value)| records.push(at, plain(value)));
    records
}

/// Bytes that no codec makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn a_topic_is_made_once(subject: &Subject) {
    let name = format!("{}-t", subject.prefix);
    assert_eq!(subject.client.topic(&name).unwrap(), None);
    let settings = [("cleanup.policy", "compact"), ("max.message.bytes", "70000")];
    assert_eq!(subject.topic("t", 3, &settings), name);
    subject.topic("t", 5, &[]); // there already: left as it is
    let found = subject.client.topic(&name).unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.partitions), (name.as_str(), 3));
    let has = |found: &TopicSpec, name: &str, value: &str| {
        found.settings.contains(&(name.to_string(), value.to_string()))
    };
    eventually("its settings are known", || {
        let found = subject.client.topic(&name).unwrap().unwrap();
        settings.iter().all(|(k, v)| has(&found, k, v)).then_some(())
    });
    assert!(found.settings.iter().any(|(k, _)| k == "min.insync.replicas"), "all are told");
    let change = [("max.message.bytes".to_string(), "80000".to_string())];
    subject.client.set_topic(&name, &change).unwrap();
    eventually("the setting is changed", || {
        let found = subject.client.topic(&name).unwrap().unwrap();
        let kept = has(&found, "cleanup.policy", "compact");
        (kept && has(&found, "max.message.bytes", "80000")).then_some(())
    });
    assert!(subject.client.trouble().is_none());
}

fn committed_records_come_in_order(subject: &Subject) {
    let topic = subject.topic("t", 2, &[]);
    let [a, b] = [0, 1].map(|p| TopicPartition::new(topic.clone(), p));
    let mut first = subject.reader(&a, Start::Earliest);
    let mut writer = subject.ready("w");
    for n in 0..20 {
        let (one, two) = (format!("{n}a"), format!("{n}b"));
        writer.commit(records(&[(&a, &one), (&b, &one), (&a, &two)]));
    }
    let found = first.read(40);
    assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "offsets rise: {found:?}");
    let expected: Vec<String> = (0..20).flat_map(|n| [format!("{n}a"), format!("{n}b")]).collect();
    assert_eq!(found.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), expected);
    let found = subject.reader(&b, Start::Earliest).read(20);
    assert_eq!((found.len(), found[19].1.as_str()), (20, "19a"));
}

fn two_may_be_undecided(subject: &Subject) {
    let at = subject.partition("t");
    let mut writer = subject.writer("w");
    writer.writer.submit(records(&[(&at, "0")]));
    assert_eq!(writer.outcome(), Outcome::Ready);
    for n in 1..30 {
        writer.writer.submit(records(&[(&at, &n.to_string())]));
        assert_eq!(writer.outcome(), Outcome::Committed);
    }
    assert_eq!(writer.outcome(), Outcome::Committed);
    assert_eq!(writer.writer.outcome(), None, "one outcome each");
    let found = subject.reader(&at, Start::Earliest).read(30);
    assert!(found.iter().map(|(_, text)| text.clone()).eq((0..30).map(|n| n.to_string())));
}

fn a_transaction_may_be_empty(subject: &Subject) {
    let at = subject.partition("t");
    let mut writer = subject.ready("w");
    writer.commit(Records::default());
    writer.commit(records(&[(&at, "1")]));
    assert_eq!(subject.reader(&at, Start::Earliest).read(1)[0].1, "1");
}

fn a_new_writer_fences_the_old_one(subject: &Subject) {
    let at = subject.partition("t");
    let mut old = subject.ready("w");
    old.commit(records(&[(&at, "old")]));
    let mut new = subject.ready("w");
    old.writer.submit(records(&[(&at, "zombie")]));
    let outcome = old.outcome();
    assert!(matches!(outcome, Outcome::Fenced | Outcome::Unknown), "{outcome:?}");
    old.writer.submit(records(&[(&at, "zombie")]));
    assert_eq!(old.outcome(), Outcome::Fenced, "nothing else from then on");
    new.commit(records(&[(&at, "new")]));
    let found = subject.reader(&at, Start::Earliest).read(2);
    assert_eq!(found.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["old", "new"]);
    // The newest wins also among those that have written nothing.
    let mut writers: Vec<Hand> = (0..3).map(|_| subject.ready("idle")).collect();
    for writer in &mut writers[..2] {
        writer.writer.submit(records(&[(&at, "zombie")]));
        assert!(matches!(writer.outcome(), Outcome::Fenced | Outcome::Unknown));
    }
    writers[2].commit(records(&[(&at, "newest")]));
    eventually("the mark is written", || (subject.all(&at).len() == 3).then_some(()));
    assert_eq!(subject.all(&at), ["old", "new", "newest"]);
}

fn what_was_open_is_decided_whole(subject: &Subject) {
    let topic = subject.topic("t", 2, &[]);
    let [a, b] = [0, 1].map(|p| TopicPartition::new(topic.clone(), p));
    for n in 0..10 {
        let mut writer = subject.ready("w");
        let text = n.to_string();
        writer.writer.submit(records(&[(&a, &text), (&b, &text), (&a, &text)]));
        if n % 2 == 0 {
            writer.writer.submit(records(&[(&b, &text)]));
        }
        drop(writer); // as a process that dies, with what it has open
    }
    let mut writer = subject.ready("w");
    let decided = [&a, &b].map(|at| subject.client.range(at).unwrap().end);
    writer.commit(records(&[(&a, "end"), (&b, "end")]));
    let ends = [&a, &b].map(|at| {
        eventually("the end is readable", || {
            let found = subject.all(at);
            (found.last()? == "end").then_some(found)
        })
    });
    for n in 0..10 {
        let text = n.to_string();
        let count = |at: usize| ends[at].iter().filter(|found| **found == text).count();
        let whole = match n % 2 {
            0 => [(0, 0), (2, 1), (2, 2)].contains(&(count(0), count(1))),
            _ => [(0, 0), (2, 1)].contains(&(count(0), count(1))),
        };
        assert!(whole, "of transaction {n}: {} and {} records", count(0), count(1));
    }
    for (at, decided) in [&a, &b].into_iter().zip(decided) {
        let before = subject.reader(at, Start::Earliest).read_up_to(decided);
        assert!(before.iter().all(|(_, text)| text != "end"), "all was decided once it was ready");
        let after = subject.reader(at, Start::Offset(decided)).read(1);
        assert_eq!(after[0].1, "end", "nothing of before is decided later");
    }
}

/// What the engine does: after an outcome that nobody knows it takes over anew and looks.
fn reopening_tells_what_was_committed(subject: &Subject) {
    let at = subject.partition("t");
    let mut next = 0;
    for round in 0..12 {
        let mut writer = subject.ready("w");
        next = subject.all(&at).len();
        writer.writer.submit(records(&[(&at, &next.to_string())]));
        if round % 3 == 0 {
            assert_eq!(writer.outcome(), Outcome::Committed);
        }
    }
    let _last = subject.ready("w");
    let found = subject.all(&at);
    assert!(found.len() >= 4 && found.len() >= next, "{found:?}");
    assert!(found.iter().cloned().eq((0..found.len()).map(|n| n.to_string())), "{found:?}");
}

fn what_is_refused_is_never_seen(subject: &Subject) {
    let (a, small) =
        (subject.partition("a"), subject.topic("b", 1, &[("max.message.bytes", "20000")]));
    let b = TopicPartition::new(small, 0);
    let mut watch = subject.reader(&a, Start::Earliest);
    let mut seen = Vec::new();
    let noise = noise(200_000);
    for _ in 0..5 {
        let mut writer = subject.ready("w");
        let mut both = records(&[(&a, "refused"), (&b, "refused")]);
        both.push(&b, Record { key: None, value: Some(&noise), headers: &[], time: None });
        writer.writer.submit(both);
        let outcome = eventually("an outcome", || {
            seen.extend(watch.reader.poll().unwrap().map(|piece| texts(&piece)));
            writer.writer.outcome()
        });
        assert!(matches!(outcome, Outcome::Refused(_)), "a record is too large: {outcome:?}");
        writer.writer.submit(records(&[(&a, "late")]));
        assert_eq!(writer.outcome(), Outcome::Fenced, "nothing else from then on");
        seen.extend(watch.reader.poll().unwrap().map(|piece| texts(&piece)));
    }
    assert!(seen.is_empty(), "what is open or aborted is not seen: {seen:?}");
    let mut writer = subject.ready("w");
    writer.commit(records(&[(&a, "fine"), (&b, "fine")]));
    for at in [&a, &b] {
        assert_eq!(subject.reader(at, Start::Earliest).read(1)[0].1, "fine");
    }
    let mut missing = subject.ready("missing");
    missing.writer.submit(records(&[(&a, "refused"), (&TopicPartition::new(&*a.topic, 7), "x")]));
    let outcome = missing.outcome();
    assert!(matches!(outcome, Outcome::Refused(_)), "there is no partition 7: {outcome:?}");
    writer.commit(records(&[(&a, "more")]));
    let _decides = subject.ready("missing");
    eventually("the mark is written", || (subject.all(&a).len() == 2).then_some(()));
    assert_eq!(subject.all(&a), ["fine", "more"]);
}

fn writers_do_not_wait_for_each_other(subject: &Subject) {
    let at = subject.partition("t");
    let mut writers: Vec<Hand> = (0..6).map(|n| subject.writer(&format!("w{n}"))).collect();
    for writer in &mut writers {
        assert_eq!(writer.outcome(), Outcome::Ready);
    }
    for round in 0..10 {
        for (n, writer) in writers.iter_mut().enumerate() {
            writer.writer.submit(records(&[(&at, &format!("{n}:{round}"))]));
        }
        for writer in &mut writers {
            assert_eq!(writer.outcome(), Outcome::Committed);
        }
    }
    let found = subject.reader(&at, Start::Earliest).read(60);
    for n in 0..6 {
        let own = found.iter().filter_map(|(_, text)| text.strip_prefix(&format!("{n}:")));
        assert!(own.map(str::to_string).eq((0..10).map(|round| round.to_string())));
    }
}

fn reading_begins_at_any_offset(subject: &Subject) {
    let at = subject.partition("t");
    let mut writer = subject.ready("w");
    for n in 0..5 {
        let text = n.to_string();
        writer.commit(records(&[(&at, &text), (&at, &text)]));
    }
    let all = subject.reader(&at, Start::Earliest).read(10);
    let last = all[9].0;
    for from in 0..=last {
        let expected: Vec<_> = all.iter().filter(|(offset, _)| *offset >= from).cloned().collect();
        let found = subject.reader(&at, Start::Offset(from)).read(expected.len());
        assert_eq!(found, expected, "from {from}");
    }
    // At the end there is nothing yet, and then what comes.
    let end = eventually("the last mark is written", || {
        let end = subject.client.range(&at).unwrap().end;
        (end > last).then_some(end)
    });
    let mut reader = subject.reader(&at, Start::Offset(end));
    assert!(reader.reader.poll().unwrap().is_none());
    eventually("the end is reached", || {
        assert!(reader.reader.poll().unwrap().is_none());
        (reader.reader.reached()? == end).then_some(())
    });
    writer.commit(records(&[(&at, "new")]));
    assert_eq!(reader.read(1)[0].1, "new");
}

fn an_offset_out_of_range_is_an_error(subject: &Subject) {
    let at = subject.partition("t");
    subject.append(records(&[(&at, "0"), (&at, "1"), (&at, "2")])).unwrap();
    assert_eq!(subject.reader(&at, Start::Offset(1_000)).error(), Code::Limit);
    subject.client.delete_before(&[(at.clone(), 2)]).unwrap();
    assert_eq!(subject.reader(&at, Start::Offset(1)).error(), Code::Limit);
    assert_eq!(subject.reader(&at, Start::Offset(2)).read(1)[0].1, "2");
    let nowhere = TopicPartition::new(format!("{}-nowhere", subject.prefix), 0);
    assert_eq!(subject.reader(&nowhere, Start::Earliest).error(), Code::Unknown);
    assert!(subject.client.range(&nowhere).is_err());
}

fn nothing_and_empty_are_kept_apart(subject: &Subject) {
    let at = subject.partition("t");
    let parts: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"x")];
    let pairs: Vec<_> = parts.iter().flat_map(|k| parts.map(|v| (*k, v))).collect();
    let mut batch = Records::default();
    for (key, value) in &pairs {
        batch.push(&at, Record { key: *key, value: *value, headers: &[], time: None });
    }
    subject.ready("w").commit(batch);
    let mut reader = subject.reader(&at, Start::Earliest);
    let mut found = Vec::new();
    while found.len() < pairs.len() {
        let piece = reader.piece();
        let own = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        found.extend(piece.iter().map(|(_, r)| (own(r.key), own(r.value))));
        let shared: Vec<_> = (0..piece.len()).map(|n| piece.value(n)).collect();
        assert!(shared.iter().zip(piece.iter()).all(|(s, (_, r))| s.as_deref() == r.value));
    }
    let found: Vec<_> = found.iter().map(|(k, v)| (k.as_deref(), v.as_deref())).collect();
    assert_eq!(found, pairs);
}

fn headers_keys_and_times_are_kept(subject: &Subject) {
    let at = subject.partition("t");
    let header = |name: &str, value: &[u8]| (name.to_string(), value.to_vec());
    let headers = [header("id", b"\x00\xff"), header("again", b"1"), header("again", b"")];
    let time = Some(Time::from_ms(1_700_000_000_123));
    let mut batch = Records::default();
    batch.push(&at, Record { key: Some(b"\x00key"), value: Some(b"1"), headers: &headers, time });
    batch.push(&at, Record { headers: &[], ..plain("2") });
    subject.ready("w").commit(batch.clone());
    subject.append(batch).unwrap();
    let mut reader = subject.reader(&at, Start::Earliest);
    let mut count = 0;
    while count < 4 {
        for (_, record) in reader.piece().iter() {
            if count % 2 == 0 {
                assert_eq!(record.key, Some(&b"\x00key"[..]));
                assert_eq!(record.headers, headers);
                assert_eq!(record.time, time);
            } else {
                assert!(record.headers.is_empty());
            }
            count += 1;
        }
    }
}

fn big_values_come_whole_and_aligned(subject: &Subject) {
    let topic = subject.topic("t", 1, &[("max.message.bytes", "8388608")]);
    let at = TopicPartition::new(topic, 0);
    let big = noise(4 << 20);
    let mut batch = Records::default();
    batch.push(&at, Record { key: Some(b"odd"), value: Some(b"small"), headers: &[], time: None });
    batch.push_shared(&at, b"k", big.clone().into());
    batch.push(&at, Record { key: Some(b"kk"), value: Some(&big), headers: &[], time: None });
    subject.ready("w").commit(batch);
    let mut reader = subject.reader(&at, Start::Earliest);
    let mut count = 0;
    while count < 3 {
        let piece = reader.piece();
        for n in 0..piece.len() {
            let value = piece.value(n).unwrap();
            assert_eq!(value.as_ptr().align_offset(8), 0, "values are aligned");
            let expected = if count == 0 { b"small" } else { &big[..] };
            let is = value.as_slice();
            assert!(is == expected, "record {count} has {} bytes, {:?}", is.len(), &is[..5]);
            count += 1;
        }
    }
}

fn appends_keep_their_order(subject: &Subject) {
    let topic = subject.topic("t", 2, &[]);
    let [a, b] = [0, 1].map(|p| TopicPartition::new(topic.clone(), p));
    let (bell, answers) = (Bell::default(), Arc::new(Mutex::new(Vec::new())));
    for n in 0..50 {
        let text = n.to_string();
        let (wake, answers) = (bell.waker(), answers.clone());
        let done = move |result: Result<u64>| {
            answers.lock().unwrap().push((n, result.unwrap()));
            wake();
        };
        subject.client.append(records(&[(&b, &text), (&a, &text)]), Box::new(done));
    }
    bell.wait("all answers", || (answers.lock().unwrap().len() == 50).then_some(()));
    let mut answers = std::mem::take(&mut *answers.lock().unwrap());
    answers.sort_unstable();
    let found = subject.reader(&a, Start::Earliest).read(50);
    assert!(found.iter().map(|(_, text)| text.clone()).eq((0..50).map(|n| n.to_string())));
    assert!(found.iter().map(|(offset, _)| *offset).eq(answers.iter().map(|(_, offset)| *offset)));
    assert_eq!(subject.all(&b).len(), 50);
}

fn an_append_that_fails_says_so(subject: &Subject) {
    let at = subject.partition("t");
    assert!(subject.append(records(&[(&TopicPartition::new(&*at.topic, 9), "x")])).is_err());
    assert_eq!(subject.append(records(&[(&at, "x")])).unwrap(), 0);
}

fn records_are_deleted_up_to_an_offset(subject: &Subject) {
    let at = subject.partition("t");
    assert_eq!(subject.client.range(&at).unwrap(), 0..0);
    for n in 0..5 {
        subject.append(records(&[(&at, &n.to_string())])).unwrap();
    }
    eventually("all can be read", || (subject.client.range(&at).unwrap() == (0..5)).then_some(()));
    subject.client.delete_before(&[(at.clone(), 3)]).unwrap();
    assert_eq!(subject.client.range(&at).unwrap(), 3..5);
    assert_eq!(subject.all(&at), ["3", "4"]);
    subject.client.delete_before(&[(at.clone(), 1)]).unwrap(); // gone already
    assert_eq!(subject.client.range(&at).unwrap(), 3..5);
    subject.client.delete_before(&[(at.clone(), 5)]).unwrap();
    assert_eq!(subject.client.range(&at).unwrap(), 5..5);
    assert_eq!(subject.append(records(&[(&at, "5")])).unwrap(), 5, "offsets go on");
    assert_eq!(subject.reader(&at, Start::Earliest).read(1), [(5, "5".to_string())]);
}

fn an_offset_is_found_by_time(subject: &Subject) {
    let at = subject.partition("t");
    let first = 1_700_000_000_000;
    for n in 0..4 {
        let mut one = Records::default();
        one.push(&at, Record { time: Some(Time::from_ms(first + n * 1_000)), ..plain("x") });
        subject.append(one).unwrap();
    }
    let of = |ms: i64| subject.client.offset_of(&at, Time::from_ms(first + ms)).unwrap();
    eventually("all can be read", || (of(3_000) == Some(3)).then_some(()));
    assert_eq!([of(-5), of(0), of(1), of(1_000), of(2_999)].map(Option::unwrap), [0, 0, 1, 1, 3]);
    assert_eq!(of(3_001), None);
}

fn a_reader_holds_a_bounded_amount(subject: &Subject) {
    let at = subject.partition("t");
    let value = String::from_utf8(vec![b'v'; 10_000]).unwrap();
    let mut writer = subject.ready("w");
    for _ in 0..4 {
        writer.commit(records(&vec![(&at, value.as_str()); 50]));
    }
    let mut reader = subject.reader_of(&at, Start::Earliest, 100_000);
    let (mut pieces, mut count) = (0, 0);
    while count < 200 {
        let piece = reader.piece();
        assert!(piece.len() <= 2 * 10 + 1, "{} records of 10 kB at once", piece.len());
        (pieces, count) = (pieces + 1, count + piece.len());
    }
    assert!(pieces >= 10, "{pieces} pieces of 2 MB");
    // A bound below one record lets one through.
    let mut reader = subject.reader_of(&at, Start::Earliest, 1);
    assert!((0..5).all(|_| !reader.piece().is_empty()));
}

fn a_reader_that_was_full_is_followed_by_another(subject: &Subject) {
    let at = subject.partition("t");
    let value = String::from_utf8(vec![b'v'; 1_000]).unwrap();
    let mut writer = subject.ready("w");
    writer.commit(records(&vec![(&at, value.as_str()); 100]));
    for _ in 0..5 {
        let full = subject.reader_of(&at, Start::Earliest, 1_000);
        full.bell
            .wait("a reader that is full", || (*full.bell.0.0.lock().unwrap() > 0).then_some(()));
        drop(full);
    }
    assert_eq!(subject.all(&at).len(), 100);
}

fn readers_are_woken(subject: &Subject) {
    let at = subject.partition("t");
    let mut reader = subject.reader(&at, Start::Earliest);
    let mut writer = subject.ready("w");
    for n in 0..5 {
        assert!(reader.reader.poll().unwrap().is_none(), "nothing more was written");
        writer.commit(records(&[(&at, &n.to_string())]));
        assert_eq!(reader.read(1)[0].1, n.to_string());
    }
}

fn an_offset_is_mirrored(subject: &Subject) {
    let at = subject.partition("t");
    subject.append(records(&[(&at, "x")])).unwrap();
    for offset in [0, 1] {
        let group = format!("{}-group", subject.prefix);
        subject.client.mirror(&group, &[(at.clone(), offset)]).unwrap();
    }
}
