//! The sink's protocol, with crashes wherever they can happen.

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use millstream_core::{
    Batch,
    connector::{Prepared, Sink, SinkWriter},
};

use super::*;

fn rows(values: &[i64]) -> Vec<Batch> {
    let a: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    vec![Batch::derived(RecordBatch::try_from_iter([("a", a)]).unwrap())]
}

fn one() -> SchemaRef {
    schema(&[("a", DataType::Int64, false)])
}

fn open(sink: &JsonLinesSink, note: &[u8]) -> Box<dyn SinkWriter> {
    sink.open(0, one(), note).unwrap()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The first line of the error that opening gives.
fn refused(sink: &JsonLinesSink, note: &[u8], dir: &Dir) -> String {
    let text = sink.open(0, one(), note).err().unwrap().to_string();
    text.lines().next().unwrap().replace(&dir.0.display().to_string(), "DIR")
}

#[test]
fn a_turn_after_the_other() {
    let dir = Dir::new();
    let path = dir.path("deep/er/out.jsonl");
    let sink = JsonLinesFile::create(&path);
    let mut writer = open(&sink, &[]);
    for values in [&[1, 2][..], &[], &[3]] {
        let turn = writer.prepare(&rows(values)).unwrap();
        writer.write(&turn).unwrap();
        writer.write(&turn).unwrap(); // an answer was lost: nothing changes
    }
    assert_eq!(text(&path), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&dir.path("deep"))), (0o600, 0o700));
}

/// Writes two turns and crashes in the second after `written` of its bytes are in the file.
fn crash(sink: &JsonLinesSink, path: &Path, written: usize) -> Prepared {
    let _ = std::fs::remove_file(path);
    let mut writer = open(sink, &[]);
    let first = writer.prepare(&rows(&[1])).unwrap();
    writer.write(&first).unwrap();
    let second = writer.prepare(&rows(&[2, 3])).unwrap();
    append(path, &second.bytes[..written]);
    second
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_crash_at_any_byte_changes_nothing() {
    let dir = Dir::new();
    let path = dir.path("out");
    let sink = JsonLinesFile::create(&path);
    for written in 0..=16 {
        let lost = crash(&sink, &path, written);
        for _ in 0..2 {
            let mut writer = open(&sink, &lost.note);
            let again = writer.prepare(&rows(&[2, 3])).unwrap();
            assert_eq!(again, lost, "the same rows give the same bytes");
            writer.write(&again).unwrap();
            assert_eq!(text(&path), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n", "{written} bytes");
        }
        let mut writer = open(&sink, &lost.note);
        let again = writer.prepare(&rows(&[2, 3])).unwrap();
        writer.write(&again).unwrap();
        let third = writer.prepare(&rows(&[4])).unwrap();
        writer.write(&third).unwrap();
        assert_eq!(text(&path).len(), 32);
    }
}

#[test]
fn torn_bytes_in_the_unconfirmed_range_are_replaced() {
    let dir = Dir::new();
    let path = dir.path("out");
    let sink = JsonLinesFile::create(&path);
    let lost = crash(&sink, &path, 0);
    append(&path, &[0; 9]); // what a power failure leaves of a write that was never synced
    let mut writer = open(&sink, &lost.note);
    let again = writer.prepare(&rows(&[2, 3])).unwrap();
    writer.write(&again).unwrap();
    assert_eq!(text(&path), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
}

#[test]
fn a_file_changed_from_outside_is_refused() {
    let dir = Dir::new();
    let path = dir.path("out");
    let sink = JsonLinesFile::create(&path);
    let lost = crash(&sink, &path, 3);
    append(&path, b"and more than that");
    assert_eq!(
        refused(&sink, &lost.note, &dir),
        "error[M0002]: DIR/out was changed from outside: it has 29 bytes, but 24 were written"
    );
    std::fs::write(&path, "{}").unwrap();
    assert_eq!(
        refused(&sink, &lost.note, &dir),
        "error[M0002]: DIR/out was changed from outside: it has 2 bytes, but 8 were written and confirmed"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(refused(&sink, &lost.note, &dir).contains("it has 0 bytes, but 8"));
    assert!(refused(&sink, b"?", &dir).contains("not the note of a file sink"));
}

#[test]
fn two_writers_on_one_path_notice_each_other() {
    let dir = Dir::new();
    let sink = JsonLinesFile::create(dir.path("out"));
    let (mut one, mut other) = (open(&sink, &[]), open(&sink, &[]));
    let long = one.prepare(&rows(&[1, 2])).unwrap();
    one.write(&long).unwrap();
    let short = other.prepare(&rows(&[9])).unwrap();
    assert_eq!(other.write(&short).err().unwrap().code(), Code::Conflict);
    assert_eq!(text(&dir.path("out")), "{\"a\":1}\n{\"a\":2}\n");
}

#[test]
fn other_rows_for_the_same_turn_are_a_bug() {
    let dir = Dir::new();
    let path = dir.path("out");
    let sink = JsonLinesFile::create(&path);
    let lost = crash(&sink, &path, 16);
    let error = open(&sink, &lost.note).prepare(&rows(&[7])).err().unwrap();
    assert_eq!(error.code(), Code::Bug);
    assert_eq!(text(&path), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
}

#[test]
fn a_new_flow_does_not_touch_old_results() {
    let dir = Dir::new();
    let path = dir.file("out", "old\n");
    let sink = JsonLinesFile::create(&path);
    assert_eq!(
        refused(&sink, &[], &dir),
        "error[M0002]: DIR/out already has 4 bytes that this flow has not written"
    );
    let mut writer = open(&sink.append(), &[]);
    let turn = writer.prepare(&rows(&[1])).unwrap();
    writer.write(&turn).unwrap();
    assert_eq!(text(&path), "old\n{\"a\":1}\n");
    assert_eq!(
        refused(&JsonLinesFile::create(&dir.0), &[], &dir),
        "error[M0010]: DIR is a directory"
    );
}

#[test]
fn a_folder_has_a_part_for_each_partition() {
    let dir = Dir::new();
    let mut folder = dir.path("parts").into_os_string();
    folder.push("/");
    for sink in [JsonLinesFile::create(folder), JsonLinesFile::create(dir.path("p2")).partitioned()]
    {
        assert!(Sink::partitioned(&sink));
        let mut writer = sink.open(3, one(), &[]).unwrap();
        let turn = writer.prepare(&rows(&[1])).unwrap();
        writer.write(&turn).unwrap();
    }
    assert_eq!(text(&dir.path("parts/part-3.jsonl")), "{\"a\":1}\n");
    assert_eq!(text(&dir.path("p2/part-3.jsonl")), "{\"a\":1}\n");
}

#[test]
fn a_file_that_another_program_writes_is_left_to_it() {
    let dir = Dir::new();
    let path = dir.path("out");
    let sink = JsonLinesFile::create(&path);
    // The writer before may still be at work when its task is opened again.
    let before = open(&sink, &[]);
    drop((open(&sink, &[]), before));
    let other = File::open(&path).unwrap();
    other.lock().unwrap();
    let error = sink.open(0, one(), &[]).err().unwrap().to_string();
    let expected = "\
error[M0007]: DIR/out is being written by another program
  = is it a node? a file is one sink's alone: stop that node, or give the sink another path";
    assert_eq!(error.replace(&dir.0.display().to_string(), "DIR"), expected);
    drop(other);
    open(&sink, &[]);
}
