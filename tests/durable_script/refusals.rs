//! What the script refuses, and that nothing of it is left.

use super::*;

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
