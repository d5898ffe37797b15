//! The figures of a scenario: a line per figure, a column per server.
//!
//! Servers stand side by side because they are what is compared; on a phone the table is pushed sideways under its
//! fixed first column. A figure no server has is named once below instead of
//! filling a line.

use maud::{Markup, html};

use super::figures::Unit;
use super::palette::Palette;
use super::section::{CPU, HELD, Measured, of_floor};

/// (leaf, what people call it, unit); a heading has no leaf.
const LINES: &[(&str, &str, Unit)] = &[
    ("", "Load", Unit::Count),
    ("streams", "Streams", Unit::Count),
    ("topics", "Topics", Unit::Count),
    ("rate_per_s", "Events published per second", Unit::Count),
    ("deliveries_per_s", "Deliveries per second", Unit::Count),
    (HELD, "Most deliveries per second held", Unit::Count),
    ("events_per_read", "Events per read", Unit::Count),
    ("", "Deliveries", Unit::Count),
    ("expected", "Expected", Unit::Count),
    ("received", "Received", Unit::Count),
    ("lost", "Lost", Unit::Count),
    ("told", "Told as missing", Unit::Count),
    ("doubled", "Doubled", Unit::Count),
    ("out_of_order", "Out of order", Unit::Count),
    ("phantoms", "Never published", Unit::Count),
    ("malformed", "Malformed", Unit::Count),
    ("resets", "Resets", Unit::Count),
    ("censored", "Latencies cut off by the end", Unit::Count),
    ("", "Latency", Unit::Count),
    ("p50_ms", "p50", Unit::Milliseconds),
    ("p90_ms", "p90", Unit::Milliseconds),
    ("p99_ms", "p99", Unit::Milliseconds),
    ("p999_ms", "p99.9", Unit::Milliseconds),
    ("max_ms", "Greatest", Unit::Milliseconds),
    ("intended_p99_ms", "Intended p99", Unit::Milliseconds),
    ("last_p50_ms", "Last subscriber p50", Unit::Milliseconds),
    ("last_p99_ms", "Last subscriber p99", Unit::Milliseconds),
    ("", "CPU per delivery", Unit::Count),
    (CPU, "Server CPU", Unit::Microseconds),
    ("× server_cpu_us_per_delivery", "Server CPU, × floor", Unit::Times),
    ("broker_cpu_us_per_delivery", "Broker CPU", Unit::Microseconds),
    ("subscribers_us_per_delivery", "Subscribers’ CPU", Unit::Microseconds),
    ("", "Memory per connection", Unit::Count),
    ("pss_per_stream_bytes", "Server memory (PSS)", Unit::Bytes),
    ("kernel_per_stream_bytes", "Kernel memory", Unit::Bytes),
    ("× kernel_per_stream_bytes", "Kernel memory, × floor", Unit::Times),
    ("", "Opening", Unit::Count),
    ("opening_s", "All streams open after", Unit::Seconds),
    ("open_p50_ms", "Connect → open p50", Unit::Milliseconds),
    ("open_p99_ms", "Connect → open p99", Unit::Milliseconds),
    ("opened_per_s", "Opened per second", Unit::Count),
    ("× opened_per_s", "Opened per second, × floor", Unit::Times),
    ("server_open_us", "Server CPU per stream opened", Unit::Microseconds),
    ("", "Reconnecting", Unit::Count),
    ("cut", "Streams cut", Unit::Count),
    ("reopened", "Opened again", Unit::Count),
    ("reopen_p50_ms", "Cut → open again p50", Unit::Milliseconds),
    ("reopen_p99_ms", "Cut → open again p99", Unit::Milliseconds),
    ("storm_over_s", "All open again after", Unit::Seconds),
    ("", "Slow subscribers", Unit::Count),
    ("slow_streams", "Slow streams", Unit::Count),
    ("slow_received", "Slow: received", Unit::Count),
    ("slow_lost", "Slow: lost", Unit::Count),
    ("slow_told", "Slow: told as missing", Unit::Count),
    ("slow_resets", "Slow: resets", Unit::Count),
    ("slow_closed", "Slow: closed by the server", Unit::Count),
    ("", "Stalled subscribers", Unit::Count),
    ("stalled_streams", "Stalled streams", Unit::Count),
    ("stalled_closed", "Stalled: closed by the server", Unit::Count),
    ("stalled_close_median_s", "Stalled: closed after (median)", Unit::Seconds),
];

/// In front of a leaf: divided by the floor's.
const TIMES_FLOOR: &str = "× ";

/// Leaves that should be 0: anything else is shown as a fault.
const ZERO_WANTED: [&str; 6] = ["lost", "doubled", "out_of_order", "phantoms", "malformed", "slow_lost"];

type Line = (&'static str, &'static str, Unit);

pub(super) fn render(rows: &[Measured<'_>], palette: &Palette) -> Markup {
    let has_figures = |&(leaf, ..): &&Line| rows.iter().any(|row| figure(rows, row, leaf).is_some());
    let missing: Vec<&str> = groups().flat_map(|group| missing(group, has_figures)).collect();
    html! {
        @if !rows.is_empty() {
            div.scroll {
                table {
                    thead {
                        tr { th {} @for measured in rows { th scope="col" style={ "border-color:" (palette.css(&measured.row.server)) } { (measured.row.server) } } }
                        tr { th scope="row" { "Verdict" } @for measured in rows { (verdict(measured)) } }
                    }
                    @for group in groups() {
                        tbody {
                            @let lines: Vec<&Line> = group[1..].iter().filter(has_figures).collect();
                            @if !lines.is_empty() { tr.group { th colspan=(rows.len() + 1) { (group[0].1) } } }
                            @for line in lines { (figures(rows, line)) }
                        }
                    }
                }
            }
            @if !missing.is_empty() { p.faint { "Not measured for any: " (missing.join(", ")) "." } }
        }
    }
}

/// Each begins with its heading.
fn groups() -> impl Iterator<Item = &'static [Line]> {
    LINES.chunk_by(|_, next| !next.0.is_empty())
}

/// The names of lines without figures; where a group has none at all, its own name.
fn missing(group: &'static [Line], has_figures: impl Fn(&&Line) -> bool) -> Vec<&'static str> {
    let lines = &group[1..];
    let missing: Vec<&str> = lines.iter().filter(|line| !has_figures(line)).map(|&(_, name, _)| name).collect();
    if missing.len() == lines.len() { vec![group[0].1] } else { missing }
}

fn verdict(measured: &Measured<'_>) -> Markup {
    let passed = measured.leaves.get("passed").and_then(serde_json::Value::as_bool);
    html! {
        @match passed {
            Some(true) => td.passed { "passed" },
            Some(false) => td.failed { "failed" },
            None => td.faint { "not measured" },
        }
    }
}

fn figures(rows: &[Measured<'_>], &(leaf, name, unit): &Line) -> Markup {
    html! {
        tr {
            th scope="row" { (name) }
            @for measured in rows {
                @match figure(rows, measured, leaf) {
                    None => td.faint { "not measured" },
                    Some(value) => td class=[is_fault(leaf, value).then_some("failed")] {
                        (unit.write(value))
                        @if let Some(range) = range(rows, measured, leaf) { small { (unit.write_range(range)) } }
                    },
                }
            }
        }
    }
}

fn is_fault(leaf: &str, value: f64) -> bool {
    ZERO_WANTED.contains(&leaf) && value != 0.0
}

fn figure(rows: &[Measured<'_>], measured: &Measured<'_>, leaf: &str) -> Option<f64> {
    match leaf.strip_prefix(TIMES_FLOOR) {
        Some(leaf) => Some(measured.leaves.number(leaf)? / of_floor(rows, leaf)?),
        None => measured.leaves.number(leaf),
    }
}

/// Rounds that all said the same need no range.
fn range(rows: &[Measured<'_>], measured: &Measured<'_>, leaf: &str) -> Option<(f64, f64)> {
    let spread = |leaf| measured.row.spread.get(leaf).copied().filter(|(least, greatest)| least < greatest);
    match leaf.strip_prefix(TIMES_FLOOR) {
        Some(leaf) => {
            let ((least, greatest), floor) = (spread(leaf)?, of_floor(rows, leaf)?);
            Some((least / floor, greatest / floor))
        }
        None => spread(leaf),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Row;
    use super::*;
    use crate::leaves::Leaves;

    fn row(server: &str, report: Value) -> Row {
        let spread =
            [("p99_ms".to_owned(), (1.0, 2.0)), (CPU.to_owned(), (8.0, 12.0)), ("lost".to_owned(), (0.0, 0.0))];
        Row { server: server.into(), report, spread: spread.into(), skipped: None }
    }

    fn rendered(rows: &[Row]) -> String {
        let measured: Vec<_> = rows.iter().map(|row| Measured { row, leaves: Leaves::of(&row.report) }).collect();
        render(&measured, &Palette::of(rows.iter().map(|row| row.server.as_str()))).into_string()
    }

    #[test]
    fn cpu_is_set_against_the_floors() {
        let html = rendered(&[row("floor", json!({CPU: 4.0})), row("a", json!({CPU: 10.0}))]);
        assert!(html.contains("<td>2.50 ×<small>2.00 – 3.00</small></td>"), "{html}");
    }

    #[test]
    fn opening_and_kernel_memory_are_set_against_the_floors() {
        let report = |rate: f64, bytes: f64| json!({"opened_per_s": rate, "kernel_per_stream_bytes": bytes});
        let html = rendered(&[row("floor", report(30_000.0, 3_000.0)), row("a", report(21_000.0, 3_060.0))]);
        for line in [
            "Opened per second, × floor</th><td>1.00 ×</td><td>0.700 ×</td>",
            "Kernel memory, × floor</th><td>1.00 ×</td><td>1.02 ×</td>",
        ] {
            assert!(html.contains(line), "{line}: {html}");
        }
    }

    #[test]
    fn without_a_floor_there_is_no_ratio() {
        let html = rendered(&[row("a", json!({CPU: 10.0, "lost": 0}))]);
        assert!(
            html.contains("Not measured for any: Load, Expected, ")
                && html.contains("Latency, Server CPU, × floor, Broker CPU"),
            "{html}"
        );
        assert!(html.contains("<td>0</td>"), "rounds that agree have no range: {html}");
    }

    #[test]
    fn what_one_server_lacks_is_said_in_its_place() {
        let html = rendered(&[row("a", json!({"p99_ms": 1.5, "passed": true})), row("b", json!({"p99_ms": null}))]);
        assert!(
            html.contains("<td>1.50 ms<small>1.00 – 2.00</small></td><td class=\"faint\">not measured</td>"),
            "{html}"
        );
    }

    #[test]
    fn a_loss_stands_out() {
        let html = rendered(&[row("a", json!({"lost": 3, "passed": false}))]);
        assert!(
            html.contains("<td class=\"failed\">3</td>") && html.contains("<td class=\"failed\">failed</td>"),
            "{html}"
        );
    }
}
