//! The hashed timer wheel: one per shard, O(1) to insert and to cancel, no allocation per timer.
//!
//! The lists are intrusive: a [`Link`] lives in each connection, and the wheel holds only the heads.
//! A timer is a key and a tick; a key has at most one. What a timer means is decided when it fires:
//! a connection written to since is simply inserted again, so a write never touches the wheel.
//!
//! | | |
//! |---|---|
//! | tick | 100 ms (the wheel itself only counts) |
//! | slots | 512 |
//! | one turn | 51.2 s; later ticks stay in their slot until their turn has come |
//!
//! What always holds: a key fires at the first `advance` whose tick is `>=` its own, never before.
//! After Varghese and Lauck, "Hashed and hierarchical timing wheels" (1987), scheme 6.

/// Milliseconds per tick.
pub const TICK_MS: u64 = 100;

const SLOTS: u32 = 512;
/// The list of keys whose time has come but which were not handed out yet.
const FIRING: u32 = SLOTS;
const NIL: u32 = u32::MAX;
/// Set in `prev` when it names a list instead of a key.
const LIST: u32 = 1 << 31;

const _: () = assert!(SLOTS.is_power_of_two() && FIRING < LIST);

/// A connection's place in the wheel.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The key before this one, or `LIST | list` for the first, or `NIL` when not on the wheel.
    prev: u32,
    /// The key after this one, or `NIL`.
    next: u32,
    /// When the timer fires.
    due: u32,
}

impl Default for Link {
    fn default() -> Link {
        Link { prev: NIL, next: NIL, due: 0 }
    }
}

impl Link {
    /// The tick the timer is set to, while it is set.
    #[must_use]
    pub fn due(&self) -> Option<u32> {
        (self.prev != NIL).then_some(self.due)
    }
}

/// Where the wheel finds the links of its keys.
pub trait Links {
    /// The link of `key`, which is on the wheel or being inserted.
    fn link(&mut self, key: u32) -> &mut Link;
}

/// The heads of the lists.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    /// All ticks `<= now` were moved to the firing list or taken.
    now: u32,
    len: usize,
}

impl Wheel {
    /// An empty wheel standing at tick `now`.
    #[must_use]
    pub fn new(now: u32) -> Wheel {
        Wheel { heads: vec![NIL; SLOTS as usize + 1].into(), now, len: 0 }
    }

    /// Timers that are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True exactly when no timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the timer of `key`, which has none. A tick that has passed fires at the next `take_due`.
    pub fn insert(&mut self, links: &mut impl Links, key: u32, due: u32) {
        debug_assert!(key < LIST && links.link(key).prev == NIL);
        let list = if due > self.now { due % SLOTS } else { FIRING };
        self.push(links, key, due, list);
        self.len += 1;
    }

    /// Takes the timer of `key` off, if it has one.
    pub fn remove(&mut self, links: &mut impl Links, key: u32) {
        if links.link(key).prev != NIL {
            self.unlink(links, key);
            self.len -= 1;
        }
    }

    /// The next key whose tick is `<= now`, taken off the wheel.
    pub fn take_due(&mut self, links: &mut impl Links, now: u32) -> Option<u32> {
        loop {
            let key = self.heads[FIRING as usize];
            if key != NIL {
                self.remove(links, key);
                return Some(key);
            }
            if self.now >= now {
                return None;
            }
            self.turn(links, now);
        }
    }

    /// The earliest tick at which something may be due: exact within one turn, else one turn ahead.
    #[must_use]
    pub fn next_due(&self) -> Option<u32> {
        if self.heads[FIRING as usize] != NIL {
            return Some(self.now);
        }
        (1..=SLOTS).map(|ahead| self.now.saturating_add(ahead)).find(|tick| self.heads[(tick % SLOTS) as usize] != NIL)
    }

    /// Moves what is due in the next slot to the firing list. When more than a whole turn has
    /// passed since the last call, each slot is looked at once.
    fn turn(&mut self, links: &mut impl Links, now: u32) {
        let behind = now - self.now;
        self.now = if behind > SLOTS { now - SLOTS + 1 } else { self.now + 1 };
        let mut key = self.heads[(self.now % SLOTS) as usize];
        while key != NIL {
            let link = *links.link(key);
            // `now`, not `self.now`: after a jump a slot may hold ticks of the turns skipped.
            if link.due <= now {
                self.unlink(links, key);
                self.push(links, key, link.due, FIRING);
            }
            key = link.next;
        }
    }

    fn push(&mut self, links: &mut impl Links, key: u32, due: u32, list: u32) {
        let next = std::mem::replace(&mut self.heads[list as usize], key);
        *links.link(key) = Link { prev: LIST | list, next, due };
        if next != NIL {
            links.link(next).prev = key;
        }
    }

    fn unlink(&mut self, links: &mut impl Links, key: u32) {
        let Link { prev, next, .. } = std::mem::take(links.link(key));
        if prev & LIST == 0 {
            links.link(prev).next = next;
        } else {
            self.heads[(prev & !LIST) as usize] = next;
        }
        if next != NIL {
            links.link(next).prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Links for Vec<Link> {
        fn link(&mut self, key: u32) -> &mut Link {
            &mut self[key as usize]
        }
    }

    /// Everything due, in any order.
    fn take_all(wheel: &mut Wheel, links: &mut Vec<Link>, now: u32) -> Vec<u32> {
        let mut taken: Vec<u32> = std::iter::from_fn(|| wheel.take_due(links, now)).collect();
        taken.sort_unstable();
        taken
    }

    #[test]
    fn a_long_pause_fires_everything_that_was_due() {
        let mut links = vec![Link::default(); 4];
        let mut wheel = Wheel::new(0);
        for (key, due) in [(0, 1), (1, 700), (2, 5_000), (3, 5_001)] {
            wheel.insert(&mut links, key, due);
        }
        assert_eq!(take_all(&mut wheel, &mut links, 5_000), [0, 1, 2]);
        assert_eq!(take_all(&mut wheel, &mut links, 5_000), [0; 0]);
        assert_eq!(wheel.next_due(), Some(5_001));
        assert_eq!(take_all(&mut wheel, &mut links, 5_001), [3]);
        assert!(wheel.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert { key: u32, ahead: u32 },
        Remove { key: u32 },
        Advance { ticks: u32, take_max: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = 0..40u32;
        let step = prop_oneof![
            4 => (key.clone(), 0..1_500u32).prop_map(|(key, ahead)| Step::Insert { key, ahead }),
            1 => key.prop_map(|key| Step::Remove { key }),
            2 => (0..40u32, 0..10usize).prop_map(|(ticks, take_max)| Step::Advance { ticks, take_max }),
            1 => (0..3_000u32, 0..50usize).prop_map(|(ticks, take_max)| Step::Advance { ticks, take_max }),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// The twin is a map from key to tick that is searched from end to end.
        #[test]
        fn fires_as_its_slow_twin(steps in steps(), start in 0..2_000u32) {
            let mut links = vec![Link::default(); 40];
            let mut wheel = Wheel::new(start);
            let mut twin = BTreeMap::new();
            let mut now = start;
            for step in steps {
                match step {
                    Step::Insert { key, ahead } => {
                        wheel.remove(&mut links, key);
                        wheel.insert(&mut links, key, now + ahead);
                        twin.insert(key, now + ahead);
                    }
                    Step::Remove { key } => {
                        wheel.remove(&mut links, key);
                        twin.remove(&key);
                    }
                    Step::Advance { ticks, take_max } => {
                        now += ticks;
                        for _ in 0..take_max {
                            let Some(key) = wheel.take_due(&mut links, now) else { break };
                            let due = twin.remove(&key);
                            prop_assert!(due.is_some_and(|due| due <= now), "{key} fired early: {due:?} at {now}");
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), twin.len());
                let earliest = twin.values().min();
                prop_assert_eq!(wheel.next_due().is_some(), earliest.is_some());
                if let (Some(next), Some(&earliest)) = (wheel.next_due(), earliest) {
                    prop_assert!(next <= earliest.max(now), "nothing may be due before next_due");
                }
            }
            let due: Vec<u32> = twin.iter().filter(|(_, due)| **due <= now).map(|(key, _)| *key).collect();
            prop_assert_eq!(take_all(&mut wheel, &mut links, now), due);
        }
    }
}
