//! What does not fit together is said before anything runs: where, what, why, what to do.

#![expect(clippy::unwrap_used, reason = "tests")]

use millstream::prelude::*;

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    at: Time,
    value: f64,
}

#[derive(Serialize, Deserialize)]
struct Count {
    key: String,
    rows: u64,
}

#[derive(Serialize, Deserialize)]
struct Misread {
    key: String,
    rows: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Keyed;

impl Process for Keyed {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(row);
        Ok(())
    }
}

fn rows() -> Flow {
    Flow::new("f").source("rows", Stdin::json_lines()).rows::<Row>()
}

fn minute() -> Window {
    Window::tumble("at", Duration::from_mins(1))
}

/// The flow's name and code are the same each time; what follows is what matters.
fn says(flow: Flow, wanted: &str) {
    let said = flow.check().unwrap_err().to_string();
    assert_eq!(said.strip_prefix("error[M0010]: flow `f`: "), Some(wanted), "{said}");
}

#[test]
fn a_flow_that_fits_is_accepted() {
    let flow = rows()
        .event_time("at", Duration::ZERO)
        .key_by("key")
        .window("counts", minute(), [Aggregate::count("rows")])
        .map("count", |c: Count| c)
        .sink("out", JsonLinesFile::create("out.jsonl"))
        .sink("seen", Stdout);
    let promised = "\
flow `f` fits
  sink `out` gets each row exactly once
  sink `seen` gets each row at least once";
    assert_eq!(flow.check().unwrap().to_string(), promised);
}

#[test]
fn a_window_needs_a_source_with_event_time() {
    let flow = || rows().key_by("key").window("counts", minute(), [Aggregate::count("rows")]);
    says(
        flow(),
        "source `rows` has no event time, so no window closes\n  \
         = put `.event_time(column, delay)` behind the source",
    );
    let behind = rows().map("same", |r: Row| r).key_by("key");
    assert!(behind.window("counts", minute(), [Aggregate::count("rows")]).check().is_err());
}

#[test]
fn a_field_is_read_as_what_its_column_is() {
    let flow = rows()
        .event_time("at", Duration::ZERO)
        .key_by("key")
        .window("counts", minute(), [Aggregate::count("rows")])
        .map("misread", |c: Misread| c);
    says(
        flow,
        "column `rows` is UInt64, and `misread` reads it as Utf8\n  \
         = change the field's type, or the step before, so that they agree",
    );
}

#[test]
fn a_missing_column_is_guessed() {
    says(
        rows().key_by("kye").process::<Keyed>("keyed", OnError::Stop),
        "`key_by` asks for column `kye`, which its stream lacks\n  = did you mean `key`?",
    );
}

#[test]
fn a_keyed_step_needs_a_key() {
    says(
        rows().process::<Keyed>("keyed", OnError::Stop),
        "nothing says by which key `keyed` works\n  = put `.key_by(column)` before it",
    );
    says(
        rows().key_by("value").process::<Keyed>("keyed", OnError::Stop),
        "column `value` is Float64 and cannot be a key\n  \
         = a key is text, an integer, a bool, bytes or a timestamp",
    );
}

#[test]
fn steps_have_names_of_their_own() {
    says(
        rows().sink("rows", Discard::new()),
        "two steps are called `rows`\n  \
         = state and streams are found again by name, so each step needs its own",
    );
    says(
        rows().sink("a b", Discard::new()),
        "`a b` cannot name a step\n  = names are made of letters, digits, `_` and `-`",
    );
    says(rows().from("row"), "there is no step `row` to go on from");
    says(rows().from_side("rows", "$late"), "step `rows` has no side output `$late`");
}

#[test]
fn a_file_of_json_is_judged_by_its_first_row_with_care() {
    #[derive(Serialize, Deserialize)]
    struct Loose {
        key: String,
        value: f64,
        note: Option<String>,
    }
    let folder = millstream::test::Folder::new("first-row");
    let check = |first: &str| {
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, format!("{first}\n")).unwrap();
        Flow::new("f").source("rows", JsonLinesFile::open(path)).rows::<Loose>().check()
    };
    check(r#"{"key":"a","value":1}"#).unwrap(); // an `Option` may be missing
    check(r#"{"key":"a"}"#).unwrap(); // a bad row will be set aside, as it would be further on
    let slip = check(r#"{"key":"a","valeu":1}"#).unwrap_err().to_string();
    assert!(slip.contains("did you mean `valeu`?"), "{slip}");
    let other = check(r#"{"something":"else"}"#).unwrap_err().to_string();
    assert!(other.contains("has no field `key`"), "{other}");
}

#[test]
fn a_message_must_find_one_step() {
    let two = rows()
        .key_by("key")
        .process::<Keyed>("first", OnError::Stop)
        .key_by("key")
        .process::<Keyed>("second", OnError::Stop);
    says(
        two,
        "`first` and `second` are processes of one type\n  \
         = a message is sent to a type: `struct Other(First);` makes another",
    );
}

#[test]
fn a_flow_has_a_plain_name() {
    for name in ["", "a/b", "f \"q\""] {
        let error = Flow::new(name).source("s", Stdin::csv()).check().unwrap_err().to_string();
        assert!(error.contains("cannot name a flow"), "{error}");
    }
}

#[test]
fn two_sinks_do_not_share_a_file() {
    let folder = millstream::test::Folder::new("shared-file");
    let sink = || JsonLinesFile::create(folder.path().join("out.jsonl"));
    let flow = rows().sink("one", sink()).from("rows").sink("two", sink());
    let error = flow.check().unwrap_err().to_string();
    assert!(error.contains("sinks `f/one` and `f/two` both write to "), "{error}");
    // Nor by another way to it: through a folder that is a link, or a second name of the file.
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    std::fs::write(real.join("old.jsonl"), "").unwrap();
    std::fs::hard_link(real.join("old.jsonl"), real.join("second.jsonl")).unwrap();
    for (one, two) in [("new/a.jsonl", "new/a.jsonl"), ("old.jsonl", "second.jsonl")] {
        let flow = rows().sink("one", JsonLinesFile::create(real.join(one)));
        let flow = flow.from("rows").sink("two", JsonLinesFile::create(link.join(two)));
        let error = flow.check().unwrap_err().to_string();
        assert!(error.contains("sinks `f/one` and `f/two` both write to "), "{error}");
    }
    // Nor do those of two flows on one node.
    let input = folder.path().join("rows.csv");
    std::fs::write(&input, "key\na\n").unwrap();
    let flow = |name: &str| Flow::new(name).source("s", CsvFile::open(&input)).sink("out", sink());
    let node = Node::embedded(folder.path().join("data")).start().unwrap();
    node.deploy(&flow("f")).unwrap();
    let error = node.deploy(&flow("g")).unwrap_err().to_string();
    assert!(error.contains("sinks `f/out` and `g/out` both write to "), "{error}");
}

#[test]
fn json_without_a_reader_needs_rows() {
    let folder = millstream::test::Folder::new("no-rows");
    let input = folder.path().join("rows.jsonl");
    std::fs::write(&input, "{\"key\":\"a\",\"n\":1}\n").unwrap();
    let flow = Flow::new("f").source("s", JsonLinesFile::open(&input)).sink("out", Stdout);
    let error = flow.check().unwrap_err().to_string();
    assert!(error.contains("put `.rows::<T>()` behind the source"), "{error}");
}

#[test]
fn windows_leave_no_gaps() {
    let window = Window::hop("at", Duration::from_secs(60), Duration::from_secs(90));
    let flow = rows().event_time("at", Duration::ZERO).key_by("key");
    says(
        flow.window("counts", window, [Aggregate::count("rows")]),
        "window `counts` starts every 90000 ms and is 60000 ms long: rows between two windows would \
         be in none\n  = make the slide no longer than the window",
    );
}
