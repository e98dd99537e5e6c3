//! One of the nodes, a process of its own.

use std::process::ExitCode;

use millstream::{Node, Running};
use millstream_core::Result;
use millstream_kafka::KafkaSink;

use super::super::{
    flow::flow,
    node::{self, Said},
};
use crate::args::DemoMember;

/// Tasks of the aircraft: some for each node. Each costs threads and transactions of its own.
const PARTITIONS: u32 = 10;

/// The topic of an application's alerts.
pub fn alerts(app: &str) -> String {
    format!("{app}-alerts")
}

/// Runs until the demo closes the pipe.
pub fn run(args: &DemoMember) -> Result<ExitCode> {
    node::run(|| start(args))
}

fn start(args: &DemoMember) -> Result<Running> {
    let node = Node::kafka(&args.engine, &args.app, &args.name)?.http("127.0.0.1:0");
    let topic = alerts(&args.app);
    let sink = KafkaSink::json(node.kafka_client()?, &topic).exactly_once(&topic);
    let running = node.start()?;
    if let Some(address) = running.http() {
        Said::Listens { address: address.to_string() }.say();
    }
    running.deploy(&flow(&args.csv, sink, args.rate).partitions(PARTITIONS))?;
    Ok(running)
}
