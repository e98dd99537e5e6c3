//! The operator that is a process kind: finds each row's process, wakes it, and keeps its timers.
//!
//! *Invariants*
//! - Before a row is handled, its key's event timers up to the watermark at that row have fired;
//!   so a process sees the same sequence however rows fall into turns.
//! - What fires before a row comes to an end: a timer sets others of its clock only for later than
//!   it was due ([`Context::set_timer`]).
//! - For every process with timers the heap of each clock holds an entry no later than its
//!   earliest one.
//!
//! *Failure:* a failed unit leaves state, timers, outputs and messages as they were; the unit is
//! a dead letter, or stops the flow, as the policy says.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{Int64Type, TimestampMillisecondType},
};
use arrow_schema::{DataType, FieldRef, SchemaRef};
use millstream_core::{
    Batch, Code, Error, Origin, Time,
    key::{Keys, hash},
    letter::{Trigger, row_payload},
    mail::{Mail, MailKind},
    mutant::{self, Mutant},
    operator::{Advance, Mode, Operator, Outcome, Scope, Unit},
    table::StateTable,
};
use millstream_runtime::{
    catch::catch,
    table::{EntryId, Table, Value},
};
use serde::Deserialize;

use crate::{
    process::{Context, Effects, Emitted, Failure, Kinds, Moment, Process, Result, Timers},
    rows::reject_long_key,
};

/// The hidden timer behind idle expiry.
const IDLE: &str = "$idle";
/// Entries of a heap beside two for each process; with more it is tidied up.
const SPARE_MAX: usize = 1_024;

/// What happens to an event whose handler fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It is set aside; the process goes on with the next event.
    #[default]
    DeadLetter,
    /// The flow stops at the event, which stays in the mailbox.
    Stop,
}

/// How the processes of one kind live.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// What happens to an event whose handler fails.
    pub on_error: OnError,
    /// The largest state of one process, in bytes; an event that makes it larger has failed. States
    /// are measured where a turn ends: one that is too large only between two events of a turn may
    /// pass.
    pub state_bytes_max: usize,
    /// A process without events for this long ends ([`Process::terminate`]); `None`: never.
    pub idle_expiry: Option<Duration>,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        ProcessOptions {
            on_error: OnError::DeadLetter,
            state_bytes_max: 1 << 20,
            idle_expiry: None,
        }
    }
}

impl From<OnError> for ProcessOptions {
    fn from(on_error: OnError) -> Self {
        ProcessOptions { on_error, ..ProcessOptions::default() }
    }
}

/// Everything a host needs to know.
#[derive(Clone)]
pub(crate) struct HostSpec {
    pub kind: String,
    pub keys: Vec<usize>,
    pub event_time: Option<usize>,
    pub output: SchemaRef,
    pub sides: Vec<(String, SchemaRef)>,
    pub kinds: Kinds,
    pub options: ProcessOptions,
}

/// What a heap holds for a process.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheduled {
    /// Nothing that counts.
    No,
    /// An entry at this time; others are stale.
    At(Time),
    /// An entry no later than this: the process was read back and does not know better.
    Until(Time),
}

impl Scheduled {
    /// Whether an entry at `due` is the one that counts.
    fn is_due(self, due: Time) -> bool {
        match self {
            Scheduled::No => false,
            Scheduled::At(time) => time == due,
            Scheduled::Until(time) => due <= time,
        }
    }

    /// Whether a timer at `due` needs an entry of its own.
    fn lacks(self, due: Time) -> bool {
        match self {
            Scheduled::No => true,
            Scheduled::At(time) | Scheduled::Until(time) => due < time,
        }
    }
}

/// A process's state and timers.
struct Cell<P> {
    state: P,
    timers: Timers,
    /// Per clock: what the heap holds for this process.
    scheduled: [Scheduled; 2],
    bytes_max: usize,
}

impl<P: Process> Value for Cell<P> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.extend_from_slice(&P::STATE_VERSION.to_le_bytes());
        self.timers.encode(out)?;
        rmp_serde::encode::write_named(out, &self.state)
            .map_err(|e| Failure::new(format!("state cannot be serialised: {e}")))?;
        match out.len() - start {
            n if n > self.bytes_max => {
                Err(Failure::new(format!("state of {n} bytes; the limit is {}", self.bytes_max)))
            }
            _ => Ok(()),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let (version, mut rest) =
            bytes.split_first_chunk::<2>().ok_or_else(|| Failure::new("empty state"))?;
        let version = u16::from_le_bytes(*version);
        let timers = Timers::decode(&mut rest)?;
        let mut state = None;
        // Caught, since a state is also read outside of any unit.
        catch(&mut || {
            state = Some(match version == P::STATE_VERSION {
                true => rmp_serde::from_slice(rest)?,
                false => P::migrate(version, rmp_serde::from_slice(rest)?)?,
            });
            Ok(())
        })?;
        let state = state.ok_or_else(|| Failure::new("no state"))?;
        let earliest = |clock| timers.earliest(clock).map_or(Scheduled::No, Scheduled::Until);
        Ok(Cell { scheduled: [earliest(0), earliest(1)], state, timers, bytes_max: usize::MAX })
    }
}

/// What woke a process.
enum Wake<I> {
    Input(I),
    Timer { clock: usize, now: Time },
}

/// When processes are due, the earliest first.
type Heap = BinaryHeap<Reverse<(Time, EntryId)>>;

/// The operator behind [`crate::Flow::process`].
pub(crate) struct ProcessHost<P: Process> {
    spec: Arc<HostSpec>,
    side_names: Vec<String>,
    fields: Vec<FieldRef>,
    table: Table<Cell<P>>,
    heaps: [Heap; 2],
    popped: Vec<(usize, Time, EntryId)>,
    effects: Effects<P::Out>,
    /// Takes each row that a careful unit emits, to see whether it can be taken.
    checker: Option<serde_arrow::ArrayBuilder>,
}

impl<P: Process> ProcessHost<P> {
    pub fn new(spec: Arc<HostSpec>) -> Self {
        ProcessHost {
            side_names: spec.sides.iter().map(|(name, _)| name.clone()).collect(),
            fields: spec.output.fields().to_vec(),
            table: Table::new(&spec.kind),
            heaps: Default::default(),
            popped: Vec::new(),
            effects: Effects::default(),
            checker: None,
            spec,
        }
    }

    /// Runs one unit of process `entry` and, in careful mode, contains its failure. `true` if it
    /// went well.
    fn unit(
        &mut self,
        entry: EntryId,
        moment: Moment,
        trigger: Trigger,
        scope: &mut Scope<'_>,
        wake: &mut dyn FnMut() -> Result<Wake<P::In>>,
        payload: &dyn Fn() -> Vec<u8>,
    ) -> Result<bool> {
        if scope.mode == Mode::Optimistic {
            scope.enter()?;
            return self.wake(entry, moment, wake()?).map(|()| true);
        }
        let mark = (self.effects.rows.len(), self.effects.sides.len(), self.effects.mail.len());
        let saved = self.table.save(entry);
        let outcome = scope.unit(|_| {
            if let Err(failure) = &saved {
                return Err(failure.clone());
            }
            self.wake(entry, moment, wake()?)?;
            self.check(entry, mark.0, mark.1)
        })?;
        let Outcome::Failed(mut failure) = outcome else { return Ok(true) };
        self.checker = None; // it may hold half a row
        self.effects.rows.truncate(mark.0);
        self.effects.sides.truncate(mark.1);
        self.effects.mail.truncate(mark.2);
        if let Ok(saved) = &saved {
            self.table.put_back(entry, saved)?;
        }
        if self.spec.options.on_error == OnError::Stop {
            failure.stop = true;
            return Err(failure);
        }
        let key = self.table.key(entry).to_vec();
        scope.dead(&Unit { trigger, key: &key, origin: moment.origin }, failure, payload());
        Ok(false)
    }

    /// Serialises what the unit leaves behind, so that what cannot be is this unit's failure.
    fn check(&mut self, entry: EntryId, rows: usize, sides: usize) -> Result<()> {
        for emitted in &self.effects.rows[rows..] {
            let checker = match &mut self.checker {
                Some(checker) => checker,
                none => none.insert(serde_arrow::ArrayBuilder::from_arrow(&self.fields)?),
            };
            checker.push(&emitted.row)?;
        }
        for (port, side) in &self.effects.sides[sides..] {
            serde_arrow::to_record_batch(self.spec.sides[port - 1].1.fields(), &[&side.row])?;
        }
        // Last: what was saved before the unit must stay valid if anything above fails.
        self.table.save(entry)?;
        Ok(())
    }

    /// Wakes a process: makes it if need be, calls its handler, keeps what it leaves.
    fn wake(&mut self, entry: EntryId, moment: Moment, wake: Wake<P::In>) -> Result<()> {
        let bytes_max = self.spec.options.state_bytes_max;
        // What a failure leaves half changed is put back by the unit, or undone with the turn.
        let (key, value) = self.table.key_and_value_mut(entry)?;
        let made = value.is_none();
        if made && matches!(wake, Wake::Timer { .. }) {
            return Ok(()); // ended since the timer was set
        }
        let cell = value.get_or_insert_with(|| Cell {
            state: P::default(),
            timers: Timers::default(),
            scheduled: [Scheduled::No; 2],
            bytes_max,
        });
        cell.bytes_max = bytes_max;
        let Cell { state, timers, .. } = cell;
        let mut fired_at = None;
        let fired = match &wake {
            Wake::Timer { clock, now } => match timers.take_due(*clock, *now) {
                Some((due, name)) => {
                    if mutant::is(Mutant::FireTwice) && due.ms() % 3 == 0 {
                        timers
                            .set(&name, crate::process::At::Event(due + Duration::from_millis(1)));
                    }
                    fired_at = Some((*clock, due));
                    Some(name)
                }
                None => return Ok(()),
            },
            Wake::Input(_) => None,
        };
        let mut ctx = Context {
            key,
            moment,
            kind: &self.spec.kind,
            kinds: &self.spec.kinds,
            sides: &self.side_names,
            timers,
            effects: &mut self.effects,
            stopped: false,
            due: fired_at,
            refused: None,
        };
        if made {
            state.init(&mut ctx)?;
        }
        match (wake, &fired) {
            (Wake::Input(input), _) => {
                state.handle(input, &mut ctx)?;
                if let Some(idle) = self.spec.options.idle_expiry {
                    ctx.timers.set(IDLE, crate::process::At::Processing(moment.now + idle));
                }
            }
            (Wake::Timer { .. }, Some(name)) if &**name == IDLE => ctx.stop(),
            (Wake::Timer { .. }, Some(name)) => state.on_timer(name, &mut ctx)?,
            (Wake::Timer { .. }, None) => {}
        }
        if let Some(refused) = ctx.refused.take() {
            return Err(refused);
        }
        if ctx.stopped {
            state.terminate(&mut ctx)?;
            *value = None;
        } else {
            schedule(&mut self.heaps, entry, cell);
        }
        Ok(())
    }

    /// Whether a process may have a timer of event time that is due; `false` is sure. A state that
    /// cannot be read is the failure of the unit that comes next.
    fn may_be_due(&mut self, entry: EntryId, now: Time) -> bool {
        match self.table.value(entry) {
            Ok(Some(cell)) => match cell.scheduled[0] {
                Scheduled::No => false,
                Scheduled::At(time) | Scheduled::Until(time) => time <= now,
            },
            Ok(None) | Err(_) => false,
        }
    }

    /// Sets aside the timers, due at `due`, of a process whose state cannot be read. They stay in
    /// the state, so they come up again when the task is opened.
    fn set_aside(
        &mut self,
        entry: EntryId,
        due: Time,
        mut failure: Failure,
        scope: &mut Scope<'_>,
    ) -> Result<()> {
        failure.stop = self.spec.options.on_error == OnError::Stop;
        if scope.mode == Mode::Optimistic || failure.stop {
            return Err(failure);
        }
        scope.out.counters.fired += 1;
        scope.out.counters.dead_firings += 1;
        let unit =
            Unit { trigger: Trigger::Timer, key: self.table.key(entry), origin: Origin::NONE };
        scope.dead(&unit, failure, format!("timer due {due}").into_bytes());
        Ok(())
    }

    /// Fires a process's due timers of one clock, at most `budget`.
    fn fire(
        &mut self,
        entry: EntryId,
        clock: usize,
        now: Time,
        budget: &mut usize,
        scope: &mut Scope<'_>,
    ) -> Result<()> {
        while *budget > 0 {
            let due = self.table.value(entry)?.as_ref().and_then(|c| c.timers.earliest(clock));
            let Some(due) = due.filter(|due| *due <= now) else { return Ok(()) };
            *budget -= 1;
            scope.out.counters.fired += 1;
            // What a timer emits was already on time just before it was due.
            let stamp = if clock == 0 { due.ms().saturating_sub(1) } else { scope.watermark.ms() };
            let moment = Moment {
                now: scope.clock,
                watermark: if clock == 0 { now } else { scope.watermark },
                event_time: (clock == 0).then_some(due),
                late: false,
                stamp,
                origin: Origin::NONE,
                attempt: scope.attempt,
                hops: 0,
            };
            let mut wake = || Ok(Wake::Timer { clock, now: due });
            let payload = || format!("timer due {due}").into_bytes();
            if !self.unit(entry, moment, Trigger::Timer, scope, &mut wake, &payload)? {
                // A failed timer is consumed.
                scope.out.counters.dead_firings += 1;
                if let Some(cell) = self.table.value_mut(entry)? {
                    cell.timers.take_due(clock, due);
                }
            }
        }
        Ok(())
    }

    /// Leaves in a heap that has grown long one entry for each process that has timers; one that
    /// ends, or whose timers move, leaves its old entries behind.
    ///
    /// Only between turns: an undo could need what is dropped here.
    fn tidy(&mut self) {
        for (clock, heap) in self.heaps.iter_mut().enumerate() {
            if heap.len() <= 2 * self.table.len() + SPARE_MAX {
                continue;
            }
            let mut held: Vec<EntryId> = heap.drain().map(|Reverse((_, entry))| entry).collect();
            held.sort_unstable();
            held.dedup();
            for entry in held {
                // Read back, it relies on no entry but one no later than its earliest timer.
                self.table.forget(entry);
                let timers = self.table.sealed_value(entry).and_then(sealed_timers);
                let due = timers.and_then(|timers| timers.earliest(clock));
                heap.extend(due.map(|due| Reverse((due, entry))));
            }
        }
    }

    /// Fires a process's event timers that are due before its next row or message.
    fn fire_before(&mut self, entry: EntryId, now: Time, scope: &mut Scope<'_>) -> Result<()> {
        scope.probe.leave(); // a state that is read back may need the user's `migrate`
        match self.may_be_due(entry, now) {
            true => self.fire(entry, 0, now, &mut { usize::MAX }, scope),
            false => Ok(()),
        }
    }

    /// Hands over what units have emitted.
    fn flush(&mut self, scope: &mut Scope<'_>) -> Result<()> {
        scope.probe.leave();
        let effects = std::mem::take(&mut self.effects);
        self.checker = None;
        scope.out.counters.emitted += effects.rows.len() as u64;
        if !effects.rows.is_empty() {
            let rows: Vec<&P::Out> = effects.rows.iter().map(|e| &e.row).collect();
            let batch = batch(&self.spec.output, &rows, &effects.rows)?;
            scope.out.rows.push((0, batch));
        }
        for (at, (_, schema)) in self.spec.sides.iter().enumerate() {
            let own: Vec<&Emitted<serde_json::Value>> =
                effects.sides.iter().filter(|(port, _)| *port == at + 1).map(|(_, e)| e).collect();
            if !own.is_empty() {
                let rows: Vec<&serde_json::Value> = own.iter().map(|e| &e.row).collect();
                let batch = batch(schema, &rows, own.iter().copied())?;
                scope.out.rows.push((at + 1, batch));
            }
        }
        scope.out.mail.extend(effects.mail);
        Ok(())
    }
}

/// Sees to it that the heaps hold an entry no later than the process's earliest timers.
fn schedule<P>(heaps: &mut [Heap; 2], entry: EntryId, cell: &mut Cell<P>) {
    for (clock, heap) in heaps.iter_mut().enumerate() {
        if let Some(due) = cell.timers.earliest(clock)
            && cell.scheduled[clock].lacks(due)
        {
            cell.scheduled[clock] = Scheduled::At(due);
            heap.push(Reverse((due, entry)));
        }
    }
}

fn batch<'a, R: serde::Serialize, T: 'a>(
    schema: &SchemaRef,
    rows: &[R],
    emitted: impl IntoIterator<Item = &'a Emitted<T>> + Clone,
) -> Result<Batch> {
    let rows = serde_arrow::to_record_batch(schema.fields(), &rows)?;
    let rows = RecordBatch::try_new(schema.clone(), rows.columns().to_vec())?;
    let stamps = emitted.clone().into_iter().map(|e| e.stamp).collect();
    let origins = emitted.into_iter().map(|e| e.origin).collect();
    Ok(Batch::new(rows, stamps, origins))
}

/// A column of event times, whichever way it is stored.
pub(crate) fn times(rows: &RecordBatch, column: usize) -> Option<&[i64]> {
    let column = rows.column(column);
    match column.data_type() {
        DataType::Int64 => Some(column.as_primitive::<Int64Type>().values()),
        DataType::Timestamp(..) => {
            Some(column.as_primitive_opt::<TimestampMillisecondType>()?.values())
        }
        _ => None,
    }
}

impl<P: Process> Operator for ProcessHost<P> {
    fn name(&self) -> &str {
        &self.spec.kind
    }

    fn tables(&mut self) -> Vec<&mut dyn StateTable> {
        vec![&mut self.table]
    }

    fn process(&mut self, rows: &Batch, scope: &mut Scope<'_>) -> Result<()> {
        scope.out.counters.read += rows.len() as u64;
        let columns: Vec<&dyn Array> =
            self.spec.keys.iter().map(|c| rows.rows().column(*c).as_ref()).collect();
        let keys = Keys::of(&columns, rows.len()).map_err(|e| Failure::new(e.to_string()))?;
        let times = self.spec.event_time.and_then(|c| times(rows.rows(), c));
        let inputs = serde_arrow::Deserializer::from_record_batch(rows.rows())?;
        for row in 0..rows.len() {
            let key = keys.get(row);
            let stop = self.spec.options.on_error == OnError::Stop;
            if reject_long_key(key, rows, row, stop, scope)? {
                continue;
            }
            let entry = self.table.entry(hash(key), key);
            let stamp = rows.stamp(row);
            let watermark = scope.watermark_at(stamp);
            self.fire_before(entry, watermark, scope)?;
            let event_time = times.map(|t| Time::from_ms(t[row]));
            let moment = Moment {
                now: scope.clock,
                watermark,
                event_time,
                late: event_time.is_some_and(|t| t < stamp),
                stamp: watermark.ms(),
                origin: rows.origin(row),
                attempt: scope.attempt,
                hops: 0,
            };
            let mut wake = || match inputs.get(row) {
                Some(item) => Ok(Wake::Input(P::In::deserialize(item)?)),
                None => Err(Failure::new("a row beyond the batch")),
            };
            let payload = || row_payload(rows.rows(), row);
            match self.unit(entry, moment, Trigger::Record, scope, &mut wake, &payload)? {
                true => scope.out.counters.processed += 1,
                false => scope.out.counters.dead += 1,
            }
        }
        self.flush(scope)
    }

    fn mail(&mut self, mail: &[Mail], scope: &mut Scope<'_>) -> Result<()> {
        scope.out.counters.read += mail.len() as u64;
        for message in mail {
            let watermark = scope.watermark;
            if message.kind != MailKind::Sent {
                // A kill ends the process as it lives; what it has committed is what it resumes
                // from, so nothing changes that is durable. Other kinds are reserved.
                if message.kind == MailKind::Kill
                    && let Some(entry) = self.table.find(hash(&message.key), &message.key)
                {
                    self.table.forget(entry);
                }
                scope.out.counters.processed += 1;
                continue;
            }
            let entry = self.table.entry(hash(&message.key), &message.key);
            self.fire_before(entry, watermark, scope)?;
            let event_time = Some(message.event_time).filter(|t| *t != Time::MIN);
            let moment = Moment {
                now: scope.clock,
                watermark,
                event_time,
                late: false,
                stamp: watermark.ms(),
                origin: message.origin,
                attempt: scope.attempt,
                hops: message.hops,
            };
            let mut wake = || Ok(Wake::Input(rmp_serde::from_slice(&message.payload)?));
            let payload = || message.payload.clone();
            match self.unit(entry, moment, Trigger::Message, scope, &mut wake, &payload)? {
                true => scope.out.counters.processed += 1,
                false => scope.out.counters.dead += 1,
            }
        }
        self.flush(scope)
    }

    fn advance(&mut self, budget: usize, scope: &mut Scope<'_>) -> Result<Advance> {
        let mut left = budget;
        for (clock, now) in [(0, scope.watermark), (1, scope.clock)] {
            while let Some(&Reverse((due, entry))) = self.heaps[clock].peek() {
                if due > now {
                    break;
                }
                if left == 0 {
                    self.flush(scope)?;
                    return Ok(Advance::More);
                }
                self.heaps[clock].pop();
                self.popped.push((clock, due, entry));
                if !self.table.is_used(entry) {
                    continue;
                }
                match self.table.value_mut(entry) {
                    Ok(Some(cell)) if cell.scheduled[clock].is_due(due) => {
                        cell.scheduled[clock] = Scheduled::No;
                    }
                    Ok(_) => continue, // another entry counts, or the process has ended
                    Err(failure) => {
                        left -= 1;
                        self.set_aside(entry, due, failure, scope)?;
                        continue;
                    }
                }
                self.fire(entry, clock, now, &mut left, scope)?;
                if let Some(cell) = self.table.value_mut(entry)? {
                    // A failed firing has put the process back as it was before the entry went.
                    if cell.scheduled[clock].is_due(due) {
                        cell.scheduled[clock] = Scheduled::No;
                    }
                    schedule(&mut self.heaps, entry, cell);
                }
            }
        }
        self.flush(scope)?;
        Ok(Advance::Done)
    }

    fn is_due(&self, watermark: Time, clock: Time) -> bool {
        let due = |heap: &Heap, now| heap.peek().is_some_and(|Reverse((due, _))| *due <= now);
        due(&self.heaps[0], watermark) || due(&self.heaps[1], clock)
    }

    fn wake_at(&mut self) -> Option<Time> {
        let heap = &mut self.heaps[1];
        while let Some(&Reverse((due, entry))) = heap.peek() {
            let cell = match self.table.is_used(entry) {
                true => self.table.look_mut(entry),
                false => Ok(None),
            };
            let next = match cell {
                Err(_) => return Some(due), // it is set aside then
                Ok(Some(cell)) if cell.scheduled[1].is_due(due) => {
                    let next = cell.timers.earliest(1);
                    if next.is_some_and(|next| next <= due) {
                        return Some(due);
                    }
                    // Taken back or put off since.
                    cell.scheduled[1] = next.map_or(Scheduled::No, Scheduled::At);
                    next
                }
                Ok(_) => None, // another entry counts, or the process has ended
            };
            heap.pop();
            heap.extend(next.map(|next| Reverse((next, entry))));
        }
        None
    }

    fn undone(&mut self) {
        self.effects = Effects::default();
        self.checker = None;
        for (clock, due, entry) in self.popped.drain(..) {
            self.heaps[clock].push(Reverse((due, entry)));
        }
    }

    fn sealed(&mut self) {
        self.popped.clear();
        self.tidy();
    }

    fn restored(&mut self) -> millstream_core::Result<()> {
        let heaps = &mut self.heaps;
        let mut strangers: Strangers = BTreeMap::new();
        self.table.for_each_sealed(|entry, _, value| {
            if let Some(timers) = sealed_timers(value) {
                for (clock, heap) in heaps.iter_mut().enumerate() {
                    heap.extend(timers.earliest(clock).map(|due| Reverse((due, entry))));
                }
            }
            let version = value.first_chunk::<2>().map_or(0, |v| u16::from_le_bytes(*v));
            let (processes, why) =
                strangers.entry(version).or_insert((0, Some(Failure::default())));
            *processes += 1;
            if why.is_some() {
                *why = Cell::<P>::decode(value).err();
            }
        });
        check_versions::<P>(&self.spec.kind, &strangers)
    }
}

/// Per version of the state: how many processes have it, and why none of them can be read, unless
/// one can.
type Strangers = BTreeMap<u16, (usize, Option<Failure>)>;

/// One process of each version must be readable: better to say so now than to set every event
/// aside.
fn check_versions<P: Process>(kind: &str, found: &Strangers) -> millstream_core::Result<()> {
    for (version, (processes, why)) in found {
        let Some(why) = why else { continue };
        let own = P::STATE_VERSION;
        let error = match *version == own {
            true => Error::new(
                Code::StateVersion,
                format!("the state of process `{kind}` on disk does not fit this binary: {why}"),
            )
            .help("give a new field `#[serde(default)]`")
            .help(format!("or make STATE_VERSION {} and implement `Process::migrate({own}, ..)`", own + 1)),
            false => Error::new(
                Code::StateVersion,
                format!(
                    "process `{kind}` has state version {version} on disk and version {own} in this binary"
                ),
            )
            .help(format!("{why}; {processes} processes have version {version}"))
            .help(format!("implement `Process::migrate({version}, ..)`, or start in another directory")),
        };
        return Err(error);
    }
    Ok(())
}

/// The timers in a process's sealed bytes.
fn sealed_timers(bytes: &[u8]) -> Option<Timers> {
    Timers::decode(&mut bytes.get(2..)?).ok()
}

/// The state in a process's committed bytes.
pub(crate) fn decode_state<P: Process>(bytes: &[u8]) -> Result<P> {
    Cell::<P>::decode(bytes).map(|cell| cell.state)
}

#[cfg(test)]
mod tests;
