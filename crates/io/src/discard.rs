//! A sink that only counts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrow_schema::SchemaRef;
use millstream_core::{
    Batch, Error, Result,
    connector::{Guarantee, Prepared, Sink, SinkWriter},
};

/// Drops every row and counts it. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Discard {
    rows: Arc<AtomicU64>,
}

impl Discard {
    /// A sink that has seen nothing.
    pub fn new() -> Discard {
        Discard::default()
    }

    /// The rows written so far; a turn that is written again counts again.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

impl Sink for Discard {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn open(&self, _: u32, _: SchemaRef, _: &[u8]) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(self.clone()))
    }
}

impl SinkWriter for Discard {
    /// The note is the number of rows, 8 bytes little-endian.
    fn prepare(&mut self, rows: &[Batch]) -> Result<Prepared> {
        let rows = rows.iter().map(|batch| batch.len() as u64).sum::<u64>();
        Ok(Prepared { note: rows.to_le_bytes().to_vec(), bytes: Vec::new() })
    }

    fn write(&mut self, prepared: &Prepared) -> Result<()> {
        let note = prepared.note.as_slice().try_into();
        let rows = note.map_err(|_| Error::corrupt("not the note of a discarding sink"))?;
        self.rows.fetch_add(u64::from_le_bytes(rows), Ordering::Relaxed);
        Ok(())
    }
}
