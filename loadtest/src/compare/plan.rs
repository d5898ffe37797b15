//! What is to be compared: which servers, in which scenarios, how often.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum as _};

use super::floor_row;
use super::state::Outcome;
use crate::peers::Peer;
use crate::provenance;
use crate::run::{self, Scenario};

const ROUNDS: usize = 3;
/// What a full comparison runs.
const SCENARIOS: [&str; 6] = ["broadcast", "many-topics", "idle", "connect-storm", "burst", "saturation"];
const QUICK_SCENARIOS: [&str; 4] = ["broadcast", "many-topics", "idle", "saturation"];
/// A quick one is to be over in three minutes with all servers installed.
const QUICK_FLAGS: [&str; 4] = ["--streams=1000", "--duration=1500ms", "--hold=300ms", "--settle=1s"];
/// What else a quick one changes.
const QUICK_CHANGES: [(&str, &[&str]); 3] = [
    ("many-topics", &["--topic-count=200", "--rate=2000"]),
    // Fewer streams would drown in what else the kernel allocates.
    ("idle", &["--streams=4000"]),
    ("saturation", &["--search=3"]),
];
/// Starting and ending a server and the subscribers.
const OVERHEAD_S: f64 = 2.0;

/// Flags of `loadtest compare`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Who takes part: `floor` and the servers that `loadtest peers` lists [default: all of them]
    #[arg(long, value_delimiter = ',', value_parser = Contestant::parse)]
    servers: Vec<Contestant>,
    /// In which scenarios (names or TOML files) [default: broadcast, many-topics, idle, connect-storm, burst, saturation]
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// How often each is run; figures are medians [default: 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// One short round of four scenarios, under 3 minutes: for a first look
    #[arg(long, conflicts_with = "rounds")]
    pub(super) quick: bool,
    /// Bring the servers that are missing
    #[arg(long)]
    pub(super) install: bool,
    /// Keep what was measured in this file, and go on from there when it exists
    #[arg(long)]
    pub(super) state: Option<PathBuf>,
    /// Write all figures to this file
    #[arg(long)]
    pub(super) json: Option<PathBuf>,
    /// Write a page with plots to this file
    #[arg(long)]
    pub(super) html: Option<PathBuf>,
    /// Flags of `loadtest run` that override those of every scenario
    #[arg(last = true, value_name = "FLAGS OF RUN")]
    overrides: Vec<String>,
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    /// Bare `send()` calls
    Floor,
    Peer(Peer),
}

/// A scenario with the flags it is run with.
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) summary: String,
    /// The flags as text.
    words: String,
    flags: run::Flags,
}

impl Flags {
    pub(super) fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.unwrap_or(ROUNDS).max(1) }
    }

    pub(super) fn title(&self) -> String {
        let rounds = self.rounds();
        if self.quick {
            "Quick comparison, one round".to_owned()
        } else {
            format!("Comparison, medians of {rounds} rounds")
        }
    }

    pub(super) fn contestants(&self) -> Vec<Contestant> {
        if self.servers.is_empty() {
            return std::iter::once(Contestant::Floor).chain(Peer::ALL.map(Contestant::Peer)).collect();
        }
        self.servers.clone()
    }

    pub(super) fn planned(&self) -> Result<Vec<Planned>> {
        let defaults: &[&str] = if self.quick { &QUICK_SCENARIOS } else { &SCENARIOS };
        let names = if self.scenarios.is_empty() {
            defaults.iter().map(|&name| name.to_owned()).collect()
        } else {
            self.scenarios.clone()
        };
        names.into_iter().map(|name| self.plan(name)).collect()
    }

    fn plan(&self, name: String) -> Result<Planned> {
        let scenario = Scenario::load(&name)?;
        let mut extra: Vec<String> = Vec::new();
        if self.quick {
            extra.extend(QUICK_FLAGS.map(str::to_owned));
        }
        let changes = QUICK_CHANGES.iter().filter(|(changed, _)| self.quick && *changed == name);
        extra.extend(changes.flat_map(|(_, flags)| flags.iter().map(|&flag| flag.to_owned())));
        extra.extend(self.overrides.iter().cloned());
        let flags = scenario.to_flags(&name, &extra)?;
        Ok(Planned { summary: scenario.summary.clone(), words: scenario.words(&extra), flags, name })
    }
}

impl Contestant {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "floor" => Ok(Self::Floor),
            name => Peer::from_str(name, false).map(Self::Peer).map_err(|_| {
                let names = Peer::ALL.map(Peer::name).join(", ");
                format!("one of floor, {names}")
            }),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Peer(peer) => peer.name(),
        }
    }

    /// What it is, and why comparing with it is fair.
    pub(super) fn note(self) -> String {
        match self {
            Self::Floor => floor_row::NOTE.to_owned(),
            Self::Peer(peer) => format!("{}. {}", peer.version().unwrap_or_default(), peer.note()),
        }
    }
}

/// Takes those out that are not installed, and says why; brings them first if `install`.
pub(super) fn bring(contestants: &mut Vec<Contestant>, install: bool) -> Result<Vec<(Contestant, String)>> {
    let mut missing = Vec::new();
    contestants.retain(|&contestant| {
        let Contestant::Peer(peer) = contestant else {
            return true;
        };
        let installed = if install { peer.install() } else { Ok(()) };
        match (installed, peer.version()) {
            (Ok(()), Some(_)) => true,
            (Err(error), _) => {
                missing.push((contestant, format!("could not be installed: {error:#}")));
                false
            }
            (Ok(()), None) => {
                missing.push((contestant, "not installed (--install brings it)".to_owned()));
                false
            }
        }
    });
    for (contestant, why) in &missing {
        eprintln!("without {}: {why}", contestant.name());
    }
    if contestants.is_empty() {
        bail!("none of the servers is installed");
    }
    Ok(missing)
}

impl Planned {
    /// About how long one run takes.
    pub(super) fn length_s(&self) -> f64 {
        let flags = &self.flags;
        let publishing = flags.duration + flags.calm.unwrap_or_default();
        let publishing_s = if flags.rate > 0.0 { publishing.as_secs_f64() } else { 0.0 };
        let opening_s = flags.streams as f64 / flags.ramp;
        let once_s = OVERHEAD_S + opening_s + flags.hold.as_secs_f64() + publishing_s;
        once_s * flags.search.unwrap_or(1) as f64
    }

    /// The flags, and the builds of server and harness: rounds of different ones are not put together.
    pub(super) fn setup(&self, contestant: Contestant) -> String {
        let version = match contestant {
            Contestant::Floor => String::new(),
            Contestant::Peer(peer) => peer.version().unwrap_or_default(),
        };
        format!("{} | {version} | loadtest {}", self.words, provenance::build())
    }

    pub(super) fn measure(&self, contestant: Contestant) -> Outcome {
        if let Some(why) = self.why_not(contestant) {
            return Outcome::Skipped(why);
        }
        let measured = match contestant {
            Contestant::Floor => floor_row::measure(&self.flags),
            Contestant::Peer(peer) => {
                run::measure_peer(&self.flags, peer).and_then(|report| Ok(serde_json::to_value(report)?))
            }
        };
        match measured {
            Ok(report) => Outcome::Report(report),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }

    /// Why this server has no such run.
    fn why_not(&self, contestant: Contestant) -> Option<String> {
        let flags = &self.flags;
        let topics = flags.topic_count.unwrap_or(1);
        let per_stream = flags.topics_per_stream.unwrap_or(topics);
        match contestant {
            Contestant::Floor => None,
            Contestant::Peer(peer) if per_stream > peer.topics_per_stream_max() => {
                Some(format!("its streams have at most {} topics", peer.topics_per_stream_max()))
            }
            Contestant::Peer(peer)
                if peer.stream_duration_max().is_some_and(|max| self.length_s() > max.as_secs_f64())
                    && flags.search.is_none() =>
            {
                Some("it ends every stream before this scenario is over".to_owned())
            }
            Contestant::Peer(peer) if flags.restart_broker && !peer.has_broker() => {
                Some("it has no broker that could be restarted".to_owned())
            }
            Contestant::Peer(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calm_phase_is_part_of_a_runs_length() {
        let scenario = Scenario::load("overload").unwrap();
        let flags = scenario.to_flags("overload", &[]).unwrap();
        let planned = Planned { name: String::new(), summary: String::new(), words: String::new(), flags };
        // 2 s to start, 2 s to open 10,000 streams, 2 s to hold them, 30 s of load and 10 s of calm.
        assert_eq!(planned.length_s(), 46.0);
    }
}
