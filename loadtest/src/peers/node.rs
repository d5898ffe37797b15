//! The naive Node server that tutorials teach: `loadtest/peers/node/server.js`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::process::Process;
use super::redis::Redis;
use super::{Running, Setup, install, ports};
use crate::dialect::Dialect;
use crate::publisher::Via;

pub(super) const NOTE: &str = "What tutorials teach: one Redis subscriber, a map from topic to responses, res.write per \
     client. Added, so that it may use all cores: node:cluster with one worker, and one Redis subscriber, per core. \
     Fed by a redis-server on the same machine that saves nothing.";

const SERVER: &str = include_str!("../../peers/node/server.js");
const PACKAGE: &str = include_str!("../../peers/node/package.json");
const PACKAGE_LOCK: &str = include_str!("../../peers/node/package-lock.json");
/// As in `server.js`.
const CHANNEL_PREFIX: &str = "events:";

/// `None` unless the locked version of its one package is there too.
pub(super) fn version() -> Option<String> {
    let node = install::output(Command::new("node").arg("--version"))?;
    let installed = fs::read_to_string(modules().ok()?.join("redis/package.json")).ok()?;
    let package = json_version(&installed, "/version")?;
    let locked = json_version(PACKAGE_LOCK, "/packages/node_modules~1redis/version")?;
    (package == locked).then(|| format!("node {}, npm redis {package}", node.trim().trim_start_matches('v')))
}

/// Brings the locked packages into the cache.
pub(super) fn install() -> Result<()> {
    if install::output(Command::new("npm").arg("--version")).is_none() {
        install::packages(&["nodejs", "npm"])?;
    }
    let dir = cache()?;
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("package.json"), PACKAGE)?;
    fs::write(dir.join("package-lock.json"), PACKAGE_LOCK)?;
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    install::must_run(Command::new("npm").args(arguments).current_dir(&dir))
}

pub(super) fn start(setup: &Setup, redis: Redis) -> Result<Running> {
    let target = ports::target(ports::free()?);
    let script = setup.dir.join("server.js");
    fs::write(&script, SERVER)?;
    // Node looks for packages beside the script.
    let beside = setup.dir.join("node_modules");
    if !beside.exists() {
        std::os::unix::fs::symlink(modules()?, &beside).context("link node_modules")?;
    }
    let mut command = Command::new("node");
    command.arg(&script).env("PORT", target.addr.port().to_string()).env("REDIS_URL", redis.url());
    command.env("WORKERS", setup.cores.to_string()).env("NODE_ENV", "production");
    let mut server = Process::start("node", &command, &setup.dir)?;
    // A worker listens when Redis has confirmed its subscription; the last one to do so is late.
    let ready = setup.dir.join("node.log");
    let are_ready = || fs::read_to_string(&ready).is_ok_and(|log| log.matches("listening").count() >= setup.cores);
    server.wait_until("its workers", are_ready)?;
    server.wait_for(&target)?;
    let publish = Via::Redis { target: redis.target.clone(), channel_prefix: CHANNEL_PREFIX.to_owned() };
    Ok(Running {
        dialect: Dialect::by_query(),
        subscribe: target,
        publish,
        server,
        broker: Some(redis),
        _backend: None,
    })
}

fn cache() -> Result<PathBuf> {
    Ok(install::cache_dir()?.join("node"))
}

fn modules() -> Result<PathBuf> {
    Ok(cache()?.join("node_modules"))
}

fn json_version(json: &str, pointer: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(json).ok()?;
    Some(json.pointer(pointer)?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_belongs_to_the_package_and_names_no_registry() {
        let wanted = json_version(PACKAGE, "/dependencies/redis").unwrap();
        assert_eq!(json_version(PACKAGE_LOCK, "/packages/node_modules~1redis/version"), Some(wanted));
        assert!(!PACKAGE_LOCK.contains("resolved"));
    }
}
