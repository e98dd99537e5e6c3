//! What `recovery` and `torture` kill: a node in a process of its own that follows a file of
//! events, keeps a tally per key and answers into another file. And both ends of it.
//!
//! The killer sees nothing but what a user would: the file it writes and the file it reads.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use millstream::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{node, report};

/// How long a handler that was told to tell holds its turn open.
pub const HELD: Duration = Duration::from_millis(30);

/// The node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub events: PathBuf,
    pub answers: PathBuf,
    pub data: PathBuf,
    pub partitions: u32,
}

/// An event of a key. `ask` is 0 if no answer is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Event {
    pub ask: u64,
}

/// An answer: what the process knew after the event.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub key: String,
    pub ask: u64,
    pub events: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Tally {
    events: u64,
    /// The last questions; they make the state large enough to be worth compacting.
    asked: Vec<u64>,
}

/// The next handler tells the killer that its turn is open.
static TELL: AtomicBool = AtomicBool::new(false);

impl Process for Tally {
    type In = Event;
    type Out = Answer;

    fn handle(&mut self, e: Event, ctx: &mut Context<Self>) -> Result<()> {
        self.events += 1;
        if e.ask > 0 {
            self.asked.push(e.ask);
            if self.asked.len() > 16 {
                self.asked.remove(0);
            }
            let key = ctx.key().into_owned();
            ctx.emit(Answer { key, ask: e.ask, events: self.events });
        }
        if TELL.swap(false, Ordering::Relaxed) {
            let mut out = std::io::stdout().lock();
            drop(writeln!(out, "open").and_then(|()| out.flush()));
            std::thread::sleep(HELD);
        }
        Ok(())
    }
}

/// Runs the node until it is killed, or its stdin ends. Each line there makes a handler tell.
pub fn part(part: &Part) -> report::Result<bool> {
    let flow = Flow::new("tally")
        .partitions(part.partitions)
        .source("events", JsonLinesFile::open(&part.events).follow(true))
        .key_by("key")
        .process::<Tally>("tally", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(&part.answers));
    let running = node::start(Node::embedded(&part.data), &flow)?;
    for line in std::io::stdin().lock().lines() {
        line?;
        TELL.store(true, Ordering::Relaxed);
    }
    let balanced = running.ledger().violations().is_empty();
    running.stop();
    Ok(balanced)
}

/// The key's name.
pub fn name(key: u64) -> String {
    format!("key-{key:012}")
}

/// The end that writes events.
pub struct Events(BufWriter<File>);

impl Events {
    /// Appends to the file at `path`.
    pub fn append(path: &Path) -> report::Result<Events> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Events(BufWriter::with_capacity(1 << 20, file)))
    }

    /// Adds an event.
    pub fn put(&mut self, key: u64, ask: u64) -> report::Result<()> {
        Ok(writeln!(self.0, "{{\"key\":\"key-{key:012}\",\"ask\":{ask}}}")?)
    }

    /// Lets the node see what was added.
    pub fn flush(&mut self) -> report::Result<()> {
        Ok(self.0.flush()?)
    }
}

/// The end that reads answers.
pub struct Answers {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
}

impl Answers {
    /// The answers in the file at `path`, which need not exist yet.
    pub fn open(path: &Path) -> Answers {
        Answers { path: path.to_path_buf(), file: None, rest: Vec::new() }
    }

    /// Hands every new answer to `take`.
    pub fn read(&mut self, mut take: impl FnMut(Answer)) -> report::Result<()> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.read_to_end(&mut self.rest)?;
        let whole = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        for line in self.rest[..whole].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            take(serde_json::from_slice(line)?);
        }
        self.rest.drain(..whole);
        Ok(())
    }
}
