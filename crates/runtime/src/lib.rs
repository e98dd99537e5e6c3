//! placeholder

pub mod supervisor;
