//! Answers that are lost, and requests that come late.

use std::time::Duration;

use millstream_brokers::{Api, Brokers, DEADLINE, Links, Node, or_skip};
use millstream_core::engine::Settlement;

use crate::oracle::{GIVES_UP, HASTE, Owner, Scene};

/// Six turns, of which the fourth, or taking over before it, loses an answer: one that is dropped,
/// which the client learns by waiting, and one instead of which its connection ends.
fn an_answer_is_lost(brokers: &Brokers, app: &str, api: Api) {
    let nodes: [Node<'_>; 2] = brokers.nodes();
    let ways: [fn(&Links, Api, u32); 2] = [Links::lose_answers, Links::break_answers];
    std::thread::scope(|scope| {
        for ((node, lose), way) in nodes.iter().zip(ways).zip(["silent", "broken"]) {
            let scene = Scene::new(brokers, &format!("{app}-{way}"));
            scope.spawn(move || one_answer_is_lost(&scene, node, api, lose));
        }
    });
}

fn one_answer_is_lost(scene: &Scene<'_>, node: &Node<'_>, api: Api, lose: fn(&Links, Api, u32)) {
    let running = scene.node_with(node.bootstrap(), &[HASTE]);
    let mut owner = Owner::open(&running);
    owner.run(3);
    let answers = node.answers(api);
    lose(node, api, 1);
    if api == Api::INIT_PRODUCER_ID {
        owner.reopen();
    }
    owner.run(3);
    assert!(node.answers(api) > answers, "none was lost");
    scene.verdict(6);
}

#[test]
fn a_commit_whose_answer_is_lost_counts_once() {
    let brokers = or_skip!(Brokers::shared());
    an_answer_is_lost(brokers, "end", Api::END_TXN);
}

#[test]
fn a_taking_over_whose_answer_is_lost_is_asked_for_again() {
    let brokers = or_skip!(Brokers::shared());
    an_answer_is_lost(brokers, "init", Api::INIT_PRODUCER_ID);
}

#[test]
fn records_whose_acknowledgement_is_lost_count_once() {
    let brokers = or_skip!(Brokers::shared());
    an_answer_is_lost(brokers, "produce", Api::PRODUCE);
}

#[test]
fn a_partition_that_joins_a_turn_without_an_answer_counts_once() {
    let brokers = or_skip!(Brokers::shared());
    an_answer_is_lost(brokers, "add", Api::ADD_PARTITIONS_TO_TXN);
}

#[test]
fn a_commit_that_comes_after_it_was_given_up_decides_nothing() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "end-late");
    let [one, two] = brokers.nodes();
    let old = scene.node_with(one.bootstrap(), &[HASTE, GIVES_UP]);
    let new = scene.node(two.bootstrap());
    let mut old = Owner::open(&old);
    old.run(3);
    // Also those that librdkafka sends when it has waited long enough.
    let late = one.hold(Api::END_TXN, u32::MAX);
    let ticket = old.commit();
    late.wait(1, DEADLINE);
    assert_eq!(old.settled(ticket), Settlement::Unknown);
    let mut owner = Owner::open(&new);
    assert_eq!(owner.turns, 3, "the successor has aborted what was open");
    let next = two.hold(Api::END_TXN, 1);
    let ticket = owner.commit();
    next.wait(1, DEADLINE);
    // In the middle of the next transaction.
    late.release(DEADLINE);
    assert_eq!(scene.committed(3), [1, 2, 3]);
    next.release(DEADLINE);
    assert_eq!(owner.settled(ticket), Settlement::Ok);
    owner.run(2);
    scene.verdict(6);
}

/// Only one that was sent twice is.
#[test]
fn a_commit_that_takes_long_is_no_reason_for_another_writer() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "end-slow");
    let [node] = brokers.nodes();
    let running = scene.node(node.bootstrap());
    let mut owner = Owner::open(&running);
    owner.run(3);
    // Longer than one call of librdkafka's waits for it.
    node.delay(Duration::ZERO, Duration::from_millis(800));
    for _ in 0..2 {
        let ticket = owner.commit();
        assert_eq!(owner.settled(ticket), Settlement::Ok);
    }
    node.delay(Duration::ZERO, Duration::ZERO);
    owner.run(1);
    scene.verdict(6);
}

/// librdkafka sends a commit again when its connection ends; the first one may still be on its way
/// (KAFKA-17754).
#[test]
fn a_commit_that_was_sent_twice_does_not_commit_the_next_turn() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "end-twice");
    let [node] = brokers.nodes();
    let running = scene.node(node.bootstrap());
    let mut owner = Owner::open(&running);
    owner.run(3);
    let late = node.hold(Api::END_TXN, 1);
    let ticket = owner.commit();
    late.wait(1, DEADLINE);
    node.cut();
    node.heal();
    assert_eq!(owner.settled(ticket), Settlement::Ok);
    let ticket = owner.commit();
    assert_eq!(owner.settled(ticket), Settlement::Fenced, "it goes on under a new epoch");
    owner.reopen();
    let held = node.hold(Api::END_TXN, 1);
    let ticket = owner.commit();
    held.wait(1, DEADLINE);
    late.release(DEADLINE);
    assert_eq!(scene.committed(4), [1, 2, 3, 4], "the fifth turn's commit has not arrived");
    held.release(DEADLINE);
    assert_eq!(owner.settled(ticket), Settlement::Ok);
    owner.run(1);
    scene.verdict(6);
}

/// A turn that gave up on its way to the coordinator cannot be ended there either, which is fatal
/// to librdkafka's producer. It is another writer's to decide, and no failure of the task's own.
#[test]
fn a_turn_that_times_out_on_its_way_is_not_refused() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "times-out");
    let [node] = brokers.nodes();
    let running = scene.node_with(node.bootstrap(), &[HASTE, ("message.timeout.ms", "1000")]);
    let mut owner = Owner::open(&running);
    owner.run(3);
    let held = node.hold(Api::ADD_PARTITIONS_TO_TXN, u32::MAX);
    let ticket = owner.commit();
    assert_eq!(owner.settled(ticket), Settlement::Unknown);
    drop(held);
    owner.reopen();
    owner.run(1);
    scene.verdict(4);
}

/// What was given up is told record by record while the turn is aborted.
#[test]
fn a_turn_that_nobody_acknowledges_is_given_up() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "unanswered");
    let [node] = brokers.nodes();
    let running = scene.node_with(node.bootstrap(), &[HASTE, GIVES_UP]);
    let mut owner = Owner::open(&running);
    owner.run(3);
    let held = node.hold(Api::PRODUCE, u32::MAX);
    let ticket = owner.commit();
    // Kafka gives it up at about the same time, and whoever aborts it then is fenced.
    let end = owner.settled(ticket);
    assert!(matches!(end, Settlement::Unknown | Settlement::Fenced), "{end:?}");
    node.heal();
    drop(held);
    owner.reopen();
    owner.run(1);
    scene.verdict(4);
}
