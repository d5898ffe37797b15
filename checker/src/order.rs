//! Do streams agree on one order?
//!
//! With several publishers on a topic, each stream may see every publisher's numbers in order and
//! still disagree with its neighbour about how the publishers interleave. Each stream keeps a
//! running hash of what arrived, in arrival order; streams that saw equally many events and no
//! reset must have the same hash. A difference proves two orders; equality proves one except for
//! a chance of about 2⁻⁶⁴ per pair.
//!
//! A stream that lost an event has another count or another hash: the loss is what to look at
//! first, and is counted elsewhere.

use std::collections::HashMap;

/// The running hash of one stream and topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OrderHash {
    hash: u64,
    count: u64,
}

impl OrderHash {
    /// Takes an event that arrived.
    #[inline]
    pub fn handle_event(&mut self, publisher: u64, seq: u64) {
        // Two rounds of a 64-bit mixer (the constants are those of splitmix64): the second one
        // depends on the first, so that swapping two events changes the result.
        self.hash = mix(self.hash ^ mix(publisher.rotate_left(48) ^ seq)).wrapping_add(self.count);
        self.count += 1;
    }

    /// Events so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The hash of the order so far.
    pub fn digest(&self) -> u64 {
        self.hash
    }
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The distinct orders of one topic over many streams.
#[derive(Debug, Clone, Default)]
pub struct OrderSurvey {
    /// (count, digest) → streams that ended with it.
    streams: HashMap<(u64, u64), u64>,
}

impl OrderSurvey {
    /// Takes what `streams` streams ended with. Leave out those that were reset.
    pub fn add(&mut self, count: u64, digest: u64, streams: u64) {
        *self.streams.entry((count, digest)).or_default() += streams;
    }

    /// Each (count, digest, streams) there is.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.streams.iter().map(|(&(count, digest), &streams)| (count, digest, streams))
    }

    /// The most orders among streams that saw equally many events: 1 when all agree, 0 without streams.
    pub fn orders_seen(&self) -> u64 {
        let mut orders: HashMap<u64, u64> = HashMap::new();
        for (count, _) in self.streams.keys() {
            *orders.entry(*count).or_default() += 1;
        }
        orders.into_values().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(events: &[(u64, u64)]) -> OrderHash {
        let mut order = OrderHash::default();
        events.iter().for_each(|&(publisher, seq)| order.handle_event(publisher, seq));
        order
    }

    #[test]
    fn streams_that_interleave_two_publishers_alike_agree() {
        let mut survey = OrderSurvey::default();
        for _ in 0..3 {
            let seen = order(&[(0, 0), (1, 0), (0, 1)]);
            survey.add(seen.count(), seen.digest(), 1);
        }
        assert_eq!(survey.orders_seen(), 1);
    }

    #[test]
    fn another_interleaving_is_another_order_although_each_publisher_is_in_order() {
        let mut survey = OrderSurvey::default();
        for seen in [order(&[(0, 0), (1, 0), (0, 1)]), order(&[(0, 0), (0, 1), (1, 0)])] {
            survey.add(seen.count(), seen.digest(), 1);
        }
        assert_eq!(survey.orders_seen(), 2);
    }

    #[test]
    fn a_stream_that_saw_fewer_events_is_not_held_against_the_others() {
        let mut survey = OrderSurvey::default();
        for seen in [order(&[(0, 0), (1, 0)]), order(&[(0, 0)])] {
            survey.add(seen.count(), seen.digest(), 1);
        }
        assert_eq!(survey.orders_seen(), 1);
    }
}
