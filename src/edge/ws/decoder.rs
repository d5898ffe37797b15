//! The decoder: bytes of one client become messages, pings, pongs and the close, or a violation.
//!
//! ```text
//!  header: 2 bytes ─► 0, 2 or 8 of length ─► 4 of mask ─► payload ─┐
//!     ▲                                                            │
//!     └────────────────────────────────────────────────────────────┘
//! ```
//!
//! Input may be cut anywhere. It is unmasked where it lies; what is complete in it is borrowed from it, and only what is
//! not is kept: a decoder between two messages owns no memory.
//!
//! What always holds: a rule is applied at the first byte at which it is certain to be broken, so nothing is waited for
//! that will be thrown away: a header's rules at its byte, the message's limit when the length is known, UTF-8 as
//! the text comes in. What is kept is at most the limit of a message and one control frame. After a close or a violation
//! everything is ignored.
//!
//! Not chosen: a table that checks UTF-8 byte by byte. The standard library's check is faster, and says too
//! whether an end is wrong or only not complete.

use std::borrow::Cow;

use crate::edge::ws::MESSAGE_BYTES_MAX;
use crate::edge::ws::violation::Violation;
use crate::frame::ws::{CONTROL_PAYLOAD_MAX, CloseCode, Opcode};

/// Longest header: two bytes, a length of eight, a mask of four.
const HEADER_BYTES_MAX: usize = 14;
/// The first byte's bit for a message's last frame.
const FINAL: u8 = 0x80;
/// The first byte's bits without a meaning.
const RESERVED: u8 = 0x70;
/// The second byte's bit for a mask.
const MASKED: u8 = 0x80;
/// The second byte's lengths that say: the length follows, in two bytes, or eight.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

const CONTINUATION: u8 = Opcode::Continuation as u8;
const TEXT: u8 = Opcode::Text as u8;
const BINARY: u8 = Opcode::Binary as u8;
const CLOSE: u8 = Opcode::Close as u8;
const PING: u8 = Opcode::Ping as u8;
const PONG: u8 = Opcode::Pong as u8;

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A whole text message.
    Text(Cow<'a, str>),
    /// A ping, with its payload.
    Ping(Cow<'a, [u8]>),
    /// A pong, with its payload.
    Pong(Cow<'a, [u8]>),
    /// The client's close frame, with what it says. Nothing follows.
    Close(Option<CloseCode>, String),
    /// A rule was broken. Nothing follows.
    Violation(Violation),
}

/// The state between two pieces of input.
#[derive(Debug)]
pub struct Decoder {
    /// The header's bytes that have come.
    header: [u8; HEADER_BYTES_MAX],
    /// How many. `header_len < HEADER_BYTES_MAX`, but while a payload is read.
    header_len: u8,
    /// True exactly when the header is complete and its payload is not.
    in_payload: bool,
    /// True exactly when a message has begun whose last frame has not come.
    in_message: bool,
    /// True exactly when nothing more is received.
    ended: bool,
    /// The mask, turned so that its first byte is the next one's.
    mask: [u8; 4],
    /// Bytes of the payload yet to come. At most `message_max`, or `CONTROL_PAYLOAD_MAX`.
    left: usize,
    /// Most bytes of a message.
    message_max: usize,
    /// What has come of a message that is not complete. `message.len() <= message_max`.
    message: Vec<u8>,
    /// Bytes at its front that are checked. `message.len() - 3 <= checked <= message.len()`.
    checked: usize,
    /// What has come of a control frame that is not complete. At most `CONTROL_PAYLOAD_MAX` bytes.
    control: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new(MESSAGE_BYTES_MAX)
    }
}

impl Decoder {
    /// Takes messages of at most so many bytes.
    #[must_use]
    pub fn new(message_max: usize) -> Decoder {
        Decoder {
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            in_payload: false,
            in_message: false,
            ended: false,
            mask: [0; 4],
            left: 0,
            message_max,
            message: Vec::new(),
            checked: 0,
            control: Vec::new(),
        }
    }

    /// True exactly when it stands between two messages: it holds nothing, and a new one would do as well.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.header_len == 0 && !self.in_message && !self.ended
    }

    /// Bytes of memory held for what is not complete.
    #[must_use]
    pub fn held(&self) -> usize {
        self.message.capacity() + self.control.capacity()
    }

    /// Reads on: gives what is complete next, or `None` when all of the input is used.
    pub fn take_next<'a>(&mut self, input: &mut &'a mut [u8]) -> Option<Received<'a>> {
        while !self.ended {
            if !self.in_payload {
                let byte = *input.split_off_first_mut()?;
                match self.header_byte(byte) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(violation) => return Some(self.violated(violation, input)),
                }
            }
            let piece = input.split_off_mut(..self.left.min(input.len())).unwrap_or_default();
            unmask(piece, &mut self.mask);
            self.left -= piece.len();
            let received = if self.is_control() { self.control(piece) } else { self.data(piece) };
            if self.left == 0 {
                self.header_len = 0;
                self.in_payload = false;
            }
            match received {
                Ok(Some(close @ Received::Close(..))) => {
                    self.end(input);
                    return Some(close);
                }
                Ok(Some(received)) => return Some(received),
                Ok(None) if self.left > 0 => return None,
                Ok(None) => {}
                Err(violation) => return Some(self.violated(violation, input)),
            }
        }
        self.end(input);
        None
    }

    /// Everything from here on is ignored.
    fn end(&mut self, input: &mut &mut [u8]) {
        *input = &mut [];
        *self = Decoder { ended: true, ..Decoder::new(self.message_max) };
    }

    fn violated<'a>(&mut self, violation: Violation, input: &mut &mut [u8]) -> Received<'a> {
        self.end(input);
        Received::Violation(violation)
    }

    fn opcode(&self) -> u8 {
        self.header[0] & 0x0f
    }

    fn is_control(&self) -> bool {
        self.opcode() >= CLOSE
    }

    fn is_final(&self) -> bool {
        self.header[0] & FINAL != 0
    }

    /// Takes the header's next byte. True exactly when the header is complete.
    fn header_byte(&mut self, byte: u8) -> Result<bool, Violation> {
        self.header[usize::from(self.header_len)] = byte;
        self.header_len += 1;
        if self.header_len == 1 {
            self.check_first(byte)?;
            return Ok(false);
        }
        if self.header_len == 2 {
            self.check_second(byte)?;
        }
        let length_end = match self.header[1] & !MASKED {
            LENGTH_16 => 4,
            LENGTH_64 => 10,
            _ => 2,
        };
        if self.header_len == length_end {
            self.left = self.check_length()?;
        }
        if self.header_len < length_end + 4 {
            return Ok(false);
        }
        let mask = usize::from(length_end);
        self.mask.copy_from_slice(&self.header[mask..mask + 4]);
        self.in_payload = true;
        Ok(true)
    }

    /// Reserved bits, opcode, and where a frame of this kind may stand.
    fn check_first(&self, byte: u8) -> Result<(), Violation> {
        if byte & RESERVED != 0 {
            return Err(Violation::ReservedBits);
        }
        match self.opcode() {
            CONTINUATION if !self.in_message => Err(Violation::NothingToContinue),
            TEXT | BINARY if self.in_message => Err(Violation::MessageInsideMessage),
            BINARY => Err(Violation::Binary),
            CONTINUATION | TEXT => Ok(()),
            CLOSE..=PONG if !self.is_final() => Err(Violation::FragmentedControl),
            CLOSE..=PONG => Ok(()),
            _ => Err(Violation::ReservedOpcode),
        }
    }

    fn check_second(&self, byte: u8) -> Result<(), Violation> {
        if byte & MASKED == 0 {
            return Err(Violation::Unmasked);
        }
        if self.is_control() && usize::from(byte & !MASKED) > CONTROL_PAYLOAD_MAX {
            return Err(Violation::ControlTooLong);
        }
        Ok(())
    }

    /// The payload's length, when the header is complete up to it.
    fn check_length(&self) -> Result<usize, Violation> {
        let bytes = &self.header[2..usize::from(self.header_len)];
        let said = bytes.iter().fold(0, |length: u64, &byte| length << 8 | u64::from(byte));
        let (length, least) = match self.header[1] & !MASKED {
            LENGTH_16 => (said, u64::from(LENGTH_16)),
            LENGTH_64 => (said, 1 << 16),
            length => (u64::from(length), 0),
        };
        if length >> 63 != 0 {
            return Err(Violation::LengthTopBit);
        }
        if length < least {
            return Err(Violation::LengthNotMinimal);
        }
        let room = if self.is_control() { CONTROL_PAYLOAD_MAX } else { self.message_max - self.message.len() };
        usize::try_from(length).ok().filter(|&length| length <= room).ok_or(Violation::TooBig)
    }

    /// Takes a piece of a control frame's payload.
    fn control<'a>(&mut self, piece: &'a [u8]) -> Result<Option<Received<'a>>, Violation> {
        if self.left > 0 {
            self.control.extend_from_slice(piece);
            return Ok(None);
        }
        let payload = whole(&mut self.control, piece);
        match self.opcode() {
            PING => Ok(Some(Received::Ping(payload))),
            PONG => Ok(Some(Received::Pong(payload))),
            _ => close(&payload).map(Some),
        }
    }

    /// Takes a piece of a data frame's payload.
    fn data<'a>(&mut self, piece: &'a [u8]) -> Result<Option<Received<'a>>, Violation> {
        let is_complete = self.left == 0 && self.is_final();
        if !is_complete {
            self.in_message = true;
            self.keep(piece)?;
            return Ok(None);
        }
        self.in_message = false;
        if self.message.is_empty() {
            let text = std::str::from_utf8(piece).map_err(|_| Violation::TextNotUtf8)?;
            return Ok(Some(Received::Text(Cow::Borrowed(text))));
        }
        self.keep(piece)?;
        self.checked = 0;
        let text = String::from_utf8(std::mem::take(&mut self.message)).map_err(|_| Violation::TextNotUtf8)?;
        Ok(Some(Received::Text(Cow::Owned(text))))
    }

    /// Keeps a piece of a message, if it can go on as UTF-8. Memory grows by doubling, up to the limit.
    fn keep(&mut self, piece: &[u8]) -> Result<(), Violation> {
        let length = self.message.len() + piece.len();
        if length > self.message.capacity() {
            let capacity = (2 * self.message.capacity()).clamp(length, self.message_max.max(length));
            self.message.reserve_exact(capacity - self.message.len());
        }
        self.message.extend_from_slice(piece);
        match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(_) => self.checked = length,
            // Its end may still become a character.
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::TextNotUtf8),
        }
        Ok(())
    }
}

/// All of a payload: what was kept of it and its last piece.
fn whole<'a>(kept: &mut Vec<u8>, piece: &'a [u8]) -> Cow<'a, [u8]> {
    if kept.is_empty() {
        return Cow::Borrowed(piece);
    }
    kept.extend_from_slice(piece);
    Cow::Owned(std::mem::take(kept))
}

/// What a close frame says (section 5.5.1).
fn close<'a>(payload: &[u8]) -> Result<Received<'a>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(Received::Close(None, String::new())),
        [_] => return Err(Violation::CloseCodeCut),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    let code = CloseCode::parse(code).ok_or(Violation::CloseCodeInvalid)?;
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::CloseReasonNotUtf8)?;
    Ok(Received::Close(Some(code), reason.to_owned()))
}

/// Takes the mask off (section 5.3), eight bytes at a time, and turns it for the next piece.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let turned = bytes.len() % 4;
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(turned);
}

// Kept only for connections in the middle of a message.
const _: () = assert!(size_of::<Decoder>() <= 104);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A masked frame with a length in the fewest bytes.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(MASKED | length as u8),
            length @ 126..0x1_0000 => {
                frame.push(MASKED | LENGTH_16);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(MASKED | LENGTH_64);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// What is received of pieces, as text; and the most memory that was held.
    fn received(decoder: &mut Decoder, pieces: &[&[u8]]) -> (Vec<String>, usize) {
        let (mut all, mut held) = (Vec::new(), 0);
        for piece in pieces {
            let mut scratch = piece.to_vec();
            let mut input = &mut scratch[..];
            while let Some(one) = decoder.take_next(&mut input) {
                all.push(format!("{one:?}"));
            }
            assert!(input.is_empty(), "all of it is used");
            held = held.max(decoder.held());
        }
        (all, held)
    }

    #[test]
    fn what_is_complete_in_a_piece_is_borrowed_and_nothing_is_held() {
        let bytes = [frame(0x81, b"one"), frame(0x89, b"ping"), frame(0x81, b"two")].concat();
        let mut decoder = Decoder::default();
        let (all, held) = received(&mut decoder, &[&bytes]);
        assert_eq!(all, [r#"Text("one")"#, "Ping([112, 105, 110, 103])", r#"Text("two")"#]);
        assert_eq!(held, 0);
        assert!(decoder.is_idle());
        let mut scratch = frame(0x81, b"three");
        let mut input = &mut scratch[..];
        assert!(matches!(decoder.take_next(&mut input), Some(Received::Text(Cow::Borrowed("three")))));
    }

    #[test]
    fn nothing_stays_behind_a_message_that_came_in_pieces() {
        let text = "grün ".repeat(100);
        let bytes = [frame(0x01, &text.as_bytes()[..6]), frame(0x80, &text.as_bytes()[6..])].concat();
        let mut decoder = Decoder::default();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        let (all, held) = received(&mut decoder, &pieces);
        assert_eq!(all, [format!("Text({text:?})")]);
        assert!(held >= text.len() - 1);
        assert!(decoder.is_idle());
        assert_eq!((decoder.held(), decoder.checked), (0, 0));
    }

    #[test]
    fn no_more_is_held_than_the_limit_and_only_what_has_come() {
        let max = 1_000;
        let mut decoder = Decoder::new(max);
        let whole = [frame(0x01, &vec![b'x'; 600]), frame(0x89, &[7; 125]), frame(0x80, &vec![b'x'; 400])].concat();
        let pieces: Vec<&[u8]> = whole.chunks(7).collect();
        let (all, held) = received(&mut decoder, &pieces);
        assert_eq!(all.len(), 2);
        assert!(held <= max + 2 * CONTROL_PAYLOAD_MAX, "{held}");
        // A thousand bytes are announced, and one has come.
        let announced = frame(0x01, &vec![b'x'; max]);
        let (_, held) = received(&mut decoder, &[&announced[..9]]);
        assert!(held <= 8, "{held}");
        let mut decoder = Decoder::new(max);
        let over = frame(0x01, &vec![b'x'; max + 1]);
        assert_eq!(received(&mut decoder, &[&over[..4]]).0, ["Violation(TooBig)"], "before the payload, and the mask");
        assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn what_was_held_is_given_back_with_the_violation() {
        let mut decoder = Decoder::default();
        let begun = frame(0x01, &[b'x'; 500]);
        received(&mut decoder, &[&begun]);
        assert!(decoder.held() >= 500);
        assert_eq!(received(&mut decoder, &[&[0x81]]).0, ["Violation(MessageInsideMessage)"]);
        assert_eq!(decoder.held(), 0);
        assert_eq!(received(&mut decoder, &[&begun]).0.len(), 0, "what follows is ignored");
    }

    proptest! {
        #[test]
        fn masks_are_taken_off_whatever_the_pieces(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
            cuts in proptest::collection::vec(0_usize..60, 0..6),
            mask: [u8; 4],
        ) {
            let plain = payload.clone();
            let mut masked: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            let (mut turned, mut rest) = (mask, &mut masked[..]);
            for cut in cuts {
                let at = cut.min(rest.len());
                let (piece, after) = rest.split_at_mut(at);
                unmask(piece, &mut turned);
                rest = after;
            }
            unmask(rest, &mut turned);
            prop_assert_eq!(masked, plain);
        }

        #[test]
        fn cuts_change_nothing(
            frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..150)), 1..6),
            cuts in proptest::collection::vec(1_usize..40, 1..40),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(first & 0x8f, payload)).collect();
            let whole = received(&mut Decoder::new(200), &[&bytes]).0;
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&received(&mut Decoder::new(200), &single).0, &whole);
            let mut rest = &bytes[..];
            let mut pieces = Vec::new();
            for &cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(&received(&mut Decoder::new(200), &pieces).0, &whole);
        }
    }
}
