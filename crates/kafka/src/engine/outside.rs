//! Frames from outside of any task: a task of the node's own appends them, so that they are counted
//! like all others.

use std::collections::VecDeque;

use millstream_core::{
    Code, Error, Result, Turn,
    engine::{Lease, Settlement, Ticket},
    turn::Output,
};

/// What may wait to be appended, in bytes.
const BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Outside {
    queue: VecDeque<(Ticket, Output)>,
    bytes: usize,
    /// Those of the turn that is on its way.
    sent: Vec<(Ticket, Output)>,
    turn: Option<(Ticket, u64)>,
    /// The last turn that was handed in.
    number: u64,
    lease: Option<Box<dyn Lease>>,
}

impl Outside {
    /// Takes a frame in.
    ///
    /// # Errors
    /// If too much waits already.
    pub fn push(&mut self, ticket: Ticket, output: Output) -> Result<()> {
        let bytes = output.frame.bytes().len();
        if self.bytes + bytes > BYTES_MAX {
            return Err(Error::new(
                Code::Unreachable,
                format!("kafka: {} bytes wait to be appended already", self.bytes),
            )
            .help("wait until the brokers answer again"));
        }
        self.bytes += bytes;
        self.queue.push_back((ticket, output));
        Ok(())
    }

    /// Whether a lease is needed.
    pub fn wants_lease(&self) -> bool {
        self.lease.is_none() && !(self.queue.is_empty() && self.sent.is_empty())
    }

    /// Goes on with a new lease. What nobody knows of is sent again unless it was committed.
    /// Returns what was.
    pub fn take_over(&mut self, lease: Box<dyn Lease>) -> Vec<Ticket> {
        let done = match self.turn.take() {
            Some((_, number)) if lease.recovered().progress.turn >= number => self.forget(),
            _ => {
                let sent = std::mem::take(&mut self.sent);
                sent.into_iter().rev().for_each(|item| self.queue.push_front(item));
                Vec::new()
            }
        };
        self.lease = Some(lease);
        done
    }

    fn forget(&mut self) -> Vec<Ticket> {
        let sent = std::mem::take(&mut self.sent);
        self.bytes -= sent.iter().map(|(_, o)| o.frame.bytes().len()).sum::<usize>();
        sent.into_iter().map(|(ticket, _)| ticket).collect()
    }

    /// Goes on as far as it can without waiting. Returns what is committed.
    pub fn pump(&mut self) -> Vec<Ticket> {
        let mut done = Vec::new();
        let Some(lease) = &mut self.lease else { return done };
        if let Some((ticket, _)) = self.turn {
            match lease.settled(ticket) {
                Settlement::Pending => return done,
                Settlement::Ok => {
                    self.turn = None;
                    done = self.forget();
                }
                // What is too large or refused stays so; the rest waits for the next lease.
                Settlement::Fatal(_) => {
                    self.turn = None;
                    self.lease = None;
                    return self.forget();
                }
                Settlement::Retry | Settlement::Fenced | Settlement::Unknown => {
                    self.lease = None;
                    return done;
                }
            }
        }
        let Some(lease) = &mut self.lease else { return done };
        if !self.queue.is_empty() {
            self.sent = std::mem::take(&mut self.queue).into();
            let number = lease.recovered().progress.turn.max(self.number) + 1;
            self.number = number;
            let outputs = self.sent.iter().map(|(_, output)| output.clone()).collect();
            let mut turn = Turn { outputs, ..Turn::default() };
            turn.progress.turn = number;
            self.turn = Some((lease.commit(turn), number));
        }
        done
    }
}
