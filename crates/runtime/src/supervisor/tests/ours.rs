//! The edges of the intensity window, races with slow children, and back-off, which OTP has not.

use std::time::Duration;

use super::{world::*, *};
use Restart::Permanent;
use Strategy::*;

const ONE: [(Id, Restart); 1] = [("a", Permanent)];
const THREE: [(Id, Restart); 3] = [("a", Permanent), ("b", Permanent), ("c", Permanent)];

fn window(max: u32, secs: u64) -> World {
    let mut spec = spec(OneForOne, max, &ONE);
    spec.intensity = Intensity::new(max, secs);
    let mut w = World::new(spec);
    w.send(Event::Start);
    w
}

#[test]
fn a_restart_exactly_one_period_old_still_counts() {
    let mut w = window(1, 5);
    w.exit("a", died()).pass(Duration::from_secs(5)).exit("a", died());
    assert!(w.gave_up());
    let mut w = window(1, 5);
    w.exit("a", died()).pass(Duration::from_millis(5001)).exit("a", died());
    assert!(w.stopped.is_none());
}

#[test]
fn the_window_slides() {
    let mut w = window(2, 10);
    for _ in 0..50 {
        // 0, 4, 11, 15, 22 ... : never three within ten seconds.
        w.exit("a", died()).pass(Duration::from_secs(4));
        w.exit("a", died()).pass(Duration::from_secs(7));
    }
    // The one seven seconds ago still counts.
    w.exit("a", died());
    assert!(w.stopped.is_none());
    w.exit("a", died());
    assert!(w.gave_up());
}

#[test]
fn intensity_zero_grants_nothing() {
    let mut w = window(0, 5);
    w.exit("a", died());
    assert!(w.gave_up());
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let mut w = window(1, 5);
    w.exit("a", died());
    w.manners("a", Manners::Hangs).now = ms(0);
    w.send(Event::TerminateChild("a"));
    assert_eq!(w.supervisor.next_wake(), Some(ms(1_005_000)));
}

#[test]
fn giving_up_terminates_in_reverse_start_order() {
    let mut w = World::up(OneForOne, 0, &THREE);
    w.exit("b", died());
    assert_eq!(w.take_log(), ".b giving up -c -a stopped");
    assert_eq!(w.stopped, Some(Stop::GaveUp(died())));
}

#[test]
fn backoff_doubles_up_to_its_cap_and_is_forgotten_after_a_quiet_period() {
    let backoff = Backoff {
        first: Duration::from_millis(100),
        max: Duration::from_millis(300),
        reset_after: Duration::from_secs(60),
    };
    let mut w = World::new(Spec { backoff, ..spec(OneForOne, 100, &ONE) });
    w.send(Event::Start);
    for wait in [0, 100, 200, 300, 300] {
        w.take_log();
        w.exit("a", died());
        if wait > 0 {
            let until = w.now + Duration::from_millis(wait);
            assert_eq!((w.take_log().as_str(), w.children().as_str()), (".a", "a*"));
            assert_eq!(w.supervisor.next_wake(), Some(until));
            w.pass(Duration::from_millis(wait - 1));
            assert_eq!(w.take_log(), "");
            w.pass(Duration::from_millis(1));
            assert_eq!(w.take_log(), "+a");
        }
        assert_eq!(w.children(), "a+");
    }
    w.pass(Duration::from_millis(60_001)).take_log();
    w.exit("a", died());
    assert_eq!(w.take_log(), ".a +a");
}

fn slow(strategy: Strategy) -> World {
    let backoff = Backoff { first: Duration::from_secs(1), ..Backoff::default() };
    let mut w = World::new(Spec { backoff, ..spec(strategy, 100, &THREE) });
    w.send(Event::Start).exit("b", died());
    w.take_log();
    w.exit("b", died());
    w
}

#[test]
fn one_for_one_siblings_run_on_while_one_waits() {
    let mut w = slow(OneForOne);
    assert_eq!(w.children(), "a+ b* c+");
    w.exit("c", died());
    assert_eq!(w.children(), "a+ b* c+");
}

#[test]
fn a_group_is_down_while_one_of_it_waits() {
    let mut w = slow(RestForOne);
    assert_eq!((w.take_log().as_str(), w.children().as_str()), (".b -c", "a+ b* c-"));
    w.pass(Duration::from_secs(1));
    assert_eq!((w.take_log().as_str(), w.children().as_str()), ("+b +c", "a+ b+ c+"));
}

#[test]
fn a_wait_can_be_called_off() {
    let mut w = slow(OneForAll);
    w.send(Event::TerminateChild("b")).pass(Duration::from_secs(9));
    assert_eq!((w.children().as_str(), w.supervisor.next_wake()), ("a- b- c-", None));
    let mut w = slow(OneForAll);
    w.send(Event::Shutdown);
    assert_eq!(w.stopped, Some(Stop::Asked));
}

#[test]
fn shutdown_interrupts_a_group_restart() {
    let mut w = World::up(OneForAll, 9, &THREE);
    w.manners("b", Manners::HangsInStart).exit("a", died());
    assert_eq!(w.take_log(), ".a -c -b +a ?b");
    w.send(Event::AddChild(ChildSpec::worker("d", Permanent))).send(Event::Shutdown);
    assert_eq!(w.take_log(), "-b -a stopped");
    assert_eq!(w.take_refused(), [("d", Refusal::Stopping)]);
}

#[test]
fn what_comes_during_a_group_restart_waits_for_its_end() {
    let mut w = World::up(OneForAll, 9, &THREE);
    w.manners("b", Manners::HangsInStart).exit("a", died()).take_log();
    w.send(Event::TerminateChild("c")).exit("a", died());
    assert_eq!(w.take_log(), ".a");
    w.manners("b", Manners::Obeys).send(Event::Started("b"));
    // All are up: `c` is ended because it was asked for, then `a` has died, so all start again.
    assert_eq!(w.take_log(), "+c -c -b +a +b +c");
    assert_eq!(w.children(), "a+ b+ c+");
}

#[test]
fn children_that_die_with_the_failed_one_are_not_counted() {
    let mut w = World::up(OneForAll, 1, &THREE);
    w.manners("c", Manners::Hangs).exit("a", died());
    assert_eq!(w.take_log(), ".a -c");
    w.exit("b", died()).exit("c", died());
    assert_eq!(w.take_log(), ".b .c +a +b +c");
    assert!(w.stopped.is_none());
}

#[test]
fn events_that_fit_no_child_are_ignored() {
    let mut w = World::up(OneForOne, 1, &ONE);
    w.send(Event::Started("a")).send(Event::StartFailed("a", oops())).send(Event::Started("z"));
    w.send(Event::Exited { id: "z", exit: died() }).send(Event::Start).send(Event::Tick);
    assert_eq!((w.take_log().as_str(), w.children().as_str()), ("", "a+"));
}
