//! Drives this node's part in the cluster: hands it what was read and what has happened, and does
//! what it decides. What is decided, and why, is in [`crate::cluster`].

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millstream_core::{Error, Result, Time, engine::ClusterView};

use super::{
    KafkaEngine,
    names::split,
    placed::{Event, Placed},
    shared::{Shared, Signal, lock},
    tail::Tail,
    views::is_of_a_flow,
};
use crate::{
    client::{Lane, Reader, Record, Records, Start, TopicPartition},
    cluster::{Action, Member, State},
};

/// What the members topic may take in memory unread, in bytes.
const AHEAD_BYTES: usize = 4 << 20;
/// How far back a node that starts reads the members topic: all have repeated themselves since.
const BEFORE: Duration = Duration::from_secs(30);
/// How often it is told how far standbys are behind.
const LAG_EVERY: Duration = Duration::from_millis(500);
/// How often what people see is made anew.
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// This node's part in the cluster, and what is driven for it.
pub struct Membership {
    engine: KafkaEngine,
    placed: Arc<Placed>,
    member: Arc<Mutex<Member>>,
    at: TopicPartition,
    reader: Box<dyn Reader>,
    /// Set by appends that have failed.
    lost: Arc<AtomicBool>,
    /// Streams of the registry that the member was told of.
    tasks: usize,
    lag_told: Time,
    shown: Time,
    public: Arc<Public>,
}

/// What others ask of the membership.
#[derive(Default)]
pub(super) struct Public {
    pub member: OnceLock<Arc<Mutex<Member>>>,
    pub summary: Mutex<Option<ClusterView>>,
    /// It was asked to.
    pub leave: AtomicBool,
    pub left: AtomicBool,
    /// Why it is no member any more.
    pub error: Mutex<Option<Error>>,
    pub signal: Arc<Signal>,
}

impl Membership {
    pub(super) fn new(
        engine: KafkaEngine,
        placed: Arc<Placed>,
        public: Arc<Public>,
        member: Arc<Mutex<Member>>,
        now: Time,
    ) -> Result<Membership> {
        let shared = &engine.shared;
        let at = TopicPartition::new(shared.names.members(), 0);
        let from = shared.client.offset_of(&at, now - BEFORE)?;
        let from = match from {
            Some(from) => from,
            None => shared.client.range(&at)?.end,
        };
        let signal = public.signal.clone();
        let waker = Arc::new(move || signal.raise());
        let start = Start::Offset(from);
        let reader = shared.client.reader(&at, start, Lane::Words, AHEAD_BYTES, waker)?;
        let mut membership = Membership {
            engine,
            placed,
            member,
            at,
            reader,
            lost: Arc::default(),
            tasks: 0,
            lag_told: Time::MIN,
            shown: Time::MIN,
            public,
        };
        let member = membership.member.clone();
        membership.show(&lock(&member), now);
        Ok(membership)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.engine.shared
    }

    /// Does what is due. `now` never goes back.
    ///
    /// # Errors
    /// If the members topic cannot be read; another step tries again.
    pub fn step(&mut self, now: Time) -> Result<()> {
        let member = self.member.clone();
        let mut member = lock(&member);
        self.tell_tasks(&mut member)?;
        while let Some(piece) = self.reader.poll()? {
            for (offset, record) in piece.iter() {
                // One that cannot be read is passed over: a later version's, or nobody's.
                drop(member.on_record(offset, record.value.unwrap_or_default(), now));
            }
        }
        if self.lost.swap(false, Ordering::Relaxed) {
            member.on_lost();
        }
        if self.public.leave.load(Ordering::Relaxed) && member.state() != State::Leaving {
            member.drain();
        }
        for event in self.placed.events() {
            match event {
                Event::Opened(task) => member.on_opened(&task, now),
                Event::Output(task) => member.on_output(&task, now),
                Event::Fenced(task) => member.on_fenced(&task, now),
                Event::Released(task) => member.on_released(&task, now),
            }
        }
        self.follow(&mut member, now);
        for action in member.poll(now) {
            self.act(action);
        }
        self.placed.set_current(member.is_current(now));
        if now >= self.shown + SHOW_EVERY || self.public.left.load(Ordering::Relaxed) {
            self.show(&member, now);
        }
        Ok(())
    }

    fn show(&mut self, member: &Member, now: Time) {
        self.shown = now;
        let app = self.shared().names.app().into();
        *lock(&self.public.summary) = Some(ClusterView { app, ..member.summary(now) });
    }

    /// When the next step is due at the latest.
    pub fn next_wake(&self) -> Time {
        lock(&self.member).next_wake()
    }

    fn tell_tasks(&mut self, member: &mut Member) -> Result<()> {
        let registry = lock(&self.engine.shared.registry);
        if registry.tasks.len() == self.tasks {
            return Ok(());
        }
        self.tasks = registry.tasks.len();
        let names = registry.tasks.iter().map(|t| t.name.as_str());
        let names: Vec<&str> = names.filter(|name| is_of_a_flow(name)).collect();
        member.set_tasks(&names)
    }

    /// Reads on behind the tasks that this node follows.
    fn follow(&mut self, member: &mut Member, now: Time) {
        let shared = self.engine.shared.clone();
        for spec in self.placed.unfollowed() {
            let Ok((stage, partition)) = split(&spec.name) else { continue };
            let Some(topic) = shared.topic_of_state(stage, spec.tasks) else { continue };
            let at = TopicPartition::new(topic, partition);
            let begun = self.placed.begin_to_follow(&spec, |w| Tail::new(&shared.client, at, w));
            // Tried again with the next step.
            drop(begun);
        }
        let tell = now >= self.lag_told + LAG_EVERY;
        let placed = &self.placed;
        let registry = lock(&shared.registry);
        let views = lock(&shared.views);
        placed.visit_standbys(|task, tail| -> Result<()> {
            if tail.advance()?
                && let Some(owner) = tail.owner()
            {
                member.on_commit_seen(owner);
            }
            if tell {
                let known = registry.id(task).and_then(|id| views.task(id));
                let turn = known.map_or(0, |turned| turned.progress.turn);
                member.on_lag(task, turn.saturating_sub(tail.turned().progress.turn));
            }
            Ok(())
        });
        if tell {
            self.lag_told = now;
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Append(bytes) => {
                let mut records = Records::default();
                records.push(&self.at, Record::of(&[], Some(&bytes)));
                let (lost, signal) = (self.lost.clone(), self.public.signal.clone());
                let done = move |appended: Result<u64>| {
                    if appended.is_err() {
                        lost.store(true, Ordering::Relaxed);
                        signal.raise();
                    }
                };
                self.shared().client.append(records, Box::new(done));
            }
            Action::Open(task) => self.placed.grant(&task),
            Action::Release(task) => self.placed.release(&task),
            Action::Standby(task) => self.placed.follow(&task, true),
            Action::DropStandby(task) => self.placed.follow(&task, false),
            Action::StepDown { rejoin } => {
                self.placed.take_all();
                if !rejoin {
                    // Who was asked to leave and was then taken for dead has left, too.
                    if !self.public.leave.load(Ordering::Relaxed) {
                        *lock(&self.public.error) = Some(name_taken(&self.shared().node));
                    }
                    self.public.left.store(true, Ordering::Release);
                }
            }
            Action::Left => self.public.left.store(true, Ordering::Release),
        }
    }
}

impl Public {
    /// Asks the node to hand all over.
    pub fn ask_to_leave(&self) {
        self.leave.store(true, Ordering::Relaxed);
        self.signal.raise();
    }

    /// Whether it is no member any more.
    pub fn left(&self) -> Option<Result<()>> {
        let left = self.left.load(Ordering::Acquire);
        left.then(|| lock(&self.error).clone().map_or(Ok(()), Err))
    }
}

/// Makes the members topic, or checks it, and this node's part.
pub(super) fn join(
    engine: &KafkaEngine,
    placed: Arc<Placed>,
    public: Arc<Public>,
    options: &super::MemberOptions,
) -> Result<Membership> {
    let shared = &engine.shared;
    super::topics::members(shared.client.as_ref(), &shared.names)?;
    let seed = shared.incarnation ^ crate::cluster::NodeKey::of(&shared.node).0;
    let at = TopicPartition::new(shared.names.members(), 0);
    let member = Member::new(
        options.patience.clone(),
        &shared.node,
        &options.address,
        life(shared.client.range(&at)?.end, seed),
        seed,
    )?;
    let member = Arc::new(Mutex::new(member));
    let member = public.member.get_or_init(|| member).clone();
    Membership::new(engine.clone(), placed, public, member, options.now)
}

/// Numbers a life that begins when the members topic ends at `end`. A clock would not do: others
/// would take a node for its own past whose clock was set back. Of two that begin with the same
/// end chance decides which one stays.
fn life(end: u64, seed: u64) -> u64 {
    (end + 1) << 16 | seed & 0xffff
}

/// The error of a node whose name another one has.
pub(super) fn name_taken(node: &str) -> Error {
    Error::new(
        millstream_core::Code::InUse,
        format!("another program has joined the application as node `{node}`; this one ends"),
    )
    .help("give each node a name of its own: --name")
}
