//! Rows at the edge of what a step can take cost themselves and nothing else.

use millstream::{prelude::*, test::TestNode};
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    at: i64,
}

fn rows(flow: &str) -> Flow {
    Flow::new(flow).source("rows", Stdin::json_lines()).rows::<Row>()
}

#[test]
fn rows_a_panic_has_left_behind_belong_to_nobody() {
    let flow = || {
        rows("f")
            .flat_map("three", |r: Row| {
                (0..3).map(move |at| {
                    assert!(r.key != "bad" || at < 2, "no third");
                    Row { key: r.key.clone(), at }
                })
            })
            .sink("out", Discard::new())
    };
    for rows in [1, 2, 100] {
        let mut t = TestNode::new(flow()).turn_rows(rows);
        for key in ["a", "bad", "b"] {
            t.put("rows", json!({"key": key, "at": 0}));
        }
        t.end().run_until_idle();
        let keys: Vec<_> = t.sink("out").iter().map(|r| r["key"].clone()).collect();
        assert_eq!(keys, ["a", "a", "a", "b", "b", "b"]);
        assert_eq!(t.dead_letters().len(), 1);
        t.assert_ledger_balanced();
    }
}

#[test]
fn times_and_keys_beyond_what_windows_hold_cost_their_row() {
    let long = "k".repeat(70_000);
    let shapes = [
        Window::hop("at", Duration::from_secs(20), Duration::from_secs(10)),
        Window::session("at", Duration::from_secs(10)),
    ];
    for (seed, window) in shapes.into_iter().enumerate() {
        let flow = rows("f")
            .event_time("at", Duration::ZERO)
            .key_by("key")
            .window("counts", window, [Aggregate::count("rows")])
            .sink("out", Discard::new());
        let mut t = TestNode::new(flow).seed(seed as u64);
        for (key, at) in [("a", i64::MIN), ("a", i64::MIN + 1), (&long, 5), ("a", 5)] {
            t.put("rows", json!({"key": key, "at": at}));
        }
        t.end().run_until_idle();
        let letters = t.dead_letters();
        let mut places: Vec<u64> = letters.iter().map(|l| l.place).collect();
        places.sort_unstable();
        assert_eq!(places, [1, 2, 3], "{:?}", letters.iter().map(|l| &l.error).collect::<Vec<_>>());
        assert!(t.sink("out").iter().all(|w| w["rows"] == 1 && w["key"] == "a"));
        assert!(!t.sink("out").is_empty());
        t.assert_ledger_balanced();
    }
}
