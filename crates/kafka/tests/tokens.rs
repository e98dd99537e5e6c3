//! Brokers that want a token: OAUTHBEARER.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use millstream_brokers::{Brokers, DEADLINE, Error, or_skip};
use millstream_core::Result;
use millstream_kafka::{
    Options,
    client::{
        Client, Outcome, Record, Records, Start, TopicPartition, TopicSpec, Writer, conformance,
        rd::RdClient,
    },
};
use native_tls::{Identity, TlsAcceptor};

/// How long a token lives that is renewed in a test.
const LIFE: Duration = Duration::from_secs(4);
/// Within so long people are told why they are kept out; a client's patience is five times that.
const SOON: Duration = Duration::from_secs(3);

fn brokers() -> Result<&'static Brokers, &'static Error> {
    static SECURED: OnceLock<Result<Brokers, Error>> = OnceLock::new();
    SECURED.get_or_init(Brokers::start_secured).as_ref()
}

fn base64url(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: String = text.bytes().map(|byte| format!("{byte:08b}")).collect();
    let digit = |six: &[u8]| {
        let six = format!("{:0<6}", std::str::from_utf8(six).unwrap());
        char::from(DIGITS[usize::from_str_radix(&six, 2).unwrap()])
    };
    bits.as_bytes().chunks(6).map(digit).collect()
}

/// Alice's token of a scope, which expires in `seconds`.
fn token(scope: &str, seconds: f64) -> String {
    // Clock: the brokers', who look at theirs.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let expires = now + seconds;
    let claims = format!(r#"{{"sub":"alice","scope":"{scope}","exp":{expires:.3}}}"#);
    format!("{}.{}.", base64url(r#"{"alg":"none"}"#), base64url(&claims))
}

fn fresh() -> String {
    token("kafka", LIFE.as_secs_f64())
}

/// A file with a token, as something beside us keeps it.
struct File(PathBuf);

impl File {
    fn new(name: &str, token: &str) -> File {
        let path = std::env::temp_dir().join(format!("tokens-{}-{name}", std::process::id()));
        let file = File(path);
        file.replace(token);
        file
    }

    fn replace(&self, token: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{token}\n")).unwrap();
        std::fs::rename(&new, &self.0).unwrap();
    }

    fn query(&self) -> String {
        format!("sasl.oauthbearer.token.file={}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// A client as a user makes it.
fn connect(brokers: &Brokers, query: &str, secret: Option<&str>) -> Result<Arc<dyn Client>> {
    let address = format!(
        "kafka://{}?sasl.mechanism=OAUTHBEARER&ssl.ca.location={}&{query}",
        brokers.secured(),
        brokers.certificate().display()
    );
    let name = "MILLSTREAM_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET".to_string();
    let secret = secret.map(|secret| (name, secret.to_string()));
    Ok(RdClient::connect(Options::parse(&address, secret)?.properties()?, "tokens")?)
}

/// What is told, soon, to whoever is kept out.
fn refusal(client: &Arc<dyn Client>) -> String {
    // Clock: how soon it is told.
    let begun = Instant::now();
    let refused = client.topic("any").unwrap_err();
    let took = begun.elapsed();
    assert!(took < SOON, "told after {took:?}: {refused}");
    assert!(client.trouble().is_some());
    refused.to_string()
}

fn append(client: &Arc<dyn Client>, at: &TopicPartition) -> u64 {
    let (done, heard) = mpsc::sync_channel(1);
    let mut records = Records::default();
    records.push(at, Record::of(b"k", Some(b"v")));
    client.append(records, Box::new(move |said| drop(done.send(said))));
    heard.recv_timeout(DEADLINE).unwrap().unwrap()
}

/// A writer and how to wait for it.
struct Own(Box<dyn Writer>, mpsc::Receiver<()>);

impl Own {
    fn new(client: &Arc<dyn Client>, id: &str) -> Own {
        let (wake, woken) = mpsc::sync_channel(100);
        let writer = client
            .writer(
                id,
                Arc::new(move || {
                    let _ = wake.try_send(());
                }),
            )
            .unwrap();
        let mut own = Own(writer, woken);
        assert_eq!(own.outcome(), Outcome::Ready);
        own
    }

    fn outcome(&mut self) -> Outcome {
        loop {
            match self.0.outcome() {
                Some(outcome) => return outcome,
                None => self.1.recv_timeout(DEADLINE).unwrap(),
            }
        }
    }

    fn commit(&mut self, at: &TopicPartition) {
        let mut records = Records::default();
        records.push(at, Record::of(b"k", Some(b"v")));
        self.0.submit(records);
        assert_eq!(self.outcome(), Outcome::Committed);
    }
}

/// Everything that a client does goes on while three tokens expire, one after the other.
fn outlives_its_tokens(client: &Arc<dyn Client>, topic: &str, mut renew: impl FnMut()) {
    let spec = TopicSpec { name: topic.into(), partitions: 2, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    let (appended, committed) = (TopicPartition::new(topic, 0), TopicPartition::new(topic, 1));
    let mut writer = Own::new(client, topic);
    // Clock: a token's life is the brokers' time.
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < LIFE * 3 {
        renew();
        assert_eq!(append(client, &appended), count);
        writer.commit(&committed);
        count += 1;
        let last = Start::Offset(count - 1);
        assert_eq!(client.read(&appended, last, 1).unwrap().unwrap().len(), 1);
        // That of the client that does nothing else.
        client.set_topic(topic, &[("retention.ms".into(), "-1".into())]).unwrap();
        assert_eq!(client.range(&appended).unwrap(), 0..count);
    }
    assert!(client.trouble().is_none());
}

#[test]
fn the_client_keeps_its_promises_with_a_token() {
    let brokers = or_skip!(brokers());
    let file = File::new("promises", &token("kafka", 3600.0));
    let client = connect(brokers, &file.query(), None).unwrap();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let one = || conformance::CHECKS.get(next.fetch_add(1, Ordering::Relaxed));
                while let Some((name, check)) = one() {
                    println!("{name}");
                    let prefix = format!("tokens-{name}");
                    check(&conformance::Subject { client: client.clone(), prefix });
                }
            });
        }
    });
}

#[test]
fn a_token_in_a_file_is_renewed() {
    let brokers = or_skip!(brokers());
    let file = File::new("renewed", &fresh());
    let client = connect(brokers, &file.query(), None).unwrap();
    // Clock: a new one each second.
    let mut written = Instant::now();
    outlives_its_tokens(&client, "from-a-file", || {
        if written.elapsed() > Duration::from_secs(1) {
            file.replace(&fresh());
            // Clock: as above.
            written = Instant::now();
        }
    });
}

#[test]
fn whoever_has_no_good_token_is_told_why() {
    let brokers = or_skip!(brokers());
    for (name, bad, said) in [
        ("expired", token("kafka", -60.0), "expired has expired at 20"),
        ("useless", token("other", 3600.0), "insufficient_scope"),
        ("none", "no.token".into(), "none is no JSON web token"),
    ] {
        let file = File::new(name, &bad);
        let client = connect(brokers, &file.query(), None).unwrap();
        let why = refusal(&client);
        assert!(why.contains(said) && why.contains("M0005"), "{name}: {why}");
        assert!(!why.contains(&bad), "{why}");
        // A good one heals it.
        file.replace(&token("kafka", 3600.0));
        // Clock: a deadline.
        let begun = Instant::now();
        while let Err(why) = client.topic("any") {
            assert!(begun.elapsed() < DEADLINE, "{name}: {why}");
        }
        assert!(client.trouble().is_none());
    }
}

/// Who gives tokens over TLS, with the brokers' certificate: until the test process ends.
struct Endpoint {
    port: u16,
    given: Arc<AtomicUsize>,
}

impl Endpoint {
    /// With that secret, alice is given a token of the scope that she asks for.
    fn start(brokers: &Brokers, secret: &'static str) -> Endpoint {
        let (key, password) = brokers.key();
        let identity = Identity::from_pkcs12(&std::fs::read(key).unwrap(), password).unwrap();
        let tls = TlsAcceptor::new(identity).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let given = Arc::new(AtomicUsize::new(0));
        let count = given.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that does not know the certificate leaves.
                if let Ok(stream) = tls.accept(stream.unwrap()) {
                    count.fetch_add(usize::from(answer(stream, secret)), Ordering::Relaxed);
                }
            }
        });
        Endpoint { port, given }
    }

    /// As alice, with a scope.
    fn query(&self, scope: &str) -> String {
        format!(
            "sasl.oauthbearer.client.id=alice&sasl.oauthbearer.scope={scope}\
             &sasl.oauthbearer.token.endpoint.url=https://127.0.0.1:{}/token",
            self.port
        )
    }
}

/// Who asks, as it says, and for what.
fn request(stream: &mut impl Read) -> (String, String) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let header = |name: &str| {
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(of, _)| of.eq_ignore_ascii_case(name)).unwrap().1
    };
    let mut body = vec![0; header("content-length").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (header("authorization").trim_end_matches('=').to_string(), String::from_utf8(body).unwrap())
}

/// How alice says who she is.
fn alice(secret: &str) -> String {
    format!("Basic {}", base64url(&format!("alice:{secret}")))
}

fn respond(stream: &mut impl Write, status: &str, json: &str) {
    let length = json.len();
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
        .and_then(|()| stream.write_all(json.as_bytes()))
        .and_then(|()| stream.flush())
        .unwrap();
}

/// Whether a token is given.
fn answer(mut stream: native_tls::TlsStream<TcpStream>, secret: &str) -> bool {
    let (who, body) = request(&mut stream);
    let known = who == alice(secret);
    let scope = body.strip_prefix("grant_type=client_credentials&scope=");
    let (status, json) = match scope.filter(|_| known) {
        Some(scope) => {
            let token = token(scope, LIFE.as_secs_f64());
            ("200 OK", format!(r#"{{"access_token":"{token}","token_type":"Bearer"}}"#))
        }
        None => ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_string()),
    };
    respond(&mut stream, status, &json);
    known
}

#[test]
fn tokens_of_an_endpoint_are_renewed() {
    let brokers = or_skip!(brokers());
    let endpoint = Endpoint::start(brokers, "alice-secret");
    let vouches = format!("https.ca.location={}", brokers.certificate().display());
    let query = format!("{}&{vouches}", endpoint.query("kafka"));
    let client = connect(brokers, &query, Some("alice-secret")).unwrap();
    outlives_its_tokens(&client, "from-an-endpoint", || {});
    // It is asked for each as late as can be.
    let given = endpoint.given.load(Ordering::Relaxed);
    assert!((3..=5).contains(&given), "{given} tokens");
}

#[test]
fn whoever_is_given_no_token_is_told_why() {
    let brokers = or_skip!(brokers());
    let endpoint = &Endpoint::start(brokers, "alice-secret");
    let vouches = &format!("https.ca.location={}", brokers.certificate().display());
    let nowhere = Endpoint { port: 1, given: Arc::default() };
    std::thread::scope(|scope| {
        for (query, secret, said) in [
            (format!("{}&{vouches}", endpoint.query("kafka")), "hunter2", "401"),
            (format!("{}&{vouches}", endpoint.query("kafka")), "hunter2", "invalid_client"),
            (
                format!("{}&{vouches}", endpoint.query("other")),
                "alice-secret",
                "insufficient_scope",
            ),
            (endpoint.query("kafka"), "alice-secret", "certificate"),
            (nowhere.query("kafka"), "alice-secret", "refused"),
        ] {
            scope.spawn(move || {
                let why = refusal(&connect(brokers, &query, Some(secret)).unwrap());
                assert!(why.contains(said) && !why.contains(secret), "{said}: {why}");
            });
        }
    });
}

/// An endpoint of this machine, and brokers that are not there: whoever connects wants a token.
#[test]
fn a_clients_secret_that_is_replaced_is_taken_with_the_next_token() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let secret = File::new("secret", "first");
    let address = format!(
        "kafka://127.0.0.1:1?sasl.mechanism=OAUTHBEARER&sasl.oauthbearer.client.id=alice\
         &sasl.oauthbearer.client.secret.file={}\
         &sasl.oauthbearer.token.endpoint.url=http://{}/token",
        secret.0.display(),
        listener.local_addr().unwrap()
    );
    let (said, heard) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (who, _) = request(&mut stream);
            let token = token("kafka", 1.0);
            respond(&mut stream, "200 OK", &format!(r#"{{"access_token":"{token}"}}"#));
            if said.send(who).is_err() {
                return; // The test has heard enough.
            }
        }
    });
    let properties = Options::parse(&address, []).unwrap().properties().unwrap();
    let client = RdClient::connect(properties, "tokens").unwrap();
    assert_eq!(heard.recv_timeout(DEADLINE).unwrap(), alice("first"));
    secret.replace("second");
    // One may have been asked for just before.
    let next = || heard.recv_timeout(DEADLINE).unwrap();
    assert!((0..2).any(|_| next() == alice("second")), "the old one is still used");
    drop(client);
}
