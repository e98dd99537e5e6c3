//! Which task runs next: ready tasks by flow, the flow that has used the least time first.
//!
//! *Why not a plain queue:* with one, a flow with a thousand busy tasks would starve a flow with
//! one. Time is measured by the workers and handed in.
//!
//! *Invariant:* a task is in the queue at most once, and never while a worker has it; a wake-up
//! that comes meanwhile is remembered.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millstream_core::Time;

/// A task's number on its node.
pub type SlotId = usize;

/// When a task that has run is to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// When it is woken, or at this time.
    Wait(Option<Time>),
    /// Not before it is switched on.
    Off,
}

#[derive(Default)]
struct Inner {
    tasks: Vec<TaskEntry>,
    flows: BTreeMap<usize, FlowQueue>,
    /// When tasks are woken, the earliest first: at most one time for each.
    timers: BTreeSet<(Time, SlotId)>,
    /// Workers that wait. Waking nobody would still be a call to the kernel, per frame.
    waiting: usize,
    closed: bool,
}

struct TaskEntry {
    flow: usize,
    first: bool,
    /// Whether it may run.
    on: bool,
    /// Whether a worker has it: then no other gets it, even if it was switched off and on.
    running: bool,
    /// Whether it was switched off while it runs, so that its worker has to let go of it.
    leaving: bool,
    /// Whether it is to run: then it is among its flow's ready ones, unless it runs.
    woken: bool,
    /// Its place among the timers.
    timer: Option<Time>,
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
        inner.tasks.push(TaskEntry {
            flow,
            first,
            on: false,
            running: false,
            leaving: false,
            woken: false,
            timer: None,
        });
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

    /// Lets a task run, from now on; as soon as a worker that still has it lets go of it.
    pub fn switch_on(&self, slot: SlotId) {
        let mut inner = self.lock();
        inner.tasks[slot].on = true;
        inner.wake(slot);
        self.call(inner);
    }

    /// Keeps a task from running until it is switched on again. `true` if a worker has it: then
    /// that one is told by [`Queue::done`].
    pub fn switch_off(&self, slot: SlotId) -> bool {
        let mut inner = self.lock();
        inner.switch_off(slot);
        let task = &mut inner.tasks[slot];
        task.leaving = task.running;
        task.running
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
        let due = inner
            .timers
            .first()
            .map(|(due, _)| Duration::from_millis(due.ms().saturating_sub(now.ms()).max(1) as u64));
        let wait = due.map_or(wait, |due| due.min(wait));
        inner.waiting += 1;
        let (mut inner, _) =
            self.work.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner);
        inner.waiting -= 1;
        None
    }

    /// A task has run for `used`. `false` if it was switched off meanwhile: what it holds is to be
    /// dropped, and then [`Queue::release`] called.
    #[must_use]
    pub fn done(&self, slot: SlotId, used: Duration, next: Next) -> bool {
        let mut inner = self.lock();
        let TaskEntry { flow, leaving, .. } = inner.tasks[slot];
        if let Some(flow) = inner.flows.get_mut(&flow) {
            flow.used += used;
        }
        if !leaving {
            inner.end(slot, next);
        }
        !leaving
    }

    /// The worker that had a task has let go of it, or never will and was given up. `false` if it
    /// was switched off since it was popped; then it is run at once if it is on again, not as
    /// `next` says.
    pub fn release(&self, slot: SlotId, next: Next) -> bool {
        let mut inner = self.lock();
        let left = std::mem::take(&mut inner.tasks[slot].leaving);
        inner.end(slot, if left { Next::Now } else { next });
        self.call(inner);
        !left
    }

    /// When the next timer is due.
    pub fn next_due(&self) -> Option<Time> {
        self.lock().timers.first().map(|(due, _)| *due)
    }

    /// Whether none of these tasks of one flow is ready or runs, and how often any task of the flow
    /// was woken so far.
    pub fn quiet(&self, slots: &[SlotId]) -> Option<u64> {
        let inner = self.lock();
        let quiet = slots.iter().all(|s| !inner.tasks[*s].woken && !inner.tasks[*s].running);
        let flow = slots.first().and_then(|s| inner.flows.get(&inner.tasks[*s].flow));
        quiet.then(|| flow.map_or(0, |f| f.wakes))
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
        if !task.on || task.woken {
            return;
        }
        task.woken = true;
        match task.running {
            true => {} // remembered
            false if task.first => ready.push_front(slot),
            false => ready.push_back(slot),
        }
    }

    fn switch_off(&mut self, slot: SlotId) {
        let task = &mut self.tasks[slot];
        (task.on, task.woken) = (false, false);
        if let Some(flow) = self.flows.get_mut(&task.flow) {
            flow.ready.retain(|s| *s != slot);
        }
    }

    /// A task no longer runs.
    fn end(&mut self, slot: SlotId, next: Next) {
        let task = &mut self.tasks[slot];
        task.running = false;
        let woken = std::mem::take(&mut task.woken);
        match next {
            Next::Off => self.switch_off(slot),
            Next::Wait(Some(at)) if !woken => self.set_timer(slot, at),
            // One that waits for something else has not looked at the clock: its timer stands.
            Next::Wait(None) if !woken => {}
            Next::Now | Next::Wait(_) => self.wake(slot),
        }
    }

    /// Wakes a task at this time, instead of the one said before.
    fn set_timer(&mut self, slot: SlotId, at: Time) {
        if let Some(old) = self.tasks[slot].timer.replace(at) {
            self.timers.remove(&(old, slot));
        }
        self.timers.insert((at, slot));
    }

    fn pop(&mut self, now: Time) -> Option<SlotId> {
        while let Some(&(due, slot)) = self.timers.first() {
            if due > now {
                break;
            }
            self.timers.pop_first();
            self.tasks[slot].timer = None;
            self.wake(slot);
        }
        let flow =
            self.flows.values_mut().filter(|f| !f.ready.is_empty()).min_by_key(|f| f.used)?;
        let slot = flow.ready.pop_front()?;
        let task = &mut self.tasks[slot];
        (task.running, task.woken) = (true, false);
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
            assert!(queue.done(slot, Duration::from_millis(1), Next::Now));
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
        assert!(queue.done(own, Duration::ZERO, Next::Wait(None)));
        let before = queue.quiet(&[own]);
        assert!(before.is_some());
        queue.wake(other);
        assert_eq!(queue.quiet(&[own]), before, "it has a flow of its own");
        queue.wake(own);
        assert_eq!(queue.pop(Time::MIN), Some(own));
        assert!(queue.done(own, Duration::ZERO, Next::Wait(None)));
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
        assert!(queue.done(slot, Duration::ZERO, Next::Wait(None)));
        assert_eq!(queue.pop(Time::MIN), Some(slot));
        assert!(queue.done(slot, Duration::ZERO, Next::Wait(Some(Time::from_ms(5)))));
        assert_eq!(queue.pop(Time::from_ms(4)), None);
        assert_eq!(queue.pop(Time::from_ms(5)), Some(slot));
    }

    #[test]
    fn a_task_that_puts_off_its_timer_again_and_again_has_one() {
        let queue = Queue::default();
        let slot = queue.add(0, false);
        queue.switch_on(slot);
        for n in 1..=100_000 {
            assert_eq!(queue.pop(Time::MIN), Some(slot));
            assert!(queue.done(slot, Duration::ZERO, Next::Wait(Some(Time::from_ms(n)))));
            queue.wake(slot);
        }
        assert_eq!(queue.lock().timers.len(), 1);
        assert_eq!(queue.pop(Time::MIN), Some(slot));
        assert!(queue.done(slot, Duration::ZERO, Next::Wait(None)));
        assert_eq!(queue.pop(Time::from_ms(99_999)), None, "it was put off");
        assert_eq!(queue.pop(Time::from_ms(100_000)), Some(slot), "its timer stands");
    }

    #[test]
    fn a_task_that_is_started_again_waits_until_its_worker_lets_go_of_it() {
        let queue = Queue::default();
        let slot = queue.add(0, false);
        queue.switch_on(slot);
        assert_eq!(queue.pop(Time::MIN), Some(slot));
        assert!(queue.switch_off(slot), "a worker has it");
        queue.switch_on(slot);
        assert_eq!(queue.pop(Time::MIN), None, "two would run it at once");
        assert!(!queue.done(slot, Duration::ZERO, Next::Off), "what it holds is to be dropped");
        assert_eq!(queue.pop(Time::MIN), None, "it is not dropped yet");
        assert!(!queue.release(slot, Next::Off));
        assert_eq!(queue.pop(Time::MIN), Some(slot), "what its old life came to says nothing");
        assert!(queue.done(slot, Duration::ZERO, Next::Off));
        queue.wake(slot);
        assert_eq!(queue.pop(Time::MIN), None);
        assert!(!queue.switch_off(slot), "nobody has it");
    }
}
