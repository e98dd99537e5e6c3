//! What a user writes: a process kind, the state machine behind every key.

use std::{any::TypeId, borrow::Cow, collections::BTreeMap, sync::Arc};

use millstream_core::{
    Error, Origin, Time,
    key::{self, Key},
    mail::{HOPS_MAX, MESSAGE_BYTES_MAX, Mail, MailKind},
    operator::Port,
};
use serde::{Serialize, de::DeserializeOwned};

pub use millstream_core::operator::Failure;

/// What handlers return; `?` works on any error.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A process kind: one instance per key, with private, durable state.
///
/// `handle` and `on_timer` may run more than once before their effects commit, and their effects
/// commit once. So they do no I/O and read no clock but [`Context::now`].
///
/// Fields can be added to the state if they have a serde default; for anything else raise
/// [`Process::STATE_VERSION`] and write [`Process::migrate`].
pub trait Process: Default + Serialize + DeserializeOwned + Send + 'static {
    /// What it receives: rows of the stream it reads, and messages sent to it.
    type In: Serialize + DeserializeOwned + Send + 'static;
    /// What it emits.
    type Out: Serialize + DeserializeOwned + Send + 'static;

    /// The version of the state's layout.
    const STATE_VERSION: u16 = 1;

    /// Called before the first event of a key.
    ///
    /// # Errors
    /// The event that created the process becomes a dead letter; the process does not exist then.
    fn init(&mut self, _ctx: &mut Context<Self>) -> Result<()> {
        Ok(())
    }

    /// Called for each event, in the order of the mailbox.
    ///
    /// # Errors
    /// State, timers and outputs are as before the event, and the event is set aside as the
    /// policy says. A panic does the same.
    fn handle(&mut self, input: Self::In, ctx: &mut Context<Self>) -> Result<()>;

    /// Called when a timer is due; the timer is gone then, whatever is returned.
    ///
    /// # Errors
    /// As for [`Process::handle`].
    fn on_timer(&mut self, _name: &str, _ctx: &mut Context<Self>) -> Result<()> {
        Ok(())
    }

    /// Called before the process ends by [`Context::stop`] or by being idle too long; not by a
    /// kill.
    ///
    /// # Errors
    /// As for [`Process::handle`]; the process goes on then.
    fn terminate(&mut self, _ctx: &mut Context<Self>) -> Result<()> {
        Ok(())
    }

    /// Makes this version's state from an older one's, given as a self-describing value.
    ///
    /// # Errors
    /// The key's next event becomes a dead letter.
    fn migrate(version: u16, _old: serde_json::Value) -> Result<Self> {
        Err(Failure::new(format!(
            "state version {version} cannot become version {}: implement Process::migrate",
            Self::STATE_VERSION
        )))
    }
}

/// When a timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// When the watermark has reached this event time.
    Event(Time),
    /// When the clock has.
    Processing(Time),
}

impl At {
    pub(crate) fn clock(self) -> usize {
        matches!(self, At::Processing(_)) as usize
    }

    pub(crate) fn time(self) -> Time {
        let (At::Event(time) | At::Processing(time)) = self;
        time
    }
}

/// The process kinds of a flow, by type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kinds(pub Arc<BTreeMap<TypeId, (usize, String)>>);

/// A row on its way out of a process.
#[derive(Debug)]
pub(crate) struct Emitted<T> {
    pub row: T,
    pub stamp: i64,
    pub origin: u64,
}

/// What a unit wants to happen, beside the change of its state.
pub(crate) struct Effects<O> {
    pub rows: Vec<Emitted<O>>,
    pub sides: Vec<(Port, Emitted<serde_json::Value>)>,
    pub mail: Vec<(usize, Mail)>,
}

impl<O> Default for Effects<O> {
    fn default() -> Self {
        Effects { rows: Vec::new(), sides: Vec::new(), mail: Vec::new() }
    }
}

/// Where and when a handler runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub now: Time,
    pub watermark: Time,
    pub event_time: Option<Time>,
    pub late: bool,
    pub stamp: i64,
    pub origin: Origin,
    pub attempt: u32,
    pub hops: u32,
}

/// What a handler may ask and do.
pub struct Context<'a, P: Process> {
    pub(crate) key: &'a [u8],
    pub(crate) moment: Moment,
    pub(crate) kind: &'a str,
    pub(crate) kinds: &'a Kinds,
    pub(crate) sides: &'a [String],
    pub(crate) timers: &'a mut Timers,
    pub(crate) effects: &'a mut Effects<P::Out>,
    pub(crate) stopped: bool,
    /// In `on_timer`: the timer's clock, and when it was due.
    pub(crate) due: Option<(usize, Time)>,
    /// What the handler has asked for and cannot have; its unit fails.
    pub(crate) refused: Option<Failure>,
}

impl<P: Process> Context<'_, P> {
    /// The process's key, as text; several parts are joined by commas.
    pub fn key(&self) -> Cow<'_, str> {
        match self.key {
            [0x20, text @ .., 0] if !text.contains(&0) => String::from_utf8_lossy(text),
            key => Cow::Owned(key::display(key)),
        }
    }

    /// The process's own key, to send to itself or to its namesake of another kind.
    pub fn own_key(&self) -> Key {
        Key::from_bytes(self.key)
    }

    /// The turn's clock: the same when a turn runs again.
    pub fn now(&self) -> Time {
        self.moment.now
    }

    /// The event's time; `None` if its stream has none.
    pub fn event_time(&self) -> Option<Time> {
        self.moment.event_time
    }

    /// The event's time, or the time a timer was due; the turn's clock if there is neither.
    pub fn time(&self) -> Time {
        self.moment.event_time.unwrap_or(self.moment.now)
    }

    /// No event before this time is expected any more.
    pub fn watermark(&self) -> Time {
        self.moment.watermark
    }

    /// Whether the event lies before the watermark that preceded it at its source.
    pub fn is_late(&self) -> bool {
        self.moment.late
    }

    /// Where the event entered the node.
    pub fn origin(&self) -> Origin {
        self.moment.origin
    }

    /// 1, or 2 if the turn runs record by record because something in it has failed or the whole
    /// process died there. A task that is opened again (after a crash, or a lost answer) has
    /// forgotten what it tried, so 1 does not mean the first time.
    pub fn attempt(&self) -> u32 {
        self.moment.attempt
    }

    /// Sends a row on.
    pub fn emit(&mut self, row: P::Out) {
        let Moment { stamp, origin, .. } = self.moment;
        self.effects.rows.push(Emitted { row, stamp, origin: origin.0 });
    }

    /// Sends a row to a side output that the flow declares.
    ///
    /// # Errors
    /// If the flow declares no side output of this name, or the row cannot be serialised.
    pub fn side_output(&mut self, name: &str, row: impl Serialize) -> Result<()> {
        let at = self.sides.iter().position(|s| s == name).ok_or_else(|| {
            Failure::new(format!("process `{}` has no side output `{name}`", self.kind))
        })?;
        let row = serde_json::to_value(row)?;
        let Moment { stamp, origin, .. } = self.moment;
        self.effects.sides.push((at + 1, Emitted { row, stamp, origin: origin.0 }));
        Ok(())
    }

    /// Sets the timer called `name`, replacing one of this name. One that is due already is called
    /// next.
    ///
    /// [`Process::on_timer`] can set timers of its own clock only for later than its timer was due;
    /// else it fails. So timers that set each other always come to an end.
    pub fn set_timer(&mut self, name: &str, at: At) {
        if let Some((clock, due)) = self.due
            && clock == at.clock()
            && at.time() <= due
        {
            let why = format!(
                "timer `{name}` set for {}, by one that was due at {due}: it would never end",
                at.time()
            );
            self.refused.get_or_insert_with(|| Failure::new(why));
        }
        self.timers.set(name, at);
    }

    /// Takes the timer back; nothing happens if there is none.
    pub fn cancel_timer(&mut self, name: &str) {
        self.timers.cancel(name);
    }

    /// Sends a message to the process of kind `Q` with this key, even to oneself. A key is text,
    /// an `i64`, or a [`Key`] of several parts.
    ///
    /// # Errors
    /// If the flow has no such kind, the key has more than 1,024 bytes, the message cannot be
    /// serialised or has more than 16 MiB, or it is the result of more than 1,000 messages.
    pub fn send<Q: Process>(&mut self, key: impl Into<Key>, message: &Q::In) -> Result<()> {
        let key = key.into();
        let (mailbox, _) = self.kinds.0.get(&TypeId::of::<Q>()).ok_or_else(|| {
            Failure::new(format!("the flow has no process kind {}", std::any::type_name::<Q>()))
        })?;
        if let Some(failure) = crate::rows::too_long(key.bytes()) {
            return Err(failure);
        }
        if self.moment.hops >= HOPS_MAX {
            return Err(Failure::new(format!(
                "a message that {HOPS_MAX} messages led to: a loop?"
            )));
        }
        let payload = rmp_serde::to_vec_named(message)?;
        if payload.len() > MESSAGE_BYTES_MAX {
            let n = payload.len();
            return Err(Failure::new(format!(
                "a message of {n} bytes; the limit is {MESSAGE_BYTES_MAX}"
            )));
        }
        self.effects.mail.push((
            *mailbox,
            Mail {
                kind: MailKind::Sent,
                key: key.bytes().to_vec(),
                version: 1,
                payload,
                sender: format!("{}/{}", self.kind, self.key()),
                id: 0,
                hops: self.moment.hops + 1,
                origin: self.moment.origin,
                event_time: self.moment.event_time.unwrap_or(Time::MIN),
            },
        ));
        Ok(())
    }

    /// Ends the process after this call: [`Process::terminate`], then its state and timers are
    /// gone. The key's next event starts a new one.
    pub fn stop(&mut self) {
        self.stopped = true;
    }
}

/// A process's timers, earliest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Timers(Vec<(Time, Box<str>, usize)>);

impl Timers {
    pub fn set(&mut self, name: &str, at: At) {
        self.cancel(name);
        let timer = (at.time(), name.into(), at.clock());
        let place = self.0.partition_point(|t| *t < timer);
        self.0.insert(place, timer);
    }

    pub fn cancel(&mut self, name: &str) {
        self.0.retain(|(_, n, _)| **n != *name);
    }

    /// The earliest timer of a clock (0 event, 1 processing).
    pub fn earliest(&self, clock: usize) -> Option<Time> {
        self.0.iter().find(|t| t.2 == clock).map(|t| t.0)
    }

    /// When, name and clock of each, the earliest first.
    pub fn all(&self) -> impl Iterator<Item = (Time, &str, usize)> {
        self.0.iter().map(|(due, name, clock)| (*due, &**name, *clock))
    }

    /// Takes the earliest timer of a clock that is due.
    pub fn take_due(&mut self, clock: usize, now: Time) -> Option<(Time, Box<str>)> {
        let at = self.0.iter().position(|t| t.2 == clock && t.0 <= now)?;
        let (time, name, _) = self.0.remove(at);
        Some((time, name))
    }

    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&u16::try_from(self.0.len())?.to_le_bytes());
        for (time, name, clock) in &self.0 {
            out.push(*clock as u8);
            out.extend_from_slice(&time.ms().to_le_bytes());
            out.push(u8::try_from(name.len()).map_err(|_| {
                Failure::new(format!("a timer's name has at most 255 bytes: {name}"))
            })?);
            out.extend_from_slice(name.as_bytes());
        }
        Ok(())
    }

    pub fn decode(bytes: &mut &[u8]) -> Result<Timers> {
        let mut take = |n: usize| {
            let (head, tail) = bytes.split_at_checked(n).ok_or_else(cut)?;
            *bytes = tail;
            Ok::<_, Failure>(head)
        };
        let n = u16::from_le_bytes(array(take(2)?)?);
        let mut timers = Vec::with_capacity(usize::from(n));
        for _ in 0..n {
            let clock = usize::from(take(1)?[0] & 1);
            let time = Time::from_ms(i64::from_le_bytes(array(take(8)?)?));
            let len = usize::from(take(1)?[0]);
            timers.push((time, std::str::from_utf8(take(len)?)?.into(), clock));
        }
        Ok(Timers(timers))
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| cut())
}

fn cut() -> Failure {
    Failure::new(Error::corrupt("a process's state is cut off").to_string())
}
