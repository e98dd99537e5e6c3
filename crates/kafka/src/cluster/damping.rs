//! What keeps nodes that disagree from fighting, and a falling cluster from falling faster.
//!
//! *Why it exists:* fencing makes a wrong takeover safe, not cheap: each one aborts the other's
//! turn. Two nodes that both believe to own a task could fence each other for ever.
//!
//! *Rules*, beside those of the plan (the incumbent wins) and of the watch (no claims on an old
//! view; commits are signs of life):
//! - A node that was fenced lets the task be, for 2 s, 4 s, ... 60 s and some jitter; it says so,
//!   so that others take it. A minute without being fenced forgives.
//! - When more than a third of the nodes are lost at once, or more tasks were taken over within
//!   10 s than there are, takeovers wait for one detection time.
//! - Survivors who are less than half of the nodes of the last 10 s do not claim. In a cluster of
//!   two neither of these two counts: Kafka decides.
//!
//! *Limits:* [`Options`]; one entry per task, one per loss of the last 10 s.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use millstream_core::{Time, rng::Rng};

use super::{NodeKey, Options, TaskKey, view::View};

/// A pause is longer by up to this part of it.
const JITTER: f64 = 0.5;

pub(super) struct Damping {
    rng: Rng,
    fenced: BTreeMap<TaskKey, Fenced>,
    lost: VecDeque<(Time, NodeKey)>,
    taken: VecDeque<(Time, usize)>,
}

struct Fenced {
    times: u32,
    until: Time,
    /// Whether the pause is over.
    over: bool,
}

impl Damping {
    pub fn new(seed: u64) -> Damping {
        Damping {
            rng: Rng::new(seed),
            fenced: BTreeMap::new(),
            lost: VecDeque::new(),
            taken: VecDeque::new(),
        }
    }

    /// This node was fenced.
    pub fn fenced(&mut self, options: &Options, task: TaskKey, now: Time) {
        let fenced = self.fenced.entry(task).or_insert(Fenced { times: 0, until: now, over: true });
        let pause = options.fenced * 2u32.saturating_pow(fenced.times.min(16));
        let pause = pause.min(options.fenced_max);
        fenced.times += 1;
        fenced.until = now + pause + pause.mul_f64(self.rng.unit() * JITTER);
        fenced.over = false;
    }

    pub fn declines(&self, task: TaskKey) -> bool {
        self.fenced.get(&task).is_some_and(|f| !f.over)
    }

    /// The tasks whose pause has just ended.
    pub fn relent(&mut self, options: &Options, now: Time) -> Vec<TaskKey> {
        self.fenced.retain(|_, f| now < f.until + options.fenced_max);
        let over = self.fenced.iter_mut().filter(|(_, f)| !f.over && now >= f.until);
        over.map(|(task, f)| {
            f.over = true;
            *task
        })
        .collect()
    }

    pub fn lost(&mut self, node: NodeKey, now: Time) {
        self.lost.push_back((now, node));
    }

    /// Tasks were claimed whose owner had died.
    pub fn taken(&mut self, count: usize, now: Time) {
        self.taken.push_back((now, count));
    }

    /// Why no task of a dead node may be claimed now, if so. `silent` nodes seem to be dead, too.
    pub fn hold(
        &mut self,
        options: &Options,
        view: &View,
        silent: &[NodeKey],
        tasks: usize,
        now: Time,
    ) -> Option<&'static str> {
        let old = |then: Time| then + options.budget <= now;
        self.lost.retain(|(then, _)| !old(*then));
        self.taken.retain(|(then, _)| !old(*then));
        let recent = |then: Time, within: Duration| now < then + within;
        let alive = view.alive().count() - silent.len();
        let is_back = |node: NodeKey| view.node(node).is_some_and(|n| n.state.is_alive());
        let lost = |within: Duration| {
            let dead =
                self.lost.iter().filter(|(then, node)| recent(*then, within) && !is_back(*node));
            dead.count() + silent.len()
        };
        let all = lost(options.budget);
        if alive + all > 2 && 2 * alive < alive + all {
            return Some("most of the nodes were lost lately; waiting for them");
        }
        let at_once = lost(options.detection());
        if alive + at_once > 2 && 3 * at_once > alive + at_once {
            return Some("more than a third of the nodes were lost at once; waiting a moment");
        }
        let taken: usize = self.taken.iter().map(|(_, count)| count).sum();
        let last = self.taken.back().is_some_and(|(then, _)| recent(*then, options.detection()));
        (taken > tasks && last)
            .then_some("too many takeovers within a short time; waiting a moment")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_are_forgiven() {
        let (options, task) = (Options::default(), TaskKey(1));
        let mut damping = Damping::new(7);
        let mut now = Time::from_ms(0);
        for s in [2, 4, 8, 16, 32, 60, 60] {
            damping.fenced(&options, task, now);
            now = now + Duration::from_secs(s) - Duration::from_millis(1);
            assert!(damping.relent(&options, now).is_empty() && damping.declines(task), "{s} s");
            now = now + Duration::from_secs(s).mul_f64(JITTER) + Duration::from_millis(1);
            assert_eq!(
                (damping.relent(&options, now), damping.declines(task)),
                (vec![task], false)
            );
        }
        now = now + options.fenced_max;
        assert!(damping.relent(&options, now).is_empty());
        damping.fenced(&options, task, now);
        assert_eq!(damping.relent(&options, now + Duration::from_secs(3)), [task]);
    }

    #[test]
    fn more_takeovers_than_tasks_wait_a_moment() {
        let (options, view) = (Options::default(), View::default());
        let mut damping = Damping::new(7);
        let mut now = Time::from_ms(0);
        damping.taken(10, now);
        assert_eq!(damping.hold(&options, &view, &[], 10, now), None);
        damping.taken(1, now);
        let held = damping.hold(&options, &view, &[], 10, now);
        assert!(held.is_some_and(|why| why.contains("too many takeovers")), "{held:?}");
        now = now + options.detection();
        assert_eq!(damping.hold(&options, &view, &[], 10, now), None);
        // Those of more than ten seconds ago do not count.
        now = now + options.budget;
        damping.taken(1, now);
        assert_eq!(damping.hold(&options, &view, &[], 10, now), None);
    }
}
