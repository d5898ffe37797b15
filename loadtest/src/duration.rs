//! Durations as people write them on a command line.

use std::num::ParseFloatError;
use std::time::Duration;

/// `250ms`, `10s`, `2m`, `1.5s`, or plain seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 0.001),
        _ if text.ends_with('s') => (&text[..text.len() - 1], 1.0),
        _ if text.ends_with('m') => (&text[..text.len() - 1], 60.0),
        _ => (text, 1.0),
    };
    let number: f64 = number.parse().map_err(|error: ParseFloatError| error.to_string())?;
    Duration::try_from_secs_f64(number * unit_s).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_fractions_are_understood_and_nonsense_is_not() {
        let millis = |text| parse_duration(text).map(|duration| duration.as_millis());
        for (text, expected) in [("250ms", 250), ("10s", 10_000), ("2m", 120_000), ("1.5s", 1_500), ("3", 3_000)] {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "-1s", "soon", "1e99s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
