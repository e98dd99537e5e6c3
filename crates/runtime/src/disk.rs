//! Disks: the operating system's, and one in memory that fails on purpose.

mod os;
pub mod sim;

pub use os::OsDisk;
pub(crate) use os::create_dir;
pub use sim::{Faults, SimDisk};
