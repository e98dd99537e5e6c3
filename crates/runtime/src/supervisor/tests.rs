//! OTP's supervisor suite, ported by name, and what is ours beyond it.

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
