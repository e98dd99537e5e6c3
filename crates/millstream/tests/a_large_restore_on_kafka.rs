//! A node that restores one task's large state goes on with its other tasks meanwhile.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::{Arc, mpsc::sync_channel},
    time::{Duration, Instant},
};

use millstream::{Running, prelude::*};
use millstream_brokers::{Brokers, DEADLINE, or_skip};
use millstream_kafka::{
    KafkaSink, KafkaSource,
    client::{Client, Reader, Record, Records, Start, TopicPartition},
};

const APP: &str = "large";
/// With [`STATE_BYTES`] each: 150 MB.
const KEYS: u64 = 300;
const STATE_BYTES: usize = 500_000;
/// Turns of another task that are to be committed, one after the other, while the state is read.
const TURNS_MIN: u64 = 8;
/// Brokers, the node and all other tests share two cores.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize, Deserialize)]
struct Event {
    key: u64,
}

/// Keeps a text that does not shrink when it is compressed.
#[derive(Default, Serialize, Deserialize)]
struct Keeper {
    text: String,
    seen: u64,
}

#[derive(Serialize, Deserialize)]
struct Seen {
    key: u64,
    seen: u64,
    bytes: usize,
}

impl Process for Keeper {
    type In = Event;
    type Out = Seen;

    fn handle(&mut self, event: Event, ctx: &mut Context<Self>) -> Result<()> {
        if self.seen == 0 {
            let mut random = event.key + 1;
            let letter = |_| {
                // Of a linear congruential generator, the better bits.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(b' ' + (random >> 58) as u8)
            };
            self.text = (0..STATE_BYTES).map(letter).collect();
        }
        self.seen += 1;
        ctx.emit(Seen { key: event.key, seen: self.seen, bytes: self.text.len() });
        Ok(())
    }
}

/// Counts events.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    seen: u64,
}

impl Process for Counter {
    type In = Event;
    type Out = Seen;

    fn handle(&mut self, event: Event, ctx: &mut Context<Self>) -> Result<()> {
        self.seen += 1;
        ctx.emit(Seen { key: event.key, seen: self.seen, bytes: 0 });
        Ok(())
    }
}

/// A flow's input and output, as a client past the node writes and reads them.
struct Ends {
    client: Arc<dyn Client>,
    from: String,
    to: String,
    reader: Box<dyn Reader>,
    seen: Vec<Seen>,
}

impl Ends {
    fn new(brokers: &Brokers, client: &Arc<dyn Client>, name: &str) -> Ends {
        let [from, to] = ["from", "to"].map(|end| brokers.topic(&format!("{name}-{end}"), 1, &[]));
        let at = TopicPartition::new(&*to, 0);
        let reader = client.reader(&at, Start::Earliest, 1 << 20, Arc::new(|| ())).unwrap();
        Ends { client: client.clone(), from, to, reader, seen: Vec::new() }
    }

    fn send(&self, keys: impl Iterator<Item = u64>) {
        let mut records = Records::default();
        let at = TopicPartition::new(&*self.from, 0);
        for key in keys {
            let event = serde_json::to_vec(&Event { key }).unwrap();
            records.push(&at, Record::of(b"", Some(&event)));
        }
        // Bounded by 1: the one answer.
        let (done, acknowledged) = sync_channel(1);
        self.client.append(records, Box::new(move |result| drop(done.send(result))));
        acknowledged.recv_timeout(DEADLINE).unwrap().unwrap();
    }

    /// How many rows have come out.
    fn hear(&mut self) -> usize {
        while let Some(piece) = self.reader.poll().unwrap() {
            let rows = piece.iter().map(|(_, record)| record.value.unwrap());
            self.seen.extend(rows.map(|row| serde_json::from_slice::<Seen>(row).unwrap()));
        }
        self.seen.len()
    }

    fn until(&mut self, rows: usize) {
        let begun = Instant::now(); // Clock: a test that hangs is to end.
        while self.hear() < rows {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} of {rows} rows in {}",
                self.seen.len(),
                self.to
            );
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

/// One worker: while it is busy with one task, no other one runs.
fn start(brokers: &Brokers, large: &Ends, small: &Ends) -> Running {
    let address = format!("kafka://{}", brokers.bootstrap());
    let node = Node::kafka(&address, APP, "a").unwrap().workers(1).signals(false);
    let client = node.kafka_client().unwrap();
    let flow = |name: &str, ends: &Ends| {
        let source = KafkaSource::json(client.clone(), &ends.from).unwrap();
        Flow::new(name).partitions(1).source("events", source)
    };
    let sink = |ends: &Ends| KafkaSink::json(client.clone(), &ends.to);
    let keeper = flow("large", large).key_by("key").process::<Keeper>("keeper", OnError::Stop);
    let counter = flow("small", small).key_by("key").process::<Counter>("counter", OnError::Stop);
    let flows = [keeper.sink("out", sink(large)), counter.sink("out", sink(small))];
    let node = node.start().unwrap();
    flows.iter().for_each(|flow| node.deploy(flow).unwrap());
    node
}

#[test]
fn other_tasks_go_on_while_a_large_state_is_restored() {
    let brokers = or_skip!(Brokers::shared());
    let past = Node::kafka(&format!("kafka://{}", brokers.bootstrap()), APP, "load").unwrap();
    let client = past.kafka_client().unwrap();
    let [mut large, mut small] = ["large", "small"].map(|name| Ends::new(brokers, &client, name));
    let begun = Instant::now(); // Clock: shown to people.
    let node = start(brokers, &large, &small);
    small.send([0].into_iter());
    for keys in 0..KEYS / 20 {
        large.send(20 * keys..20 * (keys + 1));
        large.until(20 * (keys as usize + 1));
    }
    small.until(1);
    println!("written after {:?}", begun.elapsed());
    node.stop();

    let begun = Instant::now(); // Clock: shown to people.
    let node = start(brokers, &large, &small);
    large.send([0].into_iter());
    let mut turns = 0;
    while large.hear() == KEYS as usize {
        turns += 1;
        small.send([0].into_iter());
        small.until(turns + 1);
    }
    println!("{turns} turns of another task in {:?}", begun.elapsed());
    let last = large.seen.last().unwrap();
    assert_eq!((last.key, last.seen, last.bytes), (0, 2, STATE_BYTES), "it has restored its state");
    assert!(small.seen.iter().map(|row| row.seen).eq(1..=turns as u64 + 1));
    assert!(turns as u64 >= TURNS_MIN, "{turns} turns");
    node.stop();
}
