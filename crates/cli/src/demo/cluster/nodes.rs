//! The nodes: processes that are started, killed, paused and woken.
//!
//! *Invariant:* no node outlives the demo: it kills them when it ends, and their pipe closes if it
//! is killed itself.

use std::{
    path::PathBuf,
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::Instant,
};

use millstream_core::{Code, Error, Result, engine::ClusterView};
use millstream_io::{http::Client, view::Status};
use rustix::process::{Pid, Signal, kill_process};

use super::super::{heart::spawn, node::Said};

/// How the nodes are started.
pub struct How {
    pub engine: String,
    pub app: String,
    pub csv: PathBuf,
    pub rate: u64,
}

/// A node.
pub struct Node {
    pub name: &'static str,
    child: Child,
    /// Closes with the demo.
    _stdin: ChildStdin,
    said: mpsc::Receiver<Said>,
    client: Option<Client>,
}

impl Node {
    /// Starts a node.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn start(how: &How, name: &'static str) -> Result<Node> {
        let io = |e: std::io::Error| Error::io("cannot start the node", &e);
        let mut command = Command::new(std::env::current_exe().map_err(io)?);
        command.args(["demo-member", "--engine", &how.engine, "--app", &how.app, "--name", name]);
        command.arg("--csv").arg(&how.csv).args(["--rate", &how.rate.to_string()]);
        let (child, stdin, said) = spawn(&mut command)?;
        Ok(Node { name, child, _stdin: stdin, said, client: None })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it can be asked, once it has said so.
    ///
    /// # Errors
    /// Why it has not started.
    pub fn client(&mut self) -> Result<Option<&Client>> {
        while let Ok(said) = self.said.try_recv() {
            match said {
                Said::Listens { address } => self.client = Some(Client::new(&address)),
                Said::Failed(why) => return Err(Error::from(why)),
                Said::Resumed { .. } => {}
            }
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            let message = format!("node {} has ended: {status}", self.name);
            return Err(Error::new(Code::Failed, message));
        }
        Ok(self.client.as_ref())
    }

    /// The cluster as it knows it, if it answers.
    pub fn cluster(&self) -> Option<ClusterView> {
        self.client.as_ref()?.get("/v1/cluster").ok()
    }

    /// How it and its flow are, if it answers.
    pub fn status(&self) -> Option<Status> {
        self.client.as_ref()?.get("/v1/status").ok()
    }

    /// SIGKILL: no handler, no goodbye. Returns when.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn kill(&mut self) -> Result<Instant> {
        let io = |e: std::io::Error| Error::io("kill the node", &e);
        let at = Instant::now();
        self.child.kill().map_err(io)?;
        self.child.wait().map_err(io)?;
        Ok(at)
    }

    /// SIGSTOP: it stands still, and knows nothing of it.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on in the middle of what it did.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn wake(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let io = |e: std::io::Error| Error::io(format!("signal to node {}", self.name), &e);
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).map_err(|e| io(e.into()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Also one that is paused. If it has ended already, so much the better.
        let _ = self.kill();
    }
}
