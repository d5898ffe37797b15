use clap::{Args, Command, FromArgMatches};

use super::*;

fn merge(arguments: &[&str], text: &str) -> Result<Config, ConfigErrors> {
    let command = Flags::augment_args(Command::new("fanwheel").no_binary_name(true));
    let flags = Flags::from_arg_matches(&command.try_get_matches_from(arguments).expect("values are taken as text"))
        .expect("so nothing can be wrong yet");
    Settings::merge(&flags, File::parse(text), "").map(|settings| settings.config())
}

fn load(text: &str) -> Result<Config, ConfigErrors> {
    merge(&[], text)
}

/// Each error must begin so, in this order, and there must be no other.
#[track_caller]
fn expect_errors(config: Result<Config, ConfigErrors>, starts: &[&str]) {
    let ConfigErrors(errors) = config.expect_err("nearly all of it is wrong");
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{start} but\n{error}");
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = load("").expect("fine");
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert!(config.redis.is_none());
    assert_eq!((config.connections_per_address, config.accept_rate), (None, None));
    assert_eq!(config.drain, Duration::from_secs(8));
    assert_eq!(config.topics_per_stream_max, crate::engine::policy::TOPICS_PER_STREAM_MAX);
    // The engine's own defaults, which its tests and benches run with.
    assert_eq!(format!("{:?}", config.limits), format!("{:?}", Limits::default()));
}

#[test]
fn the_default_file_means_the_defaults() {
    let text = default_file();
    for key in KEYS {
        let name = key.name.trim_start_matches("limits.");
        assert!(text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{name} = "))), "{name}");
    }
    assert_eq!(format!("{:?}", load(&text).expect("it loads")), format!("{:?}", load("").expect("fine")));
}

#[test]
fn the_default_files_comments_can_be_taken_away() {
    let setting =
        |line: &str| line.starts_with("[[") || line.split(" = ").next().is_some_and(|name| !name.contains(' '));
    let text = default_file();
    let lines = text.lines().map(|line| line.strip_prefix("# ").filter(|line| setting(line)).unwrap_or(line));
    let config = load(&lines.collect::<Vec<_>>().join("\n")).expect("it loads");
    let class = config.limits.classes.class_of(&Topic::parse("chat.a").expect("a topic"));
    assert_eq!(format!("{class:?}"), format!("{:?}", Class::default()));
    let class = config.limits.classes.class_of(&Topic::parse("acct.a").expect("a topic"));
    assert_eq!((class.retention(), class.overflow), (Some(Retention::default()), Overflow::Disconnect));
    assert_eq!((config.limits.classes.0.len(), config.accept_rate), (2, Some(1_000)));
}

#[test]
fn what_is_in_effect_is_a_file_that_means_the_same() {
    let text = "shards = 3\ncors_origin = ['https://a.example', '*']\nlog_format = 'json'\n\
                [[class]]\npattern = 'a.*'\nlog_bytes = '64KiB'\noverflow = 'disconnect'\n\
                [[class]]\npattern = 'b.*'\nkind = 'durable'\nhistory_age = '400h 1ms'\nhistory_events = 5\n\
                [limits]\nstall = '1m 300ms'\naccept_rate = 9\ndrain = '0s'";
    let settings = Settings::merge(&Flags::default(), File::parse(text), "").expect("fine");
    let again = load(&show::effective(&settings)).expect("fine");
    assert_eq!(format!("{again:?}"), format!("{:?}", settings.config()));
}

#[test]
fn flags_override_the_file() {
    let file = "shards = 3\nchannel_prefix = 'x:'\nlog_level = 'warn'\n[limits]\naccept_rate = 7\ndrain = '2s'";
    let config = merge(&["--shards", "5", "--drain", "0s", "--connections-per-address=4"], file).expect("fine");
    assert_eq!((config.shards, config.log_level), (5, tracing::Level::WARN));
    assert_eq!((config.connections_per_address, config.accept_rate), (Some(4), Some(7)));
    assert_eq!(config.drain, Duration::ZERO);
}

#[test]
fn flags_may_be_repeated_or_stand_alone() {
    let config =
        merge(&["--cors-origin", "*", "--cors-origin", "http://a,http://b", "--demo-pages"], "").expect("fine");
    assert_eq!(config.origins.0, ["*", "http://a", "http://b"]);
    assert!(config.demo_pages);
    assert!(!merge(&["--demo-pages", "false"], "demo_pages = true").expect("fine").demo_pages);
}

#[test]
fn variables_are_the_flags_in_capitals() {
    for key in KEYS {
        let Some(flag) = &key.flag else { continue };
        assert_eq!(flag.variable, format!("FANWHEEL_{}", flag.long.to_uppercase().replace('-', "_")));
        assert_eq!(flag.long.replace('-', "_"), key.name.trim_start_matches("limits."));
    }
}

#[test]
fn classes_are_tried_in_order() {
    let config = load(
        "[[class]]\npattern = 'a.*'\nkind = 'live'\nlog_events = 7\nlog_bytes = '64KiB'\noverflow = 'disconnect'\n\
         [[class]]\npattern = '**'\nlog_events = 9\n[limits]\nstall = '2s'\nlog_memory = '1MiB'",
    )
    .expect("fine");
    let of = |name| config.limits.classes.class_of(&Topic::parse(name).expect("a topic"));
    assert_eq!(of("a.b").log, LogLimits { events_max: 7, bytes_max: 64 << 10 });
    assert_eq!(of("a.b").overflow, Overflow::Disconnect);
    assert_eq!(of("c").log, LogLimits { events_max: 9, bytes_max: 1 << 20 });
    assert_eq!((config.limits.stall_ticks, config.limits.log_bytes_max), (20, 1 << 20));
}

#[test]
fn a_durable_class_has_a_history() {
    let config = load(
        "key_prefix = 'k:'\n[[class]]\npattern = 'a.*'\nkind = 'durable'\nhistory_events = 7\nhistory_age = '365d'\n\
         idempotency_window = '1s'\n[[class]]\npattern = 'b.*'\nkind = 'durable'\noverflow = 'disconnect'\n\
         [[class]]\npattern = 'c.*'\nkind = 'live'\n[limits]\nhistory_memory = '1MiB'",
    )
    .expect("fine");
    assert_eq!((&config.key_prefix[..], config.history_memory), ("k:", 1 << 20));
    let of = |name| config.limits.classes.class_of(&Topic::parse(name).expect("a topic"));
    let retention = Retention { events_max: 7, age_ms: 365 * 86_400_000, idempotency_ms: 1_000 };
    assert_eq!((of("a.b").retention(), of("a.b").overflow), (Some(retention), Overflow::Disconnect));
    assert_eq!((of("b.b").retention(), of("b.b").overflow), (Some(Retention::default()), Overflow::Disconnect));
    assert_eq!((of("c.b").kind, of("c.b").overflow), (Kind::Live, Overflow::Skip));
    assert_eq!(load("").expect("fine").history_memory, 256 << 20);
    assert_eq!(merge(&["--history-memory", "4MiB"], "").expect("fine").history_memory, 4 << 20);
}

#[test]
fn keys_that_a_classs_kind_does_not_have_are_told() {
    let text = "[[class]]\npattern = 'a'\nhistory_events = 7\nhistory_age = '1d'\nidempotency_window = '1m'\n\
                [[class]]\npattern = 'b'\nkind = 'durable'\noverflow = 'skip'\n\
                [[class]]\npattern = 'c'\noverflow = 'conflate'\nkind = 'durable'\n\
                [[class]]\npattern = 'd'\nkind = 'lasting'\nhistory_events = 7\noverflow = 'skip'\n\
                [[class]]\npattern = 'e'\nkind = 'durable'\nhistory_events = 10000001\nhistory_age = '366d'\n\
                idempotency_window = '999ms'\nhistory = 1";
    let expected = [
        "line 3, column 18: class 1: history_events: needs kind = \"durable\"",
        "line 4, column 15: class 1: history_age: needs kind = \"durable\"",
        "line 5, column 22: class 1: idempotency_window: needs kind = \"durable\"",
        "line 9, column 12: class 2: overflow: `skip` does not go with kind = \"durable\"; use overflow",
        "line 12, column 12: class 3: overflow: `conflate` does not go with kind = \"durable\"; use overflow",
        "line 16, column 8: class 4: kind: `lasting` is none of: live, durable",
        "line 22, column 18: class 5: history_events: 10000001 is outside 1..=10000000",
        "line 23, column 15: class 5: history_age: `366d` is outside 1s..=365d",
        "line 24, column 22: class 5: idempotency_window: `999ms` is outside 1s..=1d",
        "line 25, column 1: class 5: history: unknown key",
    ];
    expect_errors(load(text), &expected);
}

#[test]
fn long_durations_are_written_in_days() {
    for (text, shown) in
        [("24h", "1d"), ("365d", "365d"), ("36h", "1d 12h"), ("90m", "1h 30m"), ("31d 1ms", "31d 1ms"), ("0s", "0s")]
    {
        let duration = humantime::parse_duration(text).expect("a duration");
        assert_eq!(kind::written(duration), shown);
        assert_eq!(humantime::parse_duration(shown), Ok(duration), "it can be read again");
    }
}

#[test]
fn everything_wrong_is_reported_at_once_with_its_place() {
    let text = "shards = 0\nlog_format = 'xml'\ncors_origin = ['example.org']\nlisten = 8080\nnonsense\nredis = 'x'\n\
                [[class]]\npattern = 'a.**.b'\nkind = 'presence'\noverflow = 'conflate'\nlog_events = 0\nlog = 1\n\
                [[class]]\nlog_bytes = true\n\
                [limits]\nheartbeat = 'soon'\nstall = '1ms'\nlog_memory = 'much'\ntopics_per_stream = 101\n\
                connections = 0\nconnections_per_address = -1\naccept_rate = 1000001\ndrain = '11m'\nstal = 1\ntopics = 1.5";
    let config = merge(&["--shards", "many", "--drain", "1 moon", "--demo-pages=maybe"], text);
    let expected = [
        "line 1, column 10: shards: 0 is outside 1..=256",
        "line 2, column 14: log_format: `xml`",
        "line 3, column 15: cors_origin: `example.org`",
        "line 4, column 10: listen: must be text, not a number",
        "line 5, column",
        "line 6, column 9: redis: `x`",
        "line 8, column 11: class 1: pattern",
        "line 9, column 8: class 1: kind: `presence` is none of",
        "line 10, column 12: class 1: overflow",
        "line 11, column 14: class 1: log_events",
        "line 12, column 1: class 1: log: unknown key",
        "line 13, column 1: class 2: pattern: must be given",
        "line 14, column 13: class 2: log_bytes: must be",
        "line 16, column 13: limits.heartbeat",
        "line 17, column 9: limits.stall",
        "line 18, column 14: limits.log_memory",
        "line 19, column 21: limits.topics_per_stream",
        "line 20, column 15: limits.connections:",
        "line 21, column 27: limits.connections_per_address",
        "line 22, column 15: limits.accept_rate",
        "line 23, column 9: limits.drain",
        "line 24, column 1: limits.stal: unknown key",
        "line 25, column 10: limits.topics: must be a whole number, not a fraction",
        "--shards: `many` is no whole number",
        "--demo-pages: `maybe`",
        "--drain: `1 moon` is no duration",
    ];
    expect_errors(config, &expected);
}

#[test]
fn an_open_bracket_is_not_told_for_every_line_after_it() {
    let text = format!("shards = 0\nlisten = [\n{}", "log_level = 'x'\n".repeat(100));
    let ConfigErrors(errors) = load(&text).expect_err("it is broken");
    assert!(errors.len() <= 14, "{errors:#?}");
    assert!(errors[0].starts_with("line 1, column 10: shards"), "{errors:#?}");
    assert!(errors.iter().any(|error| error.contains("lines from here on cannot be read")), "{errors:#?}");
}

#[test]
fn places_count_lines_of_any_end_and_characters() {
    let text = "\u{feff}shards = 0\r\n# \u{e4}\u{e4}\r\nlog_format = '\u{e4}'; \n'\u{e4}' = 1\nlisten = { a = 1 }\n\"limits.stall\" = '1s'";
    let expected = [
        "line 1, column 10",
        "line 3, column 17",
        "line 4, column 1: \u{e4}: unknown",
        "line 5, column 10: listen",
        "line 6, column 1: limits.stall: unknown",
    ];
    expect_errors(load(text), &expected);
}
