//! Talks: what the WebSockets of one shard are in the middle of, and what their clients ask for.
//!
//! ```text
//!  socket ──► scratch ──► session ──► operation ──► publish ──────► the source ──► answer ─┐
//!     ▲                      │            └──► subscribe ──► shard ──► confirmed ──────────┤
//!     └── outbox ◄── pong, close frame, answer ◄────────────────────────────────────────────┘
//! ```
//!
//! What always holds: a connection between two messages whose operations are all answered has no entry here, and no
//! buffer. All are read through one scratch buffer. Operations of one client begin in the order in which they came; the
//! answers name them by `ref`.
//!
//! # Overload
//! A client that does not take its answers is not read from, nor is one with [`UNDER_WAY_MAX`] operations under way, or
//! with one that its stream is not ready for. What is held of messages, and what is being published, is charged to the
//! room that the bodies of requests share; where there is none, the answer says so. A message must be complete
//! [`MESSAGE_TIMEOUT`] after its first byte.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use crate::edge::desk::Desk;
use crate::edge::http::body::Share;
use crate::edge::port::{Port, Ports};
use crate::edge::reactor::Happened;
use crate::edge::ws::operation::{self, Operation, Ref, Refused, Request};
use crate::edge::ws::session::{Heard, Session};
use crate::edge::ws::{MESSAGE_BYTES_MAX, MESSAGE_TIMEOUT};
use crate::engine::wheel::TICK_MS;
use crate::engine::{CloseReason, ConnId, Joined, NotFollowed, Publication, PublishError, Published, Shard};
use crate::event::Event;
use crate::frame::WireForm;
use crate::frame::ws::{self, CloseCode};
use crate::topic::Topic;

/// Most operations of one client whose answers are to come. Their answers together fit an outbox.
pub const UNDER_WAY_MAX: usize = 128;
/// Read at once; so much may be heard of a client beyond what stops it from being read.
const SCRATCH_BYTES: usize = 16 << 10;
/// Answers given in a turn.
const ANSWERS_PER_TURN: usize = 1_024;
/// What an operation under way occupies beside its data: a task, the publish, the event.
const OPERATION_BYTES: usize = 2 << 10;
/// What operations that wait may occupy: those of one read.
const DEFERRED_BYTES: usize = 4 * SCRATCH_BYTES;

/// The talks of one shard, by descriptor.
#[derive(Debug, Default)]
pub struct Talks {
    busy: HashMap<RawFd, Talk>,
    /// Who has sent something, and was not read from.
    unheard: HashSet<RawFd>,
}

/// What one client is in the middle of.
#[derive(Debug)]
struct Talk {
    id: ConnId,
    session: Session,
    /// Charged for what the session holds.
    share: Option<Share>,
    /// The tick in which its message began, while that is not complete.
    since: Option<u32>,
    /// Operations whose answers are to come.
    under_way: usize,
    /// Subscriptions to be confirmed.
    joining: Vec<Joining>,
    /// Operations that wait until the stream is settled, and those that came after them.
    deferred: VecDeque<Request>,
}

/// A subscription to be confirmed.
#[derive(Debug)]
struct Joining {
    reference: Ref,
    /// Of these the source has said nothing yet.
    topics: Vec<Topic>,
    _share: Share,
}

impl Talks {
    /// A connection is gone, and what it was in the middle of.
    pub fn forget(&mut self, fd: RawFd) {
        self.unheard.remove(&fd);
        self.busy.remove(&fd);
        if self.busy.capacity() > 64 && self.busy.len() < self.busy.capacity() / 8 {
            self.busy.shrink_to(self.busy.len() * 2);
        }
    }

    /// True exactly when nobody is in the middle of anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.busy.is_empty()
    }

    /// Clients whose message is not complete, and began before that tick. Who is not read from cannot complete it.
    fn overdue(&self, begun: u32) -> Vec<ConnId> {
        let late = self.busy.iter().filter(|(fd, talk)| {
            !self.unheard.contains(fd) && talk.may_be_read() && talk.since.is_some_and(|since| since < begun)
        });
        late.map(|(_, talk)| talk.id).collect()
    }
}

impl Talk {
    fn new(id: ConnId) -> Talk {
        Talk {
            id,
            session: Session::new(MESSAGE_BYTES_MAX),
            share: None,
            since: None,
            under_way: 0,
            joining: Vec::new(),
            deferred: VecDeque::new(),
        }
    }

    /// True exactly when a new one would do as well.
    fn is_idle(&self) -> bool {
        self.session.is_idle() && self.under_way == 0 && self.deferred.is_empty()
    }

    /// Nothing more is waited for of these topics. Gives the subscriptions that wait for nothing any more.
    fn confirm(&mut self, topics: &[Topic]) -> Vec<Ref> {
        for joining in &mut self.joining {
            joining.topics.retain(|topic| !topics.contains(topic));
        }
        let done = self.joining.extract_if(.., |joining| joining.topics.is_empty());
        done.map(|joining| joining.reference).collect()
    }

    fn may_be_read(&self) -> bool {
        self.deferred.is_empty() && self.under_way < UNDER_WAY_MAX
    }
}

/// What a turn has to talk with: its shard, its connections, its buffer.
pub struct Talking<'a> {
    /// Whose clients they are.
    pub shard: &'a mut Shard<Port>,
    /// What is written to, with the talks.
    pub ports: &'a mut Ports,
    /// What publishes.
    pub desk: &'a Rc<Desk>,
    /// The current tick.
    pub now: u32,
}

impl Talking<'_> {
    /// Reads what a client has sent. True exactly when there may be more that can be read at once: more data, or the
    /// connection's end.
    pub fn read(&mut self, id: ConnId) -> bool {
        let Some(fd) = self.fd(id) else { return false };
        if !self.shard.may_hear(id) || !self.ports.talks.busy.get(&fd).is_none_or(Talk::may_be_read) {
            self.ports.talks.unheard.insert(fd);
            return false;
        }
        let mut scratch = [0; SCRATCH_BYTES];
        let Some(port) = self.shard.port(id) else { return false };
        match self.ports.read(port, &mut scratch) {
            Ok(0) => return false,
            Ok(count) => self.hear(id, &mut scratch[..count]),
            Err(reason) => self.shard.handle_gone(self.ports, id, reason),
        }
        true
    }

    /// A client has left, or its side of the connection has ended. What it has said before counts: what is not read now
    /// is read when its operations are answered, and its end with it.
    pub fn handle_gone(&mut self, id: ConnId) {
        while self.read(id) {}
        if !self.shard.may_hear(id) {
            self.shard.handle_gone(self.ports, id, CloseReason::Gone);
        }
    }

    /// Takes bytes of a client, unmasking them in place.
    pub fn hear(&mut self, id: ConnId, bytes: &mut [u8]) {
        let Some(fd) = self.fd(id) else { return };
        let mut talk = self.ports.talks.busy.remove(&fd).unwrap_or_else(|| Talk::new(id));
        let mut input = bytes;
        let mut replies = Vec::new();
        let mut ended = None;
        loop {
            let heard = talk.session.take_next(&mut input);
            match heard {
                None => break,
                Some(Heard::Message(text)) => {
                    talk.since = None;
                    let request = self.request(id, &text);
                    drop(text);
                    replies.extend(talk.session.take_pong().into_iter().flatten());
                    match request {
                        Asked::Request(request) => self.take_request(&mut talk, request, &mut replies),
                        Asked::Refused(refused) => replies.extend_from_slice(&refused.answer()),
                        Asked::NoOperations => {
                            let why = "messages are taken with the subprotocol fanwheel.v1.json only";
                            ended = Some((talk.session.close(CloseCode::POLICY, why), CloseReason::Protocol));
                            break;
                        }
                    }
                }
                Some(Heard::Ended(end)) => {
                    let reason = if end.violation.is_some() { CloseReason::Protocol } else { CloseReason::Gone };
                    ended = Some((end.reply, reason));
                    break;
                }
            }
        }
        if let Some((last, reason)) = ended {
            replies.extend(last.into_iter().flatten());
            return self.shard.end_with(self.ports, id, &replies, reason);
        }
        replies.extend(talk.session.take_pong().into_iter().flatten());
        if !self.charge(&mut talk) {
            let close = talk.session.close(CloseCode::TRY_AGAIN, "there is no room for this message now");
            replies.extend(close.into_iter().flatten());
            return self.shard.end_with(self.ports, id, &replies, CloseReason::Budget);
        }
        self.keep(fd, talk);
        if !replies.is_empty() {
            self.shard.reply(self.ports, id, &replies);
        }
    }

    /// Charges what a session holds, and notes since when.
    fn charge(&mut self, talk: &mut Talk) -> bool {
        let deferred = if talk.deferred.is_empty() { 0 } else { DEFERRED_BYTES };
        talk.since = (!talk.session.is_idle()).then(|| talk.since.unwrap_or(self.now));
        talk.share = None;
        talk.share = self.desk.load.share(talk.session.held() + deferred);
        talk.share.is_some()
    }

    fn keep(&mut self, fd: RawFd, talk: Talk) {
        if !talk.is_idle() {
            self.ports.talks.busy.insert(fd, talk);
        }
    }

    fn fd(&self, id: ConnId) -> Option<RawFd> {
        match self.shard.port(id)? {
            Port::WebSocket(socket) => Some(socket.as_raw_fd()),
            Port::Socket(_) | Port::Body(_) => None,
        }
    }

    fn request(&self, id: ConnId, text: &str) -> Asked {
        if self.shard.form(id) != Some(WireForm::WsJson) {
            return Asked::NoOperations;
        }
        match Request::parse(text, self.desk.node.topics_per_stream_max) {
            Ok(request) => Asked::Request(request),
            Err(refused) => Asked::Refused(refused),
        }
    }

    /// Begins an operation, or puts it behind those that wait.
    fn take_request(&mut self, talk: &mut Talk, request: Request, replies: &mut Vec<u8>) {
        if !talk.may_be_read() || !self.is_ready_for(talk.id, &request.operation) {
            talk.deferred.push_back(request);
            return;
        }
        let Request { reference, operation } = request;
        match operation {
            Operation::Publish { topic, event, data } => {
                let event = Event {
                    topic,
                    name: event,
                    key: None,
                    data,
                    stored: None,
                    received_us: self.desk.node.clock.now_us(),
                };
                self.publish(talk, reference, event, replies);
            }
            Operation::Subscribe(topics) => self.subscribe(talk, reference, &topics, replies),
            Operation::Unsubscribe(topics) => {
                self.shard.follow_no_more(talk.id, &topics);
                let waited = talk.confirm(&topics);
                talk.under_way -= waited.len();
                let position = self.shard.position_of(talk.id);
                replies.extend(waited.iter().flat_map(|reference| operation::done(reference, position)));
                replies.extend_from_slice(&operation::done(&reference, self.shard.position_of(talk.id)));
            }
            Operation::Ack { .. } => {
                let refused = Refused::of(reference, "`queue`: there are no queues on this node");
                replies.extend_from_slice(&refused.answer());
            }
        }
    }

    /// Topics are changed only where the stream is served by its cursor.
    fn is_ready_for(&self, id: ConnId, operation: &Operation) -> bool {
        match operation {
            Operation::Publish { .. } | Operation::Ack { .. } => true,
            Operation::Subscribe(_) | Operation::Unsubscribe(_) => self.shard.is_settled(id),
        }
    }

    fn publish(&mut self, talk: &mut Talk, reference: Ref, event: Event, replies: &mut Vec<u8>) {
        let Some(share) = self.desk.load.publishing(OPERATION_BYTES + event.data.len()) else {
            let refused = Refused::of(reference, "not stored: there is no room for it now; try again");
            return replies.extend_from_slice(&refused.answer());
        };
        talk.under_way += 1;
        let publishing = self.desk.publish(Publication::from(event));
        let (desk, id) = (Rc::clone(self.desk), talk.id);
        tokio::task::spawn_local(async move {
            let outcome = publishing.await;
            drop(share);
            desk.answer(id, answer(&reference, outcome));
        });
    }

    fn subscribe(&mut self, talk: &mut Talk, reference: Ref, topics: &[Topic], replies: &mut Vec<u8>) {
        let topics_max = self.desk.node.topics_per_stream_max;
        let Some(share) = self.desk.load.share(OPERATION_BYTES + size_of_val(topics)) else {
            let refused = Refused::of(reference, "there is no room for it now; try again");
            return replies.extend_from_slice(&refused.answer());
        };
        match self.shard.follow_more(talk.id, topics, topics_max) {
            Ok(joining) if joining.is_empty() => {
                replies.extend_from_slice(&operation::done(&reference, self.shard.position_of(talk.id)));
            }
            Ok(topics) => {
                talk.under_way += 1;
                talk.joining.push(Joining { reference, topics, _share: share });
            }
            Err(NotFollowed::TooMany) => {
                let error = format!("`topics`: a connection follows at most {topics_max} topics");
                replies.extend_from_slice(&Refused::of(reference, error).with_limit(topics_max).answer());
            }
            Err(NotFollowed::Full) => {
                let refused = Refused::of(reference, "`topics`: this node follows as many topics as it may");
                replies.extend_from_slice(&refused.answer());
            }
        }
    }

    /// Tells clients what has become of what they asked for, and reads on where that was waited for. True exactly when there
    /// was anything.
    pub fn go_on(&mut self) -> bool {
        let mut any = false;
        for Joined { id, topic, is_allowed } in self.shard.take_joined() {
            any = true;
            self.note_joined(id, &topic, is_allowed);
        }
        let mut answers = self.desk.take_answers(ANSWERS_PER_TURN);
        any |= !answers.is_empty();
        // Those of one client go in one write.
        answers.sort_by_key(|(id, _)| id.pack());
        for of_one in answers.chunk_by(|(one, _), (other, _)| one == other) {
            let all: Vec<u8> = of_one.iter().flat_map(|(_, answer)| answer.iter().copied()).collect();
            self.say(of_one[0].0, of_one.len(), &all);
        }
        for id in self.shard.take_settled() {
            any |= self.resume(id);
        }
        any
    }

    /// A topic of a subscription is confirmed, or refused.
    fn note_joined(&mut self, id: ConnId, topic: &Topic, is_allowed: bool) {
        let Some(talk) = self.fd(id).and_then(|fd| self.ports.talks.busy.get_mut(&fd)) else { return };
        let answers: Vec<Box<[u8]>> = if is_allowed {
            let position = self.shard.position_of(id);
            talk.confirm(std::slice::from_ref(topic))
                .iter()
                .map(|reference| operation::done(reference, position))
                .collect()
        } else {
            let error = format!("`topics`: the source refuses `{}`", topic.as_str());
            let refused = talk.joining.extract_if(.., |joining| joining.topics.contains(topic));
            refused.map(|joining| Refused::of(joining.reference, error.as_str()).answer()).collect()
        };
        self.say(id, answers.len(), &answers.concat());
    }

    /// Says the answers of so many operations, and goes on with those that waited for them.
    fn say(&mut self, id: ConnId, answers: usize, bytes: &[u8]) {
        let Some(talk) = self.fd(id).and_then(|fd| self.ports.talks.busy.get_mut(&fd)) else { return };
        talk.under_way -= answers;
        if !bytes.is_empty() {
            self.shard.reply(self.ports, id, bytes);
        }
        self.resume(id);
    }

    /// What waited until the stream was settled, or for others to be answered, is done. True exactly when there was
    /// anything.
    fn resume(&mut self, id: ConnId) -> bool {
        let Some(fd) = self.fd(id) else { return false };
        let Some(mut talk) = self.ports.talks.busy.remove(&fd) else { return self.look_again(id, fd) };
        let mut replies = Vec::new();
        let waiting = std::mem::take(&mut talk.deferred);
        let any = !waiting.is_empty();
        waiting.into_iter().for_each(|request| self.take_request(&mut talk, request, &mut replies));
        if any {
            // There was room for more.
            self.charge(&mut talk);
        }
        self.keep(fd, talk);
        if !replies.is_empty() {
            self.shard.reply(self.ports, id, &replies);
        }
        self.look_again(id, fd) || any
    }

    /// What a client has sent while it was not read from is read now, or waits for the next time. True exactly when
    /// there is something.
    fn look_again(&mut self, id: ConnId, fd: RawFd) -> bool {
        let any = self.ports.talks.unheard.remove(&fd);
        if any {
            // From now on it can complete its message again.
            if let Some(since) = self.ports.talks.busy.get_mut(&fd).and_then(|talk| talk.since.as_mut()) {
                *since = self.now;
            }
            self.desk.tell(id, Happened::Readable);
        }
        any
    }

    /// Ends those whose message is not complete in time.
    pub fn end_overdue(&mut self) {
        let begun = self.now.saturating_sub((MESSAGE_TIMEOUT.as_millis() / u128::from(TICK_MS)) as u32);
        for id in self.ports.talks.overdue(begun) {
            let why = format!("a message must be complete {} s after its first byte", MESSAGE_TIMEOUT.as_secs());
            let close = ws::close(Some(CloseCode::POLICY), &why);
            self.shard.end_with(self.ports, id, &close, CloseReason::Stalled);
        }
    }
}

/// What a message is.
enum Asked {
    Request(Request),
    Refused(Refused),
    /// It came over a connection without the subprotocol.
    NoOperations,
}

/// What a publisher is answered.
fn answer(reference: &Ref, outcome: Result<Published, PublishError>) -> Box<[u8]> {
    let error = match outcome {
        Ok(published) => return operation::done(reference, published.id),
        Err(PublishError::Refused(why)) => format!("not stored: {why}"),
        Err(PublishError::Conflict) => format!("not stored: {}", PublishError::Conflict),
        Err(PublishError::Unknown) => "unknown: it was sent, and no answer came; repeating it may double it".to_owned(),
    };
    Refused::of(reference.clone(), error).answer()
}
