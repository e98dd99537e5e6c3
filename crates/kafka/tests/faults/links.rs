//! The way between a node and the brokers.

use millstream_brokers::{Brokers, Node, or_skip};

use crate::oracle::{HASTE, Owner, Scene, Steady};

/// A node commits all the time, while its links are disturbed and healed again.
fn disturbed(brokers: &Brokers, app: &str, disturb: impl Fn(&Scene<'_>, &Node<'_>, &Steady)) {
    let scene = Scene::new(brokers, app);
    let [node] = brokers.nodes();
    let running = scene.node_with(node.bootstrap(), &[HASTE]);
    let mut owner = Owner::open(&running);
    owner.run(3);
    let turns = Steady::while_it_runs(&mut owner, |steady| {
        steady.goes_on(3, "before");
        disturb(&scene, &node, steady);
        node.heal();
        steady.goes_on(3, "after");
    });
    scene.verdict(turns);
}

/// Gives it a while, and shows that what was committed is there meanwhile.
fn takes_effect(scene: &Scene<'_>, steady: &Steady) {
    steady.a_while();
    scene.committed(steady.turns());
}

#[test]
fn a_node_that_was_cut_off_goes_on() {
    let brokers = or_skip!(Brokers::shared());
    disturbed(brokers, "cut", |scene, node, steady| {
        for _ in 0..3 {
            node.cut();
            takes_effect(scene, steady);
            node.heal();
            steady.goes_on(1, "after a cut");
        }
    });
}

#[test]
fn a_node_that_reaches_one_broker_of_three_loses_nothing() {
    let brokers = or_skip!(Brokers::shared());
    disturbed(brokers, "one-of-three", |scene, node, steady| {
        for reachable in 1..=3 {
            for n in (1..=3).filter(|n| *n != reachable) {
                node.to(n).cut();
            }
            takes_effect(scene, steady);
            node.heal();
            steady.goes_on(1, "after two brokers were out of reach");
        }
    });
}

#[test]
fn what_is_lost_one_way_is_neither_lost_nor_done_twice() {
    let brokers = or_skip!(Brokers::shared());
    disturbed(brokers, "one-way", |scene, node, steady| {
        for back in [false, true] {
            if back {
                node.black_hole_back();
            } else {
                node.black_hole_to();
            }
            takes_effect(scene, steady);
            node.heal();
            steady.goes_on(1, "after a black hole");
        }
    });
}
