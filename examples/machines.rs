//! Counts the readings of a hundred machines, without end, on as many nodes as there are.
//!
//!     cargo build -p millstream --features kafka --example machines
//!     cd target/debug/examples
//!     ./machines --engine kafka://127.0.0.1:19091 --app shop --name a --http :7071
//!
//! Start it again with `--name b --http :7072`, on this machine or another one, and the two share
//! the work; see `docs/cluster.md`. What it finds goes to topic `machines-counted`, each row once.

use millstream::prelude::*;
use millstream_kafka::{KafkaSink, client::TopicSpec};

/// A reading.
#[derive(Serialize, Deserialize)]
struct Reading {
    machine: u64,
    n: u64,
}

/// The state of one machine.
#[derive(Default, Serialize, Deserialize)]
struct Machine {
    readings: u64,
}

/// A reading, and how many there were of its machine.
#[derive(Serialize, Deserialize)]
struct Counted {
    machine: u64,
    n: u64,
    nth: u64,
}

impl Process for Machine {
    type In = Reading;
    type Out = Counted;

    fn handle(&mut self, Reading { machine, n }: Reading, ctx: &mut Context<Self>) -> Result<()> {
        self.readings += 1;
        ctx.emit(Counted { machine, n, nth: self.readings });
        Ok(())
    }
}

fn main() -> Result<()> {
    let node = Node::from_args("millstream-data")?;
    let client = node.kafka_client()?;
    let topic = "machines-counted";
    client.create_topic(&TopicSpec { name: topic.into(), partitions: 4, settings: vec![] })?;
    let readings = Generator::from_fn(1, 1 << 40, 4, |n, _| {
        serde_json::json!({ "machine": n % 100, "n": n }) // four sources, each with 25 machines
    });
    let flow = Flow::new("machines")
        .partitions(12) // for a few nodes; 64 to 128 where there may be many
        .source("readings", millstream::io::Paced::new(readings, 100))
        .key_by("machine")
        .process::<Machine>("machine", OnError::DeadLetter)
        .sink("counted", KafkaSink::json(client, topic).key(["machine"]).exactly_once(topic));
    node.run(flow)?;
    Ok(())
}
