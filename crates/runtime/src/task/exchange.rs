//! Turns what a chain has produced into frames for the partitions of its streams, and into records
//! of sinks that the engine carries, as these encode them.
//!
//! *Invariant:* of a turn's frames in one partition only the last one with rows moves time: a
//! reader that stops between two of them must not see the watermark before the rows.
//!
//! *Limits:* [`FRAME_BYTES`] in a frame, unless one row has more; [`RUN_BYTES`] are put together at
//! once.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::concat::concat_batches;
use millstream_core::{
    Batch, Code, Error, FrameHeader, FrameKind, Result, Status, Time, Turn,
    connector::RowEncoder,
    frame::{FrameEncoder, fingerprint},
    key::{Keys, Slot},
    letter::{self, Letter},
    mail::{self, Mail},
    turn::{Output, TaskId},
};

use super::sink::SINK;
use crate::{
    catch::guard,
    stage::{CarriedSink, Edge, Mailbox, Route, Stage},
};

/// Bytes of rows in a frame: what a reader takes in with one turn, and far below
/// [`millstream_core::frame::FRAME_BYTES_MAX`].
const FRAME_BYTES: usize = 8 << 20;
/// Bytes of rows that are put together before they are split by partition; far below what a
/// column's 32-bit offsets reach.
const RUN_BYTES: usize = 64 << 20;

/// What every frame of a turn says.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The task.
    pub producer: TaskId,
    /// Its turn.
    pub turn: u64,
    /// Its watermark after the turn.
    pub watermark: Time,
    /// Whether it still moves time.
    pub status: Status,
}

impl Stamp {
    fn header(self, kind: FrameKind, schema: u64) -> FrameHeader {
        let Stamp { producer, turn, watermark, status } = self;
        FrameHeader { kind, status, producer, turn, watermark, rows: 0, schema }
    }
}

/// Encodes the outputs of one task.
pub struct Exchange {
    edges: Vec<EdgeState>,
    carried: Vec<(CarriedSink, Box<dyn RowEncoder>)>,
    mailboxes: Vec<Mailbox>,
    dead: millstream_core::turn::StreamId,
    partition: u32,
    encoder: FrameEncoder,
}

struct EdgeState {
    edge: Edge,
    wire: arrow_schema::SchemaRef,
    fingerprint: u64,
    /// What every partition has been told.
    told: (Time, Status),
    told_at: Time,
}

impl EdgeState {
    fn owes(&self, watermark: Time, status: Status) -> bool {
        self.told != (watermark, status) && (self.edge.timed || status == Status::Ended)
    }
}

impl Exchange {
    /// The exchange behind task `partition` of `stage`.
    ///
    /// # Errors
    /// If a sink that the engine carries cannot be written to.
    pub fn open(stage: &Stage, partition: u32) -> Result<Exchange> {
        let edges = stage.edges.iter().map(|edge| {
            let wire = Batch::wire_schema(&edge.schema);
            EdgeState {
                edge: edge.clone(),
                fingerprint: fingerprint(&wire),
                wire,
                told: (Time::MIN, Status::Active),
                told_at: Time::MIN,
            }
        });
        let carried = stage.carried.iter().map(|carried| {
            let encoder = guard(SINK, || match carried.sink.carried() {
                Some(sink) => sink.encoder(partition, &carried.schema),
                None => Err(Error::new(Code::Bug, "a sink is carried that no engine can carry")),
            });
            Ok((carried.clone(), encoder?))
        });
        Ok(Exchange {
            edges: edges.collect(),
            carried: carried.collect::<Result<_>>()?,
            mailboxes: stage.mailboxes.clone(),
            dead: stage.dead,
            partition,
            encoder: FrameEncoder::default(),
        })
    }

    /// Frames for `rows`, by edge and partition, and records for sinks.
    ///
    /// # Errors
    /// If a sink cannot encode a row. If rows do not have the edge's schema, or a frame grows
    /// beyond its limit: bugs, not data.
    pub fn rows(
        &mut self,
        rows: Vec<((usize, usize), Batch)>,
        stamp: Stamp,
        turn: &mut Turn,
    ) -> Result<()> {
        let mut by_edge: BTreeMap<(usize, usize), Vec<Batch>> = BTreeMap::new();
        for (from, batch) in rows.into_iter().filter(|(_, b)| !b.is_empty()) {
            by_edge.entry(from).or_default().push(batch);
        }
        let mut parts = Vec::new();
        for (n, EdgeState { edge, .. }) in self.edges.iter().enumerate() {
            let Some(batches) = by_edge.get(&edge.from) else { continue };
            *turn.progress.counters.sent.entry(edge.stream).or_default() += rows_of(batches);
            let batches = batches.iter().flat_map(|b| cut(b.clone(), RUN_BYTES)).collect();
            for run in groups(batches, bytes, RUN_BYTES) {
                let batch = concat(&run, &edge.schema)?;
                // Mostly all of it fits into one frame, and the parts need not be looked at.
                let fits = bytes(&batch) <= FRAME_BYTES;
                for (partition, part) in split(&batch, edge, self.partition)? {
                    let frames = if fits { vec![part] } else { cut(part, FRAME_BYTES) };
                    parts.extend(frames.into_iter().map(|f| (n, edge.stream, partition, f)));
                }
            }
        }
        for (sink, encoder) in &mut self.carried {
            let Some(batches) = by_edge.get(&sink.from) else { continue };
            turn.carried.push(guard(SINK, || encoder.encode(batches, stamp.turn))?);
            let operators = &mut turn.progress.counters.operators;
            let counted = operators.entry(sink.name.clone()).or_default();
            counted.read += rows_of(batches);
            counted.processed += rows_of(batches);
        }
        let mut seen = BTreeSet::new();
        let last: Vec<bool> =
            parts.iter().rev().map(|(_, stream, part, _)| seen.insert((*stream, *part))).collect();
        for ((n, stream, partition, part), last) in parts.into_iter().zip(last.into_iter().rev()) {
            let stamp = match last {
                true => stamp,
                false => Stamp { watermark: Time::MIN, status: Status::Active, ..stamp },
            };
            let header = stamp.header(FrameKind::Rows, self.edges[n].fingerprint);
            let wire = part.to_wire(&self.edges[n].wire)?;
            let frame = self.encoder.encode(header, Some(&wire))?;
            turn.outputs.push(Output { stream, partition, frame });
        }
        Ok(())
    }

    /// Frames without rows, for the partitions that have none in the turn, if time or status has
    /// moved and `every` has passed since the last ones (at once if the status changed).
    pub fn watermarks(
        &mut self,
        stamp: Stamp,
        now: Time,
        every: std::time::Duration,
        turn: &mut Turn,
    ) -> Result<()> {
        for state in &mut self.edges {
            if !state.owes(stamp.watermark, stamp.status) {
                continue;
            }
            if state.told.1 == stamp.status
                && stamp.watermark != Time::MAX
                && now < state.told_at + every
            {
                continue;
            }
            for partition in 0..state.edge.partitions {
                // Messages lie in the same stream, but move no time.
                let told = turn.outputs.iter().any(|o| {
                    o.stream == state.edge.stream
                        && o.partition == partition
                        && o.frame.header.kind == FrameKind::Rows
                });
                if told
                    || (state.edge.route == Route::Same
                        && partition != self.partition % state.edge.partitions)
                {
                    continue;
                }
                let header = stamp.header(FrameKind::Rows, state.fingerprint);
                let frame = self.encoder.encode(header, None)?;
                turn.outputs.push(Output { stream: state.edge.stream, partition, frame });
            }
            state.told = (stamp.watermark, stamp.status);
            state.told_at = now;
        }
        Ok(())
    }

    /// When [`Exchange::watermarks`] would have something to say, if it has.
    pub fn owes_watermark(
        &self,
        watermark: Time,
        status: Status,
        every: std::time::Duration,
    ) -> Option<Time> {
        let owed = self.edges.iter().filter(|s| s.owes(watermark, status));
        owed.map(|s| {
            if s.told.1 == status && watermark != Time::MAX { s.told_at + every } else { Time::MIN }
        })
        .min()
    }

    /// Frames for messages, by mailbox and the partition of the receiver's slot.
    pub fn mail(&mut self, mail: Vec<(usize, Mail)>, stamp: Stamp, turn: &mut Turn) -> Result<()> {
        let mut boxes: BTreeMap<(usize, u32), Vec<Mail>> = BTreeMap::new();
        for (n, (target, mut message)) in mail.into_iter().enumerate() {
            message.id = stamp.turn << 24 | n as u64;
            *turn.progress.counters.sent.entry(self.mailboxes[target].stream).or_default() += 1;
            let partition = self.mailboxes[target].partition_of(&message.key);
            boxes.entry((target, partition)).or_default().push(message);
        }
        for ((target, partition), mail) in boxes {
            let bytes = |m: &Mail| m.payload.len() + m.key.len() + m.sender.len();
            for mail in groups(mail, bytes, FRAME_BYTES) {
                let header = stamp.header(FrameKind::Mail, fingerprint(&mail::SCHEMA));
                let frame = self.encoder.encode(header, Some(&mail::to_rows(&mail)?))?;
                turn.outputs.push(Output {
                    stream: self.mailboxes[target].stream,
                    partition,
                    frame,
                });
            }
        }
        Ok(())
    }

    /// Frames for dead letters.
    pub fn letters(&mut self, letters: Vec<Letter>, stamp: Stamp, turn: &mut Turn) -> Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        *turn.progress.counters.sent.entry(self.dead).or_default() += letters.len() as u64;
        let wire = Batch::wire_schema(&letter::SCHEMA);
        let bytes = |l: &Letter| l.payload.len() + l.error.len() + l.backtrace.len();
        for letters in groups(letters, bytes, FRAME_BYTES) {
            let header = stamp.header(FrameKind::Rows, fingerprint(&wire));
            let rows = letter::to_batch(&letters)?.to_wire(&wire)?;
            let frame = self.encoder.encode(header, Some(&rows))?;
            turn.outputs.push(Output { stream: self.dead, partition: 0, frame });
        }
        Ok(())
    }
}

fn rows_of(batches: &[Batch]) -> u64 {
    batches.iter().map(|b| b.len() as u64).sum()
}

/// How many bytes a batch's own rows take, whatever they share with others.
fn bytes(batch: &Batch) -> usize {
    rows_bytes(batch.rows())
}

/// As [`bytes`].
pub fn rows_bytes(rows: &RecordBatch) -> usize {
    let columns = rows.columns().iter();
    // An array whose size cannot be told is none that rows are made of.
    columns.map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

/// A batch in pieces of at most `max` bytes, or one row.
fn cut(batch: Batch, max: usize) -> Vec<Batch> {
    if batch.len() <= 1 || bytes(&batch) <= max {
        return vec![batch];
    }
    let half = batch.len() / 2;
    let mut pieces = cut(batch.slice(0, half), max);
    pieces.extend(cut(batch.slice(half, batch.len() - half), max));
    pieces
}

/// Neighbours together, as long as they have at most `max` bytes; at least one in each group.
fn groups<T>(items: Vec<T>, bytes: impl Fn(&T) -> usize, max: usize) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    let mut sum = 0usize;
    for item in items {
        let size = bytes(&item);
        match groups.last_mut() {
            Some(group) if sum + size <= max => group.push(item),
            _ => {
                sum = 0;
                groups.push(vec![item]);
            }
        }
        sum += size;
    }
    groups
}

fn concat(batches: &[Batch], schema: &arrow_schema::SchemaRef) -> Result<Batch> {
    if let [one] = batches {
        return Ok(one.clone());
    }
    let rows: Vec<&RecordBatch> = batches.iter().map(Batch::rows).collect();
    let stamps = batches.iter().flat_map(|b| b.stamps().iter().copied()).collect();
    let origins = batches.iter().flat_map(|b| b.origins().iter().copied()).collect();
    Ok(Batch::new(concat_batches(schema, rows)?, stamps, origins))
}

/// The rows of each partition, in their order: one counting sort and one `take`.
fn split(batch: &Batch, edge: &Edge, own: u32) -> Result<Vec<(u32, Batch)>> {
    let Route::Key(columns) = &edge.route else {
        return Ok(vec![(own % edge.partitions, batch.clone())]);
    };
    if edge.partitions == 1 {
        return Ok(vec![(0, batch.clone())]);
    }
    let columns: Vec<_> = columns.iter().map(|c| batch.rows().column(*c).as_ref()).collect();
    let keys = Keys::of(&columns, batch.len())?;
    let partitions: Vec<u32> =
        keys.iter().map(|k| Slot::of(k).partition(edge.partitions)).collect();
    let mut starts = vec![0usize; edge.partitions as usize + 1];
    partitions.iter().for_each(|p| starts[*p as usize + 1] += 1);
    (1..starts.len()).for_each(|i| starts[i] += starts[i - 1]);
    let mut next = starts.clone();
    let mut order = vec![0u32; batch.len()];
    for (row, partition) in partitions.iter().enumerate() {
        let at = &mut next[*partition as usize];
        order[*at] = row as u32;
        *at += 1;
    }
    let sorted = batch.take(&UInt32Array::from(order))?;
    let filled = (0..edge.partitions).filter(|p| starts[*p as usize] < starts[*p as usize + 1]);
    Ok(filled
        .map(|p| {
            let (start, end) = (starts[p as usize], starts[p as usize + 1]);
            (p, sorted.slice(start, end - start))
        })
        .collect())
}

#[cfg(test)]
mod tests;
