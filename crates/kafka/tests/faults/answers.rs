//! Answers that are lost, and requests that come late.

use std::time::Duration;

use millstream_brokers::{Api, Brokers, DEADLINE, Links, or_skip};
use millstream_core::engine::Settlement;

use crate::oracle::{Owner, Scene};

type Lose = fn(&Links, Api, u32);
/// The answer is dropped; the client learns of it by waiting.
const SILENCE: Lose = Links::lose_answers;
/// The connection ends instead.
const BREAK: Lose = Links::break_answers;

/// Six turns, of which the fourth, or taking over before it, loses an answer.
fn an_answer_is_lost(brokers: &Brokers, app: &str, api: Api, lose: Lose) {
    let scene = Scene::new(brokers, app);
    let [node] = brokers.nodes();
    let running = scene.node(node.bootstrap());
    let mut owner = Owner::open(&running);
    owner.run(3);
    let answers = node.answers(api);
    lose(&node, api, 1);
    if api == Api::INIT_PRODUCER_ID {
        owner.reopen();
    }
    owner.run(3);
    assert!(node.answers(api) > answers, "none was lost");
    scene.verdict(6);
}

#[test]
#[ignore = "minutes on real brokers; see docs/testing.md"]
fn a_commit_whose_answer_is_lost_counts_once() {
    let brokers = or_skip!(Brokers::shared());
    an_answer_is_lost(brokers, "end-broken", Api::END_TXN, BREAK);
    an_answer_is_lost(brokers, "end-silent", Api::END_TXN, SILENCE);
}

#[test]
#[ignore = "minutes on real brokers; see docs/testing.md"]
fn a_taking_over_whose_answer_is_lost_is_asked_for_again() {
    let brokers = or_skip!(Brokers::shared());
    an_answer_is_lost(brokers, "init-broken", Api::INIT_PRODUCER_ID, BREAK);
    an_answer_is_lost(brokers, "init-silent", Api::INIT_PRODUCER_ID, SILENCE);
}

#[test]
#[ignore = "minutes on real brokers; see docs/testing.md"]
fn records_whose_acknowledgement_is_lost_count_once() {
    let brokers = or_skip!(Brokers::shared());
    an_answer_is_lost(brokers, "produce-broken", Api::PRODUCE, BREAK);
    an_answer_is_lost(brokers, "produce-silent", Api::PRODUCE, SILENCE);
}

#[test]
#[ignore = "minutes on real brokers; see docs/testing.md"]
fn a_partition_that_joins_a_turn_without_an_answer_counts_once() {
    let brokers = or_skip!(Brokers::shared());
    an_answer_is_lost(brokers, "add-broken", Api::ADD_PARTITIONS_TO_TXN, BREAK);
    an_answer_is_lost(brokers, "add-silent", Api::ADD_PARTITIONS_TO_TXN, SILENCE);
}

#[test]
#[ignore = "minutes on real brokers; see docs/testing.md"]
fn a_commit_that_comes_after_it_was_given_up_decides_nothing() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "end-late");
    let [one, two] = brokers.nodes();
    let (old, new) = (scene.node(one.bootstrap()), scene.node(two.bootstrap()));
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
    assert_eq!(scene.committed(), [1, 2, 3]);
    next.release(DEADLINE);
    assert_eq!(owner.settled(ticket), Settlement::Ok);
    owner.run(2);
    scene.verdict(6);
}

/// Only one that was sent twice is.
#[test]
#[ignore = "minutes on real brokers; see docs/testing.md"]
fn a_commit_that_takes_long_is_no_reason_for_another_writer() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "end-slow");
    let [node] = brokers.nodes();
    let running = scene.node(node.bootstrap());
    let mut owner = Owner::open(&running);
    owner.run(3);
    // Longer than one call of librdkafka's waits for it.
    node.delay(Duration::ZERO, Duration::from_millis(1500));
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
#[ignore = "minutes on real brokers; see docs/testing.md"]
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
    assert_eq!(scene.committed(), [1, 2, 3, 4], "the fifth turn's commit has not arrived");
    held.release(DEADLINE);
    assert_eq!(owner.settled(ticket), Settlement::Ok);
    owner.run(1);
    scene.verdict(6);
}
