use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};

use super::*;
use crate::drive::turn;

const SIZE: i64 = 10;

/// Never comes to a result.
#[derive(Default, Serialize, Deserialize)]
struct Broken;

impl Accumulator for Broken {
    fn add(&mut self, _: f64) {}
    fn merge(&mut self, _: &Self) {}
    fn value(&self) -> f64 {
        panic!("injected in value")
    }
}

pub fn batch(rows: impl Iterator<Item = (String, i64)> + Clone) -> Batch {
    let keys: StringArray = rows.clone().map(|(key, _)| Some(key)).collect();
    let times: Int64Array = rows.map(|(_, time)| time).collect();
    let values = Float64Array::from(vec![1.0; times.len()]);
    let columns: [(_, ArrayRef); 3] =
        [("key", Arc::new(keys)), ("ts", Arc::new(times)), ("v", Arc::new(values))];
    Batch::derived(RecordBatch::try_from_iter(columns).unwrap())
}

pub fn operator(window: &Window, aggregate: Aggregate) -> WindowOperator {
    let (schema, keys) = (batch(std::iter::empty()).rows().schema(), ["key".to_string()]);
    let output = WindowOperator::output(&schema, &keys, std::slice::from_ref(&aggregate)).unwrap();
    WindowOperator::new("w", window, &[aggregate], &schema, &keys, output)
}

fn shapes() -> [Window; 2] {
    let size = Duration::from_millis(SIZE as u64);
    [Window::tumble("ts", size), Window::session("ts", size)]
}

#[test]
fn a_turn_fires_no_more_than_its_budget_though_every_firing_fails() {
    let one_key_many_windows = batch((0..200).map(|n| ("k".to_string(), n * SIZE * 2)));
    let many_keys_one_window = batch((0..200).map(|n| (format!("k{n}"), 0)));
    for window in shapes() {
        for rows in [&one_key_many_windows, &many_keys_one_window] {
            let mut operator = operator(&window, Aggregate::custom::<Broken>("v", "sum"));
            turn(&mut operator, Some(rows), Time::MIN, 64);
            let mut fired = Vec::new();
            loop {
                let (out, state) = turn(&mut operator, None, Time::MAX, 64);
                assert_eq!(out.letters.len() as u64, out.counters.fired);
                fired.push(out.counters.fired);
                if state == Advance::Done {
                    break;
                }
            }
            let all: u64 = fired.iter().sum();
            assert_eq!((all, fired[0], fired.len()), (200, 64, 4), "{window:?}: {fired:?}");
        }
    }
}

#[test]
fn a_turn_closes_no_more_sessions_of_one_key_than_its_budget() {
    let mut operator = operator(&shapes()[1], Aggregate::count("n"));
    let rows = batch((0..100).map(|n| ("k".to_string(), n * SIZE * 2)));
    turn(&mut operator, Some(&rows), Time::MIN, 8);
    let (out, state) = turn(&mut operator, None, Time::MAX, 8);
    assert_eq!((out.counters.fired, state), (8, Advance::More));
}
