//! The front of a source task: chunks from a connector become steps, stamped with event time.
//!
//! *Invariant:* a row's stamp depends on the rows before it in its source partition alone, so the
//! set of late rows is the same for any number of cores, turn size or crash.

use std::{sync::Arc, time::Duration};

use arrow_array::{
    Array,
    cast::AsArray,
    types::{Int64Type, TimestampMillisecondType},
};
use arrow_schema::{DataType, TimeUnit};
use millstream_core::{
    Batch, Error, Origin, Result, Status, Time,
    connector::{Chunk, Undecodable},
    engine::Waker,
    ledger::SourceCounters,
    letter::{Letter, Trigger, row_payload},
    turn::TaskId,
};
use serde::{Deserialize, Serialize};

use super::{
    chain::{Piece, Step},
    exchange::rows_bytes,
};
use crate::{
    connect::{Arrival, Connectors, Inlet, SourceJob},
    stage::{EventTime, Limits, SourceFront},
};

/// What a source task commits as its note.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note {
    /// Where the connector is opened.
    position: Vec<u8>,
    /// Rows of the chunk behind the position up to this place were consumed; 0 for none.
    #[serde(default)]
    done: u64,
    /// Highest event time seen.
    seen: Option<i64>,
    ended: bool,
}

/// What a turn takes in from a source.
pub struct SourceTurn {
    /// Rows, in order.
    pub steps: Vec<Step>,
    /// Undecodable units, in order.
    pub letters: Vec<Letter>,
    /// What was counted in this turn.
    pub counters: SourceCounters,
    /// The source's watermark after it.
    pub watermark: Time,
    /// Active, idle or ended.
    pub status: Status,
    /// The note to commit.
    pub note: Vec<u8>,
    /// Called when the turn is durable.
    pub durable: Vec<Box<dyn FnOnce() + Send>>,
    /// Rows taken in.
    pub rows: usize,
    /// Bytes of these rows.
    pub bytes: usize,
}

/// A connector's end at its task.
pub struct SourceInput {
    front: SourceFront,
    inlet: Arc<Inlet>,
    note: Note,
    /// What is left of a chunk that did not fit into a turn.
    rest: Option<Chunk>,
    status: Status,
    active_at: Option<Time>,
}

impl SourceInput {
    /// Opens the connector where the task's last turn left it.
    ///
    /// # Errors
    /// If the note is damaged.
    pub fn open(
        front: &SourceFront,
        partition: u32,
        note: &[u8],
        waker: Waker,
        connectors: &dyn Connectors,
    ) -> Result<SourceInput> {
        let note: Note = match note {
            [] => Note::default(),
            bytes => rmp_serde::from_slice(bytes)
                .map_err(|e| Error::corrupt(format!("source note: {e}")))?,
        };
        let inlet = Inlet::new(waker);
        if note.ended {
            inlet.end();
        } else {
            connectors.read(SourceJob::new(
                front.source.clone(),
                partition,
                front.schema.clone(),
                note.position.clone(),
                inlet.clone(),
            ));
        }
        Ok(SourceInput {
            front: front.clone(),
            inlet,
            note,
            rest: None,
            status: Status::Active,
            active_at: None,
        })
    }

    /// Takes what has arrived, up to one turn's worth. `clock` is the turn's, by `now` it is judged
    /// whether the source is idle.
    ///
    /// # Errors
    /// The connector's failure; the task is opened again.
    pub fn gather(
        &mut self,
        task: TaskId,
        (now, clock): (Time, Time),
        limits: &Limits,
    ) -> Result<SourceTurn> {
        let mut turn = SourceTurn {
            steps: Vec::new(),
            letters: Vec::new(),
            counters: SourceCounters::default(),
            watermark: Time::MIN,
            status: Status::Active,
            note: Vec::new(),
            durable: Vec::new(),
            rows: 0,
            bytes: 0,
        };
        while turn.rows + turn.letters.len() < limits.rows_max && turn.bytes < limits.bytes_max {
            let chunk = match self.rest.take() {
                Some(chunk) => chunk,
                None => match self.inlet.take() {
                    Arrival::Chunk(chunk) => self.without_done(chunk),
                    Arrival::Nothing => break,
                    Arrival::End => {
                        self.note.ended = true;
                        break;
                    }
                    Arrival::Failed(error) => return Err(error),
                },
            };
            self.active_at = Some(now);
            // Rows of a chunk are taken for equally large.
            let bytes = (rows_bytes(&chunk.rows) / chunk.rows.num_rows().max(1)).max(1);
            let room = limits.rows_max - turn.rows - turn.letters.len();
            let room = room.min(((limits.bytes_max - turn.bytes) / bytes).max(1));
            let chunk = self.first(chunk, room);
            turn.bytes += bytes * chunk.rows.num_rows();
            self.take(chunk, task, clock, &mut turn)?;
        }
        turn.watermark = self.watermark();
        turn.status = self.status_at(now);
        self.status = turn.status;
        turn.note =
            rmp_serde::to_vec_named(&self.note).map_err(|e| Error::corrupt(e.to_string()))?;
        Ok(turn)
    }

    /// Leaves out the rows that were consumed before the connector was opened again.
    fn without_done(&mut self, mut chunk: Chunk) -> Chunk {
        let done = chunk.places.partition_point(|place| *place <= self.note.done);
        if self.note.done > 0 {
            // The source may cut smaller chunks now: then the next one has more of these rows.
            if chunk.places.last().is_some_and(|last| *last >= self.note.done) {
                self.note.done = 0;
            }
            chunk.places.drain(..done);
            chunk.rows = chunk.rows.slice(done, chunk.rows.num_rows() - done);
            chunk.units -= done as u64;
        }
        chunk
    }

    /// The first `room` rows of a chunk; the rest is kept for the next turn, with everything that
    /// is not a row. All of it if the source could not give the rest again after a crash.
    fn first(&mut self, mut chunk: Chunk, room: usize) -> Chunk {
        if chunk.rows.num_rows() <= room || !self.front.source.replays() {
            if chunk.rows.num_rows() > 0 {
                self.note.done = 0;
            }
            return chunk;
        }
        let first = Chunk {
            rows: chunk.rows.slice(0, room),
            places: chunk.places.drain(..room).collect(),
            undecodable: Vec::new(),
            units: room as u64,
            skipped: 0,
            position: self.note.position.clone(),
            durable: None,
        };
        chunk.rows = chunk.rows.slice(room, chunk.rows.num_rows() - room);
        chunk.units -= room as u64;
        self.note.done = first.places.last().copied().unwrap_or(self.note.done);
        self.rest = Some(chunk);
        first
    }

    /// Until when to let what arrives gather; `None` to take it now.
    pub fn gathers_until(&self, now: Time, gather: Duration) -> Option<Time> {
        let until = self.active_at? + gather;
        (now < until && self.rest.is_none() && self.inlet.has_room()).then_some(until)
    }

    /// When the source will count as idle unless something arrives.
    pub fn idle_at(&self) -> Option<Time> {
        let rule = self.front.event_time.as_ref()?;
        (self.status == Status::Active)
            .then(|| self.active_at.map(|t| t + rule.idle_after))
            .flatten()
    }

    fn status_at(&mut self, now: Time) -> Status {
        if self.note.ended {
            return Status::Ended;
        }
        let Some(rule) = &self.front.event_time else { return Status::Active };
        let since = *self.active_at.get_or_insert(now);
        if now >= since + rule.idle_after { Status::Idle } else { Status::Active }
    }

    fn watermark(&self) -> Time {
        match (self.note.ended, &self.front.event_time, self.note.seen) {
            (true, _, _) => Time::MAX,
            (_, Some(rule), Some(seen)) => Time::from_ms(seen) - rule.delay,
            _ => Time::MIN,
        }
    }

    fn take(
        &mut self,
        chunk: Chunk,
        task: TaskId,
        clock: Time,
        turn: &mut SourceTurn,
    ) -> Result<()> {
        let mut counters = SourceCounters {
            units: chunk.units,
            rows: chunk.rows.num_rows() as u64,
            undecodable: chunk.undecodable.len() as u64,
            skipped: chunk.skipped,
        };
        let letter = |u: Undecodable| Letter {
            trigger: Trigger::Undecodable,
            place: u.place,
            bytes: u.bytes,
            column: u.column,
            error: u.error,
            payload: u.raw,
            file: u.file,
            ..Letter::default()
        };
        turn.letters.extend(chunk.undecodable.into_iter().map(letter));
        let origins: Vec<u64> = chunk.places.iter().map(|p| Origin::new(task.0, *p).0).collect();
        let mut batch =
            Batch::new(chunk.rows, vec![i64::MIN; origins.len()].into(), origins.into());
        if let Some(rule) = self.front.event_time.clone() {
            let (stamped, ahead) = self.stamp(batch, &rule, clock)?;
            counters.rows -= ahead.len() as u64;
            counters.undecodable += ahead.len() as u64;
            let ahead = ahead.into_iter().map(letter);
            turn.letters.extend(ahead.map(|l| Letter { trigger: Trigger::Ahead, ..l }));
            batch = stamped;
        }
        turn.rows += batch.len();
        turn.steps.push(Step { piece: Piece::Rows(batch), others: Time::MAX });
        turn.counters.add(&counters);
        turn.durable.extend(chunk.durable);
        self.note.position = chunk.position;
        Ok(())
    }

    /// Gives each row the watermark that precedes it; sets aside what lies too far ahead.
    fn stamp(
        &mut self,
        batch: Batch,
        rule: &EventTime,
        clock: Time,
    ) -> Result<(Batch, Vec<Undecodable>)> {
        let column = batch.rows().column(rule.column);
        let times = match column.data_type() {
            DataType::Int64 => column.as_primitive::<Int64Type>().values(),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                column.as_primitive::<TimestampMillisecondType>().values()
            }
            other => return Err(Error::corrupt(format!("event time in a column of type {other}"))),
        };
        let limit = match self.front.source.finite() {
            true => i64::MAX,
            false => (clock + rule.future_max).ms(),
        };
        let delay = rule.delay.as_millis() as i64;
        let mut seen = self.note.seen.unwrap_or(i64::MIN);
        let mut ahead = Vec::new();
        let stamps: Vec<i64> = (0..batch.len())
            .map(|row| {
                let stamp = if seen == i64::MIN { i64::MIN } else { seen.saturating_sub(delay) };
                if column.is_valid(row) {
                    match times[row] {
                        time if time > limit => ahead.push(row),
                        time => seen = seen.max(time),
                    }
                }
                stamp
            })
            .collect();
        if seen != i64::MIN {
            self.note.seen = Some(seen);
        }
        let dead = ahead.iter().map(|&row| Undecodable {
            place: batch.origin(row).place(),
            column: batch.rows().schema().field(rule.column).name().clone(),
            error: format!(
                "event time {} is more than {} ahead of the clock",
                Time::from_ms(times[row]),
                words(rule.future_max)
            ),
            raw: row_payload(batch.rows(), row),
            ..Undecodable::default()
        });
        let dead: Vec<_> = dead.collect();
        let origins = batch.origins().clone();
        let batch = Batch::new(batch.rows().clone(), stamps.into(), origins);
        if ahead.is_empty() {
            return Ok((batch, dead));
        }
        let kept = (0..batch.len()).filter(|row| ahead.binary_search(row).is_err());
        let kept: Vec<u32> = kept.map(|row| row as u32).collect();
        Ok((batch.take(&kept.into())?, dead))
    }
}

impl Drop for SourceInput {
    fn drop(&mut self) {
        self.inlet.close();
    }
}

fn words(d: Duration) -> String {
    match d.as_secs() {
        s if s > 0 && s % 3600 == 0 => format!("{} h", s / 3600),
        s if s > 0 && s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, RecordBatch};
    use arrow_schema::{Field, Schema, SchemaRef};
    use millstream_core::connector::{Source, SourceReader};

    use super::*;

    /// A source of which only its word on replays is asked.
    struct Once {
        replays: bool,
    }

    impl Source for Once {
        fn finite(&self) -> bool {
            false
        }

        fn replays(&self) -> bool {
            self.replays
        }

        fn open(&self, _: u32, _: SchemaRef, _: &[u8]) -> Result<Box<dyn SourceReader>> {
            Err(Error::corrupt("not asked to be opened"))
        }
    }

    /// Hands out ten rows in all, so many in a chunk.
    struct Ten(u64);

    impl Connectors for Ten {
        fn read(&self, job: SourceJob) {
            let mut at = job.position.first().map_or(0, |at| u64::from(*at));
            while at < 10 {
                let to = 10.min(at + self.0);
                let rows = Int64Array::from_iter_values(at as i64..to as i64);
                let chunk = Chunk {
                    rows: RecordBatch::try_new(job.schema.clone(), vec![Arc::new(rows)]).unwrap(),
                    places: (at + 1..=to).collect(),
                    undecodable: Vec::new(),
                    units: to - at,
                    skipped: 0,
                    position: vec![to as u8],
                    durable: None,
                };
                let place = job.inlet.reserve().unwrap();
                job.inlet.fill(place, chunk);
                at = to;
            }
        }

        fn write(&self, _: crate::connect::WriteJob) {}
    }

    #[test]
    fn a_turn_takes_in_a_few_bytes_only() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let source = Arc::new(Once { replays: true });
        let front = SourceFront { name: "s".into(), source, schema, event_time: None };
        let limits = Limits { bytes_max: 32, ..Limits::default() };
        let mut input = SourceInput::open(&front, 0, &[], Arc::new(|| {}), &Ten(10)).unwrap();
        let mut rows = || input.gather(TaskId(1), (Time::MIN, Time::MIN), &limits).unwrap().rows;
        assert_eq!([rows(), rows(), rows(), rows()], [4, 4, 2, 0]);
    }

    #[test]
    fn a_source_may_cut_its_chunks_differently_when_it_is_opened_again() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let source = Arc::new(Once { replays: true });
        let front = SourceFront { name: "s".into(), source, schema, event_time: None };
        let limits = |rows_max| Limits { rows_max, ..Limits::default() };
        let open = |note: &[u8], chunk| {
            SourceInput::open(&front, 0, note, Arc::new(|| {}), &Ten(chunk)).unwrap()
        };
        let first = open(&[], 10).gather(TaskId(1), (Time::MIN, Time::MIN), &limits(7)).unwrap();
        assert_eq!(first.rows, 7);
        let mut again = open(&first.note, 3);
        let mut places = Vec::new();
        loop {
            let turn = again.gather(TaskId(1), (Time::MIN, Time::MIN), &limits(2)).unwrap();
            for step in &turn.steps {
                let Piece::Rows(rows) = &step.piece else { continue };
                places.extend((0..rows.len()).map(|row| rows.origin(row).place()));
            }
            if turn.rows == 0 {
                break;
            }
        }
        assert_eq!(places, [8, 9, 10], "each row once");
    }

    #[test]
    fn what_cannot_be_given_again_is_taken_whole() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        for (replays, rows) in [(true, 3), (false, 10)] {
            let source = Arc::new(Once { replays });
            let front =
                SourceFront { name: "s".into(), source, schema: schema.clone(), event_time: None };
            let limits = Limits { rows_max: 3, ..Limits::default() };
            let mut input = SourceInput::open(&front, 0, &[], Arc::new(|| {}), &Ten(10)).unwrap();
            let turn = input.gather(TaskId(1), (Time::MIN, Time::MIN), &limits).unwrap();
            assert_eq!(turn.rows, rows);
            let note: Note = rmp_serde::from_slice(&turn.note).unwrap();
            assert_eq!(note.position.is_empty(), replays, "only a whole chunk moves the position");
        }
    }
}
