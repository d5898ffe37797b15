//! Sends through io_uring: one system call for many streams.
//!
//! **For:** comparing the plain loop with the cheapest way past it.
//! **What always holds:** when [`Ring::send_all`] returns, the kernel holds no pointer into the frame.
//! **Overload:** a socket that is full answers so at once; its stream is finished by the caller.
//! **Not chosen:** `SEND_ZC`, which pins pages and costs more than the copy of a small frame.
//!
//! The only unsafe code of this program: io_uring takes raw pointers.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use io_uring::{IoUring, opcode, types};

/// Sends in one system call. More saves nothing that can be measured.
const BATCH: usize = 256;
/// Fatal errors of a ring that has requests in flight end the process with this.
const EXIT_FATAL: i32 = 1;

/// A ring with the streams registered, so that the kernel need not look each up.
pub(super) struct Ring {
    ring: IoUring,
    streams: usize,
}

impl Ring {
    /// Stream `n` of [`Ring::send_all`] is `streams[n]`.
    pub(super) fn new<'a>(streams: impl Iterator<Item = &'a OwnedFd>) -> Result<Self> {
        // One thread uses it, and it waits for each batch: no need to be interrupted for completions.
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        let ring = builder.build(BATCH as u32).context("io_uring (is it enabled? kernel.io_uring_disabled)")?;
        let descriptors: Vec<_> = streams.map(OwnedFd::as_raw_fd).collect();
        ring.submitter().register_files(&descriptors).context("io_uring: register the streams")?;
        Ok(Self { ring, streams: descriptors.len() })
    }

    /// Sends `frame` to the streams `first..first + count`; `handle(stream, sent)` gets what each
    /// send came to: bytes, or an error number below 0.
    pub(super) fn send_all(
        &mut self,
        first: usize,
        count: usize,
        frame: &[u8],
        mut handle: impl FnMut(usize, i32) -> Result<()>,
    ) -> Result<()> {
        ensure!(first + count <= self.streams, "no such streams");
        let mut outcome = Ok(());
        for batch in (first..first + count).step_by(BATCH) {
            let end = (batch + BATCH).min(first + count);
            self.push(batch..end, frame);
            self.submit_and_wait(end - batch);
            // After an error the rest is still taken, so that no answer is mistaken for a later one's.
            for entry in self.ring.completion() {
                outcome = outcome.and(handle(entry.user_data() as usize, entry.result()));
            }
        }
        outcome
    }

    #[allow(unsafe_code)]
    fn push(&mut self, streams: std::ops::Range<usize>, frame: &[u8]) {
        let flags = libc_flags();
        let mut queue = self.ring.submission();
        for stream in streams {
            let send = opcode::Send::new(types::Fixed(stream as u32), frame.as_ptr(), frame.len() as u32);
            let entry = send.flags(flags).build().user_data(stream as u64);
            // SAFETY: `frame` outlives the request: `send_all` borrows it until `submit_and_wait`
            // has seen the completion of every request pushed, or has ended the process.
            let pushed = unsafe { queue.push(&entry) };
            assert!(pushed.is_ok(), "the queue is empty before a batch, and holds one");
        }
    }

    /// Returns when `count` requests, all there are, are complete.
    fn submit_and_wait(&mut self, count: usize) {
        while self.ring.completion().len() < count {
            match self.ring.submit_and_wait(count) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Requests in flight point into the frame: nobody may go on.
                    eprintln!("loadtest: io_uring: {error}");
                    std::process::exit(EXIT_FATAL);
                }
            }
        }
    }
}

/// Do not wait, do not signal.
fn libc_flags() -> i32 {
    use rustix::net::SendFlags;
    (SendFlags::NOSIGNAL | SendFlags::DONTWAIT).bits() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn every_stream_of_the_range_and_no_other_gets_the_frame() {
        let (mut readers, writers): (Vec<UnixStream>, Vec<OwnedFd>) = (0..600)
            .map(|_| {
                let (reader, writer) = UnixStream::pair().unwrap();
                reader.set_nonblocking(true).unwrap();
                (reader, writer.into())
            })
            .unzip();
        let mut ring = Ring::new(writers.iter()).unwrap();
        let mut answers = Vec::new();
        let mut note = |stream, sent| {
            answers.push((stream, sent));
            Ok(())
        };
        ring.send_all(11, 577, b"frame", &mut note).unwrap();
        answers.sort_unstable();
        assert_eq!(answers, (11..588).map(|stream| (stream, 5)).collect::<Vec<_>>());
        for (index, reader) in readers.iter_mut().enumerate() {
            let mut read = [0; 8];
            let len = reader.read(&mut read).ok();
            assert_eq!(len, (11..588).contains(&index).then_some(5), "stream {index}");
        }
    }

    #[test]
    fn a_full_stream_answers_at_once() {
        let (_reader, writer) = UnixStream::pair().unwrap();
        let writers = [OwnedFd::from(writer)];
        let mut ring = Ring::new(writers.iter()).unwrap();
        let frame = vec![0; 4096];
        let mut last = 1;
        for _ in 0..10_000 {
            let mut note = |_, sent| {
                last = sent;
                Ok(())
            };
            ring.send_all(0, 1, &frame, &mut note).unwrap();
            if last < 0 {
                break;
            }
        }
        assert_eq!(last, -rustix::io::Errno::AGAIN.raw_os_error());
    }
}
