//! `fanwheel subscribe`: a line per event, for ever.
//!
//! What always holds: a line is whole, and written before the next event is read, so that a slow
//! reader of the lines slows the stream and nothing piles up here. It reconnects as a browser's
//! `EventSource` does: after the time the node told (`retry:`), with the last id, also one of a control event.
//! Who does not accept connections is asked more and more seldom. Only a refusal (4xx, a redirect, not a stream)
//! is final.

use std::future::pending;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use super::client::{Answer, Ask, NoHeader, Node, Piece};
use super::failure::{Failure, printable, say};
use super::sse::{Event, Parser};
use crate::shutdown::Signals;
use crate::topic::Topic;

/// Print a line per event; reconnect for ever
///
/// Plain lines: the event's data, with `\\` for a backslash, `\r` and `\n` for line ends, and `\u{…}` for other control
/// characters than the tab. An event with a name: `event: NAME`, a tab, the data. What Fanwheel itself says (events
/// `fanwheel.*`), and lost connections, go to standard error.
///
/// With --json every event is a line on standard output: {"event":"message","id":null,"data":"..."}; `id` is the id in the
/// event's own block.
///
/// Exit codes: 0 ended by SIGINT, SIGTERM or a closed standard output, 1 refused, 2 wrong usage.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// What to follow, on one stream
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// The node, or the proxy before it [default: http://127.0.0.1:8080]
    #[arg(long, env = super::publish::URL_VARIABLE, value_name = "URL")]
    url: Option<String>,
    /// Go on after this event of the durable topics (live ones have no ids); reconnections go on after the last one seen
    #[arg(long, value_name = "ID")]
    last_event_id: Option<String>,
    /// Print objects, control events included
    #[arg(long)]
    json: bool,
    /// Take a stream for dead that says nothing for so long; above the node's limits.heartbeat
    #[arg(long, value_name = "DURATION", default_value = SILENCE, value_parser = humantime::parse_duration)]
    silence: Duration,
}

/// Heartbeats come every 15 s ± 20 %, so this is three of them and some.
const SILENCE: &str = "60s";
/// Until the node says otherwise; what browsers wait.
const RETRY: Duration = Duration::from_secs(3);
/// The longest reconnection time that is believed. Longer ones are as good as an end, which nobody asked for.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Where back-off ends, unless the node asked for more.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Runs until a signal, a refusal, or until nobody reads.
pub(super) fn run(flags: Flags) -> Result<ExitCode, Failure> {
    let mut follower = Follower::new(flags)?;
    let runtime = super::runtime()?;
    let ended = runtime.block_on(async {
        let mut signals =
            Signals::listen().map_err(|error| Failure::Failed(format!("cannot listen to signals: {error}")))?;
        tokio::select! {
            biased;
            _ = signals.next() => Ok(ExitCode::SUCCESS),
            () = output_closed() => Ok(ExitCode::SUCCESS),
            ended = follower.follow() => ended.map(|()| ExitCode::SUCCESS),
        }
    });
    // A write that waits for its reader would be waited for otherwise.
    runtime.shutdown_background();
    ended
}

/// Waits until nobody can read what is printed. A pipe tells so by itself; a file never does.
async fn output_closed() {
    // It is only watched, never written to: that it may block is of no matter.
    let output = std::io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    let Ok(output) = output else { return pending().await };
    if output.ready(Interest::ERROR).await.is_err() {
        pending::<()>().await;
    }
}

/// How one connection ended.
#[derive(Debug)]
enum Ended {
    /// It is to be tried again: why, and whether the node had accepted it.
    Lost { why: String, accepted: bool },
    /// It would be refused again.
    Refused(Failure),
    /// Nobody reads the lines.
    Unread,
}

struct Follower {
    node: Node,
    target: String,
    json: bool,
    /// How long a stream may say nothing, heartbeats included.
    silence: Duration,
    /// Empty is none.
    last_id: String,
    /// What the node told last.
    retry: Duration,
    /// Connections in a row that the node did not accept.
    failures: u32,
    /// True exactly when an outage was told, and its end not yet.
    away: bool,
}

impl Follower {
    fn new(flags: Flags) -> Result<Follower, Failure> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for topic in &flags.topics {
            let topic = Topic::parse(topic).map_err(|error| Failure::Usage(format!("{error}: `{topic}`")))?;
            query.append_pair("topic", topic.as_str());
        }
        let last_id = flags.last_event_id.unwrap_or_default();
        let target = format!("/events?{}", query.finish());
        ask(&target, &last_id)
            .map_err(|error| Failure::Usage(format!("--last-event-id `{}`: {error}", printable(&last_id))))?;
        Ok(Follower {
            node: Node::parse(flags.url.as_deref())?,
            target,
            json: flags.json,
            silence: flags.silence,
            last_id,
            retry: RETRY,
            failures: 0,
            away: false,
        })
    }

    /// Connects again and again. Ends well when nobody reads.
    async fn follow(&mut self) -> Result<(), Failure> {
        loop {
            match self.connect().await {
                Ended::Unread => return Ok(()),
                Ended::Refused(failure) => return Err(failure),
                Ended::Lost { why, accepted } => {
                    self.failures = if accepted { 0 } else { self.failures.saturating_add(1) };
                    if !std::mem::replace(&mut self.away, true) {
                        say(&format!("{why}; reconnecting"));
                    }
                }
            }
            tokio::time::sleep(pause(self.retry, self.failures, fastrand::f64())).await;
        }
    }

    async fn connect(&mut self) -> Ended {
        // An id that cannot be a header is not sent; the node then tells that the stream begins anew.
        let ask = ask(&self.target, &self.last_id).unwrap_or_else(|_| Ask::stream(self.target.clone()));
        let answer = match self.node.ask(ask).await {
            Ok(answer) => answer,
            Err(error) => return Ended::Lost { why: error.to_string(), accepted: false },
        };
        match answer.status() {
            200 if answer.is_stream() => self.read(answer).await,
            200 => Ended::Refused(Failure::Failed(format!("{} does not answer with a stream", self.node.url()))),
            500.. => Ended::Lost { why: answer.problem().await, accepted: false },
            _ => Ended::Refused(Failure::Failed(answer.problem().await)),
        }
    }

    async fn read(&mut self, mut answer: Answer) -> Ended {
        let mut parser = Parser::new(self.last_id.clone());
        let mut events = Vec::new();
        loop {
            let lost = |why| Ended::Lost { why, accepted: true };
            let bytes = match answer.next(self.silence).await {
                Piece::Data(bytes) => bytes,
                Piece::End => return lost("the stream has ended".into()),
                Piece::Lost(why) => return lost(format!("the stream was lost: {why}")),
            };
            let fed = parser.feed(&bytes, &mut events);
            if let Some(ms) = parser.take_retry_ms() {
                self.retry = Duration::from_millis(ms).min(RETRY_MAX);
            }
            let (lines, notes) = self.tell(&events);
            events.clear();
            match print(lines).await {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ended::Unread,
                Err(error) => {
                    return Ended::Refused(Failure::Failed(format!("cannot write to standard output: {error}")));
                }
            }
            notes.iter().for_each(|note| say(note));
            // What was not printed is asked for again.
            parser.last_id().clone_into(&mut self.last_id);
            if let Err(error) = fed {
                return lost(error.to_string());
            }
        }
    }

    /// Lines for standard output, and sentences for standard error.
    fn tell(&mut self, events: &[Event]) -> (Vec<u8>, Vec<String>) {
        let (mut lines, mut notes) = (Vec::new(), Vec::new());
        for event in events {
            let dismissal = ["fanwheel.drain", "fanwheel.unavailable"].contains(&&event.name[..]);
            if !dismissal && std::mem::take(&mut self.away) {
                notes.push(format!("connected to {} again", self.node.url()));
            }
            match event.name.strip_prefix("fanwheel.") {
                Some(control) if !self.json => notes.push(words(control, &event.data)),
                _ if self.json => lines.extend_from_slice(object(event).as_bytes()),
                _ => lines.extend_from_slice(line(event).as_bytes()),
            }
        }
        (lines, notes)
    }
}

/// The request for a stream; the empty id is none.
fn ask(target: &str, last_id: &str) -> Result<Ask, NoHeader> {
    let ask = Ask::stream(target.to_owned());
    if last_id.is_empty() { Ok(ask) } else { ask.with("last-event-id", last_id) }
}

/// How long to wait before the next connection: never less than the node asked for, up to half as
/// long again, so that many who lost it together do not come back together; doubled with each
/// connection that was not accepted. `chance` is in 0..1.
fn pause(retry: Duration, failures: u32, chance: f64) -> Duration {
    let doubled = retry.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(PAUSE_MAX.max(retry)).mul_f64(1.0 + chance / 2.0)
}

/// Writes lines at once, aside: a reader that does not read must not keep signals from being heard.
async fn print(lines: Vec<u8>) -> std::io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let written = tokio::task::spawn_blocking(move || {
        let mut output = std::io::stdout().lock();
        output.write_all(&lines)?;
        output.flush()
    });
    written.await.map_err(std::io::Error::other)?
}

fn line(event: &Event) -> String {
    let data = printable(&event.data);
    match &event.name[..] {
        "message" => format!("{data}\n"),
        name => format!("event: {}\t{data}\n", printable(name)),
    }
}

fn object(event: &Event) -> String {
    let object = Object { event: &event.name, id: event.id.as_deref(), data: &event.data };
    format!("{}\n", serde_json::to_string(&object).expect("strings serialize"))
}

#[derive(serde::Serialize)]
struct Object<'a> {
    event: &'a str,
    id: Option<&'a str>,
    data: &'a str,
}

/// A control event in words.
fn words(control: &str, data: &str) -> String {
    let fields: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    let reason = fields["reason"].as_str().unwrap_or("no reason given");
    let topics = || -> String {
        let names = fields["topics"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
        names.collect::<Vec<_>>().join(", ")
    };
    match control {
        "open" if fields["resumed"] == true => format!("following {}, after the last event seen", topics()),
        "open" => format!("following {}", topics()),
        // Of these the node cannot say whether there was anything to be lost.
        "reset" if ["epoch", "unknown-cursor"].contains(&reason) => {
            format!("the history is another one ({reason}): events may have been lost of {}", topics())
        }
        "reset" => format!("events were lost ({reason}) of {}", topics()),
        "drain" => format!("the node closes this stream ({reason})"),
        "unavailable" => "the node cannot open this stream now".into(),
        other => format!("{other} {data}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_events_are_told_in_words() {
        for (control, data, sentence) in [
            ("open", r#"{"topics":["a","b"],"resumed":false}"#, "following a, b"),
            ("open", r#"{"topics":["a"],"resumed":true}"#, "following a, after the last event seen"),
            ("reset", r#"{"reason":"trimmed","topics":["a"]}"#, "events were lost (trimmed) of a"),
            (
                "reset",
                r#"{"reason":"epoch","topics":["a"]}"#,
                "the history is another one (epoch): events may have been lost of a",
            ),
            ("reset", "no JSON", "events were lost (no reason given) of "),
        ] {
            assert_eq!(words(control, data), sentence);
        }
    }

    #[test]
    fn pauses_grow_with_failures_and_are_never_shorter_than_asked_for() {
        let seconds = |retry, failures, chance| pause(Duration::from_secs(retry), failures, chance).as_secs_f64();
        assert_eq!(seconds(2, 0, 0.0), 2.0);
        assert_eq!(seconds(2, 0, 1.0), 3.0);
        assert_eq!([1, 2, 3, 4, 5, 99].map(|failures| seconds(2, failures, 0.0)), [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(seconds(100, 5, 0.0), 100.0);
        assert_eq!(pause(RETRY_MAX, u32::MAX, 0.999).as_secs() / 3600, 1);
    }
}
