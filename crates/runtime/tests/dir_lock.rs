//! One node per directory, and people may ask which.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::{AtomicBool, Ordering};

use millstream_core::{Code, Result};
use millstream_runtime::embedded::{DirLock, holder_http};

#[test]
fn asking_who_holds_a_directory_keeps_no_node_from_taking_it() {
    let dir = std::env::temp_dir().join(format!("millstream-lock-{}", std::process::id()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    holder_http(&dir);
                }
            });
        }
        let taken: Vec<_> = (0..500).map(|_| DirLock::take(&dir).map(drop)).collect();
        let held = DirLock::take(&dir);
        let refused = DirLock::take(&dir).map(drop).unwrap_err();
        stop.store(true, Ordering::Relaxed);
        assert!(taken.iter().all(Result::is_ok), "{taken:?}");
        assert!(held.is_ok());
        assert_eq!(refused.code(), Code::InUse);
    });
    drop(std::fs::remove_dir_all(dir));
}
