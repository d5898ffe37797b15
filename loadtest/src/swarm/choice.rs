//! Which topics each stream follows.
//!
//! **For:** load that is spread as it is in the field. Topics are published in rotation: a stream of
//! neighbours would get its events in lumps, and batching would look better than it is.
//! **What always holds:** a stream's topics are distinct and follow from its number in the run, so
//! that parent and workers agree, and the next run and the next server have the same streams.
//! **What it costs:** nothing is stored where a stream follows one topic or all of them; else 2 bytes
//! per stream and topic, and a binary search per event.
//! **Not chosen:** a draw per stream, independent of the others', which leaves topics with uneven
//! numbers of streams. Topics are dealt like cards instead, to as many streams as a deck is enough for:
//!
//! ```text
//!   10 topics, 3 per stream      deck 0, shuffled          deck 1, shuffled
//!                             7 2 9│4 0 5│8 1 3│6       3 9 1│0 7 6│2 4 8│5
//!                             s0    s1    s2             s3    s4    s5
//! ```
//!
//! Where the topics of a stream divide those of the run, no card is left: any two topics have the same
//! number of streams, to within the one of the last deck.

use std::ops::Range;

use crate::payload::INDEX_MAX;

const _: () = assert!(INDEX_MAX <= u16::MAX as usize);

/// The topics of some streams, numbered from 0.
#[derive(Debug)]
pub(crate) struct Choice {
    topics: usize,
    /// `1..=topics`
    per_stream: usize,
    /// The number of the first stream among all of the run.
    first_stream: usize,
    /// Stream s has `s * per_stream..(s + 1) * per_stream`, ascending. Empty where a stream follows
    /// one topic or all of them.
    drawn: Vec<u16>,
}

impl Choice {
    /// For streams of these numbers in the run.
    pub(super) fn new(topics: usize, per_stream: usize, streams: Range<usize>) -> Self {
        let first_stream = streams.start;
        let is_drawn = 1 < per_stream && per_stream < topics;
        let drawn = if is_drawn { deal(topics, per_stream, streams) } else { Vec::new() };
        Self { topics, per_stream, first_stream, drawn }
    }

    /// The stream's `nth` topic, `nth < per_stream`.
    #[inline]
    pub(super) fn topic(&self, stream: usize, nth: usize) -> usize {
        if self.per_stream == self.topics {
            nth
        } else if self.per_stream == 1 {
            self.turn(stream)
        } else {
            usize::from(self.drawn[stream * self.per_stream + nth])
        }
    }

    /// Which of the stream's topics this is; `None` when it follows another, or none has this number.
    #[inline]
    pub(super) fn nth(&self, stream: usize, topic: u16) -> Option<usize> {
        if self.per_stream == self.topics {
            Some(usize::from(topic)).filter(|&nth| nth < self.topics)
        } else if self.per_stream == 1 {
            (usize::from(topic) == self.turn(stream)).then_some(0)
        } else {
            self.drawn[stream * self.per_stream..][..self.per_stream].binary_search(&topic).ok()
        }
    }

    pub(crate) fn topics(&self, stream: usize) -> impl Iterator<Item = usize> {
        (0..self.per_stream).map(move |nth| self.topic(stream, nth))
    }

    /// Streams of one topic take turns. In 32 bits, because it is asked per event.
    #[inline]
    fn turn(&self, stream: usize) -> usize {
        ((self.first_stream + stream) as u32 % self.topics as u32) as usize
    }
}

fn deal(topics: usize, per_stream: usize, streams: Range<usize>) -> Vec<u16> {
    let streams_per_deck = topics / per_stream;
    let mut drawn = Vec::with_capacity(streams.len() * per_stream);
    let mut deck = Vec::new();
    for stream in streams {
        let place = stream % streams_per_deck;
        if place == 0 || deck.is_empty() {
            deck = shuffled(topics, (stream / streams_per_deck) as u64);
        }
        let hand = &mut deck[place * per_stream..][..per_stream];
        hand.sort_unstable();
        drawn.extend_from_slice(hand);
    }
    drawn
}

/// Deck number `deck`: Fisher-Yates. Each deck has numbers of the generator of its own.
fn shuffled(topics: usize, deck: u64) -> Vec<u16> {
    let mut cards: Vec<u16> = (0..topics as u16).collect();
    for left in (1..topics).rev() {
        let wide = u128::from(random(deck * topics as u64 + left as u64)) * (left as u128 + 1);
        cards.swap(left, (wide >> 64) as usize);
    }
    cards
}

/// The `index`-th number of splitmix64.
fn random(index: u64) -> u64 {
    let mut bits = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const SHAPES: [(usize, usize); 8] = [(1, 1), (7, 1), (7, 7), (50, 5), (50, 7), (50, 30), (3, 2), (2_000, 10)];

    proptest! {
        #[test]
        fn a_choice_answers_like_a_set_of_distinct_topics(
            (topics, per_stream) in (1_usize..80).prop_flat_map(|topics| (Just(topics), 1..=topics)),
            first in 0_usize..10_000,
            streams in 1_usize..40,
        ) {
            let choice = Choice::new(topics, per_stream, first..first + streams);
            for stream in 0..streams {
                let set: HashSet<usize> = choice.topics(stream).collect();
                prop_assert_eq!(set.len(), per_stream);
                prop_assert!(set.iter().all(|&topic| topic < topics));
                for topic in (0..topics + 2).chain([usize::from(u16::MAX)]) {
                    let nth = choice.nth(stream, topic as u16);
                    prop_assert_eq!(nth.is_some(), set.contains(&topic));
                    prop_assert!(nth.is_none_or(|nth| choice.topic(stream, nth) == topic));
                }
            }
        }
    }

    #[test]
    fn a_part_of_the_streams_has_the_topics_it_has_among_all() {
        for (topics, per_stream) in SHAPES {
            let all = Choice::new(topics, per_stream, 0..100);
            for part in [0..1, 0..37, 37..38, 37..100] {
                let choice = Choice::new(topics, per_stream, part.clone());
                for (index, stream) in part.enumerate() {
                    let own: Vec<usize> = choice.topics(index).collect();
                    assert_eq!(own, all.topics(stream).collect::<Vec<_>>(), "{topics} {per_stream} {stream}");
                }
            }
        }
    }

    /// Streams of each topic, where there are so many streams.
    fn loads(topics: usize, per_stream: usize, streams: usize) -> Vec<usize> {
        let choice = Choice::new(topics, per_stream, 0..streams);
        let mut loads = vec![0; topics];
        (0..streams).flat_map(|stream| choice.topics(stream)).for_each(|topic| loads[topic] += 1);
        loads
    }

    #[test]
    fn every_topic_is_followed_as_often_as_any_other() {
        for (topics, per_stream) in SHAPES {
            let streams = (20 * topics).div_ceil(per_stream);
            let loads = loads(topics, per_stream, streams);
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            assert!(*least > 0, "{topics} {per_stream}");
            assert!(topics % per_stream > 0 || most - least <= 1, "{topics} {per_stream}: {least} to {most}");
        }
        // Where cards are left over, chance makes the difference: 3,000 ± 35 here.
        assert!(loads(50, 30, 5_000).iter().all(|load| (2_800..3_200).contains(load)));
    }

    #[test]
    fn a_stream_of_some_topics_has_few_neighbours() {
        let choice = Choice::new(50, 5, 0..1_000);
        let neighbours = |stream| {
            let followed: Vec<usize> = choice.topics(stream).collect();
            followed.windows(2).filter(|pair| pair[1] == pair[0] + 1).count()
        };
        // Each of 49 pairs with a chance of 5/50 · 4/49: 0.4 per stream. Of five in a row it is 4.
        let all: usize = (0..1_000).map(neighbours).sum();
        assert!((300..500).contains(&all), "{all}");
    }

    #[test]
    fn streams_of_one_topic_take_turns_and_nothing_is_stored_for_them_or_for_all_topics() {
        let one = Choice::new(4, 1, 6..12);
        assert_eq!((0..6).map(|stream| one.topic(stream, 0)).collect::<Vec<_>>(), [2, 3, 0, 1, 2, 3]);
        let all = Choice::new(4, 4, 6..12);
        assert_eq!(all.topics(5).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!((one.drawn.capacity(), all.drawn.capacity()), (0, 0));
        assert_eq!(Choice::new(4, 2, 6..12).drawn.capacity(), 12);
    }
}
