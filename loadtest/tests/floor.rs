//! `loadtest floor`, whole: its server and its subscribers agree about what was sent.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The report of a floor that passed. Whether user space was small enough is not asked of a build
/// without optimization on a busy machine: that is demanded at 120,000 deliveries/s only.
fn floor(flags: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .arg("floor")
        .args((!flags.contains("--hold")).then_some("--hold=0"))
        .arg("--json")
        .arg(&json)
        .args(flags.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap()
}

#[test]
fn everything_sent_arrives_however_it_is_sent() {
    // Events, and deliveries: 30 streams for each event, or the 10 of its group.
    for (flags, events, deliveries, sends) in [
        ("", 60, 1_800, 1_800),
        ("--uring", 60, 1_800, 1_800),
        ("--coalesce 4", 60, 1_800, 450),
        ("--coalesce 4 --uring", 60, 1_800, 450),
        ("--groups 3", 60, 600, 600),
        ("--groups 3 --coalesce 2 --uring --processes 2", 60, 600, 300),
    ] {
        let report = floor(&format!("--streams 30 --rate 120 --duration 500ms {flags}"));
        let (floor, counts) = (&report["floor"], &report["deliveries"]);
        assert_eq!((&floor["events"], &floor["sends"]), (&events.into(), &sends.into()), "{flags}: {report:#}");
        assert_eq!(counts["expected"], deliveries, "{flags}: {report:#}");
        assert_eq!(counts["received"], deliveries, "{flags}: {report:#}");
        assert_eq!(counts["malformed"], 0, "{flags}: {report:#}");
        assert!(report["latency"]["last_p50_ms"].is_number(), "{flags}: {report:#}");
        assert!(floor["floor_cpu_us_per_delivery"].as_f64().unwrap() > 0.0, "{flags}: {report:#}");
    }
}

#[test]
fn as_fast_as_it_goes_loses_nothing() {
    let report = floor("--streams 20 --rate 0 --duration 200ms --coalesce 8");
    let counts = &report["deliveries"];
    assert!(counts["received"].as_u64().unwrap() > 0, "{report:#}");
    assert_eq!((&counts["received"], &counts["lost"]), (&counts["expected"], &0.into()), "{report:#}");
}

#[test]
fn a_storm_is_accepted_and_gets_no_events() {
    let report = floor("--streams 300 --accept --rounds 2");
    assert_eq!((&report["floor"], &report["latency"]), (&Value::Null, &Value::Null), "{report:#}");
    assert_eq!(report["opening"]["opened"], 300);
    assert!(report["opening"]["opened_per_s"].as_f64().unwrap() > 0.0, "{report:#}");
    assert!(report["opening"]["floor_accept_us"].as_f64().unwrap() > 0.0, "{report:#}");
    assert_eq!(report["cost_us_by_round"].as_array().unwrap().len(), 2);
}

#[test]
fn the_opening_lasts_from_the_first_connect_to_the_last_opening() {
    // The ramp counts from the worker's start, so the first stream may come up to an interval late here.
    let started = Instant::now();
    let report = floor("--streams 5 --ramp 4 --processes 1 --rate 50 --duration 1s");
    let elapsed_s = started.elapsed().as_secs_f64();
    let figure = |name: &str| report["opening"][name].as_f64().unwrap();
    let opening_s = figure("opening_s");
    assert!(3.0 / 4.0 < opening_s && opening_s <= elapsed_s - 1.0, "{elapsed_s}: {report:#}");
    assert!((figure("opened_per_s") * opening_s - 5.0).abs() < 1e-6, "{report:#}");
}

#[test]
fn streams_that_get_nothing_stay_open_while_the_kernels_memory_is_measured() {
    let started = Instant::now();
    let report = floor("--streams 300 --accept --hold 1s");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(report["opening"]["closed_early"], 0, "{report:#}");
    // Its books are root's to read. How much it is depends on whoever else opens sockets on this machine.
    let is_measured = report["kernel"]["kernel_per_stream_bytes"].is_number();
    assert_eq!(is_measured, std::fs::read_to_string("/proc/slabinfo").is_ok(), "{report:#}");
}

#[test]
fn every_figure_is_in_the_readme() {
    fn leaves(value: &Value, names: &mut Vec<String>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            if value.is_object() { leaves(value, names) } else { names.push(name.clone()) }
        }
    }
    let mut names = Vec::new();
    leaves(&floor("--streams 20 --rate 40 --duration 200ms"), &mut names);
    let readme = include_str!("../README.md");
    names.retain(|name| !readme.contains(&format!("`{name}`")));
    assert!(names.is_empty(), "{names:?}");
}
