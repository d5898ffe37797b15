//! Flags as written → a plan as meant, once.

use std::net::{IpAddr, Ipv4Addr};
use std::num::ParseFloatError;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use super::preflight;
use crate::clock::now_ns;
use crate::dialect::{Dialect, OpenOn};
use crate::payload;
use crate::publisher::{PublishPlan, Via};
use crate::swarm::WorkerPlan;
use crate::target::Target;

/// Streams of one worker at most: 20,000 descriptors are a common hard limit, less some reserve.
const STREAMS_PER_PROCESS_MAX: usize = 15_000;
/// Streams per source address: far from the 28,232 ports an address has by default, so that runs
/// can follow each other while the ports of the last one are still in TIME_WAIT.
const STREAMS_PER_SOURCE: usize = 5_000;
/// 127.0.0.2 … 127.0.0.250.
const SOURCES_MAX: usize = 249;

/// Flags of `loadtest run`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The server's public address
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Event streams that read
    #[arg(long)]
    streams: usize,
    /// Topics; each stream subscribes to all of them
    #[arg(long, value_delimiter = ',', required = true)]
    topics: Vec<String>,
    /// Subscriber processes: a number or `auto` (at most 15,000 streams each)
    #[arg(long, default_value = "auto")]
    processes: String,
    /// Events per second, all publishers and topics together; 0 publishes nothing
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// How long to publish
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Bytes of each event's data (at least 70, the header)
    #[arg(long, default_value_t = 120)]
    payload: usize,
    /// Publishers at once, each with its own connection and sequence
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// How to publish
    #[arg(long, value_enum, default_value_t = PublishBy::Http)]
    publish: PublishBy,
    /// Where to PUBLISH with `--publish redis`
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    redis: String,
    /// Redis channel = this + topic
    #[arg(long, default_value = "fanwheel:")]
    channel_prefix: String,
    /// Unanswered publishes per publisher at most; 1 waits for each answer [default: 64 by HTTP, 10000 by Redis]
    #[arg(long)]
    in_flight: Option<usize>,
    /// Measure CPU and memory of this process
    #[arg(long)]
    server_pid: Option<u32>,
    /// Read the server's own counters from `/metrics` there
    #[arg(long)]
    admin_url: Option<String>,
    /// Connections opened per second
    #[arg(long, default_value_t = 5_000.0)]
    ramp: f64,
    /// Streams on their way to open at one time
    #[arg(long, default_value_t = 512)]
    opening_max: usize,
    /// When a stream counts as open
    #[arg(long, value_enum, default_value_t = OpenOn::Open)]
    open_on: OpenOn,
    /// Give up on streams that are not open by then
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    open_timeout: Duration,
    /// Idle time after opening, before memory is measured and publishing begins
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    hold: Duration,
    /// After publishing, wait until nothing has arrived for this long (or everything has)
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    settle: Duration,
    /// After the streams are closed, wait this long and measure the server's memory again
    #[arg(long, value_parser = parse_duration)]
    linger: Option<Duration>,
    /// Additional streams that stop reading once they are open
    #[arg(long, default_value_t = 0)]
    stalled: usize,
    /// How long to wait for the server to close the stalled ones
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    stalled_wait: Duration,
    /// Write all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PublishBy {
    /// POST /topics/{topic}
    Http,
    /// PUBLISH
    Redis,
}

/// What a run is to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) url: String,
    pub(super) topics: usize,
    pub(super) workers: Vec<WorkerPlan>,
    pub(super) readers: usize,
    pub(super) stalled: usize,
    /// `None` when nothing is to be published.
    pub(super) publish: Option<PublishPlan>,
    pub(super) server_pid: Option<u32>,
    pub(super) admin: Option<Target>,
    pub(super) open_timeout: Duration,
    pub(super) hold: Duration,
    pub(super) settle: Duration,
    pub(super) linger: Option<Duration>,
    pub(super) stalled_wait: Duration,
    pub(super) json: Option<PathBuf>,
    /// Remarks of the preflight that do not stop the run.
    pub(super) warnings: Vec<String>,
}

impl Flags {
    /// Checks the flags, and whether this machine can carry what they ask for.
    pub(crate) fn into_plan(self) -> Result<Plan> {
        ensure!(self.streams + self.stalled > 0, "--streams: nothing to open");
        ensure!(self.payload >= payload::HEADER_LEN, "--payload: at least {} bytes, the header", payload::HEADER_LEN);
        ensure!(self.rate >= 0.0 && self.rate.is_finite(), "--rate: not a rate");
        ensure!(self.ramp > 0.0, "--ramp: must be above 0");
        ensure!((1..=payload::INDEX_MAX).contains(&self.publishers), "--publishers: 1 to {}", payload::INDEX_MAX);
        ensure!(self.topics.len() <= payload::INDEX_MAX, "--topics: at most {}", payload::INDEX_MAX);
        let mut distinct = self.topics.clone();
        distinct.sort();
        distinct.dedup();
        ensure!(distinct.len() == self.topics.len(), "--topics: a topic is named twice");
        let target = Target::parse(&self.url, "http", 80)?;
        let admin = self.admin_url.as_deref().map(|url| Target::parse(url, "http", 80)).transpose()?;
        let run = (now_ns() ^ u64::from(std::process::id()) << 20) as u32;
        let publish = self.publish_plan(&target, run)?;
        let processes = self.processes()?;
        let workers = self.worker_plans(&target, run, processes);
        let sources = workers.iter().map(|worker| worker.sources.len()).sum();
        let limits = preflight::Limits::raise_and_read();
        let warnings = limits.check(&workers, sources, self.server_pid)?;
        Ok(Plan {
            topics: self.topics.len(),
            readers: self.streams,
            stalled: self.stalled,
            server_pid: self.server_pid,
            open_timeout: self.open_timeout,
            hold: self.hold,
            settle: self.settle,
            linger: self.linger,
            stalled_wait: self.stalled_wait,
            url: self.url,
            json: self.json,
            workers,
            publish,
            admin,
            warnings,
        })
    }

    fn publish_plan(&self, target: &Target, run: u32) -> Result<Option<PublishPlan>> {
        let total = (self.rate * self.duration.as_secs_f64()).round() as u64;
        if total == 0 {
            return Ok(None);
        }
        let (via, in_flight_default) = match self.publish {
            PublishBy::Http => (Via::Http { target: target.clone(), request: Dialect::fanwheel().publish }, 64),
            PublishBy::Redis => {
                let redis = Target::parse(&self.redis, "redis", 6379)?;
                (Via::Redis { target: redis, channel_prefix: self.channel_prefix.clone() }, 10_000)
            }
        };
        Ok(Some(PublishPlan {
            via,
            run,
            topics: self.topics.clone(),
            publishers: self.publishers,
            rate: self.rate,
            total,
            payload: self.payload,
            in_flight_max: self.in_flight.unwrap_or(in_flight_default).max(1),
        }))
    }

    /// `auto`: as many as the descriptors demand, and one per core where there is enough to share.
    fn processes(&self) -> Result<usize> {
        let streams = self.streams + self.stalled;
        if self.processes == "auto" {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            return Ok(streams.div_ceil(STREAMS_PER_PROCESS_MAX).max(cores.min(streams.div_ceil(2_000))));
        }
        match self.processes.parse() {
            Ok(processes) if processes > 0 => Ok(streams.min(processes)),
            _ => bail!("--processes: a number or `auto`"),
        }
    }

    fn worker_plans(&self, target: &Target, run: u32, processes: usize) -> Vec<WorkerPlan> {
        let request = Dialect::fanwheel().subscribe_request(target, self.topics.iter().map(String::as_str));
        let is_local = matches!(target.addr.ip(), IpAddr::V4(ip) if ip.is_loopback());
        let mut next_source = 0;
        let mut plans = Vec::new();
        for index in 0..processes {
            let (readers, stalled) = (share(self.streams, index, processes), share(self.stalled, index, processes));
            let sources = if is_local { (readers + stalled).div_ceil(STREAMS_PER_SOURCE) } else { 0 };
            plans.push(WorkerPlan {
                addr: target.addr,
                request: request.clone(),
                readers,
                stalled,
                sources: (next_source..next_source + sources).map(loopback_source).collect(),
                streams_per_source: STREAMS_PER_SOURCE,
                ramp: self.ramp / processes as f64,
                opening_max: share(self.opening_max, index, processes).max(1),
                open_on: self.open_on,
                run,
                topics: self.topics.clone(),
                publishers: self.publishers,
                payload: self.payload,
            });
            next_source += sources;
        }
        plans
    }
}

fn share(total: usize, index: usize, of: usize) -> usize {
    total / of + usize::from(index < total % of)
}

fn loopback_source(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + (index % SOURCES_MAX) as u8)
}

/// `250ms`, `10s`, `2m`, or plain seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 0.001),
        _ if text.ends_with('s') => (&text[..text.len() - 1], 1.0),
        _ if text.ends_with('m') => (&text[..text.len() - 1], 60.0),
        _ => (text, 1.0),
    };
    let number: f64 = number.parse().map_err(|error: ParseFloatError| error.to_string())?;
    Duration::try_from_secs_f64(number * unit_s).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn plan(flags: &str) -> Result<Plan> {
        let words = format!("x {flags}");
        Line::try_parse_from(words.split(' ')).map_err(anyhow::Error::from)?.flags.into_plan()
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("-1s").is_err());
    }

    #[test]
    fn every_stream_is_in_exactly_one_worker_and_addresses_are_not_shared() {
        let plan = plan("--streams 12001 --topics a,b --stalled 5 --processes 3").unwrap();
        assert_eq!(plan.workers.iter().map(|w| w.readers).sum::<usize>(), 12_001);
        assert_eq!(plan.workers.iter().map(|w| w.stalled).sum::<usize>(), 5);
        let mut sources: Vec<_> = plan.workers.iter().flat_map(|w| w.sources.clone()).collect();
        sources.dedup();
        assert_eq!(sources.len(), 3);
    }

    #[test]
    fn contradictions_are_named() {
        for flags in [
            "--streams 0 --topics a",
            "--streams 1 --topics a,a",
            "--streams 1 --topics a --payload 10",
            "--streams 1 --topics a --processes none",
            "--streams 1 --topics a --url https://x",
            "--streams 1 --topics a --publish redis --redis http://x",
        ] {
            assert!(plan(flags).is_err(), "{flags}");
        }
    }

    #[test]
    fn rate_zero_publishes_nothing() {
        assert!(plan("--streams 1 --topics a --rate 0").unwrap().publish.is_none());
    }
}
