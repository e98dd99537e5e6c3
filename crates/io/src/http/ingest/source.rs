//! The source that a flow names.

use std::{sync::Arc, time::Duration};

use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use millstream_core::{
    Error, Result,
    connector::{Chunk, Pull, Source, SourceReader, Undecodable},
};

use super::{
    intake::{Batch, Intake, Offer},
    producers::Producers,
};

/// The version of the position.
const VERSION: u8 = 1;
/// Version and count.
const HEAD_BYTES: usize = 9;

/// Records that are sent to the node's HTTP server: `POST /v1/streams/{name}/records`.
///
/// *Shapes:* one partition, rows in the order in which they were taken. A row's place is its
/// number among all records ever taken, counted from 1; it goes on after a restart.
///
/// ```
/// use millstream_io::HttpSource;
/// assert_eq!(HttpSource::new("readings").name(), "readings");
/// ```
#[derive(Clone)]
pub struct HttpSource {
    name: Arc<str>,
    intake: Arc<Intake>,
}

impl HttpSource {
    /// Takes records under `name`. The flow runs on a node that listens for HTTP.
    pub fn new(name: &str) -> HttpSource {
        HttpSource { name: name.into(), intake: Arc::default() }
    }

    /// Under which name records are sent.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::http) fn intake(&self) -> Arc<Intake> {
        self.intake.clone()
    }
}

impl Source for HttpSource {
    fn finite(&self) -> bool {
        false
    }

    /// No: what was not committed is sent again by its client, not by the source.
    fn replays(&self) -> bool {
        false
    }

    /// # Errors
    /// [`millstream_core::Code::Corrupt`] if the position is none; `Plan` if a column cannot be
    /// decoded from JSON.
    fn open(&self, _: u32, schema: SchemaRef, position: &[u8]) -> Result<Box<dyn SourceReader>> {
        let (count, producers) = decode(position)?;
        let generation = self.intake.open(schema.clone(), producers)?;
        Ok(Box::new(Reader { intake: self.intake.clone(), schema, generation, count }))
    }
}

/// *Format, version 1*, little-endian: `0` version · `1` records so far u64 · `9` producers.
fn decode(position: &[u8]) -> Result<(u64, Producers)> {
    let corrupt = || Error::corrupt("not a position of an HTTP source");
    match position {
        [] => Ok((0, Producers::default())),
        [VERSION, rest @ ..] => {
            let (count, producers) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
            Ok((u64::from_le_bytes(*count), Producers::decode(producers)?))
        }
        _ => Err(corrupt()),
    }
}

struct Reader {
    intake: Arc<Intake>,
    schema: SchemaRef,
    generation: u64,
    /// Records taken so far.
    count: u64,
}

impl SourceReader for Reader {
    fn pull(&mut self, wait: Duration) -> Result<Pull> {
        let Some(Batch { offers, producers }) = self.intake.take(self.generation, wait) else {
            return Ok(Pull::Idle);
        };
        let first = self.count;
        self.count += offers.iter().map(|o| o.parsed.units).sum::<u64>();
        let mut position = Vec::with_capacity(HEAD_BYTES + producers.len());
        position.push(VERSION);
        position.extend_from_slice(&self.count.to_le_bytes());
        position.extend_from_slice(&producers);
        let schema = self.schema.clone();
        Ok(Pull::Chunk(Box::new(move || merge(offers, &schema, first, position))))
    }
}

/// One chunk of many requests, so that they commit as a group.
fn merge(offers: Vec<Offer>, schema: &SchemaRef, first: u64, position: Vec<u8>) -> Chunk {
    let (mut units, mut skipped) = (0, 0);
    let (mut places, mut undecodable, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let mut done = Vec::with_capacity(offers.len());
    for Offer { parsed, done: told, .. } in offers {
        let before = first + units;
        places.extend(parsed.places.iter().map(|place| before + place));
        undecodable.extend(
            parsed.undecodable.into_iter().map(|u| Undecodable { place: before + u.place, ..u }),
        );
        units += parsed.units;
        skipped += parsed.skipped;
        rows.push(parsed.rows);
        done.push(told);
    }
    let rows = match rows.len() {
        1 => rows.remove(0),
        _ => concat_batches(schema, &rows).expect("batches of the source's own schema"),
    };
    // Dropped without being called if the turn comes to nothing: then every request is told so.
    let durable = move || {
        for told in done {
            told.send_replace(true);
        }
    };
    Chunk { rows, places, undecodable, units, skipped, position, durable: Some(Box::new(durable)) }
}
