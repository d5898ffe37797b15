//! Histories as scripts, and what the judge says of them.
//!
//! An id is `<ms>[.<n>][<tag letter>]`, by default of tag `A`; an event's bytes have
//! the name of the id under which they were stored. Everything happens at 500 ms unless `@` says otherwise.
//!
//! | Line | Meaning |
//! |---|---|
//! | `+a 10` | the event at 10 of topic a was acknowledged; `+a 10=x`: its bytes are x |
//! | `?a x`, `!a x` | whether bytes x are stored is unknown; they were refused |
//! | `trim a`, `trim a kept 3`, `trim a young 90`, `loss @40` | a fault; what is kept: so many events, what is younger |
//! | `0: ab now @90` | reader 0 asks for topics a and b; or `after 10`, `garbage`, `earliest`, `last 2` |
//! | `0> open 10`, `0> open resumed 10`, `0> open none` | the first block came, with the connection's topics |
//! | `0> 11`, `0> 11=x` | an event came |
//! | `0> reset trimmed a 12` | a reset came |
//! | `0 dry` | reader 0 has read to the end |

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use checker::history::{
    Cause, End, Fault, Id, Kind, Log, Open, Outcome, Position, Publication, Reader, Reason, Report, Reset, Stamp, Topic,
};

const TOPICS: [&str; 3] = ["a", "b", "c"];

struct Play {
    log: Log,
    topics: Vec<Arc<[Topic]>>,
}

pub fn judge(script: &str) -> Report {
    let mut play = Play { log: Log::new(TOPICS), topics: Vec::new() };
    script.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| play.handle(line));
    play.log.judge()
}

/// The only kind of promise broken.
#[track_caller]
pub fn expect(kind: Kind, script: &str) -> Report {
    let report = judge(script);
    assert_eq!(report.violations.keys().copied().collect::<Vec<_>>(), [kind], "{report}");
    report
}

#[track_caller]
pub fn expect_clean(script: &str) -> Report {
    let report = judge(script);
    assert!(report.is_clean(), "{report}");
    report
}

impl Play {
    fn handle(&mut self, line: &str) {
        let (line, at) = line.split_once(" @").unwrap_or((line, "500"));
        let at: u64 = at.parse().unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let (first, rest) = (words[0], &words[1..]);
        let (number, sign) = first.split_at(first.len() - 1);
        match (number.parse(), sign) {
            (Ok(number), ":") => self.connect(number, rest, at),
            (Ok(number), ">") => self.tell(Reader(number), rest, at),
            _ if rest == ["dry"] => self.log.handle_dry(Reader(first.parse().unwrap())),
            _ => self.handle_world(first, rest, at),
        }
    }

    fn handle_world(&mut self, first: &str, rest: &[&str], at: u64) {
        let mut publish = |outcome, bytes: &str| {
            let topic = self.log.topic(&first[1..]).unwrap();
            self.log.handle_publication(Publication { topic, hash: hash(bytes), outcome });
        };
        match &first[..1] {
            "+" => {
                let (id, bytes) = rest[0].split_once('=').unwrap_or((rest[0], rest[0]));
                publish(Outcome::Stored(id_of(id)), bytes);
            }
            "?" => publish(Outcome::Unknown, rest[0]),
            "!" => publish(Outcome::Refused, rest[0]),
            "t" => {
                let is_kept = |what: &str| (rest.get(1) == Some(&what)).then(|| rest[2]);
                let kept = is_kept("kept").map(|count| count.parse().unwrap());
                let age_ms = is_kept("young").map(|age_ms| age_ms.parse().unwrap());
                let topics = Some(topics_of(rest[0]).to_vec());
                self.log.handle_fault(Fault {
                    cause: Cause::Trim { kept, age_ms },
                    topics,
                    begun_ms: 0,
                    ended_ms: 1_000,
                });
            }
            "l" => self.log.handle_fault(Fault { cause: Cause::Loss, topics: None, begun_ms: at, ended_ms: 1_000 }),
            _ => panic!("no line: {first} {rest:?}"),
        }
    }

    fn connect(&mut self, number: u32, rest: &[&str], at: u64) {
        let position = match rest[1] {
            "now" => Position::Now,
            "after" => Position::After(id_of(rest[2])),
            "garbage" => Position::Unknown,
            "earliest" => Position::Earliest,
            "last" => Position::Last(rest[2].parse().unwrap()),
            other => panic!("no position: {other}"),
        };
        while self.topics.len() <= number as usize {
            self.log.add_reader();
            self.topics.push(Arc::default());
        }
        self.log.handle_end(Reader(number), End::Left);
        self.topics[number as usize] = topics_of(rest[0]);
        self.log.handle_connect(Reader(number), topics_of(rest[0]), position, at);
    }

    fn tell(&mut self, reader: Reader, rest: &[&str], at: u64) {
        match rest[0] {
            "open" => {
                let topics = Arc::clone(&self.topics[reader.0 as usize]);
                let id = rest.last().filter(|id| **id != "none").map(|id| wire(id));
                let open = Open { topics: &topics, resumed: rest[1] == "resumed", id: id.as_deref() };
                self.log.handle_open(reader, open, at);
            }
            "reset" => {
                let (topics, id) = (topics_of(rest[2]), Some(rest[3]).filter(|id| *id != "none").map(wire));
                let reset = Reset { reason: Reason::parse(rest[1]), topics: &topics, id: id.as_deref() };
                self.log.handle_reset(reader, reset, at);
            }
            event => {
                let (id, bytes) = event.split_once('=').unwrap_or((event, event));
                self.log.handle_event(reader, &wire(id), hash(bytes));
            }
        }
    }
}

/// `-` is none.
fn topics_of(names: &str) -> Arc<[Topic]> {
    names
        .trim_matches('-')
        .chars()
        .map(|name| Topic(TOPICS.iter().position(|topic| topic.starts_with(name)).unwrap() as u32))
        .collect()
}

fn id_of(text: &str) -> Id {
    let tag = text.bytes().last().filter(u8::is_ascii_uppercase).unwrap_or(b'A');
    let number = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let (ms, n) = number.split_once('.').unwrap_or((number, "0"));
    Id { stamp: Stamp { ms: ms.parse().unwrap(), n: n.parse().unwrap() }, tag: [tag; 4] }
}

/// What stands on the wire; `bad` is no id.
fn wire(text: &str) -> String {
    if text == "bad" { "10_0".into() } else { id_of(text).to_string() }
}

fn hash(bytes: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Five events of two topics.
const EVENTS: &str = "+a 10
    +b 20
    +a 30
    +b 40
    +a 50
    ";

pub fn with_events(script: &str) -> String {
    format!("{EVENTS}{script}")
}
