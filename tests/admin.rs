//! The admin listener: numbers that are right, health that can fail, and nothing on the public side.

use serde_json::json;

use crate::common::{Launch, Node, Stream, get, post, request, wait_until};

#[test]
fn every_line_of_the_metrics_parses_and_the_fixed_names_are_there() {
    Node::each(|node| {
        let _stream = Stream::open(&node.server, "topic=secret-topic-name");
        node.publish("secret-topic-name", "x");
        let answer = get(node.server.admin, "/metrics");
        let content_type = answer.header("content-type").unwrap();
        assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"), "{content_type}");
        let lines: Vec<&str> = answer.text().lines().collect();
        assert_eq!(lines.last(), Some(&"# EOF"));
        lines[..lines.len() - 1].iter().for_each(|line| check_line(line));
        for name in [
            "fanwheel_connections{transport=\"sse\"}",
            "fanwheel_connections_closed_total{reason=\"gone\"}",
            "fanwheel_connections_closed_total{reason=\"stalled\"}",
            "fanwheel_events_received_total",
            "fanwheel_deliveries_total",
            "fanwheel_publish_to_write_seconds_bucket{le=\"+Inf\"}",
            "fanwheel_publish_to_write_seconds_sum",
            "fanwheel_publish_to_write_seconds_count",
            "fanwheel_redis_reconnects_total",
        ] {
            assert!(node.server.metric(name) >= 0.0, "{name}");
        }
        assert!(!answer.text().contains("secret"), "a topic is no label");
    });
}

#[test]
fn what_operators_alert_on_is_a_metric() {
    let mut node = Node::on_redis();
    node.post("t", "x");
    node.server.wait_metric("fanwheel_publishes_total{outcome=\"accepted\"}", 1.0);
    assert_eq!(node.server.metric("fanwheel_ready"), 1.0);
    let (open, limit) =
        (node.server.metric("fanwheel_descriptors_open"), node.server.metric("fanwheel_connections_limit"));
    assert!(open > 10.0 && limit > open, "{open} of {limit}");
    let version = format!("fanwheel_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(node.server.metric(&version), 1.0);
    node.redis_mut().kill();
    node.server.wait_not_ready();
    assert_eq!(node.server.metric("fanwheel_ready"), 0.0);
    wait_until("a publish to be refused", || post(node.server.public, "/topics/t", b"x").status() == 503);
    assert!(node.server.metric("fanwheel_publishes_total{outcome=\"refused\"}") >= 1.0);
}

/// A comment that describes a metric, or `name{label="value",…} number`.
#[track_caller]
fn check_line(line: &str) {
    if let Some(rest) = line.strip_prefix("# ") {
        let kind = rest.split(' ').next().unwrap();
        assert!(["HELP", "TYPE", "UNIT"].contains(&kind), "{line}");
        return;
    }
    let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
    let name = sample.split('{').next().unwrap();
    assert!(
        name.starts_with("fanwheel_")
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit()),
        "{line}"
    );
    if let Some(labels) = sample.strip_prefix(name).filter(|labels| !labels.is_empty()) {
        let labels = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}'));
        for label in labels.unwrap_or_else(|| panic!("{line}")).split(',') {
            let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
            assert!(["transport", "reason", "outcome", "version", "le"].contains(&name), "{line}");
            assert!(value.starts_with('"') && value.ends_with('"') && value.len() > 2, "{line}");
        }
    }
}

#[test]
fn the_numbers_are_right_after_a_known_run() {
    for node in [
        Node::embedded_as(Launch::serve().flag("--shards", "1")),
        Node::on_redis_as(Launch::serve().flag("--shards", "1")),
    ] {
        let server = &node.server;
        let mut streams = [Stream::open(server, "topic=a"), Stream::open(server, "topic=a&topic=b")];
        server.wait_metric("fanwheel_connections{transport=\"sse\"}", 2.0);
        for number in 0..5 {
            for topic in ["a", "b"] {
                node.publish(topic, number.to_string());
                assert_eq!(streams[1].next_data(), number.to_string());
            }
            assert_eq!(streams[0].next_data(), number.to_string());
        }
        server.wait_metric("fanwheel_events_received_total", 10.0);
        server.wait_metric("fanwheel_deliveries_total", 15.0);
        server.wait_metric("fanwheel_publish_to_write_seconds_count", 10.0);
        let seconds = server.metric("fanwheel_publish_to_write_seconds_sum");
        assert!(seconds > 0.0 && seconds < 10.0, "{seconds}");
        server.wait_metric("fanwheel_streams_opened_total", 2.0);
        assert_eq!(server.metric("fanwheel_topics"), 2.0);
        assert_eq!(server.status()["deliveries"], 15);
        drop(streams);
        server.wait_closed("gone", 2.0);
        server.wait_metric("fanwheel_connections{transport=\"sse\"}", 0.0);
        assert_eq!(server.metric("fanwheel_redis_reconnects_total"), 0.0);
    }
}

#[test]
fn health_readiness_and_status_have_the_promised_fields() {
    let node = Node::on_redis_as(Launch::serve().flag("--shards", "2"));
    let to = node.server.admin;
    assert_eq!(get(to, "/healthz").status(), 200);
    assert_eq!(get(to, "/readyz").json(), json!({"ready": true, "reasons": []}));
    let _stream = Stream::open(&node.server, "topic=a&topic=b");
    let status = node.server.status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["shards"], &status["connections"], &status["topics"]), (&json!(2), &json!(1), &json!(2)));
    assert!(status["uptime_s"].is_u64() && status["redis"].is_object(), "{status}");
    assert_eq!(status["redis"]["connected"], true);
    wait_until("the clock to move", || node.server.status()["uptime_s"].as_u64() > Some(0));
}

#[test]
fn the_admin_listener_serves_a_page_and_refuses_what_it_does_not_know() {
    let node = Node::embedded();
    let to = node.server.admin;
    assert!(get(to, "/").header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    get(to, "/events?topic=t").problem(404);
    get(to, "/topics/t").problem(404);
    let answer = request(to, "POST", "/metrics", &[], b"");
    answer.problem(405);
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
}
