//! `millstream migrate`: from a directory to Kafka.

use std::process::ExitCode;

use millstream_core::Result;

use crate::{
    args::Migrate,
    say::{Say, bytes, count},
};

/// Moves, and says what was moved.
pub fn run(options: &Migrate, say: &mut Say) -> Result<ExitCode> {
    let Migrate { from, to, app } = options;
    let moved = millstream::migrate(from, to, app)?;
    say.result(&moved, |say| {
        let (from, frames) = (from.display(), count(moved.frames, "frame", "frames"));
        say.line(format!("moved {from} to application {app} at {to}, and read it back:"));
        say.line(format!(
            "  {} in {}, with {} waiting or kept in {frames} ({})",
            count(moved.streams, "stream", "streams"),
            count(moved.partitions, "partition", "partitions"),
            count(moved.rows, "row", "rows"),
            bytes(moved.frame_bytes)
        ));
        say.line(format!(
            "  {} where they stood, with {} of state ({})",
            count(moved.tasks, "task", "tasks"),
            count(moved.keys, "key", "keys"),
            bytes(moved.state_bytes)
        ));
        say.line("  every frame, state and line of the ledger is the same there");
        say.line(format!("from now on run the flow with   --engine {to} --app {app}"));
        say.line(format!(
            "and no more with   --data {from}   which is as it was: its sinks would write twice"
        ));
    })?;
    Ok(ExitCode::SUCCESS)
}
