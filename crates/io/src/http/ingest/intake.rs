//! Where requests wait for their source's task.
//!
//! *Invariants*
//! - A request's [`Wait`] becomes true only when the turn that holds its rows is durable. It ends
//!   without becoming true if that can no longer be known: the request is to be sent again.
//! - Requests of one producer enter in the order of their numbers, each once.
//!
//! *Failure:* when the source is opened again, whatever was taken in and not yet durable is
//! forgotten here; the position says what has become of it.
//! *Limits:* [`ROWS_MAX`] rows and [`BYTES_MAX`] bytes wait; one request may go beyond.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arrow_schema::SchemaRef;
use millstream_core::Result;
use tokio::sync::watch;

use super::{
    body::Parsed,
    producers::{Known, Producers, Sequence},
};
use crate::{json::JsonDecoder, pool::Pool};

/// Rows that may wait: about a turn's worth.
const ROWS_MAX: usize = 65_536;
/// Bytes of requests that may wait.
const BYTES_MAX: usize = 32 << 20;

/// Becomes true when the rows are durable; ends if nobody can say any more.
pub type Wait = watch::Receiver<bool>;

/// A request that is to be taken in.
pub struct Offer {
    pub parsed: Parsed,
    pub sequence: Option<Sequence>,
    pub done: watch::Sender<bool>,
}

impl Offer {
    pub fn new(parsed: Parsed, sequence: Option<Sequence>) -> (Offer, Wait) {
        let (done, wait) = watch::channel(false);
        (Offer { parsed, sequence, done }, wait)
    }
}

/// What has become of an offer.
pub enum Offered {
    /// Its rows will be in the next turn.
    Taken,
    /// They were taken before.
    Duplicate(Wait),
    /// Its number leaves a gap.
    Gap { expected: u64 },
    /// Too much waits.
    Full,
    /// The source is not open.
    NotOpen,
}

/// What a reader takes out.
pub struct Batch {
    pub offers: Vec<Offer>,
    /// The position behind them.
    pub producers: Vec<u8>,
}

/// The requests of one source.
#[derive(Default)]
pub struct Intake {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    /// Raised by every open: an older reader gets nothing any more.
    generation: u64,
    open: Option<Open>,
    waiting: VecDeque<Offer>,
    rows: usize,
    bytes: usize,
    producers: Producers,
}

#[derive(Clone)]
struct Open {
    schema: SchemaRef,
    decoders: Pool<JsonDecoder>,
}

impl Intake {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew: with what a committed position remembers. Requests that wait are given up.
    pub fn open(&self, schema: SchemaRef, producers: Producers) -> Result<u64> {
        let decoders = Pool::new();
        decoders.give(JsonDecoder::new(schema.clone())?);
        let mut state = self.state();
        let generation = state.generation + 1;
        let open = Some(Open { schema, decoders });
        *state = State { generation, open, producers, ..State::default() };
        drop(state);
        self.arrived.notify_all();
        Ok(generation)
    }

    /// A decoder for the source's rows; `None` if it is not open.
    pub fn decoder(&self) -> Option<JsonDecoder> {
        let Open { schema, decoders } = self.state().open.clone()?;
        decoders.take().or_else(|| JsonDecoder::new(schema).ok())
    }

    /// Keeps a decoder for the next request.
    pub fn give_back(&self, decoder: JsonDecoder) {
        if let Some(open) = self.state().open.as_ref().filter(|o| o.schema == *decoder.schema()) {
            open.decoders.give(decoder);
        }
    }

    /// Lets a request wait for the task, and wakes it.
    pub fn offer(&self, offer: Offer) -> Offered {
        let mut state = self.state();
        if state.open.as_ref().is_none_or(|open| open.schema != offer.parsed.rows.schema()) {
            return Offered::NotOpen;
        }
        if let Some(sequence) = &offer.sequence {
            match state.producers.look(sequence) {
                Known::New => {}
                Known::Taken(Some(wait)) => return Offered::Duplicate(wait),
                Known::Taken(None) => {
                    // It was in the position that the source was opened with.
                    return Offered::Duplicate(watch::channel(true).1);
                }
                Known::Gap { expected } => return Offered::Gap { expected },
            }
        }
        if state.rows >= ROWS_MAX || state.bytes >= BYTES_MAX {
            return Offered::Full;
        }
        if let Some(sequence) = &offer.sequence {
            state.producers.take(sequence, Some(offer.done.subscribe()));
        }
        state.rows += offer.parsed.units as usize;
        state.bytes += offer.parsed.bytes;
        state.waiting.push_back(offer);
        drop(state);
        self.arrived.notify_all();
        Offered::Taken
    }

    /// Takes out all that waits; waits for it, at most about `wait`. `None` if there is nothing,
    /// or a newer reader has it.
    pub fn take(&self, generation: u64, wait: Duration) -> Option<Batch> {
        let nothing = |s: &mut State| s.waiting.is_empty() && s.generation == generation;
        let (mut state, _) = self
            .arrived
            .wait_timeout_while(self.state(), wait, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        if state.generation != generation || state.waiting.is_empty() {
            return None;
        }
        (state.rows, state.bytes) = (0, 0);
        let offers = std::mem::take(&mut state.waiting).into();
        // Nothing waits any more: what is known of producers is what these requests leave.
        let mut producers = Vec::new();
        state.producers.encode(&mut producers);
        Some(Batch { offers, producers })
    }
}
