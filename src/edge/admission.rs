//! Who may connect: places on the node, per address, and per second.
//!
//! Counted by all shards together. A connection holds a [`Place`] until it ends; a parked one's place
//! is given up by the sink ([`crate::edge::port`]), which closes its socket.
//!
//! # Overload
//! Whoever finds no place is let in just to be told so, inside a stream (`fanwheel.drain`, reason
//! `limit`), because a browser gives up for good on any status but 200. Even of those there are only
//! [`TURNED_AWAY_MAX`] at a time; more are closed unheard.
//!
//! Not chosen: leaving the surplus in the kernel's backlog. It hides the overload from clients and
//! from whoever watches the metrics, and a client that waits there cannot be told to come back later.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::edge::TURNED_AWAY_MAX;

/// What bounds connections.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionLimits {
    /// Connections, and streams of HTTP/2, on the public listener.
    pub connections_max: usize,
    /// Connections of one address; `None` is any number: many users may share a proxy's.
    pub per_address_max: Option<usize>,
    /// New connections per second; a second's worth may come at once. `None` is any number.
    pub accepts_per_second: Option<u32>,
}

/// Whether a connection found a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It did.
    Admitted,
    /// It did not, and is served only to be told so.
    TurnedAway,
}

/// Why a connection found none: the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surplus {
    /// The node is full.
    Connections,
    /// Its address has as many as it may.
    Address,
    /// Too many came in this second.
    Rate,
}

impl Surplus {
    /// All of them, in the order of their numbers.
    pub const ALL: [Surplus; 3] = [Surplus::Connections, Surplus::Address, Surplus::Rate];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Surplus::Connections => "connections",
            Surplus::Address => "address",
            Surplus::Rate => "rate",
        }
    }
}

/// A client as the limit per address sees it: an IPv4 address, or the /64 that an IPv6 client has
/// to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(u64);

impl AddressKey {
    fn of(address: IpAddr) -> AddressKey {
        match address.to_canonical() {
            // IPv4-compatible IPv6 networks (::/96) are not routed, so the two kinds cannot meet.
            IpAddr::V4(address) => AddressKey(u64::from(address.to_bits())),
            IpAddr::V6(address) => AddressKey(network(address)),
        }
    }
}

/// The upper half of an address.
fn network(address: Ipv6Addr) -> u64 {
    u64::try_from(address.to_bits() >> 64).expect("64 bits are left")
}

/// See the module.
#[derive(Debug)]
pub struct Admissions {
    limits: AdmissionLimits,
    /// Places taken.
    connections: AtomicUsize,
    /// Connections that are being turned away.
    turned_away: AtomicUsize,
    /// Places by address. Locked once when a connection comes and once when it goes, and only where
    /// the limit is asked for; never on an event's way.
    addresses: Option<Mutex<HashMap<AddressKey, usize>>>,
    /// When the next connection may come if all come evenly, in ns of the node's clock.
    next_ns: AtomicU64,
    surplus: [AtomicU64; Surplus::ALL.len()],
}

/// A connection's place; given up when dropped, unless it was parked.
#[derive(Debug)]
pub struct Place {
    admissions: Arc<Admissions>,
    address: Option<AddressKey>,
    admission: Admission,
}

const NS_PER_S: u64 = 1_000_000_000;

impl Admissions {
    /// Nobody yet.
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Admissions {
        Admissions {
            limits,
            connections: AtomicUsize::new(0),
            turned_away: AtomicUsize::new(0),
            addresses: limits.per_address_max.map(|_| Mutex::default()),
            next_ns: AtomicU64::new(0),
            surplus: Default::default(),
        }
    }

    /// Finds a place for a connection that has come at `now_us`. `None`: it must be closed unheard.
    #[must_use]
    pub fn enter(self: &Arc<Self>, peer: IpAddr, now_us: u64) -> Option<Place> {
        if !self.is_in_time(now_us) {
            return self.turn_away(Surplus::Rate);
        }
        let address = self.addresses.as_ref().map(|_| AddressKey::of(peer));
        if !self.enter_address(address) {
            return self.turn_away(Surplus::Address);
        }
        if !self.enter_node() {
            self.leave_address(address);
            return self.turn_away(Surplus::Connections);
        }
        Some(Place { admissions: Arc::clone(self), address, admission: Admission::Admitted })
    }

    /// Finds a place for one more stream of a connection that has one.
    #[must_use]
    pub fn enter_stream(self: &Arc<Self>) -> Option<Place> {
        if !self.enter_node() {
            return self.turn_away(Surplus::Connections);
        }
        Some(Place { admissions: Arc::clone(self), address: None, admission: Admission::Admitted })
    }

    /// Gives up the place of a parked connection.
    pub fn leave(&self, address: Option<AddressKey>) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.leave_address(address);
    }

    /// Connections now, those that are being turned away included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.load(Ordering::Relaxed) + self.turned_away.load(Ordering::Relaxed)
    }

    /// The most there may be, those that are being turned away not included.
    #[must_use]
    pub fn max(&self) -> usize {
        self.limits.connections_max
    }

    /// True exactly when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections that found no place, for this reason.
    #[must_use]
    pub fn surplus(&self, why: Surplus) -> u64 {
        self.surplus[why as usize].load(Ordering::Relaxed)
    }

    /// A bucket that holds a second's worth and is filled evenly (the generic cell rate algorithm, ITU-T I.371).
    fn is_in_time(&self, now_us: u64) -> bool {
        let Some(rate) = self.limits.accepts_per_second else { return true };
        let now = now_us * 1_000;
        let taken = self.next_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            let next = next.max(now) + NS_PER_S / u64::from(rate);
            (next <= now + NS_PER_S).then_some(next)
        });
        taken.is_ok()
    }

    fn enter_address(&self, address: Option<AddressKey>) -> bool {
        let (Some(address), Some(addresses), Some(max)) = (address, &self.addresses, self.limits.per_address_max)
        else {
            return true;
        };
        let mut addresses = addresses.lock();
        let count = addresses.entry(address).or_default();
        if *count >= max {
            return false;
        }
        *count += 1;
        true
    }

    fn leave_address(&self, address: Option<AddressKey>) {
        let (Some(address), Some(addresses)) = (address, &self.addresses) else { return };
        let mut addresses = addresses.lock();
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
                if addresses.len() < addresses.capacity() / 8 {
                    addresses.shrink_to_fit();
                }
            }
        }
    }

    fn enter_node(&self) -> bool {
        let found = self.connections.fetch_add(1, Ordering::Relaxed) < self.limits.connections_max;
        if !found {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }

    fn turn_away(self: &Arc<Self>, why: Surplus) -> Option<Place> {
        self.surplus[why as usize].fetch_add(1, Ordering::Relaxed);
        if self.turned_away.fetch_add(1, Ordering::Relaxed) >= TURNED_AWAY_MAX {
            self.turned_away.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { admissions: Arc::clone(self), address: None, admission: Admission::TurnedAway })
    }
}

impl Place {
    /// Whether it is a place, or only one to be turned away at.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// The connection is parked: whoever closes its socket calls [`Admissions::leave`] with what this gives.
    #[must_use]
    pub fn park(mut self) -> Option<AddressKey> {
        // The socket takes a place of its own, and dropping this gives up what it held.
        self.admissions.connections.fetch_add(1, Ordering::Relaxed);
        self.address.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.admission {
            Admission::Admitted => self.admissions.leave(self.address),
            Admission::TurnedAway => {
                self.admissions.turned_away.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn admissions(connections_max: usize, per_address_max: Option<usize>, rate: Option<u32>) -> Arc<Admissions> {
        Arc::new(Admissions::new(AdmissionLimits { connections_max, per_address_max, accepts_per_second: rate }))
    }

    fn admitted(place: Option<&Place>) -> bool {
        place.is_some_and(|place| place.admission() == Admission::Admitted)
    }

    #[test]
    fn a_full_node_tells_some_and_refuses_the_rest() {
        let node = admissions(2, None, None);
        let places: Vec<_> = (0..2).map(|_| node.enter(HERE, 0)).collect();
        assert!(places.iter().all(|place| admitted(place.as_ref())));
        let away: Vec<_> = (0..TURNED_AWAY_MAX).map(|_| node.enter(HERE, 0).expect("it is told")).collect();
        assert!(away.iter().all(|place| place.admission() == Admission::TurnedAway));
        assert!(node.enter(HERE, 0).is_none());
        assert_eq!(node.len(), 2 + TURNED_AWAY_MAX, "the refused are not counted");
        drop(away);
        assert!(!admitted(node.enter_stream().as_ref()));
        drop(places);
        assert!(node.is_empty());
        assert_eq!(node.surplus(Surplus::Connections), TURNED_AWAY_MAX as u64 + 2);
    }

    #[test]
    fn a_parked_place_is_given_up_by_whoever_closes_the_socket() {
        let node = admissions(2, Some(1), None);
        let address = node.enter(HERE, 0).expect("room").park();
        assert_eq!(node.len(), 1);
        assert!(!admitted(node.enter(HERE, 0).as_ref()), "the address is still counted");
        node.leave(address);
        assert!(node.is_empty());
        let _ = node.enter(HERE, 0).expect("room").park();
        let away = node.enter(HERE, 0).expect("it is told").park();
        assert_eq!((node.len(), away), (2, None));
        node.leave(away);
        assert_eq!(node.len(), 1);
    }

    #[test]
    fn addresses_are_counted_apart_and_forgotten() {
        let node = admissions(100, Some(2), None);
        let from = |text: &str| node.enter(text.parse().expect("an address"), 0);
        let first = [from("10.0.0.1"), from("::ffff:10.0.0.1")];
        assert!(first.iter().all(|place| admitted(place.as_ref())));
        assert!(!admitted(from("10.0.0.1").as_ref()), "one address in two spellings");
        assert!(admitted(from("10.0.0.2").as_ref()));
        let same_network = [from("2001:db8::1"), from("2001:db8::2")];
        assert!(same_network.iter().all(|place| admitted(place.as_ref())));
        assert!(!admitted(from("2001:db8::3").as_ref()));
        assert!(admitted(from("2001:db8:0:1::3").as_ref()));
        drop((first, same_network));
        assert!(node.addresses.as_ref().is_some_and(|addresses| addresses.lock().is_empty()));
    }

    #[test]
    fn a_second_of_connections_may_come_at_once() {
        let node = admissions(1_000, None, Some(10));
        let at = |ms: u64| admitted(node.enter(HERE, ms * 1_000).as_ref());
        assert_eq!((0..20).filter(|_| at(0)).count(), 10);
        assert!(!at(99) && at(100) && !at(150) && at(200));
        assert_eq!((0..20).filter(|_| at(5_000)).count(), 10);
    }
}
