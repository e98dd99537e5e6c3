//! The control API: how things are, `kill` and `drain`.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use millstream_core::{
    Code, Error, Key, Result,
    engine::{ClusterView, Ticket},
    key::display,
};
use millstream_runtime::{
    node::{KindInfo, Looked},
    threads::now,
};
use serde::{Deserialize, Serialize};

use super::{
    answer::{busy, error, json, text},
    server::Shared,
};
use crate::view;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a task in the middle of a step is asked again before the log is read instead.
const LOOK_MAX: Duration = Duration::from_millis(50);
/// How often something is looked at again.
const AGAIN: Duration = Duration::from_millis(1);

type Node = State<Arc<Shared>>;

/// What a list is asked for.
#[derive(Default, Deserialize)]
pub struct Page {
    flow: Option<String>,
    partition: Option<u32>,
    after: Option<String>,
    from: Option<u64>,
    limit: Option<usize>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(view::LIMIT)
    }
}

/// What `kill` has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// The process's flow.
    pub flow: String,
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: String,
    /// Its partition.
    pub partition: u32,
}

/// Runs what reads the log on a thread that may wait for the disk.
async fn read<T: Send + 'static>(
    node: Arc<Shared>,
    f: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
) -> Result<T> {
    let reading = tokio::task::spawn_blocking(move || f(&node));
    match tokio::time::timeout(ANSWER_MAX, reading).await {
        Ok(Ok(result)) => result,
        _ => Err(busy("the node")),
    }
}

fn answer<T: Serialize>(result: Result<T>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(e) => error(&e),
    }
}

/// Waits until a ticket is durable.
async fn durable(node: &Shared, ticket: Ticket) -> Result<()> {
    let begun = Instant::now();
    while !node.engine().durable(ticket) {
        if begun.elapsed() > ANSWER_MAX {
            return Err(busy("the disk").help("is it full? see `millstream status`"));
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

/// Reads what is committed, and hands it out once it is durable.
async fn committed<T: Send + 'static>(
    node: Arc<Shared>,
    f: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
) -> Result<T> {
    let value = read(node.clone(), f).await?;
    durable(&node, node.engine().committed()).await?;
    Ok(value)
}

pub async fn status(State(node): Node) -> Response {
    answer(read(node, |n| n.status()).await)
}

pub async fn flows(State(node): Node) -> Response {
    answer(read(node, |n| view::flows(n.engine(), Some(&n.node))).await)
}

pub async fn streams(State(node): Node) -> Response {
    answer(read(node, |n| Ok(view::streams(n.engine()))).await)
}

pub async fn tail(
    State(node): Node,
    Path(name): Path<String>,
    Query(page): Query<Page>,
) -> Response {
    tail_of(node, name, page).await
}

pub async fn tail_in_flow(
    State(node): Node,
    Path((flow, name)): Path<(String, String)>,
    Query(page): Query<Page>,
) -> Response {
    tail_of(node, format!("{flow}/{name}"), page).await
}

async fn tail_of(node: Arc<Shared>, name: String, page: Page) -> Response {
    let rows =
        read(node, move |n| view::tail(n.engine(), &name, page.partition, page.from, page.limit()));
    let lines = rows.await.and_then(|rows| {
        let mut lines = Vec::new();
        for row in &rows {
            serde_json::to_writer(&mut lines, row).map_err(|e| Error::corrupt(e.to_string()))?;
            lines.push(b'\n');
        }
        Ok(lines)
    });
    match lines {
        Ok(lines) => text(StatusCode::OK, "application/x-ndjson", lines),
        Err(e) => error(&e),
    }
}

pub async fn dead(State(node): Node, Query(page): Query<Page>) -> Response {
    let letters =
        read(node, move |n| view::dead(n.engine(), page.flow.as_deref(), page.from, page.limit()));
    answer(letters.await)
}

pub async fn letter(State(node): Node, Path(n): Path<u64>, Query(page): Query<Page>) -> Response {
    answer(read(node, move |node| view::letter(node.engine(), page.flow.as_deref(), n)).await)
}

pub async fn supervisor(State(node): Node, Query(page): Query<Page>) -> Response {
    answer(read(node, move |n| view::supervisor(n.engine(), page.from, page.limit())).await)
}

pub async fn ledger(State(node): Node) -> Response {
    answer(committed(node, |n| Ok(view::ledger(n.engine()))).await)
}

pub async fn processes(
    State(node): Node,
    Path(kind): Path<String>,
    Query(page): Query<Page>,
) -> Response {
    let all = committed(node, move |n| {
        let limit = page.limit().min(view::LIMIT_MAX);
        view::processes(n.engine(), &kind, page.after.as_deref(), limit, &n.show)
    });
    answer(all.await)
}

pub async fn process(State(node): Node, Path((kind, key)): Path<(String, String)>) -> Response {
    answer(inspect(node, kind, key).await)
}

pub async fn process_without_text(node: Node, Path(kind): Path<String>) -> Response {
    process(node, Path((kind, String::new()))).await
}

async fn inspect(node: Arc<Shared>, kind: String, key: String) -> Result<view::ProcessView> {
    let show = node.show.clone();
    let (found, bytes) = look(node, kind, key).await?;
    found.view(&bytes, &show)
}

/// A process and its committed bytes, once they are durable.
async fn look(node: Arc<Shared>, kind: String, key: String) -> Result<(view::Found, Vec<u8>)> {
    let begun = Instant::now();
    loop {
        match find(&node, &kind, &key)? {
            Some((kind, key, bytes)) => {
                durable(&node, node.engine().committed()).await?;
                return Ok((found(&kind, &key), bytes));
            }
            // Its task is in the middle of something: the log knows, at the cost of reading it.
            None if begun.elapsed() > LOOK_MAX => {
                return committed(node, move |n| view::process_in_log(n.engine(), &kind, &key))
                    .await;
            }
            None => tokio::time::sleep(AGAIN).await,
        }
    }
}

fn found(kind: &KindInfo, key: &Key) -> view::Found {
    view::Found {
        flow: kind.flow.clone(),
        kind: kind.name.clone(),
        key: key.bytes().to_vec(),
        partition: kind.mailbox.partition_of(key.bytes()),
    }
}

/// A process and its committed bytes; `None` if its task cannot say now.
fn find(node: &Shared, kind: &str, key: &str) -> Result<Option<(KindInfo, Key, Vec<u8>)>> {
    let kinds = node.node.kinds();
    if !kinds.iter().any(|k| k.name == kind) {
        return Err(view::unknown_kind(kind, &kinds.iter().map(|k| k.name.as_str()).collect()));
    }
    let mut busy = false;
    for info in kinds.into_iter().filter(|k| k.name == kind) {
        for candidate in Key::candidates(key) {
            match node.node.look(&info, candidate.bytes()) {
                Looked::Found(bytes) => return Ok(Some((info, candidate, bytes))),
                Looked::Busy => busy = true,
                Looked::Missing => {}
            }
        }
    }
    if busy { Ok(None) } else { Err(view::unknown_key(kind, key)) }
}

pub async fn kill(State(node): Node, Path((kind, key)): Path<(String, String)>) -> Response {
    answer(end(node, kind, key).await)
}

pub async fn kill_without_text(node: Node, Path(kind): Path<String>) -> Response {
    kill(node, Path((kind, String::new()))).await
}

/// Ends a process, durably.
async fn end(node: Arc<Shared>, kind: String, key: String) -> Result<Killed> {
    let process = look(node.clone(), kind, key).await?.0;
    let kinds = node.node.kinds();
    let info = kinds.into_iter().find(|k| k.name == process.kind && k.flow == process.flow);
    let shown = display(&process.key);
    let info = info.ok_or_else(|| view::unknown_key(&process.kind, &shown))?;
    durable(&node, node.node.kill(&info, &process.key)?).await?;
    node.node.note_kill(&info, &process.key, now());
    Ok(Killed { flow: process.flow, kind: process.kind, key: shown, partition: process.partition })
}

pub async fn cluster(State(node): Node) -> Response {
    answer(read(node, |n| view::cluster(n.engine())).await)
}

/// Who is meant to leave.
#[derive(Default, Deserialize)]
pub struct Leaver {
    node: Option<String>,
}

pub async fn drain(State(node): Node, Query(leaver): Query<Leaver>) -> Response {
    answer(read(node, move |n| leave(n, leaver.node.as_deref())).await)
}

/// Lets this node hand its tasks over; the cluster as it was then.
fn leave(node: &Shared, name: Option<&str>) -> Result<ClusterView> {
    let cluster = view::cluster(node.engine())?;
    if let Some(name) = name.filter(|name| *name != cluster.node) {
        let (app, own) = (&cluster.app, &cluster.node);
        let message = format!("here is node `{own}` of application {app}, and not `{name}`");
        return Err(Error::new(Code::Conflict, message).help("ask again in a moment"));
    }
    node.engine().leave()?;
    Ok(cluster)
}

pub async fn health(State(node): Node) -> Response {
    let (status, word) = match node.node.worn_out().is_some() {
        false => (StatusCode::OK, "ok\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "worn out: restart the node\n"),
    };
    text(status, "text/plain", word)
}

pub async fn metrics(State(node): Node) -> Response {
    match read(node, |n| n.status()).await {
        Ok(status) => text(StatusCode::OK, "text/plain; version=0.0.4", prometheus(&status)),
        Err(e) => error(&e),
    }
}

/// The figures that a dashboard needs, in Prometheus's text format.
fn prometheus(status: &view::Status) -> String {
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, values: Vec<(String, u64)>| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# TYPE millstream_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "millstream_{name}{labels} {value}");
        }
    };
    let one = |value| vec![(String::new(), value)];
    let engine = &status.engine;
    put("uptime_milliseconds", "gauge", one(status.uptime_ms));
    put("turns_total", "counter", one(engine.turns));
    put("fsyncs_total", "counter", one(engine.fsyncs));
    put("written_bytes_total", "counter", one(engine.bytes_written));
    put("stored_bytes", "gauge", one(engine.bytes_stored));
    let flows = |value: fn(&view::FlowView) -> u64| {
        let line = |f: &view::FlowView| (format!("{{flow=\"{}\"}}", f.name), value(f));
        status.flows.iter().map(line).collect::<Vec<_>>()
    };
    put("flow_running", "gauge", flows(|f| u64::from(f.state == "running")));
    put("source_records_total", "counter", flows(|f| f.records));
    put("source_rows_total", "counter", flows(|f| f.rows));
    put("dead_letters_total", "counter", flows(|f| f.dead));
    put("process_restarts_total", "counter", flows(|f| f.restarts));
    put("live_keys", "gauge", flows(view::FlowView::keys));
    put("backlog_rows", "gauge", flows(|f| f.backlog_rows));
    put("tasks_reopened_total", "counter", {
        flows(|f| f.stages.iter().map(|s| s.reopened).sum())
    });
    out
}
