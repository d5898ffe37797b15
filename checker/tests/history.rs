//! One history per rule that breaks exactly that rule, beside the one it was made from.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod script;

use checker::history::{Kind, Reason};

use script::{expect, expect_clean, judge, with_events};

#[test]
fn a_whole_history_over_two_connections_is_clean() {
    let report = expect_clean(&with_events(
        "0: ab now
        0> open 10
        0> 20
        0> 30
        0: ab after 30
        0> open resumed 30
        0> 40
        0> 50
        0 dry",
    ));
    assert_eq!((report.events, report.connections, report.continued, report.acknowledged), (4, 2, 1, 5));
}

#[test]
fn an_event_that_is_dropped_is_lost() {
    let lost = |script: &str| assert_eq!(expect(Kind::Lost, &with_events(script)).violations(), 1);
    // Within a topic, of another topic than the events around it, at the end, and between two connections.
    lost("0: a now\n0> open 5\n0> 10\n0> 50");
    lost("0: ab now\n0> open 10\n0> 30\n0> 40");
    lost("0: ab now\n0> open 30\n0> 40\n0 dry");
    lost("0: ab now\n0> open 10\n0> 20\n0: ab after 20\n0> open resumed 20\n0> 40");
}

#[test]
fn the_end_of_what_was_read_is_the_end_of_what_is_covered() {
    expect_clean(&with_events("0: ab now\n0> open 10\n0> 20\n0> 30"));
    expect_clean(&with_events("0: ab now\n0: ab now\n0> open 50\n0 dry"));
}

#[test]
fn an_event_that_comes_again_is_repeated() {
    expect(Kind::Repeated, &with_events("0: ab now\n0> open 10\n0> 20\n0> 20\n0> 30"));
    expect(
        Kind::Repeated,
        &with_events("0: ab now\n0> open 10\n0> 20\n0: ab after 20\n0> open resumed 20\n0> 20\n0> 30"),
    );
}

#[test]
fn events_that_are_swapped_are_out_of_order() {
    let swapped = |script: &str| assert_eq!(expect(Kind::OutOfOrder, &with_events(script)).violations(), 1);
    swapped("0: ab now\n0> open 10\n0> 30\n0> 20\n0> 40");
    swapped("0: a now\n0> open 5\n0> 30\n0> 10\n0> 50");
}

#[test]
fn what_nobody_published_or_was_refused_is_a_phantom() {
    expect(Kind::Phantom, &with_events("0: ab now\n0> open 10\n0> 20\n0> 25=x\n0> 30"));
    expect(Kind::Phantom, &with_events("!a x\n0: ab now\n0> open 10\n0> 20\n0> 25=x\n0> 30"));
}

#[test]
fn one_id_has_the_same_bytes_everywhere() {
    expect(Kind::Changed, &with_events("0: ab now\n0> open 10\n0> 20=x\n0> 30"));
    expect(Kind::Changed, &with_events("?a x\n0: ab now\n0> open 10\n0> 20=x\n0> 30"));
    expect(Kind::Changed, "+a 10\n+a 10=y");
    expect(Kind::Changed, "?a x\n?a y\n0: a now\n0> open 1\n0> 10=x\n1: a now\n1> open 1\n1> 10=y");
}

#[test]
fn one_publication_has_one_id() {
    expect(Kind::StoredTwice, &with_events("0: ab now\n0> open 10\n0> 20\n0> 25=20\n0> 30"));
    expect(Kind::StoredTwice, "?a x\n0: a now\n0> open 1\n0> 10=x\n0> 11=x");
    // What was lost is stored again when its publisher asks again.
    let again = "+a 10\n+a 50B=x\n0: a after 10\n0> open resumed 10\n0> 40=x\n0> reset diverged a 10B\n0> 50B=x\n0 dry";
    expect_clean(&format!("loss @45\n{again}"));
    assert!(judge(again).violations.contains_key(&Kind::StoredTwice));
}

#[test]
fn no_two_events_have_one_number() {
    expect(Kind::SameNumber, "+a 10\n+b 10B");
    expect_clean("+a 5\n+a 10\nloss @8\n+b 10B");
}

#[test]
fn an_unknown_outcome_may_be_there_or_not_but_for_all_alike() {
    expect_clean(&with_events("?a x\n0: ab now\n0> open 10\n0> 20\n0> 30"));
    expect_clean(&with_events("?a x\n0: ab now\n0> open 10\n0> 20\n0> 25=x\n0> 30"));
    let two = "?a x\n0: ab now\n0> open 10\n0> 20\n0> 25=x\n1: a now\n1> open 20\n1> 30";
    expect(Kind::Lost, &with_events(two));
    expect_clean(&with_events(&two.replace("open 20", "open 25")));
}

#[test]
fn only_topics_that_were_asked_for_come() {
    expect(Kind::WrongTopic, &with_events("0: a now\n0> open 10\n0> 20\n0> 30"));
}

#[test]
fn the_first_block_answers_to_the_position() {
    let wrong = |script: &str| expect(Kind::OpenWrong, &with_events(script));
    wrong("0: ab now\n0> open none");
    wrong("0: ab now\n0> open resumed 10");
    wrong("0: ab now\n0> open 10\n0> open 10");
    wrong("0: ab now\n0> 10");
    wrong("0: ab after 10\n0> open resumed none");
    wrong("0: ab after 10\n0> open 10");
    wrong("0: ab now\n0 dry");
}

#[test]
fn a_block_is_not_ahead_of_what_was_handed_over() {
    let ahead = |script: &str| expect(Kind::ControlAhead, &with_events(script));
    // Followed by what it passed over; cut right after it; at the beginning; in the future.
    ahead("trim a\n0: ab after 5\n0> open resumed 5\n0> reset trimmed a 20\n0> 20\n0> 30");
    ahead("trim a\n0: ab after 5\n0> open resumed 5\n0> reset trimmed a 20");
    ahead("0: ab after 10\n0> open resumed 20\n0> 20\n0> 30");
    ahead("0: ab now\n0> open 900");
    ahead("0: c last 2\n0> open 900");
    ahead("trim a\n0: a after 5\n0> open resumed 5\n0> reset trimmed a 900");
}

#[test]
fn a_block_is_not_behind_what_was_handed_over() {
    let behind = |script: &str| expect(Kind::ControlBehind, &with_events(script));
    behind("trim a\n0: ab after 5\n0> open resumed 5\n0> 20\n0> 40\n0> reset trimmed a 30\n0> 50");
    behind("0: ab after 30\n0> open resumed 20\n0> 40");
}

#[test]
fn a_trim_that_cost_something_is_told_where_the_rest_begins() {
    let report = expect_clean(&with_events(
        "trim a
        0: ab after 5
        0> open resumed 5
        0> 20
        0> reset trimmed a 30
        0> 40
        0> 50
        0 dry",
    ));
    assert_eq!((report.told, report.resets[&Reason::Trimmed]), (2, 1));
    // Not told; told of another topic; told before an event that came, and not of what is missing behind that.
    let begin = "trim ab\n0: ab after 5\n0> open resumed 5\n0> 20\n";
    expect(Kind::Lost, &with_events(&format!("{begin}0> 40\n0> 50")));
    expect(
        Kind::Lost,
        &with_events("+a 60\ntrim a\n0: a after 5\n0> open resumed 5\n0> reset trimmed a 10\n0> 30\n0> 60"),
    );
    // It may reach beyond its place: it is told before the next event of whichever topic.
    expect_clean(&with_events("trim a\n0: ab after 5\n0> open resumed 5\n0> reset trimmed a 10\n0> 20\n0> 40\n0> 50"));
    // What was lost before is not told by what is told later.
    expect(
        Kind::Lost,
        &with_events("+a 60\ntrim a\n0: a after 5\n0> open resumed 5\n0> 30\n0> reset trimmed a 50\n0> 60"),
    );
}

#[test]
fn a_reset_has_a_reason() {
    let unjustified = |script: &str| expect(Kind::ResetUnjustified, &with_events(script));
    unjustified("0: a after 5\n0> open resumed 5\n0> reset trimmed a 10\n0> 30");
    unjustified("trim b\n0: a after 5\n0> open resumed 5\n0> reset trimmed a 10\n0> 30");
    unjustified("loss @600\n0: a after 30\n0> open resumed 30\n0> reset epoch a 30\n0> 50");
    unjustified("0: a after 30\n0> open resumed 30\n0> reset gap a 30\n0> 50");
    unjustified("0: a after 30\n0> open resumed 30\n0> reset unknown-cursor a 30\n0> 50");
    unjustified("trim a\n0: a after 5\n0> open resumed 5\n0> reset trimmed - 5\n0> 10\n0> 30");
    unjustified("trim ab\n0: a after 5\n0> open resumed 5\n0> reset trimmed b 5\n0> 10\n0> 30");
}

#[test]
fn one_loss_is_told_once() {
    expect(
        Kind::ResetDoubled,
        &with_events("trim a\n0: a after 5\n0> open resumed 5\n0> reset trimmed a 10\n0> reset trimmed a 10\n0> 30"),
    );
    expect(
        Kind::ResetDoubled,
        &with_events("loss @5\n0: a after 30\n0> open resumed 30\n0> reset epoch a 30\n0> 50\n0> reset diverged a 50"),
    );
    // Trimmed again while it was away is another loss.
    expect_clean(&with_events(
        "trim a\n0: a after 5\n0> open resumed 5\n0> reset trimmed a 10\n0: a after 10\n0> open resumed 10\n\
         0> reset trimmed a 30\n0> 50",
    ));
}

#[test]
fn a_reset_tells_of_a_loss() {
    expect(Kind::ResetIdle, &with_events("trim a\n0: a after 10\n0> open resumed 10\n0> reset trimmed a 10\n0> 30"));
    // What may have been stored may have been lost.
    expect_clean(&with_events("?a x\ntrim a\n0: a after 10\n0> open resumed 10\n0> reset trimmed a 10\n0> 30"));
}

#[test]
fn what_is_young_does_not_leave() {
    // At 500, when it is told, only what is at 20 and before can have left.
    let script = "trim a young 479\n0: a after 5\n0> open resumed 5\n0> reset trimmed a 30\n0> 50";
    expect(Kind::WrongPlace, &with_events(script));
    expect_clean(&with_events(&script.replace("479", "469")));
    expect(Kind::Lost, &with_events("trim a young 479\n0: a earliest\n0> open none\n0> 50"));
    expect_clean(&with_events("trim a young 479\n0: a earliest\n0> open none\n0> 30\n0> 50"));
}

#[test]
fn no_more_is_passed_over_than_has_left() {
    let script = "trim a kept 2\n0: a after 5\n0> open resumed 5\n0> reset trimmed a 30\n0> 50";
    expect(Kind::WrongPlace, &with_events(script));
    expect_clean(&with_events(&script.replace("kept 2", "kept 1")));
    expect(Kind::Lost, &with_events("trim a kept 2\n0: a earliest\n0> open none\n0> 50"));
    expect_clean(&with_events("trim a kept 2\n0: a earliest\n0> open none\n0> 30\n0> 50"));
}

#[test]
fn from_the_oldest_on_nothing_is_missing() {
    expect_clean(&with_events("0: ab earliest\n0> open none\n0> 10\n0> 20\n0> 30"));
    expect(Kind::Lost, &with_events("0: ab earliest\n0> open none\n0> 20\n0> 30"));
    expect_clean("0: ab earliest\n0> open 10\n0 dry");
    expect(Kind::ControlAhead, &with_events("0: c earliest\n0> open 900"));
}

#[test]
fn the_newest_few_are_that_many_and_of_all_topics_together() {
    let last =
        |events: &str, also: &str| with_events(&format!("0: ab last 2 @2000\n0> open none @2000\n{events}\n{also}"));
    expect_clean(&last("0> 40\n0> 50", "0 dry"));
    expect(Kind::WrongPlace, &last("0> 50", "0 dry"));
    expect(Kind::WrongPlace, &last("0> 30\n0> 40\n0> 50", "0 dry"));
    expect(Kind::Lost, &last("0> 30\n0> 50", "0 dry").replace("last 2", "last 3"));
    expect_clean("0: ab last 2\n0> open 5\n0 dry");
    expect(Kind::WrongPlace, &with_events("0: ab last 2\n0> open 50\n0 dry"));
}

#[test]
fn now_is_now() {
    expect(Kind::WrongPlace, &with_events("0: ab now @2000\n0> open 40 @2000\n0> 50"));
    expect(Kind::WrongPlace, &with_events("0: ab last 0 @2000\n0> open 40 @2000\n0> 50"));
    expect_clean(&with_events("0: ab now @2000\n0> open 50 @2000"));
    expect(
        Kind::WrongPlace,
        &with_events("0: ab garbage @2000\n0> open none @2000\n0> reset unknown-cursor ab 10 @2000"),
    );
}

#[test]
fn a_position_that_is_none_is_told_and_goes_on_live() {
    let report = expect_clean(&with_events("0: ab garbage\n0> open none\n0> reset unknown-cursor ab 40\n0> 50\n0 dry"));
    assert_eq!(report.resets[&Reason::UnknownCursor], 1);
    expect(Kind::ResetMissing, &with_events("0: ab garbage\n0> open none\n0> 50\n0 dry"));
    expect(Kind::ResetMissing, &with_events("0: ab garbage\n0> open none\n0 dry"));
    expect(
        Kind::ResetMissing,
        &with_events("loss @5\n0: ab garbage\n0> open none\n0> reset epoch ab 40\n0> 50\n0 dry"),
    );
    expect(Kind::OpenWrong, &with_events("0: ab garbage\n0> open 40\n0> 50\n0 dry"));
}

/// Redis falls back to 30 at 45 ms: 40 is lost, and 50 is another history's.
const FALLEN_BACK: &str = "+a 10
    +a 30
    +a 40
    loss @45
    +a 50B
    ";

#[test]
fn what_a_fall_back_lost_is_told_at_its_place_or_late() {
    let fallen = |script: &str| format!("{FALLEN_BACK}{script}");
    // Beyond it; before it; after it was passed.
    expect_clean(&fallen("0: a after 40\n0> open none\n0> reset diverged a 30B\n0> 50B\n0 dry"));
    expect_clean(&fallen("0: a after 10\n0> open resumed 10\n0> 30\n0> reset diverged a 30B\n0> 50B\n0 dry"));
    expect_clean(&fallen("0: a after 10\n0> open resumed 10\n0> 30\n0> 50B\n0> reset diverged a 50B\n0 dry"));
    expect(Kind::Lost, &fallen("0: a after 10\n0> open resumed 10\n0> 30\n0> 50B\n0 dry"));
}

#[test]
fn one_loss_is_not_told_by_another() {
    let events = format!("{FALLEN_BACK}loss @55\n+a 60C\n+a 70C\n");
    let reads = "0: a after 10\n0> open resumed 10\n0> 30\n0> 50B\n0> reset epoch a 60C\n0> 70C\n0 dry";
    expect(Kind::Lost, &format!("{events}{reads}"));
    expect_clean(&format!("{events}{}", reads.replace("0> 50B", "0> reset diverged a 30B\n0> 50B")));
}

#[test]
fn an_event_of_a_history_that_is_over_is_stale() {
    let stale = "0: a after 10\n0> open resumed 10\n0> 30\n0> reset diverged a 30B\n0> 50B\n0> 40";
    expect(Kind::Stale, &format!("{FALLEN_BACK}{stale}"));
}

#[test]
fn a_restart_that_lost_nothing_gives_a_new_tag_and_nothing_else() {
    let restarted = |script: &str| format!("+a 10\n+a 30\n+a 50B\n{script}");
    expect_clean(&restarted("0: a after 10\n0> open resumed 10\n0> 30\n0> 50B\n0 dry"));
    expect_clean(&restarted("0: a now\n0> open 30B\n0> 50B\n0 dry"));
    expect(Kind::Lost, &restarted("0: a after 10\n0> open resumed 10\n0> 50B\n0 dry"));
    expect(Kind::OutOfOrder, &restarted("0: a after 10\n0> open resumed 10\n0> 50B\n0> 30\n0 dry"));
    expect(Kind::ResetUnjustified, &restarted("0: a after 30\n0> open none\n0> reset epoch a 30B\n0> 50B"));
}

#[test]
fn a_new_epoch_is_told_once_and_goes_on_live() {
    let flushed = |script: &str| format!("+a 10\n+a 30\nloss @45\n+a 50B\n+a 60B\n{script}");
    expect_clean(&flushed("0: a after 10\n0> open none\n0> reset epoch a 50B\n0> 60B\n0 dry"));
    expect(Kind::ResetMissing, &flushed("0: a after 30\n0> open none\n0> 50B\n0> 60B\n0 dry"));
    expect(
        Kind::ResetDoubled,
        &flushed("0: a after 30\n0> open none\n0> reset epoch a 50B\n0> reset epoch a 50B\n0> 60B"),
    );
}

#[test]
fn ids_that_are_none_are_noticed() {
    expect(Kind::Malformed, &with_events("0: ab now\n0> open 10\n0> bad=x"));
    expect(Kind::Malformed, &with_events("trim a\n0: ab now\n0> open 10\n0> reset trimmed a bad"));
    expect(Kind::Malformed, &with_events("trim a\n0: ab now\n0> open 10\n0> reset trimmed a none"));
}

#[test]
fn a_reader_that_presents_something_else_is_a_fault_of_the_harness() {
    expect(Kind::Misplaced, &with_events("0: ab now\n0> open 10\n0> 20\n0: ab after 10\n0> open resumed 10"));
    expect(Kind::Misplaced, &with_events("0: ab now\n0> open 10\n0: ab now\n0> open 50"));
    expect(Kind::Misplaced, &with_events("0: ab now\n0: ab after 10\n0> open resumed 10"));
}

#[test]
fn a_trim_that_is_told_tells_of_nothing_that_comes_later() {
    let trimmed = "+a 10\n+a 200\n+a 300\ntrim a\n0: a after 5\n0> open resumed 5\n0> reset trimmed a 10 @100\n";
    expect(Kind::WrongPlace, &format!("{trimmed}0> 300\n0 dry"));
    expect_clean(&format!("{trimmed}0> 200\n0> 300\n0 dry"));
    expect_clean(&format!("{trimmed}0> reset trimmed a 200 @250\n0> 300\n0 dry"));
}

#[test]
fn what_was_lost_is_not_among_what_a_trim_keeps() {
    let events = "+a 10\n+a 20\n+a 30\n+a 40\ntrim a kept 2\nloss @45\n+a 50B\n0: a after 5\n0> open resumed 5\n";
    expect_clean(&format!("{events}0> reset trimmed a 20\n0> reset diverged a 20B\n0> 50B\n0 dry"));
}

#[test]
fn what_a_trim_told_of_may_be_passed_by_another_reset() {
    let events = "+a 10\n+b 20\n+a 30\ntrim a\nloss @45\n+a 50B\n0: ab after 15\n0> open resumed 15\n";
    expect_clean(&format!("{events}0> reset trimmed a 15\n0> 20\n0> reset epoch ab 40B\n0> 50B\n0 dry"));
}
