//! An engine whose answers get lost: fenced leases, unknown commits, retries, late visibility.
//!
//! It wraps any engine and tells the truth about what happened below: an unknown commit has
//! happened or not, and only opening the task again says which.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_core::{
    Frame, Result, Turn,
    engine::{
        Backlog, Engine, EngineStats, Health, Lease, Recovered, Settlement, StreamInfo, StreamSpec,
        TaskSpec, Ticket,
    },
    ledger::Ledger,
    rng::Rng,
    turn::{Change, Position, Progress, StreamId, TaskId},
};

/// How often each fault occurs, in commits out of 1,000; and how often each has occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The lease is taken away before the commit.
    pub fence: u64,
    /// The commit happens (or not) and nobody answers.
    pub unknown: u64,
    /// The engine asks for the same turn again.
    pub retry: u64,
    /// The answer, and what is committed, comes late.
    pub delay: u64,
}

struct State {
    rng: Rng,
    rates: Faults,
    seen: Faults,
    /// Leases that were taken over while they were about to commit; they try once there is a new
    /// one.
    zombies: Vec<(Box<dyn Lease>, Turn)>,
    /// The commits, counted; the answer of this one gets lost.
    commits: u64,
    lose: Option<u64>,
    /// Tickets for turns that had none below when they were handed in, and what they got later.
    own: u64,
    below: BTreeMap<u64, Ticket>,
}

/// Such tickets are at least this; no engine gets so far by itself.
const OWN: u64 = 1 << 63;

/// An engine with faults.
pub struct FaultyEngine {
    inner: Arc<dyn Engine>,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyEngine {
    /// Wraps an engine; the same seed makes the same faults.
    pub fn new(inner: Arc<dyn Engine>, seed: u64, rates: Faults) -> FaultyEngine {
        let state = State {
            rng: Rng::new(seed),
            rates,
            seen: Faults::default(),
            zombies: Vec::new(),
            commits: 0,
            lose: None,
            own: OWN,
            below: BTreeMap::new(),
        };
        FaultyEngine { inner, state: Arc::new(Mutex::new(state)) }
    }

    /// Loses the answer of the `n`-th commit from now.
    pub fn lose_answer(&self, n: u64) {
        let mut state = lock(&self.state);
        state.lose = Some(state.commits + n);
    }

    /// How often each fault has occurred.
    pub fn seen(&self) -> Faults {
        lock(&self.state).seen
    }
}

impl Engine for FaultyEngine {
    fn create_stream(&self, spec: &StreamSpec) -> Result<StreamId> {
        self.inner.create_stream(spec)
    }

    fn streams(&self) -> Vec<StreamInfo> {
        self.inner.streams()
    }

    fn open(&self, spec: &TaskSpec) -> Result<Option<Box<dyn Lease>>> {
        let opened = self.inner.open(spec)?;
        if let Some(lease) = &opened {
            let mut state = lock(&self.state);
            let (own, others) =
                state.zombies.drain(..).partition(|(zombie, _)| zombie.task() == lease.task());
            state.zombies = others;
            drop(state);
            let own: Vec<(Box<dyn Lease>, Turn)> = own;
            for (mut zombie, turn) in own {
                zombie.commit(turn);
            }
        }
        Ok(opened.map(|inner| -> Box<dyn Lease> {
            Box::new(FaultyLease {
                inner: Some(inner),
                last_turn: None,
                state: self.state.clone(),
                waker: spec.waker.clone(),
                tickets: VecDeque::new(),
                gone: false,
            })
        }))
    }

    fn read(
        &self,
        stream: StreamId,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Frame)>> {
        self.inner.read(stream, partition, from, bytes_max)
    }

    fn backlog(&self, stream: StreamId) -> Backlog {
        self.inner.backlog(stream)
    }

    fn append(&self, stream: StreamId, partition: u32, frame: Frame) -> Result<Ticket> {
        self.inner.append(stream, partition, frame)
    }

    fn durable(&self, ticket: Ticket) -> bool {
        let below = lock(&self.state).below.get(&ticket.0).copied();
        below.is_some_and(|below| self.inner.durable(below))
            || ticket.0 < OWN && self.inner.durable(ticket)
    }

    fn committed(&self) -> Ticket {
        self.inner.committed()
    }

    fn visit_state(
        &self,
        task: TaskId,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<()> {
        self.inner.visit_state(task, take)
    }

    fn ledger(&self) -> Ledger {
        self.inner.ledger()
    }

    fn tasks(&self) -> Vec<(String, TaskId, Progress)> {
        self.inner.tasks()
    }

    fn task_name(&self, id: TaskId) -> Option<String> {
        self.inner.task_name(id)
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

/// Where a turn is that was handed in here.
enum Fate {
    /// Below, under its ticket there.
    Below(Ticket),
    /// Held back for so many more looks.
    Held(u32, Box<Turn>),
    /// To be handed in again.
    Again(Box<Turn>),
    Fenced,
    Unknown,
}

struct FaultyLease {
    /// There until the lease is dropped.
    inner: Option<Box<dyn Lease>>,
    /// What it was about to commit when it was taken over.
    last_turn: Option<Turn>,
    state: Arc<Mutex<State>>,
    waker: millstream_core::engine::Waker,
    /// Those with tickets of our own.
    tickets: VecDeque<(u64, Fate)>,
    gone: bool,
}

impl Drop for FaultyLease {
    fn drop(&mut self) {
        if let (Some(inner), Some(turn)) = (self.inner.take(), self.last_turn.take()) {
            lock(&self.state).zombies.push((inner, turn));
        }
    }
}

impl FaultyLease {
    fn below(&self) -> &dyn Lease {
        self.inner.as_deref().expect("there until the lease is dropped")
    }

    fn below_mut(&mut self) -> &mut dyn Lease {
        self.inner.as_deref_mut().expect("there until the lease is dropped")
    }

    fn fate(&mut self, turn: Turn) -> Fate {
        let shared = self.state.clone();
        let mut state = lock(&shared);
        state.commits += 1;
        if self.gone {
            return Fate::Fenced;
        }
        let lost = state.lose == Some(state.commits);
        let roll = state.rng.below(1000);
        let Faults { fence, unknown, retry, delay } = state.rates;
        let busy = self.tickets.iter().any(|(_, f)| matches!(f, Fate::Held(..) | Fate::Again(_)));
        if lost || (fence..fence + unknown).contains(&roll) {
            state.seen.unknown += 1;
            self.gone = true;
            // A turn behind one that is held back cannot have been committed.
            if !busy && (lost || state.rng.below(2) == 0) {
                drop(state);
                self.below_mut().commit(turn);
            }
            return Fate::Unknown;
        }
        if roll < fence {
            state.seen.fence += 1;
            self.gone = true;
            drop(state);
            self.last_turn = Some(turn);
            return Fate::Fenced;
        }
        let roll = roll - fence.min(roll);
        if roll < unknown + retry {
            state.seen.retry += 1;
            return Fate::Again(Box::new(turn));
        }
        if busy || roll < unknown + retry + delay {
            state.seen.delay += u64::from(!busy);
            return Fate::Held(state.rng.below(4) as u32 + 1, Box::new(turn));
        }
        drop(state);
        Fate::Below(self.below_mut().commit(turn))
    }

    /// Hands in what was held back, in order.
    fn advance(&mut self) {
        for at in 0..self.tickets.len() {
            let turn = match &mut self.tickets[at].1 {
                Fate::Held(0, turn) => std::mem::take(turn),
                Fate::Held(n, _) => {
                    *n -= 1;
                    return;
                }
                Fate::Again(_) => return,
                _ => continue,
            };
            self.hand_in(at, *turn);
        }
    }

    fn hand_in(&mut self, at: usize, turn: Turn) {
        let below = self.below_mut().commit(turn);
        lock(&self.state).below.insert(self.tickets[at].0, below);
        self.tickets[at].1 = Fate::Below(below);
    }
}

impl Lease for FaultyLease {
    fn task(&self) -> TaskId {
        self.below().task()
    }

    fn recovered(&self) -> &Recovered {
        self.below().recovered()
    }

    fn restore(
        &mut self,
        bytes_max: usize,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<bool> {
        self.below_mut().restore(bytes_max, take)
    }

    fn poll(
        &mut self,
        input: usize,
        from: Position,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Frame)>> {
        self.below_mut().poll(input, from, bytes_max)
    }

    fn commit(&mut self, turn: Turn) -> Ticket {
        let fate = self.fate(turn);
        (self.waker)();
        if let Fate::Below(ticket) = fate {
            return ticket;
        }
        let mut state = lock(&self.state);
        let ticket = state.own;
        state.own += 1;
        drop(state);
        self.tickets.push_back((ticket, fate));
        Ticket(ticket)
    }

    fn retry(&mut self, ticket: Ticket) {
        let busy = self
            .tickets
            .iter()
            .take_while(|(t, _)| *t != ticket.0)
            .any(|(_, f)| matches!(f, Fate::Held(..)));
        let at = self.tickets.iter().position(|(t, _)| *t == ticket.0);
        if let Some(at) = at
            && let Fate::Again(turn) = &mut self.tickets[at].1
        {
            let turn = std::mem::take(turn);
            match busy {
                true => self.tickets[at].1 = Fate::Held(1, turn),
                false => self.hand_in(at, *turn),
            }
        }
        (self.waker)();
    }

    fn settled(&mut self, ticket: Ticket) -> Settlement {
        self.advance();
        let Some((_, fate)) = self.tickets.iter().find(|(t, _)| *t == ticket.0) else {
            return self.below_mut().settled(ticket);
        };
        let settlement = match fate {
            Fate::Below(below) => {
                let below = *below;
                self.below_mut().settled(below)
            }
            Fate::Held(..) => Settlement::Pending,
            Fate::Again(_) => Settlement::Retry,
            Fate::Fenced => Settlement::Fenced,
            Fate::Unknown => Settlement::Unknown,
        };
        if settlement == Settlement::Pending {
            (self.waker)(); // virtual time: looking again is what makes it go on
        }
        settlement
    }

    fn durable(&self, ticket: Ticket) -> bool {
        match self.tickets.iter().find(|(t, _)| *t == ticket.0) {
            Some((_, Fate::Below(below))) => self.below().durable(*below),
            Some(_) => false,
            None => self.below().durable(ticket),
        }
    }
}

#[cfg(test)]
mod tests;
