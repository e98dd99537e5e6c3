//! `recovery`: a node is killed with SIGKILL while it works off a steady load, and started again.
//! How long from exec until the answers to questions about 100 random keys lie in the sink's file?
//!
//! Every key was updated several times before. The questions are asked before the node is started
//! again, behind everything else, so the backlog of the kill is part of the time. Each answer must
//! tell the exact number of events of its key.

use std::{
    process::{Child, ExitCode},
    time::{Duration, Instant},
};

use crate::{
    cli::Recovery,
    machine::{self, Scratch},
    node,
    processes::mix,
    report::{Report, Result, Totals},
    tally::{Answers, Events, Part, name},
};

/// Keys asked about.
const ASKED: u64 = 100;
/// Events a second while the node is killed.
const LOAD: u64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(900);

/// Runs the bench.
pub fn run(args: &Recovery) -> Result<ExitCode> {
    let mut report = Report::new("recovery", args.common.seed, args.common.rounds);
    node::print_configuration();
    let small = ["first_output_s", "first_output_s_min", "first_output_s_max"];
    let large = ["first_output_10m_s", "first_output_10m_s_min", "first_output_10m_s_max"];
    let mut totals = Totals::default();
    for (keys, updates, figure) in
        [(args.keys, args.updates, small), (args.keys_large, args.updates_large, large)]
    {
        if keys > 0 {
            let seconds =
                Killer::new(args, keys)?.rounds(args, updates, &mut report, &mut totals)?;
            report.spread(figure, &seconds);
        }
    }
    totals.peak_rss_bytes = machine::peak_rss_bytes();
    totals.cpu_s = machine::cpu_s();
    report.totals(totals);
    Ok(report.finish())
}

struct Killer {
    scratch: Scratch,
    part: Part,
    events: Events,
    answers: Answers,
    counts: Vec<u32>,
    /// Questions asked so far; each has a number.
    asked: u64,
    random: u64,
}

impl Killer {
    fn new(args: &Recovery, keys: u64) -> Result<Killer> {
        let scratch = Scratch::new(args.common.dir.as_deref())?;
        let part = Part {
            events: scratch.join("events.jsonl"),
            answers: scratch.join("answers.jsonl"),
            data: scratch.join("data"),
            partitions: millstream::PARTITIONS,
        };
        let (events, answers) = (Events::append(&part.events)?, Answers::open(&part.answers));
        let counts = vec![0; keys as usize];
        Ok(Killer { scratch, part, events, answers, counts, asked: 0, random: args.common.seed })
    }

    fn rounds(
        mut self,
        args: &Recovery,
        updates: u64,
        report: &mut Report,
        totals: &mut Totals,
    ) -> Result<Vec<f64>> {
        let keys = self.counts.len() as u64;
        for _ in 0..updates {
            for key in 0..keys {
                self.put(key * 7_919 % keys, 0)?;
            }
        }
        let mut node = self.start()?;
        let questions = self.ask(1000)?;
        self.wait_for(questions, report)?;
        let mut seconds = Vec::new();
        for round in 1..=args.common.rounds {
            self.load(Duration::from_millis(2000 + self.random % 500))?;
            node.kill()?;
            node.wait()?;
            let questions = self.ask(ASKED)?;
            let begun = Instant::now();
            node = self.start()?;
            self.wait_for(questions, report)?;
            seconds.push(begun.elapsed().as_secs_f64());
            println!(
                "{keys} keys, round {round}: {:.3} s from exec to the last of {ASKED} answers",
                seconds.last().copied().unwrap_or_default()
            );
        }
        node.kill()?;
        node.wait()?;
        totals.rows_in += self.counts.iter().map(|c| u64::from(*c)).sum::<u64>();
        totals.rows_out += self.asked;
        drop(self.scratch);
        Ok(seconds)
    }

    fn start(&self) -> Result<Child> {
        machine::start("tally", &self.part)
    }

    fn put(&mut self, key: u64, ask: u64) -> Result<()> {
        self.counts[key as usize] += 1;
        self.events.put(key, ask)
    }

    fn random_key(&mut self) -> u64 {
        self.random = mix(self.random);
        self.random % self.counts.len() as u64
    }

    /// Writes events at a steady pace.
    fn load(&mut self, time: Duration) -> Result<()> {
        let (begun, mut sent) = (Instant::now(), 0);
        while begun.elapsed() < time {
            let due = (begun.elapsed().as_secs_f64() * LOAD as f64) as u64;
            for _ in sent..due {
                let key = self.random_key();
                self.put(key, 0)?;
            }
            sent = due;
            self.events.flush()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Asks about `n` random keys; returns what the answers must be, by question.
    fn ask(&mut self, n: u64) -> Result<Vec<(String, u64)>> {
        let mut expected = Vec::new();
        for _ in 0..n {
            let key = self.random_key();
            self.asked += 1;
            self.put(key, self.asked)?;
            expected.push((name(key), u64::from(self.counts[key as usize])));
        }
        self.events.flush()?;
        Ok(expected)
    }

    /// Waits until the last questions are answered.
    fn wait_for(&mut self, expected: Vec<(String, u64)>, report: &mut Report) -> Result<()> {
        let first = self.asked - expected.len() as u64 + 1;
        let mut open: Vec<bool> = vec![true; expected.len()];
        let answers = &mut self.answers;
        let mut wrong = Vec::new();
        node::wait_until("answer", PATIENCE, || {
            let read = answers.read(|a| {
                let Some(n) = a.ask.checked_sub(first).map(|n| n as usize) else {
                    return wrong.push(format!("question {} was answered again", a.ask));
                };
                if expected.get(n) != Some(&(a.key.clone(), a.events)) || !open[n] {
                    wrong.push(format!("{a:?} instead of {:?}", expected.get(n)));
                } else {
                    open[n] = false;
                }
            });
            if let Err(e) = read {
                wrong.push(e.to_string());
            }
            !wrong.is_empty() || !open.contains(&true)
        })?;
        report.check(wrong.is_empty(), || wrong.join("; "));
        Ok(())
    }
}
