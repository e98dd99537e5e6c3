//! Following a file that grows, is rotated, cut short, or away when the node starts.

use std::os::unix::fs::MetadataExt;

use super::{super::position::Position, *};

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn line(a: i64) -> String {
    format!("{{\"a\":{a}}}\n")
}

/// The values that come now.
fn now(reader: &mut dyn SourceReader) -> Vec<i64> {
    let (chunks, ended) = drain(reader);
    assert!(!ended, "a followed file never ends");
    let (rows, bad) = told(&chunks);
    assert_eq!(bad, []);
    rows.into_iter().map(|(_, a)| a).collect()
}

/// Makes `path` change later than anything before it, without waiting.
fn touch_after(path: &Path, seconds: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let time = std::time::SystemTime::now() + Duration::from_secs(seconds);
    file.set_modified(time).unwrap();
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn what_is_appended_comes_by_whole_lines() {
    let dir = Dir::new();
    let path = dir.file("log", "");
    let mut reader = JsonLinesFile::open(&path).follow(true).open(0, ab(), &[]).unwrap();
    assert_eq!(now(reader.as_mut()), [0i64; 0]);
    append(&path, "{\"a\":1}\n{\"a\"");
    assert_eq!(now(reader.as_mut()), [1]);
    assert_eq!(now(reader.as_mut()), [0i64; 0]);
    append(&path, ":2}\n");
    assert_eq!(now(reader.as_mut()), [2]);
}

#[test]
fn a_rotated_file_is_read_to_its_end_first() {
    let dir = Dir::new();
    let path = dir.file("log", line(1));
    let mut reader = JsonLinesFile::open(&path).follow(true).open(0, ab(), &[]).unwrap();
    assert_eq!(now(reader.as_mut()), [1]);
    append(&path, &line(2));
    std::fs::rename(&path, dir.path("log.1")).unwrap();
    assert_eq!(now(reader.as_mut()), [2]);
    append(&dir.path("log.1"), "{\"a\":3}"); // a last word, and no line end
    append(&path, "");
    assert_eq!(now(reader.as_mut()), [0i64; 0], "the writer may still write to the old file");
    append(&path, &line(4));
    assert_eq!(now(reader.as_mut()), [3, 4]);
    append(&path, &line(5));
    assert_eq!(now(reader.as_mut()), [5]);
}

#[test]
fn two_rotations_at_once_lose_nothing() {
    let dir = Dir::new();
    let path = dir.file("log", line(1));
    let mut reader = JsonLinesFile::open(&path).follow(true).open(0, ab(), &[]).unwrap();
    assert_eq!(now(reader.as_mut()), [1]);
    std::fs::rename(&path, dir.path("log.2")).unwrap();
    dir.file("log.1", line(2));
    touch_after(&dir.path("log.1"), 10);
    dir.file("log.bak", line(99));
    touch_after(&dir.path("log.bak"), 15);
    append(&path, &line(3));
    touch_after(&path, 20);
    assert_eq!(now(reader.as_mut()), [2, 3]);
}

#[test]
fn a_file_cut_short_starts_again() {
    let dir = Dir::new();
    let path = dir.file("log", line(1) + &line(2));
    let mut reader = JsonLinesFile::open(&path).follow(true).open(0, ab(), &[]).unwrap();
    assert_eq!(now(reader.as_mut()), [1, 2]);
    dir.file("log", line(3));
    assert_eq!(now(reader.as_mut()), [3]);
    dir.file("log", line(4) + &line(5) + &line(6));
    assert_eq!(now(reader.as_mut()), [4, 5, 6], "rewritten, and longer than before");
}

#[test]
fn a_file_cut_short_while_nobody_reads_starts_again() {
    let dir = Dir::new();
    let path = dir.file("log", line(1) + &line(2));
    let source = JsonLinesFile::open(&path).follow(true);
    let (chunks, _) = drain(source.open(0, ab(), &[]).unwrap().as_mut());
    let position = chunks.last().unwrap().position.clone();
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    let mut reader = source.open(0, ab(), &position).unwrap();
    assert_eq!(now(reader.as_mut()), [0i64; 0]);
    append(&path, &line(3));
    assert_eq!(now(reader.as_mut()), [3]);
    // Another file of that name is no beginning anew.
    dir.file("other", line(7));
    std::fs::rename(dir.path("other"), &path).unwrap();
    assert!(source.open(0, ab(), &position).is_err());
}

#[test]
fn a_position_is_found_in_the_rotated_file() {
    let dir = Dir::new();
    let path = dir.file("log", line(1) + &line(2));
    let source = JsonLinesFile::open(&path).follow(true);
    let mut reader = source.open(0, ab(), &[]).unwrap();
    reader.limit(1);
    let (chunks, _) = drain(reader.as_mut());
    std::fs::rename(&path, dir.path("log-20130131")).unwrap();
    dir.file("log", line(3));
    touch_after(&path, 10);
    let mut reader = source.open(0, ab(), &chunks[0].position).unwrap();
    assert_eq!(now(reader.as_mut()), [2, 3]);
    std::fs::remove_file(dir.path("log-20130131")).unwrap();
    let error = source.open(0, ab(), &chunks[0].position).err().unwrap();
    assert_eq!(error.code(), Code::Conflict);
}

#[test]
fn a_new_csv_file_has_a_header_of_its_own() {
    let dir = Dir::new();
    let path = dir.file("log", "a,b\n1,x\n");
    let mut reader = CsvFile::open(&path).follow(true).open(0, ab(), &[]).unwrap();
    assert_eq!(now(reader.as_mut()), [1]);
    std::fs::rename(&path, dir.path("log.1")).unwrap();
    append(&path, "b,a\ny,2\n");
    assert_eq!(now(reader.as_mut()), [2]);
}

#[test]
fn a_file_that_is_not_there_yet_is_waited_for() {
    let dir = Dir::new();
    let path = dir.path("log");
    let source = JsonLinesFile::open(&path).follow(true);
    assert_eq!(source.fields().unwrap(), None);
    let mut reader = source.open(0, ab(), &[]).unwrap();
    reader.limit(1);
    assert_eq!(now(reader.as_mut()), [0i64; 0]);
    append(&path, &(line(1) + &line(2)));
    assert_eq!(drain(reader.as_mut()).0.len(), 2, "the limit is remembered");
    append(&path, &line(3));
    assert_eq!(now(reader.as_mut()), [3]);

    let path = dir.path("log.csv");
    let source = CsvFile::open(&path).follow(true);
    assert_eq!(source.fields().unwrap(), None);
    let mut reader = source.open(0, ab(), &[]).unwrap();
    append(&path, "a,b\n1,x\n");
    assert_eq!(now(reader.as_mut()), [1]);
    // What will never come is not waited for.
    let error = CsvFile::open(dir.path("never.csv")).fields().unwrap_err();
    assert_eq!(error.code(), Code::Unknown);
}

#[test]
fn a_bad_line_names_the_file_it_is_in() {
    let dir = Dir::new();
    let path = dir.file("log", "no\n");
    let source = JsonLinesFile::open(&path).follow(true);
    let mut reader = source.open(0, ab(), &[]).unwrap();
    let bad = |reader: &mut dyn SourceReader| {
        let (chunks, _) = drain(reader);
        let units = chunks.into_iter().flat_map(|chunk| chunk.undecodable);
        units.map(|unit| (unit.file, unit.place)).collect::<Vec<_>>()
    };
    assert_eq!(bad(reader.as_mut()), [(path.display().to_string(), 1)]);
    assert_eq!(source.file(), Some(path.display().to_string()));
    // Away when the node starts again: its last lines are read under its new name.
    let position = Position::new(Place { line: 2, offset: 3 }, inode(&path), b"no\n").encode();
    append(&path, "neither\n");
    std::fs::rename(&path, dir.path("log.1")).unwrap();
    append(&path, "nor this\n");
    touch_after(&path, 1);
    let mut reader = source.open(0, ab(), &position).unwrap();
    let rotated = dir.path("log.1").display().to_string();
    assert_eq!(bad(reader.as_mut()), [(rotated, 2), (path.display().to_string(), 1)]);
}
