//! A slab that never moves what it holds.
//!
//! Entries live in chunks of fixed size, so growing copies nothing and a slot stays where it is
//! until it is freed; a sweep may walk slots while connections come and go. Each slot counts its
//! generations: a [`Key`] that outlived its value finds nothing.
//!
//! Not a `Vec`: doubling one copies every entry and leaves the old block behind, which at 20,000
//! connections is as much as the entries themselves.

/// Names a value in a slab: a slot and the generation it was handed out in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The place in the slab.
    pub slot: u32,
    /// How often the slot had been freed before.
    pub generation: u32,
}

impl Key {
    /// Both numbers in one, for event data of a poller.
    #[must_use]
    pub fn pack(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.slot)
    }

    /// The inverse of [`Key::pack`].
    #[must_use]
    pub fn unpack(bits: u64) -> Key {
        let low = u32::try_from(bits & u64::from(u32::MAX)).expect("masked");
        let high = u32::try_from(bits >> 32).expect("shifted");
        Key { slot: low, generation: high }
    }
}

/// Slots per chunk: 256 entries of 64 bytes are 16 KiB.
const CHUNK: usize = 256;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// The next free slot, while this one is free.
    next_free: u32,
    value: Option<T>,
}

/// See the module.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Box<[Slot<T>]>>,
    first_free: u32,
    len: usize,
}

const NIL: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { chunks: Vec::new(), first_free: NIL, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Bytes per slot.
    pub const SLOT_BYTES: usize = size_of::<Slot<T>>();

    /// Values held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True exactly when no value is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores a value in the slot freed last, or in a new one.
    pub fn insert(&mut self, value: T) -> Key {
        if self.first_free == NIL {
            self.grow();
        }
        let index = self.first_free;
        let slot = self.slot_mut(index).expect("a free slot exists");
        slot.value = Some(value);
        let generation = slot.generation;
        self.first_free = std::mem::replace(&mut slot.next_free, NIL);
        self.len += 1;
        Key { slot: index, generation }
    }

    /// Frees the slot of `id` and gives back what it held.
    pub fn remove(&mut self, id: Key) -> Option<T> {
        let next_free = self.first_free;
        let slot = self.slot_mut(id.slot).filter(|slot| slot.generation == id.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next_free = next_free;
        self.first_free = id.slot;
        self.len -= 1;
        Some(value)
    }

    /// The value of `id`, if it still is the slot's.
    #[must_use]
    pub fn get(&self, id: Key) -> Option<&T> {
        let slot = self.chunks.get(id.slot as usize / CHUNK)?.get(id.slot as usize % CHUNK)?;
        slot.value.as_ref().filter(|_| slot.generation == id.generation)
    }

    /// The value in a slot, whatever its generation.
    pub fn at(&mut self, slot: u32) -> Option<&mut T> {
        self.slot_mut(slot)?.value.as_mut()
    }

    /// The key of the value in an occupied slot.
    #[must_use]
    pub fn key_at(&self, slot: u32) -> Option<Key> {
        let found = self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)?;
        found.value.as_ref().map(|_| Key { slot, generation: found.generation })
    }

    /// Slots in use or free: every slot in use is below.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).expect("slots are numbered in 32 bits")
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }

    /// Adds a chunk; its slots are handed out in ascending order.
    fn grow(&mut self) {
        let base = self.slots();
        let chunk: Box<[Slot<T>]> = (1..=CHUNK)
            .map(|next| Slot {
                generation: 0,
                next_free: if next == CHUNK { NIL } else { base + u32::try_from(next).expect("small") },
                value: None,
            })
            .collect();
        self.chunks.push(chunk);
        self.first_free = base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_key_that_outlived_its_value_finds_nothing() {
        let mut slab = Slab::default();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!(new.slot, old.slot);
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
        assert_eq!(Key::unpack(new.pack()), new);
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..1_500)) {
            let mut slab = Slab::default();
            let mut twin: HashMap<Key, usize> = HashMap::new();
            let mut live: Vec<Key> = Vec::new();
            for (n, (insert, pick)) in steps.into_iter().enumerate() {
                if insert || live.is_empty() {
                    let id = slab.insert(n);
                    prop_assert!(twin.insert(id, n).is_none(), "an id is never given twice");
                    live.push(id);
                } else {
                    let id = live.swap_remove(pick.index(live.len()));
                    prop_assert_eq!(slab.remove(id), twin.get(&id).copied());
                    prop_assert_eq!(slab.get(id), None);
                }
                prop_assert_eq!(slab.len(), live.len());
            }
            for id in live {
                prop_assert_eq!(slab.get(id), twin.get(&id));
                prop_assert_eq!(slab.key_at(id.slot), Some(id));
            }
        }
    }
}
