//! `loadtest run` against a server with planted faults: each is reported, with the right count.
#![allow(clippy::unwrap_used)]

mod durable;
mod faulty;
mod historic;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use faulty::Fault;
use serde_json::Value;

/// The exit code and the JSON of a run.
fn run(url: &str, flags: &str) -> (i32, Value) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--url", url, "--hold", "0", "--settle", "1s", "--json"])
        .arg(&json)
        .args((!flags.contains("--topic")).then_some("--topics=a,b/c"))
        .args(flags.split_ascii_whitespace())
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&json).unwrap_or_else(|_| {
        panic!("no report: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap())
}

const SHORT: &str = "--streams 12 --processes 2 --rate 100 --duration 500ms";

/// Runs with these faults and returns the exit code and the deliveries.
fn with_faults(plan: faulty::Plan) -> (i32, Value) {
    let (code, report) = run(&faulty::start(plan), SHORT);
    (code, report["deliveries"].clone())
}

/// The counts that are not 0, of those that say something was wrong.
fn wrong(deliveries: &Value) -> Vec<(&str, u64)> {
    ["lost", "told", "doubled", "out_of_order", "phantoms", "malformed", "foreign", "missed_after_close"]
        .into_iter()
        .map(|name| (name, deliveries[name].as_u64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn a_clean_run_reports_no_fault() {
    let (code, report) = run(
        &faulty::start(Vec::new()),
        "--streams 30 --processes 3 --publishers 3 --rate 300 --duration 500ms --payload 200",
    );
    let deliveries = &report["deliveries"];
    assert_eq!((code, &report["passed"]), (0, &Value::Bool(true)), "{report:#}");
    assert_eq!(wrong(deliveries), []);
    assert_eq!(deliveries["expected"], 30 * 150);
    assert_eq!(deliveries["received"], 30 * 150);
    assert_eq!(deliveries["orders_seen"], 1);
    assert_eq!((&deliveries["least_stream_share"], &report["calm"]), (&1.0.into(), &Value::Null));
    assert_eq!(report["setup"]["processes"], 3);
    assert!(report["latency"]["p99_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(report["server"], Value::Null);
}

#[test]
fn a_dropped_event_is_lost() {
    let (code, deliveries) = with_faults(vec![(3, 7, Fault::Drop)]);
    assert_eq!((code, wrong(&deliveries)), (1, vec![("lost", 1)]));
}

#[test]
fn the_first_and_the_last_event_are_lost_like_others() {
    let (code, deliveries) = with_faults(vec![(0, 0, Fault::Drop), (11, 49, Fault::Drop)]);
    assert_eq!((code, wrong(&deliveries)), (1, vec![("lost", 2)]));
}

#[test]
fn a_doubled_event_is_doubled() {
    let (code, deliveries) = with_faults(vec![(5, 20, Fault::Double)]);
    assert_eq!((code, wrong(&deliveries)), (1, vec![("doubled", 1)]));
}

#[test]
fn two_swapped_events_are_one_out_of_order() {
    let url = faulty::start(vec![(5, 20, Fault::Swap)]);
    let (code, report) = run(&url, &format!("{SHORT} --topics one"));
    assert_eq!((code, wrong(&report["deliveries"])), (1, vec![("out_of_order", 1)]));
}

#[test]
fn events_of_different_topics_have_no_order() {
    // Topics take turns: event 20 of the one changes places with event 21 of the other.
    let (code, deliveries) = with_faults(vec![(5, 20, Fault::Swap)]);
    assert_eq!((code, wrong(&deliveries), &deliveries["orders_seen"]), (0, Vec::new(), &1.into()));
}

#[test]
fn several_faults_are_counted_apart() {
    let plan = vec![(1, 4, Fault::Drop), (1, 9, Fault::Double), (2, 9, Fault::Double), (3, 9, Fault::Alter)];
    let (code, deliveries) = with_faults(plan);
    assert_eq!((code, wrong(&deliveries)), (1, vec![("lost", 1), ("doubled", 2), ("malformed", 1)]));
}

#[test]
fn whatever_is_altered_in_an_event_is_noticed() {
    // With an altered number nobody can say which event it was: it is lost as well.
    let plan = vec![(1, 4, Fault::Alter), (2, 5, Fault::AlterHeader), (3, 6, Fault::CutShort)];
    let (code, deliveries) = with_faults(plan);
    assert_eq!((code, wrong(&deliveries)), (1, vec![("lost", 1), ("malformed", 3)]));
}

#[test]
fn an_event_of_a_topic_that_was_not_asked_for_is_no_delivery() {
    // Each stream reads one of two topics.
    let url = faulty::start(vec![(0, 7, Fault::Misdirect)]);
    let (code, report) = run(&url, &format!("{SHORT} --processes 1 --topic-count 2 --topics-per-stream 1"));
    let deliveries = &report["deliveries"];
    assert_eq!((code, wrong(deliveries)), (1, vec![("malformed", 1)]), "{report:#}");
    assert_eq!(deliveries["received"], 12 * 25);
}

/// Topics drawn at random; each of them has four of the twelve streams, and all but the last have 11 events.
const SOME_TOPICS: &str =
    "--streams 12 --processes 2 --topic-count 6 --topics-per-stream 2 --rate 130 --duration 500ms";

#[test]
fn streams_of_some_topics_get_the_events_of_those() {
    let (code, report) = run(&faulty::start(Vec::new()), SOME_TOPICS);
    let deliveries = &report["deliveries"];
    assert_eq!((code, wrong(deliveries)), (0, Vec::new()), "{report:#}");
    assert_eq!((&deliveries["expected"], &deliveries["received"]), (&(65 * 4).into(), &(65 * 4).into()));
    assert_eq!(deliveries["orders_seen"], 1);
}

#[test]
fn a_reset_that_names_a_topic_tells_of_that_topic_only() {
    // The first event of every topic is lost, that of topic 5 is told: before anything else came.
    let at = |event, fault| (0..12).map(move |stream| (stream, event, fault));
    let drops = (0..5).flat_map(|event| at(event, Fault::Drop));
    let url = faulty::start(drops.chain(at(5, Fault::DropNamed("load.5"))).collect());
    let (code, report) = run(&url, SOME_TOPICS);
    assert_eq!((code, wrong(&report["deliveries"])), (1, vec![("lost", 5 * 4), ("told", 4)]), "{report:#}");
}

#[test]
fn a_late_event_shows_in_the_latencies_of_its_stream_and_of_the_last_one() {
    let url = faulty::start(vec![(11, 20, Fault::Delay(300))]);
    let (code, report) = run(&url, SHORT);
    assert_eq!((code, wrong(&report["deliveries"])), (0, Vec::new()));
    for figure in ["max_ms", "last_max_ms", "intended_max_ms"] {
        let ms = report["latency"][figure].as_f64().unwrap();
        assert!((300.0..5_000.0).contains(&ms), "{figure} = {ms}");
    }
}

#[test]
fn a_lost_event_counts_as_a_latency_up_to_the_end_of_the_run() {
    let url = faulty::start(vec![(3, 7, Fault::Drop)]);
    let (_, report) = run(&url, SHORT);
    assert_eq!(report["deliveries"]["censored"], 1);
    // It waits a second for what is missing.
    let latency = &report["latency"];
    for figure in ["max_ms", "intended_max_ms", "last_max_ms"] {
        assert!(latency[figure].as_f64().unwrap() > 1_000.0, "{figure}: {latency:#}");
    }
    assert!(latency["p50_ms"].as_f64().unwrap() < 1_000.0, "{latency:#}");
}

#[test]
fn payloads_are_found_inside_of_other_texts_and_several_to_an_event() {
    let url = faulty::start(vec![(4, 10, Fault::Join), (4, 31, Fault::Join)]);
    let wrapped = "--publish-body {\"from\":\"{topic}\",\"data\":\"{payload}\"}";
    let (code, report) = run(&url, &format!("{SHORT} {wrapped}"));
    let deliveries = &report["deliveries"];
    assert_eq!((code, wrong(deliveries)), (0, Vec::new()), "{report:#}");
    assert_eq!(deliveries["received"], 12 * 50);
}

#[test]
fn the_steady_stream_that_received_least_is_told_by_the_median_one() {
    // Of 50 events stream 3 lacks ten. Stream 5 ends after ten: it is no steady one.
    let mut plan: faulty::Plan = (20..30).map(|event| (3, event, Fault::Drop)).collect();
    plan.push((5, 10, Fault::Close));
    let (_, deliveries) = with_faults(plan);
    assert_eq!((&deliveries["lost"], &deliveries["least_stream_share"]), (&10.into(), &0.8.into()), "{deliveries:#}");
    let (_, report) = run(&faulty::start(Vec::new()), "--streams 2 --rate 0");
    assert_eq!(report["deliveries"]["least_stream_share"], Value::Null);
}

/// 50 events in half a second, and 50 in the calm after it, of which the last ten or so are measured apart.
const CALM: &str = "--streams 3 --rate 100 --duration 500ms --calm-rate 20 --calm 2500ms";

#[test]
fn after_the_load_events_go_on_at_the_calm_rate() {
    let url = faulty::start(vec![(1, 7, Fault::Drop)]);
    let (_, report) = run(&url, CALM);
    let (publishing, deliveries, calm) = (&report["publishing"], &report["deliveries"], &report["calm"]);
    assert_eq!((&publishing["planned"], &publishing["sent"]), (&100.into(), &100.into()), "{report:#}");
    assert_eq!((&deliveries["received"], wrong(deliveries)), (&299.into(), vec![("lost", 1)]));
    let figure = |name: &str| calm[name].as_f64().unwrap_or_else(|| panic!("{name}: {calm:#}"));
    assert!((1.0..=330.0).contains(&figure("loaded_deliveries_per_s")), "{calm:#}");
    assert!((10.0..=100.0).contains(&figure("calm_deliveries_per_s")), "{calm:#}");
    assert!(figure("calm_p50_ms") <= figure("calm_p99_ms") && figure("calm_p99_ms") <= figure("calm_max_ms"));
    // What was lost under load counts up to the end of the run, but not as a calm latency.
    assert!(report["latency"]["max_ms"].as_f64().unwrap() > 3_000.0, "{report:#}");
    assert!(figure("calm_max_ms") < 3_000.0, "{calm:#}");
}

#[test]
fn what_is_lost_in_the_calm_counts_as_a_calm_latency() {
    let url = faulty::start(vec![(1, 99, Fault::Drop)]);
    let (_, report) = run(&url, CALM);
    assert_eq!(wrong(&report["deliveries"]), [("lost", 1)]);
    // It waits a second for what is missing.
    assert!(report["calm"]["calm_max_ms"].as_f64().unwrap() > 1_000.0, "{report:#}");
}

const LIVELY: &str = "--streams 12 --processes 2 --topics a --rate 100 --duration 1s --settle 1s";

#[test]
fn streams_that_come_and_go_are_judged_life_by_life() {
    let url = faulty::start(Vec::new());
    let (code, report) = run(&url, &format!("{LIVELY} --churn 20"));
    assert_eq!((code, &report["passed"]), (0, &true.into()), "{report:#}");
    assert_eq!((&report["disturbance"]["cut"], &report["disturbance"]["reopened"]), (&20.into(), &20.into()));
    assert_eq!(report["deliveries"]["lives"], 32);
    let received = report["deliveries"]["received"].as_u64().unwrap();
    // A stream that was open all the time has 100; twenty changes cost a few of them each.
    assert!((1_000..=1_200).contains(&received), "{received}");
}

#[test]
fn a_loss_in_a_later_life_is_found() {
    // The server's streams from the twelfth on are those that came back.
    let url = faulty::start(vec![(12, 70, Fault::Drop), (15, 80, Fault::Double)]);
    let (code, report) = run(&url, &format!("{LIVELY} --storm 1"));
    let deliveries = &report["deliveries"];
    assert_eq!(code, 1, "{report:#}");
    assert_eq!((&deliveries["lost"], &deliveries["doubled"], &deliveries["lives"]), (&1.into(), &1.into(), &24.into()));
    let disturbance = &report["disturbance"];
    assert_eq!((&disturbance["cut"], &disturbance["reopened"]), (&12.into(), &12.into()));
    assert!(disturbance["storm_over_s"].as_f64().unwrap() < 5.0);
}

#[test]
fn a_stream_that_the_server_ended_comes_back_when_it_was_told_to() {
    // It ends after a second and a half, the server says `retry: 1000`: counted from its end, not from
    // its beginning, it is back after one.
    let url = faulty::start(vec![(3, 150, Fault::Close)]);
    let (code, report) = run(&url, &format!("{LIVELY} --duration 3s --reconnect"));
    let disturbance = &report["disturbance"];
    assert_eq!((code, &disturbance["ended_by_server"], &disturbance["reopened"]), (0, &1.into(), &1.into()));
    let waited_ms = disturbance["reopen_p50_ms"].as_f64().unwrap();
    assert!((1_000.0..2_300.0).contains(&waited_ms), "{waited_ms}");
    let missed = report["deliveries"]["missed_after_close"].as_u64().unwrap();
    assert!((80..=150).contains(&missed), "{missed}");
}

#[test]
fn slow_streams_are_judged_apart() {
    let url = faulty::start(vec![(0, 3, Fault::Drop)]);
    let flags = "--streams 0 --slow 1 --slow-rate 4000 --topics a --rate 20 --duration 1s --settle 2s";
    let (code, report) = run(&url, flags);
    let slow = &report["slow"];
    assert_eq!((code, &slow["slow_lost"], &slow["slow_received"]), (1, &1.into(), &19.into()), "{report:#}");
    assert_eq!(report["deliveries"]["received"], 0);
}

#[test]
fn what_a_slow_stream_has_not_read_yet_is_not_lost() {
    // 40 events of 2,000 bytes, of which it reads half. Others come and go, so that it is known when each was sent.
    let url = faulty::start(Vec::new());
    let flags = "--streams 4 --churn 4 --slow 2 --slow-rate 10000 --topics a --rate 20 --payload 2000 --duration 2s --settle 1s";
    let (code, report) = run(&url, flags);
    let slow = &report["slow"];
    assert_eq!((code, &slow["slow_lost"]), (0, &0.into()), "{report:#}");
    let (received, missed) =
        (slow["slow_received"].as_u64().unwrap(), slow["slow_missed_after_close"].as_u64().unwrap());
    assert_eq!(received + missed, 80, "{slow:#}");
    assert!(missed > 0 && received > 0, "{slow:#}");
}

#[test]
fn a_stream_that_does_not_come_back_fails_the_run() {
    // It is to come back after a second, and the run is over by then.
    let url = faulty::start(vec![(3, 90, Fault::Close)]);
    let (code, report) = run(&url, &format!("{LIVELY} --settle 200ms --reconnect"));
    let disturbance = &report["disturbance"];
    assert_eq!((code, &disturbance["not_reopened"], &disturbance["reopened"]), (1, &1.into(), &0.into()), "{report:#}");
}

#[test]
fn a_search_ends_with_the_highest_rate_held() {
    let url = faulty::start(Vec::new());
    let (code, report) = run(&url, "--streams 2 --rate 50 --duration 300ms --search 2 --search-p99-ms 2000");
    assert_eq!((code, &report["search"]["held_events_per_s"]), (0, &100.0.into()), "{report:#}");
    assert_eq!(report["search"]["steps"].as_array().unwrap().len(), 2);
    // Nothing holds a microsecond.
    let (code, report) = run(&url, "--streams 2 --rate 50 --duration 300ms --search 1 --search-p99-ms 0.001");
    assert_eq!((code, &report["search"]["held_events_per_s"]), (1, &Value::Null));
}

#[test]
fn a_loss_that_a_reset_tells_is_told() {
    let (code, deliveries) = with_faults(vec![(3, 7, Fault::DropTold)]);
    assert_eq!((code, wrong(&deliveries)), (0, vec![("told", 1)]));
    assert_eq!((&deliveries["resets"], &deliveries["resets_by_reason"]), (&1.into(), &serde_json::json!([["gap", 1]])));
    // Told, but not delivered: as a latency it counts.
    assert_eq!(deliveries["censored"], 1);
}

#[test]
fn a_gap_also_tells_what_was_lost_among_older_events_that_come_after_it() {
    // Event 7 is held back, event 8 dropped: reset, 7, 9.
    let url = faulty::start(vec![(3, 7, Fault::ToldEarly)]);
    let (code, report) = run(&url, &format!("{SHORT} --topics one"));
    assert_eq!((code, wrong(&report["deliveries"])), (0, vec![("told", 1)]), "{report:#}");
}

#[test]
fn a_reset_does_not_tell_what_is_lost_after_it() {
    let url = faulty::start(vec![(3, 7, Fault::DropTold), (3, 12, Fault::Drop)]);
    let (code, report) = run(&url, &format!("{SHORT} --topics one"));
    assert_eq!((code, wrong(&report["deliveries"])), (1, vec![("lost", 1), ("told", 1)]), "{report:#}");
}

#[test]
fn streams_that_disagree_about_the_order_of_two_publishers_are_noticed() {
    let url = faulty::start(vec![(4, 10, Fault::Swap)]);
    let (code, report) = run(&url, "--streams 12 --rate 100 --duration 500ms --publishers 50");
    assert_eq!((code, &report["deliveries"]["orders_seen"]), (1, &2.into()), "{report:#}");
}

#[test]
fn a_stream_that_the_server_ends_is_not_called_loss_but_fails_the_run() {
    let (code, report) = run(&faulty::start(vec![(3, 30, Fault::Close)]), SHORT);
    assert_eq!((code, &report["opening"]["closed_early"]), (1, &1.into()));
    assert_eq!(wrong(&report["deliveries"]), [("missed_after_close", 20)]);
}

#[test]
fn a_refused_publish_is_not_a_lost_delivery() {
    let (code, report) = run(&faulty::start(vec![(0, 7, Fault::Refuse)]), SHORT);
    assert_eq!((code, wrong(&report["deliveries"])), (0, Vec::new()));
    assert_eq!((&report["publishing"]["refused"], &report["publishing"]["accepted"]), (&1.into(), &49.into()));
}

#[test]
fn stalled_streams_are_seen_to_be_closed_though_they_do_not_read() {
    let url = faulty::start(Vec::new());
    let flags = "--streams 2 --stalled 3 --rate 50 --duration 2s --payload 200000 --stalled-wait 20s";
    let (_, report) = run(&url, flags);
    let stalled = &report["stalled"];
    assert_eq!((&stalled["stalled_opened"], &stalled["stalled_closed"]), (&3.into(), &3.into()), "{report:#}");
    assert!(stalled["stalled_close_max_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_server_process_is_measured_when_named() {
    let flags = format!("{SHORT} --linger 0 --server-pid {}", std::process::id());
    let (_, report) = run(&faulty::start(Vec::new()), &flags);
    for figure in
        ["pss_before_bytes", "pss_idle_bytes", "pss_loaded_bytes", "pss_peak_bytes", "pss_after_bytes", "server_user_s"]
    {
        assert!(report["server"][figure].is_number(), "{figure}: {report:#}");
    }
    let bytes = |figure: &str| report["server"][figure].as_u64();
    assert!(bytes("pss_peak_bytes") >= bytes("pss_loaded_bytes"), "{report:#}");
}

#[test]
fn the_opening_lasts_from_the_first_connect_to_the_last_first_opening() {
    // The ramp counts from the worker's start, so the first stream may come up to an interval late here.
    let started = Instant::now();
    let (code, report) = run(
        &faulty::start(Vec::new()),
        "--streams 5 --ramp 4 --processes 1 --topics a --rate 50 --duration 2s --storm 1",
    );
    let elapsed_s = started.elapsed().as_secs_f64();
    assert_eq!((code, &report["disturbance"]["reopened"]), (0, &5.into()), "{report:#}");
    let figure = |name: &str| report["opening"][name].as_f64().unwrap();
    let opening_s = figure("opening_s");
    assert!(opening_s > 3.0 / 4.0, "{report:#}");
    // All came back half way through the two seconds of publishing: that is no part of it.
    assert!(opening_s <= elapsed_s - 2.0, "{elapsed_s}: {report:#}");
    assert!((figure("opened_per_s") * opening_s - 5.0).abs() < 1e-6, "{report:#}");
}

#[test]
fn a_stream_that_never_opens_does_not_prolong_the_opening() {
    let url = faulty::start(vec![(2, 0, Fault::Mute)]);
    let (code, report) = run(&url, "--streams 3 --processes 2 --rate 0 --open-timeout 2s");
    let opening = &report["opening"];
    assert_eq!((code, &opening["opened"], &opening["failed"]), (1, &2.into(), &1.into()), "{report:#}");
    let opening_s = opening["opening_s"].as_f64().unwrap();
    assert!(0.0 < opening_s && opening_s < 2.0, "{report:#}");
}

#[test]
fn streams_that_cannot_open_fail_the_run() {
    let (code, report) = run("http://127.0.0.1:9", "--streams 3 --rate 0 --open-timeout 5s");
    assert_eq!((code, &report["opening"]["failed"]), (1, &3.into()));
    assert_eq!(report["opening"]["opened_per_s"], 0.0);
    assert!(report["opening"]["opening_s"].as_f64().unwrap() > 0.0, "{report:#}");
}

#[test]
fn no_two_figures_of_the_report_have_the_same_name() {
    fn leaves<'a>(value: &'a Value, names: &mut Vec<&'a str>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            if value.is_object() {
                leaves(value, names);
            } else {
                names.push(name);
            }
        }
    }
    let flags = format!(
        "{SHORT} --slow 1 --churn 9 --search 1 --stalled 1 --stalled-wait 0 --server-pid {}",
        std::process::id()
    );
    // No run has both a search and a calm phase, or a history.
    let calm = "--slow 1 --stalled 1 --stalled-wait 0 --calm-rate 100 --calm 100ms";
    for flags in [flags, format!("{SHORT} {calm}"), format!("{SHORT} {calm} --churn 9 --durable")] {
        let (_, report) = run(&faulty::start(Vec::new()), &flags);
        let mut names = Vec::new();
        leaves(&report, &mut names);
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "{names:?}");
        assert!(names.len() > 90);
        // The README lists them all.
        let readme = include_str!("../../README.md");
        let unlisted: Vec<_> = names.iter().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
        assert!(unlisted.is_empty(), "{unlisted:?}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for flags in [
        ["--streams", "x"],
        ["--streams", "0"],
        ["--payload", "3"],
        ["--calm", "5s"],
        ["--receive-buffer", "0"],
        ["--durable", "--publish=redis"],
        ["--durable", "--start=nchan"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        let output = command.args(["run", "--topics", "a"]).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
}
