//! The decoder against `serde_json` and the standard library, on lines from a seeded generator and
//! on lines broken at random: the same are accepted, with the same values.
//!
//! Where the two differ by decision, the oracle says so: a nesting limit of 128 and not 127, `-0`
//! is a whole number, a field given twice is checked twice, floats are exact, and a line is UTF-8
//! also where it is skipped. Fields that are skipped are checked as `RawValue` does, for structure.

use serde_json::{Map, Value, value::RawValue};

use super::*;
use crate::rng::Rng;

const SEED: u64 = 7143;
const LINES: usize = 60_000;

fn columns() -> SchemaRef {
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let inner = Fields::from(vec![Field::new("p", DataType::Utf8, true)]);
    schema(&[
        ("name", DataType::Utf8, false),
        ("n", DataType::Int64, true),
        ("f", DataType::Float64, true),
        ("u", DataType::UInt8, true),
        ("ok", DataType::Boolean, true),
        ("list", DataType::List(item), true),
        ("inner", DataType::Struct(inner), true),
    ])
}

/// A field's values, all of them, in their order; `serde_json` would keep the last one only.
struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: serde::de::MapAccess<'de>>(
                self,
                mut map: M,
            ) -> Result<Pairs, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// What the line means: a value per column, or nothing.
fn oracle(line: &[u8]) -> Option<Vec<Value>> {
    let text = std::str::from_utf8(line).ok()?;
    let pairs: Pairs = serde_json::from_str(text).ok()?;
    let mut row = Map::new();
    for (name, raw) in pairs.0 {
        if columns().field_with_name(&name).is_ok() {
            let value = meaning(&name, raw.get())?;
            row.insert(name, value);
        }
    }
    row.get("name")?;
    Some(columns().fields().iter().map(|f| row.remove(f.name()).unwrap_or_default()).collect())
}

/// What a field's value means to its column, or nothing.
fn meaning(column: &str, raw: &str) -> Option<Value> {
    if raw == "-0" && ["n", "u"].contains(&column) {
        return Some(Value::from(0));
    }
    if column == "inner" && raw.starts_with('{') {
        let mut inner = serde_json::json!({ "p": null });
        for (name, raw) in serde_json::from_str::<Pairs>(raw).ok()?.0 {
            if name == "p" {
                inner["p"] = serde_json::from_str(raw.get()).ok()?;
                if !inner["p"].is_string() && !inner["p"].is_null() {
                    return None;
                }
            }
        }
        return Some(inner);
    }
    if column == "list" && raw.starts_with('[') {
        let items: Vec<Box<RawValue>> = serde_json::from_str(raw).ok()?;
        return items.iter().map(|item| meaning("n", item.get())).collect();
    }
    let value: Value = serde_json::from_str(raw).ok()?;
    let fits = match column {
        "name" => return value.is_string().then_some(value),
        "n" => value.as_i64().is_some(),
        "u" => value.as_u64().is_some_and(|u| u < 256),
        "f" => {
            return raw.parse::<f64>().map(Value::from).ok().or(value.is_null().then_some(value));
        }
        "ok" => value.is_boolean(),
        _ => false,
    };
    (fits || value.is_null()).then_some(value)
}

fn pick<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.below(of.len() as u64) as usize]
}

fn space(rng: &mut Rng) -> &'static str {
    if rng.below(5) == 0 { pick(rng, &[" ", "  ", "\t", " \r "]) } else { "" }
}

fn text(rng: &mut Rng) -> String {
    let parts = [
        "a",
        "sensor-",
        "é",
        "😀",
        "\\n",
        "\\\"",
        "\\\\",
        "\\u00e9",
        "\\ud83d\\ude00",
        "/",
        "\\/",
        "{",
        ",",
        ":",
        "01234567",
    ];
    let rare = ["\\ud800", "\\udc00x", "\\u12", "\\x", "\\ud800\\u0041"];
    let mut text: String = (0..rng.below(5)).map(|_| pick(rng, &parts)).collect();
    if rng.below(60) == 0 {
        text.push_str(pick(rng, &rare));
    }
    format!("\"{text}\"")
}

fn number(rng: &mut Rng) -> String {
    match rng.below(7) {
        0 => format!("{}", rng.below(300)),
        1 => format!("-{}", rng.below(1_000)),
        2 => format!("{}.{}", rng.below(1_000), rng.below(1_000)),
        3 => format!("{}", rng.next_u64() >> rng.below(64)),
        4 => format!("{}e{}", rng.below(100), rng.below(40) as i64 - 20),
        5 => pick(
            rng,
            &[
                "-9223372036854775808",
                "9223372036854775807",
                "9223372036854775808",
                "1E5",
                "1e-7",
                "2.5e+3",
            ],
        )
        .into(),
        _ => {
            pick(rng, &["00", "1.", ".5", "1e", "+1", "-", "0x1", "NaN", "256", "255", "0"]).into()
        }
    }
}

fn value(rng: &mut Rng, depth: u32) -> String {
    match rng.below(if depth == 0 { 6 } else { 8 }) {
        0 | 1 => text(rng),
        2 | 3 => number(rng),
        4 => "null".into(),
        5 => pick(rng, &["true", "false"]).into(),
        6 => {
            let items: Vec<_> = (0..rng.below(4))
                .map(|_| space(rng).to_string() + &value(rng, depth - 1))
                .collect();
            format!("[{}{}]", items.join(","), space(rng))
        }
        _ => object(rng, &["p", "q", "n"], depth - 1, 3),
    }
}

fn fitting(rng: &mut Rng, column: &str) -> String {
    match column {
        "name" => text(rng),
        "n" => format!("{}", rng.next_u64() as i64 >> rng.below(64)),
        "f" => format!("{}", rng.below(100_000) as f64 / 64.0),
        "u" => format!("{}", rng.below(256)),
        "ok" => pick(rng, &["true", "false"]).into(),
        "list" => pick(rng, &["[]", "[1,2]", "[ -7 , null]", "[3]"]).into(),
        _ => format!("{{\"p\":{}}}", text(rng)),
    }
}

fn object(rng: &mut Rng, names: &[&str], depth: u32, fields: u64) -> String {
    let fields: Vec<_> = (0..rng.below(fields + 1))
        .map(|_| {
            let name = pick(rng, names);
            let value = if rng.below(3) == 0 { value(rng, depth) } else { fitting(rng, name) };
            format!("{}\"{name}\"{}:{}{value}{}", space(rng), space(rng), space(rng), space(rng))
        })
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn line(rng: &mut Rng) -> Vec<u8> {
    let names = ["name", "n", "f", "u", "ok", "list", "inner", "skip", "n\\u0061me", "other"];
    let mut line = match rng.below(3) {
        0 => object(rng, &names, 3, 9),
        _ => {
            let fixed = ["name", "n", "f", "u", "ok", "list", "inner"];
            let fields: Vec<_> =
                fixed.iter().map(|n| format!("\"{n}\":{}", fitting(rng, n))).collect();
            format!("{{{}}}", fields.join(","))
        }
    }
    .into_bytes();
    if rng.below(3) == 0 {
        for _ in 0..=rng.below(2) {
            let at = rng.below(line.len() as u64) as usize;
            match rng.below(5) {
                0 => drop(line.remove(at)),
                1 => line.insert(at, b"{}[]\",:0.-+e\\ \tn"[rng.below(16) as usize]),
                2 => line[at] = rng.next_u64() as u8,
                3 => line.truncate(at.max(1)),
                _ => line.swap(at, 0),
            }
        }
    }
    line.retain(|b| *b != b'\n');
    line
}

/// Row `row`, as the oracle says it. Floats come from the line's text by the standard library.
fn decoded_row(rows: &RecordBatch, row: usize) -> Vec<Value> {
    let line = encode(&rows.slice(row, 1));
    let fields: Map<String, Value> = serde_json::from_str(&line).unwrap();
    columns().fields().iter().map(|f| fields[f.name()].clone()).collect()
}

#[test]
fn the_same_lines_with_the_same_values() {
    let mut rng = Rng::new(SEED);
    let lines: Vec<Vec<u8>> =
        (0..LINES).map(|_| line(&mut rng)).filter(|l| !l.trim_ascii().is_empty()).collect();
    let decoded = decode(&columns(), lines.join(&b'\n'));
    assert_eq!(decoded.rows.num_rows() + decoded.undecodable.len(), lines.len());
    let mut row = 0;
    for (i, line) in lines.iter().enumerate() {
        let shown = String::from_utf8_lossy(line);
        let accepted = decoded.places.get(row) == Some(&(i as u64 + 1));
        match oracle(line) {
            Some(expected) => {
                assert!(accepted, "seed {SEED}, refused: {shown}");
                assert_eq!(decoded_row(&decoded.rows, row), expected, "seed {SEED}: {shown}");
            }
            None => assert!(!accepted, "seed {SEED}, accepted: {shown}"),
        }
        row += usize::from(accepted);
    }
    let accepted = decoded.rows.num_rows();
    assert!(accepted > LINES / 3 && accepted < LINES * 9 / 10, "{accepted} lines tell something");
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut rng = Rng::new(SEED);
    let lines: Vec<Vec<u8>> = (0..5_000).map(|_| line(&mut rng)).collect();
    let rows = decode(&columns(), lines.join(&b'\n')).rows;
    let again = decode(&columns(), encode(&rows));
    assert_eq!(again.rows, rows);
    let n = rows.column(1).as_primitive::<Int64Type>();
    let f = rows.column(2).as_primitive::<Float64Type>();
    assert!(n.null_count() > 10 && f.len() > 1_000);
}
