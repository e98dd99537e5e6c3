//! Our own connectors pass the suite that is given to authors of others, and the suite notices
//! connectors that do not keep their promises.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Mutex,
};

use millstream::{
    connector::*,
    io::{CsvFile, Generator, JsonLinesFile},
    test::{Folder, conformance},
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Row {
    n: u64,
    name: Option<String>,
}

fn rows(n: u64) -> Vec<Row> {
    (0..n).map(|n| Row { n, name: (n % 3 > 0).then(|| format!("row {n}")) }).collect()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_string).collect()
}

#[test]
fn files_are_read_on_from_any_position() {
    let folder = Folder::new("conform-files");
    let (json, csv) = (folder.path().join("in.jsonl"), folder.path().join("in.csv"));
    let line = |row: &Row| serde_json::to_string(row).unwrap();
    let mut text: Vec<String> = rows(300).iter().map(line).collect();
    text.insert(100, "{\"n\": \"no number\"}".into());
    text.insert(200, String::new());
    fs::write(&json, text.join("\n")).unwrap();
    let fields = |row: &Row| format!("{},{}", row.n, row.name.as_deref().unwrap_or_default());
    let mut text: Vec<String> = rows(300).iter().map(fields).collect();
    text.insert(0, "n,name".into());
    text.insert(100, "no number,".into());
    fs::write(&csv, text.join("\n") + "\n").unwrap();
    for follow in [false, true] {
        conformance::source::<Row>(&JsonLinesFile::open(&json).follow(follow));
        conformance::source::<Row>(&CsvFile::open(&csv).follow(follow));
    }
}

#[test]
fn a_generator_makes_the_same_rows_again() {
    conformance::source::<Row>(&Generator::from_fn(
        7,
        9_000,
        2,
        |row, rng| serde_json::json!({ "n": row, "name": rng.below(9).to_string() }),
    ));
}

#[test]
fn a_file_gets_each_row_once() {
    let folder = Folder::new("conform-sink");
    let path = folder.path().join("out.jsonl");
    conformance::sink(&JsonLinesFile::create(&path), &rows(10), || lines(&path));
    let written: Vec<Row> =
        lines(&path).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(written.iter().map(|row| row.n).eq(0..10));
    let parts = folder.path().join("parts/");
    let part = parts.join("part-0.jsonl");
    conformance::sink(&JsonLinesFile::create(&parts), &rows(10), || lines(&part));
    conformance::sink(&JsonLinesFile::create(&part).append(), &rows(10), || lines(&part));
}

/// A source of a thousand rows, with a fault.
struct Numbers(Fault);

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It begins anew, wherever it is opened.
    Forgets,
    /// Its positions name the chunk before.
    Repeats,
    /// It does not count what it sets aside.
    Miscounts,
    /// A position that is none means the beginning.
    Guesses,
    /// Rows are made when they are decoded.
    Decodes,
}

impl Source for Numbers {
    fn finite(&self) -> bool {
        true
    }

    fn open(&self, _: u32, schema: SchemaRef, at: &[u8]) -> Result<Box<dyn SourceReader>> {
        let at = match (self.0, at.try_into().map(u64::from_le_bytes)) {
            (Fault::Forgets, Ok(_)) => 0,
            (_, Ok(at)) => at,
            (_, Err(_)) if at.is_empty() || self.0 == Fault::Guesses => 0,
            (_, Err(_)) => return Err(Error::corrupt("no position")),
        };
        let decoded = Arc::new(Mutex::new(at));
        Ok(Box::new(NumberReader { fault: self.0, schema, at, units: 100, decoded }))
    }
}

struct NumberReader {
    fault: Fault,
    schema: SchemaRef,
    at: u64,
    units: u64,
    decoded: Arc<Mutex<u64>>,
}

impl SourceReader for NumberReader {
    fn pull(&mut self, _: Duration) -> Result<Pull> {
        let (at, end) = (self.at, (self.at + self.units).min(1_000));
        if at == end {
            return Ok(Pull::End);
        }
        self.at = end;
        let (fault, schema, decoded) = (self.fault, self.schema.clone(), self.decoded.clone());
        Ok(Pull::Chunk(Box::new(move || {
            let mut decoded = decoded.lock().unwrap();
            let first = if fault == Fault::Decodes { *decoded } else { at };
            *decoded += end - at;
            let rows: Vec<Row> = (first..first + end - at).map(|n| Row { n, name: None }).collect();
            let position = if fault == Fault::Repeats { at + 1 } else { end };
            Chunk {
                rows: columns(&schema, &rows).unwrap(),
                places: (at + 1..=end).collect(),
                undecodable: Vec::new(),
                units: end - at + u64::from(fault == Fault::Miscounts),
                skipped: 0,
                position: position.to_le_bytes().to_vec(),
                durable: None,
            }
        })))
    }

    fn limit(&mut self, units: u64) {
        self.units = units.min(100);
    }
}

/// A list that rows are added to, with a fault.
struct List {
    flaw: Flaw,
    /// Turn and line.
    rows: Arc<Mutex<Vec<(u64, String)>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// It cannot tell a turn that it has, and says so.
    AtLeastOnce,
    /// It cannot, and does not.
    Claims,
    /// It takes a turn that comes again for one that it has, whether that was written or not.
    Loses,
    /// It writes when it should prepare.
    Hurries,
}

impl Sink for List {
    fn guarantee(&self) -> Guarantee {
        match self.flaw {
            Flaw::AtLeastOnce => Guarantee::AtLeastOnce,
            _ => Guarantee::ExactlyOnce,
        }
    }

    fn open(&self, _: u32, _: SchemaRef, note: &[u8]) -> Result<Box<dyn SinkWriter>> {
        let next = note.try_into().map_or(0, u64::from_le_bytes);
        let written = (self.flaw == Flaw::Loses && !note.is_empty()).then_some(next);
        Ok(Box::new(ListWriter { flaw: self.flaw, rows: self.rows.clone(), next, written }))
    }
}

struct ListWriter {
    flaw: Flaw,
    rows: Arc<Mutex<Vec<(u64, String)>>>,
    next: u64,
    written: Option<u64>,
}

impl SinkWriter for ListWriter {
    fn prepare(&mut self, rows: &[Batch]) -> Result<Prepared> {
        let mut bytes = Vec::new();
        rows.iter().try_for_each(|b| JsonEncoder::new().encode(b.rows(), &mut bytes))?;
        let prepared = Prepared { note: self.next.to_le_bytes().to_vec(), bytes };
        if self.flaw == Flaw::Hurries {
            self.write(&prepared)?;
            self.next -= 1;
        }
        Ok(prepared)
    }

    fn write(&mut self, prepared: &Prepared) -> Result<()> {
        let turn = u64::from_le_bytes(prepared.note.as_slice().try_into().unwrap());
        let mut rows = self.rows.lock().unwrap();
        if !matches!(self.flaw, Flaw::AtLeastOnce | Flaw::Claims) {
            rows.retain(|(of, _)| *of != turn);
        }
        if self.written != Some(turn) {
            let lines = std::str::from_utf8(&prepared.bytes).unwrap().lines();
            rows.extend(lines.map(|line| (turn, line.to_string())));
        }
        self.next = turn + 1;
        Ok(())
    }
}

/// What the suite says of a connector; empty if it keeps its promises.
fn said(check: impl FnOnce()) -> String {
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(()) => String::new(),
        Err(why) => why.downcast_ref::<String>().cloned().unwrap_or_else(|| {
            why.downcast_ref::<&str>().map_or("no text".into(), |text| text.to_string())
        }),
    }
}

#[test]
fn a_source_that_breaks_a_promise_is_noticed() {
    for (fault, promise) in [
        (Fault::None, ""),
        (Fault::Forgets, "opened again at the position behind row 1, the source gives other rows"),
        (Fault::Repeats, "the source gives other rows"),
        (Fault::Miscounts, "units are rows + undecodable + skipped"),
        (Fault::Guesses, "a position that means nothing is an error"),
        (Fault::Decodes, "the source gives other rows"),
    ] {
        let said = said(|| conformance::source::<Row>(&Numbers(fault)));
        assert!(said.contains(promise) && said.is_empty() == promise.is_empty(), "{said}");
    }
}

#[test]
fn a_sink_that_breaks_a_promise_is_noticed() {
    for (flaw, promise) in [
        (Flaw::None, ""),
        (Flaw::AtLeastOnce, ""),
        (Flaw::Claims, "after the same turn was written again: a sink that promises each row"),
        (Flaw::Loses, "after a turn that was committed before a crash"),
        (Flaw::Hurries, "after `prepare`, which writes nothing"),
    ] {
        let list = List { flaw, rows: Arc::default() };
        let contents = || list.rows.lock().unwrap().iter().map(|(_, line)| line.clone()).collect();
        let said = said(|| conformance::sink(&list, &rows(9), contents));
        assert!(said.contains(promise) && said.is_empty() == promise.is_empty(), "{said}");
    }
}
