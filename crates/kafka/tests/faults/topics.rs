//! Topics that are not what they should be: refused, with words that help. And those that not
//! every broker has heard of.

use std::time::Duration;

use millstream_brokers::{Brokers, or_skip};
use millstream_core::{Code, Error, engine::Engine, turn::Position};
use millstream_kafka::client::{Record, Records, TopicPartition, TopicSpec};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use crate::oracle::{Bell, Owner, Running, Scene, client, out, task, try_join, try_open};

/// What to do when something of an application is gone.
const STARTS_OVER: &str = "what was in it cannot be made again: delete all topics of the \
                           application to start over, or use another application name (--app)";

/// Why the counting task cannot be opened.
fn refused(node: &Running) -> Error {
    let (spec, bell) = task("f/write/0", &[]);
    match try_open(&node.engine, &spec, &bell) {
        Ok(lease) => panic!("opened after {} turns", lease.recovered().progress.turn),
        Err(error) => error,
    }
}

/// What an error says, and what to do.
fn said(error: &Error, code: Code) -> String {
    assert_eq!(error.code(), code, "{error}");
    format!("{}; {}", error.message(), error.advice().join("; "))
}

/// Writes a record of somebody else's.
fn scribble(node: &Running, topic: &str) {
    let mut records = Records::default();
    let at = TopicPartition::new(topic, 0);
    records.push(&at, Record::of(b"their key", Some(b"their value")));
    let written = std::sync::Arc::new(Bell::default());
    let (done, is_done) = (written.clone(), std::sync::Arc::new(std::sync::OnceLock::new()));
    let tell = is_done.clone();
    node.client.append(
        records,
        Box::new(move |offset| {
            tell.set(offset).unwrap();
            done.ring();
        }),
    );
    written.until("their record", || is_done.get().cloned()).unwrap();
}

/// Deletes a topic; back when the brokers know it no more.
fn delete(brokers: &Brokers, node: &Running, topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers.bootstrap());
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let deleted = runtime.block_on(admin.delete_topics(&[topic], &options)).unwrap();
    deleted[0].as_ref().unwrap();
    let gone = || node.client.topic(topic).unwrap().is_none().then_some(());
    Bell::default().until("the topic is gone", gone);
}

#[test]
fn a_state_with_another_number_of_partitions_is_refused() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "partitions");
    let node = scene.node(brokers.bootstrap());
    let settings = vec![("cleanup.policy".into(), "compact".into())];
    let spec = TopicSpec { name: scene.state(), partitions: 3, settings };
    node.client.create_topic(&spec).unwrap();
    assert_eq!(
        said(&refused(&node), Code::Conflict),
        "topic partitions.state.f.write has 3 partitions and should have 1; partitions are baked \
         into keys: delete the topic if nothing in it is needed, or use another application name \
         (--app)"
    );
}

#[test]
fn a_state_that_kafka_trims_by_age_is_refused() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "policy");
    let node = scene.node(brokers.bootstrap());
    Owner::open(&node).run(2);
    let set = |policy: &str| {
        let setting = [("cleanup.policy".to_string(), policy.to_string())];
        node.client.set_topic(&scene.state(), &setting).unwrap();
    };
    set("delete");
    let next = scene.node(brokers.bootstrap());
    assert_eq!(
        said(&refused(&next), Code::Conflict),
        "topic policy.state.f.write has cleanup.policy=delete and should have compact; set it \
         right: kafka-configs --alter --topic policy.state.f.write --add-config \
         cleanup.policy=compact"
    );
    set("compact");
    Owner::open(&next).run(1);
    scene.verdict(3);
}

#[test]
fn what_somebody_else_has_written_is_refused() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "foreign");
    let node = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&node);
    owner.run(2);
    let advice = "this record is none of Millstream's; somebody else writes into this topic, or a \
                  newer version did; only this application may write there";
    scribble(&node, &scene.out());
    let stream = node.engine.create_stream(&out()).unwrap();
    let (spec, bell) = task("f/read/0", &[(stream, 0)]);
    let mut reader = try_open(&node.engine, &spec, &bell).unwrap();
    let error =
        bell.until("their record is met", || reader.poll(0, Position::default(), usize::MAX).err());
    let what = said(&error, Code::Conflict);
    assert!(what.starts_with("foreign.stream.f.out 0, offset "), "{what}");
    assert!(what.ends_with(advice), "{what}");

    scribble(&node, &scene.state());
    let what = said(&refused(&node), Code::Conflict);
    assert!(what.starts_with("foreign.state.f.write 0, offset "), "{what}");
    assert!(what.ends_with(advice), "{what}");

    scribble(&node, "foreign.registry");
    let error = try_join(&scene.app, &brokers.bootstrap()).err().unwrap();
    let what = said(&error, Code::Conflict);
    assert!(what.starts_with("foreign.registry 0, offset "), "{what}");
    assert!(what.ends_with(advice), "{what}");
}

#[test]
fn a_state_that_was_deleted_is_not_begun_anew() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "deleted-state");
    let node = scene.node(brokers.bootstrap());
    Owner::open(&node).run(4);
    delete(brokers, &node, &scene.state());
    drop(node);
    let node = scene.node(brokers.bootstrap());
    assert_eq!(
        said(&refused(&node), Code::Conflict),
        format!(
            "deleted-state.state.f.write 0: the task's state ends with turn 0, and turn 4 was \
             committed; the topic was deleted, or records were removed from it; {STARTS_OVER}"
        )
    );
}

#[test]
fn a_stream_that_was_deleted_is_not_begun_anew() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "deleted-stream");
    let node = scene.node(brokers.bootstrap());
    Owner::open(&node).run(4);
    delete(brokers, &node, &scene.out());
    let next = scene.node(brokers.bootstrap());
    assert_eq!(
        said(&next.engine.create_stream(&out()).unwrap_err(), Code::Conflict),
        format!("topic deleted-stream.stream.f.out was deleted; {STARTS_OVER}")
    );
}

#[test]
fn a_registry_that_was_deleted_is_not_begun_anew() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "deleted-registry");
    let node = scene.node(brokers.bootstrap());
    Owner::open(&node).run(1);
    delete(brokers, &node, "deleted-registry.registry");
    drop(node);
    let error = try_join(&scene.app, &brokers.bootstrap()).err().unwrap();
    assert_eq!(
        said(&error, Code::Conflict),
        format!("topic deleted-registry.registry was deleted; {STARTS_OVER}")
    );
}

#[test]
fn a_topic_that_was_made_is_there_whichever_broker_is_asked() {
    let brokers = or_skip!(Brokers::shared());
    let client = client(&brokers.bootstrap(), &[]);
    let make = |name: &str, partitions| {
        let spec = TopicSpec { name: name.into(), partitions, settings: Vec::new() };
        client.create_topic(&spec).unwrap();
    };
    // Who has asked each broker something asks any of them from then on.
    make("asked", 3);
    for partition in 0..3 {
        client.range(&TopicPartition::new("asked", partition)).unwrap();
    }
    // One hears of a topic later than another while it is busy with the one before.
    for n in 0..8 {
        let name = format!("asked-{n}");
        make(&name, 6);
        assert!(client.topic(&name).unwrap().is_some(), "{name}");
    }
}

/// The brokers refuse times that are not theirs, as they do those of a node an hour ahead.
#[test]
fn no_nodes_clock_is_in_what_the_brokers_keep() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "clocks");
    let node = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&node);
    owner.run(3);
    let ours = ["registry", "progress", "stream.f.out", "state.f.write"];
    for topic in ours.map(|name| format!("{}.{name}", scene.app)) {
        let strict = ["before", "after"].map(|end| format!("message.timestamp.{end}.max.ms"));
        let strict = strict.map(|name| (name, "0".to_string()));
        node.client.set_topic(&topic, &strict).unwrap();
    }
    owner.run(3);
    owner.reopen();
    owner.run(1);
    scene.verdict(7);
}
