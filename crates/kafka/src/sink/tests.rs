use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use millstream_core::{Batch, Time, connector::Prepared, partitioner::murmur2_of};

use super::*;
use crate::client::{
    Start, TopicPartition, TopicSpec,
    memory::{Cluster, Connection, Event, What},
};

fn cluster(partitions: u32) -> (Cluster, Arc<Connection>) {
    let cluster = Cluster::new();
    let client = cluster.connect("test");
    let spec = TopicSpec { name: "out".into(), partitions, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    (cluster, client)
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    Arc::new(Schema::new(vec![
        Field::new("user", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("at", time, true),
        Field::new("blob", DataType::Binary, true),
    ]))
}

fn rows(of: &[(Option<&str>, i64)]) -> Batch {
    let users: ArrayRef = Arc::new(StringArray::from_iter(of.iter().map(|(user, _)| *user)));
    let ns: ArrayRef = Arc::new(Int64Array::from_iter_values(of.iter().map(|(_, n)| *n)));
    let times = TimestampMillisecondArray::from_iter(of.iter().map(|(_, n)| Some(*n * 1_000)));
    let blobs = of.iter().map(|(_, n)| (*n != 2).then(|| n.to_be_bytes()));
    let blobs = BinaryArray::from_iter(blobs);
    let columns: Vec<ArrayRef> = vec![users, ns, Arc::new(times), Arc::new(blobs)];
    Batch::derived(RecordBatch::try_new(schema(), columns).unwrap())
}

fn plain() -> KafkaSink {
    KafkaSink::json(Cluster::new().connect("none"), "out").leave_out(["at", "blob"])
}

fn with(sink: KafkaSink, client: &Arc<Connection>) -> KafkaSink {
    KafkaSink { client: client.clone(), ..sink }
}

/// A record as a test looks at it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    partition: u32,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, String)>,
    time: Option<Time>,
}

fn seen(client: &dyn Client, partitions: u32) -> Vec<Seen> {
    let mut found = Vec::new();
    for partition in 0..partitions {
        let at = TopicPartition::new("out", partition);
        let Some(piece) = client.read(&at, Start::Earliest, usize::MAX).unwrap() else { continue };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.extend(piece.iter().map(|(_, r)| Seen {
            partition,
            key: r.key.map(text),
            value: r.value.map(text),
            headers: r.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            time: r.time,
        }));
    }
    found
}

fn values(client: &dyn Client, partitions: u32) -> Vec<String> {
    seen(client, partitions).into_iter().filter_map(|seen| seen.value).collect()
}

fn open(sink: &KafkaSink, note: &[u8]) -> Box<dyn SinkWriter> {
    sink.open(0, schema(), note).unwrap()
}

fn written(writer: &mut dyn SinkWriter, of: &[(Option<&str>, i64)]) -> Prepared {
    let prepared = writer.prepare(&[rows(of)]).unwrap();
    writer.write(&prepared).unwrap();
    prepared
}

#[test]
fn a_row_is_a_record() {
    let (_cluster, client) = cluster(3);
    let sink = with(plain(), &client).key(["user"]).timestamp("at").header("number", "n");
    let mut writer = open(&sink, &[]);
    written(&mut *writer, &[(Some("ann"), 1), (None, 2), (Some("bob"), 3)]);
    let found = seen(&*client, 3);
    let of = |value: &str| found.iter().find(|seen| seen.value.as_deref() == Some(value)).unwrap();
    let ann = of("{\"user\":\"ann\",\"n\":1}");
    assert_eq!((ann.key.as_deref(), ann.partition), (Some("ann"), murmur2_of(b"ann", 3)));
    assert_eq!(ann.time, Some(Time::from_ms(1_000)));
    let headers = |n: &str, id: &str| {
        vec![("number".to_string(), n.to_string()), ("millstream-id".to_string(), id.to_string())]
    };
    assert_eq!(ann.headers, headers("1", "millstream-0-0-1-0"));
    let none = of("{\"user\":null,\"n\":2}");
    assert_eq!((none.key.as_deref(), none.partition), (None, 1), "the turn's partition");
    assert_eq!(none.headers, headers("2", "millstream-0-0-1-1"));
    assert_eq!(of("{\"user\":\"bob\",\"n\":3}").partition, murmur2_of(b"bob", 3));
}

#[test]
fn csv_and_raw_and_keys_of_several_columns() {
    let (_cluster, client) = cluster(1);
    let sink = KafkaSink::csv(client.clone(), "out").separator(b';').leave_out(["at", "blob"]);
    written(&mut *open(&sink.key(["user", "n"]), &[]), &[(Some("a;b"), 1), (None, 2)]);
    let raw = KafkaSink::raw(client.clone(), "out", "blob").key(["n"]);
    written(&mut *open(&raw, &[]), &[(None, 65), (None, 2)]);
    let found = seen(&*client, 1);
    let pairs: Vec<_> = found.iter().map(|s| (s.key.as_deref(), s.value.as_deref())).collect();
    assert_eq!(
        pairs,
        [
            (Some("{\"user\":\"a;b\",\"n\":1}"), Some("\"a;b\";1")),
            (Some("{\"user\":null,\"n\":2}"), Some(";2")),
            (Some("65"), Some("\0\0\0\0\0\0\0A")),
            (Some("2"), None),
        ]
    );
}

#[test]
fn a_row_can_name_its_partition() {
    let (_cluster, client) = cluster(3);
    let sink = with(plain(), &client).key(["user"]).partition_by("n");
    let mut writer = open(&sink, &[]);
    written(&mut *writer, &[(Some("x"), 2), (Some("x"), 0)]);
    assert_eq!(seen(&*client, 3).iter().map(|s| s.partition).collect::<Vec<_>>(), [0, 2]);
    let e = writer.prepare(&[rows(&[(None, 3)])]).unwrap_err();
    assert_eq!(e.message(), "column `n` says partition 3; topic out has 0 to 2");
    let topics = [("max.message.bytes".to_string(), "600".to_string())];
    client.set_topic("out", &topics).unwrap();
    let long = "x".repeat(100);
    let e = open(&sink, &[]).prepare(&[rows(&[(Some(&long), 1)])]).unwrap_err();
    assert!(e.code() == Code::Limit && e.message().contains("topic out takes 88"), "{e}");
}

#[test]
fn what_does_not_fit_is_told_when_it_is_opened() {
    let (_cluster, client) = cluster(1);
    let e = |sink: KafkaSink| sink.open(0, schema(), &[]).err().unwrap().to_string();
    let sink = || with(plain(), &client);
    assert!(e(sink().key(["users"])).contains("they have: user, n, at, blob"));
    assert!(e(sink().leave_out(["nothing"])).contains("no column `nothing`"));
    assert!(e(sink().partition_by("user")).contains("a partition is a whole number"));
    assert!(e(sink().timestamp("user")).contains("a time is Timestamp"));
    assert!(e(KafkaSink::json(client.clone(), "out")).contains("`blob` is of type Binary"));
    assert!(
        e(KafkaSink::json(client.clone(), "away").leave_out(["blob"])).contains("no topic away")
    );
    assert!(e(sink().exactly_once("a b")).contains("cannot be the name"));
    assert!(sink().open(0, schema(), b"nonsense").is_err());
}

#[test]
fn what_is_prepared_becomes_records_again() {
    let (_cluster, client) = cluster(2);
    let sink = with(plain(), &client).key(["user"]).timestamp("at").header("number", "n");
    let prepared = open(&sink, &[]).prepare(&[rows(&[(Some("ann"), 1), (None, 2)])]).unwrap();
    let records = encoding::records(&prepared.bytes).unwrap();
    assert_eq!(records.len(), 2);
    let (at, first) = records.iter().next().unwrap();
    assert_eq!((&*at.topic, at.partition), ("out", murmur2_of(b"ann", 2)));
    assert_eq!((first.key, first.headers.len()), (Some(&b"ann"[..]), 2));
    // Whatever is cut or changed is an error or other records, and never a panic.
    for len in 0..prepared.bytes.len() {
        let cut = encoding::records(&prepared.bytes[..len]);
        assert!(cut.map_or(true, |records| records.len() < 2), "cut at {len}");
        for flip in [1, 0x80, 0xff] {
            let mut bytes = prepared.bytes.clone();
            bytes[len] ^= flip;
            drop(encoding::records(&bytes));
        }
    }
}

#[test]
fn ids_stay_the_same_and_are_of_no_other_run() {
    let (_cluster, client) = cluster(1);
    let sink = with(plain(), &client).named("s");
    let ids = |client: &dyn Client| -> Vec<String> {
        seen(client, 1).into_iter().map(|seen| seen.headers[0].1.clone()).collect()
    };
    let mut writer = open(&sink, &[]);
    let prepared = writer.prepare(&[rows(&[(None, 1), (None, 2)])]).unwrap();
    writer.write(&prepared).unwrap();
    let mut writer = open(&sink, &prepared.note);
    assert_eq!(writer.prepare(&[rows(&[(None, 1), (None, 2)])]).unwrap(), prepared);
    writer.write(&prepared).unwrap();
    written(&mut *writer, &[(None, 3)]);
    assert_eq!(ids(&*client), ["s-0-0-1-0", "s-0-0-1-1", "s-0-0-1-0", "s-0-0-1-1", "s-0-0-2-0"]);
    written(&mut *open(&sink, &[]), &[(None, 1)]); // the data directory is gone
    assert_eq!(ids(&*client)[5], "s-0-5-1-0");
}

/// The same rows give the same bytes also when somebody has added partitions in between.
#[test]
fn a_turn_that_is_prepared_again_keeps_its_partitions() {
    let (cluster, client) = cluster(1);
    let sink = with(plain(), &client).key(["user"]);
    let many: Vec<(Option<String>, i64)> = (0..20).map(|n| (Some(n.to_string()), n)).collect();
    let many: Vec<_> = many.iter().map(|(user, n)| (user.as_deref(), *n)).collect();
    let prepared = open(&sink, &[]).prepare(&[rows(&many)]).unwrap();
    cluster.delete_topic("out");
    let spec = TopicSpec { name: "out".into(), partitions: 4, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    let mut writer = open(&sink, &prepared.note);
    assert_eq!(writer.prepare(&[rows(&many)]).unwrap(), prepared);
    writer.write(&prepared).unwrap();
    let new = writer.prepare(&[rows(&many)]).unwrap();
    let records = encoding::records(&new.bytes).unwrap();
    assert!(records.iter().any(|(at, _)| at.partition > 0));
}

#[test]
fn turns_without_rows_write_nothing() {
    let (cluster, client) = cluster(1);
    for sink in [with(plain(), &client), with(plain(), &client).exactly_once("once")] {
        let before = cluster.records(&TopicPartition::new("out", 0));
        let mut writer = open(&sink, &[]);
        let first = writer.prepare(&[]).unwrap();
        writer.write(&first).unwrap();
        writer.write(&first).unwrap();
        assert_eq!(cluster.records(&TopicPartition::new("out", 0)), before);
        let mut writer = open(&sink, &first.note);
        assert_eq!(writer.prepare(&[]).unwrap(), first);
        writer.write(&first).unwrap();
        let second = written(&mut *writer, &[(None, 1)]);
        let mut writer = open(&sink, &second.note);
        assert_eq!(writer.prepare(&[rows(&[(None, 1)])]).unwrap(), second);
        writer.write(&second).unwrap();
        let empty = writer.prepare(&[]).unwrap();
        writer.write(&empty).unwrap();
        let mut writer = open(&sink, &empty.note);
        assert_eq!(writer.prepare(&[]).unwrap(), empty);
    }
}

/// What happens to a turn that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The writer gives up; its request arrives before its successor's.
    Late,
    /// ... or after.
    Later,
    /// The writer gives up, and rightly.
    Lost,
    /// The node dies; what is on its way arrives.
    Crash,
    /// The node dies, and so does what is on its way.
    CrashAndLost,
    /// The node is paused, another one takes over, and then it goes on.
    Pause,
}

impl Fault {
    fn strike(self, cluster: &Cluster, client: &Connection) {
        let own = |e: &Event| !e.client.is_empty();
        let waits = cluster.pending().into_iter().find(own).map(|e| e.number);
        match (self, waits) {
            (Fault::Late | Fault::Later, Some(event)) => _ = cluster.give_up(event),
            (Fault::Lost, Some(event)) => _ = cluster.lose(event),
            (Fault::Crash, _) => client.crash(),
            (Fault::CrashAndLost, waits) => {
                client.crash();
                waits.map(|event| cluster.lose(event));
            }
            (Fault::Pause, _) => client.cut(),
            (_, None) => {}
        }
    }
}

/// A turn's transaction is `Produce`, `Commit`, three times `Mark`, and `Answer`: each fault
/// strikes behind each of them.
#[test]
fn a_turn_is_there_once_whatever_happens_to_its_transaction() {
    use Fault::*;
    let mut ways = BTreeSet::new();
    for (fault, steps) in [Late, Later, Lost, Crash, CrashAndLost, Pause]
        .into_iter()
        .flat_map(|fault| (0..8).map(move |steps| (fault, steps)))
    {
        let (cluster, client) = cluster(2);
        let first = cluster.connect("first");
        let mut writer = open(&with(plain(), &first).exactly_once("once"), &[]);
        written(&mut *writer, &[(Some("a"), 1), (Some("b"), 2)]);
        let turn = [rows(&[(Some("a"), 3), (Some("b"), 4)])];
        let prepared = writer.prepare(&turn).unwrap();
        cluster.hold();
        let (dying, asked) = (first.clone(), AtomicUsize::new(0));
        cluster.when_asked(move |cluster| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => {
                for _ in 0..steps {
                    cluster.step(|_| true);
                }
                fault.strike(cluster, &dying);
            }
            _ => {
                if fault == Later {
                    cluster.step(|e| matches!(e.what, What::TakeOver { .. }));
                }
                cluster.release();
            }
        });
        let done = writer.write(&prepared).is_ok();
        cluster.release();
        ways.insert((fault, done, values(&*client, 2).len()));
        let second = cluster.connect("second");
        let mut next = open(&with(plain(), &second).exactly_once("once"), &prepared.note);
        assert_eq!(next.prepare(&turn).unwrap(), prepared);
        next.write(&prepared).unwrap();
        first.mend();
        drop(writer.write(&prepared)); // the one that was paused does what it was about to do
        let mut found = values(&*client, 2);
        found.sort_unstable();
        let expected = [("a", 1), ("a", 3), ("b", 2), ("b", 4)]
            .map(|(user, n)| format!("{{\"user\":\"{user}\",\"n\":{n}}}"));
        assert_eq!(found, expected, "{fault:?} after {steps} steps");
    }
    // Those that go on come to know; of the others it was there or not.
    let known = [Late, Later, Lost, Pause].map(|fault| (fault, true, 4));
    let unknown = [Crash, CrashAndLost, Pause].map(|fault| [(fault, false, 2), (fault, false, 4)]);
    let expected = known.into_iter().chain(unknown.into_iter().flatten());
    let missing: Vec<_> = expected.filter(|way| !ways.contains(way)).collect();
    assert!(missing.is_empty(), "none went {missing:?}, but {ways:?}");
}

#[test]
fn numbers_of_turns_are_trimmed_and_the_last_is_kept() {
    let (cluster, client) = cluster(1);
    let sink = with(plain(), &client).exactly_once("once");
    let numbers = TopicPartition::new("millstream-sink-once-0", 0);
    let mut note = Vec::new();
    for round in 0..4 {
        let mut writer = open(&sink, &note);
        if round > 0 {
            assert_eq!(cluster.records(&numbers), 1, "trimmed when it is opened");
            let last = writer.prepare(&[rows(&[(None, round * 10 + 2 - 10)])]).unwrap();
            writer.write(&last).unwrap();
        }
        for n in 0..3 {
            note = written(&mut *writer, &[(None, round * 10 + n)]).note;
        }
        // A transaction that is aborted leaves gaps behind the last number.
        cluster.hold();
        let prepared = writer.prepare(&[rows(&[(None, 666)])]).unwrap();
        drop(writer.write(&prepared));
        cluster.step(|event| matches!(event.what, What::Produce { .. }));
        cluster.release();
    }
    assert_eq!(values(&*client, 1).len(), 12);
    let settings = [("retention.ms".to_string(), "1000".to_string())];
    client.set_topic("millstream-sink-once-0", &settings).unwrap();
    let e = sink.open(0, schema(), &note).err().unwrap();
    assert!(e.code() == Code::Conflict && e.message().contains("retention.ms is not -1"), "{e}");
}

#[test]
fn another_ones_turns_are_a_conflict() {
    let (cluster, client) = cluster(1);
    let sink = with(plain(), &client).exactly_once("once");
    let mut writer = open(&sink, &[]);
    let one = written(&mut *writer, &[(None, 1)]);
    let two = written(&mut *writer, &[(None, 2)]);
    let e = |note: &[u8]| sink.open(0, schema(), note).err().unwrap();
    let old = e(&one.note);
    assert!(old.code() == Code::Conflict && old.message().contains("turn 2 is there"), "{old}");
    // A run that begins anew goes on counting.
    let three = written(&mut *open(&sink, &[]), &[(None, 3)]);
    assert!(sink.open(0, schema(), &three.note).is_ok() && e(&two.note).code() == Code::Conflict);
    cluster.delete_topic("millstream-sink-once-0");
    let gone = e(&three.note);
    assert!(gone.message().contains("0 turns are there, but 2 were written"), "{gone}");
}

#[test]
fn two_flows_under_one_name_are_told() {
    let (_cluster, client) = cluster(1);
    let sink = with(plain(), &client).exactly_once("once");
    let mut old = open(&sink, &[]);
    let mut new = open(&sink, &[]);
    written(&mut *new, &[(None, 1)]);
    let prepared = old.prepare(&[rows(&[(None, 2)])]).unwrap();
    let e = old.write(&prepared).unwrap_err();
    assert!(e.code() == Code::InUse && e.message().contains("`once-0`"), "{e}");
    assert_eq!(values(&*client, 1).len(), 1);
}

#[test]
fn brokers_that_are_away_are_an_error_to_be_tried_again() {
    let (_cluster, client) = cluster(1);
    for (n, sink) in [with(plain(), &client), with(plain(), &client).exactly_once("once")]
        .into_iter()
        .enumerate()
    {
        let mut writer = open(&sink, &[]);
        let prepared = writer.prepare(&[rows(&[(None, 1)])]).unwrap();
        client.cut();
        assert!(writer.write(&prepared).unwrap_err().code().retry());
        client.mend();
        writer.write(&prepared).unwrap();
        assert_eq!(values(&*client, 1).len(), [2, 3][n], "at least once; and once more");
    }
}
