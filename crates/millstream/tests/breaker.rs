//! What supervisors decide about a flow's sources, and that it is said.

use millstream::{
    io::view,
    prelude::*,
    runtime::{embedded, node::FlowState, sim::faults::Faults, stage::Limits},
    test::{Folder, TestNode},
};
use millstream_core::engine::Engine;
use serde_json::json;

const ROWS: usize = 3_000;

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    how: String,
}

/// Fails where it is told to.
#[derive(Default, Serialize, Deserialize)]
struct Weak {
    rows: u64,
}

impl Process for Weak {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        self.rows += 1;
        match row.how.as_str() {
            "handler" => Err(Failure::new("bad row")),
            how => {
                ctx.set_timer(how, At::Processing(ctx.now()));
                Ok(())
            }
        }
    }

    fn on_timer(&mut self, how: &str, _: &mut Context<Self>) -> Result<()> {
        if how == "timer" { Err(Failure::new("bad timer")) } else { Ok(()) }
    }
}

fn node() -> TestNode {
    let flow = Flow::new("f")
        .partitions(1)
        .source("rows", JsonLinesFile::open("in.jsonl"))
        .key_by("key")
        .process::<Weak>("weak", OnError::DeadLetter)
        .sink("out", Discard::new());
    TestNode::new(flow).seed(11)
}

/// Hands in rows of which so many in ten are bad, in that way.
fn fill(t: &mut TestNode, bad: usize, how: &str) {
    for n in 0..ROWS {
        match how {
            _ if n % 10 >= bad => t.put("rows", json!({ "key": n.to_string(), "how": "good" })),
            "line" => t.put_line("rows", "no JSON"),
            _ => t.put("rows", json!({ "key": n.to_string(), "how": how })),
        };
    }
}

/// Whether the sources pause before all of it is worked off.
fn pauses(bad: usize, how: &str) -> bool {
    let mut t = node();
    fill(&mut t, bad, how);
    let mut paused = false;
    while t.world().step() && !paused {
        paused = !t.world().node().accepts("f");
    }
    paused
}

#[test]
fn sources_pause_when_most_records_are_bad_and_not_before() {
    for how in ["line", "handler"] {
        assert!(!pauses(4, how), "4 in 10 are bad: {how}");
        assert!(pauses(6, how), "6 in 10 are bad: {how}");
    }
    assert!(!pauses(10, "timer"), "each row was good, and its timer was not");
}

#[test]
fn a_drain_is_final() {
    let mut t = node();
    fill(&mut t, 6, "line");
    while t.world().node().accepts("f") {
        t.world().step();
    }
    t.world().node().drain();
    fill(&mut t, 0, "");
    // By then the breaker lets the sources run again, for a try.
    t.world().advance(Duration::from_secs(11));
    for _ in 0..5_000 {
        t.world().step();
    }
    let reports = view::supervisor(t.world().engine().as_ref(), None, 100).unwrap();
    assert!(reports.iter().any(|r| r.what == "breaker_half_open"), "{reports:?}");
    assert!(!t.world().node().accepts("f"));
    let ledger = t.world().engine().ledger();
    let units: u64 = ledger.sources.values().map(|counted| counted.units).sum();
    assert_eq!(units, ROWS as u64, "nothing was taken in any more");
}

#[test]
fn what_was_decided_is_said_when_the_node_stops() {
    let folder = Folder::new("last-words");
    let (rows, data) = (folder.path().join("rows.jsonl"), folder.path().join("data"));
    std::fs::write(&rows, "{\"key\":\"a\",\"how\":\"handler\"}\n".repeat(3)).unwrap();
    let flow = Flow::new("f")
        .partitions(1)
        .limits(Limits { rows_max: 1, ..Limits::default() })
        .source("rows", JsonLinesFile::open(rows))
        .key_by("key")
        .process::<Weak>("weak", OnError::DeadLetter)
        .sink("out", Discard::new());
    let running = Node::embedded(&data).start().unwrap();
    running.deploy(&flow).unwrap();
    assert_eq!(running.wait("f"), FlowState::Finished);
    running.stop();
    let engine = embedded::open_read_only(&data, embedded::Options::default()).unwrap();
    let reports = view::supervisor(engine.as_ref(), None, 100).unwrap();
    // The first is said at once, what follows within a second waits to be put together.
    let said: u64 = reports.iter().filter(|r| r.what == "dead_letters").map(|r| r.count).sum();
    assert_eq!(said, 3, "{reports:?}");
}

#[test]
fn a_task_that_is_fenced_is_reported() {
    let faults = Faults { fence: 100, unknown: 100, ..Faults::default() };
    let mut t = node().turn_rows(100).setup(|s| s.faults = faults);
    fill(&mut t, 0, "");
    t.end().run_until_idle();
    let seen = t.coverage().engine;
    assert!(seen.fence > 0 && seen.unknown > 0, "{seen:?}");
    t.advance(Duration::from_secs(2)).run_until_idle();
    let reports = view::supervisor(t.world().engine().as_ref(), None, 1_000).unwrap();
    let of = |reason: &str| {
        reports.iter().any(|r| r.what == "fenced" && r.code == "M0009" && r.reason == reason)
    };
    assert!(of("a newer owner has the task"), "{reports:?}");
    assert!(of("the outcome of a commit is unknown"), "{reports:?}");
}
