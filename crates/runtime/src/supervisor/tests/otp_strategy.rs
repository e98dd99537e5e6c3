//! Strategies, escalation and the restart loop, each under OTP's name.

use std::time::Duration;

use super::{world::*, *};
use Restart::Permanent;
use Strategy::*;

const TWO: [(Id, Restart); 2] = [("child1", Permanent), ("child2", Permanent)];
const THREE: [(Id, Restart); 3] =
    [("child1", Permanent), ("child2", Permanent), ("child3", Permanent)];

#[test]
fn one_for_one() {
    let mut w = World::up(OneForOne, 2, &TWO);
    let bystander = w.instance("child2");
    w.exit("child1", died());
    assert_eq!(w.take_log(), ".child1 +child1");
    assert_eq!((w.children().as_str(), w.instance("child2")), ("child1+ child2+", bystander));
    w.exit("child2", died()).exit("child2", died());
    assert!(w.gave_up());
}

#[test]
fn one_for_one_escalation() {
    let mut w = World::up(OneForOne, 4, &TWO);
    w.manners("child1", Manners::FailsToStart(u32::MAX)).exit("child1", died());
    let log = w.take_log();
    assert_eq!(log, ".child1 !child1 !child1 !child1 !child1 giving up -child2 stopped");
    assert!(w.gave_up());
}

#[test]
fn one_for_all() {
    let mut w = World::up(OneForAll, 2, &TWO);
    w.exit("child1", died());
    assert_eq!(w.take_log(), ".child1 -child2 +child1 +child2");
    assert_eq!(w.children(), "child1+ child2+");
    w.exit("child2", died()).exit("child1", died());
    assert!(w.gave_up());
}

#[test]
fn one_for_all_escalation() {
    let mut w = World::up(OneForAll, 4, &TWO);
    w.manners("child2", Manners::FailsToStart(u32::MAX)).exit("child1", died());
    assert!(w.take_log().ends_with("+child1 !child2 giving up -child1 stopped"));
    assert!(w.gave_up());
}

#[test]
fn one_for_all_other_child_fails_restart() {
    let mut w = World::up(OneForAll, 3, &TWO);
    w.manners("child2", Manners::FailsToStart(1)).exit("child1", died());
    let log = w.take_log();
    assert_eq!(log, ".child1 -child2 +child1 !child2 -child1 +child1 +child2");
    assert_eq!(w.children(), "child1+ child2+");
}

/// `simple_one_for_one` is `one_for_one` with children added at run time.
fn simple(max: u32, specs: Vec<ChildSpec<Id>>) -> World {
    let mut w = World::up(OneForOne, max, &[]);
    for spec in specs {
        w.send(Event::AddChild(spec));
    }
    w.take_log();
    w
}

fn workers(ids: &[Id]) -> Vec<ChildSpec<Id>> {
    ids.iter().map(|id| ChildSpec::worker(*id, Permanent)).collect()
}

#[test]
fn simple_one_for_one() {
    let mut w = simple(2, workers(&["1", "2"]));
    w.exit("1", died());
    assert_eq!((w.take_log().as_str(), w.children().as_str()), (".1 +1", "1+ 2+"));
    w.exit("2", died()).exit("2", died());
    assert!(w.gave_up());
}

#[test]
fn simple_one_for_one_escalation() {
    let mut w = simple(4, workers(&["1", "2"]));
    w.manners("1", Manners::FailsToStart(u32::MAX)).exit("1", died());
    assert!(w.gave_up());
    assert!(w.take_log().ends_with("giving up -2 stopped"));
}

#[test]
fn simple_one_for_one_shutdown() {
    let patience = Duration::from_secs(2);
    let spec = |id| ChildSpec::worker(id, Permanent).shutdown(Shutdown::Timeout(patience));
    let mut w = simple(2, ["1", "2", "3"].map(spec).to_vec());
    w.manners("3", Manners::Hangs).send(Event::Shutdown);
    assert_eq!((w.take_log().as_str(), w.supervisor.next_wake()), ("-3", Some(w.now + patience)));
    w.pass(patience);
    assert_eq!(w.take_log(), "x3 -2 -1 stopped");
    assert_eq!(w.stopped, Some(Stop::Asked));
}

#[test]
fn rest_for_one() {
    let mut w = World::up(RestForOne, 2, &THREE);
    let before = w.instance("child1");
    w.exit("child2", died());
    assert_eq!(w.take_log(), ".child2 -child3 +child2 +child3");
    assert_eq!((w.children().as_str(), w.instance("child1")), ("child1+ child2+ child3+", before));
    w.exit("child3", died());
    assert_eq!(w.take_log(), ".child3 +child3");
    w.exit("child2", died());
    assert!(w.gave_up());
}

#[test]
fn rest_for_one_escalation() {
    let mut w = World::up(RestForOne, 4, &TWO);
    w.manners("child2", Manners::FailsToStart(u32::MAX)).exit("child1", died());
    // Only the child that fails is tried again: the first one stays up until the end.
    let log = w.take_log();
    assert_eq!(
        log,
        ".child1 -child2 +child1 !child2 !child2 !child2 !child2 giving up -child1 stopped"
    );
    assert!(w.gave_up());
}

#[test]
fn rest_for_one_other_child_fails_restart() {
    let mut w = World::up(RestForOne, 3, &TWO);
    w.manners("child2", Manners::FailsToStart(1)).exit("child1", died());
    assert_eq!(w.take_log(), ".child1 -child2 +child1 !child2 +child2");
    assert_eq!(w.children(), "child1+ child2+");
}

/// A group is started again with those of its members that somebody had ended.
#[test]
fn a_group_restart_starts_members_that_were_down() {
    let children = [("child1", Permanent), ("child2", Permanent), ("child3", Restart::Transient)];
    let mut w = World::up(OneForAll, 3, &children);
    w.send(Event::TerminateChild("child2")).exit("child3", Exit::Normal);
    assert_eq!(w.children(), "child1+ child2- child3-");
    w.exit("child1", died());
    assert_eq!(w.children(), "child1+ child2+ child3+");
}

#[test]
fn hanging_restart_loop() {
    let child = ChildSpec::worker("child1", Permanent).shutdown(Shutdown::BrutalKill);
    let mut w = World::up(OneForOne, 8, &[]);
    w.send(Event::AddChild(child.clone()));
    w.manners("child1", Manners::HangsInStart).exit("child1", died());
    assert_eq!(w.children(), "child1*");
    w.send(Event::AddChild(child))
        .send(Event::RestartChild("child1"))
        .send(Event::DeleteChild("child1"));
    let why = w.take_refused().into_iter().map(|(_, why)| why).collect::<Vec<_>>();
    assert_eq!(why, [Refusal::AlreadyPresent, Refusal::Restarting, Refusal::Restarting]);

    w.take_log();
    w.send(Event::TerminateChild("child1"));
    assert_eq!((w.take_log().as_str(), w.children().as_str()), ("xchild1", "child1-"));
    w.manners("child1", Manners::Obeys).send(Event::RestartChild("child1"));
    assert_eq!(w.children(), "child1+");

    w.manners("child1", Manners::HangsInStart).exit("child1", died());
    w.take_log();
    w.send(Event::Shutdown);
    assert_eq!(w.take_log(), "xchild1 stopped");
}

/// OTP's loop is busy failing to start; ours waits between two attempts.
#[test]
fn hanging_restart_loop_rest_for_one() {
    let backoff = Backoff { first: Duration::from_secs(1), ..Backoff::default() };
    let children = THREE.map(|(id, r)| ChildSpec::worker(id, r).shutdown(Shutdown::BrutalKill));
    let mut w =
        World::new(Spec { backoff, children: children.to_vec(), ..spec(RestForOne, 8, &[]) });
    w.send(Event::Start);
    let first = w.instance("child1");
    w.manners("child2", Manners::FailsToStart(u32::MAX)).exit("child2", died());
    assert_eq!((w.children().as_str(), w.instance("child1")), ("child1+ child2* child3-", first));
    w.send(Event::AddChild(children[1].clone()))
        .send(Event::RestartChild("child2"))
        .send(Event::DeleteChild("child2"));
    let why = w.take_refused().into_iter().map(|(_, why)| why).collect::<Vec<_>>();
    assert_eq!(why, [Refusal::AlreadyPresent, Refusal::Restarting, Refusal::Restarting]);

    w.send(Event::TerminateChild("child2"));
    assert_eq!(w.children(), "child1+ child2- child3-");
    w.manners("child2", Manners::Obeys);
    w.send(Event::RestartChild("child2")).send(Event::RestartChild("child3"));
    assert_eq!(w.children(), "child1+ child2+ child3+");

    w.manners("child2", Manners::FailsToStart(u32::MAX)).exit("child2", died());
    w.take_log();
    w.send(Event::Shutdown);
    assert_eq!(w.take_log(), "xchild1 stopped");
}

/// Names that are not in the order of the alphabet.
#[test]
fn order_of_children() {
    let children = ["ch7", "ch3", "ch10", "ch2", "ch5"].map(|id| (id, Permanent));
    let mut w = World::new(spec(RestForOne, 2, &children));
    w.send(Event::Start);
    assert_eq!(w.take_log(), "+ch7 +ch3 +ch10 +ch2 +ch5");
    w.exit("ch3", died());
    assert_eq!(w.take_log(), ".ch3 -ch5 -ch2 -ch10 +ch3 +ch10 +ch2 +ch5");
    assert_eq!(w.children(), "ch7+ ch3+ ch10+ ch2+ ch5+");
    w.send(Event::Shutdown);
    assert_eq!(w.take_log(), "-ch5 -ch2 -ch10 -ch3 -ch7 stopped");
}

#[test]
fn hanging_restart_loop_simple() {
    let mut w = simple(8, workers(&["1"]));
    w.manners("1", Manners::HangsInStart).exit("1", died());
    w.send(Event::TerminateChild("1")).send(Event::DeleteChild("1"));
    assert_eq!((w.children().as_str(), w.take_refused().len()), ("", 0));
}

/// OTP's `tree`: a supervisor that gives up is one failure of one child, and its whole subtree is
/// new afterwards, without the children that were added at run time.
#[test]
fn tree() {
    let mut top = World::new(Spec {
        children: ["sup1", "sup2"].map(|id| ChildSpec::supervisor(id, Permanent)).to_vec(),
        ..spec(OneForAll, 4, &[])
    });
    top.send(Event::Start);
    top.take_log();
    let mut sup2 = World::up(OneForOne, 4, &[]);
    sup2.send(Event::AddChild(ChildSpec::worker("child3", Permanent)));
    sup2.send(Event::AddChild(ChildSpec::worker("child4", Permanent)));
    sup2.exit("child4", died());
    assert_eq!(sup2.children(), "child3+ child4+");
    sup2.manners("child3", Manners::FailsToStart(u32::MAX)).exit("child3", died());
    assert!(sup2.gave_up());
    top.exit("sup2", Exit::Shutdown);
    assert_eq!(top.take_log(), ".sup2 -sup1 +sup1 +sup2");
}
