//! Watches the node from outside, and kills it once.

use std::time::{Duration, Instant};

use millstream::{
    Time,
    io::view::{FlowView, LetterView, Status},
};
use millstream_core::{Code, Error, Result, engine::Engine};
use millstream_runtime::embedded;

use super::{
    Plan, VICTIM,
    flow::DELAY,
    heart::{AGAIN, Heart},
    node::Said,
};
use crate::{
    ask::letter_line,
    say::{Say, number},
};

/// How often the node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a turn in flight is waited for before the node is killed anyway.
const AIM_MAX: Duration = Duration::from_millis(500);
/// How long the flow may stand still before it is given up.
const STILL_MAX: Duration = Duration::from_secs(30);
/// Dead letters asked for at once.
const LETTERS: usize = 1_000;

/// What was seen.
#[derive(Debug, Default)]
pub struct Watched {
    /// Whether the node was killed.
    pub killed: bool,
    /// A turn that was in flight at the last look before the kill.
    pub in_flight: String,
    /// From the kill to the first new row, in ms.
    pub resumed_ms: f64,
    /// From the panic to the next call of the same process, in µs, and what it remembered.
    pub restarted: Option<(u64, u32)>,
    /// How long the input took.
    pub seconds: f64,
}

struct Watch<'a> {
    plan: &'a Plan,
    begun: Instant,
    seen: Watched,
    /// Dead letters looked at.
    letters: u64,
    dead_said: bool,
    next_line: Duration,
    in_step: String,
    moved: Moved,
}

/// What a flow came to when it was last seen to move, and when that was.
struct Moved {
    figures: String,
    at: Instant,
}

impl Moved {
    /// How long it has stood still, now that its figures are these.
    fn still(&mut self, figures: String, now: Instant) -> Duration {
        if self.figures != figures {
            *self = Moved { figures, at: now };
        }
        now - self.at
    }
}

/// Watches until the input has ended and everything is worked off; `None` after Ctrl-C.
pub fn watch(plan: &Plan, heart: &mut Heart, say: &mut Say) -> Result<Option<Watched>> {
    let mut watch = Watch {
        plan,
        begun: Instant::now(),
        seen: Watched::default(),
        letters: 0,
        dead_said: false,
        next_line: Duration::ZERO,
        in_step: String::new(),
        moved: Moved { figures: String::new(), at: Instant::now() },
    };
    let kill_at = plan.kill_at();
    loop {
        if heart.interrupted() {
            return Ok(None);
        }
        let (status, flow) = watch.look(heart, say)?;
        watch.letters(heart, say)?;
        watch.line(&flow, say);
        if !watch.seen.killed && flow.records >= kill_at && flow.state == "running" {
            watch.kill(heart, say)?;
            continue;
        }
        match flow.state.as_str() {
            "running" => {}
            "finished" => {
                watch.end(&flow, say);
                return Ok(Some(watch.seen));
            }
            other => {
                return Err(Error::new(
                    Code::Failed,
                    format!("the flow is {other}: {}", flow.error),
                ));
            }
        }
        watch.in_step = status.in_step;
        let pause = LOOK_EVERY.min(Duration::from_secs_f64(100.0 / plan.rate as f64));
        std::thread::sleep(pause);
    }
}

impl Watch<'_> {
    /// How the node is, and its flow.
    ///
    /// # Errors
    /// If the node does not answer, or the flow stands still.
    fn look(&mut self, heart: &Heart, say: &Say) -> Result<(Status, FlowView)> {
        let mut status: Status = heart.client().get("/v1/status")?;
        let flow = status.flows.pop().unwrap_or_default();
        let figures = format!("{} {} {}", flow.state, figures(&flow), flow.backlog_rows);
        if self.moved.still(figures, Instant::now()) > STILL_MAX {
            let (rows, seconds) = (number(flow.records), STILL_MAX.as_secs());
            let still = format!("the flow has stood still for {seconds} s, at {rows} rows");
            return Err(Error::new(Code::Failed, still)
                .help(format!("what is left of it: {}", say.typed(&["status"]))));
        }
        Ok((status, flow))
    }

    fn at(&self) -> String {
        format!("{:4.1}s", self.begun.elapsed().as_secs_f64())
    }

    /// A line of the table each second.
    fn line(&mut self, flow: &FlowView, say: &mut Say) {
        let second = self.begun.elapsed();
        if second < self.next_line {
            return;
        }
        if self.next_line.is_zero() {
            self.next_line = Duration::from_secs(1);
            say.remark("       event time          rows  processes  alerts  dead  restarts");
            return;
        }
        // Where the machine stood still, lines are left out, and not made up for.
        self.next_line = Duration::from_secs(second.as_secs() + 1);
        let time = flow.watermark_ms.map_or(Time::MIN, |ms| Time::from_ms(ms) + DELAY);
        let time: String = time.to_string().replace('T', " ").chars().take(16).collect();
        say.remark(format!("{}  {time:16}{}", self.at(), figures(flow)));
    }

    fn letters(&mut self, heart: &Heart, say: &mut Say) -> Result<()> {
        let from = self.letters + 1;
        let path = format!("/v1/dead?flow=departures&from={from}&limit={LETTERS}");
        let letters: Vec<LetterView> = heart.client().get(&path)?;
        for letter in letters {
            self.letters = letter.n;
            if letter.key.is_empty() {
                if !std::mem::replace(&mut self.dead_said, true) {
                    let (at, line) = (self.at(), letter_line(&letter));
                    let more = say.typed(&["dead", "list"]);
                    say.remark(format!("{at}  DEAD   {line}      more: {more}"));
                }
                continue;
            }
            if let Some(Said::Resumed { after_us, departures }) = heart.said() {
                self.seen.restarted = Some((after_us, departures));
            }
            let resumed = match self.seen.restarted {
                // The first panic of a program reads its symbols, for the backtrace in the letter.
                Some((us, n)) if us >= 1000 => {
                    let ms = us / 1000;
                    format!(
                        "; went on with the state of departure {n} in {ms} ms, its first backtrace included"
                    )
                }
                Some((us, n)) => format!("; went on with the state of departure {n} in {us} us"),
                None => String::new(),
            };
            say.remark(format!(
                "{}  CRASH  {}/{}  {} in handle, line {}{resumed}; no other key touched",
                self.at(),
                letter.operator,
                letter.key,
                letter.error,
                letter.place,
            ));
        }
        Ok(())
    }

    /// Kills the node while a turn is in flight, starts it again, and waits for new rows.
    fn kill(&mut self, heart: &mut Heart, say: &mut Say) -> Result<()> {
        let aim = Instant::now();
        while self.in_step.is_empty() && aim.elapsed() < AIM_MAX {
            self.in_step = self.look(heart, say)?.0.in_step;
        }
        let (pid, at) = (heart.pid(), self.at());
        let killed = Instant::now();
        heart.kill()?;
        self.seen.killed = true;
        self.seen.in_flight = self.in_step.trim_start_matches("departures/").to_string();
        let turn = match self.seen.in_flight.as_str() {
            "" => "no turn seen in flight".to_string(),
            turn => format!("a turn of {turn} in flight"),
        };
        say.remark(format!("{at}  KILL   SIGKILL to node {pid}, {turn}; heart: started again"));
        // What the log has is what is left: the directory says so while nobody runs.
        let log = embedded::open_read_only(heart.dir(), embedded::Options::default())?;
        let left = log.ledger().sources.values().map(|s| s.units - s.skipped).sum::<u64>();
        drop(log);
        heart.restart()?;
        loop {
            let (_, flow) = self.look(heart, say)?;
            match flow.state.as_str() {
                // The next look says why.
                "failed" | "stopped" => return Ok(()),
                _ if heart.interrupted() => return Ok(()),
                "finished" => break,
                _ if flow.records > left => break,
                _ => std::thread::sleep(AGAIN),
            }
        }
        self.seen.resumed_ms = killed.elapsed().as_secs_f64() * 1e3;
        say.remark(format!(
            "{}  RESUME all tasks at their last committed turn; first new row after {:.2} s",
            self.at(),
            self.seen.resumed_ms / 1e3
        ));
        Ok(())
    }

    fn end(&mut self, flow: &FlowView, say: &mut Say) {
        self.seen.seconds = self.begun.elapsed().as_secs_f64();
        say.remark(format!("{}  {:16}{}", self.at(), "input ended", figures(flow)));
        let (key, _) = VICTIM;
        if self.plan.panic_at.is_some() && self.seen.restarted.is_none() {
            say.remark(format!(
                "       (how fast {key} was back is unknown: the kill came between)"
            ));
        }
        say.remark("");
    }
}

fn figures(flow: &FlowView) -> String {
    let alerts = flow.stages.iter().find(|s| s.name == "alerts").map_or(0, |s| s.read);
    format!(
        "  {:>8}  {:>9}  {:>6}  {:>4}  {:>8}",
        number(flow.records),
        number(flow.keys()),
        number(alerts),
        number(flow.dead),
        number(flow.restarts)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flow_that_moves_is_waited_for() {
        let begun = Instant::now();
        let after = |s| begun + Duration::from_secs(s);
        let mut moved = Moved { figures: String::new(), at: begun };
        assert_eq!(moved.still("1 row".into(), after(20)), Duration::ZERO);
        assert!(moved.still("1 row".into(), after(50)) <= STILL_MAX);
        assert!(moved.still("1 row".into(), after(51)) > STILL_MAX);
        assert_eq!(moved.still("2 rows".into(), after(51)), Duration::ZERO);
    }
}
