//! What a supervisor is told and what it answers.

use millstream_core::{Error, Time};

use super::{ChildSpec, Exit, How};

/// What happened.
///
/// *Contract of the driver:* each [`Decision::StartChild`] is answered by one `Started` or
/// `StartFailed`; a child that was started ends with exactly one `Exited`, whether it was told to
/// or not. A `TerminateChild` for a child that is still starting may be answered by `StartFailed`
/// or `Exited`. Events that fit no child's state are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<I> {
    /// Start the children, in order.
    Start,
    /// A child runs.
    Started(I),
    /// A child could not be started.
    StartFailed(I, Error),
    /// A child has ended.
    Exited {
        /// Which.
        id: I,
        /// How.
        exit: Exit,
    },
    /// Time has passed; due at [`next_wake`](super::Supervisor::next_wake).
    Tick,
    /// Terminate the children in reverse order, then stop.
    Shutdown,
    /// `start_child`: add a child behind all others and start it.
    AddChild(ChildSpec<I>),
    /// `delete_child`: forget a child that is down.
    DeleteChild(I),
    /// `restart_child`: start a child that is down. Counts as no restart.
    RestartChild(I),
    /// `terminate_child`: end a child, or call off its restart. It stays down.
    TerminateChild(I),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<I> {
    /// Start this child.
    StartChild(I),
    /// End this child; asked to shut down first, it may be killed later.
    TerminateChild {
        /// Which.
        id: I,
        /// How.
        how: How,
    },
    /// To be known, not done: this child failed and is started again, with those the strategy
    /// ties to it.
    Restarting {
        /// Who failed.
        id: I,
        /// How.
        cause: Exit,
        /// Not before.
        until: Time,
    },
    /// To be known: all children of [`Event::Start`] run.
    Up,
    /// To be known: this failure was one too many. The children are terminated, then comes
    /// [`Decision::Stopped`].
    GiveUp {
        /// Who failed last.
        id: I,
        /// How.
        cause: Exit,
    },
    /// A request was not granted.
    Refused {
        /// Which child it was about.
        id: I,
        /// Why.
        why: Refusal,
    },
    /// All children have ended and nothing will be decided any more. To the supervisor's own
    /// supervisor it has exited with [`Exit::Shutdown`].
    Stopped(Stop),
}

/// Why a request was refused; OTP's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A child of this name runs.
    AlreadyStarted,
    /// A child of this name is known.
    AlreadyPresent,
    /// The child runs.
    Running,
    /// The child is about to be restarted.
    Restarting,
    /// No such child.
    NotFound,
    /// The new or restarted child did not start.
    StartFailed(Error),
    /// The supervisor is about to stop.
    Stopping,
}

/// Why a supervisor stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was asked to.
    Asked,
    /// Too many restarts; this was the last failure.
    GaveUp(Exit),
    /// A child did not start together with the supervisor.
    StartFailed(Error),
}
