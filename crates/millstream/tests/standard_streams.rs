//! A node between two pipes: what comes in on standard input goes out on standard output.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use millstream::{
    io::{Stdin, Stdout},
    prelude::*,
    test::Folder,
};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    n: i64,
    name: Option<String>,
}

/// The node's life, in its own process: until its input ends.
#[test]
fn the_node_itself() {
    let Some(dir) = std::env::var_os("NODE_DIR").map(PathBuf::from) else { return };
    let csv = std::env::var("NODE_READS").unwrap() == "csv";
    let flow = Flow::new("pipe")
        .source("in", if csv { Stdin::csv() } else { Stdin::json_lines() })
        .filter("even", |row: &Row| row.n % 2 == 0)
        .sink("out", Stdout);
    Node::embedded(dir.join("data")).run(flow).unwrap();
}

/// What such a node makes of its input.
fn through(format: &str, input: &str) -> Vec<Row> {
    let folder = Folder::new("pipes");
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_node_itself", "--nocapture"])
        .env("NODE_DIR", folder.path())
        .env("NODE_READS", format)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let said = node.wait_with_output().unwrap();
    assert!(said.status.success());
    let said = String::from_utf8(said.stdout).unwrap();
    // The test's own name may stand before a row.
    let rows = said.lines().filter_map(|line| line.find('{').map(|at| &line[at..]));
    rows.map(|row| serde_json::from_str(row).unwrap()).collect()
}

#[test]
fn rows_go_from_standard_input_to_standard_output() {
    let name = |n: i64| (n % 3 > 0).then(|| format!("row {n}"));
    let rows = || (0..1_000).map(|n| Row { n, name: name(n) });
    let mut lines: Vec<String> = rows().map(|row| serde_json::to_string(&row).unwrap()).collect();
    lines.insert(500, "{\"n\": \"no number\"}".into());
    let fields = |row: Row| format!("{},{}", row.n, row.name.unwrap_or_default());
    let mut records: Vec<String> = rows().map(fields).collect();
    records.insert(0, "n,name".into());
    records.insert(500, "no number,".into());
    for (format, input) in [("json", lines.join("\n")), ("csv", records.join("\n"))] {
        assert!(through(format, &input).into_iter().eq(rows().filter(|row| row.n % 2 == 0)));
    }
}
