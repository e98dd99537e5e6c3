//! Opening a log: what was there when the last process stopped, however it stopped.
//!
//! *How:* the newest segment with a good first record says which older segments are needed. Their
//! indexes tell where frames and deltas lie; the newest segment is read and replayed record by
//! record. A bad record ends the log if nothing proves that it was durable; otherwise opening is
//! refused with the file and the byte.
//!
//! *Invariants*
//! - Nothing is written here. The committer starts a new segment at the end that was found.
//! - Before the found end is taken for durable, the newest segment is synced: a killed process may
//!   have left bytes in the kernel that a power loss would still take.

use std::{collections::BTreeMap, sync::Arc};

use millstream_core::{
    Error, Result,
    disk::{Disk, DiskFile},
    turn::TaskId,
};

use super::{
    index,
    record::{DeltaMeta, Entry, Item, Meta},
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
    /// Where the log ends.
    pub position: u64,
    pub next_seq: u64,
    /// Segments that lack a good index, and what it should say.
    pub unindexed: Vec<(Extent, Vec<Entry>)>,
    /// Files that nothing refers to.
    pub orphans: Vec<String>,
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

/// Reads the log of a disk.
pub(super) fn recover(disk: &dyn Disk, read_only: bool) -> Result<Found> {
    let names = disk.list(segment::LOG).map_err(|e| Error::io(segment::LOG, &e))?;
    let mut bases: Vec<u64> = names.iter().filter_map(|n| segment::base_of(n)).collect();
    bases.sort_unstable();
    let chain = chain(disk, &bases)?;
    let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
        return Ok(Found {
            state: State::default(),
            position: 0,
            next_seq: 1,
            unindexed: Vec::new(),
            orphans: orphans(disk, &names, &[], &State::default())?,
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

    let mut bases: Vec<u64> = older.iter().map(|e| e.base).collect();
    let (mut position, mut seq) = (first.base, first.seq);
    let file = last.scan.file().clone();
    let mut chain = chain.into_iter().peekable();
    while let Some(mut link) = chain.next() {
        let end = chain.peek().map(|next| next.base);
        bases.push(link.base);
        let segment = Segment { file: link.scan.file().clone(), end: 0, live: 0 };
        state.space.segments.insert(link.base, segment);
        let mut entries = Vec::new();
        position = replay(&mut state, &mut link, end, &mut seq, &mut entries)?;
        unindexed.push((Extent { base: link.base, end: position }, entries));
        if let Some(segment) = state.space.segments.get_mut(&link.base) {
            segment.end = position;
        }
    }
    state.tasks.iter_mut().for_each(|t| t.opening = None);
    check_runs(disk, &state)?;
    if !read_only {
        file.sync().map_err(|e| Error::io(segment::LOG, &e))?;
        disk.sync_dir(segment::LOG).map_err(|e| Error::io(segment::LOG, &e))?;
    }
    let orphans = orphans(disk, &names, &bases, &state)?;
    Ok(Found { state, position, next_seq: seq, unindexed, orphans })
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
            Ok(link) => chain.push(link),
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
        let segment = Segment { file, end: extent.end, live: 0 };
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

/// Files of ours that nothing refers to.
fn orphans(disk: &dyn Disk, log: &[String], bases: &[u64], state: &State) -> Result<Vec<String>> {
    let stray = |name: &&String| {
        let segment = name.strip_suffix(".idx").map(|n| format!("{n}.seg"));
        segment::base_of(segment.as_ref().unwrap_or(name)).is_some_and(|b| !bases.contains(&b))
    };
    let mut orphans: Vec<String> =
        log.iter().filter(stray).map(|n| format!("{}/{n}", segment::LOG)).collect();
    let needed = |path: &String| {
        state.tasks.iter().any(|t| t.runs.iter().any(|r| run::path(t.id, r.number) == *path))
    };
    let runs = disk.list(run::DIR).map_err(|e| Error::io(run::DIR, &e))?;
    let runs = runs.iter().filter(|n| n.ends_with(".run")).map(|n| format!("{}/{n}", run::DIR));
    orphans.extend(runs.filter(|path| !needed(path)));
    Ok(orphans)
}
