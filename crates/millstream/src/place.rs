//! Where a node keeps what it must not lose: a directory of its own, or Kafka.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

#[cfg(not(feature = "kafka"))]
use millstream_core::{Code, Error};
use millstream_core::{Result, engine::Engine};
use millstream_runtime::embedded::{self, EmbeddedEngine};

/// How an address of Kafka begins.
const KAFKA: &str = "kafka://";

/// Where a node keeps what it must not lose.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// The embedded engine in a directory.
    Dir(PathBuf, embedded::Options),
    /// Kafka, shared with other nodes of the application.
    #[cfg(feature = "kafka")]
    Kafka(crate::cluster::Cluster),
}

/// What makes turns durable; works until dropped.
pub(crate) enum Keeper {
    Dir(
        Arc<EmbeddedEngine>,
        #[expect(dead_code, reason = "works until dropped")] embedded::Threads,
    ),
    #[cfg(feature = "kafka")]
    Kafka(millstream_kafka::engine::Threads),
}

impl Place {
    /// The place that an address names: a directory, or `kafka://` and brokers.
    ///
    /// # Errors
    /// If it is Kafka's and this program was built without it.
    pub fn named(address: &str, app: Option<&str>, node: Option<&str>) -> Result<Place> {
        if !address.starts_with(KAFKA) {
            return Ok(Place::Dir(address.into(), embedded::Options::default()));
        }
        #[cfg(feature = "kafka")]
        return crate::cluster::Cluster::named(address, app, node).map(Place::Kafka);
        #[cfg(not(feature = "kafka"))]
        {
            let _ = (app, node);
            let message = format!("{address}: this program was built without Kafka");
            Err(Error::new(Code::Plan, message).help(
                "build it with the feature `kafka`: cargo build --release --features kafka (it needs a C compiler, make, and the headers of OpenSSL and zlib)",
            ))
        }
    }

    /// Whether other nodes are told where this one listens.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Place::Dir(..))
    }

    /// Opens it; others find the node at `address`.
    pub fn open(&self, address: Option<SocketAddr>) -> Result<(Arc<dyn Engine>, Keeper)> {
        #[cfg(not(feature = "kafka"))]
        let _ = address;
        match self {
            Place::Dir(dir, options) => {
                let opened = embedded::open_dir(dir, options.clone())?;
                let (engine, threads) = embedded::Threads::start(opened)?;
                Ok((engine.clone(), Keeper::Dir(engine, threads)))
            }
            #[cfg(feature = "kafka")]
            Place::Kafka(cluster) => {
                let (engine, threads) = cluster.connect(address)?;
                Ok((engine, Keeper::Kafka(threads)))
            }
        }
    }

    /// How a person calls it.
    pub fn name(&self) -> String {
        match self {
            Place::Dir(dir, _) => dir.display().to_string(),
            #[cfg(feature = "kafka")]
            Place::Kafka(cluster) => cluster.name(),
        }
    }

    /// What tells the command line where to look.
    pub fn hint(&self) -> String {
        match self {
            Place::Dir(dir, _) => format!("--data {}", dir.display()),
            #[cfg(feature = "kafka")]
            Place::Kafka(_) => "--node HOST:PORT".into(),
        }
    }
}

impl Keeper {
    /// Lets other nodes take over what this one has, if there may be others. Whether they have.
    pub fn leave(&self, wait: std::time::Duration) -> Option<bool> {
        #[cfg(not(feature = "kafka"))]
        let _ = wait;
        match self {
            Keeper::Dir(..) => None,
            #[cfg(feature = "kafka")]
            Keeper::Kafka(threads) => Some(threads.leave(wait)),
        }
    }

    /// Tells others on this machine where the node listens.
    pub fn announce(&self, url: &str) -> Result<()> {
        match self {
            Keeper::Dir(engine, _) => engine.dir_lock().map_or(Ok(()), |lock| lock.announce(url)),
            #[cfg(feature = "kafka")]
            Keeper::Kafka(_) => Ok(()),
        }
    }
}
