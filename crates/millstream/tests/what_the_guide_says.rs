//! Claims of `docs/typed-api.md` that no other test is about.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, sync::Mutex};

use millstream::{
    Target,
    prelude::*,
    test::{Crash, Folder, TestNode},
};
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: String,
    note: Option<String>,
    celsius: Option<f64>,
}

/// What comes of a file, without nulls; or why it does not run.
fn read(file: &str, text: &str) -> Result<(String, u64), millstream::Error> {
    let folder = Folder::new("guide");
    let (input, out) = (folder.path().join(file), folder.path().join("out.jsonl"));
    fs::write(&input, text).unwrap();
    let flow = Flow::new("climate");
    let flow = match file.ends_with(".csv") {
        true => flow.source("readings", CsvFile::open(&input)),
        false => flow.source("readings", JsonLinesFile::open(&input)),
    };
    let flow = flow.filter("all", |_: &Reading| true).sink("out", JsonLinesFile::create(&out));
    let data = folder.path().join("data");
    Node::embedded(&data).run(flow)?;
    let node = Target::find(None, Some(&data))?;
    assert!(node.ledger()?.balanced);
    let rows = fs::read_to_string(out).unwrap();
    Ok((rows, node.status()?.flows[0].dead))
}

const WITHOUT_NOTE: &str = "{\"sensor\":\"hall\",\"note\":null,\"celsius\":20.5}\n";

#[test]
fn a_field_that_json_lacks_is_fine_for_an_option_only() {
    let lines =
        "{\"sensor\":\"hall\",\"celsius\":20.5}\n{\"note\":\"no sensor\",\"celsius\":1.0}\n";
    assert_eq!(read("in.jsonl", lines).unwrap(), (WITHOUT_NOTE.into(), 1));
}

#[test]
fn an_empty_field_of_csv_is_fine_for_an_option_and_a_header_must_have_all() {
    let lines = "sensor,note,celsius\nhall,,20.5\n";
    assert_eq!(read("in.csv", lines).unwrap(), (WITHOUT_NOTE.into(), 0));
    let error = read("in.csv", "sensor,celsius\nhall,20.5\n").unwrap_err().to_string();
    assert!(error.starts_with("error[M0010]: "), "{error}");
    assert!(error.contains("has no field `note`"), "{error}");
}

/// Each call of the handler: which row, and which attempt it was said to be.
static CALLS: Mutex<Vec<(i64, u32)>> = Mutex::new(Vec::new());

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    n: i64,
}

#[derive(Default, Serialize, Deserialize)]
struct Counts;

impl Process for Counts {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        CALLS.lock().unwrap().push((row.n, ctx.attempt()));
        assert_ne!(row.n, -1, "as ordered");
        ctx.emit(row);
        Ok(())
    }
}

/// A node that has these rows before it.
fn node(rows: &[i64]) -> TestNode {
    let flow = Flow::new("f")
        .source("rows", Stdin::json_lines())
        .key_by("key")
        .process::<Counts>("counts", OnError::DeadLetter)
        .sink("out", Discard::new());
    let mut t = TestNode::new(flow);
    for n in rows {
        t.put("rows", json!({ "key": "a", "n": n }));
    }
    t
}

fn calls() -> Vec<(i64, u32)> {
    CALLS.lock().unwrap().clone()
}

#[test]
fn an_attempt_counts_a_failed_turn_and_forgets_a_crash() {
    // A failure lets the turn run again, record by record, up to the end.
    node(&[1, -1, 2]).run_until_idle();
    assert_eq!(calls(), [(1, 1), (-1, 1), (1, 2), (-1, 2), (2, 2)]);
    CALLS.lock().unwrap().clear();
    // A power failure before the commit does so, too; but the task knows nothing of it afterwards.
    let mut t = node(&[1]);
    while calls().is_empty() {
        t.world().step();
    }
    t.crash(Crash::Now).run_until_idle();
    assert_eq!(calls(), [(1, 1), (1, 1)]);
    assert_eq!(t.sink("out").len(), 1);
}
