//! Publishers on an open-loop schedule.
//!
//! **For:** offering events at a given rate whatever the server does, see [`Schedule`]. Of all events
//! publisher p sends every k with `k mod publishers = p`, topics in rotation.
//! **What always holds:** one publisher uses one connection at a time and sends in sequence, so a
//! server that keeps a connection's order keeps the sequence's. Requests are pipelined: the next
//! one does not wait for the answer to the last.
//! **Overload:** when `in_flight_max` publishes are unanswered the publisher waits; what it then
//! sends late carries its intended time, so the wait shows in intended→receive.
//! Where a calm phase follows, what a late publisher has not sent when it begins is given up, see
//! [`CalmPhase`]: an open loop that stayed late for ever would measure itself.
//! A refused or unanswered publish is never repeated; its number is reported as uncertain. (So an idempotency
//! key would be of no use.)
//! **Not chosen:** several connections per publisher. They would not need pipelining, but nobody
//! could tell then which order is the right one.

mod connection;

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use checker::history::{self, Publication, Topic};

use self::connection::{Answer, Connection};
use crate::clock::now_ns;
use crate::dialect::PublishRequest;
use crate::latency::Latencies;
use crate::payload::{Stamp, event_hash};
use crate::schedule::{CalmPhase, Schedule, Timetable, length_ns};
use crate::swarm::Slot;
use crate::target::Target;

/// Bytes put together for one write at most, so that the time stamped is close to the time sent.
const WRITE_LEN: usize = 32 * 1024;
/// A connection that answers nothing for so long is given up.
const ANSWER_WAIT_NS: u64 = 10_000_000_000;
/// How long after the end of the schedule a publisher that is late may go on.
const OVERTIME_NS: u64 = 20_000_000_000;
const RECONNECT_WAIT: Duration = Duration::from_millis(100);

/// What is to be published, by all publishers together.
#[derive(Debug, Clone)]
pub(crate) struct PublishPlan {
    pub(crate) via: Via,
    pub(crate) run: u32,
    pub(crate) topics: Vec<String>,
    pub(crate) publishers: usize,
    pub(crate) schedule: Schedule,
    /// Events per second. Above 0.
    pub(crate) rate: f64,
    /// Events.
    pub(crate) total: u64,
    /// Bytes of each.
    pub(crate) payload: usize,
    /// Per publisher. At least 1.
    pub(crate) in_flight_max: usize,
    pub(crate) calm: Option<CalmPhase>,
    /// True exactly when each answer must name an id, and what became of each event is kept for the judge of histories.
    pub(crate) is_durable: bool,
}

/// How to publish.
#[derive(Debug, Clone)]
pub(crate) enum Via {
    Http { target: Target, request: PublishRequest },
    Redis { target: Target, channel_prefix: String },
}

/// What was published.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Topic t, publisher p at `t * publishers + p`.
    pub(crate) slots: Vec<Slot>,
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    /// Answered, but not with success.
    pub(crate) refused: u64,
    /// Never answered.
    pub(crate) unanswered: u64,
    /// `None` when nothing was sent.
    pub(crate) first_sent_ns: Option<u64>,
    pub(crate) last_sent_ns: u64,
    /// Sent − intended.
    pub(crate) late: Latencies,
    /// Events that had to wait because too many before them were unanswered.
    pub(crate) waited: u64,
    /// Events of the first phase that were never sent, because the calm one began.
    pub(crate) given_up: u64,
    /// What became of each event, where they are durable; else empty.
    pub(crate) publications: Vec<Publication>,
    pub(crate) first_error: Option<String>,
}

impl PublishPlan {
    /// Events of all phases.
    pub(crate) fn events(&self) -> u64 {
        self.total + self.calm.map_or(0, |calm| calm.total)
    }

    /// Of `events` publisher `index` sends so many.
    fn share(&self, events: u64, index: usize) -> u64 {
        let publishers = self.publishers as u64;
        (events + publishers - 1 - index as u64) / publishers
    }

    /// Runs all publishers; returns when the last is through. `sent` is kept up to date.
    pub(crate) fn run(&self, start_ns: u64, sent: &AtomicU64) -> Outcome {
        let mut outcome = Outcome::new(self);
        let frames = match self.via.frames(&self.topics, self.payload) {
            Ok(frames) => frames,
            Err(error) => return Outcome { first_error: Some(format!("{error:#}")), ..outcome },
        };
        let frames = frames.as_slice();
        thread::scope(|scope| {
            let publishers: Vec<_> = (0..self.publishers)
                .map(|index| scope.spawn(move || Publisher::new(self, frames, index, start_ns).run(sent)))
                .collect();
            for publisher in publishers {
                match publisher.join() {
                    Ok(part) => outcome.merge(part),
                    Err(_) => outcome.first_error = Some("a publisher panicked".to_owned()),
                }
            }
        });
        outcome
    }
}

impl Outcome {
    fn new(plan: &PublishPlan) -> Self {
        Self { slots: vec![Slot::default(); plan.topics.len() * plan.publishers], ..Self::default() }
    }

    fn merge(&mut self, part: Self) {
        for (slot, other) in self.slots.iter_mut().zip(part.slots) {
            // Each slot belongs to one publisher; the others' are empty.
            slot.count += other.count;
            slot.uncertain.extend(other.uncertain);
            slot.sent_ns.extend(other.sent_ns);
        }
        self.sent += part.sent;
        self.accepted += part.accepted;
        self.refused += part.refused;
        self.unanswered += part.unanswered;
        self.first_sent_ns = self.first_sent_ns.into_iter().chain(part.first_sent_ns).min();
        self.last_sent_ns = self.last_sent_ns.max(part.last_sent_ns);
        self.late.merge(&part.late.to_buckets());
        self.waited += part.waited;
        self.given_up += part.given_up;
        self.publications.extend(part.publications);
        self.first_error = self.first_error.take().or(part.first_error);
    }
}

struct Publisher<'a> {
    plan: &'a PublishPlan,
    /// What stands before and after each payload, by topic.
    frames: &'a [(String, String)],
    index: usize,
    timetable: Timetable,
    start_ns: u64,
    deadline_ns: u64,
    /// Its next event, counted over its topics: `0 <= next <= count`.
    next: u64,
    /// Where the phase that it is in ends.
    count: u64,
    /// The phase that is to come.
    calm: Option<CalmPhase>,
    connection: Option<Connection>,
    /// Sent and not answered, oldest first.
    in_flight: VecDeque<Sent>,
    last_answer_ns: u64,
    /// True exactly when the next event could not be sent before an answer came.
    room_is_lacking: bool,
    out: Vec<u8>,
    outcome: Outcome,
}

/// An event on its way.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// As `Publisher::next` counts.
    number: u64,
    /// See [`event_hash`]; 0 where events are not durable.
    hash: u64,
}

impl<'a> Publisher<'a> {
    fn new(plan: &'a PublishPlan, frames: &'a [(String, String)], index: usize, start_ns: u64) -> Self {
        let length_ns = plan.calm.map_or_else(|| length_ns(plan.total, plan.rate), |calm| calm.length_ns());
        let seed = u64::from(plan.run);
        Self {
            plan,
            frames,
            index,
            timetable: Timetable::new(plan.schedule, start_ns, plan.rate, plan.publishers, index, seed),
            start_ns,
            deadline_ns: start_ns + length_ns + OVERTIME_NS,
            next: 0,
            count: plan.share(plan.total, index),
            calm: plan.calm,
            connection: None,
            in_flight: VecDeque::new(),
            last_answer_ns: 0,
            room_is_lacking: false,
            out: Vec::new(),
            outcome: Outcome::new(plan),
        }
    }

    fn run(mut self, sent: &AtomicU64) -> Outcome {
        while self.has_more() && now_ns() < self.deadline_ns {
            let sent_before = self.outcome.sent;
            let turned = self.turn();
            sent.fetch_add(self.outcome.sent - sent_before, Ordering::Relaxed);
            if let Err(error) = turned {
                self.give_up_connection(&format!("{error:#}"));
                thread::sleep(RECONNECT_WAIT);
            }
        }
        self.give_up_connection("the time to publish is over");
        for slot in &mut self.outcome.slots {
            slot.uncertain.sort_unstable();
        }
        self.outcome
    }

    fn has_more(&self) -> bool {
        self.next < self.count || self.calm.is_some() || !self.in_flight.is_empty()
    }

    /// Sends what is due, then waits for answers or for the next to be due.
    fn turn(&mut self) -> Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.plan.via, self.plan.is_durable)?,
        };
        let sent = self.send_due(&mut connection);
        let answered = sent.and_then(|()| self.wait_for_answers(&mut connection));
        // The answers that did come before an error are taken all the same.
        let (answers, closes) = connection.take_answers()?;
        answers.iter().for_each(|answer| self.handle_answer(answer));
        answered?;
        if closes {
            bail!("the server closed a publishing connection");
        }
        self.connection = Some(connection);
        Ok(())
    }

    fn send_due(&mut self, connection: &mut Connection) -> Result<()> {
        self.out.clear();
        let room_was_lacking = std::mem::take(&mut self.room_is_lacking);
        let calm_is_due = self.calm.is_some_and(|calm| now_ns() >= self.start_ns + calm.after_ns);
        while self.may_send() && self.out.len() < WRITE_LEN {
            let (intended_ns, sent_ns) = (self.next_due_ns(), now_ns());
            if sent_ns < intended_ns {
                break;
            }
            self.outcome.waited += u64::from(room_was_lacking);
            self.encode_next(intended_ns, sent_ns);
        }
        self.room_is_lacking = self.in_flight.len() >= self.plan.in_flight_max;
        // What a publisher that was only woken late could still send is not given up.
        if calm_is_due || self.next == self.count {
            self.begin_calm();
        }
        if self.out.is_empty() {
            return Ok(());
        }
        connection.stream.write_all(&self.out).context("publish")
    }

    /// What it has not sent of the phase that it is in is never sent.
    fn begin_calm(&mut self) {
        let Some(calm) = self.calm.take() else {
            return;
        };
        self.outcome.given_up += self.count - self.next;
        self.timetable.begin_phase(self.start_ns + calm.after_ns, self.next, calm.rate);
        self.count = self.next + self.plan.share(calm.total, self.index);
    }

    fn may_send(&self) -> bool {
        self.next < self.count && self.in_flight.len() < self.plan.in_flight_max
    }

    fn next_due_ns(&self) -> u64 {
        self.timetable.due_ns(self.next)
    }

    fn encode_next(&mut self, intended_ns: u64, sent_ns: u64) {
        let topics = self.plan.topics.len() as u64;
        let topic = (self.next % topics) as usize;
        let stamp = Stamp {
            run: self.plan.run,
            publisher: self.index as u16,
            topic: topic as u16,
            seq: self.next / topics,
            intended_ns,
            sent_ns,
        };
        let (before, after) = &self.frames[topic];
        self.out.extend_from_slice(before.as_bytes());
        let begin = self.out.len();
        stamp.encode(self.plan.payload, &mut self.out);
        let hash = if self.plan.is_durable { event_hash(b"", &self.out[begin..]) } else { 0 };
        self.out.extend_from_slice(after.as_bytes());
        let slot = &mut self.outcome.slots[topic * self.plan.publishers + self.index];
        slot.count += 1;
        slot.sent_ns.push(sent_ns);
        self.outcome.sent += 1;
        self.outcome.first_sent_ns.get_or_insert(sent_ns);
        self.outcome.last_sent_ns = sent_ns;
        self.outcome.late.record(sent_ns - intended_ns);
        if self.in_flight.is_empty() {
            self.last_answer_ns = sent_ns;
        }
        self.in_flight.push_back(Sent { number: self.next, hash });
        self.next += 1;
        self.timetable.advance();
    }

    fn wait_for_answers(&mut self, connection: &mut Connection) -> Result<()> {
        let now = now_ns();
        let give_up_ns = self.last_answer_ns + ANSWER_WAIT_NS;
        if !self.in_flight.is_empty() && now >= give_up_ns {
            bail!("no answer for {} s", ANSWER_WAIT_NS / 1_000_000_000);
        }
        let mut until_ns = if self.in_flight.is_empty() { u64::MAX } else { give_up_ns };
        if self.may_send() {
            until_ns = until_ns.min(self.next_due_ns());
        }
        if until_ns == u64::MAX {
            return Ok(());
        }
        connection.read_until(until_ns.saturating_sub(now))
    }

    fn handle_answer(&mut self, answer: &Answer) {
        self.last_answer_ns = now_ns();
        let Some(sent) = self.in_flight.pop_front() else {
            return;
        };
        match answer {
            Answer::Accepted | Answer::Stored(_) => self.outcome.accepted += 1,
            Answer::Refused(why) | Answer::Unsure(why) => {
                self.outcome.refused += 1;
                self.outcome.first_error.get_or_insert_with(|| why.clone());
                self.note_uncertain(sent.number);
            }
        }
        self.note_publication(sent, answer.outcome());
    }

    fn give_up_connection(&mut self, why: &str) {
        self.connection = None;
        if !self.in_flight.is_empty() || self.next < self.count {
            self.outcome.first_error.get_or_insert_with(|| why.to_owned());
        }
        while let Some(sent) = self.in_flight.pop_front() {
            self.outcome.unanswered += 1;
            self.note_uncertain(sent.number);
            self.note_publication(sent, history::Outcome::Unknown);
        }
    }

    fn note_publication(&mut self, sent: Sent, outcome: history::Outcome) {
        if self.plan.is_durable {
            let topic = Topic((sent.number % self.plan.topics.len() as u64) as u32);
            self.outcome.publications.push(Publication { topic, hash: sent.hash, outcome });
        }
    }

    fn note_uncertain(&mut self, number: u64) {
        let topics = self.plan.topics.len() as u64;
        let slot = (number % topics) as usize * self.plan.publishers + self.index;
        self.outcome.slots[slot].uncertain.push(number / topics);
    }
}

impl Via {
    fn target(&self) -> &Target {
        match self {
            Self::Http { target, .. } | Self::Redis { target, .. } => target,
        }
    }

    /// What stands before and after each payload, by topic.
    fn frames(&self, topics: &[String], payload_len: usize) -> Result<Vec<(String, String)>> {
        topics.iter().map(|topic| self.frame(topic, payload_len)).collect()
    }

    fn frame(&self, topic: &str, payload_len: usize) -> Result<(String, String)> {
        match self {
            Self::Http { target, request } => request.around(target, topic, payload_len),
            Self::Redis { channel_prefix, .. } => {
                let channel_len = channel_prefix.len() + topic.len();
                let before =
                    format!("*3\r\n$7\r\nPUBLISH\r\n${channel_len}\r\n{channel_prefix}{topic}\r\n${payload_len}\r\n");
                Ok((before, "\r\n".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    fn plan(via: Via, total: u64, publishers: usize) -> PublishPlan {
        PublishPlan {
            via,
            run: 1,
            topics: vec!["a".to_owned(), "b".to_owned()],
            publishers,
            schedule: Schedule::Constant,
            rate: 10_000.0,
            total,
            payload: 100,
            in_flight_max: 8,
            calm: None,
            is_durable: false,
        }
    }

    /// Accepts `connections` and answers each line that satisfies `wants` with what `answer` says.
    /// (A request's first line hangs on the body before it, which has no line end.)
    fn serve(connections: usize, wants: fn(&str) -> bool, answer: fn(usize) -> &'static str) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().take(connections) {
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut answered = 0;
                    for line in BufReader::new(stream.try_clone().unwrap()).split(b'\n') {
                        if wants(&String::from_utf8_lossy(&line.unwrap())) {
                            stream.write_all(answer(answered).as_bytes()).unwrap();
                            answered += 1;
                        }
                    }
                });
            }
        });
        Target { addr, authority: addr.to_string() }
    }

    fn fanwheel(target: Target) -> Via {
        Via::Http { target, request: PublishRequest::plain("POST", "/topics/{topic}") }
    }

    #[test]
    fn redis_answers_are_counted_and_refusals_are_uncertain() {
        let answer = |n| if n == 3 { "-OOM command not allowed\r\n" } else { ":2\r\n" };
        let target = serve(1, |line| line.starts_with("fw1 "), answer);
        let via = Via::Redis { target, channel_prefix: "p:".to_owned() };
        let outcome = plan(via, 10, 1).run(now_ns(), &AtomicU64::new(0));
        assert_eq!((outcome.sent, outcome.accepted, outcome.refused, outcome.unanswered), (10, 9, 1, 0));
        // Event 3 is the second of topic b.
        let slot = &outcome.slots[1];
        assert_eq!((slot.count, slot.uncertain.as_slice(), slot.sent_ns.len()), (5, &[1][..], 5));
        assert!(outcome.first_error.unwrap().contains("OOM"));
    }

    #[test]
    fn http_publishes_are_pipelined_and_numbered_per_publisher_and_topic() {
        let ok = |_| "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
        let target = serve(3, |line| line.contains("POST /topics/"), ok);
        let outcome = plan(fanwheel(target), 20, 3).run(now_ns(), &AtomicU64::new(0));
        assert_eq!((outcome.sent, outcome.accepted), (20, 20));
        let counts: Vec<u64> = outcome.slots.iter().map(|slot| slot.count).collect();
        assert_eq!(counts, [4, 4, 3, 3, 3, 3]);
    }

    #[test]
    fn a_calm_phase_follows_in_the_same_sequences() {
        let ok = |_| "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
        let target = serve(3, |line| line.contains("POST /topics/"), ok);
        let calm = CalmPhase { after_ns: 50_000_000, rate: 1_000.0, total: 7 };
        let start_ns = now_ns();
        // The last of three publishers has nothing to send in the first phase.
        let plan = PublishPlan { calm: Some(calm), ..plan(fanwheel(target), 2, 3) };
        let outcome = plan.run(start_ns, &AtomicU64::new(0));
        assert_eq!((outcome.sent, outcome.accepted, outcome.given_up), (9, 9, 0), "{:?}", outcome.first_error);
        let counts: Vec<u64> = outcome.slots.iter().map(|slot| slot.count).collect();
        // Each publisher goes on with the topic whose turn it is: 1 + 3, 1 + 2 and 0 + 2 events.
        assert_eq!(counts, [2, 2, 1, 2, 1, 1]);
        let calm_ns = start_ns + calm.after_ns;
        let sent_ns = outcome.slots.iter().flat_map(|slot| &slot.sent_ns);
        assert!(sent_ns.filter(|sent_ns| **sent_ns >= calm_ns).count() >= 7);
    }

    #[test]
    fn what_a_late_publisher_has_not_sent_of_the_first_phase_is_given_up() {
        // An answer is paced: it takes a millisecond, and ten events come in each.
        let answer = |_| {
            thread::sleep(Duration::from_millis(1));
            ":2\r\n"
        };
        let target = serve(1, |line| line.starts_with("fw1 "), answer);
        let via = Via::Redis { target, channel_prefix: "p:".to_owned() };
        let calm = CalmPhase { after_ns: 100_000_000, rate: 100.0, total: 10 };
        let plan = PublishPlan { calm: Some(calm), ..plan(via, 1_000, 1) };
        let outcome = plan.run(now_ns(), &AtomicU64::new(0));
        assert!(outcome.given_up > 0);
        assert_eq!((outcome.sent + outcome.given_up, outcome.accepted), (1_010, outcome.sent));
        let sent_by_slot: Vec<u64> = outcome.slots.iter().map(|slot| slot.sent_ns.len() as u64).collect();
        assert_eq!(sent_by_slot, [outcome.sent.div_ceil(2), outcome.sent / 2]);
        assert!(outcome.first_error.is_none(), "{:?}", outcome.first_error);
    }

    #[test]
    fn what_became_of_each_durable_event_is_kept_with_the_id_it_got() {
        let answer = |n| match n {
            1 => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            2 => "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
            3 => "HTTP/1.1 202 Accepted\r\nContent-Length: 11\r\n\r\n{\"id\":null}",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"id\":\"7-0-abcd\"}",
        };
        let target = serve(1, |line| line.contains("POST /topics/"), answer);
        let plan = PublishPlan { is_durable: true, ..plan(fanwheel(target), 5, 1) };
        let outcome = plan.run(now_ns(), &AtomicU64::new(0));
        let stored = history::Outcome::Stored(history::Id::parse("7-0-abcd").unwrap());
        let (refused, unknown) = (history::Outcome::Refused, history::Outcome::Unknown);
        let outcomes: Vec<_> = outcome.publications.iter().map(|publication| publication.outcome).collect();
        assert_eq!(outcomes, [stored, refused, unknown, unknown, stored]);
        let topics: Vec<u32> = outcome.publications.iter().map(|publication| publication.topic.0).collect();
        assert_eq!((topics, outcome.accepted, outcome.refused), (vec![0, 1, 0, 1, 0], 2, 3));
        let mut hashes: Vec<u64> = outcome.publications.iter().map(|publication| publication.hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 5);
    }

    #[test]
    fn an_answer_is_understood_wherever_it_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for part in ["HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"id\"", ":\"7-0-ab", "cd\"}"] {
                stream.write_all(part.as_bytes()).unwrap();
                // Paced, so that each part is read by itself.
                thread::sleep(Duration::from_millis(20));
            }
        });
        let via = fanwheel(Target { addr, authority: addr.to_string() });
        let mut connection = Connection::open(&via, true).unwrap();
        let mut answers = Vec::new();
        while answers.is_empty() {
            connection.read_until(5_000_000_000).unwrap();
            answers = connection.take_answers().unwrap().0;
        }
        assert_eq!(answers, [Answer::Stored(history::Id::parse("7-0-abcd").unwrap())]);
    }

    #[test]
    fn a_server_that_hangs_up_leaves_its_publishes_uncertain() {
        let answer = |_| "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let target = serve(100, |line| line.contains("POST "), answer);
        let outcome = plan(fanwheel(target), 6, 1).run(now_ns(), &AtomicU64::new(0));
        assert_eq!(outcome.accepted, 0);
        assert_eq!(outcome.refused + outcome.unanswered, 6);
        let uncertain: usize = outcome.slots.iter().map(|slot| slot.uncertain.len()).sum();
        assert_eq!(uncertain, 6);
    }
}
