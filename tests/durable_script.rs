//! `redis/fanwheel.lua` keeps its promises in a real Redis: by hand, without a node.

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
fn what_cannot_be_stored_is_told_and_the_rest_of_the_batch_is_stored() {
    let mut script = Script::start();
    let first = script.publish(event("bad", "x"));
    script.redis(&["DEL", &stream("bad")]);
    script.redis(&["SET", &stream("bad"), "a text"]);
    let mut subscriber = script.server.client();
    subscriber.command(&[b"SUBSCRIBE", b"c:bad"]);
    let outcomes = script.publish_all(&[event("good", "1"), event("bad", "2").once("k"), event("good", "3")]);
    assert!(outcomes[1].starts_with("WRONGTYPE "), "{outcomes:?}");
    assert_eq!(script.entries("good").len(), 2);
    assert_eq!(script.redis(&["HGET", INDEX, "bad"]).text(), stamp(&first));
    assert_eq!(script.redis(&["EXISTS", "k:{0}:i:bad:k"]).integer(), 0);
    script.client.publish("c:bad", b"nothing before this");
    assert_eq!(subscriber.take_message(), b"nothing before this");

    // A number that somebody added by hand stands in the way.
    script.redis(&["XADD", &stream("good"), "99999999999999-0", "m", "by hand"]);
    assert!(script.publish(event("good", "4")).starts_with("ERR The ID specified in XADD"));
}

#[test]
fn who_may_not_publish_on_the_channel_stores_nothing() {
    let mut script = Script::start();
    script.publish(event("a", "x"));
    script.redis(&["ACL", "SETUSER", "u", "on", "nopass", "~*", "&c:b", "+@all"]);
    script.redis(&["AUTH", "u", "any"]);
    let first = script.redis(&["HGET", INDEX, "a"]).text();
    let events = [event("a", "1").once("k"), event("b", "2"), event("c", "3"), event("a", "4")];
    let outcomes = script.publish_all(&events);
    assert!(outcomes[0].starts_with("NOPERM ") && tag(&outcomes[1]).len() == 4, "{outcomes:?}");
    assert_eq!((script.entries("a").len(), script.entries("b").len()), (1, 1));
    // Events of `a` follow the one that was stored, those of `c` none.
    assert_eq!(script.redis(&["HGET", INDEX, "a"]).text(), first);
    assert_eq!(script.redis(&["HGET", INDEX, "b"]).text(), stamp(&outcomes[1]));
    assert_eq!(script.redis(&["HEXISTS", INDEX, "c"]).integer(), 0);
    assert_eq!(script.redis(&["EXISTS", "k:{0}:i:a:k"]).integer(), 0);
}

#[test]
fn a_batch_leaves_in_the_index_what_it_has_stored() {
    let mut script = Script::start();
    let first = script.publish(event("a", "one").once("k"));
    let outcomes = script.publish_all(&[event("a", "two"), event("a", "one").once("k"), event("a", "x").once("k")]);
    assert_eq!(outcomes[1], first);
    assert!(outcomes[2].starts_with("CONFLICT "));
    assert_eq!(script.redis(&["HGET", INDEX, "a"]).text(), stamp(&outcomes[0]));
    assert_eq!(script.publish(event("a", "one").once("k")), first, "alone it is the last");
    let later = script.publish(event("a", "three"));
    assert_eq!(script.entries("a")[2].1, message(&later, stamp(&outcomes[0]), &event("a", "three")));
}

#[test]
fn where_nothing_can_be_written_nothing_is_stored() {
    let mut script = Script::start();
    script.publish(event("b", "z"));
    script.redis(&["CONFIG", "SET", "maxmemory", "1"]);
    let outcome = script.publish_all(&[event("a", "x").once("k"), event("b", "y")]);
    assert!(outcome.iter().all(|outcome| outcome.starts_with("OOM ")), "{outcome:?}");
    script.redis(&["CONFIG", "SET", "maxmemory", "0"]);
    script.redis(&["REPLICAOF", "127.0.0.1", "1"]);
    let outcome = script.publish_all(&[event("a", "x").once("k"), event("b", "y")]);
    assert!(outcome.iter().all(|outcome| outcome.starts_with("READONLY ")), "{outcome:?}");
    script.redis(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(script.redis(&["EXISTS", &stream("a"), "k:{0}:i:a:k"]).integer(), 0);
    assert_eq!((script.entries("b").len(), script.redis(&["HLEN", INDEX]).integer()), (1, 2));
}

#[test]
fn topics_are_utf_8() {
    let mut script = Script::start();
    let mut outcome = |topic: &[u8]| {
        let (clock, index, stream) = (CLOCK.as_bytes(), INDEX.as_bytes(), [b"k:{0}:s:", topic].concat());
        let sha = script.sha.clone();
        let words: [&[u8]; 15] = [
            b"EVALSHA",
            sha.as_bytes(),
            b"3",
            clock,
            index,
            &stream,
            b"publish",
            b"",
            b"abcdefghijklmnop",
            b"c:",
            b"",
            b"",
            b"\xff",
            b"10",
            b"0",
        ];
        let reply = script.client.command(&[&words[..], &[b"0"]].concat());
        texts(&reply).remove(2)
    };
    for good in ["é", "\u{7ff}\u{800}x\u{fffd}", "\u{d7ff}\u{e000}", "\u{10000}/\u{10ffff}", "\u{a0}"] {
        assert!(!outcome(good.as_bytes()).starts_with("ERR "), "{good}");
    }
    let bad: [&[u8]; 14] = [
        b"\xff",
        b"a\x80",
        b"\xc3",
        b"\xc3a\xa9",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xe2\x82",
        b"\xe2\x82\xc3\xa9",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xc3\xa9\xa9",
    ];
    for bad in bad {
        assert!(std::str::from_utf8(bad).is_err());
        assert_eq!(outcome(bad), "ERR a topic is UTF-8", "{bad:?}");
    }
}

#[test]
fn without_memory_nothing_is_stored_and_a_new_start_is_noticed_all_the_same() {
    let mut script = Script::start();
    let first = script.publish(event("a", "x"));
    script.redis(&["CONFIG", "SET", "maxmemory", "1"]);
    for topic in ["a", "new"] {
        let outcome = script.publish(event(topic, "y"));
        assert!(outcome.starts_with("OOM "), "{outcome}");
    }
    assert_eq!(script.clock("last").unwrap(), stamp(&first));
    script.redis(&["CONFIG", "SET", "maxmemory", "0"]);
    script.set_clock("run", "another");
    script.redis(&["CONFIG", "SET", "maxmemory", "1"]);
    let reply = script.call("barrier", &[], &["m", "1"]);
    assert_ne!(text(&reply[1]), tag(&first));
}

#[test]
fn what_is_too_long_or_reserved_is_refused_alone() {
    let mut script = Script::start();
    let long = |length: usize| "x".repeat(length);
    let bad = [
        event(&long(256), ""),
        event("", ""),
        event("$x", ""),
        event("a\nb", ""),
        event("a\u{85}", ""),
        event("\u{e9}\n", ""),
        event("a.*", ""),
        event("**/a", ""),
        event("a", "").named(long(129).as_bytes()),
        event("a", "").named(b"a\0"),
        event("a", "").named(b"fanwheel.open"),
        Event { key: long(256).into(), ..event("a", "") },
        event("a", &long((1 << 20) + 1)),
        Event { kept: 0, ..event("a", "") },
        Event { record: Some("k:{0}:i:b:k".into()), window_ms: 1, ..event("a", "") },
        event("a", "").once(""),
        event("a", "").once("k:l"),
    ];
    for (at, bad) in bad.into_iter().enumerate() {
        let outcomes = script.publish_all(&[bad, event("good", "x")]);
        assert!(outcomes[0].starts_with("ERR "), "{at}: {outcomes:?}");
        assert!(tag(&outcomes[1]).len() == 4 && !outcomes[1].contains(' '), "{at}: {outcomes:?}");
    }
    let good = Event { key: long(255).into(), ..event(&long(255), &long(1 << 20)) };
    assert!(!script.publish(good.named(long(128).as_bytes())).contains(' '));
    for topic in ["a*", "***", "a.b*.c"] {
        assert!(!script.publish(event(topic, "")).contains(' '), "{topic}");
    }
    assert_eq!(script.redis(&["HEXISTS", INDEX, "a"]).integer(), 0);
}

#[test]
fn keys_and_arguments_that_do_not_fit_are_refused_as_a_whole() {
    let mut script = Script::start();
    let (keys, arguments) = words_of(&[event("a", "x")]);
    for (keys, arguments) in [
        (vec![], arguments.clone()),
        (keys.clone(), arguments[..6].to_vec()),
        (vec![keys[0].clone(), keys[0].clone()], arguments.clone()),
        (vec!["other:{0}:s:a".into()], arguments.clone()),
        (keys.clone(), vec![b"c:".to_vec()]),
        (keys.clone(), [&arguments[..], &arguments[1..4]].concat()),
    ] {
        assert!(
            matches!(script.try_call("publish", &keys, &arguments), Reply::Error(error) if error.starts_with("ERR "))
        );
    }
    assert!(matches!(script.try_call("nonsense", &[], &[]), Reply::Error(_)));
    assert_eq!(script.redis(&["DBSIZE"]).integer(), 0);
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

#[test]
fn pages_are_bounded_and_say_whether_there_is_more() {
    let mut script = Script::start();
    let data = "x".repeat(100);
    let events: Vec<Event> = (0..100).map(|_| event("a", &data)).collect();
    let ids = script.publish_all(&events);
    let big = script.publish(event("b", &"y".repeat(50_000)));
    let keys = [stream("a"), stream("b"), stream("c")];
    let head = [script.clock("run").unwrap(), tag(&big).to_owned(), stamp(&big).to_owned(), String::new()];

    let reply = script.call("after", &keys, &["100000", "100000", stamp(&ids[89]), "0-0", "0-0"]);
    assert_eq!(reply[..4].iter().map(text).collect::<Vec<_>>(), head);
    let (a, b, c) = (texts(&reply[4]), texts(&reply[5]), texts(&reply[6]));
    assert_eq!((a.len(), &a[0][..], &a[1][..]), (12, stamp(&ids[99]), "0"));
    assert!(a[2].contains(&ids[90]) && a[11].contains(&ids[99]));
    assert_eq!((b.len(), c), (3, vec!["0-0".to_owned(), "0".into()]));

    // Bytes of a topic: at least one event, and never much more.
    let reply = script.call("after", &keys[..2], &["3000", "100000", "0-0", "0-0"]);
    let (a, b) = (texts(&reply[4]), texts(&reply[5]));
    let bytes: usize = a[2..].iter().map(String::len).sum();
    assert!(a[1] == "1" && (1_500..3_000).contains(&bytes), "{bytes}");
    assert_eq!((b.len(), &b[1][..]), (3, "0"));
    // Bytes of all: the rest is asked for again.
    assert_eq!(script.call("after", &keys, &["3000", "3000", "0-0", "0-0", "0-0"]).len(), 5);

    let tail = |script: &mut Script, events: &str, bytes: &str, upto: &str| {
        let reply = script.call("tail", &keys[..1], &[bytes, "100000", events, upto]);
        texts(&reply[4])
    };
    let newest = tail(&mut script, "20", "100000", stamp(&ids[49]));
    assert_eq!((newest.len(), &newest[0][..], &newest[1][..]), (22, stamp(&ids[99]), "1"));
    assert!(newest[2].contains(&format!(" {} ", stamp(&ids[29]))) && newest[21].contains(&ids[49]));
    let all = tail(&mut script, "1000", "100000", stamp(&ids[49]));
    assert_eq!((all.len(), &all[1][..]), (52, "0"));
    assert_eq!(tail(&mut script, "1000", "1", stamp(&ids[49])).len(), 3, "at least one");
}

#[test]
fn what_cannot_be_read_is_a_page_without_messages_and_says_why() {
    let mut script = Script::start();
    let ids = script.publish_all(&[event("a", "x"), event("bad", "x"), event("odd", "x"), event("odd", "y")]);
    script.redis(&["DEL", &stream("bad")]);
    script.redis(&["SET", &stream("bad"), "a text"]);
    script.redis(&["HSET", INDEX, "odd", "1-2-3"]);
    let keys = [stream("bad"), stream("a"), stream("odd")];
    for (operation, arguments) in [("after", &["0-0", "0-0", "0-0"][..]), ("tail", &["9", stamp(&ids[3])])] {
        let reply = script.call(operation, &keys, &[&["1000", "1000"], arguments].concat());
        let (bad, a, odd) = (texts(&reply[4]), texts(&reply[5]), texts(&reply[6]));
        assert!(bad.len() == 2 && bad[0] == stamp(&ids[1]) && bad[1].starts_with("WRONGTYPE "), "{bad:?}");
        assert_eq!((a.len(), &a[1][..]), (3, "0"));
        // It may have had events up to the newest of all, and that is in the index now.
        assert_eq!((odd.len(), &odd[0][..], &odd[1][..]), (4, stamp(&ids[3]), "0"));
        assert_eq!(script.redis(&["HGET", INDEX, "odd"]).text(), stamp(&ids[3]));
    }
    let upto = stamp(&ids[3]);
    let reply = script.call("numbers", &keys[..2], &["1000", "5", "0-0", upto, upto]);
    assert!(texts(&reply[4]).len() == 1 && texts(&reply[4])[0].starts_with("WRONGTYPE "), "{reply:?}");
    assert_eq!(texts(&reply[5])[1..], [stamp(&ids[0])]);
    let reply = script.call("newest", &[], &["a", "none", "bad"]);
    let pages: Vec<Vec<String>> = reply[4..].iter().map(texts).collect();
    assert_eq!(pages, [[stamp(&ids[0]), "0"], ["0-0", "0"], [stamp(&ids[1]), "0"]]);
    assert_eq!(script.redis(&["HGET", INDEX, ""]).text(), script.clock("epoch").unwrap(), "no topic's");
}

#[test]
fn entries_that_were_added_by_hand_stop_no_read() {
    let mut script = Script::start();
    let first = script.publish(event("a", "x"));
    let ms = number(&first).0;
    let huge = u64::MAX;
    for n in (0..20).rev() {
        script.redis(&["XADD", &stream("a"), &format!("{}-{}", ms + 1, huge - n), "m", "by hand"]);
    }
    for n in (0..20).rev() {
        script.redis(&["XADD", &stream("a"), &format!("{}-{huge}", huge - n), "m", "by hand"]);
    }
    let keys = [stream("a")];
    let page = |script: &mut Script, bytes: &str| texts(&script.call("after", &keys, &[bytes, "99999", "0-0"])[4]);
    assert!(page(&mut script, "99999").len() > 2 && page(&mut script, "1").len() == 3);
    let upto = format!("{}-0", ms + 2);
    let reply = script.call("tail", &keys, &["99999", "99999", "100", &upto]);
    assert!(texts(&reply[4]).last().unwrap().ends_with('x') || texts(&reply[4])[2].contains(&first), "{reply:?}");
    let reply = script.call("numbers", &keys, &["99999", "100", "0-0", &upto]);
    assert_eq!(texts(&reply[4]).last().unwrap(), stamp(&first));
}

#[test]
fn numbers_are_found_without_reading_more_than_allowed() {
    let mut script = Script::start();
    let ids = script.publish_all(&(0..40).map(|n| event(["a", "b"][n % 2], "x")).collect::<Vec<_>>());
    let keys = [stream("a"), stream("b"), stream("none")];
    let upto = stamp(&ids[39]);
    let reply = script.call("numbers", &keys, &["100000", "5", "0-0", upto, upto, upto]);
    let expected = |from: usize| (0..5).map(|n| stamp(&ids[from - 2 * n]).to_owned()).collect::<Vec<_>>();
    assert_eq!(texts(&reply[4]), [&["1".to_owned()], &expected(38)[..]].concat());
    assert_eq!(texts(&reply[5]), [&["1".to_owned()], &expected(39)[..]].concat());
    assert_eq!(texts(&reply[6]), ["0"]);
    // Above a number, and in small pieces.
    let reply = script.call("numbers", &keys[..1], &["100000", "50", stamp(&ids[30]), upto]);
    assert_eq!(texts(&reply[4])[1..], [38, 36, 34, 32].map(|at| stamp(&ids[at]).to_owned()));
    let reply = script.call("numbers", &keys[..2], &["1", "50", "0-0", upto, upto]);
    assert_eq!((reply.len(), texts(&reply[4]).len()), (5, 2));
}

#[test]
fn a_topic_long_silent_is_forgotten_and_the_horizon_remembers_it() {
    let mut script = Script::start();
    let old = script.publish(event("old", "x"));
    let old_too = script.publish(event("old too", "x"));
    let far = number(&old).0 + 30 * DAY_MS;
    script.set_clock("last", &format!("{far}-0"));
    let late = script.publish(event("new", "x"));
    let forget = (30 * DAY_MS).to_string();
    let keys = [stream("old too"), stream("old"), stream("new"), stream("none"), stream("")];
    let tidy =
        |script: &mut Script| text(script.call("tidy", &keys, &[&forget, "0", "0", "0", "0", "0"]).last().unwrap());
    assert_eq!(tidy(&mut script), "0", "exactly thirty days is not yet too old");
    script.set_clock("last", &format!("{}-0", far + 10_000));
    assert_eq!(tidy(&mut script), "2");
    assert_eq!(script.clock("horizon").as_deref(), Some(stamp(&old_too)));
    assert_eq!(script.redis(&["EXISTS", &stream("old"), &stream("old too")]).integer(), 0);
    assert_eq!(script.redis(&["HGET", INDEX, "new"]).text(), stamp(&late));
    let again = script.publish(event("old", "y"));
    assert_eq!(script.entries("old")[0].1, message(&again, stamp(&old_too), &event("old", "y")));
    let unknown = script.call("after", &keys[3..4], &["1", "1", "0-0"]);
    assert_eq!(texts(&unknown[4]), [stamp(&old_too), "0"]);
    // By age, also where nothing is published.
    script.call("tidy", &keys[2..3], &[&forget, "9000"]);
    assert_eq!(script.entries("new").len(), 0);
}
