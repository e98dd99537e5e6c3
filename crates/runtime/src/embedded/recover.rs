//! Opening a log: what was there when the last process stopped, however it stopped.
//!
//! *How:* the newest segment with a good first record says which older segments are needed. Their
//! indexes tell where frames and deltas lie; the newest segment is read and replayed record by
//! record. A bad record ends the log if nothing proves that it was durable; otherwise opening is
//! refused with the file and the byte.
//!
//! *Invariants*
//! - Nothing is written here, and nothing is removed.
//! - What no later record proves to be durable is handed to the committer to be written anew. A
//!   killed process may have left it in the kernel only, and if a sync had failed before, even a
//!   sync that succeeds now would not save it. But it may as well be durable, and promised: until
//!   all of it is in the new segment, the old one is the last.

use std::{collections::BTreeMap, sync::Arc};

use arrow_buffer::MutableBuffer;
use millstream_core::{
    Error, Result,
    disk::{Disk, DiskFile},
    turn::TaskId,
};

use super::{
    index,
    record::{DeltaMeta, Entry, Item, Meta, Record},
    run, segment,
    segment::Scan,
    shared::damaged,
    snapshot::{Extent, Snapshot, Start},
    space::Segment,
    state::{DeltaSlot, State},
    stream::Arrival,
};

/// What was found.
pub(super) struct Found {
    pub state: State,
    /// Where the log ends, as far as it is known to be durable, and the last record before that.
    pub position: u64,
    pub durable: u64,
    /// The good records behind it.
    pub tail: Vec<Record>,
    pub next_seq: u64,
    /// Segments that lack a good index, and what it should say.
    pub unindexed: Vec<(Extent, Vec<Entry>)>,
    /// Segments (and indexes) and runs that nothing refers to.
    pub orphan_segments: Vec<u64>,
    pub orphan_runs: Vec<String>,
}

/// A segment with a good first record.
struct Link {
    base: u64,
    scan: Scan,
    start: Start,
    seq: u64,
    /// Where the second record starts.
    offset: u64,
}

impl Link {
    /// Whether all records are here that it has taken over from the segment before.
    fn is_whole(&mut self) -> Result<bool> {
        let mut offset = self.offset;
        for _ in 0..self.start.again {
            let Some(found) = self.scan.record(offset)? else { return Ok(false) };
            offset += found.head.record_len();
        }
        Ok(true)
    }
}

/// Reads the log of a disk.
pub(super) fn recover(disk: &dyn Disk) -> Result<Found> {
    let names = disk.list(segment::LOG).map_err(|e| Error::io(segment::LOG, &e))?;
    let mut bases: Vec<u64> = names.iter().filter_map(|n| segment::base_of(n)).collect();
    bases.sort_unstable();
    let chain = chain(disk, &bases)?;
    let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
        return Ok(Found {
            orphan_runs: orphan_runs(disk, &State::default())?,
            state: State::default(),
            position: 0,
            durable: 0,
            tail: Vec::new(),
            next_seq: 1,
            unindexed: Vec::new(),
            orphan_segments: bases,
        });
    };
    let needed = last.start.segments.clone();
    for extent in &needed {
        if !bases.contains(&extent.base) {
            let Extent { base, end } = extent;
            let path = segment::path(*base);
            return Err(Error::corrupt(format!(
                "{path} is missing: bytes {base} to {end} of the log"
            ))
            .help("restore the directory from a backup"));
        }
    }
    let mut unindexed = Vec::new();
    let snapshot = first.start.snapshot.clone().unwrap_or_default();
    let older: Vec<Extent> = needed.iter().filter(|e| e.base < first.base).copied().collect();
    let mut state = load(disk, &snapshot, &older, &mut unindexed)?;

    let mut orphan_segments = bases;
    orphan_segments.retain(|base| older.iter().all(|e| e.base != *base));
    let (mut position, mut seq, mut tail) = (first.base, first.seq, Vec::new());
    let mut chain = chain.into_iter().peekable();
    while let Some(mut link) = chain.next() {
        let end = chain.peek().map(|next| next.base);
        orphan_segments.retain(|base| *base != link.base);
        let segment = Segment { file: link.scan.file().clone(), end: 0, live: 0, head: 0 };
        state.space.segments.insert(link.base, segment);
        let mut entries = Vec::new();
        position = replay(&mut state, &mut link, end, &mut seq, &mut entries)?;
        if end.is_none() {
            tail = unproven(&mut link, position)?;
            position -= tail.iter().map(Record::len).sum::<u64>();
            entries.retain(|e: &Entry| link.base + e.offset < position);
        }
        unindexed.push((Extent { base: link.base, end: position }, entries));
        if let Some(segment) = state.space.segments.get_mut(&link.base) {
            segment.end = position;
        }
    }
    state.tasks.iter_mut().for_each(|t| t.opening = None);
    check_runs(disk, &state)?;
    let durable = tail.first().map_or(seq, |r| r.seq) - 1;
    let orphan_runs = orphan_runs(disk, &state)?;
    Ok(Found {
        state,
        position,
        durable,
        tail,
        next_seq: seq,
        unindexed,
        orphan_segments,
        orphan_runs,
    })
}

/// The records at the end of the last segment that nothing proves to be durable.
fn unproven(link: &mut Link, end: u64) -> Result<Vec<Record>> {
    let (mut offset, mut proven, mut offsets) = (link.offset, 0, Vec::new());
    while link.base + offset < end {
        let Some(head) = link.scan.head(offset)?.map(|(head, _)| head) else { break };
        offsets.push(offset);
        proven = head.synced;
        offset += head.record_len();
    }
    let mut tail = Vec::new();
    for offset in offsets.into_iter().filter(|offset| link.base + offset >= proven) {
        let path = segment::path(link.base);
        let at = |e: Error| damaged(&path, offset, e.message());
        let gone = || at(Error::corrupt("a record was there and is not any more"));
        let found = link.scan.record(offset)?.ok_or_else(gone)?;
        let len = found.head.record_len() - found.head.parts_at();
        let mut rest = MutableBuffer::from_len_zeroed(len as usize);
        let start = offset + found.head.parts_at();
        link.scan.file().read_at(start, &mut rest).map_err(|e| Error::io(&path, &e))?;
        let meta = Meta::decode(found.head.kind, &found.meta).map_err(at)?;
        let entries = meta.entries(found.head.seq, &found.numbers).map_err(at)?;
        tail.push(Record::again(&found.head, found.numbers, found.meta, rest.into(), entries));
    }
    Ok(tail)
}

/// The newest segment, and those it continues, oldest first.
fn chain(disk: &dyn Disk, bases: &[u64]) -> Result<Vec<Link>> {
    let mut chain: Vec<Link> = Vec::new();
    for base in bases.iter().rev() {
        let wanted = match chain.last() {
            None => true,
            Some(Link { start: Start { snapshot: Some(_), .. }, .. }) => break,
            Some(next) => next.start.segments.last().is_some_and(|e| e.base == *base),
        };
        if !wanted {
            continue;
        }
        match link(disk, *base)? {
            Ok(mut link) => {
                if !chain.is_empty() || link.is_whole()? {
                    chain.push(link);
                }
            }
            // A segment that was being started when the process stopped; nothing refers to it.
            Err(mut scan) if chain.is_empty() => {
                if scan.was_durable(0)? {
                    return Err(damaged(&segment::path(*base), 0, "its first record is bad"));
                }
            }
            Err(_) => return Err(damaged(&segment::path(*base), 0, "its first record is bad")),
        }
    }
    if chain.last().is_some_and(|oldest| oldest.start.snapshot.is_none()) {
        return Err(Error::corrupt("the log has lost the segment that holds its metadata")
            .help("restore the directory from a backup"));
    }
    chain.reverse();
    Ok(chain)
}

fn link(disk: &dyn Disk, base: u64) -> Result<Result<Link, Scan>> {
    let mut scan = Scan::new(base, open(disk, base)?)?;
    let Some(found) = scan.record(0)? else { return Ok(Err(scan)) };
    let Meta::Start(start) = Meta::decode(found.head.kind, &found.meta)
        .map_err(|e| damaged(&segment::path(base), 0, e.message()))?
    else {
        return Ok(Err(scan));
    };
    Ok(Ok(Link { base, scan, start, seq: found.head.seq, offset: found.head.record_len() }))
}

fn open(disk: &dyn Disk, base: u64) -> Result<Arc<dyn DiskFile>> {
    let path = segment::path(base);
    disk.open(&path).map_err(|e| Error::io(path, &e))
}

/// Replays a segment. Returns where it ends, which must be `end` if that is known.
fn replay(
    state: &mut State,
    link: &mut Link,
    end: Option<u64>,
    seq: &mut u64,
    entries: &mut Vec<Entry>,
) -> Result<u64> {
    let path = segment::path(link.base);
    let mut offset = link.offset;
    while end != Some(link.base + offset) {
        let Some(found) = link.scan.record(offset)? else {
            if end.is_some() || link.scan.was_durable(offset)? {
                return Err(damaged(&path, offset, "a record is bad and was durable"));
            }
            break;
        };
        let at = |e: Error| damaged(&path, offset, e.message());
        if found.head.seq != *seq {
            let (is, want) = (found.head.seq, *seq);
            return Err(at(Error::corrupt(format!("record {is} where {want} should be"))));
        }
        let meta = Meta::decode(found.head.kind, &found.meta).map_err(at)?;
        let parts = offset + found.head.parts_at();
        let new = meta.entries(*seq, &found.numbers).map_err(at)?;
        entries.extend(new.iter().map(|e| Entry { offset: e.offset + parts, ..*e }));
        state.replay(meta, *seq, &found.numbers, link.base, parts).map_err(at)?;
        offset += found.head.record_len();
        *seq += 1;
    }
    Ok(link.base + offset)
}

/// The state of a snapshot, with the frames and deltas that older segments hold.
fn load(
    disk: &dyn Disk,
    snapshot: &Snapshot,
    older: &[Extent],
    unindexed: &mut Vec<(Extent, Vec<Entry>)>,
) -> Result<State> {
    let mut state = State::from_snapshot(snapshot)?;
    // By identity, in log order: what was evacuated is found at its last place.
    let mut frames = BTreeMap::new();
    let mut deltas = BTreeMap::new();
    for extent in older {
        let file = open(disk, extent.base)?;
        let entries = match index::read(disk, *extent) {
            Some(entries) => entries,
            None => {
                let entries = scan(extent, file.clone())?;
                unindexed.push((*extent, entries.clone()));
                entries
            }
        };
        let segment = Segment { file, end: extent.end, live: 0, head: 0 };
        state.space.segments.insert(extent.base, segment);
        for entry in entries {
            match entry.item {
                Item::Frame { stream, partition, number, .. } => {
                    frames.insert((stream, partition, number), (extent.base, entry));
                }
                Item::Delta { task, seq, .. } => {
                    deltas.insert((task, seq), (extent.base, entry));
                }
            }
        }
    }
    for (id, s) in snapshot.streams.iter().enumerate() {
        for (p, part) in s.partitions.iter().enumerate() {
            for number in part.first..part.next {
                let found = frames.get(&(id as u32, p as u32, number));
                let Some((segment, entry)) = found else {
                    let name = &s.stream.name;
                    return Err(Error::corrupt(format!("frame {number} of {name}/{p} is missing")));
                };
                let Item::Frame { rows, seq, .. } = entry.item else { continue };
                let stream = &mut state.streams[id];
                stream.kept_bytes += u64::from(entry.len);
                stream.partitions[p].push(seq, Arrival { rows, len: entry.len, frame: None });
                state.place(*segment, entry);
            }
        }
    }
    for t in &snapshot.tasks {
        let after = (t.task.0, t.through + 1)..=(t.task.0, u64::MAX);
        let mut count = 0;
        for (_, (segment, entry)) in deltas.range(after) {
            let Item::Delta { seq, entries, sum, .. } = entry.item else { continue };
            let meta = DeltaMeta { len: entry.len, entries, sum };
            let slot = DeltaSlot { seq, meta, place: None, memory: None };
            state.restore_delta(TaskId(t.task.0), slot);
            state.place(*segment, entry);
            count += 1;
        }
        if count != t.deltas {
            let (name, want) = (&t.name, t.deltas);
            return Err(Error::corrupt(format!(
                "{count} of {want} state changes of task {name} are there"
            )));
        }
    }
    Ok(state)
}

/// What lies in a segment that has no good index.
pub(super) fn scan(extent: &Extent, file: Arc<dyn DiskFile>) -> Result<Vec<Entry>> {
    let path = segment::path(extent.base);
    let mut scan = Scan::new(extent.base, file)?;
    let (mut entries, mut offset) = (Vec::new(), 0);
    while extent.base + offset < extent.end {
        let found = scan.record(offset)?;
        let found = found.ok_or_else(|| damaged(&path, offset, "a record is bad"))?;
        let at = |e: Error| damaged(&path, offset, e.message());
        let meta = Meta::decode(found.head.kind, &found.meta).map_err(at)?;
        let parts = offset + found.head.parts_at();
        let new = meta.entries(found.head.seq, &found.numbers).map_err(at)?;
        entries.extend(new.iter().map(|e| Entry { offset: e.offset + parts, ..*e }));
        offset += found.head.record_len();
    }
    Ok(entries)
}

fn check_runs(disk: &dyn Disk, state: &State) -> Result<()> {
    for task in &state.tasks {
        for meta in &task.runs {
            run::open(disk, task.id, meta)?;
        }
    }
    Ok(())
}

/// Runs that nothing refers to: of compactions that were cut short, or replaced.
fn orphan_runs(disk: &dyn Disk, state: &State) -> Result<Vec<String>> {
    let needed = |path: &String| {
        state.tasks.iter().any(|t| t.runs.iter().any(|r| run::path(t.id, r.number) == *path))
    };
    let runs = disk.list(run::DIR).map_err(|e| Error::io(run::DIR, &e))?;
    let runs = runs.iter().filter(|n| n.ends_with(".run")).map(|n| format!("{}/{n}", run::DIR));
    Ok(runs.filter(|path| !needed(path)).collect())
}
