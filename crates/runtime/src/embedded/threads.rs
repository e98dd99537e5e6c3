//! The two threads that drive an engine in production.

use std::{sync::Arc, thread::JoinHandle};

use millstream_core::{Error, Result};

use super::engine::{EmbeddedEngine, Opened};

/// The running threads of an engine; dropping it stops the engine, after everything that was
/// committed has become durable (or has failed to once more), and waits for them.
pub struct Threads {
    engine: Arc<EmbeddedEngine>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts an engine's threads.
    ///
    /// # Errors
    /// If the operating system gives none.
    pub fn start(opened: Opened) -> Result<(Arc<EmbeddedEngine>, Threads)> {
        let Opened { engine, committer, compactor } = opened;
        let mut threads = Threads { engine: engine.clone(), threads: Vec::new() };
        threads.spawn("millstream-commit", move || committer.run())?;
        threads.spawn("millstream-upkeep", move || compactor.run())?;
        Ok((engine, threads))
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
        self.threads.push(spawned.map_err(|e| Error::io(format!("thread {name}"), &e))?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.engine.stop();
        for thread in self.threads.drain(..) {
            // Its panic was reported when it happened.
            let _ = thread.join();
        }
    }
}
