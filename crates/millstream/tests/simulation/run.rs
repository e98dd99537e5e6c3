//! One run: draws a flow and its input from a seed, lets the surroundings fail, compares.

#![allow(dead_code, reason = "two suites share this, and each uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use millstream::{
    runtime::sim::{Coverage, faults::Faults},
    test::{Crash, TestNode},
};
use millstream_core::{
    Code,
    key::{Key, Part, display},
    letter::Letter,
};
use serde_json::{Value, json};

use super::{
    flows::{
        Account, EXPIRES_AFTER, Latecomer, OWN, Order, Out, Plan, RINGS_AFTER, Row, Shape, Tally,
        Total,
    },
    oracle,
    oracle::Expected,
};

/// All that a flow's sinks were given.
fn sinks(t: &TestNode, plan: &Plan) -> Vec<Vec<Value>> {
    let late = plan.reads_late.then_some("late");
    let names = ["out", "sides", "windowed"].into_iter().chain(late);
    names.chain(plan.copies.then_some("ordered")).map(|name| t.sink(name)).collect()
}

struct Draw(u64);

impl Draw {
    /// One of its own, so that what is added changes nothing that another draws.
    fn own(seed: u64, salt: u64) -> Draw {
        let mut d = Draw(seed.wrapping_mul(salt) ^ 0x5bf0_3635);
        d.below(2);
        d
    }

    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as i64
    }

    /// The same, or nothing at all every fourth time.
    fn maybe(&mut self, n: i64) -> Option<i64> {
        (self.below(4) > 0).then(|| self.below(n))
    }
}

/// Values of the second column of keys; beside them there is none.
const ZONES: i64 = 3;

struct Drawn {
    plan: Plan,
    rows: Vec<Row>,
    more: Vec<Row>,
    rest: Draw,
}

fn draw(seed: u64) -> Drawn {
    let mut d = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635);
    d.below(2);
    let size_ms = [100, 250, 1000, 60_000][d.below(4) as usize];
    let mut own = Draw::own(seed, 0xd134_2543_de82_ef95);
    let mut later = Draw::own(seed, 0xa076_1d64_78bd_642f);
    let mut latest = Draw::own(seed, 0x1d8e_4e27_c47d_124f);
    let mut plan = Plan {
        partitions: [1, 2, 7, 16][d.below(4) as usize],
        delay_ms: [0, 200, 2000][d.below(3) as usize],
        modulus: 2 + d.below(9),
        shape: [Shape::Tumble, Shape::Hop, Shape::Session][d.below(3) as usize],
        size_ms,
        slide_ms: (size_ms / [1, 2, 3][d.below(3) as usize]).max(1),
        expires: own.below(2) == 0,
        connects: own.below(2) == 0,
        grows_max: (later.below(2) == 0).then(|| 1 + later.below(3) as usize),
        reads_late: later.below(2) == 0,
        zoned: latest.below(2) == 0,
        makes: (latest.below(2) == 0).then(|| 1 + latest.below(3) as u32),
        copies: latest.below(2) == 0,
        stops: false,
    };
    // Which rows a session joins depends on both watermarks, and so on who is ahead.
    plan.connects &= plan.shape != Shape::Session;
    let keys = 1 + d.below(40);
    let n = 200 + d.below(600);
    let mut clock = 1_700_000_000_000;
    let rows = (0..n).map(|_| {
        clock += d.below(120);
        let key = match d.below(keys + 1) {
            0 => "cursed".to_string(),
            k => format!("k{k}"),
        };
        let ts = clock - d.below(3000) * d.below(2);
        let v = d.below(100_000);
        Row { key, zone: latest.maybe(ZONES), ts, v, maybe: latest.maybe(1000) }
    });
    let rows: Vec<Row> = rows.collect();
    let n = if plan.connects { own.below(300) } else { 0 };
    let more = (0..n).map(|i| {
        let near = &rows[(i as usize * rows.len()) / n as usize];
        let ts = near.ts - own.below(2000) * own.below(2);
        let (key, v) = (near.key.clone(), own.below(100_000));
        Row { key, zone: latest.maybe(ZONES), ts, v, maybe: latest.maybe(1000) }
    });
    let more = more.collect();
    Drawn { plan, rows, more, rest: d }
}

/// Whether the windows of a seed's flow are sessions.
#[allow(dead_code, reason = "the mutants ask, the simulation does not")]
pub fn draws_sessions(seed: u64) -> bool {
    draw(seed).plan.shape == Shape::Session
}

/// What a run leaves to be looked at.
#[derive(Debug, PartialEq)]
pub struct Ran {
    pub plan: Plan,
    pub coverage: Coverage,
    /// Records and timers that failed since they made a state too large.
    pub too_large: u64,
    /// Rows that an account was told are late, and rows that were late for a window and read.
    pub before_time: u64,
    pub late_read: u64,
    /// Results of windows whose key has a column that is missing.
    pub no_zone: u64,
    /// Those that have nothing to be the mean of.
    pub no_mean: u64,
    /// Processes whose key has two columns.
    pub zoned: u64,
    pub acts: Acts,
    pub trace: u64,
    pub sinks: Vec<Vec<Value>>,
    pub letters: Vec<Letter>,
}

/// Runs a seed and compares all it leaves with the oracle.
pub fn run(seed: u64) -> Ran {
    let Drawn { plan, rows, more, rest } = draw(seed);
    let (mut t, acts) = play(seed, &plan, [("rows", &rows), ("more", &more)], rest);
    t.run_until_idle();
    // All else is done; now the clock.
    t.advance(RINGS_AFTER + RINGS_AFTER / 2);
    t.advance(EXPIRES_AFTER);
    let expected = Expected::of(&plan, &rows, &more);
    compare(seed, &plan, &rows, &expected, &mut t);
    let coverage = t.coverage();
    println!("seed {seed}: {coverage:?}");
    let panes = |has: fn(&&oracle::Pane) -> bool| expected.panes.iter().filter(has).count() as u64;
    Ran {
        sinks: sinks(&t, &plan),
        plan,
        coverage,
        too_large: expected.too_large,
        before_time: expected.before_time,
        late_read: expected.latecomers.values().map(|l| l.n as u64).sum(),
        zoned: expected.latecomers.keys().filter(|key| key.contains(',')).count() as u64,
        no_mean: panes(|pane| pane.8 == "None"),
        no_zone: panes(|pane| pane.0.ends_with(",null")),
        acts,
        trace: t.world().trace(),
        letters: t.dead_letters(),
    }
}

/// Runs a seed and asks the ledger alone.
#[allow(dead_code, reason = "the mutants ask, the simulation does not")]
pub fn violations(seed: u64) -> Vec<String> {
    let Drawn { plan, rows, more, rest } = draw(seed);
    let (mut t, _) = play(seed, &plan, [("rows", &rows), ("more", &more)], rest);
    t.run_until_idle();
    t.ledger().violations()
}

/// The same where the first failure stops the flow: nothing is set aside, and what came out before
/// is what comes out first otherwise. Whether the flow has stopped.
pub fn run_to_the_first_failure(seed: u64) -> bool {
    let Drawn { mut plan, rows, more, rest } = draw(seed);
    plan.stops = true;
    let (mut t, _) = play(seed, &plan, [("rows", &rows), ("more", &more)], rest);
    let stopped = t.try_run();
    let at = format!("seed {seed}, {plan:?}");
    let expected = Expected::of(&Plan { expires: false, ..plan.clone() }, &rows, &more);
    let fails =
        expected.letters.iter().any(|l| l.0 == "account" && matches!(&*l.1, "record" | "suspect"));
    match &stopped {
        Err(error) => assert_eq!(error.code(), Code::Stopped, "{at}: {error}"),
        Ok(()) => assert!(!fails, "{at}: it should have stopped"),
    }
    assert!(t.dead_letters().iter().all(|l| l.operator != "account"), "{at}");
    for (key, outs) in outs(&t) {
        let expected = expected.outs.get(&key).map(Vec::as_slice).unwrap_or_default();
        assert!(expected.starts_with(&outs), "{at}, key {key}: {outs:?} of {expected:?}");
    }
    assert_eq!(t.ledger().violations(), Vec::<String>::new(), "{at}");
    stopped.is_err()
}

/// What people have done to a node while it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Acts {
    /// Processes ended by hand.
    pub kills: u64,
    /// Nodes that were asked to end, worked off what they had, and were started again.
    pub drains: u64,
    /// Nodes that were asked to end and killed before they had.
    pub drains_cut: u64,
}

/// Steps that a node has to work off what it has taken in.
const DRAIN_STEPS: u64 = 200_000;

/// Works off what was taken in, of which `put` lines of the first source are a part at most; the
/// power may fail then, and nothing is lost.
fn end_and_start_again(t: &mut TestNode, plan: &Plan, put: u64) -> bool {
    let at = format!("{plan:?}");
    let crashes = t.coverage().crashes;
    if let Err(error) = t.world().drain(DRAIN_STEPS) {
        assert!(t.world().disk().is_off(), "{at}: {error}");
        t.crash(Crash::Now);
        return false;
    }
    if plan.stops {
        t.crash(Crash::Now); // a flow that has failed writes no more
        return true;
    }
    let (before, written) = (t.ledger(), sinks(t, plan));
    // One that was worn out has been started in between, and may have taken more in.
    if t.coverage().crashes == crashes {
        let taken = before.sources.get("sim/rows").map_or(0, |s| s.units);
        assert!(taken <= put, "{at}: {taken} lines taken in, {put} before the drain");
    }
    t.crash(Crash::Now);
    assert_eq!((t.ledger(), sinks(t, plan)), (before, written), "{at}: lost after a drain");
    true
}

/// The key of a row in windows and in what reads their late rows.
fn window_key(plan: &Plan, row: &Row) -> Key {
    let zone = row.zone.map_or(Part::Null, Part::Int);
    let parts = [Part::Text(&row.key), zone];
    Key::from_parts(if plan.zoned { &parts } else { &parts[..1] })
}

/// Feeds a node in pieces while its surroundings fail; nothing is compared yet.
fn play(seed: u64, plan: &Plan, inputs: [(&str, &[Row]); 2], mut d: Draw) -> (TestNode, Acts) {
    let (mut acts, mut people) = (Acts::default(), Draw::own(seed, 0xe703_7ed1_a0b4_28db));
    let faults = Faults { fence: 5, unknown: 10, retry: 20, delay: 30 };
    let mut t = TestNode::keeping(plan.flow(), &OWN)
        .seed(seed)
        .turn_rows([1, 3, 50, 100_000][d.below(4) as usize])
        .setup(|s| {
            s.faults = faults;
            s.engine.segment_bytes = 64 << 10;
            s.engine.compact_bytes_min = 512;
            // Every third has its sources wait for those who read.
            if seed % 3 == 2 {
                s.node.backlog_rows_max = 20;
            }
        });
    let [(_, mut rest), (_, mut more)] = inputs;
    let rows = rest;
    while !rest.is_empty() {
        let (asked, put) = (people.below(5) == 0, inputs[0].1.len() - rest.len());
        if asked {
            t.world().node().drain();
        }
        let n = (1 + d.below(120) as usize).min(rest.len());
        let share = (more.len() * n).div_ceil(rest.len());
        for ((source, _), (from, n)) in inputs.iter().zip([(&mut rest, n), (&mut more, share)]) {
            let (now, later) = from.split_at(n);
            *from = later;
            for row in now {
                t.put(source, json!(row));
            }
        }
        let steps = [12, 60, 400][d.below(3) as usize];
        for _ in 0..d.below(steps) {
            t.world().step();
        }
        if t.world().disk().is_off() {
            t.crash(Crash::Now); // in a compaction
        }
        for _ in 0..people.below(4) {
            // Some that live, and some that do not.
            let row = &rows[people.below(rows.len() as i64) as usize];
            match people.below(4) {
                0 => t.kill("total", format!("total-{}", people.below(6))),
                2 if plan.makes.is_some() => t.kill("tally", format!("g{}", people.below(6))),
                1 if plan.reads_late => t.kill("latecomer", window_key(plan, row)),
                _ => t.kill("account", &row.key),
            };
            acts.kills += 1;
        }
        match people.below(3) {
            _ if !asked => {}
            0 => {
                t.crash(if people.below(2) == 0 { Crash::Now } else { Crash::Kill });
                acts.drains_cut += 1;
            }
            _ => acts.drains += u64::from(end_and_start_again(&mut t, plan, put as u64)),
        }
        match d.below(8) {
            0 | 1 => drop(t.crash(Crash::Now)),
            2 => drop(t.crash(Crash::Kill)),
            6 => {
                // The power fails in the middle of a write.
                let n = 1 + d.below(12) as u64;
                match d.below(2) {
                    0 => t.world().disk().crash_at(n),
                    _ => t.world().cut_compaction(Some(n.div_ceil(2))),
                }
                for _ in 0..300 {
                    t.world().step();
                }
                t.crash(Crash::Now);
            }
            3 => t.world().disk().fail_appends(1),
            4 => t.world().disk().fail_syncs(1),
            5 => {
                let used: u64 = t.world().disk().files().iter().map(|(_, len)| len).sum();
                t.world().disk().set_capacity(Some(used + d.below(20_000) as u64));
                for _ in 0..d.below(200) {
                    t.world().step();
                }
                t.world().disk().set_capacity(None);
            }
            _ => {
                let before = t.coverage().writes_failed;
                t.fail_writes();
                for _ in 0..400 {
                    if !t.world().step() || t.coverage().writes_failed > before {
                        break;
                    }
                }
                if d.below(2) == 0 {
                    t.crash(Crash::Now); // what a failed write has left may be gone
                }
            }
        }
    }
    t.world().cut_compaction(None);
    if t.world().disk().is_off() {
        t.crash(Crash::Now);
    }
    t.end();
    (t, acts)
}

/// What accounts have emitted, per key and in order.
fn outs(t: &TestNode) -> BTreeMap<String, Vec<Out>> {
    let mut outs: BTreeMap<String, Vec<Out>> = BTreeMap::new();
    for row in t.sink("out") {
        let out: Out = serde_json::from_value(row).unwrap();
        outs.entry(out.key.clone()).or_default().push(out);
    }
    outs
}

fn compare(seed: u64, plan: &Plan, rows: &[Row], expected: &Expected, t: &mut TestNode) {
    let at = format!("seed {seed}, {plan:?}");
    let outs = outs(t);
    for (key, expected) in &expected.outs {
        assert_eq!(outs.get(key), Some(expected), "{at}, key {key}");
    }
    assert_eq!(outs.len(), expected.outs.len(), "{at}");
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or(f64::NAN) as i64;
    let mut sides: Vec<i64> = t.sink("sides").iter().map(|r| number(r, "v")).collect();
    sides.sort();
    assert_eq!(sides, expected.sides, "{at}");
    // Every key there may be, whether it must exist or not.
    let drawn = rows.iter().map(|r| r.key.clone());
    let sent = (0..5).flat_map(|n| [format!("mail-{n}"), format!("total-{n}"), n.to_string()]);
    let zones = || (0..ZONES).map(Some).chain([None]);
    let zoned =
        drawn.clone().flat_map(|key| zones().map(move |z| oracle::window_key(plan, &key, z)));
    let made = (0..6).map(|n| format!("g{n}"));
    for key in &drawn.chain(sent).chain(zoned).chain(made).collect::<BTreeSet<_>>() {
        assert_eq!(
            t.find_state::<Account>(key).as_ref(),
            expected.accounts.get(key),
            "{at}, {key}"
        );
        assert_eq!(t.find_state::<Total>(key).as_ref(), expected.totals.get(key), "{at}, {key}");
        assert_eq!(t.find_state::<Tally>(key).as_ref(), expected.tallies.get(key), "{at}, {key}");
        let latecomer = t.find_state::<Latecomer>(key);
        assert_eq!(latecomer.as_ref(), expected.latecomers.get(key), "{at}, {key}");
    }
    let text = |row: &Value| row["key"].as_str().unwrap_or_default().to_string();
    let mut panes: Vec<oracle::Pane> = t
        .sink("windowed")
        .iter()
        .map(|r| {
            let n = |name| number(r, name);
            (
                oracle::window_key(plan, &text(r), r["zone"].as_i64()),
                n("window_start"),
                n("window_end"),
                n("n"),
                n("sum"),
                n("min"),
                n("max"),
                n("picky"),
                format!("{:?}", r["mean"].as_f64()),
            )
        })
        .collect();
    panes.sort();
    assert_eq!(panes, expected.panes, "{at}");
    let late = if plan.reads_late { t.sink("late") } else { t.late("windows") };
    let mut late: Vec<_> =
        late.iter().map(|r| (text(r), number(r, "ts"), number(r, "v"))).collect();
    late.sort();
    assert_eq!(late, expected.late, "{at}");
    if plan.copies {
        let rows = t.sink("ordered").into_iter();
        let orders: Vec<Order> = rows.map(|row| serde_json::from_value(row).unwrap()).collect();
        assert_eq!(orders, oracle::orders(), "{at}");
    }
    let mut letters: Vec<_> = t
        .dead_letters()
        .into_iter()
        .map(|l| (l.operator, l.trigger.name().to_string(), l.place, display(&l.key)))
        .collect();
    letters.sort();
    assert_eq!(letters, expected.letters, "{at}");
    let ledger = t.ledger();
    assert_eq!(ledger.violations(), Vec::<String>::new(), "{at}");
    assert_eq!(ledger.operators["sim/rows/wanted"].filtered, expected.filtered, "{at}");
    let dropped = ledger.operators.get("sim/dropped/dropped").map_or(0, |c| c.processed);
    assert_eq!(dropped, expected.dropped, "{at}");
}
