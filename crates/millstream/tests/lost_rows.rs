//! No test that uses the test kit passes with a row lost, also if it does not look for it.

use std::panic::catch_unwind;

use millstream::{prelude::*, test::TestNode};
use millstream_core::mutant::{self, Mutant};
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Passes;

impl Process for Passes {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(row);
        Ok(())
    }
}

/// Runs a flow and looks at nothing.
fn careless() {
    let flow = Flow::new("f")
        .source("rows", Stdin::json_lines())
        .key_by("key")
        .process::<Passes>("passes", OnError::DeadLetter)
        .sink("out", Discard::new());
    let mut t = TestNode::new(flow).turn_rows(1);
    for n in 0..100 {
        t.put("rows", json!({ "key": n.to_string() }));
    }
    t.run_until_idle();
}

#[test]
fn a_row_that_is_lost_fails_its_test() {
    careless();
    // The only test of this program: a mutant lives in the whole process.
    mutant::set(Some(Mutant::DropFrame));
    let failed = catch_unwind(careless).unwrap_err();
    let why = failed.downcast_ref::<String>().unwrap();
    assert!(why.contains("rows sent"), "{why}");
}
