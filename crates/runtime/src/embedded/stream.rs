//! Streams in memory: which frames a partition holds, where they lie, who reads them.
//!
//! *Invariants*
//! - A partition's frames are contiguous: `first`, `first + 1`, up to `next`.
//! - `appended_rows` is counted when a turn is applied; `row_end` of a frame is summed over the
//!   frames that are really there. The stream law compares the two; the edge law compares
//!   `appended_rows` with what the producers say.

use std::{collections::VecDeque, sync::Arc};

use millstream_core::{
    Frame,
    disk::DiskFile,
    engine::{Backlog, StreamSpec},
    turn::Position,
};

use super::{snapshot::PartitionSnap, space::Space};

/// Where something lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment's base.
    pub segment: u64,
    pub offset: u64,
}

/// A frame that is kept.
#[derive(Debug)]
pub(super) struct Slot {
    pub rows: u32,
    pub len: u32,
    /// Sequence number of the record that brought it.
    pub seq: u64,
    /// Rows and bytes of the partition up to and with this frame.
    pub row_end: u64,
    pub byte_end: u64,
    /// `None` until written.
    pub place: Option<Place>,
    /// The frame, while it is in memory.
    pub frame: Option<Box<Frame>>,
}

/// A frame to append.
pub(super) struct Arrival {
    pub rows: u32,
    pub len: u32,
    pub frame: Option<Frame>,
}

/// A frame found for a reader.
pub(super) enum Found {
    Memory(Frame),
    Disk { file: Arc<dyn DiskFile>, place: Place, len: u32 },
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    pub first: u64,
    pub slots: VecDeque<Slot>,
    pub base_row: u64,
    pub base_byte: u64,
    pub appended_rows: u64,
    /// Those of them that no task has sent.
    pub outside_rows: u64,
    pub expired_rows: u64,
    /// The tasks that read it, and as which of their inputs.
    pub consumers: Vec<(u32, usize)>,
}

pub(super) struct Stream {
    pub spec: StreamSpec,
    pub partitions: Vec<Partition>,
    /// Bytes of all frames kept.
    pub kept_bytes: u64,
}

impl Stream {
    pub fn new(spec: StreamSpec) -> Stream {
        let partitions = (0..spec.partitions).map(|_| Partition::default()).collect();
        Stream { spec, partitions, kept_bytes: 0 }
    }

    /// Appends a frame and drops what the stream does not keep. Returns the frame's number.
    pub fn append(&mut self, partition: usize, seq: u64, new: Arrival, space: &mut Space) -> u64 {
        let part = &mut self.partitions[partition];
        let number = part.next();
        part.appended_rows += u64::from(new.rows);
        self.kept_bytes += u64::from(new.len);
        part.push(seq, new);
        self.expire(partition, space);
        number
    }

    /// Keeps partitions that nobody reads within the stream's bound, oldest frames first.
    fn expire(&mut self, appended: usize, space: &mut Space) {
        if !self.partitions[appended].consumers.is_empty() {
            return;
        }
        while self.kept_bytes > self.spec.retain_bytes {
            let unread = self.partitions.iter_mut().filter(|p| p.consumers.is_empty());
            let oldest = unread.min_by_key(|p| p.slots.front().map_or(u64::MAX, |s| s.seq));
            let Some(part) = oldest.filter(|p| !p.slots.is_empty()) else { return };
            let (rows, bytes) = part.drop_first(space);
            part.expired_rows += rows;
            self.kept_bytes -= bytes;
        }
    }

    /// Drops the frames before `keep_from`.
    pub fn trim(&mut self, partition: usize, keep_from: u64, space: &mut Space) {
        let part = &mut self.partitions[partition];
        while part.first < keep_from && !part.slots.is_empty() {
            self.kept_bytes -= part.drop_first(space).1;
        }
    }
}

impl Partition {
    pub fn of(snap: &PartitionSnap) -> Partition {
        Partition {
            first: snap.first,
            base_row: snap.base_row,
            base_byte: snap.base_byte,
            appended_rows: snap.appended_rows,
            outside_rows: snap.outside_rows,
            expired_rows: snap.expired_rows,
            ..Partition::default()
        }
    }

    pub fn snap(&self) -> PartitionSnap {
        PartitionSnap {
            first: self.first,
            next: self.next(),
            base_row: self.base_row,
            base_byte: self.base_byte,
            appended_rows: self.appended_rows,
            outside_rows: self.outside_rows,
            expired_rows: self.expired_rows,
        }
    }

    /// The number that the next frame will get.
    pub fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        self.slots.get_mut(number.checked_sub(self.first)? as usize)
    }

    /// Puts a frame behind the last.
    pub fn push(&mut self, seq: u64, new: Arrival) {
        let (row, byte) = self.end();
        self.slots.push_back(Slot {
            rows: new.rows,
            len: new.len,
            seq,
            row_end: row + u64::from(new.rows),
            byte_end: byte + u64::from(new.len),
            place: None,
            frame: new.frame.map(Box::new),
        });
    }

    fn drop_first(&mut self, space: &mut Space) -> (u64, u64) {
        let Some(slot) = self.slots.pop_front() else { return (0, 0) };
        space.release(slot.place, slot.len, slot.frame.is_some());
        self.first += 1;
        (self.base_row, self.base_byte) = (slot.row_end, slot.byte_end);
        (u64::from(slot.rows), u64::from(slot.len))
    }

    /// Rows and bytes up to the end.
    fn end(&self) -> (u64, u64) {
        self.slots.back().map_or((self.base_row, self.base_byte), |s| (s.row_end, s.byte_end))
    }

    /// What lies behind a position, counted from the frames.
    pub fn behind(&self, at: Position) -> Backlog {
        let before = match at.frame.saturating_sub(self.first) {
            0 => (self.base_row, self.base_byte),
            n => self
                .slots
                .get(n as usize - 1)
                .map_or_else(|| self.end(), |s| (s.row_end, s.byte_end)),
        };
        let (row, byte) = self.end();
        Backlog {
            rows: row.saturating_sub(before.0 + u64::from(at.row)),
            bytes: byte.saturating_sub(before.1),
        }
    }

    /// The frames from `from` on, at most about `bytes_max` but at least one, up to record `seq`.
    pub fn find(&self, from: u64, bytes_max: usize, seq: u64, space: &Space) -> Vec<(u64, Found)> {
        let skip = from.saturating_sub(self.first) as usize;
        let (mut out, mut bytes) = (Vec::new(), 0);
        for (slot, number) in self.slots.iter().skip(skip).zip(self.first + skip as u64..) {
            if slot.seq > seq || (bytes > 0 && bytes + slot.len as usize > bytes_max) {
                break;
            }
            bytes += slot.len as usize;
            let found = match (&slot.frame, slot.place) {
                (Some(frame), _) => Found::Memory(Frame::clone(frame)),
                (None, Some(place)) => {
                    let Some(file) = space.file(place.segment) else { break };
                    Found::Disk { file, place, len: slot.len }
                }
                (None, None) => break,
            };
            out.push((number, found));
        }
        out
    }
}
