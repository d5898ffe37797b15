//! One topic's log at its limit of 1,024 events of 120 bytes. Frames are made beforehand, and not yet encoded.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanwheel::engine::log::{Log, LogLimits};
use fanwheel::event::Event;
use fanwheel::frame::{ByteBudget, Frame};
use fanwheel::topic::Topic;

pub(crate) const LENGTH: u64 = 1_024;

/// A log that is full, and the frame that wants to enter it.
pub(crate) struct Full {
    pub(crate) log: Log,
    frame: Rc<Frame>,
    seq: u64,
}

impl Full {
    pub(crate) fn new() -> Full {
        let budget = ByteBudget::default();
        let mut log = Log::new(0);
        (1..=LENGTH).for_each(|seq| log.push(seq, frame(&budget)));
        Full { log, frame: frame(&budget), seq: LENGTH }
    }

    /// As the shard does it: first out with what is too much, then in.
    pub(crate) fn push(&mut self) {
        for _ in 0..self.log.surplus(LogLimits::default(), self.frame.charged()) {
            black_box(self.log.evict_oldest());
        }
        self.seq += 1;
        self.log.push(self.seq, Rc::clone(&self.frame));
    }
}

/// A frame that nobody has encoded.
pub(crate) fn frame(budget: &ByteBudget) -> Rc<Frame> {
    let topic = Topic::parse("bench").unwrap();
    let event =
        Event { topic, name: None, key: None, data: Bytes::from(vec![b'x'; 120]), stored: None, received_us: 0 };
    Rc::new(Frame::new(Arc::new(event), budget))
}
