//! What streams of durable topics were told, over all their connections.
//!
//! **For:** `checker::history`, which judges a reader by everything it was told. Each worker keeps the record of its
//! streams; when nothing more comes the parent puts those of all workers into one log. A stream's last id is kept
//! here too: it is presented when the stream comes back.
//!
//! ```text
//! stream 0   asked │ open │ e0 e1 e2 │ ended │ asked after e2 │ open │ e3 …        a list of numbers:
//! stream 1   asked │ open │ e0 e1 …                                                those of events, or of marks
//! ```
//!
//! **What always holds:** what came stands in the order it came, and nothing else stands between two marks of one
//! connection. An incomplete block is not there, and its id is not presented.
//! **Overload:** all records of a run together take [`RECORD_BYTES_MAX`] at most. A worker whose share is used up
//! keeps nothing any more, and says so: half a record is judged by nobody.
//! **Not chosen:** a log of the checker's in each worker. Logs would have to be put together there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use checker::history::{End, Id, Log, Open, Position, Reason, Reset, Topic};
use serde::{Deserialize, Serialize};

use super::conn::{Block, Item};
use crate::payload::event_hash;

/// Bytes of all records of a run. The parent takes up to five times that while it reads and judges them.
pub(crate) const RECORD_BYTES_MAX: u64 = 64 << 20;
/// What is counted for a delivery, …
pub(crate) const ITEM_BYTES: u64 = 4;
/// … for an event, once in each worker that it came to, …
pub(crate) const EVENT_BYTES: u64 = 200;
/// … and for a request, a control block or an end, which may name topics.
pub(crate) const MARK_BYTES: u64 = 100;
/// Bytes kept of an `id:` line or a reason. No id of ours is longer than 36.
const TEXT_LEN_MAX: usize = 64;
/// Marks a number as one of a mark.
const MARK: u32 = 1 << 31;

// No number of an event reaches `MARK`.
const _: () = assert!(RECORD_BYTES_MAX / EVENT_BYTES < MARK as u64);

/// What the streams of one worker were told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Each (id, hash) that came, once.
    events: Vec<(String, u64)>,
    marks: Vec<Mark>,
    streams: Vec<Told>,
    /// As counted above.
    pub(crate) bytes: u64,
    /// False exactly when the share was used up. Then there is nothing else.
    pub(crate) is_whole: bool,
}

/// What one stream was told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Told {
    /// In the order it came: a place in `events`, or, with [`MARK`], in `marks`.
    items: Vec<u32>,
    /// True exactly when it was open at the end, when nothing more came.
    is_dry: bool,
}

/// What is no event.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Mark {
    Asked {
        after: Option<String>,
        at_ms: u64,
    },
    /// `topics` by number, `u32::MAX` for one that nobody knows.
    Open {
        topics: Vec<u32>,
        resumed: bool,
        id: Option<String>,
        at_ms: u64,
    },
    Reset {
        reason: String,
        topics: Vec<u32>,
        id: Option<String>,
        at_ms: u64,
    },
    /// An event with this text for an id.
    Malformed(String),
    Ended {
        by_server: bool,
    },
}

/// A worker's record as it grows.
pub(super) struct Recorder {
    record: Record,
    bytes_max: u64,
    /// The place of each in `record.events`.
    numbers: HashMap<(Id, u64), u32>,
    /// By stream: the last id it was given.
    last: Vec<Option<Id>>,
    /// By name.
    topics: HashMap<String, u32>,
    /// Milliseconds since 1970: the clock that ids carry.
    clock: fn() -> u64,
}

impl Recorder {
    /// For so many streams of these topics.
    pub(super) fn new(streams: usize, topics: &[String], bytes_max: u64, clock: fn() -> u64) -> Self {
        Self {
            record: Record { streams: vec![Told::default(); streams], is_whole: true, ..Record::default() },
            bytes_max,
            numbers: HashMap::new(),
            last: vec![None; streams],
            topics: topics.iter().enumerate().map(|(number, name)| (name.clone(), number as u32)).collect(),
            clock,
        }
    }

    /// What a stream presents when it comes back.
    pub(super) fn last(&self, stream: usize) -> Option<Id> {
        self.last[stream]
    }

    /// A stream was asked for, after its last id if it has one.
    pub(super) fn handle_asked(&mut self, stream: usize) {
        let after = self.last[stream].map(|id| id.to_string());
        self.push_mark(stream, Mark::Asked { after, at_ms: (self.clock)() });
    }

    pub(super) fn handle_item(&mut self, stream: usize, item: &Item<'_>) {
        match item {
            Item::Data(data) => self.handle_event(stream, b"", event_hash(b"", data)),
            Item::Block(block) => self.handle_block(stream, block),
            Item::Head { .. } | Item::End => {}
        }
    }

    /// The stream's connection is over.
    pub(super) fn handle_ended(&mut self, stream: usize, end: End) {
        self.push_mark(stream, Mark::Ended { by_server: end == End::Closed });
    }

    /// The record, when nothing more comes and streams are open or not.
    pub(super) fn finish(self, is_open: impl Fn(usize) -> bool) -> Record {
        let mut record = self.record;
        record.streams.iter_mut().enumerate().for_each(|(stream, told)| told.is_dry = is_open(stream));
        record
    }

    fn handle_block(&mut self, stream: usize, block: &Block<'_>) {
        match block.event {
            b"fanwheel.open" | b"fanwheel.reset" => self.handle_control(stream, block),
            // Nothing is said in them that has a place in a history.
            name if name.starts_with(b"fanwheel.") => {}
            name => {
                // Ours have one line: another event than ours is one, whatever it says.
                let data = if block.data_lines == 1 { block.data } else { block.raw };
                self.handle_event(stream, block.id.unwrap_or_default(), event_hash(name, data));
            }
        }
    }

    fn handle_event(&mut self, stream: usize, id: &[u8], hash: u64) {
        let Some(id) = parse(id) else {
            return self.push_mark(stream, Mark::Malformed(short(id)));
        };
        self.last[stream] = Some(id);
        if let Some(&number) = self.numbers.get(&(id, hash)) {
            return self.push(stream, number, ITEM_BYTES);
        }
        let number = self.record.events.len() as u32;
        self.push(stream, number, ITEM_BYTES + EVENT_BYTES);
        if self.record.is_whole {
            self.record.events.push((id.to_string(), hash));
            self.numbers.insert((id, hash), number);
        }
    }

    fn handle_control(&mut self, stream: usize, block: &Block<'_>) {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Control {
            topics: Vec<String>,
            resumed: bool,
            reason: String,
        }
        // Of what cannot be read no topic is known, and that is held against it.
        let control: Control = serde_json::from_slice(block.data).unwrap_or_default();
        let topics = control.topics.iter().map(|name| self.topics.get(name).copied().unwrap_or(u32::MAX)).collect();
        let (id, at_ms) = (block.id.map(short), (self.clock)());
        self.last[stream] = block.id.and_then(parse).or(self.last[stream]);
        self.push_mark(
            stream,
            match block.event {
                b"fanwheel.open" => Mark::Open { topics, resumed: control.resumed, id, at_ms },
                _ => Mark::Reset { reason: short(control.reason.as_bytes()), topics, id, at_ms },
            },
        );
    }

    fn push_mark(&mut self, stream: usize, mark: Mark) {
        let topics = match &mark {
            Mark::Open { topics, .. } | Mark::Reset { topics, .. } => topics.len() as u64,
            _ => 0,
        };
        let number = MARK | self.record.marks.len() as u32;
        self.push(stream, number, ITEM_BYTES * (topics + 1) + MARK_BYTES);
        if self.record.is_whole {
            self.record.marks.push(mark);
        }
    }

    /// Does nothing once the share is used up.
    fn push(&mut self, stream: usize, item: u32, bytes: u64) {
        if !self.record.is_whole {
            return;
        }
        self.record.bytes += bytes;
        if self.record.bytes > self.bytes_max {
            self.record = Record { bytes: self.record.bytes, ..Record::default() };
            self.numbers = HashMap::new();
            return;
        }
        self.record.streams[stream].items.push(item);
    }
}

impl Record {
    /// Puts a worker's streams into the log of all. `topics` are those of a stream, ascending. Returns how many of
    /// their connections were told that they are resumed.
    pub(crate) fn replay_into(self, log: &mut Log, topics: impl Fn(usize) -> Arc<[Topic]>) -> u64 {
        let mut resumed_count = 0;
        for (stream, told) in self.streams.into_iter().enumerate() {
            let (reader, topics) = (log.add_reader(), topics(stream));
            for item in told.items {
                if item & MARK == 0 {
                    let (id, hash) = &self.events[item as usize];
                    log.handle_event(reader, id, *hash);
                    continue;
                }
                match &self.marks[(item ^ MARK) as usize] {
                    Mark::Asked { after, at_ms } => {
                        let position = match after.as_deref().map(Id::parse) {
                            None => Position::Now,
                            Some(Some(id)) => Position::After(id),
                            Some(None) => Position::Unknown,
                        };
                        log.handle_connect(reader, Arc::clone(&topics), position, *at_ms);
                    }
                    Mark::Open { topics, resumed, id, at_ms } => {
                        resumed_count += u64::from(*resumed);
                        let open = Open { topics: &numbered(topics), resumed: *resumed, id: id.as_deref() };
                        log.handle_open(reader, open, *at_ms);
                    }
                    Mark::Reset { reason, topics, id, at_ms } => {
                        let (reason, topics) = (Reason::parse(reason), numbered(topics));
                        log.handle_reset(reader, Reset { reason, topics: &topics, id: id.as_deref() }, *at_ms);
                    }
                    Mark::Malformed(id) => log.handle_event(reader, id, 0),
                    Mark::Ended { by_server } => {
                        log.handle_end(reader, if *by_server { End::Closed } else { End::Left });
                    }
                }
            }
            if told.is_dry {
                log.handle_dry(reader);
            }
        }
        resumed_count
    }
}

/// Milliseconds since 1970: the clock that ids carry.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn numbered(topics: &[u32]) -> Vec<Topic> {
    topics.iter().copied().map(Topic).collect()
}

fn parse(id: &[u8]) -> Option<Id> {
    Id::parse(std::str::from_utf8(id).ok()?)
}

/// No longer text is an id.
fn short(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(TEXT_LEN_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use checker::history::{Kind, Outcome, Publication, Report};

    use super::*;

    fn block<'a>(event: &'a str, data: &'a str, id: Option<&'a str>) -> Block<'a> {
        Block {
            event: event.as_bytes(),
            data: data.as_bytes(),
            data_lines: 1,
            id: id.map(str::as_bytes),
            ..Block::default()
        }
    }

    fn hear(recorder: &mut Recorder, event: &str, data: &str, id: &str) {
        recorder.handle_item(0, &Item::Block(block(event, data, Some(id))));
    }

    const OPEN: &str = r#"{"topics":["a","b"],"resumed":false}"#;
    const RESUMED: &str = r#"{"topics":["a","b"],"resumed":true}"#;

    /// One stream of topics a and b, open since long before anything is published.
    fn opened(bytes_max: u64) -> Recorder {
        let mut recorder = Recorder::new(1, &["a".to_owned(), "b".to_owned()], bytes_max, || 13);
        recorder.handle_asked(0);
        hear(&mut recorder, "fanwheel.open", OPEN, "10-0-abcd");
        recorder
    }

    /// Events 11 of topic a and 12 of topic b were published, by a publisher that was told so.
    fn judged(record: &Record) -> (Report, u64) {
        let mut log = Log::new(["a", "b"]);
        let record: Record = serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap();
        let resumed = record.replay_into(&mut log, |_| [Topic(0), Topic(1)].into());
        for (topic, id, data) in [(0, "11-0-abcd", "one"), (1, "12-0-abcd", "two")] {
            let (hash, outcome) = (event_hash(b"", data.as_bytes()), Outcome::Stored(Id::parse(id).unwrap()));
            log.handle_publication(Publication { topic: Topic(topic), hash, outcome });
        }
        (log.judge(), resumed)
    }

    #[test]
    fn a_stream_that_comes_back_with_its_last_id_is_judged_over_both_connections() {
        let mut recorder = opened(u64::MAX);
        hear(&mut recorder, "", "one", "11-0-abcd");
        recorder.handle_ended(0, End::Left);
        assert_eq!(recorder.last(0).unwrap().to_string(), "11-0-abcd");
        recorder.handle_asked(0);
        hear(&mut recorder, "fanwheel.open", RESUMED, "11-0-abcd");
        hear(&mut recorder, "", "two", "12-0-abcd");
        let (report, resumed) = judged(&recorder.finish(|_| true));
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.connections, report.continued, resumed, report.events), (2, 1, 1, 2));
    }

    #[test]
    fn what_is_wrong_with_a_stream_is_in_its_record() {
        let kinds = |told: &dyn Fn(&mut Recorder)| {
            let mut recorder = opened(u64::MAX);
            told(&mut recorder);
            judged(&recorder.finish(|_| true)).0.violations.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(kinds(&|_| {}), [Kind::Lost]);
        let two = |recorder: &mut Recorder| hear(recorder, "", "two", "12-0-abcd");
        assert_eq!(kinds(&two), [Kind::Lost]);
        let whole = |recorder: &mut Recorder| {
            hear(recorder, "", "one", "11-0-abcd");
            two(recorder);
        };
        assert_eq!(kinds(&whole), []);
        let and_then = |last: &dyn Fn(&mut Recorder)| {
            kinds(&|recorder: &mut Recorder| {
                whole(recorder);
                last(recorder);
            })
        };
        assert_eq!(and_then(&two), [Kind::Repeated]);
        assert_eq!(and_then(&|recorder| hear(recorder, "tick", "two", "12-0-abcd")), [Kind::Repeated, Kind::Changed]);
        assert_eq!(and_then(&|recorder| hear(recorder, "", "three", "13-0-abcd")), [Kind::Phantom]);
        assert_eq!(and_then(&|recorder| recorder.handle_item(0, &Item::Data(b"two"))), [Kind::Malformed]);
        let reset = |recorder: &mut Recorder| {
            hear(recorder, "fanwheel.reset", r#"{"reason":"trimmed","topics":["b"]}"#, "12-0-abcd");
        };
        assert_eq!(and_then(&reset), [Kind::ResetUnjustified]);
        let elsewhere = |recorder: &mut Recorder| {
            hear(recorder, "fanwheel.reset", r#"{"reason":"gap","topics":["c"]}"#, "12-0-abcd");
        };
        assert_eq!(and_then(&elsewhere), [Kind::ResetUnjustified]);
    }

    #[test]
    fn what_a_stream_that_is_away_has_not_got_is_not_lost() {
        let mut recorder = opened(u64::MAX);
        hear(&mut recorder, "", "one", "11-0-abcd");
        recorder.handle_ended(0, End::Closed);
        let (report, _) = judged(&recorder.finish(|_| false));
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.closed, 1);
    }

    #[test]
    fn a_record_that_would_be_too_large_is_none_and_ids_are_presented_all_the_same() {
        let mut recorder = opened(1_000);
        assert!(recorder.record.is_whole);
        for n in 0..100 {
            hear(&mut recorder, "", "one", &format!("{}-0-abcd", 100 + n));
        }
        assert_eq!(recorder.last(0).unwrap().to_string(), "199-0-abcd");
        assert!(recorder.numbers.is_empty());
        let record = recorder.finish(|_| true);
        assert!(!record.is_whole && record.bytes > 1_000);
        assert!(record.events.is_empty() && record.marks.is_empty() && record.streams.is_empty());
    }

    #[test]
    fn a_line_of_any_length_is_kept_in_part_and_is_no_id() {
        let mut recorder = opened(u64::MAX);
        let long = format!("12-0-abcd{}", "d".repeat(1 << 20));
        hear(&mut recorder, "", "two", &long);
        assert_eq!(recorder.last(0).unwrap().to_string(), "10-0-abcd");
        let Some(Mark::Malformed(kept)) = recorder.record.marks.last() else { panic!("a mark") };
        assert_eq!(kept.len(), TEXT_LEN_MAX);
    }
}
