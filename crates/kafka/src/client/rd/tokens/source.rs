//! Where tokens come from: a file that something else keeps fresh, or an endpoint that gives one
//! for a client's id and secret (OAuth 2.0, RFC 6749 section 4.4).
//!
//! A token is a JSON web token, of which only the time of expiry is looked at; whether it is good
//! is the brokers' business.
//!
//! *Limits:* [`ANSWER_MAX`], [`ANSWER_BYTES_MAX`].

#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use millstream_core::{Code, Error, Result, Time};
use serde::Deserialize;
use ureq::{
    http::StatusCode,
    tls::{PemItem, RootCerts, TlsConfig, TlsProvider},
};

use crate::options::{FILE, token as options};

/// How long an endpoint may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Of each of the endpoint's own words for a refusal as many characters are told.
const WORDS_MAX: usize = 200;
/// No token lives longer, in ms since the Unix epoch: librdkafka counts in microseconds.
const EXPIRES_MS_MAX: f64 = 9e15;

/// Where tokens come from, and what goes with each.
pub(in super::super) struct Source {
    origin: Origin,
    extensions: Vec<(String, String)>,
}

enum Origin {
    Held(Held),
    Endpoint(Endpoint),
}

/// A secret that is here, or in a file which is read each time that it is needed.
enum Held {
    Text(String),
    File(PathBuf),
}

struct Endpoint {
    url: String,
    id: String,
    secret: Held,
    scope: Option<String>,
    agent: ureq::Agent,
}

/// What shows the brokers who we are.
pub(in super::super) struct Token {
    pub text: String,
    pub expires: Time,
    /// Whose it is, for librdkafka's log.
    pub name: String,
    pub extensions: Vec<(String, String)>,
    /// "the token in ...", for messages.
    pub origin: String,
}

/// What is read of a token.
#[derive(Deserialize)]
struct Claims {
    /// Seconds since the Unix epoch.
    exp: f64,
    #[serde(default)]
    sub: String,
}

/// What an endpoint answers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    access_token: Option<String>,
    error: String,
    error_description: String,
}

impl Source {
    /// Takes what the options say about tokens out of `given`, which is librdkafka's; `None` if the
    /// brokers want none.
    ///
    /// # Errors
    /// If a certificate cannot be read, or if what [`crate::Options`] checks does not hold.
    pub fn take(given: &mut Vec<(String, String)>) -> Result<Option<Source>> {
        let wanted = |(name, value): &(String, String)| {
            name == options::MECHANISM && value == options::OAUTHBEARER
        };
        if !given.iter().any(wanted) {
            return Ok(None);
        }
        let ours = |(name, _): &mut (String, String)| options::is_about_tokens(name);
        let taken: Vec<_> = given.extract_if(.., ours).collect();
        let text = |name: &str| taken.iter().find(|(of, _)| of == name).map(|(_, text)| &**text);
        let held = |name: &str| {
            let file = text(&format!("{name}{FILE}"));
            file.map(|path| Held::File(path.into())).or(text(name).map(|t| Held::Text(t.into())))
        };
        let missing = |name: &str| Error::new(Code::Input, format!("the option {name} is missing"));
        let url = || text(options::ENDPOINT).ok_or_else(|| missing(options::ENDPOINT));
        let origin = match held(options::TOKEN) {
            Some(token) => Origin::Held(token),
            None => Origin::Endpoint(Endpoint {
                url: url()?.into(),
                id: text(options::CLIENT_ID).ok_or_else(|| missing(options::CLIENT_ID))?.into(),
                secret: held(options::CLIENT_SECRET)
                    .ok_or_else(|| missing(options::CLIENT_SECRET))?,
                scope: text(options::SCOPE).map(Into::into),
                agent: agent(url()?, roots(text(options::CA_LOCATION), text(options::CA_PEM))?),
            }),
        };
        let pairs = text(options::EXTENSIONS).unwrap_or_default().split(',');
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        let extensions = pairs.map(|(key, value)| (key.trim().into(), value.trim().into()));
        Ok(Some(Source { origin, extensions: extensions.collect() }))
    }

    /// Whether somebody else is asked for each token, and not more often than must be.
    pub fn is_asked(&self) -> bool {
        matches!(self.origin, Origin::Endpoint(_))
    }

    /// The newest token, which may have expired.
    ///
    /// # Errors
    /// If there is none.
    pub fn fetch(&self) -> Result<Token> {
        let (text, origin) = match &self.origin {
            Origin::Held(held) => (held.read(options::TOKEN)?, held.origin()),
            Origin::Endpoint(endpoint) => {
                (endpoint.ask()?, format!("the token from {}", endpoint.url))
            }
        };
        Token::new(&text, origin, &self.extensions)
    }
}

impl Held {
    fn read(&self, name: &str) -> Result<String> {
        match self {
            Held::Text(text) => Ok(text.clone()),
            Held::File(path) => {
                let place = format!("kafka: {name}, in {}", path.display());
                let text = std::fs::read_to_string(path).map_err(|e| Error::io(place, &e))?;
                Ok(text.trim_end_matches(['\r', '\n']).to_string())
            }
        }
    }

    fn origin(&self) -> String {
        match self {
            Held::Text(_) => format!("the token of {}", options::TOKEN),
            Held::File(path) => format!("the token in {}", path.display()),
        }
    }
}

impl Endpoint {
    /// Asks for a token.
    fn ask(&self) -> Result<String> {
        let secret = self.secret.read(options::CLIENT_SECRET)?;
        let login = encode(format!("{}:{secret}", self.id).as_bytes());
        let scope = self.scope.iter().map(|scope| ("scope", scope.as_str()));
        let answer = self
            .agent
            .post(&self.url)
            .header("authorization", format!("Basic {login}"))
            .header("accept", "application/json")
            .send_form([("grant_type", "client_credentials")].into_iter().chain(scope));
        let mut answer = answer.map_err(|e| self.silent(&e))?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let body = body.map_err(|e| self.silent(&e))?;
        let answer: Answer = serde_json::from_str(&body).unwrap_or_default();
        match answer.access_token.filter(|_| status.is_success()) {
            Some(token) => Ok(token),
            None if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                let mut message = format!("kafka: {} gives no token: {status}", self.url);
                for words in [answer.error, answer.error_description] {
                    if !words.is_empty() {
                        message.push_str(", ");
                        message.extend(words.chars().take(WORDS_MAX));
                    }
                }
                Err(Error::new(Code::Permission, message).help(format!(
                    "check `{}`, `{}` and `{}`",
                    options::CLIENT_ID,
                    options::CLIENT_SECRET,
                    options::SCOPE
                )))
            }
            None => Err(self.silent(&format!("its answer, {status}, has no access_token"))),
        }
    }

    fn silent(&self, why: &dyn std::fmt::Display) -> Error {
        let message = format!("kafka: no token from {}: {why}", self.url);
        Error::new(Code::Unreachable, message).help(format!(
            "check `{}`, and `{}` if it has a certificate of your own",
            options::ENDPOINT,
            options::CA_LOCATION
        ))
    }
}

impl Token {
    fn new(text: &str, origin: String, extensions: &[(String, String)]) -> Result<Token> {
        let no = |what: &str| {
            let message = format!("kafka: {origin} {what}");
            Error::new(Code::Permission, message)
                .help("it must be a JSON web token: three parts with dots between them")
        };
        let parts: Vec<&str> = text.split('.').collect();
        let decoded: Option<Vec<Vec<u8>>> = parts.iter().map(|part| decode(part)).collect();
        let [_, claims, _] = &decoded.unwrap_or_default()[..] else {
            return Err(no("is no JSON web token"));
        };
        // What is wrong with it in detail is not told: it would cite the token.
        let claims: Claims =
            serde_json::from_slice(claims).map_err(|_| no("does not say when it expires (exp)"))?;
        Ok(Token {
            text: text.into(),
            expires: Time::from_ms((claims.exp * 1000.0).clamp(0.0, EXPIRES_MS_MAX) as i64),
            name: claims.sub,
            extensions: extensions.to_vec(),
            origin,
        })
    }
}

/// Certificates that vouch for an endpoint; the system's own if none are named.
fn roots(location: Option<&str>, pem: Option<&str>) -> Result<RootCerts> {
    let (place, text) = match (location, pem) {
        (Some(path), _) => {
            let place = format!("{}, {path}", options::CA_LOCATION);
            let text = std::fs::read(path).map_err(|e| Error::io(&place, &e))?;
            (place, text)
        }
        (None, Some(text)) => (options::CA_PEM.to_string(), text.as_bytes().to_vec()),
        (None, None) => return Ok(RootCerts::PlatformVerifier),
    };
    let certificates: Vec<_> = ureq::tls::parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(Error::new(Code::Input, format!("{place}: there is no certificate in it"))
            .help("it must be a file of certificates, PEM"));
    }
    Ok(certificates.into())
}

/// Who asks the endpoint at `url`.
fn agent(url: &str, roots: RootCerts) -> ureq::Agent {
    let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(roots).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        // The secret is for the one that was named.
        .max_redirects(0)
        .timeout_global(Some(ANSWER_MAX));
    // Nor does it leave this machine in the clear: the environment's proxy may be elsewhere.
    let config = if url.starts_with(options::IN_CLEAR) { config.proxy(None) } else { config };
    config.build().into()
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64, as a header of HTTP has it.
fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        for n in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * n) & 63) as usize];
            out.push(if n <= chunk.len() { digit.into() } else { '=' });
        }
    }
    out
}

/// Base64, as a part of a token has it.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut held) = (0, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let plain = match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        };
        bits = bits << 6 | DIGITS.iter().position(|digit| *digit == plain)? as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}
