//! Nodes whose process is killed at a point of a turn or of a takeover that the test chooses: the
//! requests of that point are held. What was held arrives after the death and after the successor
//! has gone on.

use millstream_brokers::{Api, Brokers, DEADLINE, Held, Node, or_skip};

use crate::{
    oracle::{Owner, Scene, task, try_open},
    process::Child,
};

/// A process commits turns and is killed once `hold` has what it waits for; `applied` if the
/// brokers have committed the turn that is open then. The turns that are committed after it.
fn killed(
    brokers: &Brokers,
    app: &str,
    hold: impl Fn(&Scene<'_>, &Node<'_>) -> Option<Held>,
    applied: bool,
) {
    let scene = Scene::new(brokers, app);
    let [node] = brokers.nodes();
    let mut child = Child::start("own", &scene.app, &node.bootstrap());
    child.until("turn 5");
    let held = hold(&scene, &node);
    child.signal("KILL");
    let said = std::iter::from_fn(|| child.says()).filter(|said| said.starts_with("turn")).count();
    let told = 5 + said as u64;
    let running = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&running);
    assert_eq!(owner.turns, told + u64::from(applied), "it was told of {told} turns");
    owner.run(3);
    if let Some(held) = held {
        held.release(DEADLINE);
    }
    owner.run(2);
    scene.verdict(owner.turns);
}

#[test]
fn before_anything_of_a_turn_is_sent() {
    let brokers = or_skip!(Brokers::shared());
    let hold = |_: &Scene<'_>, node: &Node<'_>| {
        let held = node.hold(Api::ADD_PARTITIONS_TO_TXN, u32::MAX);
        held.wait(1, DEADLINE);
        Some(held)
    };
    killed(brokers, "killed-before", hold, false);
}

#[test]
fn when_a_part_of_a_turn_is_sent() {
    let brokers = or_skip!(Brokers::shared());
    let hold = |scene: &Scene<'_>, node: &Node<'_>| {
        // Two partitions of a topic have two leaders.
        let [held, sent] = [0, 1].map(|p| node.to(brokers.leader(&scene.out(), p).into()));
        let held = held.hold(Api::PRODUCE, u32::MAX);
        held.wait(1, DEADLINE);
        // Of this turn, or of the one before it: then this one's is there as soon as the other.
        sent.wait_answers(Api::PRODUCE, sent.requests(Api::PRODUCE), DEADLINE);
        Some(held)
    };
    killed(brokers, "killed-amid", hold, false);
}

#[test]
fn when_a_turn_is_committed_and_its_owner_was_not_told() {
    let brokers = or_skip!(Brokers::shared());
    let hold = |_: &Scene<'_>, node: &Node<'_>| {
        let held = node.hold(Api::END_TXN, u32::MAX);
        held.wait(1, DEADLINE);
        node.black_hole_back();
        held.release(DEADLINE);
        None
    };
    killed(brokers, "killed-after", hold, true);
}

/// A process is killed that takes a task over, while its requests of a kind are held.
fn killed_taking_over(brokers: &Brokers, app: &str, api: Api) {
    let scene = Scene::new(brokers, app);
    let running = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&running);
    owner.run(5);
    let [node] = brokers.nodes();
    let held = node.hold(api, u32::MAX);
    let child = Child::start("take", &scene.app, &node.bootstrap());
    held.wait(1, DEADLINE);
    child.signal("KILL");
    drop(child);
    // Whether or not it was fenced, what was committed is there once.
    owner.run(3);
    // That of a node which is no more, and it may fence whoever has the task now.
    held.release(DEADLINE);
    owner.run(3);
    scene.verdict(11);
}

#[test]
fn before_it_has_fenced_the_owner() {
    let brokers = or_skip!(Brokers::shared());
    killed_taking_over(brokers, "killed-fencing", Api::INIT_PRODUCER_ID);
}

#[test]
fn before_it_has_announced_itself() {
    let brokers = or_skip!(Brokers::shared());
    killed_taking_over(brokers, "killed-announcing", Api::ADD_PARTITIONS_TO_TXN);
}

#[test]
fn when_it_is_about_to_have_announced_itself() {
    let brokers = or_skip!(Brokers::shared());
    killed_taking_over(brokers, "killed-announced", Api::END_TXN);
}

#[test]
fn while_it_restores() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "killed-restoring");
    let running = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&running);
    owner.run(20);
    let [node] = brokers.nodes();
    for opens in 1..3 {
        let mut child = Child::start("take", &scene.app, &node.bootstrap());
        child.until("restoring");
        child.signal("KILL");
        drop(child);
        let (spec, bell) = task("f/write/0", &[]);
        let lease = try_open(&running.engine, &spec, &bell).unwrap();
        let recovered = lease.recovered();
        assert_eq!((recovered.progress.turn, recovered.opens), (20, 2 * opens));
    }
    owner.run(3);
    scene.verdict(23);
}

#[test]
fn who_restores_holds_no_transaction_open() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "restores");
    Owner::open(&scene.node(brokers.bootstrap())).run(20);
    let [node] = brokers.nodes();
    let running = scene.node(node.bootstrap());
    let (spec, bell) = task("f/write/0", &[]);
    let mut lease = try_open(&running.engine, &spec, &bell).unwrap();
    let mut ended = |done: bool| {
        assert_eq!(lease.restore(64, &mut |_| Ok(())).unwrap(), done);
        let begun = node.requests(Api::ADD_PARTITIONS_TO_TXN);
        (begun, node.answers(Api::END_TXN))
    };
    assert_eq!(ended(false), (1, 1), "it has announced itself and begun nothing else");
    drop(lease);
    Owner::open(&running).run(1);
    scene.verdict(21);
}
