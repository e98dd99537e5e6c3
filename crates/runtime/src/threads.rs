//! Production's threads: workers, connectors, the watchdog, the clock.
//!
//! This is the only place where the runtime starts threads or reads the machine's clock.

use std::{
    io,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use millstream_core::{Error, Result, Time, connector::Pull};

use crate::{
    connect::{Connectors, SourceJob, WriteJob},
    node::{Node, Seen},
};

/// How long a worker without work sleeps at most.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// How often the watchdog looks, unless handlers have less time.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// How long a connector waits for its source or for room before it looks around.
const PULL_WAIT: Duration = Duration::from_millis(250);
/// How much a worker steps back behind the threads that do I/O (`nice`): those run for
/// microseconds and somebody waits for them.
const WORKER_NICE: i32 = 5;
/// Stack of a worker, in bytes; handlers run on it.
const WORKER_STACK_BYTES: usize = 8 << 20;

/// The wall clock, which never goes back while the process lives. It follows steps forward (after a
/// suspension, or when the time was set right); after one back it goes on from where it was.
pub fn now() -> Time {
    static START: LazyLock<(Instant, Ahead)> =
        LazyLock::new(|| (Instant::now(), Ahead(AtomicI64::new(i64::MIN))));
    let (start, ahead) = &*START;
    // The wall first: whatever passes before the other is read would else count as a step.
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ahead.now(wall, start.elapsed())
}

/// How far the wall clock has been ahead of one without steps at most, ms.
struct Ahead(AtomicI64);

impl Ahead {
    fn now(&self, wall: Duration, elapsed: Duration) -> Time {
        let (wall, elapsed) = (wall.as_millis() as i64, elapsed.as_millis() as i64);
        let ahead = wall - elapsed;
        Time::from_ms(elapsed + self.0.fetch_max(ahead, Ordering::Relaxed).max(ahead))
    }
}

fn spawn(name: &str, stack: usize, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.into())
        .stack_size(stack)
        .spawn(run)
        .map_err(|e: io::Error| Error::io(format!("thread {name}"), &e))
}

/// Lets the calling thread's work wait for that of others.
fn step_back() {
    // Elsewhere it would hold for the whole process. Where it is refused, nothing is lost but time.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(WORKER_NICE);
}

/// Connectors on threads: one per source partition, a pool that decodes, one that writes.
pub struct ThreadConnectors {
    decode: mpsc::Sender<Decode>,
}

type Decode = (
    Box<dyn FnOnce() -> millstream_core::connector::Chunk + Send>,
    Arc<crate::connect::Inlet>,
    u64,
);

impl ThreadConnectors {
    /// Starts `decoders` decoding threads.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(decoders: usize) -> Result<Arc<ThreadConnectors>> {
        // Bounded by the inlets: each chunk in here has its place reserved in one.
        let (decode, jobs) = mpsc::channel::<Decode>();
        let jobs = Arc::new(Mutex::new(jobs));
        for n in 0..decoders.max(1) {
            let jobs = jobs.clone();
            spawn(&format!("decode-{n}"), 2 << 20, move || {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((decode, inlet, place)) = job else { return };
                    inlet.decode(place, decode);
                }
            })?;
        }
        Ok(Arc::new(ThreadConnectors { decode }))
    }
}

impl Connectors for ThreadConnectors {
    fn read(&self, mut job: SourceJob) {
        let decode = self.decode.clone();
        let inlet = job.inlet.clone();
        let run = move || {
            loop {
                let Some(place) = job.inlet.reserve() else {
                    if job.inlet.is_closed() {
                        return;
                    }
                    job.inlet.wait_for_space(PULL_WAIT);
                    continue;
                };
                let chunk = loop {
                    match job.pull(PULL_WAIT) {
                        Some(Pull::Chunk(chunk)) => break chunk,
                        Some(_) => {}
                        None => {
                            job.inlet.release(place);
                            return;
                        }
                    }
                };
                if decode.send((chunk, job.inlet.clone(), place)).is_err() {
                    return;
                }
            }
        };
        if let Err(error) = spawn("source", 1 << 20, run) {
            inlet.fail(error);
        }
    }

    fn write(&self, job: WriteJob) {
        // Sinks write seldom and wait for the disk: a thread per write would cost as little as it
        // is simple, but a sink that commits a thousand times a second deserves one of its own.
        WRITERS.write(job);
    }
}

type Start = fn(Box<dyn FnOnce() + Send>) -> Result<JoinHandle<()>>;

/// Threads that write, a job each.
struct Writers {
    idle: Mutex<Vec<mpsc::Sender<WriteJob>>>,
    start: Start,
}

static WRITERS: Writers =
    Writers { idle: Mutex::new(Vec::new()), start: |run| spawn("sink", 1 << 20, run) };

impl Writers {
    fn idle(&self) -> MutexGuard<'_, Vec<mpsc::Sender<WriteJob>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the job to an idle writer, or starts one. Each writer has at most one job.
    fn write(&'static self, job: WriteJob) {
        let idle = self.idle().pop();
        let job = match idle {
            Some(writer) => match writer.send(job) {
                Ok(()) => return,
                Err(back) => back.0,
            },
            None => job,
        };
        // Bounded by its use: a writer that has a job is not in the pool.
        let (sender, jobs) = mpsc::channel::<WriteJob>();
        let own = sender.clone();
        let started = (self.start)(Box::new(move || {
            while let Ok(job) = jobs.recv() {
                // Free for the next job before the task hears of it, so that the task finds it.
                let outlet = job.outlet.clone();
                let written = job.write();
                self.idle().push(own.clone());
                outlet.finish(written);
            }
        }));
        let left = match started {
            Ok(_) => sender.send(job).err().map(|back| back.0),
            Err(_) => Some(job),
        };
        if let Some(job) = left {
            // No thread to spare: the caller has to wait for the disk itself.
            let outlet = job.outlet.clone();
            outlet.finish(job.write());
        }
    }
}

/// The threads of a node.
pub struct Workers {
    node: Arc<Node>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Starts `n` workers and the watchdog.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(node: Arc<Node>, n: usize) -> Result<Arc<Workers>> {
        let stop = Arc::new(AtomicBool::new(false));
        let workers = Arc::new(Workers { node, stop, threads: Mutex::default() });
        for _ in 0..n.max(1) {
            workers.start_worker()?;
        }
        let (node, stop) = (workers.node.clone(), workers.stop.clone());
        let weak = Arc::downgrade(&workers);
        let watchdog = spawn("watchdog", 1 << 20, move || {
            let mut seen = Seen::new();
            let begun = Instant::now();
            let every = WATCH_EVERY.min(node.options().call_timeout / 2);
            while !stop.load(Ordering::Relaxed) {
                thread::park_timeout(every.max(Duration::from_millis(1)));
                for _ in 0..node.watch(&mut seen, begun.elapsed(), now()) {
                    if let Some(workers) = weak.upgrade() {
                        // Without a thread to spare the others carry on; there is nobody to tell.
                        drop(workers.start_worker());
                    }
                }
            }
        })?;
        workers.keep(watchdog);
        Ok(workers)
    }

    fn keep(&self, thread: JoinHandle<()>) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    fn start_worker(&self) -> Result<()> {
        let (node, stop) = (self.node.clone(), self.stop.clone());
        let run = move || {
            step_back();
            let begun = Instant::now();
            let elapsed = || begun.elapsed();
            while !stop.load(Ordering::Relaxed) {
                let time = now();
                node.tick(time);
                let wait = node.next_wake().map_or(IDLE_MAX, |at| {
                    IDLE_MAX
                        .min(Duration::from_millis(at.ms().saturating_sub(time.ms()).max(1) as u64))
                });
                if let Some(slot) = node.queue().pop_wait(time, wait)
                    && !node.run(slot, now(), &elapsed)
                {
                    return; // given up while it was stuck; another has taken its place
                }
            }
        };
        self.keep(spawn("worker", WORKER_STACK_BYTES, run)?);
        Ok(())
    }

    /// Stops after the running steps. Threads that were given up are left behind.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.node.queue().close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            thread.thread().unpark();
            if !self.node.is_stuck() {
                drop(thread.join());
            }
        }
        self.node.say_the_rest();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use millstream_core::{
        Batch, Code,
        connector::{Prepared, SinkWriter},
    };

    use super::*;
    use crate::connect::Outlet;

    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl SinkWriter for Paper {
        fn prepare(&mut self, _: &[Batch]) -> Result<Prepared> {
            Ok(Prepared::default())
        }

        fn write(&mut self, prepared: &Prepared) -> Result<()> {
            self.0.lock().unwrap().extend(&prepared.bytes);
            Ok(())
        }
    }

    #[test]
    fn a_sink_writes_also_when_no_thread_can_be_started() {
        static NO_THREADS: Writers = Writers {
            idle: Mutex::new(Vec::new()),
            start: |_| Err(Error::new(Code::Io, "no thread to spare")),
        };
        let paper = Arc::new(Mutex::new(Vec::new()));
        let outlet = Outlet::new(Arc::new(|| {}));
        for n in 1..=3 {
            let prepared = Prepared { note: Vec::new(), bytes: vec![n] };
            let writer = Box::new(Paper(paper.clone()));
            NO_THREADS.write(WriteJob { writer, prepared, outlet: outlet.clone() });
            outlet.take().expect("the task hears of it").result.unwrap();
        }
        assert_eq!(*paper.lock().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn the_clock_follows_steps_forward_and_never_goes_back() {
        let ahead = Ahead(AtomicI64::new(i64::MIN));
        let s = Duration::from_secs;
        let now = |wall, elapsed| ahead.now(s(wall), s(elapsed)).ms() / 1000;
        assert_eq!(now(1_000, 0), 1_000);
        assert_eq!(now(1_002, 2), 1_002);
        assert_eq!(now(4_603, 3), 4_603, "an hour in a closed laptop");
        assert_eq!(now(1_004, 4), 4_604, "set back, it goes on");
        assert_eq!(now(4_605, 5), 4_605, "set right again, it is not ahead");
    }
}
