//! Ctrl-C and SIGTERM at a program that runs a flow, judged by its exit code and by what it left.
//!
//! The program is this test's own, started again with `RUN_DIR` set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use millstream::{io::Paced, prelude::*, test::Folder};

const ROWS: u64 = 20_000;
const SENSORS: u64 = 7;

#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: u64,
    n: u64,
}

/// Counts, so that state is at stake too.
#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    readings: u64,
}

#[derive(Serialize, Deserialize)]
struct Counted {
    n: u64,
    nth: u64,
}

impl Process for Sensor {
    type In = Reading;
    type Out = Counted;

    fn handle(&mut self, reading: Reading, ctx: &mut Context<Self>) -> Result<()> {
        if reading.n == 100
            && let Some(stuck) = std::env::var_os("STUCK")
        {
            fs::write(stuck, "").unwrap();
            loop {
                std::thread::park();
            }
        }
        self.readings += 1;
        ctx.emit(Counted { n: reading.n, nth: self.readings });
        Ok(())
    }
}

/// The program: runs the flow, at `RATE` rows a second.
#[test]
fn the_program_itself() {
    let Some(dir) = std::env::var_os("RUN_DIR").map(PathBuf::from) else { return };
    let rate: u64 = std::env::var("RATE").unwrap().parse().unwrap();
    let flow = Flow::new("readings")
        .source("file", Paced::new(JsonLinesFile::open(dir.join("readings.jsonl")), rate))
        .key_by("sensor")
        .process::<Sensor>("sensor", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(dir.join("out.jsonl")));
    Node::embedded(dir.join("data")).run(flow).unwrap();
}

fn start(dir: &Path, rate: u64, stuck: Option<&Path>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_program_itself", "--nocapture"]);
    command.env("RUN_DIR", dir).env("RATE", rate.to_string()).stdout(Stdio::null());
    if let Some(stuck) = stuck {
        command.env("STUCK", stuck);
    }
    command.spawn().unwrap()
}

fn signal(program: &Child, name: &str) {
    let kill = format!("kill -s {name} {}", program.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Waits until something is true of a program that runs.
fn until(program: &mut Child, reached: impl Fn() -> bool) {
    while !reached() {
        assert!(program.try_wait().unwrap().is_none(), "the program ended");
        std::thread::yield_now();
    }
}

fn prepare(name: &str) -> Folder {
    let folder = Folder::new(name);
    let row = |n| format!("{{\"sensor\":{},\"n\":{n}}}\n", n % SENSORS);
    fs::write(folder.path().join("readings.jsonl"), (0..ROWS).map(row).collect::<String>())
        .unwrap();
    folder
}

fn results(dir: &Path) -> Vec<Counted> {
    let text = fs::read_to_string(dir.join("out.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs to the end, and each row was counted once, in its order.
fn goes_on_exactly(dir: &Path) {
    assert!(start(dir, 1_000_000, None).wait().unwrap().success());
    let mut found: Vec<(u64, u64)> = results(dir).iter().map(|c| (c.n, c.nth)).collect();
    found.sort_unstable();
    let expected: Vec<(u64, u64)> = (0..ROWS).map(|n| (n, n / SENSORS + 1)).collect();
    assert_eq!(found, expected);
    let log = millstream::Target::find(None, Some(&dir.join("data"))).unwrap();
    assert!(log.ledger().unwrap().balanced);
}

#[test]
fn the_first_signal_drains_and_commits() {
    for name in ["INT", "TERM"] {
        let folder = prepare("ctrl-c-first");
        let mut program = start(folder.path(), 2_000, None);
        let out = folder.path().join("out.jsonl");
        until(&mut program, || fs::metadata(&out).is_ok_and(|file| file.len() > 0));
        signal(&program, name);
        assert_eq!(program.wait().unwrap().code(), Some(0), "{name}");
        let log = millstream::Target::find(None, Some(&folder.path().join("data"))).unwrap();
        let flow = log.status().unwrap().flows.remove(0);
        // It ended before its input, and what was taken in is worked off, to the file.
        assert!(flow.records < ROWS, "{} records", flow.records);
        assert_eq!((flow.backlog_rows, flow.dead), (0, 0));
        assert_eq!(results(folder.path()).len() as u64, flow.records);
        goes_on_exactly(folder.path());
    }
}

#[test]
fn the_second_signal_stops_at_once() {
    let folder = prepare("ctrl-c-second");
    let stuck = folder.path().join("stuck");
    let mut program = start(folder.path(), 1_000_000, Some(&stuck));
    until(&mut program, || stuck.exists());
    signal(&program, "INT");
    signal(&program, "TERM");
    assert_eq!(program.wait().unwrap().code(), Some(130));
    goes_on_exactly(folder.path());
}
