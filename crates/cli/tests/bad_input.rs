//! What is said of bad input: the whole text, compared with its golden copy in `golden/`.
//!
//! `GOLDEN=write cargo test -p millstream-cli --test bad_input` writes the copies anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fmt::Write,
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};

use millstream::{
    io::view,
    prelude::*,
    test::{Folder, TestNode},
};

#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: String,
    celsius: f64,
}

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    readings: u32,
}

impl Process for Sensor {
    type In = Reading;
    type Out = Reading;

    fn handle(&mut self, reading: Reading, ctx: &mut Context<Self>) -> Result<()> {
        if reading.celsius < -273.15 {
            let text = format!("{} degrees: colder than anything", reading.celsius);
            return Err(Failure::new(text));
        }
        self.readings += 1;
        ctx.emit(reading);
        Ok(())
    }
}

/// The same process, written anew.
#[derive(Default, Serialize, Deserialize)]
struct SensorTwo {
    readings: u32,
    warm: u32,
}

impl Process for SensorTwo {
    type In = Reading;
    type Out = Reading;
    const STATE_VERSION: u16 = 2;

    fn handle(&mut self, _: Reading, _: &mut Context<Self>) -> Result<()> {
        Ok(())
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The command line's stdout and stderr, and its exit code if that is not 0.
fn millstream(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.env_remove("MILLSTREAM_NODE").env_remove("MILLSTREAM_DATA");
    let output = command.args(args).output().unwrap();
    let mut said = String::from_utf8(output.stdout).unwrap();
    said += &String::from_utf8(output.stderr).unwrap();
    match output.status.code().unwrap() {
        0 => said,
        code => said + &format!("exit code {code}\n"),
    }
}

/// Compares with the golden copy. What differs from run to run is named: `names` are (text, name).
fn golden(name: &str, said: &str, names: &[(&str, &str)]) {
    let mut text = said.replace(env!("CARGO_BIN_EXE_millstream"), "millstream");
    names.iter().for_each(|(value, name)| text = text.replace(value, name));
    let mut shown = String::new();
    for line in text.lines() {
        let line = match line.strip_prefix("set aside ") {
            Some(_) => "set aside TIME".to_string(),
            None => squeeze(line.trim_end()),
        };
        writeln!(shown, "{line}").unwrap();
    }
    let copy = format!("{}/tests/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GOLDEN").is_some() {
        fs::write(&copy, &shown).unwrap();
    }
    let expected = fs::read_to_string(&copy).unwrap_or_default();
    assert_eq!(shown, expected, "{copy}");
}

/// Counts what repeats more than twenty times, instead of showing it.
fn squeeze(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let mut n = 1;
        while chars.next_if_eq(&c).is_some() {
            n += 1;
        }
        match n {
            0..=20 => out.extend(std::iter::repeat_n(c, n)),
            _ => write!(out, "{c}...({n} times)").unwrap(),
        }
    }
    out
}

fn flow<P: Process<In = Reading, Out = Reading>>(folder: &Path, file: &str) -> Flow {
    let input = folder.join(file);
    let flow = Flow::new("climate");
    let flow = match file.ends_with(".csv") {
        true => flow.source("readings", CsvFile::open(input)),
        false => flow.source("readings", JsonLinesFile::open(input)),
    };
    flow.key_by("sensor")
        .process::<P>("sensor", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(folder.join("out.jsonl")))
}

/// Runs a flow to its end; the error it ended with.
fn run(folder: &Path, flow: Flow) -> String {
    match Node::embedded(folder.join("data")).run(flow) {
        Ok(()) => String::new(),
        Err(e) => format!("{e}\n"),
    }
}

/// Runs the flow over a file that holds `bytes`, and compares what is then said of it.
fn bad_file(name: &str, bytes: &[u8]) {
    let folder = Folder::new(name);
    let file = if name.starts_with("csv") { "in.csv" } else { "in.jsonl" };
    fs::write(folder.path().join(file), bytes).unwrap();
    let mut said = run(folder.path(), flow::<Sensor>(folder.path(), file));
    if said.is_empty() {
        let data = folder.path().join("data");
        said += &millstream(&["dead", "list", "--data", path(&data)]);
        let out = fs::read_to_string(folder.path().join("out.jsonl")).unwrap();
        writeln!(said, "{} good rows\n", out.lines().count()).unwrap();
        if !said.starts_with("nothing was set aside") {
            said += &millstream(&["dead", "show", "1", "--data", path(&data)]);
        }
        assert!(millstream(&["ledger", "--check", "--data", path(&data)]).contains("balanced"));
        // Programs are told the same.
        let json = millstream(&["dead", "show", "1", "--json", "--data", path(&data)]);
        assert_eq!(said.contains("M001"), json.contains("\"code\":\"M001"), "{json}");
        // The time in the list is not the same twice.
        let at = said.find("T").filter(|at| said[..*at].ends_with(char::is_numeric));
        if let Some(at) = at {
            said.replace_range(at - 10..said[at..].find("  ").unwrap() + at, "TIME");
        }
    }
    golden(name, &said, &[(path(folder.path()), "DIR")]);
}

const GOOD: &str = "{\"sensor\":\"s1\",\"celsius\":20.5}\n";

fn json(name: &str, bad: &[u8]) {
    bad_file(name, &[GOOD.as_bytes(), bad].concat());
}

fn csv(name: &str, bad: &[u8]) {
    bad_file(name, &[b"sensor,celsius\ns1,20.5\n", bad].concat());
}

#[test]
fn bytes_that_are_no_utf_8() {
    json("json-invalid-utf8", b"{\"sensor\":\"s\xff2\",\"celsius\":1}\n");
    csv("csv-invalid-utf8", b"s\xff2,1\n");
}

#[test]
fn values_of_another_type() {
    json("json-wrong-type", b"{\"sensor\":\"s2\",\"celsius\":\"warm\"}\n");
    csv("csv-wrong-type", b"s2,warm\n");
}

#[test]
fn fields_that_are_missing() {
    json("json-missing-field", b"{\"sensor\":\"s2\"}\n");
    csv("csv-missing-field", b"s2\n");
    bad_file("csv-missing-column", b"sensor,fahrenheit\ns1,68\n");
}

#[test]
fn a_line_of_100_megabytes() {
    let long = "x".repeat(100 << 20);
    json("json-long-line", format!("{{\"sensor\":\"{long}\",\"celsius\":1}}\n{GOOD}").as_bytes());
    csv("csv-long-line", format!("{long},1\ns2,3\n").as_bytes());
}

#[test]
fn json_that_is_deeply_nested() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let line = format!("{{\"sensor\":\"s2\",\"celsius\":{deep}}}\n");
    json("json-deeply-nested", line.as_bytes());
}

#[test]
fn files_that_were_cut_off() {
    json("json-truncated", b"{\"sensor\":\"s2\",\"celsi");
    csv("csv-truncated", b"\"s2");
}

#[test]
fn files_that_are_empty() {
    bad_file("json-empty", b"");
    bad_file("csv-empty", b"");
    bad_file("csv-header-alone", b"sensor,celsius\n");
}

#[test]
fn a_handler_that_fails() {
    json("json-handler-fails", b"{\"sensor\":\"s2\",\"celsius\":-300}\n");
}

fn prepared(name: &str) -> Folder {
    let folder = Folder::new(name);
    fs::write(folder.path().join("in.jsonl"), GOOD).unwrap();
    assert_eq!(run(folder.path(), flow::<Sensor>(folder.path(), "in.jsonl")), "");
    folder
}

#[test]
fn a_stream_that_is_unknown() {
    let folder = prepared("unknown-stream");
    let data = folder.path().join("data");
    let said = millstream(&["streams", "tail", "climat/sensor", "--data", path(&data)]);
    golden("unknown-stream", &said, &[(path(folder.path()), "DIR")]);
}

#[test]
fn a_flow_whose_columns_changed() {
    #[derive(Serialize, Deserialize)]
    struct Humid {
        sensor: String,
        humidity: f64,
    }
    #[derive(Default, Serialize, Deserialize)]
    struct Other {}
    impl Process for Other {
        type In = Humid;
        type Out = Humid;
        fn handle(&mut self, _: Humid, _: &mut Context<Self>) -> Result<()> {
            Ok(())
        }
    }
    let folder = prepared("changed-schema");
    let input = folder.path().join("in.jsonl");
    fs::write(&input, "{\"sensor\":\"s1\",\"humidity\":0.4}\n").unwrap();
    let flow = Flow::new("climate")
        .source("readings", JsonLinesFile::open(input))
        .key_by("sensor")
        .process::<Other>("sensor", OnError::DeadLetter)
        .sink("out", Discard::new());
    golden("changed-schema", &run(folder.path(), flow), &[(path(folder.path()), "DIR")]);
}

#[test]
fn a_flow_whose_partition_count_changed() {
    let folder = prepared("changed-partitions");
    let flow = flow::<Sensor>(folder.path(), "in.jsonl").partitions(8);
    golden("changed-partitions", &run(folder.path(), flow), &[(path(folder.path()), "DIR")]);
}

#[test]
fn state_of_another_version() {
    let folder = prepared("other-version");
    let flow = flow::<SensorTwo>(folder.path(), "in.jsonl");
    golden("other-version", &run(folder.path(), flow), &[(path(folder.path()), "DIR")]);
}

#[test]
fn a_directory_that_cannot_be_made() {
    let folder = Folder::new("file-in-the-way");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Node::embedded(file.join("data")).start().err().unwrap().to_string();
    golden("file-in-the-way", &error, &[(path(folder.path()), "DIR")]);
}

/// Set for this program when it runs as somebody who may not write there.
const UNWRITABLE: &str = "MILLSTREAM_TEST_UNWRITABLE";
/// Whom every system has and who may do nothing.
const NOBODY: u32 = 65_534;

#[test]
fn a_directory_that_cannot_be_written() {
    let start = |dir: &Path| Node::embedded(dir).start().err().map(|e| e.to_string());
    if let Some(dir) = std::env::var_os(UNWRITABLE) {
        eprintln!("{}", start(Path::new(&dir)).unwrap());
        return;
    }
    let folder = Folder::new("read-only");
    let data = folder.path().join("data");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let error = match fs::write(folder.path().join("probe"), "") {
        Err(_) => start(&data).unwrap(),
        // Root may do everything, and become somebody who may not.
        Ok(()) => {
            let mut other = Command::new(std::env::current_exe().unwrap());
            other.args(["--exact", "a_directory_that_cannot_be_written", "--nocapture"]);
            let said = other.uid(NOBODY).gid(NOBODY).env(UNWRITABLE, &data).output();
            let said = String::from_utf8(said.unwrap().stderr).unwrap();
            said[said.find("error[").unwrap()..].to_string()
        }
    };
    golden("read-only", &error, &[(path(folder.path()), "DIR")]);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_port_in_use() {
    let folder = Folder::new("port-in-use");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = Node::embedded(folder.path()).http(&address).start().err().unwrap().to_string();
    golden("port-in-use", &error, &[(&address, "ADDRESS")]);
}

#[test]
fn a_directory_in_use() {
    let folder = Folder::new("directory-in-use");
    let pid = format!("pid {}", std::process::id());
    let names = [(path(folder.path()), "DIR"), (&pid, "pid PID")];
    let node = Node::embedded(folder.path()).start().unwrap();
    let silent = Node::embedded(folder.path()).start().err().unwrap();
    golden("directory-in-use", &silent.to_string(), &names);
    node.stop();
    let node = Node::embedded(folder.path()).http(":0").start().unwrap();
    let address = node.http().unwrap().to_string();
    let heard = Node::embedded(folder.path()).start().err().unwrap().to_string();
    golden("directory-in-use-http", &heard.replace(&address, "ADDRESS"), &names);
}

#[test]
fn a_segment_that_is_damaged() {
    let folder = prepared("corrupt-segment");
    let data = folder.path().join("data");
    let mut segments: Vec<_> =
        fs::read_dir(data.join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    // A byte near its beginning: records that are whole follow, so it is no torn end. The last one
    // may be larger than all others.
    let mut bytes = fs::read(&segments[0]).unwrap();
    let at = bytes.len() / 8;
    bytes[at] ^= 1;
    fs::write(&segments[0], bytes).unwrap();
    let names = [(path(folder.path()), "DIR")];
    // Where turns begin in the log is not the same twice.
    let byte = |said: String| {
        let (before, after) = said.split_once("at byte ").unwrap();
        format!("{before}at byte BYTE{}", after.trim_start_matches(char::is_numeric))
    };
    let error = run(folder.path(), flow::<Sensor>(folder.path(), "in.jsonl"));
    golden("corrupt-segment", &byte(error), &names);
    let status = millstream(&["status", "--data", path(&data)]);
    golden("corrupt-segment-status", &byte(status), &names);
}

/// Hands in a record and waits until it is durable.
fn post(node: SocketAddr, record: &str) -> String {
    loop {
        let mut stream = TcpStream::connect(node).unwrap();
        let length = record.len();
        write!(
            stream,
            "POST /v1/streams/readings/records HTTP/1.1\r\nHost: {node}\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n{record}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // Until its source is open, the node says "try again".
        if !answer.starts_with("HTTP/1.1 503") {
            return answer;
        }
    }
}

/// What the status says keeps the engine from writing, and what it advises.
fn engine_error(status: &str) -> String {
    let lines = status.lines().skip_while(|line| !line.starts_with("error["));
    lines.take_while(|line| !line.is_empty()).fold(String::new(), |said, line| said + line + "\n")
}

#[test]
fn a_disk_that_is_full() {
    let flow = flow::<Sensor>(Path::new("."), "in.jsonl");
    let mut node = TestNode::new(flow).seed(1);
    node.run_until_idle();
    let used: u64 = node.world().disk().files().iter().map(|(_, bytes)| bytes).sum();
    node.world().disk().set_capacity(Some(used));
    node.put("readings", serde_json::json!({"sensor": "s1", "celsius": 20.5}));
    let said = loop {
        node.world().step();
        let status = view::status(node.world().engine().as_ref(), None).unwrap();
        if !status.engine_error.is_empty() {
            break status.engine_error;
        }
    };
    golden("disk-full", &said, &[]);
    node.world().disk().set_capacity(None);
    node.run_until_idle();
    node.assert_ledger_balanced();
}

#[test]
fn a_limit_for_stored_bytes_that_is_reached() {
    let folder = Folder::new("disk-bytes-max");
    let data = folder.path().join("data");
    let node = Node::embedded(&data).engine(|o| o.disk_bytes_max = Some(1)).http(":0");
    let node = node.start().unwrap();
    let flow = Flow::new("climate")
        .source("readings", HttpSource::new("readings"))
        .rows::<Reading>()
        .sink("out", Discard::new());
    node.deploy(&flow).unwrap();
    let address = node.http().unwrap();
    let status = millstream(&["status", "--node", &address.to_string()]);
    let said = engine_error(&status);
    // How many bytes the log's own records have is no business of this test.
    let (before, after) = said.split_once(" bytes are stored").unwrap();
    let before = before.trim_end_matches(char::is_numeric);
    let mut said = format!("{before}N bytes are stored{after}");
    let answer = post(address, GOOD);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    writeln!(said, "{}\n{body}", head.lines().next().unwrap()).unwrap();
    golden("disk-bytes-max", &said, &[(path(folder.path()), "DIR")]);
    node.stop();
}

#[test]
fn an_event_dated_2099() {
    #[derive(Serialize, Deserialize)]
    struct Event {
        sensor: String,
        at: i64,
    }
    #[derive(Default, Serialize, Deserialize)]
    struct Seen {
        late: u32,
        on_time: u32,
    }
    impl Process for Seen {
        type In = Event;
        type Out = Event;
        fn handle(&mut self, _: Event, ctx: &mut Context<Self>) -> Result<()> {
            match ctx.is_late() {
                true => self.late += 1,
                false => self.on_time += 1,
            }
            Ok(())
        }
    }
    let folder = Folder::new("event-2099");
    let data = folder.path().join("data");
    let node = Node::embedded(&data).http(":0").start().unwrap();
    let flow = Flow::new("climate")
        .source("readings", HttpSource::new("readings"))
        .event_time("at", Duration::from_secs(60))
        .key_by("sensor")
        .process::<Seen>("sensor", OnError::DeadLetter)
        .sink("out", Discard::new());
    node.deploy(&flow).unwrap();
    let address = node.http().unwrap();
    let now = millstream::runtime::threads::now().ms();
    for at in [4_070_908_800_000, now] {
        let answer = post(address, &format!("{{\"sensor\":\"s1\",\"at\":{at}}}\n"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(node.drain(Duration::from_secs(20)));
    assert_eq!(node.ledger().violations(), Vec::<String>::new());
    let seen: Option<Seen> = node.state("sensor", &"s1".into()).unwrap();
    let seen = seen.unwrap();
    assert_eq!((seen.late, seen.on_time), (0, 1));
    node.stop();
    let said = millstream(&["dead", "show", "1", "--data", path(&data)]);
    golden("event-2099", &said, &[(path(folder.path()), "DIR")]);
}
