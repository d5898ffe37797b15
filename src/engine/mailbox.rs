//! A bounded mailbox: the only place where threads meet.
//!
//! Any number of producers, one consumer. The consumer is woken at most once per burst: it *arms*
//! the mailbox before it rests, and the first producer after that wakes it.
//!
//! # Overload
//! Messages are limited in number and in bytes. What does not fit is refused to the producer
//! ([`Mailbox::offer`]) or, where the producer cannot wait and cannot be refused, becomes a
//! **position** ([`Mailbox::push`]): from the first message that does not fit everything is dropped,
//! and one gap mark stands in its place until the consumer has taken it. A flag instead of a mark
//! would be read before the messages that came earlier, and the loss told in the wrong place.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;

/// Most messages in a mailbox, and most bytes they weigh together.
#[derive(Debug, Clone, Copy)]
pub struct MailboxLimits {
    /// Messages. Default 16,384.
    pub messages_max: usize,
    /// Bytes. Default 8 MiB.
    pub bytes_max: usize,
}

impl Default for MailboxLimits {
    fn default() -> MailboxLimits {
        MailboxLimits { messages_max: 16_384, bytes_max: 8 << 20 }
    }
}

/// What the consumer takes.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// A message.
    Message(T),
    /// Messages were dropped in this place.
    Gap,
}

struct Slot<T> {
    /// `None` is the gap mark.
    message: Option<T>,
    weight: usize,
}

/// See the module.
pub struct Mailbox<T> {
    queue: ArrayQueue<Slot<T>>,
    limits: MailboxLimits,
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// True exactly while a gap mark is in the queue.
    overrun: AtomicBool,
    dropped: AtomicU64,
    /// True exactly while the consumer rests and nobody has woken it.
    armed: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl<T> Mailbox<T> {
    /// An empty mailbox; `wake` is called when a message arrives while the consumer rests.
    #[must_use]
    pub fn new(limits: MailboxLimits, wake: impl Fn() + Send + Sync + 'static) -> Mailbox<T> {
        Mailbox {
            // One place more, so that the gap mark always fits.
            queue: ArrayQueue::new(limits.messages_max + 1),
            limits,
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            overrun: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            armed: AtomicBool::new(false),
            wake: Box::new(wake),
        }
    }

    /// Puts a message in, or gives it back when the mailbox is full.
    ///
    /// # Errors
    /// The message, when it does not fit.
    pub fn offer(&self, message: T, weight: usize) -> Result<(), T> {
        if self.reserve(weight) {
            self.enqueue(Slot { message: Some(message), weight });
            Ok(())
        } else {
            Err(message)
        }
    }

    /// Puts a message in; when it does not fit it is dropped and a gap mark stands in its place.
    /// For one producer at a time: with several, the mark's place is only as exact as their order.
    pub fn push(&self, message: T, weight: usize) {
        if self.overrun.load(Ordering::Acquire) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else if self.reserve(weight) {
            self.enqueue(Slot { message: Some(message), weight });
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            if !self.overrun.swap(true, Ordering::AcqRel) {
                self.enqueue(Slot { message: None, weight: 0 });
            }
        }
    }

    /// Takes the oldest message or mark.
    pub fn take(&self) -> Option<Taken<T>> {
        if planted!("overrun-flag") && self.overrun.swap(false, Ordering::AcqRel) {
            return Some(Taken::Gap);
        }
        let slot = self.queue.pop()?;
        match slot.message {
            Some(message) => {
                self.bytes.fetch_sub(slot.weight, Ordering::Relaxed);
                self.messages.fetch_sub(1, Ordering::Release);
                Some(Taken::Message(message))
            }
            None => {
                self.overrun.store(false, Ordering::Release);
                Some(Taken::Gap)
            }
        }
    }

    /// The consumer is about to rest. False when something is there: then it must not.
    pub fn arm(&self) -> bool {
        // Sequentially consistent against the exchange in `enqueue`: of "the consumer sees the
        // message" and "the producer sees the latch" at least one happens.
        self.armed.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            return true;
        }
        self.armed.store(false, Ordering::Relaxed);
        false
    }

    /// Messages waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True exactly when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Messages dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn reserve(&self, weight: usize) -> bool {
        if self.messages.fetch_add(1, Ordering::Acquire) >= self.limits.messages_max {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        if self.bytes.fetch_add(weight, Ordering::Relaxed) + weight > self.limits.bytes_max {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn enqueue(&self, slot: Slot<T>) {
        if self.queue.push(slot).is_err() {
            unreachable!("a place was reserved");
        }
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::SeqCst) {
            (self.wake)();
        }
    }
}

impl<T> std::fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("len", &self.len()).field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    fn small(messages_max: usize, bytes_max: usize) -> Mailbox<u32> {
        Mailbox::new(MailboxLimits { messages_max, bytes_max }, || {})
    }

    #[test]
    fn an_overrun_is_a_position() {
        let mailbox = small(3, 100);
        for n in 0..6 {
            mailbox.push(n, 1);
        }
        assert_eq!(mailbox.take(), Some(Taken::Message(0)));
        // There is room again, but what came after the first loss is dropped until the mark is taken.
        mailbox.push(6, 1);
        assert_eq!(mailbox.take(), Some(Taken::Message(1)));
        assert_eq!(mailbox.take(), Some(Taken::Message(2)));
        assert_eq!(mailbox.take(), Some(Taken::Gap));
        mailbox.push(7, 1);
        assert_eq!(mailbox.take(), Some(Taken::Message(7)));
        assert_eq!(mailbox.take(), None);
        assert_eq!(mailbox.dropped(), 4);
    }

    #[test]
    fn bytes_are_limited_too_and_given_back() {
        let mailbox = small(10, 100);
        assert_eq!(mailbox.offer(1, 60), Ok(()));
        assert_eq!(mailbox.offer(2, 60), Err(2));
        assert_eq!(mailbox.offer(3, 40), Ok(()));
        mailbox.take();
        assert_eq!(mailbox.offer(4, 60), Ok(()));
        assert_eq!(mailbox.dropped(), 0, "refused is not dropped");
    }

    #[test]
    fn a_resting_consumer_is_woken_once_per_burst() {
        let (sender, receiver) = mpsc::channel();
        let mailbox = Mailbox::new(MailboxLimits::default(), move || sender.send(()).expect("a listener"));
        mailbox.push(1, 0);
        assert!(receiver.try_recv().is_err(), "it was not resting");
        assert!(!mailbox.arm(), "it must not rest with a message waiting");
        mailbox.take();
        assert!(mailbox.arm());
        mailbox.push(2, 0);
        mailbox.push(3, 0);
        assert!(receiver.try_recv().is_ok());
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn nothing_is_lost_between_threads_and_no_wake_is_missed() {
        const PRODUCERS: u32 = 3;
        const EACH: u32 = 20_000;
        let (sender, receiver) = mpsc::channel();
        let limits = MailboxLimits { messages_max: 64, bytes_max: 1 << 20 };
        let mailbox = Arc::new(Mailbox::new(limits, move || {
            // The consumer has all it waited for and has left.
            let _ = sender.send(());
        }));
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let mailbox = Arc::clone(&mailbox);
                std::thread::spawn(move || {
                    for n in 0..EACH {
                        let mut message = producer * EACH + n;
                        while let Err(back) = mailbox.offer(message, 8) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; PRODUCERS as usize];
        let mut taken = 0;
        while taken < PRODUCERS * EACH {
            match mailbox.take() {
                Some(Taken::Message(message)) => {
                    let producer = (message / EACH) as usize;
                    assert_eq!(message % EACH, next[producer], "order per producer");
                    next[producer] += 1;
                    taken += 1;
                }
                Some(Taken::Gap) => panic!("offers never make gaps"),
                None if mailbox.arm() => {
                    receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("a wake was missed");
                }
                None => {}
            }
        }
        for producer in producers {
            producer.join().expect("the producer ran");
        }
    }
}
