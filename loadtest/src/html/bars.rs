//! Costs side by side: one horizontal bar per server, in plain elements so that text stays text.
//!
//! A bar may have two parts (user space, kernel); a vertical line marks the floor. Without a single figure
//! there is no chart, and a server without one says so in its place.

use maud::{Markup, html};

use super::figures::Unit;

/// One chart.
pub(super) struct Bars {
    pub(super) title: &'static str,
    pub(super) unit: Unit,
    /// Names of the parts, where a bar has two.
    pub(super) parts: Option<(&'static str, &'static str)>,
    /// Where the line is drawn.
    pub(super) floor: Option<f64>,
    pub(super) bars: Vec<Bar>,
}

/// One server.
pub(super) struct Bar {
    pub(super) server: String,
    /// As CSS has it.
    pub(super) colour: String,
    pub(super) first: Option<f64>,
    pub(super) second: Option<f64>,
}

impl Bars {
    pub(super) fn render(&self) -> Markup {
        let longest = self.bars.iter().map(Bar::length).chain(self.floor).fold(0.0, f64::max);
        let percent = |value: f64| format!("{:.2}%", 100.0 * value.max(0.0) / longest);
        html! {
            @if longest > 0.0 {
                figure {
                    figcaption {
                        (self.title)
                        @if let Some((first, second)) = self.parts {
                            span.parts { i.solid {} (first) i.pale {} (second) }
                        }
                    }
                    @for bar in &self.bars {
                        div.bar {
                            span.server { (bar.server) }
                            span.figure { (self.figure(bar)) }
                            div.track {
                                @if let Some(first) = bar.first { i.solid style={ "width:" (percent(first)) ";background:" (bar.colour) } {} }
                                @if let Some(second) = bar.second { i.pale style={ "width:" (percent(second)) ";background:" (bar.colour) } {} }
                                @if let Some(floor) = self.floor { b style={ "left:" (percent(floor)) } {} }
                            }
                        }
                    }
                    @if let Some(floor) = self.floor { p.faint { "The line is the floor: " (self.unit.write(floor)) } }
                }
            }
        }
    }

    fn figure(&self, bar: &Bar) -> String {
        let part = |figure: Option<f64>| figure.map_or("not measured".to_owned(), |value| self.unit.write(value));
        match (self.parts, bar.first, bar.second) {
            (_, None, None) => "not measured".to_owned(),
            (None, first, _) => part(first),
            (Some(_), first, second) => format!("{} + {}", part(first), part(second)),
        }
    }
}

impl Bar {
    /// A part that shrank has no length.
    fn length(&self) -> f64 {
        [self.first, self.second].into_iter().flatten().map(|part| part.max(0.0)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(server: &str, first: Option<f64>, second: Option<f64>) -> Bar {
        Bar { server: server.into(), colour: "#123456".into(), first, second }
    }

    fn memory(bars: Vec<Bar>) -> String {
        let parts = Some(("user", "kernel"));
        Bars { title: "Memory", unit: Unit::Bytes, parts, floor: None, bars }.render().into_string()
    }

    #[test]
    fn the_longest_bar_fills_the_track() {
        let html = memory(vec![bar("a", Some(1_000.0), Some(3_000.0)), bar("b", Some(1_000.0), None)]);
        assert_eq!(html.matches("width:25.00%").count(), 2, "{html}");
        assert!(html.contains("width:75.00%") && html.contains("1,000 B + 3,000 B"), "{html}");
        assert!(html.contains("1,000 B + not measured"), "{html}");
    }

    #[test]
    fn the_floor_is_a_line_even_beyond_every_bar() {
        let bars = vec![bar("a", Some(2.0), None), bar("b", None, None)];
        let chart = Bars { title: "CPU", unit: Unit::Microseconds, parts: None, floor: Some(4.0), bars };
        let html = chart.render().into_string();
        assert!(html.contains("left:100.00%") && html.contains("width:50.00%"), "{html}");
        assert!(html.contains("not measured"), "{html}");
    }

    #[test]
    fn without_a_figure_there_is_no_chart() {
        assert_eq!(memory(vec![bar("a", None, None)]), "");
    }
}
