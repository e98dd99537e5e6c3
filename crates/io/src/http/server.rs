//! The server's thread, and what its handlers share.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
    serve::ListenerExt,
};
use millstream_core::{Code, Error, Result, engine::Engine};
use millstream_runtime::node::Node;
use tokio::sync::watch;

use super::{
    answer::{self, ErrorBody},
    control,
    ingest::{self, HttpSource, Registry},
};
use crate::view::{self, ShowState, Status};

/// Where a node listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7070";

/// How long open requests may take when the server stops.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Threads that read the log and decode large bodies.
const BLOCKING_THREADS: usize = 8;

/// What a server needs.
pub struct Setup {
    /// Where it listens.
    pub listener: Listener,
    /// The node it speaks for.
    pub node: Arc<Node>,
    /// Makes a process's bytes readable.
    pub show: ShowState,
}

/// A port that is ours; requests wait there until a server answers them.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens at `host:port`, or a port on 127.0.0.1; port 0 takes any free one.
    ///
    /// # Errors
    /// [`Code::InUse`] if another program has the port, [`Code::Plan`] if the address is none.
    pub fn bind(listen: &str) -> Result<Listener> {
        let asked = address(listen)?;
        let socket = TcpListener::bind(asked).map_err(|e| cannot_listen(asked, &e))?;
        let address = socket.local_addr().map_err(|e| Error::io(asked, &e))?;
        Ok(Listener { socket, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What handlers share.
pub(super) struct Shared {
    pub node: Arc<Node>,
    pub show: ShowState,
    pub address: SocketAddr,
    pub registry: Registry,
    pub stopping: watch::Receiver<bool>,
    started: Instant,
}

impl Shared {
    pub fn engine(&self) -> &dyn Engine {
        self.node.engine().as_ref()
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    pub fn status(&self) -> Result<Status> {
        Ok(Status {
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            http: format!("http://{}", self.address),
            ..view::status(self.engine(), Some(&self.node))?
        })
    }
}

impl Server {
    /// Answers, on a thread of its own.
    ///
    /// # Errors
    /// If the system lacks what it needs for it.
    pub fn start(setup: Setup) -> Result<Server> {
        let Listener { socket: listener, address } = setup.listener;
        let io = |e: std::io::Error| Error::io(address, &e);
        let (stop, stopping) = watch::channel(false);
        listener.set_nonblocking(true).map_err(io)?;
        let shared = Arc::new(Shared {
            node: setup.node,
            show: setup.show,
            address,
            registry: Registry::default(),
            stopping: stopping.clone(),
            started: Instant::now(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()
            .map_err(io)?;
        let router = router(shared.clone());
        let thread = std::thread::Builder::new()
            .name("http".into())
            .spawn(move || {
                // An error here is the listener's own and was reported by the system; the node
                // works on without being asked.
                let _ = runtime.block_on(serve(listener, router, stopping));
                runtime.shutdown_background();
            })
            .map_err(|e| Error::io("thread http", &e))?;
        Ok(Server { shared, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Lets a source of a flow take records.
    ///
    /// # Errors
    /// [`Code::Conflict`] if another flow has a source of this name.
    pub fn register(&self, flow: &str, source: &HttpSource) -> Result<()> {
        self.shared.registry.add(flow, source)
    }

    /// Takes no new requests, and waits for the open ones, for a bounded time.
    pub fn stop(&self) {
        // Nobody listens any more if the thread has ended.
        let _ = self.stop.send(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Its panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(
    listener: TcpListener,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<()> {
    // Answers are small and waited for: no delay to collect more.
    let listener = tokio::net::TcpListener::from_std(listener)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let mut stop = stopping.clone();
    let served = axum::serve(listener, router).with_graceful_shutdown(async move {
        let _ = stop.wait_for(|stop| *stop).await;
    });
    tokio::select! {
        served = served => served,
        () = async {
            let _ = stopping.wait_for(|stop| *stop).await;
            tokio::time::sleep(STOP_MAX).await;
        } => Ok(()),
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(control::status))
        .route("/v1/flows", get(control::flows))
        .route("/v1/streams", get(control::streams))
        .route("/v1/streams/{name}/records", post(ingest::records))
        .route("/v1/streams/{name}/tail", get(control::tail))
        .route("/v1/streams/{flow}/{name}/tail", get(control::tail_in_flow))
        .route("/v1/processes/{kind}", get(control::processes))
        .route("/v1/processes/{kind}/{key}", get(control::process))
        .route("/v1/processes/{kind}/{key}/kill", post(control::kill))
        // An empty key is a key, and no `{key}`.
        .route("/v1/processes/{kind}/", get(control::process_without_text))
        .route("/v1/processes/{kind}//kill", post(control::kill_without_text))
        .route("/v1/dead", get(control::dead))
        .route("/v1/dead/{n}", get(control::letter))
        .route("/v1/ledger", get(control::ledger))
        .route("/v1/supervisor", get(control::supervisor))
        .route("/v1/cluster", get(control::cluster))
        .route("/v1/cluster/drain", post(control::drain))
        .route("/metrics", get(control::metrics))
        .route("/health", get(control::health))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    answer::error(&Error::new(Code::Unknown, format!("there is nothing at {path}")).help(
        "see /v1/status, /v1/flows, /v1/streams, /v1/dead, /v1/ledger, /v1/supervisor, /v1/cluster",
    ))
}

/// Keeps web pages that a person visits from using the person's own node.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let refuse = |why: &str| {
        let body = ErrorBody {
            code: Code::Permission.id().into(),
            reason: why.into(),
            ..ErrorBody::default()
        };
        answer::failed(StatusCode::FORBIDDEN, &body)
    };
    if request.method() != Method::GET && headers.contains_key(header::ORIGIN) {
        return refuse("web pages cannot change a node");
    }
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if shared.address.ip().is_loopback() && !is_loopback(host) {
        return refuse("a node that listens on a loopback address answers under its names only");
    }
    answer::with_code(next.run(request).await).await
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// The address meant by `host:port`, `:port` or `port`.
fn address(listen: &str) -> Result<SocketAddr> {
    let port = listen.strip_prefix(':').unwrap_or(listen);
    let address = match port.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
        Err(_) => listen.replace("localhost", "127.0.0.1").parse(),
    };
    address.map_err(|_| {
        Error::new(Code::Plan, format!("`{listen}` is no address to listen on"))
            .help("for example 127.0.0.1:7070, or :0 for any free port")
    })
}

fn cannot_listen(address: SocketAddr, e: &std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            Error::new(Code::InUse, format!("{address} is in use by another program"))
                .help(format!("is it a node? ask it:    `millstream status --node {address}`"))
                .help("or take another port:    --listen 127.0.0.1:0 takes any free one")
        }
        std::io::ErrorKind::PermissionDenied => {
            Error::io(address, e).help("ports below 1024 are for the system; take a higher one")
        }
        _ => Error::io(address, e).help("a node can listen on an address of its own machine only"),
    }
}
