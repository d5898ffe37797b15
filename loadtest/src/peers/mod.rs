//! The servers we compare with: started, spoken to and ended.
//!
//! **For:** measuring every server with the same subscribers and the same payloads, by one command.
//! **What always holds:** a server runs with as many workers as the setup has cores, without access
//! log, on free ports of 127.0.0.1, with all its files in the setup's folder; everything else is as
//! shipped but for what a peer's note says. Whatever was started is ended by its id, descendants
//! included, when its [`Running`] is dropped; no service of the system is touched.
//! **Overload:** not this module's: the servers are given the descriptors this process may have.
//! **Not chosen:** containers. They would be easier to install, but their networks and cgroups cost
//! what the comparison is to measure, differently for each.
//!
//! ```text
//! Peer ── start(Setup) ──▶ Running ── dialect, subscribe, publish ──▶ the swarm and its publishers
//!   │                        └── Process (server) · Redis (broker) · Backend (Pushpin's)
//!   └── version, install, note
//! ```

mod durable_streams;
mod fanwheel;
mod grip;
mod install;
mod nchan;
mod node;
mod ports;
mod process;
mod pushpin;
mod redis;
mod trial;
mod verb;
mod zmtp;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::procfs;
use crate::publisher::Via;
use crate::target::Target;

pub(crate) use verb::{Flags, run};

use grip::Backend;
use process::Process;
use redis::Redis;

/// A server that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// Fanwheel with its embedded broker
    Fanwheel,
    /// Fanwheel fed by a Redis of its own
    FanwheelRedis,
    /// nginx with the module nchan
    Nchan,
    /// Pushpin, with the backend it needs
    Pushpin,
    /// The server of the crate durable-streams
    DurableStreams,
    /// The naive Node server that tutorials teach
    Node,
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// For its configuration, logs and data. Exists; removed by the caller.
    pub(crate) dir: PathBuf,
    /// Workers, at least 1.
    pub(crate) cores: usize,
    /// Streams it must be able to hold.
    pub(crate) streams_max: usize,
    /// All topics: some servers must be told of them first.
    pub(crate) topics: Vec<String>,
    /// The binary `fanwheel`; `None` for the one beside this program, else on the PATH.
    pub(crate) fanwheel: Option<PathBuf>,
    /// True exactly when all topics are to be durable. Only for those that keep histories.
    pub(crate) is_durable: bool,
}

/// A server that accepts streams. Everything it consists of is ended when this is dropped.
pub(crate) struct Running {
    pub(crate) dialect: Dialect,
    pub(crate) subscribe: Target,
    pub(crate) publish: Via,
    // Dropped in this order: the server before what it depends on.
    server: Process,
    broker: Option<Redis>,
    /// Pushpin asks it what a stream subscribes to; publishes pass through it.
    _backend: Option<Backend>,
}

impl Peer {
    pub(crate) const ALL: [Self; 6] =
        [Self::Fanwheel, Self::FanwheelRedis, Self::Nchan, Self::Pushpin, Self::DurableStreams, Self::Node];

    /// As on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fanwheel => "fanwheel",
            Self::FanwheelRedis => "fanwheel-redis",
            Self::Nchan => "nchan",
            Self::Pushpin => "pushpin",
            Self::DurableStreams => "durable-streams",
            Self::Node => "node",
        }
    }

    /// Why the comparison is fair, and what was changed for it.
    pub(crate) fn note(self) -> &'static str {
        match self {
            Self::Fanwheel => fanwheel::NOTE,
            Self::FanwheelRedis => fanwheel::NOTE_REDIS,
            Self::Nchan => nchan::NOTE,
            Self::Pushpin => pushpin::NOTE,
            Self::DurableStreams => durable_streams::NOTE,
            Self::Node => node::NOTE,
        }
    }

    /// `None` when it, or something it needs, is not installed.
    pub(crate) fn version(self) -> Option<String> {
        match self {
            Self::Fanwheel => fanwheel::version(),
            Self::FanwheelRedis => Some(format!("{}, {}", fanwheel::version()?, redis::version()?)),
            Self::Nchan => nchan::version(),
            Self::Pushpin => pushpin::version(),
            Self::DurableStreams => durable_streams::version(),
            Self::Node => Some(format!("{}, {}", node::version()?, redis::version()?)),
        }
    }

    /// Brings what is missing; nothing when it is installed.
    pub(crate) fn install(self) -> Result<()> {
        match self {
            _ if self.version().is_some() => Ok(()),
            Self::Fanwheel if fanwheel::version().is_none() => {
                bail!("fanwheel is not beside this program: cargo build --release -p fanwheel")
            }
            Self::Fanwheel => Ok(()),
            Self::FanwheelRedis => Self::Fanwheel.install().and_then(|()| redis::install()),
            Self::Nchan => nchan::install(),
            Self::Pushpin => pushpin::install(),
            Self::DurableStreams => durable_streams::install(),
            Self::Node => redis::install().and_then(|()| node::install()),
        }
    }

    /// True exactly when publishers and server have a broker between them.
    pub(crate) fn has_broker(self) -> bool {
        matches!(self, Self::FanwheelRedis | Self::Node)
    }

    /// True exactly when it can keep what is published, and its streams go on after the last id they present.
    pub(crate) fn keeps_histories(self) -> bool {
        matches!(self, Self::Fanwheel | Self::FanwheelRedis)
    }

    /// Starts it and waits until it accepts connections.
    pub(crate) fn start(self, setup: &Setup) -> Result<Running> {
        procfs::raise_descriptors();
        match self {
            Self::Fanwheel => fanwheel::start(setup, None),
            Self::FanwheelRedis => fanwheel::start(setup, Some(Redis::start(&setup.dir)?)),
            Self::Nchan => nchan::start(setup),
            Self::Pushpin => pushpin::start(setup),
            Self::DurableStreams => durable_streams::start(setup),
            Self::Node => node::start(setup, Redis::start(&setup.dir)?),
        }
    }

    /// How many topics one of its streams may have.
    pub(crate) fn topics_per_stream_max(self) -> usize {
        match self {
            Self::DurableStreams => 1,
            // Its channels are told apart by one byte.
            Self::Nchan => 255,
            Self::Pushpin => pushpin::TOPICS_PER_STREAM_MAX,
            Self::Fanwheel | Self::FanwheelRedis | Self::Node => usize::MAX,
        }
    }

    /// How many streams may be on their way to open at one time without some being refused or cut;
    /// `None`: as many as the client likes. A connect storm is to be measured without heeding it.
    pub(crate) fn opening_max(self) -> Option<usize> {
        (self == Self::Pushpin).then_some(pushpin::OPENING_MAX)
    }

    /// How long it leaves a stream open; `None`: as long as the client wants.
    pub(crate) fn stream_duration_max(self) -> Option<Duration> {
        (self == Self::DurableStreams).then_some(durable_streams::STREAM_DURATION_MAX)
    }
}

impl Running {
    /// A server whose publishes go the way its dialect says, to the address that serves streams.
    fn by_http(dialect: Dialect, target: Target, server: Process) -> Self {
        let publish = Via::Http { target: target.clone(), request: dialect.publish.clone() };
        Self { dialect, subscribe: target, publish, server, broker: None, _backend: None }
    }

    /// All processes of the server as they are now, descendants included, the broker excluded.
    pub(crate) fn server_pids(&self) -> Vec<u32> {
        self.server.pids()
    }

    /// The Redis that was started with it, if it needs one.
    pub(crate) fn broker_pid(&self) -> Option<u32> {
        self.broker.as_ref().map(Redis::pid)
    }

    /// Ends the broker as a crash would and starts it again, empty, on the same port. An error where
    /// there is none.
    pub(crate) fn restart_broker(&mut self) -> Result<()> {
        match &mut self.broker {
            Some(broker) => broker.restart(),
            None => bail!("this server has no broker that could be restarted"),
        }
    }
}
