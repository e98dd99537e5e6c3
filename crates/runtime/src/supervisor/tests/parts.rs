//! Breaker, streaks, reports and their throttle.

use std::time::Duration;

use super::*;

fn breaker() -> Breaker {
    Breaker::new(BreakerOptions::default())
}

#[test]
fn a_breaker_opens_above_half_of_a_thousand() {
    let mut b = breaker();
    assert_eq!(b.record(0, 999, ms(0)), None);
    assert_eq!(b.record(0, 1, ms(0)), Some(BreakerState::Open { until: ms(10_000) }));
    let mut b = breaker();
    assert_eq!(b.record(500, 500, ms(0)), None);
    assert_eq!(b.record(0, 1, ms(1)), Some(BreakerState::Open { until: ms(10_001) }));
}

#[test]
fn a_breaker_forgets_what_is_older_than_its_period() {
    let mut b = breaker();
    for second in 0..100 {
        // 99 a second: 990 within the last ten buckets.
        assert_eq!(b.record(0, 99, ms(second * 1000)), None, "second {second}");
    }
    assert!(b.record(0, 10, ms(99_999)).is_some());
    let mut b = breaker();
    b.record(0, 999, ms(500));
    assert_eq!(b.record(0, 1, ms(10_000)), None);
}

#[test]
fn a_half_open_breaker_is_judged_by_its_next_records() {
    let mut b = breaker();
    b.record(0, 1000, ms(0));
    assert_eq!(b.record(0, 5000, ms(9_999)), None);
    assert_eq!(b.next_wake(), Some(ms(10_000)));
    assert_eq!(b.tick(ms(10_000)), Some(BreakerState::HalfOpen));
    assert_eq!(b.record(0, 60, ms(11_000)), None);
    // The second time it stays open twice as long.
    assert_eq!(b.record(0, 60, ms(60_000)), Some(BreakerState::Open { until: ms(80_000) }));
    assert_eq!(b.tick(ms(80_000)), Some(BreakerState::HalfOpen));
    assert_eq!(b.record(60, 40, ms(80_001)), Some(BreakerState::Closed));
    assert_eq!((b.state(), b.next_wake()), (BreakerState::Closed, None));
}

#[test]
fn a_breaker_is_closed_by_hand() {
    let mut b = breaker();
    assert_eq!(b.resume(), None);
    b.record(0, 1000, ms(0));
    assert_eq!(b.resume(), Some(BreakerState::Closed));
    assert_eq!(b.record(0, 999, ms(1)), None);
    assert_eq!(b.record(0, 1, ms(1)), Some(BreakerState::Open { until: ms(10_001) }));
}

#[test]
fn a_hundred_failures_in_a_row_park_a_process() {
    let mut s = Streaks::default();
    for n in 1..100 {
        assert_eq!(s.failed(b"k"), Verdict::Failing(n));
        assert_eq!(s.failed(b"other"), Verdict::Failing(1));
        s.succeeded(b"other");
    }
    assert_eq!(s.failed(b"k"), Verdict::Park);
    assert!(s.is_empty());
    assert_eq!(s.failed(b"k"), Verdict::Failing(1));
    s.succeeded(b"k");
    assert!(s.is_empty());
}

#[test]
fn streaks_are_bounded_and_keep_who_fails_often() {
    let mut s = Streaks::new(100, 64);
    for i in 0u32..10_000 {
        s.failed(&i.to_be_bytes());
        assert!(s.len() <= 64, "{}", s.len());
        if i % 16 == 0 && i / 16 < 99 {
            assert_eq!(s.failed(b"often"), Verdict::Failing(i / 16 + 1));
        }
        if i == 16 * 99 {
            assert_eq!(s.failed(b"often"), Verdict::Park);
        }
    }
}

fn a_report(what: What, code: &str) -> Report {
    Report {
        time: ms(7),
        flow: "departures".into(),
        stage: "aircraft".into(),
        task: Some(3),
        what,
        code: code.into(),
        reason: "disk".into(),
        count: 1,
    }
}

#[test]
fn reports_come_back_from_their_rows() {
    let reports = [
        a_report(What::Restarted, "M0003"),
        Report { task: None, stage: String::new(), count: 9, ..a_report(What::GaveUp, "") },
    ];
    let batch = report::to_batch(&reports).unwrap();
    assert_eq!(report::from_batch(batch.rows()).unwrap(), reports);
    assert_eq!(report::from_batch(report::to_batch(&[]).unwrap().rows()).unwrap(), []);
    let letters = millstream_core::letter::to_batch(&[]).unwrap();
    assert_eq!(report::from_batch(letters.rows()).unwrap_err().code(), Code::Corrupt);
    assert_eq!(
        reports[0].to_string(),
        "1970-01-01T00:00:00.007Z restarted departures/aircraft/3 M0003: disk"
    );
}

#[test]
fn the_throttle_lets_one_a_second_through_and_loses_no_count() {
    let mut t = Throttle::default();
    let (mut passed, mut counted, mut last) = (0, 0, None);
    let mut see = |r: Report, now: Time| {
        assert!(last.is_none_or(|l| now >= l + Duration::from_secs(1)));
        last = Some(now);
        passed += 1;
        counted += r.count;
    };
    for i in 0..5000 {
        let now = ms(i);
        if let Some(r) = t.offer(a_report(What::Restarted, "M0003"), now) {
            see(r, now);
        }
    }
    let wake = t.next_wake().unwrap();
    assert_eq!(wake, ms(5000));
    t.tick(wake).into_iter().for_each(|r| see(r, wake));
    assert_eq!((passed, counted, t.next_wake()), (6, 5000, None));
}

#[test]
fn the_throttle_separates_codes_and_lets_the_gravest_go_first() {
    let mut t = Throttle::default();
    assert!(t.offer(a_report(What::Restarted, "M0003"), ms(0)).is_some());
    assert!(t.offer(a_report(What::Restarted, "M0004"), ms(0)).is_some());
    assert_eq!(t.offer(a_report(What::Restarted, "M0003"), ms(1)), None);
    assert_eq!(t.offer(a_report(What::GaveUp, "M0003"), ms(2)), None);
    let other_task = Report { task: Some(4), ..a_report(What::Restarted, "M0003") };
    assert_eq!(t.offer(other_task, ms(3)), None);
    assert_eq!(t.tick(ms(999)), []);
    assert_eq!(t.tick(ms(1000)), [a_report(What::GaveUp, "M0003")]);
    let merged = Report { task: None, count: 2, ..a_report(What::Restarted, "M0003") };
    let merged = vec![merged];
    assert_eq!((t.clone().tick(ms(2000)), t.drain()), (merged.clone(), merged));
    assert_eq!(t.next_wake(), None);
}
