//! How a verb fails: a sentence on standard error and an exit code.

use std::process::ExitCode;

/// Why a verb did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// What was asked for makes no sense; nothing was tried.
    #[error("{0}")]
    Usage(String),
    /// It was tried.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// Says it, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        say(&self.to_string());
        match self {
            Failure::Usage(_) => ExitCode::from(super::EXIT_USAGE),
            Failure::Failed(_) => ExitCode::FAILURE,
        }
    }
}

/// One line for whoever reads standard error; nobody may.
pub(super) fn say(sentence: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "fanwheel: {}", printable(sentence));
}

/// A text on one line that a terminal only shows: a backslash is `\\`, CR and LF are `\r` and `\n`,
/// every other control character but the tab is `\u{…}`. What others published must not move the
/// reader's cursor.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => shown.push_str("\\\\"),
            '\t' => shown.push('\t'),
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_no_commands() {
        assert_eq!(printable("a\tb €"), "a\tb €");
        assert_eq!(printable("\\n\n\r"), r"\\n\n\r");
        assert_eq!(printable("\u{1b}[2J\0\u{7f}\u{9b}"), r"\u{1b}[2J\u{0}\u{7f}\u{9b}");
    }
}
