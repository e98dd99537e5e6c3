//! The back of a sink task: each turn's rows are encoded, committed as a range, written when the
//! turn is durable, and confirmed by the next turn.
//!
//! *Invariant:* at most the last committed turn is unwritten; after a restart its rows are read and
//! encoded again and the same bytes go to the same place.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use millstream_core::{
    Batch, Error, Result,
    connector::{Prepared, Sink, SinkWriter},
    engine::{Lease, Ticket, Waker},
    turn::{Position, Progress},
};
use serde::{Deserialize, Serialize};

use super::input::StreamInputs;
use crate::{
    catch::guard,
    connect::{Connectors, Outlet, WriteJob},
};

/// Who is to blame for a panic in a sink.
pub const SINK: &str = "the sink";

/// What a sink task commits as its note.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note {
    /// Where the rows of the unconfirmed range begin, per input.
    from: Vec<Position>,
    /// The sink's own note on the range.
    sink: Vec<u8>,
}

/// A sink task's note with other positions.
///
/// # Errors
/// If it is none.
pub fn moved(note: &[u8], to: &dyn Fn(usize, Position) -> Position) -> Result<Vec<u8>> {
    let mut note: Note =
        rmp_serde::from_slice(note).map_err(|e| Error::corrupt(format!("sink note: {e}")))?;
    note.from.iter_mut().enumerate().for_each(|(n, at)| *at = to(n, *at));
    rmp_serde::to_vec_named(&note).map_err(|e| Error::corrupt(e.to_string()))
}

enum State {
    Ready(Box<dyn SinkWriter>),
    Committed(Ticket, Box<dyn SinkWriter>, Prepared),
    Writing,
}

/// A connector's end behind its task.
pub struct SinkOutput {
    state: State,
    outlet: Arc<Outlet>,
}

impl SinkOutput {
    /// Opens the sink and writes the last committed turn once more, since nobody knows whether it
    /// was written.
    ///
    /// # Errors
    /// If the sink cannot be opened, or encodes the same rows differently.
    pub fn open(
        sink: &Arc<dyn Sink>,
        partition: u32,
        schema: SchemaRef,
        progress: &Progress,
        inputs: &StreamInputs,
        lease: &mut dyn Lease,
        waker: Waker,
    ) -> Result<SinkOutput> {
        let outlet = Outlet::new(waker);
        if progress.note.is_empty() {
            let state = State::Ready(guard(SINK, || sink.open(partition, schema, &[]))?);
            return Ok(SinkOutput { state, outlet });
        }
        let note: Note = rmp_serde::from_slice(&progress.note)
            .map_err(|e| Error::corrupt(format!("sink note: {e}")))?;
        let mut writer = guard(SINK, || sink.open(partition, schema, &note.sink))?;
        let rows = inputs.reread(lease, &note.from, &progress.inputs)?;
        let prepared = guard(SINK, || writer.prepare(&rows))?;
        if prepared.note != note.sink {
            return Err(Error::corrupt("a sink encoded the same rows differently after a restart"));
        }
        let ticket = Ticket(0); // committed before this lease, hence durable
        Ok(SinkOutput { state: State::Committed(ticket, writer, prepared), outlet })
    }

    /// Whether a turn can be prepared now; moves a pending write on otherwise.
    ///
    /// # Errors
    /// A failed write; the task is opened again and writes once more.
    pub fn ready(&mut self, lease: &dyn Lease, connectors: &dyn Connectors) -> Result<bool> {
        if let Some(done) = self.outlet.take() {
            done.result?;
            self.state = State::Ready(done.writer);
        }
        self.state = match std::mem::replace(&mut self.state, State::Writing) {
            State::Committed(ticket, writer, prepared) if lease.durable(ticket) => {
                connectors.write(WriteJob { writer, prepared, outlet: self.outlet.clone() });
                State::Writing
            }
            other => other,
        };
        Ok(self.is_written())
    }

    /// Whether everything that was committed is written.
    pub fn is_written(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// Encodes a turn's rows; the note is to be committed with the turn.
    ///
    /// # Errors
    /// If a row cannot be encoded.
    pub fn prepare(&mut self, rows: &[Batch], before: &Progress) -> Result<(Prepared, Vec<u8>)> {
        let State::Ready(writer) = &mut self.state else {
            return Err(Error::new(
                millstream_core::Code::Bug,
                "a sink was asked to prepare while it writes",
            ));
        };
        let prepared = guard(SINK, || writer.prepare(rows))?;
        let note = Note {
            from: before.inputs.iter().map(|i| i.position).collect(),
            sink: prepared.note.clone(),
        };
        let note = rmp_serde::to_vec_named(&note).map_err(|e| Error::corrupt(e.to_string()))?;
        Ok((prepared, note))
    }

    /// The prepared turn was committed.
    pub fn committed(&mut self, ticket: Ticket, prepared: Prepared) {
        self.state = match std::mem::replace(&mut self.state, State::Writing) {
            State::Ready(writer) => State::Committed(ticket, writer, prepared),
            other => other,
        };
    }
}
