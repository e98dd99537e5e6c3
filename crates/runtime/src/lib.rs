//! What runs turns and keeps them: engines, disks and the suite every engine must pass.

pub mod conformance;
pub mod disk;
pub mod embedded;
