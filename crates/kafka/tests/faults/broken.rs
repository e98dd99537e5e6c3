//! Brokers that die. They are of these tests alone, which take turns with them.

use std::sync::{Mutex, MutexGuard, OnceLock};

use millstream_brokers::{Brokers, Error, or_skip};

use crate::oracle::{Owner, Scene, Steady};

/// Brokers that may be killed, as long as all are alive again afterwards.
fn mortal() -> Result<MutexGuard<'static, Brokers>, &'static Error> {
    static MORTAL: OnceLock<Result<Mutex<Brokers>, Error>> = OnceLock::new();
    let mortal = MORTAL.get_or_init(|| Brokers::start().map(Mutex::new)).as_ref();
    mortal.map(|brokers| brokers.lock().unwrap())
}

#[test]
#[ignore = "minutes on real brokers; see docs/testing.md"]
fn a_broker_that_dies_costs_time_and_no_turn() {
    let brokers = or_skip!(mortal());
    let scene = Scene::new(&brokers, "one-dies");
    let node = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&node);
    let turns = Steady::while_it_runs(&mut owner, |steady| {
        // Each in turn: one of them leads the state, one coordinates the transactions.
        for n in 1..=3 {
            steady.goes_on(3, "before a broker dies");
            brokers.kill(n);
            steady.goes_on(3, "without a broker");
            brokers.start_again(n);
        }
        steady.goes_on(3, "with all brokers");
    });
    scene.verdict(turns);
}

#[test]
#[ignore = "minutes on real brokers; see docs/testing.md"]
fn without_enough_replicas_it_stalls_and_loses_nothing() {
    let brokers = or_skip!(mortal());
    let scene = Scene::new(&brokers, "two-die");
    let node = scene.node(brokers.bootstrap());
    let mut owner = Owner::open(&node);
    let turns = Steady::while_it_runs(&mut owner, |steady| {
        steady.goes_on(3, "before two brokers die");
        brokers.kill(1);
        brokers.kill(2);
        steady.stands_still();
        std::thread::scope(|scope| {
            scope.spawn(|| brokers.start_again(1));
            brokers.start_again(2);
        });
        steady.goes_on(5, "with all brokers");
    });
    scene.verdict(turns);
}
