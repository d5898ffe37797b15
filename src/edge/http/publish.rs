//! `POST /publish`: many events in one request.
//!
//! The body is a JSON array. It is read whole and checked whole before the first event is published: what is
//! malformed publishes nothing. From there on each event has an outcome of its own, and the answer
//! tells all of them in the order of the events.
//!
//! What always holds: events of one request on one topic are published in their order. The publishes
//! are begun in that order and polled in that order, each time anew, so none overtakes another on its
//! way into the source, also where the source has to be connected first.
//!
//! # Overload
//! Events, bytes and the data of each event are bounded; what the source cannot take is refused event by event.
//!
//! Not chosen: borrowing an event's data from the body, which would keep 8 MiB alive in a topic's
//! log for the sake of its smallest event.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::edge::desk::Desk;
use crate::edge::http::answer::{Answer, Problem, json};
use crate::edge::http::body::{self, Share};
use crate::edge::http::topics::{event_key, event_name, idempotency_key, topic_name};
use crate::engine::policy::Classes;
use crate::engine::{Publication, PublishError, Published, Publishing};
use crate::event::{EVENT_BYTES_MAX, Event, EventName};
use crate::topic::Topic;

/// Most events in one request.
pub const EVENTS_MAX: usize = 1_000;
/// Most bytes of one request's body. The largest event fits however it is escaped (six bytes,
/// `\u0000`, for one), and no request alone can fill a mailbox on its way.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// What takes no longer than a slice of the shard's turn.
const TURN_BYTES: usize = 256 << 10;

const _: () = assert!(6 * EVENT_BYTES_MAX < BODY_BYTES_MAX);
/// Its text, and then the copies that a source makes of it, are charged: two requests fit at once.
const _: () = assert!(2 * 3 * BODY_BYTES_MAX <= body::LOAD_BYTES_MAX);

/// What became of an event.
#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Stored { topic: &'a str, id: Option<String> },
    Failed { topic: &'a str, error: String },
}

type Results = Vec<Result<Published, PublishError>>;

/// Answers a request for `/publish`.
pub async fn answer(request: Request<Incoming>, desk: &Desk) -> Result<Answer, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::method_not_allowed("POST, OPTIONS"));
    }
    if request.headers().contains_key("idempotency-key") {
        return Err(Problem::bad_request(
            "on /publish each event has an `idempotency_key` of its own, not the request",
        ));
    }
    let (text, share) = body::read(request, BODY_BYTES_MAX, "the body", &desk.load).await?;
    Ok(body::answered(publish(text, share, desk).await))
}

async fn publish(text: Bytes, mut share: Share, desk: &Desk) -> Result<Answer, Problem> {
    let is_large = text.len() > TURN_BYTES;
    rest(is_large).await;
    let publications = parse(&text, desk.node.clock.now_us(), &desk.node.classes)?;
    // The share goes on: what is charged for the text is what the events' own data occupies now.
    share.publishing(text.len())?;
    drop(text);
    rest(is_large).await;
    let of = |one: &Publication| (one.event.topic.clone(), one.idempotency_key.is_some());
    let topics: Vec<(Topic, bool)> = publications.iter().map(of).collect();
    let under_way = publications.into_iter().map(|publication| desk.publish(publication)).collect();
    let results = all(under_way).await;
    let outcomes: Vec<Outcome<'_>> = topics
        .iter()
        .zip(results)
        .map(|((topic, has_key), result)| outcome(topic.as_str(), *has_key, result))
        .collect();
    let mut answer = json(StatusCode::OK, &());
    // A client may take its time with an answer of half a megabyte.
    let text = serde_json::to_vec(&outcomes).expect("strings serialize");
    *answer.body_mut() = share.charge(text);
    Ok(answer)
}

/// Lets the shard turn before the next step of much work: 8 MiB take some milliseconds to put together, to read
/// and to publish.
async fn rest(is_large: bool) {
    if is_large {
        tokio::task::yield_now().await;
    }
}

fn outcome(topic: &str, has_key: bool, result: Result<Published, PublishError>) -> Outcome<'_> {
    match result {
        Ok(published) => Outcome::Stored { topic, id: published.id.map(|id| id.to_string()) },
        Err(PublishError::Refused(why)) => Outcome::Failed { topic, error: format!("not stored: {why}") },
        Err(PublishError::Unknown) => {
            let advice = match has_key {
                true => "repeat it with the same `idempotency_key`",
                false => "repeating it may double it",
            };
            Outcome::Failed { topic, error: format!("unknown: it was sent, and no answer came; {advice}") }
        }
        Err(error @ PublishError::Conflict) => Outcome::Failed { topic, error: format!("not stored: {error}") },
    }
}

/// Drives all of them, in their order each time: what an earlier one waits for, a later one cannot take before it.
async fn all(under_way: Vec<Publishing>) -> Results {
    let mut under_way: Vec<Option<Publishing>> = under_way.into_iter().map(Some).collect();
    let mut results: Vec<_> = under_way.iter().map(|_| Err(PublishError::Unknown)).collect();
    poll_fn(|context| {
        let mut open = false;
        for (slot, result) in under_way.iter_mut().zip(&mut results) {
            let Some(publishing) = slot else { continue };
            match publishing.as_mut().poll(context) {
                Poll::Ready(outcome) => {
                    *result = outcome;
                    *slot = None;
                }
                Poll::Pending => open = true,
            }
        }
        if open { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results
}

/// Reads all events, or says which one is wrong in what.
fn parse(text: &[u8], received_us: u64, classes: &Classes) -> Result<Vec<Publication>, Problem> {
    let reader = Reader { received_us, classes, place: Cell::new(Place::Body), fault: RefCell::default() };
    let mut json = serde_json::Deserializer::from_slice(text);
    let events = AllEvents(&reader).deserialize(&mut json);
    let events = events.and_then(|events| json.end().map(|()| events));
    events.map_err(|error| reader.problem(&error))
}

/// Where the reader stands, for the sentence when something is wrong there.
#[derive(Clone, Copy)]
enum Place {
    Body,
    Event(usize),
    Field(usize, &'static str),
}

/// What the parts of the parser share.
struct Reader<'c> {
    received_us: u64,
    classes: &'c Classes,
    place: Cell<Place>,
    /// What is wrong, where the parser's own error would not say it.
    fault: RefCell<Option<Problem>>,
}

impl Reader<'_> {
    /// The parser's own sentences for values of a wrong type repeat the value, which may be large.
    fn problem(&self, error: &serde_json::Error) -> Problem {
        if let Some(problem) = self.fault.take() {
            return problem.within(&self.place.get().to_string());
        }
        let place = self.place.get();
        match (error.is_data(), place) {
            (false, _) => Problem::bad_request(format!("{place}: this is not JSON: {error}")),
            (true, Place::Body) => Problem::bad_request("the body must be an array of events"),
            (true, Place::Event(_)) => Problem::bad_request(format!("{place} must be an object")),
            (true, Place::Field(..)) => Problem::bad_request(format!("{place} must be a string")),
        }
    }

    /// Stops the parser with a sentence.
    fn stop<E: serde::de::Error>(&self, problem: Problem) -> E {
        *self.fault.borrow_mut() = Some(problem);
        E::custom("")
    }

    /// The value, or the parser stops.
    fn checked<T, E: serde::de::Error>(&self, value: Result<T, Problem>) -> Result<T, E> {
        value.map_err(|problem| self.stop(problem))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Body => f.write_str("the body"),
            Place::Event(index) => write!(f, "event {index}"),
            Place::Field(index, name) => write!(f, "event {index}, `{name}`"),
        }
    }
}

/// The array.
struct AllEvents<'r>(&'r Reader<'r>);

impl<'de> DeserializeSeed<'de> for AllEvents<'_> {
    type Value = Vec<Publication>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Vec<Publication>, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AllEvents<'_> {
    type Value = Vec<Publication>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<Publication>, A::Error> {
        let mut events = Vec::new();
        self.0.place.set(Place::Event(0));
        while let Some(event) = array.next_element_seed(OneEvent(self.0, events.len()))? {
            events.push(event);
            self.0.place.set(Place::Event(events.len()));
        }
        self.0.place.set(Place::Body);
        Ok(events)
    }
}

/// One event of the array.
struct OneEvent<'r>(&'r Reader<'r>, usize);

impl<'de> DeserializeSeed<'de> for OneEvent<'_> {
    type Value = Publication;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Publication, D::Error> {
        if self.1 == EVENTS_MAX {
            let error = format!("one too many: there are at most {EVENTS_MAX} events in a request");
            return Err(self.0.stop(Problem::bad_request(error).with_limit(EVENTS_MAX)));
        }
        json.deserialize_map(self)
    }
}

/// The fields, each as far as it was read.
#[derive(Default)]
struct Fields {
    topic: Option<Topic>,
    data: Option<Bytes>,
    event: Option<Option<EventName>>,
    key: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
}

impl<'de> Visitor<'de> for OneEvent<'_> {
    type Value = Publication;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Publication, A::Error> {
        let OneEvent(reader, index) = self;
        let mut fields = Fields::default();
        while let Some(name) = object.next_key_seed(Name(reader))? {
            reader.place.set(Place::Field(index, name));
            let twice = match name {
                "topic" => put(&mut fields.topic, object.next_value_seed(Text(reader, topic))?),
                "data" => put(&mut fields.data, object.next_value_seed(Text(reader, data))?),
                "event" => put(&mut fields.event, object.next_value_seed(Text(reader, event_name))?),
                "key" => put(&mut fields.key, object.next_value_seed(Text(reader, key))?),
                _ => put(&mut fields.idempotency_key, object.next_value_seed(Text(reader, once_key))?),
            };
            if twice {
                return Err(reader.stop(Problem::bad_request("is given more than once")));
            }
            reader.place.set(Place::Event(index));
        }
        let missing = |name: &str| reader.stop(Problem::bad_request(format!("`{name}` is missing")));
        let topic = fields.topic.ok_or_else(|| missing("topic"))?;
        let data = fields.data.ok_or_else(|| missing("data"))?;
        let Fields { key, idempotency_key, .. } = fields;
        if idempotency_key.is_some() && reader.classes.class_of(&topic).retention().is_none() {
            reader.place.set(Place::Field(index, "idempotency_key"));
            return Err(reader.stop(Problem::bad_request("needs a durable topic, and this one is live")));
        }
        let name = fields.event.flatten();
        let event = Event { topic, name, key, data, stored: None, received_us: reader.received_us };
        Ok(Publication { event, idempotency_key })
    }
}

/// Fills a field. True exactly when it was full.
fn put<T>(field: &mut Option<T>, value: T) -> bool {
    field.replace(value).is_some()
}

fn topic(text: &str) -> Result<Topic, Problem> {
    topic_name(text.as_bytes())
}

fn key(text: &str) -> Result<Box<str>, Problem> {
    event_key(text.into())
}

fn once_key(text: &str) -> Result<Box<str>, Problem> {
    idempotency_key(text.as_bytes())
}

fn data(text: &str) -> Result<Bytes, Problem> {
    if text.len() > EVENT_BYTES_MAX {
        let error = format!("is at most {EVENT_BYTES_MAX} bytes");
        return Err(Problem::too_large(error).with_limit(EVENT_BYTES_MAX));
    }
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

/// The names of fields.
const FIELDS: [&str; 5] = ["topic", "data", "event", "key", "idempotency_key"];

/// A field's name.
struct Name<'r>(&'r Reader<'r>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<&'static str, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<&'static str, E> {
        let known = FIELDS.into_iter().find(|name| *name == text);
        known.ok_or_else(|| {
            // Enough of it to be found again.
            let shown: String = text.chars().take(32).collect();
            self.0.stop(Problem::bad_request(format!("has a field `{shown}`, and may have {}", FIELDS.join(", "))))
        })
    }
}

/// A string, checked.
struct Text<'r, F>(&'r Reader<'r>, F);

impl<'de, T, F: FnOnce(&str) -> Result<T, Problem>> DeserializeSeed<'de> for Text<'_, F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T, D::Error> {
        json.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> Result<T, Problem>> Visitor<'_> for Text<'_, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        self.0.checked((self.1)(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::{Class, Kind, Retention};
    use crate::topic::Pattern;

    /// Topics `d.*` are durable.
    fn parse(text: &[u8], received_us: u64) -> Result<Vec<Publication>, Problem> {
        let class = Class { kind: Kind::Durable(Retention::default()), ..Class::default() };
        let classes = Classes(vec![(Pattern::parse("d.*").expect("a pattern"), class)]);
        super::parse(text, received_us, &classes)
    }

    fn refused(text: &str) -> String {
        let answer = parse(text.as_bytes(), 0).expect_err("refused").into_last_bytes("now");
        String::from_utf8(answer).expect("text")
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, sentence) in [
            ("", "the body: this is not JSON: EOF"),
            ("{}", "the body must be an array of events"),
            ("[] []", "the body: this is not JSON: trailing characters"),
            ("[7]", "event 0 must be an object"),
            (r#"[{"topic":"a","data":"x"},[]]"#, "event 1 must be an object"),
            (r#"[{"topic":"a","data":"x"},]"#, "event 1: this is not JSON: trailing comma"),
            (r#"[{"topic":"a","data":7}]"#, "event 0, `data` must be a string"),
            (r#"[{"topic":"a","data":[[[[]]]]}]"#, "event 0, `data` must be a string"),
            (r#"[{"topic":null,"data":"x"}]"#, "event 0, `topic` must be a string"),
            (r#"[{"topic":"a","data":"x","event":null}]"#, "event 0, `event` must be a string"),
            (r#"[{"topic":"a"}]"#, "event 0: `data` is missing"),
            (r#"[{"data":"x"}]"#, "event 0: `topic` is missing"),
            (r#"[{"topic":"a","data":"x","dta":"y"}]"#, "event 0: has a field `dta`"),
            (r#"[{"topic":"a","data":"x","data":"y"}]"#, "event 0, `data`: is given more than once"),
            (r#"[{"topic":"a","event":"","event":"e","data":"x"}]"#, "event 0, `event`: is given more than once"),
            (r#"[{"topic":"$a","data":"x"}]"#, "event 0, `topic`: topics that begin with `$`"),
            (r#"[{"topic":"a.*","data":"x"}]"#, "event 0, `topic`: a topic must not contain a segment"),
            (r#"[{"topic":"a","data":"x","event":"fanwheel.open"}]"#, "event 0, `event`: event names that begin"),
            (r#"[{"topic":"a","data":"x","event":"a\nb"}]"#, "event 0, `event`: an event name must not contain"),
            (r#"[{"topic":"a","data":"x","idempotency_key":"k"}]"#, "event 0, `idempotency_key`: needs a durable"),
            (r#"[{"idempotency_key":"k","topic":"a","data":"x"}]"#, "event 0, `idempotency_key`: needs a durable"),
            (r#"[{"topic":"d.a","data":"x","idempotency_key":""}]"#, "event 0, `idempotency_key`: must be 1 to 128"),
            (r#"[{"topic":"d.a","data":"x","idempotency_key":"a b"}]"#, "event 0, `idempotency_key`: must be 1 to 128"),
            (r#"[{"topic":"d.a","data":"x","idempotency_key":"\u00e9"}]"#, "event 0, `idempotency_key`: must be 1"),
            (r#"[{"topic":"d.a","data":"x","idempotency_key":7}]"#, "event 0, `idempotency_key` must be a string"),
            (r#"[{"topic":"a","data":"\ud800"}]"#, "event 0, `data`: this is not JSON: "),
        ] {
            let answer = refused(text);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(answer.contains(sentence), "{sentence} in {answer}");
        }
    }

    #[test]
    fn no_request_alone_can_fill_a_mailbox_on_its_way() {
        let limits = crate::engine::mailbox::MailboxLimits::default();
        assert!(BODY_BYTES_MAX <= limits.bytes_max && EVENTS_MAX <= limits.messages_max);
    }

    #[test]
    fn limits_are_kept_to_the_last_one() {
        let many = |count: usize| format!("[{}]", vec![r#"{"topic":"a","data":"x"}"#; count].join(","));
        assert!(parse(many(EVENTS_MAX).as_bytes(), 0).is_ok_and(|events| events.len() == EVENTS_MAX));
        let answer = refused(&many(EVENTS_MAX + 1));
        assert!(answer.contains("event 1000: one too many") && answer.contains("\"limit\":1000"), "{answer}");
        let large = |bytes: usize| format!(r#"[{{"topic":"a","data":"{}"}}]"#, "x".repeat(bytes));
        assert!(parse(large(EVENT_BYTES_MAX).as_bytes(), 0).is_ok());
        let answer = refused(&large(EVENT_BYTES_MAX + 1));
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("event 0, `data`: is at most"), "{answer}");
        let name = format!(r#"[{{"{}":"a"}}]"#, "n".repeat(1 << 20));
        assert!(refused(&name).len() < 1_000, "what is refused is not sent back");
    }

    #[test]
    fn an_event_has_what_was_said() {
        let text = r#"[{"data":"line\nline\u0000\u20ac","key":"k","topic":"a/b","event":"e"},{"topic":"t","data":"","event":""}]"#;
        let publications = parse(text.as_bytes(), 7).expect("fine");
        let events: Vec<&Event> = publications.iter().map(|publication| &publication.event).collect();
        assert_eq!((&events[0].data[..], events[0].received_us), ("line\nline\0€".as_bytes(), 7));
        assert_eq!(events[0].name.as_ref().map(EventName::as_str), Some("e"));
        assert_eq!((events[0].key.as_deref(), events[0].topic.as_str()), (Some("k"), "a/b"));
        assert!(events[1].name.is_none() && events[1].key.is_none());
        assert!(parse(b" [ ] ", 0).is_ok_and(|events| events.is_empty()));
        let keys = [format!("!{}~", "k".repeat(126)), "k".into()];
        let text = format!(
            r#"[{{"idempotency_key":"{}","topic":"d.a","data":"x"}},
                {{"topic":"d.b","data":"y","idempotency_key":"{}"}}]"#,
            keys[0], keys[1]
        );
        let publications = parse(text.as_bytes(), 0).expect("fine");
        let found: Vec<_> = publications.iter().map(|one| one.idempotency_key.as_deref().unwrap_or_default()).collect();
        assert_eq!(found, keys);
    }

    #[tokio::test]
    async fn publishes_are_polled_in_their_order_also_when_they_wait_for_one_connection() {
        let connection = std::rc::Rc::new(tokio::sync::Mutex::new(()));
        let order = std::rc::Rc::new(RefCell::new(Vec::new()));
        let under_way = (0..EVENTS_MAX).map(|number| {
            let (connection, order) = (connection.clone(), order.clone());
            let publishing: Publishing = Box::pin(async move {
                let guard = connection.lock().await;
                if number == 0 {
                    tokio::task::yield_now().await;
                }
                drop(guard);
                order.borrow_mut().push(number);
                if number % 3 == 0 { Err(PublishError::Unknown) } else { Ok(Published { id: None }) }
            });
            publishing
        });
        let results = all(under_way.collect()).await;
        assert!(order.borrow().iter().copied().eq(0..EVENTS_MAX));
        assert!(results.iter().enumerate().all(|(number, result)| result.is_err() == (number % 3 == 0)));
    }
}
