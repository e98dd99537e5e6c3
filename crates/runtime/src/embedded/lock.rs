//! One node per directory.
//!
//! *Why a lock of the operating system:* it goes with the process, however it dies. What is written
//! in the file is for people only.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use millstream_core::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::{
    engine::{EmbeddedEngine, Opened},
    options::Options,
};
use crate::disk::{OsDisk, create_dir};

const NAME: &str = "LOCK";
/// How long a start waits for a directory that is held: by somebody who asks who holds it, which is
/// soon over, or by a process that was killed and of which the system has not let go yet.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How often it tries meanwhile.
const TRY_EVERY: Duration = Duration::from_millis(1);

/// Who holds a directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
}

/// A directory that no other node can open; released when it is dropped.
pub struct DirLock {
    path: PathBuf,
    file: Mutex<File>,
}

impl DirLock {
    /// Takes a directory, creating it if it is missing.
    ///
    /// # Errors
    /// [`Code::InUse`] naming who holds it.
    pub fn take(dir: &Path) -> Result<DirLock> {
        // Clock: a start may wait a moment; there is no task yet.
        let begun = Instant::now();
        DirLock::take_while(dir, || {
            std::thread::sleep(TRY_EVERY);
            begun.elapsed() < WAIT_MAX
        })
    }

    /// As [`DirLock::take`]; asks after each try whether to try again.
    fn take_while(dir: &Path, mut again: impl FnMut() -> bool) -> Result<DirLock> {
        create_dir(dir).map_err(|e| Error::io(dir.display(), &e))?;
        let path = dir.join(NAME);
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(io(e)),
                Err(TryLockError::WouldBlock) if again() => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(dir, &mut file)),
            }
        }
        let lock = DirLock { path, file: Mutex::new(file) };
        lock.write(&Holder { pid: std::process::id(), http: None })?;
        Ok(lock)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Writes where the node can be asked, for whoever finds the directory taken.
    pub fn announce(&self, http: &str) -> Result<()> {
        self.write(&Holder { pid: std::process::id(), http: Some(http.into()) })
    }

    fn write(&self, holder: &Holder) -> Result<()> {
        let json = serde_json::to_vec(holder)
            .map_err(|e| Error::new(Code::Bug, format!("{}: {e}", self.path.display())))?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = || {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&json)
        };
        write().map_err(|e| Error::io(self.path.display(), &e))
    }
}

/// Who holds `dir`, if a node does: its process, and its address once it has announced one.
pub fn dir_holder(dir: &Path) -> Option<(u32, Option<String>)> {
    let file = File::open(dir.join(NAME)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        _ => return None,
    }
    let Holder { pid, http } = holder(&file);
    Some((pid, http))
}

/// The address of the node that holds `dir`, if one does and has announced it.
pub fn holder_http(dir: &Path) -> Option<String> {
    dir_holder(dir)?.1
}

fn holder(mut file: &File) -> Holder {
    let mut json = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut json));
    // Without it the error only says less.
    read.ok().and_then(|_| serde_json::from_str(&json).ok()).unwrap_or_default()
}

fn in_use(dir: &Path, file: &mut File) -> Error {
    let Holder { pid, http } = holder(file);
    let place = http.as_ref().map_or(String::new(), |http| format!(", {http}"));
    let message = format!("{} is in use by another node (pid {pid}{place})", dir.display());
    let error = Error::new(Code::InUse, message);
    match http {
        Some(http) => error
            .help(format!(
                "talk to it:             `millstream status --node {}`",
                http.trim_start_matches("http://")
            ))
            .help("or use another place:   --data DIR"),
        None => error.help("stop that node, or use another directory: --data DIR"),
    }
}

/// Opens the engine of a directory and holds it as long as the engine lives.
///
/// # Errors
/// [`Code::InUse`] if another node has it; else as [`EmbeddedEngine::open`].
pub fn open_dir(dir: &Path, options: Options) -> Result<Opened> {
    let lock = DirLock::take(dir)?;
    EmbeddedEngine::open_locked(options, Arc::new(OsDisk::new(dir)), Some(lock))
        .map_err(|e| placed(dir, e))
}

/// Names the directory, which the engine below does not know, and says what to do about damage.
fn placed(dir: &Path, e: Error) -> Error {
    let bare = e.advice().is_empty() && e.code() == Code::Corrupt;
    let e = e.at(dir.display());
    match bare {
        true => {
            e.help("the disk has changed what was written; restore the directory from a backup")
        }
        false => e,
    }
}

/// Opens the engine of a directory to look at it: takes no lock, writes nothing, and takes a torn
/// tail for the end.
///
/// # Errors
/// [`Code::Unknown`] if there is no log, [`Code::Permission`] if that cannot be seen; else as
/// [`EmbeddedEngine::open`].
pub fn open_read_only(dir: &Path, options: Options) -> Result<Arc<EmbeddedEngine>> {
    has_log(dir)?;
    EmbeddedEngine::read_only(options, Arc::new(OsDisk::new(dir))).map_err(|e| placed(dir, e))
}

/// As [`open_read_only`], and keeps nodes away as long as the lock is held.
///
/// # Errors
/// Also [`Code::InUse`] if a node has the directory.
pub fn open_at_rest(dir: &Path, options: Options) -> Result<(DirLock, Arc<EmbeddedEngine>)> {
    has_log(dir)?;
    let lock = DirLock::take(dir)?;
    Ok((lock, open_read_only(dir, options)?))
}

fn has_log(dir: &Path) -> Result<()> {
    let log = std::fs::metadata(dir.join(super::segment::LOG));
    if let Err(e) = &log
        && e.kind() == ErrorKind::PermissionDenied
    {
        return Err(Error::io(dir.display(), e));
    }
    if !log.is_ok_and(|log| log.is_dir()) {
        return Err(Error::new(Code::Unknown, format!("{} holds no data", dir.display()))
            .help("name the directory of a node: --data DIR"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_let_go_in_time_is_taken() {
        let dir = std::env::temp_dir().join(format!("millstream-let-go-{}", std::process::id()));
        let mut dying = Some(DirLock::take(&dir).unwrap());
        let mut tries = 0;
        let refused = DirLock::take_while(&dir, || {
            tries += 1;
            tries < 3
        });
        assert_eq!((refused.err().map(|e| e.code()), tries), (Some(Code::InUse), 3));
        // The second try finds it free.
        let taken = DirLock::take_while(&dir, || dying.take().is_some());
        assert!(taken.is_ok(), "{:?}", taken.err());
        drop(std::fs::remove_dir_all(dir));
    }
}
