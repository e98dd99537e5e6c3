//! What a question is put to: a node that runs, or the directory of one that does not.

mod drain;

use std::{path::Path, sync::Arc};

use millstream_core::{
    Code, Error, Result,
    engine::{ClusterView, Engine, alone},
};
use millstream_io::{
    http::{Client, DEFAULT_ADDRESS, Killed, escape},
    view::{
        self, LedgerView, LetterView, ProcessView, ReportView, ShowState, Status, StreamView,
        TailRow,
    },
};
use millstream_runtime::embedded::{self, EmbeddedEngine};

pub use self::drain::Drained;
use crate::inspect::process_state;

/// Where a node keeps its data unless told otherwise.
pub const DEFAULT_DATA: &str = "./millstream-data";

/// Answers questions about a node, whether it runs or not.
pub enum Target {
    /// It runs: its HTTP server is asked.
    Node(Client),
    /// It does not: its directory is read. Nothing is written.
    Directory(Arc<EmbeddedEngine>),
}

/// How the states of processes are shown.
pub(crate) fn show() -> ShowState {
    Arc::new(|bytes| {
        let state = process_state(bytes)?;
        serde_json::to_value(state).map_err(|e| Error::corrupt(e.to_string()))
    })
}

impl Target {
    /// The node at `node`; without that the one that holds `data`, or else `data` itself; without
    /// both the default directory, or the default address.
    ///
    /// # Errors
    /// [`Code::Unknown`] if there is nothing to be asked, [`Code::Unreachable`] if a node has the
    /// directory and does not listen; else as [`embedded::open_read_only`].
    pub fn find(node: Option<&str>, data: Option<&Path>) -> Result<Target> {
        if let Some(node) = node {
            return Ok(Target::Node(Client::new(node)));
        }
        let dir = data.unwrap_or(Path::new(DEFAULT_DATA));
        match embedded::dir_holder(dir) {
            Some((_, Some(http))) => return Ok(Target::Node(Client::new(&http))),
            Some((pid, None)) => return Err(silent(dir, pid)),
            None => {}
        }
        match embedded::open_read_only(dir, embedded::Options::default()) {
            Ok(engine) => Ok(Target::Directory(engine)),
            Err(e) if matches!(e.code(), Code::Unknown | Code::Permission) && data.is_none() => {
                let client = Client::new(DEFAULT_ADDRESS);
                match client.get::<Status>("/v1/status") {
                    Ok(_) => Ok(Target::Node(client)),
                    Err(_) if e.code() == Code::Permission => Err(e),
                    Err(_) => Err(Error::new(
                        Code::Unreachable,
                        format!(
                            "no node answers at {DEFAULT_ADDRESS}, and {DEFAULT_DATA} holds no data"
                        ),
                    )
                    .help("name a node: --node HOST:PORT, or a directory: --data DIR")
                    .help("to see one at work: `millstream demo`")),
                }
            }
            Err(e) => Err(e),
        }
    }

    /// How node and flows are.
    ///
    /// # Errors
    /// If the node does not answer, or the directory cannot be read; so for all questions.
    pub fn status(&self) -> Result<Status> {
        match self {
            Target::Node(client) => client.get("/v1/status"),
            Target::Directory(engine) => view::status(engine.as_ref(), None),
        }
    }

    /// The streams by name.
    ///
    /// # Errors
    /// As [`Target::status`].
    pub fn streams(&self) -> Result<Vec<StreamView>> {
        match self {
            Target::Node(client) => client.get("/v1/streams"),
            Target::Directory(engine) => Ok(view::streams(engine.as_ref())),
        }
    }

    /// Rows of a stream; see [`view::tail`].
    ///
    /// # Errors
    /// As [`Target::status`], and if there is no such stream.
    pub fn tail(
        &self,
        name: &str,
        partition: Option<u32>,
        from: Option<u64>,
        limit: usize,
    ) -> Result<Vec<TailRow>> {
        match self {
            Target::Node(client) => {
                let query = query(&[
                    ("partition", partition.map(u64::from)),
                    ("from", from),
                    ("limit", Some(limit as u64)),
                ]);
                client.lines(&format!("/v1/streams/{}/tail{query}", escape(name)))
            }
            Target::Directory(engine) => view::tail(engine.as_ref(), name, partition, from, limit),
        }
    }

    /// A process, as last committed.
    ///
    /// # Errors
    /// As [`Target::status`], and if there is no such process.
    pub fn process(&self, kind: &str, key: &str) -> Result<ProcessView> {
        match self {
            Target::Node(client) => {
                client.get(&format!("/v1/processes/{}/{}", escape(kind), escape(key)))
            }
            Target::Directory(engine) => view::find_process(engine.as_ref(), kind, key, &show()),
        }
    }

    /// All processes of a kind, in the order of their keys.
    ///
    /// # Errors
    /// As [`Target::process`].
    pub fn processes(&self, kind: &str) -> Result<Vec<ProcessView>> {
        match self {
            Target::Node(client) => {
                let mut all: Vec<ProcessView> = Vec::new();
                loop {
                    let after = match all.last() {
                        Some(last) => format!("&after={}", escape(&last.key)),
                        None => String::new(),
                    };
                    let limit = view::LIMIT_MAX;
                    let path = format!("/v1/processes/{}?limit={limit}{after}", escape(kind));
                    let page: Vec<ProcessView> = client.get(&path)?;
                    if page.is_empty() {
                        return Ok(all);
                    }
                    all.extend(page);
                }
            }
            Target::Directory(engine) => {
                view::processes(engine.as_ref(), kind, None, usize::MAX, &show())
            }
        }
    }

    /// Ends a process, as Erlang's `exit(Pid, kill)` would; it goes on from its last committed
    /// state with its next event. Returns once that is durable.
    ///
    /// # Errors
    /// As [`Target::process`]; [`Code::Unreachable`] if no node runs.
    pub fn kill(&self, kind: &str, key: &str) -> Result<Killed> {
        match self {
            Target::Node(client) => {
                client.post(&format!("/v1/processes/{}/{}/kill", escape(kind), escape(key)))
            }
            Target::Directory(_) => Err(Error::new(
                Code::Unreachable,
                "no node runs here: there is no process that could be killed",
            )
            .help("its state, at rest: `millstream inspect KIND KEY`")
            .help("name a node that runs: --node HOST:PORT")),
        }
    }

    /// Dead letters of a flow or of all, from a number or the last ones.
    ///
    /// # Errors
    /// As [`Target::status`], and if there is no such flow.
    pub fn dead(
        &self,
        flow: Option<&str>,
        from: Option<u64>,
        limit: usize,
    ) -> Result<Vec<LetterView>> {
        match self {
            Target::Node(client) => {
                let query = query(&[("from", from), ("limit", Some(limit as u64))]);
                client.get(&format!("/v1/dead{query}{}", flow_query(flow, '&')))
            }
            Target::Directory(engine) => view::dead(engine.as_ref(), flow, from, limit),
        }
    }

    /// One dead letter, with all that is known of it.
    ///
    /// # Errors
    /// As [`Target::dead`], and if there is no such letter.
    pub fn letter(&self, flow: Option<&str>, n: u64) -> Result<LetterView> {
        match self {
            Target::Node(client) => client.get(&format!("/v1/dead/{n}{}", flow_query(flow, '?'))),
            Target::Directory(engine) => view::letter(engine.as_ref(), flow, n),
        }
    }

    /// What supervisors decided, from a number or the last ones.
    ///
    /// # Errors
    /// As [`Target::status`].
    pub fn supervisor(&self, from: Option<u64>, limit: usize) -> Result<Vec<ReportView>> {
        match self {
            Target::Node(client) => {
                let query = query(&[("from", from), ("limit", Some(limit as u64))]);
                client.get(&format!("/v1/supervisor{query}"))
            }
            Target::Directory(engine) => view::supervisor(engine.as_ref(), from, limit),
        }
    }

    /// The nodes that share the application's tasks, as the one that is asked knows them.
    ///
    /// # Errors
    /// As [`Target::status`]; [`Code::Plan`] if it is not one of many.
    pub fn cluster(&self) -> Result<ClusterView> {
        match self {
            Target::Node(client) => client.get("/v1/cluster"),
            Target::Directory(_) => Err(alone()),
        }
    }

    /// Lets the node of that name hand its tasks over to the others, and end. Returns once others
    /// run them all.
    ///
    /// # Errors
    /// As [`Target::cluster`]; [`Code::Unknown`] if there is no such node, [`Code::Conflict`] if
    /// there is no other, [`Code::Unreachable`] if one that is needed does not answer.
    pub fn drain(&self, node: &str) -> Result<Drained> {
        match self {
            Target::Node(client) => drain::drain(client, node),
            Target::Directory(_) => Err(alone()),
        }
    }

    /// Whether every row is accounted for.
    ///
    /// # Errors
    /// As [`Target::status`].
    pub fn ledger(&self) -> Result<LedgerView> {
        match self {
            Target::Node(client) => client.get("/v1/ledger"),
            Target::Directory(engine) => Ok(view::ledger(engine.as_ref() as &dyn Engine)),
        }
    }
}

/// A node that runs cannot be told from outside: its directory says what was, not what is.
fn silent(dir: &Path, pid: u32) -> Error {
    let dir = dir.display();
    let message = format!("a node (pid {pid}) has {dir}, and does not listen: it cannot be asked");
    Error::new(Code::Unreachable, message)
        .help("let it listen: Node::embedded(..).http(\"127.0.0.1:7070\")")
        .help("or ask again: in a moment if it is just starting, or when it has stopped")
}

fn query(parts: &[(&str, Option<u64>)]) -> String {
    let parts = parts.iter().filter_map(|(name, value)| Some(format!("{name}={}", (*value)?)));
    format!("?{}", parts.collect::<Vec<_>>().join("&"))
}

fn flow_query(flow: Option<&str>, before: char) -> String {
    flow.map_or(String::new(), |flow| format!("{before}flow={}", escape(flow)))
}
