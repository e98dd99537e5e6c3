//! Faults one at a time: what the random crashes do not single out.

use std::time::Duration;

use millstream_core::{
    Code,
    engine::{Engine, Lease},
    turn::{Change, Delta, StreamId, TableId},
};

use super::*;
use crate::conformance::{frame, numbers, open, polled, read_up_to, restored, stream, task, turn};

fn writer(bench: &mut Bench, retain: u64) -> (StreamId, Box<dyn Lease>) {
    let id = bench.engine().create_stream(&stream("f/a", 1, retain)).unwrap();
    (id, open(bench, &task("f/write/0", &[])))
}

fn put(lease: &mut dyn Lease, stream: StreamId, n: u64) -> millstream_core::engine::Ticket {
    let mut delta = Delta::default();
    let key = (n % 50).to_be_bytes();
    delta.push(Change { table: TableId(1), key: &key, value: Some(&n.to_le_bytes()) });
    lease.commit(turn(n, vec![(stream, 0, frame(lease.task(), n, &[n as i64]))], delta))
}

#[test]
fn a_full_disk_heals_when_there_is_room() {
    let disk = SimDisk::new(3);
    let mut bench = Bench::new(Arc::new(disk.clone()), Options::default());
    let (id, mut lease) = writer(&mut bench, 1 << 20);
    bench.settle();
    let used: u64 = disk.files().iter().map(|(_, n)| n).sum();
    disk.set_capacity(Some(used + 700));
    let tickets: Vec<_> = (1..=20).map(|n| put(&mut *lease, id, n)).collect();
    for _ in 0..3 {
        assert_eq!(bench.opened.committer.step(), Progress::Failed);
    }
    let health = bench.opened.engine.health();
    assert_eq!(health.error.map(|e| e.code()), Some(Code::DiskFull));
    assert!(health.pending_bytes > 700);
    assert!(!lease.durable(tickets[19]));
    disk.set_capacity(None);
    bench.settle();
    assert_eq!(bench.opened.engine.health().error, None);
    assert_eq!(bench.opened.engine.pending_bytes(), 0);
    assert!(lease.durable(tickets[19]));
    disk.crash();
    bench.restart();
    let found = bench.engine().read(id, 0, 0, usize::MAX).unwrap();
    let rows: Vec<i64> = found.iter().flat_map(|(_, f)| numbers(f)).collect();
    assert_eq!(rows, (1..=20).collect::<Vec<_>>());
    assert!(disk.faults().full >= 3);
}

#[test]
fn idle_costs_no_sync() {
    let mut bench = Bench::new(Arc::new(SimDisk::new(3)), Options::default());
    let (id, mut lease) = writer(&mut bench, 0);
    for n in 1..=100 {
        put(&mut *lease, id, n);
    }
    let before = bench.engine().stats().fsyncs;
    bench.settle();
    assert_eq!(bench.engine().stats().fsyncs, before + 1, "many turns, one sync");
    (0..10).for_each(|_| assert_eq!(bench.opened.committer.step(), Progress::Idle));
    assert_eq!(bench.engine().stats().fsyncs, before + 1);
}

#[test]
fn what_is_queued_between_a_step_and_the_stop_is_written() {
    let disk = SimDisk::new(3);
    let mut bench = Bench::new(Arc::new(disk.clone()), Options::default());
    let (id, mut lease) = writer(&mut bench, 0);
    bench.settle();
    // The committer has found nothing to do and is about to wait: both come before it does.
    assert_eq!(bench.opened.committer.step(), Progress::Idle);
    let ticket = put(&mut *lease, id, 1);
    bench.opened.engine.stop();
    if bench.opened.committer.wait(Progress::Idle, Duration::ZERO) {
        bench.opened.committer.run(); // to its end: it was told to stop
    }
    assert!(lease.durable(ticket));
}

#[test]
fn lost_and_damaged_indexes_change_nothing() {
    let disk = SimDisk::new(4);
    let mut bench = Bench::new(Arc::new(disk.clone()), tiny());
    let (id, mut lease) = writer(&mut bench, 1 << 20);
    for n in 1..=120 {
        put(&mut *lease, id, n);
        bench.settle();
    }
    let indexes: Vec<_> =
        disk.files().into_iter().filter(|(name, _)| name.ends_with(".idx")).collect();
    assert!(indexes.len() > 3, "{indexes:?}");
    let see = |disk: SimDisk| {
        let mut bench = Bench::new(Arc::new(disk), tiny());
        let read = bench.engine().read(id, 0, 0, usize::MAX).unwrap();
        let rows: Vec<i64> = read.iter().flat_map(|(_, f)| numbers(f)).collect();
        let mut lease = open(&mut bench, &task("f/write/0", &[]));
        (rows, restored(&mut *lease), bench.engine().streams()[0].frames.clone())
    };
    let intact = see(disk.fork(1));
    assert_eq!(intact.0.len(), 120);
    let (deleted, damaged) = (disk.fork(2), disk.fork(3));
    for (at, (name, len)) in indexes.iter().enumerate() {
        deleted.remove(name).unwrap();
        damaged.flip(name, (at as u64 * 13) % len, 3);
    }
    assert_eq!(see(deleted), intact);
    assert_eq!(see(damaged), intact);
}

#[test]
fn a_missing_segment_is_refused_by_name() {
    let disk = SimDisk::new(5);
    let mut bench = Bench::new(Arc::new(disk.clone()), tiny());
    let (id, mut lease) = writer(&mut bench, 1 << 20);
    for n in 1..=120 {
        put(&mut *lease, id, n);
        bench.settle();
    }
    let mut files = disk.files().into_iter().map(|(name, _)| name);
    let second = files.by_ref().filter(|n| n.ends_with(".seg")).nth(1).unwrap();
    disk.remove(&second).unwrap();
    let e = EmbeddedEngine::open(tiny(), Arc::new(disk)).err().unwrap();
    assert_eq!(e.code(), Code::Corrupt);
    assert!(e.message().contains(&second), "{e}");
}

#[test]
fn a_few_dead_letters_do_not_pin_the_log() {
    let disk = SimDisk::new(6);
    let mut bench = Bench::new(Arc::new(disk.clone()), tiny());
    let (dead, mut lease) = writer(&mut bench, 1 << 20);
    let data = bench.engine().create_stream(&stream("f/data", 1, 0)).unwrap();
    let mut expected = Vec::new();
    for n in 1..=600 {
        if n % 60 == 0 {
            expected.push(n as i64);
            put(&mut *lease, dead, n);
        } else {
            put(&mut *lease, data, n);
        }
        bench.settle();
    }
    let stored: u64 = disk.files().iter().map(|(_, n)| n).sum();
    let written = bench.engine().stats().bytes_written;
    assert!(stored < 40_000 && written > 200_000, "{stored} stored of {written}");
    let read = bench.engine().read(dead, 0, 0, usize::MAX).unwrap();
    assert_eq!(read.iter().flat_map(|(_, f)| numbers(f)).collect::<Vec<_>>(), expected);
    bench.restart();
    let read = bench.engine().read(dead, 0, 0, usize::MAX).unwrap();
    assert_eq!(read.iter().flat_map(|(_, f)| numbers(f)).collect::<Vec<_>>(), expected);
}

#[test]
fn consumed_segments_are_removed() {
    let disk = SimDisk::new(8);
    let mut bench = Bench::new(Arc::new(disk.clone()), tiny());
    let (id, mut lease) = writer(&mut bench, 0);
    let mut reader = open(&mut bench, &task("f/read/0", &[(id, 0)]));
    for n in 1..=300 {
        put(&mut *lease, id, n);
        polled(&mut bench, &mut *reader, 0, n - 1, &[n as i64]);
        let mut t = turn(n, vec![], Delta::default());
        t.progress.inputs = vec![read_up_to(n, n)];
        reader.commit(t);
        bench.settle();
    }
    let stats = bench.engine().stats();
    assert!(stats.segments_trimmed > 20, "{stats:?}");
    let stored: u64 = disk.files().iter().map(|(_, n)| n).sum();
    assert!(stored < 30_000, "{stored}");
    assert_eq!(bench.engine().ledger().violations(), [] as [String; 0]);
}

#[test]
fn what_the_operating_system_has_survives_a_kill() {
    let disk = SimDisk::new(9);
    let options = Options { durability: Durability::OsCache, ..tiny() };
    let mut bench = Bench::new(Arc::new(disk), options);
    let (id, mut lease) = writer(&mut bench, 1 << 20);
    for n in 1..=100 {
        let ticket = put(&mut *lease, id, n);
        bench.settle();
        assert!(lease.durable(ticket));
    }
    let stats = bench.engine().stats();
    assert!(stats.fsyncs < 60, "{stats:?}");
    bench.restart();
    assert_eq!(bench.engine().read(id, 0, 0, usize::MAX).unwrap().len(), 100);
}

/// The last records before a crash are durable, which nothing on the disk proves: they are written
/// anew, and must outlive a crash at any moment of that.
#[test]
fn what_is_written_anew_when_opening_survives_the_next_crash() {
    for power in [false, true] {
        let mut finished = false;
        for operation in 1..=40 {
            let disk = SimDisk::new(operation);
            let mut bench = Bench::new(Arc::new(disk.clone()), Options::default());
            let (id, mut lease) = writer(&mut bench, 1 << 20);
            bench.settle();
            put(&mut *lease, id, 1);
            bench.settle();
            // Two in one batch.
            let tickets = [2, 3].map(|n| put(&mut *lease, id, n));
            bench.settle();
            assert!(tickets.iter().all(|ticket| lease.durable(*ticket)));
            disk.crash();
            disk.crash_at(operation);
            if let Ok(mut opened) = EmbeddedEngine::open(Options::default(), bench.disk.clone()) {
                while opened.committer.step() == Progress::Worked {}
            }
            finished |= !disk.is_off();
            match power {
                true => disk.crash(),
                false => bench.disk = Arc::new(disk.fork(operation)),
            }
            bench.restart();
            let found = bench.engine().read(id, 0, 0, usize::MAX).unwrap();
            let rows: Vec<i64> = found.iter().flat_map(|(_, f)| numbers(f)).collect();
            assert_eq!(rows, [1, 2, 3], "killed at operation {operation}, power cut: {power}");
            // And that it can be gone on from.
            let (_, mut lease) = writer(&mut bench, 1 << 20);
            put(&mut *lease, id, 4);
            bench.settle();
            bench.restart();
            assert_eq!(bench.engine().read(id, 0, 0, usize::MAX).unwrap().len(), 4);
        }
        assert!(finished, "opening takes more operations than were tried");
    }
}

#[test]
fn a_directory_belongs_to_one_node() {
    let dir = Temp::new("lock");
    let first = open_dir(&dir.0, Options::default()).unwrap();
    first.engine.dir_lock().unwrap().announce("http://127.0.0.1:7070").unwrap();
    let e = open_dir(&dir.0, Options::default()).err().unwrap();
    let (path, pid) = (dir.0.display(), std::process::id());
    assert_eq!(e.code(), Code::InUse);
    assert_eq!(
        e.message(),
        format!("{path} is in use by another node (pid {pid}, http://127.0.0.1:7070)")
    );
    assert_eq!(holder_http(&dir.0).as_deref(), Some("http://127.0.0.1:7070"));
    drop(first);
    assert_eq!(holder_http(&dir.0), None);
    drop(open_dir(&dir.0, Options::default()).unwrap());
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| std::fs::metadata(dir.0.join(name)).unwrap().permissions().mode();
    assert_eq!((mode("") & 0o777, mode("LOCK") & 0o777), (0o700, 0o600));
}

#[test]
fn threads_make_turns_durable_and_stop_cleanly() {
    let dir = Temp::new("threads");
    let disk = Arc::new(OsDisk::new(&dir.0));
    let (engine, threads) =
        Threads::start(EmbeddedEngine::open(tiny(), disk.clone()).unwrap()).unwrap();
    let (wake, woken) = std::sync::mpsc::sync_channel(1000);
    let id = engine.create_stream(&stream("f/a", 1, 1 << 20)).unwrap();
    let waker: millstream_core::engine::Waker = Arc::new(move || {
        let _ = wake.try_send(());
    });
    let spec = millstream_core::engine::TaskSpec { waker, ..task("f/write/0", &[]) };
    let mut lease = loop {
        match engine.open(&spec).unwrap() {
            Some(lease) => break lease,
            None => woken.recv().unwrap(),
        }
    };
    for n in 1..=200 {
        put(&mut *lease, id, n);
    }
    let last = put(&mut *lease, id, 201);
    while !lease.durable(last) {
        woken.recv().unwrap();
    }
    put(&mut *lease, id, 202);
    drop(threads);
    assert!(matches!(
        lease.commit(turn(203, vec![], Delta::default())),
        t if !lease.durable(t)
    ));
    let again = EmbeddedEngine::open(tiny(), disk).unwrap();
    assert_eq!(again.engine.read(id, 0, 0, usize::MAX).unwrap().len(), 202);
}

#[test]
fn looking_needs_no_lock_and_writes_nothing() {
    let dir = Temp::new("look");
    assert_eq!(open_read_only(&dir.0, Options::default()).err().unwrap().code(), Code::Unknown);
    let mut bench = Bench::new(Arc::new(OsDisk::new(&dir.0)), Options::default());
    let (id, mut lease) = writer(&mut bench, 1 << 20);
    put(&mut *lease, id, 1);
    bench.settle();
    let before = std::fs::read_dir(dir.0.join("log")).unwrap().count();
    let seen = open_read_only(&dir.0, Options::default()).unwrap();
    assert_eq!(seen.read(id, 0, 0, usize::MAX).unwrap().len(), 1);
    assert!(seen.open(&task("f/write/0", &[])).is_err());
    assert!(seen.append(id, 0, frame(lease.task(), 1, &[1])).is_err());
    assert_eq!(std::fs::read_dir(dir.0.join("log")).unwrap().count(), before);
}

#[test]
fn writing_is_amplified_at_most_two_and_a_half_times() {
    for growing in [false, true] {
        let options = Options {
            segment_bytes: 256 << 10,
            compact_bytes_min: 16 << 10,
            block_bytes: 4 << 10,
            garbage_bytes_min: 1 << 20,
            ..Options::default()
        };
        let mut bench = Bench::new(Arc::new(SimDisk::new(11)), options);
        let (_, mut lease) = writer(&mut bench, 0);
        let mut bytes = 0;
        for n in 1..=1000u64 {
            let mut delta = Delta::default();
            for k in 0..100 {
                let key = if growing { n * 100 + k } else { (n * 7919 + k * 13) % 5000 };
                let value = [n as u8; 40];
                delta.push(Change {
                    table: TableId(1),
                    key: &key.to_be_bytes(),
                    value: Some(&value),
                });
            }
            bytes += delta.bytes().len() as u64;
            lease.commit(turn(n, vec![], delta));
            if n % 4 == 0 {
                bench.settle();
            }
        }
        bench.settle();
        let stats = bench.engine().stats();
        assert_eq!(stats.bytes_committed, bytes);
        let percent = 100 * stats.bytes_written / bytes;
        println!("growing {growing}: written {percent} %, {stats:?}");
        assert!(percent <= 250, "growing {growing}: {percent} %, {stats:?}");
        assert!(stats.compactions > 5);
    }
}
