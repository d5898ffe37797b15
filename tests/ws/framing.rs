//! Sections 5.1 to 5.3: masks, reserved bits, opcodes, lengths.

use super::frame::{FIN, Frame, RSV1, RSV2, RSV3, all, binary, close, first, last, middle, ping, pong, text};
use super::{Case, Seen, case, closed, message, pieces, refused};

pub fn cases() -> Vec<Case> {
    [masks(), reserved_bits(), opcodes(), lengths(), headers_in_pieces()].into_iter().flatten().collect()
}

/// Every kind of frame that a client may send, each where it may stand: what stands before it, and the frame.
fn kinds() -> Vec<(&'static str, Vec<Frame>, Frame)> {
    let begun = || vec![first("a")];
    vec![
        ("a text message", vec![], text("a")),
        ("an empty text message", vec![], text("")),
        ("a text message with a length of 16 bits", vec![], text("a".repeat(200))),
        ("a text message with a length of 64 bits", vec![], text("a".repeat(70_000))),
        ("a first fragment", vec![], first("a")),
        ("a fragment in the middle", begun(), middle("b")),
        ("a last fragment", begun(), last("b")),
        ("a ping", vec![], ping("a")),
        ("a ping inside a message", begun(), ping("a")),
        ("a pong", vec![], pong("a")),
        ("a pong inside a message", begun(), pong("a")),
        ("a close", vec![], close(1000, "")),
        ("a close inside a message", begun(), close(1000, "")),
    ]
}

fn masks() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, before, frame) in kinds() {
        let bytes = all(&[before, vec![frame.unmasked()]].concat());
        cases.push(refused("5.1", format!("{name} must be masked"), bytes, 1002));
    }
    let unmasked = text("b").unmasked();
    let after = all(&[text("a"), unmasked]);
    cases.push(case("5.1", "the second message must be masked too", after, vec![message("a"), closed(1002)]));
    let header = text("Hello").unmasked().cut(2);
    cases.push(refused("5.1", "a missing mask is seen in the second byte", header, 1002));
    let keys = |keys: &[[u8; 4]]| -> Vec<Frame> { keys.iter().map(|key| text("Hello").key(*key)).collect() };
    for (rule, frames) in [
        ("a key of zeros is a key", keys(&[[0; 4]])),
        ("each frame has a key of its own", keys(&[[1, 2, 3, 4], [5, 6, 7, 8]])),
        ("the key of an empty frame is a key", vec![text("").key([9; 4]), text("Hello")]),
    ] {
        let expected = frames.iter().map(|frame| if frame.bytes().len() == 6 { "" } else { "Hello" });
        let expected = expected.map(message).collect();
        cases.push(case("5.3", rule, all(&frames), expected));
    }
    let frames = [first("abc").key([1, 2, 3, 4]), last("defgh").key([5, 6, 7, 8])];
    cases.push(case("5.3", "a mask begins anew with each fragment", all(&frames), vec![message("abcdefgh")]));
    let frames = [first("abc"), ping("p").key([1, 2, 3, 4]), last("de")];
    let expected = vec![Seen::Pong(b"p".to_vec()), message("abcde")];
    cases.push(case("5.3", "a mask inside a message is the control frame's own", all(&frames), expected));
    for at in 1..=5 {
        let bytes = text("Hello, mask").bytes();
        let (left, right) = bytes.split_at(6 + at);
        let rule = format!("a mask goes on where the payload was cut, behind {at} bytes");
        cases.push(pieces("5.3", rule, vec![left.into(), right.into()], vec![message("Hello, mask")]));
    }
    cases
}

fn reserved_bits() -> Vec<Case> {
    let mut cases = Vec::new();
    for (bit_name, bits) in [("RSV1", RSV1), ("RSV2", RSV2), ("RSV3", RSV3)] {
        for (name, before, frame) in kinds().into_iter().filter(|(name, ..)| !name.contains("length")) {
            let bytes = all(&[before, vec![frame.rsv(bits)]].concat());
            cases.push(refused("5.2", format!("{bit_name} on {name}"), bytes, 1002));
        }
    }
    for (rule, bytes) in [
        ("all reserved bits at once", text("a").rsv(RSV1 | RSV2 | RSV3).bytes()),
        ("a reserved bit is seen in the first byte", text("a").rsv(RSV1).cut(1)),
        ("a reserved bit comes before the kind of message", binary("a").rsv(RSV2).bytes()),
        ("a reserved bit on a reserved opcode", Frame::new(FIN | 3, "a").rsv(RSV3).bytes()),
        ("a reserved bit on a frame without a mask", text("a").rsv(RSV1).unmasked().bytes()),
        ("a compressed message is not taken, since nobody agreed to it", {
            // "Hello", as permessage-deflate has it (RFC 7692, section 7.2.3.1).
            text([0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]).rsv(RSV1).bytes()
        }),
    ] {
        cases.push(refused("5.2", rule, bytes, 1002));
    }
    let after = all(&[text("a"), ping("p"), text("b").rsv(RSV1), text("c")]);
    let expected = vec![message("a"), Seen::Pong(b"p".to_vec()), closed(1002)];
    cases.push(case("5.2", "what came before a reserved bit counts, and nothing behind it", after, expected));
    cases
}

fn opcodes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, lowest, highest) in [("data", 3, 7), ("control", 11, 15)] {
        for (which, opcode) in [("lowest", lowest), ("highest", highest)] {
            let frame = |payload: &str| Frame::new(FIN | opcode, payload);
            for (name, bytes) in [
                ("alone", frame("a").bytes()),
                ("without a payload", frame("").bytes()),
                ("not final", frame("a").not_final().bytes()),
                ("inside a message", all(&[first("a"), frame("b")])),
                ("seen in the first byte", frame("a").cut(1)),
                ("with a length of 16 bits", frame(&"a".repeat(200)).bytes()),
                ("without a mask", frame("a").unmasked().bytes()),
            ] {
                cases.push(refused("5.2", format!("the {which} reserved {kind} opcode, {name}"), bytes, 1002));
            }
            let bytes = all(&[text("a"), frame("b")]);
            let rule = format!("the {which} reserved {kind} opcode, behind a message");
            cases.push(case("5.2", rule, bytes, vec![message("a"), closed(1002)]));
        }
    }
    cases
}

fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, length) in [
        ("none", 0),
        ("one byte", 1),
        ("the most of 7 bits", 125),
        ("the least of 16 bits", 126),
        ("127, which is no length of 7 bits", 127),
        ("the most of 16 bits", 0xffff),
        ("the least of 64 bits", 0x1_0000),
    ] {
        let payload = "a".repeat(length);
        cases.push(case("5.2", format!("a length: {name}"), text(&payload).bytes(), vec![message(&payload)]));
        let bytes = all(&[first(&payload), last(&payload)]);
        let whole = [&payload[..], &payload].concat();
        cases.push(case("5.2", format!("the length of fragments: {name}"), bytes, vec![message(&whole)]));
    }
    for (name, before, frame) in [
        ("a text message", vec![], text as fn(Vec<u8>) -> Frame),
        ("a first fragment", vec![], first),
        ("a fragment in the middle", vec![first("a")], middle),
        ("a last fragment", vec![first("a")], last),
    ] {
        for (which, frame) in [
            ("nothing, in 16 bits", frame(vec![]).in_16()),
            ("125 bytes, in 16 bits", frame(vec![b'a'; 125]).in_16()),
            ("nothing, in 64 bits", frame(vec![]).in_64()),
            ("125 bytes, in 64 bits", frame(vec![b'a'; 125]).in_64()),
            ("65,535 bytes, in 64 bits", frame(vec![b'a'; 0xffff]).in_64()),
        ] {
            let bytes = all(&[before.clone(), vec![frame]].concat());
            let rule = format!("the length of {name} must be in the fewest bytes: {which}");
            cases.push(refused("5.2", rule, bytes, 1002));
        }
        let top = all(&[before, vec![frame(vec![]).says(1 << 63)]].concat());
        cases.push(refused("5.2", format!("the length of {name} has a top bit that must be 0"), top, 1002));
    }
    for (rule, bytes) in [
        ("a length in too many bytes is seen before the mask", text("").in_16().cut(4)),
        ("a length of 64 bits in too many bytes is seen before the mask", text("").in_64().cut(10)),
        ("a length with all bits set", text("").says(u64::MAX).bytes()),
    ] {
        cases.push(refused("5.2", rule, bytes, 1002));
    }
    cases
}

/// The borders of a header at which input may be cut.
fn headers_in_pieces() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, payload, ends) in [
        ("7 bits", "a".repeat(5), &[1, 2, 4, 6][..]),
        ("16 bits", "a".repeat(200), &[1, 2, 3, 4, 6, 8]),
        ("64 bits", "a".repeat(70_000), &[1, 2, 6, 10, 12, 14]),
    ] {
        for &end in ends {
            let bytes = text(&payload).bytes();
            let (left, right) = bytes.split_at(end);
            let rule = format!("a header with a length of {name} that is cut behind {end} bytes");
            cases.push(pieces("5.2", rule, vec![left.into(), right.into()], vec![message(&payload)]));
        }
    }
    let bytes = all(&[text("a"), text("b"), text("c")]);
    let expected = vec![message("a"), message("b"), message("c")];
    cases.push(case("5.2", "several frames in one piece", bytes, expected.clone()));
    let bytes = all(&[text("a"), text("b"), text("c")]);
    let cut = vec![bytes[..8].to_vec(), bytes[8..20].to_vec(), bytes[20..].to_vec()];
    cases.push(pieces("5.2", "a piece that ends one frame and begins another", cut, expected));
    cases.push(case("5.2", "a frame that never ends is nothing yet", text("Hello").cut(9), vec![]));
    cases
}
