//! `telemetry`: readings of sensors, from a file into 10 s windows per sensor into a file, exactly
//! once and fsynced, against plain Rust that promises nothing.
//!
//! The clock runs from before the node starts until the output is fsynced; the baseline's until its
//! output is flushed. Every output is compared with the baseline's, float by float.

use std::process::ExitCode;

use crate::{
    cli::Telemetry,
    machine::{self, Scratch},
    node, readings,
    report::{Report, Result, rounded},
    sensors::{Part, Run, What, difference, windows},
};

/// Windows of the full input with seed 42.
const ROWS_OUT_42: u64 = 656_523;

/// Runs the bench.
pub fn run(args: &Telemetry) -> Result<ExitCode> {
    let what = if args.process { What::Process } else { What::Window };
    let mut report = Report::new("telemetry", args.common.seed, args.common.rounds);
    let scratch = Scratch::new(args.common.dir.as_deref())?;
    node::print_configuration();
    let input = scratch.join("readings.jsonl");
    readings::write(&input, args.rows, args.sensors, args.common.seed)?;
    println!("input    {} readings of {} sensors", args.rows, args.sensors);

    let run = |what: What| -> Result<Run> {
        scratch.clear("data");
        let output = scratch.join(format!("{what:?}.jsonl"));
        scratch.clear(&output);
        machine::part(
            "telemetry",
            &Part { what, input: input.clone(), output, data: scratch.join("data") },
        )
    };
    let (mut ratios, mut plain_s, mut wall_s, mut commits) = (vec![], vec![], vec![], vec![]);
    for round in 1..=args.common.rounds {
        let plain = run(What::Plain)?;
        let ours = run(what)?;
        println!(
            "round {round}  plain {:.3} s, {what:?} {:.3} s, ratio {:.3}",
            plain.wall_s,
            ours.wall_s,
            plain.wall_s / ours.wall_s
        );
        let output = scratch.join(format!("{what:?}.jsonl"));
        let (should, is) = (windows(&scratch.join("Plain.jsonl"))?, windows(&output)?);
        let wrong = difference(&should, &is);
        report.check(wrong.is_none(), || wrong.unwrap_or_default());
        report.check(ours.violations.is_empty(), || ours.violations.join("; "));
        let t = &ours.totals;
        report.check((t.rows_in, t.late, t.dead) == (args.rows, 0, 0), || {
            format!("{} rows in, {} late, {} dead", t.rows_in, t.late, t.dead)
        });
        report.check(t.rows_out == plain.totals.rows_out, || {
            format!("{} rows out, the baseline has {}", t.rows_out, plain.totals.rows_out)
        });
        if (args.rows, args.sensors, args.common.seed) == (5_000_000, 100_000, 42) {
            report.check(t.rows_out == ROWS_OUT_42, || format!("{} rows out", t.rows_out));
        }
        ratios.push(plain.wall_s / ours.wall_s);
        plain_s.push(plain.wall_s);
        wall_s.push(ours.wall_s);
        commits.push(t.turns as f64 / ours.wall_s);
        report.totals(ours.totals);
    }
    let name = match args.process {
        true => ["ratio_process", "ratio_process_min", "ratio_process_max"],
        false => ["ratio", "ratio_min", "ratio_max"],
    };
    report.spread(name, &ratios);
    report.spread(["wall_s", "wall_s_min", "wall_s_max"], &wall_s);
    report.spread(["plain_s", "plain_s_min", "plain_s_max"], &plain_s);
    report.spread(["commits_per_s", "commits_per_s_min", "commits_per_s_max"], &commits);
    let rates: Vec<f64> = wall_s.iter().map(|s| args.rows as f64 / s).collect();
    report.figure("rows_per_s", rounded(crate::report::Spread::of(&rates).median.round()));
    Ok(report.finish())
}
