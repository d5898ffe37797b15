//! Section 5.4: fragments.

use super::frame::{Frame, all, binary, close, first, last, middle, ping, pong, text};
use super::{Case, Seen, case, closed, message, refused};

fn answered(payload: &str) -> Seen {
    Seen::Pong(payload.into())
}

pub fn cases() -> Vec<Case> {
    [whole(), interleaved(), out_of_place()].into_iter().flatten().collect()
}

/// Fragments that make a message.
fn whole() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rule, frames, expected) in [
        ("two fragments", vec![first("a"), last("b")], vec!["ab"]),
        ("three fragments", vec![first("a"), middle("b"), last("c")], vec!["abc"]),
        ("an empty first fragment", vec![first(""), last("b")], vec!["b"]),
        ("an empty fragment in the middle", vec![first("a"), middle(""), last("c")], vec!["ac"]),
        ("an empty last fragment", vec![first("a"), last("")], vec!["a"]),
        ("nothing but the first fragment has bytes", vec![first("a"), middle(""), last("")], vec!["a"]),
        ("nothing but the middle has bytes", vec![first(""), middle("b"), last("")], vec!["b"]),
        ("nothing but the last fragment has bytes", vec![first(""), middle(""), last("c")], vec!["c"]),
        ("fragments that are all empty", vec![first(""), middle(""), last("")], vec![""]),
        ("a message behind a fragmented one", vec![first("a"), last("b"), text("c")], vec!["ab", "c"]),
        ("a fragmented message behind one that is whole", vec![text("a"), first("b"), last("c")], vec!["a", "bc"]),
        ("two fragmented messages", vec![first("a"), last("b"), first("c"), last("d")], vec!["ab", "cd"]),
        (
            "fragments with lengths of every form",
            { vec![first("a"), middle("a".repeat(200)), middle("a".repeat(70_000)), last("b")] },
            vec![&*format!("a{}b", "a".repeat(70_200)).leak()],
        ),
    ] {
        cases.push(case("5.4", rule, all(&frames), expected.into_iter().map(message).collect()));
    }
    let many = [vec![first("a")], vec![middle("b"); 1_000], vec![last("c")]].concat();
    let expected = format!("a{}c", "b".repeat(1_000));
    cases.push(case("5.4", "a thousand fragments", all(&many), vec![message(&expected)]));
    let unfinished = all(&[first("a"), middle("b")]);
    cases.push(case("5.4", "a message without its last fragment is nothing yet", unfinished, vec![]));
    let cut = all(&[first("a"), last("bcd")]);
    let cut = cut[..cut.len() - 1].to_vec();
    cases.push(case("5.4", "a last fragment without its last byte is nothing yet", cut, vec![]));
    cases
}

/// Control frames between fragments.
fn interleaved() -> Vec<Case> {
    let ab = || message("ab");
    let mut cases = Vec::new();
    for (rule, frames, expected) in [
        (
            "a ping between fragments is answered before the message",
            { vec![first("a"), ping("p"), last("b")] },
            vec![answered("p"), ab()],
        ),
        ("an empty ping between fragments", vec![first("a"), ping(""), last("b")], vec![answered(""), ab()]),
        ("a pong between fragments", vec![first("a"), pong("p"), last("b")], vec![ab()]),
        (
            "pings between all fragments",
            { vec![first("a"), ping("1"), middle("b"), ping("2"), last("")] },
            vec![answered("1"), answered("2"), ab()],
        ),
        ("a ping before the first fragment", vec![ping("p"), first("a"), last("b")], vec![answered("p"), ab()]),
        ("a ping behind the last fragment", vec![first("a"), last("b"), ping("p")], vec![ab(), answered("p")]),
        ("a ping inside a message that is not complete", vec![first("a"), ping("p")], vec![answered("p")]),
        (
            "a ping behind an empty first fragment",
            { vec![first(""), ping("p"), last("ab")] },
            vec![answered("p"), ab()],
        ),
        (
            "a close between fragments: the message is never complete",
            { vec![first("a"), close(1000, ""), last("b")] },
            vec![closed(1000)],
        ),
    ] {
        cases.push(case("5.4", rule, all(&frames), expected));
    }
    cases
}

fn out_of_place() -> Vec<Case> {
    let mut cases = Vec::new();
    let rows: Vec<(&str, Vec<Frame>, Vec<Seen>)> = vec![
        ("a last fragment without a first", vec![last("a")], vec![]),
        ("an empty last fragment without a first", vec![last("")], vec![]),
        ("a fragment in the middle without a first", vec![middle("a"), last("b")], vec![]),
        ("an empty fragment in the middle without a first", vec![middle("")], vec![]),
        ("a fragment behind a whole message", vec![text("a"), last("b")], vec![message("a")]),
        ("a fragment behind the last one", vec![first("a"), last("b"), last("c")], vec![message("ab")]),
        ("a fragment behind a ping, and no message", vec![ping("p"), last("b")], vec![answered("p")]),
        ("a whole message inside a message", vec![first("a"), text("b")], vec![]),
        ("a whole empty message inside a message", vec![first("a"), text("")], vec![]),
        ("a first fragment inside a message", vec![first("a"), first("b"), last("c")], vec![]),
        ("a whole message behind a fragment in the middle", vec![first("a"), middle("b"), text("c")], vec![]),
        ("a whole message behind an empty first fragment", vec![first(""), text("b")], vec![]),
        ("a whole message behind a ping inside a message", vec![first("a"), ping("p"), text("b")], vec![answered("p")]),
        ("a binary message inside a message", vec![first("a"), binary("b")], vec![]),
        ("a first fragment of bytes inside a message", vec![first("a"), binary("b").not_final()], vec![]),
        ("a message inside the second of two messages", vec![text("a"), first("b"), text("c")], vec![message("a")]),
    ];
    for (rule, frames, mut expected) in rows {
        expected.push(closed(1002));
        cases.push(case("5.4", rule, all(&frames), expected));
    }
    let byte = [all(&[first("a")]), text("b").cut(1)].concat();
    cases.push(refused("5.4", "a message inside a message is seen in its first byte", byte, 1002));
    let byte = last("a").cut(1);
    cases.push(refused("5.4", "a fragment without a first is seen in its first byte", byte, 1002));
    cases
}
