//! A task's hold on its transactional id: turns in, transactions out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use millstream_core::{
    Code, Error, Frame, Result, Turn,
    engine::{Lease, Recovered, Settlement, Ticket, Waker},
    turn::{Change, Position, StreamId, TaskId, changes},
};

use super::{
    codec::{Appended, Nonce, TURNED, Turned, changed, frame_key, opened, pack},
    input::Input,
    placed::Hold,
    shared::Shared,
    tail::Tail,
};
use crate::{
    client::{Outcome, Record, Records, TopicPartition, Writer},
    sink::encoding,
};

pub(super) struct KafkaLease {
    pub shared: Arc<Shared>,
    pub task: TaskId,
    /// Its partition of its stage's state.
    pub state: TopicPartition,
    pub writer: Box<dyn Writer>,
    pub inputs: Vec<Input>,
    pub recovered: Recovered,
    pub tail: Option<Tail>,
    /// Rows and bytes appended to each partition, with those of undecided turns.
    pub appended: BTreeMap<(StreamId, u32), (u64, u64)>,
    /// Openings that the next turn forgets, if it has done something.
    pub opens: Vec<Nonce>,
    /// This one.
    pub nonce: Nonce,
    pub undecided: VecDeque<Undecided>,
    /// Every turn up to here is committed; at first, those of the leases before.
    pub committed: Ticket,
    pub name: String,
    pub waker: Waker,
    /// What the placement wants of it.
    pub hold: Option<Arc<Hold>>,
    /// Whether its first turn is committed.
    pub has_output: bool,
    /// What has ended the lease, and with which turn.
    pub end: Option<(Ticket, Settlement)>,
}

pub(super) struct Undecided {
    ticket: Ticket,
    /// `None` of a release.
    turned: Option<Turned>,
    bytes: u64,
}

impl KafkaLease {
    /// The transaction that a turn is.
    fn transaction(&mut self, turn: Turn) -> Result<(Records, Turned)> {
        let Turn { progress, delta, outputs, carried } = turn;
        let mut records = Records::default();
        for output in &outputs {
            let at = self.shared.partition(output.stream, output.partition)?;
            let (rows, bytes) = self.appended.entry((output.stream, output.partition)).or_default();
            *rows += u64::from(output.frame.header.rows);
            *bytes += output.frame.bytes().len() as u64;
            let key = frame_key(self.task, *rows);
            records.push_shared(&at, &key, output.frame.bytes().clone());
        }
        carried.iter().try_for_each(|rows| encoding::append(rows, &mut records))?;
        let mut key = Vec::new();
        for change in changes(delta.bytes()) {
            let change = change?;
            changed(&change, &mut key);
            records.push(&self.state, Record::of(&key, change.value));
        }
        if !progress.quiet {
            for nonce in self.opens.drain(..) {
                records.push(&self.state, Record::of(&opened(&nonce), None));
            }
        }
        let appended = self.appended.iter().map(|(&(stream, partition), &(rows, bytes))| {
            Appended { stream, partition, rows, bytes }
        });
        let appended = appended.collect();
        let arrived = self.inputs.iter_mut().enumerate().map(|(n, input)| {
            let position = progress.inputs.get(n).map(|p| p.position).unwrap_or_default();
            input.arrived(position)
        });
        let turned = Turned { arrived: arrived.collect(), progress, appended };
        records.push(&self.state, Record::of(TURNED, Some(&pack(&turned)?)));
        Ok((records, turned))
    }

    fn submit(&mut self, ticket: Ticket, records: Records, turned: Option<Turned>) {
        let bytes = records.bytes() as u64;
        self.shared.submitted(ticket, bytes);
        self.undecided.push_back(Undecided { ticket, turned, bytes });
        self.writer.submit(records);
    }

    /// Hears what became of transactions.
    fn pump(&mut self) {
        while let Some(outcome) = self.writer.outcome() {
            let Some(front) = self.undecided.pop_front() else { continue };
            self.shared.decided(front.ticket, front.bytes);
            let end = match outcome {
                Outcome::Committed if self.end.is_none() => {
                    self.committed = front.ticket;
                    if let Some(turned) = front.turned {
                        self.shared.allow(&self.name);
                        self.shared.turned(self.task, turned);
                        if !std::mem::replace(&mut self.has_output, true)
                            && let Some(placed) = &self.shared.placed
                        {
                            placed.output(&self.name);
                        }
                    }
                    continue;
                }
                Outcome::Ready | Outcome::Committed | Outcome::Unknown => Settlement::Unknown,
                Outcome::Fenced => {
                    if let Some(placed) = self.shared.placed.as_ref().filter(|_| self.end.is_none())
                    {
                        placed.fenced(&self.name);
                    }
                    Settlement::Fenced
                }
                Outcome::Refused(error) if error.code() == Code::Permission => {
                    self.shared.deny(&self.name, error, &self.waker, Some(self.nonce));
                    Settlement::Unknown
                }
                Outcome::Refused(error) => Settlement::Fatal(error),
            };
            self.end.get_or_insert((front.ticket, end));
        }
    }
}

impl Lease for KafkaLease {
    fn task(&self) -> TaskId {
        self.task
    }

    fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn restore(
        &mut self,
        bytes_max: usize,
        take: &mut dyn FnMut(Change<'_>) -> Result<()>,
    ) -> Result<bool> {
        let Some(tail) = &mut self.tail else { return Ok(true) };
        let done = tail.restore(bytes_max, take)?;
        if done {
            self.tail = None;
        }
        Ok(done)
    }

    fn poll(
        &mut self,
        input: usize,
        from: Position,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Frame)>> {
        let inputs = self.inputs.len();
        let no_input = || Error::new(Code::Bug, format!("input {input} of {inputs}"));
        self.inputs.get_mut(input).ok_or_else(no_input)?.poll(from, bytes_max)
    }

    fn commit(&mut self, turn: Turn) -> Ticket {
        let ticket = self.shared.ticket();
        self.pump();
        if self.hold.as_ref().is_some_and(|h| h.is_lost() || h.is_released()) {
            // Its next owner runs it.
            self.end.get_or_insert((ticket, Settlement::Fenced));
        }
        if self.end.is_some() {
            return ticket;
        }
        match self.transaction(turn) {
            Ok((records, turned)) => self.submit(ticket, records, Some(turned)),
            Err(error) => self.end = Some((ticket, Settlement::Fatal(error))),
        }
        ticket
    }

    fn settled(&mut self, ticket: Ticket) -> Settlement {
        self.pump();
        match &self.end {
            _ if ticket <= self.committed => Settlement::Ok,
            Some((at, end)) if *at == ticket => end.clone(),
            Some(_) => Settlement::Fenced,
            None => Settlement::Pending,
        }
    }

    fn keep(&mut self) -> Result<()> {
        let Some(hold) = self.hold.clone() else { return Ok(()) };
        if hold.is_lost() {
            return Err(Error::new(Code::Fenced, "the node is no longer a member"));
        }
        if !hold.is_released() {
            return Ok(());
        }
        self.pump();
        if !self.undecided.is_empty() {
            return Ok(()); // What is on its way comes first.
        }
        let own = self.opens.iter().position(|nonce| *nonce == self.nonce);
        if let Some(own) = own.filter(|_| self.end.is_none()) {
            // That it was opened here and had nothing to do is no sign of a crash. Whoever had it
            // before may have crashed all the same.
            let mut records = Records::default();
            records.push(&self.state, Record::of(&opened(&self.opens.swap_remove(own)), None));
            let ticket = self.shared.ticket();
            self.submit(ticket, records, None);
            return Ok(());
        }
        Err(Error::new(Code::Fenced, "the task is handed over to another node"))
    }

    fn durable(&self, ticket: Ticket) -> bool {
        ticket <= self.committed
    }
}

impl Drop for KafkaLease {
    fn drop(&mut self) {
        for turn in self.undecided.drain(..) {
            self.shared.decided(turn.ticket, turn.bytes);
        }
    }
}
