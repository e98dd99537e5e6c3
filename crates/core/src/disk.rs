//! The little an engine asks of a file system, so that the simulator can run the production engine
//! on a disk that tears, forgets and fills up.
//!
//! Paths are relative to the disk's root and use `/`. Errors are the operating system's.

use std::{io, sync::Arc};

/// A directory tree of append-mostly files.
pub trait Disk: Send + Sync {
    /// The names (not paths) of the files in directory `dir`, in no order; empty if it is missing.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Creates an empty file and its directories, replacing what was there. The *name* is durable
    /// only after [`Disk::sync_dir`].
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that exists for reading and appending.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing the target, atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
}

/// One file.
pub trait DiskFile: Send + Sync {
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Appends all parts, in order. After an error any prefix may have been written.
    fn append(&self, parts: &[&[u8]]) -> io::Result<()>;
    /// Makes everything appended durable.
    fn sync(&self) -> io::Result<()>;
    /// Fills `out` from `offset`; an error of kind `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
}
