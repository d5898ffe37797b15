//! The flags of `loadtest run`, as written.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use crate::assertion::Assertion;
use crate::dialect::{OpenOn, Transport};
use crate::duration::parse_duration;
use crate::peers::Peer;
use crate::schedule::Schedule;

/// Flags of `loadtest run`. A scenario's come first, the ones written after it override them.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub(crate) struct Flags {
    /// Flags from a file: one of this program's scenarios by its name, or the path of a TOML file
    // Read before the others are parsed, see `scenario`.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) scenario: Option<String>,

    /// Start this server, measure it and end it; without it a running one is measured
    #[arg(long, help_heading = "Server", value_enum, value_name = "SERVER")]
    pub(crate) start: Option<Peer>,
    /// The server's public address
    #[arg(long, help_heading = "Server", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// How streams are opened and events published, unless the flags below say otherwise
    #[arg(long, help_heading = "Server", value_enum, default_value_t = Known::Fanwheel)]
    pub(crate) dialect: Known,
    /// Path that opens a stream; `{topics}` stands for its topics
    #[arg(long, help_heading = "Server")]
    pub(crate) subscribe_path: Option<String>,
    /// What stands between a stream's topics in that path
    #[arg(long, help_heading = "Server", allow_hyphen_values = true)]
    pub(crate) topic_separator: Option<String>,
    /// When a stream counts as open
    #[arg(long, help_heading = "Server", value_enum)]
    pub(crate) open_on: Option<OpenOn>,
    /// Measure CPU and memory of these processes together
    #[arg(long, help_heading = "Server", value_delimiter = ',', value_name = "PID,…")]
    pub(crate) server_pid: Vec<u32>,
    /// Measure the CPU of the broker between publishers and server
    #[arg(long, help_heading = "Server")]
    pub(crate) broker_pid: Option<u32>,
    /// Read the server's own counters from `/metrics` there
    #[arg(long, help_heading = "Server")]
    pub(crate) admin_url: Option<String>,

    /// What a stream is
    #[arg(long, help_heading = "Streams", value_enum, default_value_t = Transport::Sse)]
    pub(crate) transport: Transport,
    /// Event streams that read
    #[arg(long, help_heading = "Streams", default_value_t = 1_000)]
    pub(crate) streams: usize,
    /// Topics by name
    #[arg(long, help_heading = "Streams", value_name = "A,B,…", overrides_with = "topic_count")]
    pub(crate) topics: Option<String>,
    /// So many topics, named by number
    #[arg(long, help_heading = "Streams", value_name = "N", overrides_with = "topics")]
    pub(crate) topic_count: Option<usize>,
    /// Topics that each stream reads [default: all of them]
    #[arg(long, help_heading = "Streams", value_name = "N")]
    pub(crate) topics_per_stream: Option<usize>,
    /// Topics are durable: streams come back with their last id, and what each was told over all its connections
    /// is held against what was published (with --start, all topics are made durable)
    #[arg(long, help_heading = "Streams", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub(crate) durable: bool,
    /// Subscriber processes: a number or `auto` (at most 15,000 streams each)
    #[arg(long, help_heading = "Streams", default_value = "auto")]
    pub(crate) processes: String,
    /// Connections opened per second
    #[arg(long, help_heading = "Streams", default_value_t = 5_000.0)]
    pub(crate) ramp: f64,
    /// Streams on their way to open at one time
    #[arg(long, help_heading = "Streams", default_value_t = 512)]
    pub(crate) opening_max: usize,
    /// Give up on streams that are not open by then
    #[arg(long, help_heading = "Streams", default_value = "60s", value_parser = parse_duration)]
    pub(crate) open_timeout: Duration,
    /// The readers' SO_RCVBUF [default: the kernel's own choice, which grows to tens of megabytes: what a
    /// server that is ahead of its readers has put there takes seconds to read, and counts as its delay]
    #[arg(long, help_heading = "Streams", value_name = "BYTES")]
    pub(crate) receive_buffer: Option<usize>,
    /// Idle time after opening, before memory is measured and publishing begins
    #[arg(long, help_heading = "Streams", default_value = "2s", value_parser = parse_duration)]
    pub(crate) hold: Duration,
    /// After publishing, wait until nothing has arrived for this long (or everything has)
    #[arg(long, help_heading = "Streams", default_value = "3s", value_parser = parse_duration)]
    pub(crate) settle: Duration,
    /// After the streams are closed, wait this long and measure the server's memory again
    #[arg(long, help_heading = "Streams", value_parser = parse_duration)]
    pub(crate) linger: Option<Duration>,

    /// Events per second, all publishers and topics together; 0 publishes nothing
    #[arg(long, help_heading = "Events", default_value_t = 10.0)]
    pub(crate) rate: f64,
    /// `constant`, `poisson` (independent senders) or `bursts:N` (N at once)
    #[arg(long, help_heading = "Events", default_value = "constant")]
    pub(crate) schedule: Schedule,
    /// How long to publish
    #[arg(long, help_heading = "Events", default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// After --duration go on at so many events per second, to see how soon the server recovers
    #[arg(long, help_heading = "Events", value_name = "RATE")]
    pub(crate) calm_rate: Option<f64>,
    /// For how long; deliveries count as calm from 2 s after its beginning on
    #[arg(long, help_heading = "Events", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) calm: Option<Duration>,
    /// Bytes of each event's data (at least 79, the header)
    #[arg(long, help_heading = "Events", default_value_t = 120)]
    pub(crate) payload: usize,
    /// Publishers at once, each with its own connection and sequence
    #[arg(long, help_heading = "Events", default_value_t = 1)]
    pub(crate) publishers: usize,
    /// How to publish
    #[arg(long, help_heading = "Events", value_enum, default_value_t = PublishBy::Http)]
    pub(crate) publish: PublishBy,
    /// Where to PUBLISH with `--publish redis`
    #[arg(long, help_heading = "Events", default_value = "redis://127.0.0.1:6379")]
    pub(crate) redis: String,
    /// Redis channel = this + topic
    #[arg(long, help_heading = "Events", default_value = "fanwheel:", allow_hyphen_values = true)]
    pub(crate) channel_prefix: String,
    /// Where to publish by HTTP [default: the server's address]
    #[arg(long, help_heading = "Events")]
    pub(crate) publish_url: Option<String>,
    /// Method and path of a publishing request; `{topic}` stands for the topic
    #[arg(long, help_heading = "Events", value_name = "METHOD PATH")]
    pub(crate) publish_request: Option<String>,
    /// Its body; `{payload}` stands for the event, `{topic}` for the topic
    #[arg(long, help_heading = "Events")]
    pub(crate) publish_body: Option<String>,
    /// Its header lines, apart from Host and Content-Length, separated by `|`
    #[arg(long, help_heading = "Events", value_name = "NAME: VALUE|…")]
    pub(crate) publish_headers: Option<String>,
    /// Unanswered publishes per publisher at most; 1 waits for each answer [default: 64 by HTTP, 10000 by Redis]
    #[arg(long, help_heading = "Events")]
    pub(crate) in_flight: Option<usize>,

    /// Find the highest rate that is held, beginning at --rate, in at most so many runs
    #[arg(long, help_heading = "Events", value_name = "RUNS")]
    pub(crate) search: Option<usize>,
    /// Held is a rate at which nothing is lost or told, 95 % is delivered in time, and 99 % within this
    #[arg(long, help_heading = "Events", default_value_t = 100.0)]
    pub(crate) search_p99_ms: f64,

    /// Additional streams that read slowly
    #[arg(long, help_heading = "Disturbances", default_value_t = 0)]
    pub(crate) slow: usize,
    /// Bytes per second that each of them reads
    #[arg(long, help_heading = "Disturbances", default_value_t = 2_000)]
    pub(crate) slow_rate: u64,
    /// Additional streams that stop reading once they are open
    #[arg(long, help_heading = "Disturbances", default_value_t = 0)]
    pub(crate) stalled: usize,
    /// How long to wait for the server to close the stalled ones
    #[arg(long, help_heading = "Disturbances", default_value = "60s", value_parser = parse_duration)]
    pub(crate) stalled_wait: Duration,
    /// Streams per second that are closed and opened again while events flow
    #[arg(long, help_heading = "Disturbances", value_name = "RATE")]
    pub(crate) churn: Option<f64>,
    /// Half way through, cut this share of the streams (0–1) and open them again at once
    #[arg(long, help_heading = "Disturbances", value_name = "SHARE")]
    pub(crate) storm: Option<f64>,
    /// Half way through, kill the broker and start it again (one that this program started)
    #[arg(long, help_heading = "Disturbances", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub(crate) restart_broker: bool,
    /// Half way through, run this command with `sh -c` (to restart a broker, say)
    #[arg(long, help_heading = "Disturbances", value_name = "COMMAND")]
    pub(crate) midway: Option<String>,
    /// Open streams again that the server ended, after the `retry:` it gave, as browsers do
    #[arg(long, help_heading = "Disturbances", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub(crate) reconnect: bool,

    /// Fail unless this holds, over the names in the JSON: `lost==0 && p99_ms<50`
    #[arg(long = "assert", help_heading = "Output", value_name = "EXPRESSION", value_parser = Assertion::parse)]
    pub(crate) assertion: Option<Assertion>,
    /// Write a page with plots to this file
    #[arg(long, help_heading = "Output")]
    pub(crate) html: Option<PathBuf>,
    /// Write all figures to this file
    #[arg(long, help_heading = "Output")]
    pub(crate) json: Option<PathBuf>,
}

impl Flags {
    /// From words as they would stand on a command line behind the program's name.
    pub(super) fn parse(words: impl IntoIterator<Item = String>) -> clap::error::Result<Self> {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            flags: Flags,
        }
        Ok(Line::try_parse_from(std::iter::once("run".to_owned()).chain(words))?.flags)
    }
}

/// Servers whose requests need not be spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Known {
    /// GET /events?topic=…, POST /topics/{topic}
    Fanwheel,
    /// GET /sub/{topics}, POST /pub/{topic}
    Nchan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishBy {
    /// A request per event
    Http,
    /// PUBLISH
    Redis,
}
