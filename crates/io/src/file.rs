//! Files as sources and sinks.
//!
//! *What:* [`CsvFile`] and [`JsonLinesFile`] read a file once, or follow it like `tail -F`;
//! [`JsonLinesSink`] appends to a file exactly once.
//!
//! *Reading.* A file is one source partition; its position is {offset, line, identity}, where the
//! identity is the inode and a checksum of the first bytes, so that going on in another file is an
//! error and not a surprise. A byte order mark is stepped over; `\r\n` is fine. An empty file has
//! no units. A last line without an end is a unit; while a file is followed it is one only once it
//! is ended, or the file is left behind. Plain reads into reused buffers: a memory map would have
//! to be `unsafe`, fails by a signal when the file shrinks, and saves nothing next to decoding.
//!
//! *Following.* A file that is not there yet is waited for. When the path names another file, the
//! old one is read to its end first; files rotated in between (`app.log.1`, `app.log-20130131`) are
//! found by name, in the order of their last change. After a restart the file a position belongs to
//! is found in the same way. A file that was cut short or rewritten in place is read from its
//! beginning; what it held unread is gone, as it is for `tail -F`. Lines count from 1 in each file.
//!
//! *Limits:* reads of 1 MiB; units of 16 MiB, of which three or so are held; while idle the file is
//! looked at every 20 ms. Compressed rotated files are not read.

mod position;
mod reader;
mod rotation;
mod sink;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use arrow_schema::SchemaRef;
use millstream_core::{
    Code, Error, Result,
    connector::{Source, SourceReader},
};

pub use sink::JsonLinesSink;

use crate::{
    csv,
    json::{self, LINE_BYTES_MAX},
    lines::{Cutter, Format, PieceKind},
    pool::Pool,
    unit::Place,
};
use reader::{Awaiting, FileReader};

/// A CSV file with a header, as a source. See [`crate::csv`] for what is accepted.
///
/// The header counts as a skipped unit. A record's place is the line on which it starts.
#[derive(Clone, Debug)]
pub struct CsvFile(Options);

/// A file with a JSON object on each line, as a source. See [`crate::json`] for what is accepted.
#[derive(Clone, Debug)]
pub struct JsonLinesFile(Options);

/// How a file is read.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub path: PathBuf,
    pub format: Format,
    pub follow: bool,
    pub unit_bytes_max: usize,
}

impl Options {
    fn new(path: impl Into<PathBuf>, format: Format) -> Options {
        Options { path: path.into(), format, follow: false, unit_bytes_max: LINE_BYTES_MAX }
    }

    /// Whether the file is followed, and has yet to come.
    fn awaited(&self) -> bool {
        self.follow && !self.path.exists()
    }

    /// Reads on from a position, or waits for the file to come.
    fn reader(&self, schema: SchemaRef, position: &[u8]) -> Result<Box<dyn SourceReader>> {
        if position.is_empty() && self.awaited() {
            return Ok(Box::new(Awaiting::new(self, schema)));
        }
        Ok(Box::new(FileReader::open(self, schema, position)?))
    }

    /// Whether nothing is in the file, nor ever will be.
    fn is_empty(&self) -> Result<bool> {
        let about = open(&self.path)?.metadata();
        Ok(!self.follow && about.map_err(|e| Error::io(self.path.display(), &e))?.len() == 0)
    }

    /// The first unit of the file; `None` if there is none yet.
    fn first_unit(&self) -> Result<Option<Vec<u8>>> {
        let mut file = open(&self.path)?;
        let mut cutter =
            Cutter::new(self.format, self.unit_bytes_max, Place::default(), Pool::new());
        cutter.limit(1);
        loop {
            let room = cutter.room();
            let got = (&mut file).take(64 << 10).read_to_end(room);
            let ended = got.map_err(|e| Error::io(self.path.display(), &e))? == 0;
            cutter.skip_mark();
            match cutter.next(ended && !self.follow) {
                Some(piece) if matches!(piece.kind, PieceKind::Oversize { .. }) => return Ok(None),
                Some(piece) => return Ok(Some(piece.bytes)),
                None if ended => return Ok(None),
                None => {}
            }
        }
    }
}

impl CsvFile {
    /// Reads the file at `path` once. Nothing is touched before the source is opened.
    pub fn open(path: impl Into<PathBuf>) -> CsvFile {
        CsvFile(Options::new(path, Format::Csv { separator: b',' }))
    }

    /// Goes on with what is appended, for ever, also when the file is rotated.
    pub fn follow(mut self, follow: bool) -> CsvFile {
        self.0.follow = follow;
        self
    }

    /// Takes another byte than `,` between fields.
    pub fn separator(mut self, separator: u8) -> CsvFile {
        self.0.format = Format::Csv { separator };
        self
    }
}

impl JsonLinesFile {
    /// Reads the file at `path` once. Nothing is touched before the source is opened.
    pub fn open(path: impl Into<PathBuf>) -> JsonLinesFile {
        JsonLinesFile(Options::new(path, Format::JsonLines))
    }

    /// A sink that writes the file at `path`; see [`JsonLinesSink`].
    pub fn create(path: impl Into<PathBuf>) -> JsonLinesSink {
        JsonLinesSink::new(path.into())
    }

    /// Goes on with what is appended, for ever, also when the file is rotated.
    pub fn follow(mut self, follow: bool) -> JsonLinesFile {
        self.0.follow = follow;
        self
    }
}

impl Source for CsvFile {
    fn finite(&self) -> bool {
        !self.0.follow
    }

    fn file(&self) -> Option<String> {
        Some(self.0.path.display().to_string())
    }

    /// The names in the header; `None` if the file is followed and has none yet.
    fn fields(&self) -> Result<Option<Vec<String>>> {
        let Format::Csv { separator } = self.0.format else { return Ok(None) };
        if self.0.awaited() {
            return Ok(None);
        }
        let Some(record) = self.0.first_unit()? else {
            // An export without records still names its columns; one without anything was lost.
            return match self.0.is_empty()? {
                true => Err(csv::no_header("the file is empty").at(self.0.path.display())),
                false => Ok(None),
            };
        };
        let record = record.strip_suffix(b"\n").unwrap_or(&record);
        csv::header(record, separator)
            .map(Some)
            .map_err(|fault| csv::no_header(&fault.error).at(self.0.path.display()))
    }

    fn open(
        &self,
        _partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> Result<Box<dyn SourceReader>> {
        self.0.reader(schema, position)
    }
}

impl Source for JsonLinesFile {
    fn finite(&self) -> bool {
        !self.0.follow
    }

    fn file(&self) -> Option<String> {
        Some(self.0.path.display().to_string())
    }

    /// The fields of the first line, in their order; `None` if it is no object.
    fn fields(&self) -> Result<Option<Vec<String>>> {
        if self.0.awaited() {
            return Ok(None);
        }
        Ok(self.0.first_unit()?.and_then(|line| json::keys(&line)))
    }

    fn fields_vary(&self) -> bool {
        true
    }

    fn open(
        &self,
        _partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> Result<Box<dyn SourceReader>> {
        self.0.reader(schema, position)
    }
}

/// Opens a regular file for reading.
fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| no_file(path, &e))?;
    let kind = file.metadata().map_err(|e| Error::io(path.display(), &e))?;
    let path = path.display();
    if kind.is_dir() {
        return Err(Error::new(Code::Plan, format!("{path} is a directory"))
            .help("name a file in it; one source reads one file"));
    }
    if !kind.is_file() {
        return Err(Error::new(Code::Plan, format!("{path} is not a regular file"))
            .help("what cannot be read again can come in through standard input"));
    }
    Ok(file)
}

fn no_file(path: &Path, e: &std::io::Error) -> Error {
    let shown = path.display();
    match e.kind() {
        std::io::ErrorKind::NotFound => {
            let error = Error::new(Code::Unknown, format!("there is no file {shown}"));
            match std::env::current_dir() {
                Ok(dir) if path.is_relative() => {
                    error.help(format!("it was looked for in {}", dir.display()))
                }
                _ => error.help("check the path"),
            }
        }
        std::io::ErrorKind::PermissionDenied => {
            Error::io(shown, e).help("make it readable for the user that runs the node")
        }
        _ => Error::io(shown, e),
    }
}
