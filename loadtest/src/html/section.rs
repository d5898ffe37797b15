//! One scenario on the page: what was done, the plots, the table, and what was wrong.

use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::bars::{Bar, Bars};
use super::figures::Unit;
use super::palette::{self, Palette};
use super::{Row, Section, table};
use crate::leaves::Leaves;
use crate::plots::{self, Curve, Point};

/// Leaf of CPU per delivery, the figure that is set against the floor's.
pub(super) const CPU: &str = "server_cpu_us_per_delivery";

/// Leaf of the kernel's memory per stream.
const KERNEL: &str = "kernel_per_stream_bytes";

const FLOOR: &str = "floor";

/// Leaf of the highest rate a saturation search found to be held.
pub(super) const HELD: &str = "held_deliveries_per_s";

/// What the leaf `bottleneck` says when neither the client nor the machine was one.
const NO_BOTTLENECK: &str = "none";

/// A row whose report there is, with its leaves.
pub(super) struct Measured<'a> {
    pub(super) row: &'a Row,
    pub(super) leaves: Leaves<'a>,
}

impl Section {
    /// `index`: the place on the page, for links to it.
    pub(super) fn render(&self, index: usize, palette: &Palette) -> Markup {
        let rows = self.measured();
        html! {
            section id={ "scenario-" (index) } {
                h2 { (self.scenario) }
                p { (self.summary) }
                (legend(&rows, palette))
                div.plots { (pictures(&rows, palette)) }
                (table::render(&rows, palette))
                (self.remarks(&rows))
            }
        }
    }

    pub(super) fn measured(&self) -> Vec<Measured<'_>> {
        let rows = self.rows.iter().filter(|row| row.skipped.is_none());
        rows.map(|row| Measured { row, leaves: Leaves::of(&row.report) }).collect()
    }

    fn remarks(&self, rows: &[Measured<'_>]) -> Markup {
        let skipped = self.rows.iter().filter_map(|row| Some((&row.server, row.skipped.as_ref()?)));
        let texts = |measured: &Measured<'_>, leaf| -> Vec<String> {
            measured.leaves.list(leaf).iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
        };
        html! {
            ul.remarks {
                @for (server, reason) in skipped { li.skipped { b { (server) } " skipped: " (reason) } }
                @for measured in rows {
                    @for fault in texts(measured, "faults") { li.fault { b { (measured.row.server) } " fault: " (fault) } }
                    @if let Some(bottleneck) = measured.leaves.text("bottleneck").filter(|&what| what != NO_BOTTLENECK) {
                        li.doubt { b { (measured.row.server) } " bottleneck: " (bottleneck) }
                    }
                    @for remark in texts(measured, "remarks") { li { b { (measured.row.server) } " note: " (remark) } }
                }
            }
        }
    }
}

fn legend(rows: &[Measured<'_>], palette: &Palette) -> Markup {
    html! {
        ul.legend {
            @for measured in rows {
                li { i style={ "background:" (palette.css(&measured.row.server)) } {} (measured.row.server) }
            }
        }
    }
}

fn pictures(rows: &[Measured<'_>], palette: &Palette) -> Markup {
    let latency = curves(rows, palette, |leaves| leaves.list("latency_curve").iter().filter_map(percentile).collect());
    let steps = |leaf: &'static str| {
        curves(rows, palette, move |leaves| {
            leaves.list("steps").iter().filter_map(|step| at_step(step, leaf)).collect()
        })
    };
    let plots = [
        ("Latency, publish → receive", plots::latency_curves(&latency)),
        ("Delivered against offered", plots::reached_rates(&steps("deliveries_per_s"))),
        ("Latency (p99) against offered", plots::latency_over_rate(&steps("p99_ms"))),
    ];
    html! {
        @for (title, plot) in plots {
            @if let Some(svg) = plot { figure { figcaption { (title) } (PreEscaped(svg)) } }
        }
        div.stack { (cpu(rows, palette).render()) (memory(rows, palette).render()) }
    }
}

fn curves(rows: &[Measured<'_>], palette: &Palette, points: impl Fn(&Leaves<'_>) -> Vec<Point>) -> Vec<Curve> {
    let curve = |measured: &Measured<'_>| Curve {
        colour: palette.get(&measured.row.server),
        width: if palette::is_fanwheel(&measured.row.server) { 4 } else { 2 },
        points: points(&measured.leaves),
    };
    rows.iter().map(curve).collect()
}

/// `[quantile, ms]`.
fn percentile(pair: &Value) -> Option<Point> {
    Some(Point { x: pair.get(0)?.as_f64()?, y: pair.get(1)?.as_f64()?, passed: true })
}

fn at_step(step: &Value, leaf: &str) -> Option<Point> {
    let passed = step.get("passed").and_then(Value::as_bool).unwrap_or(true);
    Some(Point { x: step.get("offered_per_s")?.as_f64()?, y: step.get(leaf)?.as_f64()?, passed })
}

fn cpu(rows: &[Measured<'_>], palette: &Palette) -> Bars {
    let bar = |measured: &Measured<'_>| bar(measured, palette, measured.leaves.number(CPU), None);
    let bars = rivals(rows).map(bar).collect();
    Bars { title: "Server CPU per delivery", unit: Unit::Microseconds, parts: None, floor: of_floor(rows, CPU), bars }
}

fn memory(rows: &[Measured<'_>], palette: &Palette) -> Bars {
    let bar = |measured: &Measured<'_>| {
        let leaf = |name| measured.leaves.number(name);
        bar(measured, palette, leaf("pss_per_stream_bytes"), leaf(KERNEL))
    };
    let bars = rivals(rows).map(bar).collect();
    // The floor's own memory is a descriptor per stream.
    let floor = of_floor(rows, KERNEL);
    Bars { title: "Memory per connection", unit: Unit::Bytes, parts: Some(("user", "kernel")), floor, bars }
}

/// All but the floor, which is a line where it is the measure.
fn rivals<'a>(rows: &'a [Measured<'a>]) -> impl Iterator<Item = &'a Measured<'a>> {
    rows.iter().filter(|measured| measured.row.server != FLOOR)
}

fn bar(measured: &Measured<'_>, palette: &Palette, first: Option<f64>, second: Option<f64>) -> Bar {
    let server = &measured.row.server;
    Bar { server: server.clone(), colour: palette.css(server), first, second }
}

/// A leaf of the row named `floor`, for others to be set against. Above 0.
pub(super) fn of_floor(rows: &[Measured<'_>], leaf: &str) -> Option<f64> {
    rows.iter().find(|measured| measured.row.server == FLOOR)?.leaves.number(leaf).filter(|&figure| figure > 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_floor_is_a_line_through_the_memory_of_the_others() {
        let page = sample::page();
        let rows = page.sections[0].measured();
        let chart = memory(&rows, &Palette::of(std::iter::empty()));
        assert_eq!((chart.floor, chart.bars.len()), (Some(3_776.0), rows.len() - 1));
        assert!(chart.bars.iter().all(|bar| bar.server != FLOOR));
    }
}
