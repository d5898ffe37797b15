//! What happened, as it happened: what was published, what was broken, and what each reader was told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Id;

/// A topic, by its place in the list the log was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(pub u32);

/// A reader of the log, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader(pub u32);

/// What a publisher asked for, once, however often it had to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication {
    /// Where.
    pub topic: Topic,
    /// Of event name and data together. No two publications have the same bytes.
    pub hash: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a publisher was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored, under this id.
    Stored(Id),
    /// It is not stored.
    Refused,
    /// It may be stored: no answer came.
    Unknown,
}

/// Something that may cost readers a part of the history, and so allows resets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it was.
    pub cause: Cause,
    /// Topics concerned; `None`: all.
    pub topics: Option<Vec<Topic>>,
    /// When it began. No reset is allowed that came before.
    pub begun_ms: u64,
    /// When the last reset because of it may come.
    pub ended_ms: u64,
}

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Old events leave. It allows `trimmed`, as often as somebody missed something.
    Trim {
        /// So many of the newest are kept at least, but for those that leave by age; `None`: any number.
        kept: Option<u32>,
        /// Whatever is younger is kept, but for what leaves by number, in ms of its id; `None`: of any age.
        age_ms: Option<u64>,
    },
    /// The history began anew or fell back. It allows each reader one `epoch` or `diverged` for each topic.
    Loss,
}

/// From where a connection wanted its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// From now on.
    Now,
    /// After the last id the reader was given.
    After(Id),
    /// After something that is no id.
    Unknown,
    /// From the oldest event that is retained.
    Earliest,
    /// The newest so many events of all its topics together, and from there on.
    Last(u32),
}

/// The first block of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    /// Its `topics`.
    pub topics: &'a [Topic],
    /// Its `resumed`.
    pub resumed: bool,
    /// Its `id:` line.
    pub id: Option<&'a str>,
}

/// A block that tells of a loss.
#[derive(Debug, Clone, Copy)]
pub struct Reset<'a> {
    /// Its `reason`.
    pub reason: Reason,
    /// Its `topics`.
    pub topics: &'a [Topic],
    /// Its `id:` line.
    pub id: Option<&'a str>,
}

/// Why a reset was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// What comes next is no longer there.
    Trimmed,
    /// The history began anew.
    Epoch,
    /// The history fell back behind what was read.
    Diverged,
    /// What was presented is no id.
    UnknownCursor,
    /// Any other: never right on a durable topic.
    Other,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The reader left.
    Left,
    /// The server ended it, or was not there.
    Closed,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub(super) topics: Vec<String>,
    pub(super) publications: Vec<Publication>,
    pub(super) faults: Vec<Fault>,
    /// Each (id, hash) that came, once.
    pub(super) seen: Vec<Seen>,
    /// The place of each in `seen`.
    numbers: HashMap<Seen, u32>,
    pub(super) controls: Vec<Control>,
    pub(super) readers: Vec<Readings>,
}

/// An event as it came to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) id: Id,
    pub(super) hash: u64,
}

/// A block of ours, or something that is neither ours nor an event.
#[derive(Debug, Clone)]
pub(super) enum Control {
    Open {
        topics: Vec<Topic>,
        resumed: bool,
        id: Option<Id>,
        at_ms: u64,
    },
    Reset {
        reason: Reason,
        topics: Vec<Topic>,
        id: Option<Id>,
        at_ms: u64,
    },
    /// An id that is none.
    Malformed(String),
}

/// Everything one reader was told.
#[derive(Debug, Clone, Default)]
pub(super) struct Readings {
    pub(super) connections: Vec<Connection>,
    /// In the order it came: a place in `seen`, or, with [`CONTROL`], in `controls`.
    pub(super) items: Vec<u32>,
    /// True exactly when it was given time to read to the end.
    pub(super) dry: bool,
}

/// Marks an item as a place in `controls`.
pub(super) const CONTROL: u32 = 1 << 31;

#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// Ascending.
    pub(super) topics: Arc<[Topic]>,
    pub(super) position: Position,
    pub(super) requested_ms: u64,
    /// Where its items begin; they end where those of the next begin.
    pub(super) first_item: usize,
    pub(super) end: Option<End>,
}

impl Log {
    /// An empty log about these topics.
    pub fn new<T: Into<String>>(topics: impl IntoIterator<Item = T>) -> Log {
        Log { topics: topics.into_iter().map(Into::into).collect(), ..Log::default() }
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        self.topics.iter().position(|topic| topic == name).map(|place| Topic(place as u32))
    }

    /// Takes what became of a publication, when that is certain or nobody asks any more.
    pub fn handle_publication(&mut self, publication: Publication) {
        self.publications.push(publication);
    }

    /// Takes a fault that was injected.
    pub fn handle_fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// A reader more.
    pub fn add_reader(&mut self) -> Reader {
        self.readers.push(Readings::default());
        Reader(self.readers.len() as u32 - 1)
    }

    /// A reader asked for a stream. `topics` ascend.
    pub fn handle_connect(&mut self, reader: Reader, topics: Arc<[Topic]>, position: Position, requested_ms: u64) {
        debug_assert!(topics.is_sorted());
        let readings = &mut self.readers[reader.0 as usize];
        let first_item = readings.items.len();
        readings.connections.push(Connection { topics, position, requested_ms, first_item, end: None });
    }

    /// An event came. `id` is the text of its `id:` line, empty if it has none.
    #[inline]
    pub fn handle_event(&mut self, reader: Reader, id: &str, hash: u64) {
        let Some(id) = Id::parse(id) else {
            return self.push(reader, Control::Malformed(id.into()));
        };
        let seen = Seen { id, hash };
        let number = match self.numbers.entry(seen) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.seen.push(seen);
                *new.insert(self.seen.len() as u32 - 1)
            }
        };
        self.readers[reader.0 as usize].items.push(number);
    }

    /// The first block came.
    pub fn handle_open(&mut self, reader: Reader, open: Open<'_>, at_ms: u64) {
        let (topics, resumed) = (open.topics.to_vec(), open.resumed);
        self.push_with_id(reader, open.id, |id| Control::Open { topics, resumed, id, at_ms });
    }

    /// A reset came.
    pub fn handle_reset(&mut self, reader: Reader, reset: Reset<'_>, at_ms: u64) {
        let (topics, reason) = (reset.topics.to_vec(), reset.reason);
        self.push_with_id(reader, reset.id, |id| Control::Reset { reason, topics, id, at_ms });
    }

    /// The reader's connection is over.
    pub fn handle_end(&mut self, reader: Reader, end: End) {
        if let Some(connection) = self.readers[reader.0 as usize].connections.last_mut() {
            connection.end.get_or_insert(end);
        }
    }

    /// The reader was given time to read everything there was.
    pub fn handle_dry(&mut self, reader: Reader) {
        self.readers[reader.0 as usize].dry = true;
    }

    fn push_with_id(&mut self, reader: Reader, text: Option<&str>, control: impl FnOnce(Option<Id>) -> Control) {
        let id = text.map(|text| Id::parse(text).ok_or(text)).transpose();
        self.push(reader, id.map_or_else(|text| Control::Malformed(text.into()), control));
    }

    fn push(&mut self, reader: Reader, control: Control) {
        self.controls.push(control);
        self.readers[reader.0 as usize].items.push(CONTROL | (self.controls.len() as u32 - 1));
    }
}

impl Fault {
    /// True exactly when a reset of this topic at this time may be because of it.
    pub(super) fn covers(&self, topic: Topic, at_ms: u64) -> bool {
        let concerned = self.topics.as_ref().is_none_or(|topics| topics.contains(&topic));
        concerned && (self.begun_ms..=self.ended_ms).contains(&at_ms)
    }
}

impl Reason {
    /// Reads the `reason` of a reset.
    pub fn parse(text: &str) -> Reason {
        match text {
            "trimmed" => Reason::Trimmed,
            "epoch" => Reason::Epoch,
            "diverged" => Reason::Diverged,
            "unknown-cursor" => Reason::UnknownCursor,
            _ => Reason::Other,
        }
    }
}
