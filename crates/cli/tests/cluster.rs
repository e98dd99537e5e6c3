//! What people are told of a cluster, by a node that is none: it says what this test has written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    process::{Command, Output},
};

use millstream::{
    io::view::{FlowView, StageView, Status},
    prelude::*,
    test::Folder,
};
use millstream_core::engine::{ClusterView, NodeState, NodeView, StandbyView, Takeover, TaskView};

/// Answers each question with the next of these; the questions, once all were asked.
fn answer<V: Serialize + Send + 'static>(
    views: Vec<V>,
) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for view in views {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut lines = (&mut stream).lines().map(Result::unwrap);
            asked.push(lines.next().unwrap().replace(" HTTP/1.1", ""));
            assert!(lines.any(|line| line.is_empty()));
            // Whoever is asked listens here.
            let body = serde_json::to_string(&view).unwrap().replace("HERE", &at.to_string());
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
            write!(stream.get_mut(), "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        }
        asked
    });
    (at, answering)
}

fn run(args: &[&str], at: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.env_remove("MILLSTREAM_NODE").env_remove("MILLSTREAM_DATA");
    command.args(args).args(["--node", at]).output().unwrap()
}

fn said(output: &Output, at: &str) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).unwrap();
    text.replace(env!("CARGO_BIN_EXE_millstream"), "millstream").replace(at, "AT")
}

fn node(name: &str, state: NodeState, tasks: u64, standbys: u64, seen_ms: u64) -> NodeView {
    let (name, address) = (name.to_string(), format!("{name}.example:7070"));
    NodeView { name, address, state, tasks, standbys, seen_ms }
}

fn task(name: &str, owner: &str, standby: Option<(&str, Option<u64>)>) -> TaskView {
    let standbys = standby.map(|(node, lag_turns)| StandbyView { node: node.into(), lag_turns });
    TaskView {
        name: name.into(),
        owner: owner.into(),
        open: !owner.is_empty(),
        standbys: standbys.into_iter().collect(),
        ..TaskView::default()
    }
}

fn cluster() -> ClusterView {
    let mut tasks = vec![
        task("shop/orders/0", "b", Some(("c", Some(0)))),
        task("shop/orders/1", "c", Some(("b", Some(7)))),
        task("shop/sum/0", "c", Some(("b", None))),
        task("shop/sum/1", "", None),
    ];
    tasks[2].open = false;
    tasks[0].backlog_rows = 1_200;
    tasks[3].backlog_rows = 34;
    tasks[1].takeover = Some(Takeover {
        from: "a".into(),
        by: "c".into(),
        detected_ms: 652,
        fenced_ms: 143,
        output_ms: 61,
        ago_ms: 2_400,
    });
    ClusterView {
        app: "shop".into(),
        node: "b".into(),
        hold: "more than a third of the nodes were lost at once; waiting a moment".into(),
        nodes: vec![
            node("a", NodeState::Dead, 0, 0, 3_261),
            node("b", NodeState::Active, 1, 2, 40),
            node("c", NodeState::Active, 2, 1, 75),
        ],
        tasks,
    }
}

#[test]
fn a_cluster_for_people() {
    let (at, answering) = answer(vec![cluster()]);
    let at = at.to_string();
    let output = run(&["cluster", "status"], &at);
    assert_eq!(answering.join().unwrap(), ["GET /v1/cluster"]);
    let expected = "\
application shop   2 nodes   4 tasks   1,234 rows waiting   as node b knows it
b takes nothing over now: more than a third of the nodes were lost at once; waiting a moment

node  address         state   tasks  standbys        seen
a     a.example:7070  dead        0         0  3.26 s ago
b     b.example:7070  active      1         2  0.04 s ago
c     c.example:7070  active      2         1  0.07 s ago

task           owner       standby               waiting
shop/orders/0  b           c                       1,200
shop/orders/1  c           b, <= 7 turns behind        0
shop/sum/0     c, opening  b, warming up               0
shop/sum/1     nobody                                 34

takeover       from  by  detected  fenced  first output  in all        told
shop/orders/1  a     c     0.65 s  0.14 s        0.06 s  0.86 s  2.40 s ago
next: millstream cluster drain c --node AT
      millstream status --node AT
";
    assert_eq!(said(&output, &at), expected);
    assert!(output.status.success());
}

#[test]
fn a_cluster_for_programs() {
    let (at, answering) = answer(vec![cluster()]);
    let output = run(&["cluster", "status", "--json"], &at.to_string());
    answering.join().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["nodes"][0]["state"], "dead");
    assert_eq!(json["tasks"][1]["takeover"]["detected_ms"], 652);
    assert_eq!(serde_json::from_value::<ClusterView>(json).unwrap(), cluster());
}

/// Rows go to a topic of the same Kafka with their turns.
#[test]
fn a_sink_without_a_task_is_shown_with_what_it_got() {
    let stage = |name: &str, tasks, read, each_row: &str| StageView {
        name: name.into(),
        tasks,
        read,
        each_row: each_row.into(),
        ..StageView::default()
    };
    let stages = vec![
        stage("kept", 1, 20, "exactly once"),
        stage("out", 0, 1_300, "exactly once"),
        stage("rows", 2, 1_300, ""),
    ];
    let flow =
        FlowView { name: "shop".into(), state: "running".into(), stages, ..FlowView::default() };
    let status = Status { running: true, flows: vec![flow], ..Status::default() };
    let (at, answering) = answer(vec![status]);
    let at = at.to_string();
    let text = said(&run(&["status"], &at), &at);
    assert_eq!(answering.join().unwrap(), ["GET /v1/status"]);
    let expected = "
  kept     1 task           20 read  each row exactly once
  out     0 tasks        1,300 read  each row exactly once, with the turn it comes from
  rows    2 tasks        1,300 read
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_drain_says_where_tasks_went() {
    let mut before = cluster();
    before.nodes[2].address = "HERE".into();
    before.tasks[2].open = true;
    let mut half = before.clone();
    half.nodes[2].state = NodeState::Leaving;
    half.tasks[1].owner = "b".into();
    let mut after = half.clone();
    after.nodes[2].state = NodeState::Left;
    after.tasks[2].owner = "d".into();
    let (at, answering) = answer(vec![before.clone(), before, half, after]);
    let at = at.to_string();
    let output = run(&["cluster", "drain", "c"], &at);
    let text = said(&output, &at);
    let asked = answering.join().unwrap();
    assert_eq!(asked[..2], ["GET /v1/cluster", "POST /v1/cluster/drain?node=c"]);
    let (head, tail) = text.split_once(" after 0.").unwrap();
    assert_eq!(head, "c has left", "{text}");
    assert!(tail.ends_with(" s: 1 task to b, 1 task to d\n"), "{text}");
}

#[test]
fn a_drain_names_what_is_wrong() {
    let mut lonely = cluster();
    lonely.nodes[2].state = NodeState::Left;
    let mut silent = cluster();
    silent.nodes[2].address = "-".into();
    for (view, node, expected) in [
        (cluster(), "cc", "error[M0011]: application shop has no node `cc`\n  = there are: b, c\n"),
        (cluster(), "a", "error[M0011]: node `a` is not there any more: dead\n"),
        (
            lonely,
            "b",
            "\
error[M0002]: `b` is the only node: there is none to hand its tasks to
  = start another one first, or end its program: Ctrl-C or SIGTERM
",
        ),
        (
            silent,
            "c",
            "\
error[M0008]: node `c` does not listen: it cannot be asked
  = end its program instead: SIGTERM hands its tasks over, too
  = or start it with --http ADDRESS
",
        ),
    ] {
        let (at, answering) = answer(vec![view]);
        let at = at.to_string();
        let output = run(&["cluster", "drain", node], &at);
        answering.join().unwrap();
        assert_eq!(said(&output, &at), expected);
    }
}

#[test]
fn a_node_with_a_directory_of_its_own_is_not_one_of_many() {
    let folder = Folder::new("cli-alone");
    let alone = Node::embedded(folder.path().join("data")).http(":0").start().unwrap();
    let at = alone.http().unwrap().to_string();
    let expected = "\
error[M0010]: this node keeps all it has in a directory of its own: it is not one of many
  = nodes share the work of an application through Kafka: --engine kafka://HOST:PORT --app NAME
  = from one machine to many: docs/cluster.md
";
    for question in [&["cluster", "status"][..], &["cluster", "drain", "a"]] {
        let output = run(question, &at);
        assert_eq!((said(&output, &at).as_str(), output.status.code()), (expected, Some(3)));
    }
    // Nor can a web page that its owner visits ask it to leave.
    let post =
        "POST /v1/cluster/drain HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\n";
    let mut stream = std::net::TcpStream::connect(&at).unwrap();
    write!(stream, "{post}connection: close\r\n\r\n").unwrap();
    let answer = BufReader::new(stream).lines().next().unwrap().unwrap();
    assert!(answer.contains("403"), "{answer}");
}
