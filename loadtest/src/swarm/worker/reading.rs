//! What arrives on streams.

use std::io::{ErrorKind, Read as _};
use std::ops::Range;

use anyhow::{Context as _, Result, bail};

use super::super::conn::Item;
use super::super::seen::Sign;
use super::{Kind, Phase, SLOW_PERIOD_NS, Worker};
use crate::clock::now_ns;
use crate::dialect::OpenOn;

/// Longest single read. At 200 bytes an event this is 1,300 events.
pub(super) const READ_LEN: usize = 256 * 1024;
/// Stalled streams read their head and first block in small bites, so that little is taken.
const STALLED_READ_LEN: usize = 512;
/// Bytes that streams together may leave for their next read.
const KEPT_LEN_MAX: usize = 256 << 20;
/// Buffers of left-over bytes kept for reuse.
const SPARE_MAX: usize = 64;

impl Worker {
    pub(super) fn handle_ready(&mut self, index: usize, is_closed: bool) {
        if self.conns[index].phase == Phase::Connecting {
            match self.send_request(index) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.handle_close(index, &format!("connect: {error:#}")),
            }
        }
        match (self.kind(index), self.conns[index].phase) {
            (Kind::Stalled, Phase::Open) if is_closed => self.handle_close(index, "closed"),
            // Slow ones read when it is time, see `read_slow`.
            (Kind::Stalled | Kind::Slow, Phase::Open) => {}
            (Kind::Stalled, _) => self.read_or_close(index, STALLED_READ_LEN, is_closed),
            _ => self.read_or_close(index, READ_LEN, is_closed),
        }
    }

    /// Every slow stream reads its share of the period.
    pub(super) fn read_slow(&mut self, now: u64) {
        if self.plan.slow == 0 || now < self.slow_read_ns + SLOW_PERIOD_NS {
            return;
        }
        // After a pause of the loop they do not catch up.
        let period_ns = (now - self.slow_read_ns).min(2 * SLOW_PERIOD_NS);
        self.slow_read_ns = now;
        let len = (self.plan.slow_bytes_per_s as f64 * period_ns as f64 / 1e9) as usize;
        for index in self.plan.readers..self.plan.readers + self.plan.slow {
            if self.conns[index].phase == Phase::Open {
                self.read_or_close(index, len.max(1), false);
            }
        }
    }

    fn read_or_close(&mut self, index: usize, wanted: usize, is_closed: bool) {
        match self.read(index, wanted, is_closed) {
            Ok(None) => {}
            Ok(Some(reason)) => self.handle_close(index, reason),
            Err(error) => self.handle_close(index, &format!("{error:#}")),
        }
    }

    /// Reads what is there, up to the end if the server `is_closed`. `Some(why)` when the stream is over.
    fn read(&mut self, index: usize, wanted: usize, is_closed: bool) -> Result<Option<&'static str>> {
        loop {
            let kept = self.take_kept(index);
            if self.scratch.len() < kept + wanted {
                self.scratch.resize(kept + wanted, 0);
            }
            let Some(socket) = self.conns[index].socket.as_mut() else {
                return Ok(None);
            };
            let len = match socket.read(&mut self.scratch[kept..kept + wanted]) {
                Ok(0) => return Ok(Some("the server closed the connection")),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.keep(index, 0..kept)?;
                    return Ok(None);
                }
                Err(error) => return Err(error).context("read"),
            };
            let is_recorded = self.recorder(index).is_some();
            let over = if is_recorded {
                self.handle_read::<true>(index, kept, len)
            } else {
                self.handle_read::<false>(index, kept, len)
            };
            if let Some(reason) = over? {
                return Ok(Some(reason));
            }
            // A short read empties the socket: what comes later is a new edge. But an end that came
            // with the data has been announced already.
            let reads_on = self.kind(index) == Kind::Reader || self.conns[index].phase != Phase::Open;
            if !reads_on || len < wanted && !is_closed {
                return Ok(None);
            }
        }
    }

    /// Parses `scratch[..kept + len]`, of which the last `len` bytes are new. What is not `RECORDED` costs nothing
    /// for it.
    fn handle_read<const RECORDED: bool>(
        &mut self,
        index: usize,
        kept: usize,
        len: usize,
    ) -> Result<Option<&'static str>> {
        let now = now_ns();
        let kind = self.kind(index);
        let open_on = self.plan.dialect.open_on;
        let (mut opened, mut refused, mut over) = (false, None, None);
        let conn = &mut self.conns[index];
        let (seen, stream) = match kind {
            Kind::Slow => (&mut self.slow_seen, index - self.plan.readers),
            _ => (&mut self.readers_seen, index),
        };
        seen.counts.reads_running += u64::from(self.begun);
        let (parser, mut retry) = (&mut conn.parser, None);
        let mut recorder = self.recorder.as_mut().filter(|_| RECORDED);
        let keep = parser.handle_bytes(&mut self.scratch[..kept + len], kept, |item| {
            if RECORDED && let Some(recorder) = &mut recorder {
                recorder.handle_item(index, &item);
            }
            match item {
                Item::Head { status: 200 | 101 } => opened |= open_on == OpenOn::Head,
                Item::Head { status } => refused = Some(status),
                Item::End => over = Some("the server ended the response"),
                // What a stalled stream reads before it stalls does not count.
                Item::Data(_) if kind == Kind::Stalled => {}
                Item::Data(data) => seen.handle_data(stream, data, now),
                Item::Block(block) => {
                    if let Some(value) = block.retry {
                        retry = std::str::from_utf8(value).ok().and_then(|ms| ms.parse::<u32>().ok()).or(retry);
                    }
                    let sign = match kind {
                        Kind::Stalled => (block.event == b"fanwheel.open").then_some(Sign::Opened),
                        _ => seen.handle_block(stream, &block, now),
                    };
                    match sign {
                        Some(Sign::Opened) => opened = true,
                        Some(Sign::Leave(why)) => over = Some(why),
                        None => {}
                    }
                }
            }
        })?;
        if let Some(retry_ms) = retry {
            conn.set_retry(retry_ms);
        }
        if let Some(status) = refused {
            bail!("status {status}");
        }
        self.keep(index, keep)?;
        if opened && self.conns[index].phase == Phase::Opening {
            self.handle_open(index, now);
        }
        Ok(over)
    }

    /// Moves what was kept of a stream to the front of the scratch buffer.
    fn take_kept(&mut self, index: usize) -> usize {
        if !std::mem::take(&mut self.conns[index].has_kept) {
            return 0;
        }
        let Some(bytes) = self.kept.remove(&index) else {
            return 0;
        };
        let len = bytes.len();
        self.kept_len -= len;
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        self.scratch[..len].copy_from_slice(&bytes);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(bytes);
        }
        len
    }

    fn keep(&mut self, index: usize, range: Range<usize>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.kept_len += range.len();
        if self.kept_len > KEPT_LEN_MAX {
            self.kept_len -= range.len();
            bail!("unfinished events of more than {KEPT_LEN_MAX} bytes on all streams together");
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(&self.scratch[range]);
        self.kept.insert(index, bytes);
        self.conns[index].has_kept = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::payload::Stamp;
    use crate::swarm::{Slot, WorkerPlan};

    const PAYLOAD: usize = 120;
    const EVENTS_PER_READ: usize = 64;

    fn plan(readers: usize) -> WorkerPlan {
        WorkerPlan {
            run: 0xbad_cafe,
            topics: vec!["t".to_owned()],
            topics_per_stream: 1,
            payload: PAYLOAD,
            ..WorkerPlan::sample(readers)
        }
    }

    /// One read as Fanwheel sends it: a chunk per event. The events `first..` were sent at the same
    /// pace, the last one just now.
    fn read_of(run: u32, first: u64, now: u64) -> Vec<u8> {
        let mut read = Vec::new();
        for n in 0..EVENTS_PER_READ as u64 {
            let sent_ns = now - (EVENTS_PER_READ as u64 - n) * 3_000_000;
            let stamp = Stamp { run, publisher: 0, topic: 0, seq: first + n, intended_ns: sent_ns - 70_000, sent_ns };
            read.extend_from_slice(format!("{:x}\r\ndata: ", PAYLOAD + 8).as_bytes());
            stamp.encode(PAYLOAD, &mut read);
            read.extend_from_slice(b"\n\n\r\n");
        }
        read
    }

    /// With optimization this tells what a delivery costs a worker besides the kernel's part:
    ///
    /// ```text
    /// cargo test --release -p loadtest every_delivery_of_long_reads -- --nocapture
    /// ```
    #[test]
    fn every_delivery_of_long_reads_is_accounted_for() {
        let (streams, rounds) = if cfg!(debug_assertions) { (50, 3) } else { (10_000, 12) };
        let mut worker = Worker::new(plan(streams)).unwrap();
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for stream in 0..streams {
            worker.scratch[..head.len()].copy_from_slice(head);
            worker.handle_read::<false>(stream, 0, head.len()).unwrap();
            worker.readers_seen.begin_life(stream, 1);
        }
        let (mut spent_ns, mut least_ns) = (0, u64::MAX);
        for round in 0..rounds {
            let read = read_of(worker.plan.run, (round * EVENTS_PER_READ) as u64, now_ns());
            let mut round_ns = 0;
            for stream in 0..streams {
                worker.scratch[..read.len()].copy_from_slice(&read);
                let began = Instant::now();
                worker.handle_read::<false>(stream, 0, read.len()).unwrap();
                round_ns += began.elapsed().as_nanos() as u64;
            }
            spent_ns += round_ns;
            least_ns = least_ns.min(round_ns);
        }
        let per_round = (streams * EVENTS_PER_READ) as f64;
        let mean_ns = spent_ns as f64 / rounds as f64 / per_round;
        println!("{mean_ns:.1} ns per delivery, {:.1} in the fastest round", least_ns as f64 / per_round);

        let count = (rounds * EVENTS_PER_READ) as u64;
        let done = worker.finish(&[Slot { count, ..Slot::default() }]);
        let deliveries = streams as u64 * count;
        assert!(done.readers.verdict.is_clean());
        assert_eq!((done.readers.verdict.expected, done.readers.verdict.received), (deliveries, deliveries));
        assert_eq!((done.readers.counts.malformed, done.readers.counts.foreign), (0, 0));
        assert!(done.last[0].len() as u64 == count && done.last[0].iter().all(|note| note.1 as usize == streams));
        assert_eq!(done.orders[0].len(), 1);
    }
}
