//! The Kafka engine keeps the engines' contract, on brokers in memory and on real ones.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{sync::Arc, time::Duration};

use millstream_core::engine::Engine;
use millstream_kafka::{
    client::{Client, memory},
    engine::{Connected, KafkaEngine, Options},
};
use millstream_runtime::conformance::{self, Subject};

/// An engine on brokers in memory; everything there happens at once.
struct InMemory {
    cluster: memory::Cluster,
    connection: Arc<memory::Connection>,
    engine: Option<Connected>,
    runs: u64,
}

fn connect(client: Arc<dyn Client>, app: &str, incarnation: u64) -> Connected {
    let options = Options { app: app.into(), node: "one".into(), incarnation, member: None };
    KafkaEngine::connect(&options, client).unwrap()
}

impl InMemory {
    fn new() -> InMemory {
        let cluster = memory::Cluster::new();
        let connection = cluster.connect("one");
        let engine = Some(connect(connection.clone(), "test", 1));
        InMemory { cluster, connection, engine, runs: 1 }
    }
}

impl Subject for InMemory {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine.as_ref().unwrap().engine.clone())
    }

    fn settle(&mut self) {
        let connected = self.engine.as_mut().unwrap();
        connected.upkeep.step(Duration::ZERO).unwrap();
        connected.upkeep.step(Duration::from_secs(3600)).unwrap();
        connected.trimmer.step().unwrap();
    }

    fn restart(&mut self) {
        self.engine = None;
        self.connection.crash();
        self.runs += 1;
        self.connection = self.cluster.connect("one");
        self.engine = Some(connect(self.connection.clone(), "test", self.runs));
    }

    fn owns_its_log(&self) -> bool {
        false
    }
}

#[test]
fn conforms_on_brokers_in_memory() {
    conformance::run_all(|_| InMemory::new());
}
