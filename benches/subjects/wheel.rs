//! A timer wheel with 20,000 timers, as many as a busy shard has heartbeats. Links lie in a `Vec`, so that
//! the cost is the wheel's alone and not the slab's.

use std::hint::black_box;

use fanwheel::engine::wheel::{Link, Links, Wheel};

pub(crate) const TIMERS: u32 = 20_000;
/// Heartbeats are set 12 to 18 s ahead.
pub(crate) const AHEAD: std::ops::Range<u32> = 120..180;

struct Table(Vec<Link>);

impl Links for Table {
    fn link(&mut self, key: u32) -> &mut Link {
        &mut self.0[key as usize]
    }
}

/// A wheel with all timers but the last set. Chance is seeded: every run sets the same.
pub(crate) struct Heartbeats {
    wheel: Wheel,
    links: Table,
    rng: fastrand::Rng,
    now: u32,
}

impl Heartbeats {
    pub(crate) fn new() -> Heartbeats {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut links = Table(vec![Link::default(); TIMERS as usize]);
        let mut wheel = Wheel::new(0);
        for key in 0..TIMERS - 1 {
            wheel.insert(&mut links, key, rng.u32(AHEAD));
        }
        Heartbeats { wheel, links, rng, now: 0 }
    }

    pub(crate) fn insert_and_remove(&mut self) {
        let key = TIMERS - 1;
        self.wheel.insert(&mut self.links, black_box(key), self.rng.u32(AHEAD));
        self.wheel.remove(&mut self.links, black_box(key));
    }

    /// One tick: what is due fires and is set again, as heartbeats are.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
        while let Some(key) = self.wheel.take_due(&mut self.links, self.now) {
            self.wheel.insert(&mut self.links, key, self.now + self.rng.u32(AHEAD));
        }
    }
}
