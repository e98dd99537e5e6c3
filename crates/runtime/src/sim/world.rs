//! One simulated node on one simulated disk, driven step by step.
//!
//! *Invariant:* everything that happens follows from the seed: who goes on next, what fails, what
//! the clock says.

use std::{sync::Arc, time::Duration};

use millstream_core::{Code, Error, Result, Time, disk::Disk, engine::Engine, rng::Rng};

use super::{
    connectors::StepConnectors,
    driver::{Driver, Stepped},
    faults::{Faults, FaultyEngine},
};
use crate::{
    disk::sim::{Faults as DiskFaults, SimDisk},
    embedded::{self, Committer, Compactor, EmbeddedEngine, Opened},
    node::{FlowState, Node, Options as NodeOptions, Seen},
    stage::Stage,
};

/// The clock starts here: some time in 2023.
const START: Time = Time::from_ms(1_700_000_000_000);
/// When nothing else can happen, the clock goes on to what is due within this time.
const PATIENCE: Duration = Duration::from_millis(150);

/// Starts of a node on a failing disk.
const RESTARTS_MAX: u32 = 10;

/// Makes a flow's stages, and its streams on the engine.
pub type Deploy = Box<dyn Fn(&dyn Engine) -> Result<Vec<Stage>> + Send>;

/// What a simulation is made of.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Everything random follows from it.
    pub seed: u64,
    /// How often the engine's answers get lost.
    pub faults: Faults,
    /// The engine's options.
    pub engine: embedded::Options,
    /// The node's options.
    pub node: NodeOptions,
    /// By which steps are measured; stands still if there is none.
    pub clock: Option<fn() -> Duration>,
}

/// How often something happened that a test run must have met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Faults of the engine's answers.
    pub engine: Faults,
    /// Faults of the disk.
    pub disk: DiskFaults,
    /// Turns that were run again, unit by unit.
    pub isolated: u64,
    /// Segments removed because nothing in them was needed any more.
    pub trims: u64,
    /// State compactions.
    pub compactions: u64,
    /// Power losses and kills.
    pub crashes: u64,
    /// Power losses in the middle of a compaction.
    pub compactions_cut: u64,
    /// Handlers that never returned and were given up.
    pub watchdog: u64,
    /// Writes to sinks that failed half-way; the test kit counts them.
    pub writes_failed: u64,
    /// Power losses that a sink forgot half-written bytes in; the test kit counts them.
    pub writes_lost: u64,
}

/// A node, its disk and its time.
pub struct World {
    setup: Setup,
    disk: SimDisk,
    rng: Rng,
    now: Time,
    deploy: Deploy,
    running: Running,
    driver: Driver,
    past: Coverage,
    trace: u64,
    cut: Option<u64>,
}

struct Running {
    engine: Arc<EmbeddedEngine>,
    committer: Committer,
    compactor: Compactor,
    faulty: Arc<FaultyEngine>,
    connectors: Arc<StepConnectors>,
    node: Arc<Node>,
}

impl World {
    /// A new world with an empty disk.
    ///
    /// # Errors
    /// If the flow cannot be deployed.
    pub fn new(setup: Setup, deploy: Deploy) -> Result<World> {
        let disk = SimDisk::new(setup.seed);
        let rng = Rng::for_item(setup.seed, 1);
        let running = start(&setup, &disk, setup.seed, &deploy, START)?;
        Ok(World {
            setup,
            disk,
            rng,
            now: START,
            deploy,
            running,
            driver: Driver::start(),
            past: Coverage::default(),
            trace: 0,
            cut: None,
        })
    }

    /// The node, to look at.
    pub fn node(&self) -> &Arc<Node> {
        &self.running.node
    }

    /// The engine without its faults, to look at.
    pub fn engine(&self) -> &Arc<EmbeddedEngine> {
        &self.running.engine
    }

    /// The disk, to make it fail.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The clock.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Moves the clock.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    /// Kills the process and starts it again, with the machine's clock set back meanwhile.
    ///
    /// # Errors
    /// As [`World::kill`].
    pub fn set_back(&mut self, by: Duration) -> Result<()> {
        self.now = self.now - by;
        self.kill()
    }

    /// Loses the answer of the `n`-th commit from now.
    pub fn lose_answer(&mut self, n: u64) {
        self.running.faulty.lose_answer(n);
    }

    /// Lets something happen, by the seed. `false` if nothing could.
    pub fn step(&mut self) -> bool {
        let choice = self.rng.below(9);
        let moved = match choice {
            0 => self.running.committer.step() != embedded::Progress::Idle,
            1 => self.compact(),
            2 | 3 => self.running.connectors.step(self.rng.next_u64() as usize),
            _ => self.crank(),
        };
        let moved = moved || self.anything();
        let now = self.now.ms() as u64;
        for seen in [choice, u64::from(moved), now, self.disk.operations()] {
            self.trace = (self.trace.rotate_left(5) ^ seen).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        moved
    }

    /// A hash of all steps so far: who went on, whether anything moved, the clock, the disk. The
    /// same seed gives the same trace, or a failure could not be looked at twice.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Lets the power fail in the `n`-th changing operation of the next compaction, or in an
    /// earlier one if it has fewer. With `None` no more.
    pub fn cut_compaction(&mut self, n: Option<u64>) {
        self.cut = n;
    }

    fn compact(&mut self) -> bool {
        let (off, before) = (self.disk.is_off(), self.disk.operations());
        if let Some(n) = self.cut {
            self.disk.crash_at(n);
        }
        let moved = self.running.compactor.step() != embedded::Progress::Idle;
        if let Some(n) = self.cut.filter(|_| !off) {
            let done = self.disk.operations() - before;
            if self.disk.is_off() {
                self.past.compactions_cut += 1;
                self.cut = None;
            } else {
                self.disk.crash_at(u64::MAX);
                self.cut = Some(n.min(done.max(1)));
            }
        }
        moved
    }

    /// Lets the node go on; if a handler hangs, time goes on until the watchdog gives it up, and if
    /// it ends the process, that is started again.
    fn crank(&mut self) -> bool {
        let (node, now) = (self.running.node.clone(), self.now);
        if node.worn_out().is_some() && node.is_drained() {
            // It ends with that error, and a service manager starts it again.
            self.kill().unwrap_or_else(|e| panic!("after handlers never returned: {e}"));
            return true;
        }
        let clock = self.setup.clock.unwrap_or(|| Duration::ZERO);
        match self.driver.run(Box::new(move || node.crank(now, &clock))) {
            Stepped::Done(moved) => moved,
            Stepped::Hung => {
                let mut seen = Seen::new();
                self.running.node.watch(&mut seen, Duration::ZERO, self.now);
                let timeout = self.setup.node.call_timeout;
                self.now = self.now + timeout;
                self.past.watchdog += self.running.node.watch(&mut seen, timeout, self.now) as u64;
                true
            }
            Stepped::Died => {
                self.kill().unwrap_or_else(|e| panic!("after a handler ended the process: {e}"));
                true
            }
        }
    }

    /// Tries everything in turn, so that "nothing" is sure. A write that has failed is tried again,
    /// so it counts as something.
    fn anything(&mut self) -> bool {
        if self.crank() || self.compact() {
            return true;
        }
        if self.running.committer.step() != embedded::Progress::Idle {
            return true;
        }
        let connectors = &self.running.connectors;
        if (0..connectors.len()).any(|n| connectors.step(n)) {
            return true;
        }
        match self.running.node.next_wake() {
            Some(due) if due <= self.now + PATIENCE => {
                self.now = self.now.max(due);
                self.crank()
            }
            _ => false,
        }
    }

    /// Steps until nothing can happen without time or input.
    ///
    /// # Errors
    /// If that takes more than `steps_max` steps, or a flow fails.
    pub fn run_until_idle(&mut self, steps_max: u64) -> Result<()> {
        for _ in 0..steps_max {
            if !self.step() {
                return self.verdict();
            }
        }
        let seed = self.setup.seed;
        Err(Error::new(Code::Bug, format!("still busy after {steps_max} steps (seed {seed})")))
    }

    fn verdict(&self) -> Result<()> {
        for (_, state) in self.running.node.flows() {
            if let FlowState::Failed(error) = state {
                return Err(error);
            }
        }
        Ok(())
    }

    /// What a first Ctrl-C does: takes nothing more in, works off what was taken in and makes it
    /// durable. From then on the node waits to be started again.
    ///
    /// # Errors
    /// If the disk is off, or that takes more than `steps_max` steps.
    pub fn drain(&mut self, steps_max: u64) -> Result<()> {
        self.running.node.drain();
        let mut steps = 0;
        while !self.running.node.is_drained() {
            steps += 1;
            if !self.step() || steps > steps_max || self.disk.is_off() {
                let seed = self.setup.seed;
                let message = format!("not drained after {steps} steps (seed {seed})");
                return Err(Error::new(Code::Bug, message));
            }
            // A node that was worn out has been started again meanwhile.
            self.running.node.drain();
        }
        self.running.node.say_the_rest();
        let idle = |_| self.running.committer.step() == embedded::Progress::Idle;
        match (0..steps_max).any(idle) {
            true => Ok(()),
            false => Err(Error::new(Code::Bug, "what was worked off does not become durable")),
        }
    }

    /// Cuts the power and starts again: what was not durable may be lost.
    ///
    /// # Errors
    /// If the engine cannot open what the disk kept.
    pub fn crash(&mut self) -> Result<()> {
        self.disk.crash();
        self.kill()
    }

    /// Kills the process and starts it again: the disk forgets nothing.
    ///
    /// # Errors
    /// If the engine cannot open what is there.
    pub fn kill(&mut self) -> Result<()> {
        self.past = self.coverage();
        self.past.crashes += 1;
        self.past.disk = DiskFaults::default(); // the disk goes on counting by itself
        let seed = self.rng.next_u64();
        // A service manager starts a node again if it could not open its disk.
        for _ in 0..RESTARTS_MAX {
            match start(&self.setup, &self.disk, seed, &self.deploy, self.now) {
                Err(e) if e.code().retry() => {}
                other => {
                    self.running = other?;
                    return Ok(());
                }
            }
        }
        Err(Error::new(Code::Bug, format!("the node does not start (seed {})", self.setup.seed)))
    }

    /// What has occurred so far.
    pub fn coverage(&self) -> Coverage {
        let seen = self.running.faulty.seen();
        let stats = self.running.engine.stats();
        let tasks = self.running.node.tasks();
        let Coverage { engine, isolated, trims, compactions, .. } = self.past;
        Coverage {
            engine: Faults {
                fence: engine.fence + seen.fence,
                unknown: engine.unknown + seen.unknown,
                retry: engine.retry + seen.retry,
                delay: engine.delay + seen.delay,
            },
            disk: self.disk.faults(),
            isolated: isolated + tasks.iter().map(|t| t.stats.isolated).sum::<u64>(),
            trims: trims + stats.segments_trimmed,
            compactions: compactions + stats.compactions,
            ..self.past
        }
    }
}

fn start(setup: &Setup, disk: &SimDisk, seed: u64, deploy: &Deploy, now: Time) -> Result<Running> {
    let handle: Arc<dyn Disk> = Arc::new(disk.clone());
    let Opened { engine, committer, compactor } =
        EmbeddedEngine::open(setup.engine.clone(), handle)?;
    let faulty = Arc::new(FaultyEngine::new(engine.clone(), seed, setup.faults));
    let connectors = Arc::new(StepConnectors::default());
    let node = Node::new(faulty.clone(), connectors.clone(), setup.node.clone())?;
    node.deploy(deploy(faulty.as_ref())?, now)?;
    Ok(Running { engine, committer, compactor, faulty, connectors, node })
}
