use std::sync::atomic::{AtomicBool, Ordering};

use millstream_core::Code;

use super::*;
use crate::client::{Record, conformance};

fn cluster(partitions: u32) -> (Cluster, Arc<Connection>) {
    let cluster = Cluster::new();
    let client = cluster.connect("one");
    let spec = TopicSpec { name: "t".into(), partitions, settings: Vec::new() };
    client.create_topic(&spec).unwrap();
    (cluster, client)
}

fn at(partition: u32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn silent() -> Waker {
    Arc::new(|| ())
}

fn records(of: &[(u32, &str, Option<&str>)]) -> Records {
    let mut records = Records::default();
    for (partition, key, value) in of {
        let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
        records.push(&at(*partition), Record { key, value, headers: &[], time: None });
    }
    records
}

fn one(value: &str) -> Records {
    records(&[(0, "k", Some(value))])
}

/// What can be read of a partition, with offsets.
fn read(client: &dyn Client, partition: u32) -> Vec<(u64, String)> {
    let mut reader =
        client.reader(&at(partition), Start::Earliest, Lane::Inputs, 100, silent()).unwrap();
    let mut found = Vec::new();
    while let Some(piece) = reader.poll().unwrap() {
        let text = |v: Option<&[u8]>| String::from_utf8_lossy(v.unwrap_or(b"-")).into_owned();
        found.extend(piece.iter().map(|(offset, record)| (offset, text(record.value))));
    }
    assert_eq!(reader.reached(), Some(client.range(&at(partition)).unwrap().end));
    found
}

fn values(client: &dyn Client, partition: u32) -> Vec<String> {
    read(client, partition).into_iter().map(|(_, value)| value).collect()
}

/// Lets the next event of this kind happen.
fn let_happen(cluster: &Cluster, kind: fn(&What) -> bool) {
    assert!(cluster.step(|event| kind(&event.what)), "{:?}", cluster.pending());
}

fn produce(what: &What) -> bool {
    matches!(what, What::Produce { .. })
}

fn commit(what: &What) -> bool {
    matches!(what, What::Commit { .. })
}

fn mark(what: &What) -> bool {
    matches!(what, What::Mark { .. })
}

fn answer(what: &What) -> bool {
    matches!(what, What::Answer { .. })
}

fn pending(cluster: &Cluster, kind: fn(&What) -> bool) -> u64 {
    let found = cluster.pending().into_iter().find(|event| kind(&event.what));
    found.unwrap_or_else(|| panic!("{:?}", cluster.pending())).number
}

#[test]
fn memory_passes_the_suite() {
    let client: Arc<dyn Client> = Cluster::new().connect("one");
    conformance::run_all(&client, "suite-");
}

/// As real brokers: whatever can happen happens, in some order, in its own time.
#[test]
fn memory_passes_the_suite_when_all_takes_time() {
    for seed in 1..4_u64 {
        let cluster = Cluster::new();
        cluster.hold();
        let client: Arc<dyn Client> = cluster.connect("one");
        let over = Arc::new(AtomicBool::new(false));
        let (brokers, ended) = (cluster.clone(), over.clone());
        let brokers = std::thread::spawn(move || {
            let mut rng = seed;
            while !ended.load(Ordering::Relaxed) {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pending = brokers.pending();
                let pick = (rng >> 33) as usize;
                // Marks come late: much is to be seen before them.
                let next = pending.get(pick % pending.len().max(1));
                match next.filter(|event| !mark(&event.what) || pick.is_multiple_of(64)) {
                    Some(event) => _ = brokers.perform(event.number),
                    None => std::thread::yield_now(),
                }
            }
        });
        conformance::run_all(&client, "suite-");
        over.store(true, Ordering::Relaxed);
        brokers.join().unwrap();
    }
}

#[test]
fn a_transaction_goes_step_by_step() {
    let (cluster, client) = cluster(2);
    let mut writer = client.writer("w", silent()).unwrap();
    assert_eq!(writer.outcome(), Some(Outcome::Ready));
    cluster.hold();
    writer.submit(records(&[(0, "k", Some("a")), (1, "k", Some("b"))]));
    writer.submit(one("next"));
    let before = records(&[(0, "k", Some("outside"))]);
    let_happen(&cluster, produce);
    client.append(before, Box::new(|offset| assert_eq!(offset, Ok(1))));
    let_happen(&cluster, |what| matches!(what, What::Append { records: 1 }));
    assert_eq!(client.range(&at(0)).unwrap(), 0..0, "readers stop at what is open");
    assert_eq!(cluster.records(&at(0)), 2);
    let_happen(&cluster, commit);
    assert_eq!((writer.outcome(), read(&*client, 0)), (None, vec![]));
    let_happen(&cluster, mark);
    assert_eq!(values(&*client, 0), ["a", "outside"]);
    assert_eq!(values(&*client, 1), [""; 0], "each partition gets its mark apart");
    let_happen(&cluster, answer);
    assert_eq!(writer.outcome(), Some(Outcome::Committed));
    assert!(!cluster.step(|event| produce(&event.what)), "a mark is missing");
    let_happen(&cluster, mark);
    cluster.settle();
    assert_eq!(writer.outcome(), Some(Outcome::Committed));
    let found = read(&*client, 0);
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(client.range(&at(0)).unwrap(), 0..5, "marks take offsets");
    assert!(cluster.open_transactions().is_empty());
}

#[test]
fn the_answer_of_a_commit_is_lost() {
    let (cluster, client) = cluster(1);
    let mut writer = client.writer("w", silent()).unwrap();
    assert_eq!(writer.outcome(), Some(Outcome::Ready));
    cluster.hold();
    writer.submit(one("a"));
    writer.submit(one("b"));
    let_happen(&cluster, produce);
    let_happen(&cluster, commit);
    assert!(!cluster.lose(pending(&cluster, mark)), "brokers try again");
    assert!(cluster.lose(pending(&cluster, answer)));
    assert_eq!(
        [writer.outcome(), writer.outcome()],
        [Some(Outcome::Unknown), Some(Outcome::Fenced)]
    );
    // The one that takes over completes what was being committed.
    let mut next = client.writer("w", silent()).unwrap();
    cluster.step(|event| matches!(event.what, What::TakeOver { .. }));
    assert_eq!(next.outcome(), None, "a mark is missing");
    cluster.settle();
    assert_eq!(next.outcome(), Some(Outcome::Ready));
    assert_eq!(values(&*client, 0), ["a"]);
}

#[test]
fn a_commit_that_comes_late_is_fenced() {
    let (cluster, client) = cluster(1);
    let mut writer = client.writer("w", silent()).unwrap();
    cluster.hold();
    assert_eq!(writer.outcome(), Some(Outcome::Ready));
    writer.submit(one("late"));
    let_happen(&cluster, produce);
    assert!(cluster.give_up(pending(&cluster, commit)));
    assert_eq!(writer.outcome(), Some(Outcome::Unknown));
    let mut next = client.writer("w", silent()).unwrap();
    cluster.step(|event| matches!(event.what, What::TakeOver { .. }));
    let_happen(&cluster, mark);
    let_happen(&cluster, answer);
    assert_eq!(next.outcome(), Some(Outcome::Ready));
    next.submit(one("next"));
    let_happen(&cluster, produce);
    let_happen(&cluster, commit); // the older one's
    assert_eq!(values(&*client, 0), [""; 0]);
    cluster.settle();
    assert_eq!(next.outcome(), Some(Outcome::Committed));
    assert_eq!(read(&*client, 0), [(2, "next".to_string())], "what was aborted took offsets");
}

#[test]
fn a_paused_client_is_fenced_when_it_goes_on() {
    let (cluster, client) = cluster(1);
    let zombie = cluster.connect("zombie");
    let mut old = zombie.writer("w", silent()).unwrap();
    assert_eq!(old.outcome(), Some(Outcome::Ready));
    cluster.hold();
    old.submit(one("zombie"));
    let_happen(&cluster, produce);
    zombie.cut();
    assert!(cluster.pending().is_empty() && zombie.trouble().is_some());
    cluster.release();
    let mut new = client.writer("w", silent()).unwrap();
    assert_eq!(new.outcome(), Some(Outcome::Ready));
    new.submit(one("new"));
    assert_eq!((old.outcome(), new.outcome()), (None, Some(Outcome::Committed)));
    zombie.mend();
    assert_eq!(old.outcome(), Some(Outcome::Fenced));
    assert_eq!(values(&*client, 0), ["new"]);
}

#[test]
fn a_client_that_dies_leaves_its_transaction_open() {
    for arrives in [false, true] {
        let (cluster, client) = cluster(1);
        let dying = cluster.connect("dying");
        let mut writer = dying.writer("w", silent()).unwrap();
        cluster.hold();
        writer.submit(one("last"));
        let_happen(&cluster, produce);
        dying.crash();
        if !arrives {
            cluster.lose(pending(&cluster, commit));
        }
        cluster.release();
        assert_eq!(values(&*client, 0).len(), usize::from(arrives));
        assert_eq!(cluster.open_transactions().len(), usize::from(!arrives));
        assert_eq!(cluster.expire("w"), !arrives, "in the end the brokers abort it");
        assert_eq!(client.range(&at(0)).unwrap(), 0..2);
        assert!(dying.topic("t").is_err() && writer.outcome().is_none());
    }
}

#[test]
fn two_that_take_over_at_once_leave_one() {
    let (cluster, client) = cluster(1);
    let mut dead = client.writer("w", silent()).unwrap();
    cluster.hold();
    dead.submit(one("open"));
    let_happen(&cluster, produce);
    let mut writers = [(); 2].map(|()| client.writer("w", silent()).unwrap());
    cluster.settle();
    assert_eq!(dead.outcome(), Some(Outcome::Ready));
    let outcomes = writers.each_mut().map(|w| w.outcome());
    assert_eq!(outcomes, [Some(Outcome::Fenced), Some(Outcome::Ready)]);
}

#[test]
fn brokers_refuse_what_they_are_told_to() {
    let (cluster, client) = cluster(1);
    let mut writer = client.writer("w", silent()).unwrap();
    assert_eq!(writer.outcome(), Some(Outcome::Ready));
    cluster.hold();
    writer.submit(one("a"));
    let error = Error::new(Code::Permission, "no right to write");
    assert!(cluster.refuse(pending(&cluster, produce), error.clone()));
    cluster.settle();
    assert_eq!(writer.outcome(), Some(Outcome::Refused(error)));
    assert_eq!(cluster.records(&at(0)), 0);
}

#[test]
fn compaction_keeps_the_last_of_each_key() {
    let (cluster, client) = cluster(1);
    let settings = [("cleanup.policy".to_string(), "compact".to_string())];
    client.set_topic("t", &settings).unwrap();
    let mut writer = client.writer("w", silent()).unwrap();
    writer.submit(records(&[(0, "a", Some("1")), (0, "b", Some("1")), (0, "a", Some("2"))]));
    writer.submit(records(&[(0, "b", None), (0, "c", Some("1"))]));
    cluster.hold();
    while writer.outcome().is_some() {}
    writer.submit(records(&[(0, "c", Some("open"))]));
    let_happen(&cluster, produce);
    cluster.compact("t", true).unwrap();
    assert_eq!(read(&*client, 0).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [2, 4, 5]);
    cluster.compact("t", false).unwrap();
    assert_eq!(values(&*client, 0), ["2", "1"]);
    cluster.settle();
    cluster.compact("t", false).unwrap();
    assert_eq!(values(&*client, 0), ["2", "open"]);
    let mut keyless = Records::default();
    keyless.push(&at(0), Record { key: None, value: Some(b"x"), headers: &[], time: None });
    assert_eq!(writer.outcome(), Some(Outcome::Committed));
    writer.submit(keyless);
    cluster.settle();
    assert!(matches!(writer.outcome(), Some(Outcome::Refused(_))));
}

#[test]
fn a_topic_that_goes_wakes_its_readers() {
    let (cluster, client) = cluster(1);
    let woken = Arc::new(AtomicBool::new(false));
    let wake = woken.clone();
    let waker: Waker = Arc::new(move || wake.store(true, Ordering::Relaxed));
    let mut reader = client.reader(&at(0), Start::Earliest, Lane::Inputs, 100, waker).unwrap();
    assert!(reader.poll().unwrap().is_none() && !woken.load(Ordering::Relaxed));
    cluster.delete_topic("t");
    assert!(woken.load(Ordering::Relaxed));
    assert_eq!(reader.poll().unwrap_err().code(), Code::Unknown);
}

#[test]
fn offsets_are_mirrored_for_people() {
    let (cluster, client) = cluster(1);
    client.mirror("g", &[(at(0), 1)]).unwrap();
    client.mirror("g", &[(at(0), 7)]).unwrap();
    assert_eq!(cluster.mirrored("g"), BTreeMap::from([(at(0), 7)]));
    client.cut();
    assert_eq!(client.mirror("g", &[]).unwrap_err().code(), Code::Unreachable);
}
