//! One broker: a process behind its guard, `scripts/kafka/guard`.
//!
//! *Why a guard:* a destructor does not run in a test that is killed, and nothing of a broker's own
//! while it is stopped. The guard holds one end of a socket and kills the broker when the other is
//! gone.
//!
//! *Invariant:* a broker that is not [`Running`] has no process.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream, unix::process::CommandExt},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::{Error, cluster::scripts};

/// How long a broker may take to start, on a machine that is busy with others.
const START_MAX: Duration = Duration::from_secs(90);
/// How long it may take to end by itself; without a quorum of the others it never does.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How many lines of its log are kept for a message.
const LOG_LINES: usize = 15;

/// What it takes to start a broker, also again.
pub(crate) struct Recipe {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) number: u16,
    /// Under which addresses it is known to the nodes, from node 1.
    pub(crate) advertised: Vec<String>,
    /// Held open by all that may touch `dir`.
    pub(crate) alive: OwnedFd,
}

/// A broker that has a process.
pub(crate) struct Running {
    guard: Child,
    commands: Option<UnixStream>,
    log: Arc<Log>,
}

/// What the broker has said.
#[derive(Default)]
struct Log {
    said: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
struct Said {
    started: bool,
    ended: bool,
    last: VecDeque<String>,
}

impl Recipe {
    /// Starts the process; it is not [`Running::ready`] yet.
    pub(crate) fn start(&self) -> Result<Running, Error> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut guard = Command::new(scripts().join("guard"))
            .arg(scripts().join("broker"))
            .arg(&self.dir)
            .args([self.port, self.number].map(|n| n.to_string()))
            .args(&self.advertised)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(self.alive.try_clone()?)
            // What is sent to all of a terminal's processes is not for the guard, which has to act
            // after them.
            .process_group(0)
            .spawn()?;
        let output = guard.stdout.take().expect("it is piped");
        let log = Arc::new(Log::default());
        let reader = log.clone();
        thread::Builder::new().name("broker-log".into()).spawn(move || reader.follow(output))?;
        Ok(Running { guard, commands: Some(ours), log })
    }
}

impl Running {
    /// Waits until it takes requests.
    pub(crate) fn ready(&self) -> Result<(), Error> {
        let said = self.log.wait(START_MAX, |said| said.started || said.ended);
        if said.started && !said.ended {
            return Ok(());
        }
        let why = if said.ended { "ended" } else { "is not ready" };
        let last: Vec<_> = said.last.iter().map(String::as_str).collect();
        Err(Error::Failed(format!("one {why}; its last lines:\n{}", last.join("\n"))))
    }

    /// Sends it a signal by name; back when it is sent.
    pub(crate) fn signal(&self, name: &str) {
        let mut socket = self.commands.as_ref().expect("open as long as it runs");
        writeln!(socket, "{name}").expect("the guard listens");
        let mut answer = [0; 5];
        socket.read_exact(&mut answer).expect("the guard answers");
    }

    /// Asks it to end; kills it if it does not.
    pub(crate) fn stop(self) {
        self.signal("TERM");
        // A stopped process heeds nothing else.
        self.signal("CONT");
        drop(self.log.wait(STOP_MAX, |said| said.ended));
    }
}

impl Drop for Running {
    /// Kills it; back when it has gone.
    fn drop(&mut self) {
        self.commands = None;
        self.guard.wait().expect("a child that was not waited for yet");
    }
}

impl Log {
    fn follow(&self, output: ChildStdout) {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut said = self.said.lock().expect("no panic below");
            said.started |= line.contains("Kafka Server started");
            said.last.push_back(line);
            let over = said.last.len().saturating_sub(LOG_LINES);
            said.last.drain(..over);
            self.changed.notify_all();
        }
        self.said.lock().expect("no panic below").ended = true;
        self.changed.notify_all();
    }

    /// Waits for `what`, or until `within` has passed.
    fn wait(
        &self,
        within: Duration,
        what: impl Fn(&Said) -> bool,
    ) -> std::sync::MutexGuard<'_, Said> {
        let until = Instant::now() + within;
        let mut said = self.said.lock().expect("no panic below");
        while !what(&said) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            said = self.changed.wait_timeout(said, left).expect("no panic below").0;
        }
        said
    }
}
