//! A node of many, which share the work of an application through Kafka.

use std::{net::SocketAddr, sync::Arc};

use millstream_core::{
    Code, Error, Result,
    engine::{AtRest, Engine, Moved},
};
use millstream_kafka::{
    Options as Kafka,
    client::rd::{Context, RdClient},
    engine::{self, KafkaEngine, MemberOptions, Options, Threads, clock},
};

/// Which Kafka, which application, and who this is.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    options: Kafka,
    app: String,
    node: String,
    context: Context,
}

impl Cluster {
    /// The cluster at `kafka://host:port,host:port`.
    pub fn named(address: &str, app: Option<&str>, node: Option<&str>) -> Result<Cluster> {
        let options = Kafka::from_env(address)?;
        let app = app.ok_or_else(|| {
            Error::new(Code::Plan, format!("{address}: no application is named"))
                .help("nodes of one application share its work; give it a name: --app fraud")
        })?;
        let node = node.map(str::to_string).unwrap_or_else(host_as_name);
        Ok(Cluster { options, app: app.into(), node, context: Context::default() })
    }

    /// Joins; others find this node at `address`.
    pub fn connect(&self, address: Option<SocketAddr>) -> Result<(Arc<dyn Engine>, Threads)> {
        let client = self.client()?;
        let member = MemberOptions {
            address: address.map_or("-".into(), reached),
            patience: Default::default(),
            now: clock(),
        };
        let (app, node) = (self.app.clone(), self.node.clone());
        let options = Options { app, node, incarnation: incarnation(), member: Some(member) };
        let connected = KafkaEngine::connect(&options, client)?;
        Ok((Arc::new(connected.engine.clone()), Threads::start(connected)?))
    }

    /// Begins the application with what another engine has.
    pub fn take_over(&self, from: &dyn Engine, rest: &AtRest) -> Result<Moved> {
        let (app, node) = (self.app.clone(), self.node.clone());
        let options = Options { app, node, incarnation: incarnation(), member: None };
        engine::take_over(from, rest, &options, self.client()?)
    }

    /// A client of its Kafka. What goes wrong with it, the node says, too.
    pub fn client(&self) -> Result<Arc<RdClient>> {
        RdClient::connect_in(&self.context, self.options.properties()?, &self.app)
    }

    pub fn name(&self) -> String {
        format!("kafka://{}, application {}, node {}", self.options.brokers(), self.app, self.node)
    }
}

/// This machine's name.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A node is called after its machine unless told otherwise.
fn host_as_name() -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    host().chars().map(plain).collect()
}

/// Where others reach what listens here. All addresses of a machine are none of it.
fn reached(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("{}:{}", host(), address.port()),
        false => address.to_string(),
    }
}

/// Another number for each run of a node.
fn incarnation() -> u64 {
    // Clock: two runs of a node differ in the time or in the process.
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = time.unwrap_or_default().as_nanos() as u64;
    nanos.rotate_left(16) ^ u64::from(std::process::id())
}
