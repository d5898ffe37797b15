//! Brings the peers that are missing: Debian's packages, a crate, a Node package.
//!
//! **What always holds:** no service is started. Debian's packages start theirs on installation
//! unless `policy-rc.d` forbids it, so it does while they are installed. What is not a package goes
//! into a folder of its own in the user's cache.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

const POLICY: &str = "/usr/sbin/policy-rc.d";
/// 101: the action is forbidden.
const POLICY_TEXT: &str = "#!/bin/sh\nexit 101\n";

/// Forbids services to be started until it is dropped.
struct Forbidden {
    /// True exactly when there was none before but ours.
    is_ours: bool,
}

impl Forbidden {
    fn new() -> Result<Self> {
        // One that an interrupted installation left behind is ours again.
        let is_ours = fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT);
        if Path::new(POLICY).exists() && !is_ours {
            let code = Command::new(POLICY).args(["fanwheel-loadtest", "start"]).stdout(Stdio::null()).status()?.code();
            ensure!(code == Some(101), "{POLICY} lets packages start services; install them by hand");
            return Ok(Self { is_ours: false });
        }
        fs::write(POLICY, POLICY_TEXT).context(POLICY)?;
        let forbidden = Self { is_ours: true };
        fs::set_permissions(POLICY, Permissions::from_mode(0o755))?;
        Ok(forbidden)
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Installs Debian packages; needs root.
pub(super) fn packages(names: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install {}", names.join(" "));
    ensure!(rustix::process::geteuid().is_root(), "only root may install packages: {by_hand}");
    ensure!(output(Command::new("apt-get").arg("--version")).is_some(), "no apt-get here; needed: {}", names.join(" "));
    let _forbidden = Forbidden::new()?;
    must_run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-q", "--no-install-recommends"]);
    must_run(command.args(names)).with_context(|| by_hand)
}

/// Builds and installs a crate's program into [`cargo_root`].
pub(super) fn cargo_program(name: &str, version: &str) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["install", name, "--version", &format!("={version}"), "--locked", "--root"]);
    must_run(command.arg(cargo_root(name, version)?))
}

/// Where [`cargo_program`] puts it.
pub(super) fn cargo_root(name: &str, version: &str) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("{name}-{version}")))
}

/// The user's cache for what is installed here.
pub(super) fn cache_dir() -> Result<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(named.or(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("fanwheel-loadtest"))
}

/// Runs it, its output shown.
pub(super) fn must_run(command: &mut Command) -> Result<()> {
    eprintln!("loadtest: {command:?}");
    match command.stdin(Stdio::null()).status().with_context(|| format!("{:?}", command.get_program()))? {
        status if status.success() => Ok(()),
        status => bail!("{:?}: {status}", command.get_program()),
    }
}

/// What a short command prints to both outputs; `None` when it fails or is not there.
pub(super) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}
