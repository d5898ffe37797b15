//! The report for people: one HTML file, complete in itself.
//!
//! It opens from a mail, a CI artefact or a file system without a network: no script, no font, no
//! picture from elsewhere; plots are inline SVG, bars are plain elements. Light and dark follow the reader's
//! setting, a phone shows one column.
//!
//! - **All text is escaped** by the template crate; only SVG and the style sheet, both our own, pass as they are.
//! - **What was not measured says so.** A missing leaf is never a 0, a missing server never a gap: a skipped
//!   one is named with its reason.
//! - **A server has one colour** on the whole page (`palette`).
//! - Figures are looked up by leaf name (`Leaves`), so the page knows nothing of how a report is grouped.
//! - Not chosen: charts by script (a report should still open in ten years), a template engine that reads files.
//!
//! `overview` sets all scenarios side by side; `section` is one of them: `table` holds its figures, `bars` the costs side by side, `figures` writes numbers.

mod bars;
mod figures;
mod overview;
mod palette;
#[cfg(test)]
mod sample;
mod section;
mod table;

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use crate::machine::Environment;
use crate::report::grouped;
use palette::Palette;

const STYLE: &str = include_str!("style.css");

/// Everything that is told.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// What repeats it.
    pub(crate) command: String,
    /// RFC 3339.
    pub(crate) made_at: String,
    /// True exactly when there was one short round: an impression, not a result.
    pub(crate) quick: bool,
    pub(crate) environment: Environment,
    /// Server → version and why the comparison is fair to it.
    pub(crate) notes: Vec<(String, String)>,
    pub(crate) sections: Vec<Section>,
}

/// One scenario.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) scenario: String,
    /// What is done and what it shows.
    pub(crate) summary: String,
    /// In the order they are shown in.
    pub(crate) rows: Vec<Row>,
}

/// One server in one scenario.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) server: String,
    /// The median round's.
    pub(crate) report: Value,
    /// Leaf → least and greatest over the rounds.
    pub(crate) spread: BTreeMap<String, (f64, f64)>,
    /// Why there is no report.
    pub(crate) skipped: Option<String>,
}

impl Page {
    pub(crate) fn render(&self) -> String {
        let servers = self.sections.iter().flat_map(|section| &section.rows).map(|row| row.server.as_str());
        let palette = Palette::of(servers);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    (self.head())
                    main {
                        @if self.sections.len() > 1 { (overview::render(&self.sections, &palette)) }
                        @for (index, section) in self.sections.iter().enumerate() { (section.render(index, &palette)) }
                        (self.fairness())
                        (how_to_read())
                        (self.machine())
                    }
                }
            }
        };
        page.into_string()
    }

    fn head(&self) -> Markup {
        html! {
            header {
                h1 { (self.title) @if self.quick { " " span.badge { "quick, one round" } } }
                @if self.quick {
                    p.faint { "One short round each: an impression. Ranges and medians need the full length." }
                }
                p.faint { "Made " time { (self.made_at) } " by" }
                pre { code { (self.command) } }
            }
        }
    }

    fn fairness(&self) -> Markup {
        html! {
            @if !self.notes.is_empty() {
                section {
                    h2 { "The servers, and why it is fair" }
                    dl { @for (server, note) in &self.notes { dt { (server) } dd { (note) } } }
                }
            }
        }
    }

    fn machine(&self) -> Markup {
        let e = &self.environment;
        let number = |figure: Option<u64>| figure.map(grouped);
        let facts = [
            ("Kernel", e.kernel.clone()),
            ("System", e.os_name.clone()),
            ("Processor", e.cpu_model.clone()),
            ("Cores", Some(grouped(e.cores))),
            ("Memory", e.memory_bytes.map(|bytes| format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64))),
            ("Descriptors of a process", number(e.descriptors_max)),
            ("tcp_mem, pages", e.tcp_mem_pages.map(|pages| pages.map(grouped).join(" / "))),
            ("somaxconn", number(e.somaxconn)),
            ("Source ports", e.port_range.map(|(first, last)| format!("{first} – {last}"))),
            ("Commit", e.commit.clone()),
        ];
        html! {
            section {
                h2 { "The machine" }
                dl.facts {
                    @for (name, fact) in facts { dt { (name) } dd { (fact.as_deref().unwrap_or("not known")) } }
                }
            }
        }
    }
}

fn how_to_read() -> Markup {
    html! {
        section {
            h2 { "How to read this" }
            ul {
                li { "Server, broker, publisher and subscribers share one machine over loopback. CPU per delivery carries over to others as a ratio; rates do not." }
                li { b { "floor" } " is the least any server can do: one send per event and socket, nothing around it. " b { "× floor" } " is CPU per delivery divided by the floor's in the same scenario." }
                li { "A delivery is " b { "lost" } " when it was published while the stream was open and subscribed, and was neither delivered nor told as missing. It counts as a latency of at least the time waited." }
                li { b { "Intended" } " latency starts when the schedule wanted the event sent, so a publisher that was held up does not hide the wait." }
                li { b { "Last subscriber" } " is the time until everyone has an event." }
                li { "Figures are the median round's; below them the least and the greatest of all rounds. Hollow points are steps that did not pass." }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole text of the page between tags.
    fn text_of(page: &str) -> String {
        let pieces = page.split('<').map(|piece| piece.split_once('>').map_or(piece, |(_, text)| text));
        pieces.collect()
    }

    #[test]
    fn every_server_and_scenario_is_on_the_page() {
        let page = sample::page();
        let text = text_of(&page.render());
        for section in &page.sections {
            assert!(text.contains(&section.scenario), "{}", section.scenario);
            for row in &section.rows {
                assert!(text.contains(&row.server), "{}", row.server);
            }
        }
        assert!(text.contains("quick, one round"));
    }

    #[test]
    fn what_went_wrong_and_why_it_is_fair_is_told() {
        let text = text_of(&sample::page().render());
        for told in [
            "skipped: not installed (see --install)",
            "fault: 37 deliveries lost",
            "bottleneck: machine: 98 % busy",
            "note: publisher late by p99 1.2 ms",
            "nginx + nchanAs packaged; one worker per core",
        ] {
            assert!(text.contains(told), "{told}: {text}");
        }
        assert_eq!(text.matches("bottleneck:").count(), 1, "none is no news");
    }

    #[test]
    fn a_scenario_has_the_pictures_it_has_figures_for() {
        let page = sample::page();
        let pictures = |section: &Section| {
            let html = section.render(0, &Palette::of(std::iter::empty())).into_string();
            (html.matches("<svg").count(), text_of(&html).contains("92 B + 3,776 B"))
        };
        assert_eq!(pictures(&page.sections[0]), (1, true), "latency");
        assert_eq!(pictures(&page.sections[1]), (3, true), "latency, rates, latency over rates");
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let page = sample::page().render();
        for reference in ["://", "src=", "<script", "<link", "@import", "url("] {
            assert!(!page.contains(reference), "{reference}");
        }
    }

    #[test]
    fn text_from_outside_is_never_markup() {
        let evil = "<script>alert(1)</script>\"&'";
        let mut page = sample::page();
        page.title = evil.into();
        page.command = evil.into();
        page.made_at = evil.into();
        page.notes = vec![(evil.into(), evil.into())];
        page.environment.kernel = Some(evil.into());
        let section = &mut page.sections[0];
        section.scenario = evil.into();
        section.summary = evil.into();
        section.rows[1].server = evil.into();
        section.rows[2].skipped = Some(evil.into());
        section.rows[0].report["faults"] = serde_json::json!([evil]);
        section.rows[0].report["remarks"] = serde_json::json!([evil]);
        section.rows[0].report["bottleneck"] = evil.into();
        let page = page.render();
        assert!(!page.contains("<script"));
        assert!(page.matches("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;").count() >= 12);
    }
}
