//! The node dies before a source has committed anything, again and again: every row still comes.

use millstream::{
    prelude::*,
    test::{Crash, TestNode},
};
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Row {
    n: u64,
}

#[test]
fn a_source_that_dies_before_its_first_commit_loses_nothing() {
    for seed in 0..20 {
        let flow = Flow::new("early")
            .source("rows", JsonLinesFile::open("-"))
            .map("same", |row: Row| row)
            .sink("out", JsonLinesFile::create("-"));
        let mut t = TestNode::new(flow).seed(seed);
        for n in 0..10 {
            t.put("rows", json!({ "n": n }));
        }
        for crash in 0..4 {
            for _ in 0..=crash {
                t.world().step();
            }
            t.crash(Crash::Now);
        }
        t.end().run_until_idle();
        let out: Vec<_> = t.sink("out").iter().filter_map(|row| row["n"].as_u64()).collect();
        assert_eq!(out, (0..10).collect::<Vec<_>>(), "seed {seed}");
        t.assert_ledger_balanced();
    }
}
