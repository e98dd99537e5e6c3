//! A real node, killed with SIGKILL at random moments while HTTP clients send and send again.
//! Judged by the clients' receipts and the sink's file alone.
//!
//! The node is this test's own program, started again with `NODE_DIR` set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod http;

use std::{
    collections::BTreeMap,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
};

use http::ask;
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
        ctx.emit(Counted { client: number.client, n: number.n, nth: self.numbers });
        Ok(())
    }
}

const CLIENTS: u64 = 6;
const REQUESTS: u64 = 120;
const ROWS: u64 = 10;
const KILLS: u64 = 8;

/// The node's life, in its own process: until its heart closes the pipe.
#[test]
fn the_node_itself() {
    let Some(dir) = std::env::var_os("NODE_DIR").map(PathBuf::from) else { return };
    let listen = std::env::var("NODE_LISTEN").unwrap();
    let flow = Flow::new("count")
        .source("numbers", HttpSource::new("numbers"))
        .key_by("client")
        .process::<Client>("client", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(dir.join("out.jsonl")));
    let node = Node::embedded(dir.join("data")).http(listen).start().unwrap();
    node.deploy(&flow).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert!(node.drain(Duration::from_secs(20)));
    assert_eq!(node.ledger().violations(), Vec::<String>::new());
    node.stop();
}

fn spawn(dir: &Path, listen: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_node_itself", "--nocapture"])
        .env("NODE_DIR", dir)
        .env("NODE_LISTEN", listen)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The node's address, once it listens.
fn listening(dir: &Path, node: &mut Child) -> SocketAddr {
    loop {
        assert!(node.try_wait().unwrap().is_none(), "the node did not start");
        if let Some(address) = holder_http(&dir.join("data")) {
            return address.trim_start_matches("http://").parse().unwrap();
        }
        std::thread::yield_now();
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

/// Sends every request until it is answered with 200. Returns how many answers said "duplicate".
fn client(id: u64, node: SocketAddr, starts: &Starts, receipts: &mpsc::Sender<u64>) -> u64 {
    let name = format!("c{id}");
    let mut duplicates = 0;
    for request in 0..REQUESTS {
        let rows = (0..ROWS).map(|n| request * ROWS + n);
        let body: String = rows.map(|n| format!("{{\"client\":\"{name}\",\"n\":{n}}}\n")).collect();
        let number = request.to_string();
        let headers = [("Producer-Id", name.as_str()), ("Producer-Sequence", number.as_str())];
        loop {
            let seen = starts.count();
            match ask(node, "POST", "/v1/streams/numbers/records", &headers, body.as_bytes()) {
                Ok(answer) if answer.status == 200 => {
                    assert_eq!(answer.json()["accepted"], ROWS);
                    duplicates += u64::from(answer.json()["duplicate"] == true);
                    break;
                }
                Ok(answer) => assert!([429, 503].contains(&answer.status), "{answer:?}"),
                Err(_) => starts.wait_behind(seen),
            }
        }
        receipts.send(id).unwrap();
    }
    duplicates
}

#[test]
fn nothing_is_lost_and_nothing_twice_whenever_the_node_is_killed() {
    let folder = Folder::new("http-torture");
    let dir = folder.path().to_path_buf();
    let seed = std::env::var("SEED").map_or(7, |s| s.parse().unwrap());
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut node = spawn(&dir, ":0");
    let address = listening(&dir, &mut node);
    let starts = Arc::new(Starts::default());
    let (receipts, received) = mpsc::channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| {
            let (starts, receipts) = (starts.clone(), receipts.clone());
            std::thread::spawn(move || client(id, address, &starts, &receipts))
        })
        .collect();
    drop(receipts);
    let all = CLIENTS * REQUESTS;
    let mut got = 0;
    for kill in 0..KILLS {
        // A moment drawn from the seed: so many receipts, and then in the middle of the next.
        let until = all * kill / KILLS + 1 + rng.below(all / KILLS - 1);
        while got < until && received.recv().is_ok() {
            got += 1;
        }
        (0..rng.below(20_000)).for_each(|_| std::hint::spin_loop());
        node.kill().unwrap();
        node.wait().unwrap();
        node = spawn(&dir, &address.to_string());
        listening(&dir, &mut node);
        starts.next();
    }
    got += received.iter().count() as u64;
    let duplicates: u64 = clients.into_iter().map(|c| c.join().unwrap()).sum();
    assert_eq!(got, all);
    drop(node.stdin.take());
    assert!(node.wait().unwrap().success(), "the ledger, see above");

    let mut found: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    let out = std::fs::read_to_string(dir.join("out.jsonl")).unwrap();
    for line in out.lines() {
        let row: Counted = serde_json::from_str(line).unwrap();
        found.entry((row.client, row.n)).or_default().push(row.nth);
    }
    println!("{KILLS} kills, {duplicates} retries that were known");
    for id in 0..CLIENTS {
        for n in 0..REQUESTS * ROWS {
            // In order, each once, and the process has counted each once.
            assert_eq!(found.get(&(format!("c{id}"), n)), Some(&vec![n + 1]), "c{id} {n}");
        }
    }
    assert_eq!(found.len() as u64, CLIENTS * REQUESTS * ROWS);
}
