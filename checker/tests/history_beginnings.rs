//! How streams begin: where the oldest and the newest few are, what is owed of topics of which nothing comes, and the
//! first block.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod script;

use checker::history::Kind;

use script::{expect, expect_clean, with_events};

#[test]
fn a_topic_of_which_nothing_comes_is_judged_by_what_cannot_have_left() {
    let told = |faults: &str, events: &str| with_events(&format!("{faults}\n0: ab earliest\n0> open none\n{events}"));
    let only_a = "0> 10\n0> 30\n0> 50\n";
    expect(Kind::Lost, &told("trim b kept 2", &format!("{only_a}0 dry")));
    expect(Kind::Lost, &told("trim b kept 1", &format!("{only_a}0 dry")));
    expect_clean(&told("trim b", &format!("{only_a}0 dry")));
    // What was stored after the first block cannot have left before it, and must be told.
    expect(Kind::Lost, &told("trim b\n+b 600", &format!("{only_a}0 dry")));
    expect(Kind::Lost, &told("trim b\n+b 600\n+b 700", &format!("{only_a}0> 700\n0 dry")));
    expect_clean(&told("trim b\n+b 600", &format!("{only_a}0> reset trimmed b 600 @700\n0 dry")));
    // So must what was stored when trims were over.
    let over = told("trim b\n+b 1200", &format!("{only_a}0 dry")).replace("none", "none @1500");
    expect(Kind::Lost, &over);
    expect_clean(&over.replace("1200", "900"));
    // What cannot be sure to be stored does not count.
    expect_clean(&told("?b x\n?b y\ntrim b kept 2", &format!("{only_a}0 dry")));
}

#[test]
fn a_topic_of_which_nothing_came_is_not_handed_over_when_its_reader_leaves() {
    let told = |kept: &str, events: &str| {
        with_events(&format!("+b 60\ntrim b{kept}\n0: ab earliest\n0> open none\n0> 10\n0> 30\n0> 50\n{events}"))
    };
    let again = "0: ab after 50\n0> open resumed 50\n";
    expect(Kind::Lost, &told(" kept 2", &format!("{again}0> 60\n0 dry")));
    expect_clean(&told(" kept 1", &format!("{again}0> 60\n0 dry")));
    expect_clean(&told("", &format!("{again}0> 60\n0 dry")));
    // It left since, and that is told now, further on. The connection between was cut before it began.
    let cut = format!("0: ab after 50\n{again}");
    let later = told(" kept 1", &format!("{cut}0> reset trimmed b 60\n0> 70\n0 dry")).replace("none", "none @45");
    assert_eq!(expect_clean(&format!("+b 70\n{later}")).told, 2);
    expect(Kind::Lost, &format!("+b 70\n{}", later.replace("0> reset trimmed b 60\n", "0> 60\n")));
}

#[test]
fn what_is_owed_is_not_forgotten_with_a_position_that_is_refused() {
    let events = "trim b\n0: ab after 5\n0> open resumed 5\n0> 10\n0> 30\n0: ab after 30\n0> open none\n\
                  0: ab after 30\n0> open resumed 30\n";
    expect(Kind::Lost, &with_events(&format!("{events}0> 40\n0> 50\n0 dry")));
    expect_clean(&with_events(&format!("{events}0> reset trimmed b 30\n0> 40\n0> 50\n0 dry")));
}

#[test]
fn from_the_oldest_on_a_new_history_is_whole() {
    let begun =
        |script: &str| format!("+a 10\nloss @15\n+a 20B\n+b 30B\n+a 40B\n0: ab earliest\n0> open none\n{script}");
    expect_clean(&begun("0> 10\n0> 20B\n0> 30B\n0> 40B\n0 dry"));
    expect_clean(&begun("0> 20B\n0> 30B\n0> 40B\n0 dry"));
    expect(Kind::Lost, &begun("0> 20B\n0> 40B\n0 dry"));
    expect(Kind::Lost, &begun("0> 30B\n0> 40B\n0 dry"));
}

#[test]
fn streams_that_promise_events_begin_with_one() {
    for position in ["earliest", "last 2"] {
        for faults in ["", "trim ab", "trim ab kept 1", "loss @45"] {
            let script = format!("{faults}\n0: ab {position}\n0> open none\n");
            expect(Kind::WrongPlace, &with_events(&format!("{script}0 dry")));
            expect_clean(&with_events(&script));
        }
    }
}

#[test]
fn that_nothing_is_left_is_not_said_of_what_is_kept() {
    expect(Kind::ControlAhead, &with_events("trim b kept 1\n0: b earliest\n0> open 50\n0 dry"));
    expect(Kind::WrongPlace, &with_events("trim b kept 1\n0: b last 2\n0> open 50\n0 dry"));
    for position in ["earliest", "last 2"] {
        expect_clean(&with_events(&format!("trim b\n0: b {position}\n0> open 50\n0 dry")));
    }
}

#[test]
fn of_the_newest_few_those_that_have_left_are_not_missed() {
    let last = |kept: &str| with_events(&format!("trim b{kept}\n0: ab last 2\n0> open none\n0> 30\n0> 50\n0 dry"));
    expect_clean(&last(""));
    expect(Kind::Lost, &last(" kept 1"));
    // Nor are they too many.
    let late = last("").replace("last 2", "last 2 @2000").replace("none", "none @2000");
    expect_clean(&late);
    expect(Kind::WrongPlace, &late.replace("0> 30", "0> 10\n0> 30"));
    expect(Kind::WrongPlace, &with_events("trim ab kept 2\n0: ab last 2\n0> open none\n0> 50\n0 dry"));
}

#[test]
fn a_stream_begins_with_its_first_block() {
    expect(Kind::OpenWrong, &with_events("trim ab\n0: ab after 5\n0> reset trimmed ab 30\n0> 40\n0> 50"));
    expect(Kind::OpenWrong, &with_events("trim ab\n0: ab after 5\n0> reset trimmed ab 30"));
    expect(Kind::OpenWrong, &with_events("0: ab now\n0> reset unknown-cursor ab none"));
}

#[test]
fn a_reset_before_the_newest_few_says_nothing_of_other_topics() {
    let last =
        |count: u32, also: &str| with_events(&format!("trim a\n0: ab last {count}\n0> open none\n{also}\n0 dry"));
    let told = "0> reset trimmed a 30\n0> 40\n0> 50";
    expect_clean(&last(2, told));
    expect_clean(&last(3, told));
    expect(Kind::WrongPlace, &last(4, told));
    expect(Kind::Lost, &last(2, &told.replace("0> 40\n", "")));
    expect_clean(&last(4, &told.replace("trimmed a", "trimmed ab")).replace("trim a", "trim ab"));
}

#[test]
fn a_position_that_is_none_is_told_of_all_topics() {
    let garbage = |topics: &str| {
        with_events(&format!("0: ab garbage\n0> open none\n0> reset unknown-cursor {topics} 40\n0> 50\n0 dry"))
    };
    expect(Kind::ResetUnjustified, &garbage("-"));
    expect(Kind::ResetUnjustified, &garbage("abc"));
    expect(Kind::ResetMissing, &garbage("a"));
    expect(Kind::ResetMissing, "+a 10\nloss @45\n+a 50B\n0: ab after 10\n0> open none\n0> reset epoch a 50B\n0 dry");
}

#[test]
fn whoever_asks_for_the_oldest_or_the_newest_does_not_resume() {
    for position in ["earliest", "last 3"] {
        let script = with_events(&format!("0: b {position}\n0> open resumed none\n0> 20\n0> 40\n0 dry"));
        expect(Kind::OpenWrong, &script);
        expect_clean(&script.replace("resumed ", ""));
        expect(Kind::OpenWrong, &with_events(&format!("0: c {position}\n0> open resumed 50\n0 dry")));
    }
}
