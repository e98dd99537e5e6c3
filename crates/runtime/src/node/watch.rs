//! The watchdog: finds handlers that do not return, and goes on without their threads.
//!
//! *Limits:* [`Options::call_timeout`](super::Options) per call, and
//! [`Options::abandoned_max`](super::Options) threads; beyond that the node is worn out.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use millstream_core::{Code, Error, Time, operator::OUTSIDE};

use super::{Node, Slot, Tenant, lock};
use crate::{
    queue::{Next, SlotId},
    supervisor::What,
    task::Task,
};

/// What the watchdog remembers: per slot the call that it last saw running, and since when.
pub(crate) type Seen = BTreeMap<SlotId, (Call, Duration)>;

/// A call of a step: the step's number, the chain's run in it, and the call's ordinal in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    step: u64,
    run: u64,
    call: u64,
}

impl Node {
    /// Looks for handlers that do not return; called by the watchdog. `seen` is its memory, `at` a
    /// clock without steps: one of the wall clock is no hang. Returns how many threads were given
    /// up and have to be replaced.
    pub(crate) fn watch(&self, seen: &mut Seen, at: Duration, now: Time) -> usize {
        let slots = lock(&self.slots).clone();
        let mut given_up = 0;
        for (id, slot) in slots.iter().enumerate() {
            let tenant = lock(&slot.current).clone();
            let Some(call) = running(&tenant) else {
                seen.remove(&id);
                continue;
            };
            let first = seen.entry(id).or_insert((call, at));
            if first.0 != call {
                *first = (call, at);
            }
            if at >= first.1 + self.options.call_timeout {
                seen.remove(&id);
                given_up += usize::from(self.abandon(id, slot, &tenant, call, now));
            }
        }
        given_up
    }

    /// Leaves a thread to its endless loop and goes on with a new task, which sets the call aside;
    /// unless the task was stopped. `false` if the step has ended after all.
    pub(super) fn abandon(
        &self,
        id: SlotId,
        slot: &Slot,
        old: &Tenant,
        Call { step, call, .. }: Call,
        now: Time,
    ) -> bool {
        if !old.give_up(step) {
            return false;
        }
        let mut task = Task::new(slot.stage.clone(), slot.path.task, slot.around.clone());
        task.suspect(call, old.probe.plan());
        *lock(&slot.current) = Tenant::new(task);
        self.abandoned.fetch_add(1, Ordering::Relaxed);
        slot.around.floor.free(id);
        self.queue.release(id, Next::Now);
        if self.worn_out().is_some() {
            self.drain();
            self.changed.notify_all();
        }
        let what = match call {
            OUTSIDE => "a turn's own work".to_string(),
            call => format!("call {call}"),
        };
        let reason = format!("{what} has not returned for {:?}", self.options.call_timeout);
        self.note(&slot.path, What::AbandonedThread, "", &reason, 1, now);
        true
    }

    /// Whether a thread of this node never came back.
    pub fn is_stuck(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) > 0
    }

    /// Why the process has to be replaced: so many threads were given up. The node drains by
    /// itself; whoever runs it ends with this error once that is done.
    pub fn worn_out(&self) -> Option<Error> {
        let (n, max) = (self.abandoned.load(Ordering::Relaxed), self.options.abandoned_max);
        if n <= u64::from(max) {
            return None;
        }
        let timeout = self.options.call_timeout;
        let message = format!("{n} handlers did not return within {timeout:?}; {max} may do so");
        let error = Error::new(Code::WornOut, message).help(
            "start the program again, or let a service manager: it goes on from what was committed",
        );
        Some(error.help("their records are dead letters (M0018): mend what they stuck in"))
    }
}

/// The call that a tenant is in.
pub(super) fn running(tenant: &Tenant) -> Option<Call> {
    let step = tenant.running()?;
    let (run, call) = (tenant.probe.run(), tenant.probe.call());
    (call > 0).then_some(Call { step, run, call })
}
