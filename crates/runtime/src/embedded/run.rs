//! Runs: files of a task's state, sorted by table and key.
//!
//! *Format, version 1*, little-endian: head `magic MSRN · version u32 · task u32 · 0 u32 · number
//! u64`; blocks, each `length u32 · entries u32 · checksum u64 · changes` as in
//! [`millstream_core::turn::Delta`]; a block of length 0 and then the foot `entries u64 · checksum
//! u64` of head and entries.
//!
//! *Invariant:* a run is complete and synced before a manifest names it, and never changes.

use std::sync::Arc;

use millstream_core::{
    Error, Result,
    disk::{Disk, DiskFile},
    turn::TaskId,
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{record::RunMeta, shared::damaged};

/// The directory of the runs.
pub(super) const DIR: &str = "state";
const MAGIC: &[u8; 4] = b"MSRN";
const VERSION: u32 = 1;
pub(super) const HEAD_BYTES: u64 = 24;
pub(super) const BLOCK_HEAD_BYTES: u64 = 16;
const FOOT_BYTES: u64 = BLOCK_HEAD_BYTES + 16;

/// A run's file.
pub(super) fn path(task: TaskId, number: u64) -> String {
    format!("{DIR}/{:08x}-{number:016x}.run", task.0)
}

fn head(task: TaskId, number: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&task.0.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&number.to_le_bytes());
    head
}

fn foot(head: &[u8], entries: u64) -> Vec<u8> {
    let mut sum = Xxh3::new();
    sum.update(head);
    sum.update(&entries.to_le_bytes());
    let mut foot = vec![0; BLOCK_HEAD_BYTES as usize];
    foot.extend_from_slice(&entries.to_le_bytes());
    foot.extend_from_slice(&sum.digest().to_le_bytes());
    foot
}

/// Opens a run and checks that it is whole; the blocks are checked when they are read.
pub(super) fn open(disk: &dyn Disk, task: TaskId, meta: &RunMeta) -> Result<Arc<dyn DiskFile>> {
    let path = path(task, meta.number);
    let file = disk.open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::corrupt(format!("{path} is missing")).help("restore the directory from a backup")
        }
        _ => Error::io(&path, &e),
    })?;
    let len = file.len().map_err(|e| Error::io(&path, &e))?;
    if len != meta.bytes || len < HEAD_BYTES + FOOT_BYTES {
        return Err(damaged(&path, len, &format!("it should have {} bytes", meta.bytes)));
    }
    let expected = head(task, meta.number);
    let mut found = vec![0; HEAD_BYTES as usize];
    file.read_at(0, &mut found).map_err(|e| Error::io(&path, &e))?;
    if found != expected {
        return Err(damaged(&path, 0, "this is the head of another file"));
    }
    let mut found = vec![0; FOOT_BYTES as usize];
    file.read_at(len - FOOT_BYTES, &mut found).map_err(|e| Error::io(&path, &e))?;
    if found != foot(&expected, meta.entries) {
        return Err(damaged(&path, len - FOOT_BYTES, "the foot is wrong"));
    }
    Ok(file)
}

/// Reads a run block by block.
pub(super) struct RunReader {
    path: String,
    file: Arc<dyn DiskFile>,
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
}

impl RunReader {
    pub fn new(task: TaskId, meta: &RunMeta, file: Arc<dyn DiskFile>) -> RunReader {
        let end = meta.bytes - FOOT_BYTES;
        RunReader {
            path: path(task, meta.number),
            file,
            offset: HEAD_BYTES,
            end,
            buffer: Vec::new(),
        }
    }

    /// The changes of the next block, in order; `None` at the end.
    pub fn block(&mut self) -> Result<Option<&[u8]>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let at = self.offset;
        let bad = |why: &str| damaged(&self.path, at, why);
        let io = |e| Error::io(format!("{} at byte {at}", self.path), &e);
        let mut head = [0; BLOCK_HEAD_BYTES as usize];
        self.file.read_at(at, &mut head).map_err(io)?;
        let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let len = u64::from(word(0));
        if len == 0 || at + BLOCK_HEAD_BYTES + len > self.end {
            return Err(bad("a block has a wrong length"));
        }
        self.buffer.resize(len as usize, 0);
        self.file.read_at(at + BLOCK_HEAD_BYTES, &mut self.buffer).map_err(io)?;
        let sum = u64::from(word(8)) | u64::from(word(12)) << 32;
        if sum != block_sum(word(4), &self.buffer) {
            return Err(bad("a block's checksum does not match"));
        }
        self.offset = at + BLOCK_HEAD_BYTES + len;
        Ok(Some(&self.buffer))
    }
}

fn block_sum(entries: u32, changes: &[u8]) -> u64 {
    xxh3_64(changes) ^ u64::from(entries).rotate_left(17)
}

/// Writes a run block by block.
pub(super) struct RunWriter {
    head: Vec<u8>,
    path: String,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    entries: u64,
}

impl RunWriter {
    pub fn create(disk: &dyn Disk, task: TaskId, number: u64) -> Result<RunWriter> {
        let path = path(task, number);
        let file = disk.create(&path).map_err(|e| Error::io(&path, &e))?;
        let head = head(task, number);
        file.append(&[&head]).map_err(|e| Error::io(&path, &e))?;
        Ok(RunWriter { head, path, file, bytes: HEAD_BYTES, entries: 0 })
    }

    /// Appends a block of `entries` changes.
    pub fn block(&mut self, changes: &[u8], entries: u32) -> Result<()> {
        let mut head = (changes.len() as u32).to_le_bytes().to_vec();
        head.extend_from_slice(&entries.to_le_bytes());
        head.extend_from_slice(&block_sum(entries, changes).to_le_bytes());
        self.append(&[&head, changes])?;
        self.entries += u64::from(entries);
        Ok(())
    }

    fn append(&mut self, parts: &[&[u8]]) -> Result<()> {
        self.file.append(parts).map_err(|e| Error::io(&self.path, &e))?;
        self.bytes += parts.iter().map(|p| p.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Completes the run, durably. Returns its bytes and entries.
    pub fn finish(mut self, disk: &dyn Disk) -> Result<(u64, u64)> {
        let foot = foot(&self.head, self.entries);
        self.append(&[&foot])?;
        self.file.sync().map_err(|e| Error::io(&self.path, &e))?;
        disk.sync_dir(DIR).map_err(|e| Error::io(DIR, &e))?;
        Ok((self.bytes, self.entries))
    }
}
