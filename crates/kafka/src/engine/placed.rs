//! Which tasks this node may have, and what their leases and the membership tell each other.
//!
//! *Who decides:* the membership's thread grants and takes back; a task's own steps open and let
//! go, so nothing of a task is under way when it is let go of.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_core::engine::{TaskSpec, Waker};

use super::{
    shared::{Signal, lock},
    tail::Tail,
};

/// What has happened to a task here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It runs.
    Opened(String),
    /// It has committed for the first time since.
    Output(String),
    /// Another node has it.
    Fenced(String),
    /// It was let go of, as asked.
    Released(String),
}

/// What the placement wants of a lease.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// To be let go of at the end of its turn.
    release: AtomicBool,
    /// Not this node's any more.
    lost: AtomicBool,
}

impl Hold {
    pub fn is_released(&self) -> bool {
        self.release.load(Ordering::Acquire)
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

/// A task as this node sees it.
#[derive(Default)]
struct Local {
    /// How it was asked for last, if its flow is deployed here.
    spec: Option<TaskSpec>,
    granted: bool,
    /// Of its opening or its lease.
    hold: Option<Arc<Hold>>,
    follows: bool,
    standby: Option<Standby>,
}

struct Standby {
    tail: Tail,
    promoted: Arc<AtomicBool>,
}

pub(super) struct Placed {
    tasks: Mutex<HashMap<String, Local>>,
    events: Mutex<Vec<Event>>,
    /// Whether the membership is known as of now; nothing is opened while it is not.
    current: AtomicBool,
    signal: Arc<Signal>,
}

impl Placed {
    pub fn new(signal: Arc<Signal>) -> Placed {
        Placed {
            tasks: Mutex::default(),
            events: Mutex::default(),
            current: AtomicBool::new(false),
            signal,
        }
    }

    fn say(&self, event: Event) {
        lock(&self.events).push(event);
        self.signal.raise();
    }

    /// What has happened since the last time.
    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut lock(&self.events))
    }

    // The task's side.

    /// Whether a task may be opened; its waker is called when it may. Also whether an opening that
    /// has begun is to be given up.
    pub fn ask(&self, spec: &TaskSpec) -> Asked {
        let mut tasks = lock(&self.tasks);
        let local = tasks.entry(spec.name.clone()).or_default();
        local.spec = Some(spec.clone());
        if !local.granted {
            let hold = local.hold.take();
            drop(tasks);
            if hold.is_some_and(|hold| hold.is_released() && !hold.is_lost()) {
                self.say(Event::Released(spec.name.clone()));
            }
            return Asked::Elsewhere;
        }
        match self.current.load(Ordering::Acquire) {
            true => Asked::Here(local.hold.get_or_insert_default().clone()),
            false => Asked::Later,
        }
    }

    /// What a standby has read of a task that is opened now.
    pub fn promote(&self, task: &str) -> Option<Tail> {
        let mut tasks = lock(&self.tasks);
        let standby = tasks.get_mut(task)?.standby.take()?;
        standby.promoted.store(true, Ordering::Release);
        Some(standby.tail)
    }

    pub fn opened(&self, task: &str) {
        self.say(Event::Opened(task.into()));
    }

    pub fn output(&self, task: &str) {
        self.say(Event::Output(task.into()));
    }

    /// Another node has taken a task that was open here.
    pub fn fenced(&self, task: &str) {
        let mut tasks = lock(&self.tasks);
        let Some(local) = tasks.get_mut(task).filter(|l| l.granted) else { return };
        local.granted = false;
        drop(tasks);
        self.say(Event::Fenced(task.into()));
    }

    // The membership's side.

    pub fn grant(&self, task: &str) {
        let mut tasks = lock(&self.tasks);
        let local = tasks.entry(task.into()).or_default();
        local.granted = true;
        let waker = local.waker();
        drop(tasks);
        waker.into_iter().for_each(|wake| wake());
    }

    /// Wants a task back. What the task has begun ends first.
    pub fn release(&self, task: &str) {
        let mut tasks = lock(&self.tasks);
        let local = tasks.entry(task.into()).or_default();
        local.granted = false;
        match &local.hold {
            Some(hold) => {
                hold.release.store(true, Ordering::Release);
                let waker = local.waker();
                drop(tasks);
                waker.into_iter().for_each(|wake| wake());
            }
            None => {
                drop(tasks);
                self.say(Event::Released(task.into()));
            }
        }
    }

    /// Takes all tasks back at once, and follows none.
    pub fn take_all(&self) {
        let mut wakers = Vec::new();
        for local in lock(&self.tasks).values_mut() {
            local.granted = false;
            (local.follows, local.standby) = (false, None);
            if let Some(hold) = &local.hold {
                hold.lost.store(true, Ordering::Release);
                wakers.extend(local.waker());
            }
        }
        lock(&self.events).clear();
        wakers.into_iter().for_each(|wake| wake());
    }

    /// Says whether the membership is known as of now.
    pub fn set_current(&self, current: bool) {
        if !self.current.swap(current, Ordering::AcqRel) && current {
            self.wake_all();
        }
    }

    /// Lets a task look again.
    pub fn wake(&self, task: &str) {
        let waker = lock(&self.tasks).get(task).and_then(Local::waker);
        waker.into_iter().for_each(|wake| wake());
    }

    /// Lets all tasks look again.
    pub fn wake_all(&self) {
        let wakers: Vec<Waker> = lock(&self.tasks).values().filter_map(Local::waker).collect();
        wakers.into_iter().for_each(|wake| wake());
    }

    pub fn follow(&self, task: &str, follow: bool) {
        let mut tasks = lock(&self.tasks);
        let local = tasks.entry(task.into()).or_default();
        local.follows = follow;
        if !follow {
            local.standby = None;
        }
    }

    /// The tasks that are to be followed and are not yet, as they were asked for.
    pub fn unfollowed(&self) -> Vec<TaskSpec> {
        let tasks = lock(&self.tasks);
        let waits = |l: &&Local| l.follows && l.standby.is_none() && l.hold.is_none();
        tasks.values().filter(waits).filter_map(|l| l.spec.clone()).collect()
    }

    /// Follows a task by a tail that `make` makes with a waker.
    pub fn begin_to_follow<E>(
        &self,
        spec: &TaskSpec,
        make: impl FnOnce(Waker) -> Result<Tail, E>,
    ) -> Result<(), E> {
        let promoted = Arc::new(AtomicBool::new(false));
        let (signal, opened, waker) = (self.signal.clone(), promoted.clone(), spec.waker.clone());
        let tail = make(Arc::new(move || match opened.load(Ordering::Acquire) {
            true => waker(),
            false => signal.raise(),
        }))?;
        let mut tasks = lock(&self.tasks);
        if let Some(local) = tasks.get_mut(&spec.name).filter(|l| l.follows && l.hold.is_none()) {
            local.standby = Some(Standby { tail, promoted });
        }
        Ok(())
    }

    /// Visits the standbys. One that `visit` fails on is begun anew.
    pub fn visit_standbys<E>(&self, mut visit: impl FnMut(&str, &mut Tail) -> Result<(), E>) {
        for (name, local) in lock(&self.tasks).iter_mut() {
            if let Some(standby) = &mut local.standby
                && visit(name, &mut standby.tail).is_err()
            {
                local.standby = None;
            }
        }
    }
}

impl Local {
    fn waker(&self) -> Option<Waker> {
        self.spec.as_ref().map(|spec| spec.waker.clone())
    }
}

/// Whether a task may be opened here.
pub(super) enum Asked {
    Here(Arc<Hold>),
    /// Not now; its waker is called.
    Later,
    Elsewhere,
}
