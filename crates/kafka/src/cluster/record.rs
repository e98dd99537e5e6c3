//! What nodes tell each other: the records of the members topic, and their bytes.
//!
//! *Format, version 1.* `version`, `kind`, the writer's name (length, bytes), its incarnation; then
//! by kind. Numbers are LEB128, keys 8 bytes little-endian. There is no checksum: Kafka's batches
//! have one, which its clients check.
//!
//! - `1` heartbeat: number, state, flags; with flag 1 a repetition: first key, last key, address;
//!   then how many tasks, and each: tag, key, what the tag asks for.
//! - `2` death: key of the dead, its incarnation, the last offset at which it was seen.
//! - `3` leave: nothing.
//! - `4` takeover: key of the task, key of the dead, three times in ms.
//!
//! *Invariant:* bytes from outside never panic, and nothing longer than its limit is taken.

pub use millstream_core::engine::NodeState as State;
use millstream_core::{Error, Result};

use super::{NodeKey, TaskKey};

/// Tasks in one record.
pub(super) const ENTRIES_MAX: usize = 2048;
/// Bytes of a node's name.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// Bytes of an address.
pub(super) const ADDRESS_BYTES_MAX: usize = 256;

const VERSION: u8 = 1;
const BEAT: u8 = 1;
const DEAD: u8 = 2;
const LEAVE: u8 = 3;
const TOOK: u8 = 4;
const WHOLE: u8 = 1;

const NONE: u8 = 0;
const OPENING: u8 = 1;
const OPEN: u8 = 2;
const STANDBY: u8 = 3;
const GRANTED: u8 = 4;
const DECLINED: u8 = 5;
/// Of a claim: its last owner had died. Of a standby: it declines to own the task for now.
const MARK: u8 = 0x10;

/// What a node has to do with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It owns it, or is about to.
    Owner {
        /// Greater than that of any owner before.
        claim: u64,
        /// Whether it runs already.
        open: bool,
        /// Whether the owner before has died, and not all has been in balance since.
        taken: bool,
    },
    /// It follows the task's state.
    Standby {
        /// How far behind: the bits of the number, so that it changes seldom; 255: unknown.
        lag: u8,
        /// It was fenced lately and will not own the task for now.
        declines: bool,
    },
    /// It has released the task to another node.
    Granted {
        /// Its own claim.
        claim: u64,
        /// Who shall open it.
        to: NodeKey,
    },
    /// It was fenced lately and will not own the task for now.
    Declined,
}

impl Entry {
    /// The number of its claim, if it is or was the owner.
    pub fn claim(&self) -> Option<u64> {
        match *self {
            Entry::Owner { claim, .. } | Entry::Granted { claim, .. } => Some(claim),
            _ => None,
        }
    }

    /// Whether the node says that it owns the task.
    pub fn is_owner(&self) -> bool {
        matches!(self, Entry::Owner { .. })
    }

    /// Whether the node will not own the task for now.
    pub fn declines(&self) -> bool {
        matches!(self, Entry::Declined | Entry::Standby { declines: true, .. })
    }

    /// How far behind a standby is.
    pub fn lag(&self) -> Option<u8> {
        match *self {
            Entry::Standby { lag, .. } => Some(lag),
            _ => None,
        }
    }
}

/// A lag as records have it.
pub(super) fn lag_bits(lag: u64) -> u8 {
    (u64::BITS - lag.leading_zeros()) as u8
}

/// The lag of a standby that does not know it yet.
pub(super) const LAG_UNKNOWN: u8 = u8::MAX;

/// A repetition: the tasks between two keys, both included, are those in the record and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<'a> {
    /// The first key.
    pub from: TaskKey,
    /// The last one.
    pub to: TaskKey,
    /// Where the node can be asked.
    pub address: &'a str,
}

/// A sign of life, and what has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat<'a> {
    /// One more than that of the record before.
    pub seq: u64,
    /// Joining, active or leaving.
    pub state: State,
    /// Present in a repetition.
    pub whole: Option<Whole<'a>>,
    /// `None`: it has nothing to do with the task any more.
    pub tasks: Vec<(TaskKey, Option<Entry>)>,
}

/// How long a takeover took, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// The task.
    pub task: TaskKey,
    /// Whose it was.
    pub from: NodeKey,
    /// From the dead node's last sign of life until its death was in the log.
    pub detected_ms: u64,
    /// From there until the dead owner was fenced and the task opened.
    pub fenced_ms: u64,
    /// From there until its first output.
    pub output_ms: u64,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// The writer lives.
    Beat(Beat<'a>),
    /// Another node is dead, if it has written nothing since.
    Dead {
        /// Who.
        node: NodeKey,
        /// Which life of it.
        incarnation: u64,
        /// Where the writer saw it last.
        last_seen: u64,
    },
    /// The writer has left.
    Leave,
    /// The writer has taken a task over.
    Took(Took),
}

/// A record of the members topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Who writes.
    pub node: &'a str,
    /// Which life of it; a later one has a greater number.
    pub incarnation: u64,
    /// What it says.
    pub body: Body<'a>,
}

impl<'a> Record<'a> {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.node.len());
        let kind = match self.body {
            Body::Beat(_) => BEAT,
            Body::Dead { .. } => DEAD,
            Body::Leave => LEAVE,
            Body::Took(_) => TOOK,
        };
        out.extend([VERSION, kind]);
        put_text(&mut out, self.node);
        put(&mut out, self.incarnation);
        match &self.body {
            Body::Beat(beat) => put_beat(&mut out, beat),
            Body::Dead { node, incarnation, last_seen } => {
                out.extend(node.0.to_le_bytes());
                put(&mut out, *incarnation);
                put(&mut out, *last_seen);
            }
            Body::Leave => {}
            Body::Took(t) => {
                out.extend(t.task.0.to_le_bytes());
                out.extend(t.from.0.to_le_bytes());
                [t.detected_ms, t.fenced_ms, t.output_ms].iter().for_each(|ms| put(&mut out, *ms));
            }
        }
        out
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`millstream_core::Code::Corrupt`] if it is none, or of another version.
    pub fn decode(bytes: &'a [u8]) -> Result<Record<'a>> {
        let mut r = Reader(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(Error::corrupt(format!(
                "a record of the members topic has version {version}, this node reads {VERSION}"
            ))
            .help("run the same version of the program on all nodes"));
        }
        let kind = r.u8()?;
        let node = r.text(NAME_BYTES_MAX)?;
        let incarnation = r.number()?;
        let body = match kind {
            BEAT => Body::Beat(beat(&mut r)?),
            DEAD => Body::Dead {
                node: NodeKey(r.key()?),
                incarnation: r.number()?,
                last_seen: r.number()?,
            },
            LEAVE => Body::Leave,
            TOOK => Body::Took(Took {
                task: TaskKey(r.key()?),
                from: NodeKey(r.key()?),
                detected_ms: r.number()?,
                fenced_ms: r.number()?,
                output_ms: r.number()?,
            }),
            other => return Err(Error::corrupt(format!("no record has kind {other}"))),
        };
        match r.0.len() {
            0 => Ok(Record { node, incarnation, body }),
            n => Err(Error::corrupt(format!("{n} bytes too many"))),
        }
    }
}

fn put_beat(out: &mut Vec<u8>, beat: &Beat<'_>) {
    put(out, beat.seq);
    out.push(match beat.state {
        State::Joining => 1,
        State::Active => 2,
        _ => 3,
    });
    out.push(if beat.whole.is_some() { WHOLE } else { 0 });
    if let Some(whole) = &beat.whole {
        out.extend(whole.from.0.to_le_bytes());
        out.extend(whole.to.0.to_le_bytes());
        put_text(out, whole.address);
    }
    put(out, beat.tasks.len() as u64);
    for (task, entry) in &beat.tasks {
        let mark = |on: bool| if on { MARK } else { 0 };
        out.push(match entry {
            None => NONE,
            Some(Entry::Owner { open: false, taken, .. }) => OPENING | mark(*taken),
            Some(Entry::Owner { open: true, taken, .. }) => OPEN | mark(*taken),
            Some(Entry::Standby { declines, .. }) => STANDBY | mark(*declines),
            Some(Entry::Granted { .. }) => GRANTED,
            Some(Entry::Declined) => DECLINED,
        });
        out.extend(task.0.to_le_bytes());
        match entry {
            Some(Entry::Owner { claim, .. }) => put(out, *claim),
            Some(Entry::Standby { lag, .. }) => out.push(*lag),
            Some(Entry::Granted { claim, to }) => {
                put(out, *claim);
                out.extend(to.0.to_le_bytes());
            }
            Some(Entry::Declined) | None => {}
        }
    }
}

fn beat<'a>(r: &mut Reader<'a>) -> Result<Beat<'a>> {
    let seq = r.number()?;
    let state = match r.u8()? {
        1 => State::Joining,
        2 => State::Active,
        3 => State::Leaving,
        other => return Err(Error::corrupt(format!("no node has state {other}"))),
    };
    let whole = match r.u8()? {
        0 => None,
        WHOLE => Some(Whole {
            from: TaskKey(r.key()?),
            to: TaskKey(r.key()?),
            address: r.text(ADDRESS_BYTES_MAX)?,
        }),
        other => return Err(Error::corrupt(format!("no heartbeat has flags {other}"))),
    };
    let count = r.number()? as usize;
    if count > ENTRIES_MAX {
        return Err(Error::corrupt(format!("{count} tasks in one record, {ENTRIES_MAX} may be")));
    }
    let mut tasks = Vec::with_capacity(count);
    for _ in 0..count {
        let tag = r.u8()?;
        let task = TaskKey(r.key()?);
        let mark = tag & MARK != 0;
        let entry = match tag & !MARK {
            NONE => None,
            of @ (OPENING | OPEN) => {
                Some(Entry::Owner { claim: r.number()?, open: of == OPEN, taken: mark })
            }
            STANDBY => Some(Entry::Standby { lag: r.u8()?, declines: mark }),
            GRANTED => Some(Entry::Granted { claim: r.number()?, to: NodeKey(r.key()?) }),
            DECLINED => Some(Entry::Declined),
            other => return Err(Error::corrupt(format!("no task has tag {other}"))),
        };
        tasks.push((task, entry));
    }
    Ok(Beat { seq, state, whole, tasks })
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| Error::corrupt(format!("{n} bytes expected, {} left", self.0.len())))?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    fn key(&mut self) -> Result<u64> {
        let mut key = [0; 8];
        key.copy_from_slice(self.bytes(8)?);
        Ok(u64::from_le_bytes(key))
    }

    fn number(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::corrupt("a number of more than 64 bits"))
    }

    fn text(&mut self, max: usize) -> Result<&'a str> {
        let len = self.number()?;
        if len > max as u64 {
            return Err(Error::corrupt(format!("a name of {len} bytes, {max} may be")));
        }
        std::str::from_utf8(self.bytes(len as usize)?).map_err(|e| Error::corrupt(e.to_string()))
    }
}

#[cfg(test)]
mod tests;
