//! Handlers that never return, on real threads: after a few of them the node drains and the program
//! ends with an error; started again, it goes on, and healthy keys are exact.
//!
//! The program is this test's own, started again with `RUN_DIR` set, as a service manager does. Its
//! endless loops are parked, so they cost a thread and no processor time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use millstream::{
    io::view,
    prelude::*,
    runtime::{embedded, stage::Limits},
    test::Folder,
};

const ROWS: u64 = 400;
const KEYS: u64 = 7;

/// Ten of them.
fn hangs(n: u64) -> bool {
    n % 40 == 11
}

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    n: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Adder {
    sum: u64,
}

impl Process for Adder {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        self.sum += row.n;
        ctx.emit(Row { key: row.key, n: self.sum });
        if hangs(row.n) {
            loop {
                std::thread::park();
            }
        }
        Ok(())
    }
}

/// The program.
#[test]
fn the_program_itself() {
    let Some(dir) = std::env::var_os("RUN_DIR").map(PathBuf::from) else { return };
    let flow = Flow::new("f")
        .partitions(4)
        .limits(Limits { rows_max: 5, ..Limits::default() })
        .source("rows", JsonLinesFile::open(dir.join("rows.jsonl")))
        .key_by("key")
        .process::<Adder>("adder", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(dir.join("out.jsonl")));
    let node = Node::embedded(dir.join("data")).workers(2).options(|o| {
        o.call_timeout = Duration::from_millis(50);
        // Most of the file is still to be read when the node has had enough.
        o.backlog_rows_max = 20;
    });
    if let Err(error) = node.run(flow) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

#[test]
fn a_worn_out_node_ends_and_goes_on_when_it_is_started_again() {
    let folder = Folder::new("worn-out");
    let dir = folder.path();
    let row = |n| format!("{{\"key\":\"k{}\",\"n\":{n}}}\n", n % KEYS);
    fs::write(dir.join("rows.jsonl"), (0..ROWS).map(row).collect::<String>()).unwrap();
    let start = || {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "the_program_itself", "--nocapture"]).env("RUN_DIR", dir);
        program.stdout(Stdio::null()).output().unwrap()
    };
    let mut ended = 0;
    loop {
        let output = start();
        if output.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("error[M0019]: "), "{said}");
        assert!(said.contains("handlers did not return within 50ms; 2 may do so"), "{said}");
        assert!(said.contains("= start the program again"), "{said}");
        ended += 1;
    }
    // Each time three had to hang, and those among what was taken in could.
    assert!((2..=3).contains(&ended), "ended {ended} times");

    let mut sums: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for n in (0..ROWS).filter(|n| !hangs(*n)) {
        let sums = sums.entry(format!("k{}", n % KEYS)).or_default();
        sums.push(sums.last().copied().unwrap_or(0) + n);
    }
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in fs::read_to_string(dir.join("out.jsonl")).unwrap().lines() {
        let row: Row = serde_json::from_str(line).unwrap();
        found.entry(row.key).or_default().push(row.n);
    }
    assert_eq!(found, sums);

    let data = dir.join("data");
    let engine = embedded::open_read_only(&data, embedded::Options::default()).unwrap();
    let dead = view::dead(engine.as_ref(), Some("f"), None, 100).unwrap();
    let mut lines: Vec<u64> = dead.iter().map(|letter| letter.place - 1).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..ROWS).filter(|n| hangs(*n)).collect::<Vec<_>>());
    assert!(dead.iter().all(|letter| letter.code == "M0018"));
    assert!(view::ledger(engine.as_ref()).balanced);
}
