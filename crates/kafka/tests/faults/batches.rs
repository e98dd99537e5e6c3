//! Records of one turn that fare differently: some are written, and some refused, late, or lost.

use std::{sync::Arc, time::Duration};

use millstream_brokers::{Api, Brokers, DEADLINE, Node, or_skip};
use millstream_core::Code;
use millstream_kafka::client::{
    Client, Outcome, Record, Records, TopicPartition, TopicSpec, Writer,
};

use crate::oracle::{Bell, HASTE, client};

/// More than one of it does not go into a request.
const BIG: usize = 600_000;

/// A writer, and what it rings.
struct Hand(Box<dyn Writer>, Arc<Bell>);

impl Hand {
    fn new(client: &Arc<dyn Client>, id: &str) -> Hand {
        let bell = Arc::new(Bell::default());
        let rings = bell.clone();
        let mut hand = Hand(client.writer(id, Arc::new(move || rings.ring())).unwrap(), bell);
        assert_eq!(hand.outcome(), Outcome::Ready);
        hand
    }

    fn outcome(&mut self) -> Outcome {
        self.1.until("an outcome", || self.0.outcome())
    }

    fn commit(&mut self, records: Records) -> Outcome {
        self.0.submit(records);
        self.outcome()
    }
}

/// A topic, and three records for it that take as many requests; the first one will be refused
/// when the others are on their way.
fn three(node: &Node<'_>, client: &Arc<dyn Client>, topic: &str) -> Records {
    let settings = vec![("max.message.bytes".into(), "8388608".into())];
    client.create_topic(&TopicSpec { name: topic.into(), partitions: 1, settings }).unwrap();
    let at = TopicPartition::new(topic, 0);
    let mut records = Records::default();
    for n in 0..3 {
        records.push(&at, Record::of(b"k", Some(&vec![n; BIG])));
    }
    node.unheard_of(topic, Api::PRODUCE, 1);
    node.delay(Duration::ZERO, Duration::from_millis(300));
    records
}

/// What is committed, by the byte that each record is made of.
fn committed(brokers: &Brokers, topic: &str) -> Vec<u8> {
    brokers.committed(topic).iter().map(|record| record.value.as_ref().unwrap()[0]).collect()
}

/// A broker that has not heard of a topic yet, as happens after it was made, refuses the first of
/// three requests. Knowing nothing of the writer either, it takes those behind it as they are, gap
/// or no gap, and librdkafka concludes from that that the first one must have been written.
#[test]
fn a_turn_whose_first_records_are_refused_at_first_is_written_whole() {
    let brokers = or_skip!(Brokers::shared());
    let [node] = brokers.nodes();
    let client = client(&node.bootstrap(), &[]);
    let mut writer = Hand::new(&client, "refused");
    let topic = "refused-at-first";
    assert_eq!(writer.commit(three(&node, &client, topic)), Outcome::Committed);
    let written = Bell::default().until("the mark", || {
        Some(committed(brokers, topic)).filter(|written| written.contains(&2))
    });
    assert_eq!(written, [0, 1, 2]);
    assert!(node.requests(Api::PRODUCE) > 3, "none was refused");
}

#[test]
fn who_appends_records_is_told_if_the_first_are_lost() {
    let brokers = or_skip!(Brokers::shared());
    let [node] = brokers.nodes();
    let client = client(&node.bootstrap(), &[]);
    let topic = "refused-append";
    let (done, heard) = std::sync::mpsc::sync_channel(1);
    client.append(three(&node, &client, topic), Box::new(move |said| drop(done.send(said))));
    let said = heard.recv_timeout(DEADLINE).unwrap();
    let written = committed(brokers, topic);
    assert!(said.is_err() || written == [0, 1, 2], "{said:?}, but it has {written:?}");
    assert_eq!(said.unwrap_err().code(), Code::Unreachable, "{written:?}");
}

/// librdkafka asks for a new epoch when records have timed out.
#[test]
fn records_that_come_late_do_not_join_the_next_attempt() {
    let brokers = or_skip!(Brokers::shared());
    let [node] = brokers.nodes();
    let client = client(&node.bootstrap(), &[HASTE, ("message.timeout.ms", "1000")]);
    let at = TopicPartition::new(brokers.topic("late-records", 1, &[]), 0);
    let mut records = Records::default();
    for n in 0..2 {
        records.push(&at, Record::of(b"k", Some(&[n])));
    }
    let mut writer = Hand::new(&client, "late-records");
    let late = node.hold(Api::PRODUCE, 1);
    let next = node.hold(Api::PRODUCE, 1);
    writer.0.submit(records.clone());
    late.wait(1, DEADLINE);
    let given_up = Bell::default().until("the next attempt", || {
        (node.requests(Api::PRODUCE) > 1).then_some(None).or_else(|| writer.0.outcome().map(Some))
    });
    if let Some(outcome) = given_up {
        assert_eq!(outcome, Outcome::Unknown);
        writer = Hand::new(&client, "late-records");
        writer.0.submit(records.clone());
    }
    next.wait(1, DEADLINE);
    late.release(DEADLINE);
    next.release(DEADLINE);
    let mut outcome = writer.outcome();
    while outcome == Outcome::Unknown {
        outcome = Hand::new(&client, "late-records").commit(records.clone());
    }
    assert_eq!(outcome, Outcome::Committed);
    let written = || Some(committed(brokers, &at.topic)).filter(|written| !written.is_empty());
    assert_eq!(Bell::default().until("the mark", written), [0, 1]);
}
