//! Topics as sources and sinks, on brokers in memory: they keep what every connector promises, and
//! flows that read and write them lose nothing.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use millstream::{
    Target, Time,
    connector::{Code, Guarantee, Sink, murmur2_of},
    prelude::*,
    test::{Folder, conformance},
};
use millstream_kafka::{
    KafkaSink, KafkaSource,
    client::{
        Client, Record, Records, Start, TopicPartition, TopicSpec,
        memory::{Cluster, Connection},
    },
};

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    n: u64,
    name: Option<String>,
}

fn rows(n: u64) -> Vec<Row> {
    (0..n).map(|n| Row { n, name: (n % 3 > 0).then(|| format!("row {n}")) }).collect()
}

fn topic(client: &dyn Client, name: &str, partitions: u32) {
    let spec = TopicSpec { name: name.into(), partitions, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
}

/// Brokers with topic `in` of two partitions: committed and aborted transactions, and records
/// that are none.
fn filled(value: impl Fn(&Row) -> String) -> (Cluster, Arc<Connection>) {
    let cluster = Cluster::new();
    let client = cluster.connect("test");
    topic(&*client, "in", 2);
    topic(&*client, "small", 1);
    let small = [("max.message.bytes".to_string(), "1".to_string())];
    client.set_topic("small", &small).unwrap();
    for (n, row) in rows(300).iter().enumerate() {
        let at = TopicPartition::new("in", (n % 2) as u32);
        let mut writer = client.writer("writer", Arc::new(|| ())).unwrap();
        let mut records = Records::default();
        let mut push = |value: Option<&[u8]>| {
            let key = row.n.to_string();
            let time = Some(Time::from_ms(row.n as i64));
            records.push(&at, Record { key: Some(key.as_bytes()), value, headers: &[], time });
        };
        push(Some(value(row).as_bytes()));
        match n {
            100 => push(Some(b"{\"n\": \"no number\"}")),
            150 => push(None),
            200 => push(Some(b"")),
            _ => {}
        }
        if n % 7 == 0 {
            let too_large = Record { key: None, value: Some(b"xx"), headers: &[], time: None };
            let mut aborted = records.clone();
            aborted.push(&TopicPartition::new("small", 0), too_large);
            writer.submit(aborted);
            writer = client.writer("writer", Arc::new(|| ())).unwrap();
        }
        writer.submit(records);
    }
    (cluster, client)
}

/// What a topic holds, in order within each partition.
fn values(client: &dyn Client, topic: &str, partitions: u32) -> Vec<String> {
    let all = (0..partitions).filter_map(|partition| {
        let at = TopicPartition::new(topic, partition);
        client.read(&at, Start::Earliest, usize::MAX).unwrap()
    });
    let text = |record: Record<'_>| String::from_utf8_lossy(record.value.unwrap()).into_owned();
    all.flat_map(|piece| piece.iter().map(|(_, r)| text(r)).collect::<Vec<_>>()).collect()
}

#[test]
fn topics_are_read_on_from_any_position() {
    let (_cluster, client) = filled(|row| serde_json::to_string(row).unwrap());
    let json = KafkaSource::json(client, "in").unwrap();
    conformance::source::<Row>(&json.clone().finite());
    conformance::source::<Row>(&json);
    let (_cluster, client) =
        filled(|row| format!("{},{}", row.n, row.name.clone().unwrap_or_default()));
    let csv = KafkaSource::csv(client.clone(), "in", ["n", "name"]).unwrap();
    conformance::source::<Row>(&csv.finite());
    #[derive(Serialize, Deserialize)]
    struct Raw {
        value: Option<String>,
        key: String,
        offset: u64,
        at: i64,
        from: u32,
    }
    let raw = KafkaSource::raw(client, "in", "value").unwrap().key("key").offset("offset");
    conformance::source::<Raw>(&raw.timestamp("at").partition("from").finite());
}

#[test]
fn a_topic_gets_each_row_as_often_as_is_promised() {
    let cluster = Cluster::new();
    let client = cluster.connect("test");
    for name in ["least", "once"] {
        topic(&*client, name, 1);
    }
    let least = KafkaSink::json(client.clone(), "least").key(["n"]);
    assert_eq!(least.guarantee(), Guarantee::AtLeastOnce);
    conformance::sink(&least, &rows(10), || values(&*client, "least", 1));
    let once = KafkaSink::json(client.clone(), "once").exactly_once("conform");
    assert_eq!(once.guarantee(), Guarantee::ExactlyOnce);
    conformance::sink(&once, &rows(10), || values(&*client, "once", 1));
    assert_eq!(values(&*client, "once", 1).len(), 10);
    let csv = KafkaSink::csv(client.clone(), "once").exactly_once("conform-csv");
    conformance::sink(&csv, &rows(9), || values(&*client, "once", 1));
}

#[test]
fn two_sinks_under_one_name_are_refused() {
    let client = Cluster::new().connect("test");
    topic(&*client, "in", 1);
    let rows = KafkaSource::json(client.clone(), "in").unwrap();
    let sink = || KafkaSink::json(client.clone(), "out");
    let check = |one: KafkaSink, two: KafkaSink| {
        let flow = Flow::new("two").source("rows", rows.clone()).rows::<Row>();
        flow.sink("one", one).sink("two", two).check().map(drop)
    };
    let e = check(sink().exactly_once("x"), sink().exactly_once("x")).unwrap_err();
    let said = "sinks `two/one` and `two/two` both write to Kafka under the name `x`";
    assert!(e.message().contains(said), "{e}");
    check(sink().exactly_once("x"), sink().exactly_once("y")).unwrap();
    check(sink(), sink()).unwrap();
}

#[test]
fn a_flow_from_topic_to_topic_loses_nothing() {
    let (_cluster, client) = filled(|row| serde_json::to_string(row).unwrap());
    topic(&*client, "out", 3);
    let folder = Folder::new("topics");
    let flow = || {
        Flow::new("topics")
            .source("rows", KafkaSource::json(client.clone(), "in").unwrap().finite())
            .filter("all", |_: &Row| true)
            .sink("out", KafkaSink::json(client.clone(), "out").key(["n"]).exactly_once("topics"))
    };
    let data = folder.path().join("data");
    Node::embedded(&data).run(flow()).unwrap();
    let mut found: Vec<u64> = values(&*client, "out", 3)
        .iter()
        .map(|value| serde_json::from_str::<Row>(value).unwrap().n)
        .collect();
    found.sort_unstable();
    assert!(found.iter().copied().eq(0..300), "{found:?}");
    let letters = Target::find(None, Some(&data)).unwrap().dead(None, None, 10).unwrap();
    let mut said: Vec<_> = letters.iter().map(|l| (l.file.as_str(), l.error.as_str())).collect();
    said.sort_unstable();
    assert_eq!(said.len(), 2);
    assert!(said.iter().all(|(place, _)| place.starts_with("topic in, partition 0, offset ")));
    let mut errors: Vec<_> = said.iter().map(|(_, error)| *error).collect();
    errors.sort_unstable();
    assert_eq!(errors, ["'no number' is not a number", "the value is empty"]);
    // Run again in the same directory, it has nothing to do.
    Node::embedded(&data).run(flow()).unwrap();
    assert_eq!(values(&*client, "out", 3).len(), 300);
}

/// Counts what its key gets, and tells others.
#[derive(Default, Serialize, Deserialize)]
struct Count(u64);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Said {
    n: u64,
    tell: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    user: String,
    n: u64,
    count: u64,
}

impl Process for Count {
    type In = Said;
    type Out = Counted;

    fn handle(&mut self, said: Said, ctx: &mut Context<Self>) -> Result<()> {
        self.0 += 1;
        if let Some(other) = said.tell {
            ctx.send::<Count>(other, &Said { n: said.n, tell: None })?;
        }
        ctx.emit(Counted { user: ctx.key().into_owned(), n: said.n, count: self.0 });
        Ok(())
    }
}

/// Appends records of keys to the partitions where Kafka's clients put them, or to another.
fn say(client: &dyn Client, said: &[(&str, Said)], partition: Option<u32>) {
    let mut records = Records::default();
    for (user, said) in said {
        let at = partition.unwrap_or_else(|| murmur2_of(user.as_bytes(), 5));
        let value = serde_json::to_vec(said).unwrap();
        let at = TopicPartition::new("in", at);
        records.push(&at, Record::of(user.as_bytes(), Some(&value)));
    }
    client.append(records, Box::new(|done| assert!(done.is_ok(), "{done:?}")));
}

#[test]
fn a_topic_that_is_partitioned_by_its_key_is_read_without_an_exchange() {
    let cluster = Cluster::new();
    let client = cluster.connect("test");
    topic(&*client, "in", 5);
    topic(&*client, "wider", 6);
    topic(&*client, "out", 2);
    let folder = Folder::new("keyed");
    let data = folder.path().join("data");
    let flow = |topic: &str| {
        let source = KafkaSource::json(client.clone(), topic).unwrap().keyed("user").finite();
        let sink = KafkaSink::json(client.clone(), "out").exactly_once("keyed");
        Flow::new("keyed")
            .source("said", source)
            .filter("any", |said: &Said| said.n < 1000)
            .key_by("user")
            .process::<Count>("count", OnError::DeadLetter)
            .sink("out", sink)
    };
    let users: Vec<String> = (0..40).map(|n| format!("user {n}")).collect();
    let next = |n: usize| &users[(n + 1) % users.len()];
    let said = |from: u64| -> Vec<(&str, Said)> {
        let one = |n: usize| Said { n: from + n as u64, tell: Some(next(n).clone()) };
        (0..users.len()).map(|n| (users[n].as_str(), one(n))).collect()
    };
    say(&*client, &said(0), None);
    say(&*client, &said(1000), None); // filtered
    let misplaced = (murmur2_of(b"user 0", 5) + 1) % 5;
    say(&*client, &[("user 0", Said { n: 7, tell: None })], Some(misplaced));
    say(&*client, &said(100), None);
    Node::embedded(&data).run(flow("in")).unwrap();
    Node::embedded(&data).run(flow("in")).unwrap(); // restores it
    // With another number of partitions keys would live elsewhere.
    let e = Node::embedded(&data).run(flow("wider")).unwrap_err();
    assert_eq!(e.code(), Code::Conflict, "{e}");
    let target = Target::find(None, Some(&data)).unwrap();
    let tasks = target.status().unwrap();
    let tasks: Vec<&str> = tasks.flows[0].stages.iter().map(|stage| &*stage.name).collect();
    assert_eq!(tasks, ["count", "out"], "nothing between topic and process");
    // Each got two records, and twice what the one before it was told.
    let mut counts: Vec<Counted> =
        values(&*client, "out", 2).iter().map(|v| serde_json::from_str(v).unwrap()).collect();
    assert_eq!(counts.len(), 4 * users.len());
    counts.sort_by(|a, b| (&a.user, a.count).cmp(&(&b.user, b.count)));
    for (n, counted) in counts.iter().enumerate() {
        assert_eq!(counted.count, n as u64 % 4 + 1, "{counted:?}");
    }
    for user in &users {
        assert_eq!(target.process("count", user).unwrap().process["state"], 4);
    }
    assert!(target.process("count", "nobody").is_err());
    let letters = target.dead(None, None, 10).unwrap();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let own = murmur2_of(b"user 0", 5);
    assert_eq!(letter.error, format!("the key belongs into partition {own}"));
    assert_eq!(
        letter.file,
        format!("topic in, partition {misplaced}, offset {}", letter_offset(&*client, misplaced))
    );
}

/// The offset of the one record of a partition that is not where its key belongs.
fn letter_offset(client: &dyn Client, partition: u32) -> u64 {
    let piece = client.read(&TopicPartition::new("in", partition), Start::Earliest, usize::MAX);
    let piece = piece.unwrap().unwrap();
    let of = |record: &Record<'_>| murmur2_of(record.key.unwrap(), 5);
    piece.iter().find(|(_, record)| of(record) != partition).unwrap().0
}
