//! The judge: what is committed in a topic, as Kafka's own client reads it.
//!
//! *Why Java:* a fault that writer and reader share would go unnoticed, also if what they share is
//! only the client library.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::cluster::scripts;

/// A record that a reader with `read_committed` sees.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committed {
    /// Counted from 0.
    pub partition: u32,
    /// Has gaps: marks of transactions, aborted records.
    pub offset: u64,
    /// Of the writer or the broker, as the topic is set.
    pub timestamp_ms: i64,
    /// `None` if the record has none.
    pub key: Option<Vec<u8>>,
    /// `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// In their order; a name can come twice.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Committed {
    /// The value as text.
    ///
    /// # Panics
    /// If it is none.
    pub fn text(&self) -> &str {
        let value = self.value.as_deref().expect("a record with a value");
        std::str::from_utf8(value).expect("a value that is text")
    }
}

/// How long a topic may take to be read.
const WITHIN: Duration = Duration::from_secs(60);

/// The process that answers; it starts with the first question and ends with its input.
#[derive(Default)]
pub(crate) struct Judge(Mutex<Option<Process>>);

struct Process {
    child: Child,
    topics: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Judge {
    /// What is committed in `topic`, by partition and offset, up to where the first transaction
    /// that is still open begins.
    ///
    /// # Panics
    /// If it could not be read to its end within a minute, or if there is no JDK.
    pub(crate) fn committed(&self, bootstrap: &str, topic: &str) -> Vec<Committed> {
        // It answers whole or not at all, and each question anew.
        let mut judge = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = judge.get_or_insert_with(|| Process::start(bootstrap)).ask(topic);
        if answer.is_none() {
            *judge = None;
        }
        drop(judge);
        let answer = answer.expect("scripts/kafka/judge answers; it has said why it does not");
        let Ok(lines) = answer else {
            panic!("reading what is committed in {topic} at {bootstrap}: {answer:?}");
        };
        let mut records: Vec<Committed> = lines.iter().map(|line| record(line)).collect();
        records.sort();
        records
    }
}

impl Process {
    fn start(bootstrap: &str) -> Process {
        let mut child = Command::new(scripts().join("judge"))
            .args([bootstrap, &WITHIN.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/kafka/judge can be run");
        let topics = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Process { child, topics, answers }
    }

    /// The lines of what is committed, or why it cannot be read; `None` if it has ended.
    fn ask(&mut self, topic: &str) -> Option<Result<Vec<String>, String>> {
        writeln!(self.topics, "{topic}").ok()?;
        let mut lines = Vec::new();
        loop {
            let line = self.answers.next()?.ok()?;
            match line.as_str() {
                "end" => return Some(Ok(lines)),
                why if why.starts_with("failed") => return Some(Err(line)),
                _ => lines.push(line),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(line: &str) -> Committed {
    let words: Vec<&str> = line.split(' ').collect();
    let [partition, offset, timestamp, key, value, headers @ ..] = &words[..] else {
        panic!("not a line of Judge.java: {line}");
    };
    let headers = headers.chunks_exact(2).map(|pair| {
        let name = bytes(pair[0]).expect("a header has a name");
        (String::from_utf8_lossy(&name).into_owned(), bytes(pair[1]))
    });
    Committed {
        partition: partition.parse().expect("a partition"),
        offset: offset.parse().expect("an offset"),
        timestamp_ms: timestamp.parse().expect("a timestamp"),
        key: bytes(key),
        value: bytes(value),
        headers: headers.collect(),
    }
}

fn bytes(word: &str) -> Option<Vec<u8>> {
    let digits = word.strip_prefix(':')?.as_bytes();
    let digit = |d: u8| (d as char).to_digit(16).expect("a hexadecimal digit") as u8;
    Some(digits.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_nothing_differ() {
        let read = record("2 70000000000 -1 - : :6e :00ff :6e -");
        assert_eq!((read.partition, read.offset, read.timestamp_ms), (2, 70_000_000_000, -1));
        assert_eq!((read.key, read.value), (None, Some(vec![])));
        let name = || "n".to_string();
        assert_eq!(read.headers, [(name(), Some(vec![0, 255])), (name(), None)]);
    }
}
