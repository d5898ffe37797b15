//! Pieces of history that replaying readers share.
//!
//! ```text
//!  reader at C ──► is it on a page? ──yes──► served
//!                       │no
//!                       ├─ one that begins at or before C is being read ──► waits for it
//!                       └─ asked for; whoever comes meanwhile waits too
//! ```
//!
//! What always holds: a page is contiguous, and whatever lies between `after` and its `end` is on it. After a
//! reconnect storm the same pages serve everybody: the source is read once per topic and piece, not once per client.
//!
//! # Overload
//! At most `READS_MAX` reads are under way, the others wait in line; pages are kept up to [`PAGES_BYTES_MAX`], those
//! not used for longest leave first. A reader that finds its page gone asks again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use crate::engine::conn::ConnId;
use crate::engine::history::{Page, Read};
use crate::engine::policy::READS_MAX;
use crate::engine::slab::Key;
use crate::event::Stamp;
use crate::frame::{ByteBudget, Frame};
use crate::topic::Topic;

/// Most bytes of pages a shard keeps, the last one asked for not counted.
pub const PAGES_BYTES_MAX: usize = 8 << 20;
/// About so many bytes of history are read at once for one reader, over all of its topics.
pub const PAGE_BYTES_MAX: usize = 64 << 10;

/// Why something is read.
#[derive(Debug)]
pub enum Purpose {
    /// For readers that wait.
    Pages(Vec<(Topic, Stamp)>),
    /// For the logs of topics that were just settled, up to this number.
    Tails(Stamp, Vec<Key>),
    /// For a reader that wants the newest events.
    Start(ConnId),
    /// For a repair, by its number: the indices of its topics.
    Repair(u64, Vec<usize>),
}

/// What was asked, and in which era.
#[derive(Debug)]
pub struct Asked {
    /// Why.
    pub purpose: Purpose,
    /// The watermark when it was asked: an answer holds everything up to there.
    pub upto: Stamp,
    /// See [`Pages::begin_era`].
    pub era: u64,
}

/// A page, as it was read. Whoever is being served holds it for one write at most.
#[derive(Debug)]
pub struct Cached {
    /// Oldest first.
    pub events: Vec<Rc<Frame>>,
    /// Everything up to here is on it.
    pub end: Stamp,
    /// The topic's newest number when it was read, or the highest it may have had.
    pub last: Stamp,
}

/// A page, as it is kept.
#[derive(Debug)]
struct Kept {
    page: Rc<Cached>,
    /// `Pages::uses` when it was last used.
    used: u64,
    /// Under which it stands in `Pages::leaving`. `queued <= used`.
    queued: u64,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Pages {
    /// By topic, and by the number after which each begins.
    kept: HashMap<Topic, BTreeMap<Stamp, Kept>, foldhash::fast::RandomState>,
    /// Every page that is kept, by when it was used last, or at an earlier use: what stands in front is looked at
    /// before it leaves, and a use costs nothing here.
    leaving: BTreeMap<u64, (Topic, Stamp)>,
    bytes: usize,
    /// Counts uses.
    uses: u64,
    /// `uses` when the answer that is being kept came: its pages are needed together, and do not push each other out.
    batch: u64,
    /// Who waits for which page.
    awaited: HashMap<Topic, BTreeMap<Stamp, Vec<ConnId>>, foldhash::fast::RandomState>,
    /// Reads under way, by number.
    asked: HashMap<u64, Asked>,
    /// Reads that wait for their turn.
    line: VecDeque<(u64, Read)>,
    under_way: usize,
    numbers: u64,
    era: u64,
}

impl Cached {
    /// Position of the first event behind `at`.
    #[must_use]
    pub fn position_after(&self, at: Stamp) -> usize {
        self.events.partition_point(|frame| frame.stored().is_some_and(|stored| stored.id.stamp <= at))
    }
}

impl Pages {
    /// The page of `topic` that goes on from `at`, if it is here.
    pub fn find(&mut self, topic: &Topic, at: Stamp) -> Option<Rc<Cached>> {
        let (_, kept) = self.kept.get_mut(topic)?.range_mut(..=at).next_back()?;
        self.uses += 1;
        kept.used = self.uses;
        (at < kept.page.end).then(|| Rc::clone(&kept.page))
    }

    /// Forgets the pages of a topic that nobody follows any more.
    pub fn forget_topic(&mut self, topic: &Topic) {
        for kept in self.kept.remove(topic).unwrap_or_default().into_values() {
            self.let_go(&kept);
        }
    }

    /// Forgets the page that goes on from `at`: it does not tell what must be known by now.
    pub fn forget(&mut self, topic: &Topic, at: Stamp) {
        let Some(pages) = self.kept.get_mut(topic) else { return };
        let Some((&after, _)) = pages.range(..=at).next_back() else { return };
        let kept = pages.remove(&after);
        if pages.is_empty() {
            self.kept.remove(topic);
        }
        if let Some(kept) = kept {
            self.let_go(&kept);
        }
    }

    fn let_go(&mut self, kept: &Kept) {
        self.bytes -= kept.bytes;
        self.leaving.remove(&kept.queued);
    }

    /// Lets `reader` wait for pages of these topics, each going on from a number. Asks for those nobody has asked for.
    /// Gives how many it waits for.
    pub fn await_pages(&mut self, reader: ConnId, topics: Vec<(Topic, Stamp)>, upto: Stamp) -> usize {
        let count = topics.len();
        let mut wanted = Vec::new();
        for (topic, at) in topics {
            let awaited = self.awaited.entry(topic.clone()).or_default();
            match awaited.range_mut(..=at).next_back() {
                Some((_, readers)) => readers.push(reader),
                None => {
                    awaited.insert(at, vec![reader]);
                    wanted.push((topic, at));
                }
            }
        }
        if !wanted.is_empty() {
            let bytes_max = (PAGE_BYTES_MAX / wanted.len()).max(4 << 10);
            let read = Read::After { topics: wanted.clone(), bytes_max };
            self.ask(Purpose::Pages(wanted), read, upto);
        }
        count
    }

    /// Puts a read in line.
    pub fn ask(&mut self, purpose: Purpose, read: Read, upto: Stamp) {
        self.numbers += 1;
        self.asked.insert(self.numbers, Asked { purpose, upto, era: self.era });
        self.line.push_back((self.numbers, read));
    }

    /// The next read whose turn it is.
    pub fn take_read(&mut self) -> Option<(u64, Read)> {
        if self.under_way >= READS_MAX {
            return None;
        }
        let next = self.line.pop_front()?;
        self.under_way += 1;
        Some(next)
    }

    /// What an answer is for.
    pub fn handle_answer(&mut self, number: u64) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        self.under_way -= 1;
        self.batch = self.uses;
        Some(asked)
    }

    /// True exactly when what was asked then still means the same history.
    #[must_use]
    pub fn is_current(&self, era: u64) -> bool {
        self.era == era
    }

    /// Keeps a page that was read for `(topic, after)`, and gives those who waited for it.
    pub fn keep(&mut self, mut page: Page, after: Stamp, upto: Stamp, budget: &ByteBudget) -> Vec<ConnId> {
        let readers = self.stop_waiting(&page.topic, after);
        let newest = page.events.last().and_then(|event| event.stored).map_or(after, |stored| stored.id.stamp);
        if planted!("page-border") && page.more {
            page.events.pop();
        }
        let end = if page.more { newest } else { newest.max(upto) };
        let bytes: usize = page.events.iter().map(|event| crate::frame::FRAME_OVERHEAD + 2 * event.weight()).sum();
        let bytes = bytes + size_of::<Cached>() + size_of::<Kept>();
        let events = page.events.into_iter().map(|event| Rc::new(Frame::new(event, budget))).collect();
        self.uses += 1;
        while self.bytes + bytes > PAGES_BYTES_MAX && self.drop_oldest(self.batch) {}
        let cached = Rc::new(Cached { events, end, last: page.last });
        let kept = Kept { page: cached, used: self.uses, queued: self.uses, bytes };
        self.bytes += bytes;
        self.leaving.insert(self.uses, (page.topic.clone(), after));
        if let Some(before) = self.kept.entry(page.topic).or_default().insert(after, kept) {
            self.let_go(&before);
        }
        readers
    }

    /// Nobody waits for this page any more; gives those who did.
    pub fn stop_waiting(&mut self, topic: &Topic, after: Stamp) -> Vec<ConnId> {
        let Some(awaited) = self.awaited.get_mut(topic) else { return Vec::new() };
        let readers = awaited.remove(&after).unwrap_or_default();
        if awaited.is_empty() {
            self.awaited.remove(topic);
        }
        readers
    }

    /// What was read so far, and what is being read, is of a history that is no longer there.
    pub fn begin_era(&mut self) {
        self.era += 1;
        self.kept.clear();
        self.leaving.clear();
        self.bytes = 0;
    }

    /// Drops the page that was not used for longest. False when there is none.
    pub fn drop_any(&mut self) -> bool {
        self.drop_oldest(u64::MAX)
    }

    /// Drops the page that was not used for longest, if that is no later than `use_max`.
    fn drop_oldest(&mut self, use_max: u64) -> bool {
        while let Some((queued, (topic, after))) = self.leaving.pop_first() {
            let Some(kept) = self.kept.get_mut(&topic).and_then(|pages| pages.get_mut(&after)) else { continue };
            if kept.used > queued {
                kept.queued = kept.used;
                self.leaving.insert(kept.used, (topic, after));
                continue;
            }
            if queued > use_max {
                self.leaving.insert(queued, (topic, after));
                return false;
            }
            self.forget(&topic, after);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId, Stored, Tag};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn at(ms: u64) -> Stamp {
        Stamp { ms, n: 0 }
    }

    fn topic(name: &str) -> Topic {
        Topic::parse(name).expect("a topic")
    }

    fn reader(slot: u32) -> ConnId {
        Key { slot, generation: 0 }
    }

    static FILLER: [u8; PAGES_BYTES_MAX] = [b' '; PAGES_BYTES_MAX];

    fn page(name: &str, numbers: &[u64], more: bool, size: usize) -> Page {
        let event = |ms: u64| Event {
            topic: topic(name),
            name: None,
            key: None,
            data: Bytes::from_static(&FILLER[..size]),
            stored: Some(Stored { id: EventId { stamp: at(ms), tag: Tag::NONE }, prev: Stamp::ZERO }),
            received_us: 0,
        };
        let events = numbers.iter().map(|&ms| Arc::new(event(ms))).collect();
        Page { topic: topic(name), events, more, last: at(numbers.last().copied().unwrap_or(0)) }
    }

    #[test]
    fn readers_of_one_place_share_one_read() {
        let mut pages = Pages::default();
        assert_eq!(pages.await_pages(reader(1), vec![(topic("a"), at(5)), (topic("b"), at(5))], at(9)), 2);
        assert_eq!(pages.await_pages(reader(2), vec![(topic("a"), at(7))], at(9)), 1, "it may be on that page");
        let (number, read) = pages.take_read().expect("asked");
        assert!(matches!(read, Read::After { topics, .. } if topics == [(topic("a"), at(5)), (topic("b"), at(5))]));
        assert!(pages.take_read().is_none());
        let asked = pages.handle_answer(number).expect("it was asked");
        assert_eq!(
            pages.keep(page("a", &[6, 8], false, 1), at(5), asked.upto, &ByteBudget::default()),
            [reader(1), reader(2)]
        );
        assert_eq!(pages.find(&topic("a"), at(7)).map(|page| page.position_after(at(7))), Some(1));
        assert!(pages.find(&topic("a"), at(4)).is_none(), "it begins behind that");
        assert!(pages.find(&topic("a"), at(9)).is_none(), "up to here it was read, and no further");
    }

    #[test]
    fn a_page_with_more_behind_it_ends_at_its_last_event() {
        let mut pages = Pages::default();
        pages.keep(page("a", &[6, 8], true, 1), at(5), at(20), &ByteBudget::default());
        assert!(pages.find(&topic("a"), at(7)).is_some());
        assert!(pages.find(&topic("a"), at(8)).is_none());
    }

    #[test]
    fn pages_are_bounded_but_those_of_one_answer_stay_together() {
        let mut pages = Pages::default();
        let size = PAGES_BYTES_MAX / 6;
        let mut answer = |names: &[&str]| {
            pages.batch = pages.uses;
            names.iter().for_each(|name| {
                pages.keep(page(name, &[6], false, size), at(5), at(9), &ByteBudget::default());
            });
            ["a", "b", "c", "d", "e", "f"].map(|name| pages.find(&topic(name), at(5)).is_some())
        };
        assert_eq!(answer(&["a", "b"]), [true, true, false, false, false, false]);
        assert_eq!(answer(&["c", "d", "e", "f"]), [false, false, true, true, true, true]);
        assert!(pages.drop_any());
    }

    #[test]
    fn no_more_reads_are_under_way_than_may_be() {
        let mut pages = Pages::default();
        for slot in 0..READS_MAX as u32 + 2 {
            pages.await_pages(reader(slot), vec![(topic(&format!("t{slot}")), at(5))], at(9));
        }
        let first = pages.take_read().expect("asked").0;
        assert_eq!(std::iter::from_fn(|| pages.take_read()).count(), READS_MAX - 1);
        assert!(pages.handle_answer(first).is_some() && pages.handle_answer(first).is_none());
        assert!(pages.take_read().is_some() && pages.take_read().is_none());
    }

    /// What is kept, by topic and place: when it was used, and its bytes.
    type Twin = BTreeMap<(usize, u64), (u64, usize)>;

    #[derive(Debug, Clone)]
    enum Step {
        Answer,
        Keep(usize, u64, usize),
        Find(usize, u64),
        Forget(usize, u64),
        ForgetTopic(usize),
        DropAny,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => Just(Step::Answer),
            6 => (0..4usize, 0..6u64, 1..20usize).prop_map(|(name, after, size)| Step::Keep(name, after, size)),
            6 => (0..4usize, 0..8u64).prop_map(|(name, at)| Step::Find(name, at)),
            1 => (0..4usize, 0..8u64).prop_map(|(name, at)| Step::Forget(name, at)),
            1 => (0..4usize).prop_map(Step::ForgetTopic),
            1 => Just(Step::DropAny),
        ];
        proptest::collection::vec(step, 0..120)
    }

    fn drop_least(twin: &mut Twin, use_max: u64) -> bool {
        let least = twin.iter().min_by_key(|(_, kept)| kept.0).filter(|(_, kept)| kept.0 <= use_max);
        let least = least.map(|(&place, _)| place);
        least.is_some_and(|place| twin.remove(&place).is_some())
    }

    proptest! {
        /// The twin looks at all pages each time.
        #[test]
        fn the_page_that_was_not_used_for_longest_leaves_first(steps in steps()) {
            let name = |number: usize| ["a", "b", "c", "d"][number];
            let (mut pages, mut twin, mut batch) = (Pages::default(), Twin::new(), 0);
            for step in steps {
                let uses = pages.uses;
                match step {
                    Step::Answer => {
                        (pages.batch, batch) = (pages.uses, uses);
                    }
                    Step::Keep(number, after, size) => {
                        let size = size * (PAGES_BYTES_MAX / 40);
                        let bytes = crate::frame::FRAME_OVERHEAD + 2 * (1 + size) + size_of::<Cached>() + size_of::<Kept>();
                        let total = |twin: &Twin| twin.values().map(|kept| kept.1).sum::<usize>();
                        while total(&twin) + bytes > PAGES_BYTES_MAX && drop_least(&mut twin, batch) {}
                        twin.insert((number, after), (uses + 1, bytes));
                        pages.keep(page(name(number), &[9], false, size), at(after), at(9), &ByteBudget::default());
                    }
                    Step::Find(number, place) => {
                        let found = twin.range_mut((number, 0)..=(number, place)).next_back();
                        let expected = found.is_some();
                        found.into_iter().for_each(|(_, kept)| kept.0 = uses + 1);
                        prop_assert_eq!(pages.find(&topic(name(number)), at(place)).is_some(), expected);
                    }
                    Step::Forget(number, place) => {
                        let found = twin.range((number, 0)..=(number, place)).next_back().map(|(&place, _)| place);
                        found.map(|place| twin.remove(&place));
                        pages.forget(&topic(name(number)), at(place));
                    }
                    Step::ForgetTopic(number) => {
                        twin.retain(|&(other, _), _| other != number);
                        pages.forget_topic(&topic(name(number)));
                    }
                    Step::DropAny => prop_assert_eq!(pages.drop_any(), drop_least(&mut twin, u64::MAX)),
                }
                let places = |(topic, pages): (&Topic, &BTreeMap<Stamp, Kept>)| {
                    let number = (0..4).find(|&number| name(number) == topic.as_str()).expect("one of these");
                    pages.iter().map(|(after, kept)| ((number, after.ms), (kept.used, kept.bytes))).collect::<Vec<_>>()
                };
                prop_assert_eq!(&pages.kept.iter().flat_map(places).collect::<Twin>(), &twin);
                prop_assert_eq!(pages.bytes, twin.values().map(|kept| kept.1).sum::<usize>());
                prop_assert_eq!(pages.leaving.len(), twin.len());
            }
        }
    }
}
