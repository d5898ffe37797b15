//! `fanwheel config` tells what is wrong all at once, what is in effect, and which settings there are.

use crate::common::Launch;

fn config(verb: &str) -> Launch {
    Launch::verb("config").word(verb)
}

/// Wrong in the syntax, in keys, in types and in values.
const WRONG: &str = "shards = 0\nshrads = 3\nlisten = 8080\nnonsense\n\n[limits]\nstall = 'soon'\nstal = '2s'\n\n\
    [[class]]\npattern = 'a.**.b'\nlog = 1\n";

#[test]
fn everything_wrong_is_told_in_one_report() {
    for launch in [config("check"), Launch::serve(), Launch::demo()] {
        let ended = launch.config(WRONG).variable("FANWHEEL_ACCEPT_RATE", "many").flag("--drain", "1 moon").run();
        assert_eq!((ended.code, &ended.stdout[..]), (Some(2), ""), "{ended:?}");
        let expected = [
            "fanwheel.toml: line 1, column 10: shards: 0 is outside 1..=256",
            "fanwheel.toml: line 2, column 1: shrads: unknown key",
            "fanwheel.toml: line 3, column 10: listen: must be text, not a number",
            "fanwheel.toml: line 4, column ",
            "fanwheel.toml: line 7, column 9: limits.stall: `soon` is no duration",
            "fanwheel.toml: line 8, column 1: limits.stal: unknown key",
            "fanwheel.toml: line 11, column 11: class 1: pattern: `**` must be the last",
            "fanwheel.toml: line 12, column 1: class 1: log: unknown key",
            "FANWHEEL_ACCEPT_RATE: `many` is no whole number",
            "--drain: `1 moon` is no duration",
        ];
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{}", ended.stderr);
        for part in expected {
            assert!(lines.iter().any(|line| line.contains(part)), "{part} in\n{}", ended.stderr);
        }
    }
}

#[test]
fn what_is_in_effect_is_printed_without_passwords() {
    let file = "redis = 'redis://user:s3cret@127.0.0.1:6379'\nshards = 3\n[limits]\ndrain = '2s'\n";
    let ended = config("check").config(file).variable("FANWHEEL_SHARDS", "2").flag("--accept-rate", "7").run();
    assert_eq!((ended.code, &ended.stderr[..]), (Some(0), ""), "{ended:?}");
    assert!(!ended.stdout.contains("s3cret"), "{}", ended.stdout);
    for line in [
        "redis = \"redis://user:***@127.0.0.1:6379\"   # line 1",
        "shards = 2   # FANWHEEL_SHARDS",
        "accept_rate = 7   # --accept-rate",
        "drain = \"2s\"   # line 4",
        "heartbeat = \"15s\"   # default",
    ] {
        assert!(ended.stdout.lines().any(|printed| printed == line), "{line} in\n{}", ended.stdout);
    }
    let again = config("check").config(&ended.stdout).run();
    assert_eq!(again.code, Some(0), "what it prints is a file: {}", again.stderr);
}

#[test]
fn a_topic_is_told_its_class() {
    let file = "[[class]]\npattern = 'chat.*'\n[[class]]\npattern = 'news.**'\nkind = 'durable'\nhistory_age = '7d'\n";
    let ask = |topics: &[&str]| {
        topics.iter().fold(config("check").config(file), |launch, topic| launch.flag("--topic", topic)).run()
    };
    let ended = ask(&["news.a.b", "chat.a", "chat.a.b"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in [
        "# topic news.a.b: class 2 (`news.**`), durable: 100000 events, 7d; idempotency keys 2m",
        "# topic chat.a: class 1 (`chat.*`), live",
        "# topic chat.a.b: no class matches; the defaults, live",
    ] {
        assert!(ended.stdout.lines().any(|printed| printed == line), "{line} in\n{}", ended.stdout);
    }
    let ended = ask(&["$reserved", "chat.*"]);
    assert_eq!((ended.code, &ended.stdout[..]), (Some(2), ""), "{ended:?}");
    for topic in ["--topic $reserved: ", "--topic chat.*: "] {
        assert!(ended.stderr.contains(topic), "{topic} in {}", ended.stderr);
    }
}

#[test]
fn an_unknown_variable_is_a_warning_and_no_error() {
    let ended = config("check").variable("FANWHEEL_SHRADS", "2").variable("FANWHEEL_DRAIN", "1s").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "warning: FANWHEEL_SHRADS: unknown variable\n");
}

#[test]
fn the_default_file_is_what_holds_without_one() {
    let defaults = config("default").run();
    assert_eq!((defaults.code, &defaults.stderr[..]), (Some(0), ""), "{defaults:?}");
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("   # ").next().unwrap().to_owned()).collect()
    };
    let with = config("check").config(&defaults.stdout).run();
    let without = config("check").run();
    assert_eq!((with.code, without.code), (Some(0), Some(0)), "{}", with.stderr);
    assert_eq!(values(&with.stdout), values(&without.stdout));
}

/// The README's tables are written for people, by people: they must name what there is.
#[test]
fn the_readme_and_the_help_name_every_setting() {
    let doc = config("doc").run();
    assert_eq!((doc.code, &doc.stderr[..]), (Some(0), ""), "{doc:?}");
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let help = Launch::verb("serve").word("--help").run().stdout;
    let titles: Vec<&str> = doc.stdout.lines().filter(|line| !line.contains(' ') && !line.is_empty()).collect();
    assert!(titles.len() > 20, "{}", doc.stdout);
    for title in &titles {
        let name = title.rsplit('.').next().unwrap();
        let written = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{name} = "));
        assert!(readme.lines().any(written), "README.md does not show {title}");
    }
    let word = |start: &str| -> Vec<String> {
        let lines = doc.stdout.lines().filter_map(|line| line.trim_start().strip_prefix(start));
        lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    let (flags, variables) = (word("flag "), word("variable "));
    assert_eq!(flags.len(), variables.len());
    for flag in flags.iter().chain(&variables) {
        assert!(readme.contains(&format!("`{flag}")), "README.md does not name {flag}");
        assert!(help.contains(flag), "`serve --help` does not name {flag}");
    }
}
