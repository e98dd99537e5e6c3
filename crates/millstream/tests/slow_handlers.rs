//! Turns of slow handlers end in time: a task takes in less when its turns take too long, and more
//! when they do not. Time is what the handlers say, so the test is exact and waits for nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use millstream::{prelude::*, test::TestNode};
use serde_json::json;

static CLOCK_US: AtomicU64 = AtomicU64::new(0);

fn clock() -> Duration {
    Duration::from_micros(CLOCK_US.load(Ordering::Relaxed))
}

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    us: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Slow {
    rows: u64,
}

impl Process for Slow {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        CLOCK_US.fetch_add(row.us, Ordering::Relaxed);
        self.rows += 1;
        ctx.set_timer("again", At::Event(ctx.time() + Duration::from_secs(1)));
        Ok(())
    }

    fn on_timer(&mut self, _: &str, _: &mut Context<Self>) -> Result<()> {
        CLOCK_US.fetch_add(1_000, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_turn_of_slow_handlers_ends_in_time() {
    let flow = Flow::new("f")
        .partitions(1)
        .source("rows", Stdin::json_lines())
        .key_by("key")
        .process::<Slow>("slow", OnError::DeadLetter)
        .sink("out", Discard::new());
    let mut t = TestNode::new(flow).seed(5).setup(|s| s.clock = Some(clock));
    // Keys of their own, so that at the end each has a timer that is slow, too.
    for n in 0..6_000 {
        t.put("rows", json!({ "key": n.to_string(), "us": 1_000 }));
    }
    t.end();
    let turns = |t: &mut TestNode| {
        let tasks = t.world().node().tasks();
        tasks.iter().find(|task| task.path.stage == "slow").map_or(0, |task| task.stats.turns)
    };
    let mut over = Vec::new();
    let (mut last, mut begun) = (0, Duration::ZERO);
    while t.world().step() {
        let now = turns(&mut t);
        if now > last {
            over.extend(Some(clock() - begun).filter(|took| *took > Duration::from_millis(250)));
            (last, begun) = (now, clock());
        }
    }
    assert_eq!(clock(), Duration::from_secs(12), "6,000 rows, and as many timers");
    // The first turn, of which nothing was known, and the first that has timers beside its rows.
    let ms: Vec<u128> = over.iter().map(Duration::as_millis).collect();
    assert!(matches!(ms[..], [1_024, 251..=500]), "turns that took too long: {ms:?} ms");
    assert_eq!((0..6_000).map(|n| t.state::<Slow>(&n.to_string()).rows).sum::<u64>(), 6_000);
    t.assert_ledger_balanced();
}
