//! Client and engine on real brokers.
#![cfg(feature = "brokers")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::engine::Engine;
use millstream_kafka::{
    client::{self, Client, rd::RdClient},
    engine::{KafkaEngine, Options, Upkeep},
};
use millstream_runtime::conformance::{self, Subject};

fn client() -> Arc<dyn Client> {
    let servers = std::env::var("MILLSTREAM_BROKERS").unwrap();
    RdClient::connect(vec![("bootstrap.servers".into(), servers)], "test").unwrap()
}

fn unique() -> String {
    format!("t{}-", std::process::id())
}

#[test]
fn the_client_keeps_its_promises() {
    let client = client();
    let only = std::env::var("ONLY").unwrap_or_default();
    for (name, check) in client::conformance::CHECKS.iter().filter(|c| c.0.contains(&only)) {
        let begun = Instant::now();
        let prefix = format!("{}{name}", unique());
        check(&client::conformance::Subject { client: client.clone(), prefix });
        println!("{name}: {:?}", begun.elapsed());
    }
}

struct Real {
    app: String,
    client: Arc<dyn Client>,
    engine: Option<(KafkaEngine, Upkeep)>,
    begun: Instant,
    runs: u64,
}

impl Real {
    fn new(app: String) -> Real {
        let mut real = Real { app, client: client(), engine: None, begun: Instant::now(), runs: 0 };
        real.connect();
        real
    }

    fn connect(&mut self) {
        self.runs += 1;
        let options = Options { app: self.app.clone(), node: "one".into(), incarnation: self.runs };
        self.engine = Some(KafkaEngine::connect(&options, self.client.clone()).unwrap());
    }
}

impl Subject for Real {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine.as_ref().unwrap().0.clone())
    }

    fn settle(&mut self) {
        let elapsed = self.begun.elapsed();
        self.engine.as_mut().unwrap().1.step(elapsed * 20).unwrap();
        std::thread::park_timeout(Duration::from_millis(5));
    }

    fn restart(&mut self) {
        self.engine.as_mut().unwrap().1.step(Duration::from_secs(360_000)).unwrap();
        self.engine = None;
        self.connect();
    }

    fn owns_its_log(&self) -> bool {
        false
    }
}

#[test]
fn the_engine_keeps_its_promises() {
    let only = std::env::var("ONLY").unwrap_or_default();
    for (name, check) in conformance::CHECKS.iter().filter(|c| c.0.contains(&only)) {
        let begun = Instant::now();
        check(&mut Real::new(format!("{}{name}", unique())));
        println!("{name}: {:?}", begun.elapsed());
    }
}

#[test]
#[ignore = "a measurement"]
fn how_long_things_take() {
    use millstream_kafka::client::{Outcome, Record, Records, Start, TopicPartition, TopicSpec};
    let client = client();
    let topic = format!("{}timing", unique());
    let lap = |what: &str, begun: Instant| println!("{what}: {:?}", begun.elapsed());
    let begun = Instant::now();
    let spec = TopicSpec { name: topic.clone(), partitions: 2, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    lap("topic", begun);
    let thread = std::thread::current();
    let waker: millstream_core::engine::Waker = Arc::new(move || thread.unpark());
    let at = TopicPartition::new(topic.as_str(), 0);
    let mut reader = client.reader(&at, Start::Earliest, 1 << 20, waker.clone()).unwrap();
    for round in 0..3 {
        let begun = Instant::now();
        let mut writer = client.writer(&format!("{topic}/w"), waker.clone()).unwrap();
        let wait = |expected: Outcome, w: &mut Box<dyn client::Writer>| loop {
            match w.outcome() {
                Some(outcome) => break assert_eq!(outcome, expected),
                None => std::thread::park_timeout(Duration::from_millis(100)),
            }
        };
        wait(Outcome::Ready, &mut writer);
        lap(&format!("round {round}: ready"), begun);
        for n in 0..6 {
            let begun = Instant::now();
            let mut records = Records::default();
            records.push(&at, Record::of(b"k", Some(b"v")));
            writer.submit(records);
            wait(Outcome::Committed, &mut writer);
            lap(&format!("commit {n}"), begun);
            while reader.poll().unwrap().is_none() {
                std::thread::park_timeout(Duration::from_millis(100));
            }
            lap(&format!("read {n}"), begun);
        }
    }
}
