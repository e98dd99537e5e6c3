//! Silence and heat, recounted with the gaps between readings in plain sight.

use std::collections::BTreeMap;

use millstream::{io::Generator, test::Folder};
use serde_json::{Value, json};

use crate::{WEATHER, assert_same, generated, lines, run, simulate};

#[expect(dead_code, reason = "its main is for people")]
#[path = "../../../../examples/sensors.rs"]
mod example;

#[derive(Default)]
struct Seen {
    last: Option<i64>,
    silent: bool,
    hot: bool,
}

/// A plain loop. Time is what the whole network has shown so far, less five seconds.
fn oracle(input: &[Value]) -> Vec<Value> {
    let mut changes = Vec::new();
    let mut sensors: BTreeMap<&str, Seen> = BTreeMap::new();
    let mut time = i64::MIN;
    let mut say = |sensor: &str, at: i64, now: &str| {
        changes.push(json!({ "sensor": sensor, "at": at, "now": now }));
    };
    for row in input {
        let (at, celsius) = (row["at"].as_i64().unwrap(), row["celsius"].as_f64().unwrap());
        let name = row["sensor"].as_str().unwrap();
        let seen = sensors.entry(name).or_default();
        if let Some(last) = seen.last
            && !seen.silent
            && last + 30_000 <= time
        {
            seen.silent = true;
            say(name, last + 30_000, "silent");
        }
        if seen.silent {
            seen.silent = false;
            say(name, at, "back");
        }
        seen.last = seen.last.max(Some(at));
        if !seen.hot && celsius >= 80.0 {
            seen.hot = true;
            say(name, at, "hot");
        } else if seen.hot && celsius < 70.0 {
            seen.hot = false;
            say(name, at, "cool");
        }
        time = time.max(at - 5_000);
    }
    for (name, seen) in &sensors {
        if let (Some(last), false) = (seen.last, seen.silent) {
            say(name, last + 30_000, "silent"); // the input has ended: so does time
        }
    }
    changes
}

#[test]
fn a_real_node_sees_every_change() {
    let folder = Folder::new("sensors");
    let out = folder.path().join("changes.jsonl");
    let readings = Generator::from_fn(7, 40_000, 1, example::reading);
    run(&example::flow(readings, out.to_str().unwrap()), &folder, |_| {});
    let changes = oracle(&generated(40_000, example::reading));
    for now in ["silent", "back", "hot", "cool"] {
        assert!(changes.iter().filter(|c| c["now"] == now).count() > 10, "{now}");
    }
    assert_same(&lines(&out), &changes, "real");
}

#[test]
fn the_same_changes_in_any_weather() {
    let input = &generated(40_000, example::reading)[20_000..23_000];
    let changes = oracle(input);
    assert!(changes.len() > 50);
    for weather in WEATHER {
        let readings = Generator::from_fn(0, 0, 1, example::reading);
        let t = simulate(example::flow(readings, "-"), "readings", input, weather);
        assert_same(&t.sink("changes"), &changes, weather);
    }
}
