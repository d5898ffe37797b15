//! Rest: everything is done, delivered and taken; then nothing may be missing. And the end.

use super::super::seat::Seat;
use super::{PATIENCE, World};
use crate::simulation::socket::Taste;

impl World {
    /// Lets everybody take everything and Redis answer; then every client must have what there is.
    pub(super) fn come_to_rest(&mut self) {
        self.begin(format_args!("come to rest"));
        self.redis.open_clock();
        for seat in self.living() {
            if !self.seats[seat].connected {
                self.seats[seat].connect(&mut self.redis);
            }
        }
        let tastes: Vec<Taste> = self.sockets.all.iter().map(|socket| socket.taste).collect();
        self.sockets.all.iter_mut().for_each(|socket| socket.taste = Taste::Everything);
        for turn in 0.. {
            assert!(turn < PATIENCE, "it does not come to rest");
            let mut more = false;
            for seat in self.living() {
                more |= self.settle_seat(seat);
            }
            if !more && self.seats.iter().all(|seat| seat.is_quiet(&self.redis)) {
                break;
            }
        }
        for (socket, taste) in self.sockets.all.iter_mut().zip(tastes) {
            socket.taste = taste;
        }
        self.check_rest();
    }

    /// A turn of a shard for which nobody lets it wait. True exactly when it has more to do.
    fn settle_seat(&mut self, seat: usize) -> bool {
        let mut more = false;
        while self.seats[seat].undone() > 0 {
            self.do_at(seat, 0);
            more = true;
        }
        // Not always before the inbox: what is there waits for a moment at which no reader is to be served.
        while self.seats[seat].answers() > 0 && self.rng.bool() {
            self.answer_at(seat, 0);
        }
        more |= self.seats[seat].answers() > 0;
        self.seats[seat].deliver(&mut self.redis, usize::MAX);
        while self.take(seat) {
            more = true;
        }
        more |= self.catch_up(seat);
        for at in 0..self.clients.len() {
            if self.clients[at].seat == seat && self.is_watched(at) {
                self.ask(at);
            }
        }
        let sends = self.rng.usize(1..=20);
        self.sweep(seat, sends) || more
    }

    fn check_rest(&mut self) {
        for seat in self.living() {
            let gauges = self.seats[seat].shard.gauges();
            assert_eq!((gauges.run_queue, gauges.blocked), (0, 0), "run queue and blocked readers of {seat}");
            assert!(gauges.source_connected);
        }
        for at in 0..self.clients.len() {
            self.read_flight(at, usize::MAX);
            if self.is_connected(at) {
                let rested = self.clients[at].reader.check_at_rest(&self.redis.truth);
                rested.unwrap_or_else(|why| panic!("client {at} at moment {}: {why}", self.sockets.moment));
            }
        }
    }

    /// Everybody leaves; nothing may be left.
    pub(super) fn end(&mut self) {
        while self.any_client().is_some() {
            self.cut();
        }
        for _ in 0..2 {
            for _ in 0..=2 * self.limits.linger_ticks {
                self.tick();
            }
            self.come_to_rest();
        }
        for seat in self.living() {
            let Seat { shard, asked, .. } = &self.seats[seat];
            let gauges = shard.gauges();
            assert_eq!((gauges.connections, gauges.topics, gauges.timers, gauges.log_bytes), (0, 0, 0, 0), "of {seat}");
            assert_eq!(shard.next_deadline(), None);
            self.tally.barriers += asked.barriers;
            self.tally.reads += asked.reads;
            self.tally.marks += asked.marks;
        }
    }
}
