//! What lies at the end of logs: aborted records, marks of transactions.

use millstream_brokers::{Api, Brokers, DEADLINE, or_skip};
use millstream_core::{
    engine::Engine,
    turn::{Change, Position},
};
use millstream_kafka::client::{Start, TopicPartition};

use crate::oracle::{Owner, Scene, State, ZOMBIE, model, out, task, try_open};

/// What people are shown of the task's state, without taking it over: what a standby reads.
fn shown(node: &crate::oracle::Running) -> State {
    let mut state = State::new();
    let tasks = node.engine.tasks();
    let (_, id, _) = tasks.iter().find(|(name, ..)| name == "f/write/0").unwrap();
    let mut take = |c: Change<'_>| {
        match c.value {
            Some(value) => drop(state.insert((c.table, c.key.to_vec()), value.to_vec())),
            None => drop(state.remove(&(c.table, c.key.to_vec()))),
        }
        Ok(())
    };
    node.engine.visit_state(*id, &mut take).unwrap();
    state
}

#[test]
fn aborted_data_in_a_states_tail_is_never_restored() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "aborted");
    let [one, two] = brokers.nodes();
    let new = scene.node(two.bootstrap());
    for round in 0..3 {
        let old = scene.node(one.bootstrap());
        let mut owner = Owner::open(&old);
        owner.run(2);
        let turns = owner.turns;
        assert_eq!(turns, 3 * round + 2);
        owner.tag = ZOMBIE;
        let held = one.hold(Api::END_TXN, u32::MAX);
        owner.commit();
        // All of it is in the log; what lacks is the decision.
        held.wait(1, DEADLINE);
        assert_eq!(shown(&new), model(turns));
        one.cut();
        drop((held, owner, old));
        // Restores, and compares with the model.
        let mut successor = Owner::open(&new);
        assert_eq!(successor.turns, turns);
        assert_eq!(shown(&new), model(turns));
        successor.run(1);
        one.heal();
    }
    scene.verdict(9);
}

#[test]
fn logs_that_end_in_aborted_records_are_read_to_their_end() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "ends");
    let [one, two] = brokers.nodes();
    let (old, new) = (scene.node(one.bootstrap()), scene.node(two.bootstrap()));
    let mut owner = Owner::open(&old);
    owner.run(3);
    owner.tag = ZOMBIE;
    let held = one.hold(Api::END_TXN, u32::MAX);
    owner.commit();
    held.wait(1, DEADLINE);
    // It aborts what is open, and writes nothing to the stream.
    let successor = Owner::open(&new);
    assert_eq!(successor.turns, 3);
    let at = TopicPartition::new(scene.out(), 0);
    let range = new.client.range(&at).unwrap();
    let last = brokers.committed(&scene.out()).into_iter().rfind(|r| r.partition == 0).unwrap();
    assert!(range.end > last.offset + 2, "{range:?} ends in more than one record's mark");
    let rest = new.client.read(&at, Start::Offset(last.offset + 1), 1 << 20).unwrap();
    assert!(rest.is_none(), "nothing that can be read");
    // A reader from the beginning, and one from where that one ended; each on a node that joins.
    let mut turns = 0;
    for from in [0, last.offset + 1] {
        let node = scene.node(brokers.bootstrap());
        let stream = node.engine.create_stream(&out()).unwrap();
        let (spec, bell) = task("f/ends/0", &[(stream, 0)]);
        let mut reader = try_open(&node.engine, &spec, &bell).unwrap();
        let expected = if from == 0 { 3 } else { 0 };
        let position = Position { frame: from, row: 0 };
        bell.until("what is left", || {
            let frames = reader.poll(0, position, usize::MAX).unwrap();
            (frames.len() == expected).then_some(())
        });
        turns += 1;
        let mut turn = millstream_runtime::conformance::turn(turns, vec![], Default::default());
        let read = millstream_runtime::conformance::read_up_to(last.offset + 1, 6);
        turn.progress.inputs.push(read);
        let ticket = reader.commit(turn);
        bell.until("the reader's turn", || {
            (reader.settled(ticket) == millstream_core::engine::Settlement::Ok).then_some(())
        });
    }
    drop(held);
    let mut successor = successor;
    successor.run(1);
    scene.verdict(4);
}
