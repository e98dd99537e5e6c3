//! The suite every engine must pass, whatever it is made of.
//!
//! *How:* implement [`Subject`] for the engine and call [`run_all`] with a maker of empty ones; an
//! engine may answer late, ask for a turn again, and lose leases if [`Subject::loses_leases`].
//! Frame numbers rise and may have gaps; what is committed may take a while to reach its readers.
//! Each check is a function of its own in [`CHECKS`]; it panics, saying what it expected, if the
//! engine breaks the contract of [`millstream_core::engine`].

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test suite: a panic is its verdict")]

mod kit;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow_schema::{DataType, Field, Schema};
use millstream_core::{
    Code, Time, Turn,
    engine::{Engine, Lease, Settlement, TaskSpec, Ticket},
    ledger::{OperatorCounters, SourceCounters},
    turn::{Change, Delta, InputProgress, Position, Progress, StreamId, TableId, TaskId},
};

use self::kit::{Held, committed, eventually, frames, handed_in, hold, kept_rows, settled};
pub use self::kit::{
    frame, numbers, open, polled, read_up_to, restored, schema, stream, task, turn,
};

/// An engine under test.
pub trait Subject {
    /// The engine.
    fn engine(&self) -> Arc<dyn Engine>;
    /// Lets everything that was handed in become durable, as far as it can.
    fn settle(&mut self);
    /// Stops the engine, keeping what is durable, and opens it again.
    fn restart(&mut self);
    /// Whether a lease may be lost, and an answer, although nobody has taken the task over. The
    /// suite then does what a task does: opens it again and looks.
    fn loses_leases(&self) -> bool {
        false
    }
    /// Whether it keeps the log itself. Others' logs drop what is old in their own time, and order
    /// as they like what several hand in at once.
    fn owns_its_log(&self) -> bool {
        true
    }
}

/// One behaviour, and the check for it.
pub type Check = (&'static str, fn(&mut dyn Subject));

/// Every check, by name.
pub const CHECKS: &[Check] = &[
    ("streams_are_created_once", streams_are_created_once),
    ("a_conflicting_stream_is_refused", a_conflicting_stream_is_refused),
    ("frames_come_in_the_order_of_commits", frames_come_in_the_order_of_commits),
    ("a_turn_is_visible_whole", a_turn_is_visible_whole),
    ("an_old_lease_is_fenced", an_old_lease_is_fenced),
    ("opens_are_counted_until_a_commit", opens_are_counted_until_a_commit),
    (
        "a_turn_that_did_nothing_leaves_openings_counted",
        a_turn_that_did_nothing_leaves_openings_counted,
    ),
    ("restore_gives_the_last_value_of_each_key", restore_gives_the_last_value_of_each_key),
    ("a_restart_keeps_what_was_durable", a_restart_keeps_what_was_durable),
    ("frames_are_trimmed_by_keep_from", frames_are_trimmed_by_keep_from),
    ("the_slowest_consumer_decides_what_is_kept", the_slowest_consumer_decides_what_is_kept),
    ("a_late_consumer_starts_at_the_oldest_frame", a_late_consumer_starts_at_the_oldest_frame),
    ("unread_streams_keep_what_they_retain", unread_streams_keep_what_they_retain),
    ("backlog_counts_what_lies_unread", backlog_counts_what_lies_unread),
    ("the_ledger_balances", the_ledger_balances),
    ("people_read_only_what_is_durable", people_read_only_what_is_durable),
    ("consumers_are_woken", consumers_are_woken),
    ("appends_from_outside_are_in_order", appends_from_outside_are_in_order),
    ("reading_keeps_to_its_budget", reading_keeps_to_its_budget),
];

/// Runs every check on an engine of its own.
pub fn run_all<S: Subject>(mut make: impl FnMut(&str) -> S) {
    for (name, check) in CHECKS {
        check(&mut make(name));
    }
}

fn streams_are_created_once(subject: &mut dyn Subject) {
    let engine = subject.engine();
    assert!(!engine.has_stream("f/a").unwrap());
    let a = engine.create_stream(&stream("f/a", 2, 0)).unwrap();
    let b = engine.create_stream(&stream("f/b", 1, 9)).unwrap();
    assert_ne!(a, b);
    assert_eq!(engine.create_stream(&stream("f/a", 2, 0)).unwrap(), a);
    subject.settle();
    subject.restart();
    let engine = subject.engine();
    assert!(engine.has_stream("f/a").unwrap() && !engine.has_stream("f/c").unwrap());
    assert_eq!(engine.create_stream(&stream("f/b", 1, 9)).unwrap(), b);
    let names: Vec<_> = engine.streams().into_iter().map(|s| (s.spec, s.id)).collect();
    assert_eq!(names, [(stream("f/a", 2, 0), a), (stream("f/b", 1, 9), b)]);
}

fn a_conflicting_stream_is_refused(subject: &mut dyn Subject) {
    let engine = subject.engine();
    engine.create_stream(&stream("f/a", 2, 0)).unwrap();
    let e = engine.create_stream(&stream("f/a", 3, 0)).unwrap_err();
    assert_eq!(e.code(), Code::Conflict);
    assert!(e.message().contains("2 partitions") && e.message().contains("3 partitions"), "{e}");
    assert!(!e.advice().is_empty(), "it says what to do");
    let mut other = stream("f/a", 2, 0);
    other.schema = Arc::new(Schema::new(vec![Field::new("m", DataType::Utf8, true)]));
    let e = engine.create_stream(&other).unwrap_err();
    assert_eq!(e.code(), Code::Conflict);
    assert!(e.message().contains("n Int64") && e.message().contains("m Utf8"), "{e}");
    assert!(engine.create_stream(&stream("f/none", 0, 0)).is_err(), "no partition");
}

fn frames_come_in_the_order_of_commits(subject: &mut dyn Subject) {
    let id = subject.engine().create_stream(&stream("f/a", 2, 0)).unwrap();
    let mut reader = hold(subject, &task("f/read/0", &[(id, 0), (id, 1)]));
    let mut one = hold(subject, &task("f/one/0", &[]));
    let mut two = hold(subject, &task("f/two/0", &[]));
    for n in 0..10 {
        let (a, b) = (one.task(), two.task());
        committed(
            subject,
            &mut one,
            turn(n + 1, vec![(id, 0, frame(a, n, &[n as i64]))], Delta::default()),
        );
        committed(
            subject,
            &mut two,
            turn(
                n + 1,
                vec![(id, 0, frame(b, n, &[100 + n as i64])), (id, 1, frame(b, n, &[n as i64]))],
                Delta::default(),
            ),
        );
        if n % 3 == 0 {
            subject.settle();
        }
    }
    let expected: Vec<i64> = (0..10).flat_map(|n| [n, 100 + n]).collect();
    let at = polled(subject, &mut *reader, 0, 0, &expected);
    polled(subject, &mut *reader, 0, at[7], &expected[7..]);
    let at = polled(subject, &mut *reader, 1, 0, &(0..10).collect::<Vec<_>>());
    polled(subject, &mut *reader, 1, at[9] + 1, &[]);
    polled(subject, &mut *reader, 0, 0, &expected); // also back
}

fn a_turn_is_visible_whole(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let b = subject.engine().create_stream(&stream("f/b", 1, 0)).unwrap();
    let mut reader = hold(subject, &task("f/read/0", &[(a, 0), (b, 0)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    // One output names a partition that does not exist: nothing of the turn may be seen.
    let bad =
        turn(1, vec![(a, 0, frame(id, 1, &[1])), (b, 7, frame(id, 1, &[2]))], Delta::default());
    let (ticket, end) = handed_in(subject, &mut writer, &bad);
    assert!(matches!(end, Settlement::Fatal(_)), "{end:?}");
    assert!(!writer.durable(ticket));
    polled(subject, &mut *reader, 0, 0, &[]);
    let mut writer = hold(subject, &task("f/write/0", &[]));
    committed(
        subject,
        &mut writer,
        turn(1, vec![(a, 0, frame(id, 1, &[1])), (b, 0, frame(id, 1, &[2]))], Delta::default()),
    );
    polled(subject, &mut *reader, 0, 0, &[1]);
    polled(subject, &mut *reader, 1, 0, &[2]);
    let tasks = subject.engine().tasks();
    let found = tasks.iter().find(|(name, ..)| name == "f/write/0").unwrap();
    assert_eq!((found.1, found.2.turn), (id, 1));
}

fn an_old_lease_is_fenced(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let mut reader = hold(subject, &task("f/read/0", &[(a, 0)]));
    let mut old = hold(subject, &task("f/write/0", &[]));
    let id = old.task();
    committed(subject, &mut old, turn(1, vec![(a, 0, frame(id, 1, &[1]))], Delta::default()));
    let mut new = hold(subject, &task("f/write/0", &[]));
    assert_eq!(new.task(), id, "a task keeps its number");
    assert_eq!(new.recovered().progress.turn, 1);
    let ticket = old.commit(turn(2, vec![(a, 0, frame(id, 2, &[666]))], Delta::default()));
    let end = settled(subject, &mut *old, ticket);
    let lost = end == Settlement::Unknown && subject.loses_leases();
    assert!(end == Settlement::Fenced || lost, "{end:?}");
    let again = old.commit(turn(2, vec![], Delta::default()));
    assert_eq!(settled(subject, &mut *old, again), Settlement::Fenced);
    committed(subject, &mut new, turn(2, vec![(a, 0, frame(id, 2, &[2]))], Delta::default()));
    subject.settle();
    assert!(!old.durable(ticket));
    polled(subject, &mut *reader, 0, 0, &[1, 2]);
}

fn opens_are_counted_until_a_commit(subject: &mut dyn Subject) {
    let spec = task("f/crash/0", &[]);
    for expected in 1..=3 {
        assert_eq!(hold(subject, &spec).recovered().opens, expected);
        if expected == 2 {
            subject.restart();
        }
    }
    let mut lease = hold(subject, &spec);
    assert_eq!(lease.recovered().opens, 4);
    assert!(lease.durable(Ticket(0)), "what was before the lease is durable");
    committed(subject, &mut lease, turn(1, vec![], Delta::default()));
    subject.settle();
    subject.restart();
    // The commit may have been found by opening once more.
    let once_more = u32::from(subject.loses_leases());
    let opens = hold(subject, &spec).recovered().opens;
    assert!((1..=1 + once_more).contains(&opens), "{opens}");
}

fn a_turn_that_did_nothing_leaves_openings_counted(subject: &mut dyn Subject) {
    let spec = task("f/crash/0", &[]);
    let mut lease = hold(subject, &spec);
    let mut quiet = turn(1, vec![], Delta::default());
    quiet.progress.quiet = true;
    committed(subject, &mut lease, quiet);
    subject.settle();
    subject.restart();
    let lease = hold(subject, &spec);
    let (opens, turn) = (lease.recovered().opens, lease.recovered().progress.turn);
    assert!(opens >= 2 && turn == 1, "{opens} openings, turn {turn}");
}

fn restore_gives_the_last_value_of_each_key(subject: &mut dyn Subject) {
    let spec = task("f/count/0", &[]);
    let (t, u) = (TableId::of("t"), TableId::of("u"));
    let mut model = BTreeMap::new();
    for round in 0..3u64 {
        let mut lease = hold(subject, &spec);
        assert_eq!(restored(&mut *lease), model, "round {round}");
        for n in 1..=20u64 {
            let mut delta = Delta::default();
            for k in 0..10u64 {
                // At most one change per table and key in a turn.
                let key = (3 * k + n % 5).to_be_bytes();
                let table = if k % 2 == 0 { t } else { u };
                let value = (n + 100 * round).to_le_bytes();
                let value = ((n + k + round) % 5 > 0).then_some(&value[..]);
                delta.push(Change { table, key: &key, value });
                match value {
                    Some(value) => model.insert((table, key.to_vec()), value.to_vec()),
                    None => model.remove(&(table, key.to_vec())),
                };
            }
            committed(subject, &mut lease, turn(round * 20 + n, vec![], delta));
        }
        subject.settle();
        if round == 1 {
            subject.restart();
        }
    }
    let mut lease = hold(subject, &spec);
    assert!(lease.recovered().changes_max >= model.len() as u64);
    assert_eq!(restored(&mut *lease), model);
}

fn a_restart_keeps_what_was_durable(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let mut reader = hold(subject, &task("f/read/0", &[(a, 0)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    let mut last = None;
    for n in 1..=5 {
        let mut t = turn(n, vec![(a, 0, frame(id, n, &[n as i64]))], Delta::default());
        t.progress.note = vec![n as u8; 3];
        t.progress.clock = Time::from_ms(n as i64);
        last = Some((committed(subject, &mut writer, t.clone()), t.progress));
    }
    let at = polled(subject, &mut *reader, 0, 0, &[1, 2, 3, 4, 5]);
    let mut position = turn(1, vec![], Delta::default());
    position.progress.inputs = vec![InputProgress { keep_from: at[1], ..read_up_to(at[2], 2) }];
    committed(subject, &mut reader, position);
    subject.settle();
    let (ticket, progress) = last.unwrap();
    assert!(writer.durable(ticket) && subject.engine().durable(ticket));
    for _ in 0..3 {
        subject.restart();
        let writer = hold(subject, &task("f/write/0", &[]));
        assert_eq!((writer.task(), &writer.recovered().progress), (id, &progress));
        let mut reader = hold(subject, &task("f/read/0", &[(a, 0)]));
        assert_eq!(reader.recovered().progress.inputs[0].position.frame, at[2]);
        assert!(!frames(&mut *reader, 0, at[1]).is_empty(), "before the position, at once");
        polled(subject, &mut *reader, 0, at[1], &[2, 3, 4, 5]);
        eventually(subject, "the first was trimmed", &vec![2, 3, 4, 5], |s| kept_rows(s, a));
    }
}

fn frames_are_trimmed_by_keep_from(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let mut reader = hold(subject, &task("f/read/0", &[(a, 0)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    for n in 1..=6 {
        committed(
            subject,
            &mut writer,
            turn(n, vec![(a, 0, frame(id, n, &[n as i64]))], Delta::default()),
        );
    }
    let at = polled(subject, &mut *reader, 0, 0, &[1, 2, 3, 4, 5, 6]);
    let mut t = turn(1, vec![], Delta::default());
    t.progress.inputs = vec![InputProgress { keep_from: at[2], ..read_up_to(at[4], 4) }];
    committed(subject, &mut reader, t);
    eventually(subject, "two were trimmed", &vec![3, 4, 5, 6], |s| kept_rows(s, a));
    polled(subject, &mut *reader, 0, at[2], &[3, 4, 5, 6]); // it may read again from keep_from
    eventually(subject, "never a silent gap", &true, |_| {
        reader.poll(0, Position { frame: at[1], row: 0 }, 1).is_err()
    });
    // Nonsense must not lose what was not read.
    let mut t = turn(2, vec![], Delta::default());
    t.progress.inputs = vec![InputProgress { keep_from: at[5] + 1, ..read_up_to(at[5], 5) }];
    committed(subject, &mut reader, t);
    eventually(subject, "five were trimmed", &vec![6], |s| kept_rows(s, a));
    assert_eq!(subject.engine().streams()[0].appended_rows, 6);
}

fn the_slowest_consumer_decides_what_is_kept(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let mut fast = hold(subject, &task("f/fast/0", &[(a, 0)]));
    let mut slow = hold(subject, &task("f/slow/0", &[(a, 0)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    for n in 1..=4 {
        committed(
            subject,
            &mut writer,
            turn(n, vec![(a, 0, frame(id, n, &[n as i64]))], Delta::default()),
        );
    }
    let at = polled(subject, &mut *fast, 0, 0, &[1, 2, 3, 4]);
    let mut t = turn(1, vec![], Delta::default());
    t.progress.inputs = vec![read_up_to(at[3] + 1, 4)];
    committed(subject, &mut fast, t.clone());
    subject.settle();
    assert_eq!(kept_rows(subject, a), [1, 2, 3, 4]);
    subject.restart();
    let mut slow_again = hold(subject, &task("f/slow/0", &[(a, 0)]));
    polled(subject, &mut *slow_again, 0, 0, &[1, 2, 3, 4]);
    t.progress.inputs = vec![read_up_to(at[3], 3)];
    committed(subject, &mut slow_again, t);
    eventually(subject, "three were trimmed", &vec![4], |s| kept_rows(s, a));
    drop(slow.poll(0, Position::default(), 1));
}

fn a_late_consumer_starts_at_the_oldest_frame(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let mut first = hold(subject, &task("f/first/0", &[(a, 0)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    for n in 1..=4 {
        committed(
            subject,
            &mut writer,
            turn(n, vec![(a, 0, frame(id, n, &[n as i64, 0]))], Delta::default()),
        );
    }
    let at = polled(subject, &mut *first, 0, 0, &[1, 0, 2, 0, 3, 0, 4, 0]);
    let mut t = turn(1, vec![], Delta::default());
    t.progress.inputs = vec![read_up_to(at[3], 6)];
    committed(subject, &mut first, t);
    eventually(subject, "three were trimmed", &vec![4, 0], |s| kept_rows(s, a));
    let mut late = hold(subject, &task("f/late/0", &[(a, 0)]));
    let found = late.recovered().progress.inputs[0].clone();
    assert!(found.position.frame <= at[3] && found.keep_from <= at[3], "{found:?}");
    assert_eq!(found.rows, 0);
    polled(subject, &mut *late, 0, found.position.frame, &[4, 0]);
    assert_eq!(subject.engine().ledger().violations(), [] as [String; 0]);
    let mut t = turn(1, vec![], Delta::default());
    let half = Position { frame: at[3], row: 1 };
    t.progress.inputs = vec![InputProgress { position: half, rows: 1, ..read_up_to(at[3], 1) }];
    committed(subject, &mut late, t);
    assert_eq!(subject.engine().ledger().violations(), [] as [String; 0]);
    let line = subject.engine().ledger().streams.into_iter().find(|l| l.consumer == "f/late/0");
    let line = line.unwrap();
    // What was gone before it came was never its to read. Half a frame is not read yet.
    assert_eq!(line.appended, line.read + line.backlog, "{line:?}");
    assert_eq!(line.read, 1);
}

fn unread_streams_keep_what_they_retain(subject: &mut dyn Subject) {
    let size = frame(TaskId(1), 1, &[1]).bytes().len() as u64;
    let kept = subject.engine().create_stream(&stream("f/dead", 1, 3 * size)).unwrap();
    let lost = subject.engine().create_stream(&stream("f/none", 1, 0)).unwrap();
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    for n in 1..=5 {
        let f = frame(id, n, &[n as i64]);
        committed(
            subject,
            &mut writer,
            turn(n, vec![(kept, 0, f.clone()), (lost, 0, f)], Delta::default()),
        );
    }
    subject.settle();
    let newest = |subject: &mut dyn Subject, stream, expected: &[i64]| {
        let rows = kept_rows(subject, stream);
        assert!(rows.ends_with(expected), "{rows:?}");
        assert!(!subject.owns_its_log() || rows == expected, "{rows:?}");
    };
    for _ in 0..2 {
        eventually(subject, "rows appended", &vec![5, 5], |s| {
            s.engine().streams().iter().map(|s| s.appended_rows).collect()
        });
        newest(subject, kept, &[3, 4, 5]);
        newest(subject, lost, &[]);
        subject.restart();
    }
    // A consumer comes: from now on nothing expires.
    let mut reader = hold(subject, &task("f/replay/0", &[(kept, 0)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    for n in 6..=9 {
        let f = frame(id, n, &[n as i64]);
        committed(subject, &mut writer, turn(n, vec![(kept, 0, f)], Delta::default()));
    }
    let from = reader.recovered().progress.inputs[0].position.frame;
    let first = if subject.owns_its_log() { 3 } else { 1 };
    polled(subject, &mut *reader, 0, from, &(first..=9).collect::<Vec<_>>());
    assert_eq!(subject.engine().ledger().violations(), [] as [String; 0]);
}

fn backlog_counts_what_lies_unread(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 2, 0)).unwrap();
    let mut reader = hold(subject, &task("f/read/0", &[(a, 0), (a, 1)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    assert_eq!(subject.engine().backlog(a).rows, 0);
    let (x, y) = (frame(id, 1, &[1, 2, 3]), frame(id, 1, &[4]));
    let bytes = (x.bytes().len() + y.bytes().len()) as u64;
    committed(subject, &mut writer, turn(1, vec![(a, 0, x), (a, 1, y)], Delta::default()));
    let backlog = subject.engine().backlog(a);
    assert_eq!((backlog.rows, backlog.bytes), (4, bytes));
    let at = polled(subject, &mut *reader, 0, 0, &[1, 2, 3]);
    let other = polled(subject, &mut *reader, 1, 0, &[4]);
    let mut t = turn(1, vec![], Delta::default());
    let part = InputProgress {
        position: Position { frame: at[0], row: 2 },
        rows: 2,
        ..InputProgress::default()
    };
    t.progress.inputs = vec![part, read_up_to(other[0] + 1, 1)];
    committed(subject, &mut reader, t);
    assert_eq!(subject.engine().backlog(a).rows, 1);
    subject.settle();
    subject.restart();
    assert_eq!(subject.engine().backlog(a).rows, 1);
}

fn the_ledger_balances(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 2, 0)).unwrap();
    let mut readers: Vec<_> =
        (0..2).map(|p| hold(subject, &task(&format!("f/read/{p}"), &[(a, p)]))).collect();
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    let mut written = Progress::default();
    for n in 1..=6 {
        let mut t = turn(
            n,
            vec![(a, 0, frame(id, n, &[1, 2])), (a, 1, frame(id, n, &[3]))],
            Delta::default(),
        );
        t.progress.counters.source =
            Some(SourceCounters { units: 4 * n, rows: 3 * n, undecodable: n, skipped: 0 });
        t.progress.counters.sent.insert(a, 3 * n);
        written = t.progress.clone();
        committed(subject, &mut writer, t);
    }
    let mut read = Progress::default();
    for (p, reader) in readers.iter_mut().enumerate() {
        let (rows, all) = if p == 0 { (8, [1, 2].repeat(6)) } else { (4, vec![3; 6]) };
        let at = polled(subject, &mut **reader, 0, 0, &all);
        let mut t = turn(1, vec![], Delta::default());
        t.progress.inputs = vec![read_up_to(at[4], rows)];
        let counted =
            OperatorCounters { read: rows, processed: rows - 1, late: 1, ..Default::default() };
        t.progress.counters.operators.insert("count".into(), counted);
        read = t.progress.clone();
        committed(subject, reader, t);
    }
    // From outside of any task, and not the task's to count.
    let ticket = subject.engine().append(a, 0, frame(TaskId(0), 1, &[4])).unwrap();
    eventually(subject, "appended", &true, |s| s.engine().durable(ticket));
    subject.settle();
    for _ in 0..2 {
        let ledger = subject.engine().ledger();
        assert_eq!(ledger.violations(), [] as [String; 0]);
        assert_eq!(ledger.sources["f/write"].units, 24);
        assert_eq!(ledger.operators["f/read/count"].read, 12);
        let line = ledger.streams.iter().find(|l| l.stream == "f/a/0").unwrap();
        assert_eq!((line.appended, line.read, line.backlog, line.expired), (13, 8, 5, 0));
        let line = ledger.edges.iter().find(|l| l.stream == "f/a").unwrap();
        assert_eq!((line.sent, line.outside, line.appended), (18, 1, 19));
        subject.restart();
    }
    // One row lost in each place in turn: its law notices, and no other does.
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let mut reader = hold(subject, &task("f/read/1", &[(a, 1)]));
    type Lose = fn(&mut Progress, StreamId);
    let lost_by_writer: [(Lose, &str); 3] = [
        (
            |p, _| p.counters.source.as_mut().unwrap().rows -= 1,
            "source f/write: 24 units seen, 23 accounted for",
        ),
        (
            |p, a| *p.counters.sent.get_mut(&a).unwrap() += 1,
            "stream f/a: 19 rows sent + 1 from outside, 19 appended",
        ),
        (
            |p, a| *p.counters.sent.get_mut(&a).unwrap() -= 1,
            "stream f/a: 17 rows sent + 1 from outside, 19 appended",
        ),
    ];
    let lost_by_reader: [(Lose, &str); 2] = [
        (
            |p, _| p.counters.operators.get_mut("count").unwrap().processed -= 1,
            "operator f/read/count: 12 rows read, 11 accounted for",
        ),
        (
            |p, _| p.inputs[0].rows -= 1,
            "stream f/a/1 -> f/read/1: 6 rows appended, 3 read + 2 waiting + 0 expired",
        ),
    ];
    let mut number = 100;
    let mut check = |held: &mut Held, good: &Progress, lose: Lose, law: &str| {
        let mut bad = good.clone();
        lose(&mut bad, a);
        for (progress, expected) in [(&bad, vec![law.to_string()]), (good, Vec::new())] {
            number += 1;
            let progress = Progress { turn: number, ..progress.clone() };
            committed(subject, held, Turn { progress, ..Turn::default() });
            assert_eq!(subject.engine().ledger().violations(), expected);
        }
    };
    lost_by_writer.iter().for_each(|(lose, law)| check(&mut writer, &written, *lose, law));
    lost_by_reader.iter().for_each(|(lose, law)| check(&mut reader, &read, *lose, law));
}

fn people_read_only_what_is_durable(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 1 << 20)).unwrap();
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    let ticket = committed(
        subject,
        &mut writer,
        turn(1, vec![(a, 0, frame(id, 1, &[1]))], Delta::default()),
    );
    let found = subject.engine().read(a, 0, 0, usize::MAX).unwrap();
    assert_eq!(found.len(), usize::from(subject.engine().durable(ticket)));
    subject.settle();
    assert!(subject.engine().durable(ticket) && writer.durable(ticket));
    assert_eq!(subject.engine().read(a, 0, 0, usize::MAX).unwrap().len(), 1);
    assert!(subject.engine().read(a, 1, 0, 1).is_err(), "no such partition");
}

fn consumers_are_woken(subject: &mut dyn Subject) {
    let counter = |n: &Arc<AtomicUsize>| {
        let n = n.clone();
        Arc::new(move || {
            n.fetch_add(1, Ordering::SeqCst);
        }) as millstream_core::engine::Waker
    };
    let (reads, writes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let _reader =
        hold(subject, &TaskSpec { waker: counter(&reads), ..task("f/read/0", &[(a, 0)]) });
    let mut writer = hold(subject, &TaskSpec { waker: counter(&writes), ..task("f/write/0", &[]) });
    subject.settle();
    let (reads_before, writes_before) =
        (reads.load(Ordering::SeqCst), writes.load(Ordering::SeqCst));
    let id = writer.task();
    let ticket = committed(
        subject,
        &mut writer,
        turn(1, vec![(a, 0, frame(id, 1, &[1]))], Delta::default()),
    );
    subject.settle();
    assert!(writer.durable(ticket));
    eventually(subject, "the input has a new frame", &true, |_| {
        reads.load(Ordering::SeqCst) > reads_before
    });
    assert!(writes.load(Ordering::SeqCst) > writes_before, "the turn is durable");
}

fn appends_from_outside_are_in_order(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let mut reader = hold(subject, &task("f/read/0", &[(a, 0)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    let mut last = Ticket(0);
    for n in 0..4 {
        last = subject.engine().append(a, 0, frame(TaskId(0), n, &[2 * n as i64])).unwrap();
        if !subject.owns_its_log() {
            // Where many write, only what one has waited for comes before what it does next.
            eventually(subject, "appended", &true, |s| s.engine().durable(last));
        }
        let f = frame(id, n, &[2 * n as i64 + 1]);
        committed(subject, &mut writer, turn(n + 1, vec![(a, 0, f)], Delta::default()));
    }
    polled(subject, &mut *reader, 0, 0, &[0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(subject.engine().append(a, 1, frame(TaskId(0), 1, &[1])).is_err());
    subject.settle();
    assert!(subject.engine().durable(last));
    subject.restart();
    let mut reader = hold(subject, &task("f/read/0", &[(a, 0)]));
    polled(subject, &mut *reader, 0, 0, &[0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(subject.engine().ledger().violations(), [] as [String; 0]);
}

fn reading_keeps_to_its_budget(subject: &mut dyn Subject) {
    let a = subject.engine().create_stream(&stream("f/a", 1, 0)).unwrap();
    let mut reader = hold(subject, &task("f/read/0", &[(a, 0)]));
    let mut writer = hold(subject, &task("f/write/0", &[]));
    let id = writer.task();
    let size = frame(id, 1, &[1]).bytes().len();
    for n in 1..=6 {
        committed(
            subject,
            &mut writer,
            turn(n, vec![(a, 0, frame(id, n, &[n as i64]))], Delta::default()),
        );
    }
    let at = polled(subject, &mut *reader, 0, 0, &[1, 2, 3, 4, 5, 6]);
    let count = |lease: &mut dyn Lease, from, bytes| {
        lease.poll(0, Position { frame: from, row: 0 }, bytes).unwrap().len()
    };
    assert_eq!(count(&mut *reader, 0, 3 * size), 3);
    assert_eq!(count(&mut *reader, 0, 1), 1, "at least one");
    assert_eq!(count(&mut *reader, at[5], usize::MAX), 1);
    assert_eq!(count(&mut *reader, at[5] + 1, usize::MAX), 0);
}
