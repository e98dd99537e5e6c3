//! OTP's supervisor as a pure state machine: what happened and the time in, decisions out.
//!
//! *Why it exists:* restarts are the product, so they must be testable to the last race. A
//! supervisor that owned threads and clocks could only be tested by sleeping; this one is driven by
//! the node in production and by a seeded loop in tests, and decides the same in both.
//!
//! *Invariants* (each asserted by the property test)
//! - A child never runs twice: it is started only after its last instance was seen to end.
//! - Children start in order and are terminated in reverse order, one at a time.
//! - More than `max` restarts within `period` are never granted: the supervisor gives up instead.
//! - Nothing is decided after [`Decision::Stopped`].
//!
//! *What is OTP's:* strategies, restart types, the intensity window, start and termination order,
//! retries of failed restarts, and what `terminate_child` and its kin answer. *What is ours:*
//! back-off; one child's slow start or termination does not block its siblings under
//! `one_for_one`; `shutdown` interrupts a start that hangs. *What is left out:* `auto_shutdown`,
//! `ignore`, code change, and `simple_one_for_one` as a strategy of its own (add children to a
//! `one_for_one` supervisor).
//!
//! *Around it:* [`tree`] composes node > flow > stage > task, [`Breaker`] stops a flow that only
//! makes dead letters, [`Streaks`] finds processes to park, [`report`] feeds `$supervisor`.
//!
//! *Failure:* a supervisor holds nothing durable; after a crash of the node it starts anew, with an
//! empty window.
//! *Limits:* a supervisor remembers `max` + 1 restarts; see each part for its own.
//! *Source:* Erlang/OTP `stdlib`, `supervisor`; its test suite is ported by name in
//! `tests/otp*.rs`.

mod backoff;
mod breaker;
mod children;
mod intensity;
mod machine;
mod protocol;
pub mod report;
mod spec;
mod streaks;
mod throttle;
pub mod tree;

pub use backoff::Backoff;
pub use breaker::{Breaker, Options as BreakerOptions, State as BreakerState};
pub use intensity::Intensity;
pub use machine::Supervisor;
pub use protocol::{Decision, Event, Refusal, Stop};
pub use report::{Report, What};
pub use spec::{ChildSpec, Exit, How, Kind, Restart, Shutdown, Spec, Status, Strategy};
pub use streaks::{Streaks, Verdict};
pub use throttle::Throttle;
pub use tree::{FlowSpec, StageSpec, TaskPath, Tree};

#[cfg(test)]
mod tests;
