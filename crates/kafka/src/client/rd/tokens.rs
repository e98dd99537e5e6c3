//! Tokens, for brokers that want OAUTHBEARER: all clients of a connection are handed one, and the
//! next one before it expires.
//!
//! *Why not librdkafka's own way:* it asks for a token by an event, which rdkafka serves while a
//! client is polled. Ours are not while a call of theirs waits, and its `AdminClient` never is.
//! What librdkafka can fetch by itself wants libcurl.
//!
//! *Invariants*
//! - A client that lives has the newest token that there is; one that is dropped is handed none.
//! - No token and no secret is in an error.
//!
//! *Failure:* a token that cannot be had is trouble of the connection once the one before it has
//! expired; it is tried for again every [`LOOK_EVERY`].
//! *Threads:* one for a connection that needs tokens.

mod source;

use std::{
    ffi::{CString, c_char},
    ops::Deref,
    ptr::addr_eq,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use millstream_core::{Code, Error, Result, Time};
use rdkafka::{
    ClientContext,
    admin::AdminClient,
    bindings::rd_kafka_oauthbearer_set_token,
    client::Client,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    producer::{BaseProducer, Producer, ProducerContext, ThreadedProducer},
    types::RDKafkaRespErr,
};

pub(super) use self::source::Source;
use self::source::Token;
use super::{Context, lock};

/// How often a file is looked at, and how soon what has failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// At least so long between two looks, however soon a token expires.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// So many tenths of what is left of its life a token is used before there is another; brokers ask
/// for one after nine.
const USED_TENTHS: u32 = 8;
/// Stack of the thread.
const STACK_BYTES: usize = 512 << 10;

/// Hands tokens to clients, until it is dropped.
pub(super) struct Tokens(Arc<Shared>);

struct Shared {
    context: Context,
    state: Mutex<State>,
    closing: Condvar,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    clients: Vec<Arc<dyn LogIn>>,
    closed: bool,
}

/// A client that is handed tokens as long as it lives, if the brokers want them.
pub(super) struct LoggedIn<C: LogIn> {
    client: Arc<C>,
    tokens: Option<Arc<Shared>>,
}

/// A client of librdkafka.
pub(super) trait LogIn: Send + Sync + 'static {
    /// Hands it a token; what is said if librdkafka does not take that.
    fn hand(&self, token: &Token) -> Result<(), String>;
}

impl Tokens {
    pub fn start(source: Source, context: Context) -> Result<Tokens> {
        let (state, closing) = Default::default();
        let shared = Arc::new(Shared { context, state, closing });
        let own = shared.clone();
        std::thread::Builder::new()
            .name("kafka-tokens".into())
            .stack_size(STACK_BYTES)
            .spawn(move || own.run(&source))
            .map_err(|e| Error::io("thread kafka-tokens", &e))?;
        Ok(Tokens(shared))
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        lock(&self.0.state).closed = true;
        self.0.closing.notify_all();
    }
}

impl Shared {
    fn run(&self, source: &Source) {
        while !lock(&self.state).closed {
            let fetched = source.fetch();
            let mut state = lock(&self.state);
            let said = fetched.and_then(|token| state.renew(token));
            let left = state.left();
            let pause = match &said {
                Ok(()) if source.is_asked() => left * USED_TENTHS / 10,
                Ok(()) => LOOK_EVERY.min(left * USED_TENTHS / 10),
                Err(_) if left.is_zero() => LOOK_EVERY,
                Err(_) => LOOK_EVERY.min(left),
            };
            // While there is a token that lives, nobody is kept out.
            self.context.no_token(said.err().filter(|_| left.is_zero()));
            let pause = pause.max(LOOK_PAUSE);
            drop(self.closing.wait_timeout_while(state, pause, |state| !state.closed));
        }
    }
}

impl State {
    /// How long the token lives on.
    fn left(&self) -> Duration {
        let left = self.token.as_ref().map_or(0, |token| token.expires.ms() - now().ms());
        Duration::from_millis(left.max(0) as u64)
    }

    /// Hands a token to all clients, unless they have it.
    fn renew(&mut self, token: Token) -> Result<()> {
        if token.expires <= now() {
            let message = format!("kafka: {} has expired at {}", token.origin, token.expires);
            return Err(Error::new(Code::Permission, message)
                .help("put a new one there; it is taken within seconds")
                .help("if it is new, compare this machine's clock"));
        }
        if self.token.as_ref().is_some_and(|last| last.text == token.text) {
            return Ok(());
        }
        self.clients.iter().try_for_each(|client| client.hand(&token)).map_err(|said| {
            Error::new(Code::Permission, format!("kafka: {}: {said}", token.origin))
                .help("check the token and `sasl.oauthbearer.extensions`")
        })?;
        self.token = Some(token);
        Ok(())
    }
}

impl<C: LogIn> LoggedIn<C> {
    /// `client`, with a token if there is one already.
    pub fn new(client: C, tokens: Option<&Tokens>) -> LoggedIn<C> {
        let client = Arc::new(client);
        let tokens = tokens.map(|tokens| tokens.0.clone());
        if let Some(shared) = &tokens {
            let mut state = lock(&shared.state);
            if let Some(token) = &state.token {
                // Refused only if it has expired just now; then the next one is on its way.
                drop(client.hand(token));
            }
            state.clients.push(client.clone());
        }
        LoggedIn { client, tokens }
    }
}

impl<C: LogIn> Deref for LoggedIn<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

impl<C: LogIn> Drop for LoggedIn<C> {
    /// Leaves `client` as the only hold, so that whoever drops this waits for librdkafka's end.
    fn drop(&mut self) {
        if let Some(shared) = &self.tokens {
            let own = Arc::as_ptr(&self.client);
            lock(&shared.state).clients.retain(|other| !addr_eq(Arc::as_ptr(other), own));
        }
    }
}

impl<C: ClientContext + 'static> LogIn for AdminClient<C> {
    fn hand(&self, token: &Token) -> Result<(), String> {
        hand(self.inner(), token)
    }
}

impl<C: ConsumerContext + 'static> LogIn for BaseConsumer<C> {
    fn hand(&self, token: &Token) -> Result<(), String> {
        hand(self.client(), token)
    }
}

impl<C: ProducerContext + 'static> LogIn for BaseProducer<C> {
    fn hand(&self, token: &Token) -> Result<(), String> {
        hand(self.client(), token)
    }
}

impl<C: ProducerContext + 'static> LogIn for ThreadedProducer<C> {
    fn hand(&self, token: &Token) -> Result<(), String> {
        hand(self.client(), token)
    }
}

/// Hands a token to a client; what librdkafka says if it does not take it.
#[expect(unsafe_code, reason = "rdkafka hands tokens over only to a client that is polled")]
fn hand<C: ClientContext>(client: &Client<C>, token: &Token) -> Result<(), String> {
    let c = |text: &str| CString::new(text).map_err(|_| "there is a zero byte in it".to_string());
    let (text, name) = (c(&token.text)?, c(&token.name)?);
    let pairs = token.extensions.iter().flat_map(|(key, value)| [c(key), c(value)]);
    let pairs: Vec<CString> = pairs.collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = pairs.iter().map(|text| text.as_ptr()).collect();
    let mut said: [c_char; 512] = [0; 512];
    // SAFETY: the client is borrowed for the call, so that it lives, and librdkafka's functions may
    // be called from any thread. Strings and array outlive the call, end with a zero or are as long
    // as is said, and librdkafka copies what it keeps. `said` is as long as is said.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            text.as_ptr(),
            token.expires.ms(),
            name.as_ptr(),
            pointers.as_mut_ptr(),
            pointers.len(),
            said.as_mut_ptr(),
            said.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    let said: Vec<u8> = said.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
    Err(without(&String::from_utf8_lossy(&said), &token.text))
}

/// librdkafka's words may cite a token that it does not take.
fn without(said: &str, token: &str) -> String {
    said.replace(token, "(token)")
}

fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_ms(now.as_millis() as i64)
}
