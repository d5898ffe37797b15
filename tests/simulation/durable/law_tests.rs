//! The law on trial: courses that keep it, and one planted fault each that must be found.

use fanwheel::engine::policy::Retention;
use fanwheel::engine::{Inbound, Position, Read};
use fanwheel::event::{EventId, Stamp};
use fanwheel::topic::Topic;

use super::law::Reader;
use super::redis::{Redis, Topics};
use crate::simulation::decode::{Block, Item};

const NAMES: [&str; 4] = ["d.0", "d.1", "d.2", "l.3"];

/// A client of the topics 0, 1 and 3 (live), and a history that goes on beside it.
struct Court {
    redis: Redis,
    reader: Reader,
}

impl Court {
    /// With `events_max` retained on each topic.
    fn new(events_max: usize, first: Position) -> Court {
        let retention = Retention { events_max, age_ms: 1_000_000, idempotency_ms: 1 };
        let all = NAMES.iter().map(|name| Topic::parse(name).expect("a topic")).collect();
        let redis = Redis::new(Topics { all, durable: 3, retention: vec![retention; 3] });
        let names = [0, 1, 3].map(|topic| (topic, NAMES[topic].to_owned()));
        let mut court = Court { redis, reader: Reader::new(names.to_vec(), 3, first) };
        court.redis.open_clock();
        court
    }

    fn publish(&mut self, topic: usize) -> usize {
        self.redis.moment += 1;
        self.redis.now_ms += 1;
        let text = format!("#{} of {topic}", self.redis.truth.events.len());
        if topic < 3 {
            return self.redis.publish(topic, "", &text);
        }
        self.redis.publish_live(topic, "", &text);
        self.redis.truth.events.len() - 1
    }

    fn connect(&mut self) {
        self.redis.moment += 1;
        self.reader.connect(self.redis.moment);
    }

    fn restart(&mut self, lost: usize) {
        self.redis.moment += 1;
        self.redis.restart(lost);
        self.redis.open_clock();
    }

    /// The position of now.
    fn now(&self) -> String {
        let state = self.redis.truth.state();
        format!("{}-{}", state.last, state.tag)
    }

    fn id(&self, number: usize) -> String {
        self.redis.truth.events[number].id.expect("it was stored").to_string()
    }

    fn see(&mut self, name: &str, data: &str, id: &str) -> Result<(), String> {
        self.redis.moment += 1;
        let block = Block { name: name.into(), data: data.into(), id: id.into(), has_retry: true };
        self.reader.see(&Item::Block(block), self.redis.moment, &self.redis.truth)
    }

    fn open(&mut self, id: &str, resumed: bool) -> Result<(), String> {
        let data = format!(r#"{{"topics":["d.0","d.1","l.3"],"resumed":{resumed}}}"#);
        self.see("fanwheel.open", &data, id)
    }

    fn reset(&mut self, reason: &str, topics: &[usize], id: &str) -> Result<(), String> {
        let names: Vec<&str> = topics.iter().map(|&topic| NAMES[topic]).collect();
        self.see("fanwheel.reset", &serde_json::json!({ "reason": reason, "topics": names }).to_string(), id)
    }

    fn event(&mut self, number: usize) -> Result<(), String> {
        let record = &self.redis.truth.events[number];
        let (name, text) = (record.name.clone(), record.text.clone());
        let id = record.id.map_or(String::new(), |id| id.to_string());
        self.see(&name, &text, &id)
    }

    fn rest(&mut self) -> Result<(), String> {
        self.reader.check_at_rest(&self.redis.truth)
    }

    /// Opened at the position of now.
    fn opened(events_max: usize) -> Court {
        let mut court = Court::new(events_max, Position::Now);
        court.connect();
        let now = court.now();
        court.open(&now, false).unwrap();
        court
    }
}

#[track_caller]
fn found(verdict: Result<(), String>, why: &str) {
    let words = verdict.expect_err("the fault was not found");
    assert!(words.contains(why), "{words}");
}

#[test]
fn what_is_contiguous_is_right_and_everything_else_is_found() {
    let plant = |faulty: &[usize], why: &str| {
        let mut court = Court::opened(100);
        let all: Vec<usize> = [0, 2, 1, 0].iter().map(|&topic| court.publish(topic)).collect();
        let (last, before) = faulty.split_last().unwrap();
        before.iter().for_each(|&at| court.event(all[at]).unwrap());
        found(court.event(all[*last]), why);
    };
    let mut court = Court::opened(100);
    let all: Vec<usize> = [0, 2, 1, 0].iter().map(|&topic| court.publish(topic)).collect();
    found(court.rest(), "missing");
    [0, 2, 3].iter().for_each(|&at| court.event(all[at]).unwrap());
    court.rest().unwrap();
    plant(&[2], "missing");
    plant(&[0, 3], "missing");
    plant(&[0, 0], "repetition");
    plant(&[0, 2, 0], "repetition");
    plant(&[0, 1], "not followed");
}

#[test]
fn events_that_were_changed_or_never_stored_are_found() {
    let mut court = Court::opened(100);
    let number = court.publish(0);
    let id = court.id(number);
    found(court.see("message", "other", &id), "has changed");
    found(court.see("other", &format!("#{number} of 0"), &id), "has changed");
    found(court.see("message", "x", "7-7-abcd"), "never stored");
    found(court.see("message", "x", "7-07-abcd"), "no id of ours");
    found(court.see("message", &format!("#{number} of 0"), ""), "without an id");
}

#[test]
fn whoever_comes_back_goes_on_where_it_was() {
    let mut court = Court::opened(100);
    let all: Vec<usize> = (0..4).map(|at| court.publish(at % 2)).collect();
    court.event(all[0]).unwrap();
    court.connect();
    let id = court.id(all[0]);
    assert_eq!(court.reader.position(), Position::After(EventId::parse(&id).unwrap()));
    court.open(&id, true).unwrap();
    court.event(all[1]).unwrap();
    court.connect();
    let (id, other) = (court.id(all[1]), court.id(all[2]));
    found(court.open(&other, true), "but the id is");
    court.connect();
    found(court.open("", false), "is good, but was not resumed");
    court.connect();
    found(court.open(&id, false), "not resumed, but with");
    court.connect();
    court.open(&id, true).unwrap();
    found(court.event(all[3]), "missing");
}

#[test]
fn a_trimmed_reset_names_what_is_gone_and_nothing_else() {
    // Two of topic 0 leave its stream, nothing of topic 1.
    let course = || {
        let mut court = Court::opened(2);
        let all: Vec<usize> = [0, 0, 0, 1, 0].iter().map(|&topic| court.publish(topic)).collect();
        (court, all)
    };
    let (mut court, all) = course();
    let (gone, there) = (court.id(all[1]), court.id(all[2]));
    court.reset("trimmed", &[0], &gone).unwrap();
    all[2..].iter().for_each(|&number| court.event(number).unwrap());
    court.rest().unwrap();

    let plant = |reason: &str, topics: &[usize], id: &str, why: &str| {
        let (mut court, _) = course();
        found(court.reset(reason, topics, id), why);
    };
    plant("trimmed", &[0], &there, "missing where");
    plant("trimmed", &[1], &gone, "nothing was");
    plant("trimmed", &[0, 1], &gone, "nothing was");
    plant("trimmed", &[0, 3], &gone, "of a live topic");
    plant("trimmed", &[2], &gone, "foreign topic");
    plant("trimmed", &[0], "", "without an id");
    plant("gap", &[0], &gone, "of durable topic");
    plant("epoch", &[0, 1], &gone, "which is known");
    plant("diverged", &[0, 1], &gone, "nothing was lost");
    plant("unknown-cursor", &[0, 1], &gone, "without such a cursor");
    let (mut court, all) = course();
    found(court.event(all[2]), "was not told");
    // It may be told before it is known how far the loss goes, and again on the next connection. But not twice.
    let (mut court, all) = course();
    let first = court.id(all[0]);
    court.reset("trimmed", &[0], &first).unwrap();
    court.event(all[2]).unwrap();
    let (mut court, all) = course();
    court.reset("trimmed", &[0], &first).unwrap();
    court.connect();
    court.open(&first, true).unwrap();
    found(court.event(all[2]), "was not told");
    court.reset("trimmed", &[0], &gone).unwrap();
    found(court.reset("trimmed", &[0], &gone), "nothing was");
}

#[test]
fn each_topic_is_told_of_what_is_gone_before_its_next_event() {
    let course = || {
        let mut court = Court::opened(2);
        let all: Vec<usize> = [1, 0, 0, 0, 1, 1, 1].iter().map(|&topic| court.publish(topic)).collect();
        let gone = court.id(all[1]);
        court.reset("trimmed", &[0], &gone).unwrap();
        [2, 3].iter().for_each(|&at| court.event(all[at]).unwrap());
        (court, all)
    };
    let (mut court, all) = course();
    let gone = court.id(all[4]);
    court.reset("trimmed", &[1], &gone).unwrap();
    [5, 6].iter().for_each(|&at| court.event(all[at]).unwrap());
    court.rest().unwrap();
    let (mut court, all) = course();
    found(court.event(all[5]), "was not told");
    // The debt stands on the next connection, too.
    let (mut court, all) = course();
    court.connect();
    let last = court.id(all[3]);
    court.open(&last, true).unwrap();
    found(court.event(all[5]), "was not told");
}

#[test]
fn a_topic_that_was_forgotten_may_have_lost_something_up_to_the_horizon() {
    let mut court = Court::opened(100);
    court.publish(2);
    let last = court.publish(2);
    court.redis.now_ms += 100;
    let seen = court.publish(1);
    court.redis.tidy(2, 50);
    let (horizon, first) = (court.id(last), court.publish(0));
    court.reset("trimmed", &[0], &horizon).unwrap();
    court.event(seen).unwrap();
    court.event(first).unwrap();
    found(court.reset("trimmed", &[0], &horizon), "behind");
}

#[test]
fn what_was_lost_is_told_where_the_paths_part() {
    // Three were seen, the last two are lost; topic 0 goes on.
    let course = || {
        let mut court = Court::opened(100);
        let all: Vec<usize> = (0..3).map(|_| court.publish(0)).collect();
        all.iter().for_each(|&number| court.event(number).unwrap());
        court.restart(2);
        let fence = court.now();
        let next = court.publish(0);
        (court, all, fence, next)
    };
    let (mut court, _, fence, next) = course();
    court.reset("diverged", &[0, 1], &fence).unwrap();
    found(court.reset("diverged", &[0, 1], &fence), "nothing was lost");
    court.event(next).unwrap();
    court.rest().unwrap();
    let (mut court, ..) = course();
    found(court.rest(), "missing");
    let (mut court, .., next) = course();
    found(court.event(next), "not told");
    let (mut court, .., next) = course();
    let id = court.id(next);
    found(court.reset("diverged", &[0, 1], &id), "missing");
    found(court.reset("diverged", &[0], &fence), "some topics only");
    found(court.reset("epoch", &[0, 1], &fence), "which is known");
    let (mut court, all, ..) = course();
    let (first, last) = (court.id(all[0]), court.id(all[2]));
    let before = EventId { stamp: EventId::parse(&first).unwrap().stamp.before(), ..EventId::parse(&fence).unwrap() };
    found(court.reset("diverged", &[0, 1], &before.to_string()), "repeats");
    found(court.reset("gap", &[3], &fence), "leaves");
    court.reset("gap", &[3], &last).unwrap();
    // Back with a cursor that was lost.
    court.connect();
    found(court.open(&last, true), "not good");
    court.connect();
    court.open("", false).unwrap();
    found(court.event(all[1]), "not told");
}

#[test]
fn a_loss_of_others_is_told_once_to_whoever_passes_it() {
    let course = |told: bool, lossy: bool| {
        let mut court = Court::opened(100);
        let first = court.publish(0);
        court.event(first).unwrap();
        court.publish(2);
        court.restart(usize::from(lossy));
        let (fence, tag) = (court.now(), court.redis.truth.state().fences[0].0);
        if lossy {
            assert!(court.redis.mark_lossy(tag) && !court.redis.mark_lossy(tag));
        }
        let verdict = if told { court.reset("diverged", &[0, 1], &fence) } else { Ok(()) };
        (court, fence, verdict)
    };
    let (mut court, fence, told) = course(true, true);
    told.unwrap();
    let next = court.publish(0);
    court.event(next).unwrap();
    found(court.reset("diverged", &[0, 1], &fence), "repeats");
    let now = court.id(next);
    found(court.reset("diverged", &[0, 1], &now), "nothing was lost");
    court.rest().unwrap();
    found(course(true, false).2, "nothing was lost");
    let (mut court, ..) = course(false, true);
    let next = court.publish(0);
    court.event(next).unwrap();
    found(court.rest(), "was not told what was lost");
    let now = court.id(next);
    court.reset("diverged", &[0, 1], &now).unwrap();
    court.rest().unwrap();
}

#[test]
fn a_new_epoch_is_told_before_its_first_event() {
    let course = || {
        let mut court = Court::opened(100);
        let first = court.publish(0);
        court.event(first).unwrap();
        court.redis.flush();
        let passed = court.publish(0);
        (court, passed)
    };
    let (mut court, passed) = course();
    found(court.event(passed), "not told");
    let (mut court, passed) = course();
    found(court.rest(), "missing");
    let now = court.now();
    court.reset("epoch", &[0, 1], &now).unwrap();
    found(court.event(passed), "repetition");
    let next = court.publish(1);
    court.event(next).unwrap();
    found(court.reset("epoch", &[0, 1], &now), "which is known");
    court.rest().unwrap();
}

#[test]
fn a_cursor_of_nobody_is_told_and_goes_on_live() {
    let mut court = Court::new(100, Position::Unknown);
    court.publish(0);
    court.connect();
    court.open("", false).unwrap();
    found(court.rest(), "Astray");
    let now = court.now();
    found(court.reset("epoch", &[0, 1], &now), "Astray");
    court.reset("unknown-cursor", &[0, 1], &now).unwrap();
    let next = court.publish(0);
    court.event(next).unwrap();
    court.rest().unwrap();
    let forged = EventId::parse("5-0-zzzz").unwrap();
    let mut court = Court::new(100, Position::After(forged));
    court.connect();
    found(court.open("5-0-zzzz", true), "not good");
    court.connect();
    court.open("", false).unwrap();
    let now = court.now();
    found(court.reset("diverged", &[0, 1], &now), "nobody knows");
    court.reset("epoch", &[0, 1], &now).unwrap();
}

#[test]
fn ids_ahead_of_redis_are_found() {
    let mut court = Court::opened(100);
    let state = court.redis.truth.state();
    let ahead = format!("{}-{}", state.last.next(u64::MAX >> 16), state.tag);
    found(court.reset("gap", &[3], &ahead), "ahead");
    found(court.reset("gap", &[3], ""), "without the position");
    let mut court = Court::new(100, Position::Now);
    court.connect();
    found(court.open("", false), "opened at Now");
    let mut court = Court::new(100, Position::Now);
    let (now, next) = (court.now(), court.publish(0));
    court.connect();
    court.open(&now, false).unwrap();
    court.event(next).unwrap();
}

#[test]
fn the_oldest_and_the_newest_begin_where_they_should() {
    let course = |first| {
        let mut court = Court::new(3, first);
        let all: Vec<usize> = (0..10).map(|at| court.publish(at % 2)).collect();
        court.connect();
        court.open("", false).unwrap();
        (court, all)
    };
    let (mut court, all) = course(Position::Earliest);
    found(court.rest(), "given nothing");
    all[4..].iter().for_each(|&number| court.event(number).unwrap());
    let (mut court, all) = course(Position::Earliest);
    found(court.event(all[5]), "from the oldest on");
    let (mut court, all) = course(Position::Last(4));
    all[6..].iter().for_each(|&number| court.event(number).unwrap());
    let (mut court, all) = course(Position::Last(4));
    found(court.event(all[7]), "asked for 4");
    let (mut court, all) = course(Position::Last(4));
    found(court.event(all[5]), "asked for 4");
    let (mut court, all) = course(Position::Last(50));
    court.event(all[4]).unwrap();
    let mut court = Court::new(3, Position::Earliest);
    court.publish(0);
    court.connect();
    let now = court.now();
    found(court.open(&now, false), "what it asks for is there");
}

#[test]
fn live_topics_keep_their_own_rule() {
    let mut court = Court::opened(100);
    let all: Vec<usize> = (0..5).map(|_| court.publish(3)).collect();
    court.event(all[0]).unwrap();
    found(court.event(all[0]), "behind");
    found(court.event(all[2]), "untold");
    let now = court.now();
    court.reset("gap", &[3], &now).unwrap();
    court.event(all[2]).unwrap();
    court.rest().unwrap();
    let next = court.publish(3);
    found(court.rest(), "untold");
    court.reset("overflow", &[3], &now).unwrap();
    court.rest().unwrap();
    found(court.event(all[2]), "behind");
    court.event(next).unwrap();
}

/// The model of Redis against what the script promises.
#[test]
fn the_naive_redis_numbers_trims_and_answers() {
    let mut court = Court::new(2, Position::Now);
    let redis = &mut court.redis;
    redis.wires.push(Default::default());
    redis.wires[0].alive = true;
    redis.subscribe(0, 0, true);
    let all: Vec<usize> = (0..3).map(|_| redis.publish(0, "", "x")).collect();
    redis.barrier(0, 7);
    let said: Vec<Inbound> = redis.wires[0].queue.drain(..).map(|(message, _)| message).collect();
    let stamps: Vec<(Stamp, Stamp)> = said
        .iter()
        .filter_map(|message| match message {
            Inbound::Event(event) => event.stored.map(|stored| (stored.prev, stored.id.stamp)),
            _ => None,
        })
        .collect();
    assert!(matches!(said[0], Inbound::Subscribed(_)));
    assert_eq!(stamps.iter().map(|two| two.0).skip(1).collect::<Vec<_>>(), [stamps[0].1, stamps[1].1]);
    assert!(
        matches!(&said[4], Inbound::Marker(7, marker) if marker.last == stamps[2].1 && marker.chain.fences.is_empty())
    );
    let topic = redis.topics.all[0].clone();
    let read = Read::After { topics: vec![(topic.clone(), Stamp::ZERO)], bytes_max: 1 };
    let page = redis.page(&read, 0, false);
    assert_eq!((page.events.len(), page.more, page.last), (1, true, stamps[2].1));
    assert_eq!(page.events[0].stored.unwrap().prev, stamps[0].1, "the first has left");
    let tail = Read::Tail { topics: vec![topic.clone()], upto: stamps[1].1, events_max: 5, bytes_max: 99 };
    assert_eq!(redis.page(&tail, 0, false).events.len(), 1);
    assert!(redis.truth.events[all[0]].gone.is_some() && redis.truth.events[all[1]].gone.is_none());

    redis.lose_index();
    let next = redis.publish(0, "", "x");
    assert_eq!(redis.truth.events[next].event.stored.unwrap().prev, Stamp::ZERO, "a new epoch begins");
    assert_eq!(redis.page(&read, 0, false).events.len(), 1, "what was left over is not of it");
    assert_ne!(redis.truth.events[next].id.unwrap().tag, redis.truth.events[all[2]].id.unwrap().tag);
    redis.restart(0);
    assert_eq!(redis.publish(0, "", "x"), next + 1);
    let state = redis.truth.state();
    assert_eq!(state.fences.len(), 1, "what came before the epoch is not of it");
    assert_eq!(state.fences[0].1, redis.truth.stamp(next));
}
