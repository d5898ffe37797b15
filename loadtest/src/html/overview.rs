//! All scenarios at a glance: a line per scenario, a column per server.
//!
//! In each field stand the verdict's colour, CPU per delivery as a multiple of the floor's where there is a
//! floor (else as measured), and the latency 99 % of the deliveries stay under, or what a search found.
//! Where nothing was sent: the memory of a connection, and the CPU of opening it.

use maud::{Markup, html};

use super::figures::Unit;
use super::palette::Palette;
use super::section::{CPU, HELD, Measured, of_floor};
use super::{Row, Section};
use crate::leaves::Leaves;

pub(super) fn render(sections: &[Section], palette: &Palette) -> Markup {
    html! {
        section {
            h2 { "At a glance" }
            p.faint { "Server CPU per delivery, × floor where there is one; below it the p99 latency, or the deliveries per second held. Where nothing is sent: memory in user space and CPU of opening, per connection." }
            div.scroll {
                table {
                    thead { tr { th {} @for server in palette.servers() { th scope="col" style={ "border-color:" (palette.css(server)) } { (server) } } } }
                    tbody { @for (index, section) in sections.iter().enumerate() { (line(index, section, palette)) } }
                }
            }
        }
    }
}

fn line(index: usize, section: &Section, palette: &Palette) -> Markup {
    let rows: Vec<Measured<'_>> = section.measured();
    let floor = of_floor(&rows, CPU);
    html! {
        tr {
            th scope="row" { a href={ "#scenario-" (index) } { (section.scenario) } }
            @for server in palette.servers() {
                @match section.rows.iter().find(|row| row.server == server) {
                    Some(row) => (field(row, floor)),
                    None => td.faint { "–" },
                }
            }
        }
    }
}

fn field(row: &Row, floor: Option<f64>) -> Markup {
    let leaves = Leaves::of(&row.report);
    let cpu = leaves.number(CPU);
    let cpu =
        cpu.map(|cpu| floor.map_or_else(|| Unit::Microseconds.write(cpu), |floor| Unit::Times.write(cpu / floor)));
    let p99 = leaves.number("p99_ms").map(|ms| Unit::Milliseconds.write(ms));
    let held = leaves.number(HELD).map(|rate| format!("holds {}/s", Unit::Count.write(rate.round())));
    let memory = leaves.number("pss_per_stream_bytes").map(|bytes| Unit::Bytes.write(bytes));
    let opening = leaves.number("server_open_us").map(|us| format!("opens in {}", Unit::Microseconds.write(us)));
    let failed = leaves.get("passed").and_then(serde_json::Value::as_bool) == Some(false);
    html! {
        @if row.skipped.is_some() {
            td.faint { "skipped" }
        } @else {
            td class=[failed.then_some("failed")] {
                (cpu.or(memory).as_deref().unwrap_or("not measured"))
                @if failed { " failed" }
                small { (held.or(p99).or(opening).as_deref().unwrap_or("not measured")) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn each_server_has_a_field_in_each_scenario() {
        let page = sample::page();
        let servers = page.sections.iter().flat_map(|section| &section.rows).map(|row| row.server.as_str());
        let html = render(&page.sections, &Palette::of(servers)).into_string();
        assert!(html.contains("<td>1.04 ×<small>18.5 ms</small></td>"), "{html}");
        assert!(html.contains("<td class=\"failed\">4.57 × failed<small>"), "{html}");
        assert!(html.contains("<td>1.04 ×<small>holds 360,000/s</small></td>"), "{html}");
        assert_eq!(html.matches("<td class=\"faint\">skipped</td>").count(), 1, "pushpin in broadcast");
        assert_eq!(html.matches("<td class=\"faint\">–</td>").count(), 1, "pushpin in saturation");
    }
}
