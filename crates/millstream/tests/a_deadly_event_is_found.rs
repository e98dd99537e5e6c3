//! An event whose handler ends the process (a stack overflow, an abort, all memory taken) is found
//! after a few deaths and set aside unexecuted; everything else is handled once.

use std::collections::BTreeMap;

use millstream::{
    prelude::*,
    runtime::sim::die,
    test::{Crash, TestNode},
};
use millstream_core::rng::Rng;
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Order {
    key: String,
    n: i64,
    at: i64,
}

#[derive(Serialize, Deserialize)]
struct Sum {
    key: String,
    sum: i64,
}

/// Adds up; what is below zero is deadly, at once or when its timer fires.
#[derive(Default, Serialize, Deserialize)]
struct Account {
    sum: i64,
}

impl Process for Account {
    type In = Order;
    type Out = Sum;

    fn handle(&mut self, order: Order, ctx: &mut Context<Self>) -> Result<()> {
        match order.n {
            -1 => die(),
            -2 => ctx.set_timer("deadly", At::Event(Time::from_ms(order.at + 10))),
            n => self.sum += n,
        }
        let key = ctx.key().into_owned();
        ctx.emit(Sum { key, sum: self.sum });
        Ok(())
    }

    fn on_timer(&mut self, _name: &str, _ctx: &mut Context<Self>) -> Result<()> {
        die()
    }
}

fn flow() -> Flow {
    Flow::new("deadly")
        .partitions(2)
        .source("orders", JsonLinesFile::open("-"))
        .event_time("at", Duration::ZERO)
        .key_by("key")
        .process::<Account>("account", OnError::DeadLetter)
        .sink("sums", JsonLinesFile::create("-"))
}

/// Runs 2,000 orders of 40 keys, of which those named are deadly. Returns the node and the sums
/// that the others make.
fn run(deadly: &[(i64, i64)], seed: u64) -> (TestNode, BTreeMap<String, i64>) {
    let mut t = TestNode::new(flow()).seed(seed);
    let mut sums = BTreeMap::new();
    for i in 0..2000 {
        let key = format!("k{}", i % 40);
        let n = deadly.iter().find(|(at, _)| *at == i).map_or(i, |(_, n)| *n);
        if n >= 0 {
            *sums.entry(key.clone()).or_insert(0) += n;
        }
        t.put("orders", json!({ "key": key, "n": n, "at": 1000 * i }));
    }
    t.end().run_until_idle();
    (t, sums)
}

fn compare(t: &mut TestNode, sums: &BTreeMap<String, i64>) {
    for (key, sum) in sums {
        assert_eq!(t.state::<Account>(key).sum, *sum, "{key}");
    }
    t.assert_ledger_balanced();
}

#[test]
fn a_deadly_event_costs_a_few_deaths_and_itself() {
    for seed in 0..5 {
        let (mut t, sums) = run(&[(700, -1), (1501, -1)], seed);
        compare(&mut t, &sums);
        let rows = t.sink("sums").len();
        assert_eq!(rows, 1998, "seed {seed}: each order but two was handled once");
        let letters = t.dead_letters();
        let dead: Vec<_> = letters.iter().map(|l| (l.place, l.operator.as_str())).collect();
        assert_eq!(dead, [(701, "account"), (1502, "account")], "seed {seed}");
        assert!(letters[0].error.contains("ended the process"), "{}", letters[0].error);
        // Two unannounced, one with its block, and three with it alone; each of the two events
        // lies in a task of its own or comes later.
        let deaths = t.coverage().crashes;
        assert!((4..=24).contains(&deaths), "seed {seed}: {deaths} deaths");
    }
}

#[test]
fn a_backlog_of_any_size_costs_few_deaths() {
    // Nothing has been committed before: one less than on the way. Two more where it lies behind
    // the first turns.
    for (rows, most) in [(10, 5), (1_000, 5), (10_000, 7)] {
        for seed in 0..3 {
            let mut t = TestNode::new(flow().partitions(1)).seed(seed);
            for i in 0..rows {
                let n = if i == rows * 9 / 10 { -1 } else { i };
                t.put("orders", json!({ "key": "k", "n": n, "at": 1000 * i }));
            }
            t.end().run_until_idle();
            assert_eq!((t.sink("sums").len() as i64, t.dead_letters().len()), (rows - 1, 1));
            let deaths = t.coverage().crashes;
            assert!(deaths <= most, "{rows} rows, seed {seed}: {deaths} deaths");
            t.assert_ledger_balanced();
        }
    }
}

#[test]
fn a_deadly_timer_is_found_too() {
    let (mut t, sums) = run(&[(700, -2)], 7);
    compare(&mut t, &sums);
    assert_eq!(t.sink("sums").len(), 2000, "the order itself is not to blame");
    let letters = t.dead_letters();
    let dead: Vec<_> = letters.iter().map(|l| l.trigger.name()).collect();
    assert_eq!(dead, ["timer"]);
    assert_eq!(millstream_core::key::display(&letters[0].key), "k20");
}

#[test]
fn deaths_at_random_moments_cost_no_event() {
    for seed in 0..5 {
        let mut t = TestNode::new(flow()).seed(seed);
        let mut rng = Rng::for_item(seed, 9);
        for i in 0..2000 {
            t.put("orders", json!({ "key": format!("k{}", i % 40), "n": i, "at": 1000 * i }));
            if i % 100 == 0 {
                // Killed at once, as soon as it works again, and later: every task is opened again
                // and again, and grows cautious.
                for below in [1, 50, 500] {
                    for _ in 0..rng.below(below) {
                        t.world().step();
                    }
                    t.crash(Crash::Kill);
                }
            }
        }
        t.end().run_until_idle();
        assert_eq!(t.dead_letters().len(), 0, "seed {seed}");
        assert_eq!(t.sink("sums").len(), 2000, "seed {seed}");
        let sum = (0..50).map(|n| 7 + 40 * n).sum::<i64>();
        assert_eq!(t.state::<Account>("k7").sum, sum, "seed {seed}");
        t.assert_ledger_balanced();
    }
}
