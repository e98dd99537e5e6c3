//! A vectorised step inside a task, and what it may do in a turn.
//!
//! *Invariants*
//! - An operator never undoes itself: outputs are rolled back here, state in its tables.
//! - It reads no clock: [`Scope::clock`] is the turn's.
//! - In careful mode every unit (a row, a message, a timer, a firing) runs inside
//!   [`Scope::unit`], so that one failure costs one unit.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    Batch, Origin, Result, Time,
    ledger::OperatorCounters,
    letter::{Letter, Trigger},
    mail::Mail,
    table::StateTable,
    turn::Position,
};

/// Why a unit failed. Takes any error, so `?` works.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub message: String,
    /// The column at fault; empty if none can be named.
    pub column: String,
    /// Where in the code, if it was a panic.
    pub backtrace: String,
    /// The policy says that the flow must not go on.
    pub stop: bool,
    /// The handler was not called: it did not return, or ended the process, before.
    pub unexecuted: bool,
}

impl Failure {
    /// A failure with a reason.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), ..Failure::default() }
    }

    /// Names the column at fault.
    pub fn column(mut self, column: impl Into<String>) -> Failure {
        self.column = column.into();
        self
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Failure {
        Failure::new(e.to_string())
    }
}

/// How a turn runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At full speed; the first failure undoes the whole turn.
    Optimistic,
    /// Unit by unit; a failure costs one unit.
    Careful,
}

/// Where rows leave an operator. Port 0 is the main output; others are side outputs.
pub type Port = usize;

/// In place of a call's ordinal: the turn's own work, such as encoding what handlers have left. A
/// turn that stands still there is run again unit by unit, where the guilty call does it itself.
pub const OUTSIDE: u64 = u64::MAX;

/// How far the current turn is, readable by the watchdog.
#[derive(Debug, Default)]
pub struct Probe {
    run: AtomicU64,
    call: AtomicU64,
    outside: AtomicBool,
    plan: Mutex<TurnPlan>,
}

/// Which rows a turn reads, so that it can be run again as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnPlan {
    /// The number of the turn before it.
    pub after: u64,
    /// Where it starts, per input.
    pub from: Vec<Position>,
    /// Where it ends.
    pub to: Vec<Position>,
    /// Calls of it that must not be executed.
    pub without: Vec<u64>,
}

impl Probe {
    /// The ordinal of the last call into a handler in this run, [`OUTSIDE`] if what runs belongs to
    /// no call, 0 if nothing runs.
    pub fn call(&self) -> u64 {
        match self.outside.load(Ordering::Relaxed) {
            true => OUTSIDE,
            false => self.call.load(Ordering::Relaxed),
        }
    }

    /// Counts the runs of the chain.
    pub fn run(&self) -> u64 {
        self.run.load(Ordering::Relaxed)
    }

    /// A run begins.
    pub fn begin(&self) {
        self.run.fetch_add(1, Ordering::Relaxed);
        self.call.store(0, Ordering::Relaxed);
        self.leave();
    }

    /// What comes now is no call's work but the turn's: nobody is to be blamed if it stands still.
    pub fn leave(&self) {
        self.outside.store(true, Ordering::Relaxed);
    }

    /// Nothing runs.
    pub fn idle(&self) {
        self.call.store(0, Ordering::Relaxed);
        self.outside.store(false, Ordering::Relaxed);
    }

    /// Remembers what the turn reads.
    pub fn set_plan(&self, plan: TurnPlan) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    /// What the turn reads.
    pub fn plan(&self) -> TurnPlan {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Everything an operator produced in a turn so far.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Rows per port, in order.
    pub rows: Vec<(Port, Batch)>,
    /// Messages: the receiving stage's index among the operator's mail targets, and the message.
    pub mail: Vec<(usize, Mail)>,
    /// What was set aside.
    pub letters: Vec<Letter>,
    /// What was counted.
    pub counters: OperatorCounters,
}

/// A point to roll outputs back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    rows: usize,
    mail: usize,
    letters: usize,
    counters: OperatorCounters,
}

impl Outputs {
    /// Remembers what there is.
    pub fn mark(&self) -> Mark {
        Mark {
            rows: self.rows.len(),
            mail: self.mail.len(),
            letters: self.letters.len(),
            counters: self.counters,
        }
    }

    /// Forgets everything since `mark`.
    pub fn rollback(&mut self, mark: Mark) {
        self.rows.truncate(mark.rows);
        self.mail.truncate(mark.mail);
        self.letters.truncate(mark.letters);
        self.counters = mark.counters;
    }
}

/// Catches a panic of user code and turns it into a [`Failure`]; handed in by the runtime, which
/// owns the panic hook.
pub type Catch = fn(&mut dyn FnMut() -> Result<(), Failure>) -> Result<(), Failure>;

/// What an operator sees of the turn it runs in.
pub struct Scope<'a> {
    /// The turn's clock: max of the committed clock and the wall clock.
    pub clock: Time,
    /// The task's watermark: the minimum over its inputs.
    pub watermark: Time,
    /// The minimum over all producers but the one whose rows are being processed.
    pub others: Time,
    /// How the turn runs.
    pub mode: Mode,
    /// 1 for a turn's first run; more when it runs again.
    pub attempt: u32,
    /// What was produced so far.
    pub out: &'a mut Outputs,
    /// Names the running call to the watchdog.
    pub probe: &'a Probe,
    /// Calls that must not be executed: they never returned, or took the node down.
    pub suspects: &'a [u64],
    /// See [`Catch`].
    pub catch: Catch,
}

/// What a unit is, in case it has to be set aside.
#[derive(Clone, Debug, Default)]
pub struct Unit<'a> {
    /// What is being done.
    pub trigger: Trigger,
    /// The key's bytes; empty if there is none.
    pub key: &'a [u8],
    /// The source row that caused it.
    pub origin: Origin,
}

/// How a unit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its effects stand.
    Done,
    /// It has failed and its outputs are rolled back; the caller takes back its state.
    Failed(Failure),
}

impl Scope<'_> {
    /// The watermark at a row: its stamp, held back by the other producers, never behind the
    /// task's. It depends on the order of the rows alone, not on how they fall into turns.
    #[inline]
    pub fn watermark_at(&self, stamp: Time) -> Time {
        stamp.min(self.others).max(self.watermark)
    }

    /// Notes that a handler is about to be called. `Err` if this call must not be executed.
    #[inline]
    pub fn enter(&mut self) -> Result<(), Failure> {
        let call = self.probe.call.load(Ordering::Relaxed) + 1;
        self.probe.call.store(call, Ordering::Relaxed);
        self.probe.outside.store(false, Ordering::Relaxed);
        match self.suspects.contains(&call) {
            true => Err(Failure {
                unexecuted: true,
                ..Failure::new(
                    "set aside unexecuted: the call did not return, or ended the process, before",
                )
            }),
            false => Ok(()),
        }
    }

    /// Runs one unit: in optimistic mode as it is (its failure fails the turn), in careful mode
    /// caught, with its outputs rolled back if it fails.
    pub fn unit(
        &mut self,
        mut run: impl FnMut(&mut Scope<'_>) -> Result<(), Failure>,
    ) -> Result<Outcome, Failure> {
        if self.mode == Mode::Optimistic {
            self.enter()?;
            return run(self).map(|()| Outcome::Done);
        }
        let mark = self.out.mark();
        let catch = self.catch;
        let entered = self.enter();
        let result = entered.and_then(|()| catch(&mut || run(&mut self.reborrow())));
        Ok(match result {
            Ok(()) => Outcome::Done,
            Err(failure) => {
                self.out.rollback(mark);
                Outcome::Failed(failure)
            }
        })
    }

    fn reborrow(&mut self) -> Scope<'_> {
        Scope {
            clock: self.clock,
            watermark: self.watermark,
            others: self.others,
            mode: self.mode,
            attempt: self.attempt,
            out: self.out,
            probe: self.probe,
            suspects: self.suspects,
            catch: self.catch,
        }
    }

    /// Sets a unit aside. Flow, stage, operator, source and time are filled in by the task.
    pub fn dead(&mut self, unit: &Unit<'_>, failure: Failure, payload: Vec<u8>) {
        let trigger = match unit.trigger {
            Trigger::Record | Trigger::Message if failure.unexecuted => Trigger::Suspect,
            other => other,
        };
        self.out.letters.push(Letter {
            time: self.clock,
            trigger,
            key: unit.key.to_vec(),
            place: unit.origin.0, // the task resolves it to source and place
            column: failure.column,
            error: failure.message,
            backtrace: failure.backtrace,
            payload,
            ..Letter::default()
        });
    }
}

/// Whether an operator has more to fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// All that was due has fired.
    Done,
    /// The budget is used up; go on in the next turn.
    More,
}

/// A vectorised step inside a task.
pub trait Operator: Send {
    /// Its explicit name, unique in the stage.
    fn name(&self) -> &str;

    /// Its tables, for undo, seal and restore.
    fn tables(&mut self) -> Vec<&mut dyn StateTable>;

    /// Handles rows. May fail at any row; never has to undo itself.
    ///
    /// # Errors
    /// In optimistic mode the first failure; the task then undoes the turn and runs it carefully.
    /// In careful mode only what no unit can be blamed for: the task is restarted.
    fn process(&mut self, rows: &Batch, scope: &mut Scope<'_>) -> Result<(), Failure>;

    /// Handles messages; as [`Operator::process`].
    fn mail(&mut self, mail: &[Mail], scope: &mut Scope<'_>) -> Result<(), Failure> {
        scope.out.counters.read += mail.len() as u64;
        match mail.first() {
            None => Ok(()),
            Some(_) => Err(Failure::new(format!("operator {} takes no messages", self.name()))),
        }
    }

    /// Fires at most `budget` timers or windows that are due at the scope's watermark and clock.
    fn advance(&mut self, _budget: usize, _scope: &mut Scope<'_>) -> Result<Advance, Failure> {
        Ok(Advance::Done)
    }

    /// Whether [`Operator::advance`] has something to fire.
    fn is_due(&self, _watermark: Time, _clock: Time) -> bool {
        false
    }

    /// The next processing time at which [`Operator::advance`] has something to do; asked between
    /// turns. A task whose input has ended waits for it, so it must not name what was taken back.
    fn wake_at(&mut self) -> Option<Time> {
        None
    }

    /// Takes back what [`Operator::tables`] cannot: called after an undo.
    fn undone(&mut self) {}

    /// Called after a seal.
    fn sealed(&mut self) {}

    /// Called once when the whole state was restored.
    ///
    /// # Errors
    /// [`crate::Code::StateVersion`] if the state cannot be used by this operator.
    fn restored(&mut self) -> Result<()> {
        Ok(())
    }
}
