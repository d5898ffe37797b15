//! What is published: a fixed-width text header, then filler up to the wanted size.
//!
//! ```text
//! fw1 0badcafe 0001 0003 00000000002a 0000000000c0ffee 0000000000c0fff0 xxxxxx…
//! │   run      │    │    sequence     intended ns      sent ns          filler
//! version      │    topic index
//!              publisher
//! ```
//!
//! Fixed-width hex, because a reader decodes it once per delivery and a person can still read it.
//! The filler is compared on arrival: a payload cut short or altered there is noticed.

/// Bytes of the header with its last space: the smallest payload.
pub(crate) const HEADER_LEN: usize = 4 + 9 + 5 + 5 + 13 + 17 + 17;

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
        out.extend_from_slice(b"fw1 ");
        push_hex::<8>(u64::from(self.run), out);
        push_hex::<4>(u64::from(self.publisher), out);
        push_hex::<4>(u64::from(self.topic), out);
        push_hex::<12>(self.seq, out);
        push_hex::<16>(self.intended_ns, out);
        push_hex::<16>(self.sent_ns, out);
        out.resize(end, FILLER);
    }

    /// Reads the header; `None` if this is not one of our payloads.
    #[inline]
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_LEN] = payload.first_chunk()?;
        if !header.starts_with(b"fw1 ") {
            return None;
        }
        Some(Self {
            run: hex(&header[4..12])? as u32,
            publisher: hex(&header[13..17])? as u16,
            topic: hex(&header[18..22])? as u16,
            seq: hex(&header[23..35])?,
            intended_ns: hex(&header[36..52])?,
            sent_ns: hex(&header[53..69])?,
        })
    }
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

/// Value of each hex digit; 0xff for other bytes.
const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

#[inline]
fn hex(digits: &[u8]) -> Option<u64> {
    let (mut value, mut invalid) = (0_u64, 0);
    for &digit in digits {
        let nibble = NIBBLES[usize::from(digit)];
        invalid |= nibble;
        value = value << 4 | u64::from(nibble & 0xf);
    }
    (invalid < 0x10).then_some(value)
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
            intended_ns: u64, sent_ns: u64, size in HEADER_LEN..300,
        ) {
            let stamp = Stamp { run, publisher, topic, seq, intended_ns, sent_ns };
            let mut payload = Vec::new();
            stamp.encode(size, &mut payload);
            prop_assert_eq!(payload.len(), size);
            prop_assert_eq!(Stamp::decode(&payload), Some(stamp));
            prop_assert_eq!(&payload[HEADER_LEN..], filler(size));
            prop_assert!(payload.iter().all(|byte| (b' '..=b'~').contains(byte)));
        }
    }

    #[test]
    fn other_traffic_is_not_taken_for_ours() {
        let mut payload = Vec::new();
        let stamp = Stamp { run: 1, publisher: 0, topic: 0, seq: 7, intended_ns: 8, sent_ns: 9 };
        stamp.encode(HEADER_LEN, &mut payload);
        assert_eq!(Stamp::decode(&payload[..HEADER_LEN - 1]), None);
        assert_eq!(Stamp::decode(b"{\"symbol\":\"AAPL\"}"), None);
        payload[30] = b'g';
        assert_eq!(Stamp::decode(&payload), None);
    }
}
