//! A real node, killed with SIGKILL at random moments while HTTP clients send and send again and a
//! file that it follows grows. Judged by the clients' receipts, the file and the sink's file alone.
//!
//! Every other kill waits until a handler says that it was called, and then hits a turn that is
//! open for certain. The node is this test's own program, started again with `NODE_DIR` set.
//! Moments are drawn from a seed that is printed; `MILLSTREAM_SEED=n` draws them again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod http;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use http::{PATIENCE, ask, in_time, until};
use millstream::{io::rng::Rng, prelude::*, runtime::embedded::holder_http, test::Folder};

#[derive(Serialize, Deserialize)]
struct Number {
    client: String,
    n: u64,
}

/// Counts, so that state is at stake too.
#[derive(Default, Serialize, Deserialize)]
struct Client {
    numbers: u64,
}

#[derive(Serialize, Deserialize)]
struct Counted {
    client: String,
    n: u64,
    nth: u64,
}

impl Process for Client {
    type In = Number;
    type Out = Counted;

    fn handle(&mut self, number: Number, ctx: &mut Context<Self>) -> Result<()> {
        self.numbers += 1;
        if HOLD.swap(false, Ordering::SeqCst) {
            println!("{OPEN}");
            // Killed here; or, if not, on it goes before the watchdog comes.
            std::thread::park_timeout(Duration::from_secs(2));
            println!("{CLOSED}");
        }
        ctx.emit(Counted { client: number.client, n: number.n, nth: self.numbers });
        Ok(())
    }
}

const CLIENTS: u64 = 6;
const REQUESTS: u64 = 120;
const ROWS: u64 = 10;
const KILLS: u64 = 12;
/// Rows added to the file for each receipt.
const LINES: u64 = 3;

/// In the node: the next handler says [`OPEN`] and waits for its end.
static HOLD: AtomicBool = AtomicBool::new(false);
const OPEN: &str = "a turn is open";
/// No end has come; the turn goes on and may commit.
const CLOSED: &str = "the turn goes on";

/// The node's life, in its own process: until its heart closes the pipe.
#[test]
fn the_node_itself() {
    let Some(dir) = std::env::var_os("NODE_DIR").map(PathBuf::from) else { return };
    let listen = std::env::var("NODE_LISTEN").unwrap();
    let flow = Flow::new("count")
        .source("lines", JsonLinesFile::open(dir.join("in.jsonl")).follow(true))
        .rows::<Number>()
        .source("numbers", HttpSource::new("numbers"))
        .rows::<Number>()
        .connect("lines")
        .key_by("client")
        .process::<Client>("client", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(dir.join("out.jsonl")));
    let node = Node::embedded(dir.join("data")).http(listen).start().unwrap();
    node.deploy(&flow).unwrap();
    for _ in std::io::stdin().lines() {
        HOLD.store(true, Ordering::SeqCst);
    }
    assert!(node.drain(Duration::from_secs(20)));
    assert_eq!(node.ledger().violations(), Vec::<String>::new());
    node.stop();
}

/// A node, and what it says about the turn that it is to hold open.
struct Killable {
    process: Child,
    said: mpsc::Receiver<&'static str>,
}

impl Killable {
    fn spawn(dir: &Path, listen: &str) -> Killable {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_node_itself", "--nocapture"])
            .env("NODE_DIR", dir)
            .env("NODE_LISTEN", listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (say, said) = mpsc::sync_channel(16);
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || {
            // The test's own name may stand before it.
            let known = |line: String| [OPEN, CLOSED].into_iter().find(|w| line.ends_with(w));
            lines.filter_map(known).all(|word| say.send(word).is_ok());
        });
        Killable { process, said }
    }

    /// The node's address, once it listens.
    fn listens(&mut self, dir: &Path) -> SocketAddr {
        let mut address = None;
        until("the node listens", || {
            assert!(self.process.try_wait().unwrap().is_none(), "the node did not start");
            address = holder_http(&dir.join("data"));
            address.is_some()
        });
        address.unwrap().trim_start_matches("http://").parse().unwrap()
    }

    /// Has a turn held open; `more` brings rows for it.
    fn hold(&mut self, mut more: impl FnMut()) {
        self.process.stdin.as_mut().unwrap().write_all(b"hold\n").unwrap();
        until("a handler says that its turn is open", || {
            more();
            self.said.recv_timeout(Duration::from_millis(20)).is_ok()
        });
    }

    /// Kills it with SIGKILL; whether it was told to hold a turn and died in it.
    fn kill(mut self) -> bool {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        !self.said.iter().any(|word| word == CLOSED)
    }

    /// Lets it drain and end.
    fn end(mut self) {
        drop(self.process.stdin.take());
        let mut ended = None;
        until("the node has ended", || {
            ended = self.process.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "the ledger, see above");
    }
}

/// How often the node was started; clients wait for the next time when it is gone.
#[derive(Default)]
struct Starts(Mutex<u64>, Condvar);

impl Starts {
    fn count(&self) -> u64 {
        *self.0.lock().unwrap()
    }

    fn next(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }

    fn wait_behind(&self, seen: u64) {
        let wait = Duration::from_secs(1);
        drop(self.1.wait_timeout_while(self.0.lock().unwrap(), wait, |n| *n == seen).unwrap());
    }
}

/// What a client holds: the node has taken the rows from `first` on.
struct Receipt {
    client: String,
    first: u64,
    rows: u64,
}

/// Sends every request until it is answered with 200, and, when the node was started again, the one
/// before once more. Returns how many answers said "duplicate".
fn client(id: u64, node: SocketAddr, starts: &Starts, receipts: &mpsc::SyncSender<Receipt>) -> u64 {
    let client = format!("c{id}");
    let take = |request: u64| {
        let rows = (0..ROWS).map(|n| request * ROWS + n);
        let body = rows.map(|n| format!("{{\"client\":\"{client}\",\"n\":{n}}}\n"));
        let (body, number) = (body.collect::<String>(), request.to_string());
        let headers = [("Producer-Id", client.as_str()), ("Producer-Sequence", number.as_str())];
        let mut duplicate = false;
        until("a request is taken", || {
            let seen = starts.count();
            match ask(node, "POST", "/v1/streams/numbers/records", &headers, body.as_bytes()) {
                Ok(answer) if answer.status == 200 => {
                    assert_eq!(answer.json()["accepted"], ROWS);
                    duplicate = answer.json()["duplicate"] == true;
                    return true;
                }
                Ok(answer) => assert!([429, 503].contains(&answer.status), "{answer:?}"),
                Err(_) => starts.wait_behind(seen),
            }
            false
        });
        duplicate
    };
    let (mut started, mut duplicates) = (starts.count(), 0);
    for request in 0..REQUESTS {
        if std::mem::replace(&mut started, starts.count()) != starts.count() && request > 0 {
            assert!(take(request - 1), "{client}: request {} was forgotten", request - 1);
            duplicates += 1;
        }
        duplicates += u64::from(take(request));
        let receipt = Receipt { client: client.clone(), first: request * ROWS, rows: ROWS };
        receipts.send(receipt).unwrap();
    }
    duplicates
}

#[test]
fn nothing_is_lost_and_nothing_twice_whenever_the_node_is_killed() {
    let folder = Folder::new("http-torture");
    let dir = folder.path().to_path_buf();
    // Clock: another run kills at other moments.
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let seed = std::env::var("MILLSTREAM_SEED").map_or_else(|_| now(), |s| s.parse().unwrap());
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let (input, output) = (dir.join("in.jsonl"), dir.join("out.jsonl"));
    let mut grown = Grown { file: File::create(&input).unwrap(), lines: 0 };
    let mut node = Killable::spawn(&dir, ":0");
    let address = node.listens(&dir);
    let starts = Arc::new(Starts::default());
    // As small as it can be, so that the clients go no faster than the kills.
    let (send, receive) = mpsc::sync_channel(1);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| {
            let (starts, send) = (starts.clone(), send.clone());
            std::thread::spawn(move || client(id, address, &starts, &send))
        })
        .collect();
    drop(send);
    let all = CLIENTS * REQUESTS;
    let (mut receipts, mut open) = (Vec::new(), 0);
    let mut next = |grown: &mut Grown| {
        receipts.push(receive.recv_timeout(PATIENCE).expect("a client holds a receipt"));
        grown.by(LINES);
        receipts.len() as u64
    };
    for kill in 0..KILLS {
        // A moment drawn from the seed: so many receipts, and then in the middle of the next.
        let reach = all * kill / KILLS + 1 + rng.below(all / KILLS - 1);
        while next(&mut grown) < reach {}
        let holds = kill % 2 == 0;
        if holds {
            node.hold(|| grown.by(1));
        } else {
            (0..rng.below(20_000)).for_each(|_| std::hint::spin_loop());
        }
        open += u64::from(node.kill() && holds);
        node = Killable::spawn(&dir, &address.to_string());
        node.listens(&dir);
        starts.next();
    }
    while next(&mut grown) < all {}
    let duplicates: u64 = clients.into_iter().map(|c| c.join().unwrap()).sum();
    let rows = (all * ROWS + grown.lines) as usize;
    // A node that drains reads no more of a file.
    let all_out = in_time(|| {
        let out = std::fs::read(&output).unwrap_or_default();
        out.iter().filter(|b| **b == b'\n').count() >= rows
    });
    match all_out {
        true => node.end(),
        false => drop(node.kill()), // the judge says what is lacking
    }
    println!("{KILLS} kills, {open} in an open turn, {duplicates} retries that were known");
    let found = judge(&receipts, &input, &output);
    println!("{found:?}");
    assert_eq!((found.lost, found.duplicated, found.wrong), (0, 0, 0), "{found:?}");
    assert_eq!(found.rows, rows);
    assert!(open > 0, "no kill has hit an open turn");
    assert!(duplicates > 0, "no request was sent again");
}

/// What the judge has found.
#[derive(Debug, Default)]
struct Verdict {
    rows: usize,
    lost: usize,
    duplicated: usize,
    /// Never sent, or out of order, or counted wrongly by the process.
    wrong: usize,
}

/// Compares what the clients hold receipts for, and what the file holds, with what came out.
fn judge(receipts: &[Receipt], input: &Path, output: &Path) -> Verdict {
    let mut sent: BTreeSet<(String, u64)> = BTreeSet::new();
    for r in receipts {
        sent.extend((r.first..r.first + r.rows).map(|n| (r.client.clone(), n)));
    }
    for line in std::fs::read_to_string(input).unwrap().lines() {
        let row: Number = serde_json::from_str(line).unwrap();
        sent.insert((row.client, row.n));
    }
    let mut found: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    for line in std::fs::read_to_string(output).unwrap().lines() {
        let row: Counted = serde_json::from_str(line).unwrap();
        found.entry((row.client, row.n)).or_default().push(row.nth);
    }
    // Each sender counts from 0, and its process from 1.
    let right = |(row, nth): (&(String, u64), &Vec<u64>)| sent.contains(row) && nth[0] == row.1 + 1;
    Verdict {
        rows: found.len(),
        lost: sent.iter().filter(|row| !found.contains_key(*row)).count(),
        duplicated: found.values().filter(|nth| nth.len() > 1).count(),
        wrong: found.iter().filter(|row| !right(*row)).count(),
    }
}

/// The file that the node follows.
struct Grown {
    file: File,
    lines: u64,
}

impl Grown {
    fn by(&mut self, lines: u64) {
        let new = self.lines..self.lines + lines;
        self.lines = new.end;
        let text: String = new.map(|n| format!("{{\"client\":\"file\",\"n\":{n}}}\n")).collect();
        self.file.write_all(text.as_bytes()).unwrap();
    }
}
