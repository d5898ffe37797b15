//! `--version` tells the commit the program was built from, and a build without git does not fail.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::Launch;

#[allow(dead_code, clippy::needless_pass_by_value)]
#[path = "../build.rs"]
mod build_script;

use build_script::describe;

fn git(folder: &Path, arguments: &[&str]) {
    let settings = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"];
    let output = Command::new("git").args(settings).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `<12 hex>[-dirty], <date>`.
fn is_commit(text: &str) -> bool {
    let Some((commit, date)) = text.split_once(", ") else { return false };
    let hex = commit.strip_suffix("-dirty").unwrap_or(commit);
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let date: Vec<&str> = date.split('-').collect();
    hex.len() == 12
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        && date.len() == 3
        && digits(date[0], 4)
        && digits(date[1], 2)
        && digits(date[2], 2)
}

#[test]
fn the_version_names_commit_and_date() {
    let ended = Launch::verb("--version").run();
    assert_eq!(ended.code, Some(0));
    let start = concat!("fanwheel ", env!("CARGO_PKG_VERSION"), " (");
    let commit = ended.stdout.trim_end().strip_prefix(start).and_then(|rest| rest.strip_suffix(')'));
    assert!(commit.is_some_and(is_commit), "{}", ended.stdout);
}

#[test]
fn a_commit_is_dirty_once_a_tracked_file_has_changed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    git(path, &["init", "--quiet"]);
    assert_eq!(describe(path, None), "unknown", "no commit yet");
    std::fs::write(path.join("tracked"), "one").unwrap();
    git(path, &["add", "tracked"]);
    git(path, &["commit", "--quiet", "--message=one"]);
    std::fs::write(path.join("untracked"), "is none of its business").unwrap();
    let clean = describe(path, Some("ffffffffffff".into()));
    assert!(is_commit(&clean) && !clean.contains("dirty") && !clean.starts_with("ffff"), "{clean}");
    std::fs::write(path.join("tracked"), "another").unwrap();
    assert_eq!(describe(path, None), clean.replace(", ", "-dirty, "));
    // In a worktree of its own `.git` is a file.
    git(path, &["worktree", "add", "--quiet", "beside"]);
    assert_eq!(describe(&path.join("beside"), None), clean);
    // A copy that was unpacked inside the repository.
    std::fs::create_dir(path.join("inside")).unwrap();
    assert_eq!(describe(&path.join("inside"), None), "unknown");
}

#[test]
fn without_git_the_builder_names_the_commit() {
    let folder = TempDir::new().unwrap();
    let given = |text: &str| describe(folder.path(), Some(text.into()));
    assert_eq!(describe(folder.path(), None), "unknown");
    assert_eq!(given(""), "unknown");
    assert_eq!(given("0123456789abcdef0123456789abcdef01234567"), "0123456789ab");
    assert_eq!(given("v0.1.0-rc1"), "v0.1.0-rc1");
    assert_eq!(given("two\nlines"), "unknown");
    assert_eq!(describe(&folder.path().join("gone"), None), "unknown", "a folder that git cannot enter");
}

#[test]
fn the_builds_variable_is_no_unknown_setting() {
    let ended = Launch::verb("config").word("check").variable("FANWHEEL_COMMIT", "0123456789ab").run();
    assert_eq!((ended.code, &ended.stderr[..]), (Some(0), ""));
}

#[test]
fn what_cargo_run_adds_to_the_environment_is_no_unknown_setting() {
    // Cargo gives tests the same variables.
    let added = std::env::vars().filter(|(name, _)| name.starts_with("FANWHEEL_"));
    let launch =
        added.fold(Launch::verb("config").word("check"), |launch, (name, value)| launch.variable(&name, &value));
    let ended = launch.run();
    assert_eq!((ended.code, &ended.stderr[..]), (Some(0), ""));
}
