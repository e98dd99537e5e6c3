//! What the operating system says about this process, a place for its files, and other processes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::report::Result;

/// Ticks of a second in `/proc/self/stat`; the same on every Linux that Rust runs on.
const TICKS_PER_S: f64 = 100.0;

/// Processor time of all threads of this process so far, in seconds.
pub fn cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold spaces: fields 14 and 15 are user and system time.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

/// Processor time of the threads that live, in seconds, to the nanosecond.
pub fn threads_cpu_s() -> f64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ns = threads.filter_map(|t| {
        let stat = fs::read_to_string(t.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<f64>().ok()
    });
    ns.sum::<f64>() / 1e9
}

/// Memory this process holds now, in bytes.
pub fn rss_bytes() -> u64 {
    status("VmRSS:")
}

/// The most memory it ever held, in bytes.
pub fn peak_rss_bytes() -> u64 {
    status("VmHWM:")
}

/// Bytes the node's workers have read from files so far, cached or not; they run the handlers.
pub fn workers_read_bytes() -> u64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let read = |t: fs::DirEntry| {
        let name = fs::read_to_string(t.path().join("comm")).ok()?;
        let io = fs::read_to_string(t.path().join("io")).ok()?;
        let line = io.lines().find_map(|l| l.strip_prefix("rchar:"))?;
        line.trim().parse::<u64>().ok().filter(|_| name.trim() == "worker")
    };
    threads.filter_map(read).sum()
}

fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A folder for one bench, removed when it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new folder in `parent`, or among the system's temporary files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(parent: Option<&Path>) -> Result<Scratch> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let path = parent.join(format!("millstream-bench-{}-{now}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Removes what lies at a path in it, if anything.
    pub fn clear(&self, name: impl AsRef<Path>) {
        let path = self.0.join(name);
        drop(fs::remove_file(&path));
        drop(fs::remove_dir_all(&path));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Runs a part of bench `bench` in a process of its own, so that its memory and processor time are
/// its own, and returns its answer.
///
/// # Errors
/// If it fails; its messages have gone to stderr.
pub fn part<A: DeserializeOwned>(bench: &str, part: &impl Serialize) -> Result<A> {
    let out = command(bench, part)?.stderr(Stdio::inherit()).output()?;
    if !out.status.success() {
        return Err(format!("a part of bench {bench} ended with {}", out.status).into());
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last)
        .map_err(|e| format!("a part of bench {bench} said {last}: {e}").into())
}

/// Starts a part that is going to be killed, or talks while it runs.
///
/// # Errors
/// If it cannot be started.
pub fn start(bench: &str, part: &impl Serialize) -> Result<Child> {
    Ok(command(bench, part)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

fn command(bench: &str, part: &impl Serialize) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["part", bench, &serde_json::to_string(part)?]);
    Ok(command)
}
