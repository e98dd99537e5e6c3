//! One node's part: what it appends to the members topic, opens, releases and follows.
//!
//! *Why without a thread:* who drives it hands in what has happened and the time, and does what
//! [`Member::poll`] answers; so a simulation with hundreds of nodes runs what production runs.
//!
//! *Invariants*
//! - It claims only while its own heartbeats come back: a view that may be old decides nothing. So
//!   nothing is claimed at the start or after a pause before the log was read to its end.
//! - It opens a task when its own claim is in the log and stands, or when the last owner has
//!   released the task to it.
//! - It releases a task to a node that is warm, or when the log says that another node owns it.
//!
//! *Failure:* reading its own death, or a later life of its own name, it forgets all it has and
//! says [`Action::StepDown`].

mod act;
mod voice;
mod watch;

use std::{collections::BTreeMap, sync::Arc};

use millstream_core::{Code, Error, Result, Time};

use self::{
    voice::{Speaker, Voice},
    watch::Watch,
};
use super::{
    NodeKey, Options, TaskKey,
    damping::Damping,
    plan::Plan,
    record::{ADDRESS_BYTES_MAX, Beat, Body, Entry, NAME_BYTES_MAX, Record, State, Took, lag_bits},
    view::{Folded, Lost, View},
};

/// What the node has to do next, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append this to the members topic, in the order of these actions. If that fails:
    /// [`Member::on_lost`].
    Append(Vec<u8>),
    /// Take the task over; then [`Member::on_opened`] or [`Member::on_fenced`]. It may be a standby
    /// here until now.
    Open(Arc<str>),
    /// Let the task come to an end and close it; then [`Member::on_released`].
    Release(Arc<str>),
    /// Follow the task's state; [`Member::on_lag`] from time to time.
    Standby(Arc<str>),
    /// Follow it no more.
    DropStandby(Arc<str>),
    /// Drop all tasks and standbys at once, without a word. With `rejoin` it goes on as a new life;
    /// else another node has this one's name, or it was leaving anyway: end.
    StepDown {
        /// Whether it joins anew by itself.
        rejoin: bool,
    },
    /// It owns nothing any more and has said so: it may end.
    Left,
}

/// What this node has to do with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mine {
    /// It has said that it will take it, and waits for the log to agree.
    Claiming { claim: u64, taken: bool, standby: Option<u8> },
    /// It runs it, or opens it.
    Owner { claim: u64, taken: bool, open: bool },
    /// It runs it to an end.
    Releasing { claim: u64, taken: bool, to: Option<NodeKey> },
    /// It waits for another node to open it.
    Granted { claim: u64, to: NodeKey, until: Time },
    /// It follows it.
    Standby { lag: u8 },
}

/// A takeover whose first output has not been seen.
#[derive(Clone, Copy, Debug)]
struct Taking {
    lost: Lost,
    opened: Option<Time>,
}

/// One node's part in the cluster.
pub struct Member {
    options: Options,
    name: Arc<str>,
    key: NodeKey,
    address: Arc<str>,
    incarnation: u64,
    state: State,
    drains: bool,
    view: View,
    /// Sorted.
    tasks: Vec<TaskKey>,
    names: BTreeMap<TaskKey, Arc<str>>,
    mine: BTreeMap<TaskKey, Mine>,
    takings: BTreeMap<TaskKey, Taking>,
    damping: Damping,
    voice: Voice,
    watch: Watch,
    plan: Plan,
    /// The view's version that the plan is of.
    planned: Option<u64>,
    hold: Option<&'static str>,
    actions: Vec<Action>,
    joined: Time,
    polled: Time,
    acted: Time,
    /// Something has happened that should not wait for the next heartbeat.
    urgent: bool,
    /// The heartbeat that has to come back before the view is good enough to decide.
    must_echo: u64,
    echoed: u64,
    echoed_at: Time,
    /// Whether any heartbeat has ever come back, in any life.
    heard: bool,
}

impl Member {
    /// A node that joins. `incarnation` must be greater than in its earlier lives (its start in ms
    /// will do); everything random follows from `seed`.
    ///
    /// # Errors
    /// [`Code::Limit`] if name or address are empty or too long.
    pub fn new(
        options: Options,
        name: &str,
        address: &str,
        incarnation: u64,
        seed: u64,
    ) -> Result<Member> {
        let fits = |text: &str, max: usize| !text.is_empty() && text.len() <= max;
        if !fits(name, NAME_BYTES_MAX) || !fits(address, ADDRESS_BYTES_MAX) {
            return Err(Error::new(
                Code::Limit,
                format!(
                    "node `{name}` at `{address}`: a name has 1 to {NAME_BYTES_MAX} bytes, an address 1 to {ADDRESS_BYTES_MAX}"
                ),
            ));
        }
        Ok(Member {
            options,
            name: name.into(),
            key: NodeKey::of(name),
            address: address.into(),
            incarnation,
            state: State::Joining,
            drains: false,
            view: View::default(),
            tasks: Vec::new(),
            names: BTreeMap::new(),
            mine: BTreeMap::new(),
            takings: BTreeMap::new(),
            damping: Damping::new(seed),
            voice: Voice::new(),
            watch: Watch::default(),
            plan: Plan::default(),
            planned: None,
            hold: None,
            actions: Vec::new(),
            joined: Time::MAX,
            polled: Time::MIN,
            acted: Time::MIN,
            urgent: false,
            must_echo: 1,
            echoed: 0,
            echoed_at: Time::MIN,
            heard: false,
        })
    }

    /// The tasks there are, by name. All nodes should be told the same.
    ///
    /// # Errors
    /// [`Code::Conflict`] if two names have the same hash.
    pub fn set_tasks(&mut self, names: &[&str]) -> Result<()> {
        let mut all: BTreeMap<TaskKey, Arc<str>> = BTreeMap::new();
        for name in names {
            if let Some(other) = all.insert(TaskKey::of(name), (*name).into())
                && *other != **name
            {
                return Err(Error::new(
                    Code::Conflict,
                    format!("tasks `{other}` and `{name}` have the same hash"),
                )
                .help("rename a flow or stage"));
            }
        }
        self.tasks = all.keys().copied().collect();
        // Names of tasks that are gone are needed until those have been released.
        self.names.retain(|task, _| self.mine.contains_key(task));
        self.names.extend(all);
        self.planned = None;
        self.urgent = true;
        Ok(())
    }

    /// The next record of the members topic.
    ///
    /// # Errors
    /// [`Code::Corrupt`] if it cannot be read; it is passed over.
    pub fn on_record(&mut self, offset: u64, bytes: &[u8], now: Time) -> Result<()> {
        let record = Record::decode(bytes)?;
        let own = *record.node == *self.name;
        if own && record.incarnation > self.incarnation {
            match self.heard {
                // From before its start, by a clock that was ahead.
                false => {
                    self.incarnation = record.incarnation + 1;
                    self.begin_life();
                }
                true => self.step_down(false),
            }
        }
        let folded = self.view.fold(offset, &record, now);
        match folded {
            Folded::Died(_) | Folded::Returned | Folded::Left => self.urgent = true,
            Folded::Beat | Folded::Took | Folded::Ignored => {}
        }
        match &record.body {
            Body::Dead { node, incarnation, .. } if matches!(folded, Folded::Died(_)) => {
                match *node == self.key {
                    true if *incarnation == self.incarnation => self.step_down(!self.drains),
                    true => {}
                    false if self.echoed > 0 => self.damping.lost(*node, now),
                    false => {}
                }
            }
            Body::Beat(beat) if own && record.incarnation == self.incarnation => {
                self.on_own(offset, beat, now);
            }
            Body::Beat(beat) => self.on_others(NodeKey::of(record.node), beat, now),
            _ => {}
        }
        Ok(())
    }

    fn on_own(&mut self, offset: u64, beat: &Beat<'_>, now: Time) {
        if self.voice.in_flight == Some(beat.seq) {
            self.voice.in_flight = None;
            (self.echoed, self.echoed_at) = (beat.seq, now);
            self.heard = true;
            self.watch.echo(&self.options, offset);
            for (node, incarnation, last_seen) in
                self.watch.accuse(&self.options, &self.view, self.key, now)
            {
                self.append(Body::Dead { node, incarnation, last_seen });
            }
        }
        self.count_takeovers(self.key, beat, now);
        for (task, _) in &beat.tasks {
            let Some(Mine::Claiming { claim, taken, standby }) = self.mine.get(task).copied()
            else {
                continue;
            };
            if self.view.entry(self.key, *task).and_then(|e| e.claim()) != Some(claim) {
                continue;
            }
            if self.view.owner(*task) == Some(self.key) {
                self.become_owner(*task, claim, taken);
            } else {
                // Somebody's claim came before.
                self.put(*task, standby.map(|lag| Mine::Standby { lag }));
            }
        }
    }

    fn on_others(&mut self, writer: NodeKey, beat: &Beat<'_>, now: Time) {
        let to_me = |e: &Entry| matches!(e, Entry::Granted { to, .. } if *to == self.key);
        self.urgent |= beat.tasks.iter().any(|(_, e)| e.as_ref().is_some_and(to_me));
        self.count_takeovers(writer, beat, now);
    }

    fn count_takeovers(&mut self, writer: NodeKey, beat: &Beat<'_>, now: Time) {
        let stands = |(task, entry): &&(TaskKey, Option<Entry>)| {
            matches!(entry, Some(Entry::Owner { open: false, taken: true, .. }))
                && self.view.owner(*task) == Some(writer)
        };
        let taken = beat.tasks.iter().filter(stands).count();
        if taken > 0 && beat.whole.is_none() {
            self.damping.taken(taken, now);
        }
    }

    /// An append has failed; nobody knows whether the record is in the log.
    pub fn on_lost(&mut self) {
        self.voice.in_flight = None;
        self.voice.repeat();
    }

    /// A task runs here: its former owner is fenced.
    pub fn on_opened(&mut self, task: &str, now: Time) {
        let task = TaskKey::of(task);
        if let Some(Mine::Owner { claim, taken, open: false }) = self.mine.get(&task).copied() {
            self.put(task, Some(Mine::Owner { claim, taken, open: true }));
            if let Some(taking) = self.takings.get_mut(&task) {
                taking.opened = Some(now);
            }
        }
    }

    /// A task has committed for the first time since it was opened here.
    pub fn on_output(&mut self, task: &str, now: Time) {
        let task = TaskKey::of(task);
        let Some(Taking { lost, opened: Some(opened) }) = self.takings.get(&task).copied() else {
            return;
        };
        self.takings.remove(&task);
        let ms = |from: Time, to: Time| u64::try_from(to.ms() - from.ms()).unwrap_or(0);
        self.append(Body::Took(Took {
            task,
            from: lost.from,
            detected_ms: ms(lost.seen, lost.detected),
            fenced_ms: ms(lost.detected, opened),
            output_ms: ms(opened, now),
        }));
    }

    /// Another node has taken a task that ran here, or was about to; it runs here no more.
    pub fn on_fenced(&mut self, task: &str, now: Time) {
        let task = TaskKey::of(task);
        let ran = matches!(self.mine.get(&task), Some(Mine::Owner { .. } | Mine::Releasing { .. }));
        if ran {
            self.takings.remove(&task);
            self.damping.fenced(&self.options, task, now);
            self.put(task, None);
        }
    }

    /// A task has ended here, as it was asked to. If it was not asked to, it counts as fenced.
    pub fn on_released(&mut self, task: &str, now: Time) {
        let key = TaskKey::of(task);
        let Some(Mine::Releasing { claim, to, .. }) = self.mine.get(&key).copied() else {
            return self.on_fenced(task, now);
        };
        self.takings.remove(&key);
        let takes = |to: &NodeKey| {
            let declines = self.view.entry(*to, key).is_some_and(|e| e.declines());
            self.view.node(*to).is_some_and(|n| n.state == State::Active) && !declines
        };
        let until = now + self.options.grant;
        let granted = to.filter(takes).map(|to| Mine::Granted { claim, to, until });
        self.put(key, granted);
        self.urgent = true;
    }

    /// How far a standby is behind.
    pub fn on_lag(&mut self, task: &str, lag: u64) {
        let task = TaskKey::of(task);
        let lag = lag_bits(lag);
        let Some(Mine::Standby { lag: before }) = self.mine.get_mut(&task) else { return };
        let warm = lag_bits(self.options.warm_lag);
        let turned = (*before <= warm) != (lag <= warm);
        *before = lag;
        let Some(entry) = self.entry(task) else { return };
        match turned {
            true => self.voice.say(task, Some(entry), false),
            false => self.voice.say_later(task, entry),
        }
    }

    /// A node has committed or opened a task, as the task's own topic says: it lives, and its tasks
    /// are not taken over yet. To be told by who follows the topic and is at its end.
    pub fn on_commit_seen(&mut self, node: &str) {
        self.watch.sign(NodeKey::of(node), self.view.end());
    }

    /// Begins to hand all tasks over. [`Action::Left`] follows when there are none left.
    pub fn drain(&mut self) {
        self.drains = true;
        if self.state.is_alive() {
            self.state = State::Leaving;
            self.urgent = true;
            self.voice.hurry();
        }
    }

    /// What to do now. To be called after anything was handed in, and at [`Member::next_wake`].
    pub fn poll(&mut self, now: Time) -> Vec<Action> {
        if !self.state.is_alive() {
            return std::mem::take(&mut self.actions);
        }
        let now = now.max(self.polled);
        self.joined = self.joined.min(now);
        if self.polled + self.options.detection() < now {
            // It has slept: only what is sent from now on proves that the log is read to its end.
            self.must_echo = self.voice.seq + 1;
        }
        self.polled = now;
        if std::mem::take(&mut self.urgent) || self.acted + self.options.every <= now {
            self.acted = now;
            self.act(now);
        }
        if self.state.is_alive() {
            let speaker = Speaker {
                name: &self.name,
                address: &self.address,
                incarnation: self.incarnation,
                state: self.state,
            };
            while let Some(record) = self.voice.next(&self.options, &speaker, now) {
                self.actions.push(Action::Append(record));
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// When to call [`Member::poll`] at the latest.
    pub fn next_wake(&self) -> Time {
        self.voice.due.max(self.polled + self.options.every / 2)
    }

    /// The cluster as this node knows it.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether another node runs a task.
    pub fn runs_elsewhere(&self, task: &str) -> bool {
        let task = TaskKey::of(task);
        let owner = self.view.owner(task).filter(|owner| *owner != self.key);
        let entry = owner.and_then(|owner| self.view.entry(owner, task));
        matches!(entry, Some(Entry::Owner { open: true, .. }))
    }

    /// What this node is.
    pub fn state(&self) -> State {
        self.state
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This node's key.
    pub fn key(&self) -> NodeKey {
        self.key
    }

    /// Why it claims no task of a dead node at the moment, if so.
    pub fn hold(&self) -> Option<&'static str> {
        self.hold
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (TaskKey, &Arc<str>)> {
        self.tasks.iter().filter_map(|task| Some((*task, self.names.get(task)?)))
    }

    fn append(&mut self, body: Body<'_>) {
        let record = Record { node: &self.name, incarnation: self.incarnation, body };
        self.actions.push(Action::Append(record.encode()));
    }
}
