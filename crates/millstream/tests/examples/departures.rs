//! Real data: the answers are those a plain script counts.

use std::collections::BTreeMap;

use millstream::test::Folder;
use serde_json::{Value, json};

use crate::{WEATHER, assert_same, flights, flights_csv, lines, run, simulate};

#[expect(dead_code, reason = "its main is for people")]
#[path = "../../../../examples/departures.rs"]
mod example;

/// A plain loop: the alerts, the aircraft with their counts, the rows without a delay.
fn oracle(input: &[Value]) -> (Vec<Value>, BTreeMap<String, u32>, usize) {
    let mut alerts = Vec::new();
    let mut late: BTreeMap<String, u32> = BTreeMap::new();
    let mut dead = 0;
    for row in input {
        let Some(delay) = row["dep_delay"].as_f64() else {
            dead += 1;
            continue;
        };
        let tail = row["tailnum"].as_str().unwrap();
        let n = late.entry(tail.to_string()).or_default();
        *n = if delay < 60.0 { 0 } else { *n + 1 };
        if *n == 3 {
            alerts.push(json!({ "tailnum": tail, "dep_delay": delay }));
        }
    }
    (alerts, late, dead)
}

#[test]
fn every_aircraft_late_three_times_in_a_row_alerts_once() {
    let folder = Folder::new("departures");
    let out = folder.path().join("alerts.jsonl");
    let flow = example::flow(&flights_csv(), out.to_str().unwrap());
    run(&flow, &folder, |node| {
        let ledger = node.ledger();
        let source = &ledger.sources["departures/flights"];
        assert_eq!(
            (source.units, source.rows, source.undecodable, source.skipped),
            (27_005, 26_483, 521, 1)
        );
        assert_eq!(ledger.operators["departures/aircraft/aircraft"].processed, 26_483);
        assert_eq!(node.heart().tasks().iter().map(|t| t.keys).sum::<usize>(), 3_141);
    });
    let (alerts, aircraft, dead) = oracle(&flights());
    assert_eq!((alerts.len(), aircraft.len(), dead), (45, 3_141, 521));
    assert_same(&lines(&out), &alerts, "real");
}

#[test]
fn a_second_run_in_the_same_directory_adds_nothing() {
    let folder = Folder::new("departures-again");
    let out = folder.path().join("alerts.jsonl");
    let flow = || example::flow(&flights_csv(), out.to_str().unwrap());
    run(&flow(), &folder, |_| {});
    let first = std::fs::read(&out).unwrap();
    run(&flow(), &folder, |_| {});
    assert_eq!(std::fs::read(&out).unwrap(), first);
}

#[test]
fn the_same_alerts_in_any_weather() {
    let input = &flights()[..2_500];
    let (alerts, aircraft, dead) = oracle(input);
    assert!(!alerts.is_empty());
    for weather in WEATHER {
        let mut t = simulate(example::flow("-", "-"), "flights", input, weather);
        assert_same(&t.sink("alerts"), &alerts, weather);
        assert_eq!(t.dead_letters().len(), dead, "{weather:?}");
        assert!(t.dead_letters().iter().all(|l| l.column() == "dep_delay"), "{weather:?}");
        for (tail, late) in aircraft.iter().step_by(100) {
            let state = t.state::<example::Aircraft>(tail);
            assert_eq!(state.late_in_a_row, *late, "{weather:?}: {tail}");
        }
    }
}
