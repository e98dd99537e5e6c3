//! Keyed state: the only place where an operator may keep values between rows.
//!
//! *Why:* undo, sealing, restore, expiry and size limits must be the same for every operator, so
//! they are written once, here.
//!
//! Every key owns one allocation holding its key and its *sealed* value: the bytes as of the last
//! seal. Values are decoded when a turn first touches them and live beside the sealed bytes; a
//! bounded number stays decoded between turns. So undo is "forget what was touched", a live key
//! costs about a hundred bytes, and a restart decodes nothing.
//!
//! *Invariants*
//! - Sealed bytes change in [`StateTable::seal`] and [`StateTable::restore`] only.
//! - A key without sealed bytes and without a value does not survive the turn.
//!
//! *Limits:* [`LIVE_MAX`] decoded values per table between turns.

use std::ops::Range;

use hashbrown::HashTable;
use millstream_core::{
    Result,
    mutant::{self, Mutant},
    operator::Failure,
    table::StateTable,
    turn::{Change, Delta, TableId},
};

/// Decoded values a table keeps between turns.
pub const LIVE_MAX: usize = 16_384;
/// Bytes a table keeps allocated for what the next turn saves.
const SAVES_KEPT: usize = 16 << 20;
const NONE: u32 = u32::MAX;

/// A value that state can hold.
pub trait Value: Sized {
    /// Appends the value's bytes.
    ///
    /// # Errors
    /// If it cannot be serialised, or is larger than allowed.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), Failure>;

    /// Reads what [`Value::encode`] has written.
    ///
    /// # Errors
    /// If the bytes are of another type or version.
    fn decode(bytes: &[u8]) -> Result<Self, Failure>;
}

/// A key's place in a table; valid until the turn in which the key is removed is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId(u32);

struct Entry {
    /// The key, then the sealed value.
    bytes: Box<[u8]>,
    hash: u32,
    live: u32,
    key_len: u16,
    sealed: bool,
    used: bool,
}

struct Live<V> {
    entry: u32,
    touched: bool,
    /// Whether the value's bytes as it is now are those last saved in this turn.
    known: bool,
    value: Option<V>,
    saved: Region,
}

/// A part of what a turn has saved.
#[derive(Clone, Copy, Default)]
struct Region {
    start: usize,
    len: usize,
    room: usize,
}

impl Region {
    fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// The bytes of values that a turn has touched, one behind the other: no allocation per key.
#[derive(Default)]
struct Saves(Vec<u8>);

impl Saves {
    /// Writes a value's bytes, in the place of its earlier ones if they have room for them.
    fn write(&mut self, value: &impl Value, old: Region) -> Result<Region, Failure> {
        let start = self.0.len();
        if let Err(failure) = value.encode(&mut self.0) {
            self.0.truncate(start);
            return Err(failure);
        }
        let len = self.0.len() - start;
        if len <= old.room {
            self.0.copy_within(start.., old.start);
            self.0.truncate(start);
            return Ok(Region { len, ..old });
        }
        // What grows again and again leaves behind no more than it is long.
        let room = if old.room == 0 { len } else { len.next_power_of_two() };
        self.0.resize(start + room, 0);
        Ok(Region { start, len, room })
    }

    fn clear(&mut self) {
        self.0.clear();
        self.0.shrink_to(SAVES_KEPT);
    }
}

/// What a key held before a unit, to go back to if the unit fails; valid until the key is saved
/// again.
pub struct Saved(Base);

enum Base {
    /// What was sealed: the turn had not touched the key.
    Sealed,
    /// No value.
    Nothing,
    /// The bytes last saved in this turn.
    Bytes,
}

/// Keyed state of one operator.
pub struct Table<V> {
    id: TableId,
    index: HashTable<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    live: Vec<Live<V>>,
    touched: Vec<u32>,
    saves: Saves,
}

impl<V: Value> Table<V> {
    /// An empty table called `name`; the name is how its state is found again.
    pub fn new(name: &str) -> Table<V> {
        Table {
            id: TableId::of(name),
            index: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            live: Vec::new(),
            touched: Vec::new(),
            saves: Saves::default(),
        }
    }

    /// Makes room for `n` keys at once.
    pub fn reserve(&mut self, n: usize) {
        self.entries.reserve(n);
        self.index.reserve(n, |&e| spread(self.entries[e as usize].hash));
    }

    /// The key's entry, if it has one. `hash` is [`millstream_core::key::hash`] of `key`.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<EntryId> {
        let short = short(hash);
        self.index.find(spread(short), |&e| self.matches(e, short, key)).map(|&e| EntryId(e))
    }

    /// The key's entry, made if it has none.
    #[inline]
    pub fn entry(&mut self, hash: u64, key: &[u8]) -> EntryId {
        match self.find(hash, key) {
            Some(entry) => entry,
            None => self.insert(short(hash), key, &[], false),
        }
    }

    fn matches(&self, entry: u32, hash: u32, key: &[u8]) -> bool {
        let e = &self.entries[entry as usize];
        e.hash == hash && &e.bytes[..usize::from(e.key_len)] == key
    }

    fn insert(&mut self, hash: u32, key: &[u8], value: &[u8], sealed: bool) -> EntryId {
        let key_len = u16::try_from(key.len()).expect("keys are at most KEY_BYTES_MAX long");
        let bytes = join(key, value);
        let entry = Entry { bytes, hash, live: NONE, key_len, sealed, used: true };
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("fewer than 4 billion keys a task")
            }
        };
        self.index.insert_unique(spread(hash), at, |&e| spread(self.entries[e as usize].hash));
        EntryId(at)
    }

    fn remove_entry(&mut self, at: u32) {
        let hash = spread(self.entries[at as usize].hash);
        if let Ok(found) = self.index.find_entry(hash, |&e| e == at) {
            found.remove();
        }
        let entry = &mut self.entries[at as usize];
        entry.used = false;
        entry.bytes = Box::default();
        self.free.push(at);
    }

    /// The key's bytes. Panics if the entry was removed.
    pub fn key(&self, entry: EntryId) -> &[u8] {
        let e = &self.entries[entry.0 as usize];
        &e.bytes[..usize::from(e.key_len)]
    }

    /// Whether the entry is still there (and has this key's hash; a reused place may not).
    pub fn is_used(&self, entry: EntryId) -> bool {
        self.entries.get(entry.0 as usize).is_some_and(|e| e.used)
    }

    /// The value to change in this turn; `None` if the key has none yet or was removed. Set it to
    /// `None` to remove the key.
    ///
    /// # Errors
    /// If the sealed bytes cannot be decoded.
    #[inline]
    pub fn value_mut(&mut self, entry: EntryId) -> Result<&mut Option<V>, Failure> {
        let at = self.load(entry)?;
        let live = &mut self.live[at as usize];
        live.known = false;
        if !live.touched {
            live.touched = true;
            self.touched.push(entry.0);
        }
        Ok(&mut live.value)
    }

    /// The key, and its value as [`Table::value_mut`] gives it.
    ///
    /// # Errors
    /// As [`Table::value_mut`].
    #[inline]
    pub fn key_and_value_mut(
        &mut self,
        entry: EntryId,
    ) -> Result<(&[u8], &mut Option<V>), Failure> {
        self.value_mut(entry)?;
        let e = &self.entries[entry.0 as usize];
        Ok((&e.bytes[..usize::from(e.key_len)], &mut self.live[e.live as usize].value))
    }

    /// The value, to look at.
    ///
    /// # Errors
    /// If the sealed bytes cannot be decoded.
    pub fn value(&mut self, entry: EntryId) -> Result<&Option<V>, Failure> {
        let at = self.load(entry)?;
        Ok(&self.live[at as usize].value)
    }

    /// The value, to change what is no part of its bytes: such a change may be forgotten.
    ///
    /// # Errors
    /// If the sealed bytes cannot be decoded.
    pub fn look_mut(&mut self, entry: EntryId) -> Result<Option<&mut V>, Failure> {
        let at = self.load(entry)?;
        Ok(self.live[at as usize].value.as_mut())
    }

    #[inline]
    fn load(&mut self, entry: EntryId) -> Result<u32, Failure> {
        let e = &mut self.entries[entry.0 as usize];
        if e.live == NONE {
            let value = match e.sealed {
                true => Some(V::decode(&e.bytes[usize::from(e.key_len)..])?),
                false => None,
            };
            e.live = self.live.len() as u32;
            let entry = entry.0;
            let saved = Region::default();
            self.live.push(Live { entry, touched: false, known: false, value, saved });
        }
        Ok(e.live)
    }

    /// Forgets a key's decoded value, unless this turn has touched it: the next look decodes the
    /// sealed bytes.
    pub fn forget(&mut self, entry: EntryId) {
        let live = self.entries[entry.0 as usize].live;
        if live != NONE && !self.live[live as usize].touched {
            self.drop_live(entry.0);
        }
    }

    /// Remembers a key's value before a unit. Also tells, after a unit, whether what it left can be
    /// serialised; to save it again before the next unit then costs nothing.
    ///
    /// # Errors
    /// If the value cannot be serialised; what was saved before stays valid.
    pub fn save(&mut self, entry: EntryId) -> Result<Saved, Failure> {
        let at = self.load(entry)?;
        let live = &mut self.live[at as usize];
        let Some(value) = live.value.as_ref().filter(|_| live.touched) else {
            return Ok(Saved(if live.touched { Base::Nothing } else { Base::Sealed }));
        };
        if !live.known {
            live.saved = self.saves.write(value, live.saved)?;
            live.known = true;
        }
        Ok(Saved(Base::Bytes))
    }

    /// Puts back what a failed unit has changed.
    ///
    /// # Errors
    /// Never, unless decoding what was just encoded fails.
    pub fn put_back(&mut self, entry: EntryId, saved: &Saved) -> Result<(), Failure> {
        let at = self.load(entry)?;
        let e = &self.entries[entry.0 as usize];
        let bytes = match saved.0 {
            Base::Sealed => e.sealed.then(|| &e.bytes[usize::from(e.key_len)..]),
            Base::Nothing => None,
            Base::Bytes => Some(&self.saves.0[self.live[at as usize].saved.range()]),
        };
        let value = bytes.map(V::decode).transpose()?;
        *self.value_mut(entry)? = value;
        Ok(())
    }

    /// Calls `see` with every key and its sealed value.
    pub fn for_each_sealed(&self, mut see: impl FnMut(EntryId, &[u8], &[u8])) {
        for (at, e) in self.entries.iter().enumerate().filter(|(_, e)| e.used && e.sealed) {
            let (key, value) = e.bytes.split_at(usize::from(e.key_len));
            see(EntryId(at as u32), key, value);
        }
    }

    /// The value's bytes as of the last seal; `None` if the key had none then, or was removed.
    pub fn sealed_value(&self, entry: EntryId) -> Option<&[u8]> {
        let e = &self.entries[entry.0 as usize];
        (e.used && e.sealed).then(|| &e.bytes[usize::from(e.key_len)..])
    }

    /// Makes a touched entry's value, which is saved, its base.
    fn seal_entry(&mut self, at: u32, delta: &mut Delta) {
        let entry = &mut self.entries[at as usize];
        let live = &mut self.live[entry.live as usize];
        (live.touched, live.known) = (false, false);
        let new = &self.saves.0[std::mem::take(&mut live.saved).range()];
        let (key, old) = entry.bytes.split_at(usize::from(entry.key_len));
        if live.value.is_none() {
            if entry.sealed {
                delta.push(Change { table: self.id, key, value: None });
            }
            self.drop_live(at);
            self.remove_entry(at);
        } else if !entry.sealed || new != old {
            delta.push(Change { table: self.id, key, value: Some(new) });
            if new.len() == old.len() {
                entry.bytes[usize::from(entry.key_len)..].copy_from_slice(new);
            } else {
                entry.bytes = join(key, new);
            }
            entry.sealed = true;
        }
    }

    fn drop_live(&mut self, entry: u32) {
        let at = std::mem::replace(&mut self.entries[entry as usize].live, NONE);
        if at != NONE {
            self.live.swap_remove(at as usize);
            if let Some(moved) = self.live.get(at as usize) {
                self.entries[moved.entry as usize].live = at;
            }
        }
    }
}

fn short(hash: u64) -> u32 {
    // The low bits choose the slot and thereby the task; the high ones still spread its keys.
    (hash >> 32) as u32
}

/// The index takes a place from the low bits and a tag from the highest: both must differ.
fn spread(short: u32) -> u64 {
    u64::from(short) << 32 | u64::from(short)
}

fn join(key: &[u8], value: &[u8]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(key.len() + value.len());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes.into_boxed_slice()
}

impl<V: Value> StateTable for Table<V> {
    fn id(&self) -> TableId {
        self.id
    }

    fn undo(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        if mutant::is(Mutant::SkipUndo) {
            self.touched.extend(touched.pop());
        }
        for entry in touched {
            self.drop_live(entry);
            if !self.entries[entry as usize].sealed {
                self.remove_entry(entry);
            }
        }
    }

    fn seal(&mut self, delta: &mut Delta) -> Result<(), Failure> {
        // Everything is saved before anything is sealed, so that a failure changes nothing.
        for at in 0..self.touched.len() {
            self.save(EntryId(self.touched[at]))?;
        }
        for at in std::mem::take(&mut self.touched) {
            self.seal_entry(at, delta);
        }
        self.saves.clear();
        if self.live.len() > LIVE_MAX {
            for live in self.live.drain(..) {
                self.entries[live.entry as usize].live = NONE;
            }
        }
        Ok(())
    }

    fn restore(&mut self, change: Change<'_>) -> Result<()> {
        let hash = short(millstream_core::key::hash(change.key));
        let found = self.index.find(spread(hash), |&e| self.matches(e, hash, change.key)).copied();
        match (found, change.value) {
            (Some(at), Some(value)) => self.entries[at as usize].bytes = join(change.key, value),
            (Some(at), None) => self.remove_entry(at),
            (None, Some(value)) => {
                self.insert(hash, change.key, value, true);
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.index.len()
    }

    fn sealed(&self, key: &[u8]) -> Option<&[u8]> {
        self.sealed_value(self.find(millstream_core::key::hash(key), key)?)
    }
}

#[cfg(test)]
mod tests;
