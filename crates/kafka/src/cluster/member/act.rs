//! From the plan to what this node does about it.

use std::collections::BTreeSet;

use millstream_core::Time;

use super::{Action, Member, Mine, Taking, Voice, Watch};
use crate::cluster::{
    NodeKey, TaskKey,
    plan::{Move, Open, Plan},
    record::{Body, Entry, LAG_UNKNOWN, State, lag_bits},
};

/// Repetitions of all others that a node waits for before it takes part although somebody has not
/// said all.
const REFRESHES_MAX: u32 = 3;
/// Detection times after its start in which a node waits for others that start, too, before it
/// opens what nobody follows.
const GATHER: u32 = 4;

impl Member {
    /// Does what is due. Everything in here looks at a plan of the newest view.
    pub(super) fn act(&mut self, now: Time) {
        for task in self.damping.relent(&self.options, now) {
            self.say(task);
        }
        self.join(now);
        if self.planned != Some(self.view.version()) {
            self.plan = Plan::of(&self.view, &self.tasks);
            self.planned = Some(self.view.version());
        }
        self.give_up(now);
        if !self.is_current(now) {
            self.hold = Some("its own heartbeats do not come back; it waits for Kafka");
            return;
        }
        self.hand_over();
        self.open(now);
        self.follow(now);
        self.calm_down();
        self.leave();
    }

    /// Whether the view is new enough to decide anything.
    pub fn is_current(&self, now: Time) -> bool {
        self.echoed >= self.must_echo && now < self.echoed_at + self.options.detection()
    }

    fn join(&mut self, now: Time) {
        let patience = self.joined + self.options.refresh * REFRESHES_MAX;
        let complete = || self.view.alive().all(|n| n.is_complete());
        if self.state == State::Joining
            && self.is_current(now)
            && self.watch.has_settled(&self.options)
            && (complete() || now >= patience)
        {
            self.state = State::Active;
            self.voice.hurry();
        }
    }

    /// Lets go of what the log says is another's, and of tasks that are no more.
    fn give_up(&mut self, now: Time) {
        let all: Vec<(TaskKey, Mine)> = self.mine.iter().map(|(t, m)| (*t, *m)).collect();
        for (task, mine) in all {
            let known = self.tasks.binary_search(&task).is_ok();
            match mine {
                Mine::Owner { claim, taken, .. } => {
                    let said = self.view.entry(self.key, task).and_then(|e| e.claim());
                    let lost = said == Some(claim) && self.view.owner(task) != Some(self.key);
                    if !known || lost {
                        self.release(task, claim, taken, None);
                    }
                }
                Mine::Granted { to, until, .. } => {
                    let there = self.view.node(to).is_some_and(|n| n.state == State::Active);
                    if !there
                        || now >= until
                        || self.view.owner(task).is_some_and(|o| o != self.key)
                    {
                        self.put(task, None);
                    }
                }
                Mine::Standby { .. } if !known => self.drop_standby(task),
                _ => {}
            }
        }
    }

    /// Releases what goes to another node and is warm there.
    fn hand_over(&mut self) {
        let moving =
            |m: &&Mine| matches!(m, Mine::Releasing { to: Some(_), .. } | Mine::Granted { .. });
        let moving = self.mine.values().filter(moving).count();
        let warm = lag_bits(self.options.warm_lag);
        let ready = |m: &&Move| {
            let lag = self.view.entry(m.to, m.task).and_then(|e| e.lag());
            m.from == self.key && lag.is_some_and(|lag| lag <= warm)
        };
        let ready = self.plan.moves.iter().filter(ready);
        let ready = ready.filter_map(|m| match self.mine.get(&m.task)? {
            Mine::Owner { claim, taken, open: true } => Some((m.task, m.to, *claim, *taken)),
            _ => None,
        });
        let room = self.options.handovers_max.saturating_sub(moving);
        let ready: Vec<_> = ready.take(room).collect();
        for (task, to, claim, taken) in ready {
            self.release(task, claim, taken, Some(to));
        }
    }

    fn release(&mut self, task: TaskKey, claim: u64, taken: bool, to: Option<NodeKey>) {
        self.put(task, Some(Mine::Releasing { claim, taken, to }));
        self.do_with(task, Action::Release);
    }

    /// Takes what nobody has and the plan gives to this node.
    fn open(&mut self, now: Time) {
        let silent = self.watch.silent(&self.options, &self.view, self.key);
        let hold = self.damping.hold(&self.options, &self.view, &silent, self.tasks.len(), now);
        let others_start = now < self.joined + self.options.detection() * GATHER
            && self.view.alive().any(|n| n.state == State::Joining);
        self.hold = hold;
        let opens = self.plan.opens.iter().filter(|open| open.to == self.key);
        let opens: Vec<Open> = opens.copied().collect();
        for Open { task, granted, warm, .. } in opens {
            let standby = match self.mine.get(&task) {
                None => None,
                Some(Mine::Standby { lag }) => Some(*lag),
                Some(_) => continue,
            };
            if self.state != State::Active || self.damping.declines(task) {
                continue;
            }
            let claim = self.view.claim(task) + 1;
            if granted {
                // Nobody else may claim it while this node lives: no need to see the claim stand.
                self.become_owner(task, claim, false);
                continue;
            }
            let lost = self.view.lost(task);
            let lives =
                lost.is_some_and(|l| self.watch.has_sign(&self.options, l.from, l.seen, now));
            if hold.is_some() || lives || (others_start && !warm) {
                continue;
            }
            let taken = lost.is_some();
            self.put(task, Some(Mine::Claiming { claim, taken, standby }));
        }
    }

    pub(super) fn become_owner(&mut self, task: TaskKey, claim: u64, taken: bool) {
        self.takings.remove(&task);
        if let Some(lost) = self.view.lost(task).filter(|_| taken) {
            self.takings.insert(task, Taking { lost, opened: None });
        }
        self.put(task, Some(Mine::Owner { claim, taken, open: false }));
        self.do_with(task, Action::Open);
    }

    /// Follows what the plan says, and drops a standby when another is warm in its place. Reading
    /// states for the first time would hold takeovers up, so it waits for those, though not for
    /// ever: who has claimed a task may be unable to open it.
    fn follow(&mut self, now: Time) {
        if self.plan.is_first_half() {
            return;
        }
        let planned = self.plan.standbys().filter(|(_, node)| *node == self.key);
        let mut wanted: BTreeSet<TaskKey> = planned.map(|(task, _)| task).collect();
        let warm = lag_bits(self.options.warm_lag);
        let mut room = self.options.warming_max;
        for Move { task, .. } in self.plan.moves.iter().filter(|m| m.to == self.key) {
            let lag = match self.mine.get(task) {
                Some(Mine::Standby { lag }) => *lag,
                _ => LAG_UNKNOWN,
            };
            if lag <= warm || room > 0 {
                wanted.insert(*task);
                room -= usize::from(lag > warm);
            }
        }
        let busy = self.view.takes_over(now - self.options.budget);
        if self.state == State::Active && !busy {
            let new = wanted.iter().copied().filter(|task| !self.mine.contains_key(task));
            for task in new.collect::<Vec<_>>() {
                self.put(task, Some(Mine::Standby { lag: LAG_UNKNOWN }));
                self.do_with(task, Action::Standby);
            }
        }
        wanted.extend(self.plan.opens.iter().filter(|o| o.to == self.key).map(|o| o.task));
        let followed = self.mine.iter().filter(|(_, m)| matches!(m, Mine::Standby { .. }));
        let unwanted = followed.map(|(task, _)| *task).filter(|task| !wanted.contains(task));
        let unneeded = unwanted.filter(|task| match self.plan.standby(*task) {
            Some(other) => {
                let lag = self.view.entry(other, *task).and_then(|e| e.lag());
                lag.is_some_and(|lag| lag <= warm)
            }
            // Without a plan for it nobody knows better.
            None => self.view.owner(*task).is_some() && !self.plan.is_empty(),
        });
        for task in unneeded.collect::<Vec<_>>() {
            self.drop_standby(task);
        }
    }

    /// When all is in balance, what was taken over from the dead is like any other task.
    fn calm_down(&mut self) {
        if !self.plan.opens.is_empty() || !self.plan.moves.is_empty() {
            return;
        }
        let taken = self.mine.iter().filter_map(|(task, mine)| match *mine {
            Mine::Owner { claim, taken: true, open: true } => Some((*task, claim)),
            _ => None,
        });
        for (task, claim) in taken.collect::<Vec<_>>() {
            self.put(task, Some(Mine::Owner { claim, taken: false, open: true }));
        }
    }

    fn drop_standby(&mut self, task: TaskKey) {
        self.do_with(task, Action::DropStandby);
        self.put(task, None);
    }

    /// Leaves when it owns nothing any more. The last node has nobody to hand over to.
    fn leave(&mut self) {
        if self.state != State::Leaving {
            return;
        }
        let takes = |state: State| matches!(state, State::Active | State::Joining);
        let last = !self.view.alive().any(|n| n.key != self.key && takes(n.state));
        let all: Vec<_> = self.mine.iter().map(|(t, m)| (*t, *m)).collect();
        for (task, mine) in all {
            // Nobody waits for one that is not open: that of a flow which is no more never will be.
            if let Mine::Owner { claim, taken, open } = mine
                && (last || !open)
            {
                self.release(task, claim, taken, None);
            }
        }
        if !self.mine.values().all(|m| matches!(m, Mine::Standby { .. })) {
            return;
        }
        for task in self.mine.keys().copied().collect::<Vec<_>>() {
            self.drop_standby(task);
        }
        self.append(Body::Leave);
        self.state = State::Left;
        self.actions.push(Action::Left);
    }

    pub(super) fn step_down(&mut self, rejoin: bool) {
        if !self.state.is_alive() {
            return;
        }
        self.actions.push(Action::StepDown { rejoin });
        self.state = State::Left;
        if rejoin {
            self.incarnation += 1;
            self.begin_life();
        }
    }

    /// Forgets what the last life had and said. What was fenced stays known.
    pub(super) fn begin_life(&mut self) {
        self.mine.clear();
        self.takings.clear();
        self.voice = Voice::new();
        self.watch = Watch::default();
        self.state = if self.drains { State::Leaving } else { State::Joining };
        (self.must_echo, self.echoed, self.echoed_at) = (1, 0, Time::MIN);
        self.joined = Time::MAX;
        self.urgent = true;
    }

    /// Has something else to do with a task from now on, and says so.
    pub(super) fn put(&mut self, task: TaskKey, mine: Option<Mine>) {
        match mine {
            Some(mine) => drop(self.mine.insert(task, mine)),
            None => drop(self.mine.remove(&task)),
        }
        self.say(task);
        if mine.is_none() && self.tasks.binary_search(&task).is_err() {
            self.names.remove(&task);
        }
    }

    fn say(&mut self, task: TaskKey) {
        let entry = self.entry(task);
        let owns = entry.is_some_and(|e| e.claim().is_some());
        let said = self.view.entry(self.key, task).is_some_and(|e| e.claim().is_some());
        self.voice.say(task, entry, owns || said);
    }

    pub(super) fn entry(&self, task: TaskKey) -> Option<Entry> {
        let declines = self.damping.declines(task);
        let entry = self.mine.get(&task).map(|mine| match *mine {
            Mine::Claiming { claim, taken, .. } => Entry::Owner { claim, taken, open: false },
            Mine::Owner { claim, taken, open } => Entry::Owner { claim, taken, open },
            Mine::Releasing { claim, taken, .. } => Entry::Owner { claim, taken, open: true },
            Mine::Granted { claim, to, .. } => Entry::Granted { claim, to },
            Mine::Standby { lag } => Entry::Standby { lag, declines },
        });
        entry.or_else(|| declines.then_some(Entry::Declined))
    }

    fn do_with(&mut self, task: TaskKey, action: impl FnOnce(std::sync::Arc<str>) -> Action) {
        if let Some(name) = self.names.get(&task) {
            self.actions.push(action(name.clone()));
        }
    }
}
