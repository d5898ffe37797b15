//! Curves as inline SVG: latency over percentiles, and what became of an offered rate.
//!
//! - **Colours of ink and grid are names.** A drawn SVG knows nothing of light and dark: ink and grid are
//!   two fixed colours (`INK`, `GRID`) that the page's style sheet replaces by their attribute. The colours of
//!   servers stay as they are; they are chosen to be seen on both.
//! - **Drawn four times too large.** The backend rounds to whole units; at this size that is a quarter of
//!   a pixel. The page scales by `viewBox`, so a phone shows the same picture.
//! - All scales are logarithmic: servers differ by factors, and a tail has its place beside a median.
//!   Ranges end at 1, 2 or 5 times a power of ten.
//! - A curve without points is left out; a plot without curves is `None`, never an empty frame.
//! - Not chosen: bars (they are plain HTML: text in them stays text), legends inside the picture (too
//!   small on a phone: the page has one per scenario), scripts.

mod axis;

use std::cmp::Reverse;
use std::error::Error;

use plotters::prelude::*;

use axis::Axis;

const SCALE: u32 = 4;
const SIZE: (u32, u32) = (520 * SCALE, 340 * SCALE);
pub(crate) const INK: RGBColor = RGBColor(0x3B, 0x43, 0x4D);
pub(crate) const GRID: RGBColor = RGBColor(0xDD, 0xE2, 0xE8);
/// Below this a latency is shown as this: a logarithm knows no zero.
const MS_MIN: f64 = 0.001;

/// One server's curve.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) colour: (u8, u8, u8),
    /// In pixels of the page.
    pub(crate) width: u32,
    /// As the axes count: (quantile, ms) or (offered per second, reached).
    pub(crate) points: Vec<Point>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// False for a step of a search that did not pass: drawn hollow.
    pub(crate) passed: bool,
}

/// Milliseconds over percentiles; a further nine is always the same way to the right.
pub(crate) fn latency_curves(curves: &[Curve]) -> Option<String> {
    let onto_axes = |point: &Point| Point { x: nines(point.x), y: log(point.y.max(MS_MIN)), ..*point };
    let curves = transformed(curves, |point| (0.0..1.0).contains(&point.x), onto_axes);
    let last = curves.iter().flat_map(|curve| &curve.points).map(|point| point.x).fold(1.0, f64::max);
    let percentiles =
        [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %"), (0.99999, "99.999 %")];
    // Those beyond the last point are not drawn.
    let ticks = percentiles.map(|(quantile, label)| (nines(quantile), label.to_owned())).to_vec();
    let x = Axis { title: "percentile of deliveries", low: 0.0, high: last, ticks };
    let y = Axis::logarithmic("milliseconds", &curves, |point| point.y)?;
    Some(draw(&Plot { x, y, curves, diagonal: false, dots: false }))
}

/// Deliveries per second over those offered; on the dotted diagonal everything arrives in its time.
pub(crate) fn reached_rates(curves: &[Curve]) -> Option<String> {
    let curves = transformed(curves, Point::is_positive, |p| Point { x: log(p.x), y: log(p.y), ..*p });
    let x = Axis::logarithmic("deliveries offered per second", &curves, |point| point.x)?;
    let y = Axis::logarithmic("delivered per second", &curves, |point| point.y)?;
    Some(draw(&Plot { x, y, curves, diagonal: true, dots: true }))
}

/// A latency over the offered rate.
pub(crate) fn latency_over_rate(curves: &[Curve]) -> Option<String> {
    let curves = transformed(curves, Point::is_positive, |p| Point { x: log(p.x), y: log(p.y.max(MS_MIN)), ..*p });
    let x = Axis::logarithmic("deliveries offered per second", &curves, |point| point.x)?;
    let y = Axis::logarithmic("p99 in milliseconds", &curves, |point| point.y)?;
    Some(draw(&Plot { x, y, curves, diagonal: false, dots: true }))
}

impl Point {
    fn is_positive(&self) -> bool {
        self.x > 0.0 && self.y > 0.0
    }
}

fn log(value: f64) -> f64 {
    value.log10()
}

/// 0.9 → 1, 0.99 → 2, 0.999 → 3.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn transformed(curves: &[Curve], keep: impl Fn(&Point) -> bool, transform: impl Fn(&Point) -> Point) -> Vec<Curve> {
    let one = |curve: &Curve| {
        let points = curve.points.iter().filter(|point| keep(point)).map(&transform).collect();
        Curve { points, ..curve.clone() }
    };
    curves.iter().map(one).filter(|curve| !curve.points.is_empty()).collect()
}

struct Plot {
    x: Axis,
    y: Axis,
    curves: Vec<Curve>,
    /// True exactly when the line on which y = x is drawn.
    diagonal: bool,
    /// True exactly when the points are measurements of their own and not a continuous curve.
    dots: bool,
}

fn draw(plot: &Plot) -> String {
    let mut svg = String::new();
    draw_into(&mut svg, plot).expect("a string takes every picture");
    inline(&svg, plot)
}

fn draw_into(svg: &mut String, plot: &Plot) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(8 * SCALE)
        .margin_right(32 * SCALE)
        .x_label_area_size(42 * SCALE)
        .y_label_area_size(66 * SCALE)
        .build_cartesian_2d(plot.x.clone(), plot.y.clone())?;
    let font = |size: u32| ("sans-serif", size * SCALE).into_font().color(&INK);
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(SCALE))
        .light_line_style(TRANSPARENT)
        .axis_style(INK.stroke_width(SCALE))
        .label_style(font(16))
        .axis_desc_style(font(17))
        .set_all_tick_mark_size(4 * SCALE)
        .x_desc(plot.x.title)
        .y_desc(plot.y.title)
        .draw()?;
    if plot.diagonal {
        let (low, high) = (plot.x.low.max(plot.y.low), plot.x.high.min(plot.y.high));
        let line = DashedLineSeries::new([(low, low), (high, high)], 2 * SCALE, 5 * SCALE, INK.stroke_width(SCALE));
        chart.draw_series(line)?;
    }
    // The widest first: where curves lie on each other, each is still seen.
    let mut curves: Vec<&Curve> = plot.curves.iter().collect();
    curves.sort_by_key(|curve| Reverse(curve.width));
    for curve in curves {
        let (red, green, blue) = curve.colour;
        let colour = RGBColor(red, green, blue);
        let points = || curve.points.iter().map(|point| (point.x, point.y));
        chart.draw_series(LineSeries::new(points(), colour.stroke_width(curve.width * SCALE)))?;
        let dots = curve.points.iter().filter(|_| plot.dots || curve.points.len() == 1);
        chart.draw_series(dots.map(|point| {
            let style = if point.passed { colour.filled() } else { colour.stroke_width(2 * SCALE) };
            Circle::new((point.x, point.y), 4 * SCALE, style)
        }))?;
    }
    area.present()?;
    Ok(())
}

/// The picture without fixed size and name space, both of which a page has already.
fn inline(svg: &str, plot: &Plot) -> String {
    let drawn = svg.split_once('>').map_or("", |(_, rest)| rest);
    let (width, height) = SIZE;
    let label = format!("{} over {}", plot.y.title, plot.x.title);
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">{drawn}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(f64, f64)]) -> Curve {
        let points = points.iter().map(|&(x, y)| Point { x, y, passed: y < 1_000_000.0 }).collect();
        Curve { colour: (0x12, 0xAB, 0xEF), width: 2, points }
    }

    #[test]
    fn a_curve_is_drawn_in_its_colour_between_named_axes() {
        let svg = latency_curves(&[curve(&[(0.0, 0.2), (0.5, 1.0), (0.999, 30.0), (1.0, 90.0)])]).unwrap();
        for part in ["#12ABEF", "99.9 %", "milliseconds", "percentile of deliveries", "</svg>"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("99.99 %"), "no mark lies beyond the last point");
        assert!(!svg.contains("://"), "{svg}");
    }

    #[test]
    fn what_was_not_measured_has_no_picture() {
        assert_eq!(latency_curves(&[curve(&[])]), None);
        assert_eq!(reached_rates(&[]), None);
        assert_eq!(reached_rates(&[curve(&[(0.0, 5.0)])]), None, "a logarithm knows no zero");
    }

    #[test]
    fn a_step_that_did_not_pass_is_hollow() {
        let circles = |points: &[(f64, f64)]| {
            let svg = reached_rates(&[curve(points)]).unwrap();
            svg.lines().filter(|line| line.starts_with("<circle") && line.contains("fill=\"none\"")).count()
        };
        assert_eq!(circles(&[(1e5, 1e5), (2e5, 1.9e5)]), 0);
        assert_eq!(circles(&[(1e5, 1e5), (2e6, 1.9e6)]), 1);
    }

    #[test]
    fn only_rates_against_rates_have_a_diagonal() {
        let lines = |svg: Option<String>| svg.unwrap().matches("<polyline").count();
        let curves = [curve(&[(1e5, 1e5), (4e5, 3e5)])];
        assert!(lines(reached_rates(&curves)) > lines(latency_over_rate(&curves)) + 10);
    }
}
