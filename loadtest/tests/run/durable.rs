//! `loadtest run --durable` against a small server of durable topics: streams are judged over all their connections.

use serde_json::{Value, json};

use crate::historic::{Fault, start};
use crate::{faulty, run, wrong};

/// Each stream gets 40 events, half of them before all are cut.
const CUT: &str =
    "--durable --streams 12 --processes 2 --topic-count 6 --topics-per-stream 2 --rate 120 --duration 1s --storm 1";

fn figures(group: &Value, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| group[name].as_u64().unwrap_or_else(|| panic!("{name}: {group:#}"))).collect()
}

#[test]
fn streams_that_come_back_with_their_last_id_and_get_the_rest_pass() {
    let (code, report) = run(&start(Fault::None), CUT);
    let (history, deliveries) = (&report["history"], &report["deliveries"]);
    assert_eq!((code, wrong(deliveries), &history["first_violation"]), (0, Vec::new(), &Value::Null), "{report:#}");
    let names = ["publications", "acknowledged", "unknown_outcomes", "connections", "continued", "resumed"];
    assert_eq!(figures(history, &names), [120, 120, 0, 24, 12, 12], "{history:#}");
    assert_eq!(figures(history, &["history_events", "history_told", "violations"]), [480, 0, 0], "{history:#}");
    // What they missed while they were away is demanded of them: each has one life.
    assert_eq!(figures(deliveries, &["expected", "received", "lives"]), [480, 480, 12], "{deliveries:#}");
}

#[test]
fn streams_that_come_and_go_all_the_time_are_judged_too() {
    let flags = CUT.replace("--storm 1", "--churn 60");
    let (code, report) = run(&start(Fault::None), &flags);
    let history = &report["history"];
    assert_eq!((code, wrong(&report["deliveries"])), (0, Vec::new()), "{report:#}");
    let cut = report["disturbance"]["cut"].as_u64().unwrap();
    assert!(cut > 40, "{report:#}");
    assert_eq!(figures(history, &["connections", "continued", "violations"]), [12 + cut, cut, 0], "{history:#}");
}

/// Runs against a server with this fault, which must fail.
fn failed(fault: Fault) -> (Value, Value) {
    let (code, report) = run(&start(fault), CUT);
    assert_eq!((code, &report["passed"]), (1, &false.into()), "{report:#}");
    let faults = report["faults"].as_array().unwrap();
    assert!(faults.iter().any(|said| said.as_str().unwrap().contains("promises of durable topics")), "{faults:?}");
    assert!(report["history"]["first_violation"].is_string(), "{report:#}");
    (report["history"].clone(), report["deliveries"].clone())
}

#[test]
fn what_is_lost_on_the_way_back_fails_the_run() {
    let (history, deliveries) = failed(Fault::LosesOne);
    assert_eq!(history["violations_by_kind"], json!([["Lost", 12]]), "{history:#}");
    assert_eq!(wrong(&deliveries), [("lost", 12)]);
}

#[test]
fn what_comes_again_on_the_way_back_fails_the_run() {
    let (history, deliveries) = failed(Fault::RepeatsOne);
    assert_eq!(history["violations_by_kind"], json!([["Repeated", 12]]), "{history:#}");
    assert_eq!(wrong(&deliveries), [("doubled", 12)]);
}

#[test]
fn a_position_that_is_not_honoured_fails_the_run_though_nothing_need_be_missing() {
    let (history, _) = failed(Fault::Forgets);
    let kinds = history["violations_by_kind"].as_array().unwrap();
    assert!(kinds.contains(&json!(["OpenWrong", 12])), "{history:#}");
    assert_eq!(figures(&history, &["continued", "resumed"]), [12, 0], "{history:#}");
}

#[test]
fn a_reset_without_a_reason_fails_the_run_though_nothing_is_missing() {
    let (history, deliveries) = failed(Fault::Resets);
    // Each of them names two topics.
    assert_eq!(history["violations_by_kind"][0], json!(["ResetUnjustified", 24]), "{history:#}");
    assert_eq!(history["history_resets"], json!([["Trimmed", 12]]));
    assert_eq!(wrong(&deliveries), []);
}

#[test]
fn what_becomes_too_much_to_record_fails_the_run_and_is_not_judged() {
    let flags = CUT.replace("--streams 12", "--streams 2");
    let (code, report) = run(&start(Fault::Floods), &flags);
    assert_eq!((code, &report["history"]), (1, &Value::Null), "{report:#}");
    let faults = report["faults"].as_array().unwrap();
    let said = faults.iter().filter_map(Value::as_str).find(|said| said.contains("takes more than 64 MiB to record"));
    assert!(said.is_some_and(|said| said.contains("fewer --streams, a lower --rate")), "{faults:?}");
}

#[test]
fn topics_that_are_not_durable_fail_a_run_that_says_they_are() {
    let (code, report) = run(&faulty::start(Vec::new()), &CUT.replace("--storm 1", "--churn 6"));
    assert_eq!((code, &report["publishing"]["accepted"]), (1, &0.into()), "{report:#}");
    assert!(report["publishing"]["publish_error"].as_str().unwrap().contains("is the topic durable?"), "{report:#}");
    assert_eq!(report["history"]["violations_by_kind"][0][0], "OpenWrong", "{report:#}");
}
