//! A page with every kind of row, for tests and for looking at. Its figures are made up.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Page, Row, Section};
use crate::machine::Environment;

/// (server, CPU in µs per delivery, PSS per stream, p50 in ms, deliveries per second it breaks down at).
const SERVERS: [(&str, f64, f64, f64, f64); 6] = [
    ("floor", 4.7, 0.0, 8.0, 420_000.0),
    ("fanwheel", 4.9, 92.0, 8.4, 400_000.0),
    ("fanwheel, Redis", 5.1, 95.0, 8.9, 380_000.0),
    ("durable-streams", 5.0, 780.0, 8.2, 900_000.0),
    ("nginx + nchan", 7.9, 1_400.0, 14.0, 210_000.0),
    ("node", 21.5, 9_800.0, 41.0, 62_000.0),
];

pub(super) fn page() -> Page {
    let mut broadcast: Vec<Row> = SERVERS.iter().map(|&server| row(server, None)).collect();
    broadcast[5].report["passed"] = json!(false);
    broadcast[5].report["faults"] = json!(["37 deliveries lost"]);
    broadcast[5].report["deliveries"]["lost"] = json!(37);
    broadcast[4].report["bottleneck"] = json!("machine: 98 % busy");
    broadcast[1].report["remarks"] = json!(["publisher late by p99 1.2 ms"]);
    broadcast.insert(2, skipped("pushpin", "not installed (see --install)"));
    let saturation = SERVERS.iter().map(|&server| row(server, Some(&steps(server.1, server.4)))).collect();
    Page {
        title: "Fan-out servers compared".into(),
        command: "loadtest compare --quick --html report.html".into(),
        made_at: "2026-11-21T15:00:00Z".into(),
        quick: true,
        environment: Environment::read(Some("00bb1e1".into())),
        notes: vec![
            ("nginx + nchan".into(), "As packaged; one worker per core, access log off, buffers as shipped.".into()),
            ("node".into(), "What tutorials teach: one Redis subscriber, one write per client.".into()),
        ],
        sections: vec![
            section("broadcast", "10,000 streams on one topic, 12 events per second to everyone.", broadcast),
            section("saturation", "The offered rate is doubled until latency or loss says no.", saturation),
        ],
    }
}

fn section(scenario: &str, summary: &str, rows: Vec<Row>) -> Section {
    Section { scenario: scenario.into(), summary: summary.into(), rows }
}

fn skipped(server: &str, reason: &str) -> Row {
    Row { server: server.into(), report: Value::Null, spread: BTreeMap::new(), skipped: Some(reason.into()) }
}

fn row((server, cpu_us, pss_bytes, p50_ms, limit_per_s): (&str, f64, f64, f64, f64), steps: Option<&Value>) -> Row {
    let at = |quantile: f64| p50_ms * (0.4 + 0.9 * -(1.0 - quantile).log10()).max(0.05);
    let quantiles = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999];
    let curve: Vec<Value> = quantiles.iter().map(|&quantile| json!([quantile, at(quantile)])).collect();
    let report = json!({
        "passed": true,
        "faults": [],
        "remarks": [],
        "bottleneck": "none",
        "setup": {"streams": 10_000, "topics": 1, "rate_per_s": 12.0},
        "deliveries": {
            "expected": 1_200_000, "received": 1_200_000, "lost": 0, "told": 0, "doubled": 0, "out_of_order": 0,
            "malformed": 0, "resets": 0, "deliveries_per_s": 119_874.2, "events_per_read": 1.02,
        },
        "latency": {
            "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": at(0.9999),
            "intended_p99_ms": at(0.99) + 0.3, "last_p50_ms": at(0.999), "last_p99_ms": at(0.9999),
            "latency_curve": curve,
        },
        "server": {
            "server_cpu_us_per_delivery": cpu_us,
            "broker_cpu_us_per_delivery": if server.contains("Redis") { json!(0.02) } else { Value::Null },
            "pss_per_stream_bytes": pss_bytes,
            "kernel_per_stream_bytes": 3_776.0,
        },
        "client": {"subscribers_us_per_delivery": 2.61},
        "opening_s": null,
        "search": steps.map(|steps| json!({"held_deliveries_per_s": 0.9 * limit_per_s, "steps": steps})),
    });
    let spread = [
        ("server_cpu_us_per_delivery".to_owned(), (cpu_us * 0.97, cpu_us * 1.05)),
        ("p99_ms".to_owned(), (at(0.99) * 0.8, at(0.99) * 1.3)),
    ];
    Row { server: server.into(), report, spread: spread.into(), skipped: None }
}

/// A server that follows until its limit and then falls behind.
fn steps(cpu_us: f64, limit_per_s: f64) -> Value {
    let offered = (0..8).map(|doubled| 15_000.0 * f64::from(1 << doubled));
    let step = |offered: f64| {
        let share = offered / limit_per_s;
        let reached = if share < 1.0 { offered } else { limit_per_s * 0.92 };
        let p99_ms = 4.0 + 6.0 * share + if share < 1.0 { 0.0 } else { 900.0 * share };
        json!({
            "offered_per_s": offered, "deliveries_per_s": reached, "p99_ms": p99_ms,
            "server_cpu_us_per_delivery": cpu_us, "passed": share < 1.0,
        })
    };
    offered.take_while(|offered| offered / limit_per_s < 2.2).map(step).collect()
}
