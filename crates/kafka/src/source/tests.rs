use std::time::Duration;

use arrow_array::{cast::AsArray, types::*};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use millstream_core::connector::{Chunk, Pull};

use super::*;
use crate::client::{
    Record, Records, TopicPartition, TopicSpec,
    memory::{Cluster, Connection},
};

const WAIT: Duration = Duration::from_millis(10);

fn cluster(partitions: u32) -> (Cluster, Arc<Connection>) {
    let cluster = Cluster::new();
    let client = cluster.connect("test");
    let spec = TopicSpec { name: "orders".into(), partitions, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    (cluster, client)
}

fn at(partition: u32) -> TopicPartition {
    TopicPartition::new("orders", partition)
}

fn append(client: &dyn Client, partition: u32, key: Option<&str>, value: Option<&[u8]>) {
    append_at(client, partition, key, value, 0, &[]);
}

fn append_at(
    client: &dyn Client,
    partition: u32,
    key: Option<&str>,
    value: Option<&[u8]>,
    ms: i64,
    headers: &[(String, Vec<u8>)],
) {
    let mut records = Records::default();
    let (key, time) = (key.map(str::as_bytes), Some(Time::from_ms(ms)));
    records.push(&at(partition), Record { key, value, headers, time });
    client.append(records, Box::new(|done| assert!(done.is_ok())));
}

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let field =
        |(name, kind, null): &(&str, DataType, bool)| Field::new(*name, kind.clone(), *null);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

fn numbers() -> SchemaRef {
    schema(&[("n", DataType::Int64, false)])
}

/// All chunks up to the end, or until nothing more comes.
fn pull_all(reader: &mut dyn SourceReader) -> (Vec<Chunk>, bool) {
    let mut chunks = Vec::new();
    loop {
        match reader.pull(WAIT).unwrap() {
            Pull::Chunk(decode) => chunks.push(decode()),
            Pull::Idle => return (chunks, false),
            Pull::End => return (chunks, true),
        }
    }
}

/// The numbers of column 0.
fn ns(chunks: &[Chunk]) -> Vec<i64> {
    let of = |chunk: &Chunk| chunk.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
    chunks.iter().flat_map(of).collect()
}

fn json(n: u64) -> Vec<u8> {
    format!("{{\"n\":{n}}}").into_bytes()
}

fn open(source: &KafkaSource, position: &[u8]) -> Box<dyn SourceReader> {
    source.open(0, numbers(), position).unwrap()
}

#[test]
fn columns_come_from_all_parts_of_a_record() {
    let (_cluster, client) = cluster(2);
    let header = |name: &str, value: &str| (name.to_string(), value.as_bytes().to_vec());
    let headers = [header("trace", "old"), header("other", "x"), header("trace", "new")];
    append_at(&*client, 1, Some("k1"), Some(b"{\"n\":1,\"more\":2}"), 5, &headers);
    append_at(&*client, 1, None, Some(b"{\n\"n\": 2\n}"), 6, &[]);
    let source = KafkaSource::json(client, "orders").unwrap().key("key").timestamp("at");
    let source = source.partition("from").offset("offset").header("trace", "trace").finite();
    assert_eq!((source.partitions(), source.fields().unwrap()), (2, None));
    let schema = schema(&[
        ("offset", DataType::UInt64, false),
        ("key", DataType::Utf8, true),
        ("n", DataType::Int64, false),
        ("at", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        ("from", DataType::Int32, false),
        ("trace", DataType::Binary, true),
    ]);
    let (chunks, ended) = pull_all(&mut *source.open(1, schema, &[]).unwrap());
    assert!(ended);
    let rows = &chunks[1].rows;
    assert_eq!(rows.column(0).as_primitive::<UInt64Type>().values(), &[0, 1]);
    let keys: Vec<_> = rows.column(1).as_string::<i32>().iter().collect();
    assert_eq!(keys, [Some("k1"), None]);
    assert_eq!(rows.column(2).as_primitive::<Int64Type>().values(), &[1, 2]);
    assert_eq!(rows.column(3).as_primitive::<TimestampMillisecondType>().values(), &[5, 6]);
    assert_eq!(rows.column(4).as_primitive::<Int32Type>().values(), &[1, 1]);
    let traces: Vec<_> = rows.column(5).as_binary::<i32>().iter().collect();
    assert_eq!(traces, [Some(&b"new"[..]), None]);
    assert_eq!(chunks[1].places, [1, 2], "offsets, counted from 1");
}

#[test]
fn what_cannot_be_decoded_names_its_offset() {
    let (_cluster, client) = cluster(1);
    let long = [b'{'; 100];
    let values: [Option<&[u8]>; 9] = [
        Some(b"{\"n\":1}"),
        Some(b"{\"n\":\"x\"}"),
        None,
        Some(b""),
        Some(b" \n "),
        Some(&long),
        Some(b"{\"n\":\n2}"),
        Some(b"{\"n\":3}\n{\"n\":4}"),
        Some(b"{\"n\":5}"),
    ];
    values.iter().for_each(|value| append(&*client, 0, Some("k"), *value));
    let source = KafkaSource::json(client.clone(), "orders").unwrap().value_bytes_max(50).finite();
    let (chunks, _) = pull_all(&mut *open(&source, &[]));
    assert_eq!(ns(&chunks), [1, 2, 5]);
    let chunk = &chunks[1];
    assert_eq!((chunk.units, chunk.skipped, &chunk.places[..]), (9, 1, &[1, 7, 9][..]));
    let said: Vec<_> = chunk.undecodable.iter().map(|u| (u.file.as_str(), u.reason())).collect();
    let place = |n: u32| format!("topic orders, partition 0, offset {n}");
    assert_eq!(said[0], (&*place(1), "n: 'x' is not a number".to_string()));
    assert_eq!(said[1], (&*place(3), "the value is empty".to_string()));
    assert_eq!(said[2], (&*place(4), "the value is blank".to_string()));
    assert_eq!(said[3], (&*place(5), "100 bytes long; the limit is 50".to_string()));
    assert_eq!(said[4].0, place(7));
    assert_eq!(chunk.undecodable[4].raw, values[7].unwrap());
    // A key that does not fit its column is no row either.
    let source = source.key("key");
    append(&*client, 0, None, Some(b"{\"n\":6}"));
    let mut bytes = Records::default();
    let value = Some(&b"{\"n\":7}"[..]);
    bytes.push(&at(0), Record { key: Some(b"\xff"), value, headers: &[], time: None });
    client.append(bytes, Box::new(|_| ()));
    let with_key = schema(&[("n", DataType::Int64, false), ("key", DataType::Utf8, false)]);
    let (chunks, _) = pull_all(&mut *source.open(0, with_key, &[]).unwrap());
    let said: Vec<_> = chunks[1].undecodable.iter().map(|u| u.reason()).collect();
    assert_eq!(said[5..], ["key: the record has no key", "key: invalid UTF-8 at byte 1"]);
}

#[test]
fn csv_has_one_record_in_each_value() {
    let (_cluster, client) = cluster(1);
    let values = ["1,x", "2,\"two\nlines\"", "\"3,never closed", "4,y", "5,z\n6,z", "7,\r\n"];
    values.iter().for_each(|value| append(&*client, 0, None, Some(value.as_bytes())));
    let source = KafkaSource::csv(client, "orders", ["n", "text"]).unwrap().finite();
    assert_eq!(source.fields().unwrap().unwrap(), ["n", "text"]);
    let schema = schema(&[("n", DataType::Int64, false), ("text", DataType::Utf8, true)]);
    let (chunks, _) = pull_all(&mut *source.open(0, schema, &[]).unwrap());
    assert_eq!(ns(&chunks), [1, 2, 4, 7]);
    assert_eq!(chunks[1].rows.column(1).as_string::<i32>().value(1), "two\nlines");
    assert_eq!(chunks[1].undecodable.len(), 2);
}

#[test]
fn raw_takes_values_as_they_are() {
    let (_cluster, client) = cluster(1);
    for value in [Some(&b"a"[..]), None, Some(b""), Some(b"\xff")] {
        append(&*client, 0, Some("k"), value);
    }
    let source = KafkaSource::raw(client, "orders", "value").unwrap().key("key").finite();
    assert_eq!(source.fields().unwrap().unwrap(), ["value", "key"]);
    let read = |kind: DataType, null: bool| {
        let (chunks, _) =
            pull_all(&mut *source.open(0, schema(&[("value", kind, null)]), &[]).unwrap());
        (chunks[1].rows.num_rows(), chunks[1].undecodable.len(), chunks[1].skipped)
    };
    assert_eq!(read(DataType::Binary, true), (4, 0, 0), "a deletion is a null");
    assert_eq!(read(DataType::LargeBinary, false), (3, 0, 1), "or skipped");
    assert_eq!(read(DataType::Utf8, true), (3, 1, 0));
    let bytes = DataType::List(Arc::new(Field::new("element", DataType::UInt8, false)));
    assert_eq!(read(bytes, true), (4, 0, 0));
    let missing = source.open(0, schema(&[("valu", DataType::Utf8, true)]), &[]);
    assert!(missing.err().unwrap().to_string().contains("it has: value, key"));
    let number = source.open(0, schema(&[("key", DataType::Int64, true)]), &[]);
    assert!(number.err().unwrap().message().contains("a record's key is not"));
}

#[test]
fn it_begins_where_it_is_told() {
    let (_cluster, client) = cluster(1);
    (0..5).for_each(|n| append_at(&*client, 0, None, Some(&json(n)), n as i64 * 10, &[]));
    let source = KafkaSource::json(client.clone(), "orders").unwrap();
    let from =
        |begin: Begin| ns(&pull_all(&mut *open(&source.clone().begin(begin).finite(), &[])).0);
    assert_eq!(from(Begin::Earliest), [0, 1, 2, 3, 4]);
    assert_eq!(from(Begin::Time(Time::from_ms(11))), [2, 3, 4]);
    assert_eq!(from(Begin::Time(Time::from_ms(99))), [0_i64; 0]);
    assert_eq!(from(Begin::Offsets([(0, 3)].into())), [3, 4]);
    assert_eq!(from(Begin::Offsets([(1, 3)].into())), [0, 1, 2, 3, 4]);
    client.delete_before(&[(at(0), 2)]).unwrap();
    assert_eq!(from(Begin::Earliest), [2, 3, 4]);
    let gone = open(&source.clone().begin(Begin::Offsets([(0, 1)].into())), &[]).pull(WAIT);
    assert!(gone.is_ok(), "where to begin is settled first");
    // The first chunk settles where `latest` is: what comes after a crash is not left out.
    let source = source.begin(Begin::Latest);
    let Pull::Chunk(first) = open(&source, &[]).pull(WAIT).unwrap() else { panic!("no chunk") };
    let first = first();
    assert_eq!(first.units, 0);
    append(&*client, 0, None, Some(&json(5)));
    assert_eq!(ns(&pull_all(&mut *open(&source, &first.position)).0), [5]);
}

#[test]
fn a_finite_source_ends_where_the_topic_ended() {
    let (cluster, client) = cluster(1);
    let mut writer = client.writer("w", Arc::new(|| ())).unwrap();
    for n in 0..3 {
        let mut records = Records::default();
        records.push(&at(0), Record { key: None, value: Some(&json(n)), headers: &[], time: None });
        writer.submit(records);
        while writer.outcome().is_some() {}
    }
    let source = KafkaSource::json(client.clone(), "orders").unwrap().finite();
    let mut reader = open(&source, &[]);
    let Pull::Chunk(first) = reader.pull(WAIT).unwrap() else { panic!("no chunk") };
    append(&*client, 0, None, Some(&json(3)));
    let (chunks, ended) = pull_all(&mut *reader);
    assert!(ended, "though a mark lies at the end");
    assert_eq!(ns(&chunks), [0, 1, 2]);
    let (chunks, ended) = pull_all(&mut *open(&source, &first().position));
    assert_eq!((ns(&chunks), ended), (vec![0, 1, 2], true), "also when it is opened again");
    let endless = KafkaSource::json(client.clone(), "orders").unwrap();
    assert!(!pull_all(&mut *open(&endless, &[])).1);
    drop(cluster);
}

#[test]
fn only_what_is_committed_is_read() {
    let (cluster, client) = cluster(1);
    let mut writer = client.writer("w", Arc::new(|| ())).unwrap();
    let source = KafkaSource::json(client.clone(), "orders").unwrap();
    let mut reader = open(&source, &[]);
    cluster.hold();
    let mut records = Records::default();
    records.push(&at(0), Record { key: None, value: Some(&json(1)), headers: &[], time: None });
    writer.submit(records);
    cluster.step(|_| true);
    assert_eq!(ns(&pull_all(&mut *reader).0), [0_i64; 0]);
    cluster.release();
    assert_eq!(ns(&pull_all(&mut *reader).0), [1]);
}

#[test]
fn it_waits_for_brokers_that_are_away() {
    let (_cluster, client) = cluster(1);
    append(&*client, 0, None, Some(&json(1)));
    let source = KafkaSource::json(client.clone(), "orders").unwrap();
    client.cut();
    let mut reader = open(&source, &[]);
    assert!(pull_all(&mut *reader).0.is_empty());
    client.mend();
    assert_eq!(ns(&pull_all(&mut *reader).0), [1]);
    client.cut();
    assert!(pull_all(&mut *reader).0.is_empty());
    client.mend();
    append(&*client, 0, None, Some(&json(2)));
    assert_eq!(ns(&pull_all(&mut *reader).0), [2]);
    client.cut();
    let Err(e) = KafkaSource::json(client, "orders") else { panic!("a source") };
    assert_eq!(e.code(), Code::Unreachable);
}

#[test]
fn a_topic_that_is_not_as_it_was_is_an_error() {
    let (cluster, client) = cluster(2);
    let source = KafkaSource::json(client.clone(), "orders").unwrap();
    let Err(e) = KafkaSource::json(client.clone(), "order") else { panic!("a source") };
    assert!(e.code() == Code::Unknown && e.message().contains("order"), "{e}");
    append(&*client, 0, None, Some(&json(1)));
    let mut reader = open(&source, &[]);
    let position = pull_all(&mut *reader).0[1].position.clone();
    (0..3).for_each(|n| append(&*client, 0, None, Some(&json(n))));
    client.delete_before(&[(at(0), 4)]).unwrap();
    let e = reader.pull(WAIT).map(drop).unwrap_err();
    assert!(e.code() == Code::Limit && e.message().contains("topic orders, partition 0"), "{e}");
    let e = open(&source, &position).pull(WAIT).map(drop).unwrap_err();
    assert_eq!(e.code(), Code::Limit);
    cluster.delete_topic("orders");
    assert_eq!(open(&source, &[]).pull(WAIT).map(drop).unwrap_err().code(), Code::Unknown);
    let spec = TopicSpec { name: "orders".into(), partitions: 3, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    let e = open(&source, &position).pull(WAIT).map(drop).unwrap_err();
    assert_eq!(e.code(), Code::Conflict);
    assert!(e.message().contains("has 3 partitions; the flow was made when it had 2"), "{e}");
    assert!(source.open(0, numbers(), b"\x01nonsense").is_err());
}

#[test]
fn chunks_are_as_small_as_asked_for() {
    let (_cluster, client) = cluster(1);
    (0..10).for_each(|n| append(&*client, 0, None, Some(&json(n))));
    let source = KafkaSource::json(client, "orders").unwrap().finite();
    let mut reader = open(&source, &[]);
    reader.limit(3);
    let (chunks, ended) = pull_all(&mut *reader);
    assert!(ended);
    assert_eq!(chunks.iter().map(|c| c.units).collect::<Vec<_>>(), [0, 3, 3, 3, 1]);
    for (n, chunk) in chunks.iter().enumerate() {
        let rest = ns(&pull_all(&mut *open(&source, &chunk.position)).0);
        let expected: Vec<i64> = (3 * n as i64..10).collect();
        assert_eq!(rest, expected);
    }
}

#[test]
fn a_group_is_told_only_what_is_durable() {
    let (_cluster, client) = cluster(1);
    append(&*client, 0, None, Some(&json(1)));
    let source = KafkaSource::json(client, "orders").unwrap().group("tools");
    let (chunks, _) = pull_all(&mut *open(&source, &[]));
    assert!(chunks[1].durable.is_some());
}

/// A waker that is called while nobody looks is not forgotten.
#[test]
fn a_bell_rung_before_is_heard() {
    let bell = crate::bell::Bell::default();
    bell.waker()();
    assert!(bell.hear(WAIT) && !bell.hear(Duration::ZERO));
}
