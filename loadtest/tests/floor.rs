//! `loadtest floor`, whole: its server and its subscribers agree about what was sent.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

/// The report of a floor that passed. Whether user space was small enough is not asked of a build
/// without optimization on a busy machine: that is demanded at 120,000 deliveries/s only.
fn floor(flags: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["floor", "--hold", "0", "--json"])
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
    assert!(report["opening"]["floor_accept_us"].as_f64().unwrap() > 0.0, "{report:#}");
    assert_eq!(report["cost_us_by_round"].as_array().unwrap().len(), 2);
}
