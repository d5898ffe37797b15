//! How long an answer over HTTP/1 may wait for its client to take it.
//!
//! hyper waits for ever, and a peer that acknowledges a segment now and then is no dead one to the
//! kernel. Small answers fit into the socket's buffer; only the large ones of `/publish` wait.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// A client must have taken its answer in this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Since when a connection's socket has not taken all there is; clones agree.
#[derive(Clone, Default)]
pub(super) struct Pace(Rc<Cell<Option<Instant>>>);

impl Pace {
    /// The socket took less than there is.
    pub(super) fn block(&self) {
        if self.0.get().is_none() {
            self.0.set(Some(Instant::now()));
        }
    }

    /// Everything is out.
    pub(super) fn flushed(&self) {
        self.0.set(None);
    }

    /// Waits until an answer has waited for too long.
    pub(super) async fn overdue(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.0.get().is_some_and(|since| since.elapsed() >= ANSWER_TIMEOUT) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_in_time_is_overdue() {
        let pace = Pace::default();
        let begun = Instant::now();
        let within = |limit| tokio::time::timeout(limit, pace.overdue());
        assert!(within(Duration::from_secs(600)).await.is_err(), "nothing waits");
        pace.block();
        pace.flushed();
        assert!(within(Duration::from_secs(600)).await.is_err(), "it was taken");
        let blocked = Instant::now();
        pace.block();
        assert!(within(Duration::from_secs(50)).await.is_err());
        pace.block();
        assert!(within(Duration::from_secs(21)).await.is_ok(), "a little taken in between is not all");
        assert!(blocked.elapsed() >= ANSWER_TIMEOUT && begun.elapsed() > ANSWER_TIMEOUT);
    }
}
