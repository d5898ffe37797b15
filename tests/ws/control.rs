//! Section 5.5: control frames; section 7.4: what a close frame may say.

use super::frame::{FIN, Frame, all, close, close_with, first, last, ping, pong, text};
use super::{Case, Seen, case, closed, message, pieces, refused};

fn answered(payload: impl AsRef<[u8]>) -> Seen {
    Seen::Pong(payload.as_ref().to_vec())
}

pub fn cases() -> Vec<Case> {
    [shapes(), pings(), close_payloads(), close_codes(), behind_a_close()].into_iter().flatten().collect()
}

/// What holds for all control frames.
fn shapes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, opcode) in [("ping", 9), ("pong", 10), ("close", 8)] {
        let frame = |length: usize| Frame::new(FIN | opcode, [&[0x03, 0xe8][..], &vec![b'a'; length]].concat());
        for (rule, bytes) in [
            ("of 126 bytes", frame(124).bytes()),
            ("that needs 64 bits for its length", frame(70_000).bytes()),
            ("that says a short length in 16 bits", frame(0).in_16().bytes()),
            ("that says a short length in 64 bits", frame(0).in_64().bytes()),
            ("over the limit is seen in the second byte", frame(124).cut(2)),
            ("over the limit inside a message", all(&[first("a"), frame(124)])),
            ("with the top bit of 64 in its length", frame(0).says(1 << 63).bytes()),
            ("that is a first fragment", frame(0).not_final().bytes()),
            ("that is a first fragment inside a message", all(&[first("a"), frame(0).not_final()])),
            ("that is fragmented, and goes on", all(&[frame(0).not_final(), last("a")])),
            ("that is a first fragment is seen in the first byte", frame(0).not_final().cut(1)),
        ] {
            cases.push(refused("5.5", format!("a {name} {rule}"), bytes, 1002));
        }
    }
    cases
}

fn pings() -> Vec<Case> {
    let mut cases = Vec::new();
    for (section, rule, frames, expected) in [
        ("5.5.2", "a ping is answered", vec![ping("Hello")], vec![answered("Hello")]),
        ("5.5.2", "an empty ping is answered", vec![ping("")], vec![answered("")]),
        ("5.5.2", "a ping of 125 bytes", vec![ping([7; 125])], vec![answered([7; 125])]),
        ("5.5.2", "a ping need not be text", vec![ping([0, 0xff, 0xfe])], vec![answered([0, 0xff, 0xfe])]),
        (
            "5.5.2",
            "a ping between messages",
            { vec![text("a"), ping("p"), text("b")] },
            vec![message("a"), answered("p"), message("b")],
        ),
        ("5.5.2", "a ping before a close", vec![ping("p"), close(1000, "")], vec![answered("p"), closed(1000)]),
        (
            "5.5.2",
            "a ping before a violation",
            { vec![ping("p"), text("a").unmasked()] },
            vec![answered("p"), closed(1002)],
        ),
        (
            "5.5.3",
            "the newest of several pings",
            { (0..10).map(|n| ping([n])).collect() },
            (0..10).map(|n| answered([n])).collect(),
        ),
        (
            "5.5.3",
            "the newest of two pings that say the same",
            { vec![ping("p"), ping("p")] },
            vec![answered("p"), answered("p")],
        ),
        (
            "5.5.3",
            "the newest ping is the shorter one",
            { vec![ping("longer"), ping("")] },
            vec![answered("longer"), answered("")],
        ),
        ("5.5.3", "a pong nobody asked for", vec![pong("x"), text("a")], vec![message("a")]),
        ("5.5.3", "an empty pong nobody asked for", vec![pong("")], vec![]),
        ("5.5.3", "a pong need not be text", vec![pong([0xff; 125]), text("a")], vec![message("a")]),
        ("5.5.3", "a pong does not answer for the server", vec![ping("p"), pong("p")], vec![answered("p")]),
        ("5.5.3", "many pongs are nothing", vec![pong("x"); 100], vec![]),
    ] {
        cases.push(case(section, rule, all(&frames), expected));
    }
    for (rule, frame, cut) in [
        ("a ping that is cut in its payload", ping("Hello"), 8),
        ("a ping that is cut before its payload", ping("Hello"), 6),
        ("a ping that is cut before its last byte", ping("Hello"), 10),
    ] {
        let bytes = frame.bytes();
        let (left, right) = bytes.split_at(cut);
        cases.push(pieces("5.5.2", rule, vec![left.into(), right.into()], vec![answered("Hello")]));
    }
    let (a, p, b) = (first("a").bytes(), ping("pp").bytes(), last("b").bytes());
    let cut = vec![[&a[..], &p[..7]].concat(), [&p[7..], &b[..]].concat()];
    let expected = vec![answered("pp"), message("ab")];
    cases.push(pieces("5.5.2", "a ping inside a message that is cut itself", cut, expected));
    cases.push(case("5.5.2", "a ping that is not complete is not answered", ping("Hello").cut(10), vec![]));
    cases
}

fn close_payloads() -> Vec<Case> {
    let mut cases = Vec::new();
    let reason = |bytes: &[u8]| close_with([&[0x03, 0xe8], bytes].concat());
    for (rule, frame, expected) in [
        ("a close without a code is echoed without one", close_with(""), Seen::Close(None)),
        ("a close with a reason", close(1000, "bye"), closed(1000)),
        ("a close with the longest reason", close(1000, &"a".repeat(123)), closed(1000)),
        ("a close with a reason of characters of every length", close(1000, "aé€😀"), closed(1000)),
        ("a close of one byte", close_with([3]), closed(1002)),
        ("a close of one byte that is a character", close_with("a"), closed(1002)),
        ("a reason with a byte that continues nothing", reason(&[b'a', 0x80]), closed(1007)),
        ("a reason that ends inside a character", reason(&[b'a', 0xe2, 0x82]), closed(1007)),
        ("a reason with a surrogate", reason(&[0xed, 0xa0, 0x80]), closed(1007)),
        ("a reason that is overlong", reason(&[0xc0, 0xaf]), closed(1007)),
        ("a reason above U+10FFFF", reason(&[0xf4, 0x90, 0x80, 0x80]), closed(1007)),
        ("a code that is invalid, before a reason that is too", { close_with([0x03, 0xee, 0xff]) }, closed(1002)),
    ] {
        cases.push(case("5.5.1", rule, frame.bytes(), vec![expected]));
    }
    for (rule, cut) in [("between the bytes of its code", 7), ("before its code", 6), ("in its reason", 9)] {
        let bytes = close(1000, "bye").bytes();
        let (left, right) = bytes.split_at(cut);
        let rule = format!("a close that is cut {rule}");
        cases.push(pieces("5.5.1", rule, vec![left.into(), right.into()], vec![closed(1000)]));
    }
    let cut = close(1000, "bye").cut(10);
    cases.push(case("5.5.1", "a close that is not complete is none yet", cut, vec![]));
    cases
}

/// Each row is a range of its own in sections 7.4.1 and 7.4.2, or in the registry that section 11.7 set up.
fn close_codes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (code, why, is_valid) in [
        (0, "0 to 999 are not used: zero", false),
        (999, "0 to 999 are not used", false),
        (1000, "normal closure", true),
        (1001, "going away", true),
        (1002, "protocol error", true),
        (1003, "unsupported data", true),
        (1004, "reserved, without a meaning", false),
        (1005, "reserved for: no code was there", false),
        (1006, "reserved for: there was no close frame", false),
        (1007, "invalid data", true),
        (1008, "policy violation", true),
        (1009, "too big", true),
        (1010, "an extension is missing, which a client says", true),
        (1011, "internal error", true),
        (1012, "registered: service restart", true),
        (1013, "registered: try again later", true),
        (1014, "registered: bad gateway", true),
        (1015, "reserved for: TLS failed", false),
        (1016, "1016 to 2999 are reserved for the protocol: the first", false),
        (2999, "1016 to 2999 are reserved for the protocol: the last", false),
        (3000, "3000 to 3999 are registered by libraries: the first", true),
        (3999, "3000 to 3999 are registered by libraries: the last", true),
        (4000, "4000 to 4999 are for private use: the first", true),
        (4999, "4000 to 4999 are for private use: the last", true),
        (5000, "5000 and above are not defined: the first", false),
        (65535, "5000 and above are not defined: the last", false),
    ] {
        let section = if (1000..=1015).contains(&code) { "7.4.1" } else { "7.4.2" };
        let expected = vec![closed(if is_valid { code } else { 1002 })];
        cases.push(case(section, format!("{code}: {why}"), close(code, "").bytes(), expected.clone()));
        if !is_valid {
            let rule = format!("{code}: {why}, with a reason");
            cases.push(case(section, rule, close(code, "bye").bytes(), expected));
        }
    }
    cases
}

/// Section 5.5.1: "must not send any more data frames after sending a Close frame"; 1.4: what comes is discarded.
fn behind_a_close() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, bytes) in [
        ("a message", text("a").bytes()),
        ("a ping", ping("p").bytes()),
        ("a pong", pong("p").bytes()),
        ("another close", close(1001, "").bytes()),
        ("half a frame", text("Hello").cut(3)),
        ("a frame without a mask", text("a").unmasked().bytes()),
        ("a reserved opcode", Frame::new(FIN | 3, "a").bytes()),
        ("text that is not UTF-8", text([0xff]).bytes()),
        ("a message over the limit", text("").says(1 << 40).bytes()),
        ("what is no frame at all", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ] {
        let rule = format!("{what} behind a close is nothing");
        let bytes = vec![close(1000, "").bytes(), bytes];
        cases.push(pieces("5.5.1", rule, bytes, vec![closed(1000)]));
    }
    let bytes = all(&[text("a"), close(1000, "")]);
    cases.push(case("5.5.1", "a message before a close is taken", bytes, vec![message("a"), closed(1000)]));
    for (what, bytes) in [("a message", text("a")), ("a ping", ping("p")), ("a close", close(1000, ""))] {
        let rule = format!("{what} behind a violation is nothing");
        let bytes = vec![text("a").unmasked().bytes(), bytes.bytes()];
        cases.push(pieces("7.1.7", rule, bytes, vec![closed(1002)]));
    }
    cases
}
