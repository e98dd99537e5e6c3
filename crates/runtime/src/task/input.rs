//! A stage's streams, read from the engine into a turn's steps.

use arrow_schema::SchemaRef;
use millstream_core::{
    Batch, Error, Frame, FrameKind, Result, Status, Time,
    engine::{InputSpec, Lease},
    mail,
    turn::{InputProgress, Position, ProducerTime, TaskId},
};

use super::chain::{Piece, Step};
use crate::stage::{Limits, StreamFront};

/// What a turn takes in.
#[derive(Debug, Default)]
pub struct Gathered {
    /// In order.
    pub steps: Vec<Step>,
    /// Where the task stands after them.
    pub progress: Vec<InputProgress>,
    /// Rows and messages among them.
    pub rows: usize,
    /// Bytes of the frames they are in.
    pub bytes: usize,
}

/// The inputs of a task that reads streams.
pub struct StreamInputs {
    inputs: Vec<StreamInput>,
}

struct StreamInput {
    spec: InputSpec,
    schema: SchemaRef,
    /// How many tasks must have said something before time moves.
    producers: usize,
}

impl StreamInputs {
    /// The inputs of task `partition`.
    pub fn new(fronts: &[StreamFront], partition: u32) -> StreamInputs {
        let input = |front: &StreamFront| StreamInput {
            spec: InputSpec { stream: front.stream, partition },
            schema: front.schema.clone(),
            producers: front.producers.iter().map(|p| p.of(partition, front.partitions)).sum(),
        };
        StreamInputs { inputs: fronts.iter().map(input).collect() }
    }

    /// What to attach to.
    pub fn specs(&self) -> Vec<InputSpec> {
        self.inputs.iter().map(|i| i.spec).collect()
    }

    /// Reads at most one turn's worth, from every input in turn; no further than `until` where it
    /// names a position.
    ///
    /// # Errors
    /// If the engine cannot read, or a frame is damaged.
    pub fn gather(
        &self,
        lease: &mut dyn Lease,
        progress: &[InputProgress],
        limits: &Limits,
        start: usize,
        until: &[Position],
    ) -> Result<Gathered> {
        let mut progress = progress.to_vec();
        progress.resize_with(self.inputs.len(), InputProgress::default);
        let mut gathered = Gathered { progress, ..Gathered::default() };
        for n in 0..self.inputs.len() {
            let input = (start + n) % self.inputs.len();
            let left = limits.bytes_max.saturating_sub(gathered.bytes);
            if left == 0 || gathered.rows >= limits.rows_max {
                break;
            }
            let from = gathered.progress[input].position;
            for (number, frame) in lease.poll(input, from, left)? {
                if gathered.rows >= limits.rows_max {
                    break;
                }
                let mut rows_max = limits.rows_max;
                if let Some(end) = until.get(input) {
                    let at = gathered.progress[input].position;
                    if number > end.frame || (number == end.frame && end.row == 0) {
                        break;
                    }
                    if number == end.frame {
                        let skip = if at.frame == number { at.row } else { 0 };
                        rows_max =
                            rows_max.min(gathered.rows + end.row.saturating_sub(skip) as usize);
                    }
                }
                gathered.bytes += frame.bytes().len();
                self.take(&mut gathered, input, number, &frame, rows_max)?;
            }
        }
        Ok(gathered)
    }

    /// Reads exactly the rows between two committed positions again, as whole batches.
    ///
    /// # Errors
    /// If the engine no longer has them.
    pub fn reread(
        &self,
        lease: &mut dyn Lease,
        from: &[Position],
        to: &[InputProgress],
    ) -> Result<Vec<Batch>> {
        let mut batches = Vec::new();
        for (input, (from, to)) in from.iter().zip(to).enumerate() {
            let mut at = *from;
            while at < to.position {
                let frames = lease.poll(input, at, 1 << 20)?;
                if frames.is_empty() {
                    return Err(Error::corrupt(format!(
                        "frame {} of an unconfirmed range is gone",
                        at.frame
                    )));
                }
                for (number, frame) in frames {
                    if at >= to.position {
                        break;
                    }
                    let end = if number == to.position.frame {
                        to.position.row
                    } else {
                        frame.header.rows
                    };
                    let skip = if number == at.frame { at.row } else { 0 };
                    if frame.header.kind == FrameKind::Rows && end > skip {
                        let batch = self.decode(input, &frame)?;
                        batches.push(batch.slice(skip as usize, (end - skip) as usize));
                    }
                    at = if end < frame.header.rows {
                        Position { frame: number, row: end }
                    } else {
                        Position { frame: number + 1, row: 0 }
                    };
                }
            }
        }
        Ok(batches)
    }

    fn decode(&self, input: usize, frame: &Frame) -> Result<Batch> {
        let schema = &self.inputs[input].schema;
        let wire = frame.rows(&Batch::wire_schema(schema))?;
        Batch::from_wire(&wire, schema)
    }

    fn take(
        &self,
        gathered: &mut Gathered,
        input: usize,
        number: u64,
        frame: &Frame,
        rows_max: usize,
    ) -> Result<()> {
        let header = &frame.header;
        let skip = match gathered.progress[input].position {
            at if at.frame == number => at.row,
            _ => 0,
        };
        let left = header.rows.saturating_sub(skip);
        let taken = left.min((rows_max - gathered.rows).min(u32::MAX as usize) as u32);
        if taken > 0 {
            let others = self.others(&gathered.progress, input, header.producer);
            let (skip, taken) = (skip as usize, taken as usize);
            let piece = match header.kind {
                FrameKind::Rows => Piece::Rows(self.decode(input, frame)?.slice(skip, taken)),
                FrameKind::Mail => {
                    Piece::Mail(mail::from_rows(&frame.rows(&mail::SCHEMA)?.slice(skip, taken))?)
                }
            };
            gathered.steps.push(Step { piece, others });
            gathered.rows += taken;
        }
        let progress = &mut gathered.progress[input];
        progress.rows += u64::from(taken);
        if taken < left {
            progress.position = Position { frame: number, row: skip + taken };
        } else {
            progress.position = Position { frame: number + 1, row: 0 };
            if header.kind == FrameKind::Rows {
                let producer = progress
                    .producers
                    .entry(header.producer)
                    .or_insert(ProducerTime { watermark: Time::MIN, status: Status::Active });
                producer.watermark = producer.watermark.max(header.watermark);
                producer.status = header.status;
            }
        }
        progress.keep_from = progress.position.frame;
        Ok(())
    }

    /// The minimum watermark over all producers but one.
    fn others(&self, progress: &[InputProgress], input: usize, producer: TaskId) -> Time {
        let mut least = Time::MAX;
        for (n, own) in self.inputs.iter().enumerate() {
            let known = &progress[n].producers;
            let others = known.iter().filter(|(id, _)| n != input || **id != producer);
            let new = usize::from(n == input && !known.contains_key(&producer));
            if known.len() + new < own.producers {
                return Time::MIN;
            }
            for (_, time) in others.filter(|(_, t)| t.status == Status::Active) {
                least = least.min(time.watermark);
            }
        }
        least
    }

    /// The task's watermark and status, given where it stands.
    pub fn time(&self, progress: &[InputProgress]) -> (Time, Status) {
        let mut least: Option<Time> = None;
        let mut ended = true;
        for (n, own) in self.inputs.iter().enumerate() {
            let Some(input) = progress.get(n) else { return (Time::MIN, Status::Active) };
            if input.producers.len() < own.producers {
                return (Time::MIN, Status::Active);
            }
            ended &= input.producers.values().all(|p| p.status == Status::Ended);
            if let Some(time) = input.watermark() {
                least = Some(least.map_or(time, |l| l.min(time)));
            }
        }
        match least {
            _ if ended => (Time::MAX, Status::Ended),
            Some(time) => (time, Status::Active),
            None => (Time::MIN, Status::Idle),
        }
    }
}
