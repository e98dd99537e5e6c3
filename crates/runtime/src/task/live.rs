//! What a running attempt of a task holds: its lease, its operators and what is open between them.
//!
//! *Why apart:* a task outlives its attempts. When one fails, all of this is dropped, and the next
//! one begins with what was committed.
//!
//! *Invariant:* nothing in here is needed to go on after a crash.

use std::{collections::VecDeque, time::Duration};

use millstream_core::{
    Code, Error, Result, Status, Time, Turn,
    engine::{Lease, Settlement, Ticket},
    key::display,
    letter::Letter,
    table::StateTable,
    turn::Progress,
};

use super::{
    Did,
    caution::{Caution, Hold},
    chain::{Chain, Step},
    exchange::Exchange,
    input::StreamInputs,
    sink::SinkOutput,
    source::SourceInput,
};

/// How often a paused source, or a task that waits for the floor, looks whether it may go on.
pub const GATE_EVERY: Duration = Duration::from_millis(5);
/// State restored in one step, in bytes.
const RESTORE_BYTES: usize = 4 << 20;

/// A running attempt.
pub struct Live {
    pub lease: Box<dyn Lease>,
    pub chain: Chain,
    pub exchange: Exchange,
    pub input: Input,
    pub sink: Option<SinkOutput>,
    pub progress: Progress,
    pub status: Status,
    /// Whether all state has been read.
    pub restored: bool,
    /// Whether something that was due is still to fire.
    pub more: bool,
    /// Turns for which it stays careful.
    pub careful: u32,
    pub cautious: Option<Caution>,
    /// Turns that stay small and wait for one another, so that it is known where the process ended.
    pub small: u32,
    /// What was taken in before the floor was taken, or before the announcement.
    pub held: Option<Intake>,
    /// The floor, for the next turn.
    pub floor: Option<Hold>,
    /// The announcement of the next events, while the task is cautious.
    pub announced: Option<Ticket>,
    /// Whether one event was announced alone, and its turn is not durable.
    pub alone: bool,
    /// The last turn, until it is durable, if what comes next must not take it along when it ends
    /// the process; and the floor, if the turn had it.
    pub tried: Option<(Ticket, Option<Hold>)>,
    /// The watermark up to which everything has fired.
    pub fired: Time,
    /// When to look at the source again, if it is held back: by back-pressure, or to let what
    /// arrives gather.
    pub held_back: Option<Time>,
    /// Which input is read first.
    pub rotation: usize,
    pub unsettled: VecDeque<Ticket>,
    /// Whether the last turn took in as much as it may: there is probably more.
    pub full: bool,
    pub awaiting: VecDeque<(Ticket, Durable)>,
}

/// What it reads.
pub struct Input {
    pub streams: StreamInputs,
    pub source: Option<SourceInput>,
}

/// What a source wants to be called when its turn is durable.
pub type Durable = Vec<Box<dyn FnOnce() + Send>>;

/// What a turn takes in, whatever it comes from.
pub struct Intake {
    pub steps: Vec<Step>,
    pub letters: Vec<Letter>,
    pub next: Progress,
    pub status: Status,
    pub rows: usize,
    /// Whether it is as much as a turn may take in.
    pub full: bool,
    pub durable: Durable,
}

impl Live {
    /// Restores a part of the state.
    pub fn restore(&mut self) -> Result<()> {
        let mut tables: Vec<&mut dyn StateTable> =
            self.chain.operators().iter_mut().flat_map(|o| o.tables()).collect();
        let done = self.lease.restore(RESTORE_BYTES, &mut |change| match tables
            .iter_mut()
            .find(|t| t.id() == change.table)
        {
            Some(table) => table.restore(change),
            None => Err(Error::new(
                Code::Conflict,
                format!(
                    "state of a table that this flow does not have (key {})",
                    display(change.key)
                ),
            )
            .help("an operator was renamed or removed; give it back its name, or start anew")),
        })?;
        if done {
            self.chain.operators().iter_mut().try_for_each(|o| o.restored())?;
            self.restored = true;
        }
        Ok(())
    }

    /// Hears what became of the turns handed in, and tells whoever waited for them to be durable.
    pub fn settle(&mut self) -> Result<()> {
        self.lease.keep()?;
        while let Some(ticket) = self.unsettled.front().copied() {
            match self.lease.settled(ticket) {
                Settlement::Ok => {
                    self.unsettled.pop_front();
                }
                Settlement::Pending => break,
                Settlement::Retry => {
                    self.lease.retry(ticket);
                    break;
                }
                Settlement::Fenced => {
                    return Err(Error::new(Code::Fenced, "a newer owner has the task"));
                }
                Settlement::Unknown => {
                    return Err(Error::new(Code::Fenced, "the outcome of a commit is unknown"));
                }
                Settlement::Fatal(error) => return Err(error),
            }
        }
        while self.awaiting.front().is_some_and(|(ticket, _)| self.lease.durable(*ticket)) {
            let (_, callbacks) = self.awaiting.pop_front().unwrap_or((Ticket(0), Vec::new()));
            callbacks.into_iter().for_each(|durable| durable());
        }
        Ok(())
    }

    /// Whether nothing it has begun is open.
    pub fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
            && self.awaiting.is_empty()
            && self.sink.as_ref().is_none_or(SinkOutput::is_written)
    }

    /// Announces the next events durably before they are tried, so that one that ends the process
    /// is recognised after a few times; `again` does not count as another attempt at one alone.
    pub fn announce(&mut self, events: usize, again: bool, now: Time) {
        self.progress.quiet = false;
        self.progress.turn += 1;
        self.progress.clock = now.max(self.progress.clock);
        self.alone = events == 1;
        let counted = again && self.progress.attempts > 0;
        self.progress.attempts += u32::from(self.alone && !counted);
        let left = self.cautious.map_or(0, |caution| caution.left);
        self.progress.suspected = left as u32;
        self.progress.announced = u32::try_from(events).unwrap_or(u32::MAX);
        let turn = Turn { progress: self.progress.clone(), ..Turn::default() };
        let ticket = self.lease.commit(turn);
        self.announced = Some(ticket);
        self.unsettled.push_back(ticket);
    }

    /// Nothing is to be done: until when, or for good.
    pub fn idle(&mut self, owed: Option<Time>) -> Did {
        let settled = self.unsettled.is_empty() && self.awaiting.is_empty();
        let wake_at = self.chain.wake_at();
        if self.status == Status::Ended && settled && owed.is_none() && wake_at.is_none() {
            return Did::Ended;
        }
        let idle_at = self.input.source.as_ref().and_then(SourceInput::idle_at);
        let all = [owed, wake_at, idle_at, self.held_back];
        let until = all.into_iter().flatten().min();
        Did::Idle { until }
    }
}
