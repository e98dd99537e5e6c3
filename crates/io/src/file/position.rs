//! Where a reader stands in a file, and in which.
//!
//! *Format, version 1*, little-endian: `0` version · `1` offset u64 · `9` line u64 · `17` inode
//! u64 · `25` length of the head u32 · `29` xxh3 of the head u64.

use std::{fs::File, os::unix::fs::FileExt};

use millstream_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use crate::unit::Place;

const VERSION: u8 = 1;
const LEN: usize = 37;
/// How many of a file's first bytes tell it from others.
pub(super) const HEAD_BYTES_MAX: usize = 4 << 10;

/// A place in a particular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub place: Place,
    pub inode: u64,
    /// How many first bytes the checksum covers; never more than were read.
    head_len: u32,
    head: u64,
}

impl Position {
    /// A position at `place` of the file with this inode, which begins with `head`.
    pub fn new(place: Place, inode: u64, head: &[u8]) -> Position {
        let offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
        let head = &head[..head.len().min(offset)];
        Position { place, inode, head_len: head.len() as u32, head: xxh3_64(head) }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.place.offset.to_le_bytes());
        out.extend_from_slice(&self.place.line.to_le_bytes());
        out.extend_from_slice(&self.inode.to_le_bytes());
        out.extend_from_slice(&self.head_len.to_le_bytes());
        out.extend_from_slice(&self.head.to_le_bytes());
        out
    }

    /// # Errors
    /// [`millstream_core::Code::Corrupt`] if it is none, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Position> {
        let corrupt = || Error::corrupt("not a position in a file");
        if bytes.len() != LEN || bytes[0] != VERSION {
            return Err(corrupt());
        }
        let u64_at = |at: usize| {
            let field = bytes[at..].first_chunk::<8>().ok_or_else(corrupt)?;
            Ok::<u64, Error>(u64::from_le_bytes(*field))
        };
        let head_len = bytes[25..].first_chunk::<4>().ok_or_else(corrupt)?;
        Ok(Position {
            place: Place { offset: u64_at(1)?, line: u64_at(9)? },
            inode: u64_at(17)?,
            head_len: u32::from_le_bytes(*head_len),
            head: u64_at(29)?,
        })
    }

    /// Whether `file` begins as the file of this position did, and reaches as far.
    pub fn matches(&self, file: &File) -> std::io::Result<bool> {
        let len = (self.head_len as usize).min(HEAD_BYTES_MAX);
        let head = read_head(file, len)?;
        let long_enough = file.metadata()?.len() >= self.place.offset;
        Ok(long_enough && head.len() == len && xxh3_64(&head) == self.head)
    }
}

/// At most `len` first bytes of a file.
pub(super) fn read_head(file: &File, len: usize) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    head.truncate(filled);
    Ok(head)
}
