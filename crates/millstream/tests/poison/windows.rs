//! Poison in a window's aggregate: where a value is taken in, where two meet, where the result is
//! made, and where what was gathered is serialised.

use std::collections::BTreeMap;

use millstream::{prelude::*, test::TestNode};
use millstream_core::{key, letter::Trigger};
use serde::Serializer;
use serde_json::{Value, json};

use super::{Plain, in_any_way};

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    ts: i64,
    v: f64,
}

/// Values from here on are poison; which kind, their hundreds say.
const ADD: f64 = 1_000.0;
const MERGE: f64 = 2_000.0;
const VALUE: f64 = 3_000.0;
const ENCODE_ERROR: f64 = 4_000.0;
const ENCODE_PANIC: f64 = 5_000.0;

/// A sum that fails where it was struck.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Fragile {
    sum: f64,
    merge: bool,
    value: bool,
    #[serde(serialize_with = "strike")]
    encode: u8,
}

fn strike<S: Serializer>(how: &u8, s: S) -> Result<S::Ok, S::Error> {
    match how {
        0 => s.serialize_u8(0),
        1 => Err(serde::ser::Error::custom("injected in Serialize")),
        _ => panic!("injected in Serialize"),
    }
}

impl Accumulator for Fragile {
    fn add(&mut self, value: f64) {
        self.sum += value % 1_000.0;
        let kind = value - value % 1_000.0;
        assert!(kind != ADD, "injected in add");
        self.merge |= kind == MERGE;
        self.value |= kind == VALUE;
        self.encode = match kind {
            ENCODE_ERROR => 1,
            ENCODE_PANIC => 2,
            _ => self.encode,
        };
    }

    fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        assert!(!other.merge, "injected in merge");
        self.value |= other.value;
    }

    fn value(&self) -> f64 {
        assert!(!self.value, "injected in value");
        self.sum
    }
}

/// Windows this long hold a dozen rows of each key.
const SIZE: i64 = 1_500;

fn flow(window: Window) -> Flow {
    let aggregates = [Aggregate::count("n"), Aggregate::custom::<Fragile>("v", "sum")];
    Flow::new("f")
        .partitions(2)
        .source("rows", JsonLinesFile::open("in.jsonl"))
        .event_time("ts", Duration::ZERO)
        .rows::<Row>()
        .key_by("key")
        .window("windows", window, aggregates)
        .sink("out", JsonLinesFile::create("out.jsonl"))
}

/// Panes of one size, or one session per key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    Panes,
    Sessions,
}

#[derive(Debug, Default)]
struct Pot {
    n: u64,
    sum: f64,
    broken: bool,
}

fn strikes(kind: f64, cut: Cut) {
    let ms = |n: i64| Duration::from_millis(n as u64);
    in_any_way(|rows, at, node| {
        let at = format!("{kind}, {cut:?}, {at}");
        let mut t = node(TestNode::new(flow(match cut {
            Cut::Panes => Window::tumble("ts", ms(SIZE)),
            Cut::Sessions => Window::session("ts", ms(1_000_000)),
        })));
        let mut pots: BTreeMap<(String, i64), Pot> = BTreeMap::new();
        let mut places = Vec::new();
        for row @ Plain { line, key, n, bad } in rows {
            let ts = 1_700_000_000_000 + row.line as i64 * 10;
            let v = *n as f64 + if *bad { kind } else { 0.0 };
            t.put("rows", json!({ "key": key, "ts": ts, "v": v }));
            let start = if cut == Cut::Panes { ts - ts % SIZE } else { 0 };
            let known = pots.contains_key(&(key.clone(), start));
            // The first row of a session meets nothing that it could be merged with.
            if *bad && kind != VALUE && (kind != MERGE || known) {
                places.push(*line);
                continue;
            }
            let pot = pots.entry((key.clone(), start)).or_default();
            pot.n += 1;
            pot.sum += *n as f64;
            pot.broken |= *bad && kind == VALUE;
        }
        t.end().run_until_idle();
        let mut expected: Vec<(String, u64, f64)> = Vec::new();
        let mut broken = Vec::new();
        for ((key, _), pot) in pots {
            match pot.broken {
                true => broken.push(key),
                false => expected.push((key, pot.n, pot.sum)),
            }
        }
        let number = |row: &Value, name: &str| row[name].as_f64().unwrap();
        let mut found: Vec<(String, u64, f64)> = t
            .sink("out")
            .iter()
            .map(|r| {
                (r["key"].as_str().unwrap().into(), r["n"].as_u64().unwrap(), number(r, "sum"))
            })
            .collect();
        // Keys sorted, the windows of a key in their order.
        found.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found, expected, "{at}");
        let letters = t.dead_letters();
        assert!(letters.iter().all(|l| l.error.contains("injected in")), "{at}");
        let of = |trigger| letters.iter().filter(move |l| l.trigger == trigger);
        let mut found: Vec<u64> = of(Trigger::Record).map(|l| l.place).collect();
        found.sort();
        assert_eq!(found, places, "{at}");
        let mut found: Vec<String> = of(Trigger::Firing).map(|l| key::display(&l.key)).collect();
        found.sort();
        assert_eq!(found, broken, "{at}");
        assert_eq!(letters.len(), places.len() + broken.len(), "{at}");
        t.assert_ledger_balanced();
    });
}

#[test]
fn a_panic_in_add_costs_its_row() {
    strikes(ADD, Cut::Panes);
    strikes(ADD, Cut::Sessions);
}

#[test]
fn a_panic_in_merge_costs_the_row_that_joins() {
    strikes(MERGE, Cut::Sessions);
}

#[test]
fn a_panic_in_value_costs_its_window() {
    strikes(VALUE, Cut::Panes);
    strikes(VALUE, Cut::Sessions);
}

#[test]
fn an_accumulator_that_cannot_be_serialised_costs_the_row_that_broke_it() {
    for cut in [Cut::Panes, Cut::Sessions] {
        strikes(ENCODE_ERROR, cut);
        strikes(ENCODE_PANIC, cut);
    }
}
