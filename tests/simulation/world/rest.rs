//! Rest: everybody takes everything, and nothing may be missing or left.

use super::{Leaving, PATIENCE, Step, World};
use crate::simulation::socket::Taste;

impl World {
    /// Lets everybody take everything and the source settle; then nothing may be missing.
    pub(super) fn come_to_rest(&mut self) {
        self.note(format_args!("come to rest"));
        if !self.source.connected {
            self.source.set_connected(true);
        }
        let tastes: Vec<Taste> = self.sockets.all.iter().map(|socket| socket.taste).collect();
        self.sockets.all.iter_mut().for_each(|socket| socket.taste = Taste::Everything);
        let mut sweeps = 0;
        loop {
            while !self.source.wishes.is_empty() {
                self.source.answer(0);
            }
            while self.take() {}
            for at in self.open.clone() {
                if self.sockets.all[at].watched {
                    self.ask(at);
                }
            }
            let sends = self.rng.usize(1..=20);
            let more = self.sweep(sends);
            sweeps += 1;
            assert!(sweeps < PATIENCE, "it does not come to rest");
            let quiet = self.held.is_none() && self.source.inbox.is_empty() && self.source.wishes.is_empty();
            if !more && quiet {
                break;
            }
        }
        for (socket, taste) in self.sockets.all.iter_mut().zip(tastes) {
            socket.taste = taste;
        }
        let gauges = self.shard.gauges();
        assert_eq!((gauges.run_queue, gauges.blocked, gauges.connections), (0, 0, self.open.len()));
        assert!(gauges.source_connected);
        for &at in &self.open {
            self.readers[at].check_current(&self.history, &self.sockets.all[at], self.rules);
        }
    }

    /// Everybody is asked to leave while life goes on, over so many ticks.
    fn drain(&mut self) {
        let ticks = self.rng.u32(0..30);
        self.begin(format_args!("drain over {ticks} ticks"));
        self.leaving = Leaving::Politely;
        self.shard.begin_drain(self.sockets.tick, ticks);
        for _ in 0..=ticks {
            self.tick();
            for step in [Step::Publish, Step::Join, Step::Take, Step::Sweep, Step::Writable, Step::Answer] {
                self.take_step(step);
            }
        }
        // Whoever is left was told behind what it does not take.
        assert!(self.open.iter().all(|&at| self.sockets.all[at].watched), "{:?}", self.open);
    }

    /// Everybody leaves; nothing may be left.
    pub(super) fn end(&mut self) {
        if self.rng.bool() {
            self.drain();
        }
        if self.rng.bool() {
            self.begin(format_args!("stop"));
            self.leaving = Leaving::Everybody;
            self.shard.close_all(&mut self.sockets);
            self.settle();
        }
        for at in self.open.clone() {
            self.leave(at);
        }
        assert!(self.open.is_empty());
        for _ in 0..2 {
            for _ in 0..=2 * self.limits.linger_ticks {
                self.tick();
            }
            self.come_to_rest();
        }
        let gauges = self.shard.gauges();
        assert_eq!((gauges.connections, gauges.topics, gauges.timers, gauges.log_bytes), (0, 0, 0, 0));
        assert_eq!(self.shard.next_deadline(), None);
    }
}
