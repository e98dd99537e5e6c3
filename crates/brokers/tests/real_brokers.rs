//! What the proxy does to a real client of real brokers, judged by Kafka's own reader.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::symlink,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use millstream_brokers::{Api, Brokers, DEADLINE, Links, or_skip};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
};

fn config(node: &Links) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", node.bootstrap());
    config
}

fn producer(node: &Links) -> BaseProducer {
    config(node).set("linger.ms", "0").create().unwrap()
}

fn transactional(node: &Links, id: &str) -> BaseProducer {
    let producer: BaseProducer =
        config(node).set("linger.ms", "0").set("transactional.id", id).create().unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer
}

fn send(producer: &BaseProducer, topic: &str, value: &str) {
    let record = BaseRecord::<(), str>::to(topic).partition(0).payload(value);
    producer.send(record).map_err(|(e, _)| e).unwrap();
}

/// Whether the commit has ended well within `within`, ending included what the client tries again.
fn commit(producer: &BaseProducer, within: Duration) -> Result<(), KafkaError> {
    producer.commit_transaction(within)
}

fn values(brokers: &Brokers, topic: &str) -> Vec<String> {
    brokers.committed(topic).iter().map(|r| r.text().to_string()).collect()
}

#[test]
fn what_goes_through_a_link_is_committed_and_read() {
    let brokers = or_skip!(Brokers::shared());
    let [node] = brokers.nodes();
    let topic = brokers.topic("plain", 2, &[("cleanup.policy", "compact")]);
    let producer = producer(&node);
    let key = [0, 255, 10];
    let sent = [Some("one"), Some(""), None];
    for value in sent {
        let mut record = BaseRecord::<[u8], str>::to(&topic).partition(1).key(&key);
        record.payload = value;
        producer.send(record).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
    let judged = brokers.committed(&topic);
    let text = |value: &Option<Vec<u8>>| value.clone().map(|v| String::from_utf8(v).unwrap());
    let read: Vec<_> = judged.iter().map(|r| (r.partition, r.offset, text(&r.value))).collect();
    let expected: Vec<_> =
        (0..).zip(sent).map(|(n, value)| (1, n, value.map(str::to_string))).collect();
    assert_eq!(read, expected);
    assert!(judged.iter().all(|r| r.key.as_deref() == Some(&key)));
    // All of it went through this node's links, and none through others.
    assert!(node.requests(Api::PRODUCE) >= 1);

    let consumer: BaseConsumer = config(&node).set("group.id", "none").create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&topic, 1, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    for value in sent {
        let message = consumer.poll(DEADLINE).unwrap().unwrap();
        assert_eq!(message.payload().unwrap_or_default(), value.unwrap_or_default().as_bytes());
    }
    assert!(node.requests(Api::FETCH) >= 1);
}

#[test]
fn who_leads_a_partition_gets_its_records() {
    let brokers = or_skip!(Brokers::shared());
    let topic = brokers.topic("led", 4, &[]);
    for partition in 0..4 {
        let [node] = brokers.nodes();
        let producer = producer(&node);
        let record = BaseRecord::<(), str>::to(&topic).partition(partition).payload("one");
        producer.send(record).map_err(|(e, _)| e).unwrap();
        producer.flush(DEADLINE).unwrap();
        let leader = usize::from(brokers.leader(&topic, partition as u32));
        let got = [1, 2, 3].map(|n| node.to(n).requests(Api::PRODUCE) > 0);
        assert_eq!(got, [1, 2, 3].map(|n| n == leader), "partition {partition}");
    }
}

#[test]
fn the_judge_sees_no_aborted_and_no_open_transaction() {
    let brokers = or_skip!(Brokers::shared());
    let [node] = brokers.nodes();
    let topic = brokers.topic("judged", 1, &[]);
    let producer = transactional(&node, &topic);
    for value in ["aborted", "committed", "open"] {
        producer.begin_transaction().unwrap();
        send(&producer, &topic, value);
        producer.flush(DEADLINE).unwrap();
        match value {
            "aborted" => producer.abort_transaction(DEADLINE).unwrap(),
            "committed" => commit(&producer, DEADLINE).unwrap(),
            _ => {}
        }
    }
    assert_eq!(values(brokers, &topic), ["committed"]);
    // Nothing is not the same as no such topic.
    assert!(catch_unwind(AssertUnwindSafe(|| brokers.committed("none"))).is_err());
}

#[test]
fn a_delay_is_felt_by_one_node_alone() {
    const WAY: Duration = Duration::from_millis(200);
    let brokers = or_skip!(Brokers::shared());
    let [slow, quick] = brokers.nodes();
    let topic = brokers.topic("delay", 1, &[]);
    let producers = [&slow, &quick].map(|node| producer(node));
    for producer in &producers {
        send(producer, &topic, "connected");
        producer.flush(DEADLINE).unwrap();
    }
    slow.delay(WAY, WAY);
    let took = producers.each_ref().map(|producer| {
        let begun = Instant::now();
        send(producer, &topic, "measured");
        producer.flush(DEADLINE).unwrap();
        begun.elapsed()
    });
    assert!(took[0] >= 2 * WAY, "{took:?}");
    assert!(took[1] < took[0], "{took:?}");
}

#[test]
fn a_node_that_is_cut_off_sends_when_it_is_healed() {
    let brokers = or_skip!(Brokers::shared());
    let [cut, whole] = brokers.nodes();
    let topic = brokers.topic("cut", 1, &[]);
    let producers = [&cut, &whole].map(|node| producer(node));
    for producer in &producers {
        send(producer, &topic, "before");
        producer.flush(DEADLINE).unwrap();
    }
    cut.cut();
    let before = cut.requests(Api::PRODUCE);
    send(&producers[0], &topic, "late");
    send(&producers[1], &topic, "meanwhile");
    producers[1].flush(DEADLINE).unwrap();
    assert_eq!(values(brokers, &topic), ["before", "before", "meanwhile"]);
    assert_eq!(cut.requests(Api::PRODUCE), before);
    cut.heal();
    producers[0].flush(DEADLINE).unwrap();
    assert_eq!(values(brokers, &topic), ["before", "before", "meanwhile", "late"]);
}

#[test]
fn an_end_of_transaction_arrives_after_its_client_has_gone() {
    let brokers = or_skip!(Brokers::shared());
    let [node] = brokers.nodes();
    let topic = brokers.topic("late", 1, &[]);
    let producer = transactional(&node, &topic);
    let held = node.hold(Api::END_TXN, u32::MAX);
    producer.begin_transaction().unwrap();
    send(&producer, &topic, "late");
    commit(&producer, Duration::from_secs(1)).unwrap_err();
    held.wait(1, DEADLINE);
    drop(producer);
    assert_eq!(values(brokers, &topic), [] as [&str; 0]);
    held.release(DEADLINE);
    // The markers are written after the answer: the next producer waits for them.
    transactional(&node, &topic);
    assert_eq!(values(brokers, &topic), ["late"]);
}

#[test]
fn a_transaction_whose_answer_is_lost_is_committed_all_the_same() {
    let brokers = or_skip!(Brokers::shared());
    let [node] = brokers.nodes();
    let topic = brokers.topic("lost", 1, &[]);
    let first = transactional(&node, &topic);
    node.lose_answers(Api::END_TXN, u32::MAX);
    first.begin_transaction().unwrap();
    send(&first, &topic, "silence");
    commit(&first, Duration::from_secs(1)).unwrap_err();
    node.wait_answers(Api::END_TXN, 1, DEADLINE);
    drop(first);
    node.heal();
    // What a client that is told of it at once does by itself.
    let second = transactional(&node, &topic);
    node.break_answers(Api::END_TXN, 1);
    second.begin_transaction().unwrap();
    send(&second, &topic, "broken");
    commit(&second, DEADLINE).unwrap();
    assert!(node.answers(Api::END_TXN) >= 3);
    transactional(&node, &topic);
    assert_eq!(values(brokers, &topic), ["silence", "broken"]);
}

/// This test binary's `what_goes_through_a_link_is_committed_and_read`, where there is no Java.
fn without_java(ci: &str) -> Output {
    let bin = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("no-java-{ci}"));
    let _ = fs::remove_dir_all(&bin);
    fs::create_dir_all(&bin).unwrap();
    let path = std::env::var("PATH").unwrap();
    for name in ["bash", "dirname", "sed"] {
        let found = path.split(':').map(|dir| Path::new(dir).join(name)).find(|at| at.exists());
        symlink(found.unwrap(), bin.join(name)).unwrap();
    }
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_goes_through_a_link_is_committed_and_read"])
        .env("PATH", &bin)
        .env("CI", ci)
        .output()
        .unwrap()
}

#[test]
fn without_java_a_test_is_skipped_by_name_and_fails_in_ci() {
    let why = "there is no java; Kafka needs Java 17 or later";
    let output = without_java("false");
    let said = String::from_utf8_lossy(&output.stderr);
    let line = format!("skipped: what_goes_through_a_link_is_committed_and_read: {why}\n");
    assert_eq!((said.as_ref(), output.status.success()), (line.as_str(), true));
    let output = without_java("true");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("{why}; with CI=true no test is skipped")), "{said}");
    assert!(!output.status.success());
}
