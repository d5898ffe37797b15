//! A TCP proxy that fails on demand: it stands between the program and its Redis.
//!
//! Two threads per connection, one for each way, and never more than [`CONNECTIONS_MAX`] connections.
//! Whatever is asked of it holds at once, also for connections that exist. A connection on which
//! `SUBSCRIBE` was sent is a subscriber's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::PATIENCE;

/// Connections at one time; further ones are refused.
const CONNECTIONS_MAX: usize = 64;
/// How often a thread that reads looks up.
const LOOK_UP: Duration = Duration::from_millis(20);

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the program to Redis.
    Up,
    /// From Redis to the program.
    Down,
}

/// Which connections are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    All,
    Subscribers,
    Others,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In order: FIN.
    Fin,
    /// With a reset: RST.
    Reset,
}

/// See the module. Ends everything when dropped.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Where new connections lead.
    upstream: Mutex<SocketAddr>,
    faults: Mutex<Faults>,
    /// Told when a fault begins or ends.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Faults {
    /// Nothing is passed on: whose, which way, and up to which connection.
    holds: Vec<(Who, Way, u64)>,
    /// Added to what goes this way.
    delays: [Duration; 2],
    /// Whose connection is cut when so many more bytes have gone this way.
    countdown: Option<(Who, Way, usize, Cut)>,
    /// Connections below this number are cut.
    cut_below: u64,
    cut_as: Option<Cut>,
    /// Of connections below this number the side of Redis is gone, and the program's is open.
    orphaned_below: u64,
    /// New connections are accepted and lead nowhere.
    mute: bool,
    next: u64,
    open: usize,
    ended: bool,
}

#[derive(Debug)]
struct Link {
    number: u64,
    client: TcpStream,
    redis: Option<TcpStream>,
    subscriber: AtomicBool,
    /// True exactly when this one is to end, and others go on.
    over: AtomicBool,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn start(upstream: SocketAddr) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { upstream: Mutex::new(upstream), faults: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Proxy { address, shared }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.lock().open
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().next
    }

    /// Passes nothing on this way, and reads nothing either: what is sent piles up, as behind a
    /// network that drops packets.
    pub fn hold(&self, who: Who, way: Way) {
        self.change(|faults| faults.holds.push((who, way, u64::MAX)));
    }

    /// As `hold`; connections made from now on are fine.
    pub fn hold_existing(&self, who: Who, way: Way) {
        self.change(|faults| faults.holds.push((who, way, faults.next)));
    }

    /// Lets what goes this way wait for so long.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.change(|faults| faults.delays[way as usize] = delay);
    }

    /// Ends all connections.
    pub fn cut(&self, how: Cut) {
        self.change(|faults| (faults.cut_below, faults.cut_as) = (faults.next, Some(how)));
    }

    /// Passes exactly so many bytes on, and then ends the connection on which the last of them went.
    pub fn cut_after(&self, who: Who, way: Way, bytes: usize, how: Cut) {
        self.change(|faults| faults.countdown = Some((who, way, bytes, how)));
    }

    /// The side of Redis vanishes; the program's stays open. New connections lead nowhere.
    pub fn half_open(&self) {
        self.change(|faults| (faults.orphaned_below, faults.mute) = (faults.next, true));
    }

    /// New connections lead elsewhere; those that exist stay, as when a name is pointed to another machine.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = upstream;
    }

    /// Ends every fault. What was orphaned stays so.
    pub fn heal(&self) {
        self.change(|faults| {
            faults.holds.clear();
            faults.delays = Default::default();
            (faults.countdown, faults.mute) = (None, false);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|faults| faults.ended = true);
        // Wakes the thread that accepts; it may have ended.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().map_while(Result::ok) {
        let (ended, mute, full) = {
            let faults = shared.lock();
            (faults.ended, faults.mute, faults.open == CONNECTIONS_MAX)
        };
        if ended {
            return;
        }
        // Redis may be away: then the connection ends as it began.
        let redis = if mute { None } else { TcpStream::connect(*shared.upstream.lock().unwrap()).ok() };
        if full || (redis.is_none() && !mute) {
            continue;
        }
        for socket in redis.iter().chain([&client]) {
            socket.set_nodelay(true).unwrap();
            socket.set_read_timeout(Some(LOOK_UP)).unwrap();
            socket.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        let number = {
            let mut faults = shared.lock();
            faults.next += 1;
            faults.open += 1;
            faults.next - 1
        };
        let (subscriber, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let link = Arc::new(Link { number, client, redis, subscriber, over, shared: Arc::clone(shared) });
        for way in [Way::Up, Way::Down] {
            let link = Arc::clone(&link);
            thread::spawn(move || link.pump(way));
        }
    }
}

impl Link {
    fn pump(&self, way: Way) {
        let Some(redis) = &self.redis else { return self.wait_for_the_end() };
        let (mut from, mut to) = match way {
            Way::Up => (&self.client, redis),
            Way::Down => (redis, &self.client),
        };
        let mut piece = [0; 16 << 10];
        loop {
            if !self.wait_while_held(way) {
                break;
            }
            let count = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if way == Way::Up && piece[..count].windows(9).any(|window| window == b"SUBSCRIBE") {
                self.subscriber.store(true, Ordering::SeqCst);
            }
            let (allowed, cut) = self.count_down(way, count);
            if !self.wait_while_held(way) || to.write_all(&piece[..allowed]).is_err() {
                break;
            }
            if let Some(how) = cut {
                self.end(how);
                break;
            }
        }
        let orphaned = self.number < self.shared.lock().orphaned_below;
        if orphaned {
            // Redis sees an end, the program sees nothing.
            let _ = redis.shutdown(Shutdown::Both);
            return self.wait_for_the_end();
        }
        // The other thread ends too, and the sockets with the last of both.
        self.over.store(true, Ordering::SeqCst);
    }

    /// False when the connection is to end, or its side of Redis is.
    fn wait_while_held(&self, way: Way) -> bool {
        let mut faults = self.shared.lock();
        let delay = faults.delays[way as usize];
        if !delay.is_zero() {
            let goes_on = |faults: &mut Faults| !self.is_over(faults);
            faults = self.shared.changed.wait_timeout_while(faults, delay, goes_on).unwrap().0;
        }
        loop {
            if self.is_over(&faults) || self.number < faults.orphaned_below {
                return false;
            }
            let held = |&(who, held, below): &(Who, Way, u64)| held == way && self.number < below && self.is(who);
            if !faults.holds.iter().any(held) {
                return true;
            }
            faults = self.shared.changed.wait_timeout(faults, LOOK_UP).unwrap().0;
        }
    }

    fn wait_for_the_end(&self) {
        let mut faults = self.shared.lock();
        let mut byte = [0];
        while !self.is_over(&faults) && !matches!(self.client.peek(&mut byte), Ok(0)) {
            faults = self.shared.changed.wait_timeout(faults, LOOK_UP).unwrap().0;
        }
    }

    /// How many of these bytes go through, and whether the connection ends behind them.
    fn count_down(&self, way: Way, count: usize) -> (usize, Option<Cut>) {
        let mut faults = self.shared.lock();
        match &mut faults.countdown {
            Some((who, counted, left, how)) if *counted == way && self.is(*who) => {
                let (allowed, how) = (count.min(*left), *how);
                *left -= allowed;
                if *left > 0 {
                    return (allowed, None);
                }
                faults.countdown = None;
                (allowed, Some(how))
            }
            _ => (count, None),
        }
    }

    fn is(&self, who: Who) -> bool {
        match who {
            Who::All => true,
            Who::Subscribers => self.subscriber.load(Ordering::SeqCst),
            Who::Others => !self.subscriber.load(Ordering::SeqCst),
        }
    }

    fn is_over(&self, faults: &Faults) -> bool {
        let cut = self.number < faults.cut_below;
        if cut && let Some(how) = faults.cut_as {
            self.end(how);
        }
        cut || faults.ended || self.over.load(Ordering::SeqCst)
    }

    fn end(&self, how: Cut) {
        if how == Cut::Reset {
            for socket in self.redis.iter().chain([&self.client]) {
                SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        self.over.store(true, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.lock().open -= 1;
    }
}
