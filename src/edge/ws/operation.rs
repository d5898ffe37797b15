//! Operations: what a client asks for in a message of the subprotocol, and the answers.
//!
//! A message is one JSON object with an `op`, a `ref` that the answer repeats, and the operation's fields. It is read in
//! one walk, each field as what it is, and checked afterwards: so an answer can name the field or the limit that
//! is wrong, and has the `ref` also where something else is.
//!
//! # Overload
//! Lists are kept up to their limit, and counted beyond it; nothing of what is refused is sent back but the `ref`, which
//! is short.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::event::{EVENT_BYTES_MAX, EVENT_NAME_BYTES_MAX, EventId, EventName, EventNameError};
use crate::frame::ws;
use crate::topic::{TOPIC_BYTES_MAX, Topic, TopicError};

/// Longest `ref`, in bytes.
pub const REF_BYTES_MAX: usize = 64;
/// Most tokens of one `ack`: as many as one request may publish.
pub const TOKENS_MAX: usize = 1_000;
/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 128;

/// What the client calls its message; it is repeated in the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ref {
    /// None was given, or none that can be repeated.
    #[default]
    None,
    /// A string.
    Text(Box<str>),
    /// A number.
    Number(i64),
}

/// A message, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What the answer repeats.
    pub reference: Ref,
    /// What is asked for.
    pub operation: Operation,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    /// An event is published.
    Publish {
        /// Where.
        topic: Topic,
        /// Its name.
        event: Option<EventName>,
        /// Its data, at most [`EVENT_BYTES_MAX`] bytes.
        data: Bytes,
    },
    /// The connection follows these topics too: at least one, each once.
    Subscribe(Vec<Topic>),
    /// It follows these no more: at least one, each once.
    Unsubscribe(Vec<Topic>),
    /// These deliveries are done with: at least one.
    Ack {
        /// The queue that gave them.
        queue: Topic,
        /// Their tokens.
        tokens: Vec<Box<str>>,
    },
}

/// Why a message is not acted on. Its text is the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What the answer repeats.
    pub reference: Ref,
    /// What is wrong, as a sentence.
    pub error: String,
    /// The limit that was passed.
    pub limit: Option<usize>,
}

impl Request {
    /// Reads a message. `topics_max` is how many topics one may name.
    ///
    /// # Errors
    /// What is wrong first, in the order of the operation's fields.
    pub fn parse(text: &str, topics_max: usize) -> Result<Request, Refused> {
        let mut json = serde_json::Deserializer::from_str(text);
        let read = Fields::default().read(&mut json, topics_max.max(TOKENS_MAX));
        let read = read.and_then(|fields| json.end().map(|()| fields));
        let mut fields = read.map_err(|error| Refused::new(not_an_object(&error)))?;
        let reference = fields.reference()?;
        match fields.operation(topics_max) {
            Ok(operation) => Ok(Request { reference, operation }),
            Err(refused) => Err(Refused { reference, ..refused }),
        }
    }
}

/// The parser's own sentences for values of a wrong type repeat the value, which may be large.
fn not_an_object(error: &serde_json::Error) -> String {
    if error.is_data() { "a message is a JSON object".into() } else { format!("this is not JSON: {error}") }
}

/// The answer to what was done; `id` is that of a durable event.
#[must_use]
pub fn done(reference: &Ref, id: Option<EventId>) -> Box<[u8]> {
    answer(&Answer { reference, ok: true, id: id.map(|id| id.to_string()), error: None, limit: None })
}

impl Refused {
    fn new(error: impl Into<String>) -> Refused {
        Refused { reference: Ref::None, error: error.into(), limit: None }
    }

    /// A message that could be read, and cannot be done.
    #[must_use]
    pub fn of(reference: Ref, error: impl Into<String>) -> Refused {
        Refused { reference, ..Refused::new(error) }
    }

    /// Names the limit that was passed.
    #[must_use]
    pub fn with_limit(self, limit: usize) -> Refused {
        Refused { limit: Some(limit), ..self }
    }

    /// The answer.
    #[must_use]
    pub fn answer(&self) -> Box<[u8]> {
        let Refused { reference, error, limit } = self;
        answer(&Answer { reference, ok: false, id: None, error: Some(error), limit: *limit })
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(rename = "ref")]
    reference: &'a Ref,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Ref::None => serializer.serialize_none(),
            Ref::Text(text) => serializer.serialize_str(text),
            Ref::Number(number) => serializer.serialize_i64(*number),
        }
    }
}

fn answer(answer: &Answer<'_>) -> Box<[u8]> {
    ws::text(&serde_json::to_vec(answer).expect("strings and numbers serialize"))
}

/// The value of a field, as far as any field needs it.
enum Value<'a> {
    Text(Cow<'a, str>),
    Number(i64),
    /// The strings of a list, up to a limit, and how many there are.
    List(Vec<Cow<'a, str>>, usize),
    /// Anything else.
    Other,
}

/// The names of fields.
const NAMES: [&str; 8] = ["op", "ref", "topic", "event", "data", "topics", "queue", "tokens"];
/// What each operation has, beside `op` and `ref`.
const OPERATIONS: [(&str, &[&str]); 4] = [
    ("publish", &["topic", "event", "data"]),
    ("subscribe", &["topics"]),
    ("unsubscribe", &["topics"]),
    ("ack", &["queue", "tokens"]),
];

/// The fields of a message, as they were given.
#[derive(Default)]
struct Fields<'a> {
    values: [Option<Value<'a>>; NAMES.len()],
    /// A field that no message has, or one given twice.
    fault: Option<String>,
}

impl<'a> Fields<'a> {
    fn read(
        mut self,
        json: impl Deserializer<'a, Error = serde_json::Error>,
        list_max: usize,
    ) -> serde_json::Result<Fields<'a>> {
        json.deserialize_map(Object(&mut self, list_max))?;
        Ok(self)
    }

    fn take(&mut self, name: &str) -> Option<Value<'a>> {
        NAMES.iter().position(|known| *known == name).and_then(|at| self.values[at].take())
    }

    fn reference(&mut self) -> Result<Ref, Refused> {
        match self.take("ref") {
            None => Ok(Ref::None),
            Some(Value::Number(number)) => Ok(Ref::Number(number)),
            Some(Value::Text(text)) if text.len() <= REF_BYTES_MAX => Ok(Ref::Text(text.into())),
            Some(Value::Text(_)) => {
                Err(Refused::new(format!("`ref` is at most {REF_BYTES_MAX} bytes long")).with_limit(REF_BYTES_MAX))
            }
            Some(_) => Err(Refused::new("`ref` must be a string or a whole number")),
        }
    }

    fn operation(&mut self, topics_max: usize) -> Result<Operation, Refused> {
        if let Some(fault) = self.fault.take() {
            return Err(Refused::new(fault));
        }
        let op = self.text("op")?;
        let Some((op, has)) = OPERATIONS.iter().find(|(name, _)| *name == op) else {
            return Err(Refused::new("`op` is one of publish, subscribe, unsubscribe, ack"));
        };
        let given = NAMES.iter().zip(&self.values).filter(|(_, value)| value.is_some());
        if let Some((name, _)) = given.into_iter().find(|(name, _)| !has.contains(name)) {
            return Err(Refused::new(format!("`{op}` has no field `{name}`")));
        }
        match *op {
            "publish" => self.publish(),
            "subscribe" => Ok(Operation::Subscribe(self.topics(topics_max)?)),
            "unsubscribe" => Ok(Operation::Unsubscribe(self.topics(topics_max)?)),
            _ => self.ack(),
        }
    }

    fn publish(&mut self) -> Result<Operation, Refused> {
        let topic = topic("topic", &self.text("topic")?)?;
        let event = match self.take("event") {
            None => None,
            Some(Value::Text(name)) => event_name(&name)?,
            Some(_) => return Err(Refused::new("`event` must be a string")),
        };
        let data = self.text("data")?;
        if data.len() > EVENT_BYTES_MAX {
            let error = format!("`data` is at most {EVENT_BYTES_MAX} bytes long");
            return Err(Refused::new(error).with_limit(EVENT_BYTES_MAX));
        }
        Ok(Operation::Publish { topic, event, data: Bytes::copy_from_slice(data.as_bytes()) })
    }

    fn topics(&mut self, topics_max: usize) -> Result<Vec<Topic>, Refused> {
        let mut topics = Vec::new();
        for name in self.list("topics", topics_max)? {
            let topic = topic("topics", &name)?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        Ok(topics)
    }

    fn ack(&mut self) -> Result<Operation, Refused> {
        let queue = topic("queue", &self.text("queue")?)?;
        let tokens = self.list("tokens", TOKENS_MAX)?;
        let is_token = |token: &Cow<'_, str>| {
            (1..=TOKEN_BYTES_MAX).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !tokens.iter().all(is_token) {
            return Err(Refused::new("`tokens` must be those of deliveries, as they were given"));
        }
        Ok(Operation::Ack { queue, tokens: tokens.into_iter().map(Into::into).collect() })
    }

    fn text(&mut self, name: &str) -> Result<Cow<'a, str>, Refused> {
        match self.take(name) {
            Some(Value::Text(text)) => Ok(text),
            Some(_) => Err(Refused::new(format!("`{name}` must be a string"))),
            None => Err(Refused::new(format!("`{name}` is missing"))),
        }
    }

    fn list(&mut self, name: &str, max: usize) -> Result<Vec<Cow<'a, str>>, Refused> {
        match self.take(name) {
            Some(Value::List(_, count)) if count > max => {
                Err(Refused::new(format!("`{name}` has at most {max} entries")).with_limit(max))
            }
            Some(Value::List(_, 0)) => Err(Refused::new(format!("`{name}` must have an entry"))),
            Some(Value::List(list, count)) if list.len() == count => Ok(list),
            Some(_) => Err(Refused::new(format!("`{name}` must be a list of strings"))),
            None => Err(Refused::new(format!("`{name}` is missing"))),
        }
    }
}

fn topic(field: &str, name: &str) -> Result<Topic, Refused> {
    Topic::parse(name).map_err(|error| {
        let refused = Refused::new(format!("`{field}`: {error}"));
        if error == TopicError::TooLong { refused.with_limit(TOPIC_BYTES_MAX) } else { refused }
    })
}

fn event_name(name: &str) -> Result<Option<EventName>, Refused> {
    EventName::parse(name).map_err(|error| {
        let refused = Refused::new(format!("`event`: {error}"));
        if error == EventNameError::TooLong { refused.with_limit(EVENT_NAME_BYTES_MAX) } else { refused }
    })
}

/// Reads the message's object.
struct Object<'f, 'a>(&'f mut Fields<'a>, usize);

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut object: A) -> Result<(), A::Error> {
        let Object(fields, list_max) = self;
        while let Some(Name(name)) = object.next_key_seed(Name(Err(String::new())))? {
            match name {
                Ok(at) => {
                    let value = object.next_value_seed(OneValue(list_max))?;
                    if fields.values[at].replace(value).is_some() {
                        fields.fault.get_or_insert(format!("`{}` is given more than once", NAMES[at]));
                    }
                }
                Err(shown) => {
                    object.next_value::<IgnoredAny>()?;
                    fields.fault.get_or_insert(format!("there is no field `{shown}`"));
                }
            }
        }
        Ok(())
    }
}

/// A field's name: its place in [`NAMES`], or enough of it to be found again.
struct Name(Result<usize, String>);

impl<'a> DeserializeSeed<'a> for Name {
    type Value = Name;

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<Name, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        let known = NAMES.iter().position(|known| *known == name);
        Ok(Name(known.ok_or_else(|| name.chars().take(32).collect())))
    }
}

/// A value, whatever it is. Of a list at most so many entries are kept.
#[derive(Clone, Copy)]
struct OneValue(usize);

impl<'a> DeserializeSeed<'a> for OneValue {
    type Value = Value<'a>;

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<Value<'a>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for OneValue {
    type Value = Value<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Value<'a>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'a>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'a>, E> {
        Ok(Value::Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'a>, E> {
        Ok(i64::try_from(number).map_or(Value::Other, Value::Number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value<'a>, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value<'a>, E> {
        Ok(Value::Other)
    }

    fn visit_unit<E>(self) -> Result<Value<'a>, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Value<'a>, A::Error> {
        let (mut texts, mut count) = (Vec::new(), 0_usize);
        while texts.len() < self.0
            && let Some(value) = list.next_element_seed(OneValue(0))?
        {
            count += 1;
            if let Value::Text(text) = value {
                texts.push(text);
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Value::List(texts, count))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut object: A) -> Result<Value<'a>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, Refused> {
        Request::parse(text, 3)
    }

    /// The answer to a message that is refused.
    fn refused(text: &str) -> String {
        let frame = parse(text).expect_err(text).answer();
        let header = if frame[1] == 126 { 4 } else { 2 };
        String::from_utf8(frame[header..].to_vec()).expect("text")
    }

    fn topic(name: &str) -> Topic {
        Topic::parse(name).expect("a topic")
    }

    #[test]
    fn messages_are_read_in_any_order_of_their_fields() {
        let text = r#" {"data":"line\n\u20ac","ref":"r1","event":"e","topic":"a/b","op":"publish"} "#;
        let request = parse(text).expect("fine");
        assert_eq!(request.reference, Ref::Text("r1".into()));
        let Operation::Publish { topic: to, event, data } = request.operation else { panic!("a publish") };
        assert_eq!((to, event.as_ref().map(EventName::as_str)), (topic("a/b"), Some("e")));
        assert_eq!(data, "line\n€".as_bytes());
        for (text, expected) in [
            (
                r#"{"op":"subscribe","ref":7,"topics":["a","b","a"]}"#,
                Operation::Subscribe(vec![topic("a"), topic("b")]),
            ),
            (r#"{"op":"unsubscribe","ref":-1,"topics":["a"]}"#, Operation::Unsubscribe(vec![topic("a")])),
            (
                r#"{"op":"ack","queue":"q","tokens":["t~1","t"]}"#,
                Operation::Ack { queue: topic("q"), tokens: vec!["t~1".into(), "t".into()] },
            ),
            (
                r#"{"op":"publish","topic":"a","data":"","event":""}"#,
                Operation::Publish { topic: topic("a"), event: None, data: Bytes::new() },
            ),
        ] {
            assert_eq!(parse(text).map(|request| request.operation), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_answer_repeats_the_reference() {
        let said = |frame: Box<[u8]>| String::from_utf8(frame[2..].to_vec()).expect("text");
        assert_eq!(said(done(&Ref::Text("a\"b".into()), None)), r#"{"ref":"a\"b","ok":true}"#);
        assert_eq!(said(done(&Ref::Number(7), EventId::parse("5-0-abcd"))), r#"{"ref":7,"ok":true,"id":"5-0-abcd"}"#);
        let full = Refused::of(Ref::None, "not stored").with_limit(9);
        assert_eq!(said(full.answer()), r#"{"ref":null,"ok":false,"error":"not stored","limit":9}"#);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, sentence) in [
            ("", r#"{"ref":null,"ok":false,"error":"this is not JSON: EOF"#),
            ("[]", "a message is a JSON object"),
            ("7", "a message is a JSON object"),
            (r#""publish""#, "a message is a JSON object"),
            (r#"{"op":"publish"} x"#, "this is not JSON: trailing"),
            (r#"{"op":"publish","#, "this is not JSON: EOF"),
            (r#"{"op":"publish","topic":"a","data":"\ud800"}"#, "this is not JSON"),
            (r#"{"ref":"r"}"#, r#"{"ref":"r","ok":false,"error":"`op` is missing"}"#),
            (r#"{"op":7,"ref":"r"}"#, r#""ref":"r","ok":false,"error":"`op` must be a string"#),
            (r#"{"op":"shout","ref":7}"#, r#""ref":7,"ok":false,"error":"`op` is one of publish, subscribe,"#),
            (r#"{"op":"ack","ref":1.5}"#, "`ref` must be a string or a whole number"),
            (r#"{"op":"ack","ref":null}"#, "`ref` must be a string or a whole number"),
            (r#"{"op":"ack","ref":["r"]}"#, "`ref` must be a string or a whole number"),
            (r#"{"op":"ack","ref":18446744073709551615}"#, "`ref` must be a string or a whole number"),
            (r#"{"ref":"r","ref":"r","op":"ack"}"#, "`ref` is given more than once"),
            (r#"{"op":"publish","topic":"a","data":"x","dta":"y"}"#, "there is no field `dta`"),
            (r#"{"op":"publish","topic":"a","data":"x","queue":"y"}"#, "`publish` has no field `queue`"),
            (r#"{"op":"subscribe","topics":["a"],"topic":"a"}"#, "`subscribe` has no field `topic`"),
            (r#"{"op":"publish","topic":"a","topic":"b","data":"x"}"#, "`topic` is given more than once"),
            (r#"{"op":"publish","data":"x"}"#, "`topic` is missing"),
            (r#"{"op":"publish","topic":["a"],"data":"x"}"#, "`topic` must be a string"),
            (r#"{"op":"publish","topic":"a"}"#, "`data` is missing"),
            (r#"{"op":"publish","topic":"a","data":{"b":[1,true,null]}}"#, "`data` must be a string"),
            (r#"{"op":"publish","topic":"a","data":"x","event":null}"#, "`event` must be a string"),
            (r#"{"op":"publish","topic":"a","data":"x","event":"fanwheel.open"}"#, "`event`: event names that begin"),
            (r#"{"op":"publish","topic":"$a","data":"x"}"#, "`topic`: topics that begin with"),
            (r#"{"op":"subscribe","topics":["a.*"]}"#, "`topics`: a topic must not contain a segment"),
            (r#"{"op":"subscribe","topics":[]}"#, "`topics` must have an entry"),
            (r#"{"op":"subscribe","topics":"a"}"#, "`topics` must be a list of strings"),
            (r#"{"op":"subscribe","topics":["a",7]}"#, "`topics` must be a list of strings"),
            (r#"{"op":"subscribe","topics":["a",["b"],{"c":0}]}"#, "`topics` must be a list of strings"),
            (r#"{"op":"unsubscribe"}"#, "`topics` is missing"),
            (r#"{"op":"ack","tokens":["t"]}"#, "`queue` is missing"),
            (r#"{"op":"ack","queue":"q","tokens":[""]}"#, "`tokens` must be those of deliveries"),
            (r#"{"op":"ack","queue":"q","tokens":["a b"]}"#, "`tokens` must be those of deliveries"),
        ] {
            let answer = refused(text);
            assert!(answer.contains(sentence), "{sentence} in {answer}, for {text}");
            assert!(answer.contains(r#""ok":false"#), "{answer}");
        }
    }

    #[test]
    fn limits_are_named_and_nothing_large_is_sent_back() {
        let list = |count: usize, one: &str| vec![format!("\"{one}\""); count].join(",");
        let long = "x".repeat(1 << 20);
        for (text, limit) in [
            (format!(r#"{{"op":"subscribe","topics":[{}]}}"#, list(4, "a")), 3),
            (format!(r#"{{"op":"subscribe","topics":[{}]}}"#, list(100_000, "")), 3),
            (format!(r#"{{"op":"ack","queue":"q","tokens":[{}]}}"#, list(TOKENS_MAX + 1, "t")), TOKENS_MAX),
            (format!(r#"{{"op":"publish","topic":"{long}","data":""}}"#), TOPIC_BYTES_MAX),
            (format!(r#"{{"op":"publish","topic":"a","event":"{long}","data":""}}"#), EVENT_NAME_BYTES_MAX),
            (format!(r#"{{"op":"publish","topic":"a","data":"{long}x"}}"#), EVENT_BYTES_MAX),
            (format!(r#"{{"ref":"{long}","op":"ack"}}"#), REF_BYTES_MAX),
        ] {
            let answer = refused(&text);
            assert!(answer.contains(&format!("\"limit\":{limit}}}")), "{answer}");
            assert!(answer.len() < 200, "{answer}");
        }
        for text in [
            format!(r#"{{"{long}":1}}"#),
            format!(r#"{{"op":"{long}"}}"#),
            format!(r#"{{"op":"ack","queue":"q","tokens":["{long}"]}}"#),
            format!("{{\"op\":{}", "[".repeat(1 << 20)),
            format!("{long} {long}"),
        ] {
            assert!(refused(&text).len() < 300);
        }
        let text = format!(r#"{{"op":"ack","queue":"q","tokens":[{}]}}"#, list(TOKENS_MAX, "t"));
        assert!(parse(&text).is_ok());
    }
}
