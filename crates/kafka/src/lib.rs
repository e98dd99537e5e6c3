//! Apache Kafka: the distributed engine, and connectors for users' own topics.
//!
//! *Why it exists:* Kafka already replicates, orders and fences; what it lacks for us is in here:
//! turns as transactions, placement of tasks on nodes, fast detection of dead ones.
//!
//! [`client`] is all that we ask of Kafka; [`options`] say how it is reached. The cargo feature
//! `brokers` brings the client that talks to real ones. [`source`] and [`sink`] are for users' own
//! topics, on any engine. [`cluster`] is who is there and who runs which task: pure, without a
//! broker.

mod bell;
pub mod client;
pub mod cluster;
pub mod engine;
pub mod options;
pub mod sink;
pub mod source;

pub use options::Options;
pub use sink::KafkaSink;
pub use source::{Begin, KafkaSource};
