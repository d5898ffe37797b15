//! WebSocket, rule by rule: what a server must do with what a client sends (RFC 6455).
//!
//! The cases stand in tables by section. Each is bytes, cut as written, and what must come of them; so the same
//! table can be played against the protocol alone and over a socket: a [`Player`] is all it takes. Each is also played
//! in one piece and byte by byte, which must not make a difference, and is not counted.

mod closing;
mod control;
mod differential;
mod fragments;
pub mod frame;
mod framing;
mod handshake;
mod limits;
mod sockets;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use fanwheel::edge::ws::session::{Heard, Session};
use fanwheel::frame::ws::CloseCode;

/// A rule, what a client does, and what must come of it.
pub struct Case {
    /// The section of RFC 6455.
    pub section: &'static str,
    /// What the case is about: no two say the same.
    pub rule: String,
    pub steps: Vec<Step>,
    pub expected: Vec<Seen>,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// The client sends this.
    Bytes(Vec<u8>),
    /// The server begins to close, with 1001.
    ServerCloses,
}

/// What a player sees of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message was taken.
    Message(String),
    /// A pong with this payload.
    Pong(Vec<u8>),
    /// A close frame with this code, or none; behind it nothing but the end.
    Close(Option<u16>),
    /// The end, without a close frame behind one that was said before.
    End,
}

/// What a server is to this table.
pub trait Player {
    /// Does the steps, on a new connection, and tells what was seen.
    fn play(&mut self, steps: &[Step]) -> Vec<Seen>;
}

/// The protocol alone.
pub struct WithoutSockets;

impl Player for WithoutSockets {
    fn play(&mut self, steps: &[Step]) -> Vec<Seen> {
        let mut session = Session::default();
        let mut seen = Vec::new();
        let mut ended = false;
        for step in steps {
            let bytes = match step {
                Step::Bytes(bytes) => bytes,
                Step::ServerCloses => {
                    seen.extend(session.close(CloseCode::GOING_AWAY, "").iter().flat_map(|frame| frames(frame)));
                    continue;
                }
            };
            let mut scratch = bytes.clone();
            let mut input = &mut scratch[..];
            while let Some(heard) = session.take_next(&mut input) {
                assert!(!ended, "nothing is heard behind the end");
                seen.extend(session.take_pong().iter().flat_map(|pong| frames(pong)));
                match heard {
                    Heard::Message(text) => seen.push(Seen::Message(text.into_owned())),
                    Heard::Ended(end) => {
                        ended = true;
                        seen.extend(end.reply.map_or(vec![Seen::End], |reply| frames(&reply)));
                    }
                }
            }
            assert!(input.is_empty(), "all of it is used");
            seen.extend(session.take_pong().iter().flat_map(|pong| frames(pong)));
        }
        seen
    }
}

/// A server's control frames, read by the letter.
pub fn frames(mut bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        assert!(*length <= 125, "a short control frame, unmasked");
        let (payload, behind) = rest.split_at(usize::from(*length));
        bytes = behind;
        seen.push(match (first, payload) {
            (0x8a, _) => Seen::Pong(payload.to_vec()),
            (0x88, []) => Seen::Close(None),
            (0x88, [high, low, reason @ ..]) => {
                std::str::from_utf8(reason).expect("a reason is text");
                Seen::Close(Some(u16::from_be_bytes([*high, *low])))
            }
            _ => panic!("a server does not send {first:#x}"),
        });
    }
    assert!(bytes.is_empty());
    seen
}

/// Messages and ends must be those expected, in their order. Pongs too, but for those to which a newer one was sent
/// (section 5.5.3): how many of them are left out depends on how the bytes arrive.
pub fn agrees(seen: &[Seen], expected: &[Seen]) -> bool {
    let split =
        |all: &[Seen]| -> (Vec<Seen>, Vec<Seen>) { all.iter().cloned().partition(|one| matches!(one, Seen::Pong(_))) };
    let ((pongs, rest), (owed, rest_expected)) = (split(seen), split(expected));
    let mut owed_left = owed.iter();
    let in_order = pongs.iter().all(|pong| owed_left.any(|one| one == pong));
    rest == rest_expected && in_order && pongs.last() == owed.last()
}

/// All of them.
pub fn cases() -> Vec<Case> {
    [framing::cases(), fragments::cases(), control::cases(), text::cases(), limits::cases(), closing::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// Plays every case, and tells all that went wrong.
pub fn play_all(player: &mut impl Player, cases: &[Case]) {
    let mut wrong = Vec::new();
    for case in cases {
        let seen = player.play(&case.steps);
        if !agrees(&seen, &case.expected) {
            let Case { section, rule, expected, .. } = case;
            wrong.push(format!("{section}, {rule}: expected {expected:?}, saw {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

pub fn case(section: &'static str, rule: impl Into<String>, bytes: Vec<u8>, expected: Vec<Seen>) -> Case {
    pieces(section, rule, vec![bytes], expected)
}

pub fn pieces(section: &'static str, rule: impl Into<String>, pieces: Vec<Vec<u8>>, expected: Vec<Seen>) -> Case {
    let steps = pieces.into_iter().map(Step::Bytes).collect();
    Case { section, rule: rule.into(), steps, expected }
}

/// What must be refused, with this code.
pub fn refused(section: &'static str, rule: impl Into<String>, bytes: Vec<u8>, code: u16) -> Case {
    case(section, rule, bytes, vec![closed(code)])
}

pub fn message(text: &str) -> Seen {
    Seen::Message(text.into())
}

pub fn closed(code: u16) -> Seen {
    Seen::Close(Some(code))
}

#[test]
fn every_case_is_of_a_rule_of_its_own() {
    let cases = cases();
    let rules: BTreeSet<(&str, &str)> = cases.iter().map(|case| (case.section, case.rule.as_str())).collect();
    assert_eq!(rules.len(), cases.len(), "two cases say that they are the same");
    let mut seen = BTreeMap::new();
    for Case { rule, steps, .. } in &cases {
        if let Some(other) = seen.insert(format!("{steps:?}"), rule) {
            eprintln!("`{rule}` is the same as `{other}`");
        }
    }
    assert_eq!(seen.len(), cases.len());
    assert!(cases.len() >= 300, "{} cases", cases.len());
}

#[test]
fn every_rule_is_kept() {
    play_all(&mut WithoutSockets, &cases());
}

#[test]
fn every_rule_is_kept_in_one_piece_and_byte_by_byte() {
    let cut = |mut case: Case, length: fn(usize) -> usize| {
        case.steps = recut(&case.steps, length);
        case
    };
    let whole: Vec<Case> = cases().into_iter().map(|case| cut(case, |all| all.max(1))).collect();
    play_all(&mut WithoutSockets, &whole);
    // Where headers of long messages are cut is a table of its own.
    let short = whole.into_iter().filter(|case| case.steps.iter().all(|step| step.len() < 10_000));
    play_all(&mut WithoutSockets, &short.map(|case| cut(case, |_| 1)).collect::<Vec<_>>());
}

impl Step {
    fn len(&self) -> usize {
        match self {
            Step::Bytes(bytes) => bytes.len(),
            Step::ServerCloses => 0,
        }
    }
}

/// The same bytes between the server's own steps, cut into pieces of a length that depends on how many they are.
fn recut(steps: &[Step], length: fn(usize) -> usize) -> Vec<Step> {
    let mut recut = Vec::new();
    let mut bytes = Vec::new();
    for step in steps.iter().chain([&Step::ServerCloses]) {
        match step {
            Step::Bytes(more) => bytes.extend_from_slice(more),
            Step::ServerCloses => {
                let length = length(bytes.len());
                recut.extend(bytes.chunks(length).map(|piece| Step::Bytes(piece.to_vec())));
                recut.push(Step::ServerCloses);
                bytes.clear();
            }
        }
    }
    recut.pop();
    recut
}
