//! What happens, one after the other, and what is seen of it from outside.

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use millstream::{
    Signals, Target,
    io::view::{FlowView, ReportView},
};
use millstream_core::{
    Code, Error, Result,
    engine::{ClusterView, NodeState, TaskView},
};
use millstream_kafka::client::{Client, TopicPartition, TopicSpec};

use super::{
    super::{FLOW, Plan, verdict, watch::Watched},
    member,
    nodes::{How, Node},
};
use crate::{
    args::{Args, Demo},
    cluster::takeovers,
    say::{Say, count, number},
};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Rows per second unless told otherwise: all is to happen before the input ends.
const RATE: u64 = 600;
/// How long is waited for what is to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How much of the input there is before the first node is killed.
const BEFORE: f64 = 0.1;
/// Seconds of rows that are worked off while a node stands still.
const WHILE_PAUSED: u64 = 2;

/// Runs the demo.
pub fn run(options: &Demo, args: &Args, say: &mut Say) -> Result<ExitCode> {
    let signals = Arc::new(Signals::listen()?);
    let Some(engine) = options.engine.clone() else { return Err(no_brokers()) };
    // An application that nobody has; the clock of this machine and its process make it so.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let app = format!("demo-{}-{}", clock.as_secs(), std::process::id());
    let client = millstream::Node::kafka(&engine, &app, "demo")?.kafka_client()?;
    let topic = member::alerts(&app);
    let made = client.create_topic(&TopicSpec {
        name: topic.clone(),
        partitions: 1,
        settings: Vec::new(),
    });
    made.map_err(|e| match e.code() {
        Code::Unreachable => e.help("three brokers on this machine: scripts/kafka-up"),
        _ => e,
    })?;
    let plan = Plan::new(options, args, RATE, ("", 0))?;
    let how = How { engine, app, csv: plan.csv.clone(), rate: plan.rate };
    let nodes = NAMES.iter().map(|name| Node::start(&how, name)).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let mut show = Show { plan: &plan, how, nodes, signals, begun, next_line: 0, ended: false };
    show.head(say);
    let watched = match show.acts(say) {
        Err(_) if show.signals.asked() => {
            say.remark("stopped by Ctrl-C; what was committed is in Kafka");
            return Ok(ExitCode::FAILURE);
        }
        watched => watched?,
    };
    let alerts = alerts(client.as_ref(), &topic)?;
    let asked = show.nodes[0].client()?.map(|client| client.address().to_string());
    let target = Target::find(asked.as_deref(), None)?;
    let code = verdict::verdict(&plan, &watched, &target, &alerts, say)?;
    let app = &show.how.app;
    say.remark(format!("What is left in Kafka has {app} in its name; to remove it:"));
    say.remark(format!("  kafka-topics --delete --topic '.*{app}.*'"));
    Ok(code)
}

fn no_brokers() -> Error {
    Error::new(
        Code::Plan,
        "the nodes of a cluster share their work through Kafka, and none is named",
    )
    .help("three brokers on this machine: scripts/kafka-up (it needs Java 17 and, once, Maven)")
    .help("then: `millstream demo --cluster --engine kafka://127.0.0.1:19091,127.0.0.1:19092`")
}

/// All alerts that are committed.
fn alerts(client: &dyn Client, topic: &str) -> Result<Vec<super::super::recount::Alert>> {
    let (at, mut found) = (TopicPartition::new(topic, 0), Vec::new());
    client.read_all(&at, |offset, record| {
        let line = String::from_utf8_lossy(record.value.unwrap_or_default());
        found.push(verdict::alert(&line).map_err(|e| e.at(format!("{at}, offset {offset}")))?);
        Ok(())
    })?;
    Ok(found)
}

/// What a flow has come to, under the head of the table.
fn figures(flow: &FlowView) -> String {
    let alerts = flow.stages.iter().find(|s| s.name == "alerts").map_or(0, |s| s.read);
    let all = [flow.records, flow.backlog_rows, alerts, flow.dead].map(number);
    let [rows, waiting, alerts, dead] = all;
    format!("  {rows:>8}  {waiting:>7}  {alerts:>6}  {dead:>4}")
}

struct Show<'a> {
    plan: &'a Plan,
    how: How,
    nodes: Vec<Node>,
    signals: Arc<Signals>,
    begun: Instant,
    /// The second at which the next line of figures is due.
    next_line: u64,
    ended: bool,
}

/// The names of the tasks that a node owns.
fn owned(view: &ClusterView, node: &str) -> BTreeSet<String> {
    view.tasks.iter().filter(|t| t.owner == node).map(|t| t.name.clone()).collect()
}

/// Whether three nodes share all tasks evenly, and each is followed.
fn is_settled(view: &ClusterView) -> bool {
    let active = view.nodes.iter().filter(|n| n.state == NodeState::Active);
    let shares: Vec<u64> = active.map(|n| n.tasks).collect();
    // Who has a task keeps it as long as that leaves everybody within one of the mean.
    let mean = view.tasks.len() as u64 / NAMES.len() as u64;
    let fair = shares.iter().all(|n| n.abs_diff(mean) <= 1);
    let followed = |t: &TaskView| t.open && t.standbys.iter().any(|s| s.lag_turns.is_some());
    shares.len() == NAMES.len()
        && fair
        && shares.iter().sum::<u64>() == view.tasks.len() as u64
        && !view.tasks.is_empty()
        && view.tasks.iter().all(followed)
}

impl Show<'_> {
    fn head(&self, say: &mut Say) {
        let (version, how) = (env!("CARGO_PKG_VERSION"), &self.how);
        say.remark(format!("millstream {version}   {}   application {}", how.engine, how.app));
        say.remark(self.plan.what());
        say.remark(format!(
            "{} -> key_by tailnum -> process aircraft -> topic {}",
            self.plan.file_name(),
            member::alerts(&how.app)
        ));
        say.remark("An aircraft alerts when it leaves 60 min or more late three times in a row.");
        say.remark(
            "Three nodes. One gets SIGKILL, another stands still and wakes up. The rest is real.",
        );
        say.remark("");
    }

    fn at(&self) -> String {
        format!("{:5.1}s", self.begun.elapsed().as_secs_f64())
    }

    /// Waits until something is true of the cluster, as the node at `asked` knows it.
    fn until<T>(
        &mut self,
        what: &str,
        asked: usize,
        say: &mut Say,
        mut is: impl FnMut(&ClusterView, &FlowView) -> Option<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            if self.signals.asked() {
                return Err(Error::new(Code::Stopped, "stopped by Ctrl-C"));
            }
            self.nodes[asked].client()?;
            let node = &self.nodes[asked];
            if let (Some(view), Some(mut status)) = (node.cluster(), node.status()) {
                let flow = status.flows.pop().unwrap_or_default();
                if flow.state == "failed" {
                    let message = format!("the flow has failed: {}", flow.error);
                    return Err(Error::new(Code::Failed, message));
                }
                self.ended = flow.state == "finished";
                if let Some(found) = is(&view, &flow) {
                    return Ok(found);
                }
                self.line(&view, &flow, say);
            }
            if begun.elapsed() > PATIENCE {
                let seconds = PATIENCE.as_secs();
                let message =
                    format!("{what}: not within {seconds} s, as node {} knows", NAMES[asked]);
                return Err(Error::new(Code::Failed, message)
                    .help("is this machine very busy? try a lower rate: --rate 200"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A line of figures every other second.
    fn line(&mut self, view: &ClusterView, flow: &FlowView, say: &mut Say) {
        let second = self.begun.elapsed().as_secs();
        if second < self.next_line {
            return;
        }
        if self.next_line == 0 {
            say.remark("        nodes      rows  waiting  alerts  dead");
        }
        self.next_line = second + 2;
        let alive = view.nodes.iter().filter(|n| n.state.is_alive()).count();
        say.remark(format!("{}  {alive:5}{}", self.at(), figures(flow)));
    }

    /// The node with most tasks; of several the one that reads the file.
    fn busiest(&self, view: &ClusterView) -> usize {
        let source = format!("{FLOW}/flights/0");
        let reads = |name: &str| view.tasks.iter().any(|t| t.owner == name && t.name == source);
        let weight = |n: &usize| (owned(view, NAMES[*n]).len(), reads(NAMES[*n]));
        (0..NAMES.len()).max_by_key(weight).unwrap_or_default()
    }

    fn acts(&mut self, say: &mut Say) -> Result<Watched> {
        let view = self.settled(0, say)?;
        let tasks = count(view.tasks.len() as u64, "task", "tasks");
        say.remark(format!("{}  READY  three nodes share {tasks}", self.at()));
        for node in &self.nodes {
            let known = view.nodes.iter().find(|known| known.name == node.name);
            let (address, tasks) = known.map_or(("-", 0), |known| (&*known.address, known.tasks));
            let (name, pid) = (node.name, node.pid());
            let tasks = count(tasks, "task", "tasks");
            say.remark(format!("        {name}      process {pid}   http://{address}   {tasks}"));
        }
        let enough = (self.plan.expected.rows as f64 * BEFORE) as u64;
        self.until("rows", 0, say, |_, flow| (flow.records >= enough).then_some(()))?;
        let resumed_ms = self.kill(say)?;
        self.pause(say)?;
        // What is done after the end of the input proves nothing.
        let in_time = !self.ended;
        self.until_the_end(say)?;
        Ok(Watched {
            killed: in_time,
            resumed_ms,
            seconds: self.begun.elapsed().as_secs_f64(),
            ..Watched::default()
        })
    }

    fn settled(&mut self, asked: usize, say: &mut Say) -> Result<ClusterView> {
        self.until("three nodes share the tasks", asked, say, |view, _| {
            is_settled(view).then(|| view.clone())
        })
    }

    /// Kills the node with most tasks, and waits until all of them run elsewhere.
    fn kill(&mut self, say: &mut Say) -> Result<f64> {
        let view = self.settled(0, say)?;
        let victim = self.busiest(&view);
        let (name, witness) = (NAMES[victim], (victim + 1) % NAMES.len());
        let tasks = owned(&view, name);
        let pid = self.nodes[victim].pid();
        // Asked once before: it has to be known where.
        self.nodes[witness].client()?;
        let killed = self.nodes[victim].kill()?;
        say.remark(format!(
            "{}  KILL   SIGKILL to node {name}, process {pid}, with {}",
            self.at(),
            count(tasks.len() as u64, "task", "tasks")
        ));
        let moved = self.moved(name, &tasks, killed, witness, say)?;
        let all = killed.elapsed().as_secs_f64() * 1e3;
        takeovers(moved.iter(), say);
        say.remark(format!("{}  HEART  node {name} is started again", self.at()));
        self.nodes[victim] = Node::start(&self.how, name)?;
        Ok(all)
    }

    /// Waits until all tasks of a node run elsewhere and have committed there.
    fn moved(
        &mut self,
        from: &'static str,
        tasks: &BTreeSet<String>,
        since: Instant,
        witness: usize,
        say: &mut Say,
    ) -> Result<Vec<TaskView>> {
        let what = format!("all tasks of node {from} run elsewhere");
        self.until(&what, witness, say, |view, _| {
            let age = since.elapsed().as_millis() as u64;
            let has = |t: &&TaskView| {
                let took =
                    t.takeover.as_ref().is_some_and(|took| took.from == from && took.ago_ms <= age);
                took && t.owner != from && t.open
            };
            let there = view.tasks.iter().filter(|t| tasks.contains(&t.name));
            let there: Vec<TaskView> = there.filter(has).cloned().collect();
            (there.len() == tasks.len()).then_some(there)
        })
    }

    /// Lets the node with most tasks stand still until others have them all, and wakes it.
    fn pause(&mut self, say: &mut Say) -> Result<()> {
        let view = self.settled(0, say)?;
        let zombie = self.busiest(&view);
        let (name, witness) = (NAMES[zombie], (zombie + 1) % NAMES.len());
        let tasks = owned(&view, name);
        self.nodes[witness].client()?;
        let told = self.reports(witness)?.last().map_or(0, |r| r.n);
        self.nodes[zombie].pause()?;
        let paused = Instant::now();
        say.remark(format!(
            "{}  PAUSE  SIGSTOP to node {name}, process {}, with {}",
            self.at(),
            self.nodes[zombie].pid(),
            count(tasks.len() as u64, "task", "tasks")
        ));
        let moved = self.moved(name, &tasks, paused, witness, say)?;
        takeovers(moved.iter(), say);
        // The others work on while it stands still.
        let rows = self.until("rows", witness, say, |_, flow| Some(flow.records))?;
        let rows = (rows + WHILE_PAUSED * self.plan.rate).min(self.plan.expected.rows);
        self.until("rows", witness, say, |_, flow| (flow.records >= rows).then_some(()))?;
        self.nodes[zombie].wake()?;
        let woken = Instant::now();
        say.remark(format!(
            "{}  WAKE   SIGCONT to node {name}: after {:.1} s it takes itself for the owner of {}",
            self.at(),
            paused.elapsed().as_secs_f64(),
            count(tasks.len() as u64, "task", "tasks")
        ));
        let mine = |r: &ReportView| {
            let task = r.task.map(|n| format!("{}/{}/{n}", r.flow, r.stage));
            // That a task goes back to who has joined anew is planned, and nobody is fenced by it.
            let planned = r.reason.contains("handed over");
            r.what == "fenced" && !planned && task.is_some_and(|task| tasks.contains(&task))
        };
        let (mut said, mut shown) = (told, 0);
        loop {
            let view =
                self.until("it has joined anew", witness, say, |view, _| Some(view.clone()))?;
            let reports = self.reports(witness)?;
            for report in &reports[reports.partition_point(|r| r.n <= said)..] {
                said = report.n;
                if mine(report) {
                    shown += 1;
                    say.remark(format!("{}  FENCED {}", self.at(), report.line));
                }
            }
            let joined = view.nodes.iter().any(|n| n.name == name && n.state == NodeState::Active);
            if joined && shown > 0 {
                break;
            }
            if woken.elapsed() > PATIENCE {
                let message = format!("node {name} woke up and was not seen fenced: {view:?}");
                return Err(Error::new(Code::Failed, message));
            }
        }
        say.remark(format!(
            "{}  REJOIN node {name} let go of what it had, and is a new member after {:.2} s",
            self.at(),
            woken.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// What supervisors have decided, on whichever node.
    fn reports(&mut self, asked: usize) -> Result<Vec<ReportView>> {
        match self.nodes[asked].client()? {
            Some(client) => client.get("/v1/supervisor?limit=1000"),
            None => Ok(Vec::new()),
        }
    }

    fn until_the_end(&mut self, say: &mut Say) -> Result<()> {
        loop {
            let before = self.until("rows", 0, say, |_, flow| Some(flow.clone()))?;
            if before.state == "finished" {
                say.remark(format!("{}  {:5}{}", self.at(), "ended", figures(&before)));
                say.remark("");
                return Ok(());
            }
            // As long as something moves it is waited for.
            self.until("the flow goes on", 0, say, |_, flow| {
                let moved =
                    (flow.records, flow.backlog_rows) != (before.records, before.backlog_rows);
                (moved || flow.state == "finished").then_some(())
            })?;
        }
    }
}
