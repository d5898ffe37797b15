//! The check against a naive twin that keeps everything it was fed.
#![allow(clippy::unwrap_used)]

use checker::{Published, StreamCheck, Verdict};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Event(u64),
    Reset,
}

fn check(steps: &[Step]) -> StreamCheck {
    let mut check = StreamCheck::default();
    for step in steps {
        match step {
            Step::Event(seq) => check.handle_event(*seq),
            Step::Reset => check.handle_reset(),
        }
    }
    check
}

/// Says the same from whole vectors, one definition at a time.
fn twin(steps: &[Step], published: &Published<'_>) -> Verdict {
    let seqs: Vec<u64> =
        steps.iter().filter_map(|s| if let Step::Event(seq) = s { Some(*seq) } else { None }).collect();
    let seen: BTreeSet<u64> = seqs.iter().copied().collect();
    let uncertain: BTreeSet<u64> = published.uncertain.iter().copied().collect();
    let doubled = (0..seqs.len()).filter(|&i| seqs[..i].contains(&seqs[i])).count() as u64;
    let out_of_order = (0..seqs.len())
        .filter(|&i| !seqs[..i].contains(&seqs[i]) && seqs[..i].iter().any(|&before| before > seqs[i]))
        .count() as u64;
    let expected: Vec<u64> = published.covered.clone().filter(|seq| !uncertain.contains(seq)).collect();
    let missing = expected.iter().filter(|seq| !seen.contains(seq));
    let told = missing.clone().filter(|&&seq| is_told(steps, seq)).count() as u64;
    Verdict {
        expected: expected.len() as u64,
        received: seqs.len() as u64,
        lost: missing.count() as u64 - told,
        told,
        doubled,
        out_of_order,
        resets: steps.iter().filter(|&&s| s == Step::Reset).count() as u64,
        phantoms: seen.iter().filter(|seq| !published.numbers.contains(seq) && !uncertain.contains(seq)).count() as u64,
    }
}

/// A missing number is told if a reset stands between the highest event before the jump over it
/// and the event that jumped.
fn is_told(steps: &[Step], missing: u64) -> bool {
    let mut reset_since_high = false;
    let mut high = None;
    for step in steps {
        match step {
            Step::Reset => reset_since_high = true,
            Step::Event(seq) if high.is_none_or(|high| *seq > high) => {
                if *seq > missing {
                    return reset_since_high;
                }
                high = Some(*seq);
                reset_since_high = false;
            }
            Step::Event(_) => {}
        }
    }
    reset_since_high
}

/// One fault planted into a sequence that was whole.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Drop(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
    Reset(prop::sample::Index),
    Phantom(prop::sample::Index, u64),
}

fn fault() -> impl Strategy<Value = Fault> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        at().prop_map(Fault::Drop),
        (at(), at()).prop_map(|(a, b)| Fault::Swap(a, b)),
        (at(), at()).prop_map(|(a, b)| Fault::Double(a, b)),
        at().prop_map(Fault::Reset),
        (at(), 0..90_u64).prop_map(|(a, seq)| Fault::Phantom(a, seq)),
    ]
}

fn plant(steps: &mut Vec<Step>, fault: Fault) {
    if steps.is_empty() {
        return;
    }
    let len = steps.len();
    match fault {
        Fault::Drop(at) => drop(steps.remove(at.index(len))),
        Fault::Swap(a, b) => steps.swap(a.index(len), b.index(len)),
        Fault::Double(from, to) => steps.insert(to.index(len + 1), steps[from.index(len)]),
        Fault::Reset(at) => steps.insert(at.index(len + 1), Step::Reset),
        Fault::Phantom(at, seq) => steps.insert(at.index(len + 1), Step::Event(seq)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_check_says_what_its_naive_twin_says(
        numbers in (0..20_u64, 0..40_u64).prop_map(|(start, len)| start..start + len),
        narrowed in (0..4_u64, 0..4_u64),
        uncertain in prop::collection::btree_set(0..60_u64, 0..4),
        faults in prop::collection::vec(fault(), 0..24),
    ) {
        let mut steps: Vec<Step> = numbers.clone().map(Step::Event).collect();
        faults.into_iter().for_each(|fault| plant(&mut steps, fault));
        let start = (numbers.start + narrowed.0).min(numbers.end);
        let covered = start..(numbers.end - narrowed.1.min(numbers.end - start));
        let uncertain: Vec<u64> = uncertain.into_iter().collect();
        let published = Published { numbers, covered, uncertain: &uncertain };
        prop_assert_eq!(check(&steps).finish(published.clone()), twin(&steps, &published), "{:?}", steps);
    }

    #[test]
    fn distinct_drops_and_doubles_are_counted_exactly(
        len in 1..200_u64,
        dropped in prop::collection::btree_set(0..200_u64, 0..10),
        doubled in prop::collection::btree_set(0..200_u64, 0..10),
    ) {
        let mut steps = Vec::new();
        for seq in (0..len).filter(|seq| !dropped.contains(seq)) {
            steps.push(Step::Event(seq));
            if doubled.contains(&seq) {
                steps.push(Step::Event(seq));
            }
        }
        let verdict = check(&steps).finish(0..len);
        let within = |set: &BTreeSet<u64>| set.iter().filter(|&&seq| seq < len).count() as u64;
        prop_assert_eq!(verdict.lost, within(&dropped));
        prop_assert_eq!(verdict.doubled, doubled.iter().filter(|&&seq| seq < len && !dropped.contains(&seq)).count() as u64);
        prop_assert_eq!((verdict.out_of_order, verdict.told, verdict.phantoms), (0, 0, 0));
    }

    #[test]
    fn verdicts_add_up_over_streams(a in prop::collection::vec(0..30_u64, 0..30), b in prop::collection::vec(0..30_u64, 0..30)) {
        let of = |seqs: &[u64]| check(&seqs.iter().map(|&s| Step::Event(s)).collect::<Vec<_>>()).finish(0..30);
        let sum: Verdict = [of(&a), of(&b)].into_iter().sum();
        prop_assert_eq!(sum, of(&a) + of(&b));
        prop_assert_eq!(sum.received, (a.len() + b.len()) as u64);
    }
}
