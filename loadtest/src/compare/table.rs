//! A comparison as a table for people.

use std::fmt;

use super::{Results, ServerResults};
use crate::leaves::Leaves;
use crate::report::grouped;

pub(super) struct Table<'a>(pub(super) &'a Results);

const FLOOR: &str = "floor";

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let results = self.0;
        writeln!(f, "{}", results.comparison)?;
        for scenario in &results.scenarios {
            writeln!(f, "\n{}: {}", scenario.scenario, scenario.summary)?;
            writeln!(
                f,
                "{:<16} {:>17} {:>7} {:>14} {:>9} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9}",
                "",
                "CPU µs/delivery",
                "×floor",
                "deliveries/s",
                "p50 ms",
                "p99 ms",
                "last p99",
                "lost",
                "user B",
                "kernel B",
                "open µs"
            )?;
            let floor = scenario.servers.iter().find(|server| server.server == FLOOR);
            let floor_us = floor.and_then(|floor| Leaves::of(&floor.medians).number("server_cpu_us_per_delivery"));
            for server in &scenario.servers {
                write_server(f, server, floor_us)?;
            }
        }
        Ok(())
    }
}

fn write_server(f: &mut fmt::Formatter<'_>, server: &ServerResults, floor_us: Option<f64>) -> fmt::Result {
    if let Some(why) = server.skipped.as_ref().filter(|_| server.medians.is_null()) {
        return writeln!(f, "{:<16} – {why}", server.server);
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
    let ratio = cpu_us.zip(floor_us).map_or_else(|| "–".to_owned(), |(us, floor_us)| format!("{:.2}", us / floor_us));
    writeln!(
        f,
        "{:<16} {:>17} {:>7} {:>14} {:>9} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9}",
        server.server,
        cpu,
        ratio,
        whole("deliveries_per_s"),
        number("p50_ms", 2),
        number("p99_ms", 2),
        number("last_p99_ms", 2),
        whole("lost"),
        whole("pss_per_stream_bytes"),
        whole("kernel_per_stream_bytes"),
        number("server_open_us", 1),
    )?;
    if let Some(held) = leaves.number("held_deliveries_per_s") {
        let at_least = if leaves.get("held_is_lower_bound").is_some_and(|is| is == true) { "at least " } else { "" };
        writeln!(f, "{:<16} holds {at_least}{} deliveries/s", "", grouped(held.round() as u64))?;
    }
    let faults = leaves.list("faults").iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>();
    if !faults.is_empty() {
        writeln!(f, "{:<16} FAULT: {}", "", faults.join("; "))?;
    }
    Ok(())
}
