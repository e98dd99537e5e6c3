//! Standard input as a source and standard output as a sink.
//!
//! *Failure:* standard input cannot be read again. Rows that were read but not committed when the
//! node dies are lost; write the input to a file, or to a stream, if that matters. Standard output
//! gets a turn's rows at least once.
//!
//! *Limits:* a thread reads ahead at most 4 blocks of 256 KiB, so that waiting for input never
//! keeps the source's thread longer than it was told.

use std::{
    io::{Read, Write},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use arrow_schema::SchemaRef;
use millstream_core::{
    Batch, Code, Error, Result,
    connector::{Guarantee, Prepared, Pull, Sink, SinkWriter, Source, SourceReader},
};

use crate::{
    decoding::Decoding,
    json::{JsonEncoder, LINE_BYTES_MAX},
    lines::{Cutter, Format},
    pool::Pool,
    unit::Place,
};

const BLOCK_BYTES: u64 = 256 << 10;
const BLOCKS_AHEAD: usize = 4;

type Block = std::io::Result<Vec<u8>>;

/// Standard input, read to its end. Not replayable: see the [module](self).
#[derive(Clone)]
pub struct Stdin {
    format: Format,
    /// Taken by whoever opens it first.
    input: Arc<Mutex<Option<Box<dyn Read + Send>>>>,
}

impl Stdin {
    /// A JSON object on each line; see [`crate::json`].
    pub fn json_lines() -> Stdin {
        Stdin::reading(Format::JsonLines, std::io::stdin())
    }

    /// CSV with a header; see [`crate::csv`].
    pub fn csv() -> Stdin {
        Stdin::reading(Format::Csv { separator: b',' }, std::io::stdin())
    }

    fn reading(format: Format, input: impl Read + Send + 'static) -> Stdin {
        Stdin { format, input: Arc::new(Mutex::new(Some(Box::new(input)))) }
    }
}

impl Source for Stdin {
    fn finite(&self) -> bool {
        true
    }

    /// # Errors
    /// [`Code::Conflict`] if it was opened before, or at a position: it cannot be read again.
    fn open(&self, _: u32, schema: SchemaRef, position: &[u8]) -> Result<Box<dyn SourceReader>> {
        if !position.is_empty() {
            let read = "an earlier run in this directory has read standard input";
            return Err(Error::new(Code::Conflict, format!("{read}, which nobody can read again"))
                .help("to read what comes in now, begin anew: another directory, and another result file")
                .help("to go on where a run has ended, read from a file"));
        }
        let Some(input) = self.input.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Err(Error::new(Code::Conflict, "standard input cannot be read again")
                .help("rows that were read and not yet committed are lost")
                .help("to go on after a restart, read from a file"));
        };
        let spare = Pool::new();
        let decoding = Decoding::new(self.format, schema, LINE_BYTES_MAX, spare.clone())?;
        let cutter = Cutter::new(self.format, LINE_BYTES_MAX, Place::default(), spare);
        let (sender, blocks) = sync_channel(BLOCKS_AHEAD);
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || read_blocks(input, &sender))
            .map_err(|e| Error::io("a thread for standard input", &e))?;
        Ok(Box::new(StdinReader { decoding, cutter, blocks, ended: false }))
    }
}

/// Reads until the end, an error, or until nobody listens.
fn read_blocks(mut input: impl Read, blocks: &SyncSender<Block>) {
    loop {
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        let block = match input.read(&mut bytes) {
            Ok(0) => return,
            Ok(n) => {
                bytes.truncate(n);
                Ok(bytes)
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => Err(e),
        };
        let failed = block.is_err();
        if blocks.send(block).is_err() || failed {
            return;
        }
    }
}

struct StdinReader {
    decoding: Decoding,
    cutter: Cutter,
    blocks: Receiver<Block>,
    ended: bool,
}

impl SourceReader for StdinReader {
    fn pull(&mut self, wait: Duration) -> Result<Pull> {
        loop {
            if let Some(piece) = self.cutter.next(self.ended) {
                let position = piece.end.offset.to_le_bytes().to_vec();
                return self.decoding.pull(piece, position);
            }
            if self.ended {
                return Ok(Pull::End);
            }
            match self.blocks.recv_timeout(wait) {
                Ok(Ok(block)) => {
                    self.cutter.room().extend_from_slice(&block);
                    self.cutter.skip_mark();
                }
                Ok(Err(e)) => return Err(Error::io("standard input", &e)),
                Err(RecvTimeoutError::Timeout) => return Ok(Pull::Idle),
                Err(RecvTimeoutError::Disconnected) => self.ended = true,
            }
        }
    }

    fn limit(&mut self, units: u64) {
        self.cutter.limit(units);
    }
}

/// Standard output: rows as JSON lines, each at least once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stdout;

impl Sink for Stdout {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn open(&self, _: u32, schema: SchemaRef, _: &[u8]) -> Result<Box<dyn SinkWriter>> {
        JsonEncoder::check(&schema)?;
        Ok(Box::new(StdoutWriter(JsonEncoder::new())))
    }
}

struct StdoutWriter(JsonEncoder);

impl SinkWriter for StdoutWriter {
    fn prepare(&mut self, rows: &[Batch]) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        for batch in rows {
            self.0.encode(batch.rows(), &mut prepared.bytes)?;
        }
        Ok(prepared)
    }

    fn write(&mut self, prepared: &Prepared) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(&prepared.bytes)
            .and_then(|()| out.flush())
            .map_err(|e| Error::io("standard output", &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::{DataType, Field, Schema};

    #[test]
    fn standard_input_is_read_once() {
        let input = std::io::Cursor::new("a\n1\nx\n2");
        let source = Stdin::reading(Format::Csv { separator: b',' }, input);
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let mut reader = source.open(0, schema.clone(), &[]).unwrap();
        let (mut places, mut bad) = (Vec::new(), Vec::new());
        loop {
            match reader.pull(Duration::from_secs(10)).unwrap() {
                Pull::Chunk(decode) => {
                    let chunk = decode();
                    places.extend(chunk.places);
                    bad.extend(chunk.undecodable);
                }
                Pull::Idle => {}
                Pull::End => break,
            }
        }
        assert_eq!(places, [2, 4]);
        assert_eq!(bad[0].reason(), "a: 'x' is not a number");
        assert_eq!(source.open(0, schema, &[]).err().unwrap().code(), Code::Conflict);
    }

    #[test]
    fn a_run_after_another_one_is_told_to_begin_in_another_directory() {
        let source = Stdin::reading(Format::JsonLines, std::io::empty());
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let error = source.open(0, schema, &8_u64.to_le_bytes()).err().unwrap();
        let expected = "\
error[M0002]: an earlier run in this directory has read standard input, which nobody can read again
  = to read what comes in now, begin anew: another directory, and another result file
  = to go on where a run has ended, read from a file";
        assert_eq!(error.to_string(), expected);
    }
}
