//! What a process may rely on, one sentence each.

#![expect(clippy::unwrap_used, reason = "tests")]

use millstream::{
    connector::{Partitioner, SchemaRef, Source, SourceReader},
    prelude::*,
    runtime::node::FlowState,
    test::{Crash, TestNode},
};
use millstream_core::{Code, letter::Trigger};
use serde_json::{Value, json};

/// A row that says what its process is to do.
#[derive(Clone, Serialize, Deserialize)]
struct Order {
    key: String,
    what: String,
    n: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Said {
    key: String,
    what: String,
    n: i64,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Doer {
    sum: i64,
    blob: String,
}

impl Doer {
    fn say(&self, what: &str, ctx: &mut Context<Self>) {
        let key = ctx.key().into_owned();
        ctx.emit(Said { key, what: what.into(), n: self.sum });
    }
}

impl Process for Doer {
    type In = Order;
    type Out = Said;

    fn init(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        assert_ne!(ctx.key(), "unborn", "no life for this one");
        Ok(())
    }

    fn handle(&mut self, order: Order, ctx: &mut Context<Self>) -> Result<()> {
        let at = ctx.now() + Duration::from_secs(order.n.unsigned_abs());
        match order.what.as_str() {
            "add" => {
                self.sum += order.n;
                self.say("added", ctx);
            }
            "fail" | "panic" => {
                self.sum += order.n;
                self.say("never seen", ctx);
                ctx.set_timer("never", At::Processing(ctx.now()));
                ctx.send::<Doer>("other", &order)?;
                ctx.side_output("odd", &order)?;
                assert_ne!(order.what, "panic", "as ordered");
                return Err(Failure::new("as ordered").column("what"));
            }
            "timer" | "bad timer" => ctx.set_timer(&order.what, At::Processing(at)),
            "stop" => ctx.stop(),
            "grow" => self.blob = "x".repeat(order.n as usize),
            "side" => ctx.side_output("odd", &order)?,
            "send" => {
                let to = Order { what: "add".into(), ..order };
                (1..=3).try_for_each(|n| ctx.send::<Doer>("other", &Order { n, ..to.clone() }))?;
            }
            "for ever" => {
                self.sum += 1;
                ctx.send::<Doer>(ctx.own_key(), &order)?;
            }
            other => return Err(Failure::new(format!("what is `{other}`?"))),
        }
        Ok(())
    }

    fn on_timer(&mut self, name: &str, ctx: &mut Context<Self>) -> Result<()> {
        self.sum += 1_000;
        self.say(name, ctx);
        assert_ne!(name, "bad timer", "as ordered");
        Ok(())
    }

    fn terminate(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        self.say("goodbye", ctx);
        Ok(())
    }
}

/// A source whose rows are in its partitions by key.
struct ByKey<S>(S);

impl<S: Source> Source for ByKey<S> {
    fn finite(&self) -> bool {
        self.0.finite()
    }

    fn partitioned_by(&self) -> Option<(&str, Partitioner)> {
        Some(("key", Partitioner::Murmur2))
    }

    fn open(
        &self,
        partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> millstream::connector::Result<Box<dyn SourceReader>> {
        self.0.open(partition, schema, position)
    }
}

/// Its processes live behind an exchange, or in the tasks that read the source.
fn flow(options: impl Into<ProcessOptions>, exchange: bool) -> Flow {
    let flow = Flow::new("f");
    let flow = match exchange {
        true => flow.source("orders", Stdin::json_lines()),
        false => flow.source("orders", ByKey(Stdin::json_lines())),
    };
    flow.key_by("key")
        .process::<Doer>("doer", options)
        .side_output::<Order>("odd")
        .sink("said", Discard::new())
        .from_side("doer", "odd")
        .sink("odd", Discard::new())
}

/// Gives orders on nodes of several seeds and turn sizes, and looks at each afterwards.
fn order(orders: &[(&str, &str, i64)], look: impl Fn(&mut TestNode)) {
    order_with(OnError::DeadLetter.into(), orders, look);
}

fn order_with(options: ProcessOptions, orders: &[(&str, &str, i64)], look: impl Fn(&mut TestNode)) {
    for (seed, exchange) in (0..6).flat_map(|seed| [(seed, true), (seed, false)]) {
        let rows = [1, 2, 1_000][seed as usize % 3];
        let mut t = TestNode::new(flow(options.clone(), exchange)).seed(seed).turn_rows(rows);
        for (key, what, n) in orders {
            t.put("orders", json!({ "key": key, "what": what, "n": n }));
        }
        t.crash(Crash::AtCommit(1 + seed)).run_until_idle();
        look(&mut t);
        t.assert_ledger_balanced();
    }
}

fn said(t: &TestNode) -> Vec<(String, i64)> {
    let text = |v: &Value| v.as_str().unwrap().to_string();
    t.sink("said").iter().map(|s| (text(&s["what"]), s["n"].as_i64().unwrap())).collect()
}

#[test]
fn a_keys_records_are_handled_in_their_order() {
    let orders: Vec<_> = (1..=40).map(|n| (["a", "b", "c"][n % 3], "add", 1)).collect();
    order(&orders, |t| {
        for key in ["a", "b", "c"] {
            let own = t.sink("said").into_iter().filter(|s| s["key"] == key);
            let sums: Vec<i64> = own.map(|s| s["n"].as_i64().unwrap()).collect();
            assert!(sums.len() > 10 && sums.iter().copied().eq(1..=sums.len() as i64), "{sums:?}");
        }
    });
}

#[test]
fn a_failed_handler_leaves_nothing_behind() {
    for what in ["fail", "panic"] {
        order(&[("a", "add", 1), ("a", what, 50), ("a", "add", 2), ("b", "add", 3)], |t| {
            assert_eq!((t.state::<Doer>("a").sum, t.state::<Doer>("b").sum), (3, 3));
            assert_eq!(t.find_state::<Doer>("other"), None);
            assert!(said(t).iter().all(|(what, _)| what == "added"));
            assert!(t.sink("odd").is_empty());
            let letters = t.dead_letters();
            assert_eq!(letters.len(), 1);
            let letter = &letters[0];
            assert_eq!((letter.source.as_str(), letter.place), ("orders", 2));
            assert!(letter.error.contains("as ordered"), "{}", letter.error);
            t.advance(Duration::from_secs(9));
            assert_eq!(t.state::<Doer>("a").sum, 3, "no timer was left");
        });
    }
}

#[test]
fn a_process_that_cannot_begin_does_not_exist() {
    order(&[("unborn", "add", 1), ("a", "add", 2), ("unborn", "add", 3)], |t| {
        assert_eq!(t.find_state::<Doer>("unborn"), None);
        assert_eq!(t.state::<Doer>("a").sum, 2);
        assert_eq!(t.dead_letters().len(), 2);
    });
}

#[test]
fn a_timer_fires_when_the_clock_says_so_and_once() {
    order(&[("a", "timer", 60)], |t| {
        t.advance(Duration::from_secs(50));
        assert_eq!(said(t), []);
        t.advance(Duration::from_secs(11)).crash(Crash::Now).run_until_idle();
        t.advance(Duration::from_secs(600));
        assert_eq!(said(t), [("timer".into(), 1_000)]);
    });
}

#[test]
fn a_failed_timer_is_consumed_and_changes_nothing() {
    order(&[("a", "bad timer", 60), ("b", "timer", 60)], |t| {
        t.advance(Duration::from_secs(61));
        t.advance(Duration::from_secs(61));
        assert_eq!((t.state::<Doer>("a").sum, t.state::<Doer>("b").sum), (0, 1_000));
        let letters = t.dead_letters();
        assert_eq!((letters.len(), letters[0].trigger), (1, Trigger::Timer));
    });
}

#[test]
fn the_policy_stop_fails_the_flow_at_the_record() {
    let mut t = TestNode::new(flow(OnError::Stop, true)).turn_rows(1);
    for (key, what) in [("a", "add"), ("a", "fail"), ("a", "add")] {
        t.put("orders", json!({ "key": key, "what": what, "n": 1 }));
    }
    assert_eq!(t.try_run().unwrap_err().code(), Code::Stopped);
    assert!(matches!(t.world().node().flow("f"), Some(FlowState::Failed(_))));
    assert_eq!(t.dead_letters(), []);
}

#[test]
fn messages_come_in_the_order_they_were_sent() {
    order(&[("a", "send", 0)], |t| {
        assert_eq!(said(t), [("added".into(), 1), ("added".into(), 3), ("added".into(), 6)]);
    });
}

#[test]
fn a_chain_of_messages_ends_after_a_thousand() {
    order(&[("a", "for ever", 0)], |t| {
        assert_eq!(t.state::<Doer>("a").sum, 1_000);
        assert_eq!(t.dead_letters().len(), 1);
    });
}

#[test]
fn a_process_that_stops_begins_anew_with_its_next_record() {
    order(&[("a", "add", 7), ("a", "timer", 60), ("a", "stop", 0), ("a", "add", 1)], |t| {
        t.advance(Duration::from_secs(61));
        assert_eq!(t.state::<Doer>("a").sum, 1, "state and timers are gone");
        assert_eq!(said(t), [("added".into(), 7), ("goodbye".into(), 7), ("added".into(), 1)]);
    });
}

#[test]
fn an_idle_process_ends_in_order() {
    let idle_expiry = Some(Duration::from_secs(60));
    let options = ProcessOptions { idle_expiry, ..ProcessOptions::default() };
    order_with(options, &[("a", "add", 7)], |t| {
        t.advance(Duration::from_secs(50));
        assert_eq!(t.state::<Doer>("a").sum, 7);
        t.advance(Duration::from_secs(11));
        assert_eq!(t.find_state::<Doer>("a"), None);
        assert_eq!(said(t), [("added".into(), 7), ("goodbye".into(), 7)]);
    });
}

#[test]
fn a_state_that_grows_too_large_fails_its_record() {
    let options = ProcessOptions { state_bytes_max: 1_000, ..ProcessOptions::default() };
    let orders = [("a", "grow", 900), ("a", "grow", 2_000), ("b", "grow", 10)];
    order_with(options, &orders, |t| {
        assert_eq!(t.state::<Doer>("a").blob.len(), 900);
        assert_eq!(t.state::<Doer>("b").blob.len(), 10);
        let letters = t.dead_letters();
        assert_eq!(letters.len(), 1);
        assert!(letters[0].error.contains("the limit is 1000"), "{}", letters[0].error);
    });
}

#[test]
fn a_side_output_goes_its_own_way() {
    order(&[("a", "side", 5), ("a", "add", 1)], |t| {
        assert_eq!(t.sink("odd"), [json!({ "key": "a", "what": "side", "n": 5 })]);
        assert_eq!(said(t), [("added".into(), 1)]);
    });
}

#[test]
fn a_key_that_is_too_long_costs_its_row() {
    let long = "k".repeat(70_000);
    order(&[("a", "add", 1), (&long, "add", 1), ("b", "add", 1)], |t| {
        assert_eq!(t.state::<Doer>("a").sum + t.state::<Doer>("b").sum, 2);
        let letters = t.dead_letters();
        assert_eq!(letters.len(), 1);
        assert_eq!((letters[0].place, letters[0].trigger), (2, Trigger::Record));
        assert!(letters[0].error.contains("the limit is 1024"), "{}", letters[0].error);
    });
}

/// Sets timers from timers.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Clockwork {
    ticks: u64,
}

#[derive(Serialize, Deserialize)]
struct Wind {
    key: String,
    at: Time,
}

impl Process for Clockwork {
    type In = Wind;
    type Out = Wind;

    fn handle(&mut self, wind: Wind, ctx: &mut Context<Self>) -> Result<()> {
        match wind.key.as_str() {
            "processing" => ctx.set_timer("tick", At::Processing(ctx.now())),
            _ => ctx.set_timer("tick", At::Event(wind.at)),
        }
        Ok(())
    }

    fn on_timer(&mut self, _: &str, ctx: &mut Context<Self>) -> Result<()> {
        self.ticks += 1;
        match &*ctx.key() {
            "event" => ctx.set_timer("tick", At::Event(ctx.time())),
            "processing" => ctx.set_timer("tick", At::Processing(ctx.now())),
            _ if self.ticks.is_multiple_of(5) => {}
            _ => ctx.set_timer("tick", At::Event(ctx.time() + Duration::from_millis(1))),
        }
        Ok(())
    }
}

#[test]
fn a_timer_that_sets_itself_again_and_again_is_set_aside() {
    for seed in 0..6 {
        let flow = Flow::new("f")
            .source("winds", Stdin::json_lines())
            .event_time("at", Duration::ZERO)
            .key_by("key")
            .process::<Clockwork>("clockwork", OnError::DeadLetter)
            .sink("out", Discard::new());
        let mut t = TestNode::new(flow).seed(seed).turn_rows([1, 2, 1_000][seed as usize % 3]);
        for at in [10, 500, 1_000] {
            for key in ["event", "processing", "five"] {
                t.put("winds", json!({ "key": key, "at": at }));
            }
        }
        t.end().crash(Crash::AtCommit(1 + seed)).run_until_idle();
        t.advance(Duration::from_secs(1));
        assert_eq!(t.state::<Clockwork>("five").ticks, 15);
        assert_eq!(t.state::<Clockwork>("event").ticks, 0);
        let letters = t.dead_letters();
        let of = |key: &str| {
            let key = Key::text(key);
            letters.iter().filter(|l| l.key == key.bytes()).collect::<Vec<_>>()
        };
        assert_eq!((of("event").len(), of("five").len()), (3, 0));
        assert!(of("event")[0].error.contains("it would never end"), "{}", letters[0].error);
        // How many rows come before the clock's timer fires is a matter of time.
        assert!((1..=3).contains(&of("processing").len()), "{letters:?}");
        t.assert_ledger_balanced();
    }
}
