//! Request bodies, bounded in bytes and time.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::edge::BODY_TIMEOUT;
use crate::edge::http::answer::Problem;

/// Reads a body of at most `bytes_max`; `what` begins the sentence when it is larger.
pub async fn read(body: Incoming, bytes_max: usize, what: &str) -> Result<Bytes, Problem> {
    let too_large = || Problem::too_large(format!("{what} is at most {bytes_max} bytes")).with_limit(bytes_max);
    // A length that is announced is refused before a byte of it is read.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, bytes_max)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(_)) => Err(Problem::bad_request("the request's body ended early or is malformed")),
        Err(_) => Err(Problem::timeout(format!("the body was not complete after {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// The body's bytes; `None` when there are more than `bytes_max`.
async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() + all.len() + data.len() > bytes_max {
            return Ok(None);
        }
        // Most bodies arrive in one piece, which is kept as it is.
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&data);
    }
    // A piece is a slice of the connection's read buffer: a small one must not keep that alive.
    Ok(Some(if all.is_empty() { Bytes::copy_from_slice(&first) } else { all.freeze() }))
}
