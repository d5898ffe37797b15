//! The loop the floor is named after: one `send` per stream and batch over an array of descriptors.
//!
//! ```text
//! schedule ──► batch b ──► frame, built once ──► send(fd, frame) for each fd of group b mod G
//! ```
//!
//! **For:** what the kernel alone costs. No queue, no lock, no memory per stream; nothing is looked up.
//! **What always holds:** no event is dropped. A socket that is full is waited for and finished before
//! the next one is served, and counted.
//! **Overload:** the schedule is open-loop: what is sent late carries its intended time. With `--rate 0`
//! the next batch is due when the last one is out.
//! **Not chosen:** a queue per blocked stream. It is what real servers need, so it is no part of the floor.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::SendBy;
use super::frame::Frame;
use super::protocol::{Published, ServerPlan};
use super::uring::Ring;
use crate::clock::now_ns;
use crate::latency::Latencies;
use crate::payload::Stamp;
use crate::procfs::Cpu;

/// How long after the end of the schedule a server that is late may go on.
const OVERTIME_NS: u64 = 20_000_000_000;
/// A subscriber that takes nothing for so long is broken.
const BLOCKED_WAIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Sends what the plan says to all streams.
pub(super) struct Sender<'a> {
    plan: &'a ServerPlan,
    groups: &'a [Vec<OwnedFd>],
    /// Number of each group's first stream among all.
    firsts: Vec<usize>,
    way: Way,
    frame: Frame,
    late: Latencies,
    tally: Tally,
    published: Published,
}

enum Way {
    Send,
    Uring(Box<Ring>),
}

/// Counted where sends happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    blocked: u64,
    failed: u64,
}

impl<'a> Sender<'a> {
    pub(super) fn new(plan: &'a ServerPlan, groups: &'a [Vec<OwnedFd>]) -> Result<Self> {
        let way = match plan.send_by {
            SendBy::Send => Way::Send,
            SendBy::Uring => Way::Uring(Box::new(Ring::new(groups.iter().flatten())?)),
        };
        let firsts = groups.iter().scan(0, |first, group| {
            let before = *first;
            *first += group.len();
            Some(before)
        });
        let published = Published {
            events: vec![0; groups.len()],
            sent_ns: vec![Vec::new(); groups.len()],
            ..Published::default()
        };
        Ok(Self {
            plan,
            groups,
            firsts: firsts.collect(),
            way,
            frame: Frame::default(),
            late: Latencies::default(),
            tally: Tally::default(),
            published,
        })
    }

    /// Sends batch after batch; the first is due at `start_ns`.
    pub(super) fn publish(mut self, start_ns: u64) -> Result<Published> {
        let batches = self.plan.batches();
        let end_ns = start_ns + self.plan.duration_ns + batches.map_or(0, |_| OVERTIME_NS);
        self.published.first_ns = sleep_until(start_ns);
        let before = Cpu::own();
        for batch in 0..batches.unwrap_or(u64::MAX) {
            let due_ns = batches.map_or(0, |_| self.plan.due_ns(batch, start_ns));
            let now = sleep_until(due_ns);
            if now >= end_ns {
                break;
            }
            self.send_batch(batch, if due_ns > 0 { due_ns } else { now }, now)?;
        }
        self.published.last_ns = now_ns();
        let cpu = Cpu::own().since(before);
        self.published.user_s = cpu.user_s;
        self.published.system_s = cpu.system_s;
        self.published.blocked = self.tally.blocked;
        self.published.failed = self.tally.failed;
        self.published.frame_len = self.frame.bytes().len();
        self.published.late = self.late.to_buckets();
        Ok(self.published)
    }

    fn send_batch(&mut self, batch: u64, intended_ns: u64, sent_ns: u64) -> Result<()> {
        let index = (batch % self.groups.len() as u64) as usize;
        self.late.record(sent_ns.saturating_sub(intended_ns));
        self.fill(index, intended_ns, sent_ns);
        let (group, frame, tally) = (&self.groups[index], self.frame.bytes(), &mut self.tally);
        let failed_before = tally.failed;
        match &mut self.way {
            Way::Send => send_each(group, frame, tally)?,
            Way::Uring(ring) => {
                let first = self.firsts[index];
                ring.send_all(first, group.len(), frame, |stream, sent| match usize::try_from(sent) {
                    Ok(len) if len == frame.len() => Ok(()),
                    Ok(len) => finish(&group[stream - first], frame, Ok(len), tally),
                    Err(_) => finish(&group[stream - first], frame, Err(Errno::from_raw_os_error(-sent)), tally),
                })?;
            }
        }
        let failed = self.tally.failed - failed_before;
        ensure!(failed == 0 || failed < group.len() as u64, "all streams of a group are gone");
        self.published.sends += group.len() as u64;
        Ok(())
    }

    /// The next `coalesce` events of a group.
    fn fill(&mut self, group: usize, intended_ns: u64, sent_ns: u64) {
        let (plan, first) = (self.plan, self.published.events[group]);
        let seqs = first..first + plan.coalesce as u64;
        let noted = seqs.clone().filter(|seq| seq & (plan.note_stride - 1) == 0);
        self.published.sent_ns[group].extend(noted.map(|_| sent_ns));
        self.published.events[group] = seqs.end;
        let topic = group as u16;
        let stamps = seqs.map(|seq| Stamp { run: plan.run, publisher: 0, topic, seq, intended_ns, sent_ns });
        self.frame.fill(stamps, plan.payload);
    }
}

impl ServerPlan {
    /// `None` when there is a time but no number to go by.
    fn batches(&self) -> Option<u64> {
        let events = self.rate * self.duration_ns as f64 / 1e9;
        (self.rate > 0.0).then(|| (events / self.coalesce as f64).round().max(1.0) as u64)
    }

    fn due_ns(&self, batch: u64, start_ns: u64) -> u64 {
        start_ns + (batch as f64 * self.coalesce as f64 * 1e9 / self.rate) as u64
    }
}

/// The floor.
fn send_each(streams: &[OwnedFd], frame: &[u8], tally: &mut Tally) -> Result<()> {
    for stream in streams {
        match send(stream, frame, SendFlags::NOSIGNAL) {
            Ok(len) if len == frame.len() => {}
            outcome => finish(stream, frame, outcome, tally)?,
        }
    }
    Ok(())
}

/// A stream whose socket did not take the whole frame gets the rest when it can.
#[cold]
fn finish(stream: &OwnedFd, frame: &[u8], mut outcome: Result<usize, Errno>, tally: &mut Tally) -> Result<()> {
    let mut sent = 0;
    let mut was_blocked = false;
    loop {
        match outcome {
            Ok(len) => sent += len,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                tally.failed += 1;
                return Ok(());
            }
        }
        if sent == frame.len() {
            return Ok(());
        }
        tally.blocked += u64::from(!std::mem::replace(&mut was_blocked, true));
        let mut ready = [PollFd::new(stream, PollFlags::OUT)];
        match poll(&mut ready, Some(&BLOCKED_WAIT)) {
            Ok(count) => ensure!(count > 0, "a subscriber took nothing for {} s", BLOCKED_WAIT.tv_sec),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        outcome = send(stream, &frame[sent..], SendFlags::NOSIGNAL);
    }
}

/// Returns the time then. Where a batch is for few streams, each look at the clock shows in the figures.
fn sleep_until(due_ns: u64) -> u64 {
    let now = now_ns();
    if due_ns <= now {
        return now;
    }
    thread::sleep(Duration::from_nanos(due_ns - now));
    now_ns()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::super::frame::OPENING;
    use crate::http::Head;

    fn plan() -> ServerPlan {
        ServerPlan {
            listen: ([127, 0, 0, 1], 0).into(),
            run: 7,
            groups: 1,
            coalesce: 1,
            send_by: SendBy::Send,
            rate: 1e9,
            duration_ns: 6,
            payload: 100,
            note_stride: 2,
        }
    }

    fn streams(count: usize) -> (Vec<UnixStream>, Vec<OwnedFd>) {
        let pairs = (0..count).map(|_| {
            let (reader, writer) = UnixStream::pair().unwrap();
            reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            writer.set_nonblocking(true).unwrap();
            (reader, OwnedFd::from(writer))
        });
        pairs.unzip()
    }

    /// (topic, sequence) of everything a stream got by now.
    fn read_events(reader: &mut UnixStream) -> Vec<(u16, u64)> {
        reader.set_nonblocking(true).unwrap();
        let mut raw = OPENING.to_vec();
        let _ = reader.read_to_end(&mut raw);
        events(raw)
    }

    fn events(mut raw: Vec<u8>) -> Vec<(u16, u64)> {
        let mut head = Head::parse(&raw).unwrap().unwrap();
        let decoded = head.body.decode_in_place(&mut raw[head.len..]).unwrap();
        let body = &raw[head.len..][..decoded.body_len];
        let payloads = body.split(|&byte| byte == b'\n').filter_map(|line| line.strip_prefix(b"data: "));
        payloads.filter_map(Stamp::decode).map(|stamp| (stamp.topic, stamp.seq)).collect()
    }

    #[test]
    fn each_batch_goes_to_every_stream_of_its_group() {
        for send_by in [SendBy::Send, SendBy::Uring] {
            let plan = ServerPlan { groups: 2, coalesce: 2, duration_ns: 12, send_by, ..plan() };
            let (mut readers, writers) = streams(5);
            let mut writers = writers.into_iter();
            let groups: Vec<Vec<OwnedFd>> = vec![writers.by_ref().take(3).collect(), writers.collect()];
            let published = Sender::new(&plan, &groups).unwrap().publish(now_ns()).unwrap();
            assert_eq!((published.events, published.sends), (vec![6, 6], 15), "{send_by:?}");
            for (index, reader) in readers.iter_mut().enumerate() {
                let topic = u16::from(index >= 3);
                let expected: Vec<_> = (0..6).map(|seq| (topic, seq)).collect();
                assert_eq!(read_events(reader), expected, "{send_by:?}, stream {index}");
            }
            assert_eq!(published.sent_ns[1].len(), 3);
        }
    }

    #[test]
    fn a_stream_that_is_full_is_waited_for_and_gets_the_rest() {
        let (mut readers, writers) = streams(1);
        let (frame, mut before) = (vec![b'x'; 1 << 20], 0);
        while let Ok(len) = send(&writers[0], &frame, SendFlags::NOSIGNAL) {
            before += len;
        }
        let mut tally = Tally::default();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut read = vec![0; before + frame.len() - 9];
                readers[0].read_exact(&mut read).map(|()| read)
            });
            finish(&writers[0], &frame, Ok(9), &mut tally).unwrap();
            assert!(reader.join().unwrap().unwrap().iter().all(|&byte| byte == b'x'));
        });
        assert_eq!(tally, Tally { blocked: 1, failed: 0 });
        readers[0].set_nonblocking(true).unwrap();
        assert!(readers[0].read(&mut [0]).is_err(), "nothing is sent twice");
    }

    #[test]
    fn frames_longer_than_a_socket_arrive_whole() {
        for send_by in [SendBy::Send, SendBy::Uring] {
            let plan = ServerPlan { payload: 1 << 20, duration_ns: 8, send_by, ..plan() };
            let (mut readers, writers) = streams(1);
            let groups = [writers];
            let (published, raw) = thread::scope(|scope| {
                let server = scope.spawn(|| Sender::new(&plan, &groups).unwrap().publish(now_ns()).unwrap());
                let mut raw = OPENING.to_vec();
                raw.resize(OPENING.len() + 8 * ((1 << 20) + "100008\r\ndata: \n\n\r\n".len()), 0);
                readers[0].read_exact(&mut raw[OPENING.len()..]).unwrap();
                (server.join().unwrap(), raw)
            });
            assert_eq!((published.sends, published.failed), (8, 0), "{send_by:?}");
            assert_eq!(events(raw).len(), 8, "{send_by:?}");
        }
    }

    #[test]
    fn a_stream_that_is_gone_does_not_stop_the_others() {
        let plan = plan();
        let (mut readers, writers) = streams(3);
        readers.remove(1);
        let groups = [writers];
        let published = Sender::new(&plan, &groups).unwrap().publish(now_ns()).unwrap();
        assert_eq!((published.sends, published.failed, published.blocked), (18, 6, 0));
        assert_eq!(read_events(&mut readers[1]).len(), 6);
    }

    #[test]
    fn nothing_is_sent_to_nobody() {
        let plan = ServerPlan { rate: 0.0, duration_ns: 10_000_000_000, ..plan() };
        let (readers, writers) = streams(3);
        drop(readers);
        assert!(Sender::new(&plan, &[writers]).unwrap().publish(now_ns()).is_err());
    }

    #[test]
    fn batches_are_due_when_their_events_would_be() {
        let plan = ServerPlan { rate: 64.0, coalesce: 32, duration_ns: 2_000_000_000, ..plan() };
        assert_eq!((plan.batches(), plan.due_ns(3, 5)), (Some(4), 1_500_000_005));
        assert_eq!(ServerPlan { rate: 0.0, ..plan }.batches(), None);
    }
}
