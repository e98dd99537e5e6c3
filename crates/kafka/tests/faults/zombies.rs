//! Owners that do not know that they are none any more.

use std::time::{Duration, Instant};

use millstream_brokers::{Api, Brokers, DEADLINE, or_skip};
use millstream_core::{
    engine::{Engine, Lease, Settlement},
    turn::{Position, TaskId},
};
use millstream_runtime::conformance;

use crate::{
    oracle::{Owner, Scene, State, ZOMBIE, model, restored, task, try_open},
    process::Child,
};

/// An owner's requests of a kind are held while a successor takes over and goes on.
fn requests_come_late(brokers: &Brokers, app: &str, api: Api) {
    let scene = Scene::new(brokers, app);
    let [one, two] = brokers.nodes();
    let (old, new) = (scene.node(one.bootstrap()), scene.node(two.bootstrap()));
    let mut old = Owner::open(&old);
    old.run(3);
    old.tag = ZOMBIE;
    let held = one.hold(api, u32::MAX);
    let tickets = [old.commit(), old.commit()];
    held.wait(1, DEADLINE);
    let mut new = Owner::open(&new);
    assert_eq!(new.turns, 3);
    new.run(2);
    held.release(DEADLINE);
    for ticket in tickets {
        assert_eq!(old.settled(ticket), Settlement::Fenced);
    }
    let ticket = old.commit();
    assert_eq!(old.settled(ticket), Settlement::Fenced);
    new.run(2);
    scene.verdict(7);
}

#[test]
fn records_of_a_zombie_are_fenced() {
    let brokers = or_skip!(Brokers::shared());
    requests_come_late(brokers, "zombie-produces", Api::PRODUCE);
}

#[test]
fn a_commit_of_a_zombie_is_fenced() {
    let brokers = or_skip!(Brokers::shared());
    requests_come_late(brokers, "zombie-commits", Api::END_TXN);
}

#[test]
fn a_partition_that_a_zombie_adds_is_fenced() {
    let brokers = or_skip!(Brokers::shared());
    requests_come_late(brokers, "zombie-adds", Api::ADD_PARTITIONS_TO_TXN);
}

#[test]
fn a_process_that_was_stopped_finds_itself_fenced() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "stopped");
    let mut child = Child::start("own", &scene.app, &brokers.bootstrap());
    child.until("turn 5");
    child.signal("STOP");
    let node = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&node);
    assert!(owner.turns >= 5, "what it has said is committed");
    owner.run(5);
    child.signal("CONT");
    child.until("fenced");
    owner.run(1);
    scene.verdict(owner.turns);
}

#[test]
fn a_killed_process_loses_its_open_turn_alone() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "killed");
    let [node] = brokers.nodes();
    let mut child = Child::start("own", &scene.app, &node.bootstrap());
    child.until("turn 5");
    let held = node.hold(Api::END_TXN, u32::MAX);
    held.wait(1, DEADLINE);
    child.signal("KILL");
    let node = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&node);
    assert!(owner.turns >= 5, "what it has said is committed");
    owner.run(5);
    scene.verdict(owner.turns);
}

#[test]
fn readers_wait_for_an_open_turn_no_longer_than_its_successor_needs() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "dangling");
    let [one, two] = brokers.nodes();
    let (old, new) = (scene.node(one.bootstrap()), scene.node(two.bootstrap()));
    let mut owner = Owner::open(&old);
    owner.run(3);
    let out = new.engine.create_stream(&crate::oracle::out()).unwrap();
    let (spec, bell) = task("f/watch/0", &[(out, 0)]);
    let mut reader = try_open(&new.engine, &spec, &bell).unwrap();
    let mut rows = move || -> Vec<i64> {
        let frames = reader.poll(0, Position::default(), usize::MAX).unwrap();
        frames.iter().flat_map(|(_, frame)| conformance::numbers(frame)).collect()
    };
    let before = [1, 0, 2, 0, 3, 0];
    bell.until("three turns", || (rows() == before).then_some(()));
    owner.tag = ZOMBIE;
    let held = one.hold(Api::END_TXN, u32::MAX);
    // Clock: Kafka aborts it itself after ten seconds by it, which must not be what is measured.
    let begun = Instant::now();
    owner.commit();
    held.wait(1, DEADLINE);
    // Somebody else's rows behind the open turn's.
    let ticket = new.engine.append(out, 0, conformance::frame(TaskId(0), 1, &[-1, 0])).unwrap();
    bell.until("they are appended", || new.engine.durable(ticket).then_some(()));
    assert_eq!(scene.committed(3), [1, 2, 3]);
    assert_eq!(rows(), before, "nothing is read past an open transaction");
    let mut successor = Owner::open(&new);
    let opened = begun.elapsed();
    let after = [1, 0, 2, 0, 3, 0, -1, 0];
    bell.until("what was behind it", || (rows() == after).then_some(()));
    let took = begun.elapsed() - opened;
    assert!(took < Duration::from_secs(1), "read {took:?} after the successor had opened");
    assert!(begun.elapsed() < Duration::from_secs(10), "Kafka may have aborted it by itself");
    successor.run(1);
    scene.verdict(4);
}

#[test]
fn a_successor_that_is_fenced_while_it_restores_is_as_if_it_had_not_been() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "restore");
    let [one, two] = brokers.nodes();
    let (first, second) = (scene.node(one.bootstrap()), scene.node(two.bootstrap()));
    Owner::open(&first).run(20);
    let (spec, bell) = task("f/write/0", &[]);
    let begin = |opens: u32| {
        let mut lease = try_open(&first.engine, &spec, &bell).unwrap();
        assert_eq!(lease.recovered().opens, opens, "openings without a turn are counted");
        let mut partly = State::new();
        let taken = lease.restore(64, &mut |c| {
            partly.insert((c.table, c.key.to_vec()), c.value.unwrap_or_default().to_vec());
            Ok(())
        });
        assert!(!taken.unwrap(), "there is more");
        lease
    };
    // Interrupted, and begun again.
    drop(begin(1));
    let mut fenced = begin(2);
    let mut owner = Owner::open(&second);
    owner.run(3);
    let mut rest = || -> Box<dyn Lease> {
        // What it still reads is of the past; that it is the past it learns from its turn.
        while !fenced.restore(64, &mut |_| Ok(())).unwrap() {}
        let ticket = fenced.commit(conformance::turn(21, vec![], Default::default()));
        let end = bell.until("the turn settles", || {
            Some(fenced.settled(ticket)).filter(|end| *end != Settlement::Pending)
        });
        assert_eq!(end, Settlement::Fenced);
        begin(1)
    };
    let mut again = rest();

    assert_eq!(again.recovered().progress.turn, 23);
    while !again.restore(64, &mut |_| Ok(())).unwrap() {}
    drop(again);
    let mut again = try_open(&first.engine, &spec, &bell).unwrap();
    assert_eq!(restored(&mut *again), model(23));
    drop(again);
    owner.run(2);
    scene.verdict(25);
}
