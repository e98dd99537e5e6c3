//! Poison in a process: in its handlers, and in what they leave to be serialised.

use std::collections::BTreeMap;

use millstream::{prelude::*, test::TestNode};
use millstream_core::{Key, letter::Trigger};
use serde::Serializer;
use serde_json::json;

use super::{Plain, in_any_way};

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    ts: i64,
    n: i64,
    how: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Out {
    key: String,
    sum: i64,
    #[serde(serialize_with = "strike")]
    struck: u8,
}

/// Serialises 0 and nothing else.
fn strike<S: Serializer>(how: &u8, s: S) -> Result<S::Ok, S::Error> {
    match how {
        0 => s.serialize_u8(0),
        1 => Err(serde::ser::Error::custom("injected in Serialize")),
        _ => panic!("injected in Serialize"),
    }
}

/// Reads back anything but 9.
fn read_back<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u8, D::Error> {
    match u8::deserialize(d)? {
        9 => panic!("injected in Deserialize"),
        other => Ok(other),
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Sum {
    /// Changed before the poison strikes.
    half: i64,
    sum: i64,
    fired: i64,
    #[serde(serialize_with = "strike")]
    struck: u8,
}

impl Process for Sum {
    type In = Row;
    type Out = Out;

    fn init(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        self.half = 0;
        assert!(!ctx.key().starts_with("unborn"), "injected in init");
        Ok(())
    }

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        self.half += row.n;
        let key = row.key;
        let due = |ms: i64| At::Event(Time::from_ms(row.ts + ms));
        match row.how.as_str() {
            "timer" | "timer error" => ctx.set_timer(&format!("{} {}", row.how, row.ts), due(5)),
            "good" if row.n % 10 == 0 => ctx.set_timer(&format!("good {}", row.ts), due(5)),
            "out error" => ctx.emit(Out { key: key.clone(), sum: -1, struck: 1 }),
            "out panic" => ctx.emit(Out { key: key.clone(), sum: -1, struck: 2 }),
            "state error" => self.struck = 1,
            "state panic" => self.struck = 2,
            _ => {}
        }
        ctx.emit(Out { key, sum: self.sum + row.n, struck: 0 });
        match row.how.as_str() {
            "panic" => panic!("injected in handle"),
            "error" => return Err(Failure::new("injected in handle")),
            _ => {}
        }
        self.sum += row.n;
        Ok(())
    }

    fn on_timer(&mut self, name: &str, ctx: &mut Context<Self>) -> Result<()> {
        self.fired += 1;
        if name.starts_with("good") {
            return Ok(());
        }
        self.half = -1;
        ctx.emit(Out { key: ctx.key().into_owned(), sum: -1, struck: 0 });
        assert!(name.starts_with("timer error"), "injected in on_timer");
        Err(Failure::new("injected in on_timer"))
    }
}

fn flow() -> Flow {
    Flow::new("f")
        .partitions(2)
        .source("rows", JsonLinesFile::open("in.jsonl"))
        .event_time("ts", Duration::ZERO)
        .key_by("key")
        .process::<Sum>("sum", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create("out.jsonl"))
}

/// What a key must have come to.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    state: (i64, i64, i64),
    sums: Vec<i64>,
}

fn ts(row: &Plain) -> i64 {
    1_700_000_000_000 + row.line as i64 * 10
}

/// Strikes with `how` at every bad row: once through the handler, or later through a timer.
fn strikes(how: &str) {
    in_any_way(|rows, at, node| {
        let at = format!("{how}, {at}");
        let (unborn, timer) = (how == "init", how.starts_with("timer"));
        let mut t = node(TestNode::new(flow()));
        let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
        let mut letters = Vec::new();
        for row in rows {
            let key =
                if row.bad && unborn { format!("unborn-{}", row.key) } else { row.key.clone() };
            let what = if row.bad { how } else { "good" };
            t.put("rows", json!({ "key": key, "ts": ts(row), "n": row.n, "how": what }));
            if row.bad {
                // A timer has no place in the source; what it was is in its letter.
                let due = timer.then(|| format!("timer due {}", Time::from_ms(ts(row) + 5)));
                letters.push((if timer { 0 } else { row.line }, key.clone(), due));
            }
            if !row.bad || timer {
                let e = expected.entry(key).or_default();
                e.state.0 += row.n;
                e.state.1 += row.n;
                e.state.2 += i64::from(!row.bad && row.n % 10 == 0);
                e.sums.push(e.state.1);
            }
        }
        t.end().run_until_idle();
        let mut outs: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for row in t.sink("out") {
            let out: Out = serde_json::from_value(row).unwrap();
            outs.entry(out.key).or_default().push(out.sum);
        }
        assert_eq!(outs.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{at}");
        for (key, expected) in &expected {
            let s: Sum = t.state(key);
            let found = Expected { state: (s.half, s.sum, s.fired), sums: outs[key].clone() };
            assert_eq!(&found, expected, "{at}, key {key}");
        }
        for key in letters.iter().map(|(_, key, _)| key).filter(|k| !expected.contains_key(*k)) {
            assert!(t.find_state::<Sum>(key).is_none(), "{at}, key {key}");
        }
        let mut found: Vec<_> = t
            .dead_letters()
            .into_iter()
            .map(|letter| {
                assert!(letter.error.contains("injected in"), "{at}: {}", letter.error);
                assert_eq!(letter.operator, "sum", "{at}");
                let expected = if timer { Trigger::Timer } else { Trigger::Record };
                assert_eq!(letter.trigger, expected, "{at}");
                let due = timer.then(|| String::from_utf8(letter.payload).unwrap());
                (letter.place, millstream_core::key::display(&letter.key), due)
            })
            .collect();
        found.sort();
        letters.sort();
        assert_eq!(found, letters, "{at}");
        t.assert_ledger_balanced();
        assert!(t.coverage().isolated > 0, "{at}");
    });
}

#[test]
fn a_panic_in_handle_costs_its_row() {
    strikes("panic");
}

#[test]
fn an_error_after_half_of_the_state_has_changed_costs_its_row() {
    strikes("error");
}

#[test]
fn a_failure_in_on_timer_costs_its_timer() {
    strikes("timer");
    strikes("timer error");
}

#[test]
fn a_panic_in_init_costs_the_row_that_would_have_begun_the_process() {
    strikes("init");
}

#[test]
fn a_state_that_cannot_be_serialised_costs_the_row_that_left_it() {
    strikes("state error");
    strikes("state panic");
}

#[test]
fn a_result_that_cannot_be_serialised_costs_the_row_it_came_from() {
    strikes("out error");
    strikes("out panic");
}

/// A process whose state, once it is odd, can be written but not read again.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Unreadable {
    sum: i64,
    #[serde(deserialize_with = "read_back")]
    odd: u8,
}

impl Process for Unreadable {
    type In = Row;
    type Out = Out;

    fn handle(&mut self, row: Row, _: &mut Context<Self>) -> Result<()> {
        self.sum += row.n;
        self.odd = if row.how == "odd" { 9 } else { self.odd };
        Ok(())
    }
}

#[test]
fn a_state_that_cannot_be_read_back_costs_its_own_key() {
    for turn_rows in [1, 7, 100_000] {
        let flow = Flow::new("f")
            .partitions(1)
            .source("rows", JsonLinesFile::open("in.jsonl"))
            .key_by("key")
            .process::<Unreadable>("sum", OnError::DeadLetter)
            .sink("out", Discard::new());
        let mut t = TestNode::new(flow).turn_rows(turn_rows);
        let put = |t: &mut TestNode, key: &str, how: &str| {
            t.put("rows", json!({ "key": key, "ts": 0, "n": 1, "how": how }));
        };
        (0..20).for_each(|n| put(&mut t, ["a", "b", "c"][n % 3], "good"));
        put(&mut t, "b", "odd");
        t.run_until_idle();
        // What is decoded is forgotten; from here on the bytes count.
        t.crash(millstream::test::Crash::Kill).run_until_idle();
        (0..20).for_each(|n| put(&mut t, ["a", "b", "c"][n % 3], "good"));
        t.run_until_idle();
        let sums = ["a", "c"].map(|key| t.state::<Unreadable>(key).sum);
        assert_eq!(sums, [14, 12], "turns of {turn_rows}");
        let mut places: Vec<u64> = t.dead_letters().iter().map(|l| l.place).collect();
        places.sort();
        assert_eq!(places, [23, 26, 29, 32, 35, 38, 41], "turns of {turn_rows}");
        assert!(t.dead_letters().iter().all(|l| l.key == Key::text("b").bytes()));
        t.assert_ledger_balanced();
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Patient {
    sum: i64,
}

impl Process for Patient {
    type In = Row;
    type Out = Out;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        self.sum += row.n;
        ctx.emit(Out { key: row.key, sum: self.sum, struck: 0 });
        if row.how == "hang" {
            millstream::test::hang();
        }
        Ok(())
    }
}

/// A node whose processes hang.
fn hanging<P: Process<In = Row, Out = Out>>(turn_rows: usize) -> TestNode {
    let flow = Flow::new("f")
        .partitions(3)
        .source("rows", JsonLinesFile::open("in.jsonl"))
        .key_by("key")
        .process::<P>("kind", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create("out.jsonl"));
    TestNode::new(flow).seed(turn_rows as u64).turn_rows(turn_rows)
}

#[test]
fn ten_handlers_that_never_return_cost_ten_rows() {
    for turn_rows in [1, 7, 100_000] {
        let mut t = hanging::<Patient>(turn_rows);
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        let (mut places, mut good) = (Vec::new(), 0);
        for i in 0..400_i64 {
            let key = format!("k{}", i % 7);
            let hang = i % 40 == 11;
            let how = if hang { "hang" } else { "good" };
            t.put("rows", json!({ "key": key, "ts": 0, "n": i, "how": how }));
            match hang {
                true => places.push(i as u64 + 1),
                false => {
                    *sums.entry(key).or_default() += i;
                    good += 1;
                }
            }
        }
        t.end().run_until_idle();
        assert_eq!(t.coverage().watchdog, 10, "turns of {turn_rows}");
        let mut found: Vec<u64> = t.dead_letters().iter().map(|l| l.place).collect();
        found.sort();
        assert_eq!(found, places, "turns of {turn_rows}");
        for (key, sum) in &sums {
            assert_eq!(t.state::<Patient>(key).sum, *sum, "turns of {turn_rows}, key {key}");
        }
        assert_eq!(t.sink("out").len(), good, "turns of {turn_rows}");
        t.assert_ledger_balanced();
    }
}

/// Its state hangs where it is serialised, once it has seen 13.
#[derive(Debug, Default, Deserialize)]
struct Endless {
    last: i64,
    #[serde(skip)]
    stuck: bool,
}

impl Serialize for Endless {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        if self.stuck {
            millstream::test::hang();
        }
        BTreeMap::from([("last", self.last)]).serialize(to)
    }
}

impl Process for Endless {
    type In = Row;
    type Out = Out;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        self.last = row.n;
        self.stuck |= row.n == 13;
        ctx.emit(Out { key: row.key, sum: row.n, struck: 0 });
        Ok(())
    }
}

#[test]
fn a_state_whose_serialisation_never_returns_costs_the_row_that_left_it() {
    for turn_rows in [1, 7, 100_000] {
        let mut t = hanging::<Endless>(turn_rows);
        for i in 0..40_i64 {
            let key = format!("k{}", i % 5);
            t.put("rows", json!({ "key": key, "ts": 0, "n": i, "how": "good" }));
        }
        t.end().run_until_idle();
        // Once where the turn is sealed, which blames nobody, and once in the call.
        assert_eq!(t.coverage().watchdog, 2, "turns of {turn_rows}");
        let places: Vec<u64> = t.dead_letters().iter().map(|l| l.place).collect();
        assert_eq!(places, [14], "turns of {turn_rows}");
        for key in 0..5 {
            assert_eq!(t.state::<Endless>(&format!("k{key}")).last, 35 + key);
        }
        assert_eq!(t.sink("out").len(), 39, "turns of {turn_rows}");
        t.assert_ledger_balanced();
    }
}
