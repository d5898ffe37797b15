//! Text as the inside of a JSON string (RFC 8259, section 7).
//!
//! What must be escaped is escaped, and nothing else: `"`, `\` and what lies below U+0020. What always holds:
//! [`put_escaped`] writes exactly [`escaped_len`] bytes, so whoever writes a frame knows its length beforehand.
//!
//! Both walk in spans: most hold nothing to escape, and are passed over and copied whole, many bytes at
//! an instruction. A span that does is looked at in words, and only a word that does byte by byte.
//!
//! Not chosen: a serializer, which looks at each byte, and does not know the length until it is done
//! (`benches/frame.rs` times both).

/// Bytes looked at together. With 32 the compiler unrolls the loops below before it could make vectors of them:
/// 1.8 bytes a nanosecond were passed over, not 19.
const SPAN: usize = 64;

/// Stands in [`ESCAPES`] for a character that has no letter of its own.
const AS_NUMBER: u8 = b'u';
/// What stands behind the backslash for each byte; 0 where none is needed.
const ESCAPES: [u8; 256] = escapes();

const fn escapes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = AS_NUMBER;
        byte += 1;
    }
    table[0x08] = b'b';
    table[b'\t' as usize] = b't';
    table[b'\n' as usize] = b'n';
    table[0x0c] = b'f';
    table[b'\r' as usize] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
}

/// Length of `text` when it is escaped, in bytes.
#[must_use]
pub fn escaped_len(text: &[u8]) -> usize {
    let mut length = text.len();
    in_spans(text, |span, _| {
        if needs_escape(span) {
            length += added(span);
        }
    });
    length
}

/// Writes `text`, escaped, behind `out`.
pub fn put_escaped(out: &mut Vec<u8>, text: &[u8]) {
    in_spans(text, |span, length| {
        if needs_escape(span) {
            put_words(out, &span[..length]);
        } else {
            out.extend_from_slice(&span[..length]);
        }
    });
}

/// Hands out `text` in spans, each with its length; the last is filled up with what needs no escape.
fn in_spans(text: &[u8], mut each: impl FnMut(&[u8; SPAN], usize)) {
    let (spans, rest) = text.as_chunks::<SPAN>();
    spans.iter().for_each(|span| each(span, SPAN));
    if !rest.is_empty() {
        let mut filled = [b' '; SPAN];
        filled[..rest.len()].copy_from_slice(rest);
        each(&filled, rest.len());
    }
}

// These two have no branch inside, so that they are compiled to vectors.

fn needs_escape(span: &[u8; SPAN]) -> bool {
    span.iter().fold(false, |found, &byte| found | (byte < 0x20) | (byte == b'"') | (byte == b'\\'))
}

/// Bytes that escaping adds: one, or five for a control character without a letter.
fn added(span: &[u8; SPAN]) -> usize {
    let (mut marks, mut controls, mut letters) = (0_u8, 0_u8, 0_u8);
    for &byte in span {
        marks += u8::from((byte == b'"') | (byte == b'\\'));
        controls += u8::from(byte < 0x20);
        letters += u8::from((byte == 8) | (byte == b'\t') | (byte == b'\n') | (byte == 12) | (byte == b'\r'));
    }
    usize::from(marks) + 5 * usize::from(controls) - 4 * usize::from(letters)
}

const _: () = assert!(SPAN <= u8::MAX as usize, "a span is counted in bytes");

/// Copies the words that need no escape, and writes the others byte by byte.
fn put_words(out: &mut Vec<u8>, bytes: &[u8]) {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        if word_needs_escape(u64::from_le_bytes(*word)) {
            word.iter().for_each(|&byte| put_byte(out, byte));
        } else {
            out.extend_from_slice(word);
        }
    }
    rest.iter().for_each(|&byte| put_byte(out, byte));
}

/// Eight bytes in one number: `byte - limit` borrows, and sets the top bit, where `byte < limit`; a top bit that was
/// set before is of a character that needs no escape. A borrow may set the next byte's too, only behind one that is.
fn word_needs_escape(word: u64) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let below = |word: u64, limit: u8| word.wrapping_sub(EACH * u64::from(limit)) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & (EACH << 7) != 0
}

fn put_byte(out: &mut Vec<u8>, byte: u8) {
    match ESCAPES[usize::from(byte)] {
        0 => out.push(byte),
        AS_NUMBER => {
            let digit = |four: u8| b"0123456789abcdef"[usize::from(four)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
        }
        letter => out.extend_from_slice(&[b'\\', letter]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        put_escaped(&mut out, text.as_bytes());
        assert_eq!(out.len(), escaped_len(text.as_bytes()), "{text:?}");
        String::from_utf8(out).expect("what was UTF-8 still is")
    }

    #[test]
    fn every_character_of_one_byte_is_written_as_the_serializer_writes_it() {
        for byte in 0..=0x7f_u8 {
            let text = char::from(byte).to_string();
            let expected = serde_json::to_string(&text).expect("a string");
            assert_eq!(format!("\"{}\"", escaped(&text)), expected, "{byte:#x}");
        }
        assert_eq!(escaped("\u{1f}é\u{7f}\u{2028}"), "\\u001fé\u{7f}\u{2028}");
    }

    #[test]
    fn the_most_that_escaping_adds_is_counted_in_every_place_of_a_span() {
        for length in 0..3 * SPAN {
            assert_eq!(escaped_len(&vec![1; length]), 6 * length);
            for at in 0..length {
                let mut text = vec![b'x'; length];
                text[at] = b'"';
                assert_eq!(escaped(std::str::from_utf8(&text).expect("ascii")).len(), length + 1);
            }
        }
    }

    #[test]
    fn a_word_is_passed_over_exactly_when_none_of_its_bytes_needs_an_escape() {
        for byte in 0..=u8::MAX {
            for at in 0..8 {
                for around in [0x21, 0x80, 0xff] {
                    let mut word = [around; 8];
                    word[at] = byte;
                    let needs = ESCAPES[usize::from(byte)] != 0;
                    assert_eq!(word_needs_escape(u64::from_le_bytes(word)), needs, "{byte:#x} at {at}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>(), dense in "[\"\\\\\\n\\x00-\\x1fa]{0,80}") {
            for text in [text, dense] {
                let quoted = format!("\"{}\"", escaped(&text));
                prop_assert_eq!(serde_json::from_str::<String>(&quoted).expect("a string"), text.clone());
                prop_assert_eq!(quoted, serde_json::to_string(&text).expect("a string"));
            }
        }
    }
}
