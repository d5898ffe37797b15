//! What befalls Redis, nodes and the links between them, and what publishers do.

use fanwheel::event::{EventId, Stamp, Stored, Tag};

use super::super::seat::Seat;
use super::World;
use crate::simulation::socket::{Sockets, Taste};

impl World {
    fn any_text(&mut self) -> (String, String) {
        let number = self.redis.truth.events.len();
        let letters =
            if self.rng.bool() { &["x"][..] } else { &["\n", "\r", "\r\n", " ", ":", "é", "data: ", "x"][..] };
        let size = self.rng.usize(0..self.data_max);
        let mut text = format!("#{number} ");
        while text.len() < size {
            text.push_str(letters[self.rng.usize(0..letters.len())]);
        }
        (if self.rng.u32(0..4) == 0 { format!("e{number}") } else { String::new() }, text)
    }

    /// A burst on one durable topic, or on several.
    pub(super) fn publish(&mut self) {
        let (topic, burst) = (self.rng.usize(0..self.redis.topics.durable), self.rng.usize(1..5));
        let burst = if self.rng.u32(0..4) == 0 { burst } else { 1 };
        for _ in 0..burst {
            self.tell_the_time();
            let topic = if self.rng.bool() { topic } else { self.rng.usize(0..self.redis.topics.durable) };
            let (name, text) = self.any_text();
            let number = self.redis.publish(topic, &name, &text);
            let record = &self.redis.truth.events[number];
            let Stored { id, prev } = record.event.stored.expect("it is of a durable topic");
            self.note(format_args!("publish {id} (after {prev}) on {}", record.event.topic));
        }
    }

    fn any_live(&mut self) -> Option<usize> {
        let (durable, all) = (self.redis.topics.durable, self.redis.topics.all.len());
        (durable < all).then(|| self.rng.usize(durable..all))
    }

    /// An event on a live topic, or a burst.
    pub(super) fn publish_live(&mut self) {
        let Some(topic) = self.any_live() else { return };
        // Now and then more than a log holds, and some take no more: those that follow the topic overflow.
        let burst = if self.rng.u32(0..8) == 0 { self.rng.usize(1..60) } else { 1 };
        for at in 0..self.clients.len() {
            if burst > 1 && self.is_connected(at) && self.rng.bool() {
                let socket = self.clients[at].socket.expect("it is connected");
                self.sockets.all[socket].taste = Taste::Room(self.rng.usize(0..100));
            }
        }
        for _ in 0..burst {
            self.tell_the_time();
            let (name, text) = self.any_text();
            self.note(format_args!("publish #{} on live {topic}", self.redis.truth.events.len()));
            self.redis.publish_live(topic, &name, &text);
        }
    }

    /// Something too large on a durable topic's channel: not made by the script.
    pub(super) fn publish_too_large(&mut self) {
        self.tell_the_time();
        let topic = self.rng.usize(0..self.redis.topics.durable);
        self.redis.publish_too_large(topic);
    }

    pub(super) fn publish_foreign(&mut self) {
        self.tell_the_time();
        let topic = self.rng.usize(0..self.redis.topics.durable);
        let at = |rng: &mut fastrand::Rng| match rng.u32(0..4) {
            0 => Stamp::ZERO,
            1 => Stamp::MAX,
            _ => Stamp { ms: rng.u64(0..5_000), n: rng.u64(0..3) },
        };
        let (stamp, prev) = (at(&mut self.rng), at(&mut self.rng));
        let tag = Tag::parse(["zzzz", "zzzy"][self.rng.usize(0..2)]).expect("four letters");
        self.note(format_args!("foreign {stamp}-{tag} on {topic}"));
        self.redis.publish_foreign(topic, Stored { id: EventId { stamp, tag }, prev });
        self.tally.foreign += 1;
    }

    pub(super) fn connect_or_cut(&mut self) {
        let seat = self.any_seat();
        self.tell_the_time();
        if self.seats[seat].connected {
            self.disconnect(seat);
            self.tally.cut += 1;
        } else {
            self.note(format_args!("{seat} connects"));
            self.seats[seat].connect(&mut self.redis);
        }
    }

    fn disconnect(&mut self, seat: usize) {
        let on_its_way = self.seats[seat].on_its_way(&self.redis);
        let arriving = self.rng.usize(0..=on_its_way);
        self.note(format_args!("{seat} is cut off, {arriving} of {on_its_way} messages arrive"));
        self.seats[seat].disconnect(&mut self.redis, arriving);
    }

    pub(super) fn cut_commands(&mut self) {
        let seat = self.any_seat();
        self.tell_the_time();
        self.note(format_args!("commands of {seat} are cut"));
        self.seats[seat].cut_commands(&mut self.redis, &mut self.rng);
    }

    /// Redis starts again, with or without its newest writes; or is emptied; or its clock goes back.
    pub(super) fn befall_redis(&mut self) {
        self.tell_the_time();
        match self.rng.u32(0..12) {
            0..=2 => self.restart(0),
            3..=7 => {
                let lost = self.rng.usize(1..8);
                self.restart(lost);
            }
            8 => {
                self.note(format_args!("Redis is flushed"));
                self.redis.flush();
                self.tally.flushed += 1;
            }
            9 => {
                self.note(format_args!("the index is lost"));
                self.redis.lose_index();
            }
            _ => {
                let back = self.rng.u64(1..2_000).min(self.redis.now_ms / 2);
                self.note(format_args!("Redis's clock goes back by {back}"));
                self.redis.now_ms -= back;
            }
        }
    }

    fn restart(&mut self, lost: usize) {
        self.note(format_args!("Redis restarts, {lost} writes are lost"));
        for seat in self.living() {
            if self.seats[seat].connected {
                self.disconnect(seat);
            }
        }
        self.redis.restart(lost);
        let count = if lost > 0 { &mut self.tally.rolled_back } else { &mut self.tally.restarted };
        *count += 1;
        // Most come back at once, those that do not are what a seed may be about.
        for seat in self.living() {
            if self.rng.u32(0..4) > 0 {
                self.note(format_args!("{seat} connects"));
                self.seats[seat].connect(&mut self.redis);
            }
        }
    }

    pub(super) fn tidy(&mut self) {
        self.tell_the_time();
        let topic = self.rng.usize(0..self.redis.topics.durable);
        self.note(format_args!("tidy {topic}"));
        self.redis.tidy(topic, self.forget_ms);
    }

    /// A publisher had been answered what is lost now, and its node says so.
    pub(super) fn mark_acknowledged(&mut self) {
        self.tell_the_time();
        let Some(state) = self.redis.truth.states.last() else { return };
        let lost = |&&(tag, last, lossy): &&(Tag, Stamp, bool)| {
            !lossy && self.redis.truth.tip(tag, self.redis.moment).is_some_and(|tip| tip > last)
        };
        let lost: Vec<Tag> = state.fences.iter().filter(lost).map(|fence| fence.0).collect();
        if let Some(&tag) = lost.get(self.rng.usize(0..lost.len().max(1))) {
            self.note(format_args!("what was lost of {tag} had been acknowledged"));
            self.redis.mark_lossy(tag);
        }
    }

    /// A node and all its connections vanish; another one takes its place.
    pub(super) fn kill_node(&mut self) {
        self.tell_the_time();
        let seat = self.any_seat();
        let node = self.seats[seat].node;
        self.note(format_args!("node {node} dies"));
        for seat in self.living() {
            if self.seats[seat].node == node {
                self.seats[seat].dead = true;
                let wire = &mut self.redis.wires[seat];
                (wire.alive, wire.queue) = (false, Default::default());
            }
        }
        for client in &mut self.clients {
            if self.seats[client.seat].dead
                && let Some(number) = client.socket.take()
            {
                // Of what was on its way the client may yet read.
                let socket = &mut self.sockets.all[number];
                client.flight.extend(socket.arrived.drain(..));
            }
        }
        self.tally.died += 1;
        self.start_node(node);
    }

    pub(super) fn start_node(&mut self, node: usize) {
        for _ in 0..self.rng.usize(self.shards.0..=self.shards.1) {
            let number = self.seats.len();
            let (tick, seed) = (self.sockets.tick, self.rng.u64(..));
            let mut seat = Seat::new(node, number, &self.limits, tick, seed);
            self.redis.wires.push(Default::default());
            seat.connect(&mut self.redis);
            self.seats.push(seat);
        }
    }

    /// What each shard says it holds is what it was given.
    pub(super) fn check_gauges(&self) {
        for seat in self.living() {
            let gauges = self.seats[seat].shard.gauges();
            let here = |client: &&super::Client| client.seat == seat;
            let open = self.clients.iter().filter(here).filter_map(|client| client.socket);
            let open: Vec<usize> = open.filter(|&socket| self.sockets.all[socket].is_open()).collect();
            let watched = open.iter().filter(|&&socket| self.sockets.all[socket].watched).count();
            assert_eq!((gauges.connections, gauges.blocked), (open.len(), watched), "connections, blocked");
            assert_eq!(gauges.timers, gauges.connections, "every connection has a timer");
        }
    }
}

/// Sockets at tick `start`.
pub(super) fn sockets(rng: fastrand::Rng, start: u32) -> Sockets {
    Sockets { all: Vec::new(), rng, moment: 0, tick: start, parsed: Default::default(), sends: 0 }
}
