//! Faults planted on purpose: each test of what is promised must find those it is there for.
//!
//! They exist in debug builds only; a release build that is asked for one is refused. One is chosen for a thread
//! ([`plant`]), for a process (`FANWHEEL_MUTANT=name`), or for a build (`--cfg fanwheel_mutant="name"`).

use std::cell::Cell;
use std::sync::OnceLock;

/// The faults, and what each breaks.
pub const ALL: &[(&str, &str)] = &[
    ("drop", "an event now and then is taken and not put into its log"),
    ("swap", "two events of a replay change places"),
    ("repeat", "a frame that was cut counts as not handed over"),
    ("stale-epoch", "a position of an unknown incarnation is honoured"),
    ("stale-fence", "a position beyond its fence is honoured"),
    ("early-id", "a control block says the shard's position on a stream that has yet to be handed events"),
    ("ahead-of-replay", "the open block of a resumed stream says where the replay will end"),
    ("trim-by-one", "the floor is put one event too low when one leaves the log"),
    ("page-border", "the last event of a page is passed over"),
    ("topic-by-topic", "a repair ingests one topic after the other"),
    ("hold-one", "a repair holds only the topic in which something was missing"),
    ("join-ahead", "a position beyond the shard's is taken for the shard's"),
    ("kept-log", "what is known of a topic is believed over UNSUBSCRIBE"),
    ("overrun-flag", "an overrun is told before what came ahead of it"),
    ("overrun-ignored", "an overrun of the inbox begins no repair"),
    ("re-ingest", "a repair reads again what was already ingested"),
    ("no-prev", "events are not tested against the one before them"),
    ("no-loss", "what is no longer retained is passed over in silence"),
    ("loss-twice", "a loss is told once more behind itself"),
    ("fence-ignored", "a history that fell back changes nothing"),
    ("lossy-silent", "a loss that is known is not told to whoever passes it"),
    ("marker-jump", "a marker moves the watermark before what lies below it is read"),
    ("beyond-watermark", "a replay hands on what the shard has yet to ingest"),
    ("live-early", "a replay ends one event too soon"),
    ("last-by-one", "the newest N events are N - 1"),
    ("settled-early", "events of a topic are taken before its marker"),
];

thread_local! {
    static PLANTED: Cell<&'static str> = const { Cell::new("") };
}

/// Plants a fault for this thread; the empty name takes it out.
pub fn plant(name: &'static str) {
    assert!(name.is_empty() || ALL.iter().any(|(known, _)| *known == name), "there is no fault {name}");
    PLANTED.set(name);
}

/// True exactly when the fault is planted.
#[must_use]
pub fn is_planted(name: &str) -> bool {
    static PROCESS: OnceLock<String> = OnceLock::new();
    debug_assert!(ALL.iter().any(|(known, _)| *known == name), "{name} is not in the list");
    let here = PLANTED.get();
    if !here.is_empty() {
        return here == name;
    }
    let build = env!("MUTANT_OF_BUILD");
    name == PROCESS.get_or_init(|| {
        let chosen = if build.is_empty() { std::env::var("FANWHEEL_MUTANT").unwrap_or_default() } else { build.into() };
        assert!(chosen.is_empty() || ALL.iter().any(|(known, _)| *known == chosen), "there is no fault {chosen}");
        chosen
    })
}
