//! How to reach a cluster: `kafka://host:port,host:port`, and what it wants to know of us.
//!
//! *Names* are librdkafka's, which are mostly Kafka's own: `security.protocol`, `sasl.mechanism`,
//! `sasl.username`, `ssl.ca.location`. They come, a later one replacing an earlier one, from
//! - a file of `name=value` lines, named by `MILLSTREAM_KAFKA_CONFIG` or by `config` in the URL,
//! - the environment: `MILLSTREAM_KAFKA_SASL_USERNAME` is `sasl.username`,
//! - the URL's query: `kafka://b:9093?security.protocol=SSL&ssl.ca.location=ca.pem`.
//!
//! *Secrets* (passwords, keys, tokens, client secrets) stand in a file or in the environment, never
//! in a URL, which shows in lists of processes. Of every name there is a variant `NAME.file`: the
//! value is what that file holds, read anew at each connection, so that it can be rotated; a token,
//! and what one is fetched with, each time that a new token is due.
//!
//! *Invariants*
//! - No secret is in what `Debug`, `Display` or an error shows.
//! - What would break a guarantee (acknowledgements, idempotence, isolation) cannot be set.

mod known;
pub(crate) mod token;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use millstream_core::{Code, Error, Result};

/// The scheme of URLs that name a cluster.
pub const SCHEME: &str = "kafka://";
/// How variables of the environment begin that are options.
pub const ENVIRONMENT: &str = "MILLSTREAM_KAFKA_";
/// The option that names a file of more options.
const CONFIG: &str = "config";
/// The ending of an option whose value is in a file.
pub(crate) const FILE: &str = ".file";

/// How to reach a cluster. See the [module](self).
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    brokers: String,
    values: BTreeMap<String, Value>,
}

#[derive(Clone, PartialEq, Eq)]
enum Value {
    Plain(String),
    Secret(String),
    File(PathBuf),
}

impl Options {
    /// Brokers `host:port,host:port`, without any security.
    ///
    /// # Errors
    /// [`Code::Input`] if that is not how brokers are named.
    pub fn new(brokers: &str) -> Result<Options> {
        for broker in brokers.split(',') {
            let (host, port) = broker.rsplit_once(':').unwrap_or((broker, "9092"));
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let host_fine = match bare {
                Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
                None => !host.is_empty() && host.chars().all(fine),
            };
            if !host_fine || port.parse::<u16>().map_or(true, |port| port == 0) {
                // A part that might be a password is not shown.
                let shown = if broker.contains('@') { "the address" } else { broker };
                let message = format!("{shown} does not name a broker");
                return Err(Error::new(Code::Input, message)
                    .help("name brokers as kafka://host:port,host:port"));
            }
        }
        Ok(Options { brokers: brokers.into(), values: BTreeMap::new() })
    }

    /// What a URL says, with the environment's options and those of a file that either names.
    ///
    /// # Errors
    /// [`Code::Input`] if the URL or an option is wrong, [`Code::Io`] and the like if a file cannot
    /// be read.
    pub fn from_env(url: &str) -> Result<Options> {
        Options::parse(
            url,
            std::env::vars_os().filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.into_string().ok()?))
            }),
        )
    }

    /// As [`Options::from_env`], with another environment.
    ///
    /// # Errors
    /// As [`Options::from_env`].
    pub fn parse(
        url: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Options> {
        let Some(rest) = url.strip_prefix(SCHEME) else {
            return Err(Error::new(Code::Input, "the address of a cluster begins with kafka://")
                .help("for example kafka://localhost:9092"));
        };
        let (brokers, query) = rest.split_once('?').unwrap_or((rest, ""));
        let brokers = brokers.strip_suffix('/').unwrap_or(brokers);
        let mut options = Options::new(brokers)?;
        let (mut in_url, mut in_environment) = (Vec::new(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = unescape(name)?;
            if known::is_secret(&name) {
                return Err(secret_in_url(&name));
            }
            in_url.push((name, unescape(value)?));
        }
        for (name, value) in environment {
            if let Some(name) = name.strip_prefix(ENVIRONMENT) {
                in_environment.push((name.to_lowercase().replace('_', "."), value));
            }
        }
        let named = in_url.iter().chain(&in_environment).find(|(name, _)| name == CONFIG);
        if let Some((_, path)) = named {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
            options = options.with_file(path, &text)?;
        }
        for (name, value) in in_environment.into_iter().chain(in_url) {
            if name != CONFIG {
                options = options.with(&name, &value)?;
            }
        }
        Ok(options)
    }

    /// Takes lines `name=value`; those that begin with `#` are none.
    fn with_file(mut self, path: &str, text: &str) -> Result<Options> {
        for (n, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                // The line is not shown: it may be a secret.
                let message = format!("{path}: line {n} is not name=value");
                return Err(Error::new(Code::Input, message).help("one option per line"));
            };
            let place = format!("{path}: line {n}");
            self = self.with(name.trim(), value.trim()).map_err(|e| e.at(place))?;
        }
        Ok(self)
    }

    /// Sets an option.
    ///
    /// # Errors
    /// [`Code::Input`] if it is one that must stay as it is, naming why.
    pub fn with(mut self, name: &str, value: &str) -> Result<Options> {
        let file = name.strip_suffix(FILE);
        let base = known::name(file.unwrap_or(name));
        if let Some(why) = known::refused(base) {
            return Err(Error::new(Code::Input, format!("the option {base} cannot be set: {why}"))
                .help("leave it out"));
        }
        let (name, value) = match (file, token::file(name, value)) {
            (_, Some(path)) => (token::TOKEN, Value::File(path.into())),
            (Some(_), None) => (base, Value::File(value.into())),
            (None, None) if known::is_secret(base) => (base, Value::Secret(value.into())),
            (None, None) => (base, Value::Plain(value.into())),
        };
        self.values.insert(name.to_string(), value);
        Ok(self)
    }

    /// The brokers, `host:port,host:port`.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Everything as librdkafka's settings. Files of secrets are read now; those of tokens are only
    /// tried, and named: their fetcher reads them.
    ///
    /// # Errors
    /// [`Code::Input`] if options do not go together; as [`Error::io`] if a file cannot be read.
    pub fn properties(&self) -> Result<Vec<(String, String)>> {
        let mut found = vec![("bootstrap.servers".to_string(), self.brokers.clone())];
        let tokens = self.text(token::MECHANISM) == Some(token::OAUTHBEARER);
        for (name, value) in &self.values {
            let value = match value {
                Value::Plain(text) | Value::Secret(text) => text.clone(),
                Value::File(path) => {
                    let place = format!("{name}, in {}", path.display());
                    let text = std::fs::read_to_string(path).map_err(|e| Error::io(place, &e))?;
                    if tokens && token::is_read_anew(name) {
                        found.push((format!("{name}{FILE}"), path.display().to_string()));
                        continue;
                    }
                    text.trim_end_matches(['\r', '\n']).to_string()
                }
            };
            if name.ends_with(".location")
                && (name.starts_with("ssl.") || name.starts_with("https."))
            {
                let place = format!("{name}, {value}");
                std::fs::metadata(&value).map_err(|e| Error::io(place, &e))?;
            }
            found.push((name.clone(), value));
        }
        let protocol = self.protocol()?;
        found.retain(|(name, _)| name != known::PROTOCOL);
        found.push((known::PROTOCOL.into(), protocol.into()));
        Ok(found)
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name)? {
            Value::Plain(text) => Some(text),
            _ => None,
        }
    }

    /// The security protocol: what was said, or what the other options ask for. That they go
    /// together is checked on the way.
    fn protocol(&self) -> Result<&'static str> {
        let has = |begin: &str| self.values.keys().any(|name| name.starts_with(begin));
        let said = match self.text(known::PROTOCOL) {
            None => None,
            Some(said) => {
                let all = known::PROTOCOLS.iter().find(|p| p.eq_ignore_ascii_case(said));
                Some(*all.ok_or_else(|| one_of(known::PROTOCOL, said, &known::PROTOCOLS))?)
            }
        };
        let protocol = said.unwrap_or(match (has("sasl."), has("ssl.")) {
            (true, _) => "SASL_SSL",
            (false, true) => "SSL",
            (false, false) => "PLAINTEXT",
        });
        if !protocol.starts_with("SASL") {
            return match has("sasl.") {
                true => Err(does_not_fit("sasl options", protocol, "SASL_SSL")),
                false if protocol == "PLAINTEXT" && has("ssl.") => {
                    Err(does_not_fit("ssl options", protocol, "SSL"))
                }
                false => Ok(protocol),
            };
        }
        let mechanism = self.text(token::MECHANISM).unwrap_or_default();
        let needed: &[&str] = match mechanism {
            "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => &["sasl.username", "sasl.password"],
            token::OAUTHBEARER => token::needed(self)?,
            other => return Err(one_of(token::MECHANISM, other, &known::MECHANISMS)),
        };
        match needed.iter().find(|name| !self.values.contains_key(**name)) {
            None => Ok(protocol),
            Some(missing) => {
                let message = format!("sasl.mechanism {mechanism} needs the option {missing}");
                let error = Error::new(Code::Input, message);
                Err(match known::is_secret(missing) {
                    true => error.help(format!(
                        "put it into a file, {missing}{FILE}=PATH, or into {}",
                        variable(missing)
                    )),
                    false => error.help(format!("set {missing}, or {}", variable(missing))),
                })
            }
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.brokers)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Options");
        out.field("brokers", &self.brokers);
        for (name, value) in &self.values {
            match value {
                Value::Plain(text) => out.field(name, text),
                Value::Secret(_) => out.field(name, &"(secret)"),
                Value::File(path) => out.field(name, path),
            };
        }
        out.finish()
    }
}

/// The variable that sets an option.
fn variable(name: &str) -> String {
    format!("{ENVIRONMENT}{}", name.to_uppercase().replace('.', "_"))
}

fn secret_in_url(name: &str) -> Error {
    let message = format!("{name} is a secret, and a URL shows in lists of processes and in logs");
    let base = name.strip_suffix(FILE).unwrap_or(name);
    Error::new(Code::Input, message)
        .help(format!("put it into a file: {base}{FILE}=PATH; or into {}", variable(base)))
}

fn one_of(name: &str, said: &str, possible: &[&str]) -> Error {
    let message = match said {
        "" => format!("the option {name} is missing"),
        said => format!("{name} is {said}, which is not known here"),
    };
    Error::new(Code::Input, message).help(format!("possible: {}", possible.join(", ")))
}

fn does_not_fit(what: &str, protocol: &str, better: &str) -> Error {
    let message = format!("there are {what}, but {} is {protocol}", known::PROTOCOL);
    Error::new(Code::Input, message)
        .help(format!("set {}={better}, or leave it out", known::PROTOCOL))
}

/// `%41` is `A`.
fn unescape(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let wrong = || Error::new(Code::Input, "the address has a % that no two hex digits follow");
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || (bytes.next()? as char).to_digit(16);
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                out.push((high << 4 | low) as u8);
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|_| Error::new(Code::Input, "the address is not UTF-8"))
}
