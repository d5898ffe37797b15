//! Request bodies, bounded in bytes and time, each and all together.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::edge::BODY_TIMEOUT;
use crate::edge::http::answer::Problem;

/// Most bytes of bodies and publishes under way in one shard.
pub const LOAD_BYTES_MAX: usize = 64 << 20;

/// Bytes of bodies and publishes under way in one shard. Clones share one count.
#[derive(Debug, Clone, Default)]
pub struct Load(Rc<Cell<usize>>);

/// One request's part of the load; given back when dropped, which is after its publish was answered.
#[derive(Debug)]
pub struct Share {
    load: Load,
    bytes: usize,
}

/// Why a body was not read to its end.
enum Stopped {
    TooLarge,
    NoRoom,
    Broken,
}

impl Share {
    /// Charges bytes as they arrive. False when there is no room for them.
    fn grow(&mut self, bytes: usize) -> bool {
        let all = self.load.0.get() + bytes;
        if all > LOAD_BYTES_MAX {
            return false;
        }
        self.load.0.set(all);
        self.bytes += bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.load.0.set(self.load.0.get() - self.bytes);
    }
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
        Ok(Err(Stopped::NoRoom)) => {
            let error = format!("bodies under way in this shard are at most {LOAD_BYTES_MAX} bytes together");
            Err(Problem::unavailable(error).with_limit(LOAD_BYTES_MAX))
        }
        Ok(Err(Stopped::Broken)) => Err(Problem::bad_request("the request's body ended early or is malformed")),
        Err(_) => Err(Problem::timeout(format!("the body was not complete after {} s", BODY_TIMEOUT.as_secs()))),
    }
}

async fn collect(mut body: Incoming, bytes_max: usize, mut share: Share) -> Result<(Bytes, Share), Stopped> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Stopped::Broken)?.into_data() else { continue };
        if all.len() + data.len() > bytes_max {
            return Err(Stopped::TooLarge);
        }
        if !share.grow(data.len()) {
            return Err(Stopped::NoRoom);
        }
        // Copied, because a piece is a slice of the connection's read buffer and would keep it alive.
        all.extend_from_slice(&data);
    }
    Ok((all.freeze(), share))
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
}
