//! A redis-server of our own: the broker of the servers that need one.
//!
//! Nothing is saved (`--save '' --appendonly no`): publishing and subscribing touch no disk.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::process::Process;
use super::{install, ports};
use crate::target::Target;

/// See the module. Ended when dropped.
pub(super) struct Redis {
    pub(super) target: Target,
    process: Process,
    dir: PathBuf,
}

/// `None` when it is not installed.
pub(super) fn version() -> Option<String> {
    let line = install::output(Command::new("redis-server").arg("--version"))?;
    let version = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="))?;
    Some(format!("redis {version}"))
}

pub(super) fn install() -> Result<()> {
    if version().is_some() { Ok(()) } else { install::packages(&["redis-server"]) }
}

impl Redis {
    pub(super) fn start(dir: &Path) -> Result<Self> {
        let target = ports::target(ports::free()?);
        Ok(Self { process: launch(dir, &target)?, target, dir: dir.to_owned() })
    }

    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.target.authority)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it as a crash would; starts it again, empty, on the same port.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = launch(&self.dir, &self.target)?;
        Ok(())
    }
}

fn launch(dir: &Path, target: &Target) -> Result<Process> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &target.addr.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(dir);
    let mut process = Process::start("redis", &command, dir)?;
    process.wait_until(&target.authority, || answers(target))?;
    Ok(process)
}

/// True when somebody there answers `PING`: a port that listens may still be loading.
fn answers(target: &Target) -> bool {
    let ping = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(target.addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut pong = [0; 7];
        stream.read_exact(&mut pong)?;
        Ok(&pong == b"+PONG\r\n")
    };
    ping().unwrap_or(false)
}
