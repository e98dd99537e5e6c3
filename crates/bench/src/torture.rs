//! `torture`: a node is killed with SIGKILL again and again while it answers a steady load of
//! events. In the end every event must have been answered exactly once, judged by nothing but the
//! file the killer writes and the file it reads.
//!
//! Three kinds of kills: with a turn open for certain (a handler says so and holds it open while
//! the rest of the node goes on), as soon as a new sorted run of state appears on disk (the
//! compactor is at work), and within 200 ms of the start.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, ExitCode},
    time::{Duration, Instant},
};

use crate::{
    cli::Torture,
    machine::{self, Scratch},
    node,
    processes::mix,
    report::{Report, Result, Totals},
    tally::{Answers, Events, HELD, Part, name},
};

const KEYS: u64 = 10_000;
/// Events a second.
const LOAD: u64 = 30_000;
/// Few tasks, so that each has state enough to compact.
const PARTITIONS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the bench.
pub fn run(args: &Torture) -> Result<ExitCode> {
    let mut report = Report::new("torture", args.common.seed, 1);
    node::print_configuration();
    let scratch = Scratch::new(args.common.dir.as_deref())?;
    let part = Part {
        events: scratch.join("events.jsonl"),
        answers: scratch.join("answers.jsonl"),
        data: scratch.join("data"),
        partitions: PARTITIONS,
    };
    let mut load = Load::new(&part, args.common.seed)?;
    let mut kills: Vec<Kill> = Vec::new();
    for (kill, n) in [
        (Kill::OpenTurn, args.kills),
        (Kill::Compaction, args.compactions),
        (Kill::Start, args.starts),
    ] {
        kills.extend((0..n).map(|_| kill));
    }
    kills.sort_by_cached_key(|_| load.random());
    let total = kills.len();
    for (n, kill) in kills.into_iter().enumerate() {
        let mut node = machine::start("tally", &part)?;
        kill_once(kill, &mut node, &part, &mut load)?;
        node.kill()?;
        node.wait()?;
        if (n + 1) % 20 == 0 {
            println!("{} of {total} kills, {} events", n + 1, load.sent);
        }
    }
    let begun = Instant::now();
    let node = machine::start("tally", &part)?;
    let found = load.finish(&part, PATIENCE)?;
    println!("all answered {:.1} s after the last start", begun.elapsed().as_secs_f64());
    let balanced = node.wait_with_output()?;
    let balanced = String::from_utf8_lossy(&balanced.stdout).lines().last() == Some("true");
    report.check(balanced, || "the ledger does not balance".into());
    report.check(found.lost == 0, || format!("{} events have no answer", found.lost));
    report.check(found.duplicated == 0, || format!("{} events have two", found.duplicated));
    report.check(found.wrong == 0, || format!("{} answers are wrong", found.wrong));
    report.totals(Totals {
        rows_in: load.sent,
        rows_out: found.answers,
        cpu_s: machine::cpu_s(),
        peak_rss_bytes: machine::peak_rss_bytes(),
        ..Totals::default()
    });
    report.figure("kills", total);
    report.figure("kills_open_turn", args.kills);
    report.figure("kills_compaction", args.compactions);
    report.figure("kills_start", args.starts);
    report.figure("lost", found.lost);
    report.figure("duplicated", found.duplicated);
    Ok(report.finish())
}

#[derive(Clone, Copy, Debug)]
enum Kill {
    OpenTurn,
    Compaction,
    Start,
}

/// Keeps the load up until it is time to kill.
fn kill_once(kill: Kill, node: &mut Child, part: &Part, load: &mut Load) -> Result<()> {
    match kill {
        Kill::Start => load.run_below(200_000),
        Kill::Compaction => {
            let before = runs(&part.data);
            let begun = Instant::now();
            while runs(&part.data).is_subset(&before) {
                if begun.elapsed() > PATIENCE {
                    return Err("nothing was compacted".into());
                }
                load.run(Duration::from_millis(1))?;
            }
            Ok(())
        }
        Kill::OpenTurn => {
            load.run(Duration::from_millis(50))?;
            load.run_below(250_000)?;
            let (stdin, stdout) = (node.stdin.as_mut(), node.stdout.take());
            let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
                return Err("the node has no pipes".into());
            };
            writeln!(stdin, "tell")?;
            stdin.flush()?;
            wait_for_open(stdout, load)?;
            load.run_below(HELD.as_micros() as u64 / 2)
        }
    }
}

/// Waits until a handler says that its turn is open.
fn wait_for_open(stdout: ChildStdout, load: &mut Load) -> Result<()> {
    let (say, said) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut line = String::new();
        drop(BufReader::new(stdout).read_line(&mut line));
        drop(say.send(line));
    });
    let begun = Instant::now();
    loop {
        match said.try_recv() {
            Ok(line) if line.trim() == "open" => return Ok(()),
            Ok(line) => return Err(format!("the node said {line:?}").into()),
            Err(_) if begun.elapsed() > PATIENCE => return Err("no turn was open".into()),
            Err(_) => load.run(Duration::from_micros(500))?,
        }
    }
}

/// The sorted runs of state on disk, and what is being written beside them.
fn runs(data: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(data.join("state")).into_iter().flatten().flatten();
    names.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// A steady load of events, each a question.
struct Load {
    events: Events,
    counts: Vec<u64>,
    /// What each answer must say: the key and its events.
    expected: Vec<(u32, u32)>,
    sent: u64,
    random: u64,
}

/// What the answers say.
#[derive(Debug, Default)]
struct Found {
    answers: u64,
    lost: u64,
    duplicated: u64,
    wrong: u64,
}

impl Load {
    fn new(part: &Part, seed: u64) -> Result<Load> {
        let events = Events::append(&part.events)?;
        Ok(Load {
            events,
            counts: vec![0; KEYS as usize],
            expected: Vec::new(),
            sent: 0,
            random: seed,
        })
    }

    fn random(&mut self) -> u64 {
        self.random = mix(self.random);
        self.random
    }

    /// Goes on for `time`.
    fn run(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            for _ in 0..LOAD / 1000 {
                let key = self.random() % KEYS;
                self.sent += 1;
                self.counts[key as usize] += 1;
                self.expected.push((key as u32, self.counts[key as usize] as u32));
                self.events.put(key, self.sent)?;
            }
            self.events.flush()?;
            if begun.elapsed() >= time {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Goes on for a random time below `us` microseconds.
    fn run_below(&mut self, us: u64) -> Result<()> {
        let time = self.random() % us;
        self.run(Duration::from_micros(time))
    }

    /// Waits until as many answers are there as there were events, or none comes any more.
    fn finish(&mut self, part: &Part, at_most: Duration) -> Result<Found> {
        let mut answers = Answers::open(&part.answers);
        let mut seen = vec![false; self.expected.len()];
        let mut found = Found::default();
        let (mut begun, mut before) = (Instant::now(), 0);
        while found.answers < self.sent && begun.elapsed() < at_most {
            answers.read(|a| {
                found.answers += 1;
                let at = (a.ask as usize).wrapping_sub(1);
                let Some((key, events)) = self.expected.get(at) else {
                    found.wrong += 1;
                    return;
                };
                if std::mem::replace(&mut seen[at], true) {
                    found.duplicated += 1;
                } else if (a.key, a.events) != (name(u64::from(*key)), u64::from(*events)) {
                    found.wrong += 1;
                }
            })?;
            if found.answers > before {
                (begun, before) = (Instant::now(), found.answers);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        found.lost = seen.iter().filter(|s| !**s).count() as u64;
        Ok(found)
    }
}
