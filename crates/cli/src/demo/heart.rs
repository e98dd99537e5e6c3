//! The heart: starts the node as a process of its own, kills it, starts it again, stops it.
//!
//! *Failure:* if the heart dies, by a second Ctrl-C for example, the pipe to the node closes
//! without a word, and the node stops with what is committed.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use millstream::Signals;
use millstream_core::{Code, Error, Result};
use millstream_io::{
    http::{Client, DEFAULT_ADDRESS},
    view::Status,
};
use millstream_runtime::embedded::holder_http;

use super::{
    Plan,
    flow::fault,
    node::{DRAIN, Said},
};

/// How long the node may take to answer after it was started, or to stop.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at meanwhile.
pub const AGAIN: Duration = Duration::from_millis(1);

/// How a node has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// What it had taken in is worked off and committed.
    Drained,
    /// Something is left in its directory.
    Undrained,
}

/// Keeps a node alive.
pub struct Heart {
    command: NodeCommand,
    child: Child,
    stdin: Option<ChildStdin>,
    said: mpsc::Receiver<Said>,
    client: Client,
    signals: Arc<Signals>,
}

struct NodeCommand {
    dir: std::path::PathBuf,
    csv: std::path::PathBuf,
    rate: u64,
    panic_at: Option<fault::Plan>,
}

impl NodeCommand {
    fn spawn(
        &self,
        listen: &str,
        or_any_port: bool,
    ) -> Result<(Child, ChildStdin, mpsc::Receiver<Said>)> {
        let cannot = |e: std::io::Error| Error::io("cannot start the node", &e);
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.arg("demo-node").arg("--dir").arg(&self.dir).arg("--csv").arg(&self.csv);
        command.args(["--rate", &self.rate.to_string(), "--listen", listen]);
        if or_any_port {
            command.arg("--or-any-port");
        }
        if let Some(plan) = &self.panic_at {
            command.args(["--panic-at", &plan.line.to_string(), &plan.key]);
        }
        spawn(&mut command)
    }
}

/// Starts a node; what it says comes out of the channel.
pub fn spawn(command: &mut Command) -> Result<(Child, ChildStdin, mpsc::Receiver<Said>)> {
    let cannot = |e: std::io::Error| Error::io("cannot start the node", &e);
    // A process group of its own: Ctrl-C is for the heart, which then stops the node.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.env_remove("MILLSTREAM_NODE").env_remove("MILLSTREAM_DATA");
    let mut child = command.spawn().map_err(cannot)?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::new(Code::Bug, "a child without pipes"));
    };
    // Bounded by what a node says: one line for its one panic, or one that it does not start.
    let (said, received) = mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(std::result::Result::ok);
        lines
            .filter_map(|line| serde_json::from_str(&line).ok())
            .all(|line| said.send(line).is_ok());
    });
    Ok((child, stdin, received))
}

impl Heart {
    /// Starts the node and waits until it answers.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(plan: &Plan, listen: Option<&str>, signals: Arc<Signals>) -> Result<Heart> {
        let command = NodeCommand {
            dir: plan.dir.clone(),
            csv: plan.csv.clone(),
            rate: plan.rate,
            panic_at: plan.panic_at.clone(),
        };
        let (child, stdin, said) =
            command.spawn(listen.unwrap_or(DEFAULT_ADDRESS), listen.is_none())?;
        let client = Client::new(DEFAULT_ADDRESS);
        let mut heart = Heart { command, child, stdin: Some(stdin), said, client, signals };
        let begun = Instant::now();
        let address = loop {
            if let Some(address) = holder_http(&heart.command.dir) {
                break address;
            }
            heart.waiting(begun)?;
        };
        heart.client = Client::new(&address);
        heart.answers()?;
        Ok(heart)
    }

    /// Where the node listens.
    pub fn address(&self) -> &str {
        self.client.address()
    }

    /// The node's control API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The node's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the node keeps its data.
    pub fn dir(&self) -> &Path {
        &self.command.dir
    }

    /// What the node said of itself.
    pub fn said(&self) -> Option<Said> {
        self.said.try_recv().ok()
    }

    /// Whether Ctrl-C was pressed.
    pub fn interrupted(&self) -> bool {
        self.signals.asked()
    }

    /// SIGKILL: no handler, no goodbye.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn kill(&mut self) -> Result<()> {
        let io = |e: std::io::Error| Error::io("kill the node", &e);
        self.child.kill().map_err(io)?;
        self.child.wait().map(drop).map_err(io)
    }

    /// Starts the node again, where it was.
    ///
    /// # Errors
    /// As [`Heart::start`].
    pub fn restart(&mut self) -> Result<()> {
        let address = self.client.address().to_string();
        let (child, stdin, said) = self.command.spawn(&address, false)?;
        (self.child, self.stdin, self.said) = (child, Some(stdin), said);
        self.answers()
    }

    /// Waits until the node that was started last answers and has its flow: it listens before.
    fn answers(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.client.get::<Status>("/v1/status") {
                Ok(status) if status.pid == self.pid() && runs(&status) => return Ok(()),
                _ => self.waiting(begun)?,
            }
        }
    }

    fn waiting(&mut self, begun: Instant) -> Result<()> {
        if self.interrupted() {
            return Err(Error::new(Code::Unreachable, "the node was not waited for"));
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            // Until the pipe is at its end: the node has ended, but may not have been heard out.
            return Err(
                match self.said.iter().find_map(|said| match said {
                    Said::Failed(why) => Some(Error::from(why)),
                    Said::Resumed { .. } | Said::Listens { .. } => None,
                }) {
                    Some(why) => why,
                    None => {
                        Error::new(Code::Unreachable, format!("the node did not start: {status}"))
                    }
                },
            );
        }
        if begun.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(Error::new(
                Code::Unreachable,
                format!("the node was started and has not answered for {seconds} s"),
            )
            .help("is something between here and its port? take another: --listen HOST:PORT"));
        }
        std::thread::sleep(AGAIN);
        Ok(())
    }

    /// Lets the node drain and stop.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop(mut self) -> Result<Stopped> {
        if let Some(mut stdin) = self.stdin.take() {
            // If it cannot be told, it has ended.
            let _ = stdin.write_all(DRAIN);
        }
        let begun = Instant::now();
        loop {
            match self.child.try_wait().map_err(|e| Error::io("the node", &e))? {
                Some(status) if status.success() => return Ok(Stopped::Drained),
                Some(_) => return Ok(Stopped::Undrained),
                None if begun.elapsed() > PATIENCE => {
                    self.kill()?;
                    return Err(Error::new(Code::Failed, "the node did not stop and was killed"));
                }
                None => std::thread::sleep(AGAIN),
            }
        }
    }
}

/// Whether the node has its flow; before, what it has is at rest.
fn runs(status: &Status) -> bool {
    status.flows.iter().any(|flow| flow.state != "at rest")
}

impl Drop for Heart {
    fn drop(&mut self) {
        // Whatever happened to the heart, no node is left behind.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.kill();
        }
    }
}
