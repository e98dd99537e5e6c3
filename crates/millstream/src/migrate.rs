//! From one machine to many: what a directory holds is moved to Kafka.

use std::path::Path;

use millstream_core::{Code, Error, Result, engine::Moved};
#[cfg(feature = "kafka")]
use millstream_runtime::{embedded, task::sink};

use crate::place::Place;

/// Moves everything that is in the directory of a node that does not run to the Kafka at `to`
/// (`kafka://host:port,host:port`), for a new application: streams with what waits in them, dead
/// letters, states, timers, and where each task stands. Then reads it back and compares. A flow
/// started there goes on where it stopped here. The directory stays as it is.
///
/// # Errors
/// [`Code::InUse`] if a node has the directory; [`Code::Conflict`] if there is anything of the
/// application, also if a move was interrupted; [`Code::Corrupt`] if what was read back differs;
/// [`Code::Plan`] if `to` is no Kafka, or this program was built without it.
#[cfg_attr(not(feature = "kafka"), expect(unused_variables))]
pub fn migrate(from: &Path, to: &str, app: &str) -> Result<Moved> {
    match Place::named(to, Some(app), Some("migrate"))? {
        Place::Dir(..) => {
            let message = format!("{to}: data is moved to Kafka only");
            Err(Error::new(Code::Plan, message).help("--to kafka://HOST:PORT,..."))
        }
        #[cfg(feature = "kafka")]
        Place::Kafka(cluster) => {
            // Held until all is moved: no node may begin here meanwhile.
            let (_lock, engine) = embedded::open_at_rest(from, embedded::Options::default())?;
            let rest = engine.at_rest().renumbered(sink::moved)?;
            cluster.take_over(engine.as_ref(), &rest)
        }
    }
}
