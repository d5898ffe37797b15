//! The sequencer: gives everything its place, on shard 0's thread.
//!
//! What always holds: an event is put into the inboxes in the order of its number, and whatever is told or
//! read is of one moment between two events.
//!
//! # Overload
//! It never waits. A turn is bounded: so many publishes, questions, and events that have become too old.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use crate::engine::history::Chain;
use crate::engine::mailbox::{Mailbox, Taken};
use crate::engine::policy::Classes;
use crate::engine::{Answered, Inbound, Marker, PublishError, Published};
use crate::event::{Event, Tag};
use crate::metrics::SourceCounters;
use crate::source::memory::handle::{Ask, Durable, Handle, Intake, Posted};
use crate::source::memory::histories::Histories;
use crate::source::memory::idempotency::{Known, Records};

/// Publishes sequenced before the thread's other work gets its turn.
const BURST: usize = 256;
/// Barriers and reads answered in a turn: all that one shard may have asked.
const ASKS_PER_TURN: usize = 32;
/// Events and index entries that leave in a turn because of their age, at 0.1 to 0.4 µs each.
const TIDY_PER_TURN: usize = 256;

/// The sequencer. Runs on shard 0's thread.
pub struct Sequencer {
    intake: Arc<Intake>,
    wake: Arc<Notify>,
    inboxes: Vec<Arc<Mailbox<Inbound>>>,
    answers: Vec<Arc<Mailbox<Answered>>>,
    counters: Arc<SourceCounters>,
    now_ms: Box<dyn Fn() -> u64 + Send>,
    histories: Histories,
    records: Records,
    /// One incarnation, and no fence ever.
    chain: Arc<Chain>,
}

/// What a sequencer is made of.
pub struct SequencerParts {
    /// The shards', by their index.
    pub inboxes: Vec<Arc<Mailbox<Inbound>>>,
    /// Where answers to the shards' reads go, by their index.
    pub answers: Vec<Arc<Mailbox<Answered>>>,
    /// Where it counts.
    pub counters: Arc<SourceCounters>,
    /// Which topics have a history.
    pub classes: Classes,
    /// Bytes of all histories and their index.
    pub history_bytes_max: usize,
    /// Names this run, drawn at random.
    pub tag: Tag,
    /// The wall clock, in ms since 1970. It may be set to anything at any time.
    pub now_ms: Box<dyn Fn() -> u64 + Send>,
}

impl Sequencer {
    /// A sequencer, whose history begins now.
    #[must_use]
    pub fn new(parts: SequencerParts) -> Sequencer {
        let SequencerParts { inboxes, answers, counters, classes, history_bytes_max, tag, now_ms } = parts;
        let wake = Arc::new(Notify::new());
        Sequencer {
            intake: Arc::new(Intake::new(inboxes.len(), classes, &wake)),
            wake,
            inboxes,
            answers,
            counters,
            histories: Histories::begin(tag, now_ms(), history_bytes_max),
            now_ms,
            records: Records::default(),
            chain: Arc::new(Chain::begin(tag)),
        }
    }

    /// A handle for one shard.
    #[must_use]
    pub fn handle(&self, shard: usize) -> Handle {
        Handle::new(shard, Arc::clone(&self.intake))
    }

    /// Sequences until it is dropped.
    pub async fn run(mut self) {
        for inbox in &self.inboxes {
            inbox.push(Inbound::Connected(0), 0);
        }
        loop {
            if self.turn() {
                tokio::task::yield_now().await;
            } else if self.intake.arm() {
                self.wake.notified().await;
            }
        }
    }

    /// A portion of all there is to do. False when nothing is left.
    fn turn(&mut self) -> bool {
        let more_posted = self.sequence();
        let more_asked = self.answer();
        let more_aged = self.histories.tidy(TIDY_PER_TURN);
        more_posted || more_asked || more_aged
    }

    /// Sequences a burst. False when nothing is left.
    fn sequence(&mut self) -> bool {
        let now_ms = (self.now_ms)();
        for _ in 0..BURST {
            let Some(Taken::Message(Posted { event, durable })) = self.intake.posted.take() else {
                return false;
            };
            match durable {
                None => self.pass_on(&Arc::new(event)),
                Some(durable) => {
                    let outcome = self.store(event, &durable, now_ms);
                    // Whoever has gone does not need the answer.
                    let _ = durable.reply.send(outcome);
                }
            }
        }
        true
    }

    /// Stores an event and passes it on, unless its key says that it was stored.
    fn store(&mut self, event: Event, durable: &Durable, now_ms: u64) -> Result<Published, PublishError> {
        match durable.claim.as_ref().map_or(Known::New, |claim| self.records.look_up(claim)) {
            Known::New => {}
            Known::Same(id) => return Ok(Published { id: Some(id) }),
            Known::Other => return Err(PublishError::Conflict),
            Known::Full => {
                return Err(PublishError::Refused(
                    "all places for idempotency keys are taken; repeat it later, or without a key",
                ));
            }
        }
        let event = self.histories.append(event, durable.retention, now_ms);
        let id = event.stored.map(|stored| stored.id);
        if let (Some(claim), Some(id)) = (&durable.claim, id) {
            self.records.keep(claim, id);
        }
        self.pass_on(&event);
        Ok(Published { id })
    }

    /// Puts an event into every shard's inbox.
    fn pass_on(&self, event: &Arc<Event>) {
        SourceCounters::count(&self.counters.events);
        let weight = event.weight();
        for inbox in &self.inboxes {
            inbox.push(Inbound::Event(Arc::clone(event)), weight);
        }
    }

    /// Answers what was asked. False when nothing is left.
    fn answer(&mut self) -> bool {
        for _ in 0..ASKS_PER_TURN {
            let Some(Taken::Message(ask)) = self.intake.asked.take() else {
                return false;
            };
            match ask {
                Ask::Barrier(shard) => {
                    // What is asked from here on is answered with another marker.
                    let question = self.intake.questions[shard].swap(0, Ordering::AcqRel);
                    self.inboxes[shard].push(Inbound::Marker(question, Arc::new(self.marker())), 0);
                }
                Ask::Read(shard, number, read) => {
                    let (marker, answer) = (self.marker(), self.histories.read(&read));
                    let is_taken = self.answers[shard].offer(Answered { number, marker, answer }, 0).is_ok();
                    debug_assert!(is_taken, "a shard has at most READS_MAX reads under way");
                }
                Ask::Visit(shard, read, reply) => {
                    self.intake.visits[shard].fetch_sub(1, Ordering::AcqRel);
                    if !reply.is_closed() {
                        let _ = reply.send((self.marker(), self.histories.read(&read)));
                    }
                }
            }
        }
        true
    }

    fn marker(&self) -> Marker {
        Marker { last: self.histories.last(), chain: Arc::clone(&self.chain) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::history::{Answer, Read};
    use crate::engine::mailbox::MailboxLimits;
    use crate::engine::policy::{Class, Kind, READS_MAX};
    use crate::engine::{Archive, Interest, Publication, Publish, Publishing};
    use crate::event::Stamp;
    use crate::source::memory::handle::VISITS_MAX;
    use crate::source::memory::idempotency::{Claim, RECORDS_MAX};
    use crate::topic::{Pattern, Topic};
    use bytes::Bytes;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    fn event(data: String) -> Event {
        Event {
            topic: Topic::parse("t").expect("a topic"),
            name: None,
            key: None,
            data: Bytes::from(data),
            stored: None,
            received_us: 0,
        }
    }

    /// A sequencer for two shards whose topic `t` is live and `d` durable, and their inboxes.
    fn sequencer(messages_max: usize) -> (Sequencer, Vec<Arc<Mailbox<Inbound>>>) {
        let limits = MailboxLimits { messages_max, bytes_max: 1 << 20 };
        let inboxes: Vec<_> = (0..2).map(|_| Arc::new(Mailbox::new(limits, || {}))).collect();
        let answers = MailboxLimits { messages_max: READS_MAX, bytes_max: READS_MAX };
        let durable = Class { kind: Kind::Durable(Default::default()), ..Class::default() };
        let sequencer = Sequencer::new(SequencerParts {
            inboxes: inboxes.clone(),
            answers: (0..2).map(|_| Arc::new(Mailbox::new(answers, || {}))).collect(),
            counters: Arc::default(),
            classes: Classes(vec![(Pattern::parse("d").expect("a pattern"), durable)]),
            history_bytes_max: 1 << 20,
            tag: Tag::parse("aaaa").expect("a tag"),
            now_ms: Box::new(|| 1_000),
        });
        (sequencer, inboxes)
    }

    fn durable(data: &str) -> Publication {
        Event { topic: Topic::parse("d").expect("a topic"), ..event(data.to_owned()) }.into()
    }

    fn named(data: &str, key: &str) -> Publication {
        Publication { idempotency_key: Some(key.into()), ..durable(data) }
    }

    /// What a publish or read has come to, without waiting for it.
    fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        match std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    /// The number a publish was given.
    fn number(mut publishing: Publishing) -> Stamp {
        let published = poll(&mut publishing).expect("answered").expect("published");
        published.id.expect("on a durable topic").stamp
    }

    fn at(n: u64) -> Stamp {
        Stamp { ms: 1_000, n }
    }

    fn everything() -> Read {
        Read::After { topics: vec![(Topic::parse("d").expect("a topic"), Stamp::ZERO)], bytes_max: 1 << 20 }
    }

    /// The data of what is in the history, and what it may be read up to.
    fn stored(sequencer: &mut Sequencer) -> (Vec<Bytes>, Marker) {
        let mut reading = Archive::read(&sequencer.handle(0), everything());
        while sequencer.turn() {}
        match poll(&mut reading).expect("answered").expect("room") {
            (marker, Answer::Pages(pages)) => {
                (pages[0].events.iter().map(|event| event.data.clone()).collect(), marker)
            }
            (_, Answer::Start(start)) => panic!("{start}"),
        }
    }

    /// What a shard is told, as words.
    fn told(inbox: &Mailbox<Inbound>) -> Vec<String> {
        let words = |taken| match taken {
            Taken::Gap => "gap".to_owned(),
            Taken::Message(Inbound::Event(event)) => match event.stored {
                Some(stored) => format!("{} after {}", stored.id, stored.prev),
                None => "live".to_owned(),
            },
            Taken::Message(Inbound::Marker(question, marker)) => format!("marker {question} {}", marker.last),
            Taken::Message(other) => format!("{other:?}"),
        };
        std::iter::from_fn(|| inbox.take()).map(words).collect()
    }

    #[tokio::test]
    async fn every_shard_sees_one_order() {
        let (mut sequencer, inboxes) = sequencer(100);
        let (a, b) = (sequencer.handle(0), sequencer.handle(1));
        for n in 0..20 {
            let handle = if n % 3 == 0 { &a } else { &b };
            handle.publish(event(n.to_string()).into()).await.expect("room");
        }
        while sequencer.turn() {}
        for inbox in inboxes {
            for n in 0..20 {
                match inbox.take() {
                    Some(Taken::Message(Inbound::Event(event))) => assert_eq!(event.data, n.to_string().as_bytes()),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_full_sequencer_refuses_and_a_full_shard_gets_a_gap_mark() {
        let (mut sequencer, inboxes) = sequencer(4);
        let handle = sequencer.handle(0);
        let max = MailboxLimits::default().messages_max;
        for n in 0..max {
            handle.publish(event(n.to_string()).into()).await.expect("room");
        }
        let refused = handle.publish(event("one more".into()).into()).await;
        assert!(matches!(refused, Err(PublishError::Refused(_))));
        while sequencer.turn() {}
        let taken: Vec<bool> =
            std::iter::from_fn(|| inboxes[0].take()).map(|taken| matches!(taken, Taken::Gap)).collect();
        assert_eq!(taken, [false, false, false, false, true]);
    }

    #[test]
    fn a_durable_event_is_stored_and_in_every_inbox_before_its_publisher_is_answered() {
        let (mut sequencer, inboxes) = sequencer(100);
        let mut first = sequencer.handle(1).publish(durable("one"));
        let second = sequencer.handle(0).publish(durable("two"));
        let mut live = sequencer.handle(0).publish(event("live".to_owned()).into());
        assert_eq!((poll(&mut first), poll(&mut live)), (None, Some(Ok(Published { id: None }))));
        while sequencer.turn() {}
        assert_eq!((number(first), number(second)), (at(1), at(2)));
        for inbox in &inboxes {
            assert_eq!(told(inbox), ["1000-1-aaaa after 0-0", "1000-2-aaaa after 1000-1", "live"]);
        }
        let (data, marker) = stored(&mut sequencer);
        assert_eq!((data, marker.last), (vec![Bytes::from("one"), Bytes::from("two")], at(2)));
    }

    #[test]
    fn whoever_has_gone_has_published_all_the_same() {
        let (mut sequencer, _inboxes) = sequencer(100);
        drop(sequencer.handle(1).publish(durable("one")));
        assert_eq!(stored(&mut sequencer).0, ["one"]);
    }

    #[test]
    fn what_is_refused_has_no_number() {
        let (mut sequencer, _inboxes) = sequencer(100);
        let handle = sequencer.handle(0);
        let max = MailboxLimits::default().messages_max;
        let mut taken: Vec<Publishing> = (0..max).map(|_| handle.publish(durable("in"))).collect();
        assert!(matches!(poll(&mut handle.publish(durable("out"))), Some(Err(PublishError::Refused(_)))));
        while sequencer.turn() {}
        assert_eq!(number(taken.remove(max - 1)), at(max as u64));
        for n in 0..RECORDS_MAX {
            let claim = Claim::new(&durable("").event, &n.to_string(), 1);
            sequencer.records.keep(&claim, stored_id(n as u64));
        }
        let mut full = handle.publish(named("out", "new"));
        let after = handle.publish(durable("without a key"));
        while sequencer.turn() {}
        assert!(matches!(poll(&mut full), Some(Err(PublishError::Refused(_)))));
        assert_eq!(number(after), at(max as u64 + 1));
    }

    fn stored_id(n: u64) -> crate::event::EventId {
        crate::event::EventId { stamp: at(n), tag: Tag::parse("aaaa").expect("a tag") }
    }

    #[test]
    fn the_same_key_stores_the_same_event_once_and_another_is_a_conflict() {
        let (mut sequencer, inboxes) = sequencer(100);
        let publish = |publication| sequencer.handle(1).publish(publication);
        let (first, again, other) = (publish(named("one", "k")), publish(named("one", "k")), named("two", "k"));
        let (mut other, elsewhere) = (publish(other), publish(named("two", "l")));
        while sequencer.turn() {}
        assert_eq!((number(first), number(again), number(elsewhere)), (at(1), at(1), at(2)));
        assert_eq!(poll(&mut other), Some(Err(PublishError::Conflict)));
        assert_eq!(told(&inboxes[0]).len(), 2);
        assert_eq!(stored(&mut sequencer).0, ["one", "two"]);
    }

    #[test]
    fn a_marker_stands_behind_all_it_names_and_one_answers_all_who_ask_before_it() {
        let (mut sequencer, inboxes) = sequencer(100);
        let mut handle = sequencer.handle(0);
        (1..=100).for_each(|question| handle.barrier(question));
        while sequencer.turn() {}
        assert_eq!(told(&inboxes[0]), ["marker 100 1000-0"], "the history begins when the node does");
        drop(handle.publish(durable("one")));
        handle.barrier(101);
        while sequencer.turn() {}
        drop(handle.publish(durable("two")));
        handle.barrier(102);
        handle.barrier(103);
        while sequencer.turn() {}
        let (one, two) = ("1000-1-aaaa after 0-0", "1000-2-aaaa after 1000-1");
        assert_eq!(told(&inboxes[0]), [one, "marker 101 1000-1", two, "marker 103 1000-2"]);
        assert_eq!(told(&inboxes[1]), [one, two], "it did not ask");
        let (_, marker) = stored(&mut sequencer);
        assert_eq!(*marker.chain, Chain::begin(Tag::parse("aaaa").expect("a tag")));
    }

    #[test]
    fn all_that_shards_may_ask_at_once_is_answered() {
        let (mut sequencer, inboxes) = sequencer(100);
        drop(sequencer.handle(0).publish(durable("one")));
        let mut visits = Vec::new();
        for shard in 0..2 {
            let mut handle = sequencer.handle(shard);
            visits.extend((0..VISITS_MAX).map(|_| Archive::read(&handle, everything())));
            handle.barrier(1);
            (0..READS_MAX as u64).for_each(|number| Interest::read(&mut handle, number, everything()));
        }
        while sequencer.turn() {}
        for (inbox, answers) in inboxes.iter().zip(&sequencer.answers) {
            assert_eq!(told(inbox).len(), 2);
            for expected in 0..READS_MAX as u64 {
                let Some(Taken::Message(Answered { number, answer: Answer::Pages(pages), .. })) = answers.take() else {
                    panic!("no answer {expected}");
                };
                assert_eq!((number, pages[0].events.len()), (expected, 1));
            }
        }
        assert!(visits.into_iter().all(|mut visit| matches!(poll(&mut visit), Some(Ok(_)))));
    }

    #[test]
    fn a_visit_without_a_place_is_told_and_the_place_comes_back() {
        let (mut sequencer, _inboxes) = sequencer(100);
        let visit = |shard| Archive::read(&sequencer.handle(shard), everything());
        let gone: Vec<_> = (0..VISITS_MAX).map(|_| visit(0)).collect();
        assert!(matches!(poll(&mut visit(0)), Some(Err(sentence)) if sentence.contains("too many")));
        assert!(poll(&mut visit(1)).is_none(), "another shard has its own");
        drop(gone);
        while sequencer.turn() {}
        assert!(stored(&mut sequencer).0.is_empty());
    }

    #[test]
    fn what_an_inbox_had_no_room_for_is_in_the_history() {
        let (mut sequencer, inboxes) = sequencer(1);
        for data in ["one", "two", "three"] {
            drop(sequencer.handle(0).publish(durable(data)));
        }
        while sequencer.turn() {}
        assert_eq!(told(&inboxes[0]), ["1000-1-aaaa after 0-0", "gap"]);
        assert_eq!(stored(&mut sequencer).0, ["one", "two", "three"]);
    }

    #[tokio::test]
    async fn a_resting_sequencer_is_woken_by_publishes_and_by_reads() {
        let (sequencer, _inboxes) = sequencer(100);
        let handle = sequencer.handle(0);
        let asker = async {
            for n in 0..3 {
                let (marker, _) = Archive::read(&handle, everything()).await.expect("room");
                assert_eq!(marker.last, at(n));
                handle.publish(durable("one")).await.expect("room");
            }
        };
        tokio::select! {
            () = asker => {}
            () = sequencer.run() => unreachable!("it runs until it is dropped"),
            // A deadline: it sleeps on.
            () = tokio::time::sleep(std::time::Duration::from_secs(20)) => panic!("it was not woken"),
        }
    }
}
