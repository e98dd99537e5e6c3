//! Reads a file piece by piece, and follows it if asked to.

use std::{
    fs::{File, Metadata},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use arrow_schema::SchemaRef;
use millstream_core::{
    Code, Error, Result,
    connector::{Pull, SourceReader},
};

use super::{
    Options, open,
    position::{HEAD_BYTES_MAX, Position, read_head},
    rotation,
};
use crate::{
    decoding::Decoding,
    lines::{Cutter, Format, Piece},
    pool::Pool,
    unit::Place,
};

/// Bytes read at once.
const READ_BYTES: u64 = 1 << 20;
/// Bytes read at once while chunks are limited.
const READ_BYTES_LIMITED: u64 = 64 << 10;
/// How often an idle file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An opened file source.
pub(super) struct FileReader {
    options: Options,
    decoding: Decoding,
    spare: Pool<Vec<u8>>,
    current: Current,
    units_max: Option<u64>,
    #[cfg(test)]
    held_max: usize,
}

/// The file being read.
struct Current {
    file: File,
    path: PathBuf,
    inode: u64,
    /// Its first bytes, as far as they were read.
    head: Vec<u8>,
    /// How far it was read.
    read: u64,
    cutter: Cutter,
    /// The last read came to its end; before the next one, it is looked at.
    at_end: bool,
    /// Nothing more will come from it.
    ended: bool,
    /// Where to go on when it has ended, if it is followed.
    next: Option<PathBuf>,
}

/// What following has found at the end of a file.
enum Look {
    More,
    Nothing,
    Left(PathBuf),
}

impl FileReader {
    pub fn open(options: &Options, schema: SchemaRef, position: &[u8]) -> Result<FileReader> {
        let spare = Pool::new();
        let decoding =
            Decoding::new(options.format, schema, options.unit_bytes_max, spare.clone())?;
        let current = match position {
            [] => Current::open(options, options.path.clone(), &spare)?,
            _ => Current::resume(options, &Position::decode(position)?, &spare)?,
        };
        let mut reader = FileReader {
            options: options.clone(),
            decoding,
            spare,
            current,
            units_max: None,
            #[cfg(test)]
            held_max: 0,
        };
        reader.read_header()?;
        Ok(reader)
    }

    /// The most bytes ever held at once.
    #[cfg(test)]
    pub fn held_max(&self) -> usize {
        self.held_max
    }

    /// Reads the header of a file that is entered in its middle.
    fn read_header(&mut self) -> Result<()> {
        if self.current.read == 0 || self.options.format == Format::JsonLines {
            return Ok(());
        }
        let options = Options { path: self.current.path.clone(), ..self.options.clone() };
        match options.first_unit()? {
            Some(record) => self.decoding.header(&record).map_err(|e| self.named(e)),
            None => Ok(()),
        }
    }

    /// Puts the path before an error's message.
    fn named(&self, e: Error) -> Error {
        let message = format!("{}: {}", self.current.path.display(), e.message());
        e.advice().iter().fold(Error::new(e.code(), message), |named, line| named.help(line))
    }

    fn chunk(&mut self, piece: Piece) -> Result<Pull> {
        let Current { inode, head, .. } = &self.current;
        let position = Position::new(piece.end, *inode, head).encode();
        let pulled = self.decoding.pull(piece, position).map_err(|e| self.named(e))?;
        let Pull::Chunk(decode) = pulled else { return Ok(pulled) };
        let file = self.current.path.display().to_string();
        Ok(Pull::Chunk(Box::new(move || {
            let mut chunk = decode();
            chunk.undecodable.iter_mut().for_each(|unit| unit.file.clone_from(&file));
            chunk
        })))
    }

    /// Goes on to the next file; false if there is none.
    fn move_on(&mut self) -> Result<bool> {
        let Some(path) = self.current.next.take() else { return Ok(false) };
        self.current = match Current::open(&self.options, path, &self.spare) {
            Ok(current) => current,
            // Rotated once more: look again.
            Err(e) if e.code() == Code::Unknown => return Ok(false),
            Err(e) => return Err(e),
        };
        if let Some(units) = self.units_max {
            self.current.cutter.limit(units);
        }
        Ok(true)
    }
}

impl SourceReader for FileReader {
    fn pull(&mut self, wait: Duration) -> Result<Pull> {
        let until = Instant::now() + wait;
        loop {
            if let Some(piece) = self.current.cutter.next(self.current.ended) {
                return self.chunk(piece);
            }
            if !self.current.ended && !self.current.at_end {
                self.current.fill()?;
                #[cfg(test)]
                {
                    self.held_max = self.held_max.max(self.current.cutter.held());
                }
                continue;
            }
            if !self.options.follow {
                if self.current.ended {
                    return Ok(Pull::End);
                }
                self.current.ended = true;
                continue;
            }
            if self.current.ended && self.move_on()? {
                continue;
            }
            match self.current.look(&self.options)? {
                Look::More => {
                    self.current.at_end = false;
                    continue;
                }
                Look::Left(next) => {
                    self.current.ended = true;
                    self.current.next = Some(next);
                    continue;
                }
                Look::Nothing => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Pull::Idle);
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    fn limit(&mut self, units: u64) {
        self.units_max = Some(units);
        self.current.cutter.limit(units);
    }
}

impl Current {
    /// Opens the file at `path` at its beginning.
    fn open(options: &Options, path: PathBuf, spare: &Pool<Vec<u8>>) -> Result<Current> {
        let file = open(&path)?;
        let inode = file.metadata().map_err(|e| Error::io(path.display(), &e))?.ino();
        let cutter =
            Cutter::new(options.format, options.unit_bytes_max, Place::default(), spare.clone());
        Ok(Current {
            file,
            path,
            inode,
            head: Vec::new(),
            read: 0,
            cutter,
            at_end: false,
            ended: false,
            next: None,
        })
    }

    /// Opens the file that `position` belongs to, there.
    fn resume(options: &Options, position: &Position, spare: &Pool<Vec<u8>>) -> Result<Current> {
        let path = &options.path;
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let found = if options.follow {
            rotation::find(path, position).map_err(io)?
        } else {
            let file = open(path)?;
            position.matches(&file).map_err(io)?.then(|| (file, path.clone()))
        };
        let Some((mut file, path)) = found else {
            let cut = |about: &Metadata| {
                about.ino() == position.inode && about.len() < position.place.offset
            };
            // As where it is cut short while it is read.
            return match std::fs::metadata(path) {
                Ok(about) if options.follow && cut(&about) => {
                    Current::open(options, path.clone(), spare)
                }
                _ => Err(changed(options, position)),
            };
        };
        let offset = position.place.offset;
        let about = file.metadata().map_err(io)?;
        if about.len() > offset && offset > 0 && !ends_line(&file, offset).map_err(io)? {
            return Err(Error::new(
                Code::Conflict,
                format!("{}: its last line has grown since it was read", path.display()),
            )
            .help("to read what is appended as it comes, follow the file"));
        }
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        let head_len = usize::try_from(offset).unwrap_or(usize::MAX).min(HEAD_BYTES_MAX);
        let head = read_head(&file, head_len).map_err(io)?;
        let cutter =
            Cutter::new(options.format, options.unit_bytes_max, position.place, spare.clone());
        let inode = about.ino();
        Ok(Current {
            file,
            path,
            inode,
            head,
            read: offset,
            cutter,
            at_end: false,
            ended: false,
            next: None,
        })
    }

    /// Reads on.
    fn fill(&mut self) -> Result<()> {
        let limited = self.cutter.limited();
        let room = self.cutter.room();
        let start = room.len();
        let max = if limited { READ_BYTES_LIMITED } else { READ_BYTES };
        room.reserve_exact(max as usize + 64); // a little more, or reading ends with a probe
        let got = (&mut self.file).take(max).read_to_end(room);
        let got = got.map_err(|e| Error::io(self.path.display(), &e))?;
        if self.head.len() < HEAD_BYTES_MAX && self.read == self.head.len() as u64 {
            let missing = HEAD_BYTES_MAX - self.head.len();
            self.head.extend_from_slice(&room[start..][..got.min(missing)]);
        }
        self.read += got as u64;
        self.at_end = (got as u64) < max;
        self.cutter.skip_mark();
        Ok(())
    }

    /// What has become of the file, at whose end we are.
    fn look(&self, options: &Options) -> Result<Look> {
        let io = |e: std::io::Error| Error::io(self.path.display(), &e);
        // The path first: what is written to the old file before the new one has bytes is seen.
        let at_path: Option<Metadata> = std::fs::metadata(&options.path).ok();
        let own = self.file.metadata().map_err(io)?;
        if self.ended {
            return Ok(rotation::after(&options.path, &own).map_or(Look::Nothing, Look::Left));
        }
        let cut_short = own.len() < self.read;
        if cut_short || !self.same_head().map_err(io)? {
            return Ok(Look::Left(self.path.clone()));
        }
        if own.len() > self.read {
            return Ok(Look::More);
        }
        // Another file at the path is taken for the next one when it has something to read: by
        // then whoever writes has let go of the old one.
        match at_path.filter(|m| m.ino() != self.inode && m.len() > 0) {
            Some(_) => Ok(rotation::after(&options.path, &own).map_or(Look::Nothing, Look::Left)),
            None => Ok(Look::Nothing),
        }
    }

    fn same_head(&self) -> std::io::Result<bool> {
        Ok(read_head(&self.file, self.head.len())? == self.head)
    }
}

/// A followed file that has yet to come.
pub(super) struct Awaiting {
    options: Options,
    schema: SchemaRef,
    units_max: Option<u64>,
    found: Option<FileReader>,
}

impl Awaiting {
    pub fn new(options: &Options, schema: SchemaRef) -> Awaiting {
        Awaiting { options: options.clone(), schema, units_max: None, found: None }
    }
}

impl SourceReader for Awaiting {
    fn pull(&mut self, wait: Duration) -> Result<Pull> {
        let until = Instant::now() + wait;
        loop {
            if let Some(reader) = &mut self.found {
                return reader.pull(until.saturating_duration_since(Instant::now()));
            }
            match FileReader::open(&self.options, self.schema.clone(), &[]) {
                Ok(mut reader) => {
                    self.units_max.into_iter().for_each(|units| reader.limit(units));
                    self.found = Some(reader);
                    continue;
                }
                Err(e) if e.code() == Code::Unknown => {}
                Err(e) => return Err(e),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Pull::Idle);
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    fn limit(&mut self, units: u64) {
        match &mut self.found {
            Some(reader) => reader.limit(units),
            None => self.units_max = Some(units),
        }
    }
}

/// Whether the byte before `offset` ends a line.
fn ends_line(file: &File, offset: u64) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset - 1)?;
    Ok(byte == *b"\n")
}

/// The file is not the one the position is in.
fn changed(options: &Options, position: &Position) -> Error {
    let path = options.path.display();
    let Place { offset, line } = position.place;
    let len = std::fs::metadata(&options.path).map(|m| m.len());
    let what = match len {
        Ok(len) if len < offset => format!("{path} has {len} bytes, but {offset} were read before"),
        Ok(_) => format!("{path} begins differently than the file that was read up to line {line}"),
        Err(_) => format!("{path} is gone; it was read up to line {line}"),
    };
    Error::new(Code::Conflict, what)
        .help("put the file back that was there, and go on")
        .help("or read the new file as a source of another name")
}
