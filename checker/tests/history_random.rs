//! Random histories as a right server tells them are clean, and one mistake in one of them is always found.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod teller;

use checker::history::{Cause, Fault, Id, Log, Open, Outcome, Position, Publication, Reason, Report, Reset, Stamp};
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
}

const MISTAKES: [Mistake; 15] = [
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
        // Where a stream from the oldest or the newest few begins, its first event says; and a reset tells of all
        // losses before it, a trim also of those behind it, up to the topic's next event.
        (Step::Reset { certain, .. }, Mistake::ResetForgotten) => {
            let position = story.connect_before(place);
            let begins = matches!(position, Some(Position::Earliest | Position::Last(_)));
            let (before, _) = story.neighbours(place);
            let is_covered = matches!(before, Some(Step::Reset { reason: Reason::Trimmed, .. }));
            *certain && !begins && !is_covered && !story.is_followed_by_a_reset(place)
        }
        (Step::Open { id: Some(_), .. } | Step::Reset { .. }, Mistake::BlockAhead) => {
            story.next_event_in_stream(place).is_some()
        }
        (Step::Reset { .. }, Mistake::BlockBehind) => story.event_before_in_stream(place).is_some(),
        (Step::Connect { position: Position::After(_), .. }, Mistake::PositionForgotten) => true,
        (Step::Open { .. }, Mistake::ResumedUntrue) => {
            matches!(story.connect_before(place), Some(Position::Now | Position::After(_) | Position::Unknown))
        }
        (Step::Open { .. }, Mistake::OpenForgotten) => story.next_event_in_stream(place).is_some(),
        _ => false,
    };
    (0..steps.len()).filter(fits).collect()
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
        let mut story = Story::tell(&mut Chance(seed), length);
        let places = places(&story, mistake);
        prop_assume!(!places.is_empty());
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
    for seed in 0..300 {
        let story = Story::tell(&mut Chance(seed), 120);
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
