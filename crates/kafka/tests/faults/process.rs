//! Nodes in processes of their own: this test binary, told by its environment what to be.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    time::Instant,
};

use millstream_brokers::{Brokers, or_skip};
use millstream_core::engine::Settlement;

use crate::oracle::{Owner, Scene, WITHIN, join, task, try_open};

const ROLE: &str = "MILLSTREAM_FAULTS_ROLE";
/// Begins each line that is meant for the parent.
const SAYS: &str = "child: ";
/// Takeovers of one task, and after how many of them its resources are first counted.
const TAKEOVERS: u32 = 60;
const WARM: u32 = 15;

/// A process that ends with the test.
pub struct Child {
    process: std::process::Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Child {
    pub fn start(role: &str, app: &str, bootstrap: &str) -> Child {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::what_a_child_is", "--nocapture"])
            .env(ROLE, format!("{role} {app} {bootstrap}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        Child { process, said }
    }

    /// What it says next.
    pub fn says(&mut self) -> Option<String> {
        let mut lines = self.said.by_ref().lines().map(Result::unwrap);
        lines.find_map(|line| Some(line.split_once(SAYS)?.1.to_string()))
    }

    /// Waits until it says so.
    pub fn until(&mut self, what: &str) {
        // Clock: one that goes on for ever says other things.
        let begun = Instant::now();
        let mut all = Vec::new();
        while all.last().is_none_or(|said| said != what) {
            assert!(begun.elapsed() < WITHIN, "not within {WITHIN:?}: {what}; said {all:?}");
            all.push(self.says().unwrap_or_else(|| panic!("it has ended before {what}: {all:?}")));
        }
    }

    pub fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{SAYS}{what}").unwrap();
    out.flush().unwrap();
}

#[test]
fn what_a_child_is() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["own", app, bootstrap] => own(app, bootstrap),
        ["take", app, bootstrap] => take(app, bootstrap),
        ["take-over", app, bootstrap] => take_over(app, bootstrap),
        _ => panic!("what is {role}?"),
    }
}

/// Commits until it is fenced.
fn own(app: &str, bootstrap: &str) {
    let mut owner = Owner::open(&join(app, bootstrap));
    loop {
        let ticket = owner.commit();
        match owner.settled(ticket) {
            Settlement::Ok => say(&format!("turn {}", owner.turns)),
            Settlement::Fenced => return say("fenced"),
            end => panic!("{end:?}"),
        }
    }
}

/// Takes the task over and restores a part of its state; then it waits to be killed.
fn take(app: &str, bootstrap: &str) {
    let node = join(app, bootstrap);
    let (spec, bell) = task("f/write/0", &[]);
    let mut lease = try_open(&node.engine, &spec, &bell).unwrap();
    assert!(!lease.restore(64, &mut |_| Ok(())).unwrap(), "there is more");
    say("restoring");
    loop {
        std::thread::park();
    }
}

/// Threads, open files (connections among them), and memory in KiB, of this process.
fn resources() -> [u64; 3] {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let files = fs::read_dir("/proc/self/fd").unwrap().count();
    [of("Threads:"), files as u64, of("VmRSS:")]
}

fn take_over(app: &str, bootstrap: &str) {
    let nodes = [join(app, bootstrap), join(app, bootstrap)];
    let mut owners = Vec::new();
    for n in 0..TAKEOVERS {
        let mut owner = Owner::open(&nodes[n as usize % 2]);
        owner.run(1);
        // The one before is fenced while it still believes to be the owner.
        owners.push(owner);
        if owners.len() > 1 {
            owners.remove(0);
        }
        if n + 1 == WARM || n + 1 == TAKEOVERS {
            let [threads, files, memory] = resources();
            say(&format!("{threads} {files} {memory}"));
        }
    }
    say("done");
}

#[test]
fn takeovers_leave_no_threads_files_or_memory_behind() {
    let brokers = or_skip!(Brokers::shared());
    let scene = Scene::new(brokers, "leaks");
    let mut child = Child::start("take-over", &scene.app, &brokers.bootstrap());
    let mut numbers =
        || -> Vec<u64> { child.says().unwrap().split(' ').map(|n| n.parse().unwrap()).collect() };
    let (warm, end) = (numbers(), numbers());
    child.until("done");
    println!("threads, files, KiB after {WARM} and {TAKEOVERS} takeovers: {warm:?} {end:?}");
    // One writer more or less may be on its way out.
    assert!(end[0] <= warm[0] + 15, "threads: {} and {}", warm[0], end[0]);
    assert!(end[1] <= warm[1] + 15, "files: {} and {}", warm[1], end[1]);
    assert!(end[2] <= warm[2] + 16384, "memory: {} KiB and {}", warm[2], end[2]);
    scene.verdict(TAKEOVERS.into());
}
