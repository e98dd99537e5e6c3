//! Every bench runs at a small scale, finds its results right and ends with one line of JSON.
//!
//! The figures mean nothing here; only that results are checked and printed does.

use std::process::Command;

use serde_json::Value;

fn bench(args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_millstream-bench"))
        .args(args)
        .args(["--rounds", "1"])
        .output()
        .expect("the bench starts");
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}\n{text}\n{errors}");
    let last = text.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last).expect("the last line is JSON");
    assert_eq!(report["valid"], true, "{last}");
    for name in [
        "seed",
        "rounds",
        "rows_in",
        "rows_out",
        "late",
        "dead",
        "turns",
        "fsyncs",
        "bytes_written",
        "cpu_s",
        "peak_rss_bytes",
    ] {
        assert!(report[name].is_number(), "{name} is missing in {last}");
    }
    report
}

const SMALL: [&str; 4] = ["--rows", "20000", "--sensors", "500"];

#[test]
fn telemetry_equals_the_baseline() {
    let windows = bench(&[&["telemetry"][..], &SMALL].concat());
    let process = bench(&[&["telemetry", "--process"][..], &SMALL].concat());
    assert_eq!(windows["rows_out"], process["rows_out"]);
    assert!(windows["ratio"].is_number() && process["ratio_process"].is_number());
}

#[test]
fn poison_costs_the_poisoned_readings_alone() {
    assert_eq!(bench(&[&["poison"][..], &SMALL].concat())["dead"], 200);
}

#[test]
fn every_panic_is_followed_by_the_next_event() {
    let report = bench(&["restart", "--panics", "30", "--others", "2000"]);
    assert!(report["median_us"].is_number() && report["others_p99_ms"].is_number());
}

#[test]
fn processes_live_on_when_the_node_is_opened_again() {
    let report = bench(&["processes", "--keys", "5000", "--again", "500"]);
    assert_eq!(report["processes"], 5000);
}

#[test]
fn an_idle_node_syncs_nothing() {
    assert_eq!(bench(&["idle", "--seconds", "1", "--settle", "1"])["fsyncs_idle"], 0.0);
}

#[test]
fn the_engine_keeps_every_frame() {
    assert_eq!(bench(&["engine", "--bytes", "16777216"])["rows_out"], 256);
}

#[test]
fn a_killed_node_answers_again() {
    let report = bench(&["recovery", "--keys", "2000", "--keys-large", "0"]);
    assert!(report["first_output_s"].is_number());
}

#[test]
fn kills_lose_and_double_nothing() {
    let report = bench(&["torture", "--kills", "3", "--compactions", "0", "--starts", "2"]);
    assert_eq!((&report["lost"], &report["duplicated"]), (&0.into(), &0.into()));
}

#[test]
fn every_row_that_was_sent_is_read() {
    let report = bench(&["latency", "--requests-per-s", "50", "--seconds", "1"]);
    assert_eq!(report["rows_out"], 5000);
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_bench_on_kafka_says_how_to_build_it() {
    let bench = Command::new(env!("CARGO_BIN_EXE_millstream-bench")).arg("failover").output();
    let out = bench.expect("the bench starts");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("cargo run --release -p millstream-bench --features kafka"), "{said}");
}

#[cfg(feature = "kafka")]
#[test]
fn faults_of_a_cluster_lose_and_double_nothing() {
    let small = ["--faults", "2", "--keys", "100", "--tasks", "4", "--events-per-s", "100"];
    for how in [&[][..], &["--keyed"]] {
        let report = bench(&[&["cluster-torture"][..], &small, how].concat());
        assert_eq!((&report["lost"], &report["duplicated"]), (&0.into(), &0.into()));
    }
}
