//! Starting, stopping, and adding or removing children, each under OTP's name.

use std::time::Duration;

use super::{world::*, *};
use Restart::{Permanent, Temporary};
use Strategy::*;

fn worker(id: Id) -> ChildSpec<Id> {
    ChildSpec::worker(id, Permanent)
}

#[test]
fn sup_start_normal() {
    let mut w = World::new(spec(OneForOne, 2, &[]));
    w.send(Event::Start).send(Event::Shutdown);
    assert_eq!((w.take_log().as_str(), &w.stopped), ("stopped", &Some(Stop::Asked)));
    w.send(Event::Start).send(Event::AddChild(worker("child1"))).send(Event::Tick);
    assert_eq!(w.take_log(), "");
}

/// A child that does not start with its supervisor is not tried again: those before it are
/// terminated and the supervisor does not start.
#[test]
fn sup_start_fail() {
    let children = [("child1", Permanent), ("child2", Permanent), ("child3", Permanent)];
    let mut w = World::new(spec(OneForOne, 2, &children));
    w.manners("child3", Manners::FailsToStart(1)).send(Event::Start);
    assert_eq!(w.take_log(), "+child1 +child2 !child3 -child2 -child1 stopped");
    assert_eq!(w.stopped, Some(Stop::StartFailed(oops())));
}

#[test]
fn sup_stop_infinity() {
    let mut w = World::up(OneForOne, 2, &[]);
    w.send(Event::AddChild(ChildSpec::supervisor("child1", Permanent)));
    w.send(Event::AddChild(worker("child2").shutdown(Shutdown::Infinity)));
    w.manners("child2", Manners::Hangs).take_log();
    w.send(Event::Shutdown).pass(Duration::from_secs(1_000_000));
    assert_eq!((w.take_log().as_str(), w.supervisor.next_wake()), ("-child2", None));
    w.exit("child2", Exit::Shutdown);
    assert_eq!(w.take_log(), ".child2 -child1 stopped");
}

#[test]
fn sup_stop_timeout() {
    let mut w = World::up(OneForOne, 2, &[("child1", Permanent), ("child2", Permanent)]);
    w.manners("child2", Manners::Hangs).send(Event::Shutdown);
    w.pass(Duration::from_millis(4999));
    assert_eq!(w.take_log(), "-child2");
    w.pass(Duration::from_millis(1));
    assert_eq!(w.take_log(), "xchild2 -child1 stopped");
}

#[test]
fn sup_stop_brutal_kill() {
    let mut w = World::up(OneForOne, 2, &[("child1", Permanent)]);
    w.send(Event::AddChild(worker("child2").shutdown(Shutdown::BrutalKill))).take_log();
    w.send(Event::Shutdown);
    assert_eq!(w.take_log(), "xchild2 -child1 stopped");
}

#[test]
fn child_adm() {
    let mut w = World::up(OneForOne, 2, &[("child1", Permanent)]);
    let refused = |w: &mut World, event| {
        w.send(event);
        w.take_refused().pop().unwrap().1
    };
    use Event::*;
    assert_eq!(refused(&mut w, AddChild(worker("child1"))), Refusal::AlreadyStarted);
    assert_eq!(refused(&mut w, TerminateChild("hej")), Refusal::NotFound);
    assert_eq!(refused(&mut w, DeleteChild("hej")), Refusal::NotFound);
    assert_eq!(refused(&mut w, RestartChild("hej")), Refusal::NotFound);
    assert_eq!(refused(&mut w, DeleteChild("child1")), Refusal::Running);
    assert_eq!(refused(&mut w, RestartChild("child1")), Refusal::Running);

    w.send(TerminateChild("child1"));
    assert_eq!(w.children(), "child1-");
    w.send(TerminateChild("child1"));
    assert_eq!(w.take_refused(), []);
    assert_eq!(refused(&mut w, AddChild(worker("child1"))), Refusal::AlreadyPresent);
    w.send(RestartChild("child1"));
    assert_eq!(w.children(), "child1+");

    w.send(TerminateChild("child1")).send(DeleteChild("child1"));
    assert_eq!(w.children(), "");
    assert_eq!(refused(&mut w, RestartChild("child1")), Refusal::NotFound);
    w.send(AddChild(worker("child1")));
    assert_eq!(w.children(), "child1+");
}

/// What a child that was asked for cannot do counts toward no intensity.
#[test]
fn a_failed_start_child_is_forgotten_and_a_failed_restart_child_stays_down() {
    let mut w = World::up(OneForOne, 0, &[("child1", Permanent)]);
    w.manners("child2", Manners::FailsToStart(1)).send(Event::AddChild(worker("child2")));
    assert_eq!(w.children(), "child1+");
    w.send(Event::TerminateChild("child1"));
    w.manners("child1", Manners::FailsToStart(1)).send(Event::RestartChild("child1"));
    assert_eq!(w.children(), "child1-");
    let why = Refusal::StartFailed(oops());
    assert_eq!(w.take_refused(), [("child2", why.clone()), ("child1", why)]);
    assert!(w.stopped.is_none());
}

#[test]
fn child_specs() {
    let twice = spec(OneForOne, 2, &[("child", Permanent), ("child", Permanent)]);
    assert_eq!(Supervisor::new(twice).unwrap_err().code(), Code::Conflict);
}

#[test]
fn sup_flags() {
    let intensity = Intensity { max: 2, period: Duration::ZERO };
    let spec = Spec::<Id> { intensity, ..Spec::default() };
    assert_eq!(Supervisor::new(spec).unwrap_err().code(), Code::Limit);
}

#[test]
fn sup_start_map() {
    let (flags, worker) = (Spec::<Id>::default(), worker("child1"));
    assert_eq!((flags.strategy, flags.intensity), (OneForOne, Intensity::new(1, 5)));
    let five_seconds = Shutdown::Timeout(Duration::from_secs(5));
    assert_eq!((worker.shutdown, worker.kind), (five_seconds, Kind::Worker));
    let supervisor = ChildSpec::supervisor("child3", Permanent);
    assert_eq!((supervisor.shutdown, supervisor.kind), (Shutdown::Infinity, Kind::Supervisor));
}

#[test]
fn count_children() {
    const IDS: &str = "abcdefghij";
    let mut w = World::up(OneForOne, 2, &[]);
    let ids: Vec<Id> = (0..IDS.len()).map(|i| &IDS[i..=i]).collect();
    for id in &ids {
        w.send(Event::AddChild(ChildSpec::worker(*id, Temporary)));
    }
    assert_eq!(w.supervisor.which_children().count(), ids.len());
    for id in &ids {
        w.exit(id, Exit::Kill);
    }
    assert_eq!((w.supervisor.which_children().count(), &w.stopped), (0, &None));
}

#[test]
fn simple_one_for_one_scale_many_temporary_children() {
    let mut supervisor = Supervisor::new(Spec::default()).unwrap();
    supervisor.handle(Event::Start, ms(0));
    let children = 0..10_000;
    for id in children.clone() {
        let child = ChildSpec::worker(id, Temporary);
        assert_eq!(supervisor.handle(Event::AddChild(child), ms(0)), [Decision::StartChild(id)]);
        supervisor.handle(Event::Started(id), ms(0));
    }
    for id in children {
        let decisions = supervisor.handle(Event::TerminateChild(id), ms(0));
        assert_eq!(decisions, [Decision::TerminateChild { id, how: How::Shutdown }]);
        supervisor.handle(Event::Exited { id, exit: Exit::Shutdown }, ms(0));
    }
    assert_eq!(supervisor.which_children().count(), 0);
}
