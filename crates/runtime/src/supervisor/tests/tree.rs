//! node > flow > stage > task.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::supervisor::tree::{Decision, Event};

/// Tasks that start and end as told.
struct Node {
    tree: Tree,
    now: Time,
    running: BTreeSet<TaskPath>,
    hanging: Option<TaskPath>,
    seen: Vec<Decision>,
    reports: Vec<Report>,
}

impl Node {
    fn new(flows: &[FlowSpec]) -> Node {
        let mut node = Node {
            tree: Tree::new(),
            now: ms(0),
            running: BTreeSet::new(),
            hanging: None,
            seen: Vec::new(),
            reports: Vec::new(),
        };
        for flow in flows {
            node.send(Event::StartFlow(flow.clone()));
        }
        node.seen.clear();
        node
    }

    fn send(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for decision in self.tree.handle(event, self.now) {
                match &decision {
                    Decision::StartTask(task) => {
                        assert!(self.running.insert(task.clone()), "{task} runs twice");
                        events.push(Event::Started(task.clone()));
                    }
                    Decision::StopTask { task, how: How::Shutdown }
                        if self.hanging.as_ref() == Some(task) => {}
                    Decision::StopTask { task, .. } => {
                        assert!(self.running.remove(task), "{task} does not run");
                        events.push(Event::Exited { task: task.clone(), exit: Exit::Shutdown });
                    }
                    Decision::Report(report) => {
                        self.reports.push(report.clone());
                        continue;
                    }
                    _ => {}
                }
                self.seen.push(decision);
            }
        }
    }

    fn exit(&mut self, task: &TaskPath, exit: Exit) {
        assert!(self.running.remove(task), "{task} does not run");
        self.send(Event::Exited { task: task.clone(), exit });
    }

    /// Fails a task and waits for its restart, if there is one.
    fn fail(&mut self, task: &TaskPath) {
        self.exit(task, died());
        while let Some(wake) = self.tree.next_wake() {
            self.now = wake;
            self.send(Event::Tick);
        }
    }

    fn take(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.seen)
    }

    fn whats(&self) -> Vec<(What, u64)> {
        let mut whats: Vec<(What, u64)> = Vec::new();
        for r in &self.reports {
            match whats.last_mut() {
                Some((what, n)) if *what == r.what => *n += 1,
                _ => whats.push((r.what, 1)),
            }
        }
        whats
    }
}

fn departures() -> FlowSpec {
    FlowSpec::new("departures").stage("alerts", 1).stage("aircraft", 2).stage("flights", 1)
}

fn aircraft(task: u32) -> TaskPath {
    TaskPath::new("departures", "aircraft", task)
}

#[test]
fn a_failed_task_is_restarted_and_no_other_notices() {
    let mut node = Node::new(&[departures()]);
    assert_eq!(node.running.len(), 4);
    node.exit(&aircraft(1), died());
    assert_eq!(node.take(), [Decision::StartTask(aircraft(1))]);
    let r = &node.reports[0];
    assert_eq!((r.what, r.code.as_str(), r.reason.as_str()), (What::Restarted, "M0003", "oops"));
    assert_eq!((r.flow.as_str(), r.stage.as_str(), r.task), ("departures", "aircraft", Some(1)));
}

#[test]
fn five_failures_in_a_minute_are_restarts_the_sixth_is_the_stages() {
    let mut node = Node::new(&[departures()]);
    (0..5).for_each(|_| node.fail(&aircraft(1)));
    assert_eq!(node.take(), vec![Decision::StartTask(aircraft(1)); 5]);
    node.fail(&aircraft(1));
    // The stage is restarted as a whole, and nothing but it.
    assert_eq!(
        node.take(),
        [
            Decision::StopTask { task: aircraft(0), how: How::Shutdown },
            Decision::StartTask(aircraft(0)),
            Decision::StartTask(aircraft(1)),
        ]
    );
    assert_eq!(node.whats(), [(What::Restarted, 5), (What::Escalated, 1)]);
}

#[test]
fn failures_more_than_a_minute_apart_never_escalate() {
    let mut node = Node::new(&[FlowSpec { backoff: Backoff::NONE, ..departures() }]);
    for _ in 0..100 {
        node.fail(&aircraft(0));
        node.now = node.now + Duration::from_millis(12_001);
    }
    assert_eq!(node.whats(), [(What::Restarted, 100)]);
}

#[test]
fn a_flow_that_gives_up_is_failed_and_the_others_stay_up() {
    let other = FlowSpec::new("other").stage("s", 1);
    let mut node = Node::new(&[departures(), other]);
    (0..11).for_each(|_| node.fail(&aircraft(1)));
    node.take();
    node.fail(&aircraft(1));
    let stop = |stage, task| Decision::StopTask {
        task: TaskPath::new("departures", stage, task),
        how: How::Shutdown,
    };
    let failed = Decision::FlowFailed { flow: "departures".into(), error: oops() };
    let expected = [stop("aircraft", 0), stop("flights", 0), stop("alerts", 0), failed];
    assert_eq!(node.take(), expected);
    assert_eq!(node.whats().last(), Some(&(What::GaveUp, 1)));
    assert_eq!(node.running, BTreeSet::from([TaskPath::new("other", "s", 0)]));
    assert_eq!(node.tree.flows().collect::<Vec<_>>(), ["other"]);

    // It can be started again, as new.
    node.send(Event::StartFlow(departures()));
    assert_eq!(node.running.len(), 5);
}

#[test]
fn dead_letters_kills_and_parking_count_as_nothing() {
    let mut node = Node::new(&[departures()]);
    for what in [What::DeadLetters, What::Killed, What::Parked, What::Fenced] {
        for _ in 0..1000 {
            let (task, code, reason) = (aircraft(0), String::new(), "N730MQ".to_string());
            node.send(Event::Noted { task, what, code, reason, count: 3 });
        }
    }
    assert_eq!((node.take(), node.reports.len()), (vec![], 4000));
    assert_eq!((node.running.len(), node.reports[0].count), (4, 3));
}

#[test]
fn a_task_that_hangs_is_let_go_of_after_five_seconds() {
    let mut node = Node::new(&[departures()]);
    node.hanging = Some(aircraft(1));
    node.send(Event::StopFlow("departures".into()));
    assert_eq!(node.tree.status(&aircraft(1)), Some(Status::Terminating));
    assert_eq!(node.tree.next_wake(), Some(ms(5000)));
    node.now = ms(5000);
    node.send(Event::Tick);
    assert_eq!(node.take().last(), Some(&Decision::FlowStopped("departures".into())));
    assert!(node.running.is_empty());
}

#[test]
fn a_flow_is_finished_when_the_input_of_all_its_tasks_has_ended() {
    let mut node = Node::new(&[departures()]);
    let tasks: Vec<_> = node.running.iter().cloned().collect();
    node.exit(&tasks[0], Exit::Normal);
    // Restarted with its stage, so it has to end again.
    (0..6).for_each(|_| node.fail(&aircraft(1)));
    node.take();
    for task in node.running.clone().into_iter().rev() {
        assert_eq!(node.take(), []);
        node.exit(&task, Exit::Normal);
    }
    assert_eq!(node.take(), [Decision::FlowFinished("departures".into())]);
    assert_eq!(node.tree.flows().count(), 0);
}

#[test]
fn tasks_that_were_taken_over_do_not_finish_a_flow() {
    let mut node = Node::new(&[departures()]);
    for task in node.running.clone() {
        node.exit(&task, Exit::Shutdown);
    }
    assert_eq!((node.take(), node.tree.flows().count()), (vec![], 1));
}

#[test]
fn a_flow_whose_task_cannot_be_created_fails_at_once() {
    let mut tree = Tree::new();
    let start = tree.handle(Event::StartFlow(departures()), ms(0));
    let alerts = TaskPath::new("departures", "alerts", 0);
    assert_eq!(start, [Decision::StartTask(alerts.clone())]);
    tree.handle(Event::Started(alerts.clone()), ms(0));
    let decisions = tree.handle(Event::StartFailed(aircraft(0), oops()), ms(0));
    let stop = Decision::StopTask { task: alerts.clone(), how: How::Shutdown };
    assert_eq!(decisions, [stop]);
    let decisions = tree.handle(Event::Exited { task: alerts, exit: Exit::Shutdown }, ms(0));
    let failed = Decision::FlowFailed { flow: "departures".into(), error: oops() };
    assert_eq!(decisions.last(), Some(&failed));
}

#[test]
fn a_flow_runs_once_and_only_what_runs_can_be_stopped() {
    let mut node = Node::new(&[departures()]);
    node.send(Event::StartFlow(departures()));
    node.send(Event::StopFlow("arrivals".into()));
    node.send(Event::StartFlow(FlowSpec::new("twice").stage("s", 1).stage("s", 1)));
    let code = |d: &Decision| match d {
        Decision::Refused { error, .. } => error.code(),
        d => panic!("{d:?}"),
    };
    let codes: Vec<_> = node.take().iter().map(code).collect();
    assert_eq!(codes, [Code::Conflict, Code::Unknown, Code::Conflict]);
    assert_eq!(node.running.len(), 4);
}

#[test]
fn shutdown_ends_the_last_flow_first() {
    let other = FlowSpec::new("arrivals").stage("s", 1);
    let mut node = Node::new(&[departures(), other]);
    node.send(Event::Shutdown);
    let ends = |d: &Decision| matches!(d, Decision::FlowStopped(_) | Decision::Stopped);
    let ends: Vec<_> = node.take().into_iter().filter(ends).collect();
    let stopped = |flow: &str| Decision::FlowStopped(flow.into());
    assert_eq!(ends, [stopped("arrivals"), stopped("departures"), Decision::Stopped]);
    assert!(node.running.is_empty());
    node.send(Event::StartFlow(departures()));
    assert!(node.running.is_empty());
}

#[test]
fn an_open_breaker_pauses_the_sources_of_its_flow() {
    let mut node = Node::new(&[departures()]);
    let handled = |task, good, bad| Event::Handled { task, good, bad };
    let flow = "departures".to_string();
    node.send(handled(aircraft(0), 0, 600));
    node.send(handled(aircraft(1), 0, 600));
    assert_eq!(node.take(), [Decision::PauseSources(flow.clone())]);
    let alerts = TaskPath::new("departures", "alerts", 0);
    node.send(handled(alerts, 0, 1000));
    // A second open breaker changes nothing; both must be closed.
    assert_eq!((node.take(), node.tree.is_paused(&flow)), (vec![], true));
    node.now = node.tree.next_wake().unwrap();
    node.send(Event::Tick);
    assert_eq!(node.take(), [Decision::ResumeSources(flow.clone())]);
    node.send(handled(aircraft(0), 0, 100));
    assert_eq!(node.take(), [Decision::PauseSources(flow.clone())]);
    node.send(Event::Resume(flow.clone()));
    assert_eq!(
        (node.take(), node.tree.is_paused(&flow)),
        (vec![Decision::ResumeSources(flow.clone())], false)
    );
    assert_eq!(node.running.len(), 4);
}
