//! Windows over real data: the answers are those a plain script counts.

use std::collections::{BTreeMap, BTreeSet};

use millstream::{Time, test::Folder};
use serde_json::{Value, json};

use crate::{WEATHER, assert_same, flights, flights_csv, lines, run, simulate};

#[expect(dead_code, reason = "its main is for people")]
#[path = "../../../../examples/departures_hourly.rs"]
mod example;

const HOUR: i64 = 3_600_000;

/// A plain loop: the windows, the late rows, the rows without a delay.
fn oracle(input: &[Value]) -> (Vec<Value>, Vec<Value>, usize) {
    let mut windows: BTreeMap<(i64, String), Vec<f64>> = BTreeMap::new();
    let mut late = Vec::new();
    let mut dead = 0;
    let mut watermark = i64::MIN;
    for row in input {
        let Some(delay) = row["dep_delay"].as_f64() else {
            dead += 1;
            continue;
        };
        let at = Time::parse(row["sched_dep"].as_str().unwrap()).unwrap().ms();
        let origin = row["origin"].as_str().unwrap();
        let start = at / HOUR * HOUR;
        if start + HOUR <= watermark {
            late.push(json!({ "origin": origin, "sched_dep": at, "dep_delay": delay }));
        } else {
            windows.entry((start, origin.to_string())).or_default().push(delay);
        }
        watermark = watermark.max(at - 2 * HOUR);
    }
    let windows = windows.into_iter().map(|((start, origin), delays)| {
        json!({
            "origin": origin,
            "window_start": start,
            "window_end": start + HOUR,
            "flights": delays.len(),
            "mean_delay": delays.iter().sum::<f64>() / delays.len() as f64,
            "max_delay": delays.iter().copied().fold(f64::MIN, f64::max),
        })
    });
    (windows.collect(), late, dead)
}

#[test]
fn the_hours_of_january_are_those_a_script_counts() {
    let folder = Folder::new("hourly");
    let (out, late) = (folder.path().join("hours.jsonl"), folder.path().join("late.jsonl"));
    let flow = example::flow(&flights_csv(), out.to_str().unwrap(), late.to_str().unwrap());
    run(&flow, &folder, |node| {
        let ledger = node.ledger();
        let counted = ledger.operators["departures_hourly/hourly/hourly"];
        assert_eq!((counted.processed, counted.late, counted.fired), (26_152, 331, 1_642));
        assert_eq!(ledger.sources["departures_hourly/flights"].undecodable, 521);
    });
    let (windows, late_rows, dead) = oracle(&flights());
    assert_eq!((windows.len(), late_rows.len(), dead), (1_642, 331, 521));
    let brief = |w: &Value| {
        let mean = w["mean_delay"].as_f64().unwrap();
        format!("{} {} {mean:.2} {}", w["origin"], w["flights"], w["max_delay"])
    };
    let five = Time::parse("2013-01-01 05:00").unwrap().ms();
    let first: BTreeSet<String> = windows[..3].iter().map(brief).collect();
    assert!(windows[..3].iter().all(|w| w["window_start"] == five));
    assert!(first.iter().eq(["\"EWR\" 2 -1.00 2.0", "\"JFK\" 3 0.33 2.0", "\"LGA\" 1 4.00 4.0"]));
    assert_same(&lines(&out), &windows, "real");
    assert_same(&lines(&late), &late_rows, "real");
}

#[test]
fn the_same_hours_in_any_weather() {
    let input = &flights()[..2_000];
    let (windows, late, dead) = oracle(input);
    assert!(!late.is_empty());
    for weather in WEATHER {
        let mut t = simulate(example::flow("-", "-", "-"), "flights", input, weather);
        assert_same(&t.sink("hours"), &windows, weather);
        assert_same(&t.sink("late"), &late, weather);
        assert_eq!(t.dead_letters().len(), dead, "{weather:?}");
    }
}
