//! The contract between tasks and what makes their turns durable.
//!
//! *Why so little:* all a task asks is "commit this turn" and "give me frames", so the embedded
//! log, Kafka and the simulator are interchangeable.
//!
//! *Invariants*
//! - A turn becomes visible whole, in the engine's order, or never.
//! - After [`Engine::open`] has answered, no older lease of the task can commit.
//! - Tasks read committed frames; whatever leaves the node waits for [`Lease::durable`].
//! - A commit to an internal stream is never refused; see [`Engine::backlog`] for back-pressure.

mod cluster;
mod rest;
mod spec;

use std::sync::Arc;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

pub use self::cluster::{ClusterView, NodeState, NodeView, StandbyView, Takeover, TaskView, alone};
pub use self::rest::{AtRest, Moved, PartitionAtRest, StreamAtRest, TaskAtRest};
use crate::{
    Error, Frame, Result,
    ledger::Ledger,
    turn::{Change, Position, Progress, StreamId, TaskId, Turn},
};

/// What a stream is, as created once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// `flow/stream`, unique in the engine.
    pub name: String,
    /// The users' columns (the wire adds stamp and origin).
    #[serde(with = "spec::schema")]
    pub schema: SchemaRef,
    /// 1 to 1024.
    pub partitions: u32,
    /// Frames are kept although no consumer is attached (dead letters, late rows, `$supervisor`),
    /// up to this many bytes; the oldest are dropped and counted as expired. 0: not kept.
    pub retain_bytes: u64,
}

/// How much of a stream lies unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// Rows not yet read by the slowest consumer.
    pub rows: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// What an engine knows of a stream.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// Its number.
    pub id: StreamId,
    /// What it was created as.
    pub spec: StreamSpec,
    /// Rows appended since it exists.
    pub appended_rows: u64,
    /// Frame numbers that can be read, per partition.
    pub frames: Vec<std::ops::Range<u64>>,
    /// What lies unread.
    pub backlog: Backlog,
}

/// One of a task's inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InputSpec {
    /// Which stream.
    pub stream: StreamId,
    /// Which partition of it.
    pub partition: u32,
}

/// A hint that there is something to do; called from any thread, must return at once.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What a task is.
#[derive(Clone)]
pub struct TaskSpec {
    /// `flow/stage/partition`, unique in the engine and never positional.
    pub name: String,
    /// How many tasks its stage has.
    pub tasks: u32,
    /// What it reads; attaching a consumer keeps frames from being trimmed before it has read them.
    pub inputs: Vec<InputSpec>,
    /// Called when an input has new frames or a turn has settled or become durable.
    pub waker: Waker,
}

/// Names a turn that was handed to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What became of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Not decided yet.
    Pending,
    /// Committed: visible, whole, in order.
    Ok,
    /// Not committed; hand in the same turn again.
    Retry,
    /// Another lease has taken over. Drop this one and its live state.
    Fenced,
    /// Nobody knows. Drop lease and live state and open again: the log will say.
    Unknown,
    /// The engine cannot go on.
    Fatal(Error),
}

/// How a task is found when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What the last committed turn said; the default for a new task.
    pub progress: Progress,
    /// Opens since the last commit, this one included, counted durably: 1 in peaceful times.
    pub opens: u32,
    /// An upper bound of the state changes that [`Lease::restore`] will hand out.
    pub changes_max: u64,
}

/// A place where turns become durable.
pub trait Engine: Send + Sync {
    /// Creates a stream, or finds it if it exists with the same specification.
    ///
    /// # Errors
    /// [`crate::Code::Conflict`] naming both specifications.
    fn create_stream(&self, spec: &StreamSpec) -> Result<StreamId>;

    /// Whether there is a stream of this name, `flow/stream`.
    ///
    /// # Errors
    /// If it cannot be told now.
    fn has_stream(&self, name: &str) -> Result<bool> {
        Ok(self.streams().iter().any(|stream| stream.spec.name == name))
    }

    /// All streams.
    fn streams(&self) -> Vec<StreamInfo>;

    /// Takes the task over: fences any predecessor. `Ok(None)` means ask again when woken.
    fn open(&self, spec: &TaskSpec) -> Result<Option<Box<dyn Lease>>>;

    /// Durable frames of a partition from frame number `from`, at most about `bytes_max` bytes but
    /// at least one frame if there is one; for people, not for tasks.
    fn read(
        &self,
        stream: StreamId,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Frame)>>;

    /// What lies unread in a stream.
    fn backlog(&self, stream: StreamId) -> Backlog;

    /// Appends a frame from outside any task (a control record), durably in order with the rest.
    fn append(&self, stream: StreamId, partition: u32, frame: Frame) -> Result<Ticket>;

    /// Whether everything up to a ticket is durable.
    fn durable(&self, ticket: Ticket) -> bool;

    /// Every law, line by line, over committed counters.
    fn ledger(&self) -> Ledger;

    /// Names everything that was committed so far: what was looked at may leave the node once
    /// this is durable.
    fn committed(&self) -> Ticket;

    /// Hands out a task's committed state, as [`Lease::restore`] does; for people, and without
    /// taking the task over. A later change of a key replaces an earlier one.
    ///
    /// # Errors
    /// [`crate::Code::Unknown`] if there is no such task, else as [`Lease::restore`].
    fn visit_state(
        &self,
        task: TaskId,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<()>;

    /// The committed progress of every task that exists, by name.
    fn tasks(&self) -> Vec<(String, TaskId, Progress)>;

    /// The name of a task.
    fn task_name(&self, id: TaskId) -> Option<String> {
        self.tasks().into_iter().find(|(_, task, _)| *task == id).map(|(name, ..)| name)
    }

    /// Where turns are kept, if sinks may keep rows in the same place: theirs can then be part of
    /// the turn ([`Turn::carried`]). `None` if the engine carries nothing.
    ///
    /// # Errors
    /// If it cannot be told now.
    fn place(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Figures for `status` and the benches.
    fn stats(&self) -> EngineStats;

    /// Whether a task that another node runs has come to its end: nothing will follow from it.
    fn has_ended(&self, _task: &str) -> bool {
        false
    }

    /// Whether it keeps up. Turns are taken in whatever this says; sources are to wait.
    fn health(&self) -> Health {
        Health::default()
    }

    /// The nodes that share the application's tasks, as this one knows them; `None` if it is not
    /// one of many.
    fn cluster(&self) -> Option<ClusterView> {
        None
    }

    /// Begins to hand all tasks over to the other nodes, for good; [`Engine::left`] says when that
    /// is done.
    ///
    /// # Errors
    /// [`crate::Code::Plan`] if the node is not one of many.
    fn leave(&self) -> Result<()> {
        Err(alone())
    }

    /// Whether the node takes part no more: since it was asked to leave, or why else.
    fn left(&self) -> Option<Result<()>> {
        None
    }
}

/// Whether an engine keeps up with what is handed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What keeps it from writing: the last write failed, or `full`. It goes on by itself when it
    /// can.
    pub error: Option<Error>,
    /// Bytes of turns that are committed but not durable.
    pub pending_bytes: u64,
    /// Whether what is stored has reached the limit it was given.
    pub full: bool,
    /// Frames and state changes that could not be read back, since the engine was opened.
    pub bad_reads: u64,
}

/// What an engine has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStats {
    /// Turns committed.
    pub turns: u64,
    /// Times the disk was asked to make writes durable.
    pub fsyncs: u64,
    /// Bytes written, everything included.
    pub bytes_written: u64,
    /// Bytes of frames and state changes handed in.
    pub bytes_committed: u64,
    /// Bytes on disk now.
    pub bytes_stored: u64,
    /// State compactions finished.
    pub compactions: u64,
    /// Segments removed because nothing in them was needed any more.
    pub segments_trimmed: u64,
}

/// A task's exclusive hold on the engine.
pub trait Lease: Send {
    /// The task's number.
    fn task(&self) -> TaskId;

    /// What the last committed turn left.
    fn recovered(&self) -> &Recovered;

    /// Hands out the committed state, a budget of bytes at a time. A later change of a key
    /// replaces an earlier one. `Ok(true)` when all was handed out.
    fn restore(
        &mut self,
        bytes_max: usize,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<bool>;

    /// Committed frames of input `input` from frame `from`, at most about `bytes_max` bytes but at
    /// least one frame if there is one.
    fn poll(&mut self, input: usize, from: Position, bytes_max: usize)
    -> Result<Vec<(u64, Frame)>>;

    /// Hands a turn in. At most two may be unsettled.
    fn commit(&mut self, turn: Turn) -> Ticket;

    /// Whether the task may keep it; asked before each step. An engine that moves tasks between
    /// nodes takes it back in this way.
    ///
    /// # Errors
    /// [`crate::Code::Fenced`] when it is to be dropped, and opened again.
    fn keep(&mut self) -> Result<()> {
        Ok(())
    }

    /// Hands the same bytes in again, after [`Settlement::Retry`].
    fn retry(&mut self, _ticket: Ticket) {}

    /// What became of a turn.
    fn settled(&mut self, ticket: Ticket) -> Settlement;

    /// Whether a turn would survive a power loss.
    fn durable(&self, ticket: Ticket) -> bool;
}
