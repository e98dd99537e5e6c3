//! The little of Kafka's protocol that this crate speaks itself: frames, and three requests.
//!
//! *Source:* Kafka's protocol guide; the versions used are the oldest ones without tagged fields
//! that Kafka 4 knows.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long a broker may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A longer frame is no frame; Kafka's own limit.
pub(crate) const FRAME_BYTES_MAX: usize = 100 << 20;

/// Kinds of keys that a coordinator is asked for.
pub(crate) const GROUP: u8 = 0;
pub(crate) const TRANSACTION: u8 = 1;

/// Of the fields that every request begins with, those that a proxy needs.
pub(crate) struct Header {
    pub(crate) api: i16,
    pub(crate) correlation: i32,
}

impl Header {
    /// Of a request without its length.
    pub(crate) fn of(request: &[u8]) -> Option<Header> {
        let (api, rest) = request.split_first_chunk()?;
        let (_version, rest) = rest.split_first_chunk::<2>()?;
        let (correlation, _) = rest.split_first_chunk()?;
        Some(Header {
            api: i16::from_be_bytes(*api),
            correlation: i32::from_be_bytes(*correlation),
        })
    }
}

/// Asks which broker coordinates `key`, whereby the topic of coordinators comes to be.
/// Kafka's error code; 0 once there is one.
pub(crate) fn find_coordinator(to: SocketAddr, kind: u8, key: &str) -> io::Result<i16> {
    let mut body = Vec::new();
    put_text(&mut body, key);
    body.push(kind);
    let answer = ask(to, 10, 2, &body)?;
    answer.get(4..6).map(|e| i16::from_be_bytes([e[0], e[1]])).ok_or_else(cut_short)
}

/// Makes a topic with a replica on each broker. Kafka's error code and words.
pub(crate) fn create_topic(
    to: SocketAddr,
    name: &str,
    partitions: u32,
    settings: &[(&str, &str)],
) -> io::Result<Result<(), String>> {
    let count = |n: usize| i32::try_from(n).expect("few").to_be_bytes();
    let mut body = count(1).to_vec();
    put_text(&mut body, name);
    body.extend(partitions.to_be_bytes());
    body.extend(3_i16.to_be_bytes());
    body.extend(count(0)); // placed by Kafka
    body.extend(count(settings.len()));
    for (key, value) in settings {
        put_text(&mut body, key);
        put_text(&mut body, value);
    }
    body.extend(count(10_000)); // the broker's time for it, in milliseconds
    body.push(0); // not only checked
    let answer = ask(to, 19, 2, &body)?;
    // Time throttled, one topic, its name, error, words.
    let rest = answer.get(4 + 4 + 2 + name.len()..).ok_or_else(cut_short)?;
    let (error, rest) = rest.split_first_chunk().ok_or_else(cut_short)?;
    let error = i16::from_be_bytes(*error);
    let words = String::from_utf8_lossy(rest.get(2..).unwrap_or_default());
    Ok(if error == 0 { Ok(()) } else { Err(format!("error {error}: {words}")) })
}

/// The broker that leads a partition; `None` if none does, or there is no such partition.
pub(crate) fn leader(to: SocketAddr, topic: &str, partition: u32) -> io::Result<Option<u16>> {
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_text(&mut body, topic);
    let answer = ask(to, 3, 1, &body)?;
    let mut rest = Rest(&answer);
    for _ in 0..rest.int()? {
        rest.int()?; // the broker's number
        rest.text()?; // its host
        rest.int()?; // its port
        rest.text()?; // its rack
    }
    rest.int()?; // the controller
    rest.int()?; // how many topics: one
    rest.short()?;
    rest.text()?;
    rest.take(1)?; // whether it is internal
    let mut found = None;
    for _ in 0..rest.int()? {
        rest.short()?;
        let (number, leader) = (rest.int()?, rest.int()?);
        for _ in 0..2 {
            let replicas = rest.int()?;
            rest.take(4 * usize::try_from(replicas).unwrap_or(0))?;
        }
        if u32::try_from(number) == Ok(partition) {
            found = u16::try_from(leader).ok();
        }
    }
    Ok(found)
}

/// What is left of an answer.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn short(&mut self) -> io::Result<i16> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(i16::from_be_bytes(*taken))
    }

    fn int(&mut self) -> io::Result<i32> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(i32::from_be_bytes(*taken))
    }

    fn text(&mut self) -> io::Result<()> {
        // Below zero there is none.
        let bytes = usize::try_from(self.short()?).unwrap_or(0);
        self.take(bytes).map(drop)
    }
}

fn ask(to: SocketAddr, api: i16, version: i16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    put_text(&mut request, "millstream-brokers");
    request.extend(body);
    let length = i32::try_from(request.len()).expect("small").to_be_bytes();
    stream.write_all(&[&length[..], &request].concat())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("an answer of {length} bytes")));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    // Behind the correlation id.
    Ok(answer.get(4..).ok_or_else(cut_short)?.to_vec())
}

fn put_text(into: &mut Vec<u8>, text: &str) {
    into.extend(i16::try_from(text.len()).expect("short").to_be_bytes());
    into.extend(text.as_bytes());
}

fn cut_short() -> io::Error {
    io::Error::other("the broker's answer is too short")
}
