//! Every limit of the embedded engine, with its default.

use std::time::Duration;

/// What *durable* means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Survives a power loss: a turn is durable when it was fsynced.
    #[default]
    Fsync,
    /// Survives the death of the process, not a power loss: a turn is durable when the operating
    /// system has it. Segments are still fsynced when they are full.
    OsCache,
}

/// How an embedded engine behaves; the defaults suit a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// What *durable* means.
    pub durability: Durability,
    /// A segment of the log is closed when it is about this long.
    pub segment_bytes: u64,
    /// At most about this much is written with one sync, unless a segment is due to be closed.
    pub batch_bytes: u64,
    /// A sync begins at the earliest this long after the one before, so that turns share it; after
    /// a pause it begins at once.
    pub sync_every: Duration,
    /// Written frames are kept in memory for their readers up to this many bytes.
    pub cache_bytes: usize,
    /// Stored bytes at which sources wait, until what nobody needs any more was removed; `None`: no
    /// limit. What was taken in is still worked off, so leave a reserve on the disk beyond it: the
    /// unread bytes that flows may have, and a few segments. The limit itself has to hold the state
    /// twice, its changes (`compact_bytes_min` per task) and four segments.
    pub disk_bytes_max: Option<u64>,
    /// How long the committer's thread waits before it tries a failed write again.
    pub retry: Duration,
    /// State changes of a task are sorted into a run when there are at least this many bytes...
    pub compact_bytes_min: u64,
    /// ...and at least this many percent of the task's runs, but no more than...
    pub compact_percent: u64,
    /// ...this many bytes, which is also what a compaction holds in memory.
    pub compact_bytes_max: u64,
    /// At most this many runs per task are left by a compaction.
    pub runs_max: usize,
    /// Bytes of a block of a run, the unit of reading and checking.
    pub block_bytes: usize,
    /// Old segments are emptied when more than this many bytes in them are dead, and...
    pub garbage_bytes_min: u64,
    /// ...at most this many percent of a segment are alive.
    pub evacuate_percent: u64,
    /// At most about this much is copied out of old segments in one step.
    pub evacuate_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            durability: Durability::Fsync,
            segment_bytes: 64 << 20,
            batch_bytes: 16 << 20,
            sync_every: Duration::from_millis(1),
            cache_bytes: 64 << 20,
            disk_bytes_max: None,
            retry: Duration::from_millis(200),
            compact_bytes_min: 4 << 20,
            compact_percent: 100,
            compact_bytes_max: 256 << 20,
            runs_max: 4,
            block_bytes: 64 << 10,
            garbage_bytes_min: 256 << 20,
            evacuate_percent: 25,
            evacuate_bytes: 4 << 20,
        }
    }
}
