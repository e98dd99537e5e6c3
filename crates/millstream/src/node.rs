//! A node on this machine: an engine, threads, and the flows it runs.

use std::{path::Path, sync::Arc, time::Duration};

use millstream_core::{Code, Error, Key, Result, engine::Engine};
use millstream_io::http::{Listener, Server, Setup};
use millstream_runtime::{
    embedded,
    node::{FlowState, Node as Heart, Options},
    threads::{ThreadConnectors, Workers, now},
};

use crate::{
    flow::Flow,
    host::decode_state,
    place::{Keeper, Place},
    plan::plan,
    process::Process,
    progress,
    signals::Signals,
    target::show,
};

/// How often a draining node is looked at.
const DRAIN_EVERY: Duration = Duration::from_millis(5);
/// How often a program that runs a flow looks whether it was asked to end, or its node has left.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a program that was asked to end may work off what it has taken in.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What a node is to be; [`Node::start`] makes it run.
#[derive(Clone, Debug)]
pub struct Node {
    place: Place,
    options: Options,
    workers: usize,
    http: Option<String>,
    signals: bool,
}

impl Node {
    /// A node that keeps everything in a directory; the directory is made if it is missing.
    pub fn embedded(dir: impl AsRef<Path>) -> Node {
        Node::at(Place::Dir(dir.as_ref().to_path_buf(), embedded::Options::default()))
    }

    /// A node that keeps everything in Kafka (`kafka://host:port,host:port`), as one of many of the
    /// application `app`; `name` is its own and unique there.
    ///
    /// # Errors
    /// If the address is none, or this program was built without the feature `kafka`.
    pub fn kafka(address: &str, app: &str, name: &str) -> Result<Node> {
        Ok(Node::at(Place::named(address, Some(app), Some(name))?))
    }

    /// A client of the Kafka that keeps everything for this node: for topics of your own as sources
    /// and sinks of the flow, which every node reaches.
    ///
    /// # Errors
    /// [`Code::Plan`] if the node keeps everything in a directory.
    #[cfg(feature = "kafka")]
    pub fn kafka_client(&self) -> Result<Arc<dyn millstream_kafka::client::Client>> {
        match &self.place {
            Place::Kafka(cluster) => Ok(cluster.client()?),
            Place::Dir(..) => Err(millstream_core::engine::alone()),
        }
    }

    pub(crate) fn at(place: Place) -> Node {
        Node {
            place,
            options: Options::default(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            http: None,
            signals: true,
        }
    }

    /// Listens for HTTP: records come in and the control API answers. An address such as
    /// `127.0.0.1:7070`, or a port on 127.0.0.1 such as `:7070`; `:0` takes any free one. See
    /// [`millstream_io::http`] for what is asked and who may ask.
    pub fn http(mut self, listen: impl Into<String>) -> Node {
        self.http = Some(listen.into());
        self
    }

    /// Changes the embedded engine's options. A node on Kafka has none.
    pub fn engine(mut self, change: impl FnOnce(&mut embedded::Options)) -> Node {
        // Without Kafka there is no other place.
        #[allow(irrefutable_let_patterns)]
        if let Place::Dir(_, options) = &mut self.place {
            change(options);
        }
        self
    }

    /// Changes the node's options.
    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Node {
        change(&mut self.options);
        self
    }

    /// How many workers; one per core unless said otherwise.
    pub fn workers(mut self, workers: usize) -> Node {
        self.workers = workers;
        self
    }

    /// Whether [`Node::run`] listens for Ctrl-C and SIGTERM, as it does unless told otherwise. A
    /// program that does so itself turns it off.
    pub fn signals(mut self, listen: bool) -> Node {
        self.signals = listen;
        self
    }

    /// Opens the directory, or connects to Kafka, and starts the threads.
    ///
    /// # Errors
    /// If another node uses the directory, it cannot be read or written, or what is in it is
    /// damaged; if Kafka cannot be reached, or the topics are not what they should be.
    pub fn start(self) -> Result<Running> {
        let listen = || self.http.as_deref().map(Listener::bind).transpose();
        // Others are told the port when the node joins. A directory in use says more than a port.
        let early = if self.place.is_shared() { listen()? } else { None };
        let (engine, keeper) = self.place.open(early.as_ref().map(Listener::address))?;
        let listener = match early {
            None if !self.place.is_shared() => listen()?,
            early => early,
        };
        let connectors = ThreadConnectors::start(self.workers)?;
        let heart = Heart::new(engine.clone(), connectors, self.options)?;
        let workers = Workers::start(heart.clone(), self.workers)?;
        let mut running = Running { heart, engine, workers, keeper: Some(keeper), server: None };
        if let Some(listener) = listener {
            running.listen(listener)?;
        }
        Ok(running)
    }

    /// Starts, runs one flow to its end and stops.
    ///
    /// Ctrl-C or SIGTERM end it before: nothing more is taken in, what was taken in is worked off
    /// (for 30 s at most; the rest waits in the directory) and committed. The next run goes on
    /// there. A second one ends the program at once, with exit code 130; nothing is lost then
    /// either. If a terminal is attached, how far it is shows there, and at the end what was set
    /// aside.
    ///
    /// It ends in the same way, with an error, when more handlers than
    /// [`Options::abandoned_max`] never returned: only a new process can take back their threads.
    ///
    /// A node of many hands its tasks over to the others before it ends, also when `millstream
    /// cluster drain` asks it to.
    ///
    /// # Errors
    /// As [`Node::start`]; if the flow does not fit together; if it fails; [`Code::WornOut`];
    /// [`Code::InUse`] if another program has joined the cluster under this node's name.
    pub fn run(self, flow: Flow) -> Result<()> {
        let signals = self.signals.then(Signals::listen).transpose()?;
        let place = self.place.clone();
        let opening = progress::Opening::new(place.name());
        let running = self.start()?;
        drop(opening);
        running.deploy(&flow)?;
        let asked = || signals.as_ref().is_some_and(Signals::asked);
        let mut progress = progress::Rows::new(&running, flow.name());
        let mut state = running.wait_while(flow.name(), LOOK_EVERY, || {
            progress.look();
            !asked()
        });
        if state == FlowState::Running || running.heart.worn_out().is_some() {
            progress.say("stopping: working off what was taken in; Ctrl-C again stops at once");
            running.drain(DRAIN_MAX);
            // It may have come to its end by that.
            state = running.wait_while(flow.name(), Duration::ZERO, || false);
        }
        progress.say_dead(&place.hint());
        drop(progress);
        running.stop();
        match state {
            FlowState::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// A node that runs. Dropping it stops it.
pub struct Running {
    heart: Arc<Heart>,
    engine: Arc<dyn Engine>,
    workers: Arc<Workers>,
    keeper: Option<Keeper>,
    server: Option<Server>,
}

impl Running {
    fn listen(&mut self, listener: Listener) -> Result<()> {
        let server = Server::start(Setup { listener, node: self.heart.clone(), show: show() })?;
        if let Some(keeper) = &self.keeper {
            keeper.announce(&format!("http://{}", server.address()))?;
        }
        self.server = Some(server);
        Ok(())
    }

    /// Where it listens for HTTP, if it does.
    pub fn http(&self) -> Option<std::net::SocketAddr> {
        self.server.as_ref().map(Server::address)
    }

    /// Adds a flow.
    ///
    /// # Errors
    /// If it does not fit together, or one of its name runs already.
    pub fn deploy(&self, flow: &Flow) -> Result<()> {
        for source in &flow.http {
            let Some(server) = &self.server else {
                let (flow, source) = (flow.name(), source.name());
                return Err(Error::new(
                    Code::Plan,
                    format!("flow `{flow}`: source `{source}` takes records by HTTP, and the node does not listen"),
                )
                .help("let it: Node::embedded(..).http(\"127.0.0.1:7070\")"));
            };
            server.register(flow.name(), source)?;
        }
        let stages = plan(flow, Some(self.engine.as_ref()))?;
        self.heart.deploy(stages, now())
    }

    /// The node itself.
    pub fn heart(&self) -> &Arc<Heart> {
        &self.heart
    }

    /// The engine below.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Every law of the ledger, over what is committed.
    pub fn ledger(&self) -> millstream_core::ledger::Ledger {
        self.engine.ledger()
    }

    /// The committed state of the process of a kind and key, if there is one.
    ///
    /// # Errors
    /// If the state cannot be read as `P`.
    pub fn state<P: Process>(&self, kind: &str, key: &Key) -> Result<Option<P>> {
        let bytes = self.heart.inspect(kind, key.bytes());
        let state = bytes.map(|b| decode_state(&b)).transpose();
        state.map_err(|e| Error::corrupt(e.to_string()))
    }

    /// Waits until a flow has finished, failed or stopped. It counts as failed, with
    /// [`Code::WornOut`], when the node drains because too many handlers never returned: the
    /// program is then to end. So it is when the node has left its cluster: the flow counts as
    /// stopped if that was asked for, as failed with [`Code::InUse`] if another program has joined
    /// under the node's name.
    pub fn wait(&self, flow: &str) -> FlowState {
        self.wait_while(flow, LOOK_EVERY, || true)
    }

    /// As [`Running::wait`], but asks `every` so often whether to go on with it.
    fn wait_while(
        &self,
        flow: &str,
        every: Duration,
        mut go_on: impl FnMut() -> bool,
    ) -> FlowState {
        loop {
            match self.heart.wait(flow, every) {
                Some(FlowState::Running) => {
                    if let Some(error) = self.heart.worn_out() {
                        return FlowState::Failed(error);
                    }
                    match self.engine.left() {
                        Some(Err(error)) => return FlowState::Failed(error),
                        Some(Ok(())) => return FlowState::Stopped,
                        None if go_on() => {}
                        None => return FlowState::Running,
                    }
                }
                Some(state) => return state,
                None => {
                    let unknown = format!("there is no flow `{flow}`");
                    return FlowState::Failed(Error::new(millstream_core::Code::Unknown, unknown));
                }
            }
        }
    }

    /// Takes nothing in any more and works off what was taken in, for at most `wait`. Whether
    /// everything was worked off; what was not is still there when the node starts again.
    ///
    /// A node of many hands its tasks over instead, and the others go on where it was.
    pub fn drain(&self, wait: Duration) -> bool {
        if let Some(left) = self.keeper.as_ref().and_then(|keeper| keeper.leave(wait)) {
            return left;
        }
        self.heart.drain();
        // Clock: the caller waits, no task does.
        let begun = std::time::Instant::now();
        while !self.heart.is_drained() {
            if begun.elapsed() > wait {
                return false;
            }
            std::thread::sleep(DRAIN_EVERY);
        }
        true
    }

    /// Stops: running turns end, everything committed becomes durable.
    pub fn stop(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        self.workers.stop();
        drop(self.keeper.take());
        // Last, so that whoever asks meanwhile gets an answer.
        drop(self.server.take());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shut();
    }
}

#[cfg(test)]
#[cfg(feature = "kafka")]
mod tests;
