//! What is published: a fixed-width text header, then filler up to the wanted size.
//!
//! ```text
//! fw1 0badcafe 0001 0003 00000000002a 0000000000c0ffee 0000000000c0fff0 5eedf00d xxxxxx…
//! │   run      │    │    sequence     intended ns      sent ns          check    filler
//! version      │    topic index
//!              publisher
//! ```
//!
//! Fixed-width hex, because a reader decodes it once per delivery and a person can still read it.
//! Letters, digits and spaces only: it passes any server's escaping unchanged. The check covers the
//! header, the filler is compared: a payload altered anywhere is noticed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Bytes of the header with its last space: the smallest payload.
pub(crate) const HEADER_LEN: usize = PREFIX.len() + 9 + 5 + 5 + 13 + 17 + 17 + 9;

/// What each payload begins with; nothing else in it does.
pub(crate) const PREFIX: &[u8] = b"fw1 ";

/// 4,096 headers of 128 bytes: those of all topics that are on their way at one time. A read has
/// some hundred events at most, and only what is used of these 512 KiB takes room in the cache.
const DECODED_LEN: usize = 1 << 12;

const FILLER: u8 = b'x';

/// Publishers and topics that four hex digits can name.
pub(crate) const INDEX_MAX: usize = 0xffff;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Tells this run's events from other traffic on the topic.
    pub(crate) run: u32,
    pub(crate) publisher: u16,
    pub(crate) topic: u16,
    /// Counted per publisher and topic, from 0. Below 2^48.
    pub(crate) seq: u64,
    /// When the schedule wanted it sent.
    pub(crate) intended_ns: u64,
    /// When it was sent. `intended_ns <= sent_ns`.
    pub(crate) sent_ns: u64,
}

impl Stamp {
    /// Appends the payload of `size` bytes, `size >= HEADER_LEN`.
    pub(crate) fn encode(&self, size: usize, out: &mut Vec<u8>) {
        let end = out.len() + size;
        out.extend_from_slice(PREFIX);
        push_hex::<8>(u64::from(self.run), out);
        push_hex::<4>(u64::from(self.publisher), out);
        push_hex::<4>(u64::from(self.topic), out);
        push_hex::<12>(self.seq, out);
        push_hex::<16>(self.intended_ns, out);
        push_hex::<16>(self.sent_ns, out);
        push_hex::<8>(u64::from(self.check()), out);
        out.resize(end, FILLER);
    }

    /// Reads the header; `None` if it is not one, or was altered.
    #[inline]
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_LEN] = payload.first_chunk()?;
        let stamp = Self {
            run: hex8(header, 4)?,
            publisher: hex4(header, 13)?,
            topic: hex4(header, 18)?,
            seq: u64::from(hex4(header, 23)?) << 32 | u64::from(hex8(header, 27)?),
            intended_ns: hex16(header, 36)?,
            sent_ns: hex16(header, 53)?,
        };
        let is_spaced = [12, 17, 22, 35, 52, 69, 78].iter().all(|&at| header[at] == b' ');
        (header.starts_with(PREFIX) && is_spaced && hex8(header, 70)? == stamp.check()).then_some(stamp)
    }

    /// A hash of all fields: an altered digit changes it but for a chance of 2⁻³². Multiplying by an
    /// odd constant and folding the high half down spreads every bit (as in FxHash and wyhash).
    fn check(&self) -> u32 {
        let ids = u64::from(self.run) << 32 | u64::from(self.publisher) << 16 | u64::from(self.topic);
        let mut hash = 0_u64;
        for field in [ids, self.seq, self.intended_ns, self.sent_ns] {
            let wide = u128::from(hash ^ field ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
            hash = wide as u64 ^ (wide >> 64) as u64;
        }
        hash as u32
    }
}

/// Decodes headers, and remembers them: an event is decoded once for all streams of a worker that
/// bring it within a short time, and compared, byte by byte, for each of them.
pub(crate) struct Decoder {
    /// Where a header lies here follows from its numbers, see [`Decoder::place`].
    decoded: Box<[Decoded; DECODED_LEN]>,
}

/// `stamp == Stamp::decode(header)`. On two cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Decoded {
    header: [u8; HEADER_LEN],
    stamp: Stamp,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        let stamp = Stamp { run: 0, publisher: 0, topic: 0, seq: 0, intended_ns: 0, sent_ns: 0 };
        let mut text = Vec::with_capacity(HEADER_LEN);
        stamp.encode(HEADER_LEN, &mut text);
        let header = *text.first_chunk().expect("a header has this length");
        let decoded = vec![Decoded { header, stamp }; DECODED_LEN].into_boxed_slice();
        Self { decoded: decoded.try_into().unwrap_or_else(|_| unreachable!("it was made with this length")) }
    }

    /// [`Stamp::decode`], in less time.
    #[inline]
    pub(crate) fn decode(&mut self, payload: &[u8]) -> Option<Stamp> {
        let header: &[u8; HEADER_LEN] = payload.first_chunk()?;
        let decoded = &mut self.decoded[Self::place(header)];
        if !is_same(&decoded.header, header) {
            *decoded = Decoded { header: *header, stamp: Stamp::decode(header)? };
        }
        Some(decoded.stamp)
    }

    /// The last three digits of the number, so that events in sequence lie in sequence; sequences
    /// begin at places of their own. What is no header has a place too.
    #[inline]
    fn place(header: &[u8; HEADER_LEN]) -> usize {
        let digit = |at: usize| usize::from(header[at] & 0xf) + 9 * usize::from(header[at] >> 6 & 1);
        let sequence: &[u8; 8] = header[14..].first_chunk().expect("publisher and topic lie within the header");
        let begin =
            u64::from_be_bytes(*sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - DECODED_LEN.ilog2());
        (begin as usize + (digit(32) << 8) + (digit(33) << 4) + digit(34)) % DECODED_LEN
    }
}

/// Equality without the call that `==` becomes at this length.
#[inline]
fn is_same(one: &[u8; HEADER_LEN], other: &[u8; HEADER_LEN]) -> bool {
    let differs = |a: &[u8; 16], b: &[u8; 16]| u128::from_ne_bytes(*a) ^ u128::from_ne_bytes(*b);
    // The last word overlaps the one before.
    let (Some(last), Some(other_last)) = (one.last_chunk(), other.last_chunk()) else {
        return one == other;
    };
    let words = one.as_chunks().0.iter().zip(other.as_chunks().0);
    words.fold(differs(last, other_last), |all, (a, b)| all | differs(a, b)) == 0
}

/// What is hashed of an event for the judge of histories: its name, empty for none, and its data. The same
/// in all processes of a run.
pub(crate) fn event_hash(name: &[u8], data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, data).hash(&mut hasher);
    hasher.finish()
}

/// What follows the header in a payload of `size` bytes.
pub(crate) fn filler(size: usize) -> Vec<u8> {
    vec![FILLER; size.saturating_sub(HEADER_LEN)]
}

fn push_hex<const WIDTH: usize>(value: u64, out: &mut Vec<u8>) {
    for digit in (0..WIDTH).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * digit) & 0xf) as usize]);
    }
    out.push(b' ');
}

// Eight digits at a time in one register: a reader decodes 69 of them per delivery, and digit by digit that costs more
// than all else it does with an event.

#[inline]
fn hex16(header: &[u8; HEADER_LEN], at: usize) -> Option<u64> {
    Some(u64::from(hex8(header, at)?) << 32 | u64::from(hex8(header, at + 8)?))
}

#[inline]
fn hex8(header: &[u8; HEADER_LEN], at: usize) -> Option<u32> {
    let digits: &[u8; 8] = header[at..].first_chunk()?;
    hex_word(u64::from_be_bytes(*digits))
}

#[inline]
fn hex4(header: &[u8; HEADER_LEN], at: usize) -> Option<u16> {
    let digits: &[u8; 4] = header[at..].first_chunk()?;
    // "0000" in front changes no value.
    Some(hex_word(0x3030_3030_0000_0000 | u64::from(u32::from_be_bytes(*digits)))? as u16)
}

/// Eight lower-case hex digits, the first in the highest byte.
#[inline]
fn hex_word(digits: u64) -> Option<u32> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // '0'..'9' is 0x30..0x39, 'a'..'f' is 0x61..0x66: bit 6 tells letters, whose low half lacks 9.
    let letters = digits >> 6 & ONES;
    let values = (digits & (0x0f * ONES)) + 9 * letters;
    // Written back as text it must be what was read; then no other byte was among them.
    let is_letter = (values + 6 * ONES) >> 4 & ONES;
    let written = values + 0x30 * ONES + is_letter * u64::from(b'a' - b'0' - 10);
    if written != digits {
        return None;
    }
    // 0a 0b 0c 0d … → ab cd … → abcd … → abcdefgh
    let pairs = (values | values >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    Some((fours | fours >> 16) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_stamp_survives_its_payload(
            run: u32, publisher: u16, topic: u16, seq in 0..1_u64 << 48,
            intended_ns: u64, sent_ns: u64, size in HEADER_LEN..300, at in 0..HEADER_LEN, bit in 0..8_u8,
        ) {
            let stamp = Stamp { run, publisher, topic, seq, intended_ns, sent_ns };
            let mut payload = Vec::new();
            stamp.encode(size, &mut payload);
            prop_assert_eq!(payload.len(), size);
            prop_assert_eq!(Stamp::decode(&payload), Some(stamp));
            prop_assert_eq!(&payload[HEADER_LEN..], filler(size));
            let mut altered = payload.clone();
            altered[at] ^= 1_u8 << bit;
            prop_assert_eq!(Stamp::decode(&altered), None);
            prop_assert!(payload.iter().all(|byte| (b' '..=b'~').contains(byte)));
        }

        #[test]
        fn a_decoder_answers_each_payload_as_decoding_it_anew_does(
            events in prop::collection::vec((0..2_u16, 0..2_u16, 0..5_u64, 0..3_u64, 0..4 * HEADER_LEN, 0..8_u8), 1..200),
        ) {
            let mut decoder = Decoder::new();
            for (publisher, topic, turn, sent_ns, at, bit) in events {
                // Numbers that share a place, and times that differ for one number.
                let seq = turn * DECODED_LEN as u64 / 2;
                let mut payload = Vec::new();
                Stamp { run: 1, publisher, topic, seq, intended_ns: 0, sent_ns }.encode(HEADER_LEN + 9, &mut payload);
                if at < HEADER_LEN {
                    payload[at] ^= 1_u8 << bit;
                }
                prop_assert_eq!(decoder.decode(&payload), Stamp::decode(&payload));
            }
        }
    }

    #[test]
    fn other_traffic_is_not_taken_for_ours() {
        let mut payload = Vec::new();
        let stamp = Stamp { run: 1, publisher: 0, topic: 0, seq: 7, intended_ns: 8, sent_ns: 9 };
        stamp.encode(HEADER_LEN, &mut payload);
        assert_eq!(Stamp::decode(&payload[..HEADER_LEN - 1]), None);
        assert_eq!(Stamp::decode(b"{\"symbol\":\"AAPL\"}"), None);
        assert_eq!(Decoder::new().decode(&[0; HEADER_LEN]), None);
        payload[30] = b'g';
        assert_eq!(Stamp::decode(&payload), None);
    }
}
