//! nginx with the module nchan.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::process::{Process, descriptors_max};
use super::{Running, Setup, install, ports};
use crate::dialect::Dialect;

pub(super) const NOTE: &str = "Debian's packages, memory store, one worker per core. Changed: connections and descriptors \
     per worker, a listen queue per worker (reuseport, so that the streams are spread evenly) of 4,096, publishers' \
     connections are not closed after 1,000 requests, a stream begins with the next event instead of the 10 that are \
     kept, no access log.";

const CONFIG: &str = include_str!("../../peers/nginx.conf");
/// Connections of a worker that are not streams.
const RESERVE: usize = 1024;

pub(super) fn version() -> Option<String> {
    let described = install::output(Command::new(program()?).arg("-v"))?;
    let nginx = described.trim().rsplit('/').next()?;
    module()?;
    let query = ["-W", "-f", "${Version}", "libnginx-mod-nchan"];
    let nchan =
        install::output(Command::new("dpkg-query").args(query)).unwrap_or_else(|| "(version unknown)".to_owned());
    Some(format!("nginx {nginx}, nchan {nchan}"))
}

pub(super) fn install() -> Result<()> {
    install::packages(&["nginx-core", "libnginx-mod-nchan"])
}

pub(super) fn start(setup: &Setup) -> Result<Running> {
    let target = ports::target(ports::free()?);
    let config = setup.dir.join("nginx.conf");
    let module = module().context("nginx has no module nchan")?;
    let user = if rustix::process::geteuid().is_root() { "root" } else { "nobody" };
    let filled = CONFIG
        .replace("{user}", user)
        .replace("{module}", &module.to_string_lossy())
        .replace("{dir}", &setup.dir.to_string_lossy())
        .replace("{cores}", &setup.cores.to_string())
        .replace("{descriptors}", &descriptors_max().to_string())
        .replace("{connections}", &(setup.streams_max + RESERVE).to_string())
        .replace("{port}", &target.addr.port().to_string());
    fs::write(&config, filled)?;
    let mut command = Command::new(program().context("nginx is not installed")?);
    command.arg("-p").arg(&setup.dir).arg("-c").arg(&config).arg("-e").arg(setup.dir.join("nginx-error.log"));
    let mut server = Process::start("nginx", &command, &setup.dir)?;
    // The master listens before its workers are there.
    server.wait_for_family(1 + setup.cores)?;
    server.wait_for(&target)?;
    Ok(Running::by_http(Dialect::nchan(), target, server))
}

/// Debian's place for it is not on the PATH of everybody.
fn program() -> Option<&'static str> {
    ["nginx", "/usr/sbin/nginx"].into_iter().find(|program| install::output(Command::new(program).arg("-v")).is_some())
}

/// Where nginx was built to look for its modules.
fn module() -> Option<PathBuf> {
    let described = install::output(Command::new(program()?).arg("-V"))?;
    let folder = described.split_ascii_whitespace().find_map(|word| word.strip_prefix("--modules-path="))?;
    Some(PathBuf::from(folder).join("ngx_nchan_module.so")).filter(|path| path.is_file())
}
