//! Taking over a task, step by step and without waiting: fence, announce, read, fetch.
//!
//! *Why the announcement:* it is a transaction of the new owner in the task's own state. Kafka
//! shows it to readers only when all before it is decided, so whoever has read it has read
//! everything; no end of a log has to be guessed. It also counts the opening, durably.

use std::sync::Arc;

use millstream_core::{
    Code, Error, Result,
    engine::{InputSpec, Lease, Recovered, TaskSpec, Waker},
    turn::TaskId,
};

use super::{
    codec::{Nonce, opened},
    input::Input,
    lease::KafkaLease,
    placed::Hold,
    shared::{Shared, lock},
    tail::Tail,
    topics::STARTS_OVER,
};
use crate::client::{Outcome, Record, Records, TopicPartition, Writer};

pub(super) struct Opening {
    shared: Arc<Shared>,
    task: TaskId,
    state: TopicPartition,
    inputs: Vec<InputSpec>,
    nonce: Nonce,
    /// Openings here that came to nothing since Kafka denied something.
    denied: Vec<Nonce>,
    name: String,
    hold: Option<Arc<Hold>>,
    writer: Box<dyn Writer>,
    tail: Tail,
    step: Step,
}

enum Step {
    Fencing,
    Announcing,
    Reading,
    Fetching(Vec<Input>),
}

impl Opening {
    pub fn begin(
        shared: &Arc<Shared>,
        spec: &TaskSpec,
        task: TaskId,
        state: TopicPartition,
        hold: Option<Arc<Hold>>,
    ) -> Result<Opening> {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&shared.incarnation.to_le_bytes());
        nonce[8..].copy_from_slice(&shared.number().to_le_bytes());
        let id = shared.names.transactional(&spec.name);
        Ok(Opening {
            writer: shared.client.writer(&id, spec.waker.clone())?,
            tail: match shared.placed.as_ref().and_then(|p| p.promote(&spec.name)) {
                Some(tail) => tail,
                None => Tail::new(&shared.client, state.clone(), spec.waker.clone())?,
            },
            denied: shared.denied_openings(&spec.name),
            name: spec.name.clone(),
            hold,
            shared: shared.clone(),
            task,
            state,
            inputs: spec.inputs.clone(),
            nonce,
            step: Step::Fencing,
        })
    }

    /// Goes on as far as it can without waiting. `None` when it has to begin anew: somebody else
    /// has taken the task meanwhile, or nobody knows.
    pub fn advance(mut self, waker: &Waker) -> Result<Option<Advanced>> {
        loop {
            match &mut self.step {
                Step::Fencing | Step::Announcing => match self.writer.outcome() {
                    None => return Ok(Some(Advanced::Waits(Box::new(self)))),
                    Some(Outcome::Ready) => {
                        let mut records = Records::default();
                        let node = self.shared.node.as_bytes();
                        records.push(&self.state, Record::of(&opened(&self.nonce), Some(node)));
                        for nonce in &self.denied {
                            records.push(&self.state, Record::of(&opened(nonce), None));
                        }
                        self.writer.submit(records);
                        self.step = Step::Announcing;
                    }
                    Some(Outcome::Committed) => {
                        self.shared.forgotten(&self.name, &self.denied);
                        self.step = Step::Reading;
                    }
                    Some(Outcome::Fenced | Outcome::Unknown) => return Ok(None),
                    Some(Outcome::Refused(error)) => return Err(error),
                },
                Step::Reading => {
                    if !self.tail.reach(&self.nonce)? {
                        return Ok(Some(Advanced::Waits(Box::new(self))));
                    }
                    self.is_whole()?;
                    self.step = Step::Fetching(self.fetch(waker)?);
                }
                Step::Fetching(inputs) => {
                    let progress = &self.tail.turned().progress;
                    for (n, input) in inputs.iter_mut().enumerate() {
                        let at = progress.inputs.get(n).map(|p| p.position).unwrap_or_default();
                        if !input.reaches(at)? {
                            return Ok(Some(Advanced::Waits(Box::new(self))));
                        }
                    }
                    let inputs = std::mem::take(inputs);
                    return Ok(Some(Advanced::Open(Box::new(self.lease(inputs, waker.clone())))));
                }
            }
        }
    }

    /// Whether the state is that of the last turn that anybody was told of, which is told only when
    /// it is committed.
    fn is_whole(&self) -> Result<()> {
        let known = lock(&self.shared.views).task(self.task).map_or(0, |t| t.progress.turn);
        let found = self.tail.turned().progress.turn;
        if found >= known {
            return Ok(());
        }
        let message = format!(
            "{}: the task's state ends with turn {found}, and turn {known} was committed; the topic \
             was deleted, or records were removed from it",
            self.state
        );
        Err(Error::new(Code::Conflict, message).help(STARTS_OVER))
    }

    fn fetch(&self, waker: &Waker) -> Result<Vec<Input>> {
        let turned = self.tail.turned();
        let input = |(n, spec): (usize, &InputSpec)| {
            let at = self.shared.partition(spec.stream, spec.partition)?;
            let progress = turned.progress.inputs.get(n);
            let arrived = turned.arrived.get(n).cloned().unwrap_or_default();
            Input::open(&self.shared.client, at, progress, arrived, waker.clone())
        };
        self.inputs.iter().enumerate().map(input).collect()
    }

    fn lease(self, inputs: Vec<Input>, waker: Waker) -> KafkaLease {
        let turned = self.tail.turned().clone();
        let appended = turned.appended.iter();
        let appended = appended.map(|a| ((a.stream, a.partition), (a.rows, a.bytes))).collect();
        let mut progress = turned.progress.clone();
        progress.inputs.resize_with(self.inputs.len(), Default::default);
        if turned.progress.turn > 0 {
            self.shared.turned(self.task, turned);
        }
        KafkaLease {
            committed: self.shared.ticket(),
            recovered: Recovered {
                progress,
                opens: self.tail.opens().len() as u32,
                changes_max: self.tail.changes(),
            },
            opens: self.tail.opens().iter().copied().collect(),
            nonce: self.nonce,
            name: self.name,
            waker,
            hold: self.hold,
            has_output: false,
            shared: self.shared,
            task: self.task,
            state: self.state,
            writer: self.writer,
            inputs,
            tail: Some(self.tail),
            appended,
            undecided: Default::default(),
            end: None,
        }
    }
}

/// How far an opening has come.
pub(super) enum Advanced {
    Waits(Box<Opening>),
    Open(Box<dyn Lease>),
}
