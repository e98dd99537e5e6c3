//! Segment files, read record by record.

use std::{io, sync::Arc};

use millstream_core::{Error, Result, disk::DiskFile};
use xxhash_rust::xxh3::Xxh3;

use super::record::{HEAD_BYTES, Head};

/// The directory of the segments.
pub(super) const LOG: &str = "log";
/// Read ahead while scanning.
const WINDOW_BYTES: usize = 1 << 20;

/// A segment's file.
pub(super) fn path(base: u64) -> String {
    format!("{LOG}/{base:016x}.seg")
}

/// The base that a file name of [`path`] stands for.
pub(super) fn base_of(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".seg").filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

/// Reads a segment from front to back.
pub(super) struct Scan {
    base: u64,
    file: Arc<dyn DiskFile>,
    file_len: u64,
    window: Vec<u8>,
    window_at: u64,
}

/// A record, checked.
pub(super) struct Found {
    pub head: Head,
    pub numbers: Vec<u64>,
    pub meta: Vec<u8>,
}

impl Scan {
    pub fn new(base: u64, file: Arc<dyn DiskFile>) -> Result<Scan> {
        let file_len = file.len().map_err(|e| Error::io(path(base), &e))?;
        Ok(Scan { base, file, file_len, window: Vec::new(), window_at: 0 })
    }

    pub fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    /// `n` bytes from `offset`; `None` if the file ends before.
    fn bytes(&mut self, offset: u64, n: usize) -> Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(n as u64).filter(|end| *end <= self.file_len) else {
            return Ok(None);
        };
        let have = self.window_at..self.window_at + self.window.len() as u64;
        if !(have.start <= offset && end <= have.end) {
            let left = usize::try_from(self.file_len - offset).unwrap_or(usize::MAX);
            self.window.resize(n.max(WINDOW_BYTES).min(left), 0);
            self.window_at = offset;
            let read = self.file.read_at(offset, &mut self.window);
            if let Err(e) = read {
                self.window.clear();
                if e.kind() == io::ErrorKind::UnexpectedEof {
                    return Ok(None);
                }
                return Err(Error::io(format!("{} at byte {offset}", path(self.base)), &e));
            }
        }
        let start = (offset - self.window_at) as usize;
        Ok(self.window.get(start..start + n))
    }

    /// The head at `offset` if there is one that belongs there, and its numbers.
    pub fn head(&mut self, offset: u64) -> Result<Option<(Head, Vec<u64>)>> {
        let position = self.base + offset;
        let Some(bytes) = self.bytes(offset, HEAD_BYTES)? else { return Ok(None) };
        let mut fixed = [0; HEAD_BYTES];
        fixed.copy_from_slice(bytes);
        let Some(head) = Head::read(&fixed).filter(|h| h.position == position) else {
            return Ok(None);
        };
        let n = 8 * head.numbers as usize;
        let Some(numbers) = self.bytes(offset + HEAD_BYTES as u64, n)? else { return Ok(None) };
        if !head.verified(&fixed, numbers) {
            return Ok(None);
        }
        let number = |b: &[u8]| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        Ok(Some((head, numbers.chunks_exact(8).map(number).collect())))
    }

    /// The record at `offset`, `None` if it is bad or missing.
    pub fn record(&mut self, offset: u64) -> Result<Option<Found>> {
        let Some((head, numbers)) = self.head(offset)? else { return Ok(None) };
        let start = offset + head.len();
        if start.checked_add(head.body_len).is_none_or(|end| end > self.file_len) {
            return Ok(None);
        }
        let Some(meta) = self.bytes(start, head.meta_len as usize)? else { return Ok(None) };
        let meta = meta.to_vec();
        let (mut sum, mut at, end) = (Xxh3::new(), start, start + head.body_len);
        while at < end {
            let n = (end - at).min(WINDOW_BYTES as u64) as usize;
            let Some(bytes) = self.bytes(at, n)? else { return Ok(None) };
            sum.update(bytes);
            at += n as u64;
        }
        Ok((sum.digest() == head.body_sum).then_some(Found { head, numbers, meta }))
    }

    /// Looks behind a bad record for a head that proves that its first byte was durable once.
    pub fn was_durable(&mut self, bad: u64) -> Result<bool> {
        let mut offset = bad + 8;
        while offset + HEAD_BYTES as u64 <= self.file_len {
            if let Some((head, _)) = self.head(offset)?
                && head.synced > self.base + bad
            {
                return Ok(true);
            }
            offset += 8;
        }
        Ok(false)
    }
}
