//! One axis: a range in transformed coordinates and the marks on it.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::{Curve, Point};

/// More labels than this on one axis run into each other.
const TICKS_MAX: usize = 8;

/// In transformed coordinates.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) title: &'static str,
    /// low < high.
    pub(super) low: f64,
    pub(super) high: f64,
    /// Ascending.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From the mark below the lowest point to the mark above the highest. `None` without points.
    pub(super) fn logarithmic(title: &'static str, curves: &[Curve], of: impl Fn(&Point) -> f64) -> Option<Self> {
        let values = || curves.iter().flat_map(|curve| &curve.points).map(&of);
        let (lowest, highest) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
        let marks = |steps: &[f64]| {
            let decades = lowest.floor() as i32 - 1..=highest.ceil() as i32;
            let all = decades.flat_map(|decade| steps.iter().map(move |step| f64::from(decade) + step.log10()));
            all.collect::<Vec<_>>()
        };
        let fine = marks(&[1.0, 2.0, 5.0]);
        let low = fine.iter().copied().rfind(|&mark| mark <= lowest)?;
        let high = fine.iter().copied().find(|&mark| mark > highest)?;
        let inside = |marks: Vec<f64>| -> Vec<f64> {
            marks.into_iter().filter(|mark| (low - 1e-9..=high + 1e-9).contains(mark)).collect()
        };
        let mut shown = inside(fine);
        if shown.len() > TICKS_MAX {
            shown = inside(marks(&[1.0]));
        }
        let ticks = shown.into_iter().map(|mark| (mark, short(10_f64.powf(mark)))).collect();
        Some(Self { title, low, high, ticks })
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(tick, _)| *tick).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, position: &f64) -> String {
        let found = self.ticks.iter().find(|(tick, _)| (tick - position).abs() < 1e-9);
        found.map_or_else(String::new, |(_, label)| label.clone())
    }
}

/// `120000` as `120k`, `0.05` as `0.05`. Marks of an axis have one digit that counts.
fn short(value: f64) -> String {
    let (scaled, suffix) = match value {
        v if v >= 1e9 * 0.999 => (v / 1e9, "G"),
        v if v >= 1e6 * 0.999 => (v / 1e6, "M"),
        v if v >= 1e3 * 0.999 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let text = format!("{scaled:.3}");
    format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(values: &[f64]) -> Vec<String> {
        let points = values.iter().map(|value| Point { x: 0.0, y: value.log10(), passed: true }).collect();
        let curves = [Curve { colour: (0, 0, 0), width: 1, points }];
        let axis = Axis::logarithmic("y", &curves, |point| point.y).unwrap();
        axis.ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn an_axis_ends_at_marks_around_the_points() {
        assert_eq!(axis(&[3.0]), ["2", "5"]);
        assert_eq!(axis(&[1.1, 18.0]), ["1", "2", "5", "10", "20"]);
        assert_eq!(axis(&[0.004, 0.04]), ["0.002", "0.005", "0.01", "0.02", "0.05"]);
        assert_eq!(axis(&[10.0]), ["10", "20"]);
    }

    #[test]
    fn a_long_axis_is_marked_by_powers_of_ten() {
        assert_eq!(axis(&[110.0, 2_400_000.0]), ["100", "1k", "10k", "100k", "1M"]);
    }

    #[test]
    fn without_points_there_is_no_axis() {
        assert!(Axis::logarithmic("y", &[], |point| point.y).is_none());
    }
}
