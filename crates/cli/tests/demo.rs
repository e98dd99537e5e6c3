//! The demo is not staged: with other rows it prints other numbers, and they are right.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use millstream::{Node, io::rng::Rng, test::Folder};
use serde_json::Value;

/// The data, each line as its fields.
fn rows() -> (String, Vec<Vec<String>>) {
    let path = format!("{}/../../examples/data/flights-2013-01.csv", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let header = lines.next().unwrap().to_string();
    (header, lines.map(|l| l.split(',').map(str::to_string).collect()).collect())
}

/// Takes rows out and values away, as the seed says.
fn mutate(rows: &mut Vec<Vec<String>>, seed: u64) {
    let mut rng = Rng::new(seed);
    for _ in 0..20 + rng.below(200) {
        let at = rng.below(rows.len() as u64) as usize;
        rows.remove(at);
    }
    for _ in 0..20 + rng.below(200) {
        let at = rng.below(rows.len() as u64) as usize;
        let column = if rng.below(4) == 0 { 3 } else { 6 };
        rows[at][column] = "NA".into();
    }
}

/// Rows, aircraft, alerts, undecodable rows, and whether N730MQ has a thirtieth departure.
fn count(rows: &[Vec<String>]) -> [u64; 5] {
    let mut late: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let (mut alerts, mut bad, mut injected) = (0, 0, 0);
    for row in rows {
        let Ok(minutes) = row[6].parse::<f64>() else {
            bad += 1;
            continue;
        };
        let (departures, in_a_row) = late.entry(&row[3]).or_default();
        *departures += 1;
        if row[3] == "N730MQ" && *departures == 30 {
            injected = 1;
            continue;
        }
        *in_a_row = if minutes >= 60.0 { *in_a_row + 1 } else { 0 };
        alerts += u64::from(*in_a_row == 3);
    }
    [rows.len() as u64, late.len() as u64, alerts, bad, injected]
}

fn write(path: &Path, header: &str, rows: &[Vec<String>]) {
    let lines: Vec<String> = rows.iter().map(|row| row.join(",")).collect();
    fs::write(path, format!("{header}\n{}\n", lines.join("\n"))).unwrap();
}

fn demo(dir: &Path, csv: Option<PathBuf>, seed: u64) -> (Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["demo", "--json", "--rate", "50000", "--listen", ":0", "--data"]).arg(dir);
    command.args(["--seed", &seed.to_string()]);
    if let Some(csv) = csv {
        command.arg("--csv").arg(csv);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "seed {seed}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

#[test]
fn the_known_answers() {
    let folder = Folder::new("demo-known");
    let (found, said) = demo(&folder.path().join("data"), None, 7143);
    let answers = ["rows", "processes", "alerts_found", "dead_undecodable", "dead_injected"];
    let numbers: Vec<u64> = answers.iter().map(|name| found[name].as_u64().unwrap()).collect();
    assert_eq!(numbers, [27_004, 3_141, 45, 521, 1]);
    for line in [
        "DEAD   flights.csv line 21 (bytes 910..954)  dep_delay: 'NA' is not a number",
        "KILL   SIGKILL to node ",
        "RESUME all tasks at their last committed turn; first new row after ",
        "   alerts   45 expected   45 found   0 missing   0 twice",
        "   state    3,141 aircraft compared, 3,141 equal",
        "   dead     521 x not a number or no date + 1 injected, same lines",
        "ledger balanced: 27,004 rows in, 27,004 accounted for",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

#[test]
fn other_rows_give_other_numbers() {
    let folder = Folder::new("demo-other");
    let (header, all) = rows();
    for seed in 1..=5 {
        let mut rows = all.clone();
        mutate(&mut rows, seed);
        let csv = folder.path().join(format!("flights-{seed}.csv"));
        write(&csv, &header, &rows);
        // The same directory each time: a node's directory is made anew.
        let (found, said) = demo(&folder.path().join("data"), Some(csv), seed);
        let number = |name: &str| found[name].as_u64().unwrap();
        let names = ["rows", "processes", "alerts_found", "dead_undecodable", "dead_injected"];
        let [rows, processes, alerts, bad, injected] = count(&rows);
        assert_eq!(
            names.map(number),
            [rows, processes, alerts, bad, injected],
            "seed {seed}\n{said}"
        );
        let same = ["rows_accounted_for", "states_equal", "alerts_expected"].map(number);
        assert_eq!(same, [rows, processes, alerts], "seed {seed}\n{said}");
        assert_ne!((rows, bad), (27_004, 521), "seed {seed}");
        assert_eq!(found["killed"], true, "seed {seed}");
    }
}

#[test]
fn a_directory_that_is_no_nodes_is_left_alone() {
    let folder = Folder::new("demo-foreign");
    fs::write(folder.path().join("thesis.txt"), "my only copy").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["demo", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "error[M0002]: {} has files, and no demo made it: nothing was touched\n  = the demo needs a directory of its own, new or empty: --data DIR\n",
        folder.path().display()
    );
    assert_eq!(said, expected);
    assert_eq!(fs::read_to_string(folder.path().join("thesis.txt")).unwrap(), "my only copy");
}

/// What lies in a directory, names and bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let file = |path: PathBuf| match path.is_dir() {
        true => contents(&path),
        false => BTreeMap::from([(path.clone(), fs::read(&path).unwrap())]),
    };
    entries.flat_map(file).collect()
}

#[test]
fn a_directory_of_a_node_in_earnest_is_left_alone() {
    let folder = Folder::new("demo-production");
    let data = folder.path().join("production");
    Node::embedded(&data).start().unwrap().stop();
    let before = contents(&data);
    let demo = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["demo", "--rate", "100000", "--listen", ":0", "--seed", "1"]).args(args);
        command.env("MILLSTREAM_DATA", &data).current_dir(folder.path()).output().unwrap()
    };
    // Named, it is refused. From the environment, it is not even looked at.
    let named = demo(&["--data", data.to_str().unwrap()]);
    assert_eq!(named.status.code(), Some(3), "{named:?}");
    let elsewhere = demo(&[]);
    assert!(elsewhere.status.code().is_some_and(|code| code <= 1), "{elsewhere:?}");
    let said = String::from_utf8(elsewhere.stdout).unwrap();
    assert!(said.contains("   data ./millstream-demo   "), "{said}");
    assert_eq!(contents(&data), before);
    // Its own directory is made anew; a file of departures in it would go with it.
    let own = demo(&["--csv", "millstream-demo/flights.csv"]);
    assert_eq!(own.status.code(), Some(3), "{own:?}");
    assert!(folder.path().join("millstream-demo/flights.csv").is_file());
}

#[test]
fn an_address_nobody_can_listen_on_is_said_once_and_as_everywhere() {
    let folder = Folder::new("demo-listen");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for listen in ["nonsense", &address] {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_millstream"));
        demo.args(["demo", "--listen", listen, "--data"]).arg(folder.path().join("demo"));
        let output = demo.output().unwrap();
        let node = Node::embedded(folder.path().join("node")).http(listen);
        let error = node.start().err().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().next(), error.to_string().lines().next());
        assert_eq!(said.lines().count(), error.to_string().lines().count(), "{said}");
        assert_eq!(output.status.code(), Some(if listen == "nonsense" { 3 } else { 4 }));
    }
}

fn signal(program: &Child, name: &str) {
    let kill = format!("kill -s {name} {}", program.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Starts a demo that would take minutes, waits for its first lines and sends the signals.
fn interrupted(name: &str, signals: &[&str]) -> (Option<i32>, String) {
    let folder = Folder::new(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["demo", "--rate", "200", "--listen", ":0", "--data"]).arg(folder.path());
    let mut demo = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(demo.stdout.take().unwrap());
    while !said.contains("event time") {
        assert_ne!(lines.read_line(&mut said).unwrap(), 0, "{said}");
    }
    signals.iter().for_each(|name| signal(&demo, name));
    lines.read_to_string(&mut said).unwrap();
    (demo.wait().unwrap().code(), said)
}

#[test]
fn ctrl_c_ends_it_with_what_was_taken_in_committed() {
    let (code, said) = interrupted("demo-ctrl-c", &["INT"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.ends_with("stopped by Ctrl-C; what was taken in is committed\n"), "{said}");
    let (code, said) = interrupted("demo-ctrl-c-twice", &["INT", "TERM"]);
    assert_eq!(code, Some(130), "{said}");
}

/// What a shell in this directory answers, where the environment names another node.
fn shell(folder: &Path, line: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(folder).env("MILLSTREAM_NODE", "127.0.0.1:1");
    let output = command.env_remove("MILLSTREAM_DATA").output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that are advised: all that begins with the program's path.
fn advised(said: &str) -> Vec<String> {
    let program = env!("CARGO_BIN_EXE_millstream");
    said.lines().filter_map(|line| Some(line[line.find(program)?..].to_string())).collect()
}

#[test]
fn what_it_advises_can_be_typed() {
    let folder = Folder::new("demo-hints");
    let demo = format!(
        "{} demo --rate 100000 --listen :0 --seed 1 --data 'a place'; true",
        env!("CARGO_BIN_EXE_millstream")
    );
    let said = shell(folder.path(), &demo);
    let mut open = advised(&said);
    assert_eq!(open.len(), 3, "{said}");
    // Each command names the next one, so all of them are followed until nothing is new.
    open.push(format!("{} status --data 'a place'", env!("CARGO_BIN_EXE_millstream")));
    let mut typed = Vec::new();
    while let Some(line) = open.pop() {
        if !typed.contains(&line) {
            open.extend(advised(&shell(folder.path(), &line)));
            typed.push(line);
        }
    }
    assert_eq!(typed.len(), 8, "{typed:#?}");
}
