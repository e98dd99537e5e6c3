//! What is said when something is wrong: code, place, cause, and what to do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output},
};

use millstream::{prelude::*, test::Folder};

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.env_remove("MILLSTREAM_NODE").env_remove("MILLSTREAM_DATA");
    command.args(args).output().unwrap()
}

/// Exit code and stderr, with what differs from run to run named.
fn said(args: &[&str], named: &[(&str, &str)]) -> (i32, String) {
    let output = run(args);
    let text = String::from_utf8(output.stderr).unwrap();
    let mut text = text.replace(env!("CARGO_BIN_EXE_millstream"), "millstream");
    named.iter().for_each(|(value, name)| text = text.replace(value, name));
    (output.status.code().unwrap(), text)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_directory_in_use() {
    let folder = Folder::new("cli-dir");
    let node = Node::embedded(folder.path()).http(":0").start().unwrap();
    let error = Node::embedded(folder.path()).start().err().unwrap().to_string();
    let http = format!("http://{}", node.http().unwrap());
    let pid = format!("pid {}", std::process::id());
    let at = http.trim_start_matches("http://");
    let error =
        error.replace(path(folder.path()), "DIR").replace(at, "AT").replace(&pid, "pid PID");
    let expected = "\
error[M0007]: DIR is in use by another node (pid PID, http://AT)
  = talk to it:             `millstream status --node AT`
  = or use another place:   --data DIR";
    assert_eq!(error, expected);
    // And the command line asks the node that has it.
    let output = run(&["status", "--json", "--data", path(folder.path())]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains(&http));
}

#[test]
fn names_that_nothing_has() {
    let folder = Folder::new("cli-names");
    let node = Node::embedded(folder.path()).http(":0").start().unwrap();
    let at = node.http().unwrap().to_string();
    let (code, text) = said(&["streams", "tail", "$supervisr", "--node", &at], &[]);
    assert_eq!(code, 3);
    assert_eq!(
        text,
        "error[M0011]: there is no stream `$supervisr`\n  = did you mean `$supervisor`?\n"
    );
    let (code, text) = said(&["dead", "show", "7", "--node", &at], &[(&at, "AT")]);
    let expected = "\
error[M0011]: there is no dead letter 7
  = there are 0, numbered from 1: millstream dead list --node AT\n";
    assert_eq!((code, text.as_str()), (3, expected));
    let (code, text) = said(&["inspect", "aircraft", "N1", "--node", &at], &[]);
    let expected = "\
error[M0011]: there is no process kind `aircraft`
  = no flow here has processes yet\n";
    assert_eq!((code, text.as_str()), (3, expected));
    assert_eq!(run(&["streams", "tail"]).status.code(), Some(2));
}

#[test]
fn process_kinds_are_named_once_and_sources_are_none() {
    #[derive(Default, serde::Serialize, serde::Deserialize)]
    struct Counter {}

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Row {
        n: u64,
    }

    impl Process for Counter {
        type In = Row;
        type Out = Row;

        fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
            ctx.emit(row);
            Ok(())
        }
    }

    let folder = Folder::new("cli-kinds");
    let (input, data) = (folder.path().join("rows.jsonl"), folder.path().join("data"));
    fs::write(&input, "{\"n\":1}\n{\"n\":2}\n").unwrap();
    let flow = Flow::new("f")
        .source("rows", JsonLinesFile::open(&input))
        .key_by("n")
        .process::<Counter>("counter", OnError::DeadLetter)
        .sink("out", Discard::new());
    Node::embedded(&data).run(flow).unwrap();
    let (code, text) = said(&["inspect", "aircraft", "1", "--data", path(&data)], &[]);
    let expected = "\
error[M0011]: there is no process kind `aircraft`
  = there are: counter\n";
    assert_eq!((code, text.as_str()), (3, expected));
}

#[test]
fn a_directory_that_may_not_be_read_is_not_called_empty() {
    const NOBODY: u32 = 65_534;
    let folder = Folder::new("cli-forbidden");
    let data = folder.path().join("data");
    Node::embedded(&data).start().unwrap().stop();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["status", "--data", path(&data)]);
    if fs::read_dir(&data).is_ok() {
        // Root may do everything, and become somebody who may not.
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    let expected = "\
error[M0005]: DIR: Permission denied (os error 13)
  = let the user that runs this read and write there, or name another place\n";
    let text = String::from_utf8(output.stderr).unwrap().replace(path(&data), "DIR");
    assert_eq!((output.status.code(), text.as_str()), (Some(4), expected));
}

#[test]
fn nobody_to_ask() {
    let folder = Folder::new("cli-nobody");
    let missing = folder.path().join("missing");
    let (code, text) = said(&["status", "--data", path(&missing)], &[(path(&missing), "DIR")]);
    let expected =
        "error[M0011]: DIR holds no data\n  = name the directory of a node: --data DIR\n";
    assert_eq!((code, text.as_str()), (3, expected));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (code, text) = said(&["status", "--node", &closed], &[(&closed, "ADDRESS")]);
    assert_eq!(code, 4);
    assert!(text.starts_with("error[M0008]: no node answers at ADDRESS: "), "{text}");
    assert!(
        text.ends_with("  = or read its directory while it is stopped: --data DIR\n"),
        "{text}"
    );
    // Whatever else answers there is no node.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 1024]).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        std::io::Write::write_all(&mut stream, answer).unwrap();
    });
    let (code, text) = said(&["status", "--node", &at], &[(&at, "ADDRESS")]);
    answering.join().unwrap();
    assert_eq!(code, 4);
    assert!(text.contains("what answers at ADDRESS is no node of this version"), "{text}");
}

#[test]
fn a_node_that_does_not_listen() {
    let folder = Folder::new("cli-silent");
    let node = Node::embedded(folder.path()).start().unwrap();
    let pid = format!("pid {}", std::process::id());
    let named = [(path(folder.path()), "DIR"), (&pid, "pid PID")];
    let (code, text) = said(&["status", "--data", path(folder.path())], &named);
    let expected = "\
error[M0008]: a node (pid PID) has DIR, and does not listen: it cannot be asked
  = let it listen: Node::embedded(..).http(\"127.0.0.1:7070\")
  = or ask again: in a moment if it is just starting, or when it has stopped\n";
    assert_eq!((code, text.as_str()), (4, expected));
    node.stop();
    assert!(run(&["status", "--data", path(folder.path())]).status.success());
}

#[test]
fn a_kill_needs_a_node_that_runs() {
    let folder = Folder::new("cli-kill");
    Node::embedded(folder.path()).start().unwrap().stop();
    let (code, text) = said(
        &["kill", "aircraft", "N1", "--data", path(folder.path())],
        &[(path(folder.path()), "DIR")],
    );
    let expected = "\
error[M0008]: no node runs here: there is no process that could be killed
  = its state, at rest: millstream inspect KIND KEY --data DIR
  = name a node that runs: --node HOST:PORT\n";
    assert_eq!((code, text.as_str()), (4, expected));
}

/// A directory whose node has set one line aside, and where that is.
fn one_letter(folder: &Folder) -> String {
    letter_of("f", folder)
}

fn letter_of(flow: &str, folder: &Folder) -> String {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Row {
        n: u64,
    }
    let (input, data) = (folder.path().join("rows.jsonl"), folder.path().join("data"));
    fs::write(&input, "{\"n\":1}\n{\"n\":\"x\"}\n").unwrap();
    let rows =
        millstream::Flow::new(flow).source("rows", JsonLinesFile::open(&input)).rows::<Row>();
    Node::embedded(&data).run(rows.sink("out", Discard::new())).unwrap();
    path(&data).to_string()
}

#[test]
fn letters_of_several_flows_name_theirs() {
    let folder = Folder::new("cli-several");
    letter_of("f", &folder);
    let lines = |data: &str| -> Vec<String> {
        let text = String::from_utf8(run(&["dead", "list", "--data", data]).stdout).unwrap();
        text.lines().filter(|line| !line.starts_with("next")).map(str::to_string).collect()
    };
    let data = path(&folder.path().join("data")).to_string();
    assert!(lines(&data)[0].starts_with("     1  20"), "one flow is not named: {:?}", lines(&data));
    letter_of("g", &folder);
    let both = lines(&data);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both[0].starts_with("     1  f  ") && both[1].starts_with("     1  g  "), "{both:?}");
}

#[test]
fn a_list_that_is_empty_does_not_say_that_there_is_nothing() {
    let folder = Folder::new("cli-empty");
    let data = one_letter(&folder);
    let out = |args: &[&str]| {
        let output = run(&[args, &["--data", &data]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        (
            output.status.code().unwrap(),
            text.replace(env!("CARGO_BIN_EXE_millstream"), "millstream"),
        )
    };
    let listed = out(&["dead", "list", "--from", "2"]).1;
    let expected = format!(
        "nothing from number 2 on was set aside\nnext: millstream dead list --data {data}\n"
    );
    assert_eq!(listed, expected);
    let decided = out(&["supervisor", "tail", "--from", "99"]).1;
    assert!(
        decided.starts_with("supervisors have decided nothing from number 99 on\n"),
        "{decided}"
    );
    let kept = out(&["streams", "tail", "$dead", "--from", "99"]).1;
    assert!(kept.starts_with("no rows are kept from frame 99 on\n"), "{kept}");
    for list in [["dead", "list"], ["supervisor", "tail"], ["streams", "tail"]] {
        let name: &[&str] = if list[0] == "streams" { &["$supervisor"] } else { &[] };
        assert_eq!(out(&[&list, name, &["--limit", "0"]].concat()).0, 2, "{list:?}");
    }
    // What only a node that runs can count is not said of a directory.
    let status = out(&["status"]).1;
    assert!(status.lines().nth(1).unwrap().ends_with(" stored"), "{status}");
}

#[test]
fn what_a_node_writes_is_for_its_owner_only() {
    let folder = Folder::new("cli-modes");
    let dir = folder.path().join("data");
    Node::embedded(&dir).http(":0").start().unwrap().stop();
    let mut waiting = vec![dir];
    while let Some(path) = waiting.pop() {
        let meta = fs::metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o777;
        assert_eq!(mode, if meta.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        if meta.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        }
    }
}
