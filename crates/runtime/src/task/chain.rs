//! Runs a turn's input through a chain of operators, optimistically or unit by unit.
//!
//! *Failure:* the first failure of an optimistic run undoes everything since the last seal and runs
//! the same input again, carefully. A failure of the careful run itself has no record to blame; it
//! fails the task.

use std::sync::Arc;

use millstream_core::{
    Batch, Result, Time,
    ledger::TaskCounters,
    letter::Letter,
    mail::Mail,
    operator::{Advance, Failure, Mode, Operator, Outputs, Port, Probe, Scope},
    turn::Delta,
};

use crate::catch::catch;

/// One piece of a turn's input, in order.
#[derive(Debug)]
pub enum Piece {
    /// Rows of the stream's schema.
    Rows(Batch),
    /// Messages.
    Mail(Vec<Mail>),
}

/// A piece and the time around it.
#[derive(Debug)]
pub struct Step {
    /// What to process.
    pub piece: Piece,
    /// The minimum watermark of all producers but the piece's own.
    pub others: Time,
}

/// What a run of the chain has produced.
#[derive(Debug, Default)]
pub struct Produced {
    /// Rows per operator and port, in order.
    pub rows: Vec<((usize, Port), Batch)>,
    /// Messages per mailbox, in order.
    pub mail: Vec<(usize, Mail)>,
    /// What was set aside.
    pub letters: Vec<Letter>,
    /// State changes.
    pub delta: Delta,
    /// What was counted in this turn.
    pub counters: TaskCounters,
    /// Whether firing has to go on in another turn.
    pub more: bool,
    /// Units that failed.
    pub failures: usize,
}

impl Produced {
    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.mail.is_empty()
            && self.letters.is_empty()
            && self.delta.is_empty()
    }
}

/// What a run is given beside its input.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The turn's clock.
    pub clock: Time,
    /// The task's watermark before the turn.
    pub before: Time,
    /// The task's watermark after the turn's input.
    pub after: Time,
    /// How many firings the turn may hold.
    pub firings_max: usize,
    /// Calls that must not be executed.
    pub suspects: &'a [u64],
}

/// The operators of one task.
pub struct Chain {
    operators: Vec<Box<dyn Operator>>,
    /// Which one messages are for: the first that has processes.
    addressee: usize,
    outputs: Vec<Outputs>,
    probe: Arc<Probe>,
}

impl Chain {
    /// Fuses operators.
    pub fn new(mut operators: Vec<Box<dyn Operator>>, probe: Arc<Probe>) -> Chain {
        let outputs = operators.iter().map(|_| Outputs::default()).collect();
        let addressee = operators.iter_mut().position(|o| !o.tables().is_empty()).unwrap_or(0);
        Chain { operators, addressee, outputs, probe }
    }

    /// The operators, to restore and inspect.
    pub fn operators(&mut self) -> &mut [Box<dyn Operator>] {
        &mut self.operators
    }

    /// Whether an operator has something to fire.
    pub fn is_due(&self, watermark: Time, clock: Time) -> bool {
        self.operators.iter().any(|o| o.is_due(watermark, clock))
    }

    /// The next processing time at which an operator has something to fire.
    pub fn wake_at(&mut self) -> Option<Time> {
        self.operators.iter_mut().filter_map(|o| o.wake_at()).min()
    }

    /// Runs a turn in one mode. After an error everything is as it was at the last seal.
    ///
    /// # Errors
    /// The first failure in optimistic mode; in careful mode a failure no unit can be blamed for.
    pub fn run(
        &mut self,
        steps: &[Step],
        setting: &Setting<'_>,
        mode: Mode,
    ) -> Result<Produced, Failure> {
        let mut produced = Produced::default();
        self.probe.begin();
        let result = catch(&mut || self.pass(steps, setting, mode, &mut produced));
        self.probe.idle();
        match result {
            Ok(()) => {
                self.operators.iter_mut().for_each(|o| o.sealed());
                Ok(produced)
            }
            Err(failure) => {
                self.undo();
                Err(failure)
            }
        }
    }

    /// Takes back everything since the last seal.
    pub fn undo(&mut self) {
        for operator in &mut self.operators {
            operator.tables().into_iter().for_each(|t| t.undo());
            operator.undone();
        }
        self.outputs.iter_mut().for_each(|o| *o = Outputs::default());
    }

    fn pass(
        &mut self,
        steps: &[Step],
        setting: &Setting<'_>,
        mode: Mode,
        produced: &mut Produced,
    ) -> Result<(), Failure> {
        for step in steps {
            let turn = Pass { setting, mode, others: step.others, watermark: setting.before };
            match &step.piece {
                Piece::Rows(batch) => self.feed(0, batch, &turn, produced)?,
                Piece::Mail(mail) => {
                    let at = self.addressee;
                    self.call(at, &turn, |o, scope| o.mail(mail, scope))?;
                    self.drain(at, &turn, produced)?;
                }
            }
        }
        let turn = Pass { setting, mode, others: setting.after, watermark: setting.after };
        for at in 0..self.operators.len() {
            let mut state = Advance::Done;
            self.call(at, &turn, |o, scope| {
                state = o.advance(setting.firings_max, scope)?;
                Ok(())
            })?;
            self.drain(at, &turn, produced)?;
            if state == Advance::More {
                // Later operators must not see this watermark before all of it has fired here.
                produced.more = true;
                break;
            }
        }
        self.seal(produced)
    }

    fn feed(
        &mut self,
        at: usize,
        batch: &Batch,
        turn: &Pass<'_>,
        produced: &mut Produced,
    ) -> Result<(), Failure> {
        if at == self.operators.len() {
            produced.rows.push(((at.saturating_sub(1), 0), batch.clone()));
            return Ok(());
        }
        self.call(at, turn, |o, scope| o.process(batch, scope))?;
        self.drain(at, turn, produced)
    }

    fn call(
        &mut self,
        at: usize,
        turn: &Pass<'_>,
        run: impl FnOnce(&mut dyn Operator, &mut Scope<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut scope = Scope {
            clock: turn.setting.clock,
            watermark: turn.watermark,
            others: turn.others,
            mode: turn.mode,
            attempt: if turn.mode == Mode::Optimistic { 1 } else { 2 },
            out: &mut self.outputs[at],
            probe: &self.probe,
            suspects: turn.setting.suspects,
            catch,
        };
        run(self.operators[at].as_mut(), &mut scope)
    }

    fn drain(
        &mut self,
        at: usize,
        turn: &Pass<'_>,
        produced: &mut Produced,
    ) -> Result<(), Failure> {
        for (port, batch) in std::mem::take(&mut self.outputs[at].rows) {
            if port == 0 {
                self.feed(at + 1, &batch, turn, produced)?;
            } else {
                produced.rows.push(((at, port), batch));
            }
        }
        Ok(())
    }

    fn seal(&mut self, produced: &mut Produced) -> Result<(), Failure> {
        self.probe.leave();
        for operator in &mut self.operators {
            for table in operator.tables() {
                table.seal(&mut produced.delta)?;
            }
        }
        for (operator, out) in self.operators.iter().zip(&mut self.outputs) {
            let out = std::mem::take(out);
            produced.failures += out.letters.len();
            produced.mail.extend(out.mail);
            produced.letters.extend(
                out.letters.into_iter().map(|l| Letter { operator: operator.name().into(), ..l }),
            );
            produced.counters.operators.insert(operator.name().to_string(), out.counters);
        }
        Ok(())
    }
}

struct Pass<'a> {
    setting: &'a Setting<'a>,
    mode: Mode,
    others: Time,
    watermark: Time,
}
