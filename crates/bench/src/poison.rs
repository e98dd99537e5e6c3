//! `poison`: `telemetry --process` where one reading of each hundred, chosen by hash, changes half
//! of its process's state and then panics.
//!
//! Exactly those readings must be dead letters that name their lines, and every window must be what
//! the baseline makes of the healthy readings.

use std::process::ExitCode;

use crate::{
    cli::Telemetry,
    machine::{self, Scratch},
    node, readings,
    report::{Report, Result},
    sensors::{Part, Run, What, difference, poisoned, windows},
};

/// Runs the bench.
pub fn run(args: &Telemetry) -> Result<ExitCode> {
    let mut report = Report::new("poison", args.common.seed, args.common.rounds);
    let scratch = Scratch::new(args.common.dir.as_deref())?;
    node::print_configuration();
    let input = scratch.join("readings.jsonl");
    readings::write(&input, args.rows, args.sensors, args.common.seed)?;
    let lines: Vec<u64> = (0..args.rows).filter(|s| poisoned(*s)).map(|s| s + 1).collect();
    println!(
        "input    {} readings of {} sensors, {} poisoned",
        args.rows,
        args.sensors,
        lines.len()
    );

    let run = |what: What| -> Result<Run> {
        scratch.clear("data");
        let output = scratch.join(format!("{what:?}.jsonl"));
        scratch.clear(&output);
        let data = scratch.join("data");
        machine::part("telemetry", &Part { what, input: input.clone(), output, data })
    };
    run(What::PlainHealthy)?;
    let should = windows(&scratch.join("PlainHealthy.jsonl"))?;
    let (mut ratios, mut clean_s, mut wall_s) = (vec![], vec![], vec![]);
    for round in 1..=args.common.rounds {
        let clean = run(What::Process)?;
        let mut poison = run(What::Poison)?;
        let ratio = clean.wall_s / poison.wall_s;
        println!(
            "round {round}  clean {:.3} s, poison {:.3} s, ratio {ratio:.3}",
            clean.wall_s, poison.wall_s
        );
        let wrong = difference(&should, &windows(&scratch.join("Poison.jsonl"))?);
        report.check(wrong.is_none(), || wrong.unwrap_or_default());
        report.check(poison.violations.is_empty(), || poison.violations.join("; "));
        poison.dead_lines.sort_unstable();
        report.check(poison.dead_lines == lines, || {
            let (is, should) = (poison.dead_lines.len(), lines.len());
            format!("{is} dead letters, {should} expected, or of other lines")
        });
        let t = &poison.totals;
        report.check((t.rows_in, t.late) == (args.rows, 0), || {
            format!("{} rows in, {} late", t.rows_in, t.late)
        });
        ratios.push(ratio);
        clean_s.push(clean.wall_s);
        wall_s.push(poison.wall_s);
        report.totals(poison.totals);
    }
    report.spread(["ratio_to_clean", "ratio_to_clean_min", "ratio_to_clean_max"], &ratios);
    report.spread(["wall_s", "wall_s_min", "wall_s_max"], &wall_s);
    report.spread(["clean_s", "clean_s_min", "clean_s_max"], &clean_s);
    Ok(report.finish())
}
