//! Our topics: how they are made, and what is checked when they are found.
//!
//! *Why checked:* a changelog that Kafka trims by age loses state without a word.

use std::{sync::Arc, time::Duration};

use millstream_core::{Code, Error, Result, engine::StreamSpec};

use super::names::Names;
use crate::client::{Client, TopicSpec};

/// The largest record of ours, with what Kafka puts around it.
const RECORD_BYTES_MAX: &str = "68157440";
/// Kafka compacts and removes whole segments; small ones keep little that is not needed.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How often, and how many times, a topic that is not as it should be is looked at again.
const HEARSAY_EVERY: Duration = Duration::from_millis(50);
const HEARSAY_TRIES: usize = 20;
/// How long a deleted key is remembered: whoever reads a state for longer than this starts anew.
const DELETED_MS: &str = "86400000";

type Settings = Vec<(&'static str, String)>;

fn compacted() -> Settings {
    vec![
        ("cleanup.policy", "compact".into()),
        ("segment.bytes", SEGMENT_BYTES.to_string()),
        ("min.cleanable.dirty.ratio", "0.2".into()),
        ("max.compaction.lag.ms", "3600000".into()),
        ("delete.retention.ms", DELETED_MS.into()),
    ]
}

fn kept(bytes: Option<u64>) -> Settings {
    let segment = bytes.map_or(SEGMENT_BYTES, |b| (b / 4).clamp(1 << 20, SEGMENT_BYTES));
    let bytes = bytes.and_then(|b| i64::try_from(b).ok()).map_or("-1".into(), |b| b.to_string());
    vec![
        ("cleanup.policy", "delete".into()),
        ("retention.ms", "-1".into()),
        ("retention.bytes", bytes),
        ("segment.bytes", segment.to_string()),
    ]
}

/// Whether a topic is there; a broker may not have heard yet of one that must be.
fn is_there(client: &dyn Client, name: &str) -> Result<bool> {
    for _ in 0..HEARSAY_TRIES {
        if client.topic(name)?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(HEARSAY_EVERY);
    }
    Ok(client.topic(name)?.is_some())
}

/// The error of a topic without which others mean nothing, or something else.
fn deleted(name: &str) -> Error {
    Error::new(Code::Conflict, format!("topic {name} was deleted")).help(STARTS_OVER)
}

/// What to do when something of an application is gone.
pub(super) const STARTS_OVER: &str = "what was in it cannot be made again: delete all topics of \
    the application to start over, or use another application name (--app)";

/// Makes a topic, or checks the one that is there.
fn ensure(client: &dyn Client, name: &str, partitions: u32, settings: Settings) -> Result<()> {
    let common = [
        ("compression.type", "producer".to_string()),
        ("max.message.bytes", RECORD_BYTES_MAX.to_string()),
        ("unclean.leader.election.enable", "false".to_string()),
        // By the brokers' clocks: Kafka refuses records that are an hour ahead of these, and
        // removes at once what is long past.
        ("message.timestamp.type", "LogAppendTime".to_string()),
    ];
    let settings = settings.into_iter().chain(common).map(|(k, v)| (k.to_string(), v));
    let spec = TopicSpec { name: name.into(), partitions, settings: settings.collect() };
    if client.topic(name)?.is_none() {
        client.create_topic(&spec)?;
    }
    let mut tries = 0;
    loop {
        let found = client.topic(name)?.unwrap_or_else(|| spec.clone());
        let wrong = check(&spec, &found);
        if wrong.is_ok() || tries == HEARSAY_TRIES {
            return wrong;
        }
        // A broker may tell the defaults of a topic that was just made.
        tries += 1;
        std::thread::sleep(HEARSAY_EVERY);
    }
}

fn check(spec: &TopicSpec, found: &TopicSpec) -> Result<()> {
    let (name, partitions) = (&spec.name, spec.partitions);
    if found.partitions != partitions {
        return Err(Error::new(
            Code::Conflict,
            format!("topic {name} has {} partitions and should have {partitions}", found.partitions),
        )
        .help("partitions are baked into keys: delete the topic if nothing in it is needed, or use another application name (--app)"));
    }
    for (key, value) in spec.settings.iter().filter(|(key, _)| matters(key)) {
        let is = found.settings.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        if let Some(is) = is.filter(|is| is != value) {
            return Err(Error::new(
                Code::Conflict,
                format!("topic {name} has {key}={is} and should have {value}"),
            )
            .help(format!(
                "set it right: kafka-configs --alter --topic {name} --add-config {key}={value}"
            )));
        }
    }
    Ok(())
}

/// Settings without which something is lost; others only cost.
fn matters(key: &str) -> bool {
    matches!(
        key,
        "cleanup.policy" | "retention.ms" | "retention.bytes" | "unclean.leader.election.enable"
    )
}

/// The topics that every application has.
pub(super) fn common(client: &dyn Client, names: &Names) -> Result<()> {
    // The registry is made first.
    let (registry, progress) = (names.registry(), names.progress());
    let began = client.topic(&registry)?.is_some() || client.topic(&progress)?.is_none();
    if !began && !is_there(client, &registry)? {
        return Err(deleted(&registry));
    }
    ensure(client, &registry, 1, kept(None))?;
    ensure(client, &progress, 1, compacted())
}

/// Where nodes find each other; an hour of it is more than any node reads.
pub(super) fn members(client: &dyn Client, names: &Names) -> Result<()> {
    let settings = vec![
        ("cleanup.policy", "delete".to_string()),
        ("retention.ms", "3600000".to_string()),
        ("segment.bytes", (16 << 20).to_string()),
    ];
    ensure(client, &names.members(), 1, settings)
}

/// A stream's topic; of a stream that is `known`, it was made before.
pub(super) fn stream(
    client: &dyn Client,
    name: &str,
    spec: &StreamSpec,
    known: bool,
) -> Result<()> {
    if known && !is_there(client, name)? {
        return Err(deleted(name));
    }
    ensure(client, name, spec.partitions, kept(retained(spec)))
}

/// How much of a partition Kafka itself keeps. It knows of no consumers: what is there for them
/// alone, no byte of which is kept without one, is for our upkeep to trim.
fn retained(spec: &StreamSpec) -> Option<u64> {
    let bounded = spec.retain_bytes > 0 && i64::try_from(spec.retain_bytes).is_ok();
    bounded.then(|| (spec.retain_bytes / u64::from(spec.partitions)).max(1))
}

/// The topic of a stage's state.
pub(super) fn state(
    client: &dyn Client,
    names: &Names,
    stage: &str,
    tasks: u32,
) -> Result<Arc<str>> {
    let topic = names.state(stage)?;
    ensure(client, &topic, tasks, compacted())?;
    Ok(topic.into())
}

#[cfg(test)]
mod tests {
    use millstream_core::letter;

    use super::*;
    use crate::client::memory::Cluster;

    #[test]
    fn kafka_removes_nothing_that_a_consumer_may_want() {
        let kept = |retain_bytes| {
            let spec = StreamSpec {
                name: "flow/s".into(),
                schema: letter::SCHEMA.clone(),
                partitions: 4,
                retain_bytes,
            };
            let client = Cluster::new().connect("node");
            stream(&*client, "s", &spec, false).unwrap();
            let settings = client.topic("s").unwrap().unwrap().settings;
            settings.into_iter().find(|(key, _)| key == "retention.bytes").unwrap().1
        };
        assert_eq!(kept(0), "-1", "it is there for consumers alone: our upkeep trims it");
        assert_eq!(kept(u64::MAX), "-1");
        assert_eq!(kept(4096), "1024", "bytes of a partition");
    }
}
