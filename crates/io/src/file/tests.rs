//! Reading: places, ends, changes.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow_array::cast::AsArray;
use arrow_schema::{DataType, Field, Schema};
use millstream_core::connector::{Chunk, Pull};

use super::*;
use std::time::Duration;

mod follow;
mod sink;

/// A directory of its own for each test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("millstream-io-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let field =
        |(name, kind, null): &(&str, DataType, bool)| Field::new(*name, kind.clone(), *null);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

fn ab() -> SchemaRef {
    schema(&[("a", DataType::Int64, false), ("b", DataType::Utf8, true)])
}

/// Pulls until there is nothing now or ever; the chunks, and whether it was the end.
fn drain(reader: &mut dyn SourceReader) -> (Vec<Chunk>, bool) {
    let mut chunks = Vec::new();
    loop {
        match reader.pull(Duration::ZERO).unwrap() {
            Pull::Chunk(decode) => chunks.push(decode()),
            Pull::Idle => return (chunks, false),
            Pull::End => return (chunks, true),
        }
    }
}

/// Rows and bad units, each with its place.
type Told = (Vec<(u64, i64)>, Vec<(u64, String)>);

/// Each row of column `a` with its place, and each bad unit's place and reason.
fn told(chunks: &[Chunk]) -> Told {
    let mut rows = Vec::new();
    let mut bad = Vec::new();
    for chunk in chunks {
        let done = chunk.rows.num_rows() + chunk.undecodable.len();
        assert_eq!(chunk.units, done as u64 + chunk.skipped, "the source law");
        assert_eq!(chunk.places.len(), chunk.rows.num_rows());
        let a = chunk.rows.column(0).as_primitive::<arrow_array::types::Int64Type>();
        rows.extend(chunk.places.iter().copied().zip(a.values().iter().copied()));
        bad.extend(chunk.undecodable.iter().map(|u| (u.place, u.reason())));
    }
    (rows, bad)
}

fn read(source: &dyn Source) -> Told {
    let mut reader = source.open(0, ab(), &[]).unwrap();
    let (chunks, ended) = drain(reader.as_mut());
    assert!(ended);
    told(&chunks)
}

fn flights() -> (CsvFile, SchemaRef) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/flights-2013-01.csv");
    let schema =
        schema(&[("tailnum", DataType::Utf8, false), ("dep_delay", DataType::Float64, false)]);
    (CsvFile::open(path), schema)
}

#[test]
fn the_flights_are_those_a_plain_script_counts() {
    let (file, schema) = flights();
    assert_eq!(
        file.fields().unwrap().unwrap().join(" "),
        "sched_dep carrier flight tailnum origin dest dep_delay"
    );
    let (chunks, _) = drain(file.open(0, schema, &[]).unwrap().as_mut());
    let units: u64 = chunks.iter().map(|c| c.units).sum();
    let rows: usize = chunks.iter().map(|c| c.rows.num_rows()).sum();
    let bad: Vec<_> = chunks.iter().flat_map(|c| &c.undecodable).collect();
    assert_eq!((units, rows, bad.len()), (27_005, 26_483, 521));
    assert!(bad.iter().all(|u| u.reason() == "dep_delay: 'NA' is not a number"));
    assert_eq!((bad[0].place, bad[0].bytes), (21, (910, 954)));
    assert_eq!(bad[0].raw, b"2013-01-01 06:00:00,B6,125,N618JB,JFK,FLL,NA");
    let mut tails: Vec<String> = chunks
        .iter()
        .flat_map(|c| c.rows.column(0).as_string::<i32>().iter().flatten().map(String::from))
        .collect();
    tails.sort();
    tails.dedup();
    assert_eq!(tails.len(), 3_141);
}

#[test]
fn reading_goes_on_from_any_chunk_with_the_same_rows() {
    let (file, schema) = flights();
    let mut reader = file.open(0, schema.clone(), &[]).unwrap();
    reader.limit(1_000);
    let (whole, _) = drain(reader.as_mut());
    for (done, chunk) in whole.iter().enumerate().step_by(5) {
        let mut reader = file.open(0, schema.clone(), &chunk.position).unwrap();
        reader.limit(1_000);
        let (rest, _) = drain(reader.as_mut());
        let flat = |chunks: &[Chunk]| -> Vec<(u64, String, f64)> {
            let row = |c: &Chunk, i: usize| {
                let delay = c.rows.column(1).as_primitive::<arrow_array::types::Float64Type>();
                (c.places[i], c.rows.column(0).as_string::<i32>().value(i).into(), delay.value(i))
            };
            chunks.iter().flat_map(|c| (0..c.places.len()).map(move |i| row(c, i))).collect()
        };
        let bad = |chunks: &[Chunk]| -> Vec<_> {
            chunks.iter().flat_map(|c| c.undecodable.clone()).collect()
        };
        assert_eq!(bad(&rest), bad(&whole[done + 1..]));
        assert_eq!(flat(&rest), flat(&whole[done + 1..]));
    }
}

#[test]
fn ends_of_files() {
    let dir = Dir::new();
    let json = |content: &str| read(&JsonLinesFile::open(dir.file("x", content)));
    let csv = |content: &str| read(&CsvFile::open(dir.file("x", content)));
    let rows = |n: u64| ((1..=n).map(|i| (i, i as i64)).collect::<Vec<_>>(), Vec::new());
    assert_eq!(json(""), rows(0));
    assert_eq!(json("\u{feff}"), rows(0));
    assert_eq!(json("{\"a\":1}\n{\"a\":2}\n"), rows(2));
    assert_eq!(json("{\"a\":1}\n{\"a\":2}"), rows(2));
    assert_eq!(json("\u{feff}{\"a\":1}\r\n{\"a\":2}\r\n"), rows(2));
    assert_eq!(json("{\"a\":1}\n\n \n{\"a\":2}\n").0, [(1, 1), (4, 2)]);
    let cut = json("{\"a\":1}\n{\"a\":");
    assert_eq!(cut.1, [(2, "expected a value at column 6, but the line ends".into())]);
    assert_eq!(csv(""), rows(0));
    assert_eq!(csv("a,b\n"), rows(0));
    assert_eq!(csv("a,b\n1,x\n2,y").0, [(2, 1), (3, 2)]);
    assert_eq!(csv("\u{feff}a,b\r\n1,x\r\n\r\n2,\"y\r\ny\"\r\n3,z").0, [(2, 1), (4, 2), (6, 3)]);
}

#[test]
fn a_file_that_is_not_there_or_no_file() {
    let dir = Dir::new();
    let open = |path: PathBuf| {
        let text = JsonLinesFile::open(path).open(0, ab(), &[]).err().unwrap().to_string();
        text.replace(&dir.0.display().to_string(), "DIR")
    };
    assert_eq!(
        open(dir.path("none")),
        "error[M0011]: there is no file DIR/none\n  = check the path"
    );
    assert_eq!(
        open(dir.0.clone()),
        "error[M0010]: DIR is a directory\n  = name a file in it; one source reads one file"
    );
    let file = CsvFile::open(dir.file("x.csv", "a,c\n1,2\n"));
    let mut reader = file.open(0, ab(), &[]).unwrap();
    let error = reader.pull(Duration::ZERO).err().unwrap().to_string();
    assert_eq!(
        error.replace(&dir.0.display().to_string(), "DIR"),
        "error[M0010]: DIR/x.csv: the header names no column `b`\n  = it names: a, c"
    );
}

#[test]
fn a_file_that_has_changed_since() {
    let dir = Dir::new();
    let file = JsonLinesFile::open(dir.file("x", "{\"a\":1}\n{\"a\":2}\n{\"a\":3}"));
    let mut reader = file.open(0, ab(), &[]).unwrap();
    reader.limit(2);
    let (chunks, _) = drain(reader.as_mut());
    let again = |position: &[u8]| {
        let text = file.open(0, ab(), position).err().unwrap().to_string();
        let first = text.lines().next().unwrap().to_string();
        first.replace(&dir.0.display().to_string(), "DIR")
    };
    dir.file("x", "{\"a\":1}\n");
    assert_eq!(
        again(&chunks[0].position),
        "error[M0002]: DIR/x has 8 bytes, but 16 were read before"
    );
    dir.file("x", "{\"a\":1}\n{\"a\":7}\n{\"a\":3}");
    assert_eq!(
        again(&chunks[0].position),
        "error[M0002]: DIR/x begins differently than the file that was read up to line 3"
    );
    dir.file("x", "{\"a\":1}\n{\"a\":2}\n{\"a\":3}0\n");
    assert_eq!(
        again(&chunks[1].position),
        "error[M0002]: DIR/x: its last line has grown since it was read"
    );
    assert_eq!(again(b"?"), "error[M0001]: not a position in a file");
    dir.file("x", "{\"a\":1}\n{\"a\":2}\n{\"a\":4}\n{\"a\":5}\n");
    let mut reader = file.open(0, ab(), &chunks[0].position).unwrap();
    assert_eq!(told(&drain(reader.as_mut()).0).0, [(3, 4), (4, 5)], "what follows may change");
}

#[test]
fn a_header_that_is_too_long_names_no_columns() {
    let dir = Dir::new();
    let mut file = CsvFile::open(dir.file("x", "a,b,cccccccccc\n1,2,3\n"));
    file.0.unit_bytes_max = 10;
    assert_eq!(file.fields().unwrap(), None);
    let mut reader = file.open(0, ab(), &[]).unwrap();
    let Pull::Chunk(decode) = reader.pull(Duration::ZERO).unwrap() else { panic!("no chunk") };
    assert_eq!(told(&[decode()]).1, [(1, "14 bytes long; the limit is 10".into())]);
    let error = reader.pull(Duration::ZERO).err().unwrap();
    assert_eq!(
        (error.code(), error.message().ends_with("no header: longer than the limit of 10 bytes")),
        (Code::Input, true)
    );
}

#[test]
fn the_fields_of_the_first_line() {
    let dir = Dir::new();
    let keys = |content: &str| JsonLinesFile::open(dir.file("x", content)).fields().unwrap();
    let named = |names: &[&str]| Some(names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(keys("{\"a\":{\"x\":[1]}, \"\\u0062\" : 2,\"a\":3}\n"), named(&["a", "b"]));
    assert_eq!(keys("{}"), named(&[]));
    assert_eq!((keys(""), keys("[1]\n"), keys("{\"a\":\n")), (None, None, None));
}

#[test]
fn a_csv_file_with_nothing_in_it_was_lost_on_its_way() {
    let dir = Dir::new();
    let empty = CsvFile::open(dir.file("x.csv", ""));
    let error = empty.fields().unwrap_err().to_string();
    assert_eq!(
        error.replace(&dir.0.display().to_string(), "DIR"),
        "error[M0012]: DIR/x.csv: there is no header: the file is empty\n  = the first line has to name the columns, also if no records follow"
    );
    assert_eq!(empty.follow(true).fields().unwrap(), None, "it may come");
    assert_eq!(
        JsonLinesFile::open(dir.file("x", "")).fields().unwrap(),
        None,
        "no header, no loss"
    );
}

#[test]
fn a_line_of_100_mb_costs_no_memory() {
    let dir = Dir::new();
    let path = dir.file("x", "{\"a\":1}\n");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let mb = vec![b'x'; 1 << 20];
    (0..100).for_each(|_| file.write_all(&mb).unwrap());
    file.write_all(b"\n{\"a\":3}\n").unwrap();
    let mut reader = FileReader::open(&JsonLinesFile::open(path).0, ab(), &[]).unwrap();
    let mut chunks = Vec::new();
    while let Pull::Chunk(decode) = reader.pull(Duration::ZERO).unwrap() {
        chunks.push(decode());
    }
    let (rows, bad) = told(&chunks);
    assert_eq!(rows, [(1, 1), (3, 3)]);
    assert_eq!(bad, [(2, "104857600 bytes long; the limit is 16777216".to_string())]);
    let unit = &chunks[1].undecodable[0];
    assert_eq!((unit.bytes, unit.raw.len()), ((8, 8 + (100 << 20)), 4 << 10));
    assert!(reader.held_max() <= (16 << 20) + (2 << 20), "{} bytes held", reader.held_max());
}
