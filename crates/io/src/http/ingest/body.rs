//! A request's body: decompressed, cut into records, decoded.

use std::io::Read;

use arrow_array::RecordBatch;
use axum::http::StatusCode;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use millstream_core::{Code, Error, connector::Undecodable};
use serde_json::value::RawValue;

use super::{Refused, again, intake::Intake, refused, too_large};
use crate::unit::Place;

/// The largest body, in bytes, as sent and decompressed.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// It is not.
    Plain,
    /// With gzip.
    Gzip,
}

/// What a body is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Lines, each an object.
    Lines,
    /// An array of objects, or one object.
    Json,
}

/// A decoded body.
pub struct Parsed {
    /// The rows.
    pub rows: RecordBatch,
    /// The record each row is, counted from 1.
    pub places: Vec<u64>,
    /// What is no row.
    pub undecodable: Vec<Undecodable>,
    /// Records, blank lines among them.
    pub units: u64,
    /// Blank lines.
    pub skipped: u64,
    /// Bytes it takes, about.
    pub bytes: usize,
    /// The line each record begins on, where records are not lines.
    pub lines: Option<Vec<u64>>,
}

impl Parsed {
    /// The line on which a record begins.
    pub fn line_of(&self, place: u64) -> u64 {
        let lines = self.lines.as_ref();
        lines.and_then(|l| l.get(place as usize - 1)).copied().unwrap_or(place)
    }
}

/// Decodes a body into rows of the schema that the source was opened with.
pub fn parse(
    body: Bytes,
    encoding: Encoding,
    shape: Shape,
    intake: &Intake,
) -> Result<Parsed, Refused> {
    let body = match encoding {
        Encoding::Plain => body,
        Encoding::Gzip => gunzip(&body)?.into(),
    };
    let (text, lines) = match shape {
        Shape::Lines => (body, None),
        Shape::Json => {
            let (text, lines) = split(&body)?;
            (text.into(), Some(lines))
        }
    };
    let Some(mut decoder) = intake.decoder() else {
        return Err(again("the flow is being started"));
    };
    let mut decoded = decoder.decode(&text, Place::default());
    intake.give_back(decoder);
    for bad in &mut decoded.undecodable {
        // Bytes of a request are a place nobody can look at later.
        bad.bytes = (0, 0);
    }
    let breaks = memchr::memchr_iter(b'\n', &text).count() as u64;
    Ok(Parsed {
        rows: decoded.rows,
        places: decoded.places,
        undecodable: decoded.undecodable,
        units: breaks + u64::from(text.last().is_some_and(|b| *b != b'\n')),
        skipped: decoded.skipped,
        bytes: text.len(),
        lines,
    })
}

fn gunzip(body: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut plain = Vec::with_capacity((body.len() * 4).min(BODY_BYTES_MAX));
    // A small body can become a very large one: reading stops behind the limit.
    let mut reader = MultiGzDecoder::new(body).take(BODY_BYTES_MAX as u64 + 1);
    match reader.read_to_end(&mut plain) {
        Ok(_) if plain.len() > BODY_BYTES_MAX => Err(too_large()),
        Ok(_) => Ok(plain),
        Err(e) => Err(wrong(format!("the body is no gzip: {e}"))),
    }
}

/// Makes lines of an array's elements, and says on which line each of them began.
fn split(body: &[u8]) -> Result<(Vec<u8>, Vec<u64>), Refused> {
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    let elements: Vec<&RawValue> = match first {
        None => Vec::new(),
        Some(b'{') => vec![whole(body)?],
        Some(_) => whole(body)?,
    };
    let mut text = Vec::with_capacity(body.len());
    let mut lines = Vec::with_capacity(elements.len());
    let (mut line, mut at) = (1, 0);
    for element in elements {
        let raw = element.get().as_bytes();
        let start = raw.as_ptr() as usize - body.as_ptr() as usize;
        line += memchr::memchr_iter(b'\n', &body[at..start]).count() as u64;
        at = start;
        lines.push(line);
        // In valid JSON a line break stands between values, never within one.
        text.extend(raw.iter().map(|b| if *b == b'\n' { b' ' } else { *b }));
        text.push(b'\n');
    }
    Ok((text, lines))
}

fn whole<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|e| {
        let Refused(status, mut body) = wrong(format!("not an array of objects: {e}"));
        body.line = Some(e.line() as u64);
        body.column = Some(String::new());
        Refused(status, body)
    })
}

fn wrong(message: String) -> Refused {
    refused(StatusCode::UNPROCESSABLE_ENTITY, Error::new(Code::Input, message))
}
