//! `loadtest compare` and `loadtest run --start`, with the servers that are there wherever this is built.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs it beside a `fanwheel` that the workspace's build put there.
fn loadtest(arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let fanwheel = program.with_file_name("fanwheel");
    assert!(fanwheel.exists(), "{} is missing: cargo build -p fanwheel", fanwheel.display());
    Command::new(program).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

const SMALL: [&str; 8] = ["--", "--streams", "20", "--duration", "300ms", "--hold=0", "--rate=40", "--settle=2s"];

#[test]
fn servers_are_compared_in_rounds_and_an_interrupted_comparison_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (state, figures, page) = (path("state"), path("json"), path("html"));
    let mut arguments = vec!["compare", "--servers", "floor,fanwheel", "--scenarios", "broadcast", "--rounds", "2"];
    arguments.extend(["--state", state.to_str().unwrap(), "--json", figures.to_str().unwrap()]);
    arguments.extend(["--html", page.to_str().unwrap()]);
    arguments.extend(SMALL);

    let output = loadtest(&arguments);
    let said = text(&output.stdout);
    assert!(said.contains("floor") && said.contains("fanwheel"), "{said}{}", text(&output.stderr));
    let results = json(&figures);
    let servers = results["scenarios"][0]["servers"].as_array().unwrap();
    assert_eq!(servers.iter().map(|server| &server["server"]).collect::<Vec<_>>(), ["floor", "fanwheel"]);
    for server in servers {
        let deliveries = &server["medians"]["deliveries"];
        assert_eq!((&deliveries["lost"], &deliveries["received"]), (&0.0.into(), &240.0.into()), "{server:#}");
        let range = &server["ranges"]["server_cpu_us_per_delivery"];
        assert!(range[0].as_f64().unwrap() <= range[1].as_f64().unwrap());
    }
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));

    // Four runs; one is taken away, and only that one is made again.
    let rows = std::fs::read_to_string(&state).unwrap();
    assert_eq!(rows.lines().count(), 4);
    let kept: Vec<&str> = rows.lines().take(3).collect();
    std::fs::write(&state, kept.join("\n") + "\n").unwrap();
    loadtest(&arguments);
    let rows = std::fs::read_to_string(&state).unwrap();
    assert_eq!(rows.lines().take(3).collect::<Vec<_>>(), kept);
    assert_eq!(rows.lines().count(), 4);
}

#[test]
fn where_nothing_is_sent_opening_and_memory_are_compared_with_the_floors() {
    let dir = tempfile::tempdir().unwrap();
    let figures = dir.path().join("json");
    let mut arguments = vec!["compare", "--servers", "floor,fanwheel", "--scenarios", "idle", "--rounds", "1"];
    arguments.extend(["--json", figures.to_str().unwrap(), "--", "--streams", "200", "--hold=100ms"]);
    let said = text(&loadtest(&arguments).stdout);
    assert!(said.contains(" opened/s ×floor"), "{said}");
    let results = json(&figures);
    for server in results["scenarios"][0]["servers"].as_array().unwrap() {
        let medians = &server["medians"];
        assert!(medians["opening"]["opened_per_s"].as_f64().unwrap() > 0.0, "{server:#}");
        let is_open = std::fs::read_to_string("/proc/slabinfo").is_ok();
        assert_eq!(medians["kernel"]["kernel_per_stream_bytes"].is_number(), is_open, "{server:#}");
    }
}

#[test]
fn a_broker_that_is_restarted_half_way_costs_nothing_that_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let figures = dir.path().join("json");
    let mut arguments = vec!["run", "--scenario", "broker-restart", "--start", "fanwheel-redis"];
    arguments.extend(["--streams", "50", "--duration", "3s", "--json", figures.to_str().unwrap()]);
    let output = loadtest(&arguments);
    let report = json(&figures);
    assert_eq!(output.status.code(), Some(0), "{report:#}{}", text(&output.stderr));
    assert_eq!((&report["deliveries"]["lost"], &report["deliveries"]["resets"]), (&0.into(), &50.into()));
    // It delivered again: the second half begins after a second and a half.
    assert!(report["deliveries"]["received"].as_u64().unwrap() > 50 * 75, "{report:#}");
}

#[test]
fn streams_of_durable_topics_miss_nothing_while_they_are_away() {
    let dir = tempfile::tempdir().unwrap();
    let figures = dir.path().join("json");
    for server in ["fanwheel", "fanwheel-redis"] {
        let mut arguments = vec!["run", "--scenario", "resume", "--start", server, "--streams", "100"];
        arguments.extend(["--topic-count", "50", "--duration", "2s", "--json", figures.to_str().unwrap()]);
        let output = loadtest(&arguments);
        let report = json(&figures);
        assert_eq!(output.status.code(), Some(0), "{report:#}{}", text(&output.stderr));
        let (history, deliveries) = (&report["history"], &report["deliveries"]);
        // 1,000 events on 50 topics; a stream follows ten of them.
        assert_eq!(
            (&deliveries["received"], &deliveries["missed_after_close"]),
            (&20_000.into(), &0.into()),
            "{server}"
        );
        for (name, count) in [("acknowledged", 1_000), ("connections", 200), ("resumed", 100), ("violations", 0)] {
            assert_eq!(history[name], count, "{server}: {name}: {history:#}");
        }
    }
}

#[test]
fn a_history_that_went_with_its_broker_is_told_and_that_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let figures = dir.path().join("json");
    let mut arguments = vec!["run", "--scenario", "broker-restart", "--durable", "--start", "fanwheel-redis"];
    arguments.extend(["--streams", "50", "--duration", "3s", "--json", figures.to_str().unwrap()]);
    let output = loadtest(&arguments);
    let report = json(&figures);
    assert_eq!(output.status.code(), Some(0), "{report:#}{}", text(&output.stderr));
    let history = &report["history"];
    assert_eq!((&history["history_resets"][0][1], &history["violations"]), (&50.into(), &0.into()), "{history:#}");
}

#[test]
fn an_assertion_decides_the_exit_code() {
    let run = |expression: &str| {
        let mut arguments = vec!["run", "--scenario", "broadcast", "--start", "fanwheel", "--assert", expression];
        arguments.extend(&SMALL[1..]);
        loadtest(&arguments)
    };
    let held = run("lost==0 && received == 240 && p99_ms < 60000");
    assert_eq!(held.status.code(), Some(0), "{}", text(&held.stdout));
    let missed = run("p99_ms < 0.0001");
    assert_eq!(missed.status.code(), Some(1));
    assert!(text(&missed.stdout).contains("p99_ms = "), "{}", text(&missed.stdout));
    let unknown = run("p98_ms < 1");
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stdout).contains("p99_ms, "), "{}", text(&unknown.stdout));
    assert_eq!(run("lost ==").status.code(), Some(2));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    for arguments in [["--servers", "apache"], ["--scenarios", "nothing"]] {
        let output = loadtest(&[&["compare"][..], &arguments].concat());
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
    }
    let output = loadtest(&["run", "--restart-broker", "--streams", "1"]);
    assert!(text(&output.stderr).contains("--restart-broker"), "{}", text(&output.stderr));
}
