//! Runs that can be made larger by a variable, repeated by a seed, and recorded.

use std::io::Write as _;

/// The number in a variable, if it is set.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Appends the commit and `line` to the file in `FANWHEEL_TEST_RECORD`, if it is set.
pub fn record(line: &str) {
    let Ok(file) = std::env::var("FANWHEEL_TEST_RECORD") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    writeln!(file, "{} {}", commit(), line.trim_end()).unwrap();
}

fn commit() -> String {
    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    git.map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
