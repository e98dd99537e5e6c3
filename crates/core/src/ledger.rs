//! Counters that commit with the turn, and the four laws that must hold between them.
//!
//! *Invariant:* no term of a law is computed from the others; each is counted where it happens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::turn::StreamId;

/// Rows and messages handed over to each stream, counted before they are cut into frames.
pub type Sent = BTreeMap<StreamId, u64>;

/// What became of the rows an operator read. Every row gets exactly one disposition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCounters {
    /// Rows (and messages) read.
    pub read: u64,
    /// Handled.
    pub processed: u64,
    /// Left out by a predicate.
    pub filtered: u64,
    /// Too late for their window.
    pub late: u64,
    /// Set aside as dead letters.
    pub dead: u64,
    /// Held back for a parked key.
    pub parked: u64,
    /// Rows produced; not part of a law.
    pub emitted: u64,
    /// Timers and windows fired; not part of a law.
    pub fired: u64,
    /// Timers and firings that failed and became dead letters; not part of a law.
    pub dead_firings: u64,
}

impl OperatorCounters {
    /// The operator law: read = processed + filtered + late + dead + parked.
    pub fn balanced(&self) -> bool {
        self.read == self.processed + self.filtered + self.late + self.dead + self.parked
    }

    /// Adds another operator's (or an earlier turn's) counts.
    pub fn add(&mut self, other: &OperatorCounters) {
        self.read += other.read;
        self.processed += other.processed;
        self.filtered += other.filtered;
        self.late += other.late;
        self.dead += other.dead;
        self.parked += other.parked;
        self.emitted += other.emitted;
        self.fired += other.fired;
        self.dead_firings += other.dead_firings;
    }
}

/// What a source made of the units (lines, records) it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounters {
    /// Lines or records seen.
    pub units: u64,
    /// Decoded into rows.
    pub rows: u64,
    /// Set aside: they could not be decoded.
    pub undecodable: u64,
    /// Not data: a header, a blank line.
    pub skipped: u64,
}

impl SourceCounters {
    /// The source law: units = rows + undecodable + skipped.
    pub fn balanced(&self) -> bool {
        self.units == self.rows + self.undecodable + self.skipped
    }

    /// Adds another turn's (or partition's) counts.
    pub fn add(&mut self, other: &SourceCounters) {
        self.units += other.units;
        self.rows += other.rows;
        self.undecodable += other.undecodable;
        self.skipped += other.skipped;
    }
}

/// Everything one task has counted since it exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounters {
    /// Per operator name.
    pub operators: BTreeMap<String, OperatorCounters>,
    /// If the task is a source.
    pub source: Option<SourceCounters>,
    /// Per stream it leads to.
    #[serde(default)]
    pub sent: Sent,
}

/// One line of the stream law: appended = read by a consumer + its backlog + expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLine {
    /// The stream and partition, as `name/partition`.
    pub stream: String,
    /// The consuming task.
    pub consumer: String,
    /// Rows appended to the partition before the consumer's attachment ended, counted on append.
    pub appended: u64,
    /// Rows the consumer has committed as read, counted by the consumer.
    pub read: u64,
    /// Rows that lie behind the consumer's position, counted from the frames.
    pub backlog: u64,
    /// Rows dropped unread by an `expire` policy.
    pub expired: u64,
}

impl StreamLine {
    /// Whether the line balances.
    pub fn balanced(&self) -> bool {
        self.appended == self.read + self.backlog + self.expired
    }
}

/// One line of the edge law: sent by all producers + from outside = appended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeLine {
    /// The stream's name.
    pub stream: String,
    /// Rows that its producers have committed as sent, counted by them.
    pub sent: u64,
    /// Rows that came from no task (control records), counted on append.
    pub outside: u64,
    /// Rows appended to all its partitions, counted on append.
    pub appended: u64,
}

impl EdgeLine {
    /// Whether the line balances.
    pub fn balanced(&self) -> bool {
        self.appended == self.sent + self.outside
    }
}

/// The whole ledger of a node: every law, line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Per `flow/stage`: what its sources saw.
    pub sources: BTreeMap<String, SourceCounters>,
    /// Per `flow/stage/operator`: what became of its rows.
    pub operators: BTreeMap<String, OperatorCounters>,
    /// Per stream that a task has sent something to.
    #[serde(default)]
    pub edges: Vec<EdgeLine>,
    /// Per stream partition and consumer.
    pub streams: Vec<StreamLine>,
}

impl Ledger {
    /// Adds what the task `flow/stage/number` has counted; what it has sent is added to `sent`,
    /// since the stream's edge has other terms, too.
    pub fn count(&mut self, task: &str, counters: &TaskCounters, sent: &mut Sent) {
        let stage = task.rsplit_once('/').map_or(task, |(stage, _)| stage);
        if let Some(source) = &counters.source {
            self.sources.entry(stage.into()).or_default().add(source);
        }
        for (operator, counters) in &counters.operators {
            self.operators.entry(format!("{stage}/{operator}")).or_default().add(counters);
        }
        for (stream, rows) in &counters.sent {
            *sent.entry(*stream).or_default() += rows;
        }
    }

    /// The lines that do not balance, as a person reads them; empty if all is accounted for.
    pub fn violations(&self) -> Vec<String> {
        let sources = self.sources.iter().filter(|(_, c)| !c.balanced()).map(|(name, c)| {
            let rest = c.rows + c.undecodable + c.skipped;
            format!("source {name}: {} units seen, {rest} accounted for", c.units)
        });
        let operators = self.operators.iter().filter(|(_, c)| !c.balanced()).map(|(name, c)| {
            let rest = c.processed + c.filtered + c.late + c.dead + c.parked;
            format!("operator {name}: {} rows read, {rest} accounted for", c.read)
        });
        let edges = self.edges.iter().filter(|l| !l.balanced()).map(|l| {
            format!(
                "stream {}: {} rows sent + {} from outside, {} appended",
                l.stream, l.sent, l.outside, l.appended
            )
        });
        let streams = self.streams.iter().filter(|l| !l.balanced()).map(|l| {
            format!(
                "stream {} -> {}: {} rows appended, {} read + {} waiting + {} expired",
                l.stream, l.consumer, l.appended, l.read, l.backlog, l.expired
            )
        });
        sources.chain(operators).chain(edges).chain(streams).collect()
    }
}
