//! Which task runs next: ready tasks by flow, the flow that has used the least time first.
//!
//! *Why not a plain queue:* with one, a flow with a thousand busy tasks would starve a flow with
//! one. Time is measured by the workers and handed in.
//!
//! *Invariant:* a task is in the queue at most once, and never while it runs; a wake-up that comes
//! while it runs is remembered.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millstream_core::Time;

/// A task's number on its node.
pub type SlotId = usize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Ready,
    Running,
    /// Woken while it runs.
    Again,
    /// Not to be run.
    Off,
}

#[derive(Default)]
struct Inner {
    tasks: Vec<TaskEntry>,
    flows: BTreeMap<usize, FlowQueue>,
    timers: BinaryHeap<Reverse<(Time, SlotId)>>,
    /// Workers that wait. Waking nobody would still be a call to the kernel, per frame.
    waiting: usize,
    closed: bool,
}

struct TaskEntry {
    state: State,
    flow: usize,
    first: bool,
}

#[derive(Default)]
struct FlowQueue {
    ready: VecDeque<SlotId>,
    /// Wake-ups so far; tells whether anything has happened between two looks.
    wakes: u64,
    used: Duration,
}

/// The node's run queue, shared by its workers.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    work: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code in here panics between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new task of a flow, not to be run before it is switched on. One that is `first` runs
    /// before its flow's other tasks.
    pub fn add(&self, flow: usize, first: bool) -> SlotId {
        let mut inner = self.lock();
        let least = inner.flows.values().map(|f| f.used).min().unwrap_or_default();
        // A new flow starts level with the others instead of catching up on all time past.
        inner
            .flows
            .entry(flow)
            .or_insert_with(|| FlowQueue { used: least, ..FlowQueue::default() });
        inner.tasks.push(TaskEntry { state: State::Off, flow, first });
        inner.tasks.len() - 1
    }

    /// Makes a task ready, if it is not.
    pub fn wake(&self, slot: SlotId) {
        let mut inner = self.lock();
        inner.wake(slot);
        self.call(inner);
    }

    /// Lets a waiting worker see what has changed.
    fn call(&self, inner: MutexGuard<'_, Inner>) {
        let waiting = inner.waiting > 0;
        drop(inner);
        if waiting {
            self.work.notify_one();
        }
    }

    /// Lets a task run, from now on.
    pub fn switch_on(&self, slot: SlotId) {
        let mut inner = self.lock();
        if inner.tasks[slot].state == State::Off {
            inner.tasks[slot].state = State::Idle;
        }
        inner.wake(slot);
        self.call(inner);
    }

    /// Keeps a task from running until it is switched on again.
    pub fn switch_off(&self, slot: SlotId) {
        let mut inner = self.lock();
        let flow = inner.tasks[slot].flow;
        inner.tasks[slot].state = State::Off;
        if let Some(flow) = inner.flows.get_mut(&flow) {
            flow.ready.retain(|s| *s != slot);
        }
    }

    /// Takes the task to run now, if there is one.
    pub fn pop(&self, now: Time) -> Option<SlotId> {
        self.lock().pop(now)
    }

    /// Waits for a task to run, at most until something is due and at most `wait`.
    pub fn pop_wait(&self, now: Time, wait: Duration) -> Option<SlotId> {
        let mut inner = self.lock();
        if let Some(slot) = inner.pop(now) {
            return Some(slot);
        }
        if inner.closed {
            return None;
        }
        let due = inner.timers.peek().map(|Reverse((due, _))| {
            Duration::from_millis(due.ms().saturating_sub(now.ms()).max(1) as u64)
        });
        let wait = due.map_or(wait, |due| due.min(wait));
        inner.waiting += 1;
        let (mut inner, _) =
            self.work.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner);
        inner.waiting -= 1;
        None
    }

    /// A task has run for `used` and is to run again: at once, at a time, or when it is woken.
    pub fn done(&self, slot: SlotId, used: Duration, again: bool, at: Option<Time>) {
        let mut inner = self.lock();
        let TaskEntry { state, flow, .. } = inner.tasks[slot];
        if let Some(flow) = inner.flows.get_mut(&flow) {
            flow.used += used;
        }
        if !matches!(state, State::Running | State::Again) {
            return;
        }
        inner.tasks[slot].state = State::Idle;
        if again || state == State::Again {
            inner.wake(slot);
        } else if let Some(at) = at {
            inner.timers.push(Reverse((at, slot)));
        }
    }

    /// When the next timer is due.
    pub fn next_due(&self) -> Option<Time> {
        self.lock().timers.peek().map(|Reverse((due, _))| *due)
    }

    /// Whether none of these tasks of one flow is ready or runs, and how often any task of the flow
    /// was woken so far.
    pub fn quiet(&self, slots: &[SlotId]) -> Option<u64> {
        let inner = self.lock();
        let quiet = slots.iter().all(|s| matches!(inner.tasks[*s].state, State::Idle | State::Off));
        let flow = slots.first().and_then(|s| inner.flows.get(&inner.tasks[*s].flow));
        quiet.then(|| flow.map_or(0, |f| f.wakes))
    }

    /// Wakes a task at a time.
    pub fn wake_at(&self, slot: SlotId, at: Time) {
        let mut inner = self.lock();
        inner.timers.push(Reverse((at, slot)));
        self.call(inner);
    }

    /// Lets all workers see that the node stops.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
    }
}

impl Inner {
    fn wake(&mut self, slot: SlotId) {
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let FlowQueue { ready, wakes, .. } = self.flows.entry(task.flow).or_default();
        *wakes += 1;
        match task.state {
            State::Idle => {
                task.state = State::Ready;
                if task.first { ready.push_front(slot) } else { ready.push_back(slot) }
            }
            State::Running => task.state = State::Again,
            State::Ready | State::Again | State::Off => {}
        }
    }

    fn pop(&mut self, now: Time) -> Option<SlotId> {
        while let Some(Reverse((due, slot))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            self.wake(slot);
        }
        let flow =
            self.flows.values_mut().filter(|f| !f.ready.is_empty()).min_by_key(|f| f.used)?;
        let slot = flow.ready.pop_front()?;
        self.tasks[slot].state = State::Running;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_flow_does_not_starve_a_quiet_one() {
        let queue = Queue::default();
        let busy: Vec<_> = (0..100).map(|_| queue.add(0, false)).collect();
        let quiet = queue.add(1, false);
        busy.iter().chain([&quiet]).for_each(|s| queue.switch_on(*s));
        let mut turns = 0;
        for _ in 0..100 {
            let slot = queue.pop(Time::MIN).unwrap();
            turns += usize::from(slot == quiet);
            queue.done(slot, Duration::from_millis(1), true, None);
        }
        assert_eq!(turns, 50);
    }

    #[test]
    fn a_flow_is_quiet_whatever_another_does() {
        let queue = Queue::default();
        let (own, other) = (queue.add(0, false), queue.add(1, false));
        [own, other].iter().for_each(|s| queue.switch_on(*s));
        assert_eq!(queue.quiet(&[own]), None, "it is ready");
        assert_eq!(queue.pop(Time::MIN), Some(own));
        queue.done(own, Duration::ZERO, false, None);
        let before = queue.quiet(&[own]);
        assert!(before.is_some());
        queue.wake(other);
        assert_eq!(queue.quiet(&[own]), before, "it has a flow of its own");
        queue.wake(own);
        assert_eq!(queue.pop(Time::MIN), Some(own));
        queue.done(own, Duration::ZERO, false, None);
        assert_ne!(queue.quiet(&[own]), before, "something has happened meanwhile");
    }

    #[test]
    fn a_wake_up_while_running_is_remembered() {
        let queue = Queue::default();
        let slot = queue.add(0, false);
        queue.switch_on(slot);
        assert_eq!(queue.pop(Time::MIN), Some(slot));
        queue.wake(slot);
        assert_eq!(queue.pop(Time::MIN), None, "it runs already");
        queue.done(slot, Duration::ZERO, false, None);
        assert_eq!(queue.pop(Time::MIN), Some(slot));
        queue.done(slot, Duration::ZERO, false, Some(Time::from_ms(5)));
        assert_eq!(queue.pop(Time::from_ms(4)), None);
        assert_eq!(queue.pop(Time::from_ms(5)), Some(slot));
    }
}
