//! Brokers that want TLS and a password.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use millstream_brokers::{Brokers, or_skip};
use millstream_core::Result;
use millstream_kafka::{
    Options,
    client::{Client, Record, Records, Start, TopicPartition, TopicSpec, rd::RdClient},
};

/// A client as a user makes it: by an address, and secrets from the environment.
fn connect(brokers: &Brokers, query: &str, password: &str) -> Result<Arc<dyn Client>> {
    let address = format!("kafka://{}?{query}", brokers.secured());
    let secret = ("MILLSTREAM_KAFKA_SASL_PASSWORD".to_string(), password.to_string());
    Ok(RdClient::connect(Options::parse(&address, [secret])?.properties()?, "secured")?)
}

/// What a user is told who cannot get in.
fn refusal(client: &Arc<dyn Client>) -> String {
    client.topic("any").unwrap_err().to_string()
}

/// Alice writes and reads.
fn is_let_in(brokers: &Brokers, alice: &str, topic: String) {
    let client = connect(brokers, alice, "alice-secret").unwrap();
    let spec = TopicSpec { name: topic.clone(), partitions: 1, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    let at = TopicPartition::new(topic.clone(), 0);
    let (done, heard) = std::sync::mpsc::sync_channel(1);
    let mut records = Records::default();
    records.push(&at, Record::of(b"k", Some(b"v")));
    client.append(records, Box::new(move |said| drop(done.send(said))));
    assert_eq!(heard.recv().unwrap(), Ok(0));
    let found = client.read(&at, Start::Earliest, 100).unwrap().unwrap();
    assert_eq!((found.len(), found.value(0).unwrap().as_slice()), (1, &b"v"[..]));
    assert_eq!(brokers.committed(&topic).len(), 1);
}

#[test]
fn tls_and_passwords() {
    let brokers = &or_skip!(Brokers::start_secured());
    let certificate = brokers.certificate();
    let tls = &format!("security.protocol=SASL_SSL&ssl.ca.location={}", certificate.display());
    // At the same time: whoever is kept out waits as long as a client's patience.
    std::thread::scope(|scope| {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            scope.spawn(move || {
                let alice = format!("{tls}&sasl.mechanism={mechanism}&sasl.username=alice");
                is_let_in(brokers, &alice, mechanism.to_lowercase());
                let said = refusal(&connect(brokers, &alice, "wrong-password").unwrap());
                assert!(said.contains("Authentication failed"), "{said}");
                assert!(said.contains("password") && !said.contains("wrong-password"), "{said}");
            });
        }
        scope.spawn(|| {
            let alice = "security.protocol=SASL_SSL&sasl.mechanism=PLAIN&sasl.username=alice";
            let said = refusal(&connect(brokers, alice, "alice-secret").unwrap());
            assert!(said.contains("certificate"), "{said}");
        });
    });
}
