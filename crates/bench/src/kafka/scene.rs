//! Three nodes that count under load, and who watches them.

use millstream_brokers::{Brokers, Node};

use super::{
    ends::{Judge, Load, task_of},
    members::Members,
    nodes::{NODES, Nodes, Part},
};
use crate::report::Result;

pub struct Scene {
    /// Each on its own way through the proxy.
    pub nodes: Nodes,
    pub members: Members,
    pub judge: Judge,
    pub load: Load,
    /// How many the flow has: of sources, and of the keyed stage.
    pub tasks: usize,
}

impl Scene {
    /// Starts all of it. Topics have `partitions`, the keyed stage has `tasks`; if the flow reads
    /// without an exchange, the first topic has as many.
    pub fn start(
        brokers: &Brokers,
        own: &[Node<'_>; NODES],
        partitions: u32,
        (keys, tasks, keyed): (u64, u32, bool),
        events_per_s: u64,
    ) -> Result<Scene> {
        let sources = if keyed { tasks } else { partitions };
        let from = brokers.topic("from", sources, &[]);
        let to = brokers.topic("to", partitions, &[]);
        let servers = brokers.bootstrap();
        let part = Part { keyed, ..Part::between(&from, &to, Some(tasks)) };
        Ok(Scene {
            nodes: Nodes::start(own.iter().map(|n| (**n).clone()).collect(), part)?,
            members: Members::start(&servers)?,
            judge: Judge::start(&servers, (&to, partitions), (keys, tasks), |key| {
                task_of(key, tasks, keyed)
            })?,
            load: Load::start(&servers, &from, keys, events_per_s)?,
            tasks: (tasks + if keyed { 0 } else { sources }) as usize,
        })
    }
}
