//! The children of one supervisor, in start order, with their timers.
//!
//! *Invariant:* `waits` holds exactly the children that wait to be restarted, `deadlines` exactly
//! those that are killed if they have not ended by then.

use std::collections::{BTreeMap, BTreeSet};

use millstream_core::Time;

use super::{ChildSpec, Exit, Restart, Status, backoff::Failures};

/// Why a child was started: decides what its failure to start means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// With the supervisor: the supervisor cannot start.
    Boot,
    /// After a failure: counts, and is tried again.
    Restart,
    /// As a new child: it is forgotten.
    Added,
    /// By `restart_child`: it stays down.
    Requested,
}

/// Where a child stands.
#[derive(Clone, Debug)]
pub(super) enum State {
    Down,
    Starting(Why),
    Running,
    /// It has ended, and the supervisor has not looked at it yet.
    Dead(Exit),
    /// It is started again at that time.
    Waiting(Time),
    /// It was told to end; at that time it is killed.
    Terminating(Option<Time>),
}

/// One child.
#[derive(Clone, Debug)]
pub(super) struct Child<I> {
    pub(super) spec: ChildSpec<I>,
    pub(super) state: State,
    pub(super) failures: Failures,
}

impl<I> Child<I> {
    pub(super) fn status(&self) -> Status {
        match self.state {
            State::Down => Status::Down,
            State::Starting(Why::Restart) | State::Waiting(_) => Status::Restarting,
            State::Starting(_) => Status::Starting,
            State::Running | State::Dead(_) => Status::Running,
            State::Terminating(_) => Status::Terminating,
        }
    }
}

/// All children. They are addressed by their place in the start order.
#[derive(Clone, Debug)]
pub(super) struct Children<I> {
    by_place: BTreeMap<u64, Child<I>>,
    places: BTreeMap<I, u64>,
    next: u64,
    waits: BTreeSet<(Time, u64)>,
    deadlines: BTreeSet<(Time, u64)>,
}

impl<I: Clone + Ord> Children<I> {
    pub(super) fn new() -> Children<I> {
        Children {
            by_place: BTreeMap::new(),
            places: BTreeMap::new(),
            next: 0,
            waits: BTreeSet::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Adds a child behind all others; its id must be new.
    pub(super) fn insert(&mut self, spec: ChildSpec<I>) -> u64 {
        let place = self.next;
        self.next += 1;
        let known = self.places.insert(spec.id.clone(), place);
        assert!(known.is_none(), "a child is added once");
        let child = Child { spec, state: State::Down, failures: Failures::default() };
        self.by_place.insert(place, child);
        place
    }

    pub(super) fn remove(&mut self, place: u64) {
        self.set(place, State::Down);
        if let Some(child) = self.by_place.remove(&place) {
            self.places.remove(&child.spec.id);
        }
    }

    pub(super) fn place(&self, id: &I) -> Option<u64> {
        self.places.get(id).copied()
    }

    pub(super) fn get(&self, place: u64) -> Option<&Child<I>> {
        self.by_place.get(&place)
    }

    pub(super) fn get_mut(&mut self, place: u64) -> Option<&mut Child<I>> {
        self.by_place.get_mut(&place)
    }

    pub(super) fn state(&self, place: u64) -> Option<&State> {
        self.get(place).map(|c| &c.state)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Child<I>> {
        self.by_place.values()
    }

    /// The places from `first` on, in start order.
    pub(super) fn from(&self, first: u64) -> Vec<u64> {
        self.by_place.range(first..).map(|(place, _)| *place).collect()
    }

    /// Moves a child to another state, and its timer with it.
    pub(super) fn set(&mut self, place: u64, state: State) {
        let Some(child) = self.by_place.get_mut(&place) else { return };
        match child.state {
            State::Waiting(t) => {
                self.waits.remove(&(t, place));
            }
            State::Terminating(Some(t)) => {
                self.deadlines.remove(&(t, place));
            }
            _ => {}
        }
        match state {
            State::Waiting(t) => {
                self.waits.insert((t, place));
            }
            State::Terminating(Some(t)) => {
                self.deadlines.insert((t, place));
            }
            _ => {}
        }
        child.state = state;
    }

    /// A child has ended for good, or until somebody asks: forgets it if it is temporary.
    pub(super) fn gone(&mut self, place: u64) {
        match self.get(place).map(|c| c.spec.restart) {
            Some(Restart::Temporary) => self.remove(place),
            _ => self.set(place, State::Down),
        }
    }

    /// The next restart.
    pub(super) fn next_wait(&self) -> Option<(Time, u64)> {
        self.waits.first().copied()
    }

    /// The next kill.
    pub(super) fn next_deadline(&self) -> Option<(Time, u64)> {
        self.deadlines.first().copied()
    }
}
