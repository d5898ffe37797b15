//! Request bodies, bounded in bytes and time, each and all together.
//!
//! What always holds: what bodies under way occupy in a shard is at most [`LOAD_BYTES_MAX`], and while one
//! is put together, the largest body more. Charged is what is *occupied*, not what has arrived: what the
//! connection needs for itself while the body has to be waited for, the pieces of the body as they are
//! needed, and the copies that a source makes of it until the publish was answered.
//!
//! A body is kept in pieces of one size until it is whole: a buffer that doubles leaves behind it
//! holes of every size, and 5,000 bodies that did so occupied twice what they held.
//!
//! # Overload
//! A body that finds no room is refused with 503 before anything of it is stored, and its connection
//! is closed: bytes that nobody will read must not be waited for.
//!
//! Not chosen: a buffer of the length that was announced, which a client could claim with one header.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::{Request, Version};

use crate::edge::http::answer::{Answer, Problem};
use crate::edge::http::publish::BODY_BYTES_MAX;
use crate::edge::{BODY_TIMEOUT, HEAD_BYTES_MAX};

/// Most bytes of bodies and publishes under way in one shard: 64 MiB, less the largest body, which is
/// copied when it is whole. One is at a time, for a shard is one thread.
pub const LOAD_BYTES_MAX: usize = (64 << 20) - BODY_BYTES_MAX;
/// What a connection occupies for itself while a body has to be waited for. That is mostly hyper's read
/// buffer, which is twice as large as a head that filled it.
const WAITING_BYTES: usize = 2 * HEAD_BYTES_MAX;
/// The same for a request over HTTP/2, which has no read buffer of its own: its task, and h2's tables.
const WAITING_BYTES_HTTP2: usize = 2 << 10;
/// A piece of a body.
const PIECE_BYTES: usize = 16 << 10;
/// Copies of an event's data that a source may hold beside it: a command, and the command in the
/// buffer of its connection.
const SOURCE_COPIES: usize = 2;

/// Up to where there is room for what must not keep others from publishing.
const SPARE_BYTES_MAX: usize = LOAD_BYTES_MAX / 2;

/// Bytes of bodies and publishes under way in one shard. Clones share one count. One thread counts;
/// it is atomic because the bytes of an answer, which carry their share along, may be sent anywhere.
#[derive(Debug, Clone, Default)]
pub struct Load(Arc<AtomicUsize>);

/// One request's part of the load; given back when dropped, which is after its publish was answered.
#[derive(Debug)]
pub struct Share {
    load: Load,
    bytes: usize,
}

/// See [`Share::charge`].
struct Charged {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Marks an answer to a request whose body was read to its end: its connection can go on.
#[derive(Debug, Clone, Copy)]
struct WasRead;

/// Why a body was not read to its end.
enum Stopped {
    TooLarge,
    NoRoom,
    Broken,
}

impl Load {
    /// A share of so many bytes, if there is room for them.
    #[must_use]
    pub fn share(&self, bytes: usize) -> Option<Share> {
        let mut share = Share { load: self.clone(), bytes: 0 };
        share.grow(bytes).then_some(share)
    }

    /// A share of so many bytes, if half of the room is free beyond them: for what must not keep others from
    /// publishing.
    #[must_use]
    pub fn spare(&self, bytes: usize) -> Option<Share> {
        self.has_spare(bytes).then(|| self.share(bytes)).flatten()
    }

    /// A share of what publishing so many bytes may occupy, with the bytes themselves.
    #[must_use]
    pub fn publishing(&self, bytes: usize) -> Option<Share> {
        self.share((1 + SOURCE_COPIES) * bytes)
    }

    fn has_spare(&self, bytes: usize) -> bool {
        self.bytes() + bytes <= SPARE_BYTES_MAX
    }

    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// True exactly when nothing is under way.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.bytes() == 0
    }
}

impl Share {
    /// Charges bytes as they are occupied. False when there is no room for them.
    fn grow(&mut self, bytes: usize) -> bool {
        if self.load.bytes() + bytes > LOAD_BYTES_MAX {
            return false;
        }
        self.load.0.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        true
    }

    /// Gives bytes back that were charged.
    fn shrink(&mut self, bytes: usize) {
        self.load.0.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }

    /// Bytes that are charged for as long as anybody holds them, instead of what was charged before.
    pub fn charge(mut self, bytes: Vec<u8>) -> Bytes {
        self.shrink(self.bytes);
        // There was room for the request that this answers.
        self.load.0.fetch_add(bytes.len(), Ordering::Relaxed);
        self.bytes = bytes.len();
        Bytes::from_owner(Charged { bytes, _share: self })
    }

    /// Makes the share one of so many bytes, if it is less: within the half of the room that [`Load::spare`] gives of.
    ///
    /// # Errors
    /// 503 when there is no room for it.
    pub fn reach(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 || self.load.has_spare(more) && self.grow(more) { Ok(()) } else { Err(no_spare()) }
    }

    /// Charges what a source may occupy to publish so many bytes.
    ///
    /// # Errors
    /// 503 when there is no room for it.
    pub fn publishing(&mut self, bytes: usize) -> Result<(), Problem> {
        if self.grow(SOURCE_COPIES * bytes) { Ok(()) } else { Err(no_room()) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.load.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The answer of somebody who has read the request's body to its end.
pub fn answered(answer: Result<Answer, Problem>) -> Answer {
    let mut answer = answer.unwrap_or_else(Problem::into_answer);
    answer.extensions_mut().insert(WasRead);
    answer
}

/// True exactly when the answer is one that [`answered`] has marked.
pub fn was_read(answer: &Answer) -> bool {
    answer.extensions().get::<WasRead>().is_some()
}

/// Reads a body of at most `bytes_max`; `what` begins the sentence when it is larger.
pub async fn read(
    request: Request<Incoming>,
    bytes_max: usize,
    what: &str,
    load: &Load,
) -> Result<(Bytes, Share), Problem> {
    let waiting = if request.version() == Version::HTTP_2 { WAITING_BYTES_HTTP2 } else { WAITING_BYTES };
    let body = request.into_body();
    let too_large = || Problem::too_large(format!("{what} is at most {bytes_max} bytes")).with_limit(bytes_max);
    // A length that is announced is refused before a byte of it is read.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let share = Share { load: load.clone(), bytes: 0 };
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, bytes_max, waiting, share)).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(Stopped::TooLarge)) => Err(too_large()),
        Ok(Err(Stopped::NoRoom)) => Err(no_room()),
        Ok(Err(Stopped::Broken)) => Err(Problem::bad_request("the request's body ended early or is malformed")),
        Err(_) => Err(Problem::timeout(format!("the body was not complete after {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// 503: the shard has no room for it now.
pub fn no_room() -> Problem {
    let error = format!(
        "what is under way in this shard, heads, bodies and publishes, is at most {LOAD_BYTES_MAX} bytes together"
    );
    Problem::unavailable(error).with_limit(LOAD_BYTES_MAX)
}

/// 503: half of the shard's room is taken.
pub fn no_spare() -> Problem {
    let error = format!("pages find room only while no more than {SPARE_BYTES_MAX} bytes are under way in this shard");
    Problem::unavailable(error).with_limit(SPARE_BYTES_MAX)
}

async fn collect(
    mut body: Incoming,
    bytes_max: usize,
    waiting: usize,
    mut share: Share,
) -> Result<(Bytes, Share), Stopped> {
    let announced = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
    let mut pieces = Pieces::new(announced.map_or(bytes_max, |announced| announced.min(bytes_max)));
    let mut waits = false;
    while let Some(frame) = next(&mut body, &mut waits, waiting, &mut share).await? {
        let Ok(data) = frame.map_err(|_| Stopped::Broken)?.into_data() else { continue };
        // Copied, because it is a slice of the connection's read buffer and would keep it alive.
        pieces.take(&data, &mut share)?;
    }
    if waits {
        share.shrink(waiting);
    }
    Ok((pieces.join(), share))
}

type Frame = Result<hyper::body::Frame<Bytes>, hyper::Error>;

/// The body's next frame. Most bodies come with their heads; one that is waited for is charged with its
/// connection, from its first wait on.
async fn next(
    body: &mut Incoming,
    waits: &mut bool,
    waiting: usize,
    share: &mut Share,
) -> Result<Option<Frame>, Stopped> {
    match poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await {
        Poll::Ready(frame) => return Ok(frame),
        Poll::Pending if *waits => {}
        Poll::Pending if share.grow(waiting) => *waits = true,
        Poll::Pending => return Err(Stopped::NoRoom),
    }
    Ok(body.frame().await)
}

/// What has arrived of a body.
struct Pieces {
    full: Vec<Vec<u8>>,
    /// The piece that is being filled.
    last: Vec<u8>,
    /// Bytes that may still come.
    missing: usize,
}

impl Pieces {
    fn new(bytes_max: usize) -> Pieces {
        Pieces { full: Vec::new(), last: Vec::new(), missing: bytes_max }
    }

    /// Takes what has arrived.
    fn take(&mut self, mut data: &[u8], share: &mut Share) -> Result<(), Stopped> {
        if data.len() > self.missing {
            return Err(Stopped::TooLarge);
        }
        while !data.is_empty() {
            if self.last.len() == self.last.capacity() {
                self.begin_piece(share)?;
            }
            let room = self.last.capacity() - self.last.len();
            let (now, later) = data.split_at(room.min(data.len()));
            self.last.extend_from_slice(now);
            self.missing -= now.len();
            data = later;
        }
        Ok(())
    }

    fn begin_piece(&mut self, share: &mut Share) -> Result<(), Stopped> {
        let bytes = PIECE_BYTES.min(self.missing);
        if !share.grow(bytes) {
            return Err(Stopped::NoRoom);
        }
        let full = std::mem::replace(&mut self.last, Vec::with_capacity(bytes));
        if !full.is_empty() {
            self.full.push(full);
        }
        Ok(())
    }

    /// The whole, without room that it does not need: some of it is kept in logs.
    fn join(mut self) -> Bytes {
        if self.full.is_empty() {
            self.last.shrink_to_fit();
            return Bytes::from(self.last);
        }
        self.full.push(self.last);
        let mut whole = Vec::with_capacity(self.full.iter().map(Vec::len).sum());
        for piece in self.full {
            whole.extend_from_slice(&piece);
        }
        Bytes::from(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_charged_until_its_request_is_over() {
        let load = Load::default();
        let share = || Share { load: load.clone(), bytes: 0 };
        let (mut first, mut second) = (share(), share());
        assert!(first.grow(LOAD_BYTES_MAX - 10) && second.grow(10));
        assert!(!second.grow(1), "there is no room");
        drop(first);
        assert!(second.grow(1));
        drop(second);
        assert_eq!(load.bytes(), 0);
    }

    #[test]
    fn what_must_not_keep_others_from_publishing_has_half_of_the_room_however_it_grows() {
        let load = Load::default();
        let mut spare = load.spare(10).expect("room");
        assert!(spare.reach(SPARE_BYTES_MAX).is_ok() && spare.reach(1).is_ok(), "it is that large already");
        assert_eq!(load.bytes(), SPARE_BYTES_MAX);
        assert!(spare.reach(SPARE_BYTES_MAX + 1).is_err() && load.spare(1).is_none());
        let publishing = load.share(LOAD_BYTES_MAX - SPARE_BYTES_MAX).expect("the other half is for publishing");
        assert!(spare.reach(SPARE_BYTES_MAX).is_ok(), "what it has it keeps");
        drop((spare, publishing));
        let publishing = load.share(SPARE_BYTES_MAX).expect("room");
        assert!(load.spare(1).is_none(), "and what is published may take that half too");
        drop(publishing);
        assert!(load.is_free());
    }

    #[test]
    fn a_body_occupies_whole_pieces_and_no_more_than_was_announced() {
        let load = Load::default();
        let mut share = Share { load: load.clone(), bytes: 0 };
        let data: Vec<u8> = (0..40_000u32).map(|number| number as u8).collect();
        let mut pieces = Pieces::new(data.len());
        let charged: Vec<usize> = data
            .chunks(10_000)
            .map(|part| {
                assert!(pieces.take(part, &mut share).is_ok());
                load.bytes()
            })
            .collect();
        assert_eq!(charged, [PIECE_BYTES, 2 * PIECE_BYTES, 2 * PIECE_BYTES, 40_000]);
        assert!(matches!(pieces.take(b"x", &mut share), Err(Stopped::TooLarge)));
        assert_eq!(pieces.join(), data);
        let mut small = Pieces::new(5);
        assert!(small.take(b"hello", &mut share).is_ok());
        assert_eq!((small.join(), load.bytes()), (Bytes::from("hello"), 40_005));
        assert!(share.grow(LOAD_BYTES_MAX - 40_005));
        assert!(matches!(Pieces::new(5).take(b"x", &mut share), Err(Stopped::NoRoom)));
        assert_eq!(Pieces::new(5).join(), Bytes::new());
    }
}
