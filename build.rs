//! Tells the program which commit it was built from: `0.1.0 (<12 hex>[-dirty], <commit date>)`.
//!
//! git says so; where there is no git or no repository, the variable `FANWHEEL_COMMIT` does, else it is `unknown`.
//! None of that can fail a build. It runs again only when git's HEAD, refs or index change, so `-dirty`
//! tells how the tracked files were then: an edit that git has not been told of since is not seen.
//!
//! And lets faults be planted (`src/mutant.rs`): in debug builds, never in any other.

use std::path::Path;
use std::process::Command;

/// Hex digits of a commit that are shown.
const HEX: usize = 12;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=FANWHEEL_COMMIT");
    for path in watched(root) {
        println!("cargo::rerun-if-changed={path}");
    }
    let_faults_be_planted();
    let given = std::env::var("FANWHEEL_COMMIT").ok();
    println!("cargo::rustc-env=VERSION_WITH_COMMIT={} ({})", env!("CARGO_PKG_VERSION"), describe(root, given));
}

/// `--cfg fanwheel_mutant="name"` plants one; in a debug build one can also be chosen at run time.
fn let_faults_be_planted() {
    println!("cargo::rustc-check-cfg=cfg(fanwheel_mutants)");
    println!("cargo::rustc-check-cfg=cfg(fanwheel_mutant, values(any()))");
    let planted = std::env::var("CARGO_CFG_FANWHEEL_MUTANT").unwrap_or_default();
    let is_debug = std::env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    assert!(
        is_debug || planted.is_empty(),
        "fanwheel_mutant={planted} plants a fault, which no release build may have"
    );
    if is_debug {
        println!("cargo::rustc-cfg=fanwheel_mutants");
    }
    println!("cargo::rustc-env=MUTANT_OF_BUILD={planted}");
}

/// The commit, by git or as it was `given`.
pub fn describe(root: &Path, given: Option<String>) -> String {
    by_git(root).or_else(|| given.and_then(|commit| shown(&commit))).unwrap_or_else(|| "unknown".into())
}

/// A commit as it was given; `None` for text that cannot be one.
fn shown(given: &str) -> Option<String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let given = given.trim();
    if given.is_empty() || !given.chars().all(fits) {
        return None;
    }
    let is_hex = given.chars().all(|letter| letter.is_ascii_hexdigit());
    Some(if is_hex { given.chars().take(HEX).collect() } else { given.into() })
}

fn by_git(root: &Path) -> Option<String> {
    // A copy that was unpacked inside another repository is not of its commit.
    if !git(root, &["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    let commit = git(root, &["rev-parse", "--verify", "HEAD"])?;
    let date = git(root, &["log", "-1", "--format=%cs", "HEAD"])?;
    // Without the lock: a status that refreshed the index would have this run again.
    let changed = git(root, &["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])?;
    let dirty = if changed.is_empty() { "" } else { "-dirty" };
    Some(format!("{}{dirty}, {date}", commit.get(..HEX)?))
}

/// What changes with a commit, a checkout or an add. Only what exists: cargo runs this always for
/// the sake of a file that is missing.
fn watched(root: &Path) -> Vec<String> {
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    let names = ["HEAD", "index", "packed-refs"].map(str::to_owned).into_iter().chain(branch);
    let path = |name: String| git(root, &["rev-parse", "--git-path", &name]);
    names.filter_map(path).filter(|path| root.join(path).exists()).collect()
}

/// What git prints, without the line's end; `None` when it fails or does not exist.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(["-c", "safe.directory=*"]).args(arguments).current_dir(root).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
