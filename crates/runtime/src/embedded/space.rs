//! What takes up room: segments with what is alive in them, and frames cached in memory.
//!
//! *Invariant:* a segment's `live` is the sum of the bytes of kept frames and needed deltas that
//! lie in it. At 0 the segment can go with the next snapshot.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use millstream_core::disk::DiskFile;

use super::{
    snapshot::Extent,
    stream::{Place, Slot, Stream},
};

/// A frame: stream, partition, number.
type Name = (u32, u32, u64);

pub(super) struct Segment {
    pub file: Arc<dyn DiskFile>,
    pub end: u64,
    pub live: u64,
    /// Bytes of the snapshot it begins with: every segment has one, so they are no garbage. 0 for
    /// a segment that was found when the log was opened.
    pub head: u64,
}

/// Segments by base, and the frame cache.
#[derive(Default)]
pub(super) struct Space {
    pub segments: BTreeMap<u64, Segment>,
    /// Written frames that are still in memory, oldest first; some were dropped since.
    cached: VecDeque<Name>,
    cached_bytes: usize,
    cached_frames: usize,
}

impl Space {
    /// Takes account of a frame or delta that is not needed any more.
    pub fn release(&mut self, place: Option<Place>, len: u32, cached: bool) {
        let Some(place) = place else { return };
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live -= u64::from(len);
        }
        if cached {
            self.cached_bytes -= len as usize;
            self.cached_frames -= 1;
        }
    }

    /// Takes account of something that now lies at a place.
    pub fn settle(&mut self, from: Option<Place>, to: Place, len: u32) {
        if let Some(segment) = from.and_then(|from| self.segments.get_mut(&from.segment)) {
            segment.live -= u64::from(len);
        }
        if let Some(segment) = self.segments.get_mut(&to.segment) {
            segment.live += u64::from(len);
        }
    }

    /// Takes account of a frame in memory that was just written.
    pub fn cache(&mut self, stream: u32, partition: u32, number: u64, len: u32) {
        self.cached.push_back((stream, partition, number));
        self.cached_bytes += len as usize;
        self.cached_frames += 1;
    }

    /// Lets go of cached frames, oldest first, until at most `bytes_max` are held.
    pub fn shrink(&mut self, streams: &mut [Stream], bytes_max: usize) {
        // Frames that were trimmed meanwhile leave their names behind.
        if self.cached.len() > 1024 && self.cached.len() > 4 * self.cached_frames {
            self.cached.retain(|name| cached(streams, *name).is_some());
        }
        while self.cached_bytes > bytes_max {
            let Some(name) = self.cached.pop_front() else { return };
            if let Some(slot) = cached(streams, name) {
                slot.frame = None;
                self.cached_bytes -= slot.len as usize;
                self.cached_frames -= 1;
            }
        }
    }

    pub fn file(&self, segment: u64) -> Option<Arc<dyn DiskFile>> {
        self.segments.get(&segment).map(|s| s.file.clone())
    }

    pub fn extents(&self) -> Vec<Extent> {
        self.segments.iter().map(|(base, s)| Extent { base: *base, end: s.end }).collect()
    }
}

fn cached(streams: &mut [Stream], (stream, partition, number): Name) -> Option<&mut Slot> {
    let partition = streams.get_mut(stream as usize)?.partitions.get_mut(partition as usize)?;
    partition.slot(number).filter(|slot| slot.frame.is_some())
}
