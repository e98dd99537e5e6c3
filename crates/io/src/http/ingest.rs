//! Records that come in by HTTP: `POST /v1/streams/{name}/records`.
//!
//! *What is sent:* JSON lines, or with `Content-Type: application/json` an array of objects or one
//! object; with `Content-Encoding: gzip` compressed. *What is answered:*
//!
//! | status | when |
//! |---|---|
//! | 200 `{"accepted":n}` | the rows are durable |
//! | 200 `{"accepted":n,"duplicate":true}` | they were before: the request was a retry |
//! | 404 | no flow takes records under this name |
//! | 408 | the body did not come in time |
//! | 409 | `Producer-Sequence` leaves a gap |
//! | 413 | the body has more than 16 MiB, as sent or decompressed |
//! | 415 | it is compressed, but not with gzip |
//! | 422 `{"code","line","column","reason"}` | a line is no row: nothing of the request was taken |
//! | 429, `Retry-After` | the flow is behind |
//! | 503, `Retry-After` | the node drains, stops or has just begun; or nobody can say whether the rows are durable, and the request is to be sent again |
//!
//! With `?partial=true` a bad line does not spoil the others: good rows are accepted, bad lines
//! become dead letters, and the first 100 of them are listed in the answer.
//!
//! *Once, although sent again.* A client that gives itself a `Producer-Id` (1 to 128 bytes) and
//! numbers its requests, each one more than the last, in `Producer-Sequence`, may send a request
//! again until it is answered: it is taken once. The last sequence of each producer commits with
//! the rows, in the source's position; so this holds across crashes. The 10,000 producers that
//! sent last are remembered, by a 128-bit hash of their id; each costs about 22 bytes a turn.
//!
//! *Source:* the words, and the rule that a sequence leaves no gap, are Kafka's (KIP-98).

mod body;
mod intake;
mod producers;
mod source;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use millstream_core::{Code, Error, Result, connector::Undecodable, nearest};
use millstream_runtime::node::FlowState;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub use self::{body::BODY_BYTES_MAX, source::HttpSource};
use self::{
    body::{Encoding, Parsed, Shape},
    intake::{Intake, Offer, Offered, Wait},
    producers::Sequence,
};
use super::{
    answer::{ErrorBody, failed, json},
    server::Shared,
};

/// Bytes of bodies that are being read or decoded, in blocks.
const READING_BLOCKS: u32 = 4096;
const BLOCK_BYTES: usize = 64 << 10;
/// How long a body may take to come.
const BODY_MAX: Duration = Duration::from_secs(30);
/// How long rows may take to become durable before the client is told to ask again.
const DURABLE_MAX: Duration = Duration::from_secs(30);
/// Bodies up to this size are decoded where they are received: a third of a millisecond.
const INLINE_BYTES: usize = 64 << 10;
/// Bad lines listed in an answer.
const LISTED_MAX: usize = 100;

/// The sources that take records, by name.
pub(super) struct Registry {
    sources: Mutex<BTreeMap<String, Registered>>,
    reading: Semaphore,
}

#[derive(Clone)]
struct Registered {
    flow: String,
    intake: Arc<Intake>,
}

impl Default for Registry {
    fn default() -> Registry {
        let reading = Semaphore::new(READING_BLOCKS as usize);
        Registry { sources: Mutex::default(), reading }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Registered>> {
        // Nothing panics between two changes that belong together.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a flow's source take records.
    ///
    /// # Errors
    /// [`Code::Conflict`] if another flow has a source of this name.
    pub fn add(&self, flow: &str, source: &HttpSource) -> Result<()> {
        let mut sources = self.lock();
        if let Some(other) = sources.get(source.name()).filter(|other| other.flow != flow) {
            let (name, other) = (source.name(), &other.flow);
            return Err(Error::new(
                Code::Conflict,
                format!("flow `{other}` takes records under the name `{name}` already"),
            )
            .help("give one of the two HTTP sources another name"));
        }
        let registered = Registered { flow: flow.into(), intake: source.intake() };
        sources.insert(source.name().into(), registered);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Registered> {
        let sources = self.lock();
        if let Some(found) = sources.get(name) {
            return Ok(found.clone());
        }
        let error = Error::new(Code::Unknown, format!("no flow takes records for `{name}`"));
        Err(match nearest(name, sources.keys().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if sources.is_empty() => error.help("no flow here has an HTTP source"),
            None => {
                let names: Vec<&str> = sources.keys().map(String::as_str).collect();
                error.help(format!("there are: {}", names.join(", ")))
            }
        })
    }
}

/// What is answered when rows are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Rows taken.
    pub accepted: u64,
    /// The request was a retry of one that was taken before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// Lines that became dead letters.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<ErrorBody>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// How a request is to be treated.
#[derive(Default, Deserialize)]
pub struct Options {
    #[serde(default)]
    partial: bool,
}

/// A request that is not taken, and how that is answered.
struct Refused(StatusCode, Box<ErrorBody>);

impl Refused {
    fn help(mut self, line: &str) -> Refused {
        self.1.help.push(line.into());
        self
    }
}

impl From<Refused> for Response {
    fn from(Refused(status, body): Refused) -> Response {
        failed(status, &body)
    }
}

fn refused(status: StatusCode, error: Error) -> Refused {
    Refused(status, Box::new(ErrorBody::from(&error)))
}

/// The handler.
pub(super) async fn records(
    State(node): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(options): Query<Options>,
    request: Request,
) -> Response {
    match take(node, &name, &options, request).await {
        Ok(accepted) => json(StatusCode::OK, &accepted),
        Err(refused) => refused.into(),
    }
}

async fn take(
    node: Arc<Shared>,
    name: &str,
    options: &Options,
    request: Request,
) -> Result<Accepted, Refused> {
    let source = node.registry.find(name).map_err(|e| match node.node.flows().is_empty() {
        // A client must not take a node that has just begun for one without this stream.
        true => again("the node has just begun: it runs no flow yet"),
        false => refused(StatusCode::NOT_FOUND, e),
    })?;
    admit(&node, &source)?;
    let headers = request.headers();
    let sequence = sequence(headers)?;
    let (encoding, shape) = (encoding(headers)?, shape(headers));
    let announced = header(headers, header::CONTENT_LENGTH).and_then(|n| n.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let blocks = announced.unwrap_or(BODY_BYTES_MAX).div_ceil(BLOCK_BYTES).max(1) as u32;
    let permit = node.registry.reading.acquire_many(blocks).await;
    let body = read(request.into_body()).await?;
    let intake = source.intake.clone();
    let parse = move || body::parse(body, encoding, shape, &intake);
    let parsed = match announced.unwrap_or(usize::MAX) {
        ..=INLINE_BYTES if encoding == Encoding::Plain => parse(),
        _ => match tokio::task::spawn_blocking(parse).await {
            Ok(parsed) => parsed,
            Err(e) => return Err(again(format!("decoding was cut off: {e}"))),
        },
    };
    let parsed = parsed?;
    drop(permit);
    let mut answer = Accepted { accepted: parsed.rows.num_rows() as u64, ..Accepted::default() };
    if let Some(first) = parsed.undecodable.first() {
        if !options.partial {
            return Err(bad_line(&parsed, first));
        }
        answer.rejected = parsed.undecodable.len() as u64;
        let listed = parsed.undecodable.iter().take(LISTED_MAX);
        answer.bad = listed.map(|u| error_of(&parsed, u)).collect();
    }
    if parsed.units == 0 && sequence.is_none() {
        return Ok(answer);
    }
    // A numbered request counts although it is empty: the number after it leaves no gap.
    // Reading took time: look again whether the flow takes anything in.
    admit(&node, &source)?;
    let (offer, wait) = Offer::new(parsed, sequence.clone());
    let wait = match source.intake.offer(offer) {
        Offered::Taken => wait,
        Offered::Duplicate(known) => {
            answer.duplicate = true;
            known
        }
        Offered::Gap { expected } => return Err(gap(sequence.as_ref(), expected)),
        Offered::Full => return Err(behind("too many requests wait for it")),
        Offered::NotOpen => return Err(again("the flow is being started")),
    };
    durable(&node, wait).await?;
    Ok(answer)
}

/// Whether the flow behind a source takes anything in.
fn admit(node: &Shared, source: &Registered) -> Result<(), Refused> {
    if node.node.is_draining() || node.is_stopping() {
        return Err(again("the node is draining"));
    }
    match node.node.flow(&source.flow) {
        Some(FlowState::Running) => {}
        Some(FlowState::Failed(e)) => {
            let reason = format!("flow `{}` has failed: {}", source.flow, e.message());
            return Err(refused(StatusCode::SERVICE_UNAVAILABLE, Error::new(Code::Failed, reason)));
        }
        _ => return Err(again(format!("flow `{}` does not run", source.flow))),
    }
    if node.node.accepts(&source.flow) {
        return Ok(());
    }
    let health = node.node.engine().health();
    Err(match health.error.map(|e| e.code()) {
        // Whether or not the disk is full, too: this is the nearer one.
        _ if health.full => behind("the node stores as much as it may (`disk_bytes_max`)").help(
            "if it stays so, let who runs the node raise `disk_bytes_max`, or see what is not read",
        ),
        Some(Code::DiskFull) => behind("the node's disk is full"),
        Some(_) => behind("the node's disk cannot be written"),
        None => behind("it works off what it has, or pauses after too many bad records"),
    })
}

async fn read(body: Body) -> Result<Bytes, Refused> {
    match tokio::time::timeout(BODY_MAX, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // Either it is too long, or the connection broke and nobody reads the answer.
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(too_slow()),
    }
}

/// Waits until the rows are durable, or nobody can say any more whether they will be.
async fn durable(node: &Shared, mut wait: Wait) -> Result<(), Refused> {
    let mut stopping = node.stopping.clone();
    let durable = async { wait.wait_for(|durable| *durable).await.is_ok() };
    tokio::select! {
        biased;
        durable = durable => match durable {
            true => Ok(()),
            false => Err(again("the source was restarted before the rows were durable")),
        },
        _ = stopping.wait_for(|stop| *stop) => Err(again("the node stops")),
        () = tokio::time::sleep(DURABLE_MAX) => {
            Err(again(format!("the rows are not durable after {} s", DURABLE_MAX.as_secs())))
        }
    }
}

fn header(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refused> {
    match header(headers, header::CONTENT_ENCODING).unwrap_or_default() {
        "" | "identity" => Ok(Encoding::Plain),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        other => {
            let message = format!("Content-Encoding `{other}` is not understood");
            let error = Error::new(Code::Input, message).help("send it plain or with gzip");
            Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
        }
    }
}

fn shape(headers: &HeaderMap) -> Shape {
    let content_type = header(headers, header::CONTENT_TYPE).unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json" => Shape::Json,
        _ => Shape::Lines,
    }
}

/// The producer and its sequence, if the request has them; one without the other is a mistake.
fn sequence(headers: &HeaderMap) -> Result<Option<Sequence>, Refused> {
    let (id, number) = (header(headers, "producer-id"), header(headers, "producer-sequence"));
    let wrong = |message: &str| refused(StatusCode::BAD_REQUEST, Error::new(Code::Input, message));
    match (id, number) {
        (None, None) => Ok(None),
        (Some(id), _) if id.is_empty() || id.len() > 128 => {
            Err(wrong("Producer-Id has 1 to 128 bytes"))
        }
        (Some(id), Some(number)) => match number.parse() {
            Ok(number) => Ok(Some(Sequence::new(id, number))),
            Err(_) => Err(wrong("Producer-Sequence is a whole number from 0")),
        },
        _ => Err(wrong("Producer-Id and Producer-Sequence go together")),
    }
}

fn error_of(parsed: &Parsed, u: &Undecodable) -> ErrorBody {
    ErrorBody {
        code: Code::Input.id().into(),
        line: Some(parsed.line_of(u.place)),
        record: parsed.lines.is_some().then_some(u.place),
        column: Some(u.column.clone()),
        reason: u.error.clone(),
        help: Vec::new(),
    }
}

fn bad_line(parsed: &Parsed, first: &Undecodable) -> Refused {
    let (bad, all) = (parsed.undecodable.len(), parsed.units - parsed.skipped);
    let help = format!(
        "{bad} of {all} records are bad, nothing was taken; ?partial=true takes the others"
    );
    let body = ErrorBody { help: vec![help], ..error_of(parsed, first) };
    Refused(StatusCode::UNPROCESSABLE_ENTITY, Box::new(body))
}

fn too_large() -> Refused {
    let message = format!("the body is larger than {} MiB", BODY_BYTES_MAX >> 20);
    let error = Error::new(Code::Limit, message).help("send fewer records at once");
    refused(StatusCode::PAYLOAD_TOO_LARGE, error)
}

fn too_slow() -> Refused {
    let message = format!("the body took longer than {} s", BODY_MAX.as_secs());
    let error = Error::new(Code::Limit, message)
        .help("nothing of it was taken: send fewer records at once, or compress them");
    refused(StatusCode::REQUEST_TIMEOUT, error)
}

fn behind(why: &str) -> Refused {
    let error = Error::new(Code::Limit, format!("the flow is behind: {why}"))
        .help("wait as long as Retry-After says, and send it again");
    refused(StatusCode::TOO_MANY_REQUESTS, error)
}

fn again(why: impl std::fmt::Display) -> Refused {
    let error = Error::new(Code::Unreachable, why.to_string())
        .help("send it again; with Producer-Id and Producer-Sequence it is taken once");
    refused(StatusCode::SERVICE_UNAVAILABLE, error)
}

fn gap(sequence: Option<&Sequence>, expected: u64) -> Refused {
    let got = sequence.map_or(0, |s| s.number);
    let message = format!("Producer-Sequence is {got}; {expected} was expected");
    let error = Error::new(Code::Conflict, message)
        .help("requests of one producer are numbered without gaps, and sent one after the other");
    refused(StatusCode::CONFLICT, error)
}
