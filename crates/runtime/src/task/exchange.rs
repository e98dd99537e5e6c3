//! Turns what a chain has produced into frames for the partitions of its streams.

use std::collections::BTreeMap;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::concat::concat_batches;
use millstream_core::{
    Batch, FrameHeader, FrameKind, Result, Status, Time,
    frame::{FrameEncoder, fingerprint},
    key::{Keys, Slot},
    ledger::Sent,
    letter::{self, Letter},
    mail::{self, Mail},
    turn::{Output, TaskId},
};

use crate::stage::{Edge, Mailbox, Route, Stage};

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
    /// The exchange behind task `partition` of `stage`; `watermark` is what was committed.
    pub fn new(stage: &Stage, partition: u32, watermark: Time) -> Exchange {
        let edges = stage.edges.iter().map(|edge| {
            let wire = Batch::wire_schema(&edge.schema);
            EdgeState {
                edge: edge.clone(),
                fingerprint: fingerprint(&wire),
                wire,
                told: (watermark, Status::Active),
                told_at: Time::MIN,
            }
        });
        Exchange {
            edges: edges.collect(),
            mailboxes: stage.mailboxes.clone(),
            dead: stage.dead,
            partition,
            encoder: FrameEncoder::default(),
        }
    }

    /// Frames for `rows`, by edge and partition.
    ///
    /// # Errors
    /// If rows do not have the edge's schema, or a frame grows beyond its limit: bugs, not data.
    pub fn rows(
        &mut self,
        rows: Vec<((usize, usize), Batch)>,
        stamp: Stamp,
        out: &mut Vec<Output>,
        sent: &mut Sent,
    ) -> Result<()> {
        let mut by_edge: BTreeMap<(usize, usize), Vec<Batch>> = BTreeMap::new();
        for (from, batch) in rows.into_iter().filter(|(_, b)| !b.is_empty()) {
            by_edge.entry(from).or_default().push(batch);
        }
        for state in &mut self.edges {
            let Some(batches) = by_edge.get(&state.edge.from) else { continue };
            let rows: usize = batches.iter().map(Batch::len).sum();
            *sent.entry(state.edge.stream).or_default() += rows as u64;
            let batch = concat(batches, &state.edge.schema)?;
            for (partition, part) in split(&batch, &state.edge, self.partition)? {
                let header = stamp.header(FrameKind::Rows, state.fingerprint);
                let wire = part.to_wire(&state.wire)?;
                let frame = self.encoder.encode(header, Some(&wire))?;
                out.push(Output { stream: state.edge.stream, partition, frame });
            }
        }
        Ok(())
    }

    /// Frames without rows, for the partitions that have none in `out`, if time or status has
    /// moved and `every` has passed since the last ones (at once if the status changed).
    pub fn watermarks(
        &mut self,
        stamp: Stamp,
        now: Time,
        every: std::time::Duration,
        out: &mut Vec<Output>,
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
                let told =
                    out.iter().any(|o| o.stream == state.edge.stream && o.partition == partition);
                if told
                    || (state.edge.route == Route::Same
                        && partition != self.partition % state.edge.partitions)
                {
                    continue;
                }
                let header = stamp.header(FrameKind::Rows, state.fingerprint);
                let frame = self.encoder.encode(header, None)?;
                out.push(Output { stream: state.edge.stream, partition, frame });
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
    pub fn mail(
        &mut self,
        mail: Vec<(usize, Mail)>,
        stamp: Stamp,
        out: &mut Vec<Output>,
        sent: &mut Sent,
    ) -> Result<()> {
        let mut boxes: BTreeMap<(usize, u32), Vec<Mail>> = BTreeMap::new();
        for (n, (target, mut message)) in mail.into_iter().enumerate() {
            message.id = stamp.turn << 24 | n as u64;
            *sent.entry(self.mailboxes[target].stream).or_default() += 1;
            let partition = Slot::of(&message.key).partition(self.mailboxes[target].partitions);
            boxes.entry((target, partition)).or_default().push(message);
        }
        for ((target, partition), mail) in boxes {
            let header = stamp.header(FrameKind::Mail, fingerprint(&mail::SCHEMA));
            let frame = self.encoder.encode(header, Some(&mail::to_rows(&mail)?))?;
            out.push(Output { stream: self.mailboxes[target].stream, partition, frame });
        }
        Ok(())
    }

    /// One frame for dead letters.
    pub fn letters(
        &mut self,
        letters: &[Letter],
        stamp: Stamp,
        out: &mut Vec<Output>,
        sent: &mut Sent,
    ) -> Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        *sent.entry(self.dead).or_default() += letters.len() as u64;
        let wire = Batch::wire_schema(&letter::SCHEMA);
        let header = stamp.header(FrameKind::Rows, fingerprint(&wire));
        let rows = letter::to_batch(letters)?.to_wire(&wire)?;
        let frame = self.encoder.encode(header, Some(&rows))?;
        out.push(Output { stream: self.dead, partition: 0, frame });
        Ok(())
    }
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
