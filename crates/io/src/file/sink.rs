//! A file of JSON lines that gets every row once, whatever crashes.
//!
//! *How:* a turn commits, beside its input positions, the note {offset, length, checksum} of the
//! bytes it is going to write, and writes them after it is durable. After a crash the last note
//! says which range may be missing or half written; the same rows give the same bytes, which are
//! written over the same range.
//!
//! *Invariants*
//! - The file never shrinks, and bytes once written never change.
//! - A byte beyond the last noted range is nobody's: the file was changed from outside.
//! - One process writes the file: it holds a lock of the operating system on it, which goes with
//!   the process, however it dies. Its writers share it, since the one before may still be at work
//!   when its task is opened again; that they write the same is the note's business.
//!
//! *Note, version 1*, little-endian: `0` version · `1` offset u64 · `9` length u64 · `17` xxh3 u64.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use arrow_schema::SchemaRef;
use millstream_core::{
    Batch, Code, Error, Result,
    connector::{Guarantee, Prepared, Sink, SinkWriter},
};
use xxhash_rust::xxh3::xxh3_64;

use crate::json::JsonEncoder;

const VERSION: u8 = 1;
const NOTE_LEN: usize = 25;
/// Rows are for who runs the node.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// How long, in tries, a file is waited for that another process holds: it may have been killed
/// just now, and the system has not let go of it yet.
const TRIES: u32 = 500;
const TRY_EVERY: Duration = Duration::from_millis(1);

/// Writes rows as JSON lines to a file, exactly once.
///
/// A path that ends in `/`, or [`JsonLinesSink::partitioned`], means a folder with a file
/// `part-<partition>.jsonl` for each partition. Folders that are missing are made. A flow that
/// starts anew refuses a file that already has bytes: they are another run's result, and neither
/// mixing nor replacing them is what a user would want unasked; see [`JsonLinesSink::append`].
///
/// Lines are those of [`JsonEncoder`].
#[derive(Clone, Debug)]
pub struct JsonLinesSink {
    path: PathBuf,
    partitioned: bool,
    append: bool,
}

impl JsonLinesSink {
    pub(super) fn new(path: PathBuf) -> JsonLinesSink {
        let partitioned = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        JsonLinesSink { path, partitioned, append: false }
    }

    /// Takes the path as a folder, with a file per partition.
    pub fn partitioned(mut self) -> JsonLinesSink {
        self.partitioned = true;
        self
    }

    /// Starts behind what the file already holds, instead of refusing it.
    pub fn append(mut self) -> JsonLinesSink {
        self.append = true;
        self
    }

    fn file_path(&self, partition: u32) -> PathBuf {
        match self.partitioned {
            true => self.path.join(format!("part-{partition}.jsonl")),
            false => self.path.clone(),
        }
    }
}

impl Sink for JsonLinesSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn partitioned(&self) -> bool {
        self.partitioned
    }

    fn file(&self) -> Option<String> {
        match std::fs::metadata(&self.path) {
            Ok(about) if about.is_file() && about.nlink() > 1 => {
                Some(format!("the file of several names with inode {}", about.ino()))
            }
            _ => Some(canonical(&self.path).display().to_string()),
        }
    }

    /// # Errors
    /// [`Code::Conflict`] if the file was changed from outside, or has bytes and the flow is new;
    /// [`Code::Plan`] if a column cannot be encoded.
    fn open(&self, partition: u32, schema: SchemaRef, note: &[u8]) -> Result<Box<dyn SinkWriter>> {
        JsonEncoder::check(&schema)?;
        let path = self.file_path(partition);
        let last = if note.is_empty() { None } else { Some(Note::decode(note)?) };
        let file = hold(&path, open_or_create(&path)?)?;
        let len = file.metadata().map_err(|e| Error::io(path.display(), &e))?.len();
        let start = match last {
            Some(note) => {
                in_bounds(&path, len, &note)?;
                note.offset
            }
            None if len == 0 || self.append => len,
            None => return Err(in_the_way(&path, len)),
        };
        let encoder = JsonEncoder::new();
        Ok(Box::new(FileWriter { path, file, encoder, next: start, last, room: 0 }))
    }
}

/// A range of the file and what is to be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    offset: u64,
    len: u64,
    checksum: u64,
}

impl Note {
    fn new(offset: u64, bytes: &[u8]) -> Note {
        Note { offset, len: bytes.len() as u64, checksum: xxh3_64(bytes) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(NOTE_LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Note> {
        let corrupt = || Error::corrupt("not the note of a file sink");
        if bytes.len() != NOTE_LEN || bytes[0] != VERSION {
            return Err(corrupt());
        }
        let u64_at = |at: usize| {
            let field = bytes[at..].first_chunk::<8>().ok_or_else(corrupt)?;
            Ok::<u64, Error>(u64::from_le_bytes(*field))
        };
        Ok(Note { offset: u64_at(1)?, len: u64_at(9)?, checksum: u64_at(17)? })
    }
}

struct FileWriter {
    path: PathBuf,
    file: Arc<File>,
    encoder: JsonEncoder,
    /// Where the next turn's bytes go: behind the last written one.
    next: u64,
    /// The last committed turn, until it is written.
    last: Option<Note>,
    room: usize,
}

impl SinkWriter for FileWriter {
    fn prepare(&mut self, rows: &[Batch]) -> Result<Prepared> {
        let mut bytes = Vec::with_capacity(self.room);
        for batch in rows {
            self.encoder.encode(batch.rows(), &mut bytes)?;
        }
        self.room = bytes.len() + bytes.len() / 8;
        let note = Note::new(self.next, &bytes);
        match self.last {
            Some(last) if last != note => Err(self.differs(&last, &note)),
            _ => Ok(Prepared { note: note.encode(), bytes }),
        }
    }

    fn write(&mut self, prepared: &Prepared) -> Result<()> {
        let note = Note::decode(&prepared.note)?;
        assert_eq!(note, Note::new(note.offset, &prepared.bytes), "the note of these bytes");
        let io = |e: std::io::Error| Error::io(self.path.display(), &e);
        let end = note.offset + note.len;
        let len = self.file.metadata().map_err(io)?.len();
        if end == self.next && note.offset < end {
            return self.again(prepared, &note, len); // written before
        }
        if note.offset != self.next {
            return Err(Error::new(
                Code::Bug,
                format!("a turn's bytes are for {}, but {} is next", note.offset, self.next),
            ));
        }
        in_bounds(&self.path, len, &note)?;
        if !prepared.bytes.is_empty() {
            // Also if they seem to be there: after a failed sync the page cache shows bytes that
            // no disk has, and a second sync of clean pages would call them safe.
            self.file.write_all_at(&prepared.bytes, note.offset).map_err(io)?;
        }
        self.file.sync_data().map_err(io)?;
        self.next = end;
        self.last = None;
        Ok(())
    }
}

impl FileWriter {
    /// A turn that was written and synced is written again: nothing may change.
    fn again(&self, prepared: &Prepared, note: &Note, len: u64) -> Result<()> {
        in_bounds(&self.path, len, note)?;
        let mut there = vec![0; prepared.bytes.len()];
        let read = self.file.read_exact_at(&mut there, note.offset);
        match read {
            Ok(()) if there == prepared.bytes => Ok(()),
            Ok(()) => Err(from_outside(
                &self.path,
                format!("bytes {}..{} are not those written", note.offset, note.offset + note.len),
            )),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                Err(from_outside(&self.path, shorter(len, note.offset + note.len)))
            }
            Err(e) => Err(Error::io(self.path.display(), &e)),
        }
    }

    fn differs(&self, last: &Note, now: &Note) -> Error {
        let path = self.path.display();
        Error::new(
            Code::Bug,
            format!(
                "{path}: the last turn's rows gave {} bytes at offset {}, and now give {} others",
                last.len, last.offset, now.len
            ),
        )
        .help("was the node updated in between? let the version that stopped finish the turn")
    }
}

/// That a file of `len` bytes holds all before the noted range, and nothing behind it.
fn in_bounds(path: &Path, len: u64, note: &Note) -> Result<()> {
    let end = note.offset + note.len;
    if len < note.offset {
        return Err(from_outside(path, shorter(len, note.offset)));
    }
    if len > end {
        return Err(from_outside(path, format!("it has {len} bytes, but {end} were written")));
    }
    Ok(())
}

fn shorter(len: u64, wanted: u64) -> String {
    format!("it has {len} bytes, but {wanted} were written and confirmed")
}

fn from_outside(path: &Path, what: String) -> Error {
    let path = path.display();
    Error::new(Code::Conflict, format!("{path} was changed from outside: {what}"))
        .help("is another flow or program writing to it? one path has one writer")
        .help("put the file back as it was, or give the sink a new path and start the flow anew")
}

fn in_the_way(path: &Path, len: u64) -> Error {
    let path = path.display();
    Error::new(
        Code::Conflict,
        format!("{path} already has {len} bytes that this flow has not written"),
    )
    .help("move it away, or choose another path")
    .help("or write behind them: JsonLinesFile::create(..).append()")
}

/// The path without links, also of what is not there yet.
fn canonical(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(path), ..) => path,
        (Err(_), Some(above), Some(name)) => canonical(above).join(name),
        _ => path,
    }
}

/// The files that this process writes, by device and inode.
static HELD: Mutex<BTreeMap<(u64, u64), Weak<File>>> = Mutex::new(BTreeMap::new());

/// The file, locked against other processes until its last writer here has gone.
fn hold(path: &Path, file: File) -> Result<Arc<File>> {
    let about = file.metadata().map_err(|e| Error::io(path.display(), &e))?;
    let (id, file) = ((about.dev(), about.ino()), Arc::new(file));
    for _ in 0..TRIES {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, file| file.strong_count() > 0);
        if let Some(file) = held.get(&id).and_then(Weak::upgrade) {
            return Ok(file);
        }
        // Where a file system has no locks, nobody is kept away.
        if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            held.insert(id, Arc::downgrade(&file));
            return Ok(file);
        }
        drop(held);
        std::thread::sleep(TRY_EVERY);
    }
    Err(being_written(path))
}

fn being_written(path: &Path) -> Error {
    let message = format!("{} is being written by another program", path.display());
    Error::new(Code::InUse, message).help(
        "is it a node? a file is one sink's alone: stop that node, or give the sink another path",
    )
}

fn open_or_create(path: &Path) -> Result<File> {
    let io = |e: std::io::Error| Error::io(path.display(), &e);
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    match options.open(path) {
        Ok(file) if file.metadata().map_err(io)?.is_file() => return Ok(file),
        Ok(_) => {
            return Err(Error::new(
                Code::Plan,
                format!("{} is not a regular file", path.display()),
            )
            .help("to write lines to standard output, use that sink"));
        }
        Err(e) if e.kind() == ErrorKind::IsADirectory => {
            return Err(Error::new(Code::Plan, format!("{} is a directory", path.display())).help(
                format!("for a file per partition, end it with a slash: {}/", path.display()),
            ));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(io(e)),
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    create_dirs(dir)?;
    let file = options.create(true).truncate(false).open(path).map_err(io)?;
    file.sync_all().map_err(io)?;
    sync_dir(dir)?;
    Ok(file)
}

/// Makes a directory and what is missing above it, durably.
fn create_dirs(dir: &Path) -> Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let above = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dirs(above)?;
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(Error::io(dir.display(), &e)),
        _ => sync_dir(above),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io(dir.display(), &e))
}
