//! The bounded queues between connectors, which do I/O and may block, and tasks, which do not.
//!
//! *Invariant:* chunks leave an inlet in the order in which they were reserved, however many
//! threads decode them.
//! *Limits:* [`INLET_CHUNKS_MAX`] chunks wait in an inlet; the connector blocks behind that.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arrow_schema::SchemaRef;
use millstream_core::{
    Error, Result,
    connector::{Chunk, Prepared, Pull, SinkWriter, Source, SourceReader},
    engine::Waker,
};

use crate::catch::guard;

/// Chunks that may wait for their task.
pub const INLET_CHUNKS_MAX: usize = 8;

/// What a source's task finds in its inlet.
pub enum Arrival {
    /// The next chunk.
    Chunk(Chunk),
    /// Nothing now; the waker will be called.
    Nothing,
    /// The input has ended.
    End,
    /// The connector has failed; open it again.
    Failed(Error),
}

/// The queue from a source's connector to its task.
pub struct Inlet {
    state: Mutex<InletState>,
    space: Condvar,
    waker: Waker,
}

#[derive(Default)]
struct InletState {
    first: u64,
    slots: VecDeque<Option<Chunk>>,
    ended: bool,
    failed: Option<Error>,
    closed: bool,
}

impl Inlet {
    /// An empty inlet; `waker` wakes the task.
    pub fn new(waker: Waker) -> Arc<Inlet> {
        Arc::new(Inlet { state: Mutex::default(), space: Condvar::new(), waker })
    }

    fn state(&self) -> MutexGuard<'_, InletState> {
        // Nothing in here panics while the lock is held; a poisoned lock is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a place for the next chunk; `None` if there is no room, or nobody listens any more.
    pub fn reserve(&self) -> Option<u64> {
        let mut state = self.state();
        if state.closed || state.slots.len() >= INLET_CHUNKS_MAX {
            return None;
        }
        state.slots.push_back(None);
        Some(state.first + state.slots.len() as u64 - 1)
    }

    /// Waits until [`Inlet::reserve`] can succeed, the inlet is closed, or `wait` has passed.
    pub fn wait_for_space(&self, wait: Duration) {
        let state = self.state();
        if !state.closed && state.slots.len() >= INLET_CHUNKS_MAX {
            drop(self.space.wait_timeout(state, wait));
        }
    }

    /// Fills a reserved place.
    pub fn fill(&self, place: u64, chunk: Chunk) {
        let mut state = self.state();
        let at = place.checked_sub(state.first).map(|at| at as usize);
        if let Some(slot) = at.and_then(|at| state.slots.get_mut(at)) {
            *slot = Some(chunk);
            // The first is news; and a full inlet is not left to gather more.
            let news = at == Some(0) || state.slots.len() == INLET_CHUNKS_MAX;
            drop(state);
            if news {
                (self.waker)();
            }
        }
    }

    /// Decodes what belongs into a reserved place. If that panics the source has failed, after what
    /// lies before the place.
    pub fn decode(&self, place: u64, decode: impl FnOnce() -> Chunk) {
        match guard("the source's decoder", || Ok(decode())) {
            Ok(chunk) => self.fill(place, chunk),
            Err(error) => {
                let mut state = self.state();
                let before = place.saturating_sub(state.first) as usize;
                state.slots.truncate(before);
                state.closed = true;
                state.failed.get_or_insert(error);
                drop(state);
                self.space.notify_all();
                (self.waker)();
            }
        }
    }

    /// Gives up a reserved place, which must be the last.
    pub fn release(&self, place: u64) {
        let mut state = self.state();
        if state.first + state.slots.len() as u64 == place + 1 {
            state.slots.pop_back();
        }
        drop(state);
        (self.waker)();
    }

    /// Says that nothing follows what was reserved.
    pub fn end(&self) {
        self.state().ended = true;
        (self.waker)();
    }

    /// Says that the connector has failed, after what was reserved.
    pub fn fail(&self, error: Error) {
        self.state().failed = Some(error);
        (self.waker)();
    }

    /// Whether more may come in before anything is taken.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        !state.ended && state.failed.is_none() && state.slots.len() < INLET_CHUNKS_MAX
    }

    /// Takes what comes next.
    pub fn take(&self) -> Arrival {
        let mut state = self.state();
        match state.slots.front() {
            Some(Some(_)) => {}
            Some(None) => return Arrival::Nothing,
            None => {
                return match state.failed.take() {
                    Some(error) => Arrival::Failed(error),
                    None if state.ended => Arrival::End,
                    None => Arrival::Nothing,
                };
            }
        }
        state.first += 1;
        let chunk = state.slots.pop_front().flatten();
        drop(state);
        self.space.notify_all();
        chunk.map_or(Arrival::Nothing, Arrival::Chunk)
    }

    /// Nobody will take anything any more; the connector stops.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.slots.clear();
        drop(state);
        self.space.notify_all();
    }

    /// Whether the task has gone.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }
}

/// A source that is to be read into an inlet.
pub struct SourceJob {
    /// What to open.
    pub source: Arc<dyn Source>,
    /// Which partition of it.
    pub partition: u32,
    /// What to decode into.
    pub schema: SchemaRef,
    /// Where to start.
    pub position: Vec<u8>,
    /// Where chunks go.
    pub inlet: Arc<Inlet>,
    reader: Option<Box<dyn SourceReader>>,
}

impl SourceJob {
    /// A job that opens the source when it is first pulled.
    pub fn new(
        source: Arc<dyn Source>,
        partition: u32,
        schema: SchemaRef,
        position: Vec<u8>,
        inlet: Arc<Inlet>,
    ) -> SourceJob {
        SourceJob { source, partition, schema, position, inlet, reader: None }
    }

    /// Pulls once; waits at most about `wait`. `None` when the job is over.
    pub fn pull(&mut self, wait: Duration) -> Option<Pull> {
        if self.inlet.is_closed() {
            return None;
        }
        match self.try_pull(wait) {
            Ok(Pull::End) => {
                self.inlet.end();
                None
            }
            Ok(pull) => Some(pull),
            Err(error) => {
                self.inlet.fail(error);
                None
            }
        }
    }

    fn try_pull(&mut self, wait: Duration) -> Result<Pull> {
        guard("the source", || {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                none => none.insert(self.source.open(
                    self.partition,
                    self.schema.clone(),
                    &self.position,
                )?),
            };
            reader.pull(wait)
        })
    }
}

/// A prepared turn of a sink that is to be written.
pub struct WriteJob {
    /// Who writes; given back when done.
    pub writer: Box<dyn SinkWriter>,
    /// What to write.
    pub prepared: Prepared,
    /// Where the result goes.
    pub outlet: Arc<Outlet>,
}

impl WriteJob {
    /// Writes; what comes of it goes to the outlet.
    pub fn write(mut self) -> Written {
        let result = guard("the sink", || self.writer.write(&self.prepared));
        Written { writer: self.writer, prepared: self.prepared, result }
    }
}

/// What became of a [`WriteJob`].
pub struct Written {
    /// Who wrote.
    pub writer: Box<dyn SinkWriter>,
    /// What it was to write.
    pub prepared: Prepared,
    /// How it went.
    pub result: Result<()>,
}

/// The way back from a sink's connector to its task. At most one write is under way.
pub struct Outlet {
    done: Mutex<Option<Written>>,
    waker: Waker,
}

impl Outlet {
    /// An empty outlet; `waker` wakes the task.
    pub fn new(waker: Waker) -> Arc<Outlet> {
        Arc::new(Outlet { done: Mutex::default(), waker })
    }

    /// Reports what became of the write, and wakes the task.
    pub fn finish(&self, written: Written) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
        (self.waker)();
    }

    /// The finished write, once.
    pub fn take(&self) -> Option<Written> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs connectors: on threads in production, step by step in the simulator.
pub trait Connectors: Send + Sync {
    /// Reads a source into its inlet until the inlet is closed or the source ends.
    fn read(&self, job: SourceJob);

    /// Writes a sink's turn.
    fn write(&self, job: WriteJob);
}
