//! Sections 5.6 and 8.1: kinds of messages, and UTF-8.

use std::collections::BTreeSet;

use super::frame::{all, binary, first, last, middle, ping, text};
use super::{Case, Seen, case, closed, message, pieces, refused};

pub fn cases() -> Vec<Case> {
    [kinds(), characters(), broken(), cut_short()].into_iter().flatten().collect()
}

fn kinds() -> Vec<Case> {
    let mut cases = vec![
        case("5.6", "a text message", text("Hello").bytes(), vec![message("Hello")]),
        case("5.6", "a text message of nothing but a NUL", text("\0").bytes(), vec![message("\0")]),
        case("5.6", "a text message with line ends", text("a\r\nb\n").bytes(), vec![message("a\r\nb\n")]),
    ];
    for (rule, bytes) in [
        ("a binary message", binary("a").bytes()),
        ("an empty binary message", binary("").bytes()),
        ("a binary message that is no text", binary([0xff, 0]).bytes()),
        ("a first fragment of bytes", binary("a").not_final().bytes()),
        ("a binary message is seen in its first byte", binary("a").cut(1)),
        ("a binary message over the limit", binary("").says(1 << 40).bytes()),
    ] {
        cases.push(refused("5.6", rule, bytes, 1003));
    }
    let bytes = all(&[text("a"), binary("b")]);
    cases.push(case("5.6", "a binary message behind a text message", bytes, vec![message("a"), closed(1003)]));
    let bytes = all(&[first("a"), last("b"), binary("c")]);
    cases.push(case("5.6", "a binary message behind fragments", bytes, vec![message("ab"), closed(1003)]));
    cases
}

/// What is UTF-8 (RFC 3629, section 4), whole and cut inside characters.
fn characters() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, text_of) in [
        ("the last of one byte", "\u{7f}"),
        ("the first of two bytes", "\u{80}"),
        ("the last of two bytes", "\u{7ff}"),
        ("the first of three bytes", "\u{800}"),
        ("the last before the surrogates", "\u{d7ff}"),
        ("the first behind the surrogates", "\u{e000}"),
        ("a byte order mark, which is text here", "\u{feff}a"),
        ("the replacement character", "\u{fffd}"),
        ("the last of three bytes, which is no character, and allowed", "\u{ffff}"),
        ("the first of four bytes", "\u{10000}"),
        ("the last there is", "\u{10ffff}"),
        ("a character behind one that combines with it", "e\u{301}\u{345}"),
        ("all lengths in one text", "κόσμε aé€😀"),
    ] {
        cases.push(case("8.1", format!("a character: {name}"), text(text_of).bytes(), vec![message(text_of)]));
    }
    for (name, character) in [("two", "é"), ("three", "€"), ("four", "😀")] {
        let whole = ["a", character, "b"].concat();
        for at in 1..character.len() {
            let (left, right) = whole.as_bytes().split_at(1 + at);
            let rule = format!("a character of {name} bytes, cut behind {at} by a fragment");
            cases.push(case("8.1", rule, all(&[first(left), last(right)]), vec![message(&whole)]));
            let rule = format!("a character of {name} bytes, cut behind {at} by a piece of the frame");
            let bytes = text(&whole).bytes();
            let cut = vec![bytes[..7 + at].to_vec(), bytes[7 + at..].to_vec()];
            cases.push(pieces("8.1", rule, cut, vec![message(&whole)]));
        }
        let bytes = character.as_bytes();
        let frames = [first(&bytes[..1]), ping("p"), last(&bytes[1..])];
        let expected = vec![Seen::Pong(b"p".to_vec()), message(character)];
        cases.push(case("8.1", format!("a ping inside a character of {name} bytes"), all(&frames), expected));
        let frames = [first(&bytes[..1]), middle(""), last(&bytes[1..])];
        let rule = format!("an empty fragment inside a character of {name} bytes");
        cases.push(case("8.1", rule, all(&frames), vec![message(character)]));
    }
    let bytes = "😀".as_bytes();
    let frames = [first(&bytes[..1]), middle(&bytes[1..2]), middle(&bytes[2..3]), last(&bytes[3..])];
    cases.push(case("8.1", "a character in as many fragments as it has bytes", all(&frames), vec![message("😀")]));
    cases
}

/// Ways not to be UTF-8: bytes behind a valid text, and how many of them make it certain.
const BROKEN: [(&str, &[u8], usize); 20] = [
    ("a byte that continues nothing", &[0x80], 1),
    ("a byte that continues a character that is complete", &[0xc3, 0xa9, 0x80], 3),
    ("a letter as the second byte of two", &[0xc3, b'a'], 2),
    ("a letter as the second byte of three", &[0xe2, b'a'], 2),
    ("a letter as the last byte of three", &[0xe2, 0x82, b'a'], 3),
    ("a letter as the second byte of four", &[0xf0, b'a'], 2),
    ("a letter as the third byte of four", &[0xf0, 0x9f, b'a'], 3),
    ("a letter as the last byte of four", &[0xf0, 0x9f, 0x98, b'a'], 4),
    ("a character inside a character", &[0xe2, 0x82, 0xc3, 0xa9], 3),
    ("two bytes where one would do", &[0xc0, 0xaf], 1),
    ("three bytes where fewer would do", &[0xe0, 0x80, 0xaf], 2),
    ("four bytes where fewer would do", &[0xf0, 0x80, 0x80, 0xaf], 2),
    ("a high surrogate", &[0xed, 0xa0, 0x80], 2),
    ("a low surrogate", &[0xed, 0xb0, 0x80], 2),
    ("a pair of surrogates", &[0xed, 0xa1, 0x80, 0xed, 0xb0, 0x80], 2),
    ("above U+10FFFF", &[0xf4, 0x90, 0x80, 0x80], 2),
    ("a first byte that is above U+10FFFF", &[0xf5, 0x80, 0x80, 0x80], 1),
    ("a character of five bytes", &[0xf8, 0x88, 0x80, 0x80, 0x80], 1),
    ("a character of six bytes", &[0xfc, 0x84, 0x80, 0x80, 0x80, 0x80], 1),
    ("a byte that is never used", &[0xff], 1),
];

fn broken() -> Vec<Case> {
    const BEFORE: &str = "κόσμε";
    let mut cases = Vec::new();
    let mut begun = BTreeSet::new();
    for (name, bytes, certain) in BROKEN {
        let whole = [BEFORE.as_bytes(), bytes, b"edited"].concat();
        cases.push(refused("8.1", format!("{name}, in a whole message"), text(&whole).bytes(), 1007));
        let rule = format!("{name}, in a first fragment: nothing more is waited for");
        cases.push(refused("8.1", rule, first(&whole).bytes(), 1007));
        let frames = [first(BEFORE), last([bytes, b"edited"].concat())];
        cases.push(refused("8.1", format!("{name}, in a last fragment"), all(&frames), 1007));
        let frame = text(&whole);
        let rule = format!("{name}, seen before the frame is complete");
        cases.push(refused("8.1", rule, frame.cut(6 + BEFORE.len() + certain), 1007));
        if certain > 1 {
            let before = &bytes[..certain - 1];
            if begun.insert(before) {
                let rule = format!("{name}, not yet seen one byte before");
                cases.push(case("8.1", rule, frame.cut(6 + BEFORE.len() + before.len()), vec![]));
            }
            let at = BEFORE.len() + certain - 1;
            let frames = [first(&whole[..at]), last(&whole[at..])];
            cases.push(refused("8.1", format!("{name}, across a border of fragments"), all(&frames), 1007));
        }
    }
    let second = all(&[text("a"), text([0xff])]);
    cases.push(case("8.1", "the second message is not UTF-8", second, vec![message("a"), closed(1007)]));
    let behind_ping = all(&[first([0xe2, 0x82]), ping("p"), last("a")]);
    let expected = vec![Seen::Pong(b"p".to_vec()), closed(1007)];
    cases.push(case("8.1", "a character is broken behind a ping", behind_ping, expected));
    cases
}

/// Characters that their message ends in.
fn cut_short() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, character) in [("two", "é"), ("three", "€"), ("four", "😀")] {
        for at in 1..character.len() {
            let bytes = &character.as_bytes()[..at];
            let rule = format!("a message that ends behind byte {at} of {name}");
            cases.push(refused("8.1", rule, text(bytes).bytes(), 1007));
            let rule = format!("a last fragment that ends behind byte {at} of {name}");
            cases.push(refused("8.1", rule, all(&[first("a"), last(bytes)]), 1007));
            let rule = format!("an empty last fragment behind byte {at} of {name}");
            cases.push(refused("8.1", rule, all(&[first(bytes), last("")]), 1007));
        }
    }
    let rule = "a character that a message ends in is not completed by the next";
    let bytes = all(&[text([0xc3]), text([0xa9])]);
    cases.push(refused("8.1", rule, bytes, 1007));
    cases
}
