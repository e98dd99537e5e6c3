//! OTP's supervisor suite, ported by name, and what is ours beyond it.
//!
//! *Source:* `lib/stdlib/test/supervisor_SUITE.erl` of Erlang/OTP 28. Not ported, and why:
//! - `sup_start_ignore_*`, `simple_one_for_one_restart_ignore`: a child starts or fails to;
//!   there is no `ignore`.
//! - `sup_start_error_return`, `sup_start_map_faulty_specs`, `sup_start_map_simple`,
//!   `extra_return`, `child_specs_map`: what is malformed there does not compile here.
//! - `child_adm_simple`, `simple_one_for_one_extra`, `simple_one_for_one_corruption`,
//!   `sup_start_child_returns_error_simple`, `sup_stop_*_dynamic`, `simple_global_supervisor`,
//!   `which_children_simple_one_for_one`: there is no `simple_one_for_one`; children that are added
//!   to a `one_for_one` do its work, under its names where it differs.
//! - `nonsignificant_*`, `significant_*`: there is no `auto_shutdown`.
//! - `code_change*`: a supervisor is not upgraded while it runs.
//! - `faulty_application_shutdown`, `external_start_no_progress_log`, `format_log_*`,
//!   `get_callback_module`, `already_started_outside_supervisor`, `child_unlink`, `sup_stop_race`:
//!   about OTP's applications, logger, registry and links; here nothing but the supervisor ends a
//!   child that obeys.
//! - `do_not_save_start_parameters_for_temporary_children`: children have no start parameters.
//! - `sup_start_child_returns_error`, `sup_start_restart_child_returns_error`: as one test,
//!   `a_failed_start_child_is_forgotten_and_a_failed_restart_child_stays_down`.
//! - `scale_start_stop_many_children`: as `simple_one_for_one_scale_many_temporary_children`, which
//!   already adds to a `one_for_one`.
//! - `count_children_supervisor`, `count_restarting_children`, `which_children`: that
//!   is looked at by almost every test, in every status and in start order; nothing counts apart.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod otp_admin;
mod otp_restart;
mod otp_strategy;
mod ours;
mod parts;
mod property;
mod property_tree;
mod tree;
mod world;

use millstream_core::{Code, Error, Time};

use super::*;

fn died() -> Exit {
    Exit::Abnormal(oops())
}

fn oops() -> Error {
    Error::new(Code::Io, "oops")
}

fn ms(ms: i64) -> Time {
    Time::from_ms(ms)
}
