//! The protocol against an independent implementation, tungstenite: random streams get the same verdict.
//!
//! Where the two differ, with RFC 6455:
//! - tungstenite takes binary messages; Fanwheel may refuse them (7.4.1, 1003).
//! - It takes lengths that are not in the fewest bytes, against 5.2 ("the minimal number of bytes MUST be used"), of
//!   control frames too, where Fanwheel sees in the second byte that the length is too long or in too many (5.5).
//! - A length with the top bit set is too big to it (1009), not malformed (5.2: "the most significant bit MUST be 0").
//! - It judges whole frames, Fanwheel each byte: what a frame that is not complete has shown is known earlier here.
//!   So streams end in zeros, which complete any frame.
//! - Of several faults in one frame it names another one first. So codes are compared where there is one fault.
//! - It refuses close code 1014, which was registered after the RFC.

use fanwheel::edge::ws::decoder::{Decoder, Received};
use fanwheel::edge::ws::violation::Violation;
use fanwheel::frame::ws::{self, CloseCode};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{self, Cursor, Read, Write};
use tungstenite::error::Error;
use tungstenite::protocol::frame::coding::CloseCode as TheirCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocket, WebSocketConfig};
use tungstenite::{Bytes, Message, Utf8Bytes};

use super::frame::{FIN, Frame, all, binary, close, close_with, first, last, middle, ping, pong, text};

/// Most bytes of a message, on both sides.
const LIMIT: usize = 1_000;

#[derive(Debug, PartialEq, Eq)]
enum Item {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    Closed(Option<u16>),
    /// With the code that a close frame would say.
    Failed(u16),
}

#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    items: Vec<Item>,
    end: End,
}

/// A socket that has all of its input, and keeps what is written.
struct Wire(Cursor<Vec<u8>>, Vec<u8>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn socket(bytes: Vec<u8>, role: Role) -> WebSocket<Wire> {
    let config = WebSocketConfig::default().read_buffer_size(4 << 10);
    let config = config.max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    WebSocket::from_raw_socket(Wire(Cursor::new(bytes), Vec::new()), role, Some(config))
}

fn theirs(bytes: &[u8]) -> Verdict {
    let mut socket = socket(bytes.to_vec(), Role::Server);
    let mut items = Vec::new();
    let end = loop {
        match socket.read() {
            Ok(Message::Text(text)) => items.push(Item::Text(text.to_string())),
            Ok(Message::Binary(bytes)) => items.push(Item::Binary(bytes.to_vec())),
            Ok(Message::Ping(payload)) => items.push(Item::Ping(payload.to_vec())),
            Ok(Message::Pong(payload)) => items.push(Item::Pong(payload.to_vec())),
            // What it answers to a code that is none.
            Ok(Message::Close(Some(frame))) if frame.reason.as_str() == "Protocol violation" => {
                break End::Failed(1002);
            }
            Ok(Message::Close(frame)) => break End::Closed(frame.map(|frame| frame.code.into())),
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break End::Open,
            Err(Error::Protocol(_)) => break End::Failed(1002),
            Err(Error::Utf8(_)) => break End::Failed(1007),
            Err(Error::Capacity(_)) => break End::Failed(1009),
            Err(error) => panic!("{error}"),
        }
    };
    Verdict { items, end }
}

/// Ours, and the rule that was broken.
fn ours(bytes: &[u8], piece: usize) -> (Verdict, Option<Violation>) {
    let mut decoder = Decoder::new(LIMIT);
    let mut items = Vec::new();
    let (mut end, mut broken) = (End::Open, None);
    for piece in bytes.chunks(piece) {
        let mut scratch = piece.to_vec();
        let mut input = &mut scratch[..];
        while let Some(received) = decoder.take_next(&mut input) {
            match received {
                Received::Text(text) => items.push(Item::Text(text.into_owned())),
                Received::Ping(payload) => items.push(Item::Ping(payload.into_owned())),
                Received::Pong(payload) => items.push(Item::Pong(payload.into_owned())),
                Received::Close(code, _) => end = End::Closed(code.map(CloseCode::number)),
                Received::Violation(violation) => {
                    end = End::Failed(violation.code().number());
                    broken = Some(violation);
                }
            }
        }
    }
    (Verdict { items, end }, broken)
}

/// A message in fragments, cut at any byte, with a ping behind some of them.
fn fragmented() -> impl Strategy<Value = Vec<Frame>> {
    ("\\PC{0,60}", vec((0_usize..200, proptest::option::of(vec(any::<u8>(), 0..126))), 1..5)).prop_map(
        |(whole, cuts)| {
            let mut rest = whole.as_bytes();
            let mut frames = Vec::new();
            for (at, payload) in cuts {
                let (part, behind) = rest.split_at(at.min(rest.len()));
                rest = behind;
                frames.push(if frames.is_empty() { first(part) } else { middle(part) });
                frames.extend(payload.map(ping));
            }
            frames.push(last(rest));
            frames
        },
    )
}

/// What is right.
fn right() -> impl Strategy<Value = Vec<Frame>> {
    prop_oneof![
        "\\PC{0,300}".prop_map(|whole| vec![text(whole)]),
        fragmented(),
        vec(any::<u8>(), 0..126).prop_map(|payload| vec![ping(payload)]),
        vec(any::<u8>(), 0..126).prop_map(|payload| vec![pong(payload)]),
    ]
}

/// The last of a stream: nothing, a close, or one fault.
fn ending() -> impl Strategy<Value = Vec<Frame>> {
    let not_utf8 = || vec(any::<u8>(), 1..50).prop_filter("text", |bytes| std::str::from_utf8(bytes).is_err());
    let right_code = prop_oneof![1000..1004_u16, 1007..1014_u16, 3000..5000_u16];
    let wrong_code = prop_oneof![0..1000_u16, 1004..1007_u16, 1015..3000_u16, 5000..=u16::MAX];
    prop_oneof![
        Just(vec![]),
        (right_code, "\\PC{0,30}").prop_map(|(code, reason)| vec![close(code, &reason)]),
        Just(vec![close_with("")]),
        (1..8_u8, "[a-z]{0,9}").prop_map(|(bits, payload)| vec![text(payload).rsv(bits << 4)]),
        (1..8_u8, "[a-z]{0,9}").prop_map(|(bits, payload)| vec![ping(payload).rsv(bits << 4)]),
        (prop_oneof![3..8_u8, 11..16_u8], "[a-z]{0,9}")
            .prop_map(|(code, payload)| vec![Frame::new(FIN | code, payload)]),
        "[a-z]{0,9}".prop_map(|payload| vec![text(payload).unmasked()]),
        "[a-z]{0,9}".prop_map(|payload| vec![last(payload)]),
        "[a-z]{0,9}".prop_map(|payload| vec![middle(payload)]),
        "[a-z]{0,9}".prop_map(|payload| vec![first("a"), text(payload)]),
        "[a-z]{0,9}".prop_map(|payload| vec![first("a"), ping("p"), first(payload)]),
        (8..11_u8).prop_map(|code| vec![Frame::new(code, "")]),
        (8..11_u8, 126..LIMIT).prop_map(|(code, length)| vec![Frame::new(FIN | code, vec![3; length])]),
        any::<u8>().prop_map(|byte| vec![close_with([byte])]),
        wrong_code.prop_map(|code| vec![close(code, "x")]),
        not_utf8().prop_map(|bytes| vec![close_with([&[3, 0xe8], &bytes[..]].concat())]),
        not_utf8().prop_map(|bytes| vec![text(bytes)]),
        (not_utf8(), 0_usize..50).prop_map(|(bytes, at)| {
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            vec![first(left), last(right)]
        }),
        (1_usize..100).prop_map(|over| vec![text("a".repeat(LIMIT + over))]),
        (1_usize..100).prop_map(|over| vec![first("a".repeat(LIMIT)), last("a".repeat(over))]),
    ]
}

/// Changes to a stream's bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        1 => at().prop_map(Change::Remove),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), 1..20_u8).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match change {
        Change::Flip(at, bit) => bytes[at.index(length)] ^= bit,
        Change::Remove(at) => drop(bytes.remove(at.index(length))),
        Change::Insert(at, byte) => bytes.insert(at.index(length), *byte),
        Change::Cut(at) => bytes.truncate(at.index(length)),
        Change::Repeat(at, count) => {
            let at = at.index(length);
            let part = bytes[at..length.min(at + usize::from(*count))].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

/// True exactly when the verdicts agree as far as they can be compared: see the head of the file.
fn alike(ours: &Verdict, broken: Option<Violation>, theirs: &Verdict) -> bool {
    match broken {
        Some(Violation::Binary | Violation::LengthNotMinimal | Violation::ControlTooLong) => {
            theirs.items.starts_with(&ours.items)
        }
        Some(_) => ours.items == theirs.items && matches!(theirs.end, End::Failed(_)),
        None => match ours.end {
            End::Closed(Some(1014)) => ours.items == theirs.items && theirs.end == End::Failed(1002),
            _ => ours == theirs,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_stream_with_one_fault_at_most_gets_the_same_verdict(
        right in vec(right(), 0..5), ending in ending(), piece in 1_usize..500,
    ) {
        let bytes = all(&[right.concat(), ending].concat());
        let (verdict, _) = ours(&bytes, piece);
        prop_assert_eq!(verdict, theirs(&bytes));
    }

    #[test]
    fn a_stream_that_is_changed_anywhere_is_taken_and_refused_at_the_same_frame(
        right in vec(right(), 1..5), ending in ending(), changes in vec(change(), 1..4), piece in 1_usize..500,
    ) {
        let mut bytes = all(&[right.concat(), ending].concat());
        changes.iter().for_each(|change| apply(&mut bytes, change));
        bytes.extend_from_slice(&[0; LIMIT + 20]);
        let (verdict, broken) = ours(&bytes, piece);
        let other = theirs(&bytes);
        prop_assert!(alike(&verdict, broken, &other), "ours {:?} {:?}\ntheirs {:?}", verdict, broken, other);
    }

    #[test]
    fn noise_is_taken_and_refused_at_the_same_frame(
        frames in vec((any::<u8>(), vec(any::<u8>(), 0..40), any::<bool>()), 1..8), piece in 1_usize..100,
    ) {
        // Headers of any kind, mostly without reserved bits: nothing would come of the others.
        let frame = |(first, payload, plain): &(u8, Vec<u8>, bool)| {
            Frame::new(if *plain { first & 0x8b } else { *first }, payload).bytes()
        };
        let mut bytes: Vec<u8> = frames.iter().flat_map(frame).collect();
        bytes.extend_from_slice(&[0; LIMIT + 20]);
        let (verdict, broken) = ours(&bytes, piece);
        let other = theirs(&bytes);
        prop_assert!(alike(&verdict, broken, &other), "ours {:?} {:?}\ntheirs {:?}", verdict, broken, other);
    }

    #[test]
    fn what_their_client_writes_is_read(texts in vec("\\PC{0,200}", 1..5), payload in vec(any::<u8>(), 0..126)) {
        let mut client = socket(Vec::new(), Role::Client);
        for text in &texts {
            client.write(Message::text(text)).unwrap();
        }
        client.write(Message::Ping(Bytes::from(payload.clone()))).unwrap();
        client.close(Some(CloseFrame { code: TheirCode::Away, reason: Utf8Bytes::from_static("bye") })).unwrap();
        let mut items: Vec<Item> = texts.into_iter().map(Item::Text).collect();
        items.push(Item::Ping(payload));
        let (verdict, _) = ours(&client.get_ref().1, 37);
        prop_assert_eq!(verdict, Verdict { items, end: End::Closed(Some(1001)) });
    }

    #[test]
    fn their_client_reads_what_is_written(whole in "\\PC{0,300}", payload in vec(any::<u8>(), 0..126)) {
        let bytes = [
            &ws::text(whole.as_bytes())[..],
            ws::HEARTBEAT,
            &ws::pong(&payload),
            &ws::close(Some(CloseCode::TRY_AGAIN), "later"),
        ];
        let mut client = socket(bytes.concat(), Role::Client);
        prop_assert_eq!(client.read().unwrap(), Message::text(whole));
        prop_assert_eq!(client.read().unwrap(), Message::Ping(Bytes::new()));
        prop_assert_eq!(client.read().unwrap(), Message::Pong(Bytes::from(payload)));
        let frame = CloseFrame { code: TheirCode::Again, reason: Utf8Bytes::from_static("later") };
        prop_assert_eq!(client.read().unwrap(), Message::Close(Some(frame)));
    }
}

/// The differences that the head of the file names are there: should one go, it must be deleted there.
#[test]
fn every_difference_is_still_one() {
    let both = |bytes: &[u8]| (ours(bytes, 1).0.end, theirs(bytes).end);
    assert_eq!(both(&binary("a").bytes()), (End::Failed(1003), End::Open));
    assert_eq!(both(&text("a").in_16().bytes()), (End::Failed(1002), End::Open));
    assert_eq!(both(&ping("a").in_16().bytes()), (End::Failed(1002), End::Open));
    assert_eq!(both(&text("").says(1 << 63).bytes()), (End::Failed(1002), End::Failed(1009)));
    assert_eq!(both(&text([0xff, 0xff]).cut(7)), (End::Failed(1007), End::Open));
    let two = close_with([0x03, 0xee, 0xff]).bytes();
    assert_eq!(both(&two), (End::Failed(1002), End::Failed(1007)));
    assert_eq!(both(&close(1014, "").bytes()), (End::Closed(Some(1014)), End::Failed(1002)));
}
