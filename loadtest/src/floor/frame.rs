//! The bytes the floor server sends: built once per batch, the same for every stream.

use std::io::Write as _;

use crate::payload::Stamp;

/// What a stream begins with. The block tells subscribers that the server holds the stream.
pub(super) const OPENING: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: text/event-stream\r\n\
    Cache-Control: no-store, no-transform\r\n\
    Transfer-Encoding: chunked\r\n\r\n\
    1f\r\nevent: fanwheel.open\ndata: {}\n\n\r\n";

/// Events to be sent together, each an HTTP chunk with one SSE block.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// Replaces what is in it by one event of `payload` bytes per stamp.
    pub(super) fn fill(&mut self, stamps: impl Iterator<Item = Stamp>, payload: usize) {
        const BEFORE: &[u8] = b"data: ";
        const AFTER: &[u8] = b"\n\n";
        let len = BEFORE.len() + payload + AFTER.len();
        self.bytes.clear();
        for stamp in stamps {
            // Writing to a vector does not fail.
            let _ = write!(self.bytes, "{len:x}\r\n");
            self.bytes.extend_from_slice(BEFORE);
            stamp.encode(payload, &mut self.bytes);
            self.bytes.extend_from_slice(AFTER);
            self.bytes.extend_from_slice(b"\r\n");
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Head;

    fn stamp(seq: u64) -> Stamp {
        Stamp { run: 1, publisher: 0, topic: 2, seq, intended_ns: 3, sent_ns: 4 }
    }

    /// The body of a response made of `OPENING` and `frame`, chunks taken out.
    fn body(frame: &Frame) -> Vec<u8> {
        let mut response = [OPENING, frame.bytes()].concat();
        let mut head = Head::parse(&response).unwrap().unwrap();
        assert_eq!(head.status, 200);
        let decoded = head.body.decode_in_place(&mut response[head.len..]).unwrap();
        response[head.len..][..decoded.body_len].to_vec()
    }

    #[test]
    fn a_subscriber_reads_the_opening_and_each_event_of_a_batch() {
        let mut frame = Frame::default();
        frame.fill((0..3).map(stamp), 120);
        let body = body(&frame);
        let blocks: Vec<&[u8]> = body[31..].chunks(128).collect();
        assert_eq!(&body[..31], b"event: fanwheel.open\ndata: {}\n\n");
        assert_eq!(blocks.len(), 3);
        for (seq, block) in blocks.iter().enumerate() {
            let payload = block.strip_prefix(b"data: ").unwrap().strip_suffix(b"\n\n").unwrap();
            assert_eq!(Stamp::decode(payload), Some(stamp(seq as u64)));
        }
    }

    #[test]
    fn a_frame_holds_the_last_batch_only() {
        let mut frame = Frame::default();
        frame.fill((0..3).map(stamp), 120);
        let long = frame.bytes().len();
        frame.fill((3..4).map(stamp), 120);
        assert_eq!(frame.bytes().len() * 3, long);
    }
}
