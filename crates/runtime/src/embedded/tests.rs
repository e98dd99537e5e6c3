#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;
mod faults;
mod measure;

use std::sync::Arc;

use millstream_core::{disk::Disk, engine::Engine};

use super::*;
use crate::{
    conformance::{self, Subject},
    disk::{OsDisk, SimDisk},
};

/// An engine on some disk, its committer stepped by hand.
struct Bench {
    disk: Arc<dyn Disk>,
    options: Options,
    opened: Opened,
}

impl Bench {
    fn new(disk: Arc<dyn Disk>, options: Options) -> Bench {
        let opened = EmbeddedEngine::open(options.clone(), disk.clone()).unwrap();
        Bench { disk, options, opened }
    }
}

impl Subject for Bench {
    fn engine(&self) -> Arc<dyn Engine> {
        self.opened.engine.clone()
    }

    fn settle(&mut self) {
        let Opened { committer, compactor, .. } = &mut self.opened;
        while committer.step() == Progress::Worked || compactor.step() == Progress::Worked {}
    }

    fn restart(&mut self) {
        self.opened = EmbeddedEngine::open(self.options.clone(), self.disk.clone()).unwrap();
    }
}

/// Limits so small that every mechanism is used.
fn tiny() -> Options {
    Options {
        segment_bytes: 4096,
        batch_bytes: 1500,
        cache_bytes: 600,
        compact_bytes_min: 500,
        block_bytes: 128,
        garbage_bytes_min: 8192,
        evacuate_bytes: 1024,
        ..Options::default()
    }
}

#[test]
fn conforms_on_the_operating_systems_disk() {
    let dir = Temp::new("conforms");
    conformance::run_all(|name| {
        Bench::new(Arc::new(OsDisk::new(dir.0.join(name))), Options::default())
    });
}

#[test]
fn conforms_on_the_simulated_disk() {
    conformance::run_all(|_| Bench::new(Arc::new(SimDisk::new(1)), Options::default()));
}

#[test]
fn conforms_with_tiny_limits() {
    conformance::run_all(|_| Bench::new(Arc::new(SimDisk::new(1)), tiny()));
}

/// A directory that goes with the test.
struct Temp(std::path::PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let dir = std::env::temp_dir().join(format!("millstream-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Temp(dir)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
