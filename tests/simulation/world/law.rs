//! What must hold after each step, beside what readers and sockets check themselves.

use fanwheel::engine::CloseReason;

use super::{Leaving, World};

impl World {
    /// When the run queue is empty, nobody who can be written to lacks anything.
    pub(super) fn check_ready_readers(&self) {
        for &at in &self.open {
            let (socket, reader) = (&self.sockets.all[at], &self.readers[at]);
            let waits = reader.topics.iter().any(|&topic| !self.confirmed[topic]);
            if reader.opened.is_some() && !socket.watched && !waits {
                reader.check_current(&self.history, socket, self.rules);
            }
        }
    }

    pub(super) fn check_deadlines(&self, at: usize) {
        let (socket, reader) = (&self.sockets.all[at], &self.readers[at]);
        let tick = self.sockets.tick;
        let limits = &self.limits;
        if socket.watched {
            // One that is not open yet is looked at when it should be.
            let looked_at = if reader.opened.is_some() { 0 } else { self.joined[at] + limits.open_ticks };
            let due = (socket.stalled_since + limits.stall_ticks).max(looked_at + 1);
            assert!(tick < due, "socket {at} has stalled");
            return;
        }
        if reader.opened.is_some() {
            let silence = tick - socket.written;
            let silence_max = limits.heartbeat_ticks + limits.heartbeat_ticks * 20 / 100 + 1;
            assert!(silence <= silence_max, "socket {at} is silent for {silence} ticks, at most {silence_max}");
        } else if reader.topics.iter().all(|&topic| self.refused[topic] < reader.joined)
            && reader.topics.iter().any(|&topic| !self.confirmed[topic])
        {
            let waits = tick - self.joined[at];
            // When it was blocked at its deadline, or was just to be opened, its next timer counts.
            let late = if socket.was_ever_blocked() || self.disconnected > reader.joined {
                limits.stall_ticks.max(limits.heartbeat_ticks * 2)
            } else {
                1
            };
            assert!(waits < limits.open_ticks + late, "socket {at} waits for {waits} ticks to be opened");
        }
    }

    pub(super) fn check_gauges(&mut self) {
        let gauges = self.shard.gauges();
        assert_eq!(gauges.connections, self.open.len());
        let watched = self.open.iter().filter(|&&at| self.sockets.all[at].watched).count();
        assert_eq!(gauges.blocked, watched);
        assert_eq!(gauges.timers, gauges.connections, "every connection has a timer");
        // Once for each connection and each topic, those that are gone included.
        let queue_max = self.open.len() + self.closed + 2 * self.topics.len();
        assert!(gauges.run_queue <= queue_max, "{} entries in the run queue", gauges.run_queue);
        if gauges.run_queue == 0 {
            self.closed = 0;
        }
        // The budget is enforced when an event is taken. What grows later are encodings, of events
        // that were in a log then: at most the newest of each topic.
        let events_max = self.limits.classes.0[0].1.log.events_max;
        if gauges.log_bytes > self.budget {
            let newest = (0..self.topics.len()).flat_map(|topic| self.history.newest_logged(topic).take(events_max));
            let encodings: usize = newest.map(|published| published.encoded).sum();
            assert!(gauges.log_bytes <= self.budget + encodings, "{} bytes", gauges.log_bytes);
        }
    }

    pub(super) fn check_close(&self, at: usize, reason: CloseReason) {
        let (socket, reader) = (&self.sockets.all[at], &self.readers[at]);
        let goodbye = reader.goodbye.as_deref();
        // Whoever could be written to was told, and the body ended; whoever could not was just cut off.
        let said = |what: &str| goodbye == Some(what) && socket.decoder.is_complete();
        let told = |what: &str| said(what) || socket.is_stuck(self.sockets.moment) || socket.is_dead();
        let right = match reason {
            _ if self.leaving == Leaving::One(at) => true,
            CloseReason::Gone => socket.is_dead() || (goodbye.is_some() && socket.decoder.is_complete()),
            CloseReason::Stalled => {
                socket.watched && socket.stalled_since + self.limits.stall_ticks <= self.sockets.tick
            }
            CloseReason::Overflow => {
                // Its `open` block may wait behind what blocks it.
                let is_behind = |topic| reader.opened.is_none() || reader.is_behind(topic, &self.history);
                let cuts = |topic: &usize| self.names[*topic].starts_with("cut.") && is_behind(*topic);
                socket.was_ever_blocked() && reader.topics.iter().any(cuts) && told("drain overload")
            }
            CloseReason::Budget => self.rules.tight && socket.watched && !socket.decoder.is_at_border(),
            CloseReason::Unavailable => {
                let late = reader.opened.is_none() && self.sockets.tick >= self.joined[at] + self.limits.open_ticks;
                let refused = reader.topics.iter().any(|&topic| self.refused[topic] > reader.joined);
                (late || refused) && told("unavailable")
            }
            CloseReason::Limit => {
                socket.unparkable || (self.limits.topics_max < 1_000 && (said("drain limit") || socket.id.is_none()))
            }
            // Only data-only WebSockets cannot be told of a loss.
            CloseReason::Protocol | CloseReason::Lost => false,
            CloseReason::Shutdown => {
                self.leaving == Leaving::Everybody
                    || (self.leaving == Leaving::Politely
                        && (told("drain shutdown") || socket.watched || socket.id.is_none()))
            }
        };
        assert!(right, "socket {at} was closed: {reason:?}, goodbye {goodbye:?}, tick {}", self.sockets.tick);
    }
}
