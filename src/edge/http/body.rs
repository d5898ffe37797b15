//! Request bodies, bounded in bytes and time, each and all together.
//!
//! What always holds: what bodies under way occupy in a shard is at most [`LOAD_BYTES_MAX`]. Charged is
//! what is *occupied*, not what has arrived: the connection's read buffer from the first moment, the
//! body's own buffer as it grows, and the copies that a source makes of it until the publish was answered.
//!
//! # Overload
//! A body that finds no room is refused with 503 before anything of it is stored, and its connection
//! is closed: bytes that nobody will read must not be waited for.
//!
//! Not chosen: a buffer of the length that was announced, which a client could claim with one header.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming, SizeHint};

use crate::edge::http::answer::{Answer, Problem};
use crate::edge::{BODY_TIMEOUT, HEAD_BYTES_MAX};

/// Most bytes of bodies and publishes under way in one shard.
pub const LOAD_BYTES_MAX: usize = 64 << 20;
/// What a connection occupies while a body is read from it: hyper's read buffer, which grows to the
/// size of the largest head.
const READ_BUFFER_BYTES: usize = HEAD_BYTES_MAX;
/// The smallest buffer of a body that is larger than its first piece.
const BUFFER_BYTES_MIN: usize = 4 << 10;
/// Copies of an event's data that a source may hold beside it: a command, and the command in the
/// buffer of its connection.
const SOURCE_COPIES: usize = 2;

/// Bytes of bodies and publishes under way in one shard. Clones share one count.
#[derive(Debug, Clone, Default)]
pub struct Load(Rc<Cell<usize>>);

/// One request's part of the load; given back when dropped, which is after its publish was answered.
#[derive(Debug)]
pub struct Share {
    load: Load,
    bytes: usize,
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

impl Share {
    /// Charges bytes as they are occupied. False when there is no room for them.
    fn grow(&mut self, bytes: usize) -> bool {
        let all = self.load.0.get() + bytes;
        if all > LOAD_BYTES_MAX {
            return false;
        }
        self.load.0.set(all);
        self.bytes += bytes;
        true
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
        self.load.0.set(self.load.0.get() - self.bytes);
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
pub async fn read(body: Incoming, bytes_max: usize, what: &str, load: &Load) -> Result<(Bytes, Share), Problem> {
    let too_large = || Problem::too_large(format!("{what} is at most {bytes_max} bytes")).with_limit(bytes_max);
    // A length that is announced is refused before a byte of it is read.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let share = Share { load: load.clone(), bytes: 0 };
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, bytes_max, share)).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(Stopped::TooLarge)) => Err(too_large()),
        Ok(Err(Stopped::NoRoom)) => Err(no_room()),
        Ok(Err(Stopped::Broken)) => Err(Problem::bad_request("the request's body ended early or is malformed")),
        Err(_) => Err(Problem::timeout(format!("the body was not complete after {} s", BODY_TIMEOUT.as_secs()))),
    }
}

fn no_room() -> Problem {
    let error = format!("bodies and publishes under way in this shard are at most {LOAD_BYTES_MAX} bytes together");
    Problem::unavailable(error).with_limit(LOAD_BYTES_MAX)
}

async fn collect(mut body: Incoming, bytes_max: usize, mut share: Share) -> Result<(Bytes, Share), Stopped> {
    if !share.grow(READ_BUFFER_BYTES) {
        return Err(Stopped::NoRoom);
    }
    let buffer_max = buffer_max(&body.size_hint(), bytes_max);
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Stopped::Broken)?.into_data() else { continue };
        let len = all.len() + data.len();
        if len > bytes_max {
            return Err(Stopped::TooLarge);
        }
        if len > all.capacity() {
            let capacity = capacity_for(len, all.capacity(), buffer_max);
            if !share.grow(capacity - all.capacity()) {
                return Err(Stopped::NoRoom);
            }
            all.reserve_exact(capacity - all.len());
        }
        // Copied, because a piece is a slice of the connection's read buffer and would keep it alive.
        all.extend_from_slice(&data);
    }
    // What is kept of it is kept without the room it did not need.
    all.shrink_to_fit();
    Ok((Bytes::from(all), share))
}

/// The largest buffer this body can need.
fn buffer_max(hint: &SizeHint, bytes_max: usize) -> usize {
    let announced = hint.exact().and_then(|exact| usize::try_from(exact).ok());
    announced.map_or(bytes_max, |announced| announced.min(bytes_max))
}

/// The next capacity of a buffer that must hold `len` bytes: twice the one before, so that each byte
/// is moved about once. `len <= buffer_max`.
fn capacity_for(len: usize, before: usize, buffer_max: usize) -> usize {
    (2 * before).max(BUFFER_BYTES_MIN).min(buffer_max).max(len)
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
        assert_eq!(load.0.get(), 0);
    }

    #[test]
    fn a_buffer_grows_with_what_has_arrived_and_no_further_than_was_announced() {
        assert_eq!(capacity_for(1, 0, 100), 100);
        assert_eq!(capacity_for(1, 0, 1 << 20), BUFFER_BYTES_MIN);
        assert_eq!(capacity_for(4097, 4096, 1 << 20), 8192);
        assert_eq!(capacity_for(600_000, 524_288, 700_000), 700_000);
        assert_eq!(capacity_for(20_000, 4096, 1 << 20), 20_000);
    }
}
