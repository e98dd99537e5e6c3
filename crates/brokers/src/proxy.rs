//! A proxy between nodes and brokers that can be told what to do to which link.
//!
//! *Why on this level:* what matters is *which* request is late or loses its answer. A proxy that
//! knows Kafka's frames can be told so and says when it has happened, where one that knows bytes
//! is timed by luck.
//!
//! *Invariants*
//! - Requests of a connection stay in order, and so do answers.
//! - Nothing is lost but by a cut, a lost answer, or a [`Held`] that is dropped: a black hole
//!   keeps what it swallows until it is healed, as TCP would, also if the client has gone.
//! - What is held arrives when it is released, whatever has become of its client and connection.
//!
//! *Limits:* TLS is not understood; 16 frames wait per connection and direction, then the sender.

mod connection;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};

/// What a request asks for: Kafka's api key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Api(pub i16);

impl Api {
    /// Appends records.
    pub const PRODUCE: Api = Api(0);
    /// Reads records.
    pub const FETCH: Api = Api(1);
    /// Asks for the first or last offset.
    pub const LIST_OFFSETS: Api = Api(2);
    /// Asks who leads which partition.
    pub const METADATA: Api = Api(3);
    /// Stores a group's offsets.
    pub const OFFSET_COMMIT: Api = Api(8);
    /// Reads a group's offsets.
    pub const OFFSET_FETCH: Api = Api(9);
    /// Asks for the coordinator of a group or a transactional id.
    pub const FIND_COORDINATOR: Api = Api(10);
    /// Begins a connection.
    pub const API_VERSIONS: Api = Api(18);
    /// Makes topics.
    pub const CREATE_TOPICS: Api = Api(19);
    /// Takes a transactional id, fencing its older producers.
    pub const INIT_PRODUCER_ID: Api = Api(22);
    /// Adds partitions to a transaction.
    pub const ADD_PARTITIONS_TO_TXN: Api = Api(24);
    /// Adds a group to a transaction.
    pub const ADD_OFFSETS_TO_TXN: Api = Api(25);
    /// Commits or aborts a transaction.
    pub const END_TXN: Api = Api(26);
    /// Stores a group's offsets in a transaction.
    pub const TXN_OFFSET_COMMIT: Api = Api(28);
}

/// All links: from each node to each broker.
pub struct Proxy {
    board: Arc<Board>,
    links: Vec<Vec<Arc<Link>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Some links, and what can be done to all of them.
///
/// Each wait takes a deadline and panics when it has passed, with what had been seen until then.
#[derive(Clone)]
pub struct Links {
    board: Arc<Board>,
    links: Vec<Arc<Link>>,
}

/// Requests that are held, those that will be included; dropped, they are lost, and so is their
/// connection.
pub struct Held {
    board: Arc<Board>,
    gate: Arc<Gate>,
    api: Api,
}

/// What all links have seen, in one place to wait at.
struct Board {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    /// By link and api.
    counts: BTreeMap<(usize, Api), Counts>,
    /// By hold.
    held: BTreeMap<usize, Counts>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    requests: u64,
    answers: u64,
}

/// The way of one node to one broker.
struct Link {
    id: usize,
    /// Of the broker, counted from 1.
    broker: usize,
    address: SocketAddr,
    target: SocketAddr,
    board: Arc<Board>,
    way: watch::Sender<Way>,
    rules: Mutex<Vec<Rule>>,
}

/// What is wrong with the way.
#[derive(Clone, Copy, Default)]
struct Way {
    delay_to: Duration,
    delay_back: Duration,
    hole_to: bool,
    hole_back: bool,
    /// Whether connections are refused.
    refused: bool,
    /// How often it was cut; a connection knows how often before it began.
    cuts: u64,
}

/// What is to happen to the next requests of an api.
struct Rule {
    api: Api,
    left: Arc<AtomicU32>,
    fate: Fate,
}

#[derive(Clone)]
enum Fate {
    Pass,
    Hold(Arc<Gate>),
    /// The answer is lost, and the connection lives.
    Silence,
    /// The connection is closed instead of an answer.
    Break,
    /// The topic of that name is another one to the broker, which is not there.
    Unheard(Arc<str>),
}

struct Gate {
    id: usize,
    state: watch::Sender<Hold>,
}

#[derive(Clone, Copy, PartialEq)]
enum Hold {
    Holding,
    Released,
    Lost,
}

impl Proxy {
    /// Listens on a free port for each of `targets`: by node, then by broker.
    ///
    /// # Errors
    /// If there is no free port or thread.
    pub fn start(targets: Vec<Vec<SocketAddr>>) -> io::Result<Proxy> {
        let board = Arc::new(Board { seen: Mutex::default(), changed: Condvar::new() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut id = 0;
        let mut link = |broker: usize, target: &SocketAddr| -> io::Result<Arc<Link>> {
            let bind = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let listener = runtime.block_on(bind)?;
            id += 1;
            let link = Arc::new(Link {
                id,
                broker: broker + 1,
                address: listener.local_addr()?,
                target: *target,
                board: board.clone(),
                way: watch::Sender::new(Way::default()),
                rules: Mutex::default(),
            });
            runtime.spawn(listen(link.clone(), listener));
            Ok(link)
        };
        let mut links = Vec::new();
        for brokers in &targets {
            let of_node = brokers.iter().enumerate().map(|(n, target)| link(n, target));
            links.push(of_node.collect::<io::Result<Vec<_>>>()?);
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // An error is the sender's end, and means the same.
            let _ = runtime.block_on(stopped);
        };
        let thread = thread::Builder::new().name("proxy".into()).spawn(run)?;
        Ok(Proxy { board, links, stop: Some(stop), thread: Some(thread) })
    }

    /// The links of node `n`, counted from 1, to all brokers.
    pub fn links(&self, n: usize) -> Links {
        self.some(self.links[n - 1].iter())
    }

    /// The links of all nodes to broker `n`, counted from 1.
    pub fn links_to(&self, n: usize) -> Links {
        self.some(self.links.iter().map(|of_node| &of_node[n - 1]))
    }

    fn some<'a>(&self, links: impl Iterator<Item = &'a Arc<Link>>) -> Links {
        Links { board: self.board.clone(), links: links.cloned().collect() }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed, and a test is the wrong place for a second one.
            let _ = thread.join();
        }
    }
}

impl Links {
    /// Those of them that lead to broker `n`, counted from 1.
    pub fn to(&self, n: usize) -> Links {
        let links = self.links.iter().filter(|link| link.broker == n).cloned().collect();
        Links { board: self.board.clone(), links }
    }

    /// Where a client begins, as librdkafka's `bootstrap.servers` wants it.
    pub fn bootstrap(&self) -> String {
        let all = self.links.iter().map(|link| link.address.to_string());
        all.collect::<Vec<_>>().join(",")
    }

    /// From now on requests take `to` longer, and answers `back`.
    pub fn delay(&self, to: Duration, back: Duration) {
        self.change(|way| (way.delay_to, way.delay_back) = (to, back));
    }

    /// Closes all connections and refuses new ones, until [`Links::heal`]. What is held stays so.
    ///
    /// A connection that is refused is one that is closed at once: the port stays ours.
    pub fn cut(&self) {
        self.change(|way| {
            way.refused = true;
            way.cuts += 1;
        });
    }

    /// From now on requests disappear, until [`Links::heal`] lets them all through.
    pub fn black_hole_to(&self) {
        self.change(|way| way.hole_to = true);
    }

    /// From now on answers disappear, until [`Links::heal`] lets them all through.
    pub fn black_hole_back(&self) {
        self.change(|way| way.hole_back = true);
    }

    /// No delay, cut or black hole any more, and no request to come is held or loses its answer.
    pub fn heal(&self) {
        for link in &self.links {
            link.rules.lock().expect("no panic below").clear();
        }
        self.change(|way| *way = Way { cuts: way.cuts, ..Way::default() });
    }

    /// As new: healed, without connections, and nothing has been counted.
    pub(crate) fn renew(&self) {
        self.cut();
        self.heal();
        let ours = |link: usize| self.links.iter().any(|l| l.id == link);
        self.board.change(|seen| seen.counts.retain(|(link, _), _| !ours(*link)));
    }

    /// Holds the next `count` requests of `api`, and what follows them on their connections.
    pub fn hold(&self, api: Api, count: u32) -> Held {
        let mut seen = self.board.seen();
        let id = seen.held.len();
        seen.held.insert(id, Counts::default());
        drop(seen);
        let gate = Arc::new(Gate { id, state: watch::Sender::new(Hold::Holding) });
        self.rule(api, count, Fate::Hold(gate.clone()));
        Held { board: self.board.clone(), gate, api }
    }

    /// Passes on the next `count` requests of `api` and drops their answers; the connection lives,
    /// so that the client learns of it by its own timeout.
    pub fn lose_answers(&self, api: Api, count: u32) {
        self.rule(api, count, Fate::Silence);
    }

    /// Passes on the next `count` requests of `api` and closes the connection instead of
    /// answering.
    pub fn break_answers(&self, api: Api, count: u32) {
        self.rule(api, count, Fate::Break);
    }

    /// Lets the brokers refuse the next `count` requests of `api` that are for `topic`, in the way
    /// of one that has not heard of the topic yet.
    pub fn unheard_of(&self, topic: &str, api: Api, count: u32) {
        self.rule(api, count, Fate::Unheard(topic.into()));
    }

    /// How many requests of `api` have come from clients, those held included.
    pub fn requests(&self, api: Api) -> u64 {
        self.sum(&self.board.seen(), api).requests
    }

    /// How many requests of `api` the brokers have answered, whether or not the answer was lost.
    pub fn answers(&self, api: Api) -> u64 {
        self.sum(&self.board.seen(), api).answers
    }

    /// Waits until [`Links::requests`] is at least `count`.
    ///
    /// # Panics
    /// If that takes longer than `within`.
    pub fn wait_requests(&self, api: Api, count: u64, within: Duration) {
        let what = || format!("{count} requests of {api:?}");
        self.board.until(within, what, |seen| self.sum(seen, api).requests >= count);
    }

    /// Waits until [`Links::answers`] is at least `count`.
    ///
    /// # Panics
    /// If that takes longer than `within`.
    pub fn wait_answers(&self, api: Api, count: u64, within: Duration) {
        let what = || format!("{count} answers of {api:?}");
        self.board.until(within, what, |seen| self.sum(seen, api).answers >= count);
    }

    fn sum(&self, seen: &Seen, api: Api) -> Counts {
        let counts = self.links.iter().filter_map(|link| seen.counts.get(&(link.id, api)));
        counts.fold(Counts::default(), |sum, c| Counts {
            requests: sum.requests + c.requests,
            answers: sum.answers + c.answers,
        })
    }

    fn change(&self, change: impl Fn(&mut Way)) {
        for link in &self.links {
            link.way.send_modify(&change);
        }
    }

    fn rule(&self, api: Api, count: u32, fate: Fate) {
        let left = Arc::new(AtomicU32::new(count));
        for link in &self.links {
            let rule = Rule { api, left: left.clone(), fate: fate.clone() };
            link.rules.lock().expect("no panic below").push(rule);
        }
    }
}

impl Held {
    /// Waits until `count` requests have been held.
    ///
    /// # Panics
    /// If that takes longer than `within`.
    pub fn wait(&self, count: u64, within: Duration) {
        let what = || format!("{count} requests of {:?} to hold", self.api);
        self.board.until(within, what, |seen| seen.held[&self.gate.id].requests >= count);
    }

    /// Passes them on, holds no more, and waits until the brokers have answered each.
    ///
    /// # Panics
    /// If that takes longer than `within`.
    pub fn release(self, within: Duration) {
        self.gate.state.send_replace(Hold::Released);
        let what = || format!("the answers of {:?} that was held", self.api);
        self.board.until(within, what, |seen| {
            let held = seen.held[&self.gate.id];
            held.answers >= held.requests
        });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.state.send_if_modified(|state| {
            let lost = *state == Hold::Holding;
            if lost {
                *state = Hold::Lost;
            }
            lost
        });
    }
}

impl Board {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic below")
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen());
        self.changed.notify_all();
    }

    fn until(&self, within: Duration, what: impl Fn() -> String, done: impl Fn(&Seen) -> bool) {
        let wait = self.changed.wait_timeout_while(self.seen(), within, |seen| !done(seen));
        let (seen, _) = wait.expect("no panic below");
        if done(&seen) {
            return;
        }
        let requests = |(&(link, api), c): (&(usize, Api), &Counts)| {
            format!("link {link} {api:?}: {} requests, {} answers", c.requests, c.answers)
        };
        let all: Vec<String> = seen.counts.iter().map(requests).collect();
        // Not with the lock: the links go on.
        drop(seen);
        panic!("{} not within {within:?}; seen in all: {}", what(), all.join(", "));
    }
}

impl Link {
    /// Counts a request and says what is to become of it.
    fn request(&self, api: Api) -> Fate {
        let mut rules = self.rules.lock().expect("no panic below");
        rules.retain(|rule| match &rule.fate {
            Fate::Hold(gate) => *gate.state.borrow() == Hold::Holding,
            _ => true,
        });
        let one = |rule: &&Rule| {
            let take = |left: u32| left.checked_sub(1);
            rule.api == api
                && rule.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        };
        let fate = rules.iter().find(one).map_or(Fate::Pass, |rule| rule.fate.clone());
        self.board.change(|seen| {
            seen.counts.entry((self.id, api)).or_default().requests += 1;
            if let Fate::Hold(gate) = &fate {
                seen.held.entry(gate.id).or_default().requests += 1;
            }
        });
        fate
    }

    /// Counts an answer.
    fn answer(&self, api: Api, fate: &Fate) {
        self.board.change(|seen| {
            seen.counts.entry((self.id, api)).or_default().answers += 1;
            if let Fate::Hold(gate) = fate {
                seen.held.entry(gate.id).or_default().answers += 1;
            }
        });
    }
}

async fn listen(link: Arc<Link>, listener: TcpListener) {
    loop {
        // An error is that of a connection which has gone again.
        let Ok((client, _)) = listener.accept().await else { continue };
        let way = *link.way.borrow();
        if !way.refused {
            let link = link.clone();
            tokio::spawn(async move {
                if let Ok(broker) = TcpStream::connect(link.target).await {
                    connection::serve(link, way.cuts, client, broker).await;
                }
            });
        }
    }
}

/// When what arrives now is due.
fn due(delay: Duration) -> Option<Instant> {
    (!delay.is_zero()).then(|| Instant::now() + delay)
}
