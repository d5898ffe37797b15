//! The flags of `loadtest floor`, and what they mean.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser};

use super::SendBy;
use crate::duration::parse_duration;
use crate::payload;
use crate::swarm::spread;

/// Flags as written.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Event streams
    #[arg(long, help_heading = "Streams", default_value_t = 1_000)]
    streams: usize,
    /// Groups of streams; each event goes to one of them, in rotation
    #[arg(long, help_heading = "Streams", default_value_t = 1)]
    groups: usize,
    /// Subscriber processes: a number or `auto` (at most 15,000 streams each)
    #[arg(long, help_heading = "Streams", default_value = "auto")]
    processes: String,
    /// Connections opened per second [default: 5000; with --accept as many as go]
    #[arg(long, help_heading = "Streams")]
    ramp: Option<f64>,
    /// Streams on their way to open at one time
    #[arg(long, help_heading = "Streams", default_value_t = 512)]
    opening_max: usize,
    /// Give up on streams that are not open by then
    #[arg(long, help_heading = "Streams", default_value = "60s", value_parser = parse_duration)]
    open_timeout: Duration,
    /// Idle time after opening, before memory is measured and publishing begins
    #[arg(long, help_heading = "Streams", default_value = "2s", value_parser = parse_duration)]
    hold: Duration,
    /// After publishing, wait until nothing has arrived for this long (or everything has)
    #[arg(long, help_heading = "Streams", default_value = "3s", value_parser = parse_duration)]
    settle: Duration,
    /// Where the floor server listens; port 0 is a free one
    #[arg(long, help_heading = "Streams", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Events per second, all groups together; 0: as many as go
    #[arg(long, help_heading = "Events", default_value_t = 10.0)]
    rate: f64,
    /// How long to publish
    #[arg(long, help_heading = "Events", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Bytes of each event's data (at least 79, the header)
    #[arg(long, help_heading = "Events", default_value_t = 120)]
    payload: usize,
    /// Events put into one send
    #[arg(long, help_heading = "Events", default_value_t = 1, value_name = "K")]
    coalesce: usize,
    /// Send with io_uring, many streams in a system call, instead of `send` for each
    #[arg(long, help_heading = "Events")]
    uring: bool,
    /// Send no events: measure how streams are accepted and answered
    #[arg(long, help_heading = "Events", conflicts_with_all = ["rate", "duration", "coalesce", "uring", "groups"])]
    accept: bool,

    /// Measure so many times; figures are those of the round with the median cost
    #[arg(long, help_heading = "Output", default_value_t = 1)]
    rounds: usize,
    /// Write all figures to this file
    #[arg(long, help_heading = "Output")]
    json: Option<PathBuf>,
}

/// What a measurement of the floor is to do.
#[derive(Debug, Clone)]
pub(crate) struct FloorPlan {
    pub(crate) streams: usize,
    pub(crate) groups: usize,
    pub(crate) processes: usize,
    pub(crate) ramp: f64,
    pub(crate) opening_max: usize,
    pub(crate) open_timeout: Duration,
    pub(crate) hold: Duration,
    pub(crate) settle: Duration,
    pub(crate) listen: SocketAddr,
    /// Events per second; 0: as many as go.
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
    pub(crate) payload: usize,
    pub(crate) coalesce: usize,
    pub(crate) send_by: SendBy,
    /// True exactly when no events are sent.
    pub(crate) accept_only: bool,
    pub(crate) rounds: usize,
    pub(crate) json: Option<PathBuf>,
}

impl FloorPlan {
    /// From flags as a person would write them.
    pub(crate) fn parse<'a>(flags: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            flags: Flags,
        }
        Line::try_parse_from(std::iter::once("floor").chain(flags))?.flags.into_plan()
    }

    /// Streams of a group. They take part in rotation.
    pub(super) fn group_len(&self, group: usize) -> usize {
        self.streams / self.groups + usize::from(group < self.streams % self.groups)
    }

    /// Deliveries that are asked for; `None` when it is as many as go.
    pub(super) fn offered_per_s(&self) -> Option<f64> {
        (self.rate > 0.0).then(|| self.rate * self.streams as f64 / self.groups as f64)
    }
}

impl Flags {
    pub(crate) fn into_plan(self) -> Result<FloorPlan> {
        ensure!(self.streams > 0, "--streams: nothing to open");
        ensure!((1..=payload::INDEX_MAX).contains(&self.groups), "--groups: 1 to {}", payload::INDEX_MAX);
        ensure!(self.groups <= self.streams, "--groups: at most one per stream");
        ensure!(self.payload >= payload::HEADER_LEN, "--payload: at least {} bytes, the header", payload::HEADER_LEN);
        ensure!(self.coalesce > 0, "--coalesce: at least 1");
        ensure!(self.rate >= 0.0 && self.rate.is_finite(), "--rate: not a rate");
        ensure!(self.ramp.is_none_or(|ramp| ramp > 0.0), "--ramp: must be above 0");
        ensure!(self.rounds > 0, "--rounds: at least 1");
        let ramp_default = if self.accept { 1e9 } else { 5_000.0 };
        Ok(FloorPlan {
            processes: spread::processes(&self.processes, self.streams)?,
            streams: self.streams,
            groups: self.groups,
            ramp: self.ramp.unwrap_or(ramp_default),
            opening_max: self.opening_max.max(1),
            open_timeout: self.open_timeout,
            hold: self.hold,
            settle: self.settle,
            listen: self.listen,
            rate: self.rate,
            duration: self.duration,
            payload: self.payload,
            coalesce: self.coalesce,
            send_by: if self.uring { SendBy::Uring } else { SendBy::Send },
            accept_only: self.accept,
            rounds: self.rounds,
            json: self.json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(flags: &str) -> Result<FloorPlan> {
        FloorPlan::parse(flags.split_whitespace())
    }

    #[test]
    fn a_group_has_its_share_of_the_streams() {
        let plan = plan("--streams 7 --groups 3 --rate 6").unwrap();
        assert_eq!([0, 1, 2].map(|group| plan.group_len(group)), [3, 2, 2]);
        assert_eq!(plan.offered_per_s(), Some(14.0));
    }

    #[test]
    fn a_storm_is_as_steep_as_it_gets() {
        assert!(plan("--accept").unwrap().ramp > plan("").unwrap().ramp);
        assert_eq!(plan("--accept --ramp 7").unwrap().ramp, 7.0);
    }

    #[test]
    fn contradictions_are_named() {
        for flags in [
            "--streams 0",
            "--streams 1 --groups 2",
            "--groups 0",
            "--payload 10",
            "--coalesce 0",
            "--rate -1",
            "--ramp 0",
            "--rounds 0",
            "--processes none",
            "--accept --uring",
            "--duration soon",
        ] {
            assert!(plan(flags).is_err(), "{flags}");
        }
    }
}
