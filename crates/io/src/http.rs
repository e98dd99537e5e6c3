//! The node's HTTP server: records come in, and people and programs ask how things are.
//!
//! *Routes.* Ingest: `POST /v1/streams/{name}/records` (see [`HttpSource`]). Control, all JSON:
//! `GET /v1/status`, `/v1/flows`, `/v1/streams`, `/v1/streams/{name}/tail?partition=&from=&limit=`
//! (JSON lines), `/v1/processes/{kind}?after=&limit=`, `/v1/processes/{kind}/{key}`,
//! `POST /v1/processes/{kind}/{key}/kill`, `/v1/dead?flow=&from=&limit=`, `/v1/dead/{n}?flow=`,
//! `/v1/ledger`, `/v1/supervisor?from=&limit=`, `/v1/cluster`, `POST /v1/cluster/drain?node=`,
//! `/metrics` (Prometheus text), `/health`.
//!
//! *Errors* are JSON too: `{"code":"M0011","reason":"..","help":[".."]}`.
//!
//! *Invariants*
//! - It answers while every worker is stuck: it has a thread of its own and never waits for a
//!   task. What cannot be told in time is answered with 503 and "busy".
//! - State and ledger leave the node only once what they show is durable. `status` and `metrics`
//!   do not wait: they must answer when the disk is full.
//! - Payloads are never logged.
//!
//! *Failure:* the server holds nothing that must survive. A request whose answer was lost is sent
//! again; with `Producer-Id` and `Producer-Sequence` it is taken once all the same.
//!
//! *Who may ask:* it listens on 127.0.0.1 unless told otherwise, asks for no password and speaks no
//! TLS; in front of a network put a proxy that does. Web pages cannot use a local node: requests
//! that change something are refused if they carry an `Origin`, and while it listens on a loopback
//! address every request must name a loopback host.
//!
//! *Limits:* bodies of 16 MiB, compressed or not; 256 MiB of bodies being read; 10 s for an answer
//! of the control API, 30 s for an ingested request to become durable.

mod answer;
mod client;
mod control;
mod ingest;
mod server;

pub use answer::ErrorBody;
pub use client::{Client, escape};
pub use control::Killed;
pub use ingest::{Accepted, BODY_BYTES_MAX, HttpSource};
pub use server::{DEFAULT_ADDRESS, Listener, Server, Setup};
