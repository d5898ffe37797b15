//! How the node is asked to stop, and how its parts hear of it. A leaf anyone may use.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::warn;

/// The signals that end the node, SIGTERM and SIGINT; and SIGHUP, which must not: whoever sends it
/// wants settings reloaded, not streams cut.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to listen; from now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one that ends the node, and gives its name.
    pub async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                Some(()) = self.hangup.recv() => {
                    warn!("configuration reload does not exist yet; restart the node");
                }
            }
        }
    }
}

/// Says that the node stops; dropped unsaid, it says so too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Whether the node stops. Clones agree.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// A pair that belongs together.
#[must_use]
pub fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// From now on the node stops.
    pub fn set(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// True exactly when the node stops.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the node stops.
    pub async fn wait(&self) {
        // An error says that nobody is left who could say it, which is as good.
        let _ = self.0.clone().wait_for(|set| *set).await;
    }
}
