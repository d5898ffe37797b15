//! Where figures come from: the command, the commit, the time.

use std::process::Command;
use std::time::SystemTime;

/// What repeats this run.
pub(crate) fn command() -> String {
    let arguments = std::env::args().skip(1).map(quoted).collect::<Vec<_>>().join(" ");
    format!("loadtest {arguments}")
}

/// As a shell would have to be told.
fn quoted(argument: String) -> String {
    let is_plain = argument.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=.,:/+%@".contains(&byte));
    if is_plain && !argument.is_empty() { argument } else { format!("'{}'", argument.replace('\'', r"'\''")) }
}

/// The commit measured, where this is run in its repository.
pub(crate) fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Which build this is: two of the same version are told apart by when they were built.
pub(crate) fn build() -> String {
    let built = std::env::current_exe().and_then(|path| path.metadata()?.modified()).ok();
    let built = built.map(|at| humantime::format_rfc3339_seconds(at).to_string()).unwrap_or_default();
    format!("{} of {built}", env!("CARGO_PKG_VERSION"))
}

/// RFC 3339, UTC.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_given_to_a_shell_again() {
        let said = |text: &str| quoted(text.to_owned());
        assert_eq!(
            [said("--rate=12"), said("a b"), said("lost==0 && x"), said("it's"), said("")],
            ["--rate=12", "'a b'", "'lost==0 && x'", r"'it'\''s'", "''"]
        );
    }
}
