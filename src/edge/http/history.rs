//! The past of a durable topic: `GET /topics/{topic}/history`, a page at a time, and its last id.
//!
//! What always holds: the events of an answer are contiguous. Whoever asks for what comes after the last of them gets
//! the next ones, or is told (`trimmed`) that some between are no longer there.
//!
//! # Overload
//! Reads under way are counted per shard, and pages are charged to the shard's load like bodies, but find room only
//! in half of it: who reads the past does not keep others from publishing. Beyond either it is 503.
//!
//! Not chosen: answers from the shard's logs. They hold what streams follow now; this is asked for what nobody
//! follows.

use std::borrow::Cow;

use http::StatusCode;
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::Serialize;

use crate::edge::desk::{Desk, ReadSlot, VISITS_MAX};
use crate::edge::http::answer::{Answer, Problem, json};
use crate::edge::http::{body, events, topics};
use crate::engine::history::{Answer as Found, Page, Verdict};
use crate::engine::{Archive, Chain, Marker, Read};
use crate::event::{Event, EventId, EventName, Stamp, Stored};
use crate::topic::Topic;

/// Most events in one answer.
pub const EVENTS_MAX: usize = 1_000;
/// Events in an answer when nobody says how many.
const EVENTS_DEFAULT: usize = 100;
/// Bytes read for one answer, and bytes of its text, unless its first event alone is larger.
const BYTES_MAX: usize = 512 << 10;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    after: After,
    /// `1 <= events_max <= EVENTS_MAX`.
    events_max: usize,
}

/// From where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// From the oldest event that is retained.
    Nothing,
    Id(EventId),
    /// Something that is no id of ours.
    Unknown,
}

/// An event as it is told.
#[derive(Serialize)]
struct Told<'a> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    data: Cow<'a, str>,
}

/// Answers a request for the history of the topic in a path's segment.
pub async fn answer(request: Request<Incoming>, segment: &str, desk: &Desk) -> Result<Answer, Problem> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::method_not_allowed("GET, HEAD, OPTIONS"));
    }
    let topic = topics::topic(segment)?;
    let asked = asked(request.uri().query().unwrap_or_default())?;
    if desk.node.classes.class_of(&topic).retention().is_none() {
        return Err(Problem::bad_request("a history needs a durable topic, and this one is live"));
    }
    // The page, and the text made of it.
    let mut share = desk.load.spare(2 * BYTES_MAX).ok_or_else(body::no_spare)?;
    let slot = begin(desk)?;
    let text = page(&*desk.node.archive, &topic, asked).await?;
    drop(slot);
    share.reach(text.len())?;
    let mut answer = json(StatusCode::OK, &());
    *answer.body_mut() = share.charge(text);
    Ok(answer)
}

/// The id of a durable topic's newest event. When that was forgotten it is a later position, after which there is none.
pub(super) async fn last_id(topic: &Topic, desk: &Desk) -> Result<Option<EventId>, Problem> {
    let _slot = begin(desk)?;
    let read = Read::Tail { topics: vec![topic.clone()], upto: Stamp::MAX, events_max: 1, bytes_max: 1 };
    let (marker, page) = one(&*desk.node.archive, read).await?;
    Ok((page.last > Stamp::ZERO).then(|| marker.chain.id_of(page.last)))
}

fn begin(desk: &Desk) -> Result<ReadSlot, Problem> {
    let error = format!("at most {VISITS_MAX} reads of histories are under way in a shard");
    desk.reads.begin().ok_or_else(|| Problem::unavailable(error).with_limit(VISITS_MAX))
}

fn asked(query: &str) -> Result<Asked, Problem> {
    let parameters = events::parameters(query)?;
    let after = match events::single(&parameters, "after")? {
        None | Some("") => After::Nothing,
        Some(text) => EventId::parse(text).map_or(After::Unknown, After::Id),
    };
    let events_max = match events::single(&parameters, "limit")? {
        None => EVENTS_DEFAULT,
        Some(text) => events::count(text, "limit", EVENTS_MAX)?,
    };
    Ok(Asked { after, events_max })
}

/// Reads what is asked for and writes it down.
async fn page(archive: &dyn Archive, topic: &Topic, asked: Asked) -> Result<Vec<u8>, Problem> {
    let after = |stamp| Read::After { topics: vec![(topic.clone(), stamp)], bytes_max: BYTES_MAX };
    let id = match asked.after {
        After::Nothing | After::Unknown => {
            let (_, page) = one(archive, after(Stamp::ZERO)).await?;
            return Ok(text(&page, asked.events_max, |_| asked.after == After::Unknown));
        }
        After::Id(id) => id,
    };
    // Mostly it is honoured, and then this was the only read.
    let (marker, page) = one(archive, after(id.stamp)).await?;
    let from = match marker.chain.judge(id, marker.last) {
        Verdict::Honoured => {
            return Ok(text(&page, asked.events_max, |told| is_trimmed(id, &page, told, &marker.chain)));
        }
        Verdict::Diverged(fence) => fence.stamp,
        Verdict::Unknown => Stamp::ZERO,
    };
    let (_, page) = one(archive, after(from)).await?;
    Ok(text(&page, asked.events_max, |_| true))
}

/// Reads a page of one topic.
async fn one(archive: &dyn Archive, read: Read) -> Result<(Marker, Page), Problem> {
    let (marker, found) = archive.read(read).await.map_err(Problem::unavailable)?;
    match found {
        Found::Pages(mut pages) if pages.len() == 1 => Ok((marker, pages.remove(0))),
        _ => Err(Problem::unavailable("the history was not read as it was asked for")),
    }
}

/// True exactly when something after `id` is missing before the last event that is told, or may be.
fn is_trimmed(id: EventId, page: &Page, told: &[(&Event, Stored)], chain: &Chain) -> bool {
    let Some((_, last)) = told.last() else { return page.last > id.stamp };
    told[0].1.prev > id.stamp || chain.loss_between(id.tag, last.id.tag).is_some()
}

/// The answer's text. `is_trimmed` is asked about the events that are told.
fn text(page: &Page, events_max: usize, is_trimmed: impl FnOnce(&[(&Event, Stored)]) -> bool) -> Vec<u8> {
    let all: Vec<(&Event, Stored)> =
        page.events.iter().filter_map(|event| event.stored.map(|stored| (&**event, stored))).collect();
    let mut text = b"{\"events\":[".to_vec();
    let mut count = 0;
    for (event, stored) in all.iter().take(events_max) {
        let told = Told {
            id: stored.id.to_string(),
            event: event.name.as_ref().map(EventName::as_str),
            data: String::from_utf8_lossy(&event.data),
        };
        let told = serde_json::to_vec(&told).expect("strings serialize");
        if count > 0 {
            if text.len() + told.len() > BYTES_MAX {
                break;
            }
            text.push(b',');
        }
        text.extend_from_slice(&told);
        count += 1;
    }
    let told = &all[..count];
    let has_more = count < all.len() || page.more;
    let next = told.last().filter(|_| has_more).map(|(_, stored)| stored.id.to_string());
    let rest = serde_json::json!({ "next": next, "trimmed": is_trimmed(told) }).to_string();
    text.extend_from_slice(b"],");
    text.extend_from_slice(rest.trim_start_matches('{').as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::engine::history::Fence;
    use crate::event::Tag;

    /// A history in memory, read without any haste.
    struct Past {
        chain: Chain,
        last: u64,
        /// Oldest first: number and `prev` in ms, data.
        events: Vec<(u64, u64, String)>,
    }

    fn stamp(ms: u64) -> Stamp {
        Stamp { ms, n: 0 }
    }

    fn tag(text: &str) -> Tag {
        Tag::parse(text).expect("a tag")
    }

    /// Events 10, 20 … 90 of incarnations `aaaa` (up to 30) and `bbbb`; those up to `gone` are no longer there.
    fn past(gone: u64) -> Past {
        let fence = Fence { tag: tag("aaaa"), last: stamp(30), lossy: false };
        let events = (1..10).filter(|number| number * 10 > gone);
        Past {
            chain: Chain { tag: tag("bbbb"), fences: vec![fence] },
            last: 100,
            events: events.map(|number| (number * 10, number * 10 - 10, number.to_string())).collect(),
        }
    }

    impl Archive for Past {
        fn read(&self, read: Read) -> crate::engine::Reading {
            let Read::After { topics, bytes_max } = read else { panic!("{read:?}") };
            let (topic, from) = topics[0].clone();
            let after: Vec<_> = self.events.iter().filter(|(ms, ..)| stamp(*ms) > from).collect();
            let mut bytes = 0;
            let fits = |(index, (_, _, data)): &(usize, &&(u64, u64, String))| {
                bytes += data.len();
                *index == 0 || bytes <= bytes_max
            };
            let taken: Vec<_> = after.iter().enumerate().take_while(fits).map(|(_, event)| event).collect();
            let event = |(ms, prev, data): &(u64, u64, String)| {
                let stored = Stored { id: self.chain.id_of(stamp(*ms)), prev: stamp(*prev) };
                let name = EventName::parse(if *ms == 20 { "tick" } else { "" }).expect("a name");
                let data = Bytes::from(data.clone());
                let topic = topic.clone();
                Arc::new(Event { topic, name, key: None, data, stored: Some(stored), received_us: 0 })
            };
            let page = Page {
                topic: topic.clone(),
                events: taken.iter().map(|taken| event(taken)).collect(),
                more: taken.len() < after.len(),
                last: stamp(self.last - 10),
            };
            let marker = Marker { last: stamp(self.last), chain: Arc::new(self.chain.clone()) };
            Box::pin(std::future::ready(Ok((marker, Found::Pages(vec![page])))))
        }
    }

    fn ask(past: &Past, query: &str) -> Value {
        let topic = Topic::parse("t").expect("a topic");
        let asked = asked(query).expect("fine");
        let mut page = Box::pin(page(past, &topic, asked));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(text) = page.as_mut().poll(&mut context) else { panic!("nothing waits here") };
        serde_json::from_slice(&text.expect("read")).expect("JSON")
    }

    fn ids(answer: &Value) -> Vec<&str> {
        answer["events"].as_array().expect("a list").iter().map(|event| event["id"].as_str().expect("an id")).collect()
    }

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let past = past(0);
        let first = ask(&past, "limit=2");
        let events = json!([{"id": "10-0-aaaa", "data": "1"}, {"id": "20-0-aaaa", "event": "tick", "data": "2"}]);
        assert_eq!(first, json!({"events": events, "next": "20-0-aaaa", "trimmed": false}));
        for limit in 1..11 {
            let mut seen = Vec::new();
            let mut next = Some(String::new());
            while let Some(after) = next {
                let answer = ask(&past, &format!("after={after}&limit={limit}"));
                assert_eq!(answer["trimmed"], false);
                assert!(ids(&answer).len() <= limit);
                seen.extend(answer["events"].as_array().expect("a list").iter().map(|event| event["data"].clone()));
                next = answer["next"].as_str().map(str::to_owned);
            }
            assert_eq!(json!(seen), json!(["1", "2", "3", "4", "5", "6", "7", "8", "9"]));
        }
        assert_eq!(ask(&past, "after=90-0-bbbb"), json!({"events": [], "next": null, "trimmed": false}));
    }

    #[test]
    fn what_is_missing_after_a_position_is_told() {
        for (gone, query, first, trimmed) in [
            (40, "", Some("50-0-bbbb"), false),
            (40, "after=40-0-bbbb", Some("50-0-bbbb"), false),
            // Positions of another topic's events lie between.
            (40, "after=44-0-bbbb", Some("50-0-bbbb"), false),
            (40, "after=39-9-bbbb", Some("50-0-bbbb"), true),
            (40, "after=20-0-aaaa", Some("50-0-bbbb"), true),
            (90, "after=89-0-bbbb", None, true),
            (90, "after=90-0-bbbb", None, false),
            (0, "after=30-0-aaaa", Some("40-0-bbbb"), false),
            // Beyond the fence, beyond the newest, of no incarnation, no id.
            (0, "after=31-0-aaaa", Some("40-0-bbbb"), true),
            (0, "after=100-1-bbbb", None, true),
            (0, "after=50-0-cccc", Some("10-0-aaaa"), true),
            (0, "after=50-0-bbbb~1-1-aaaa", Some("10-0-aaaa"), true),
            (0, "after=earliest", Some("10-0-aaaa"), true),
        ] {
            let answer = ask(&past(gone), query);
            assert_eq!((ids(&answer).first().copied(), &answer["trimmed"]), (first, &json!(trimmed)), "{gone} {query}");
        }
    }

    #[test]
    fn a_known_loss_is_told_to_whoever_passes_it() {
        let mut past = past(0);
        past.chain.fences[0].lossy = true;
        assert_eq!(ask(&past, "after=20-0-aaaa&limit=1")["trimmed"], false, "it is not passed yet");
        assert_eq!(ask(&past, "after=20-0-aaaa&limit=2")["trimmed"], true);
        assert_eq!(ask(&past, "after=40-0-bbbb")["trimmed"], false);
    }

    #[test]
    fn an_answer_is_bounded_in_bytes_and_has_one_event_at_least() {
        let mut past = past(0);
        past.events[1].2 = "\u{1}".repeat(BYTES_MAX);
        past.events[3].2 = "x".repeat(BYTES_MAX / 2);
        past.events[4].2 = "x".repeat(BYTES_MAX / 2);
        assert_eq!(ids(&ask(&past, "")), ["10-0-aaaa"]);
        assert_eq!(ids(&ask(&past, "after=10-0-aaaa")), ["20-0-aaaa"]);
        assert_eq!(ids(&ask(&past, "after=20-0-aaaa")), ["30-0-aaaa", "40-0-bbbb"]);
        let answer = ask(&past, "after=40-0-bbbb");
        assert_eq!((ids(&answer).len(), &answer["next"]), (5, &Value::Null));
        // Six bytes of text for one of data.
        past.events[5].2 = "\u{1}".repeat(BYTES_MAX / 8);
        past.events[6].2 = "\u{1}".repeat(BYTES_MAX / 8);
        let answer = ask(&past, "after=50-0-bbbb");
        assert_eq!((ids(&answer), &answer["next"]), (vec!["60-0-bbbb"], &json!("60-0-bbbb")));
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let id = EventId::parse("1-2-abcd").expect("an id");
        assert_eq!(asked(""), Ok(Asked { after: After::Nothing, events_max: 100 }));
        assert_eq!(asked("after=&limit=1&x=y"), Ok(Asked { after: After::Nothing, events_max: 1 }));
        assert_eq!(asked("after=1-2-abcd&limit=1000"), Ok(Asked { after: After::Id(id), events_max: 1000 }));
        for wrong in ["limit=0", "limit=1001", "limit=x", "limit=", "limit=-1", "limit=1&limit=1", "after=&after="] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }
}
