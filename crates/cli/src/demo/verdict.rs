//! Compares what the node left behind with the recount. Nothing runs any more: the directory and
//! the sink's file are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::ExitCode,
};

use millstream::{Target, io::view::LedgerView};
use millstream_core::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use super::{
    Plan, VICTIM,
    recount::{Alert, State},
    watch::Watched,
};
use crate::say::{Say, count, number};

/// What the run came to; printed as it is with `--json`.
#[derive(Debug, Default, Serialize)]
struct Verdict {
    seed: u64,
    rows: u64,
    processes: usize,
    alerts_expected: usize,
    alerts_found: usize,
    alerts_missing: usize,
    alerts_twice: usize,
    states_equal: usize,
    states_differ: usize,
    dead_undecodable: usize,
    dead_injected: usize,
    dead_same_lines: bool,
    killed: bool,
    resumed_ms: f64,
    restart_us: Option<u64>,
    seconds: f64,
    rows_accounted_for: u64,
    ledger_balanced: bool,
    ok: bool,
}

/// Compares, prints, and says so in the exit code.
pub fn verdict(
    plan: &Plan,
    watched: &Watched,
    target: &Target,
    alerts: &[Alert],
    say: &mut Say,
) -> Result<ExitCode> {
    let expected = &plan.expected;
    let mut v = Verdict {
        seed: plan.seed,
        killed: watched.killed,
        resumed_ms: watched.resumed_ms,
        restart_us: watched.restarted.map(|(us, _)| us),
        seconds: watched.seconds,
        ..Verdict::default()
    };
    (v.alerts_expected, v.alerts_found) = (expected.alerts.len(), alerts.len());
    (v.alerts_missing, v.alerts_twice) = compare(&expected.alerts, alerts);
    states(plan, target, &mut v)?;
    dead(plan, target, &mut v)?;
    let ledger = target.ledger()?;
    let lines = books(&ledger, &mut v);
    v.ok = v.killed
        && v.alerts_missing + v.alerts_twice + v.states_differ == 0
        && v.alerts_found == v.alerts_expected
        && v.dead_same_lines
        && v.ledger_balanced
        && v.rows == expected.rows
        && v.rows_accounted_for == v.rows;
    say.remark(" recount (plain loop over the file, shares no code with the engine)");
    say.remark(format!(
        "   alerts   {} expected   {} found   {} missing   {} twice",
        number(v.alerts_expected as u64),
        number(v.alerts_found as u64),
        v.alerts_missing,
        v.alerts_twice
    ));
    say.remark(format!(
        "   state    {} aircraft compared, {} equal",
        number(v.processes as u64),
        number(v.states_equal as u64)
    ));
    say.remark(format!(
        "   dead     {} x not a number or no date + {} injected, {}",
        number(v.dead_undecodable as u64),
        v.dead_injected,
        if v.dead_same_lines { "same lines" } else { "NOT the expected lines" }
    ));
    lines.into_iter().for_each(|line| say.remark(line));
    violations(&ledger, plan, &v, say);
    if say.json {
        say.result(&v, |_| {})?;
    }
    Ok(ExitCode::from(u8::from(!v.ok)))
}

fn violations(ledger: &LedgerView, plan: &Plan, v: &Verdict, say: &mut Say) {
    ledger.violations.iter().for_each(|line| say.remark(line));
    let rows = count(v.rows, "row", "rows");
    let (balanced, accounted) = (v.ledger_balanced, number(v.rows_accounted_for));
    let word = if balanced && v.rows == v.rows_accounted_for { "" } else { "NOT " };
    say.remark(format!("ledger {word}balanced: {rows} in, {accounted} accounted for"));
    if v.rows != plan.expected.rows {
        say.remark(format!("the file has {} rows", number(plan.expected.rows)));
    }
    if !v.killed {
        say.remark("the input ended before the node could be killed: run it at a lower rate");
    }
    say.remark("");
}

/// What can be asked of what is left.
pub fn next(target: &Target, say: &mut Say) -> Result<()> {
    let (key, _) = VICTIM;
    let letters = target.dead(Some("departures"), Some(1), usize::MAX)?;
    let crash = letters.iter().find(|l| !l.key.is_empty()).or(letters.last()).map_or(1, |l| l.n);
    say.remark("Now try (nothing needs to run):");
    for words in [["inspect", "aircraft", key], ["dead", "show", &crash.to_string()]] {
        say.remark(format!("  {}", say.typed(&words)));
    }
    Ok(())
}

/// The alerts in a file.
pub fn alerts(path: &Path) -> Result<Vec<Alert>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path.display(), &e))?;
    text.lines().map(|line| alert(line).map_err(|e| e.at(path.display()))).collect()
}

/// An alert as it was written.
pub fn alert(line: &str) -> Result<Alert> {
    let alert = || {
        let row: Value = serde_json::from_str(line).ok()?;
        Some((
            row["tailnum"].as_str()?.to_string(),
            row["sched_dep"].as_i64()?,
            row["flight"].as_i64()?,
        ))
    };
    alert().ok_or_else(|| Error::corrupt(line))
}

/// How many of `expected` are missing, and how many were found too often.
fn compare(expected: &[Alert], found: &[Alert]) -> (usize, usize) {
    let mut balance: BTreeMap<&Alert, i64> = BTreeMap::new();
    expected.iter().for_each(|a| *balance.entry(a).or_default() += 1);
    found.iter().for_each(|a| *balance.entry(a).or_default() -= 1);
    let sum = |sign: i64| balance.values().map(|n| (n * sign).max(0) as usize).sum();
    (sum(1), sum(-1))
}

fn states(plan: &Plan, target: &Target, v: &mut Verdict) -> Result<()> {
    let found = target.processes("aircraft")?;
    let state = |p: &Value| -> Option<State> {
        let number = |name: &str| Some(p["state"][name].as_u64()? as u32);
        Some((number("departures")?, number("late_in_a_row")?))
    };
    let found: BTreeMap<String, Option<State>> =
        found.into_iter().map(|p| (p.key.clone(), state(&p.process))).collect();
    let keys: BTreeSet<&String> = found.keys().chain(plan.expected.states.keys()).collect();
    v.processes = found.len();
    for key in keys {
        match (found.get(key).copied().flatten(), plan.expected.states.get(key).copied()) {
            (Some(found), Some(expected)) if found == expected => v.states_equal += 1,
            _ => v.states_differ += 1,
        }
    }
    Ok(())
}

fn dead(plan: &Plan, target: &Target, v: &mut Verdict) -> Result<()> {
    let mut letters = Vec::new();
    loop {
        let page = target.dead(Some("departures"), Some(letters.len() as u64 + 1), usize::MAX)?;
        if page.is_empty() {
            break;
        }
        letters.extend(page);
    }
    let (bad, crashed): (Vec<_>, Vec<_>) = letters.into_iter().partition(|l| l.key.is_empty());
    (v.dead_undecodable, v.dead_injected) = (bad.len(), crashed.len());
    let mut lines: Vec<u64> = bad.iter().map(|l| l.place).collect();
    lines.sort_unstable();
    let injected: Vec<u64> = crashed.iter().map(|l| l.place).collect();
    v.dead_same_lines = lines.iter().eq(plan.expected.bad.iter())
        && injected.iter().eq(plan.expected.injected.iter());
    Ok(())
}

/// The ledger's lines for source and process, and whether they account for every row.
fn books(view: &LedgerView, v: &mut Verdict) -> Vec<String> {
    v.ledger_balanced = view.balanced;
    let source = view.ledger.sources.get("departures/flights").copied().unwrap_or_default();
    let aircraft = "departures/aircraft/aircraft";
    let process = view.ledger.operators.get(aircraft).copied().unwrap_or_default();
    v.rows = source.units - source.skipped;
    let handled = process.processed + process.filtered + process.late + process.parked;
    v.rows_accounted_for = source.undecodable + process.dead + handled;
    vec![
        format!(
            " ledger  flights    in {} = decoded {} + dead {}",
            number(v.rows),
            number(source.rows),
            number(source.undecodable)
        ),
        format!(
            "         aircraft   in {} = processed {} + dead {} + parked {}",
            number(process.read),
            number(process.processed),
            number(process.dead),
            number(process.parked)
        ),
    ]
}
