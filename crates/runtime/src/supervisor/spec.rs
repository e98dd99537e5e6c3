//! What a supervisor is told about itself and its children, in OTP's words.

use std::time::Duration;

use millstream_core::{Code, Error};

use super::{Backoff, Intensity};

/// Which children a failure concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Only the child that failed. Right for children that meet through durable streams.
    #[default]
    OneForOne,
    /// All children: they are terminated in reverse start order and started again in order.
    OneForAll,
    /// The child that failed and those started after it.
    RestForOne,
}

/// When an exit is a failure, to be answered by a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// Unless it ended with [`Exit::Normal`] or [`Exit::Shutdown`].
    Transient,
    /// Never. The supervisor forgets the child as soon as it has ended, however it ended.
    Temporary,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its work is done.
    Normal,
    /// It was asked to, or it is a supervisor that gave up.
    Shutdown,
    /// It was killed from outside. Abnormal, as in OTP.
    Kill,
    /// It failed.
    Abnormal(Error),
}

impl Exit {
    /// Whether a transient child is restarted after it.
    pub fn is_abnormal(&self) -> bool {
        matches!(self, Exit::Kill | Exit::Abnormal(_))
    }

    /// The error's stable code as printed; empty if there is no error.
    pub fn code(&self) -> &'static str {
        match self {
            Exit::Abnormal(e) => e.code().id(),
            _ => "",
        }
    }

    /// Why, for people.
    pub fn reason(&self) -> &str {
        match self {
            Exit::Normal => "normal",
            Exit::Shutdown => "shutdown",
            Exit::Kill => "killed",
            Exit::Abnormal(e) => e.message(),
        }
    }
}

/// How long a child may take to end when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// It is not asked, but killed.
    BrutalKill,
    /// It is killed if it has not ended by then.
    Timeout(Duration),
    /// As long as it takes: right for supervisors.
    Infinity,
}

/// How a child is to be ended now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Ask it.
    Shutdown,
    /// Do not ask: fence it and let go of it.
    Kill,
}

/// Whether a child does the work or supervises those who do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It works.
    #[default]
    Worker,
    /// It supervises.
    Supervisor,
}

/// What a child looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not running, and nobody is about to change that (OTP: `undefined`).
    Down,
    /// A start was decided and has not been answered.
    Starting,
    /// Running.
    Running,
    /// It failed and will be started again.
    Restarting,
    /// It was told to end and has not yet.
    Terminating,
}

/// One child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSpec<I> {
    /// Its name among its siblings.
    pub id: I,
    /// When it is restarted; default permanent.
    pub restart: Restart,
    /// How it is ended; default 5 s for workers, infinity for supervisors.
    pub shutdown: Shutdown,
    /// What it is; default worker.
    pub kind: Kind,
}

impl<I> ChildSpec<I> {
    /// A worker that gets 5 s to end.
    pub fn worker(id: I, restart: Restart) -> ChildSpec<I> {
        let shutdown = Shutdown::Timeout(Duration::from_secs(5));
        ChildSpec { id, restart, shutdown, kind: Kind::Worker }
    }

    /// A supervisor that gets all the time it needs to end.
    pub fn supervisor(id: I, restart: Restart) -> ChildSpec<I> {
        ChildSpec { id, restart, shutdown: Shutdown::Infinity, kind: Kind::Supervisor }
    }

    /// With another way to end it.
    pub fn shutdown(mut self, shutdown: Shutdown) -> ChildSpec<I> {
        self.shutdown = shutdown;
        self
    }
}

/// One supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec<I> {
    /// Which children a failure concerns; default `one_for_one`.
    pub strategy: Strategy,
    /// How many restarts it grants; default 1 in 5 s, as in OTP.
    pub intensity: Intensity,
    /// How long restarts wait; default not at all, as in OTP.
    pub backoff: Backoff,
    /// Its children in start order.
    pub children: Vec<ChildSpec<I>>,
}

impl<I> Default for Spec<I> {
    fn default() -> Spec<I> {
        Spec {
            strategy: Strategy::default(),
            intensity: Intensity::default(),
            backoff: Backoff::NONE,
            children: Vec::new(),
        }
    }
}

impl<I: Ord + std::fmt::Debug> Spec<I> {
    /// # Errors
    /// [`Code::Limit`] for a period of nothing, [`Code::Conflict`] for two children of one name.
    pub(super) fn check(&self) -> millstream_core::Result<()> {
        if self.intensity.period.is_zero() {
            return Err(Error::new(Code::Limit, "the period of an intensity must be above zero"));
        }
        let mut seen = std::collections::BTreeSet::new();
        match self.children.iter().find(|c| !seen.insert(&c.id)) {
            Some(c) => Err(Error::new(Code::Conflict, format!("two children named {:?}", c.id))),
            None => Ok(()),
        }
    }
}
