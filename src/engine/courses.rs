//! Courses of a shard with durable topics, step by step: what chance takes too rarely, and what only the shard itself
//! can see.

mod changes;

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::history::{Answer, Answered, Chain, Marker, Page, Position, Read};
use crate::engine::partition::Partition;
use crate::engine::policy::{Class, Classes, Kind, Limits};
use crate::engine::{CloseReason, ConnId, Inbound, Ingested, Joining, Sent, Shard, Sink, Wish};
use crate::event::{Event, EventId, Stamp, Stored, Tag};
use crate::frame::WireForm;
use crate::topic::{Pattern, Topic};

/// What each socket took, may yet take, and why it was closed; by its number.
#[derive(Default)]
struct Wire(Vec<Socket>);

struct Socket {
    took: Vec<u8>,
    room: usize,
    closed: Option<CloseReason>,
}

impl Sink for Wire {
    type Port = usize;

    fn park(&mut self, _port: &usize, _id: ConnId) -> bool {
        true
    }

    fn send(&mut self, &port: &usize, bytes: &[u8]) -> Sent {
        let socket = &mut self.0[port];
        let taken = bytes.len().min(socket.room);
        socket.room -= taken;
        socket.took.extend_from_slice(&bytes[..taken]);
        if taken == bytes.len() { Sent::All } else { Sent::Part(taken) }
    }

    fn watch_writable(&mut self, _port: &usize, _id: ConnId, _wanted: bool) {}

    fn unpark(&mut self, port: usize, reason: CloseReason) {
        self.0[port].closed = Some(reason);
    }
}

/// A shard that is connected to its source. Topics `d.*` are durable.
struct Stage {
    shard: Shard<usize>,
    wire: Wire,
    /// Reads that were asked for and not answered.
    reads: Vec<(u64, Read)>,
    /// The incarnations of the history.
    chain: Arc<Chain>,
}

fn at(ms: u64) -> Stamp {
    Stamp { ms, n: 0 }
}

fn topic(name: &str) -> Topic {
    Topic::parse(name).expect("a topic")
}

fn event(name: &str, ms: u64, prev: u64, size: usize) -> Arc<Event> {
    let stored = Some(Stored { id: EventId { stamp: at(ms), tag: Tag::NONE }, prev: at(prev) });
    let data = Bytes::from(vec![b'x'; size]);
    Arc::new(Event { topic: topic(name), name: None, key: None, data, stored, received_us: 0 })
}

impl Stage {
    fn new() -> Stage {
        Stage::with(Limits::default())
    }

    fn with(mut limits: Limits) -> Stage {
        let durable = Class { kind: Kind::Durable(Default::default()), ..Class::default() };
        limits.classes = Classes(vec![(Pattern::parse("d.*").expect("a pattern"), durable)]);
        let shard = Shard::new(limits, 0, 0);
        let chain = Arc::new(Chain::begin(Tag::NONE));
        let mut stage = Stage { shard, wire: Wire::default(), reads: Vec::new(), chain };
        stage.say(Inbound::Connected(1));
        stage
    }

    /// A stream of these topics; gives its number and its name.
    fn join(&mut self, names: &[&str], position: Position) -> (usize, ConnId) {
        self.join_as(WireForm::SsePlain, names, position)
    }

    fn join_as(&mut self, form: WireForm, names: &[&str], position: Position) -> (usize, ConnId) {
        let number = self.wire.0.len();
        self.wire.0.push(Socket { took: Vec::new(), room: usize::MAX, closed: None });
        let topics: Vec<Topic> = names.iter().map(|name| topic(name)).collect();
        let joining = Joining { topics: &topics, position, form, head: b"head\n\n" };
        let id = self.shard.join(&mut self.wire, number, &joining).expect("it is let in");
        self.sweep();
        (number, id)
    }

    fn leave(&mut self, id: ConnId) {
        self.shard.handle_gone(&mut self.wire, id, CloseReason::Gone);
    }

    fn sweep(&mut self) {
        while self.shard.sweep(&mut self.wire, 20) {}
    }

    /// What the source says, as the turn takes it: a sweep comes first where that is asked for.
    fn say(&mut self, message: Inbound) {
        let mut message = message;
        while let Ingested::Full(back) = self.shard.ingest(&mut self.wire, message) {
            message = back;
            self.sweep();
        }
        self.sweep();
    }

    fn event(&mut self, name: &str, ms: u64, prev: u64) {
        self.say(Inbound::Event(event(name, ms, prev, 10)));
    }

    /// An event of a topic without a history.
    fn live_event(&mut self, name: &str) {
        let data = Bytes::from_static(b"x");
        self.say(Inbound::Event(Arc::new(Event {
            topic: topic(name),
            name: None,
            key: None,
            data,
            stored: None,
            received_us: 0,
        })));
    }

    /// The answer to what was asked last.
    fn marker(&mut self, ms: u64) {
        self.marker_for(self.shard.partition.question, ms);
    }

    fn marker_for(&mut self, question: u64, ms: u64) {
        self.say(Inbound::Marker(question, Arc::new(self.place(ms))));
    }

    fn place(&self, ms: u64) -> Marker {
        Marker { last: at(ms), chain: Arc::clone(&self.chain) }
    }

    /// What the shard wants, but for its reads: those are kept.
    fn wishes(&mut self) -> Vec<Wish> {
        let mut others = Vec::new();
        for wish in self.shard.take_wishes() {
            match wish {
                Wish::Read(number, read) => self.reads.push((number, read)),
                wish => others.push(wish),
            }
        }
        others
    }

    /// These topics are confirmed, and a marker behind them at `ms` settles them.
    fn settle(&mut self, names: &[&str], ms: u64) {
        names.iter().for_each(|name| self.say(Inbound::Subscribed(topic(name))));
        assert!(self.wishes().iter().any(|wish| matches!(wish, Wish::Barrier(_))));
        self.marker(ms);
        self.wishes();
    }

    /// Answers everything that was asked for: of each topic these events are retained, and nothing else ever was.
    fn answer(&mut self, events: &[Arc<Event>], ms: u64) {
        self.wishes();
        for (number, read) in std::mem::take(&mut self.reads) {
            let of = |topic: &Topic, after: Stamp, upto: Stamp| {
                let here = |event: &&Arc<Event>| {
                    let stored = event.stored.expect("it is durable");
                    event.topic == *topic && stored.id.stamp > after && stored.id.stamp <= upto
                };
                let last = events.iter().rfind(|event| event.topic == *topic).and_then(|event| event.stored);
                let last = last.map_or(Stamp::ZERO, |stored| stored.id.stamp);
                Page { topic: topic.clone(), events: events.iter().filter(here).cloned().collect(), more: false, last }
            };
            let pages = match &read {
                Read::After { topics, .. } => topics.iter().map(|(topic, after)| of(topic, *after, at(ms))).collect(),
                Read::Tail { topics, upto, .. } => topics.iter().map(|topic| of(topic, Stamp::ZERO, *upto)).collect(),
                Read::Start { .. } => panic!("nobody asks for it here"),
            };
            self.shard.handle_answer(Answered { number, marker: self.place(ms), answer: Answer::Pages(pages) });
        }
        while self.shard.catch_up(&mut self.wire) {
            self.sweep();
        }
        self.sweep();
    }

    /// The names and, in brackets, ids of the blocks a stream got since the last call.
    fn got(&mut self, number: usize) -> Vec<String> {
        let took = std::mem::take(&mut self.wire.0[number].took);
        let text = String::from_utf8(took).expect("it is text");
        let field = |block: &str, name: &str| {
            block.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start_matches(": ").to_owned()))
        };
        let blocks = text.split("\n\n").filter(|block| block.contains("data:"));
        let reason = |block: &str| {
            let data = field(block, "data").unwrap_or_default();
            let at = data.split_once("\"reason\":\"").map(|(_, rest)| rest.to_owned())?;
            Some(format!(" {}", at.split('"').next().unwrap_or_default()))
        };
        let words = blocks.map(|block| {
            let name = field(block, "event").unwrap_or_else(|| "message".to_owned());
            let id = field(block, "id").map_or(String::new(), |id| format!(" {}", id.trim_end_matches("-0-0000")));
            format!("{name}{}{id}", reason(block).unwrap_or_default())
        });
        words.collect()
    }
}

/// Nothing comes on any of them, so nothing but the tails themselves makes room for them.
#[test]
fn tails_of_quiet_topics_stay_within_the_budget() {
    let budget = 100_000;
    let mut stage = Stage::with(Limits { log_bytes_max: budget, ..Limits::default() });
    let names: Vec<String> = (0..64).map(|n| format!("d.{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let readers: Vec<usize> = names.iter().map(|name| stage.join(&[name], Position::Now).0).collect();
    stage.settle(&names, 1_000);
    let retained: Vec<_> = (1..).zip(&names).map(|(ms, name)| event(name, ms, 0, 10_000)).collect();
    stage.answer(&retained, 1_000);
    let used = stage.shard.gauges().log_bytes;
    assert!((budget / 2..=budget).contains(&used), "{used} bytes of tails");
    assert!(readers.into_iter().all(|reader| stage.got(reader) == ["fanwheel.open 1000"]));
    // The newest tails are those that are there.
    let from = |ms| Position::After(EventId { stamp: at(ms), tag: Tag::NONE });
    let (reader, _) = stage.join(&["d.63"], from(10));
    assert_eq!(stage.got(reader), ["fanwheel.open 10", "message 64"]);
    let (reader, _) = stage.join(&["d.20"], from(10));
    assert_eq!(stage.got(reader), ["fanwheel.open 10"], "its tail is gone: it waits for a page");
    stage.answer(&retained, 1_000);
    assert_eq!(stage.got(reader), ["message 21"]);
}

/// A topic that is wanted, left and wanted again, and others that are wanted once.
#[test]
fn what_is_remembered_of_tails_does_not_grow_with_the_topics_that_were_there() {
    let mut stage = Stage::new();
    let linger = Limits::default().linger_ticks;
    for turn in 0..2_000_u32 {
        let once = format!("d.{turn}");
        let (names, ms) = (["d.again", &once], 1_000 + u64::from(turn));
        let (_, id) = stage.join(&names, Position::Now);
        stage.settle(&names, ms);
        stage.answer(&[event("d.again", 1, 0, 10), event(&once, 2, 0, 10)], ms);
        stage.leave(id);
        stage.shard.advance(&mut stage.wire, (turn + 1) * linger);
        // The one is forgotten, the other is wanted again before that.
        stage.say(Inbound::Unsubscribed(topic(&once)));
    }
    assert_eq!(stage.shard.gauges().topics, 1);
    let tails = stage.shard.partition.tails.len();
    assert!(tails <= 1_100, "{tails} topics with a tail are remembered");
}

/// Redis has come back with other rights. A reader that is blocked is sent away when it has stalled, and not before.
#[test]
fn a_refused_topic_holds_up_no_other_while_a_reader_of_it_is_blocked() {
    let mut stage = Stage::new();
    let (reader, _) = stage.join(&["d.open"], Position::Now);
    let (blocked, id) = stage.join(&["d.closed"], Position::Now);
    stage.settle(&["d.open", "d.closed"], 100);
    stage.answer(&[], 100);
    stage.wire.0[blocked].room = 5;
    stage.event("d.closed", 101, 0);
    assert_eq!(stage.got(reader), ["fanwheel.open 100"]);

    stage.say(Inbound::Disconnected);
    stage.say(Inbound::Connected(2));
    stage.say(Inbound::Refused(topic("d.closed")));
    stage.settle(&["d.open"], 110);
    stage.answer(&[event("d.open", 105, 0, 10), event("d.closed", 101, 0, 10)], 110);
    assert_eq!(stage.got(reader), ["message 105"], "it was missed, and read");
    stage.event("d.open", 111, 105);
    assert_eq!(stage.got(reader), ["message 111"]);

    // It may be allowed again: it is settled like any other.
    let (again, _) = stage.join(&["d.closed"], Position::Now);
    assert!(stage.wishes().contains(&Wish::Subscribe(topic("d.closed"))));
    stage.settle(&["d.closed"], 112);
    stage.answer(&[event("d.closed", 101, 0, 10)], 112);
    stage.event("d.closed", 113, 101);
    assert_eq!(stage.got(again), ["fanwheel.open 112", "message 113"]);

    stage.got(blocked);
    stage.wire.0[blocked].room = usize::MAX;
    stage.shard.handle_writable(&mut stage.wire, id);
    stage.sweep();
    assert_eq!(stage.wire.0[blocked].closed, Some(CloseReason::Unavailable));
    assert!(stage.got(blocked).iter().any(|block| block == "fanwheel.unavailable"));
}

/// The embedded broker tells every shard everything, and forgets what is oldest when its memory is full.
#[test]
fn a_topic_in_which_nothing_was_missed_is_not_trimmed_by_what_befell_others() {
    let mut stage = Stage::new();
    let (reader, _) = stage.join(&["d.quiet"], Position::Now);
    stage.settle(&["d.quiet"], 100);
    stage.answer(&[], 100);
    // Of others events come, and leave, and are forgotten: the horizon is at 103.
    (101..=104).for_each(|ms| stage.event("d.other", ms, ms - 1));
    stage.event("d.quiet", 105, 103);
    assert_eq!(stage.wishes(), [], "nothing is to be repaired");
    assert_eq!(stage.got(reader), ["fanwheel.open 100", "message 105"]);
    let (late, _) = stage.join(&["d.quiet"], Position::Now);
    assert_eq!(stage.got(late), ["fanwheel.open 105"]);
}

/// Redis tells a shard only of its own topics.
#[test]
fn a_shard_on_whose_topics_nothing_comes_asks_how_far_the_history_has_got() {
    let mut stage = Stage::new();
    stage.shard.advance(&mut stage.wire, 36_000);
    assert_eq!(stage.wishes(), [Wish::Renew(1)], "it has no history");
    let (reader, _) = stage.join(&["d.quiet"], Position::Now);
    stage.settle(&["d.quiet"], 100);
    stage.answer(&[], 100);
    stage.shard.advance(&mut stage.wire, 40_000);
    assert!(matches!(stage.wishes()[..], [Wish::Barrier(_)]));
    stage.marker(900);
    stage.shard.advance(&mut stage.wire, 40_001);
    stage.event("d.quiet", 905, 800);
    assert_eq!(stage.wishes(), []);
    assert_eq!(stage.got(reader), ["fanwheel.open 100", "message 905"]);
}

/// Its topic is followed and settled, but the shard waits for a marker.
#[test]
fn a_stream_that_cannot_be_opened_in_time_is_told_also_where_its_topics_are_confirmed() {
    let mut stage = Stage::new();
    let open_ticks = Limits::default().open_ticks;
    let (first, _) = stage.join(&["d.a"], Position::Now);
    stage.settle(&["d.a"], 100);
    stage.answer(&[], 100);
    assert_eq!(stage.got(first), ["fanwheel.open 100"]);
    assert!(stage.shard.ingest_gap());
    let (late, _) = stage.join(&["d.a"], Position::Now);
    stage.shard.advance(&mut stage.wire, open_ticks - 1);
    assert_eq!(stage.wire.0[late].closed, None);
    stage.shard.advance(&mut stage.wire, open_ticks);
    assert_eq!(
        (stage.got(late), stage.wire.0[late].closed),
        (vec!["fanwheel.unavailable".into()], Some(CloseReason::Unavailable))
    );
    assert_eq!(stage.wire.0[first].closed, None);
}

#[test]
fn live_topics_are_not_held_while_the_durable_ones_are() {
    let mut stage = Stage::new();
    let (reader, _) = stage.join(&["d.a", "l.b"], Position::Now);
    let (other, _) = stage.join(&["l.b"], Position::Now);
    stage.say(Inbound::Subscribed(topic("l.b")));
    stage.settle(&["d.a"], 100);
    stage.answer(&[], 100);
    let _opened = [reader, other].map(|number| stage.got(number));
    // An event before this one did not come.
    stage.event("d.a", 105, 103);
    stage.live_event("l.b");
    assert_eq!([reader, other].map(|number| stage.got(number)), [["message"], ["message"]], "its marker is still out");
    stage.marker(105);
    stage.answer(&[event("d.a", 103, 0, 10), event("d.a", 105, 103, 10)], 105);
    assert_eq!(stage.got(reader), ["message 103", "message 105"]);
}

#[test]
fn a_tag_that_nobody_knows_is_asked_about_once() {
    let mut stage = Stage::new();
    let (reader, _) = stage.join(&["d.a"], Position::Now);
    stage.settle(&["d.a"], 100);
    stage.answer(&[], 100);
    stage.got(reader);
    let strange = |stage: &mut Stage, ms: u64| {
        let tag = EventId::parse("1-0-evil").expect("an id").tag;
        let mut event = Arc::into_inner(event("d.a", ms, 100, 10)).expect("nobody else has it");
        event.stored = event.stored.map(|stored| Stored { id: EventId { tag, ..stored.id }, ..stored });
        stage.say(Inbound::Event(Arc::new(event)));
    };
    strange(&mut stage, 101);
    strange(&mut stage, 102);
    assert!(matches!(stage.wishes()[..], [Wish::Barrier(_)]), "one question for both");
    stage.marker(100);
    stage.answer(&[], 100);
    strange(&mut stage, 103);
    assert_eq!((stage.wishes(), stage.shard.counters().events_strange), (Vec::new(), 1), "it was asked about");
    stage.event("d.a", 104, 0);
    assert_eq!(stage.got(reader), ["message 104"]);
}

/// They come and go while no marker and no tail comes, and while the shard holds.
#[test]
fn nothing_is_kept_of_readers_and_topics_that_are_gone() {
    let mut stage = Stage::new();
    let linger = Limits::default().linger_ticks;
    let after = |ms| Position::After(EventId { stamp: at(ms), tag: Tag::NONE });
    stage.join(&["d.a"], Position::Now);
    stage.settle(&["d.a"], 100);
    let mut now = 0;
    let mut come_and_go = |stage: &mut Stage, name: &str, position: Position, held: fn(&Partition) -> usize| {
        let before = held(&stage.shard.partition);
        let (_, id) = stage.join(&[name], position);
        stage.say(Inbound::Subscribed(topic(name)));
        assert_eq!(held(&stage.shard.partition), before + 1, "{name} at {position:?}");
        stage.leave(id);
        now += linger;
        stage.shard.advance(&mut stage.wire, now);
        stage.wishes();
        assert_eq!(held(&stage.shard.partition), before, "{name} at {position:?}");
    };
    come_and_go(&mut stage, "d.a", after(50), |partition| partition.behind_tails.len());
    come_and_go(&mut stage, "d.b", Position::Now, |partition| partition.unsettled.len());
    stage.answer(&[], 100);
    come_and_go(&mut stage, "d.a", after(200), |partition| partition.ahead.len() + partition.ahead_asked.len());
    assert!(stage.shard.ingest_gap());
    come_and_go(&mut stage, "d.a", Position::Now, |partition| partition.held_back.len());
    // One that is served again and again while it waits stands there once.
    let (number, id) = stage.join(&["d.a"], Position::Now);
    for _ in 0..3 {
        stage.shard.enqueue(id);
        stage.sweep();
    }
    assert_eq!(stage.shard.partition.held_back.len(), 1);
    assert_eq!(stage.wire.0[number].closed, None);
}

/// It was asked for before they came, and knows nothing of what they have seen on another node.
#[test]
fn a_marker_that_comes_late_says_nothing_to_those_who_came_after_it_was_asked_for() {
    let mut stage = Stage::new();
    let after = |ms| Position::After(EventId { stamp: at(ms), tag: Tag::NONE });
    stage.join(&["d.a"], Position::Now);
    stage.settle(&["d.a"], 100);
    stage.answer(&[], 100);
    stage.join(&["d.a"], after(150));
    let [Wish::Barrier(first)] = stage.wishes()[..] else { panic!("no question") };
    let (late, _) = stage.join(&["d.a"], after(300));
    stage.shard.advance(&mut stage.wire, 25);
    let [Wish::Barrier(second)] = stage.wishes()[..] else { panic!("it is asked again") };
    stage.marker_for(first, 200);
    stage.sweep();
    assert_eq!(stage.got(late), [""; 0], "not yet");
    stage.event("d.a", 300, 0);
    stage.marker_for(second, 400);
    stage.sweep();
    assert_eq!(stage.got(late), ["fanwheel.open 300"]);
}

/// More comes on its live topic than a log holds, while it waits for a page of the other.
#[test]
fn a_replaying_reader_is_handed_its_live_topics_meanwhile() {
    let mut stage = Stage::new();
    let (keeper, _) = stage.join(&["d.a"], Position::Now);
    stage.settle(&["d.a"], 100);
    stage.answer(&[], 100);
    let published: Vec<_> = (101..=1_200).map(|ms| event("d.a", ms, if ms == 101 { 0 } else { ms - 1 }, 10)).collect();
    published.iter().for_each(|event| stage.say(Inbound::Event(Arc::clone(event))));
    assert_eq!(stage.got(keeper).len(), 1 + published.len());

    let from = |ms| Position::After(EventId { stamp: at(ms), tag: Tag::NONE });
    let (reader, _) = stage.join(&["d.a", "l.a"], from(110));
    stage.say(Inbound::Subscribed(topic("l.a")));
    stage.wishes();
    assert_eq!((stage.reads.len(), stage.got(reader)), (1, vec!["fanwheel.open 110".to_owned()]));
    (0..3_000).for_each(|_| stage.live_event("l.a"));
    assert!(stage.got(reader) == vec!["message"; 3_000]);
    stage.event("d.a", 1_201, 1_200);
    assert_eq!(stage.got(reader), Vec::<String>::new(), "of the other it is handed nothing but by its position");
    stage.answer(&published, 1_201);
    let expected: Vec<String> = (111..=1_201).map(|ms| format!("message {ms}")).collect();
    assert_eq!(stage.got(reader), expected);
    stage.live_event("l.a");
    stage.event("d.a", 1_202, 1_201);
    assert_eq!(stage.got(reader), ["message", "message 1202"]);

    // Blocked for longer than the log is long it has overflowed, replaying or not.
    let (slow, id) = stage.join(&["d.a", "l.a"], from(105));
    stage.wire.0[slow].room = 100;
    (0..3_000).for_each(|_| stage.live_event("l.a"));
    stage.wire.0[slow].room = usize::MAX;
    stage.shard.handle_writable(&mut stage.wire, id);
    stage.sweep();
    stage.answer(&published, 1_202);
    let got = stage.got(slow);
    assert!(got.contains(&"fanwheel.reset overflow 105".to_owned()), "{:?}", &got[..5]);
}
