//! Progress for people: how a program that runs a flow says on its terminal how far it is.
//!
//! *Invariant:* nothing is written unless standard error is a terminal.

use std::{
    io::{IsTerminal, Write},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use millstream_io::view;

use crate::node::Running;

/// How long an opening may take before anything is said of it.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a line is written anew.
const EVERY: Duration = Duration::from_secs(1);

/// Writes a line over the last one.
fn overwrite(line: &str) {
    // A terminal that is gone is nobody who could be told.
    let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
}

/// A line that is soon written over. A terminal that is narrower cuts it off: what goes on in the
/// next row would stay there, and each second leave one more.
fn in_one_row(line: &str) -> String {
    format!("\x1b[?7l{line}\x1b[?7h")
}

/// Says that an engine is being opened, if that takes long, until it is dropped.
pub struct Opening(Option<(mpsc::SyncSender<()>, std::thread::JoinHandle<()>)>);

impl Opening {
    pub fn new(place: String) -> Opening {
        if !std::io::stderr().is_terminal() {
            return Opening(None);
        }
        let (done, over) = mpsc::sync_channel::<()>(0);
        // Clock: a person waits.
        let begun = Instant::now();
        let thread = std::thread::spawn(move || {
            let mut wait = PATIENCE;
            let mut said = false;
            while over.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                let line = format!("opening {place}: {:.1} s", begun.elapsed().as_secs_f64());
                overwrite(&in_one_row(&line));
                (wait, said) = (PATIENCE, true);
            }
            if said {
                overwrite("");
            }
        });
        Opening(Some((done, thread)))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}

/// Says how many rows a flow has taken in, and how fast.
pub struct Rows<'a> {
    running: &'a Running,
    flow: &'a str,
    shown: bool,
    /// When it was said last, and how many rows there were.
    last: Option<(Instant, u64)>,
}

impl Rows<'_> {
    pub fn new<'a>(running: &'a Running, flow: &'a str) -> Rows<'a> {
        Rows { running, flow, shown: std::io::stderr().is_terminal(), last: None }
    }

    /// Called often; says something once in a while.
    pub fn look(&mut self) {
        // Clock: a person waits.
        let now = Instant::now();
        if !self.shown || self.last.is_some_and(|(last, _)| now < last + EVERY) {
            return;
        }
        let node = self.running.heart();
        let Ok(status) = view::status(node.engine().as_ref(), Some(node)) else { return };
        let Some(flow) = status.flows.iter().find(|f| f.name == self.flow) else { return };
        if let Some((last, rows)) = self.last.replace((now, flow.records)) {
            let new = flow.records.saturating_sub(rows) as f64;
            match status.engine_error.lines().next() {
                Some(error) => overwrite(&in_one_row(error)),
                None => overwrite(&in_one_row(&line(flow, new / (now - last).as_secs_f64()))),
            }
        }
    }

    /// Says what the flow has set aside: who does not ask for it would take all for well.
    pub fn say_dead(&mut self, hint: &str) {
        let node = self.running.heart();
        let Ok(status) = view::status(node.engine().as_ref(), Some(node)) else { return };
        let flow = status.flows.iter().find(|f| f.name == self.flow);
        if let Some(line) = flow.and_then(|flow| dead(flow, hint)) {
            self.say(&line);
        }
    }

    /// Says something of its own.
    pub fn say(&mut self, line: &str) {
        if self.shown {
            overwrite(&format!("{line}\n"));
        }
    }
}

impl Drop for Rows<'_> {
    /// The terminal is left as it was.
    fn drop(&mut self) {
        if self.shown {
            overwrite("");
        }
    }
}

fn line(flow: &view::FlowView, per_second: f64) -> String {
    format!(
        "{}: {} records, {per_second:.0}/s, {} live keys, {} dead, {} waiting",
        flow.name,
        flow.records,
        flow.keys(),
        flow.dead,
        flow.backlog_rows
    )
}

fn dead(flow: &view::FlowView, hint: &str) -> Option<String> {
    let (records, were) = match flow.dead {
        0 => return None,
        1 => ("record", "was"),
        _ => ("records", "were"),
    };
    let (n, name) = (flow.dead, &flow.name);
    Some(format!("{name}: {n} {records} {were} set aside: millstream dead list {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_soon_written_over_does_not_wrap() {
        assert_eq!(in_one_row("opening"), "\x1b[?7lopening\x1b[?7h");
    }

    #[test]
    fn what_was_set_aside_is_said_with_where_to_see_it() {
        let mut flow = view::FlowView { name: "totals".into(), ..view::FlowView::default() };
        assert_eq!(dead(&flow, "--data data"), None);
        flow.dead = 2;
        assert_eq!(
            dead(&flow, "--data data").unwrap_or_default(),
            "totals: 2 records were set aside: millstream dead list --data data"
        );
    }

    #[test]
    fn a_line_says_how_far_a_flow_is() {
        let flow = view::FlowView {
            name: "departures".into(),
            records: 27_004,
            dead: 521,
            backlog_rows: 7,
            ..view::FlowView::default()
        };
        assert_eq!(
            line(&flow, 2_499.7),
            "departures: 27004 records, 2500/s, 0 live keys, 521 dead, 7 waiting"
        );
    }
}
