//! A task: one partition of a stage, a synchronous state machine that turns input into turns.
//!
//! *Why:* driven step by step it needs no thread, no clock and no I/O of its own, so the simulator
//! runs exactly what production runs.
//!
//! *Invariants*
//! - Effects of a turn are handed out only by committing it.
//! - A failed turn leaves live state, timers and outputs as they were at the last seal.
//! - The same input in the same order gives the same turn.
//!
//! *Failure:* a unit's failure costs the unit (a dead letter). Anything else drops lease and live
//! state; the task is then opened again from its last committed turn.
//! *Limits:* [`crate::stage::Limits`]; at most two turns are unsettled.

pub mod caution;
pub mod chain;
mod exchange;
mod input;
mod live;
mod pace;
pub mod sink;
mod source;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millstream_core::{
    Batch, Code, Error, Origin, Result, Status, Time, Turn,
    connector::{Prepared, Source},
    engine::{Engine, TaskSpec, Ticket, Waker},
    letter::Letter,
    mutant::{self, Mutant},
    operator::{Mode, Probe, TurnPlan},
    turn::{InputProgress, Position, Progress, TaskId},
};

use self::{
    caution::{Caution, Floor, SMALL_TURNS},
    chain::{Chain, Produced, Setting},
    exchange::{Exchange, Stamp},
    input::StreamInputs,
    live::{GATE_EVERY, Input, Intake, Live},
    pace::Pace,
    sink::SinkOutput,
    source::SourceInput,
};
use crate::{
    connect::Connectors,
    node::Looked,
    queue::SlotId,
    stage::{Limits, SourceFront, Stage},
};

/// Turns that stay careful after one that had failures.
const CAREFUL_TURNS: u32 = 16;
/// Unsettled turns of a task that lags behind. One that keeps up has one, and gathers until that is
/// committed: a second turn, cut early, would only wait and make those behind it wait longer.
const IN_FLIGHT_MAX: usize = 2;

/// What a step has done.
#[derive(Clone, Debug, PartialEq)]
pub enum Did {
    /// Something; call again soon.
    Worked,
    /// Nothing; call when woken, or at this time.
    Idle {
        /// When there will be something to do without being woken.
        until: Option<Time>,
    },
    /// It has ended: all input is consumed, all output handed over, nothing will come.
    Ended,
    /// It cannot go on; its supervisor decides. It is opened again by the next step.
    Failed(Error),
}

/// What a task is given to live in.
#[derive(Clone)]
pub struct Surroundings {
    /// Makes turns durable.
    pub engine: Arc<dyn Engine>,
    /// Runs sources and sinks.
    pub connectors: Arc<dyn Connectors>,
    /// Says whether sources may take in more.
    pub gate: Arc<dyn Fn() -> bool + Send + Sync>,
    /// The flow's sources, by the stage that reads them: they know what places in them are called.
    pub sources: Arc<BTreeMap<String, SourceFront>>,
    /// The right to try an event alone.
    pub floor: Arc<Floor>,
    /// Its place on the node, by which it has that right.
    pub slot: SlotId,
    /// The task's waker.
    pub waker: Waker,
}

/// One partition of a stage.
pub struct Task {
    stage: Arc<Stage>,
    partition: u32,
    around: Surroundings,
    probe: Arc<Probe>,
    live: Option<Live>,
    /// The turn that calls never returned from, and which ones it goes without.
    suspect: Option<TurnPlan>,
    /// The engine has refused the turn of an event that was tried alone, or did not let it be
    /// tried: no death, so that attempt does not count.
    refused: bool,
    pace: Pace,
    stats: TaskStats,
}

/// What a task has been through since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskStats {
    /// Turns handed to the engine.
    pub turns: u64,
    /// Turns that were run again, unit by unit.
    pub isolated: u64,
    /// Records taken in, with those that could not be decoded.
    pub records: u64,
    /// Records set aside.
    pub bad: u64,
    /// What was set aside: these, timers and firings.
    pub letters: u64,
    /// Times the task was opened.
    pub opens: u64,
}

impl Task {
    /// Task `partition` of `stage`; nothing happens before the first step.
    pub fn new(stage: Arc<Stage>, partition: u32, around: Surroundings) -> Task {
        let probe = Arc::new(Probe::default());
        Task {
            stage,
            partition,
            around,
            probe,
            live: None,
            suspect: None,
            refused: false,
            pace: Pace::new(),
            stats: TaskStats::default(),
        }
    }

    /// The engine's name for it.
    pub fn name(&self) -> String {
        self.stage.task_name(self.partition)
    }

    /// Where the current turn is, for the watchdog.
    pub fn probe(&self) -> Arc<Probe> {
        self.probe.clone()
    }

    /// What it has been through.
    pub fn stats(&self) -> TaskStats {
        self.stats
    }

    /// Never runs call `call` of the turn that `plan` names: it did not return. What the plan
    /// left out already stays out, since a turn may hold many such calls.
    pub fn suspect(&mut self, call: u64, mut plan: TurnPlan) {
        plan.without.push(call);
        self.suspect = Some(plan);
    }

    /// Up to where the next turn may read so that suspects are met in the same turn again, and
    /// which calls of it must not be executed.
    fn caution(&mut self, progress: &Progress) -> (Vec<Position>, Vec<u64>) {
        let Some(plan) = &self.suspect else { return (Vec::new(), Vec::new()) };
        let at: Vec<Position> = progress.inputs.iter().map(|i| i.position).collect();
        // Where a source stands is not compared.
        let streams_alone = self.stage.front.source.is_none();
        let reached = |to: &[Position]| at.iter().zip(to).all(|(at, to)| at >= to);
        match () {
            // Turns before it were handed in but never committed: they come first.
            _ if !reached(&plan.from) => (plan.from.clone(), Vec::new()),
            _ if at == plan.from && (streams_alone || progress.turn == plan.after) => {
                (plan.to.clone(), plan.without.clone())
            }
            // It was committed after all, or cut otherwise; if the call hangs again, it is found
            // again.
            _ => {
                self.suspect = None;
                (Vec::new(), Vec::new())
            }
        }
    }

    /// Drops lease and live state; the next step opens the task again.
    pub fn close(&mut self) {
        self.live = None;
    }

    /// Whether it has neither.
    #[cfg(test)]
    pub fn is_closed(&self) -> bool {
        self.live.is_none()
    }

    /// The committed value of a key in the operator `kind`'s table.
    pub fn inspect(&mut self, kind: &str, key: &[u8]) -> Option<Vec<u8>> {
        let live = self.live.as_mut().filter(|l| l.restored)?;
        let operator = live.chain.operators().iter_mut().find(|o| o.name() == kind)?;
        let tables = operator.tables();
        tables.into_iter().find_map(|t| t.sealed(key).map(<[u8]>::to_vec))
    }

    /// Whether nothing it has begun is open: turns are durable where somebody waits for it, and a
    /// sink has written what was committed.
    pub fn is_settled(&self) -> bool {
        // One that has failed, or is being opened, may have to write once more.
        self.live.as_ref().is_some_and(Live::is_settled)
    }

    /// As [`Task::inspect`], but tells a missing process from a task that is not ready.
    pub fn look(&mut self, kind: &str, key: &[u8]) -> Looked {
        if self.live.as_ref().is_none_or(|l| !l.restored) {
            return Looked::Busy;
        }
        self.inspect(kind, key).map_or(Looked::Missing, Looked::Found)
    }

    /// How many keys live here.
    pub fn keys(&mut self) -> usize {
        let Some(live) = self.live.as_mut() else { return 0 };
        live.chain.operators().iter_mut().flat_map(|o| o.tables()).map(|t| t.len()).sum()
    }

    /// Goes on, by at most one turn.
    pub fn step(&mut self, now: Time) -> Did {
        let result = match self.live.take() {
            None => self.open(),
            Some(live) => self.drive(live, now),
        };
        result.unwrap_or_else(|error| {
            self.live = None;
            Did::Failed(error)
        })
    }

    /// The last step has taken this long: the next turns are made accordingly.
    pub fn took(&mut self, used: Duration) {
        self.pace.took(used, &self.stage.limits);
    }

    fn open(&mut self) -> Result<Did> {
        let front = &self.stage.front;
        let streams = StreamInputs::new(&front.streams, self.partition);
        let spec = TaskSpec {
            name: self.name(),
            tasks: self.stage.partitions,
            inputs: streams.specs(),
            waker: self.around.waker.clone(),
        };
        let Some(mut lease) = self.around.engine.open(&spec)? else {
            return Ok(match self.around.engine.has_ended(&spec.name) {
                true => Did::Ended,
                false => Did::Idle { until: None },
            });
        };
        self.stats.opens += 1;
        let recovered = lease.recovered().clone();
        let progress = recovered.progress;
        let (around, partition) = (&self.around, self.partition);
        let mut sink = None;
        if let Some(target) = &self.stage.sink {
            sink = Some(SinkOutput::open(
                target,
                partition,
                front.streams.first().map(|f| f.schema.clone()).ok_or_else(no_front)?,
                &progress,
                &streams,
                lease.as_mut(),
                around.waker.clone(),
            )?);
        }
        let source = front.source.as_ref().map(|front| {
            let (note, waker) = (&progress.note, around.waker.clone());
            SourceInput::open(front, partition, note, waker, around.connectors.as_ref())
        });
        let input = Input { streams, source: source.transpose()? };
        // What it begins with may be what ended the one before; unless there was none.
        let small = match progress.turn == 0 && recovered.opens == 1 {
            true => 0,
            false => SMALL_TURNS,
        };
        // After a call that did not return it is known what to leave out, unless a cautious turn
        // was announced: that one is what to repeat.
        let cautious = match self.suspect.is_some() && progress.announced == 0 {
            true => None,
            false => Caution::of(recovered.opens, &progress, self.stage.limits.rows_max),
        };
        self.live = Some(Live {
            chain: Chain::new((self.stage.chain)(self.partition), self.probe.clone()),
            exchange: Exchange::open(&self.stage, self.partition)?,
            lease,
            input,
            sink,
            progress: Progress { quiet: true, ended: false, ..progress },
            status: Status::Active,
            restored: false,
            // Firings may have been cut short; but a turn that hung is run again as it was.
            more: self.suspect.is_none(),
            careful: 0,
            cautious,
            small,
            held: None,
            floor: None,
            announced: None,
            alone: false,
            tried: None,
            fired: Time::MIN,
            held_back: None,
            rotation: 0,
            unsettled: VecDeque::new(),
            full: false,
            awaiting: VecDeque::new(),
        });
        Ok(Did::Worked)
    }

    fn drive(&mut self, mut live: Live, now: Time) -> Result<Did> {
        if !live.restored {
            live.restore()?;
            self.live = Some(live);
            return Ok(Did::Worked);
        }
        if let Err(error) = live.settle() {
            // What is too large stays too large: that is the event's own doing.
            self.refused = live.alone && error.code() != Code::Limit;
            return Err(error);
        }
        let full = live.unsettled.len() >= if live.full { IN_FLIGHT_MAX } else { 1 };
        let blocked = match &mut live.sink {
            Some(sink) => !sink.ready(live.lease.as_ref(), self.around.connectors.as_ref())?,
            None => false,
        };
        let lasts = |ticket: &Ticket| live.lease.durable(*ticket);
        live.alone &= live.tried.take_if(|(ticket, _)| lasts(ticket)).is_none();
        let announcing = live.announced.as_ref().is_some_and(|ticket| !lasts(ticket));
        if full || blocked || announcing || live.tried.is_some() {
            self.live = Some(live);
            return Ok(Did::Idle { until: None });
        }
        let clock = now.max(live.progress.clock);
        let did = self.turn(&mut live, now, clock)?;
        self.live = Some(live);
        Ok(did)
    }

    /// Takes in, runs and commits one turn, if there is anything to do. The turn's clock never goes
    /// back; how long to wait goes by `now`: behind it if the machine's clock was set back.
    fn turn(&mut self, live: &mut Live, now: Time, clock: Time) -> Result<Did> {
        let suspected = self.suspect.is_some();
        let (until, mut suspects) = self.caution(&live.progress);
        // Without a turn to repeat, firings that were cut short come first, as after any opening.
        live.more |= suspected && self.suspect.is_none();
        let intake = match live.held.take() {
            Some(intake) => intake,
            None => self.intake(live, &until, now, clock)?,
        };
        let due = live.chain.wake_at().is_some_and(|t| t <= clock);
        let moved = intake.next.watermark > live.progress.watermark || intake.status != live.status;
        let consumed = intake.rows > 0
            || !intake.letters.is_empty()
            || !intake.durable.is_empty()
            || intake.next.inputs != live.progress.inputs
            || intake.next.note != live.progress.note;
        let every = self.stage.limits.watermark_every;
        let owed = live.exchange.owes_watermark(live.fired, live.status, every);
        let owes = owed.is_some_and(|t| t <= now) && !live.more;
        if !(consumed || due || moved || owes || live.more || !suspects.is_empty()) {
            return Ok(live.idle(owed));
        }
        if (live.progress.quiet || live.cautious.is_some()) && live.announced.is_none() {
            // Without rows it is firings that are tried, as many as may be.
            let events = match intake.rows {
                0 if live.chain.is_due(intake.next.watermark, clock) => {
                    live.cautious.map_or(1, |caution| caution.step)
                }
                rows => rows,
            };
            if events > 0 && live.floor.is_none() {
                live.floor = self.around.floor.take(self.around.slot, live.cautious.is_some());
                if live.floor.is_none() {
                    live.held = Some(intake);
                    return Ok(Did::Idle { until: Some(now + GATE_EVERY) });
                }
            }
            if events > 0 && live.cautious.is_some() {
                live.held = Some(intake);
                live.announce(events, std::mem::take(&mut self.refused), now);
                return Ok(Did::Worked);
            }
        }
        let positions = |p: &Progress| p.inputs.iter().map(|i| i.position).collect();
        let repeated = !suspects.is_empty();
        let beyond = live.progress.attempts.saturating_sub(self.stage.limits.attempts_max);
        if live.cautious.is_some_and(|caution| caution.step == 1) && beyond > 0 {
            suspects = vec![u64::from(caution::suspect(beyond))];
        }
        self.probe.set_plan(TurnPlan {
            after: live.progress.turn,
            from: positions(&live.progress),
            to: positions(&intake.next),
            without: suspects.clone(),
        });
        let produced = self.run(live, &intake, &suspects, clock)?;
        // What was announced is committed although nothing came of it: that ends the attempt, and
        // gives the floor back.
        let quiet = !(consumed || due || moved || owes) && live.announced.is_none();
        if live.more && quiet && produced.is_empty() {
            live.more = produced.more; // nothing was left to fire
            live.floor = None;
            live.fired = live.progress.watermark;
            return Ok(Did::Worked);
        }
        if repeated {
            self.suspect = None;
        }
        self.commit(live, intake, produced, now, clock)
    }

    /// The bounds of the next turn.
    fn limits(&self, live: &Live) -> Limits {
        let limits = self.stage.limits;
        match live.cautious {
            Some(Caution { step, .. }) => limits.at_most(step),
            // A turn that hung is run again as it was.
            None if self.suspect.is_some() => limits,
            None if live.small > 0 => self.pace.bound(&limits.at_most(pace::FIRST)),
            None => self.pace.bound(&limits),
        }
    }

    fn intake(
        &mut self,
        live: &mut Live,
        until: &[Position],
        now: Time,
        clock: Time,
    ) -> Result<Intake> {
        let limits = self.limits(live);
        let mut intake = Intake {
            steps: Vec::new(),
            letters: Vec::new(),
            next: live.progress.clone(),
            status: live.status,
            rows: 0,
            full: false,
            durable: Vec::new(),
        };
        if live.more && live.progress.turn > 0 {
            // What was due before is fired before more is read, so that a turn stays bounded.
            return Ok(intake);
        }
        let Input { streams, source } = &mut live.input;
        let (lease, at) = (live.lease.as_mut(), &live.progress.inputs);
        let gathered = streams.gather(lease, at, &limits, live.rotation, until)?;
        live.rotation = live.rotation.wrapping_add(1);
        let (mut watermark, mut status) = streams.time(&gathered.progress);
        intake.steps = gathered.steps;
        intake.rows = gathered.rows;
        intake.full = gathered.bytes >= limits.bytes_max / 2 || intake.rows >= limits.rows_max;
        intake.next.inputs = gathered.progress;
        if let Some(source) = source {
            // Messages move no time.
            (watermark, status) = (live.progress.watermark, live.status);
            live.held_back = match (self.around.gate)() {
                // A closed gate opens without a call: look again soon.
                false => Some(now + GATE_EVERY),
                true => source.gathers_until(now, limits.gather),
            };
            if live.held_back.is_none() && !intake.full {
                let limits = limits.at_most(limits.rows_max - intake.rows);
                let turn = source.gather(live.lease.task(), (now, clock), &limits)?;
                intake.rows += turn.rows;
                intake.full |= turn.bytes >= limits.bytes_max / 2 || turn.rows >= limits.rows_max;
                intake.steps.extend(turn.steps);
                intake.letters = turn.letters;
                intake.next.note = turn.note;
                intake.next.counters.source.get_or_insert_default().add(&turn.counters);
                (watermark, status) = (turn.watermark, turn.status);
                intake.durable = turn.durable;
            }
        }
        intake.next.watermark = watermark.max(live.progress.watermark);
        intake.status = status;
        Ok(intake)
    }

    /// Optimistically first, unit by unit if that fails or lately did.
    fn run(
        &mut self,
        live: &mut Live,
        intake: &Intake,
        suspects: &[u64],
        clock: Time,
    ) -> Result<Produced> {
        let setting = Setting {
            clock,
            before: live.progress.watermark,
            after: intake.next.watermark,
            firings_max: self.limits(live).firings_max,
            suspects,
        };
        if live.careful == 0 && suspects.is_empty() {
            if let Ok(produced) = live.chain.run(&intake.steps, &setting, Mode::Optimistic) {
                return Ok(produced);
            }
            self.stats.isolated += 1;
        }
        let produced =
            live.chain.run(&intake.steps, &setting, Mode::Careful).map_err(|failure| {
                if failure.stop {
                    return Error::new(Code::Stopped, format!("{}: {failure}", self.name()))
                        .help("its policy is `stop`; with `dead_letter` the record is set aside");
                }
                Error::new(
                    Code::Failed,
                    format!("{} failed outside of any record: {failure}", self.name()),
                )
                .help(failure.backtrace)
            })?;
        live.careful = match produced.failures {
            0 => live.careful.saturating_sub(1),
            _ => CAREFUL_TURNS,
        };
        Ok(produced)
    }

    fn commit(
        &mut self,
        live: &mut Live,
        intake: Intake,
        mut produced: Produced,
        now: Time,
        clock: Time,
    ) -> Result<Did> {
        let taken = intake.rows + intake.letters.len();
        let mut next = intake.next;
        let before = std::mem::take(&mut live.progress);
        next.turn = before.turn + 1;
        next.clock = clock;
        if live.announced.take().is_some() {
            live.cautious = live.cautious.and_then(|caution| caution.after(intake.rows));
            (next.announced, next.attempts) = (0, 0);
            next.suspected = live.cautious.map_or(0, |caution| caution.left as u32);
        }
        let done = taken > 0 || !produced.is_empty();
        next.quiet &= !done;
        for (name, counters) in &produced.counters.operators {
            next.counters.operators.entry(name.clone()).or_default().add(counters);
        }
        let mut prepared = None;
        if let Some(sink) = &mut live.sink {
            let rows: Vec<Batch> =
                std::mem::take(&mut produced.rows).into_iter().map(|(_, b)| b).collect();
            prepared = self.prepare(sink, &rows, &before, &mut next)?;
        }
        if !produced.more {
            // Downstream must not see a watermark whose firings are still to come.
            live.fired = next.watermark;
            live.status = intake.status;
        }
        let waits = produced.more || live.chain.wake_at().is_some();
        next.ended = live.status == Status::Ended && !waits;
        let stamp = Stamp {
            producer: live.lease.task(),
            turn: next.turn,
            watermark: live.fired,
            status: live.status,
        };
        let mut turn = Turn { progress: next, delta: produced.delta, ..Turn::default() };
        live.exchange.rows(produced.rows, stamp, &mut turn)?;
        live.exchange.mail(produced.mail, stamp, &mut turn)?;
        let mut letters = self.address(intake.letters, produced.letters, clock);
        if mutant::is(Mutant::DropFrame) && stamp.turn % 16 == 3 {
            turn.outputs.pop();
        }
        if mutant::is(Mutant::LoseLetter) && stamp.turn % 4 == 1 {
            letters.pop();
        }
        self.stats.letters += letters.len() as u64;
        self.stats.bad += letters.iter().filter(|l| l.trigger.is_record()).count() as u64;
        live.exchange.letters(letters, stamp, &mut turn)?;
        if !produced.more {
            live.exchange.watermarks(stamp, now, self.stage.limits.watermark_every, &mut turn)?;
        }
        if mutant::is(Mutant::ApplyTwice) && stamp.turn % 16 == 3 {
            turn.outputs.extend(turn.outputs.clone());
        }
        live.more = produced.more;
        live.full = intake.full || live.more;
        live.progress = turn.progress.clone();
        let ticket = live.lease.commit(turn);
        self.stats.turns += 1;
        self.stats.records += taken as u64;
        self.pace.turn(taken, live.more);
        live.unsettled.push_back(ticket);
        let floor = live.floor.take();
        live.tried = (floor.is_some() || live.small > 0).then_some((ticket, floor));
        live.small = live.small.saturating_sub(u32::from(done));
        if !intake.durable.is_empty() {
            live.awaiting.push_back((ticket, intake.durable));
        }
        if let (Some(sink), Some(prepared)) = (&mut live.sink, prepared) {
            sink.committed(ticket, prepared);
        }
        Ok(Did::Worked)
    }

    fn prepare(
        &self,
        sink: &mut SinkOutput,
        rows: &[Batch],
        before: &Progress,
        next: &mut Progress,
    ) -> Result<Option<Prepared>> {
        let counted = next.counters.operators.entry(self.stage.name.clone()).or_default();
        let n = rows.iter().map(|b| b.len() as u64).sum::<u64>();
        counted.read += n;
        if rows.is_empty() {
            // Nothing to write: the last range stays the one to confirm, and its frames stay.
            for (input, old) in next.inputs.iter_mut().zip(&before.inputs) {
                input.keep_from = old.keep_from;
            }
            return Ok(None);
        }
        let (prepared, note) = sink.prepare(rows, before)?;
        counted.processed += n;
        for (at, input) in next.inputs.iter_mut().enumerate() {
            input.keep_from = before.inputs.get(at).map_or(0, |i: &InputProgress| i.position.frame);
        }
        next.note = note;
        Ok(Some(prepared))
    }

    /// Fills in where letters come from; the names of places are known here, not in operators.
    fn address(&self, undecodable: Vec<Letter>, failed: Vec<Letter>, clock: Time) -> Vec<Letter> {
        // Few sources cause many letters.
        let mut sources: BTreeMap<u32, (String, Option<&SourceFront>, u32)> = BTreeMap::new();
        let mut place = |letter: &mut Letter| {
            let origin = Origin(letter.place);
            letter.place = origin.place();
            if origin == Origin::NONE {
                return;
            }
            let (name, front, partition) = sources.entry(origin.source()).or_insert_with(|| {
                let task = self.around.engine.task_name(TaskId(origin.source()));
                let mut parts = task.as_deref().unwrap_or_default().rsplit('/');
                let partition = parts.next().and_then(|p| p.parse().ok()).unwrap_or_default();
                let stage = parts.next().unwrap_or_default();
                let front = self.around.sources.get(stage);
                (front.map_or(stage, |front| &front.name).to_string(), front, partition)
            });
            letter.source.clone_from(name);
            let Some(source) = front.map(|front| &front.source) else { return };
            if let Some(at) = source.place(*partition, letter.place) {
                (letter.file, letter.place) = (at, 0);
            }
            name_file(letter, &**source);
        };
        let own = self.stage.front.source.as_ref();
        let undecodable = undecodable.into_iter().map(|mut letter| {
            letter.operator.clone_from(&self.stage.name);
            if let Some(own) = own {
                letter.source.clone_from(&own.name);
                name_file(&mut letter, &*own.source);
            }
            letter
        });
        let failed = failed.into_iter().map(|mut letter| {
            place(&mut letter);
            letter
        });
        let here = |mut letter: Letter| {
            letter.time = clock;
            letter.flow.clone_from(&self.stage.flow);
            letter.stage.clone_from(&self.stage.name);
            letter
        };
        undecodable.chain(failed).map(here).collect()
    }
}

/// Says which file a letter comes from, unless that is known.
fn name_file(letter: &mut Letter, source: &dyn Source) {
    if letter.file.is_empty() {
        letter.file = source.file().unwrap_or_default();
    }
}

fn no_front() -> Error {
    Error::new(Code::Bug, "a stage without a front")
}

#[cfg(test)]
mod tests;
