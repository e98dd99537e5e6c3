//! The little of Kafka's protocol that this crate speaks itself: frames, and what tests need that
//! no client library asks for.
//!
//! *Source:* Kafka's protocol guide; the versions used are the oldest ones that Kafka 4 knows, most
//! of them without tagged fields.

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

/// What access control lists are about, by the beginning of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// Topics.
    Topics(&'a str),
    /// Consumer groups.
    Groups(&'a str),
    /// Transactional ids.
    Ids(&'a str),
}

impl<'a> Resource<'a> {
    fn parts(self) -> (u8, &'a str) {
        match self {
            Resource::Topics(name) => (2, name),
            Resource::Groups(name) => (3, name),
            Resource::Ids(name) => (5, name),
        }
    }
}

/// What may be done: Kafka's number of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation(pub u8);

impl Operation {
    /// `Read`.
    pub const READ: Operation = Operation(3);
    /// `Write`.
    pub const WRITE: Operation = Operation(4);
    /// `Create`.
    pub const CREATE: Operation = Operation(5);
    /// `Delete`.
    pub const DELETE: Operation = Operation(6);
    /// `Describe`.
    pub const DESCRIBE: Operation = Operation(8);
    /// `DescribeConfigs`.
    pub const DESCRIBE_CONFIGS: Operation = Operation(10);
}

/// A right.
pub type Right<'a> = (Resource<'a>, Operation);

/// Whom rights are given to, and where he may come from.
const ALICE: &str = "User:alice";
const ANYWHERE: &str = "*";
/// Kafka's numbers: the name is the beginning of one, and what is said is that it is allowed.
const PREFIXED: u8 = 4;
const ALLOW: u8 = 3;

/// Gives alice a right.
pub(crate) fn allow(to: SocketAddr, right: &Right<'_>) -> io::Result<Result<(), String>> {
    change_rights(to, 30, right)
}

/// Takes it from her.
pub(crate) fn forbid(to: SocketAddr, right: &Right<'_>) -> io::Result<Result<(), String>> {
    change_rights(to, 31, right)
}

/// The fields of a right and those of a filter that finds it alone are the same.
fn change_rights(
    to: SocketAddr,
    api: i16,
    (resource, operation): &Right<'_>,
) -> io::Result<Result<(), String>> {
    let (kind, name) = resource.parts();
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.push(kind);
    put_text(&mut body, name);
    body.push(PREFIXED);
    put_text(&mut body, ALICE);
    put_text(&mut body, ANYWHERE);
    body.extend([operation.0, ALLOW]);
    refusal(&ask(to, api, 1, &body)?)
}

/// Bounds what all clients write at a broker, in bytes a second.
pub(crate) fn throttle(to: SocketAddr, bytes: Option<u32>) -> io::Result<Result<(), String>> {
    let one = 1_i32.to_be_bytes();
    let mut body = one.to_vec();
    body.extend(one);
    put_text(&mut body, "client-id");
    body.extend((-1_i16).to_be_bytes()); // whatever it is
    body.extend(one);
    put_text(&mut body, "producer_byte_rate");
    body.extend(f64::from(bytes.unwrap_or_default()).to_be_bytes());
    body.push(u8::from(bytes.is_none()));
    body.push(0); // not only checked
    refusal(&ask(to, 49, 0, &body)?)
}

/// What an answer says that has, behind the time throttled, results of which only the first one is
/// of interest, and of that its error and words.
fn refusal(answer: &[u8]) -> io::Result<Result<(), String>> {
    let mut rest = Rest(answer);
    rest.int()?;
    rest.int()?;
    let error = rest.short()?;
    let words = String::from_utf8_lossy(rest.0.get(2..).unwrap_or_default());
    Ok(if error == 0 { Ok(()) } else { Err(format!("error {error}: {words}")) })
}

/// The broker that coordinates a transactional id, if there is one.
pub(crate) fn coordinator(to: SocketAddr, id: &str) -> io::Result<Option<u16>> {
    let mut body = Vec::new();
    put_text(&mut body, id);
    body.push(TRANSACTION);
    let answer = ask(to, 10, 2, &body)?;
    let mut rest = Rest(&answer);
    rest.int()?;
    let error = rest.short()?;
    rest.text()?;
    let broker = rest.int()?;
    Ok(u16::try_from(broker).ok().filter(|_| error == 0))
}

/// Takes over a transactional id at its coordinator, over one connection, until its producer has
/// `epoch` or a later one; which it is.
pub(crate) fn wear(to: SocketAddr, id: &str, epoch: i16) -> io::Result<i16> {
    /// The one before is still being ended.
    const TOO_EARLY: i16 = 51;
    let mut stream = connect(to)?;
    let mut body = Vec::new();
    put_text(&mut body, id);
    body.extend(10_000_i32.to_be_bytes()); // how long a transaction may be open, in milliseconds
    loop {
        let answer = ask_over(&mut stream, 22, 1, &body)?;
        let mut rest = Rest(&answer);
        rest.int()?;
        match rest.short()? {
            0 => {}
            TOO_EARLY => continue,
            error => return Err(io::Error::other(format!("error {error}"))),
        }
        rest.take(8)?; // the producer's id
        let has = rest.short()?;
        if has >= epoch {
            return Ok(has);
        }
    }
}

/// How many producers the leader of a partition knows.
pub(crate) fn producers(to: SocketAddr, topic: &str, partition: u32) -> io::Result<usize> {
    // Here lengths are one more than they are, and all structures end with tags: none.
    let short = |n: usize| u8::try_from(n + 1).expect("few");
    let mut body = vec![0, short(1), short(topic.len())];
    body.extend(topic.as_bytes());
    body.push(short(1));
    body.extend(partition.to_be_bytes());
    body.extend([0, 0]);
    let answer = ask(to, 61, 0, &body)?;
    let mut rest = Rest(&answer);
    rest.take(1)?; // tags
    rest.int()?; // time throttled
    rest.take(2 + topic.len() + 1)?; // one topic, its name; one partition
    rest.int()?;
    let error = rest.short()?;
    if error != 0 {
        return Err(io::Error::other(format!("error {error}")));
    }
    rest.take(1)?; // no words
    let count = rest.take(1)?;
    Ok(usize::from(count[0]).saturating_sub(1))
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
    ask_over(&mut connect(to)?, api, version, body)
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A body without the header's tags, of an api that has them, begins with their number.
fn ask_over(stream: &mut TcpStream, api: i16, version: i16, body: &[u8]) -> io::Result<Vec<u8>> {
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
