//! Options that we know by name: secrets, and those that must stay as they are.

use super::token;

/// How a connection is secured.
pub(super) const PROTOCOL: &str = "security.protocol";
pub(super) const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
pub(super) const MECHANISMS: [&str; 4] =
    ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", token::OAUTHBEARER];

const ONCE: &str = "nothing is lost and nothing comes twice because of it";
const OURS: &str = "offsets are kept with the turns, not in consumer groups";
const NAMED: &str = "the brokers are named by the address";
const BOUND: &str = "the engine has bounds of its own for this";
const JAVA: &str = "it is of Kafka's Java client; take sasl.username, ssl.ca.location and the like";

/// What cannot be set, and why.
const REFUSED: [(&str, &str); 38] = [
    ("acks", ONCE),
    ("allow.auto.create.topics", "topics are made with settings of their own"),
    ("auto.commit.enable", OURS),
    ("auto.commit.interval.ms", OURS),
    ("auto.offset.reset", ONCE),
    ("bootstrap.servers", NAMED),
    ("builtin.features", "it is what the library was built with"),
    ("check.crcs", ONCE),
    ("consume.callback.max.messages", BOUND),
    ("delivery.timeout.ms", BOUND),
    ("enable.auto.commit", OURS),
    ("enable.auto.offset.store", OURS),
    ("enable.gapless.guarantee", ONCE),
    ("enable.idempotence", ONCE),
    ("enable.partition.eof", BOUND),
    ("enabled_events", BOUND),
    ("group.id", OURS),
    ("group.instance.id", OURS),
    ("group.protocol", OURS),
    ("isolation.level", ONCE),
    ("max.in.flight", ONCE),
    ("max.in.flight.requests.per.connection", ONCE),
    ("message.send.max.retries", ONCE),
    ("message.timeout.ms", BOUND),
    ("metadata.broker.list", NAMED),
    ("offset.store.method", OURS),
    ("partition.assignment.strategy", OURS),
    ("partitioner", "a key has its partition by our own choice"),
    ("plugin.library.paths", "it would load code into the node"),
    ("request.required.acks", ONCE),
    ("retries", ONCE),
    ("sasl.jaas.config", JAVA),
    ("sasl.kerberos.kinit.cmd", "it would run a program; GSSAPI is not built in"),
    ("ssl.keystore.type", JAVA),
    ("ssl.truststore.location", JAVA),
    ("ssl.truststore.password", JAVA),
    ("transaction.timeout.ms", BOUND),
    ("transactional.id", ONCE),
];

/// Why an option cannot be set, if it cannot.
pub(super) fn refused(name: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, why)| *why)
}

/// The name under which an option is kept: some have two.
pub(super) fn name(name: &str) -> &str {
    match name {
        "sasl.mechanisms" => token::MECHANISM,
        "sasl.oauthbearer.client.credentials.client.id" => token::CLIENT_ID,
        "sasl.oauthbearer.client.credentials.client.secret" => token::CLIENT_SECRET,
        name => name,
    }
}

/// Whether an option's value is nobody else's business.
pub(super) fn is_secret(name: &str) -> bool {
    let ends = [".file", ".location", ".url", ".path"];
    let marks = ["password", "secret", "passphrase", "jaas", "private", "assertion.claim"];
    let whole = ["ssl.key.pem", "sasl.oauthbearer.config", token::TOKEN];
    let names_a_place = ends.iter().any(|end| name.ends_with(end));
    !names_a_place && (whole.contains(&name) || marks.iter().any(|mark| name.contains(mark)))
}
