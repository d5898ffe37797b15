//! Section 10.4: limits; section 7.4.1: 1009 names them.

use fanwheel::edge::ws::MESSAGE_BYTES_MAX as MAX;

use super::frame::{all, close, first, last, middle, ping, text};
use super::{Case, Seen, case, message, refused};

pub fn cases() -> Vec<Case> {
    let full = || "a".repeat(MAX);
    let half = || "a".repeat(MAX / 2);
    let over = MAX as u64 + 1;
    let mut cases = Vec::new();
    for (rule, frames, expected) in [
        ("a message of the limit", vec![text(full())], vec![message(&full())]),
        ("fragments that make a message of the limit", vec![first(half()), last(half())], vec![message(&full())]),
        (
            "the limit is of one message",
            vec![text(full()), text("b"), first(half()), last(half())],
            vec![message(&full()), message("b"), message(&full())],
        ),
        (
            "control frames do not count",
            vec![first(half()), ping([7; 125]), last(half())],
            vec![Seen::Pong(vec![7; 125]), message(&full())],
        ),
        (
            "the limit is of bytes, not of characters",
            vec![text("é".repeat(MAX / 2))],
            vec![message(&"é".repeat(MAX / 2))],
        ),
        (
            "any number of empty fragments",
            [vec![first("a")], vec![middle(""); 5_000], vec![last("b")]].concat(),
            vec![message("ab")],
        ),
        ("an empty fragment behind a message of the limit", vec![first(full()), last("")], vec![message(&full())]),
    ] {
        cases.push(case("10.4", rule, all(&frames), expected));
    }
    let part = "a".repeat(MAX / 16);
    let parts = [vec![first(&part)], vec![middle(&part); 15], vec![last("b")]].concat();
    for (rule, bytes) in [
        ("a message over the limit is refused at its header", text("").says(over).bytes()),
        ("a message over the limit is refused before its mask", text("").says(over).cut(10)),
        ("a first fragment over the limit", first("").says(over).bytes()),
        ("a last fragment that passes the limit by one byte", all(&[first(full()), last("").says(1)])),
        ("a fragment in the middle that passes the limit", all(&[first(half()), middle("").says(MAX as u64)])),
        ("the last of many fragments passes the limit", all(&parts)),
        ("a message of 63 bits is too long, not malformed", text("").says((1 << 63) - 1).bytes()),
        ("a length that would wrap with what is held", all(&[first("a"), last("").says((1 << 63) - 1)])),
        ("a close behind a message over the limit", all(&[text("").says(over), close(1000, "")])),
    ] {
        cases.push(refused("10.4", rule, bytes, 1009));
    }
    cases
}
