//! Crashes at random and at every disk operation, judged by a model that only knows commits.

use std::collections::BTreeMap;

use millstream_core::{
    engine::Lease,
    turn::{Change, Delta, InputProgress, Position, Progress as Stand, StreamId, TableId},
};

use super::*;
use crate::conformance::{frame, numbers, read_up_to, restored, stream, task, turn};

/// SplitMix64.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

type Key = (TableId, Vec<u8>);

/// What was committed, by sequence number.
#[expect(clippy::large_enum_variant, reason = "few of them")]
enum Event {
    Open(usize),
    Turn(usize, Stand, Vec<(Key, Option<Vec<u8>>)>, Vec<(usize, Vec<i64>, u64)>),
}

/// The state that a prefix of the events must give.
#[derive(Default)]
struct Model {
    turns: [u64; 3],
    opens: [u32; 3],
    stands: [Stand; 3],
    state: [BTreeMap<Key, Vec<u8>>; 3],
    /// Every frame ever appended, per channel, with its bytes.
    frames: [Vec<(Vec<i64>, u64)>; 3],
}

const TASKS: [&str; 3] = ["f/source/0", "f/middle/0", "f/sink/0"];
/// Channel 0 is read by the middle, 1 by the sink, 2 holds dead letters and is read by nobody.
const RETAIN: u64 = 1500;

struct World {
    disk: SimDisk,
    random: Random,
    options: Options,
    events: Vec<(u64, Event)>,
    /// What the engine has promised to keep.
    durable: u64,
    next_row: i64,
    opened: Opened,
    evacuations: u64,
    compactions: u64,
    trimmed: u64,
}

fn create_streams(engine: &EmbeddedEngine) -> [StreamId; 3] {
    [("f/a", 0), ("f/b", 0), ("f/dead", RETAIN)]
        .map(|(name, retain)| engine.create_stream(&stream(name, 1, retain)).unwrap())
}

fn spec(at: usize, streams: &[StreamId; 3]) -> millstream_core::engine::TaskSpec {
    match at {
        0 => task(TASKS[0], &[]),
        1 => task(TASKS[1], &[(streams[0], 0)]),
        _ => task(TASKS[2], &[(streams[1], 0)]),
    }
}

impl World {
    fn new(seed: u64, options: Options) -> World {
        let disk = SimDisk::new(seed ^ 0x5eed);
        let opened = EmbeddedEngine::open(options.clone(), Arc::new(disk.clone())).unwrap();
        World {
            disk,
            random: Random(seed),
            options,
            events: Vec::new(),
            durable: 0,
            next_row: 0,
            opened,
            evacuations: 0,
            compactions: 0,
            trimmed: 0,
        }
    }

    fn last_seq(&self) -> u64 {
        self.opened.engine.shared.lock().next_seq - 1
    }

    fn model(&self) -> Model {
        let mut m = Model::default();
        for (_, event) in &self.events {
            match event {
                Event::Open(t) => m.opens[*t] += 1,
                Event::Turn(t, stand, delta, outputs) => {
                    m.opens[*t] = 0;
                    m.turns[*t] = stand.turn;
                    m.stands[*t] = stand.clone();
                    for (key, value) in delta {
                        match value {
                            Some(v) => m.state[*t].insert(key.clone(), v.clone()),
                            None => m.state[*t].remove(key),
                        };
                    }
                    for (channel, rows, bytes) in outputs {
                        m.frames[*channel].push((rows.clone(), *bytes));
                    }
                }
            }
        }
        m
    }

    /// Opens the tasks; `None` if the power failed meanwhile.
    fn leases(&mut self) -> Option<Vec<Box<dyn Lease>>> {
        let streams = create_streams(&self.opened.engine);
        let mut leases = Vec::new();
        for (at, name) in TASKS.iter().enumerate() {
            let model = self.model();
            let mut opens = model.opens[at];
            loop {
                let before = self.last_seq();
                let lease = self.opened.engine.open(&spec(at, &streams)).unwrap();
                if self.last_seq() > before {
                    opens += 1;
                    self.events.push((self.last_seq(), Event::Open(at)));
                }
                if let Some(mut lease) = lease {
                    assert_eq!(lease.recovered().opens, opens, "opens");
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        restored(&mut *lease)
                    })) {
                        Ok(state) => assert_eq!(state, model.state[at], "state of {name}"),
                        Err(e) if !self.disk.is_off() => std::panic::resume_unwind(e),
                        Err(_) => return None,
                    }
                    leases.push(lease);
                    break;
                }
                self.step();
                if self.disk.is_off() {
                    return None;
                }
            }
        }
        Some(leases)
    }

    fn step(&mut self) {
        if self.random.one_in(3) {
            let before = self.opened.compactor.evacuating;
            self.opened.compactor.step();
            let after = self.opened.compactor.evacuating;
            self.evacuations += u64::from(after.is_some() && after != before);
        } else {
            self.opened.committer.step();
        }
        self.durable = self.durable.max(self.opened.engine.shared.durable());
    }

    /// One random turn of one task.
    fn turn(&mut self, at: usize, lease: &mut dyn Lease, streams: &[StreamId; 3]) {
        let model = self.model();
        let mut stand = model.stands[at].clone();
        stand.turn += 1;
        if at > 0 {
            let channel = &model.frames[at - 1];
            let input = stand.inputs.first().cloned().unwrap_or_default();
            let from = Position { frame: input.keep_from, row: 0 };
            let found = match lease.poll(0, from, 1 << self.random.below(14)) {
                Ok(found) => found,
                Err(e) => return assert!(self.disk.is_off(), "{e}"),
            };
            for (number, frame) in &found {
                assert_eq!(numbers(frame), channel[*number as usize].0);
            }
            let seen = found.last().map_or(input.position.frame, |(n, _)| n + 1);
            let to = input.position.frame.max(seen);
            let rows = channel[..to as usize].iter().map(|(rows, _)| rows.len() as u64).sum();
            let keep_from = to - self.random.below(3).min(to - input.keep_from);
            stand.inputs = vec![InputProgress { keep_from, ..read_up_to(to, rows) }];
        }
        let (mut delta, mut changes) = (Delta::default(), Vec::new());
        let first = self.random.below(60);
        for k in first..first + self.random.below(8) {
            let key = (TableId(k as u32 % 3), k.to_be_bytes().to_vec());
            let value = (!self.random.one_in(4))
                .then(|| vec![self.random.next() as u8; self.random.below(40) as usize]);
            delta.push(Change { table: key.0, key: &key.1, value: value.as_deref() });
            changes.push((key, value));
        }
        let mut outputs = Vec::new();
        let mut sent = Vec::new();
        for (channel, stream) in streams.iter().enumerate() {
            let lines_up = channel == at || channel == 2 && self.random.one_in(6);
            if !lines_up || at == 2 && channel == 2 && self.random.one_in(2) {
                continue;
            }
            let most = if self.random.one_in(10) { 300 } else { 12 };
            let n = 1 + self.random.below(most) as i64;
            let rows: Vec<i64> = (self.next_row..self.next_row + n).collect();
            self.next_row += n;
            let frame = frame(lease.task(), stand.turn, &rows);
            sent.push((channel, rows, frame.bytes().len() as u64));
            outputs.push((*stream, 0, frame));
        }
        let turn = millstream_core::Turn { progress: stand.clone(), ..turn(0, outputs, delta) };
        let ticket = lease.commit(turn);
        assert_eq!(lease.settled(ticket), millstream_core::engine::Settlement::Ok);
        self.events.push((ticket.0, Event::Turn(at, stand, changes, sent)));
    }

    /// Random work until `operations` are over or the power fails.
    fn work(&mut self, operations: u64) {
        let Some(mut leases) = self.leases() else { return };
        let streams = create_streams(&self.opened.engine);
        for _ in 0..operations {
            match self.random.below(8) {
                0..=3 => {
                    let at = self.random.below(3) as usize;
                    self.turn(at, &mut *leases[at], &streams);
                }
                _ => self.step(),
            }
            match self.random.below(100) {
                0 => self.disk.fail_appends(1 + self.random.below(2) as u32),
                1 => self.disk.fail_syncs(1 + self.random.below(2) as u32),
                2 => {
                    let used: u64 = self.disk.files().iter().map(|(_, n)| n).sum();
                    self.disk.set_capacity(Some(used + self.random.below(3000)));
                }
                3..8 => self.disk.set_capacity(None),
                _ => {}
            }
            if self.disk.is_off() {
                return;
            }
        }
        check_space(&self.opened.engine);
        assert_eq!(self.opened.engine.ledger().violations(), [] as [String; 0]);
    }

    /// Kills the process: what it wrote stays in the kernel, and is lost by a later crash unless
    /// somebody syncs it.
    fn kill(&mut self) {
        self.end();
        self.disk.crash_at(u64::MAX >> 1);
        self.reopen();
    }

    /// Cuts the power, opens again and compares with the model.
    fn crash(&mut self) {
        self.end();
        self.disk.crash();
        if self.random.one_in(2) {
            // And once more while it opens.
            self.disk.crash_at(1 + self.random.below(12));
            let disk = Arc::new(self.disk.clone());
            if let Ok(mut opened) = EmbeddedEngine::open(self.options.clone(), disk) {
                while opened.committer.step() == Progress::Worked {}
            }
            self.disk.crash();
        }
        self.reopen();
    }

    fn end(&mut self) {
        let stats = self.opened.engine.stats();
        self.compactions += stats.compactions;
        self.trimmed += stats.segments_trimmed;
        self.durable = self.durable.max(self.opened.engine.shared.durable());
        self.disk.set_capacity(None);
        self.disk.fail_appends(0);
        self.disk.fail_syncs(0);
    }

    fn reopen(&mut self) {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let seen = EmbeddedEngine::read_only(self.options.clone(), disk.clone()).unwrap();
        self.opened = EmbeddedEngine::open(self.options.clone(), disk).unwrap();
        assert_eq!(self.opened.engine.tasks(), seen.tasks(), "looking and opening agree");
        let last = self.last_seq();
        assert!(last >= self.durable, "record {} was durable, {last} is the last", self.durable);
        self.durable = last;
        self.events.retain(|(seq, _)| *seq <= last);
        self.check(&seen);
        self.check(&self.opened.engine);
    }

    fn check(&self, engine: &EmbeddedEngine) {
        let model = self.model();
        for (name, _, progress) in engine.tasks() {
            let at = TASKS.iter().position(|t| *t == name).unwrap();
            if model.turns[at] > 0 {
                assert_eq!(progress, model.stands[at], "{name}");
            }
        }
        for info in engine.streams() {
            let channel = info.id.0 as usize;
            let frames = &model.frames[channel];
            assert_eq!(info.frames[0].end, frames.len() as u64, "frames of channel {channel}");
            let rows: usize = frames.iter().map(|(rows, _)| rows.len()).sum();
            assert_eq!(info.appended_rows, rows as u64);
            let first = info.frames[0].start as usize;
            if channel == 2 {
                let kept: u64 = frames[first..].iter().map(|(_, n)| n).sum();
                let more = first.checked_sub(1).map_or(u64::MAX, |f| kept + frames[f].1);
                assert!(kept <= RETAIN && more > RETAIN, "what is retained: {kept}");
            } else if model.turns[channel + 1] > 0 {
                let keep_from = model.stands[channel + 1].inputs[0].keep_from;
                assert_eq!(first as u64, keep_from, "trimmed");
            }
            let found = engine.read(info.id, 0, 0, usize::MAX).unwrap();
            assert_eq!(found.len(), frames.len() - first);
            for (number, frame) in found {
                assert_eq!(numbers(&frame), frames[number as usize].0);
            }
        }
        assert_eq!(engine.ledger().violations(), [] as [String; 0]);
        check_space(engine);
    }
}

/// What is alive in each segment, counted anew.
fn check_space(engine: &EmbeddedEngine) {
    let inner = engine.shared.lock();
    let state = &inner.state;
    let parts = state.streams.iter().flat_map(|s| &s.partitions);
    let slots = parts.flat_map(|p| &p.slots).map(|s| (s.place, s.len));
    let deltas = state.tasks.iter().flat_map(|t| &t.deltas).map(|d| (d.place, d.meta.len));
    let mut live = BTreeMap::new();
    for (place, len) in slots.chain(deltas) {
        if let Some(place) = place {
            *live.entry(place.segment).or_insert(0) += u64::from(len);
        }
    }
    for (base, segment) in &state.space.segments {
        assert_eq!(segment.live, live.get(base).copied().unwrap_or(0), "alive in {base:x}");
    }
}

/// Runs `test` for a seed and says which seed it was if it fails.
fn seeded(seed: u64, test: impl FnOnce(u64)) {
    let run = std::panic::AssertUnwindSafe(|| test(seed));
    if let Err(e) = std::panic::catch_unwind(run) {
        eprintln!("seed {seed} failed");
        std::panic::resume_unwind(e);
    }
}

#[test]
fn any_crash_leaves_a_prefix_with_everything_durable() {
    let mut met = crate::disk::Faults::default();
    let (mut evacuations, mut compactions, mut trimmed) = (0, 0, 0);
    for seed in 0..200 {
        seeded(seed, |seed| {
            let mut options = tiny();
            if seed % 5 == 4 {
                options.durability = Durability::Fsync;
                options.segment_bytes = 1 << 14;
            }
            let mut world = World::new(seed, options);
            for _ in 0..6 {
                if world.random.one_in(2) {
                    let n = 1 + world.random.below(60);
                    world.disk.crash_at(n);
                }
                let operations = world.random.below(120);
                world.work(operations);
                if world.random.one_in(3) && !world.disk.is_off() {
                    world.kill();
                } else {
                    world.crash();
                }
            }
            world.crash();
            let faults = world.disk.faults();
            met.pages_lost += faults.pages_lost;
            met.appends_torn += faults.appends_torn;
            met.names_lost += faults.names_lost;
            met.full += faults.full;
            met.syncs_failed += faults.syncs_failed;
            met.appends_failed += faults.appends_failed;
            evacuations += world.evacuations;
            compactions += world.compactions;
            trimmed += world.trimmed;
        });
    }
    println!("{met:?}, {evacuations} evacuations, {compactions} compactions, {trimmed} trimmed");
    let all = [met.pages_lost, met.appends_torn, met.names_lost, met.full, met.syncs_failed];
    assert!(all.iter().all(|n| *n > 50), "every fault was met: {met:?}");
    assert!(evacuations > 50 && compactions > 50 && trimmed > 50);
}

#[test]
fn a_crash_at_every_disk_operation_of_a_run_with_compactions_loses_nothing() {
    for seed in 1000..1004 {
        for at in 1.. {
            let mut done = false;
            seeded(seed, |seed| {
                let mut world = World::new(seed, tiny());
                world.disk.crash_at(at);
                world.work(150);
                done = !world.disk.is_off();
                world.crash();
                world.work(10);
                world.crash();
            });
            if done {
                assert!(at > 50, "only {at} operations");
                break;
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_changes_nothing() {
    let mut world = World::new(7, tiny());
    world.work(200);
    while world.opened.committer.step() != Progress::Idle
        || world.opened.compactor.step() != Progress::Idle
    {}
    // The last segment's tail has no later proof that it was durable: add one.
    create_streams(&world.opened.engine);
    let mut leases = world.leases().unwrap();
    let streams = create_streams(&world.opened.engine);
    world.turn(0, &mut *leases[0], &streams);
    while world.opened.committer.step() != Progress::Idle {}
    let proof = world.opened.engine.shared.lock().state.space.segments.keys().last().copied();
    let tail = super::super::segment::path(proof.unwrap());
    let last = world.last_seq();
    let (mut refused, mut same) = (0, 0);
    for (path, len) in world.disk.files() {
        for byte in (0..len).step_by(7) {
            let disk = world.disk.fork(byte);
            disk.flip(&path, byte, (byte % 8) as u8);
            let opened = match EmbeddedEngine::open(tiny(), Arc::new(disk)) {
                Err(e) => {
                    assert_eq!(e.code(), millstream_core::Code::Corrupt, "{e}");
                    assert!(e.message().contains(&path), "{e} does not name {path}");
                    refused += 1;
                    continue;
                }
                Ok(opened) => opened,
            };
            let found = opened.engine.shared.durable();
            assert!(found == last || path == tail, "{path} byte {byte}: silently cut at {found}");
            if found < last {
                continue; // Cut in the last record of the log: nothing proves that it was durable.
            }
            // A flip that was not noticed at once is noticed when it is read, or is in no data.
            same += 1;
            for info in opened.engine.streams() {
                match opened.engine.read(info.id, 0, 0, usize::MAX) {
                    Err(e) => assert_eq!(e.code(), millstream_core::Code::Corrupt),
                    Ok(found) => {
                        let model = world.model();
                        for (n, frame) in found {
                            assert_eq!(
                                numbers(&frame),
                                model.frames[info.id.0 as usize][n as usize].0
                            );
                        }
                    }
                }
            }
        }
    }
    assert!(refused > 100 && same > 100, "{refused} refused, {same} the same");
}
