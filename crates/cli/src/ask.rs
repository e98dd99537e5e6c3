//! Questions: put to a node or its directory, and their answers as lines.

use std::process::ExitCode;

use millstream::{
    Target, Time,
    io::view::{FlowView, LedgerView, LetterView, ProcessView},
};
use millstream_core::Result;
use serde_json::Value;

use crate::{
    args::{Args, Cluster, Command, Dead, Streams, Supervisor},
    cluster,
    say::{Say, bytes, count, number},
};

/// Answers a question.
pub fn ask(question: &Command, args: &Args, say: &mut Say) -> Result<ExitCode> {
    let target = Target::find(args.node.as_deref(), args.data.as_deref())?;
    match question {
        Command::Status => status(&target, say),
        Command::Inspect { kind, key } => {
            let process = target.process(kind, key)?;
            say.result(&process, |say| show_process(&process, say))?;
            say.next(&[&["dead", "list"]]);
            Ok(ExitCode::SUCCESS)
        }
        Command::Kill { kind, key } => {
            let killed = target.kill(kind, key)?;
            say.result(&killed, |say| {
                let (kind, key) = (&killed.kind, &killed.key);
                say.line(format!(
                    "killed {kind}/{key}; its next event finds its last committed state"
                ));
            })?;
            say.next(&[&["inspect", kind, key], &["supervisor", "tail"]]);
            Ok(ExitCode::SUCCESS)
        }
        Command::Streams(Streams::List) => streams(&target, say),
        Command::Streams(Streams::Tail { name, partition, from, limit }) => {
            let rows = target.tail(name, *partition, *from, *limit)?;
            for row in &rows {
                let line = if say.json {
                    serde_json::to_string(row).unwrap_or_default()
                } else {
                    format!("{}/{} {}", row.partition, row.frame, row.value)
                };
                say.line(line);
            }
            if rows.is_empty() {
                say.remark(match from {
                    Some(n) => format!("no rows are kept from frame {n} on"),
                    None => "no rows are kept: what every reader has read is trimmed".into(),
                });
            }
            say.next(&[&["streams", "list"]]);
            Ok(ExitCode::SUCCESS)
        }
        Command::Dead(Dead::List { flow, from, limit }) => {
            let letters = target.dead(flow.as_deref(), *from, *limit)?;
            dead_list(&letters, *from, say)
        }
        Command::Dead(Dead::Show { n, flow }) => {
            let letter = target.letter(flow.as_deref(), *n)?;
            say.result(&letter, |say| show_letter(&letter, say))?;
            match letter.key.as_str() {
                "" => say.next(&[&["dead", "list"]]),
                key => say.next(&[&["inspect", &letter.operator, key]]),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Ledger { check } => ledger(&target, *check, say),
        Command::Supervisor(Supervisor::Tail { from, limit }) => {
            let reports = target.supervisor(*from, *limit)?;
            say.result(&reports, |say| {
                reports.iter().for_each(|r| say.line(&r.line));
                if reports.is_empty() {
                    say.line(match from {
                        Some(n) => format!("supervisors have decided nothing from number {n} on"),
                        None => "supervisors had nothing to decide".into(),
                    });
                }
            })?;
            say.next(&[&["dead", "list"]]);
            Ok(ExitCode::SUCCESS)
        }
        Command::Cluster(Cluster::Status) => cluster::status(&target, say),
        Command::Cluster(Cluster::Drain { name }) => cluster::drain(&target, name, say),
        Command::Demo(_) | Command::DemoNode(_) | Command::DemoMember(_) | Command::Migrate(_) => {
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn status(target: &Target, say: &mut Say) -> Result<ExitCode> {
    let status = target.status()?;
    say.result(&status, |say| {
        say.line(match status.running {
            true => format!(
                "millstream {}   pid {}   {}   up {}{}",
                status.version,
                status.pid,
                status.http,
                span(status.uptime_ms),
                if status.draining { "   draining" } else { "" },
            ),
            false => format!(
                "millstream {}   no node runs; this is what its directory says",
                status.version
            ),
        });
        let (engine, stored) = (&status.engine, bytes(status.engine.bytes_stored));
        say.line(match status.running {
            true => format!(
                "{stored} stored, {} and {} since the start",
                count(engine.turns, "turn", "turns"),
                count(engine.fsyncs, "fsync", "fsyncs")
            ),
            false => format!("{stored} stored"),
        });
        if !status.engine_error.is_empty() {
            say.line(format!("{} wait to be written", bytes(status.pending_bytes)));
            say.line(&status.engine_error);
        }
        if !status.worn_out.is_empty() {
            say.line(&status.worn_out);
            say.line("the node takes nothing in, and ends when what it has is worked off");
        }
        status.flows.iter().for_each(|flow| show_flow(flow, say));
        if status.flows.is_empty() {
            say.line("no flows");
        }
    })?;
    let failed = status.flows.iter().any(|f| f.state == "failed");
    say.next(&[&["ledger"]]);
    Ok(ExitCode::from(u8::from(failed)))
}

fn show_flow(flow: &FlowView, say: &mut Say) {
    say.line(format!(
        "\nflow {}   {}   {} in, {} dead, {} waiting",
        flow.name,
        flow.state,
        count(flow.records, "record", "records"),
        number(flow.dead),
        number(flow.backlog_rows)
    ));
    if !flow.error.is_empty() {
        say.line(format!("  {}", flow.error.replace('\n', "\n  ")));
    }
    let width = flow.stages.iter().map(|s| s.name.len()).max().unwrap_or(0);
    for stage in &flow.stages {
        let mut more = Vec::new();
        if stage.keys > 0 {
            more.push(count(stage.keys, "live key", "live keys"));
        }
        if !stage.each_row.is_empty() {
            let with = if stage.tasks == 0 { ", with the turn it comes from" } else { "" };
            more.push(format!("each row {}{with}", stage.each_row));
        }
        if stage.reopened > 0 {
            more.push(format!("opened again {}", count(stage.reopened, "time", "times")));
        }
        let (tasks, read) = (u64::from(stage.tasks), number(stage.read) + " read");
        let tasks = count(tasks, "task", "tasks");
        let line = format!("  {:width$}  {tasks:>9}  {read:>16}  {}", stage.name, more.join(", "));
        say.line(line.trim_end());
    }
}

fn show_process(p: &ProcessView, say: &mut Say) {
    say.line(format!("{}/{}   flow {}   partition {}", p.kind, p.key, p.flow, p.partition));
    let field = |name: &str| p.process.get(name).cloned().unwrap_or(Value::Null);
    say.line(format!("state, version {}", field("version")));
    match field("state") {
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields.iter().for_each(|(name, value)| say.line(format!("  {name:width$}  {value}")));
        }
        other => say.line(format!("  {other}")),
    }
    for timer in field("timers").as_array().into_iter().flatten() {
        let text = |name: &str| timer[name].as_str().unwrap_or_default().to_string();
        say.line(format!("timer {}  due {} ({} time)", text("name"), text("due"), text("clock")));
    }
}

fn streams(target: &Target, say: &mut Say) -> Result<ExitCode> {
    let streams = target.streams()?;
    say.result(&streams, |say| {
        let width = streams.iter().map(|s| s.name.len()).max().unwrap_or(0);
        say.line(format!("{:width$}  partitions  rows ever  waiting  columns", "stream"));
        for s in &streams {
            say.line(format!(
                "{:width$}  {:>10}  {:>9}  {:>7}  {}",
                s.name,
                s.partitions,
                number(s.appended_rows),
                number(s.backlog_rows),
                s.columns.join(", ")
            ));
        }
    })?;
    match streams.iter().max_by_key(|s| s.backlog_rows) {
        Some(fullest) => say.next(&[&["streams", "tail", &fullest.name]]),
        None => say.next(&[&["status"]]),
    }
    Ok(ExitCode::SUCCESS)
}

fn dead_list(letters: &[LetterView], from: Option<u64>, say: &mut Say) -> Result<ExitCode> {
    say.result(&letters, |say| {
        // Each flow has its own numbers.
        let several = letters.windows(2).any(|two| two[0].flow != two[1].flow);
        for l in letters {
            let flow = if several { format!("{}  ", l.flow) } else { String::new() };
            let (n, time, line) = (l.n, Time::from_ms(l.time_ms), letter_line(l));
            say.line(format!("{n:>6}  {flow}{time}  {line}"));
        }
        if letters.is_empty() {
            say.line(match from {
                Some(n) => format!("nothing from number {n} on was set aside"),
                None => "nothing was set aside".into(),
            });
        }
    })?;
    match (letters.last(), from) {
        (Some(last), _) => {
            say.next(&[&["dead", "show", &last.n.to_string(), "--flow", &last.flow]])
        }
        (None, Some(_)) => say.next(&[&["dead", "list"]]),
        (None, None) => say.next(&[&["ledger"]]),
    }
    Ok(ExitCode::SUCCESS)
}

/// Where and why, in one line.
pub fn letter_line(l: &LetterView) -> String {
    let mut line = String::new();
    if !l.key.is_empty() {
        line += &format!("{}/{}  ", l.operator, l.key);
    }
    if l.place > 0 {
        line += &format!("{} line {}", file_name(l), l.place);
        if l.bytes.1 > 0 {
            line += &format!(" (bytes {}..{})", l.bytes.0, l.bytes.1);
        }
        line += "  ";
    } else if !l.file.is_empty() {
        // No line of a file: it says itself where it is.
        line += &format!("{}  ", l.file);
    }
    match l.column.as_str() {
        "" => line + &l.error,
        column => format!("{line}{column}: {}", l.error),
    }
}

/// The name of a letter's file, without its folder; that of its source if it has no file.
fn file_name(l: &LetterView) -> &str {
    match l.file.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ => &l.source,
    }
}

fn show_letter(l: &LetterView, say: &mut Say) {
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            say.line(format!("{name:9} {value}"));
        }
    };
    field("number", l.n.to_string());
    field("set aside", Time::from_ms(l.time_ms).to_string());
    field("where", format!("flow {}, stage {}, operator {}", l.flow, l.stage, l.operator));
    field("what", format!("{}: {}", l.code, l.trigger));
    field("key", l.key.clone());
    if l.place > 0 {
        field("origin", format!("source {}, line {}", l.source, l.place));
    }
    field("file", l.file.clone());
    if l.bytes.1 > 0 {
        field("bytes", format!("{}..{}", l.bytes.0, l.bytes.1));
    }
    field("column", l.column.clone());
    field("error", l.error.clone());
    let payload = match &l.payload {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    field("payload", payload);
    field("fix", l.help.clone());
    if !l.backtrace.is_empty() {
        say.line(format!("backtrace\n{}", l.backtrace.trim_end()));
    }
}

fn ledger(target: &Target, check: bool, say: &mut Say) -> Result<ExitCode> {
    let ledger = target.ledger()?;
    say.result(&ledger, |say| show_ledger(&ledger, check, say))?;
    say.next(match ledger.balanced {
        true => &[&["streams", "list"]],
        false => &[&["supervisor", "tail"]],
    });
    Ok(ExitCode::from(u8::from(!ledger.balanced)))
}

fn show_ledger(view: &LedgerView, check: bool, say: &mut Say) {
    let ledger = &view.ledger;
    if !check {
        ledger_lines(view).into_iter().for_each(|line| say.line(line));
        let (streams, rows) =
            ledger.streams.iter().fold((0, 0), |(n, r), s| (n + 1, r + s.appended));
        say.line(format!(
            "{} between tasks: {} appended, each read once by its consumer or still waiting",
            count(streams, "partition", "partitions"),
            count(rows, "row", "rows"),
        ));
    }
    view.violations.iter().for_each(|line| say.line(line));
    say.line(if view.balanced { "ledger balanced" } else { "ledger NOT balanced" });
}

/// A line for each source and operator.
pub fn ledger_lines(view: &LedgerView) -> Vec<String> {
    let ledger = &view.ledger;
    let names = ledger.sources.keys().chain(ledger.operators.keys());
    let width = names.map(String::len).max().unwrap_or(0);
    let sources = ledger.sources.iter().map(|(name, c)| {
        format!(
            "{name:width$}  in {} = decoded {} + dead {}{}",
            number(c.units - c.skipped),
            number(c.rows),
            number(c.undecodable),
            if c.skipped > 0 {
                format!("   (and {} that are no data)", number(c.skipped))
            } else {
                String::new()
            }
        )
    });
    let operators = ledger.operators.iter().map(|(name, c)| {
        let mut line =
            format!("{name:width$}  in {} = processed {}", number(c.read), number(c.processed));
        for (word, n) in
            [("filtered", c.filtered), ("late", c.late), ("dead", c.dead), ("parked", c.parked)]
        {
            if n > 0 {
                line += &format!(" + {word} {}", number(n));
            }
        }
        line
    });
    sources.chain(operators).collect()
}

fn span(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_where_its_record_was() {
        let letter = LetterView { error: "empty".into(), ..LetterView::default() };
        let file = "data/in.csv".into();
        let line = LetterView { file, place: 7, bytes: (9, 12), ..letter.clone() };
        assert_eq!(letter_line(&line), "in.csv line 7 (bytes 9..12)  empty");
        let file = "topic in, partition 0, offset 5".into();
        let message = LetterView { file, ..letter.clone() };
        assert_eq!(letter_line(&message), "topic in, partition 0, offset 5  empty");
        assert_eq!(letter_line(&letter), "empty");
    }
}
