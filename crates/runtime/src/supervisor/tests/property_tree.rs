//! A whole node in a random world.

use std::{collections::BTreeMap, time::Duration};

use super::{property::Dice, *};
use crate::supervisor::tree::{Decision, Event};

const FLOWS: [&str; 3] = ["a", "b", "c"];

/// Which tasks live, and whether they run yet.
type Tasks = BTreeMap<TaskPath, bool>;

fn check(decision: Decision, tasks: &mut Tasks, failed: &mut u32) {
    let of = |tasks: &Tasks, flow: &str| tasks.keys().filter(|t| t.flow == flow).count();
    match decision {
        Decision::StartTask(task) => {
            assert_eq!(tasks.insert(task.clone(), false), None, "{task} runs twice");
        }
        Decision::StopTask { task, .. } => {
            assert!(tasks.contains_key(&task), "{task} does not run");
        }
        Decision::FlowFailed { flow, .. } => {
            assert_eq!(of(tasks, &flow), 0, "{flow} failed and runs on");
            *failed += 1;
        }
        Decision::FlowStopped(flow) | Decision::FlowFinished(flow) => {
            assert_eq!(of(tasks, &flow), 0, "{flow} stopped and runs on");
        }
        Decision::Stopped => assert!(tasks.is_empty(), "stopped with {tasks:?}"),
        _ => {}
    }
}

fn event(dice: &mut Dice, tasks: &mut Tasks, tree: &Tree) -> Event {
    let flow = FLOWS[dice.roll(3) as usize];
    let n = dice.roll(tasks.len().max(1) as u64) as usize;
    let task = tasks.iter().nth(n).map(|(t, running)| (t.clone(), *running));
    match (task, dice.roll(20)) {
        (_, 0) => Event::StartFlow(FlowSpec::new(flow).stage("x", 2).stage("y", 2).stage("z", 0)),
        (_, 1) if dice.roll(10) == 0 => Event::StopFlow(flow.into()),
        (Some((task, false)), 2..16) => {
            tasks.insert(task.clone(), true);
            Event::Started(task)
        }
        (Some((task, true)), n) if tree.status(&task) == Some(Status::Terminating) || n < 8 => {
            tasks.remove(&task);
            let exit = if dice.roll(20) == 0 { Exit::Normal } else { died() };
            Event::Exited { task, exit }
        }
        (Some((task, false)), 16) => {
            tasks.remove(&task);
            Event::StartFailed(task, oops())
        }
        (Some((task, _)), 17) => Event::Handled { task, good: 0, bad: dice.roll(400) },
        (_, 18) => Event::Resume(flow.into()),
        _ => Event::Tick,
    }
}

/// How many flows have failed.
fn run(seed: u64) -> u32 {
    let mut dice = Dice(seed);
    let (mut tree, mut tasks, mut now, mut failed) = (Tree::new(), Tasks::new(), ms(0), 0);
    let mut paused = BTreeMap::new();
    for step in 0.. {
        assert!(step < 10_000, "never stopped");
        let event = match step {
            400 => Event::Shutdown,
            _ => event(&mut dice, &mut tasks, &tree),
        };
        let mut stopped = false;
        for decision in tree.handle(event, now) {
            stopped |= decision == Decision::Stopped;
            match &decision {
                Decision::PauseSources(f) => assert_eq!(paused.insert(f.clone(), ()), None),
                Decision::ResumeSources(f) => assert_eq!(paused.remove(f), Some(())),
                Decision::FlowFailed { flow: f, .. }
                | Decision::FlowStopped(f)
                | Decision::FlowFinished(f) => drop(paused.remove(f)),
                _ => {}
            }
            check(decision, &mut tasks, &mut failed);
        }
        for flow in FLOWS {
            assert_eq!(tree.is_paused(flow), paused.contains_key(flow));
        }
        if stopped {
            assert!(tasks.is_empty() && tree.flows().count() == 0 && tree.next_wake().is_none());
            break;
        }
        now = now + Duration::from_millis(dice.roll(500));
    }
    failed
}

#[test]
fn no_task_runs_twice_and_every_flow_comes_to_its_end() {
    let failed: u32 = (0..500).map(run).sum();
    assert!(failed > 500, "only {failed} flows failed");
}
