//! Options that say where tokens come from, for brokers that want OAUTHBEARER.
//!
//! librdkafka has most of the names, but not the means that we build it with: tokens are fetched by
//! the client of real brokers, which keeps these options to itself.

use std::net::IpAddr;

use millstream_core::{Code, Error, Result};

use super::{FILE, Options, Value, one_of};

pub(crate) const MECHANISM: &str = "sasl.mechanism";
pub(crate) const OAUTHBEARER: &str = "OAUTHBEARER";
/// The token itself, in a file as a rule.
pub(crate) const TOKEN: &str = "sasl.oauthbearer.token";
/// Who is asked for one; of the form `file:///...` it is the file of [`TOKEN`], as Kafka has it.
pub(crate) const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";
/// How an endpoint begins that is asked without TLS.
pub(crate) const IN_CLEAR: &str = "http://";
pub(crate) const CLIENT_ID: &str = "sasl.oauthbearer.client.id";
pub(crate) const CLIENT_SECRET: &str = "sasl.oauthbearer.client.secret";
pub(crate) const SCOPE: &str = "sasl.oauthbearer.scope";
/// `name=value,name=value`, which go to the brokers with each token.
pub(crate) const EXTENSIONS: &str = "sasl.oauthbearer.extensions";
/// librdkafka's switch between its own ways, both of which are ours too.
const METHOD: &str = "sasl.oauthbearer.method";
const METHODS: [&str; 2] = ["default", "oidc"];
/// Who vouches for the endpoint.
pub(crate) const CA_LOCATION: &str = "https.ca.location";
pub(crate) const CA_PEM: &str = "https.ca.pem";
const PREFIX: &str = "sasl.oauthbearer.";
const KNOWN: [&str; 9] =
    [TOKEN, ENDPOINT, CLIENT_ID, CLIENT_SECRET, SCOPE, EXTENSIONS, METHOD, CA_LOCATION, CA_PEM];

/// Whether an option is none of librdkafka's, if it is about tokens at all.
pub(crate) fn is_about_tokens(name: &str) -> bool {
    name.starts_with(PREFIX) || KNOWN.contains(&name)
}

/// Whether an option's file is read each time that there is need of a token.
pub(super) fn is_read_anew(name: &str) -> bool {
    [TOKEN, CLIENT_SECRET].contains(&name)
}

/// The file that a URL names, if it does.
pub(super) fn file(name: &str, value: &str) -> Option<String> {
    let path = value.strip_prefix("file://").filter(|_| name == ENDPOINT)?;
    Some(path.strip_prefix("localhost").unwrap_or(path).to_string())
}

/// What must be there, when it is checked that the options go together.
///
/// # Errors
/// If they do not.
pub(super) fn needed(options: &Options) -> Result<&'static [&'static str]> {
    let has = |name: &str| options.values.contains_key(name);
    if let Some(name) =
        options.values.keys().find(|n| is_about_tokens(n) && !KNOWN.contains(&&***n))
    {
        let message = format!("the option {name} is not known here");
        return Err(
            Error::new(Code::Input, message).help(format!("possible: {}", KNOWN.join(", ")))
        );
    }
    let method = options.text(METHOD).unwrap_or("oidc");
    if !METHODS.contains(&method) {
        return Err(one_of(METHOD, method, &METHODS));
    }
    if let Some(Value::Plain(pairs)) = options.values.get(EXTENSIONS)
        && !pairs.split(',').all(is_extension)
    {
        return Err(Error::new(Code::Input, format!("{EXTENSIONS} is not name=value,name=value"))
            .help("a name is of letters alone; a value is ASCII"));
    }
    match (has(TOKEN), has(ENDPOINT)) {
        (true, true) => {
            let message = format!("there are both {TOKEN} and {ENDPOINT}");
            return Err(Error::new(Code::Input, message).help("set one of them"));
        }
        (true, false) => return Ok(&[]),
        (false, false) => {
            let message = format!("{MECHANISM} {OAUTHBEARER} needs a place that tokens come from");
            return Err(Error::new(Code::Input, message)
                .help(format!("set {TOKEN}{FILE}=PATH, to a file that something keeps fresh"))
                .help(format!("or {ENDPOINT}, {CLIENT_ID} and {CLIENT_SECRET}{FILE}")));
        }
        (false, true) => {}
    }
    let url = options.text(ENDPOINT).unwrap_or_default();
    let in_clear = url.strip_prefix(IN_CLEAR);
    match url.strip_prefix("https://").or(in_clear) {
        // Nor is it shown: it may be a password.
        Some(rest) if rest.contains('@') => {
            let message = format!("{ENDPOINT} names a user");
            Err(Error::new(Code::Input, message)
                .help(format!("set {CLIENT_ID} and {CLIENT_SECRET}{FILE}")))
        }
        Some(rest) if in_clear.is_some() && !is_this_machine(rest) => {
            let message =
                format!("{ENDPOINT} is {url}: the client's secret would go there in the clear");
            Err(Error::new(Code::Input, message)
                .help(format!("name it with https://, and {CA_LOCATION} if need be"))
                .help("http:// is for this machine alone: localhost, 127.0.0.1 or [::1]"))
        }
        Some(_) => Ok(&[CLIENT_ID, CLIENT_SECRET]),
        None => Err(Error::new(Code::Input, format!("{ENDPOINT} is {url}, which is no address"))
            .help("it begins with https:// or file:///, or with http:// on this machine")),
    }
}

/// Whether what follows [`IN_CLEAR`] leads to this machine.
fn is_this_machine(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let port = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let host = port.map_or(authority, |(host, _)| host);
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = v6.unwrap_or(host).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// What librdkafka takes, by RFC 7628.
fn is_extension(pair: &str) -> bool {
    let Some((name, value)) = pair.split_once('=') else { return false };
    let letters = name.trim().bytes().all(|b| b.is_ascii_alphabetic());
    let shows = value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    letters && !name.trim().is_empty() && name.trim() != "auth" && shows
}
