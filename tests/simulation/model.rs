//! The naive twin: the full list of what was published, and for each reader what it saw of it.
//!
//! A reader is owed every event of its topics that was published after it was opened. What it did
//! not get must have been told: after the loss, and before the next event of that topic; and
//! nothing may be told that was not lost.

use std::collections::HashMap;

use super::decode::{Block, Item};
use super::socket::{Arrival, Moment, Socket};

/// What became of a publish on its way to the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The shard took it.
    Taken,
    /// It was dropped for its size, and the shard was told so.
    TooLarge,
    /// It was lost on the way: the source was away, or the inbox ran over.
    Missed,
}

/// A publish.
#[derive(Debug)]
pub struct Published {
    pub topic: usize,
    pub name: String,
    /// With line ends as they arrive.
    pub text: String,
    /// Length of its frame as a chunk.
    pub encoded: usize,
    pub fate: Fate,
    /// When the shard learnt its fate.
    pub taken: Moment,
    /// It was put into a log.
    pub logged: bool,
}

/// The shard was told that something may have been missed in this place.
#[derive(Debug)]
pub struct Gap {
    pub at: Moment,
    /// What is published from here on comes after it.
    pub position: usize,
    /// Concerns streams that follow this topic; `None` means all.
    pub topic: Option<usize>,
}

impl Gap {
    fn concerns(&self, topics: &[usize]) -> bool {
        self.topic.is_none_or(|topic| topics.contains(&topic))
    }
}

/// Everything that was said to the shard, in order.
#[derive(Debug, Default)]
pub struct History {
    /// By number. Complete up to `taken`.
    pub published: Vec<Published>,
    pub taken: usize,
    /// Numbers of publishes taken, by topic.
    by_topic: HashMap<usize, Vec<usize>>,
    pub gaps: Vec<Gap>,
}

impl History {
    /// Notes that the shard learnt the fate of the next publish.
    pub fn take(&mut self, number: usize, fate: Fate, now: Moment) {
        assert_eq!(number, self.taken, "publishes are taken in order");
        self.taken += 1;
        let published = &mut self.published[number];
        (published.fate, published.taken) = (fate, now);
        self.by_topic.entry(published.topic).or_default().push(number);
    }

    /// Numbers of publishes on `topic` in `from..to`.
    fn between(&self, topic: usize, from: usize, to: usize) -> &[usize] {
        let all = self.by_topic.get(&topic).map_or(&[][..], |all| all);
        let begin = all.partition_point(|&number| number < from);
        let end = all.partition_point(|&number| number < to);
        &all[begin..end.max(begin)]
    }

    /// The newest event of `topic` that the shard had taken before `now`.
    fn newest(&self, topic: usize, now: Moment) -> Option<usize> {
        let all = self.by_topic.get(&topic)?;
        let is_there = |number: &&usize| {
            let published = &self.published[**number];
            published.fate == Fate::Taken && published.taken < now
        };
        all.iter().rev().find(is_there).copied()
    }

    /// The last events that were put into the log of `topic`, newest first.
    pub fn newest_logged(&self, topic: usize) -> impl Iterator<Item = &Published> {
        let all = self.by_topic.get(&topic).map_or(&[][..], |all| all);
        all.iter().rev().map(|&number| &self.published[number]).filter(|published| published.logged)
    }

    /// The first gap after `after` and before `before` that concerns a stream of `topics`.
    fn first_gap(&self, topics: &[usize], after: Moment, before: Moment) -> Option<&Gap> {
        self.gaps.iter().find(|gap| gap.concerns(topics) && gap.at > after && gap.at < before)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Gap,
    TooLarge,
    Overflow,
}

/// A reset as a reader saw it.
#[derive(Debug, Clone)]
struct Told {
    reason: Reason,
    said: Moment,
    /// The last event of the topic seen before it.
    behind: Option<usize>,
}

/// A topic as a reader sees it.
#[derive(Debug, Default)]
struct Followed {
    last: Option<usize>,
    told: Vec<Told>,
    /// The overflow reset after which no event was seen yet.
    skipping: Option<Moment>,
}

/// A connection's reader.
#[derive(Debug)]
pub struct Reader {
    pub topics: Vec<usize>,
    followed: HashMap<usize, Followed>,
    /// When it was opened, and the number of the first publish it is owed.
    pub opened: Option<(Moment, usize)>,
    pub joined: Moment,
    last: Option<usize>,
    /// The block that said goodbye.
    pub goodbye: Option<String>,
    pub ended: bool,
}

/// What the model must know of a seed's world.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The shard's budget is so small that it may evict even a log's newest event.
    pub tight: bool,
    /// Backlogs may be larger than one write.
    pub large: bool,
    /// Least ticks of silence before a heartbeat.
    pub heartbeat_min: u32,
}

impl Reader {
    pub fn new(topics: Vec<usize>, joined: Moment) -> Reader {
        let followed = topics.iter().map(|&topic| (topic, Followed::default())).collect();
        Reader { topics, followed, opened: None, joined, last: None, goodbye: None, ended: false }
    }

    /// Takes what has arrived.
    pub fn see(&mut self, arrival: &Arrival, history: &History, names: &[String], socket: &Socket, rules: Rules) {
        assert!(!self.ended, "something after the end");
        match &arrival.item {
            Item::Heartbeat => {
                let too_soon = arrival.silence.is_some_and(|silence| silence < rules.heartbeat_min);
                assert!(!too_soon, "a heartbeat after {:?} ticks", arrival.silence);
            }
            Item::End => {
                assert!(self.goodbye.is_some(), "an end without a last block");
                self.ended = true;
            }
            Item::Block(block) => {
                assert_eq!(self.goodbye, None, "a block after the last one");
                assert_eq!(block.id, "", "live events have no id");
                match block.name.strip_prefix("fanwheel.") {
                    Some(control) => self.see_control(control, block, arrival.said, history, names, socket),
                    None => self.see_event(block, history, socket, rules),
                }
            }
        }
    }

    fn see_control(
        &mut self,
        control: &str,
        block: &Block,
        said: Moment,
        history: &History,
        names: &[String],
        socket: &Socket,
    ) {
        let data: serde_json::Value = serde_json::from_str(&block.data).unwrap();
        let topics = || -> Vec<usize> {
            let named = data["topics"].as_array().expect("it names topics").iter();
            named.map(|name| names.iter().position(|other| Some(&other[..]) == name.as_str()).unwrap()).collect()
        };
        match control {
            "open" => {
                assert_eq!(self.opened, None, "opened once");
                assert!(block.has_retry && data["resumed"] == false);
                assert_eq!(sorted(topics()), sorted(self.topics.clone()));
                let first = history.published.iter().take(history.taken).rposition(|published| published.taken < said);
                self.opened = Some((said, first.map_or(0, |number| number + 1)));
            }
            "reset" => {
                let (opened, _) = self.opened.expect("open comes first");
                let reason = match data["reason"].as_str().unwrap() {
                    "gap" => Reason::Gap,
                    "too-large" => Reason::TooLarge,
                    "overflow" => Reason::Overflow,
                    other => panic!("reason {other}"),
                };
                let topics = topics();
                assert!(!topics.is_empty() && sorted(topics.clone()).windows(2).all(|two| two[0] != two[1]));
                for topic in topics {
                    self.see_reset(topic, reason, said, opened, history, socket);
                }
            }
            "unavailable" | "drain" => {
                assert!(block.has_retry && data["retry_ms"].is_u64());
                let why = data["reason"].as_str().map_or(String::new(), |reason| format!(" {reason}"));
                self.goodbye = Some(format!("{control}{why}"));
            }
            other => panic!("a control block {other}"),
        }
    }

    /// Nothing may be told that was not lost, and nothing twice.
    fn see_reset(
        &mut self,
        topic: usize,
        reason: Reason,
        said: Moment,
        opened: Moment,
        history: &History,
        socket: &Socket,
    ) {
        let followed = self.followed.get_mut(&topic).expect("a reset names topics of the stream");
        let before = followed.told.iter().rev().find(|told| told.reason == reason).map_or(opened, |told| told.said);
        let first = self.opened.expect("checked").1;
        let after = followed.last.map_or(first, |last| last + 1);
        let lost = |number: &&usize, fate: Fate| {
            let published = &history.published[**number];
            published.fate == fate && published.taken < said
        };
        match reason {
            Reason::Gap => {
                let cause = history.first_gap(&self.topics, before, said);
                assert!(cause.is_some(), "reset gap of topic {topic} without a gap since {before}");
            }
            Reason::TooLarge => {
                let mut all = history.between(topic, first, history.taken).iter();
                let cause =
                    all.any(|number| lost(&number, Fate::TooLarge) && history.published[*number].taken > before);
                assert!(cause, "reset too-large of topic {topic} without a cause since {before}");
            }
            Reason::Overflow => {
                assert!(socket.was_blocked(opened, said), "reset overflow on a stream that was never blocked");
                // What the reset before this one promised may be lost as well.
                let promised = history.newest(topic, before).map_or(after, |newest| newest.max(after));
                let mut behind = history.between(topic, promised, history.taken).iter();
                assert!(
                    behind.any(|number| lost(&number, Fate::Taken)),
                    "reset overflow of topic {topic} without a loss since {before}"
                );
                followed.skipping = Some(said);
            }
        }
        followed.told.push(Told { reason, said, behind: followed.last });
    }

    fn see_event(&mut self, block: &Block, history: &History, socket: &Socket, rules: Rules) {
        let number = number_of(block);
        let (_, first) = self.opened.expect("open comes first");
        assert!(number < history.taken, "event {number} was not ingested");
        let published = &history.published[number];
        let topic = published.topic;
        assert!(
            published.fate == Fate::Taken && number >= first,
            "event {number} is not for this stream: {published:?}"
        );
        assert!(self.last.is_none_or(|last| last < number), "event {number} after {:?}", self.last);
        assert!(published.name == block.name && published.text == block.data, "event {number} has changed");
        self.last = Some(number);
        let missing = self.check_told(topic, number, history, socket, rules);
        let followed = self.followed.get_mut(&topic).expect("an event of a topic not followed");
        if let Some(said) = followed.skipping.take() {
            assert!(missing > 0, "reset overflow of topic {topic}, but nothing was missing before {number}");
            let newest = history.newest(topic, said).expect("something was lost");
            assert!(number >= newest, "after an overflow the stream goes on with {newest}, not {number}");
        }
        followed.last = Some(number);
    }

    /// Checks that everything of `topic` before `end` was seen or told. Gives the number of events
    /// the shard had and this reader did not get.
    fn check_told(&self, topic: usize, end: usize, history: &History, socket: &Socket, rules: Rules) -> usize {
        let (opened, first) = self.opened.expect("checked");
        let followed = self.followed.get(&topic).expect("an event of a topic not followed");
        let after = followed.last.map_or(first, |last| last + 1);
        let missing = history.between(topic, after, end);
        for &number in missing {
            assert!(
                self.is_told(number, history, socket, rules),
                "{:?} {number} of topic {topic} (at {}) is missing before {end}; told: {:?}; blocked: {:?}",
                history.published[number].fate,
                history.published[number].taken,
                followed.told,
                socket.blocks,
            );
        }
        let gap = history.gaps.iter().rev().find(|gap| gap.concerns(&self.topics) && gap.position <= end);
        if let Some(gap) = gap.filter(|gap| gap.at > opened) {
            let told = followed.told.iter().any(|told| told.reason == Reason::Gap && told.said > gap.at);
            assert!(told, "the gap at {} was not told before {end} of topic {topic}: {:?}", gap.at, followed.told);
        }
        missing.iter().filter(|number| history.published[**number].fate == Fate::Taken).count()
    }

    fn is_told(&self, number: usize, history: &History, socket: &Socket, rules: Rules) -> bool {
        let published = &history.published[number];
        let followed = &self.followed[&published.topic];
        let (opened, first) = self.opened.expect("checked");
        let never_blocked = !socket.was_ever_blocked();
        let mut previous_gap = opened;
        followed.told.iter().any(|told| {
            let since_gap = previous_gap;
            if told.reason == Reason::Gap {
                previous_gap = told.said;
            }
            if told.said <= published.taken {
                return false;
            }
            // A reader that keeps up is told in the very place.
            let in_place = told.behind == followed.last || !never_blocked || rules.large || self.topics.len() > 1;
            match (told.reason, published.fate) {
                (Reason::Gap, Fate::Missed) | (Reason::TooLarge, Fate::TooLarge) => in_place,
                (Reason::Overflow, Fate::Taken) => {
                    // It was blocked when the oldest event left; what came after that is skipped too.
                    let from = told.behind.map_or(first, |behind| behind + 1);
                    let oldest = history.between(published.topic, from, number + 1)[0];
                    let newest = history.newest(published.topic, told.said);
                    let blocked = socket.was_blocked(history.published[oldest].taken, told.said);
                    blocked && (newest != Some(number) || rules.tight)
                }
                // A gap lasts until all topics of the stream are confirmed: until then nothing waits for it.
                (Reason::Gap, _) => history
                    .first_gap(&self.topics, since_gap, told.said)
                    .is_some_and(|gap| gap.position <= number || !never_blocked),
                _ => false,
            }
        })
    }

    /// Checks that the reader has everything.
    pub fn check_current(&self, history: &History, socket: &Socket, rules: Rules) {
        assert!(self.opened.is_some(), "not open, and not told why");
        for &topic in &self.topics {
            self.check_told(topic, history.taken, history, socket, rules);
        }
    }

    /// True exactly when events of `topic` are missing at the end that the shard had.
    pub fn is_behind(&self, topic: usize, history: &History) -> bool {
        let Some((_, first)) = self.opened else { return false };
        let after = self.followed[&topic].last.map_or(first, |last| last + 1);
        let missing = history.between(topic, after, history.taken);
        missing.iter().any(|number| history.published[*number].fate == Fate::Taken)
    }
}

/// Events carry their number: in their data, or in their name when the data is empty.
fn number_of(block: &Block) -> usize {
    let text = if block.data.is_empty() { &block.name } else { &block.data };
    let text = text.split(['#', '\n', ' ']).nth(1).unwrap_or_else(|| panic!("no number in {block:?}"));
    text.parse().unwrap()
}

fn sorted(mut topics: Vec<usize>) -> Vec<usize> {
    topics.sort_unstable();
    topics
}
