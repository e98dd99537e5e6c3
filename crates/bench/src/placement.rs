//! `placement`: a thousand nodes and twenty thousand tasks, simulated; nodes are lost one by one.
//!
//! A few nodes are what production runs and are measured. The others are played: each does what the
//! same plan of the same view tells it, at once. The log is memory and its order the only clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::{Duration, Instant},
};

use millstream_core::Time;
use millstream_kafka::cluster::{
    Action, Beat, Body, Entry, Member, NodeKey, Options, Plan, Record, State, TaskKey, Whole,
};

use crate::{
    cli::Placement,
    machine,
    report::{self, Report, Spread, Totals, quantile, rounded},
};

/// Nodes that are real.
const REAL: usize = 5;
/// What Kafka adds to each of these records, alone in its batch: 61 bytes of the batch, about 9 of
/// the record.
const KAFKA_BYTES: u64 = 70;

/// Runs the bench.
pub fn run(args: &Placement) -> report::Result<ExitCode> {
    let mut report = Report::new("placement", args.common.seed, args.common.rounds);
    println!("{:?}", Options::default());
    if args.nodes < REAL + args.losses + 2 {
        return Err(format!("{} nodes are too few to lose {}", args.nodes, args.losses).into());
    }
    let (mut decisions, mut bytes, mut folds) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lost, mut moved, mut records, mut cold) = (0, 0, 0, Vec::new());
    for round in 0..args.common.rounds {
        let mut cluster = Cluster::new(args, args.common.seed + round as u64);
        cold.push(cluster.start(&mut report));
        let begin = (cluster.bytes, cluster.records, cluster.fold);
        cluster.run(100);
        let each = 10.0 * cluster.real.len() as f64;
        bytes.push((cluster.bytes - begin.0) as f64 / 10.0);
        folds.push((cluster.fold - begin.2).as_secs_f64() * 1e3 / each);
        records = (cluster.records - begin.1) / 10;
        for _ in 0..args.losses {
            let (had, went) = cluster.lose_one(&mut report);
            lost += had;
            moved += went;
        }
        println!("round {}  {} decisions", round + 1, cluster.decisions.len());
        decisions.append(&mut cluster.decisions);
    }
    report.totals(Totals {
        cpu_s: machine::cpu_s(),
        peak_rss_bytes: machine::peak_rss_bytes(),
        ..Totals::default()
    });
    report.figure("nodes", args.nodes);
    report.figure("tasks", args.tasks);
    report.figure("lost_tasks", lost);
    report.figure("moves", moved);
    report.figure("decision_ms", rounded(quantile(&decisions, 0.5)));
    report.figure("decision_ms_max", rounded(quantile(&decisions, 1.0)));
    report.figure("cold_plan_ms", rounded(Spread::of(&cold).median));
    report.spread(["bytes_per_s", "bytes_per_s_min", "bytes_per_s_max"], &bytes);
    report.figure("bytes_per_s_kafka", Spread::of(&bytes).median as u64 + records * KAFKA_BYTES);
    report.figure("records_per_s", records);
    // What reading it costs each node.
    report.spread(["fold_ms_per_s", "fold_ms_per_s_min", "fold_ms_per_s_max"], &folds);
    Ok(report.finish())
}

/// A node that is played.
struct Played {
    name: String,
    key: NodeKey,
    seq: u64,
    entries: BTreeMap<TaskKey, Entry>,
    news: Vec<(TaskKey, Option<Entry>)>,
}

impl Played {
    fn say(&mut self, task: TaskKey, entry: Option<Entry>) {
        match entry {
            Some(entry) => drop(self.entries.insert(task, entry)),
            None => drop(self.entries.remove(&task)),
        }
        self.news.push((task, entry));
    }

    /// What it took over is like any other task when all is in balance.
    fn calm_down(&mut self) {
        let taken = self.entries.iter().filter_map(|(task, entry)| match *entry {
            Entry::Owner { claim, open, taken: true } => Some((*task, claim, open)),
            _ => None,
        });
        for (task, claim, open) in taken.collect::<Vec<_>>() {
            self.say(task, Some(Entry::Owner { claim, open, taken: false }));
        }
    }

    /// Its next heartbeat; all it has to say in every fiftieth, as often as a real one does.
    fn beat(&mut self, at: usize) -> Vec<u8> {
        self.seq += 1;
        let again = self.seq == 1 || (self.seq + at as u64).is_multiple_of(50);
        let (from, to) = (TaskKey(0), TaskKey(u64::MAX));
        let whole = again.then_some(Whole { from, to, address: "10.0.0.1:7070" });
        let mut tasks = std::mem::take(&mut self.news);
        if again {
            tasks = self.entries.iter().map(|(task, entry)| (*task, Some(*entry))).collect();
        }
        let beat = Beat { seq: self.seq, state: State::Active, whole, tasks };
        Record { node: &self.name, incarnation: 1_800_000_000_000, body: Body::Beat(beat) }.encode()
    }
}

struct Cluster {
    now: Time,
    names: Vec<String>,
    tasks: Vec<TaskKey>,
    real: Vec<Member>,
    played: Vec<Played>,
    planned: u64,
    offset: u64,
    bytes: u64,
    records: u64,
    /// What the real nodes have spent on reading.
    fold: Duration,
    /// From reading a death until the node knows what to do, in ms.
    decisions: Vec<f64>,
    /// Whether the nodes know of tasks.
    has_tasks: bool,
    /// Whether nodes have been lost.
    loses: bool,
}

impl Cluster {
    fn new(args: &Placement, seed: u64) -> Cluster {
        let names: Vec<String> =
            (0..args.tasks).map(|n| format!("flow-{}/stage/{n}", seed % 1000)).collect();
        let mut tasks: Vec<TaskKey> = names.iter().map(|name| TaskKey::of(name)).collect();
        tasks.sort_unstable();
        let member = |n: usize| {
            let name = format!("node-{n:04}-{seed}");
            Member::new(Options::default(), &name, "10.0.0.1:7070", 1_800_000_000_000, seed)
        };
        let played = (REAL..args.nodes).map(|n| {
            let name = format!("node-{n:04}-{seed}");
            let key = NodeKey::of(&name);
            Played { name, key, seq: 0, entries: BTreeMap::new(), news: Vec::new() }
        });
        Cluster {
            now: Time::from_ms(1_800_000_000_000),
            real: (0..REAL).filter_map(|n| member(n).ok()).collect(),
            played: played.collect(),
            names,
            tasks,
            planned: 0,
            offset: 0,
            bytes: 0,
            records: 0,
            fold: Duration::ZERO,
            decisions: Vec::new(),
            has_tasks: false,
            loses: false,
        }
    }

    /// From nothing to a cluster at rest; how long the first plan took, in ms.
    fn start(&mut self, report: &mut Report) -> f64 {
        // First all nodes, so that the first plan is for all of them.
        self.run(20);
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        for member in &mut self.real {
            let set = member.set_tasks(&names);
            report.check(set.is_ok(), || format!("tasks: {set:?}"));
        }
        self.has_tasks = true;
        let begin = Instant::now();
        let plan = Plan::of(self.real[0].view(), &self.tasks);
        let cold_ms = begin.elapsed().as_secs_f64() * 1e3;
        report.check(plan.opens.len() == self.tasks.len(), || "not every task is placed".into());
        self.run(100);
        self.check(report);
        cold_ms
    }

    fn run(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.now = self.now + Options::default().every;
            self.play();
            for at in 0..self.played.len() {
                let beat = self.played[at].beat(at);
                self.publish(&beat);
            }
            for at in 0..self.real.len() {
                self.poll(at);
            }
        }
    }

    /// A record comes to every real node. Of a death it is measured how long its plan takes.
    fn publish(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.records += 1;
        let dies = matches!(Record::decode(bytes).map(|r| r.body), Ok(Body::Dead { .. }));
        for at in 0..self.real.len() {
            let known = self.real[at].view().alive().count();
            let begin = Instant::now();
            // A record of our own cannot be unreadable; the checks would see it.
            drop(self.real[at].on_record(self.offset, bytes, self.now));
            self.fold += begin.elapsed();
            if dies && self.real[at].view().alive().count() < known {
                let begin = begin.max(Instant::now() - begin.elapsed());
                let actions = self.real[at].poll(self.now);
                self.decisions.push(begin.elapsed().as_secs_f64() * 1e3);
                self.obey(at, actions);
            }
        }
        self.offset += 1;
    }

    fn poll(&mut self, at: usize) {
        let actions = self.real[at].poll(self.now);
        self.obey(at, actions);
    }

    /// What a real node wants done is done at once; what it says waits for its turn in the log.
    fn obey(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Append(bytes) => self.publish(&bytes),
                Action::Open(task) => self.real[at].on_opened(&task, self.now),
                Action::Release(task) => self.real[at].on_released(&task, self.now),
                Action::Standby(task) => self.real[at].on_lag(&task, 0),
                Action::DropStandby(_) | Action::StepDown { .. } | Action::Left => {}
            }
        }
    }

    /// The played nodes do what the plan says.
    fn play(&mut self) {
        let view = self.real[0].view();
        if self.planned == view.version() || !self.has_tasks {
            return;
        }
        self.planned = view.version();
        let plan = Plan::of(view, &self.tasks);
        let index: BTreeMap<NodeKey, usize> =
            self.played.iter().enumerate().map(|(at, p)| (p.key, at)).collect();
        for open in &plan.opens {
            if let Some(at) = index.get(&open.to) {
                let claim = view.claim(open.task) + 1;
                let entry = Entry::Owner { claim, open: true, taken: self.loses };
                self.played[*at].say(open.task, Some(entry));
            }
        }
        for m in &plan.moves {
            let warm = view.entry(m.to, m.task).is_some_and(|e| e.lag().is_some());
            if let Some(at) = index.get(&m.from).filter(|_| warm) {
                let entry = Entry::Granted { claim: view.claim(m.task), to: m.to };
                self.played[*at].say(m.task, Some(entry));
            }
        }
        if plan.is_first_half() {
            return;
        }
        if plan.opens.is_empty() && plan.moves.is_empty() {
            self.played.iter_mut().for_each(Played::calm_down);
        }
        let standby = Some(Entry::Standby { lag: 0, declines: false });
        let moves = plan.moves.iter().map(|m| (m.task, m.to));
        for (task, node) in plan.standbys().chain(moves) {
            if let Some(at) = index.get(&node)
                && !self.played[*at].entries.contains_key(&task)
            {
                self.played[*at].say(task, standby);
            }
        }
        let moves: BTreeSet<_> = plan.moves.iter().map(|m| (m.task, m.to)).collect();
        for node in &mut self.played {
            let old = node.entries.iter().filter(|(task, entry)| match entry {
                Entry::Standby { .. } if moves.contains(&(**task, node.key)) => false,
                Entry::Standby { .. } => {
                    let other = plan.standby(**task).filter(|other| *other != node.key);
                    other.is_some_and(|o| view.entry(o, **task).is_some_and(|e| e.lag().is_some()))
                }
                Entry::Granted { .. } => view.owner(**task).is_some_and(|owner| owner != node.key),
                _ => false,
            });
            let old: Vec<TaskKey> = old.map(|(task, _)| *task).collect();
            old.into_iter().for_each(|task| node.say(task, None));
        }
    }

    /// One node falls silent; how many tasks it had, and how many have another owner afterwards.
    fn lose_one(&mut self, report: &mut Report) -> (usize, usize) {
        self.loses = true;
        let before = self.owners();
        let victim = self.played.swap_remove(self.records as usize % self.played.len());
        self.run(40);
        let after = self.owners();
        let had = before.values().filter(|owner| **owner == Some(victim.key)).count();
        let changed = before.iter().filter(|(task, owner)| after.get(*task) != Some(*owner));
        let moved: Vec<_> = changed.map(|(task, owner)| (*task, *owner)).collect();
        let beyond = moved.iter().filter(|(_, owner)| *owner != Some(victim.key)).count();
        report.check(beyond == 0, || {
            format!("{beyond} tasks moved that were not {}'s, which had {had}", victim.name)
        });
        report.check(moved.len() == had, || {
            format!("{} had {had} tasks, {} have moved", victim.name, moved.len())
        });
        self.check(report);
        (had, moved.len())
    }

    fn owners(&self) -> BTreeMap<TaskKey, Option<NodeKey>> {
        let view = self.real[0].view();
        self.tasks.iter().map(|task| (*task, view.owner(*task))).collect()
    }

    /// Every task has a living owner and one standby, on another node, and all is in balance.
    fn check(&self, report: &mut Report) {
        let view = self.real[0].view();
        let mut loads: BTreeMap<NodeKey, usize> = view.alive().map(|n| (n.key, 0)).collect();
        let mean = self.tasks.len() as f64 / loads.len() as f64;
        let nodes = loads.len();
        for task in &self.tasks {
            let owner = view.owner(*task);
            let load = owner.and_then(|owner| loads.get_mut(&owner));
            report.check(load.is_some(), || format!("{task:?} has no living owner"));
            *load.unwrap_or(&mut 0) += 1;
            let standbys: Vec<_> = view.standbys(*task).map(|(node, _)| Some(node)).collect();
            let right = standbys.len() == 1 && standbys[0] != owner;
            report.check(right, || format!("{task:?} of {owner:?} has standbys {standbys:?}"));
        }
        let played = self.played.len() + self.real.len();
        report.check(nodes == played, || format!("{nodes} nodes are known, {played} are there"));
        let odd = loads.values().filter(|load| (**load as f64 - mean).abs() > 1.0).count();
        report.check(odd == 0, || format!("{odd} nodes are not within one task of {mean}"));
    }
}
