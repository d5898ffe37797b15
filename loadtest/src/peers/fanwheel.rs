//! Fanwheel itself, with its embedded broker or with a Redis.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::process::Process;
use super::redis::Redis;
use super::{Running, Setup, install, ports};
use crate::dialect::Dialect;
use crate::publisher::Via;

pub(super) const NOTE: &str = "Defaults; one shard per core. Events are published by HTTP into the embedded broker, \
     which keeps them in memory as nchan and durable-streams do.";
pub(super) const NOTE_REDIS: &str = "Defaults; one shard per core. Fed by a redis-server on the same machine that saves \
     nothing, published to by PUBLISH, as the Node server is; by HTTP where topics are durable.";

/// As shipped.
const CHANNEL_PREFIX: &str = "fanwheel:";
/// Its whole configuration where topics are durable.
const DURABLE: &str = "[[class]]\npattern = '**'\nkind = 'durable'\n";

/// `None` when it is neither beside this program nor on the PATH.
pub(super) fn version() -> Option<String> {
    install::output(Command::new(program()).arg("--version")).map(|line| line.trim().to_owned())
}

/// `redis`: what feeds it instead of the embedded broker.
pub(super) fn start(setup: &Setup, redis: Option<Redis>) -> Result<Running> {
    let target = ports::target(ports::free()?);
    let mut command = Command::new(setup.fanwheel.clone().unwrap_or_else(program));
    command.args(["serve", "--listen", &target.authority, "--shards", &setup.cores.to_string()]);
    command.args(["--admin-listen", &ports::target(ports::free()?).authority]);
    // It ends when nobody measures any more: no goodbye to spread.
    command.args(["--drain", "0s", "--log-level", "warn"]);
    if let Some(redis) = &redis {
        command.args(["--redis", &redis.url(), "--channel-prefix", CHANNEL_PREFIX]);
    }
    if setup.is_durable {
        let config = setup.dir.join("fanwheel.toml");
        fs::write(&config, DURABLE).with_context(|| format!("write {}", config.display()))?;
        command.arg("--config").arg(config);
    }
    let mut server = Process::start("fanwheel", &command, &setup.dir)?;
    server.wait_for(&target)?;
    let mut running = Running::by_http(Dialect::fanwheel(), target, server);
    if let Some(redis) = redis {
        // What is durable is stored by a script: the server calls it, and answers with the id.
        if !setup.is_durable {
            running.publish = Via::Redis { target: redis.target.clone(), channel_prefix: CHANNEL_PREFIX.to_owned() };
        }
        running.broker = Some(redis);
    }
    Ok(running)
}

/// Beside this program when it is there: the one that was built with it.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("fanwheel"));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("fanwheel"))
}
