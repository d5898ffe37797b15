//! `redis/fanwheel.lua` keeps its promises in a real Redis: by hand, without a node.

mod reads;
mod refusals;

use super::common::redis::{RedisServer, Reply, Resp};
use super::common::wait_for;

const CLOCK: &str = "k:{0}:clock";
const INDEX: &str = "k:{0}:index";
const DAY_MS: u64 = 86_400_000;

/// Read when it is needed, so that what is tried is what stands there.
fn text_of_script() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/redis/fanwheel.lua")).unwrap()
}

/// A Redis with the script loaded as a node does it: without its first line.
struct Script {
    server: RedisServer,
    client: Resp,
    sha: String,
    /// What the caller knows of the server's `run_id`.
    run: String,
    rng: fastrand::Rng,
}

/// An event to be published, with what is kept of its topic.
#[derive(Clone)]
struct Event {
    topic: String,
    name: Vec<u8>,
    key: Vec<u8>,
    data: Vec<u8>,
    kept: u64,
    age_ms: u64,
    window_ms: u64,
    record: Option<String>,
}

fn event(topic: &str, data: &str) -> Event {
    Event {
        topic: topic.into(),
        name: Vec::new(),
        key: Vec::new(),
        data: data.into(),
        kept: 1_000,
        age_ms: DAY_MS,
        window_ms: 0,
        record: None,
    }
}

impl Event {
    fn named(mut self, name: &[u8]) -> Event {
        self.name = name.into();
        self
    }

    /// With an idempotency key that is remembered for a minute.
    fn once(mut self, key: &str) -> Event {
        self.record = Some(format!("k:{{0}}:i:{}:{key}", self.topic));
        self.window_ms = 60_000;
        self
    }
}

fn stream(topic: &str) -> String {
    format!("k:{{0}}:s:{topic}")
}

fn body() -> String {
    text_of_script().split_once('\n').expect("more than one line").1.to_owned()
}

fn number(id: &str) -> (u64, u64) {
    let mut parts = id.split('-').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap(), parts.next().unwrap())
}

fn tag(id: &str) -> &str {
    id.rsplit('-').next().unwrap()
}

/// The number within an id.
fn stamp(id: &str) -> &str {
    id.rsplit_once('-').unwrap().0
}

fn texts(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::Array(parts) => parts.iter().map(text).collect(),
        other => panic!("no list: {other:?}"),
    }
}

/// Of messages the readable part.
fn text(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

impl Script {
    fn start() -> Script {
        Script::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Script {
        let server = RedisServer::start_with(arguments);
        let (client, sha) = load(&server);
        Script { server, client, sha, run: String::new(), rng: fastrand::Rng::with_seed(7) }
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.resume();
        (self.client, self.sha) = load(&self.server);
    }

    fn candidates(&mut self) -> String {
        (0..16).map(|_| self.rng.alphanumeric()).collect()
    }

    fn redis(&mut self, words: &[&str]) -> Reply {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.client.command(&words)
    }

    fn clock(&mut self, field: &str) -> Option<String> {
        match self.redis(&["HGET", CLOCK, field]) {
            Reply::Bulk(None) => None,
            reply => Some(reply.text()),
        }
    }

    fn set_clock(&mut self, field: &str, value: &str) {
        self.redis(&["HSET", CLOCK, field, value]);
    }

    /// Calls an operation; errors are replies.
    fn try_call(&mut self, operation: &str, keys: &[String], arguments: &[Vec<u8>]) -> Reply {
        let (run, candidates) = (self.run.clone(), self.candidates());
        let count = (keys.len() + 2).to_string();
        let mut words: Vec<&[u8]> = vec![b"EVALSHA", self.sha.as_bytes(), count.as_bytes()];
        words.extend([CLOCK.as_bytes(), INDEX.as_bytes()]);
        words.extend(keys.iter().map(String::as_bytes));
        words.extend([operation.as_bytes(), run.as_bytes(), candidates.as_bytes()]);
        words.extend(arguments.iter().map(Vec::as_slice));
        self.client.try_command(&words).expect("Redis answers")
    }

    fn call(&mut self, operation: &str, keys: &[String], arguments: &[&str]) -> Vec<Reply> {
        let arguments: Vec<Vec<u8>> = arguments.iter().map(|&argument| argument.into()).collect();
        match self.try_call(operation, keys, &arguments) {
            Reply::Array(parts) => parts,
            other => panic!("{operation}: {other:?}"),
        }
    }

    /// Publishes a batch: an outcome for each event.
    fn publish_all(&mut self, events: &[Event]) -> Vec<String> {
        let (keys, arguments) = words_of(events);
        let reply = self.try_call("publish", &keys, &arguments);
        let parts = texts(&reply);
        assert_eq!(parts.len(), events.len() + 2, "{parts:?}");
        parts[2..].to_vec()
    }

    fn publish(&mut self, event: Event) -> String {
        self.publish_all(&[event]).remove(0)
    }

    /// Numbers and messages of a topic's stream.
    fn entries(&mut self, topic: &str) -> Vec<(String, Vec<u8>)> {
        let Reply::Array(entries) = self.redis(&["XRANGE", &stream(topic), "-", "+"]) else { panic!("no stream") };
        let entries = entries.into_iter().map(|entry| match entry {
            Reply::Array(parts) => match &parts[..] {
                [Reply::Bulk(Some(number)), Reply::Array(fields)] => match &fields[..] {
                    [Reply::Bulk(Some(field)), Reply::Bulk(Some(message))] if field == b"m" => {
                        (String::from_utf8(number.clone()).unwrap(), message.clone())
                    }
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        });
        entries.collect()
    }

    fn numbers_of(&mut self, topic: &str) -> Vec<String> {
        self.entries(topic).into_iter().map(|(number, _)| number).collect()
    }
}

fn load(server: &RedisServer) -> (Resp, String) {
    let mut client = server.client();
    let sha = wait_for("Redis to have loaded its data", || {
        match client.try_command(&[b"SCRIPT", b"LOAD", body().as_bytes()])? {
            Reply::Error(error) if error.starts_with("LOADING") => None,
            reply => Some(reply.text()),
        }
    });
    (client, sha)
}

/// Keys and arguments of `publish` after run and candidates.
fn words_of(events: &[Event]) -> (Vec<String>, Vec<Vec<u8>>) {
    let (mut keys, mut arguments) = (Vec::new(), vec![b"c:".to_vec()]);
    for event in events {
        keys.push(stream(&event.topic));
        keys.extend(event.record.clone());
        arguments.extend([event.name.clone(), event.key.clone(), event.data.clone()]);
        arguments.extend([event.kept, event.age_ms, event.window_ms].map(|limit| limit.to_string().into_bytes()));
    }
    (keys, arguments)
}

/// The message, as it must be.
fn message(id: &str, prev: &str, event: &Event) -> Vec<u8> {
    let head = format!("FW2 {id} {prev} {} {}\n", event.name.len(), event.key.len());
    [b"\xff", head.as_bytes(), &event.name, &event.key, &event.data].concat()
}

#[test]
fn numbers_grow_over_topics_and_what_is_stored_is_what_is_published() {
    let mut script = Script::start();
    let mut subscriber = script.server.client();
    subscriber.command(&[b"SUBSCRIBE", b"c:a"]);
    let mut first = event("a", "\u{e9}\r\n").named(b"tick");
    first.key = b"k".to_vec();
    let ids = script.publish_all(&[first.clone(), event("b", ""), event("a", "two")]);
    let later = script.publish(event("a", "three"));
    let now = match script.redis(&["TIME"]) {
        Reply::Array(time) => time[0].text().parse::<u64>().unwrap() * 1_000 + 999,
        other => panic!("{other:?}"),
    };
    for pair in [&ids[..], std::slice::from_ref(&later)].concat().windows(2) {
        assert!(number(&pair[0]) < number(&pair[1]), "{pair:?}");
        assert_eq!(tag(&pair[0]), tag(&pair[1]));
    }
    assert!(now - number(&later).0 < 20_000, "{later} is not of the time {now}");
    let expected = [
        message(&ids[0], "0-0", &first),
        message(&ids[2], stamp(&ids[0]), &event("a", "two")),
        message(&later, stamp(&ids[2]), &event("a", "three")),
    ];
    let stored: Vec<Vec<u8>> = script.entries("a").into_iter().map(|(_, message)| message).collect();
    assert_eq!(stored, expected);
    assert_eq!(script.numbers_of("a"), [&ids[0], &ids[2], &later].map(|id| stamp(id).to_owned()));
    for message in expected {
        assert_eq!(subscriber.take_message(), message);
    }
    assert_eq!(script.redis(&["HGET", INDEX, "a"]).text(), stamp(&later));
    assert_eq!(script.redis(&["HGET", INDEX, "b"]).text(), stamp(&ids[1]));
}

#[test]
fn as_a_function_it_does_the_same() {
    let mut script = Script::start();
    script.client.command(&[b"FUNCTION", b"LOAD", text_of_script().as_bytes()]);
    let by_script = script.publish(event("a", "one"));
    let (keys, arguments) = words_of(&[event("a", "two")]);
    let mut words: Vec<&[u8]> = vec![b"FCALL", b"fanwheel_publish", b"3", CLOCK.as_bytes(), INDEX.as_bytes()];
    words.extend([keys[0].as_bytes(), b"", b"abcdefghijklmnop"]);
    words.extend(arguments.iter().map(Vec::as_slice));
    let by_function = texts(&script.client.command(&words)).remove(2);
    assert_eq!(tag(&by_script), tag(&by_function));
    assert_eq!(script.entries("a")[1].1, message(&by_function, stamp(&by_script), &event("a", "two")));
    let words =
        ["FCALL", "fanwheel_after", "3", CLOCK, INDEX, &stream("a"), "", "abcd", "999", "999", stamp(&by_script)];
    let Reply::Array(parts) = script.redis(&words) else { panic!("no pages") };
    assert_eq!(texts(&parts[4])[..2], [stamp(&by_function), "0"]);
}

#[test]
fn exactly_so_many_events_are_kept_and_exactly_so_old_ones() {
    let mut script = Script::start();
    let keep = |topic: &str, kept, age_ms| Event { kept, age_ms, ..event(topic, "x") };
    let ids: Vec<String> = (0..5).map(|_| script.publish(keep("count", 3, DAY_MS))).collect();
    assert_eq!(script.numbers_of("count"), ids[2..].iter().map(|id| stamp(id).to_owned()).collect::<Vec<_>>());

    // The clock is set ahead, so that the ages are known to the millisecond.
    // Age is looked at with the first event of a second.
    let start = (number(&ids[4]).0 + DAY_MS) / 1_000 * 1_000;
    for ms in [start, start + 1, start + 2] {
        script.set_clock("last", &format!("{ms}-0"));
        script.publish(keep("age", 1_000, 0));
    }
    script.set_clock("last", &format!("{}-0", start + 1_001));
    script.publish(keep("age", 1_000, 1_000));
    assert_eq!(
        script.numbers_of("age"),
        [format!("{}-1", start + 1), format!("{}-1", start + 2), format!("{}-1", start + 1_001)],
        "1,000 ms old stays, 1,001 ms old leaves"
    );
    let mut left = Vec::new();
    for ms in [start + 1_500, start + 1_999, start + 2_000] {
        script.set_clock("last", &format!("{ms}-0"));
        script.publish(keep("age", 1_000, 1));
        left.push(script.numbers_of("age").len());
    }
    assert_eq!(left, [4, 5, 2], "within a second nothing leaves for its age, then all that is too old");
}

#[test]
fn age_is_kept_too_where_redis_cannot_trim_by_it() {
    // As before 6.2: without the command that has the option.
    let mut script = Script::start_with(&["--rename-command", "XTRIM", ""]);
    let first = script.publish(event("a", "first"));
    let start = (number(&first).0 + DAY_MS) / 1_000 * 1_000;
    let many: Vec<Event> = (0..40).map(|_| event("a", "x")).collect();
    script.publish_all(&many);
    script.set_clock("last", &format!("{start}-5"));
    let kept = script.publish(Event { age_ms: 0, ..event("a", "kept") });
    script.set_clock("last", &format!("{}-0", start + 1_000));
    let last = script.publish(Event { age_ms: 1_000, ..event("a", "last") });
    assert_eq!(script.numbers_of("a"), [stamp(&kept), stamp(&last)]);
}

#[test]
fn a_repeated_publish_is_the_same_event_and_another_one_under_its_key_a_conflict() {
    let mut script = Script::start();
    let first = script.publish(event("a", "one").once("k"));
    assert_eq!(script.publish(event("a", "one").once("k")), first);
    for other in [event("a", "two"), event("a", "one").named(b"n"), Event { key: b"k".to_vec(), ..event("a", "one") }] {
        assert!(script.publish(other.once("k")).starts_with("CONFLICT "));
    }
    let same = script.publish_all(&[event("b", "x").once("k"), event("b", "x").once("k"), event("b", "y").once("k")]);
    assert!(same[0] == same[1] && same[0] != first && same[2].starts_with("CONFLICT "), "{same:?}");
    assert_eq!((script.entries("a").len(), script.entries("b").len()), (1, 1));

    // When its time is over the key is free again.
    let record = event("a", "").once("k").record.unwrap();
    let remembered = script.redis(&["PTTL", &record]).integer();
    assert!((1..=60_000).contains(&remembered), "{remembered}");
    script.redis(&["DEL", &record]);
    assert_ne!(script.publish(event("a", "one").once("k")), first);

    // Of a history that is gone it says nothing.
    script.redis(&["HDEL", INDEX, ""]);
    let anew = script.publish(event("a", "one").once("k"));
    assert_ne!(tag(&anew), tag(&first));
    assert_eq!(script.entries("a").len(), 1);
}

#[test]
fn a_restart_sets_a_fence_and_numbers_go_on_growing() {
    let mut script = Script::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let before = script.publish(event("a", "one").once("k"));
    let earlier = script.clock("run").unwrap();
    script.restart();
    let after = script.publish(event("a", "two"));
    assert!(number(&before) < number(&after));
    assert_ne!(tag(&before), tag(&after));
    let fence = format!("{} {} 0", tag(&before), stamp(&before));
    assert_eq!(script.clock("fences").unwrap(), fence);
    assert_eq!(script.entries("a")[1].1, message(&after, stamp(&before), &event("a", "two")));
    assert_eq!(script.publish(event("a", "one").once("k")), before, "it is there, before the fence");

    let now = script.clock("run").unwrap();
    // A wrong run costs a look at the server, and nothing else.
    for run in [earlier, now, String::new()] {
        script.run = run;
        assert_eq!(tag(&script.publish(event("a", "x"))), tag(&after), "one start, one fence");
    }
    // The record of what is beyond its fence is of a lost event.
    script.set_clock("fences", &format!("{} 5-0 0", tag(&before)));
    assert_ne!(script.publish(event("a", "one").once("k")), before);
}

#[test]
fn no_more_than_sixty_four_fences_are_kept() {
    let mut script = Script::start();
    let mut tags = vec![tag(&script.publish(event("a", "x"))).to_owned()];
    for _ in 0..66 {
        script.set_clock("run", "another");
        tags.push(tag(&script.publish(event("a", "x"))).to_owned());
    }
    let fences = script.clock("fences").unwrap();
    let kept: Vec<&str> = fences.split(',').map(|fence| fence.split(' ').next().unwrap()).collect();
    assert_eq!(kept, tags[2..66]);
}

#[test]
fn a_lost_index_and_a_flushed_server_begin_anew() {
    let mut script = Script::start();
    let first = script.publish(event("a", "one"));
    script.redis(&["DEL", INDEX]);
    let second = script.publish(event("b", "two"));
    assert_ne!(tag(&first), tag(&second));
    assert_eq!((script.clock("fences").unwrap(), script.clock("epoch").unwrap()), (String::new(), tag(&second).into()));
    assert!(number(&first) < number(&second), "where the clock is left it goes on");
    let third = script.publish(event("a", "three"));
    assert_eq!(script.entries("a"), [(stamp(&third).into(), message(&third, "0-0", &event("a", "three")))]);

    script.run = script.clock("run").unwrap();
    script.redis(&["FLUSHALL"]);
    let fourth = script.publish(event("a", "four"));
    assert!(![tag(&first), tag(&second)].contains(&tag(&fourth)));
    assert_eq!(script.clock("epoch").as_deref(), Some(tag(&fourth)));

    for (field, value) in [("last", "5"), ("last", ""), ("epoch", "none")] {
        script.publish(event("b", "x"));
        let before = script.clock("tag");
        script.set_clock(field, value);
        script.publish(event("a", "x"));
        assert_eq!(script.redis(&["HEXISTS", INDEX, "b"]).integer(), 0, "{field} {value}");
        assert_ne!(script.clock("tag"), before, "{field} {value}");
    }
}

#[test]
fn a_clock_that_steps_back_changes_nothing() {
    let mut script = Script::start();
    script.publish(event("a", "one"));
    script.set_clock("last", "99999999999999-999999999999");
    let ids = script.publish_all(&[event("a", "two"), event("b", "three")]);
    assert_eq!(
        ids.iter().map(|id| stamp(id)).collect::<Vec<_>>(),
        ["99999999999999-1000000000000", "99999999999999-1000000000001"]
    );
    assert_eq!(script.clock("last").unwrap(), stamp(&ids[1]));
}

#[test]
fn a_marker_stands_in_its_place_among_the_messages() {
    let mut script = Script::start();
    let mut subscriber = script.server.client();
    subscriber.command(&[b"SUBSCRIBE", b"c:a"]);
    subscriber.command(&[b"SUBSCRIBE", b"c:$marker"]);
    let before = script.publish(event("a", "before"));
    let reply = script.call("barrier", &[], &["c:$marker", "nonce"]);
    let after = script.publish(event("a", "after"));
    assert_eq!(subscriber.take_message(), message(&before, "0-0", &event("a", "before")));
    let marker = format!("M nonce {} {} ", stamp(&before), tag(&before));
    assert_eq!(String::from_utf8(subscriber.take_message()).unwrap(), marker);
    assert_eq!(subscriber.take_message(), message(&after, stamp(&before), &event("a", "after")));
    assert_eq!(text(&reply[0]), script.clock("run").unwrap());
}

#[test]
fn a_fence_is_lossy_once() {
    let mut script = Script::start();
    let first = script.publish(event("a", "x"));
    script.set_clock("run", "another");
    let second = script.publish(event("a", "x"));
    let mut subscriber = script.server.client();
    subscriber.command(&[b"SUBSCRIBE", b"c:$marker"]);
    let told: Vec<String> = [tag(&first), tag(&first), tag(&second), "none"]
        .iter()
        .map(|tag| text(&script.call("lossy", &[], &["c:$marker", tag])[2]))
        .collect();
    assert_eq!(told, ["1", "0", "0", "0"]);
    let fences = format!("{} {} 1", tag(&first), stamp(&first));
    assert_eq!(script.clock("fences").unwrap(), fences);
    assert_eq!(String::from_utf8(subscriber.take_message()).unwrap(), format!("L {} {fences}", tag(&second)));
    script.client.publish("c:$marker", b"once");
    assert_eq!(subscriber.take_message(), b"once");
}
