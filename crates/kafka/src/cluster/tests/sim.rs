//! Members over a log in memory, in virtual time: delays, crashes, pauses, cuts and slow brokers,
//! all from a seed. Kafka's fencing is played by a table that says who has opened a task last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millstream_core::{Time, rng::Rng};

use crate::cluster::{Action, Body, Member, NodeKey, Options, Record, State, TaskKey};

/// One step, in ms.
const STEP: i64 = 5;
/// How far back a program reads that starts; see engine/membership.rs.
const BEFORE: i64 = 30_000;

pub struct Host {
    pub name: String,
    /// `None`: it has crashed or left.
    pub member: Option<Member>,
    /// Which of the logs it writes and reads; there is more than one in a split brain.
    pub log: usize,
    pub paused_until: i64,
    /// Cut off from the log.
    pub cut: bool,
    /// The longest time of an append, and of a record's way to this node, in ms.
    pub append_ms: u64,
    pub read_ms: u64,
    /// Records that it reads in one step at most.
    pub read_max: usize,
    pub left: bool,
    /// How far its clock is ahead, in ms.
    pub ahead: i64,
    read: usize,
    appends: VecDeque<(i64, Vec<u8>)>,
    jobs: VecDeque<(i64, Job)>,
    /// Open tasks, each with its epoch.
    pub open: BTreeMap<String, u64>,
    pub standbys: BTreeSet<String>,
}

#[derive(Clone, Debug)]
enum Job {
    Open(String),
    Release(String),
    Warm(String),
}

pub struct Sim {
    pub rng: Rng,
    pub now: i64,
    pub options: Options,
    pub logs: Vec<Vec<(i64, Vec<u8>)>>,
    pub hosts: Vec<Host>,
    pub tasks: Vec<String>,
    /// The last epoch of each task.
    epochs: BTreeMap<String, u64>,
    /// No append is taken before.
    pub stalled_until: i64,
    /// Each opening: when, task, node.
    pub opens: Vec<(i64, String, String)>,
    /// Each task that was fenced away from a node that ran it.
    pub fencings: Vec<(i64, String, String)>,
    pub warm_ms: u64,
    /// Those that no node has a flow for.
    pub orphans: BTreeSet<String>,
    lives: u64,
}

impl Sim {
    pub fn new(seed: u64, nodes: usize, tasks: usize) -> Sim {
        println!("seed {seed}");
        let mut sim = Sim {
            rng: Rng::new(seed),
            now: 1_000_000,
            options: Options::default(),
            logs: vec![Vec::new()],
            hosts: Vec::new(),
            tasks: (0..tasks).map(|n| format!("flow/stage/{n}")).collect(),
            epochs: BTreeMap::new(),
            stalled_until: 0,
            opens: Vec::new(),
            fencings: Vec::new(),
            warm_ms: 300,
            orphans: BTreeSet::new(),
            lives: 0,
        };
        for _ in 0..nodes {
            sim.add();
        }
        sim
    }

    /// A node more; its index.
    pub fn add(&mut self) -> usize {
        let at = self.hosts.len();
        self.hosts.push(Host {
            name: format!("node-{at}"),
            member: None,
            log: 0,
            paused_until: 0,
            cut: false,
            append_ms: 15,
            read_ms: 10,
            read_max: usize::MAX,
            left: false,
            ahead: 0,
            read: 0,
            appends: VecDeque::new(),
            jobs: VecDeque::new(),
            open: BTreeMap::new(),
            standbys: BTreeSet::new(),
        });
        self.start(at);
        at
    }

    /// A node's own clock.
    fn clock(&self, at: usize) -> Time {
        Time::from_ms(self.now + self.hosts[at].ahead)
    }

    /// Starts a node's program, which reads what is new in the log.
    pub fn start(&mut self, at: usize) {
        self.lives += 1;
        let seed = self.rng.next_u64();
        let name = self.hosts[at].name.clone();
        let log = &self.logs[self.hosts[at].log];
        let life = (log.len() as u64 + 1) << 16 | self.lives;
        let read = log.partition_point(|(then, _)| *then < self.now - BEFORE);
        let mut member = Member::new(self.options.clone(), &name, "host:1", life, seed).unwrap();
        let names: Vec<&str> = self.tasks.iter().map(String::as_str).collect();
        member.set_tasks(&names).unwrap();
        let host = &mut self.hosts[at];
        (host.member, host.read, host.left) = (Some(member), read, false);
        host.paused_until = 0;
    }

    /// SIGKILL: what was on its way may still arrive.
    pub fn crash(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.member = None;
        let arrive = self.rng.below(host.appends.len() as u64 + 1) as usize;
        host.appends.truncate(arrive);
        host.jobs.clear();
        host.open.clear();
        host.standbys.clear();
    }

    pub fn run(&mut self, ms: i64) {
        let end = self.now + ms;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until all is as it should be, and stays so for a second; how long it took.
    pub fn settle(&mut self) -> i64 {
        let begin = self.now;
        let mut since = None;
        while self.now < begin + 180_000 {
            self.run(10 * STEP);
            match self.unrest() {
                Some(_) => since = None,
                None => {
                    let since = *since.get_or_insert(self.now);
                    if self.now - since > 1000 {
                        return since - begin;
                    }
                }
            }
        }
        panic!("no rest after three minutes: {}", self.unrest().unwrap());
    }

    /// The node that runs each task and can commit.
    pub fn owners(&self) -> BTreeMap<&str, &str> {
        let runs = self.hosts.iter().flat_map(|h| {
            let can = |(task, epoch): &(&String, &u64)| self.epochs.get(*task) == Some(*epoch);
            h.open.iter().filter(can).map(|(task, _)| (task.as_str(), h.name.as_str()))
        });
        runs.collect()
    }

    pub fn of(&self, node: usize) -> BTreeSet<String> {
        let owners = self.owners();
        let name = self.hosts[node].name.as_str();
        owners.into_iter().filter(|(_, n)| *n == name).map(|(task, _)| task.to_string()).collect()
    }

    /// Tasks per node that is there, sorted.
    pub fn loads(&self) -> Vec<usize> {
        let there = self.hosts.iter().filter(|h| h.member.is_some());
        let mut loads: Vec<usize> = there.map(|h| h.open.len()).collect();
        loads.sort_unstable();
        loads
    }

    /// Why this is no quiet moment.
    pub fn unrest(&self) -> Option<String> {
        let there: Vec<&Host> = self.hosts.iter().filter(|h| h.member.is_some()).collect();
        for task in &self.tasks {
            let runs: Vec<&str> = there
                .iter()
                .filter(|h| h.open.contains_key(task))
                .map(|h| h.name.as_str())
                .collect();
            if runs.len() != 1 {
                return Some(format!("{task} runs at {runs:?}"));
            }
            if self.owners().get(task.as_str()) != Some(&runs[0]) {
                return Some(format!("{task} is fenced at {runs:?}"));
            }
            let follow: Vec<&str> = there
                .iter()
                .filter(|h| h.standbys.contains(task))
                .map(|h| h.name.as_str())
                .collect();
            if follow.len() != usize::from(there.len() > 1) || follow == runs {
                return Some(format!("{task} runs at {runs:?}, standbys at {follow:?}"));
            }
            for host in &there {
                let owner = host.member.as_ref().unwrap().view().owner(TaskKey::of(task));
                if owner != Some(NodeKey::of(runs[0])) {
                    return Some(format!(
                        "{} does not know that {} has {task}",
                        host.name, runs[0]
                    ));
                }
            }
        }
        let mean = self.tasks.len() as f64 / there.len() as f64;
        let even = |h: &&&Host| (h.open.len() as f64 - mean).abs() <= 1.0;
        if let Some(odd) = there.iter().find(|h| !even(h)) {
            return Some(format!("{} has {} tasks of a mean of {mean}", odd.name, odd.open.len()));
        }
        let states = there.iter().map(|h| h.member.as_ref().unwrap().state());
        states.into_iter().find(|s| *s != State::Active).map(|s| format!("a node is {s:?}"))
    }

    /// The deaths in the log.
    pub fn deaths(&self) -> usize {
        let records = self.logs.iter().flatten().map(|(_, bytes)| Record::decode(bytes).unwrap());
        records.filter(|r| matches!(r.body, Body::Dead { .. })).count()
    }

    pub fn step(&mut self) {
        self.now += STEP;
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        for n in (1..order.len()).rev() {
            order.swap(n, self.rng.below(n as u64 + 1) as usize);
        }
        for at in order {
            self.deliver(at);
            if self.hosts[at].member.is_some() && self.hosts[at].paused_until <= self.now {
                self.turn(at);
            }
        }
    }

    /// Whether a record of a node is on its way to the log.
    pub fn is_sending(&self, at: usize) -> bool {
        !self.hosts[at].appends.is_empty()
    }

    /// The next record on its way from a node is lost, if there is one.
    pub fn lose(&mut self, at: usize) -> bool {
        self.hosts[at].appends.pop_front().is_some()
    }

    /// What the node has sent arrives, even if the node is gone.
    fn deliver(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if host.cut || self.stalled_until > self.now {
            return;
        }
        while host.appends.front().is_some_and(|(due, _)| *due <= self.now) {
            let (_, bytes) = host.appends.pop_front().unwrap();
            self.logs[host.log].push((self.now, bytes));
        }
    }

    fn turn(&mut self, at: usize) {
        let now = self.clock(at);
        let mut member = self.hosts[at].member.take().unwrap();
        let host = &mut self.hosts[at];
        let delay = self.rng.below(host.read_ms + 1) as i64;
        let log = &self.logs[host.log];
        let last = host.read.saturating_add(host.read_max);
        let is_there = |(then, _): &(i64, Vec<u8>)| then + delay <= self.now;
        while !host.cut && host.read < last && log.get(host.read).is_some_and(is_there) {
            member.on_record(host.read as u64, &log[host.read].1, now).unwrap();
            host.read += 1;
        }
        self.work(at, &mut member);
        self.commit(at, &mut member);
        let actions = member.poll(now);
        self.hosts[at].member = Some(member);
        actions.into_iter().for_each(|action| self.act(at, action));
    }

    fn work(&mut self, at: usize, member: &mut Member) {
        let now = self.clock(at);
        let host = &mut self.hosts[at];
        let (due, rest): (VecDeque<_>, _) =
            host.jobs.drain(..).partition(|(due, _)| *due <= self.now);
        host.jobs = rest;
        for (_, job) in due {
            match job {
                Job::Open(task) if self.orphans.contains(&task) => {}
                Job::Open(task) => {
                    let epoch = self.epochs.entry(task.clone()).or_default();
                    *epoch += 1;
                    host.open.insert(task.clone(), *epoch);
                    self.opens.push((self.now, task.clone(), host.name.clone()));
                    member.on_opened(&task, now);
                    member.on_output(&task, now);
                }
                Job::Release(task) => {
                    let mine = host.open.remove(&task);
                    match mine.is_some() && mine.as_ref() != self.epochs.get(&task) {
                        true => member.on_fenced(&task, now),
                        false => member.on_released(&task, now),
                    }
                }
                Job::Warm(task) => member.on_lag(&task, 0),
            }
        }
    }

    fn commit(&mut self, at: usize, member: &mut Member) {
        let now = self.clock(at);
        let host = &mut self.hosts[at];
        let fenced = host.open.iter().filter(|(task, epoch)| self.epochs[*task] != **epoch);
        let fenced: Vec<String> = fenced.map(|(task, _)| task.clone()).collect();
        for task in fenced {
            host.open.remove(&task);
            host.jobs.retain(|(_, job)| !matches!(job, Job::Release(t) if *t == task));
            self.fencings.push((self.now, task.clone(), host.name.clone()));
            member.on_fenced(&task, now);
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        let host = &mut self.hosts[at];
        let mut after = |ms: u64| self.now + self.rng.below(ms + 1) as i64;
        match action {
            Action::Append(bytes) => {
                let due = after(host.append_ms);
                // Appends keep their order.
                let due = host.appends.back().map_or(due, |(last, _)| due.max(*last));
                host.appends.push_back((due, bytes));
            }
            Action::Open(task) => {
                host.standbys.remove(&*task);
                host.jobs.push_back((after(40), Job::Open(task.to_string())));
            }
            Action::Release(task) => {
                // A task that is still being opened is not opened any more.
                let name = task.to_string();
                host.jobs.retain(|(_, job)| !matches!(job, Job::Open(t) if *t == name));
                host.jobs.push_back((after(30), Job::Release(name)));
            }
            Action::Standby(task) => {
                host.standbys.insert(task.to_string());
                host.jobs.push_back((after(self.warm_ms), Job::Warm(task.to_string())));
            }
            Action::DropStandby(task) => drop(host.standbys.remove(&*task)),
            Action::StepDown { rejoin } => {
                host.open.clear();
                host.standbys.clear();
                host.jobs.clear();
                if !rejoin {
                    host.member = None;
                    host.left = true;
                }
            }
            Action::Left => {
                host.member = None;
                host.left = true;
            }
        }
    }
}
