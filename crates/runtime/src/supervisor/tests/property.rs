//! Random events, answered late and in any order, against what must always hold.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::*;

/// `splitmix64`: small, seeded, good enough to shuffle events.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Starting,
    Running,
    /// Told to end, before or after it had started.
    Ending,
}

const INTENSITY: Intensity = Intensity::new(3, 2);

/// The other side of the contract: who lives, and what was decided about them.
struct Outside {
    alive: BTreeMap<u64, Life>,
    /// In which order the children were added last.
    order: Vec<u64>,
    restarts: VecDeque<Time>,
    /// Set once it gives up or is asked to stop: who was asked to end since.
    ending: Option<Vec<u64>>,
    gave_up: bool,
    stopped: bool,
}

impl Outside {
    fn check(&mut self, decision: &Decision<u64>, now: Time) {
        assert!(!self.stopped, "decided after it stopped");
        match decision {
            Decision::StartChild(id) => {
                assert!(self.ending.is_none(), "started {id} while stopping");
                assert_eq!(self.alive.insert(*id, Life::Starting), None, "{id} runs twice");
            }
            Decision::TerminateChild { id, how } => {
                let life = self.alive.insert(*id, Life::Ending).expect("ends one that lives");
                assert_eq!(life == Life::Ending, *how == How::Kill, "asked once, then killed");
                if let (How::Shutdown, Some(ending)) = (how, &mut self.ending) {
                    let place = |id: u64| self.order.iter().position(|o| *o == id);
                    let in_order = ending.last().is_none_or(|last| place(*last) > place(*id));
                    assert!(in_order, "not in reverse start order");
                    ending.push(*id);
                }
            }
            Decision::Restarting { .. } => {
                self.restarts.push_back(now);
                let counts = |t: &Time| *t + INTENSITY.period >= now;
                let count = self.restarts.iter().filter(|t| counts(t)).count();
                assert!(count <= INTENSITY.max as usize, "{count} restarts within the period");
            }
            Decision::GiveUp { .. } => {
                let counts = |t: &Time| *t + INTENSITY.period >= now;
                let count = self.restarts.iter().filter(|t| counts(t)).count();
                assert_eq!(count, INTENSITY.max as usize, "gave up too early");
                self.gave_up = true;
                self.ending = Some(Vec::new());
            }
            Decision::Stopped(stop) => {
                assert!(self.alive.is_empty(), "stopped with {:?}", self.alive);
                assert_eq!(matches!(stop, Stop::GaveUp(_)), self.gave_up);
                self.stopped = true;
            }
            Decision::Up | Decision::Refused { .. } => {}
        }
    }

    /// Something that the contract allows to happen now.
    fn event(&mut self, dice: &mut Dice, eager: bool) -> Event<u64> {
        let living = self.alive.iter().nth(dice.roll(8) as usize).map(|(id, life)| (*id, *life));
        if let Some((id, life)) = living.or(self.alive.first_key_value().map(|(i, l)| (*i, *l))) {
            let exit = match dice.roll(3) {
                0 => Exit::Normal,
                1 => Exit::Shutdown,
                _ => died(),
            };
            match (life, dice.roll(12)) {
                (Life::Starting, 0..7) => {
                    self.alive.insert(id, Life::Running);
                    return Event::Started(id);
                }
                (Life::Starting, 7..9) => {
                    self.alive.remove(&id);
                    return Event::StartFailed(id, oops());
                }
                (Life::Ending, 0..8) | (Life::Running, 0..1) => {
                    self.alive.remove(&id);
                    return Event::Exited { id, exit };
                }
                _ => {}
            }
        }
        let id = dice.roll(7);
        match dice.roll(20) {
            _ if eager => Event::Tick,
            0..3 if !self.order.contains(&id) => {
                self.order.push(id);
                Event::AddChild(child(id))
            }
            3 => Event::TerminateChild(id),
            4 => Event::RestartChild(id),
            _ => Event::Tick,
        }
    }
}

fn child(id: u64) -> ChildSpec<u64> {
    let restart = [Restart::Permanent, Restart::Transient, Restart::Temporary][id as usize % 3];
    let shutdown = match id % 4 {
        0 => Shutdown::Infinity,
        _ => Shutdown::Timeout(Duration::from_millis(300)),
    };
    ChildSpec::worker(id, restart).shutdown(shutdown)
}

/// Runs one life of a supervisor and a little longer; says whether it gave up.
fn run(seed: u64, verbose: bool) -> bool {
    let mut dice = Dice(seed);
    let strategy = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];
    let strategy = strategy[dice.roll(3) as usize];
    let backoff = match dice.roll(2) {
        0 => Backoff::NONE,
        _ => Backoff { max: Duration::from_secs(1), ..Backoff::default() },
    };
    let order: Vec<u64> = (0..dice.roll(6)).collect();
    let children = order.iter().map(|id| child(*id)).collect();
    let spec = Spec { strategy, intensity: INTENSITY, backoff, children };
    let mut supervisor = Supervisor::new(spec).unwrap();
    let mut outside = Outside {
        alive: BTreeMap::new(),
        order,
        restarts: VecDeque::new(),
        ending: None,
        gave_up: false,
        stopped: false,
    };
    let (mut now, mut event) = (ms(0), Event::Start);
    let shutdown_at = 40 + dice.roll(400);
    let mut afterwards = 50;
    for step in 0..4000 {
        if verbose {
            eprintln!("{now} {event:?}");
        }
        for decision in supervisor.handle(event, now) {
            if verbose {
                eprintln!("    {decision:?}");
            }
            outside.check(&decision, now);
        }
        if let Some(wake) = supervisor.next_wake() {
            assert!(wake > now, "would wake for what is already due");
            assert!(!outside.stopped, "would wake after it stopped");
        }
        if outside.stopped {
            afterwards -= 1;
            if afterwards == 0 {
                break;
            }
        }
        if step == shutdown_at {
            outside.ending.get_or_insert_default();
            event = Event::Shutdown;
            continue;
        }
        now = now + Duration::from_millis(dice.roll(150));
        event = outside.event(&mut dice, step > shutdown_at);
    }
    assert!(supervisor.is_stopped() && outside.stopped, "never stopped");
    outside.gave_up
}

#[test]
fn whatever_happens_the_invariants_hold() {
    let mut gave_up = 0;
    for seed in 0..2000 {
        match std::panic::catch_unwind(|| run(seed, false)) {
            Ok(outcome) => gave_up += u32::from(outcome),
            Err(_) => {
                eprintln!("seed {seed}:");
                run(seed, true);
            }
        }
    }
    // Both ends of a supervisor's life must have been seen often.
    assert!((200..1800).contains(&gave_up), "{gave_up} of 2000 gave up");
}
