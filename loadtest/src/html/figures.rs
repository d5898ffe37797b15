//! Numbers as people read them: three digits that count, thousands grouped, the unit beside them.

use crate::report::grouped;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Count,
    Milliseconds,
    Microseconds,
    Seconds,
    Bytes,
    Times,
}

impl Unit {
    pub(super) fn write(self, value: f64) -> String {
        let suffix = match self {
            Self::Count => "",
            Self::Milliseconds => " ms",
            Self::Microseconds => " µs",
            Self::Seconds => " s",
            Self::Bytes => " B",
            Self::Times => " ×",
        };
        format!("{}{suffix}", self.number(value))
    }

    /// `1.20 – 1.40`, without the unit.
    pub(super) fn write_range(self, (least, greatest): (f64, f64)) -> String {
        format!("{} – {}", self.number(least), self.number(greatest))
    }

    /// What is counted has no fraction of its own: 12 events, 1.02 events per read.
    fn number(self, value: f64) -> String {
        match self {
            Self::Bytes => significant(value.round(), true),
            Self::Count => significant(value, value.fract() == 0.0),
            _ => significant(value, value == 0.0),
        }
    }
}

fn significant(value: f64, is_whole: bool) -> String {
    match value.abs() {
        _ if value < 0.0 => format!("−{}", significant(-value, is_whole)),
        m if is_whole || m >= 1_000.0 => grouped(m.round() as u64),
        m if m >= 100.0 => format!("{m:.0}"),
        m if m >= 10.0 => format!("{m:.1}"),
        m if m >= 1.0 => format!("{m:.2}"),
        m => format!("{m:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count_and_what_is_counted_stays_whole() {
        let said = [0.0, 0.0414, 4.7041, 61.26, 612.4, 61_234.6, 3.0, -3_900.2].map(|value| Unit::Count.write(value));
        assert_eq!(said, ["0", "0.041", "4.70", "61.3", "612", "61,235", "3", "−3,900"]);
    }

    #[test]
    fn the_unit_stands_beside_the_number() {
        assert_eq!(Unit::Milliseconds.write(1.5), "1.50 ms");
        assert_eq!(Unit::Microseconds.write(5.0), "5.00 µs");
        assert_eq!(Unit::Seconds.write(0.0), "0 s");
        assert_eq!(Unit::Bytes.write(780.4), "780 B");
        assert_eq!(Unit::Times.write_range((1.0, 1.25)), "1.00 – 1.25");
    }
}
