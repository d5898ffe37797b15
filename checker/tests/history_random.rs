//! Random histories as a right server tells them are clean, and one mistake in one of them is always found.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod teller;

use checker::history::{
    Cause, Fault, Id, Log, Open, Outcome, Position, Publication, Reason, Report, Reset, Stamp, Topic,
};
use proptest::prelude::*;

use teller::{Chance, Step, Story};

/// One thing done wrong.
#[derive(Debug, Clone, Copy)]
enum Mistake {
    Drop,
    Repeat,
    RepeatLater,
    Swap,
    Change,
    Invent,
    ResetWithoutReason,
    ResetTwice,
    ResetForgotten,
    BlockAhead,
    BlockBehind,
    PositionForgotten,
    ResumedUntrue,
    WrongTopic,
    OpenForgotten,
    /// A reset that answers a position does not name all topics, or none.
    AnswerNotOfAll,
    /// Of one of the topics nothing comes.
    TopicForgotten,
    /// Nothing comes of what an open promised.
    NothingComes,
    /// A reset takes the place of the event behind it, of which it says nothing.
    Overtaken,
}

const MISTAKES: [Mistake; 19] = [
    Mistake::Drop,
    Mistake::Repeat,
    Mistake::RepeatLater,
    Mistake::Swap,
    Mistake::Change,
    Mistake::Invent,
    Mistake::ResetWithoutReason,
    Mistake::ResetTwice,
    Mistake::ResetForgotten,
    Mistake::BlockAhead,
    Mistake::BlockBehind,
    Mistake::PositionForgotten,
    Mistake::ResumedUntrue,
    Mistake::WrongTopic,
    Mistake::OpenForgotten,
    Mistake::AnswerNotOfAll,
    Mistake::TopicForgotten,
    Mistake::NothingComes,
    Mistake::Overtaken,
];

fn judge(story: &Story) -> Report {
    let mut log = Log::new(["a", "b", "c"]);
    for step in &story.steps {
        match step {
            Step::Reader => drop(log.add_reader()),
            Step::Publish { publication, .. } => log.handle_publication(*publication),
            Step::Fault(fault) => log.handle_fault(fault.clone()),
            Step::Connect { reader, topics, position, at_ms } => {
                log.handle_connect(*reader, topics.clone(), *position, *at_ms);
            }
            Step::Open { reader, topics, resumed, id, at_ms } => {
                let id = id.map(|id| id.to_string());
                log.handle_open(*reader, Open { topics, resumed: *resumed, id: id.as_deref() }, *at_ms);
            }
            Step::Event { reader, id, hash, .. } => log.handle_event(*reader, &id.to_string(), *hash),
            Step::Reset { reader, reason, topics, id, at_ms, .. } => {
                let id = id.to_string();
                log.handle_reset(*reader, Reset { reason: *reason, topics, id: Some(&id) }, *at_ms);
            }
            Step::Dry(reader) => log.handle_dry(*reader),
        }
    }
    log.judge()
}

/// Places at which `mistake` can be made so that it must be seen.
fn places(story: &Story, mistake: Mistake) -> Vec<usize> {
    let steps = &story.steps;
    let fits = |&place: &usize| match (&steps[place], mistake) {
        (Step::Event { .. }, Mistake::Repeat | Mistake::Change | Mistake::Invent) => true,
        (Step::Event { .. }, Mistake::ResetWithoutReason) => true,
        (Step::Event { certain, .. }, Mistake::Drop) => *certain && stands_between(story, place),
        (Step::Event { .. }, Mistake::RepeatLater | Mistake::Swap) => story.next_event_in_stream(place).is_some(),
        (Step::Event { .. }, Mistake::WrongTopic) => true,
        (Step::Reset { reason, .. }, Mistake::ResetTwice) => *reason != Reason::Trimmed || !story.has_unsure,
        // Where a topic of a stream from the oldest or the newest few begins, its first event says; and a reset tells
        // of all losses before it, a trim also of those behind it, up to the topic's own next event.
        (Step::Reset { certain, topics, .. }, Mistake::ResetForgotten) => {
            let position = story.connect_before(place);
            let has_begun = topics.iter().all(|&topic| story.said_before(place, topic).is_some());
            let begins = matches!(position, Some(Position::Earliest | Position::Last(_))) && !has_begun;
            let (before, _) = story.neighbours(place);
            let is_covered = matches!(before, Some(Step::Reset { reason: Reason::Trimmed, .. }));
            *certain && !begins && !is_covered && !story.is_followed_by_a_reset(place)
        }
        (Step::Open { id: Some(_), .. } | Step::Reset { .. }, Mistake::BlockAhead) => {
            story.next_event_in_stream(place).is_some()
        }
        (Step::Reset { .. }, Mistake::BlockBehind) => story.event_before_in_stream(place).is_some(),
        (Step::Connect { position: Position::After(_), .. }, Mistake::PositionForgotten) => true,
        (Step::Open { .. }, Mistake::ResumedUntrue) => true,
        (Step::Open { .. }, Mistake::OpenForgotten) => !story.rest_of_stream(place).is_empty(),
        (Step::Reset { .. }, Mistake::AnswerNotOfAll) => story.is_answer(place),
        (Step::Open { .. }, Mistake::TopicForgotten) => forgettable(story, place).is_some(),
        (Step::Open { id: None, .. }, Mistake::NothingComes) => {
            let rest = story.rest_of_stream(place);
            let is_dry = rest.last().is_some_and(|&last| matches!(steps[last], Step::Dry(_)));
            let position = story.connect_before(place);
            is_dry && matches!(position, Some(Position::Earliest | Position::Last(_))) && rest.len() > 1
        }
        (Step::Reset { reason: Reason::Trimmed, topics, .. }, Mistake::Overtaken) => {
            let next = story.next_event_in_stream(place).map(|next| &steps[next]);
            let Some(&Step::Event { topic, certain: true, .. }) = next else { return false };
            !topics.contains(&topic) && is_due(story, place, topic)
        }
        _ => false,
    };
    (0..steps.len()).filter(fits).collect()
}

/// A topic whose silence on the stream that is opened at `place` must be noticed.
fn forgettable(story: &Story, place: usize) -> Option<Topic> {
    let Step::Open { topics, at_ms, .. } = &story.steps[place] else { return None };
    let position = story.connect_before(place)?;
    if story.has_losses() || story.has_unsure || !matches!(position, Position::Earliest | Position::Last(_)) {
        return None;
    }
    let rest = story.rest_of_stream(place);
    let events: Vec<(Id, Topic)> = rest
        .iter()
        .filter_map(|&place| match story.steps[place] {
            Step::Event { id, topic, .. } => Some((id, topic)),
            _ => None,
        })
        .collect();
    let is_dry = rest.last().is_some_and(|&last| matches!(story.steps[last], Step::Dry(_)));
    let must = |&of: &Topic| {
        let others: Vec<Id> = events.iter().filter(|(_, topic)| *topic != of).map(|&(id, _)| id).collect();
        let (first, last) = (others.first(), others.last());
        let before = story.stored_until(of, *at_ms);
        let gone = story.kept_at(of, *at_ms).map_or(0, |kept| before.len().saturating_sub(kept));
        let is_due = |id: Id| {
            !before[..gone].contains(&id)
                && first.is_some_and(|&first| first.stamp < id.stamp)
                && (is_dry || last.is_some_and(|&last| id.stamp < last.stamp))
        };
        // Whoever comes back presents the last id, which must have been given.
        let is_kept = is_dry || events.last().is_some_and(|(_, topic)| *topic != of);
        is_kept && !story.is_told_later(place, of) && events.iter().any(|&(id, topic)| topic == of && is_due(id))
    };
    topics.iter().copied().find(must)
}

/// True exactly when the event of the topic that follows the reset at `place` must come on its stream.
fn is_due(story: &Story, place: usize, topic: Topic) -> bool {
    if story.has_losses() || story.is_told_later(place, topic) {
        return false;
    }
    let is_whole = story.kept_at(topic, u64::MAX).is_none();
    match (story.said_before(place, topic), story.connect_before(place)) {
        // What is told of a topic reaches up to its next event.
        (Some(said), _) => matches!(said, Step::Event { .. }),
        (None, Some(Position::Earliest)) => is_whole,
        (None, Some(Position::Last(count))) => {
            let Step::Reset { at_ms, .. } = story.steps[place] else { return false };
            let there = [0, 1].map(|topic| story.stored_until(Topic(topic), at_ms).len());
            is_whole && !story.has_unsure && there.iter().sum::<usize>() <= count as usize
        }
        (None, _) => true,
    }
}

/// True exactly when events of the topic stand around it and nothing else that speaks of the topic does.
fn stands_between(story: &Story, place: usize) -> bool {
    let (before, after) = story.neighbours(place);
    let is_event = |step: Option<&Step>| matches!(step, Some(Step::Event { .. }));
    is_event(before) && (is_event(after) || after.is_none())
}

fn make(story: &mut Story, mistake: Mistake, place: usize) {
    let step = story.steps[place].clone();
    match (mistake, step) {
        (Mistake::Drop | Mistake::ResetForgotten | Mistake::OpenForgotten, _) => drop(story.steps.remove(place)),
        (Mistake::Repeat | Mistake::ResetTwice, step) => story.steps.insert(place + 1, step),
        (Mistake::RepeatLater, step) => {
            let next = story.next_event_in_stream(place).unwrap();
            story.steps.insert(next + 1, step);
        }
        (Mistake::Swap, _) => {
            let next = story.next_event_in_stream(place).unwrap();
            story.steps.swap(place, next);
        }
        (Mistake::Change, Step::Event { reader, id, topic, certain, .. }) => {
            story.steps[place] = Step::Event { reader, id, hash: u64::MAX, topic, certain };
        }
        (Mistake::Invent, Step::Event { reader, id, topic, .. }) => {
            let id = Id { stamp: Stamp { n: id.stamp.n + 500, ..id.stamp }, ..id };
            story.steps.insert(place + 1, Step::Event { reader, id, hash: u64::MAX, topic, certain: false });
        }
        (Mistake::ResetWithoutReason, Step::Event { reader, id, topic, .. }) => {
            let (reason, topics, at_ms) = (Reason::Other, [topic].into(), id.stamp.ms + 1);
            story.steps.insert(place + 1, Step::Reset { reader, reason, topics, id, at_ms, certain: false });
        }
        (Mistake::BlockAhead | Mistake::BlockBehind, mut step) => {
            let other = match mistake {
                Mistake::BlockAhead => story.next_event_in_stream(place),
                _ => story.event_before_in_stream(place),
            };
            let Step::Event { id: given, .. } = story.steps[other.unwrap()] else { unreachable!("an event") };
            match &mut step {
                Step::Open { id, .. } => *id = Some(given),
                Step::Reset { id, .. } => *id = given,
                _ => unreachable!("a block"),
            }
            // Behind even that event, so that it is behind in any case.
            if let (Mistake::BlockBehind, Step::Reset { id, .. }) = (mistake, &mut step) {
                id.stamp.ms -= 1;
            }
            story.steps[place] = step;
        }
        (Mistake::PositionForgotten, Step::Connect { reader, topics, at_ms, .. }) => {
            story.steps[place] = Step::Connect { reader, topics, position: Position::Now, at_ms };
        }
        (Mistake::ResumedUntrue, Step::Open { reader, topics, resumed, id, at_ms }) => {
            story.steps[place] = Step::Open { reader, topics, resumed: !resumed, id, at_ms };
        }
        (Mistake::WrongTopic, Step::Event { reader, .. }) => {
            // One of a topic of its own, which nobody asks for.
            let id = Id { stamp: Stamp { ms: 1, n: 1 }, tag: *b"aaaa" };
            let outcome = Outcome::Stored(id);
            let publication = Publication { topic: teller::UNASKED, hash: u64::MAX, outcome };
            story.steps.push(Step::Publish { publication });
            let event = Step::Event { reader, id, hash: u64::MAX, topic: teller::UNASKED, certain: true };
            story.steps.insert(place + 1, event);
        }
        (Mistake::AnswerNotOfAll, Step::Reset { reader, reason, topics, id, at_ms, certain }) => {
            let topics = topics[1..].into();
            story.steps[place] = Step::Reset { reader, reason, topics, id, at_ms, certain };
        }
        (Mistake::TopicForgotten, _) => {
            let of = forgettable(story, place).unwrap();
            let is_of = |step: &Step| matches!(step, Step::Event { topic, .. } if *topic == of);
            let events = story.rest_of_stream(place).into_iter().rev().filter(|&place| is_of(&story.steps[place]));
            events.collect::<Vec<_>>().into_iter().for_each(|place| drop(story.steps.remove(place)));
        }
        (Mistake::NothingComes, _) => {
            let rest = story.rest_of_stream(place);
            rest[..rest.len() - 1].iter().rev().for_each(|&place| drop(story.steps.remove(place)));
        }
        (Mistake::Overtaken, Step::Reset { reader, reason, topics, at_ms, certain, .. }) => {
            let Step::Event { id, .. } = story.steps.remove(story.next_event_in_stream(place).unwrap()) else {
                unreachable!("an event")
            };
            let at_ms = at_ms.max(id.stamp.ms);
            story.steps[place] = Step::Reset { reader, reason, topics, id, at_ms, certain };
        }
        (mistake, step) => unreachable!("{mistake:?} at {step:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_right_server_tells_is_clean(seed in any::<u64>(), length in 10..160_usize) {
        let story = Story::tell(&mut Chance(seed), length);
        let report = judge(&story);
        prop_assert!(report.is_clean(), "{}\n{}", report, story);
    }

    #[test]
    fn one_mistake_is_always_found(
        seed in any::<u64>(),
        length in 20..160_usize,
        mistake in prop::sample::select(&MISTAKES[..]),
        at in any::<prop::sample::Index>(),
    ) {
        // Some can be made in few stories only.
        let mut stories = (0..500).map(|next| Story::tell(&mut Chance(seed.wrapping_add(next)), length));
        let found = stories.find_map(|story| Some(places(&story, mistake)).filter(|at| !at.is_empty()).zip(Some(story)));
        prop_assume!(found.is_some());
        let (places, mut story) = found.unwrap();
        let place = places[at.index(places.len())];
        make(&mut story, mistake, place);
        let report = judge(&story);
        prop_assert!(!report.is_clean(), "{:?} at {}: {}\n{}", mistake, place, report, story);
    }
}

#[test]
fn random_histories_contain_everything() {
    let (mut resets, mut told, mut continued, mut losses) = (std::collections::BTreeMap::new(), 0, 0, 0);
    let mut possible = [0; MISTAKES.len()];
    for seed in 0..1_500 {
        let story = Story::tell(&mut Chance(seed), [15, 40, 120][seed as usize % 3]);
        let report = judge(&story);
        report.resets.iter().for_each(|(&reason, count)| *resets.entry(reason).or_insert(0) += count);
        told += report.told;
        continued += report.continued;
        losses +=
            story.steps.iter().filter(|step| matches!(step, Step::Fault(Fault { cause: Cause::Loss, .. }))).count();
        for (count, mistake) in possible.iter_mut().zip(MISTAKES) {
            *count += places(&story, mistake).len();
        }
    }
    let all = [Reason::Trimmed, Reason::Epoch, Reason::Diverged, Reason::UnknownCursor];
    assert!(all.iter().all(|reason| resets.get(reason).is_some_and(|&count| count > 20)), "{resets:?}");
    assert!(told > 100 && continued > 100 && losses > 20, "{told} {continued} {losses}");
    assert!(possible.iter().all(|&count| count > 50), "{possible:?}");
}
