//! Begins an application with everything that another engine has, for its flows to go on where they
//! stopped.
//!
//! *Invariants*
//! - Streams, tasks and frames keep their numbers, so that frames and state are taken byte by byte:
//!   the application must be new, and what is moved counts its frames from 0, or from 1 behind one
//!   that is removed at once: that some are gone is to be seen.
//! - The first line of the registry says that it is under way, the last one that it is done. Nobody
//!   runs the application in between.
//! - The books go on: rows that were appended before are those of two tasks that never run,
//!   [`BEFORE`] and, for what came from no task, one of [`OUTSIDE`].
//!
//! *Failure:* what was begun and not ended stays unusable, and says so: see [`begun`].

mod same;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, mpsc},
};

use millstream_core::{
    Code, Error, Frame, Result,
    engine::{AtRest, Engine, InputSpec, Moved, PartitionAtRest, StreamAtRest},
    turn::{Progress, StreamId, TaskId},
};

use self::same::{Content, Digest, StateDigest, StateSum, same};
use super::{
    KafkaEngine, Options,
    codec::{Appended, Arrived, Line, TURNED, Turned, changed, frame_key, opened, pack, unpack},
    names::{Names, split},
    topics,
    views::{BEFORE, OUTSIDE},
};
use crate::client::{Client, Record, Records, TopicPartition};

/// What is written, or read back, at once.
const BYTES: usize = 4 << 20;
/// As many small records: the client's queue holds 100,000.
const RECORDS: usize = 10_000;
/// Partitions or tasks at a time.
const AT_ONCE: usize = 8;

/// Writes everything that `from` has into a new application, and reads it back.
///
/// `rest` is what `from` knows beside frames and state, [renumbered](AtRest::renumbered).
///
/// # Errors
/// [`Code::Conflict`] if there is anything of the application already; what Kafka refuses; and
/// [`Code::Corrupt`] if what is read back is something else.
pub fn take_over(
    from: &dyn Engine,
    rest: &AtRest,
    options: &Options,
    client: Arc<dyn Client>,
) -> Result<Moved> {
    let names = Names::new(&options.app)?;
    let mover = Mover { client: client.as_ref(), names: &names, rest };
    mover.is_new()?;
    mover.make(options.incarnation)?;
    let partitions = mover.partitions();
    let frames = each(&partitions, |at| mover.frames(from, *at))?;
    let (marks, contents): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
    let marks: Marks = partitions.iter().copied().zip(marks).collect();
    mover.remove(&partitions)?;
    let tasks: Vec<usize> = (0..rest.tasks.len()).collect();
    let states = each(&tasks, |n| mover.task(from, *n, &marks))?;
    let written = Digest { contents, states };
    mover.before(&marks)?;
    // Under the roof of the engine that will go on with it.
    let engine = KafkaEngine::connect_to(options, client.clone(), true)?.engine;
    same(from, rest, &engine, &partitions, &written)?;
    mover.lines(&[Line::Whole])?;
    Ok(written.moved(rest))
}

/// The error of an application that another engine's data was to be moved to, and was not to the
/// end.
pub(super) fn begun(app: &str) -> Error {
    Error::new(
        Code::Conflict,
        format!("application {app} is half made: data is being moved to it, or that was interrupted"),
    )
    .help(format!(
        "if nobody does so now, delete what is there: kafka-topics --delete --topic '{app}\\..*'"
    ))
    .help("then move it again (`millstream migrate --help`); the directory it comes from is as it was")
}

/// Per partition, what the two who stand for all have appended before each frame and the end.
type Marks = HashMap<InputSpec, Vec<Mark>>;

/// Counts before the frame of that number.
#[derive(Clone, Copy, Default)]
struct Mark {
    sent: u64,
    outside: u64,
    bytes: u64,
}

struct Mover<'a> {
    client: &'a dyn Client,
    names: &'a Names,
    rest: &'a AtRest,
}

impl Mover<'_> {
    /// Whoever stands for all tasks that have sent something before.
    fn before_id(&self) -> TaskId {
        TaskId(self.rest.tasks.len() as u32 + 1)
    }

    /// Whoever stands for what came from outside.
    fn outside_id(&self) -> TaskId {
        TaskId(self.rest.tasks.len() as u32 + 2)
    }

    /// The stages' topics, each with its partitions: as many as its streams have, for a task reads
    /// its own partition of each.
    fn stages(&self) -> Result<BTreeMap<&str, u32>> {
        let mut stages = BTreeMap::new();
        for task in &self.rest.tasks {
            let (stage, n) = split(&task.name)?;
            let read =
                task.inputs.iter().filter_map(|i| self.rest.streams.get(i.stream.0 as usize));
            let tasks = read.map(|s| s.spec.partitions).chain([n + 1]).max().unwrap_or(n + 1);
            let known = stages.entry(stage).or_insert(tasks);
            *known = tasks.max(*known);
        }
        Ok(stages)
    }

    fn registry(&self) -> TopicPartition {
        TopicPartition::new(self.names.registry(), 0)
    }

    fn is_new(&self) -> Result<()> {
        let app = self.names.app();
        let registry = self.names.registry();
        if self.client.topic(&registry)?.is_some() {
            let lines = self.read_lines()?;
            if matches!(lines.first(), Some(Line::Moving { .. })) && !lines.contains(&Line::Whole) {
                return Err(begun(app));
            }
        }
        let streams = self.rest.streams.iter().map(|s| self.names.stream(&s.spec.name));
        let stages = self.stages()?;
        let stages = stages.keys().map(|stage| self.names.state(stage));
        let all = [Ok(registry), Ok(self.names.progress()), Ok(self.names.members())];
        for topic in all.into_iter().chain(streams).chain(stages) {
            let topic = topic?;
            if self.client.topic(&topic)?.is_some() {
                let message = format!("application {app} is not new: there is a topic {topic}");
                return Err(Error::new(Code::Conflict, message)
                    .help("name another application: --app NAME")
                    .help(format!(
                        "or, if nothing in it is needed, delete all of it: kafka-topics --delete --topic '{app}\\..*'"
                    )));
            }
        }
        Ok(())
    }

    /// Makes the topics, and writes which streams and tasks there are.
    fn make(&self, by: u64) -> Result<()> {
        topics::common(self.client, self.names)?;
        let mut lines = vec![Line::Moving { by }];
        lines.extend(self.rest.streams.iter().map(|s| Line::Stream(s.spec.clone())));
        let task = |name: &str, inputs: &[InputSpec]| Line::Task {
            name: name.into(),
            inputs: inputs.to_vec(),
        };
        lines.extend(self.rest.tasks.iter().map(|t| task(&t.name, &t.inputs)));
        lines.extend([BEFORE, OUTSIDE].map(|who| task(&format!("{who}/moved/0"), &[])));
        self.lines(&lines)?;
        if self.read_lines()? != lines {
            let app = self.names.app();
            let message = format!("somebody else has begun application {app} at the same time");
            return Err(Error::new(Code::Conflict, message).help(topics::STARTS_OVER));
        }
        for stream in &self.rest.streams {
            let topic = self.names.stream(&stream.spec.name)?;
            topics::stream(self.client, &topic, &stream.spec, false)?;
        }
        for (stage, tasks) in self.stages()? {
            topics::state(self.client, self.names, stage, tasks)?;
        }
        Ok(())
    }

    fn lines(&self, lines: &[Line]) -> Result<()> {
        let (at, mut records) = (self.registry(), Records::default());
        for line in lines {
            records.push(&at, Record::of(&[], Some(&pack(line)?)));
        }
        self.append(records).map(drop)
    }

    fn read_lines(&self) -> Result<Vec<Line>> {
        let (at, mut lines) = (self.registry(), Vec::new());
        self.client.read_all(&at, |offset, record| {
            let line = record.value.and_then(unpack::<Line>);
            lines.push(line.ok_or_else(|| super::codec::foreign(&at, offset))?);
            Ok(())
        })?;
        Ok(lines)
    }

    /// Appends, and waits until that is durable. Returns the last record's offset.
    fn append(&self, records: Records) -> Result<u64> {
        let (done, heard) = mpsc::sync_channel(1);
        // Nobody listens who has gone away.
        let done = move |said| drop(done.send(said));
        self.client.append(records, Box::new(done));
        let unheard = |_| Error::new(Code::Unreachable, "kafka: an append was not answered");
        heard.recv().map_err(unheard)?
    }

    fn partitions(&self) -> Vec<InputSpec> {
        let streams = self.rest.streams.iter().zip(0..);
        let of = |(s, id): (&StreamAtRest, u32)| {
            (0..s.spec.partitions)
                .map(move |partition| InputSpec { stream: StreamId(id), partition })
        };
        streams.flat_map(of).collect()
    }

    fn known(&self, at: &InputSpec) -> Result<(&PartitionAtRest, TopicPartition)> {
        let stream = self.rest.streams.get(at.stream.0 as usize);
        let known = stream.and_then(|s| Some((s, s.partitions.get(at.partition as usize)?)));
        let (stream, known) = known.ok_or_else(|| Error::new(Code::Bug, format!("no {at:?}")))?;
        let topic = self.names.stream(&stream.spec.name)?;
        Ok((known, TopicPartition::new(topic, at.partition)))
    }

    /// A partition's frames, and what was appended before each of them.
    fn frames(&self, from: &dyn Engine, at: InputSpec) -> Result<(Vec<Mark>, Content)> {
        let (known, place) = self.known(&at)?;
        let kept = known.frames.end - known.frames.start;
        // Once to count, as what lies before the frames follows from them; once to write.
        let mut sum = Mark::default();
        read(from, at, kept, |frame| {
            count(&mut sum, &frame);
            Ok(())
        })?;
        let outside = known.outside_rows.saturating_sub(sum.outside);
        let sent = known.rows_before.saturating_sub(outside);
        let mut mark = Mark { sent, outside, bytes: known.bytes_before };
        let (mut marks, mut content) = (vec![mark], Content::default());
        let mut records = Records::default();
        if known.frames.start > 0 {
            records.push(&place, Record::of(&[], None));
            marks.push(mark);
        }
        let flush = |records: &mut Records, marks: &[Mark]| {
            if records.is_empty() {
                return Ok(());
            }
            let (last, expected) = (self.append(std::mem::take(records))?, marks.len() as u64 - 2);
            match last == expected {
                true => Ok(()),
                false => Err(Error::new(
                    Code::Conflict,
                    format!("{place}: a frame is at offset {last} and should be at {expected}"),
                )
                .help(
                    "somebody else writes into this topic; only this application may write there",
                )),
            }
        };
        read(from, at, kept, |frame| {
            let is_outside = count(&mut mark, &frame);
            let (who, rows) = match is_outside {
                true => (self.outside_id(), mark.outside),
                false => (self.before_id(), mark.sent),
            };
            marks.push(mark);
            records.push_shared(&place, &frame_key(who, rows), frame.bytes().clone());
            content.take(&frame);
            match records.bytes() >= BYTES || records.len() >= RECORDS {
                true => flush(&mut records, &marks),
                false => Ok(()),
            }
        })?;
        flush(&mut records, &marks)?;
        Ok((marks, content))
    }

    /// Removes what stands for frames that were gone before.
    fn remove(&self, partitions: &[InputSpec]) -> Result<()> {
        let first = |at| self.known(at).map(|(known, place)| (place, known.frames.start));
        let mut gone = partitions.iter().map(first).collect::<Result<Vec<_>>>()?;
        gone.retain(|(_, first)| *first > 0);
        if gone.is_empty() { Ok(()) } else { self.client.delete_before(&gone) }
    }

    /// A task's state, and where it stands.
    fn task(&self, from: &dyn Engine, n: usize, marks: &Marks) -> Result<StateSum> {
        let (id, task) = (TaskId(n as u32 + 1), &self.rest.tasks[n]);
        let (stage, partition) = split(&task.name)?;
        let at = TopicPartition::new(self.names.state(stage)?, partition);
        let (mut records, mut key) = (Records::default(), Vec::new());
        let mut state = StateDigest::default();
        from.visit_state(id, &mut |change| {
            state.take(&change);
            changed(&change, &mut key);
            records.push(&at, Record::of(&key, change.value));
            match records.bytes() >= BYTES || records.len() >= RECORDS {
                true => self.append(std::mem::take(&mut records)).map(drop),
                false => Ok(()),
            }
        })?;
        for n in 0..task.opens {
            let mut nonce = [0; 16];
            nonce[..4].copy_from_slice(&n.to_le_bytes());
            records.push(&at, Record::of(&opened(&nonce), Some(b"moved")));
        }
        // A task that has not come to its first turn begins with the oldest frames, as any new one.
        if task.progress.turn > 0 {
            let arrived = task.inputs.iter().enumerate().map(|(n, input)| {
                let progress = task.progress.inputs.get(n).map(|p| p.position);
                let read = progress.unwrap_or_default().frame as usize;
                let mark = marks.get(input).and_then(|marks| marks.get(read));
                let Mark { sent, outside, bytes } = mark.copied().unwrap_or_default();
                Arrived {
                    said: [(self.before_id(), sent), (self.outside_id(), outside)].into(),
                    before: task.rows_before.get(n).copied().unwrap_or_default(),
                    bytes,
                }
            });
            let (arrived, progress) = (arrived.collect(), task.progress.clone());
            let turned = Turned { progress, appended: Vec::new(), arrived };
            let turned = pack(&turned)?;
            records.push(&at, Record::of(TURNED, Some(&turned)));
            self.tell(&mut records, id, &turned);
        }
        self.append(records)?;
        Ok(state.sum())
    }

    /// What every node is told of a task.
    fn tell(&self, records: &mut Records, id: TaskId, turned: &[u8]) {
        let at = TopicPartition::new(self.names.progress(), 0);
        records.push(&at, Record::of(&id.0.to_le_bytes(), Some(turned)));
    }

    /// What the two who stand for all have appended.
    fn before(&self, marks: &Marks) -> Result<()> {
        let (mut sent, mut outside) = (Vec::new(), Vec::new());
        for (id, stream) in self.rest.streams.iter().enumerate() {
            for (partition, known) in stream.partitions.iter().enumerate() {
                let (stream, partition) = (StreamId(id as u32), partition as u32);
                let (rows, bytes) = (known.outside_rows, 0);
                outside.push(Appended { stream, partition, rows, bytes });
                let end = marks.get(&InputSpec { stream, partition }).and_then(|m| m.last());
                let bytes = end.map_or(0, |end| end.bytes);
                let rows = known.appended_rows - known.outside_rows;
                sent.push(Appended { stream, partition, rows, bytes });
            }
        }
        let mut records = Records::default();
        for (id, appended) in [(self.before_id(), sent), (self.outside_id(), outside)] {
            let progress = Progress { turn: 1, ..Progress::default() };
            let turned = Turned { progress, appended, arrived: Vec::new() };
            self.tell(&mut records, id, &pack(&turned)?);
        }
        self.append(records).map(drop)
    }
}

/// Hands out the frames of a partition that are kept: so many.
fn read(
    engine: &dyn Engine,
    at: InputSpec,
    kept: u64,
    mut take: impl FnMut(Frame) -> Result<()>,
) -> Result<()> {
    let (mut next, mut found) = (0, 0);
    while found < kept {
        let frames = engine.read(at.stream, at.partition, next, BYTES)?;
        let Some((last, _)) = frames.last() else { return Ok(()) };
        (next, found) = (last + 1, found + frames.len() as u64);
        frames.into_iter().try_for_each(|(_, frame)| take(frame))?;
    }
    Ok(())
}

/// Does something for each of many, some at a time: most of the time Kafka is waited for.
fn each<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let part = items.len().div_ceil(AT_ONCE).max(1);
    let act = &act;
    std::thread::scope(|scope| {
        let parts = items.chunks(part);
        let parts: Vec<_> = parts
            .map(|items| scope.spawn(move || items.iter().map(act).collect::<Result<Vec<R>>>()))
            .collect();
        let mut all = Vec::with_capacity(items.len());
        for part in parts {
            let done = part.join();
            all.extend(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

/// Counts a frame in. Whether no task has sent it.
fn count(mark: &mut Mark, frame: &Frame) -> bool {
    let is_outside = frame.header.producer == TaskId(u32::MAX);
    let rows = if is_outside { &mut mark.outside } else { &mut mark.sent };
    *rows += u64::from(frame.header.rows);
    mark.bytes += frame.bytes().len() as u64;
    is_outside
}
