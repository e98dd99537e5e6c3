//! The tree of a node, node > flow > stage > task, made of [`Supervisor`]s.
//!
//! ```text
//! node        one_for_one   flows are temporary: one that gives up is failed, the others stay up
//!  └ flow     one_for_one   stages are permanent: they meet through durable streams
//!     └ stage one_for_one   tasks are transient: one that has finished is not restarted
//!        └ task
//! ```
//!
//! *Escalation.* A task's sixth failure within 60 s makes its stage give up. The flow restarts the
//! stage as a whole, once; when a stage gives up again within five minutes, the flow gives up and
//! is failed. Task failures are those no record can be blamed for: dead letters, kills of a process
//! and parking are reported and count as nothing.
//!
//! *Breakers.* Each stage has one; while any of a flow's breakers is open, its sources pause.
//!
//! *Driving it.* The node hands each thing that happens to [`Tree::handle`], carries out the
//! decisions in order, and sends [`Event::Tick`] at [`Tree::next_wake`]. Starting a task should
//! mean to create it and say [`Event::Started`] at once, and a failure to open its lease or its
//! connector should be an exit: tasks start one after the other, and a task that cannot be started
//! together with its flow fails the flow at the first attempt, as in OTP.

mod pass;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use millstream_core::{Code, Error, Result, Time};

use super::{
    Backoff, Breaker, BreakerOptions, BreakerState, ChildSpec, Decision as Inner, Event as Do,
    Exit, How, Intensity, Refusal, Report, Restart, Spec, Status, Stop, Supervisor, What,
};
use pass::task;

/// A task's place in the tree. Printed as `flow/stage/3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskPath {
    /// The flow's name.
    pub flow: String,
    /// The stage's name.
    pub stage: String,
    /// The task's number in the stage, from 0.
    pub task: u32,
}

impl TaskPath {
    /// A task's place.
    pub fn new(flow: impl Into<String>, stage: impl Into<String>, task: u32) -> TaskPath {
        TaskPath { flow: flow.into(), stage: stage.into(), task }
    }
}

impl fmt::Display for TaskPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.flow, self.stage, self.task)
    }
}

/// One stage of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageSpec {
    /// Its name, unique in the flow.
    pub name: String,
    /// How many tasks it has.
    pub tasks: u32,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// Its name, unique on the node.
    pub name: String,
    /// Its stages in start order: consumers before producers, so that sources start last and are
    /// ended first.
    pub stages: Vec<StageSpec>,
    /// Task restarts granted to each stage; default 5 in 60 s.
    pub task_intensity: Intensity,
    /// Stage restarts granted to the flow; default 1 in 5 min.
    pub stage_intensity: Intensity,
    /// How long restarts wait, of a task and of a stage.
    pub backoff: Backoff,
    /// When a stage's dead letters pause the sources.
    pub breaker: BreakerOptions,
}

impl FlowSpec {
    /// A flow without stages and with the defaults.
    pub fn new(name: impl Into<String>) -> FlowSpec {
        FlowSpec {
            name: name.into(),
            stages: Vec::new(),
            task_intensity: Intensity::new(5, 60),
            stage_intensity: Intensity::new(1, 300),
            backoff: Backoff::default(),
            breaker: BreakerOptions::default(),
        }
    }

    /// Adds a stage of `tasks` tasks.
    pub fn stage(mut self, name: impl Into<String>, tasks: u32) -> FlowSpec {
        self.stages.push(StageSpec { name: name.into(), tasks });
        self
    }

    fn supervisor(&self) -> Result<Supervisor<String>> {
        let stage = |s: &StageSpec| ChildSpec::supervisor(s.name.clone(), Restart::Permanent);
        Supervisor::new(Spec {
            intensity: self.stage_intensity,
            backoff: self.backoff,
            children: self.stages.iter().map(stage).collect(),
            ..Spec::default()
        })
    }

    fn stage_supervisor(&self, name: &str) -> Result<Supervisor<u32>> {
        let stage = self.stages.iter().find(|s| s.name == name);
        let tasks = stage.map_or(0, |s| s.tasks);
        Supervisor::new(Spec {
            intensity: self.task_intensity,
            backoff: self.backoff,
            children: (0..tasks).map(|t| ChildSpec::worker(t, Restart::Transient)).collect(),
            ..Spec::default()
        })
    }
}

/// What happened on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flow is to run.
    StartFlow(FlowSpec),
    /// A flow is to stop.
    StopFlow(String),
    /// A task runs.
    Started(TaskPath),
    /// A task could not be created.
    StartFailed(TaskPath, Error),
    /// A task has ended: [`Exit::Normal`] when its input has, [`Exit::Shutdown`] when it was
    /// told to or another node has it now, otherwise for a reason no record can be blamed for.
    Exited {
        /// Which.
        task: TaskPath,
        /// How.
        exit: Exit,
    },
    /// A turn's records: how many were handled and how many set aside. Feeds the stage's breaker.
    Handled {
        /// By which task.
        task: TaskPath,
        /// Handled.
        good: u64,
        /// Set aside.
        bad: u64,
    },
    /// A handled failure, to be reported and to count as nothing.
    Noted {
        /// In which task.
        task: TaskPath,
        /// What.
        what: What,
        /// The error's code as printed, or nothing.
        code: String,
        /// Why, for people; names the process if it is about one.
        reason: String,
        /// How often.
        count: u64,
    },
    /// A person says that a flow's sources should run again.
    Resume(String),
    /// Time has passed; due at [`Tree::next_wake`].
    Tick,
    /// The node stops: all flows are stopped, the last started first.
    Shutdown,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Create this task, for the first time or again; any wait is over.
    StartTask(TaskPath),
    /// End this task.
    StopTask {
        /// Which.
        task: TaskPath,
        /// Ask it to seal and release its lease, or fence it and let go of its thread.
        how: How,
    },
    /// Pause a flow's sources.
    PauseSources(String),
    /// Let a flow's sources run again.
    ResumeSources(String),
    /// A flow has given up; all its tasks have ended and it may be started anew.
    FlowFailed {
        /// Which.
        flow: String,
        /// Why: the last failure.
        error: Error,
    },
    /// All tasks of a flow have ended because their input has.
    FlowFinished(String),
    /// A flow was asked to stop and has.
    FlowStopped(String),
    /// A flow cannot be started or stopped.
    Refused {
        /// Which.
        flow: String,
        /// Why.
        error: Error,
    },
    /// An entry for `$supervisor`, to be passed through a [`super::Throttle`].
    Report(Report),
    /// All has ended after [`Event::Shutdown`].
    Stopped,
}

/// To which supervisor of the tree.
enum Signal {
    Node(Do<String>),
    Flow(String, Do<String>),
    Stage(String, String, Do<u32>),
}

#[derive(Clone, Debug)]
struct Flow {
    spec: FlowSpec,
    supervisor: Supervisor<String>,
    stages: BTreeMap<String, Supervisor<u32>>,
    breakers: BTreeMap<String, Breaker>,
    /// The last failure that made a stage give up.
    cause: Option<Exit>,
    /// Tasks whose input has ended; when it is all, the flow is finished.
    ended: BTreeSet<(String, u32)>,
    finished: bool,
}

impl Flow {
    fn is_paused(&self) -> bool {
        self.breakers.values().any(|b| matches!(b.state(), BreakerState::Open { .. }))
    }

    fn tasks(&self) -> usize {
        self.spec.stages.iter().map(|s| s.tasks as usize).sum()
    }
}

/// The supervision tree of one node.
///
/// *Cost:* per event, that of the supervisors concerned; a tick looks at every stage.
#[derive(Clone, Debug)]
pub struct Tree {
    node: Supervisor<String>,
    flows: BTreeMap<String, Flow>,
    specs: BTreeMap<String, FlowSpec>,
    now: Time,
    out: Vec<Decision>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// A node without flows.
    pub fn new() -> Tree {
        let mut node = Supervisor::new(Spec::default()).expect("no children, OTP's intensity");
        node.handle(Do::Start, Time::MIN);
        let (flows, specs) = (BTreeMap::new(), BTreeMap::new());
        Tree { node, flows, specs, now: Time::MIN, out: Vec::new() }
    }

    /// Takes in what happened and decides. `now` as for [`Supervisor::handle`].
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Decision> {
        self.now = self.now.max(now);
        let mut signals = VecDeque::new();
        match event {
            Event::StartFlow(spec) => signals.extend(self.add(spec)),
            Event::StopFlow(flow) => signals.push_back(Signal::Node(Do::TerminateChild(flow))),
            Event::Started(t) => signals.push_back(task(t, Do::Started)),
            Event::StartFailed(t, e) => signals.push_back(task(t, |id| Do::StartFailed(id, e))),
            Event::Exited { task: t, exit } => {
                self.ended(&t, &exit, &mut signals);
                signals.push_back(task(t, |id| Do::Exited { id, exit }));
            }
            Event::Handled { task, good, bad } => self.handled(&task, good, bad),
            Event::Noted { task, what, code, reason, count } => {
                let (time, TaskPath { flow, stage, task }) = (self.now, task);
                let task = Some(task);
                let report = Report { time, flow, stage, task, what, code, reason, count };
                self.out.push(Decision::Report(report));
            }
            Event::Resume(flow) => self.breakers(&flow, |b, _| b.resume()),
            Event::Tick => self.tick(&mut signals),
            Event::Shutdown => signals.push_back(Signal::Node(Do::Shutdown)),
        }
        while let Some(signal) = signals.pop_front() {
            self.pass(signal, &mut signals);
        }
        std::mem::take(&mut self.out)
    }

    /// When to send [`Event::Tick`] at the latest.
    pub fn next_wake(&self) -> Option<Time> {
        let flow = |f: &Flow| {
            let stages = f.stages.values().map(Supervisor::next_wake);
            let breakers = f.breakers.values().map(Breaker::next_wake);
            stages.chain(breakers).chain([f.supervisor.next_wake()]).flatten().min()
        };
        self.flows.values().filter_map(flow).chain(self.node.next_wake()).min()
    }

    /// The flows that run, are being started or being stopped.
    pub fn flows(&self) -> impl Iterator<Item = &str> {
        self.flows.keys().map(String::as_str)
    }

    /// Where a task stands; none if it is not known.
    pub fn status(&self, task: &TaskPath) -> Option<Status> {
        self.flows.get(&task.flow)?.stages.get(&task.stage)?.status(&task.task)
    }

    /// Whether a breaker keeps a flow's sources paused.
    pub fn is_paused(&self, flow: &str) -> bool {
        self.flows.get(flow).is_some_and(Flow::is_paused)
    }

    fn add(&mut self, spec: FlowSpec) -> Option<Signal> {
        let flow = spec.name.clone();
        let checked = spec.supervisor().and_then(|_| spec.stage_supervisor(""));
        let error = match checked {
            Err(e) => e,
            Ok(_) if self.flows.contains_key(&flow) => {
                Error::new(Code::Conflict, format!("flow {flow} is already running"))
                    .help("give one of them another name")
            }
            Ok(_) => {
                self.specs.insert(flow.clone(), spec);
                let child = ChildSpec::supervisor(flow, Restart::Temporary);
                return Some(Signal::Node(Do::AddChild(child)));
            }
        };
        self.out.push(Decision::Refused { flow, error });
        None
    }

    /// Notes that a task's input has ended; if it was the last, the flow has nothing left to do.
    fn ended(&mut self, task: &TaskPath, exit: &Exit, signals: &mut VecDeque<Signal>) {
        let running = matches!(self.status(task), Some(Status::Running));
        let Some(flow) = self.flows.get_mut(&task.flow) else { return };
        if *exit == Exit::Normal && running {
            flow.ended.insert((task.stage.clone(), task.task));
            if flow.ended.len() == flow.tasks() {
                flow.finished = true;
                signals.push_back(Signal::Node(Do::TerminateChild(task.flow.clone())));
            }
        }
    }

    fn tick(&mut self, signals: &mut VecDeque<Signal>) {
        let due = |wake: Option<Time>| wake.is_some_and(|t| t <= self.now);
        for (name, flow) in &self.flows {
            if due(flow.supervisor.next_wake()) {
                signals.push_back(Signal::Flow(name.clone(), Do::Tick));
            }
            for (stage, _) in flow.stages.iter().filter(|(_, s)| due(s.next_wake())) {
                signals.push_back(Signal::Stage(name.clone(), stage.clone(), Do::Tick));
            }
        }
        for flow in self.flows.keys().cloned().collect::<Vec<_>>() {
            self.breakers(&flow, |b, now| b.tick(now));
        }
    }

    fn handled(&mut self, task: &TaskPath, good: u64, bad: u64) {
        let TaskPath { flow, stage, .. } = task;
        let known = self.flows.get(flow).is_some_and(|f| f.breakers.contains_key(stage));
        if known {
            self.breaker(flow, stage, |b, now| b.record(good, bad, now));
        }
    }

    fn breakers(&mut self, flow: &str, f: impl Fn(&mut Breaker, Time) -> Option<BreakerState>) {
        let Some(entry) = self.flows.get(flow) else { return };
        for stage in entry.breakers.keys().cloned().collect::<Vec<_>>() {
            self.breaker(flow, &stage, &f);
        }
    }

    /// Does something to a breaker, and pauses or resumes the flow's sources if that matters.
    fn breaker(
        &mut self,
        flow: &str,
        stage: &str,
        f: impl FnOnce(&mut Breaker, Time) -> Option<BreakerState>,
    ) {
        let Some(entry) = self.flows.get_mut(flow) else { return };
        let paused = entry.is_paused();
        let Some(breaker) = entry.breakers.get_mut(stage) else { return };
        let Some(state) = f(breaker, self.now) else { return };
        let (what, reason) = match state {
            BreakerState::Open { until } => {
                (What::BreakerOpen, format!("most records are bad; sources pause until {until}"))
            }
            BreakerState::HalfOpen => (What::BreakerHalfOpen, "sources run on probation".into()),
            BreakerState::Closed => (What::BreakerClosed, "sources run".into()),
        };
        let change = match (paused, entry.is_paused()) {
            (false, true) => Some(Decision::PauseSources(flow.into())),
            (true, false) => Some(Decision::ResumeSources(flow.into())),
            _ => None,
        };
        self.out.extend(change);
        self.report(flow, stage, None, what, ("", &reason));
    }

    fn report(
        &mut self,
        flow: &str,
        stage: &str,
        task: Option<u32>,
        what: What,
        (code, reason): (&str, &str),
    ) {
        self.out.push(Decision::Report(Report {
            time: self.now,
            flow: flow.into(),
            stage: stage.into(),
            task,
            what,
            code: code.into(),
            reason: reason.into(),
            count: 1,
        }));
    }
}
