//! Topics as sources and sinks on real brokers.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use millstream::{
    Guarantee,
    prelude::*,
    runtime::node::FlowState,
    test::{Folder, conformance},
};
use millstream_brokers::{Brokers, or_skip};
use millstream_kafka::{
    KafkaSink, KafkaSource, Options,
    client::{Client, Record, Records, TopicPartition, TopicSpec, rd::RdClient},
};

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    n: u64,
    name: Option<String>,
}

fn rows(n: u64) -> Vec<Row> {
    (0..n).map(|n| Row { n, name: (n % 3 > 0).then(|| format!("row {n}")) }).collect()
}

/// A client, and how names begin that nobody else has.
fn client(brokers: &Brokers, test: &str) -> (Arc<dyn Client>, String) {
    let options = Options::parse(&format!("kafka://{}", brokers.bootstrap()), []).unwrap();
    let client = RdClient::connect(options.properties().unwrap(), "test").unwrap();
    (client, format!("{test}-"))
}

fn topic(client: &dyn Client, name: &str, partitions: u32) {
    let spec = TopicSpec { name: name.into(), partitions, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
}

/// What a topic holds, in order within each partition.
fn values(client: &dyn Client, topic: &str, partitions: u32) -> Vec<String> {
    let mut found = Vec::new();
    for partition in 0..partitions {
        let all = client.read_all(&TopicPartition::new(topic, partition), |_, record| {
            found.push(String::from_utf8_lossy(record.value.unwrap()).into_owned());
            Ok(())
        });
        all.unwrap();
    }
    found
}

/// Writes rows in transactions of ten.
fn fill(client: &dyn Client, topic: &str, rows: &[Row]) {
    let mut sink = client.writer(&format!("{topic}-writer"), Arc::new(|| ())).unwrap();
    for (n, chunk) in rows.chunks(10).enumerate() {
        let at = TopicPartition::new(topic, n as u32 % 2);
        let mut records = Records::default();
        for row in chunk {
            let value = serde_json::to_vec(row).unwrap();
            records.push(&at, Record::of(row.n.to_string().as_bytes(), Some(&value)));
        }
        sink.submit(records);
        while sink.outcome() != Some(millstream_kafka::client::Outcome::Committed) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn topics_of_real_brokers_are_read_on_from_any_position() {
    let (client, prefix) = client(or_skip!(Brokers::shared()), "read");
    let name = format!("{prefix}in");
    topic(&*client, &name, 2);
    fill(&*client, &name, &rows(60));
    conformance::source::<Row>(&KafkaSource::json(client, &name).unwrap().finite());
}

#[test]
fn a_topic_of_real_brokers_gets_each_row_as_often_as_is_promised() {
    let (client, prefix) = client(or_skip!(Brokers::shared()), "written");
    for once in [false, true] {
        let name = format!("{prefix}out-{once}");
        topic(&*client, &name, 1);
        let sink = KafkaSink::json(client.clone(), &name).key(["n"]);
        let sink = if once { sink.exactly_once(&name) } else { sink };
        conformance::sink(&sink, &rows(10), || values(&*client, &name, 1));
    }
}

#[test]
fn a_flow_between_topics_of_real_brokers_loses_nothing() {
    let (client, prefix) = client(or_skip!(Brokers::shared()), "flow");
    let (from, to) = (format!("{prefix}in"), format!("{prefix}out"));
    topic(&*client, &from, 2);
    topic(&*client, &to, 3);
    fill(&*client, &from, &rows(300));
    let flow = Flow::new("topics")
        .source("rows", KafkaSource::json(client.clone(), &from).unwrap().finite())
        .filter("all", |_: &Row| true)
        .sink("out", KafkaSink::json(client.clone(), &to).key(["n"]).exactly_once(&to));
    let folder = Folder::new("real-topics");
    Node::embedded(folder.path().join("data")).run(flow).unwrap();
    let found = values(&*client, &to, 3);
    let mut found: Vec<u64> =
        found.iter().map(|value| serde_json::from_str::<Row>(value).unwrap().n).collect();
    found.sort_unstable();
    assert!(found.into_iter().eq(0..300));
}

/// A turn's rows are records of the transaction that commits it, whatever the sinks promise
/// elsewhere: no header of ours, no topic of numbers.
#[test]
fn a_flow_on_kafka_writes_rows_with_its_turns() {
    let brokers = or_skip!(Brokers::shared());
    let (client, prefix) = client(brokers, "with-turns");
    let [from, least, once] = ["in", "least", "once"].map(|name| format!("{prefix}{name}"));
    for name in [&from, &least, &once] {
        topic(&*client, name, 2);
    }
    fill(&*client, &from, &rows(300));
    let to = |topic: &str| KafkaSink::json(client.clone(), topic).key(["n"]);
    let flow = Flow::new("topics")
        .source("rows", KafkaSource::json(client.clone(), &from).unwrap().finite())
        .filter("all", |_: &Row| true)
        .sink("least", to(&least))
        .sink("once", to(&once).exactly_once(&once));
    let address = format!("kafka://{}", brokers.bootstrap());
    let node = Node::kafka(&address, &prefix, "a").unwrap().http(":0").signals(false);
    let running = node.start().unwrap();
    running.deploy(&flow).unwrap();
    assert_eq!(running.wait(flow.name()), FlowState::Finished);
    let promises = running.heart().sinks().into_iter().map(|sink| sink.promise);
    assert!(promises.eq([Guarantee::ExactlyOnce; 2]), "whatever they say of themselves");
    for name in [&least, &once] {
        let found = brokers.committed(name);
        let mut numbers: Vec<u64> =
            found.iter().map(|r| serde_json::from_str::<Row>(r.text()).unwrap().n).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..300), "{name}");
        assert!(found.iter().all(|r| r.headers.is_empty()), "{name}: {:?}", found[0]);
    }
    let numbers = format!("millstream-sink-{once}-0");
    assert!(client.topic(&numbers).unwrap().is_none(), "{numbers}");
}

/// Names and values that our options give are those of the library. It needs no brokers.
#[test]
fn the_library_knows_our_options() {
    let connect = |query: &str| {
        let secrets = [("MILLSTREAM_KAFKA_SASL_PASSWORD".to_string(), "pw".to_string())];
        let options = Options::parse(&format!("kafka://127.0.0.1:1?{query}"), secrets).unwrap();
        RdClient::connect(options.properties().unwrap(), "test").map(drop)
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for protocol in ["", "&security.protocol=SASL_PLAINTEXT"] {
            let query = format!("sasl.mechanism={mechanism}&sasl.username=me{protocol}");
            connect(&query).unwrap();
        }
    }
    assert!(connect("sasl.mechanism=PLAIN&sasl.username=me&no.such.option=1").is_err());
}

/// librdkafka repeats the value of an option that it refuses.
#[test]
fn a_secret_that_the_library_refuses_is_not_shown() {
    const SECRET: &str = "hunter2";
    let name = "MILLSTREAM_KAFKA_NO_SUCH_PASSWORD".to_string();
    let options = Options::parse("kafka://127.0.0.1:1", [(name, SECRET.to_string())]).unwrap();
    let Err(e) = RdClient::connect(options.properties().unwrap(), "test") else {
        panic!("there is no such option")
    };
    assert!(e.message().contains("no.such.password") && !e.to_string().contains(SECRET), "{e}");
}
