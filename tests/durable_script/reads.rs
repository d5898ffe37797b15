//! Reading and tidying, by hand.

use super::*;

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
