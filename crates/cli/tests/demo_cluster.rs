//! The demo of three nodes, on real brokers: what it shows has happened, and the recount is right.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use millstream::test::Folder;
use millstream_brokers::{Brokers, or_skip};
use serde_json::Value;

/// A minute of rows: all is to happen before they end, also where tests share two cores.
const RATE: &str = "450";

fn demo(folder: &Path, engine: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["demo", "--cluster", "--engine", engine, "--rate", RATE, "--data"]);
    command.arg(folder.join("data")).env_remove("MILLSTREAM_NODE").env_remove("MILLSTREAM_DATA");
    command
}

/// The processes that it has named.
fn processes(said: &str) -> Vec<u32> {
    let after = said.split("process ").skip(1);
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    after.filter_map(|text| digits(text).parse().ok()).collect()
}

fn none_is_left(said: &str) {
    let left: Vec<u32> = processes(said);
    assert!(left.len() >= 3, "{said}");
    let left: Vec<_> =
        left.into_iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_node_is_killed_and_one_is_a_zombie_and_the_recount_is_right() {
    let brokers = or_skip!(Brokers::shared());
    let folder = Folder::new("demo-cluster");
    let engine = format!("kafka://{}", brokers.bootstrap());
    let output = demo(folder.path(), &engine).arg("--json").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = ["rows", "processes", "alerts_found", "dead_undecodable", "states_equal"];
    let numbers = names.map(|name| found[name].as_u64().unwrap());
    assert_eq!(numbers, [27_004, 3_141, 45, 521, 3_141]);
    for name in ["alerts_missing", "alerts_twice", "states_differ"] {
        assert_eq!(found[name], 0, "{name}");
    }
    // In this order, and each task of the node that died or stood still has its line.
    let mut rest = said.as_str();
    for word in [
        "  READY  ",
        "  KILL   SIGKILL",
        "  HEART  ",
        "  PAUSE  ",
        "  WAKE   ",
        "  FENCED ",
        "  REJOIN ",
    ] {
        let at = rest.find(word).unwrap_or_else(|| panic!("no {word}\n{said}"));
        let (before, after) = rest.split_at(at);
        if let "  HEART  " | "  WAKE   " = word {
            let lines = before.lines();
            let tasks = lines.clone().filter(|line| line.starts_with("departures/")).count();
            let named = lines.filter_map(|line| line.split_once(", with ")).next_back();
            let (_, named) = named.unwrap_or_else(|| panic!("nobody had tasks\n{said}"));
            assert!(named.starts_with(&format!("{tasks} task")), "{tasks}\n{said}");
        }
        rest = after;
        if word != "  KILL   SIGKILL" && word != "  PAUSE  " {
            rest = &rest[word.len()..];
        }
    }
    assert!(said.contains("45 found   0 missing   0 twice"), "{said}");
    assert!(said.contains("ledger balanced: 27,004 rows in, 27,004 accounted for"), "{said}");
    none_is_left(&said);
}

#[test]
fn ctrl_c_leaves_no_node_behind() {
    let brokers = or_skip!(Brokers::shared());
    let folder = Folder::new("demo-cluster-ctrl-c");
    let engine = format!("kafka://{}", brokers.bootstrap());
    let mut demo = demo(folder.path(), &engine).stdout(Stdio::piped()).spawn().unwrap();
    let (mut said, mut lines) = (String::new(), BufReader::new(demo.stdout.take().unwrap()));
    while processes(&said).len() < 3 {
        assert_ne!(lines.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let kill = format!("kill -s INT {}", demo.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    lines.read_to_string(&mut said).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.ends_with("stopped by Ctrl-C; what was committed is in Kafka\n"), "{said}");
    none_is_left(&said);
}

#[test]
fn without_brokers_it_says_where_there_are_some() {
    let output = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["demo", "--cluster"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error[M0010]: the nodes of a cluster share"), "{said}");
    assert!(said.contains("scripts/kafka-up"), "{said}");
    assert!(said.contains("demo --cluster --engine kafka://127.0.0.1:19091"), "{said}");
}
