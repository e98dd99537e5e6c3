//! A source in the bench's hand: rows by number, as many as it allows, as soon as it allows them.
//!
//! *Why:* a file has to be looked at and a generator cannot wait; a bench that measures what a
//! node does with an event must know when the event was there.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use arrow_schema::SchemaRef;
use millstream::io::{JsonDecoder, Place};
use millstream_core::{
    Error, Result,
    connector::{Chunk, Pull, Source, SourceReader},
};

/// Rows per chunk, at most.
const CHUNK_ROWS: u64 = 8_192;

type Line = dyn Fn(u64, &mut Vec<u8>) + Send + Sync;

/// Rows `0..limit`, each made by a function; clones share the limit.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    fields: Vec<String>,
    line: Box<Line>,
    limit: Mutex<u64>,
    raised: Condvar,
}

impl Feed {
    /// A feed that has no rows yet; `line` appends row `n` as a JSON object.
    pub fn new(fields: &[&str], line: impl Fn(u64, &mut Vec<u8>) + Send + Sync + 'static) -> Feed {
        Feed(Arc::new(Inner {
            fields: fields.iter().map(|f| f.to_string()).collect(),
            line: Box::new(line),
            limit: Mutex::default(),
            raised: Condvar::new(),
        }))
    }

    /// Lets rows up to number `limit` go.
    pub fn allow(&self, limit: u64) {
        *self.0.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
        self.0.raised.notify_all();
    }

    /// The limit, waiting at most `wait` for it to be more than `next`.
    fn limit(&self, next: u64, wait: Duration) -> u64 {
        let limit = self.0.limit.lock().unwrap_or_else(PoisonError::into_inner);
        *self
            .0
            .raised
            .wait_timeout_while(limit, wait, |limit| *limit <= next)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

impl Source for Feed {
    fn finite(&self) -> bool {
        false
    }

    fn fields(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(self.0.fields.clone()))
    }

    fn open(&self, _: u32, schema: SchemaRef, position: &[u8]) -> Result<Box<dyn SourceReader>> {
        let next = match position {
            [] => 0,
            _ => u64::from_le_bytes(position.try_into().map_err(|_| Error::corrupt("position"))?),
        };
        Ok(Box::new(Reader { feed: self.clone(), schema, next }))
    }
}

struct Reader {
    feed: Feed,
    schema: SchemaRef,
    next: u64,
}

impl SourceReader for Reader {
    fn pull(&mut self, wait: Duration) -> Result<Pull> {
        let from = self.next;
        let to = self.feed.limit(from, wait).min(from + CHUNK_ROWS);
        if to <= from {
            return Ok(Pull::Idle);
        }
        self.next = to;
        let feed = self.feed.clone();
        let mut decoder = JsonDecoder::new(self.schema.clone())?;
        Ok(Pull::Chunk(Box::new(move || {
            let mut lines = Vec::new();
            for row in from..to {
                (feed.0.line)(row, &mut lines);
                lines.push(b'\n');
            }
            let decoded = decoder.decode(&lines, Place { line: from + 1, offset: 0 });
            Chunk {
                rows: decoded.rows,
                places: decoded.places,
                undecodable: decoded.undecodable,
                units: to - from,
                skipped: decoded.skipped,
                position: to.to_le_bytes().to_vec(),
                durable: None,
            }
        })))
    }
}
