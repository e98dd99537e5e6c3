//! How one supervisor's decisions become its neighbours' events, or the node's decisions.

use super::*;

/// An event for one task's supervisor.
pub(super) fn task(path: TaskPath, event: impl FnOnce(u32) -> Do<u32>) -> Signal {
    Signal::Stage(path.flow, path.stage, event(path.task))
}

/// What a supervisor's end looks like to its own supervisor.
fn ended(id: String, stop: Stop) -> Do<String> {
    match stop {
        Stop::StartFailed(error) => Do::StartFailed(id, error),
        Stop::Asked | Stop::GaveUp(_) => Do::Exited { id, exit: Exit::Shutdown },
    }
}

impl Tree {
    /// Hands an event to its supervisor, and what that decides to whom it concerns.
    pub(super) fn pass(&mut self, signal: Signal, signals: &mut VecDeque<Signal>) {
        match signal {
            Signal::Node(event) => {
                for decision in self.node.handle(event, self.now) {
                    self.node_decided(decision, signals);
                }
            }
            Signal::Flow(flow, event) => {
                let Some(entry) = self.flows.get_mut(&flow) else { return };
                for decision in entry.supervisor.handle(event, self.now) {
                    self.flow_decided(&flow, decision, signals);
                }
            }
            Signal::Stage(flow, stage, event) => {
                let Some(entry) = self.flows.get_mut(&flow) else { return };
                let Some(supervisor) = entry.stages.get_mut(&stage) else { return };
                for decision in supervisor.handle(event, self.now) {
                    self.stage_decided(&flow, &stage, decision, signals);
                }
            }
        }
    }

    fn node_decided(&mut self, decision: Inner<String>, signals: &mut VecDeque<Signal>) {
        match decision {
            Inner::StartChild(flow) => self.start_flow(flow, signals),
            Inner::TerminateChild { id, .. } => signals.push_back(Signal::Flow(id, Do::Shutdown)),
            Inner::Refused { id: flow, why } => {
                self.specs.remove(&flow);
                let error = match why {
                    // Has been said as `FlowFailed`.
                    Refusal::StartFailed(_) => return,
                    Refusal::Stopping => Error::new(Code::Unreachable, "the node is stopping"),
                    _ => Error::new(Code::Unknown, format!("no flow {flow} is running")),
                };
                self.out.push(Decision::Refused { flow, error });
            }
            Inner::Stopped(_) => self.out.push(Decision::Stopped),
            // Flows are temporary: the node restarts none and never gives up.
            Inner::Restarting { .. } | Inner::GiveUp { .. } | Inner::Up => {}
        }
    }

    fn start_flow(&mut self, name: String, signals: &mut VecDeque<Signal>) {
        let spec = self.specs.remove(&name).expect("a flow is added with its spec");
        let supervisor = spec.supervisor().expect("checked when it was added");
        let breakers =
            spec.stages.iter().map(|s| (s.name.clone(), Breaker::new(spec.breaker))).collect();
        let flow = Flow {
            spec,
            supervisor,
            stages: BTreeMap::new(),
            breakers,
            cause: None,
            ended: BTreeSet::new(),
            finished: false,
        };
        self.flows.insert(name.clone(), flow);
        signals.push_back(Signal::Flow(name, Do::Start));
    }

    fn flow_decided(
        &mut self,
        flow: &str,
        decision: Inner<String>,
        signals: &mut VecDeque<Signal>,
    ) {
        match decision {
            Inner::StartChild(stage) => {
                let Some(entry) = self.flows.get_mut(flow) else { return };
                let supervisor = entry.spec.stage_supervisor(&stage);
                let supervisor = supervisor.expect("checked when the flow was added");
                entry.stages.insert(stage.clone(), supervisor);
                signals.push_back(Signal::Stage(flow.into(), stage, Do::Start));
            }
            Inner::TerminateChild { id: stage, .. } => {
                signals.push_back(Signal::Stage(flow.into(), stage, Do::Shutdown));
            }
            Inner::Restarting { id: stage, cause, .. } => {
                let cause = self.cause(flow, cause);
                let why = (cause.code(), cause.reason());
                self.report(flow, &stage, None, What::Escalated, why);
            }
            Inner::GiveUp { id: stage, cause } => {
                let cause = self.cause(flow, cause);
                self.report(flow, &stage, None, What::GaveUp, (cause.code(), cause.reason()));
            }
            Inner::Up => signals.push_back(Signal::Node(Do::Started(flow.into()))),
            Inner::Refused { .. } => {}
            Inner::Stopped(stop) => self.flow_stopped(flow, stop, signals),
        }
    }

    /// What made a stage give up, for which the flow has seen no more than a shutdown.
    fn cause(&self, flow: &str, exit: Exit) -> Exit {
        match exit {
            Exit::Shutdown => self.flows.get(flow).and_then(|f| f.cause.clone()).unwrap_or(exit),
            exit => exit,
        }
    }

    fn flow_stopped(&mut self, flow: &str, stop: Stop, signals: &mut VecDeque<Signal>) {
        let error = match &stop {
            Stop::Asked => None,
            Stop::StartFailed(e) => {
                self.report(flow, "", None, What::GaveUp, (e.code().id(), e.message()));
                Some(e.clone())
            }
            Stop::GaveUp(exit) => Some(match self.cause(flow, exit.clone()) {
                Exit::Abnormal(e) => e,
                exit => Error::new(Code::Failed, format!("a task ended: {}", exit.reason())),
            }),
        };
        let finished = self.flows.remove(flow).is_some_and(|f| f.finished);
        let flow = flow.to_string();
        self.out.push(match error {
            Some(error) => Decision::FlowFailed { flow: flow.clone(), error },
            None if finished => Decision::FlowFinished(flow.clone()),
            None => Decision::FlowStopped(flow.clone()),
        });
        signals.push_back(Signal::Node(ended(flow, stop)));
    }

    fn stage_decided(
        &mut self,
        flow: &str,
        stage: &str,
        decision: Inner<u32>,
        signals: &mut VecDeque<Signal>,
    ) {
        let path = |task| TaskPath::new(flow, stage, task);
        match decision {
            Inner::StartChild(id) => {
                if let Some(entry) = self.flows.get_mut(flow) {
                    entry.ended.remove(&(stage.to_string(), id));
                }
                self.out.push(Decision::StartTask(path(id)));
            }
            Inner::TerminateChild { id, how } => {
                self.out.push(Decision::StopTask { task: path(id), how });
            }
            Inner::Restarting { id, cause, .. } => {
                let why = (cause.code(), cause.reason());
                self.report(flow, stage, Some(id), What::Restarted, why);
            }
            Inner::GiveUp { cause, .. } => {
                if let Some(entry) = self.flows.get_mut(flow) {
                    entry.cause = Some(cause);
                }
            }
            Inner::Up => signals.push_back(Signal::Flow(flow.into(), Do::Started(stage.into()))),
            Inner::Refused { .. } => {}
            Inner::Stopped(stop) => {
                if let Some(entry) = self.flows.get_mut(flow) {
                    entry.stages.remove(stage);
                }
                signals.push_back(Signal::Flow(flow.into(), ended(stage.into(), stop)));
            }
        }
    }
}
