//! A disk without room holds the sources back; nothing piles up in memory and nothing is lost.

use millstream::{prelude::*, runtime::embedded, test::TestNode};
use millstream_core::{Code, engine::Engine};
use serde_json::json;

const ROWS: u64 = 4_000;

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    text: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    rows: u64,
}

impl Process for Counter {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, _: Row, _: &mut Context<Self>) -> Result<()> {
        self.rows += 1;
        Ok(())
    }
}

fn node() -> TestNode {
    let flow = Flow::new("f")
        .source("rows", Stdin::json_lines())
        .key_by("key")
        .process::<Counter>("counter", OnError::DeadLetter)
        .sink("out", Discard::new());
    TestNode::new(flow.partitions(4)).seed(3).turn_rows(20)
}

fn fill(t: &mut TestNode) {
    for n in 0..ROWS {
        t.put("rows", json!({ "key": (n % 10).to_string(), "text": "x".repeat(200) }));
    }
}

fn counted(t: &mut TestNode) -> u64 {
    let keys = (0..10).map(|key: u64| key.to_string());
    keys.map(|key| t.find_state::<Counter>(&key).map_or(0, |c| c.rows)).sum()
}

#[test]
fn what_cannot_be_written_is_bounded_and_heals() {
    let max = 64 << 10;
    let mut t = node().setup(|s| s.node.pending_bytes_max = max);
    t.run_until_idle();
    let used: u64 = t.world().disk().files().iter().map(|(_, n)| n).sum();
    t.world().disk().set_capacity(Some(used + 10_000));
    fill(&mut t);
    let mut most = 0;
    for _ in 0..20_000 {
        t.world().step();
        most = most.max(t.world().engine().health().pending_bytes);
    }
    // A turn and what follows from it may go beyond.
    assert!((max..max + (64 << 10)).contains(&most), "{most} bytes wait");
    let status = millstream::io::view::status(t.world().engine().as_ref(), None).unwrap();
    assert!(status.engine_error.contains(Code::DiskFull.id()), "{status:?}");
    assert!(!t.world().node().accepts("f"), "ingest is told to wait");
    t.world().disk().set_capacity(None);
    t.run_until_idle();
    assert_eq!(counted(&mut t), ROWS);
    assert_eq!(t.world().engine().health().error, None);
    t.assert_ledger_balanced();
}

#[test]
fn stored_bytes_stay_near_their_limit() {
    let max = 256 << 10;
    let options = embedded::Options {
        disk_bytes_max: Some(max),
        segment_bytes: 32 << 10,
        cache_bytes: 16 << 10,
        ..embedded::Options::default()
    };
    let mut t = node().setup(|s| s.engine = options);
    fill(&mut t);
    let (mut most, mut said) = (0, None);
    for step in 0..200_000 {
        if step % 1_000 == 0 && counted(&mut t) == ROWS {
            break;
        }
        t.world().step();
        most = most.max(t.world().engine().stats().bytes_stored);
        if !t.world().node().accepts("f") {
            said = t.world().engine().health().error;
        }
    }
    let said = said.expect("sources have waited");
    assert_eq!(counted(&mut t), ROWS, "{said}");
    assert!(said.to_string().starts_with("error[M0004]: "), "{said}");
    assert!(said.message().contains("the limit is 262144, so sources wait"), "{said}");
    // What was taken in is worked off beyond the limit.
    assert!(most < 2 * max, "{most} bytes were stored");
    assert!(t.world().engine().stats().bytes_written > 4 * max);
    t.run_until_idle();
    t.assert_ledger_balanced();
}
