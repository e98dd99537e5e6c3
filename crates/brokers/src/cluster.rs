//! Three brokers and the proxy in front of them.
//!
//! *Invariants*
//! - A broker tells the clients of each node to come through that node's links: it has a listener
//!   of its own for every node.
//! - The directory goes when the last process that may write to it has gone: a process waits for
//!   the end of a pipe that all of them hold, and removes it.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    ops::Deref,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Committed, DEADLINE, Error, Links, Proxy, Right,
    broker::{Recipe, Running},
    committed::Judge,
    ports::Ports,
    wire,
};

/// How many nodes of tests reach the brokers, each through links of its own.
pub const NODES: usize = 6;
/// How many brokers there are; they are counted from 1.
const BROKERS: u16 = 3;
/// The name of the brokers' certificate.
const CERTIFICATE: &str = "certificate.pem";
/// The name of their key, and the password that `scripts/kafka/broker` knows.
const KEYS: &str = "keys.p12";
const PASSWORD: &str = "millstream";
/// The name of a test's own properties; `scripts/kafka/broker` knows it.
const PROPERTIES: &str = "properties";
/// How long the internal topics may take to come to be.
const WARM_MAX: Duration = Duration::from_secs(60);

/// Three brokers of a test; they end when this is dropped, and when the process ends.
pub struct Brokers {
    // In this order: the brokers end, then the last hold of the pipe, then the directory has gone.
    running: [Mutex<Option<Running>>; BROKERS as usize],
    recipes: [Recipe; BROKERS as usize],
    _remover: Remover,
    proxy: Proxy,
    judge: Judge,
    free: Mutex<Vec<usize>>,
    freed: Condvar,
    ports: Ports,
}

/// A node of a test: its links to all brokers, which no other test uses meanwhile.
///
/// Dropped, its connections are cut and it is whole again.
pub struct Node<'a> {
    brokers: &'a Brokers,
    number: usize,
    links: Links,
}

/// The process that removes the directory.
struct Remover(Child);

/// Where `scripts/kafka` of this project is.
pub(crate) fn scripts() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/kafka"))
}

impl Brokers {
    /// Starts three brokers of this test's own; back when they can do transactions.
    ///
    /// # Errors
    /// If this machine lacks Java, or Maven while Kafka was never fetched; or if they do not come
    /// up.
    pub fn start() -> Result<Brokers, Error> {
        Brokers::start_in(|_| Ok(()))
    }

    /// As [`Brokers::start`], with `properties` of Kafka's beside ours, or in their place.
    ///
    /// # Errors
    /// As [`Brokers::start`].
    pub fn start_with(properties: &[(&str, &str)]) -> Result<Brokers, Error> {
        Brokers::start_in(|dir| add(dir, properties))
    }

    /// As [`Brokers::start`]; they also take clients that come over TLS ([`Brokers::certificate`])
    /// as alice, with the password alice-secret, by PLAIN or SCRAM, or with a token of the scope
    /// kafka: [`Brokers::secured`].
    ///
    /// # Errors
    /// As [`Brokers::start`].
    pub fn start_secured() -> Result<Brokers, Error> {
        Brokers::start_in(make_keys)
    }

    /// As [`Brokers::start_secured`]; alice has no right but those of [`Brokers::allow`]. Who comes
    /// another way has them all.
    ///
    /// # Errors
    /// As [`Brokers::start`].
    pub fn start_guarded() -> Result<Brokers, Error> {
        let authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
        let all = [("authorizer.class.name", authorizer), ("super.users", "User:ANONYMOUS")];
        Brokers::start_in(|dir| {
            add(dir, &all)?;
            make_keys(dir)
        })
    }

    fn start_in(prepare: impl Fn(&Path) -> Result<(), Error>) -> Result<Brokers, Error> {
        fetch()?;
        let ports = Ports::claim()?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let link = |node: usize, broker: u16| local(ports.base + 9 + 3 * node as u16 + broker);
        let targets = |node| (1..=BROKERS).map(move |broker| link(node, broker)).collect();
        let proxy = Proxy::start((0..NODES).map(targets).collect())?;
        let dir = new_directory()?;
        let (remover, alive) = Remover::start(&dir)?;
        prepare(&dir)?;
        let recipe = |number: u16| -> io::Result<Recipe> {
            let address = |node| proxy.links(node).to(number.into()).bootstrap();
            Ok(Recipe {
                dir: dir.clone(),
                port: ports.base,
                number,
                advertised: (1..=NODES).map(address).collect(),
                alive: alive.try_clone()?,
            })
        };
        let recipes = [recipe(1)?, recipe(2)?, recipe(3)?];
        drop(alive);
        let brokers = Brokers {
            running: [const { Mutex::new(None) }; BROKERS as usize],
            recipes,
            _remover: remover,
            proxy,
            judge: Judge::default(),
            free: Mutex::new((1..=NODES).rev().collect()),
            freed: Condvar::new(),
            ports,
        };
        // Together: none is ready without another.
        for n in 1..=BROKERS {
            *brokers.running(n) = Some(brokers.recipes[usize::from(n) - 1].start()?);
        }
        for n in 1..=BROKERS {
            brokers.running(n).as_ref().expect("just started").ready()?;
        }
        brokers.warm()?;
        Ok(brokers)
    }

    /// The brokers that all tests of this process share; one that stops a broker has its own.
    ///
    /// # Errors
    /// As those of [`Brokers::start`], for each caller.
    pub fn shared() -> Result<&'static Brokers, &'static Error> {
        static SHARED: OnceLock<Result<Brokers, Error>> = OnceLock::new();
        SHARED.get_or_init(Brokers::start).as_ref()
    }

    /// Where clients reach the brokers without the proxy.
    pub fn bootstrap(&self) -> String {
        let all = (1..=BROKERS).map(|n| self.address(n).to_string());
        all.collect::<Vec<_>>().join(",")
    }

    /// Where clients reach the brokers over TLS, if they were started so.
    pub fn secured(&self) -> String {
        let all = (1..=BROKERS).map(|n| format!("127.0.0.1:{}", self.ports.base + 27 + n));
        all.collect::<Vec<_>>().join(",")
    }

    /// The file with the certificate, PEM, that vouches for the brokers.
    pub fn certificate(&self) -> PathBuf {
        self.directory().join(CERTIFICATE)
    }

    /// Where clients reach broker `n` without the proxy.
    pub fn address(&self, n: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.base + n))
    }

    /// The brokers' key with that certificate, PKCS #12, and its password.
    pub fn key(&self) -> (PathBuf, &'static str) {
        (self.directory().join(KEYS), PASSWORD)
    }

    /// The directory of their data.
    pub fn directory(&self) -> &Path {
        &self.recipes[0].dir
    }

    /// Takes `N` nodes that no other test has, as new; waits until there are as many.
    ///
    /// # Panics
    /// If other tests do not give them back for ten minutes, or if there are fewer than `N` in all.
    pub fn nodes<const N: usize>(&self) -> [Node<'_>; N] {
        assert!(N <= NODES, "{N} nodes of {NODES}");
        const WITHIN: Duration = Duration::from_secs(600);
        let free = self.free.lock().expect("no panic below");
        let wait = self.freed.wait_timeout_while(free, WITHIN, |free| free.len() < N);
        let (mut free, _) = wait.expect("no panic below");
        let taken: Vec<usize> = (0..N).filter_map(|_| free.pop()).collect();
        drop(free);
        assert_eq!(taken.len(), N, "nodes that other tests gave back within {WITHIN:?}");
        let node = |at: usize| Node {
            brokers: self,
            number: taken[at],
            links: self.proxy.links(taken[at]),
        };
        std::array::from_fn(node)
    }

    /// The links of all nodes to broker `n`.
    pub fn links_to(&self, n: u16) -> Links {
        self.proxy.links_to(n.into())
    }

    /// Kills broker `n` (SIGKILL); back when it has gone.
    ///
    /// # Panics
    /// As the next ones, if there is no such broker or it does not run.
    pub fn kill(&self, n: u16) {
        self.running(n).take().expect("a broker that runs");
    }

    /// Asks broker `n` to end (SIGTERM), whereby it hands over what it leads; kills it after 15 s.
    pub fn stop(&self, n: u16) {
        self.running(n).take().expect("a broker that runs").stop();
    }

    /// Stops broker `n` in its tracks (SIGSTOP): its connections stay open, and silent.
    pub fn pause(&self, n: u16) {
        self.running(n).as_ref().expect("a broker that runs").signal("STOP");
    }

    /// Lets broker `n` go on (SIGCONT).
    pub fn resume(&self, n: u16) {
        self.running(n).as_ref().expect("a broker that runs").signal("CONT");
    }

    /// Starts broker `n` again with the data that it had; back when it takes requests.
    ///
    /// A lone broker is never ready: start the second one from another thread.
    ///
    /// # Panics
    /// If it runs, or does not come up.
    pub fn start_again(&self, n: u16) {
        let mut running = self.running(n);
        assert!(running.is_none(), "broker {n} runs");
        let recipe = &self.recipes[usize::from(n) - 1];
        let started = recipe.start().and_then(|broker| broker.ready().map(|()| broker));
        drop(running.replace(started.expect("a broker that comes up again")));
    }

    /// Makes a topic with three replicas and Kafka's `settings`; returns its name, made unique.
    ///
    /// # Panics
    /// If Kafka refuses, also after half a minute.
    pub fn topic(&self, name: &str, partitions: u32, settings: &[(&str, &str)]) -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let make = |n| {
            let made = wire::create_topic(self.address(n), &name, partitions, settings);
            made.map_err(|e| e.to_string()).flatten()
        };
        // One of them may be away.
        let made = retry(DEADLINE, || make(1).or_else(|_| make(2)).or_else(|_| make(3)));
        made.unwrap_or_else(|why| panic!("making topic {name}: {why}"));
        name
    }

    /// The broker that leads a partition, as the ones that run know it.
    ///
    /// # Panics
    /// If none does, also after half a minute.
    pub fn leader(&self, topic: &str, partition: u32) -> u16 {
        let look = |n| match wire::leader(self.address(n), topic, partition) {
            Ok(leader) => leader.ok_or_else(|| "there is none".to_string()),
            Err(e) => Err(e.to_string()),
        };
        // One of them may be away.
        let asked = retry(DEADLINE, || look(1).or_else(|_| look(2)).or_else(|_| look(3)));
        asked.unwrap_or_else(|why| panic!("asking who leads {topic} {partition}: {why}"))
    }

    /// Gives alice a right, of brokers that were started guarded; they heed it soon.
    ///
    /// # Panics
    /// As [`Brokers::topic`].
    pub fn allow(&self, right: &Right<'_>) {
        self.ask_first(&format!("allowing {right:?}"), |to| wire::allow(to, right));
    }

    /// Takes a right from alice; the brokers heed it soon.
    ///
    /// # Panics
    /// As [`Brokers::topic`].
    pub fn forbid(&self, right: &Right<'_>) {
        self.ask_first(&format!("forbidding {right:?}"), |to| wire::forbid(to, right));
    }

    /// How many bytes a second clients may write at each broker; `None` for as many as they like.
    ///
    /// # Panics
    /// As [`Brokers::topic`].
    pub fn throttle(&self, written: Option<u32>) {
        self.ask_first("throttling", |to| wire::throttle(to, written));
    }

    /// Takes over a transactional id again and again, until its producer's epoch is `epoch` or
    /// a later one; which it is.
    ///
    /// # Panics
    /// As [`Brokers::topic`], and if one producer has no such epoch.
    pub fn wear(&self, id: &str, epoch: i16) -> i16 {
        let coordinator = retry(DEADLINE, || {
            let found = wire::coordinator(self.address(1), id).map_err(|e| e.to_string())?;
            found.ok_or_else(|| "there is none".to_string())
        });
        let coordinator = coordinator.unwrap_or_else(|why| panic!("who coordinates {id}: {why}"));
        let worn = wire::wear(self.address(coordinator), id, epoch);
        worn.unwrap_or_else(|why| panic!("taking over {id}: {why}"))
    }

    /// How many producers a partition's leader knows.
    ///
    /// # Panics
    /// As [`Brokers::topic`].
    pub fn producers(&self, topic: &str, partition: u32) -> usize {
        let leader = self.address(self.leader(topic, partition));
        let asked = wire::producers(leader, topic, partition);
        asked.unwrap_or_else(|why| panic!("asking who writes to {topic} {partition}: {why}"))
    }

    fn ask_first(&self, what: &str, ask: impl Fn(SocketAddr) -> io::Result<Result<(), String>>) {
        let done = retry(DEADLINE, || ask(self.address(1)).map_err(|e| e.to_string()).flatten());
        done.unwrap_or_else(|why| panic!("{what}: {why}"));
    }

    /// What is committed in `topic`, by partition and offset, as Kafka's own client reads it past
    /// the proxy: up to where the first transaction that is still open begins.
    ///
    /// # Panics
    /// If it cannot be read within a minute, or if there is no JDK.
    pub fn committed(&self, topic: &str) -> Vec<Committed> {
        self.judge.committed(&self.bootstrap(), topic)
    }

    fn running(&self, n: u16) -> MutexGuard<'_, Option<Running>> {
        assert!((1..=BROKERS).contains(&n), "there are brokers 1 to {BROKERS}, not {n}");
        // A panic that names a broker which does not run leaves nothing half done.
        self.running[usize::from(n) - 1].lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for the internal topics, so that no test measures how they come to be.
    fn warm(&self) -> Result<(), Error> {
        for (kind, what) in [(wire::TRANSACTION, "transactions"), (wire::GROUP, "groups")] {
            let ask = || match wire::find_coordinator(self.address(1), kind, "warm") {
                Ok(0) => Ok(()),
                Ok(code) => Err(format!("error {code}")),
                Err(e) => Err(e.to_string()),
            };
            retry(WARM_MAX, ask)
                .map_err(|why| Error::Failed(format!("no coordinator of {what}: {why}")))?;
        }
        Ok(())
    }
}

impl Node<'_> {
    /// Counted from 1.
    pub fn number(&self) -> usize {
        self.number
    }
}

impl Deref for Node<'_> {
    type Target = Links;

    fn deref(&self) -> &Links {
        &self.links
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.links.renew();
        // The node is whole also if another test has panicked with the lock.
        self.brokers.free.lock().unwrap_or_else(|e| e.into_inner()).push(self.number);
        self.brokers.freed.notify_all();
    }
}

impl Remover {
    /// And the end of the pipe that it waits for.
    fn start(dir: &Path) -> io::Result<(Remover, OwnedFd)> {
        let mut child = Command::new("sh")
            .args(["-c", r#"cat >/dev/null; rm -rf "$1""#, "sh"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let alive = child.stdin.take().expect("it is piped");
        Ok((Remover(child), alive.into()))
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        self.0.wait().expect("a child that was not waited for yet");
    }
}

/// Sees to it that Kafka's jars are on this machine.
fn fetch() -> Result<(), Error> {
    let output = Command::new(scripts().join("jars")).output()?;
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    match output.status.code() {
        Some(0) => Ok(()),
        Some(3) => Err(Error::Absent(said)),
        _ => Err(Error::Failed(format!("fetching Kafka: {said}"))),
    }
}

/// Adds properties to those of all brokers.
fn add(dir: &Path, properties: &[(&str, &str)]) -> Result<(), Error> {
    let lines = properties.iter().map(|(name, value)| format!("{name}={value}\n"));
    Ok(fs::write(dir.join(PROPERTIES), lines.collect::<String>())?)
}

/// Makes a key for all brokers, and the certificate that goes with it, by the JDK's own tool.
fn make_keys(dir: &Path) -> Result<(), Error> {
    let keytool = |args: &[&str]| {
        let keys = ["-keystore", KEYS, "-storetype", "PKCS12", "-storepass", PASSWORD];
        let ran = Command::new("keytool").current_dir(dir).args(args).args(keys).output()?;
        match ran.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&ran.stdout).into_owned();
                Err(Error::Failed(format!("keytool: {}", said.trim())))
            }
        }
    };
    let name = ["-dname", "CN=localhost", "-ext", "SAN=ip:127.0.0.1"];
    keytool(&[&["-genkeypair", "-alias", "broker", "-keyalg", "EC"], &name[..]].concat())?;
    keytool(&["-exportcert", "-rfc", "-alias", "broker", "-file", CERTIFICATE])
}

fn new_directory() -> io::Result<PathBuf> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("millstream-brokers-{}-{n}", std::process::id()));
        match fs::create_dir(&dir) {
            // Of another process that had this number.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| dir),
        }
    }
}

/// Tries until it works or `within` has passed; then the last failure.
fn retry<T>(within: Duration, try_: impl Fn() -> Result<T, String>) -> Result<T, String> {
    const PAUSE: Duration = Duration::from_millis(50);
    let until = Instant::now() + within;
    loop {
        match try_() {
            Err(_) if Instant::now() < until => thread::sleep(PAUSE),
            done => return done,
        }
    }
}
