//! Asks a node.

use std::time::Duration;

use millstream_core::{Code, Error, Result};
use serde::de::DeserializeOwned;

use super::answer::ErrorBody;

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// A node's control API, from outside.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    agent: ureq::Agent,
}

impl Client {
    /// The node at `address`, with or without `http://`.
    pub fn new(address: &str) -> Client {
        let address = address.trim_start_matches("http://").trim_end_matches('/');
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(2)))
            .timeout_global(Some(ANSWER_MAX))
            // A node is asked directly, whatever proxy the environment names for the web.
            .proxy(None)
            .build();
        Client { base: format!("http://{address}"), agent: config.into() }
    }

    /// Where it asks.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// Asks for a value.
    ///
    /// # Errors
    /// [`Code::Unreachable`] if nobody answers; else what the node says.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.agent.get(format!("{}{path}", self.base)).call();
        self.parse(&self.body(answer)?)
    }

    /// Asks for a value on each line.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn lines<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let answer = self.agent.get(format!("{}{path}", self.base)).call();
        self.body(answer)?.lines().map(|line| self.parse(line)).collect()
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.agent.post(format!("{}{path}", self.base)).send_empty();
        self.parse(&self.body(answer)?)
    }

    fn body(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<String> {
        let mut answer = answer.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let body = body.map_err(|e| self.unreachable(&e))?;
        match (status.is_success(), serde_json::from_str::<ErrorBody>(&body)) {
            (true, _) => Ok(body),
            (false, Ok(error)) => Err(error.into()),
            (false, Err(_)) => Err(self.no_node(&format!("status {status}"))),
        }
    }

    fn parse<T: DeserializeOwned>(&self, body: &str) -> Result<T> {
        serde_json::from_str(body).map_err(|e| self.no_node(&e.to_string()))
    }

    fn unreachable(&self, e: &ureq::Error) -> Error {
        Error::new(Code::Unreachable, format!("no node answers at {}: {e}", self.address()))
            .help("is it running? name another: --node HOST:PORT")
            .help("or read its directory while it is stopped: --data DIR")
    }

    fn no_node(&self, what: &str) -> Error {
        let address = self.address();
        let message = format!("what answers at {address} is no node of this version: {what}");
        Error::new(Code::Unreachable, message).help("name another: --node HOST:PORT")
    }
}

/// Makes a name fit for a path or a query.
pub fn escape(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    name.bytes().map(one).collect()
}
