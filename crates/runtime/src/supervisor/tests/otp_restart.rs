//! Restart type x exit kind x strategy, each under OTP's name.

use super::{world::*, *};

/// A child between two others that ends with `exit`; what is left of it, and whether it was started
/// again. The others are started again with it, as the strategy says, or not touched at all.
fn ends(strategy: Strategy, restart: Restart, exit: Exit) -> (String, bool) {
    const OTHERS: [Id; 2] = ["before", "after"];
    let children =
        [("before", Restart::Permanent), ("child1", restart), ("after", Restart::Permanent)];
    let mut w = World::up(strategy, 2, &children);
    let before = w.instance("child1");
    let others = OTHERS.map(|id| w.instance(id));
    w.exit("child1", exit);
    assert!(w.stopped.is_none());
    let again = w.instance("child1").is_some_and(|i| Some(i) != before);
    let groups = match strategy {
        Strategy::OneForOne => [false, false],
        Strategy::OneForAll => [true, true],
        Strategy::RestForOne => [false, true],
    };
    for ((id, then), group) in OTHERS.into_iter().zip(others).zip(groups) {
        let now = w.instance(id);
        assert!(now.is_some(), "{strategy:?}: {id} is gone");
        assert_eq!(now != then, again && group, "{strategy:?}: {id}");
    }
    let left = w.children();
    let left = left.strip_prefix("before+ ").and_then(|l| l.strip_suffix("after+"));
    (left.unwrap_or("not in its place").trim_end().to_string(), again)
}

const RESTARTED: (&str, bool) = ("child1+", true);
const KEPT: (&str, bool) = ("child1-", false);
const FORGOTTEN: (&str, bool) = ("", false);

#[track_caller]
fn check(restart: Restart, exit: Exit, (children, again): (&str, bool)) {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let left = ends(strategy, restart, exit.clone());
        assert_eq!(left, (children.to_string(), again), "{strategy:?}");
    }
}

#[test]
fn permanent_normal() {
    check(Restart::Permanent, Exit::Normal, RESTARTED);
}

#[test]
fn transient_normal() {
    check(Restart::Transient, Exit::Normal, KEPT);
}

#[test]
fn temporary_normal() {
    check(Restart::Temporary, Exit::Normal, FORGOTTEN);
}

#[test]
fn permanent_shutdown() {
    check(Restart::Permanent, Exit::Shutdown, RESTARTED);
}

#[test]
fn transient_shutdown() {
    check(Restart::Transient, Exit::Shutdown, KEPT);
    let mut w = World::up(Strategy::OneForOne, 2, &[("child1", Restart::Transient)]);
    w.exit("child1", Exit::Shutdown).send(Event::RestartChild("child1"));
    assert_eq!(w.children(), "child1+");
    w.exit("child1", Exit::Shutdown);
    assert_eq!(w.children(), "child1-");
}

#[test]
fn temporary_shutdown() {
    check(Restart::Temporary, Exit::Shutdown, FORGOTTEN);
    let mut w = World::up(Strategy::OneForOne, 2, &[("child1", Restart::Temporary)]);
    w.exit("child1", Exit::Shutdown);
    w.send(Event::AddChild(ChildSpec::worker("child1", Restart::Temporary)));
    assert_eq!(w.children(), "child1+");
    w.exit("child1", Exit::Shutdown);
    assert_eq!(w.children(), "");
}

#[test]
fn permanent_abnormal() {
    check(Restart::Permanent, died(), RESTARTED);
}

#[test]
fn transient_abnormal() {
    check(Restart::Transient, died(), RESTARTED);
}

#[test]
fn temporary_abnormal() {
    check(Restart::Temporary, died(), FORGOTTEN);
}

/// OTP tests this within `do_not_save_child_specs_for_temporary_children`.
#[test]
fn kill_is_abnormal() {
    check(Restart::Permanent, Exit::Kill, RESTARTED);
    check(Restart::Transient, Exit::Kill, RESTARTED);
    check(Restart::Temporary, Exit::Kill, FORGOTTEN);
}

#[test]
fn temporary_bystander() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let children = [("child1", Restart::Permanent), ("child2", Restart::Temporary)];
        let mut w = World::up(strategy, 2, &children);
        w.exit("child1", Exit::Normal);
        assert_eq!(w.take_log(), ".child1 -child2 +child1");
        assert_eq!(w.children(), "child1+");
        assert!(w.stopped.is_none());
    }
}

#[test]
fn do_not_save_child_specs_for_temporary_children() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let mut w = World::up(strategy, 9, &[]);
        for (restart, kept) in [
            (Restart::Permanent, "child1-"),
            (Restart::Transient, "child1-"),
            (Restart::Temporary, ""),
        ] {
            w.send(Event::AddChild(ChildSpec::worker("child1", restart)));
            w.send(Event::TerminateChild("child1"));
            assert_eq!(w.children(), kept);
            w.send(Event::DeleteChild("child1"));
        }
    }
}

#[test]
fn multiple_restarts() {
    let mut spec = spec(Strategy::OneForOne, 1, &[("child1", Restart::Permanent)]);
    spec.intensity = Intensity::new(1, 1);
    let mut w = World::new(spec);
    w.send(Event::Start).exit("child1", died());
    for _ in 0..3 {
        w.pass(std::time::Duration::from_millis(2100)).exit("child1", died());
    }
    assert!(w.stopped.is_none());
    w.send(Event::TerminateChild("child1")).send(Event::DeleteChild("child1"));
    assert_eq!((w.children().as_str(), w.refused.len()), ("", 0));
}
