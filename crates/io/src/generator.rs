//! Rows out of nothing, the same ones for the same seed.
//!
//! A position is the index of the next row. Each row has a random number generator of its own, so
//! that a source opened anywhere makes the rows it would have made.

use std::{sync::Arc, time::Duration};

use arrow_schema::SchemaRef;
use millstream_core::{
    Error, Result,
    connector::{Chunk, Pull, Source, SourceReader},
};

use crate::{
    json::JsonDecoder,
    pool::Pool,
    rng::Rng,
    unit::{Decoded, Place},
};

/// Rows per chunk, at most.
const CHUNK_ROWS: u64 = 8_192;

type Line = dyn Fn(u64, &mut Rng, &mut Vec<u8>) + Send + Sync;

/// A seeded source of rows that some function makes.
///
/// ```
/// use millstream_io::Generator;
/// let readings = Generator::from_fn(7, 1_000, 2, |row, rng| {
///     serde_json::json!({ "seq": row, "celsius": rng.unit() * 40.0 })
/// });
/// ```
#[derive(Clone)]
pub struct Generator {
    seed: u64,
    rows: u64,
    partitions: u32,
    line: Arc<Line>,
}

impl Generator {
    /// Makes `rows` rows in each of `partitions` partitions: `row` gets a row's index over all
    /// partitions (partition p has p, p + partitions, ..) and its random numbers.
    pub fn from_fn(
        seed: u64,
        rows: u64,
        partitions: u32,
        row: impl Fn(u64, &mut Rng) -> serde_json::Value + Send + Sync + 'static,
    ) -> Generator {
        Generator::from_lines(seed, rows, partitions, move |index, rng, line| {
            line.extend_from_slice(row(index, rng).to_string().as_bytes());
        })
    }

    /// As [`Generator::from_fn`], but `line` appends the row as a JSON object without a line end,
    /// which is several times faster.
    pub fn from_lines(
        seed: u64,
        rows: u64,
        partitions: u32,
        line: impl Fn(u64, &mut Rng, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Generator {
        Generator { seed, rows, partitions: partitions.max(1), line: Arc::new(line) }
    }

    /// Rows `from..to` of a partition, one per line.
    fn lines(&self, partition: u32, from: u64, to: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for row in from..to {
            let index = row * u64::from(self.partitions) + u64::from(partition);
            (self.line)(index, &mut Rng::for_item(self.seed, index), &mut bytes);
            bytes.push(b'\n');
        }
        bytes
    }
}

impl Source for Generator {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn finite(&self) -> bool {
        true
    }

    /// The fields of the first row.
    fn fields(&self) -> Result<Option<Vec<String>>> {
        Ok(crate::json::keys(&self.lines(0, 0, 1)))
    }

    fn open(
        &self,
        partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> Result<Box<dyn SourceReader>> {
        let decoders = Pool::new();
        decoders.give(JsonDecoder::new(schema.clone())?);
        let next = match position {
            [] => 0,
            _ => u64::from_le_bytes(
                position.try_into().map_err(|_| Error::corrupt("not a position in a generator"))?,
            ),
        };
        let chunk_rows = CHUNK_ROWS;
        let source = self.clone();
        Ok(Box::new(GeneratorReader { source, partition, schema, decoders, next, chunk_rows }))
    }
}

struct GeneratorReader {
    source: Generator,
    partition: u32,
    schema: SchemaRef,
    decoders: Pool<JsonDecoder>,
    next: u64,
    chunk_rows: u64,
}

impl SourceReader for GeneratorReader {
    fn pull(&mut self, _wait: Duration) -> Result<Pull> {
        let (source, partition, from) = (self.source.clone(), self.partition, self.next);
        let to = source.rows.min(from.saturating_add(self.chunk_rows));
        if from >= to {
            return Ok(Pull::End);
        }
        self.next = to;
        let decoders = self.decoders.clone();
        let mut decoder = match decoders.take() {
            Some(decoder) => decoder,
            None => JsonDecoder::new(self.schema.clone())?,
        };
        Ok(Pull::Chunk(Box::new(move || {
            let lines = source.lines(partition, from, to);
            let Decoded { rows, places, undecodable, skipped } =
                decoder.decode(&lines, Place { line: from + 1, offset: 0 });
            decoders.give(decoder);
            let (units, position) = (to - from, to.to_le_bytes().to_vec());
            Chunk { rows, places, undecodable, units, skipped, position, durable: None }
        })))
    }

    fn limit(&mut self, units: u64) {
        self.chunk_rows = units.clamp(1, CHUNK_ROWS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{cast::AsArray, types::Int64Type};
    use arrow_schema::{DataType, Field, Schema};

    fn read(source: &Generator, partition: u32, position: &[u8], limit: u64) -> Vec<(u64, i64)> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let mut reader = source.open(partition, schema, position).unwrap();
        reader.limit(limit);
        let mut rows = Vec::new();
        while let Pull::Chunk(decode) = reader.pull(Duration::ZERO).unwrap() {
            let chunk = decode();
            let n = chunk.rows.column(0).as_primitive::<Int64Type>();
            rows.extend(chunk.places.iter().copied().zip(n.values().iter().copied()));
        }
        rows
    }

    #[test]
    fn the_same_rows_wherever_it_is_opened() {
        let source = Generator::from_fn(
            7,
            100,
            2,
            |row, rng| serde_json::json!({ "n": row * 1_000 + rng.below(1_000) }),
        );
        assert_eq!(source.fields().unwrap().unwrap(), ["n"]);
        let whole = read(&source, 1, &[], 1_000);
        assert_eq!(whole.len(), 100);
        assert!(
            whole
                .iter()
                .enumerate()
                .all(|(i, (place, n))| { *place == i as u64 + 1 && n / 1_000 == 2 * i as i64 + 1 })
        );
        assert_eq!(read(&source, 1, &40u64.to_le_bytes(), 7), whole[40..]);
        assert_ne!(read(&source, 0, &[], 1_000)[0].1 % 1_000, whole[0].1 % 1_000);
    }
}
