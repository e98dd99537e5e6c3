//! A flow whose input has ended comes to its end: nothing holds it back that will not happen.

#![expect(clippy::unwrap_used, reason = "tests")]

use millstream::{prelude::*, runtime::node::FlowState, test::TestNode};
use serde_json::json;

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    at: i64,
    what: String,
}

/// Does what its row says, and passes the row on.
#[derive(Default, Serialize, Deserialize)]
struct First;

impl Process for First {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        match row.what.as_str() {
            "alarm" => ctx.set_timer("alarm", At::Event(Time::from_ms(row.at + 1_000))),
            "timer" => ctx.set_timer("timer", At::Processing(ctx.now() + HOUR)),
            "later" => ctx.set_timer("timer", At::Processing(ctx.now() + 2 * HOUR)),
            "cancel" => ctx.cancel_timer("timer"),
            "stop" => ctx.stop(),
            "fail" => return Err(Failure::new("as it says")),
            _ => {}
        }
        ctx.emit(row);
        Ok(())
    }

    fn on_timer(&mut self, name: &str, ctx: &mut Context<Self>) -> Result<()> {
        let row = Row { key: ctx.key().into_owned(), at: ctx.time().ms(), what: name.into() };
        if name == "alarm" {
            ctx.send::<Second>(row.key.as_str(), &row)?
        } else {
            ctx.emit(row)
        }
        Ok(())
    }
}

/// Says what it was told when its time has come.
#[derive(Default, Serialize, Deserialize)]
struct Second {
    heard: Vec<String>,
}

impl Process for Second {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        self.heard.push(row.what);
        ctx.set_timer("say", At::Event(Time::from_ms(10_000)));
        Ok(())
    }

    fn on_timer(&mut self, _: &str, ctx: &mut Context<Self>) -> Result<()> {
        let key = ctx.key().into_owned();
        ctx.emit(Row { key, at: ctx.time().ms(), what: self.heard.join(" ") });
        Ok(())
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn node(on_error: OnError) -> TestNode {
    let flow = Flow::new("f")
        .partitions(2)
        .source("rows", JsonLinesFile::open("-"))
        .event_time("at", Duration::ZERO)
        .key_by("key")
        .process::<First>("first", on_error)
        .key_by("key")
        .process::<Second>("second", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create("-"));
    TestNode::new(flow).seed(3)
}

/// Runs these rows of one key, one turn each, to the end.
fn run(rows: &[&str]) -> TestNode {
    let mut t = node(OnError::DeadLetter);
    for (at, what) in rows.iter().enumerate() {
        t.put("rows", json!({ "key": "a", "at": at, "what": what })).run_until_idle();
    }
    t.end().run_until_idle();
    t
}

fn state(t: &mut TestNode) -> FlowState {
    t.world().node().flow("f").unwrap()
}

/// How many tasks have not committed that they have come to their end.
fn unended(t: &mut TestNode) -> usize {
    let tasks = t.world().node().engine().tasks();
    tasks.iter().filter(|(_, _, progress)| !progress.ended).count()
}

#[test]
fn a_message_does_not_stand_for_the_watermark() {
    let mut t = run(&["alarm"]);
    assert_eq!(t.sink("out"), [json!({ "key": "a", "at": 10_000, "what": "alarm alarm" })]);
    assert_eq!(state(&mut t), FlowState::Finished);
}

#[test]
fn a_timer_that_was_taken_back_holds_no_flow_back() {
    for end in ["cancel", "stop"] {
        let mut t = run(&["timer", end]);
        assert_eq!(state(&mut t), FlowState::Finished, "{end}");
    }
    let mut t = run(&["timer", "later"]);
    assert_eq!(state(&mut t), FlowState::Running, "a timer is left");
    assert_eq!(unended(&mut t), 1, "other nodes know it from what the task has committed");
    t.advance(HOUR);
    assert_eq!(state(&mut t), FlowState::Running, "and was put off");
    assert_eq!(unended(&mut t), 1);
    t.advance(HOUR);
    assert_eq!(state(&mut t), FlowState::Finished);
    assert_eq!(unended(&mut t), 0);
}

#[test]
fn a_flow_that_has_failed_does_not_keep_its_node_from_draining() {
    let mut t = node(OnError::Stop);
    for what in ["", "fail", "", ""] {
        t.put("rows", json!({ "key": "a", "at": 1, "what": what }));
    }
    assert!(t.try_run().is_err());
    let node = t.world().node().clone();
    node.drain();
    assert!(node.is_drained(), "what is left waits for a flow that was mended");
}

#[test]
fn a_machine_whose_clock_was_set_back_goes_on() {
    let mut t = node(OnError::DeadLetter);
    t.put("rows", json!({ "key": "a", "at": 1, "what": "a" })).run_until_idle();
    t.world().set_back(HOUR).unwrap();
    for what in ["b", "c"] {
        t.put("rows", json!({ "key": "a", "at": 2, "what": what })).run_until_idle();
    }
    assert_eq!(t.state::<Second>("a").heard, ["a", "b", "c"]);
    t.put("rows", json!({ "key": "b", "at": 20_000, "what": "" })).run_until_idle();
    assert_eq!(t.sink("out").len(), 2, "time goes on without rows");
}
