//! Turns pieces of input into chunks of rows, on whatever thread runs the closure.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use millstream_core::{
    Result,
    connector::{Chunk, Pull},
};

use crate::{
    csv::{self, CsvDecoder},
    json::JsonDecoder,
    lines::{Format, Piece, PieceKind},
    pool::Pool,
    unit::{Decoded, Place, oversize},
};

/// A decoder for one of the formats.
#[derive(Debug)]
enum Decoder {
    Json(JsonDecoder),
    Csv(CsvDecoder),
}

impl Decoder {
    fn decode(&mut self, bytes: &[u8], at: Place) -> Decoded {
        match self {
            Decoder::Json(decoder) => decoder.decode(bytes, at),
            Decoder::Csv(decoder) => decoder.decode(bytes, at),
        }
    }
}

/// What it takes to decode pieces of one input.
pub(crate) struct Decoding {
    format: Format,
    schema: SchemaRef,
    unit_bytes_max: usize,
    /// The names in the header, if the format has one.
    header: Option<Vec<String>>,
    decoders: Pool<Decoder>,
    spare: Pool<Vec<u8>>,
}

impl Decoding {
    /// Decodes to rows of `schema` and gives the bytes back to `spare`.
    ///
    /// # Errors
    /// [`Code::Plan`] if the schema has a column that cannot be decoded.
    pub fn new(
        format: Format,
        schema: SchemaRef,
        unit_bytes_max: usize,
        spare: Pool<Vec<u8>>,
    ) -> Result<Decoding> {
        let decoders = Pool::new();
        if format == Format::JsonLines {
            let decoder = JsonDecoder::new(schema.clone())?.line_bytes_max(unit_bytes_max);
            decoders.give(Decoder::Json(decoder));
        }
        Ok(Decoding { format, schema, unit_bytes_max, header: None, decoders, spare })
    }

    /// Takes the header of a new input.
    ///
    /// # Errors
    /// [`Code::Plan`] if it lacks a column, [`Code::Input`] if it cannot be read.
    pub fn header(&mut self, record: &[u8]) -> Result<()> {
        let Format::Csv { separator } = self.format else { return Ok(()) };
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let names = csv::header(record, separator).map_err(|f| csv::no_header(&f.error))?;
        if self.header.as_ref() == Some(&names) {
            return Ok(());
        }
        let decoder = csv_decoder(&self.schema, &names, separator, self.unit_bytes_max)?;
        self.decoders = Pool::new();
        self.decoders.give(Decoder::Csv(decoder));
        self.header = Some(names);
        Ok(())
    }

    /// What `piece` will be once it is decoded; `position` is where to go on after it.
    ///
    /// # Errors
    /// Those of [`Decoding::header`], if the piece is one.
    pub fn pull(&mut self, piece: Piece, position: Vec<u8>) -> Result<Pull> {
        let schema = self.schema.clone();
        let empty = move || RecordBatch::new_empty(schema);
        let mut chunk = Chunk {
            rows: empty(),
            places: Vec::new(),
            undecodable: Vec::new(),
            units: piece.units,
            skipped: 0,
            position,
            durable: None,
        };
        match piece.kind {
            PieceKind::Header => {
                self.header(&piece.bytes)?;
                chunk.skipped = 1;
            }
            PieceKind::Oversize { len } => {
                let unit = oversize(piece.start, len, &piece.bytes, self.unit_bytes_max);
                chunk.undecodable.push(unit);
            }
            PieceKind::Data => return self.data(piece, chunk),
        }
        Ok(Pull::Chunk(Box::new(move || chunk)))
    }

    fn data(&self, piece: Piece, mut chunk: Chunk) -> Result<Pull> {
        let (decoders, spare) = (self.decoders.clone(), self.spare.clone());
        let decoder = match decoders.take() {
            Some(decoder) => decoder,
            None => self.decoder()?,
        };
        Ok(Pull::Chunk(Box::new(move || {
            let mut decoder = decoder;
            let decoded = decoder.decode(&piece.bytes, piece.start);
            chunk.rows = decoded.rows;
            chunk.places = decoded.places;
            chunk.undecodable = decoded.undecodable;
            chunk.skipped = decoded.skipped;
            decoders.give(decoder);
            spare.give(piece.bytes);
            chunk
        })))
    }

    fn decoder(&self) -> Result<Decoder> {
        Ok(match (self.format, &self.header) {
            (Format::JsonLines, _) => {
                let decoder = JsonDecoder::new(self.schema.clone())?;
                Decoder::Json(decoder.line_bytes_max(self.unit_bytes_max))
            }
            (Format::Csv { separator }, Some(names)) => {
                Decoder::Csv(csv_decoder(&self.schema, names, separator, self.unit_bytes_max)?)
            }
            (Format::Csv { .. }, None) => {
                let limit = self.unit_bytes_max;
                return Err(csv::no_header(&format!("longer than the limit of {limit} bytes")));
            }
        })
    }
}

fn csv_decoder(
    schema: &SchemaRef,
    names: &[String],
    separator: u8,
    record_bytes_max: usize,
) -> Result<CsvDecoder> {
    let decoder = CsvDecoder::new(schema.clone(), names)?;
    Ok(decoder.separator(separator).record_bytes_max(record_bytes_max))
}
