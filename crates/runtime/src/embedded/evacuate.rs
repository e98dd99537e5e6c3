//! Emptying old segments: a few dead letters must not pin gigabytes.
//!
//! *How:* what is alive in a mostly dead segment is copied to the end of the log, a bounded piece
//! at a time. When the copies are durable nothing in the old segment is needed, and the next
//! snapshot lets it go.
//!
//! *Invariant:* a frame or delta keeps its identity; readers never notice that it has moved.

use std::sync::Arc;

use arrow_buffer::Buffer;
use millstream_core::{Error, Frame, Result, disk::DiskFile};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    compact::Compactor,
    index,
    record::{Entry, EvacuateMeta, Item, Kind, Part, Record, place},
    recover,
    shared::{Inner, Shared},
    snapshot::Extent,
    state::{State, partition},
    stream::Place,
};

/// Copies one piece, or asks for a snapshot if that alone frees segments. `false`: nothing to do.
pub(super) fn step(compactor: &mut Compactor) -> Result<bool> {
    if compactor.evacuating.is_some_and(|seq| seq > compactor.shared.durable()) {
        return Ok(false);
    }
    compactor.evacuating = None;
    let shared = compactor.shared.clone();
    let Some((extent, file)) = candidate(&shared, compactor) else { return Ok(false) };
    let copied = copy(&shared, extent, file);
    if copied.is_err() {
        compactor.damaged.insert(extent.base);
    }
    compactor.evacuating = copied?;
    Ok(compactor.evacuating.is_some())
}

/// The segment with the least alive, if there is much garbage.
fn candidate(shared: &Shared, compactor: &Compactor) -> Option<(Extent, Arc<dyn DiskFile>)> {
    let options = &shared.options;
    let mut inner = shared.lock();
    // With no room left more has to go, though it costs more than it saves.
    let full = inner.is_full(options);
    let (roll_at, garbage_min, percent) = match full {
        true => (options.segment_bytes / 4, 0, 75),
        false => (2 * options.segment_bytes, options.garbage_bytes_min, options.evacuate_percent),
    };
    let (mut dead, mut garbage) = (0, 0);
    let mut best: Option<(u64, Extent, Arc<dyn DiskFile>)> = None;
    let active = inner.state.space.segments.keys().next_back().copied();
    for (base, segment) in &inner.state.space.segments {
        // A segment that was closed early wastes no bytes but a file.
        let len = (segment.end - base).max(options.segment_bytes).saturating_sub(segment.head);
        if Some(*base) == active {
            // What is dead in it can only go once it is closed.
            let own = (segment.end - base).saturating_sub(segment.head + segment.live);
            dead += if full { own } else { 0 };
            continue;
        }
        if segment.live == 0 {
            dead += (segment.end - base).saturating_sub(segment.head);
            continue;
        }
        garbage += len.saturating_sub(segment.live);
        let mostly_dead = segment.live * 100 <= len * percent;
        if mostly_dead
            && !compactor.damaged.contains(base)
            && best.as_ref().is_none_or(|(live, ..)| segment.live < *live)
        {
            let extent = Extent { base: *base, end: segment.end };
            best = Some((segment.live, extent, segment.file.clone()));
        }
    }
    if dead >= roll_at && !inner.roll {
        inner.roll = true;
        shared.work.notify_one();
    }
    best.filter(|_| garbage > garbage_min).map(|(_, extent, file)| (extent, file))
}

/// Copies what is alive in a segment, as far as a step may. Returns the record's number.
fn copy(shared: &Shared, extent: Extent, file: Arc<dyn DiskFile>) -> Result<Option<u64>> {
    let entries = match index::read(&*shared.disk, extent) {
        Some(entries) => entries,
        None => recover::scan(&extent, file.clone())?,
    };
    let alive = {
        let mut inner = shared.lock();
        let mut bytes = 0;
        let alive = entries.into_iter().filter(|e| is_alive(&mut inner, extent.base, e));
        let few = alive.take_while(|e| {
            let first = bytes == 0;
            bytes += u64::from(e.len);
            first || bytes <= shared.options.evacuate_bytes
        });
        few.collect::<Vec<_>>()
    };
    let mut parts = Vec::new();
    for entry in &alive {
        let at = Place { segment: extent.base, offset: entry.offset };
        let bytes: Buffer = shared.read(&file, at, entry.len)?.into();
        let bad = |e: Error| shared.bad(at, e.message());
        match entry.item {
            Item::Frame { .. } => drop(Frame::decode(bytes.clone()).map_err(bad)?),
            Item::Delta { sum, .. } if xxh3_64(&bytes) == sum => {}
            Item::Delta { .. } => return Err(shared.bad(at, "state changes do not match")),
        }
        parts.push(Part::Bytes(bytes));
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let items: Vec<_> = alive.iter().map(|e| (e.item, e.len)).collect();
    let meta = EvacuateMeta { items };
    let mut record = Record::new(Kind::Evacuate, &meta, parts)?;
    record.entries = place(meta.items);
    let mut inner = shared.lock();
    shared.writable(&inner)?;
    record.seq = inner.sequence();
    let seq = record.seq;
    shared.enqueue(inner, record);
    Ok(Some(seq))
}

fn is_alive(inner: &mut Inner, segment: u64, entry: &Entry) -> bool {
    let here = Some(Place { segment, offset: entry.offset });
    let State { streams, tasks, .. } = &mut inner.state;
    match entry.item {
        Item::Frame { stream, partition: p, number, .. } => partition(streams, stream, p)
            .and_then(|part| part.slot(number))
            .is_some_and(|slot| slot.place == here),
        Item::Delta { task, seq, .. } => tasks
            .get_mut((task as usize).wrapping_sub(1))
            .and_then(|task| task.delta(seq))
            .is_some_and(|slot| slot.place == here),
    }
}
