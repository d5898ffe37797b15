//! What has been measured so far, one JSON line per run: a comparison that was interrupted goes on
//! where it stopped.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) scenario: String,
    pub(super) server: String,
    pub(super) round: usize,
    /// All that decides the result besides the server's name: runs with others are others.
    pub(super) setup: String,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Report(Value),
    /// Why there can be none.
    Skipped(String),
    /// Why there should have been one. It is tried again when the comparison goes on.
    Failed(String),
}

/// The rows, and the file they are kept in if one was named.
pub(super) struct State {
    rows: Vec<Row>,
    file: Option<File>,
}

impl State {
    /// A line that was cut off in the middle of writing is measured again.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self { rows: Vec::new(), file: None });
        };
        let context = || format!("--state {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(context)?;
        let lines = BufReader::new(&file).lines().collect::<Result<Vec<String>, _>>().with_context(context)?;
        let rows: Vec<Row> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if rows.len() < lines.len() {
            // What follows must begin on a line of its own.
            writeln!(file).with_context(context)?;
        }
        Ok(Self { rows, file: Some(file) })
    }

    /// The last such run.
    pub(super) fn find(&self, scenario: &str, server: &str, round: usize, setup: &str) -> Option<&Row> {
        let is_it =
            |row: &&Row| row.scenario == scenario && row.server == server && row.round == round && row.setup == setup;
        self.rows.iter().rev().find(is_it)
    }

    /// A run that failed is not done.
    pub(super) fn is_done(&self, scenario: &str, server: &str, round: usize, setup: &str) -> bool {
        let row = self.find(scenario, server, round, setup);
        row.is_some_and(|row| !matches!(row.outcome, Outcome::Failed(_)))
    }

    pub(super) fn push(&mut self, row: Row) -> Result<()> {
        if let Some(file) = &mut self.file {
            let line = serde_json::to_string(&row)?;
            writeln!(file, "{line}").context("write the state")?;
        }
        self.rows.push(row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: usize) -> Row {
        let outcome = Outcome::Report(serde_json::json!({"p99_ms": round}));
        Row { scenario: "s".to_owned(), server: "x".to_owned(), round, setup: "f".to_owned(), outcome }
    }

    #[test]
    fn what_was_measured_is_found_again_and_a_broken_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.jsonl");
        let mut state = State::open(Some(&path)).unwrap();
        state.push(row(1)).unwrap();
        drop(state);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"scenario\":\"s\",\"ser").unwrap();
        let mut state = State::open(Some(&path)).unwrap();
        state.push(row(2)).unwrap();
        let state = State::open(Some(&path)).unwrap();
        assert!(state.find("s", "x", 1, "f").is_some() && state.find("s", "x", 2, "f").is_some());
        assert!(state.find("s", "x", 1, "other flags").is_none());
        assert!(state.is_done("s", "x", 1, "f") && !state.is_done("s", "x", 3, "f"));
    }

    #[test]
    fn what_failed_is_tried_again_and_the_last_try_counts() {
        let mut state = State::open(None).unwrap();
        state.push(Row { outcome: Outcome::Failed("it died".to_owned()), ..row(1) }).unwrap();
        assert!(!state.is_done("s", "x", 1, "f"));
        state.push(row(1)).unwrap();
        assert!(state.is_done("s", "x", 1, "f"));
        assert!(matches!(state.find("s", "x", 1, "f").unwrap().outcome, Outcome::Report(_)));
    }
}
