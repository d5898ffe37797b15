//! The law: what a client may see, over any number of connections that present its last id.
//!
//! A position says of all durable topics at once: everything up to here was seen, or was told to be
//! lost; nothing behind it was seen. So there is one rule for whatever carries an id: no event of the
//! client's topics may lie between the position it had and the new one, except those that are truly
//! gone. That is a debt then: of each topic concerned it must be told, by a block in its own place,
//! before the topic's next event, be it on another connection. Positions are compared on the paths of [`Truth`].
//!
//! Live topics keep their own, simpler rule: at most once, in order, and what is missing was told.

mod resets;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use fanwheel::engine::Position;
use fanwheel::event::{EventId, Tag};

use super::truth::{Record, Truth, Worth};
use crate::simulation::decode::{Block, Item};
use crate::simulation::socket::Moment;

/// What a reset says, in the order of the tally.
pub const REASONS: [&str; 7] = ["trimmed", "epoch", "diverged", "unknown-cursor", "gap", "overflow", "too-large"];

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// Not open yet.
    Outside,
    /// Everything up to here was seen or told.
    At(EventId),
    /// Nothing was seen; everything is owed that is not gone.
    Oldest,
    /// Nothing was seen; the newest so many are owed.
    Newest(u32),
    /// Its position was not honoured; that must be told first.
    Astray(Option<EventId>),
}

/// A live topic as one connection sees it.
#[derive(Debug, Default)]
struct Followed {
    /// Its latest event seen.
    last: Option<usize>,
    /// When it was last told of a loss: a reader that was blocked is told before what it has yet to be given.
    told: Moment,
}

/// One connection of a client.
#[derive(Debug)]
struct Connection {
    presented: Position,
    /// What its shard knew of Redis when it came is at least as new as this.
    known: Moment,
    opened: Option<Moment>,
    stand: Stand,
    /// The first position it had.
    start: Option<EventId>,
    /// Incarnations whose loss it was told.
    told: HashSet<Tag>,
    /// Where it was told of lost incarnations.
    told_at: Vec<Tag>,
    live: BTreeMap<usize, Followed>,
    goodbye: bool,
    ended: bool,
    /// Durable topics of which it saw events.
    seen: BTreeSet<usize>,
    /// Topics of which something was gone when it came for the oldest or the newest: it may be told.
    excused: BTreeSet<usize>,
    /// Topics that were told to be trimmed, and of which no event came since: it is one loss as far as it goes.
    trimmed: BTreeSet<usize>,
}

/// A client, over all its connections.
#[derive(Debug)]
pub struct Reader {
    pub names: Vec<(usize, String)>,
    topics: Vec<usize>,
    durable: Vec<usize>,
    /// What it asks for while it has no id.
    first: Position,
    /// The last id it was given.
    pub last_id: Option<EventId>,
    /// Topics of which something is gone that it was not told yet.
    debts: BTreeSet<usize>,
    /// Numbers of the events it saw.
    seen: HashSet<usize>,
    connection: Option<Connection>,
    pub tally: Seen,
}

/// What a reader has seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub resets: [u64; REASONS.len()],
    /// Told for crossing a fence that others had lost something behind.
    pub crossings: u64,
    pub resumed: u64,
    pub events: u64,
    /// Connections that saw events of several durable topics.
    pub merged: u64,
}

type Verdict = Result<(), String>;

macro_rules! must {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}
use must;

impl Reader {
    /// A client of these topics, of which those below `durable` have a history.
    pub fn new(names: Vec<(usize, String)>, durable: usize, first: Position) -> Reader {
        let topics: Vec<usize> = names.iter().map(|name| name.0).collect();
        let of_history = topics.iter().copied().filter(|&topic| topic < durable).collect();
        Reader {
            names,
            topics,
            durable: of_history,
            first,
            last_id: None,
            debts: BTreeSet::new(),
            seen: HashSet::new(),
            connection: None,
            tally: Seen::default(),
        }
    }

    /// What it presents when it comes.
    pub fn position(&self) -> Position {
        self.last_id.map_or(self.first, Position::After)
    }

    /// It comes to a shard that knows what Redis was at `known`, or more.
    pub fn connect(&mut self, known: Moment) {
        if self.last_id.is_none() {
            self.debts.clear();
        }
        let live = self.topics.iter().filter(|topic| !self.durable.contains(topic));
        self.connection = Some(Connection {
            presented: self.position(),
            known,
            opened: None,
            stand: Stand::Outside,
            start: None,
            told: HashSet::new(),
            told_at: Vec::new(),
            live: live.map(|&topic| (topic, Followed::default())).collect(),
            goodbye: false,
            ended: false,
            seen: BTreeSet::new(),
            excused: BTreeSet::new(),
            trimmed: BTreeSet::new(),
        });
    }

    pub fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.opened.is_some())
    }

    fn conn(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is connected")
    }

    fn told(&self, tag: Tag) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.told.contains(&tag))
    }

    /// Takes what has arrived; `said` is when the shard decided to say it.
    pub fn see(&mut self, item: &Item, said: Moment, truth: &Truth) -> Verdict {
        must!(!self.conn().ended, "something after the end");
        let block = match item {
            Item::Heartbeat => return Ok(()),
            Item::End => {
                self.conn().ended = true;
                must!(self.conn().goodbye, "an end without a last block");
                return Ok(());
            }
            Item::Block(block) => block,
        };
        must!(!self.conn().goodbye, "a block after the last one");
        let id = match &block.id[..] {
            "" => None,
            text => Some(EventId::parse(text).filter(|id| id.to_string() == text).ok_or("no id of ours")?),
        };
        must!(id.is_none() || !self.durable.is_empty(), "an id on a stream without a durable topic");
        match block.name.strip_prefix("fanwheel.") {
            Some(control) => self.see_control(control, block, id, said, truth)?,
            None => match id {
                Some(id) => self.see_event(block, id, truth)?,
                None => self.see_live(block, truth)?,
            },
        }
        self.last_id = id.or(self.last_id);
        Ok(())
    }

    fn see_event(&mut self, block: &Block, id: EventId, truth: &Truth) -> Verdict {
        let number = truth.find(id).ok_or_else(|| format!("event {id} was never stored"))?;
        let record = &truth.events[number];
        must!(self.durable.contains(&record.topic), "event {id} is of topic {}, not followed", record.topic);
        must!(record.text == block.data && record.name == block.name, "event {id} has changed: {block:?}");
        let durable = self.durable.clone();
        let place = truth.place_of(number);
        match self.conn().stand {
            Stand::Outside => return Err(format!("event {id} before open")),
            Stand::Astray(from) => return Err(format!("event {id}, and not told of {from:?} first")),
            Stand::At(at) => {
                let from = self.place_on(id.tag, at, truth)?;
                let from =
                    from.ok_or_else(|| format!("event {id} behind {at}, which was lost, and that was not told"))?;
                must!(place.count >= from, "event {id} behind {at}: a repetition");
                self.pass(
                    &truth.between(id.tag, from, place.count, &durable),
                    &format!("between {at} and {id}"),
                    truth,
                )?;
                must!(!self.debts.contains(&record.topic), "{id}, and what is gone before it was not told");
            }
            Stand::Oldest => {
                let missing = kept(truth.between(id.tag, 0, place.count, &durable), truth);
                must!(missing.is_empty(), "{} missing before {id}, from the oldest on", ids(&missing, truth));
            }
            Stand::Newest(count) => self.check_newest(count, id, place.count, truth)?,
        }
        self.seen.insert(number);
        let connection = self.conn();
        connection.stand = Stand::At(id);
        connection.start.get_or_insert(id);
        connection.trimmed.remove(&record.topic);
        let several = connection.seen.len() == 1 && !connection.seen.contains(&record.topic);
        connection.seen.insert(record.topic);
        self.tally.merged += u64::from(several);
        self.tally.events += 1;
        Ok(())
    }

    /// Where a position stands on the path of another incarnation; `None` when it has seen events that are not there.
    fn place_on(&self, tag: Tag, at: EventId, truth: &Truth) -> Result<Option<usize>, String> {
        let count = truth.place(at).ok_or_else(|| format!("at {at}, a place that never was"))?.count;
        let shared = truth.shared(at.tag, tag);
        let lost = truth.between(at.tag, shared, count, &self.durable);
        let was_seen = lost.iter().any(|number| self.seen.contains(number));
        Ok((!was_seen).then_some(count.min(shared)))
    }

    /// The position passes these events: none of them may be there any more, and it must be told of them.
    fn pass(&mut self, numbers: &[usize], place: &str, truth: &Truth) -> Verdict {
        let left = kept(numbers.to_vec(), truth);
        must!(left.is_empty(), "{} missing {place}", ids(&left, truth));
        let connection = self.conn();
        // To whoever comes for the oldest or the newest nothing was promised that was gone by then.
        let is_fresh = matches!(connection.presented, Position::Earliest | Position::Last(_));
        let since = connection.opened.filter(|_| is_fresh).unwrap_or(0);
        for &number in numbers {
            let record = &truth.events[number];
            let excused = record.gone.is_some_and(|gone| gone <= since) || self.conn().trimmed.contains(&record.topic);
            (if excused { &mut self.conn().excused } else { &mut self.debts }).insert(record.topic);
        }
        Ok(())
    }

    /// The first of the newest `count`: some barrier between its coming and its opening makes the number right.
    fn check_newest(&mut self, count: u32, id: EventId, at: usize, truth: &Truth) -> Verdict {
        let durable = self.durable.clone();
        let connection = self.conn();
        let (from, until) = (connection.known, connection.opened.expect("it stands nowhere before"));
        if truth.states_within(from, Moment::MAX).windows(2).any(|two| two[0].tag != two[1].tag) {
            // Some of those it was to be given may have been lost.
            return Ok(());
        }
        // The path of now is that of then.
        let tag = truth.state().tag;
        let behind = truth.between(tag, at, usize::MAX, &durable);
        // What is gone may still have been in the shard's logs, or not.
        let here = |number: usize, moment: Moment| truth.events[number].at <= moment;
        let least = kept(behind.clone(), truth).into_iter().filter(|&number| here(number, from)).count();
        let most = behind.iter().filter(|&&number| here(number, until)).count();
        let count = count as usize;
        let older = kept(truth.between(tag, 0, at, &durable), truth);
        must!(least <= count, "{least} events from {id} on, asked for {count}");
        must!(
            count <= most || older.is_empty(),
            "{most} events from {id} on, asked for {count}; {}",
            ids(&older, truth)
        );
        Ok(())
    }

    fn see_control(
        &mut self,
        control: &str,
        block: &Block,
        id: Option<EventId>,
        said: Moment,
        truth: &Truth,
    ) -> Verdict {
        let data: serde_json::Value = serde_json::from_str(&block.data).map_err(|error| error.to_string())?;
        if let Some(id) = id {
            let tip = truth.tip(id.tag, said);
            let presented = self.conn().presented == Position::After(id);
            must!(presented || tip.is_some_and(|tip| id.stamp <= tip), "id {id} of {control} is ahead: {tip:?}");
        }
        match control {
            "open" => self.see_open(&data, block, id, said, truth),
            "reset" => self.see_reset(&data, id, said, truth),
            "drain" | "unavailable" => {
                must!(block.has_retry, "no retry");
                self.conn().goodbye = true;
                match (self.conn().stand, id) {
                    (Stand::Outside | Stand::Astray(_), Some(id)) => {
                        must!(self.conn().presented == Position::After(id), "{control} with {id}, not open");
                        Ok(())
                    }
                    // It need not say where it ends.
                    (_, None) => Ok(()),
                    _ => self.check_same_place(control, id, truth),
                }
            }
            other => Err(format!("a control block {other}")),
        }
    }

    fn named(&self, data: &serde_json::Value) -> Result<Vec<usize>, String> {
        let named = data["topics"].as_array().ok_or("no topics are named")?;
        let number = |name: &serde_json::Value| self.names.iter().find(|own| Some(&own.1[..]) == name.as_str());
        let mut topics =
            named.iter().map(|name| Some(number(name)?.0)).collect::<Option<Vec<_>>>().ok_or("a foreign topic")?;
        let count = topics.len();
        topics.sort_unstable();
        topics.dedup();
        must_be(count > 0 && topics.len() == count, "topics named twice, or none")?;
        Ok(topics)
    }

    fn see_open(
        &mut self,
        data: &serde_json::Value,
        block: &Block,
        id: Option<EventId>,
        said: Moment,
        truth: &Truth,
    ) -> Verdict {
        must!(self.conn().opened.is_none(), "opened twice");
        must!(block.has_retry, "no retry");
        let mut topics = self.topics.clone();
        topics.sort_unstable();
        must!(self.named(data)? == topics, "open names other topics");
        let resumed = data["resumed"].as_bool().ok_or("resumed or not?")?;
        let durable = self.durable.clone();
        let has_history = !durable.is_empty();
        let connection = self.conn();
        connection.opened = Some(said);
        if !has_history {
            must!(!resumed, "resumed without a durable topic");
            return Ok(());
        }
        let all_gone = |id: EventId| {
            let place = truth.place(id).ok_or("open at a place that never was")?;
            let left = kept(truth.between(id.tag, 0, place.count, &durable), truth);
            must_be(left.is_empty(), "open with an id, and what it asks for is there")
        };
        let states = truth.states_within(connection.known, said);
        connection.stand = match connection.presented {
            Position::After(cursor) if resumed => {
                must!(id == Some(cursor), "resumed at {cursor}, but the id is {id:?}");
                let good = states.iter().any(|state| state.worth(cursor) == Worth::Honoured);
                must!(good, "resumed at {cursor}, which is not good since {}", connection.known);
                Stand::At(cursor)
            }
            Position::After(cursor) => {
                must!(id.is_none(), "not resumed, but with {id:?}");
                let bad = states.iter().any(|state| state.worth(cursor) != Worth::Honoured);
                must!(bad, "{cursor} is good, but was not resumed");
                Stand::Astray(Some(cursor))
            }
            other => {
                must!(!resumed, "resumed without a position");
                match (other, id) {
                    (Position::Unknown, None) => Stand::Astray(None),
                    (Position::Now, Some(id)) => Stand::At(id),
                    (Position::Earliest, None) => Stand::Oldest,
                    (Position::Last(count), None) => Stand::Newest(count),
                    (Position::Earliest | Position::Last(_), Some(id)) => {
                        all_gone(id)?;
                        Stand::At(id)
                    }
                    (position, id) => return Err(format!("opened at {position:?} with {id:?}")),
                }
            }
        };
        if let Stand::At(id) = connection.stand {
            connection.start = Some(id);
        }
        self.tally.resumed += u64::from(resumed);
        Ok(())
    }

    fn see_live(&mut self, block: &Block, truth: &Truth) -> Verdict {
        let number = block.data.split(['#', ' ', '\n']).nth(1).and_then(|number| number.parse::<usize>().ok());
        let number = number.ok_or_else(|| format!("no number in {block:?}"))?;
        let record = truth.events.get(number).ok_or_else(|| format!("event {number} was never published"))?;
        must!(record.id.is_none(), "event {number} of a durable topic without an id");
        must!(record.text == block.data && record.name == block.name, "event {number} has changed: {block:?}");
        must!(self.is_open(), "event {number} before open");
        self.check_live(record.topic, number, truth)?;
        let followed = self.conn().live.get_mut(&record.topic).expect("just checked");
        followed.last = Some(number);
        Ok(())
    }

    /// Whatever is missing of a live topic before `end` was told.
    fn check_live(&mut self, topic: usize, end: usize, truth: &Truth) -> Verdict {
        let connection = self.conn();
        let opened = connection.opened.ok_or("not open")?;
        let followed = connection.live.get(&topic).ok_or_else(|| format!("topic {topic} is not followed"))?;
        must!(followed.last.is_none_or(|last| last < end), "event {end} of topic {topic} behind {:?}", followed.last);
        let all = truth.live.get(&topic).map_or(&[][..], |all| all);
        let is_owed = |number: usize| match followed.last {
            Some(last) => number > last,
            None => truth.events[number].at > opened,
        };
        let is_told = |number: usize| truth.events[number].at <= followed.told;
        let missing = all.iter().any(|&number| number < end && is_owed(number) && !is_told(number));
        must!(!missing, "live topic {topic}: something is missing before {end}, untold");
        Ok(())
    }

    /// Everything was delivered and taken: nothing may be missing.
    pub fn check_at_rest(&mut self, truth: &Truth) -> Verdict {
        must!(self.is_open(), "not open at rest");
        for &topic in &self.topics.clone() {
            if !self.durable.contains(&topic) {
                self.check_live(topic, usize::MAX, truth)?;
            }
        }
        if self.durable.is_empty() {
            return Ok(());
        }
        let (durable, state) = (self.durable.clone(), truth.state());
        let owed = |from| truth.between(state.tag, from, usize::MAX, &durable);
        let at = match self.conn().stand {
            Stand::At(at) => at,
            Stand::Oldest | Stand::Newest(_) => {
                let left = kept(owed(0), truth);
                must!(left.is_empty(), "at rest, and was given nothing of {}", ids(&left, truth));
                return Ok(());
            }
            stand => return Err(format!("at rest {stand:?}")),
        };
        let place = truth.place(at).ok_or("nowhere")?.count;
        let shared = truth.shared(at.tag, state.tag);
        let mut missing = owed(place.min(shared));
        // Of a topic that was told to be trimmed nothing may be left.
        // Nor of what was gone before it came for the oldest or the newest.
        let connection = self.conn();
        let is_fresh = matches!(connection.presented, Position::Earliest | Position::Last(_));
        let since = connection.opened.filter(|_| is_fresh).unwrap_or(0);
        let trimmed = &connection.trimmed;
        missing.retain(|&number| {
            let Record { gone, topic, .. } = truth.events[number];
            gone.is_none_or(|gone| gone > since && !trimmed.contains(&topic))
        });
        must!(missing.is_empty(), "at rest at {at}: {} missing", ids(&missing, truth));
        must!(self.debts.is_empty(), "at rest at {at}: {:?} have lost something, untold", self.debts);
        // Of a new epoch it may not have heard, as long as nothing was published in it.
        let is_lost = self.place_on(state.tag, at, truth)?.is_none();
        must!(!is_lost || state.age(at.tag).is_none(), "at rest at {at}, which was lost, untold");
        let connection = self.conn();
        let ages = connection.start.and_then(|start| state.age(start.tag)).zip(state.age(at.tag));
        let (from, to) = ages.unwrap_or_default();
        for (age, fence) in state.fences.iter().enumerate().take(to).skip(from).filter(|(_, fence)| fence.2) {
            let told = connection.told_at.iter().any(|&tag| state.age(tag).is_some_and(|told| told > age));
            must!(told, "at rest at {at}: it was not told what was lost behind {}-{}", fence.1, fence.0);
        }
        Ok(())
    }
}

fn must_be(holds: bool, words: &str) -> Verdict {
    if holds { Ok(()) } else { Err(words.into()) }
}

/// Those that have not left their streams.
fn kept(numbers: Vec<usize>, truth: &Truth) -> Vec<usize> {
    numbers.into_iter().filter(|&number| truth.events[number].gone.is_none()).collect()
}

fn ids(numbers: &[usize], truth: &Truth) -> String {
    let ids = numbers.iter().take(8).filter_map(|&number| {
        let record = &truth.events[number];
        Some(format!("{} of {}{}", record.id?, record.topic, if record.gone.is_some() { " (gone)" } else { "" }))
    });
    ids.collect::<Vec<_>>().join(", ")
}
