//! Brokers that die or stand still. They are of these tests alone, one after the other.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use millstream_brokers::{Brokers, Error, or_skip};

use crate::oracle::{HASTE, Owner, Scene, Steady};

fn own() -> Result<MutexGuard<'static, Brokers>, &'static Error> {
    static OWN: OnceLock<Result<Mutex<Brokers>, Error>> = OnceLock::new();
    let own = OWN.get_or_init(|| Brokers::start().map(Mutex::new)).as_ref()?;
    Ok(own.lock().unwrap_or_else(PoisonError::into_inner))
}

#[test]
fn brokers_that_die_cost_time_and_no_turn() {
    let brokers = or_skip!(own());
    let scene = Scene::new(&brokers, "brokers-die");
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
        steady.goes_on(3, "with all brokers, before two die");
        // Without enough replicas it stalls.
        brokers.kill(1);
        brokers.kill(2);
        steady.stands_still();
        std::thread::scope(|scope| {
            scope.spawn(|| brokers.start_again(1));
            brokers.start_again(2);
        });
        steady.goes_on(5, "with all brokers again");
    });
    scene.verdict(turns);
}

/// As they do whose disk answers nothing for a while.
#[test]
fn brokers_that_stand_still_cost_time_and_no_turn() {
    let brokers = or_skip!(own());
    let scene = Scene::new(&brokers, "brokers-stand-still");
    let node = scene.node_with(brokers.bootstrap(), &[HASTE]);
    let mut owner = Owner::open(&node);
    let turns = Steady::while_it_runs(&mut owner, |steady| {
        for n in 1..=3 {
            steady.goes_on(3, "before a broker stands still");
            brokers.pause(n);
            // Longer than others need to notice.
            steady.a_while();
            brokers.resume(n);
            steady.goes_on(3, "with a broker that goes on");
        }
        brokers.pause(1);
        brokers.pause(2);
        steady.stands_still();
        brokers.resume(1);
        brokers.resume(2);
        steady.goes_on(5, "with all brokers again");
    });
    scene.verdict(turns);
}
