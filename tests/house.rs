//! The house rules, kept by reading the tree itself: who may name whom, which versions are too old,
//! and what no file may contain.
//!
//! Every rule prints file and line of each offence, and is itself tried on a sample that must
//! offend: a rule that cannot fail keeps nothing.

mod scan;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path as FilePath;
use std::process::Command;

use scan::{Path, paths, tokens};

/// `main, cli → server → {source, edge} → engine → frame → {topic, event}`; who may name whom.
/// A module that is not listed here offends: it must be given its place.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // `publish --redis` is a source's publisher without a node; `subscribe` ends as a node does.
    ("cli", &["server", "config", "source", "engine", "event", "topic", "shutdown"]),
    (
        "server",
        &["source", "edge", "engine", "frame", "event", "topic", "config", "feed", "metrics", "clock", "shutdown"],
    ),
    // It fills the limits that each part owns.
    ("config", &["source", "edge", "engine", "frame", "event", "topic"]),
    ("source", &["engine", "frame", "event", "topic", "metrics", "clock", "shutdown"]),
    ("edge", &["engine", "frame", "event", "topic", "metrics", "clock", "shutdown"]),
    // Pure: time comes in as an argument, so neither `clock` nor `shutdown`.
    ("engine", &["frame", "event", "topic", "metrics"]),
    ("frame", &["event", "topic"]),
    ("event", &["topic"]),
    ("topic", &[]),
    ("metrics", &[]),
    ("clock", &[]),
    ("shutdown", &[]),
    ("feed", &[]),
    // Named by a macro only: faults that tests plant.
    ("mutant", &[]),
];

/// What may be named all the same: file, path, why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "src/clock.rs",
    "engine::wheel::TICK_MS",
    "the clock translates the wheel's ticks; the wheel owns their length",
)];

/// Each of these crates has one home: crate, folders and files, why.
const HOMES: &[(&str, &[&str], &str)] = &[
    ("redis", &["src/source/redis/"], "another client library must touch one folder"),
    ("hyper", &["src/edge/", "src/cli/client.rs"], "HTTP is the edge's, and of one client's"),
    ("hyper_util", &["src/edge/", "src/cli/client.rs"], "HTTP is the edge's, and of one client's"),
    ("http", &["src/edge/", "src/cli/client.rs"], "HTTP is the edge's, and of one client's"),
    ("http_body_util", &["src/edge/", "src/cli/client.rs"], "HTTP is the edge's, and of one client's"),
    ("mio", &["src/edge/"], "one reactor"),
    ("crossbeam", &["src/engine/mailbox.rs"], "threads meet in mailboxes only"),
    ("parking_lot", &["src/edge/admission.rs"], "nothing on an event's way takes a lock"),
    ("mimalloc", &["src/main.rs"], "the program chooses the allocator, not the library"),
    ("libmimalloc_sys", &["src/main.rs"], "the program chooses the allocator, not the library"),
    ("clap", &["src/cli/", "src/config/"], "the command line is parsed once"),
    ("prometheus_client", &["src/metrics.rs"], "the hot path keeps plain counters"),
    ("criterion", &[], "benches only"),
];

/// What files must not name: where, what, why.
const BANS: &[(&[&str], &[&str], &str)] = &[
    (
        &["src/engine/", "src/frame/", "src/topic.rs", "src/event.rs"],
        &["tokio", "hyper", "redis", "mio", "std::net", "std::fs", "std::time::Instant", "std::time::SystemTime"],
        "the engine is pure: time is an argument, bytes leave through Sink",
    ),
    (&["src/feed.rs"], &["tokio", "std::time::Instant", "std::time::SystemTime"], "time is an argument"),
];

/// The files with unsafe blocks: a descriptor the runtime awaits, a call of the allocator, the floor's io_uring.
const UNSAFE_HOMES: [&str; 3] = ["src/edge/reactor.rs", "src/main.rs", "loadtest/src/floor/uring.rs"];

/// Lines above a sleep in which must stand what it waits for.
const LINES_BESIDE: usize = 6;

/// Lines of a source file.
const LINES_MAX: usize = 600;

/// Below these versions lie known holes and regressions: crate, least version, whether it must be in the tree, why.
const LEAST_VERSIONS: &[(&str, [u64; 3], bool, &str)] = &[
    ("bytes", [1, 11, 1], true, "integer overflow in BytesMut::reserve"),
    ("crossbeam-channel", [0, 5, 15], true, "double free when a channel is dropped"),
    ("h2", [0, 4, 16], false, "empty DATA frames without end from a peer (RUSTSEC-2026-0258)"),
    ("hyper", [1, 12, 0], true, "the hand-over of the socket was tried with this one"),
    ("jsonwebtoken", [10, 3, 0], false, "claims of the wrong type passed as absent"),
    ("redis", [1, 8, 0], true, "push sender and resubscription behave as measured from here on"),
    ("rustls", [0, 23, 18], true, "a crafted handshake made the server panic"),
    ("tokio", [1, 52, 2], true, "1.51.0 to 1.52.1 had a message-passing regression"),
    ("tracing-subscriber", [0, 3, 20], true, "escape sequences of clients reached the operator's terminal"),
];
/// From these versions on nothing was tried: crate, first version refused, why.
const VERSIONS_BELOW: &[(&str, [u64; 3], &str)] = &[("redis", [2, 0, 0], "2.0 is a candidate, with another interface")];

#[derive(Debug)]
struct Offence {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

type Rule = fn(&str, &str, &mut Vec<Offence>);

/// Rules over one file, given by its path and its text.
const RULES: &[Rule] =
    &[layers, homes_and_bans, unsafe_blocks, ignored_and_sleeping_tests, traces_of_the_workshop, length];

#[test]
fn every_file_keeps_the_house_rules() {
    let mut offences = Vec::new();
    let mut sources = 0;
    for file in files() {
        let Some(text) = read(&file) else { continue };
        sources += usize::from(file.starts_with("src/"));
        RULES.iter().for_each(|rule| rule(&file, &text, &mut offences));
    }
    assert!(sources > 30, "only {sources} files under src/ were found");
    report(&offences);
}

#[test]
fn every_exception_is_still_needed() {
    for (file, path, _) in EXCEPTIONS {
        let text = read(file).unwrap_or_default();
        let tokens = tokens(&text);
        assert!(
            paths(&tokens).iter().any(|named| within(&inner(file, named).unwrap_or_default(), path)),
            "{file}: {path}"
        );
    }
}

#[test]
fn every_dependency_is_used() {
    let files = files();
    let mut offences = Vec::new();
    for folder in ["", "checker/", "loadtest/"] {
        let manifest: toml::Table = read(&format!("{folder}Cargo.toml")).unwrap().parse().unwrap();
        let mut named = BTreeSet::new();
        for file in files.iter().filter(|file| file.ends_with(".rs") && !file.contains("/fuzz/")) {
            let Some(inside) = file.strip_prefix(folder) else { continue };
            if ["src/", "tests/", "benches/"].iter().any(|root| inside.starts_with(root)) {
                let text = read(file).unwrap_or_default();
                let tokens = tokens(&text);
                let test = !inside.starts_with("src/");
                named.extend(paths(&tokens).into_iter().map(|path| (path.segments[0].to_owned(), test)));
            }
        }
        for (table, everywhere) in [("dependencies", false), ("dev-dependencies", true)] {
            for name in
                manifest.get(table).and_then(|table| table.as_table()).into_iter().flat_map(|table| table.keys())
            {
                let name = name.replace('-', "_");
                if !(named.contains(&(name.clone(), false)) || everywhere && named.contains(&(name.clone(), true))) {
                    offences.push(Offence {
                        file: format!("{folder}Cargo.toml"),
                        line: 1,
                        what: format!("{table}: `{name}` is used nowhere"),
                    });
                }
            }
        }
    }
    report(&offences);
}

#[test]
fn no_dependency_is_older_than_its_last_known_hole() {
    report(&versions(&read("Cargo.lock").expect("Cargo.lock is committed")));
}

/// File, text, what must be said about it, in which line. Every entry of every rule's tables is tried.
#[test]
fn the_rules_can_fail() {
    let mut samples = vec![
        ("src/engine/log.rs", "\nuse crate::edge::desk::Desk;".to_owned(), "`engine` must not name `edge`", 2),
        ("src/engine/log.rs", "fn f() { crate::clock::Clock::start(); }".into(), "`engine` must not name `clock`", 1),
        ("src/edge/mod.rs", "use crate::{\n topic,\n source::memory,\n};".into(), "`edge` must not name `source`", 3),
        ("src/source/mod.rs", "use super::edge;".into(), "`source` must not name `edge`", 1),
        ("src/source/memory.rs", "mod tests { use super::super::super::edge::X; }".into(), "must not name `edge`", 1),
        ("src/frame/sse.rs", "type T = Vec<crate::engine::ConnId>;".into(), "`frame` must not name `engine`", 1),
        ("src/topic.rs", "use crate::event::Event;".into(), "`topic` must not name `event`", 1),
        ("src/event.rs", "use crate::frame::Frame;".into(), "`event` must not name `frame`", 1),
        ("src/metrics.rs", "use crate::engine::Counters;".into(), "`metrics` must not name `engine`", 1),
        ("src/clock.rs", "use crate::engine::wheel::Wheel;".into(), "`clock` must not name `engine`", 1),
        ("src/feed.rs", "use crate::topic::Topic;".into(), "`feed` must not name `topic`", 1),
        ("src/shutdown.rs", "use crate::server::run;".into(), "`shutdown` must not name `server`", 1),
        ("src/config/mod.rs", "use crate::server::run;".into(), "`config` must not name `server`", 1),
        ("src/cli/serve.rs", "use crate::edge::X;".into(), "`cli` must not name `edge`", 1),
        ("src/main.rs", "fn main() { fanwheel::server::run() }".into(), "`main` must not name `server`", 1),
        ("src/server.rs", "use crate::cli::run;".into(), "`server` must not name `cli`", 1),
        ("src/edge/mod.rs", "use crate::parlour::X;".into(), "`parlour` has no place", 1),
        ("src/attic.rs", "use crate::topic::X;".into(), "`attic` has no place", 1),
        ("src/engine/log.rs", "use std::{rc::Rc, time::{Duration, Instant}};".into(), "std::time::Instant", 1),
        ("src/engine/log.rs", "use std::time;".into(), "std::time", 1),
        ("src/engine/log.rs", "use ::std::time::*;".into(), "std::time", 1),
        ("src/edge/mod.rs", "fn f() { unsafe { g() } }".into(), "unsafe", 1),
        ("loadtest/src/floor/sender.rs", "fn f() { unsafe { g() } }".into(), "unsafe", 1),
        ("tests/wire.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}".into(), "ignored", 2),
        ("tests/wire.rs", "\nfn f() { std::thread::sleep(d) }".into(), "sleep", 2),
        ("src/server.rs", "use std::thread;\nfn f() { thread::sleep(d) }".into(), "never sleeps", 2),
        ("src/engine/log.rs", "mod tests { use std::thread; fn f() { thread::sleep(d) } }".into(), "sleep", 1),
        ("docs/EVENT.md", concat!("\nsee /wo", "rk/main").into(), "a build machine", 2),
        ("docs/EVENT.md", concat!("(/ro", "ot/.cargo)").into(), "a build machine", 1),
        ("src/topic.rs", concat!("// TO", "DO: more").into(), "unfinished", 1),
        ("src/topic.rs", concat!("// FIX", "ME").into(), "unfinished", 1),
        ("src/topic.rs", "\n".repeat(LINES_MAX + 1), "lines", LINES_MAX + 1),
        ("tests/wire.rs", "\n".repeat(LINES_MAX + 1), "lines", LINES_MAX + 1),
        ("rust-toolchain.toml", "".into(), "rust-version", 1),
    ];
    for (name, ..) in HOMES {
        samples.push(("src/server.rs", format!("use {name}::X;"), name, 1));
    }
    for (places, names, _) in BANS {
        for (place, name) in places.iter().flat_map(|place| names.iter().map(move |name| (place, name))) {
            let file = if place.ends_with('/') { format!("{place}x.rs").leak() } else { *place };
            samples.push((file, format!("fn f() {{ let _ = {name}::X; }}"), name, 1));
        }
    }
    for (file, text, what, line) in &samples {
        let found = offences(file, text);
        assert!(
            found.iter().any(|offence| offence.line == *line && offence.what.contains(what)),
            "{file}: {text:?} should offend with {what:?} in line {line}, not {found:?}"
        );
    }
    for (name, least, ..) in LEAST_VERSIONS {
        let [major, minor, patch] = least;
        let before = if *patch > 0 { [*major, *minor, patch - 1] } else { [*major, minor - 1, 99] };
        let lock = |[a, b, c]: [u64; 3]| format!("[[package]]\nname = \"{name}\"\nversion = \"{a}.{b}.{c}+x\"\n");
        assert!(versions(&lock(before)).iter().any(|found| found.what.starts_with(name) && found.line == 3), "{name}");
        assert!(!versions(&lock(*least)).iter().any(|found| found.what.starts_with(name)), "{name}");
    }
    assert!(versions("").iter().any(|found| found.what.contains("tokio is not in the tree")));
    assert!(versions("name = \"redis\"\nversion = \"2.0.0\"").iter().any(|found| found.what.contains("not below")));
}

#[test]
fn the_rules_let_pass_what_is_right() {
    for (file, text) in [
        (
            "src/engine/log.rs",
            "//! `crate::edge::X`\nuse crate::frame::X; use std::time::Duration; const S: &str = \"unsafe\";",
        ),
        ("src/engine/mod.rs", "pub use conn::ConnId; pub(crate) fn f() {} mod tests { use super::*; }"),
        ("src/clock.rs", "use crate::engine::wheel::TICK_MS; use std::time::Instant;"),
        ("src/server.rs", "use crate::source::redis::X; fn f() { if let Some(redis) = redis { redis.clone() } }"),
        ("src/source/redis/publisher.rs", "use redis::Cmd; use super::envelope; use crate::source::redis::X;"),
        ("src/main.rs", "static A: mimalloc::MiMalloc = mimalloc::MiMalloc; fn main() { fanwheel::cli::run(f) }"),
        ("src/edge/reactor.rs", "fn f() { unsafe { g() } }"),
        ("src/main.rs", "fn f() { unsafe { g() } }"),
        ("loadtest/src/floor/uring.rs", "fn f() { unsafe { g() } }"),
        ("tests/wire.rs", "fn f() {\n // between two looks at the condition\n std::thread::sleep(d)\n}"),
        ("docs/EVENT.md", "https://example.org/work/ and ../work/x are fine"),
    ] {
        let found = offences(file, text);
        assert!(found.is_empty(), "{file}: {text:?}: {found:?}");
    }
}

fn offences(file: &str, text: &str) -> Vec<Offence> {
    let mut offences = Vec::new();
    RULES.iter().for_each(|rule| rule(file, text, &mut offences));
    offences
}

fn report(offences: &[Offence]) {
    let lines: Vec<String> = offences.iter().map(Offence::to_string).collect();
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), lines.join("\n"));
}

/// The files of the repository: those git tracks, and those it would take.
fn files() -> Vec<String> {
    let list = ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("names are UTF-8");
    names.split_terminator('\0').map(str::to_owned).collect()
}

/// The text of a file; `None` when it is not text, or deleted and not yet forgotten by git.
fn read(file: &str) -> Option<String> {
    std::fs::read_to_string(FilePath::new(env!("CARGO_MANIFEST_DIR")).join(file)).ok()
}

/// The module a file of `src/` holds, as segments; none for `lib.rs` and `main.rs`.
fn module_of(file: &str) -> Option<Vec<&str>> {
    let inside = file.strip_prefix("src/")?.strip_suffix(".rs")?;
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    Some(if ["lib", "main"].contains(&inside) { Vec::new() } else { inside.split('/').collect() })
}

/// The path a mention has inside the crate; `None` when it leads to other crates.
fn inner(file: &str, path: &Path<'_>) -> Option<String> {
    let mut place = module_of(file)?;
    place.extend(&path.modules);
    let mut segments = &path.segments[..];
    match segments[0] {
        "crate" | "fanwheel" => place.clear(),
        "self" | "super" => {}
        // In the root the modules are in sight.
        first if file == "src/lib.rs" && place.is_empty() && LAYERS.iter().any(|(layer, _)| *layer == first) => {
            return Some(segments.join("::"));
        }
        _ => return None,
    }
    while let ["super", ..] = segments {
        place.pop();
        segments = &segments[1..];
    }
    if let ["crate" | "fanwheel" | "self", ..] = segments {
        segments = &segments[1..];
    }
    place.extend(segments);
    Some(place.join("::"))
}

/// True exactly when `path` is `prefix` or leads through it.
fn within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn layers(file: &str, text: &str, offences: &mut Vec<Offence>) {
    let Some(module) = module_of(file).filter(|_| file != "src/lib.rs") else { return };
    let layer = module.first().copied().unwrap_or("main");
    let mut note = |line, what| offences.push(Offence { file: file.into(), line, what });
    let Some((_, may_name)) = LAYERS.iter().find(|(known, _)| *known == layer) else {
        return note(1, format!("`{layer}` has no place in LAYERS (tests/house.rs)"));
    };
    for path in paths(&tokens(text)) {
        // `pub(crate)` and `pub(super)` name nobody.
        let Some(named) = inner(file, &path).filter(|_| path.segments.len() > 1) else { continue };
        let other = named.split("::").next().unwrap_or_default();
        let excepted = EXCEPTIONS.iter().any(|(place, path, _)| *place == file && within(&named, path));
        if other == layer || may_name.contains(&other) || excepted {
            continue;
        }
        if LAYERS.iter().any(|(known, _)| *known == other) {
            note(path.line, format!("`{layer}` must not name `{other}` ({named})"));
        } else {
            note(path.line, format!("`{other}` has no place in LAYERS (tests/house.rs) ({named})"));
        }
    }
}

fn homes_and_bans(file: &str, text: &str, offences: &mut Vec<Offence>) {
    if !file.starts_with("src/") || !file.ends_with(".rs") {
        return;
    }
    let lives_in =
        |places: &[&str]| places.iter().any(|&place| place == file || place.ends_with('/') && file.starts_with(place));
    for path in paths(&tokens(text)) {
        if path.segments.len() == 1 && !path.imported || inner(file, &path).is_some() {
            continue;
        }
        let named = path.segments.join("::");
        for (name, homes, why) in HOMES {
            if path.segments[0] == *name && !lives_in(homes) {
                let what = format!("{named}: `{name}` belongs to {homes:?}: {why}");
                offences.push(Offence { file: file.into(), line: path.line, what });
            }
        }
        for (places, names, why) in BANS.iter().filter(|(places, ..)| lives_in(places)) {
            // Whoever takes in a whole module takes in what is banned of it.
            let whole = named.strip_suffix("::*").or(named.strip_suffix("::self"));
            let whole = whole.or(path.imported.then_some(&named[..])).filter(|whole| whole.starts_with("std::"));
            if names.iter().any(|name| within(&named, name) || whole.is_some_and(|whole| within(name, whole))) {
                let what = format!("{named} is not for {places:?}: {why}");
                offences.push(Offence { file: file.into(), line: path.line, what });
            }
        }
    }
}

fn unsafe_blocks(file: &str, text: &str, offences: &mut Vec<Offence>) {
    if !file.ends_with(".rs") || UNSAFE_HOMES.contains(&file) {
        return;
    }
    for token in tokens(text).into_iter().filter(|token| token.text == "unsafe") {
        let what = format!("unsafe code belongs to {}", UNSAFE_HOMES.join(" and "));
        offences.push(Offence { file: file.into(), line: token.line, what });
    }
}

/// A test is run, or it is not a test; and it waits for a condition, not for a time.
fn ignored_and_sleeping_tests(file: &str, text: &str, offences: &mut Vec<Offence>) {
    if !file.ends_with(".rs") {
        return;
    }
    let tokens = tokens(text);
    for window in tokens.windows(3).filter(|window| window[0].text == "#" && window[2].text == "ignore") {
        offences.push(Offence { file: file.into(), line: window[0].line, what: "an ignored test is no test".into() });
    }
    let lines: Vec<&str> = text.lines().collect();
    let in_tests = file.contains("tests/");
    for path in paths(&tokens) {
        let blocks = path.segments.ends_with(&["thread", "sleep"]);
        if !(in_tests || path.modules.first() == Some(&"tests")) {
            if blocks && file.starts_with("src/") {
                let what = "a shard's thread never sleeps".into();
                offences.push(Offence { file: file.into(), line: path.line, what });
            }
            continue;
        }
        let beside = &lines[path.line.saturating_sub(1 + LINES_BESIDE)..path.line];
        let explained = ["condition", "poll", "deadline", "paced"]
            .iter()
            .any(|word| beside.iter().any(|line| line.to_lowercase().contains(word)));
        if (blocks || path.segments.ends_with(&["time", "sleep"])) && !explained {
            let what = "a sleep in a test: poll a condition, with a deadline; in code or comment beside it one of these words must stand".into();
            offences.push(Offence { file: file.into(), line: path.line, what });
        }
    }
}

/// Paths of the machine it was built on, and notes to oneself.
fn traces_of_the_workshop(file: &str, text: &str, offences: &mut Vec<Offence>) {
    let mut note = |line, what: &str| offences.push(Offence { file: file.into(), line, what: what.into() });
    if file.rsplit('/').next().is_some_and(|name| name.starts_with("rust-toolchain")) {
        note(1, "the least compiler is `rust-version` in Cargo.toml");
    }
    for (index, line) in text.lines().enumerate() {
        let absolute = |folder: &str| {
            line.match_indices(folder).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|before| !before.is_alphanumeric() && !"._-~$}*".contains(before))
            })
        };
        if [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")].into_iter().any(absolute) {
            note(index + 1, "an absolute path of a build machine");
        }
        // A picture carries the script of the tool that drew it.
        let is_ours = !file.ends_with(".svg");
        if is_ours && [concat!("TO", "DO"), concat!("FIX", "ME")].iter().any(|word| line.contains(word)) {
            note(index + 1, "unfinished work belongs into an issue");
        }
    }
}

fn length(file: &str, text: &str, offences: &mut Vec<Offence>) {
    if !file.ends_with(".rs") {
        return;
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        let what = format!("{lines} lines, more than {LINES_MAX}");
        offences.push(Offence { file: file.into(), line: lines, what });
    }
}

fn versions(lock: &str) -> Vec<Offence> {
    let value =
        |line: &str, key: &str| Some(line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned());
    let lines: Vec<&str> = lock.lines().collect();
    let locked: Vec<(usize, String, [u64; 3])> = lines
        .windows(2)
        .enumerate()
        .filter_map(|(index, pair)| {
            let (name, version) = (value(pair[0], "name")?, value(pair[1], "version")?);
            let numbers = version.split(['+', '-']).next()?.split('.').map(|number| number.parse().expect("a number"));
            let numbers: Vec<u64> = numbers.collect();
            Some((index + 2, name, numbers.try_into().expect("three numbers")))
        })
        .collect();
    let mut offences = Vec::new();
    let mut note = |line, what| offences.push(Offence { file: "Cargo.lock".into(), line, what });
    for (name, least, required, why) in LEAST_VERSIONS {
        let mut found = locked.iter().filter(|(_, locked, _)| locked == name).peekable();
        if *required && found.peek().is_none() {
            note(1, format!("{name} is not in the tree; delete its line in LEAST_VERSIONS"));
        }
        for (line, _, version) in found.filter(|(.., version)| version < least) {
            note(*line, format!("{name} {version:?} is below {least:?}: {why}"));
        }
    }
    for (name, bound, why) in VERSIONS_BELOW {
        for (line, _, version) in locked.iter().filter(|(_, locked, version)| locked == name && version >= bound) {
            note(*line, format!("{name} {version:?} is not below {bound:?}: {why}"));
        }
    }
    offences
}
