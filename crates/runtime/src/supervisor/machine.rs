//! One supervisor.
//!
//! It does one *job* at a time: starting or terminating several children in order, one after the
//! other. What happens meanwhile waits in an inbox, as in the mailbox of OTP's supervisor, and is
//! looked at in order when the job is done, before any retry. Only `shutdown` does not wait.

use std::{collections::VecDeque, fmt::Debug, mem};

use millstream_core::{Error, Result, Time};

use super::{
    Backoff, ChildSpec, Decision, Event, Exit, How, Refusal, Restart, Shutdown, Spec, Status, Stop,
    Strategy,
    children::{Children, State, Why},
    intensity::Window,
};

#[derive(Clone, Debug)]
enum Phase {
    New,
    Up,
    Stopping(Stop),
    Stopped,
}

/// What is being done, step by step.
#[derive(Clone, Debug, Default)]
enum Job {
    #[default]
    None,
    /// End these, the last first; then start those.
    Terminate { places: Vec<u64>, start: Vec<u64> },
    /// Start these, the first first.
    Start { places: VecDeque<u64>, boot: bool },
}

#[derive(Clone, Debug)]
enum Pending<I> {
    Exit(u64),
    Request(Event<I>),
}

/// One supervisor: events and time in, decisions out.
///
/// ```
/// use millstream_core::{Code, Error, Time};
/// use millstream_runtime::supervisor::*;
/// let spec = Spec { children: vec![ChildSpec::worker("db", Restart::Permanent)], ..Spec::default() };
/// let mut supervisor = Supervisor::new(spec)?;
/// let now = Time::from_ms(0);
/// assert_eq!(supervisor.handle(Event::Start, now), [Decision::StartChild("db")]);
/// assert_eq!(supervisor.handle(Event::Started("db"), now), [Decision::Up]);
/// let exit = Exit::Abnormal(Error::new(Code::Bug, "oops"));
/// let decisions = supervisor.handle(Event::Exited { id: "db", exit }, now);
/// assert_eq!(decisions.last(), Some(&Decision::StartChild("db")));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Supervisor<I> {
    strategy: Strategy,
    backoff: Backoff,
    window: Window,
    children: Children<I>,
    phase: Phase,
    job: Job,
    inbox: VecDeque<Pending<I>>,
    now: Time,
    out: Vec<Decision<I>>,
}

impl<I: Clone + Ord + Debug> Supervisor<I> {
    /// A supervisor that waits for [`Event::Start`].
    ///
    /// # Errors
    /// `Limit` for a period of nothing, `Conflict` for two children of one name.
    pub fn new(spec: Spec<I>) -> Result<Supervisor<I>> {
        spec.check()?;
        let mut children = Children::new();
        for child in spec.children {
            children.insert(child);
        }
        Ok(Supervisor {
            strategy: spec.strategy,
            backoff: spec.backoff,
            window: Window::new(spec.intensity),
            children,
            phase: Phase::New,
            job: Job::None,
            inbox: VecDeque::new(),
            now: Time::MIN,
            out: Vec::new(),
        })
    }

    /// Takes in what happened and decides. `now` should come from a clock that does not go back;
    /// where it does, it is taken to stand still. Cost: O(log children) per decision.
    pub fn handle(&mut self, event: Event<I>, now: Time) -> Vec<Decision<I>> {
        self.now = self.now.max(now);
        match event {
            Event::Start if matches!(self.phase, Phase::New) => {
                self.phase = Phase::Up;
                let places = self.children.from(0).into();
                self.job = Job::Start { places, boot: true };
            }
            Event::Start | Event::Tick => {}
            Event::Started(id) => self.started(&id),
            Event::StartFailed(id, error) => self.start_failed(id, error),
            Event::Exited { id, exit } => self.exited(&id, exit),
            Event::Shutdown => self.stop(Stop::Asked),
            request => self.inbox.push_back(Pending::Request(request)),
        }
        if matches!(self.phase, Phase::Stopping(_) | Phase::Stopped) {
            self.refuse_all();
        }
        self.kill_overdue();
        while self.step() {}
        mem::take(&mut self.out)
    }

    /// When to send [`Event::Tick`] at the latest.
    pub fn next_wake(&self) -> Option<Time> {
        // While a job is being done, restarts wait for its end and not for the clock.
        let wait = self.children.next_wait().filter(|_| matches!(self.job, Job::None));
        [wait, self.children.next_deadline()].into_iter().flatten().map(|(t, _)| t).min()
    }

    /// The children in start order.
    pub fn which_children(&self) -> impl Iterator<Item = (&ChildSpec<I>, Status)> {
        self.children.iter().map(|c| (&c.spec, c.status()))
    }

    /// Where a child stands; none if it is not known.
    pub fn status(&self, id: &I) -> Option<Status> {
        self.children.get(self.children.place(id)?).map(|c| c.status())
    }

    /// Whether [`Decision::Stopped`] was decided.
    pub fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped)
    }

    fn started(&mut self, id: &I) {
        let Some(place) = self.children.place(id) else { return };
        if let Some(State::Starting(_)) = self.children.state(place) {
            self.children.set(place, State::Running);
        }
    }

    fn start_failed(&mut self, id: I, error: Error) {
        let Some(place) = self.children.place(&id) else { return };
        match self.children.state(place) {
            Some(State::Starting(_)) if matches!(self.phase, Phase::Stopping(_)) => {
                self.children.gone(place);
            }
            Some(State::Starting(why)) => match why {
                Why::Boot => {
                    self.children.set(place, State::Down);
                    self.stop(Stop::StartFailed(error));
                }
                // Ends the job: siblings behind it stay down until the next attempt.
                Why::Restart => self.restart(place, Exit::Abnormal(error)),
                Why::Added => {
                    self.children.remove(place);
                    self.refuse(id, Refusal::StartFailed(error));
                }
                Why::Requested => {
                    self.children.set(place, State::Down);
                    self.refuse(id, Refusal::StartFailed(error));
                }
            },
            Some(State::Terminating(_)) => self.children.gone(place),
            _ => {}
        }
    }

    fn exited(&mut self, id: &I, exit: Exit) {
        let Some(place) = self.children.place(id) else { return };
        match self.children.state(place) {
            Some(State::Running | State::Starting(_)) => {
                self.children.set(place, State::Dead(exit));
                self.inbox.push_back(Pending::Exit(place));
            }
            Some(State::Terminating(_)) => self.children.gone(place),
            _ => {}
        }
    }

    /// Does the next thing that can be done; false if there is none.
    fn step(&mut self) -> bool {
        match mem::take(&mut self.job) {
            Job::Terminate { mut places, start } => {
                let Some(place) = places.last() else {
                    self.terminated(start);
                    return true;
                };
                let wait = self.terminate(*place);
                if !wait {
                    places.pop();
                }
                self.job = Job::Terminate { places, start };
                !wait
            }
            Job::Start { mut places, boot } => {
                let Some(&place) = places.front() else {
                    if boot {
                        self.out.push(Decision::Up);
                    }
                    return true;
                };
                let wait = match self.children.state(place) {
                    Some(State::Down) => {
                        self.start(place, if boot { Why::Boot } else { Why::Restart });
                        true
                    }
                    Some(State::Starting(_)) => true,
                    _ => false,
                };
                if !wait {
                    places.pop_front();
                }
                self.job = Job::Start { places, boot };
                !wait
            }
            Job::None if matches!(self.phase, Phase::Up) => self.look(),
            Job::None => false,
        }
    }

    /// Looks at the inbox, then at the clock; false if neither asks for anything.
    fn look(&mut self) -> bool {
        match self.inbox.pop_front() {
            Some(Pending::Exit(place)) => {
                // If the child was terminated since, it has been taken care of.
                if let Some(State::Dead(exit)) = self.children.state(place) {
                    let exit = exit.clone();
                    self.judge(place, exit);
                }
                true
            }
            Some(Pending::Request(request)) => {
                self.grant(request);
                true
            }
            None => match self.children.next_wait() {
                Some((until, place)) if until <= self.now => {
                    match self.strategy {
                        Strategy::OneForOne => self.start(place, Why::Restart),
                        _ => {
                            let group = self.group(place);
                            self.job = Job::Terminate { places: group.clone(), start: group };
                        }
                    }
                    true
                }
                _ => false,
            },
        }
    }

    /// A child has ended by itself.
    fn judge(&mut self, place: u64, exit: Exit) {
        let Some(child) = self.children.get(place) else { return };
        let restart = match child.spec.restart {
            Restart::Permanent => true,
            Restart::Transient => exit.is_abnormal(),
            Restart::Temporary => false,
        };
        match restart {
            true => self.restart(place, exit),
            false => self.children.gone(place),
        }
    }

    /// Counts a failure, and restarts or gives up.
    fn restart(&mut self, place: u64, cause: Exit) {
        let Some(child) = self.children.get_mut(place) else { return };
        let id = child.spec.id.clone();
        if !self.window.add(self.now) {
            self.children.gone(place);
            self.out.push(Decision::GiveUp { id, cause: cause.clone() });
            self.stop(Stop::GaveUp(cause));
            return;
        }
        let until = child.failures.next(self.now, &self.backoff, true);
        self.out.push(Decision::Restarting { id, cause, until });
        self.children.set(place, State::Waiting(until));
        if self.strategy != Strategy::OneForOne {
            // Those tied to it do not run on without it while it waits.
            let mut places = self.group(place);
            places.retain(|p| *p != place);
            self.job = Job::Terminate { places, start: Vec::new() };
        }
    }

    fn group(&self, place: u64) -> Vec<u64> {
        match self.strategy {
            Strategy::OneForOne => vec![place],
            Strategy::OneForAll => self.children.from(0),
            Strategy::RestForOne => self.children.from(place),
        }
    }

    fn start(&mut self, place: u64, why: Why) {
        let Some(child) = self.children.get(place) else { return };
        self.out.push(Decision::StartChild(child.spec.id.clone()));
        self.children.set(place, State::Starting(why));
    }

    /// Sees to it that a child ends; true if it has not yet.
    fn terminate(&mut self, place: u64) -> bool {
        match self.children.state(place) {
            Some(State::Terminating(_)) => true,
            Some(State::Running | State::Starting(_)) => {
                self.ask(place);
                true
            }
            Some(State::Down | State::Waiting(_) | State::Dead(_)) => {
                self.children.gone(place);
                false
            }
            None => false,
        }
    }

    fn ask(&mut self, place: u64) {
        let Some(child) = self.children.get(place) else { return };
        let (how, kill_at) = match child.spec.shutdown {
            Shutdown::BrutalKill => (How::Kill, None),
            Shutdown::Timeout(d) => (How::Shutdown, Some(self.now + d)),
            Shutdown::Infinity => (How::Shutdown, None),
        };
        self.out.push(Decision::TerminateChild { id: child.spec.id.clone(), how });
        self.children.set(place, State::Terminating(kill_at));
    }

    fn kill_overdue(&mut self) {
        while let Some((_, place)) = self.children.next_deadline().filter(|(t, _)| *t <= self.now) {
            self.children.set(place, State::Terminating(None));
            if let Some(child) = self.children.get(place) {
                let id = child.spec.id.clone();
                self.out.push(Decision::TerminateChild { id, how: How::Kill });
            }
        }
    }

    fn terminated(&mut self, start: Vec<u64>) {
        match mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Stopping(why) => self.out.push(Decision::Stopped(why)),
            phase => {
                self.phase = phase;
                self.job = Job::Start { places: start.into(), boot: false };
            }
        }
    }

    fn stop(&mut self, why: Stop) {
        if matches!(self.phase, Phase::New | Phase::Up) {
            self.phase = Phase::Stopping(why);
            self.job = Job::Terminate { places: self.children.from(0), start: Vec::new() };
            self.refuse_all();
        }
    }

    fn refuse_all(&mut self) {
        for pending in mem::take(&mut self.inbox) {
            let id = match pending {
                Pending::Request(Event::AddChild(spec)) => spec.id,
                Pending::Request(
                    Event::DeleteChild(id) | Event::RestartChild(id) | Event::TerminateChild(id),
                ) => id,
                _ => continue,
            };
            if !self.is_stopped() {
                self.refuse(id, Refusal::Stopping);
            }
        }
    }

    fn refuse(&mut self, id: I, why: Refusal) {
        self.out.push(Decision::Refused { id, why });
    }

    fn grant(&mut self, request: Event<I>) {
        match request {
            Event::AddChild(spec) => match self.status(&spec.id) {
                None => {
                    let place = self.children.insert(spec);
                    self.start(place, Why::Added);
                }
                Some(Status::Down | Status::Restarting) => {
                    self.refuse(spec.id, Refusal::AlreadyPresent);
                }
                Some(_) => self.refuse(spec.id, Refusal::AlreadyStarted),
            },
            Event::TerminateChild(id) => match self.children.place(&id) {
                Some(place) => {
                    self.terminate(place);
                }
                None => self.refuse(id, Refusal::NotFound),
            },
            Event::DeleteChild(id) => {
                if let Some(place) = self.down(id) {
                    self.children.remove(place);
                }
            }
            Event::RestartChild(id) => {
                if let Some(place) = self.down(id) {
                    self.start(place, Why::Requested);
                }
            }
            _ => {}
        }
    }

    /// The place of a child that is down; otherwise the request is refused.
    fn down(&mut self, id: I) -> Option<u64> {
        let why = match self.status(&id) {
            Some(Status::Down) => return self.children.place(&id),
            None => Refusal::NotFound,
            Some(Status::Restarting) => Refusal::Restarting,
            Some(_) => Refusal::Running,
        };
        self.refuse(id, why);
        None
    }
}
