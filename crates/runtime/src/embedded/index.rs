//! The index of a closed segment: what lies where in it, so that opening need not read it.
//!
//! *Format:* magic `MSIX` · version u32 · base u64 · end u64 · checksum u64 (of everything else) ·
//! the entries in MessagePack.
//!
//! *Invariant:* an index can be lost or damaged at any time; then the segment is scanned.

use millstream_core::{Error, Result, disk::Disk};
use xxhash_rust::xxh3::Xxh3;

use super::{
    record::{Entry, unpack},
    segment::LOG,
    snapshot::Extent,
};

const MAGIC: &[u8; 4] = b"MSIX";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 32;

/// The file that belongs to the segment at `base`.
pub(super) fn path(base: u64) -> String {
    format!("{LOG}/{base:016x}.idx")
}

/// Writes an index. Returns its bytes.
pub(super) fn write(disk: &dyn Disk, extent: Extent, entries: &[Entry]) -> Result<u64> {
    let path = path(extent.base);
    let body = rmp_serde::to_vec(entries)
        .map_err(|e| Error::new(millstream_core::Code::Bug, format!("{path}: {e}")))?;
    let mut head = head(extent);
    head.extend_from_slice(&checksum(&head, &body).to_le_bytes());
    let file = disk.create(&path).map_err(|e| Error::io(&path, &e))?;
    file.append(&[&head, &body]).map_err(|e| Error::io(&path, &e))?;
    Ok((head.len() + body.len()) as u64)
}

/// Reads an index; `None` if there is none that can be trusted.
pub(super) fn read(disk: &dyn Disk, extent: Extent) -> Option<Vec<Entry>> {
    let file = disk.open(&path(extent.base)).ok()?;
    let len =
        usize::try_from(file.len().ok()?).ok().filter(|n| (HEAD_BYTES..1 << 30).contains(n))?;
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes).ok()?;
    let (head_read, body) = bytes.split_at(HEAD_BYTES);
    let (head_read, sum) = head_read.split_at(HEAD_BYTES - 8);
    let right = head_read == head(extent) && sum == checksum(head_read, body).to_le_bytes();
    if right { unpack(body).ok() } else { None }
}

fn head(extent: Extent) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&extent.base.to_le_bytes());
    head.extend_from_slice(&extent.end.to_le_bytes());
    head
}

fn checksum(head: &[u8], body: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(head);
    sum.update(body);
    sum.digest()
}
