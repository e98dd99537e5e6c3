//! Records as bytes: what a sink has prepared, and what becomes records again.
//!
//! *Format, version 1*, little-endian: `0` version u8 · `1` length of the topic's name u16 · `3`
//! the name. Then, up to the end, each record: partition u32 · flags u8 (1: has a key, 2: has a
//! value, 4: has a time, 8: has headers) · if it has them: time i64 in ms · key · value, each with
//! its length u32 before · number of headers u16, of each the name and the value, each with its
//! length u32 before.

use millstream_core::{Error, Result, Time};

use crate::client::{Record, Records, TopicPartition};

const VERSION: u8 = 1;
const KEY: u8 = 1;
const VALUE: u8 = 2;
const TIME: u8 = 4;
const HEADERS: u8 = 8;

/// The beginning of an encoding: nothing is in it yet.
pub(super) fn begin(topic: &str) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&(topic.len() as u16).to_le_bytes());
    out.extend_from_slice(topic.as_bytes());
    out
}

/// Appends a record.
pub(super) fn push(
    out: &mut Vec<u8>,
    partition: u32,
    (key, value): (Option<&[u8]>, Option<&[u8]>),
    time: Option<Time>,
    headers: &[(&str, &[u8])],
) {
    let flag = |has: bool, flag: u8| if has { flag } else { 0 };
    let flags = flag(key.is_some(), KEY)
        | flag(value.is_some(), VALUE)
        | flag(time.is_some(), TIME)
        | flag(!headers.is_empty(), HEADERS);
    out.extend_from_slice(&partition.to_le_bytes());
    out.push(flags);
    if let Some(time) = time {
        out.extend_from_slice(&time.ms().to_le_bytes());
    }
    let sized = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    key.into_iter().chain(value).for_each(|bytes| sized(out, bytes));
    if !headers.is_empty() {
        out.extend_from_slice(&(headers.len() as u16).to_le_bytes());
    }
    for (name, value) in headers {
        sized(out, name.as_bytes());
        sized(out, value);
    }
}

/// The records that a sink of ours has prepared, in order, from
/// [`Prepared::bytes`](millstream_core::connector::Prepared::bytes).
///
/// # Errors
/// [`millstream_core::Code::Corrupt`] if they are not such bytes.
pub fn records(bytes: &[u8]) -> Result<Records> {
    let mut records = Records::default();
    append(bytes, &mut records)?;
    Ok(records)
}

/// As [`records`], behind others.
pub(crate) fn append(bytes: &[u8], records: &mut Records) -> Result<()> {
    let mut rest = Rest(bytes);
    if rest.take::<1>()? != [VERSION] {
        return Err(corrupt());
    }
    let len = u16::from_le_bytes(rest.take()?) as usize;
    let topic = std::str::from_utf8(rest.slice(len)?).map_err(|_| corrupt())?;
    let mut at = TopicPartition::new(topic, 0);
    let mut headers = Vec::new();
    while !rest.0.is_empty() {
        at.partition = u32::from_le_bytes(rest.take()?);
        let [flags] = rest.take()?;
        if flags & !(KEY | VALUE | TIME | HEADERS) != 0 {
            return Err(corrupt());
        }
        let time = match flags & TIME {
            0 => None,
            _ => Some(Time::from_ms(i64::from_le_bytes(rest.take()?))),
        };
        let key = if flags & KEY != 0 { Some(rest.sized()?) } else { None };
        let value = if flags & VALUE != 0 { Some(rest.sized()?) } else { None };
        headers.clear();
        if flags & HEADERS != 0 {
            for _ in 0..u16::from_le_bytes(rest.take()?) {
                let name = std::str::from_utf8(rest.sized()?).map_err(|_| corrupt())?;
                headers.push((name.to_string(), rest.sized()?.to_vec()));
            }
        }
        records.push(&at, Record { key, value, headers: &headers, time });
    }
    Ok(())
}

/// Bytes not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(corrupt)?;
        self.0 = rest;
        Ok(*first)
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len).ok_or_else(corrupt)?;
        self.0 = rest;
        Ok(first)
    }

    fn sized(&mut self) -> Result<&'a [u8]> {
        let len = u32::from_le_bytes(self.take()?) as usize;
        self.slice(len)
    }
}

fn corrupt() -> Error {
    Error::corrupt("not records that a Kafka sink has prepared")
}
