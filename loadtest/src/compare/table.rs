//! A comparison as a table for people.

use std::fmt;

use super::{Results, ServerResults};
use crate::leaves::Leaves;
use crate::report::grouped;

pub(super) struct Table<'a>(pub(super) &'a Results);

const FLOOR: &str = "floor";

/// Of the figures behind a server's name. `×floor` is of the column before it.
const HEADINGS: [&str; 12] = [
    "CPU µs/delivery",
    "×floor",
    "deliveries/s",
    "p50 ms",
    "p99 ms",
    "last p99",
    "lost",
    "user B",
    "kernel B",
    "open µs",
    "opened/s",
    "×floor",
];

/// Columns of the terminal for each. With the name and the gaps they are 130.
const WIDTHS: [usize; 12] = [19, 6, 12, 8, 8, 8, 7, 6, 8, 7, 8, 6];
const NAME_WIDTH: usize = 15;

fn write_line(f: &mut fmt::Formatter<'_>, name: &str, figures: &[impl fmt::Display; 12]) -> fmt::Result {
    write!(f, "{name:<NAME_WIDTH$}")?;
    for (figure, width) in figures.iter().zip(WIDTHS) {
        write!(f, " {figure:>width$}")?;
    }
    writeln!(f)
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let results = self.0;
        writeln!(f, "{}", results.comparison)?;
        for scenario in &results.scenarios {
            writeln!(f, "\n{}: {}", scenario.scenario, scenario.summary)?;
            write_line(f, "", &HEADINGS)?;
            let floor = scenario.servers.iter().find(|server| server.server == FLOOR);
            let floor = floor.map(|floor| Leaves::of(&floor.medians));
            for server in &scenario.servers {
                write_server(f, server, floor.as_ref())?;
            }
        }
        Ok(())
    }
}

fn write_server(f: &mut fmt::Formatter<'_>, server: &ServerResults, floor: Option<&Leaves<'_>>) -> fmt::Result {
    if let Some(why) = server.skipped.as_ref().filter(|_| server.medians.is_null()) {
        return writeln!(f, "{:<NAME_WIDTH$} – {why}", server.server);
    }
    let leaves = Leaves::of(&server.medians);
    let number = |name: &str, digits: usize| {
        leaves.number(name).map_or_else(|| "–".to_owned(), |figure| format!("{figure:.digits$}"))
    };
    let whole = |name: &str| {
        leaves.number(name).map_or_else(
            || "–".to_owned(),
            |figure| if figure < 0.0 { format!("{figure:.0}") } else { grouped(figure.round() as u64) },
        )
    };
    let cpu_us = leaves.number("server_cpu_us_per_delivery");
    let range = server.ranges.get("server_cpu_us_per_delivery").filter(|(low, high)| high > low);
    let range = range.map_or_else(String::new, |(low, high)| format!(" ({low:.2}–{high:.2})"));
    let cpu = cpu_us.map_or_else(|| "–".to_owned(), |us| format!("{us:.2}{range}"));
    let times_floor = |name: &str| {
        let figures =
            leaves.number(name).zip(floor.and_then(|floor| floor.number(name)).filter(|&figure| figure > 0.0));
        figures.map_or_else(|| "–".to_owned(), |(figure, floor)| format!("{:.2}", figure / floor))
    };
    let figures = [
        cpu,
        times_floor("server_cpu_us_per_delivery"),
        whole("deliveries_per_s"),
        number("p50_ms", 2),
        number("p99_ms", 2),
        number("last_p99_ms", 2),
        whole("lost"),
        whole("pss_per_stream_bytes"),
        whole("kernel_per_stream_bytes"),
        number("server_open_us", 1),
        whole("opened_per_s"),
        times_floor("opened_per_s"),
    ];
    write_line(f, &server.server, &figures)?;
    if let Some(held) = leaves.number("held_deliveries_per_s") {
        let at_least = if leaves.get("held_is_lower_bound").is_some_and(|is| is == true) { "at least " } else { "" };
        writeln!(f, "{:<NAME_WIDTH$} holds {at_least}{} deliveries/s", "", grouped(held.round() as u64))?;
    }
    let faults = leaves.list("faults").iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>();
    if !faults.is_empty() {
        writeln!(f, "{:<NAME_WIDTH$} FAULT: {}", "", faults.join("; "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ScenarioResults;
    use super::*;
    use crate::machine::Environment;

    fn server(server: &str, medians: Value) -> ServerResults {
        let ranges = [("server_cpu_us_per_delivery".to_owned(), (11.11, 13.33))].into();
        ServerResults { server: server.to_owned(), medians, ranges, skipped: None, has_failed: false }
    }

    fn table(servers: Vec<ServerResults>) -> String {
        let scenario = ScenarioResults { scenario: "s".to_owned(), summary: "what it is for".to_owned(), servers };
        let environment = Environment::read(None);
        let results =
            Results { comparison: "c".to_owned(), rounds: 3, quick: false, environment, scenarios: vec![scenario] };
        Table(&results).to_string()
    }

    #[test]
    fn opening_is_set_against_the_floors() {
        let floor = server("floor", json!({"opened_per_s": 40_000.0, "kernel_per_stream_bytes": 3_776.4}));
        let text = table(vec![floor, server("fanwheel", json!({"opened_per_s": 25_000})), server("node", json!({}))]);
        let lines: Vec<&str> = text.lines().skip(3).map(str::trim_end).collect();
        assert!(lines[0].ends_with(" opened/s ×floor"), "{text}");
        assert!(lines[1].contains(" 3,776 ") && lines[1].ends_with(" 40,000   1.00"), "{text}");
        assert!(lines[2].ends_with(" 25,000   0.62"), "{text}");
        assert!(lines[3].ends_with("  –      –"), "{text}");
    }

    #[test]
    fn without_a_floor_there_is_no_ratio() {
        let text = table(vec![server("fanwheel", json!({"opened_per_s": 25_000}))]);
        assert!(text.lines().any(|line| line.ends_with(" 25,000      –")), "{text}");
    }

    #[test]
    fn a_line_is_at_most_130_columns_wide() {
        let figures = json!({
            "server_cpu_us_per_delivery": 12.34, "deliveries_per_s": 12_345_678, "p50_ms": 12_345.67,
            "p99_ms": 12_345.67, "last_p99_ms": 12_345.67, "lost": 123_456, "pss_per_stream_bytes": 12_345,
            "kernel_per_stream_bytes": 12_345, "server_open_us": 1_234.5, "opened_per_s": 123_456,
        });
        let text = table(vec![server("floor", figures.clone()), server("durable-streams", figures)]);
        for line in text.lines() {
            assert!(line.chars().count() <= 130, "{}: {line}", line.chars().count());
        }
    }
}
