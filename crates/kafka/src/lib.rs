//! Apache Kafka: the distributed engine, and connectors for users' own topics.
//!
//! *Why it exists:* Kafka already replicates, orders and fences; what it lacks for us is in here:
//! turns as transactions, placement of tasks on nodes, fast detection of dead ones.
//!
//! [`cluster`] is who is there and who runs which task: pure, without a broker.
//! [`client`] is all that we ask of Kafka. The cargo feature `brokers` brings the client that talks
//! to real ones.

pub mod client;
pub mod cluster;
pub mod engine;
