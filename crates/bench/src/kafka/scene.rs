//! Three nodes that count under load, and who watches them.

use millstream_brokers::{Brokers, Node};

use super::{
    ends::{Judge, Load, task_of},
    members::Members,
    nodes::{NODES, Nodes, Part, topics},
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
    /// Starts all of it; both topics have `partitions`, the keyed stage has `tasks`.
    pub fn start(
        brokers: &Brokers,
        own: &[Node<'_>; NODES],
        partitions: u32,
        (keys, tasks): (u64, u32),
        events_per_s: u64,
    ) -> Result<Scene> {
        let (from, to) = topics(brokers, partitions);
        let servers = brokers.bootstrap();
        let part = Part::between(&from, &to, Some(tasks));
        Ok(Scene {
            nodes: Nodes::start(own.iter().map(|n| (**n).clone()).collect(), part)?,
            members: Members::start(&servers)?,
            judge: Judge::start(&servers, (&to, partitions), (keys, tasks), |key| {
                task_of(key, tasks)
            })?,
            load: Load::start(&servers, &from, keys, events_per_s)?,
            tasks: (tasks + partitions) as usize,
        })
    }
}
