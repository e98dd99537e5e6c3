//! Records over HTTP, judged from outside: what is answered, and what the sink's file then holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod http;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{ask, get, post, until};
use millstream::{Running, prelude::*, test::Folder};
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: String,
    celsius: f64,
}

/// Lets a handler wait until a test lets it go.
static HELD: Mutex<bool> = Mutex::new(false);
static LET_GO: Condvar = Condvar::new();
/// Whether a handler waits.
static INSIDE: AtomicBool = AtomicBool::new(false);

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    readings: u64,
}

impl Process for Sensor {
    type In = Reading;
    type Out = Reading;

    fn handle(&mut self, reading: Reading, ctx: &mut Context<Self>) -> Result<()> {
        if ctx.key() == "stuck" {
            INSIDE.store(true, Ordering::SeqCst);
            drop(LET_GO.wait_while(HELD.lock().unwrap(), |held| *held).unwrap());
        }
        self.readings += 1;
        ctx.emit(reading);
        Ok(())
    }
}

fn flow(folder: &Path) -> Flow {
    Flow::new("climate")
        .source("readings", HttpSource::new("readings"))
        .key_by("sensor")
        .process::<Sensor>("sensor", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(folder.join("out.jsonl")))
}

fn start(folder: &Path) -> (Running, SocketAddr) {
    let node = Node::embedded(folder.join("data")).http(":0").start().unwrap();
    node.deploy(&flow(folder)).unwrap();
    let address = node.http().unwrap();
    // Until its source is open, the node says "try again".
    let warm_up = "{\"sensor\":\"warm-up\",\"celsius\":0}";
    until("the source is open", || post(address, RECORDS, &[], warm_up).status != 503);
    (node, address)
}

const RECORDS: &str = "/v1/streams/readings/records";

/// What the sink holds of a sensor once everything is worked off.
fn finish(node: Running, folder: &Path, sensor: &str) -> usize {
    assert!(node.drain(Duration::from_secs(10)));
    assert_eq!(node.ledger().violations(), Vec::<String>::new());
    node.stop();
    let out = std::fs::read_to_string(folder.join("out.jsonl")).unwrap();
    out.lines().filter(|line| line.contains(&format!("\"{sensor}\""))).count()
}

#[test]
fn rows_are_accepted_in_every_shape_and_arrive_once() {
    let folder = Folder::new("http-shapes");
    let (node, address) = start(folder.path());
    let line = |c: f64| format!("{}\n", json!({"sensor": "a", "celsius": c}));
    let answer = post(address, RECORDS, &[], &(line(1.0) + "\n" + &line(2.0)));
    assert_eq!((answer.status, answer.json()), (200, json!({"accepted": 2})));
    let array = json!([{"sensor": "a", "celsius": 3}, {"sensor": "a", "celsius": 4}]).to_string();
    let answer = post(address, RECORDS, &[("Content-Type", "application/json")], &array);
    assert_eq!((answer.status, answer.json()), (200, json!({"accepted": 2})));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, line(5.0).repeat(1000).as_bytes()).unwrap();
    let headers = [("Content-Encoding", "gzip"), ("Content-Type", "application/x-ndjson")];
    let answer = ask(address, "POST", RECORDS, &headers, &gzip.finish().unwrap()).unwrap();
    assert_eq!((answer.status, answer.json()), (200, json!({"accepted": 1000})));
    assert_eq!(post(address, RECORDS, &[], "").json(), json!({"accepted": 0}));
    assert_eq!(finish(node, folder.path(), "a"), 1004);
}

#[test]
fn a_bad_line_is_named_and_nothing_of_the_request_is_taken() {
    let folder = Folder::new("http-bad");
    let (node, address) = start(folder.path());
    let body =
        "{\"sensor\":\"b\",\"celsius\":1}\n{\"sensor\":\"b\",\"celsius\":\"NA\"}\n{\"sensor\":1}\n";
    let answer = post(address, RECORDS, &[], body);
    assert_eq!(answer.status, 422);
    let expected = json!({
        "code": "M0012", "line": 2, "column": "celsius", "reason": "'NA' is not a number",
        "help": ["2 of 3 records are bad, nothing was taken; ?partial=true takes the others"],
    });
    assert_eq!(answer.json(), expected);
    let answer = post(address, &format!("{RECORDS}?partial=true"), &[], body);
    assert_eq!(answer.status, 200);
    let got = answer.json();
    assert_eq!((&got["accepted"], &got["rejected"]), (&json!(1), &json!(2)));
    assert_eq!(got["bad"][1]["line"], 3);
    let dead = get(address, "/v1/dead").json();
    // The warm-up was record 1.
    assert_eq!((&dead[0]["place"], &dead[0]["column"]), (&json!(3), &json!("celsius")));
    assert_eq!(dead.as_array().unwrap().len(), 2);
    assert_eq!(finish(node, folder.path(), "b"), 1);
}

#[test]
fn what_cannot_be_taken_says_why() {
    let folder = Folder::new("http-refused");
    let (node, address) = start(folder.path());
    let answer = post(address, "/v1/streams/reading/records", &[], "{}");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["help"], json!(["did you mean `readings`?"]));
    let huge = [("Content-Length", "16777217")];
    assert_eq!(ask(address, "POST", RECORDS, &huge, b"").unwrap().status, 413);
    assert_eq!(post(address, RECORDS, &[("Content-Encoding", "br")], "{}").status, 415);
    let answer = post(address, RECORDS, &[("Content-Encoding", "gzip")], "{}");
    assert_eq!(answer.status, 422);
    let invalid = ask(address, "POST", RECORDS, &[], b"{\"sensor\":\"\xff\",\"celsius\":1}");
    assert_eq!(invalid.unwrap().status, 422);
    assert_eq!(post(address, RECORDS, &[("Producer-Id", "a")], "").status, 400);
    // A web page may not, whatever it asks for.
    assert_eq!(post(address, RECORDS, &[("Origin", "http://evil.example")], "{}").status, 403);
    let rebound = ask(address, "GET", "/v1/status", &[("Host", "evil.example")], b"");
    assert_eq!(rebound.unwrap().status, 403);
    node.heart().drain();
    let answer = post(address, RECORDS, &[], "{\"sensor\":\"c\",\"celsius\":1}");
    assert_eq!((answer.status, answer.has("retry-after: 1")), (503, true));
    assert_eq!(finish(node, folder.path(), "c"), 0);
}

#[test]
fn a_request_sent_again_is_taken_once_even_after_a_restart() {
    let folder = Folder::new("http-again");
    let (node, address) = start(folder.path());
    let send = |address, number: &str| {
        let headers = [("Producer-Id", "gateway-7"), ("Producer-Sequence", number)];
        post(address, RECORDS, &headers, "{\"sensor\":\"d\",\"celsius\":1}")
    };
    assert_eq!(send(address, "5").json(), json!({"accepted": 1}));
    assert_eq!(send(address, "5").json(), json!({"accepted": 1, "duplicate": true}));
    assert_eq!(send(address, "6").json(), json!({"accepted": 1}));
    assert_eq!(send(address, "8").status, 409);
    node.stop();
    let (node, address) = start(folder.path());
    assert_eq!(send(address, "5").json(), json!({"accepted": 1, "duplicate": true}));
    assert_eq!(send(address, "6").json(), json!({"accepted": 1, "duplicate": true}));
    assert_eq!(send(address, "7").json(), json!({"accepted": 1}));
    assert_eq!(finish(node, folder.path(), "d"), 3);
}

#[test]
fn an_empty_request_that_is_numbered_leaves_no_gap() {
    let folder = Folder::new("http-empty");
    let (node, address) = start(folder.path());
    let send = |address, number: &str, body: &str| {
        let headers = [("Producer-Id", "gateway-8"), ("Producer-Sequence", number)];
        post(address, RECORDS, &headers, body)
    };
    let line = "{\"sensor\":\"g\",\"celsius\":1}";
    assert_eq!(send(address, "0", line).json(), json!({"accepted": 1}));
    assert_eq!(send(address, "1", "").json(), json!({"accepted": 0}));
    assert_eq!(send(address, "1", "").json(), json!({"accepted": 0, "duplicate": true}));
    node.stop();
    let (node, address) = start(folder.path());
    assert_eq!(send(address, "2", line).json(), json!({"accepted": 1}));
    assert_eq!(finish(node, folder.path(), "g"), 2);
}

#[test]
fn whatever_is_refused_has_a_code() {
    let folder = Folder::new("http-codes");
    let (node, address) = start(folder.path());
    let refused = |method, path: &str, status, reason: &str| {
        let answer = ask(address, method, path, &[], b"{}").unwrap();
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (status, Some("M0012")),
            "{path}"
        );
        assert!(answer.json()["reason"].to_string().contains(reason), "{path}: {answer:?}");
    };
    refused("GET", "/v1/dead?limit=many", 400, "limit");
    refused("GET", "/v1/dead/first", 400, "first");
    refused("POST", "/v1/streams/readings/records?partial=yes", 400, "partial");
    refused("DELETE", "/v1/status", 405, "Method Not Allowed");
    node.stop();
}

#[test]
fn a_process_whose_key_is_empty_is_found() {
    let folder = Folder::new("http-no-key");
    let (node, address) = start(folder.path());
    let line = "{\"sensor\":\"\",\"celsius\":1}";
    assert_eq!(post(address, RECORDS, &[], line).status, 200);
    let at = Some(address.to_string());
    let target = millstream::Target::find(at.as_deref(), None).unwrap();
    until("the row is handled", || target.process("sensor", "").is_ok());
    assert_eq!(target.process("sensor", "").unwrap().process["state"]["readings"], 1);
    assert_eq!(target.kill("sensor", "").unwrap().kind, "sensor");
    assert_eq!(finish(node, folder.path(), ""), 1);
}

#[test]
fn a_stuck_handler_means_429_and_the_control_plane_answers() {
    let folder = Folder::new("http-stuck");
    *HELD.lock().unwrap() = true;
    let node = Node::embedded(folder.path().join("data"))
        .http(":0")
        .workers(1)
        .options(|o| {
            o.backlog_rows_max = 0;
            o.call_timeout = Duration::from_secs(60);
        })
        .start()
        .unwrap();
    node.deploy(&flow(folder.path())).unwrap();
    let address = node.http().unwrap();
    let body = |sensor| json!({"sensor": sensor, "celsius": 1}).to_string();
    let send = move |sensor| post(address, RECORDS, &[], &body(sensor));
    let stuck = std::thread::spawn(move || {
        let mut status = 503;
        until("the source is open", || {
            status = send("stuck").status;
            status != 503
        });
        status
    });
    // The only worker is in the handler from here on.
    until("the handler is called", || INSIDE.load(Ordering::SeqCst));
    assert!(get(address, "/v1/status").json()["in_step"].to_string().contains("/sensor/"));
    let answer = send("e");
    assert_eq!((answer.status, answer.has("retry-after: 1")), (429, true));
    for path in ["/v1/status", "/v1/flows", "/v1/streams", "/v1/ledger", "/metrics", "/health"] {
        assert_eq!(get(address, path).status, 200, "{path}");
    }
    // Its task is busy, so the log is asked.
    assert_eq!(get(address, "/v1/processes/sensor/stuck").status, 404);
    assert_eq!(get(address, "/v1/streams/sensor/tail").body.lines().count(), 1);
    *HELD.lock().unwrap() = false;
    LET_GO.notify_all();
    assert_eq!(stuck.join().unwrap(), 200);
    assert_eq!(finish(node, folder.path(), "stuck"), 1);
}

#[test]
fn at_its_limit_for_stored_bytes_a_node_names_that_and_no_full_disk() {
    let folder = Folder::new("http-limit");
    // What the flow's own streams cost is more.
    let node = Node::embedded(folder.path().join("data")).engine(|o| o.disk_bytes_max = Some(1));
    let node = node.http(":0").start().unwrap();
    node.deploy(&flow(folder.path())).unwrap();
    let address = node.http().unwrap();
    let mut answer = None;
    until("the source is open", || {
        let said = answer.insert(post(address, RECORDS, &[], "{\"sensor\":\"a\",\"celsius\":1}"));
        said.status != 503
    });
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.has("retry-after: 1")), (429, true), "{answer:?}");
    let expected = json!({
        "code": "M0006",
        "reason": "the flow is behind: the node stores as much as it may (`disk_bytes_max`)",
        "help": [
            "wait as long as Retry-After says, and send it again",
            "if it stays so, let who runs the node raise `disk_bytes_max`, or see what is not read",
        ],
    });
    assert_eq!(answer.json(), expected);
    node.stop();
}

#[test]
fn a_killed_process_goes_on_from_its_committed_state() {
    let folder = Folder::new("http-kill");
    let (node, address) = start(folder.path());
    let send = || post(address, RECORDS, &[], "{\"sensor\":\"f\",\"celsius\":1}").status;
    let readings = || get(address, "/v1/processes/sensor/f").json()["state"]["readings"].clone();
    let reach = |n: u64| until("the reading is counted", || readings() == n);
    assert_eq!(send(), 200);
    until("the process exists", || get(address, "/v1/processes/sensor/f").status == 200);
    reach(1);
    let killed = ask(address, "POST", "/v1/processes/sensor/f/kill", &[], b"").unwrap();
    assert_eq!((killed.status, killed.json()["key"].clone()), (200, json!("f")));
    assert_eq!(send(), 200);
    reach(2);
    let reports = get(address, "/v1/supervisor").json();
    let killed = reports.as_array().unwrap().iter().find(|r| r["what"] == "killed").unwrap();
    assert_eq!(killed["reason"], "sensor/f was killed by request");
    assert_eq!(ask(address, "POST", "/v1/processes/sensor/g/kill", &[], b"").unwrap().status, 404);
    let typo = get(address, "/v1/processes/senser/f");
    assert_eq!(
        (typo.status, typo.json()["help"].clone()),
        (404, json!(["did you mean `sensor`?"]))
    );
    assert_eq!(finish(node, folder.path(), "f"), 2);
}

#[test]
fn a_node_that_has_just_begun_asks_to_try_again() {
    let folder = Folder::new("http-begun");
    let node = Node::embedded(folder.path().join("data")).http(":0").start().unwrap();
    let answer = post(node.http().unwrap(), RECORDS, &[], "{}");
    assert_eq!((answer.status, answer.has("retry-after: 1")), (503, true), "{answer:?}");
    node.deploy(&flow(folder.path())).unwrap();
    let answer = post(node.http().unwrap(), "/v1/streams/others/records", &[], "{}");
    assert_eq!(answer.status, 404, "{answer:?}");
}
