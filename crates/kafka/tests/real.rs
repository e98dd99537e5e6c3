//! Client and engine keep their promises on real brokers.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millstream_brokers::{Brokers, or_skip};
use millstream_core::engine::Engine;
use millstream_kafka::{
    client::{self, Client, TopicSpec, rd::RdClient},
    engine::{KafkaEngine, Options, Threads},
};
use millstream_runtime::conformance::{self, Subject};

/// Checks at a time: most of their time they wait.
const AT_ONCE: usize = 8;

fn connect(brokers: &Brokers) -> Arc<dyn Client> {
    let servers = ("bootstrap.servers".to_string(), brokers.bootstrap());
    RdClient::connect(vec![servers], "conformance").unwrap()
}

/// Runs all checks, several at a time; says which one has failed.
fn all<C: Sync>(checks: &[(&str, C)], run: impl Fn(&str, &C) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, check)) = checks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    println!("{name} begins");
                    run(name, check);
                    println!("{name} holds");
                }
            });
        }
    });
}

#[test]
fn the_client_keeps_its_promises() {
    let brokers = or_skip!(Brokers::shared());
    let client = connect(brokers);
    all(client::conformance::CHECKS, |name, check| {
        check(&client::conformance::Subject {
            client: client.clone(),
            prefix: format!("client-{name}"),
        });
    });
}

/// Kafka's own default is one, which is the default of these brokers too.
#[test]
fn two_replicas_must_have_what_is_committed() {
    let brokers = or_skip!(Brokers::shared());
    let client = connect(brokers);
    let spec = TopicSpec { name: "two-replicas".into(), partitions: 1, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    let found = client.topic(&spec.name).unwrap().unwrap().settings;
    let least = found.iter().find(|(key, _)| key == "min.insync.replicas").map(|(_, v)| v.as_str());
    assert_eq!(least, Some("2"));
}

struct Real {
    app: String,
    client: Arc<dyn Client>,
    running: Option<(KafkaEngine, Threads)>,
    runs: u64,
}

impl Real {
    fn new(client: Arc<dyn Client>, app: String) -> Real {
        let mut real = Real { app, client, running: None, runs: 0 };
        real.connect();
        real
    }

    fn connect(&mut self) {
        self.runs += 1;
        let (app, node) = (self.app.clone(), "one".to_string());
        let options = Options { app, node, incarnation: self.runs, member: None };
        let connected = KafkaEngine::connect(&options, self.client.clone()).unwrap();
        self.running = Some((connected.engine.clone(), Threads::start(connected).unwrap()));
    }
}

impl Subject for Real {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.running.as_ref().unwrap().0.clone())
    }

    fn settle(&mut self) {
        std::thread::park_timeout(Duration::from_millis(20));
    }

    fn restart(&mut self) {
        self.running = None;
        self.connect();
    }

    fn owns_its_log(&self) -> bool {
        false
    }
}

#[test]
fn the_engine_keeps_its_promises() {
    let brokers = or_skip!(Brokers::shared());
    let client = connect(brokers);
    all(conformance::CHECKS, |name, check| {
        check(&mut Real::new(client.clone(), name.to_string()));
    });
}
