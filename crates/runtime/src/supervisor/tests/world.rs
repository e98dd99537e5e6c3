//! A world in which children obey, hang or do not start, without threads and without time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::*;

pub(super) type Id = &'static str;

/// How a child behaves; those not mentioned obey.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manners {
    Obeys,
    /// Ends only when killed.
    Hangs,
    /// Fails this many times to start.
    FailsToStart(u32),
    /// Says nothing about its start.
    HangsInStart,
}

pub(super) struct World {
    pub(super) supervisor: Supervisor<Id>,
    pub(super) now: Time,
    manners: BTreeMap<Id, Manners>,
    /// Which instance runs.
    instances: BTreeMap<Id, u32>,
    started: u32,
    /// `+a` started, `!a` failed to start, `?a` hangs in start, `-a` told to end, `xa` killed,
    /// `.a` has ended, `giving up`, `stopped`.
    log: Vec<String>,
    pub(super) refused: Vec<(Id, Refusal)>,
    pub(super) stopped: Option<Stop>,
}

impl World {
    /// Nothing is started yet.
    pub(super) fn new(spec: Spec<Id>) -> World {
        World {
            supervisor: Supervisor::new(spec).unwrap(),
            now: ms(1_000_000),
            manners: BTreeMap::new(),
            instances: BTreeMap::new(),
            started: 0,
            log: Vec::new(),
            refused: Vec::new(),
            stopped: None,
        }
    }

    /// The usual one: `max` restarts an hour, everything started, nothing logged.
    pub(super) fn up(strategy: Strategy, max: u32, children: &[(Id, Restart)]) -> World {
        let mut world = World::new(spec(strategy, max, children));
        world.send(Event::Start);
        world.take_log();
        world
    }

    pub(super) fn manners(&mut self, id: Id, manners: Manners) -> &mut World {
        self.manners.insert(id, manners);
        self
    }

    /// Sends an event and carries out all that follows.
    pub(super) fn send(&mut self, event: Event<Id>) -> &mut World {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for decision in self.supervisor.handle(event, self.now) {
                assert!(self.stopped.is_none(), "{decision:?} after it stopped");
                events.extend(self.carry_out(decision));
            }
        }
        self
    }

    fn carry_out(&mut self, decision: Decision<Id>) -> Option<Event<Id>> {
        match decision {
            Decision::StartChild(id) => self.start(id),
            Decision::TerminateChild { id, how } => self.terminate(id, how),
            Decision::Refused { id, why } => {
                self.refused.push((id, why));
                None
            }
            Decision::GiveUp { .. } => {
                self.log.push("giving up".into());
                None
            }
            Decision::Stopped(stop) => {
                assert!(self.instances.is_empty(), "{:?} still run", self.instances);
                self.log.push("stopped".into());
                self.stopped = Some(stop);
                None
            }
            Decision::Restarting { .. } | Decision::Up => None,
        }
    }

    fn start(&mut self, id: Id) -> Option<Event<Id>> {
        assert!(!self.instances.contains_key(id), "{id} runs twice");
        match self.manners.get_mut(id) {
            Some(Manners::FailsToStart(n)) if *n > 0 => {
                *n -= 1;
                self.log.push(format!("!{id}"));
                return Some(Event::StartFailed(id, oops()));
            }
            Some(Manners::HangsInStart) => self.log.push(format!("?{id}")),
            _ => self.log.push(format!("+{id}")),
        }
        self.started += 1;
        self.instances.insert(id, self.started);
        (self.manners.get(id) != Some(&Manners::HangsInStart)).then_some(Event::Started(id))
    }

    fn terminate(&mut self, id: Id, how: How) -> Option<Event<Id>> {
        assert!(self.instances.contains_key(id), "{id} does not run");
        let hangs = self.manners.get(id) == Some(&Manners::Hangs);
        self.log.push(format!("{}{id}", if how == How::Kill { "x" } else { "-" }));
        let exit = match how {
            How::Shutdown if hangs => return None,
            How::Shutdown => Exit::Shutdown,
            How::Kill => Exit::Kill,
        };
        self.instances.remove(id);
        Some(Event::Exited { id, exit })
    }

    /// A child ends by itself.
    pub(super) fn exit(&mut self, id: Id, exit: Exit) -> &mut World {
        assert!(self.instances.remove(id).is_some(), "{id} does not run");
        self.log.push(format!(".{id}"));
        self.send(Event::Exited { id, exit })
    }

    pub(super) fn pass(&mut self, d: Duration) -> &mut World {
        self.now = self.now + d;
        self.send(Event::Tick)
    }

    /// Which instance of a child runs.
    pub(super) fn instance(&self, id: Id) -> Option<u32> {
        self.instances.get(id).copied()
    }

    /// What has happened since the last look.
    pub(super) fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    pub(super) fn take_refused(&mut self) -> Vec<(Id, Refusal)> {
        std::mem::take(&mut self.refused)
    }

    /// `a+` runs, `a-` down, `a*` restarting, `a~` otherwise; in start order.
    pub(super) fn children(&self) -> String {
        let mark = |status| match status {
            Status::Running => '+',
            Status::Down => '-',
            Status::Restarting => '*',
            Status::Starting | Status::Terminating => '~',
        };
        let child =
            |(spec, status): (&ChildSpec<Id>, Status)| format!("{}{}", spec.id, mark(status));
        self.supervisor.which_children().map(child).collect::<Vec<_>>().join(" ")
    }

    /// It gave up, as an OTP supervisor exits with `shutdown`.
    pub(super) fn gave_up(&self) -> bool {
        matches!(self.stopped, Some(Stop::GaveUp(_)))
    }
}

pub(super) fn spec(strategy: Strategy, max: u32, children: &[(Id, Restart)]) -> Spec<Id> {
    let children = children.iter().map(|(id, restart)| ChildSpec::worker(*id, *restart)).collect();
    Spec { strategy, intensity: Intensity::new(max, 3600), children, ..Spec::default() }
}
