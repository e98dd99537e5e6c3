//! What `status` shows of a node that runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, process::Command};

use millstream::{Running, io::Stdout, prelude::*, test::Folder};

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
}

/// Its handler never returns.
#[derive(Default, Serialize, Deserialize)]
struct Stuck {}

impl Process for Stuck {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, _: Row, _: &mut Context<Self>) -> Result<()> {
        loop {
            std::thread::park();
        }
    }
}

fn status(node: &Running, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.env_remove("MILLSTREAM_DATA").args(["status", "--node"]);
    command.arg(node.http().unwrap().to_string()).args(more);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn a_worn_out_node_says_why_and_what_to_do() {
    let folder = Folder::new("status-worn-out");
    let input = folder.path().join("in.jsonl");
    fs::write(&input, "{\"key\":\"k\"}\n".repeat(3)).unwrap();
    let node = Node::embedded(folder.path().join("data")).http(":0");
    let node = node.options(|o| o.call_timeout = Duration::from_millis(50)).start().unwrap();
    assert_eq!(status(&node, &[]).matches("error").count(), 0);
    let flow = Flow::new("f")
        .source("rows", JsonLinesFile::open(input))
        .key_by("key")
        .process::<Stuck>("stuck", OnError::DeadLetter)
        .sink("out", Discard::new());
    node.deploy(&flow).unwrap();
    while !node.heart().is_draining() {
        std::thread::yield_now();
    }
    let said = status(&node, &[]);
    assert!(said.lines().next().unwrap().ends_with("   draining"), "{said}");
    let expected = "
error[M0019]: 3 handlers did not return within 50ms; 2 may do so
  = start the program again, or let a service manager: it goes on from what was committed
  = their records are dead letters (M0018): mend what they stuck in
the node takes nothing in, and ends when what it has is worked off
";
    assert!(said.contains(expected), "{said}");
    let json: serde_json::Value = serde_json::from_str(&status(&node, &["--json"])).unwrap();
    let why = json["worn_out"].as_str().unwrap_or_default();
    assert!(why.starts_with("error[M0019]: "), "{why}");
}

#[test]
fn sinks_have_what_they_promise_beside_them() {
    let folder = Folder::new("status-promises");
    let flow = Flow::new("f")
        .source("rows", HttpSource::new("rows"))
        .rows::<Row>()
        .sink("kept", JsonLinesFile::create(folder.path().join("out.jsonl")))
        .sink("seen", Stdout);
    let node = Node::embedded(folder.path().join("data")).http(":0").start().unwrap();
    node.deploy(&flow).unwrap();
    let said = status(&node, &[]);
    let line = |name: &str| said.lines().find(|l| l.trim_start().starts_with(name)).unwrap();
    assert!(line("kept").ends_with("0 read  each row exactly once"), "{said}");
    assert!(line("seen").ends_with("0 read  each row at least once"), "{said}");
    assert!(line("rows").ends_with("0 read"), "{said}");
    node.stop();
}
