//! Kernel memory of sockets, from the slab allocator's own books.
//!
//! A server's own memory is half of what a stream costs: the socket, its inode, its file and its entry
//! in an epoll are the kernel's. They stand in /proc/slabinfo as objects in use × size, which only root
//! may read, and are the whole machine's: growth between two snapshots is everyone's growth. The
//! subscribers live on the same machine and each of their sockets takes the same objects, so
//! `Growth::server_bytes` takes one client socket per stream off again.
//!
//! ```text
//!   growth = streams × (server's socket + client's socket) + whatever else the machine did meanwhile
//! ```
//!
//! Three of the caches need thought. They are read by `sock_inode_cache`, which counts sockets exactly: it
//! has a constructor, and so the allocator never merges it with another.
//!
//! - `dentry` holds every path looked up by anyone and shrinks when the kernel likes. But each socket has
//!   exactly one, its name in sockfs: sockets are counted instead.
//! - `eventpoll_epi` may be merged with other caches of 128 bytes, among them `tcp_bind_bucket` and
//!   `tcp_bind2_bucket`, of which every connecting socket takes up to two (measured: 4 objects per stream
//!   instead of 2). A socket is in one epoll as a rule: no more are counted than sockets came.
//! - `eventpoll_pwq`, one per entry of an epoll, is usually merged under another's name and then not
//!   listed; its size still stands in /sys/kernel/slab.
//!
//! What holds for the whole:
//!
//! - What is listed nowhere is in `absent`, and counts as nothing.
//! - Objects in use are known to a slab per CPU (some tens of objects), so a per-stream figure needs
//!   thousands of streams. Caches' unused space is not counted: it is not the server's doing.
//! - Not chosen: MemAvailable or cgroup figures, in which page cache and other processes drown this.

use std::collections::BTreeMap;
use std::fs;

/// The caches a stream takes objects from. On a server that listens on IPv6, its end is a `TCPv6`.
const CACHES: [&str; 7] = ["TCP", "TCPv6", SOCKETS, "filp", DENTRY, EPOLL_ENTRIES, EPOLL_WAITS];
/// What one client socket in an epoll takes, one object each. Subscribers speak IPv4.
const CLIENT_CACHES: [&str; 6] = ["TCP", SOCKETS, "filp", DENTRY, EPOLL_ENTRIES, EPOLL_WAITS];
const DENTRY: &str = "dentry";
const SOCKETS: &str = "sock_inode_cache";
const EPOLL_ENTRIES: &str = "eventpoll_epi";
const EPOLL_WAITS: &str = "eventpoll_pwq";

/// What the books said at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    /// Only caches that were listed.
    caches: BTreeMap<&'static str, Cache>,
    /// Pages with unread or unacknowledged bytes of TCP sockets (`mem` of /proc/net/sockstat).
    buffer_pages: i64,
    page_bytes: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Cache {
    objects_active: i64,
    object_bytes: i64,
}

/// What was added between two snapshots, by everyone on the machine; negative where it shrank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Growth {
    pub(crate) bytes_by_cache: BTreeMap<&'static str, i64>,
    /// Bytes in flight, which idle streams do not have.
    pub(crate) buffer_bytes: i64,
    /// All caches and `buffer_bytes`.
    pub(crate) total_bytes: i64,
    /// Caches that are not listed apart and so missing in the total.
    pub(crate) absent: Vec<&'static str>,
    /// What one client socket in an epoll costs, apart from bytes in flight.
    pub(crate) client_socket_bytes: i64,
}

impl Snapshot {
    /// `None` where the books are closed: not root, or a kernel without them.
    pub(crate) fn take() -> Option<Self> {
        let slabinfo = fs::read_to_string("/proc/slabinfo").ok()?;
        let sockstat = fs::read_to_string("/proc/net/sockstat").ok()?;
        let waits_bytes = fs::read_to_string("/sys/kernel/slab/eventpoll_pwq/slab_size").ok();
        let waits_bytes = waits_bytes.and_then(|bytes| bytes.trim().parse().ok());
        Self::parse(&slabinfo, &sockstat, waits_bytes, rustix::param::page_size() as i64)
    }

    /// `waits_bytes`: the size of `eventpoll_pwq`, for where it is not listed.
    fn parse(slabinfo: &str, sockstat: &str, waits_bytes: Option<i64>, page_bytes: i64) -> Option<Self> {
        let mut caches: BTreeMap<_, _> = slabinfo.lines().filter_map(parse_cache).collect();
        if let Some(object_bytes) = waits_bytes {
            caches.entry(EPOLL_WAITS).or_insert(Cache { objects_active: 0, object_bytes });
        }
        let buffer_pages = parse_buffer_pages(sockstat)?;
        caches.contains_key(SOCKETS).then_some(Self { caches, buffer_pages, page_bytes })
    }

    /// What was added from then until now; `None` where the books are closed.
    pub(crate) fn growth(&self) -> Option<Growth> {
        Some(Self::take()?.growth_since(self))
    }

    fn growth_since(&self, before: &Self) -> Growth {
        let bytes = |(&name, cache): (&&'static str, &Cache)| (name, self.objects(before, name) * cache.object_bytes);
        let bytes_by_cache: BTreeMap<_, _> = self.caches.iter().map(bytes).collect();
        let buffer_bytes = (self.buffer_pages - before.buffer_pages) * self.page_bytes;
        Growth {
            total_bytes: bytes_by_cache.values().sum::<i64>() + buffer_bytes,
            bytes_by_cache,
            buffer_bytes,
            absent: CACHES.into_iter().filter(|name| !self.caches.contains_key(name)).collect(),
            client_socket_bytes: self.client_socket_bytes(),
        }
    }

    /// Objects that came since, each cache counted as the module says.
    fn objects(&self, before: &Self, name: &str) -> i64 {
        let listed = |name| self.objects_active(name) - before.objects_active(name);
        match name {
            DENTRY => listed(SOCKETS),
            EPOLL_ENTRIES | EPOLL_WAITS => listed(EPOLL_ENTRIES).min(listed(SOCKETS)),
            _ => listed(name),
        }
    }

    /// What one client socket in an epoll costs, apart from bytes in flight.
    pub(crate) fn client_socket_bytes(&self) -> i64 {
        CLIENT_CACHES.iter().filter_map(|name| self.caches.get(name)).map(|cache| cache.object_bytes).sum()
    }

    fn objects_active(&self, name: &str) -> i64 {
        self.caches.get(name).map_or(0, |cache| cache.objects_active)
    }
}

impl Growth {
    /// The server's share when the growth came from opening `streams` streams on this machine. Bytes in
    /// flight are left with the server: what it sent and nobody has taken yet.
    pub(crate) fn server_bytes(&self, streams: u64) -> i64 {
        self.total_bytes - streams as i64 * self.client_socket_bytes
    }
}

/// `name active_objs num_objs objsize …`; lines about other caches are `None`.
fn parse_cache(line: &str) -> Option<(&'static str, Cache)> {
    let mut fields = line.split_ascii_whitespace();
    let name = fields.next()?;
    let name = CACHES.into_iter().find(|&known| known == name)?;
    let objects_active = fields.next()?.parse().ok()?;
    let object_bytes = fields.nth(1)?.parse().ok()?;
    Some((name, Cache { objects_active, object_bytes }))
}

/// `TCP: inuse 7 orphan 0 tw 4 alloc 7 mem 68`.
fn parse_buffer_pages(sockstat: &str) -> Option<i64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_ascii_whitespace().skip_while(|&word| word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of Linux 6.18 on x86-64, where `eventpoll_pwq` is merged away.
    fn books(tcp: i64, sockets: i64, files: i64, dentries: i64, watched: i64, pages: i64) -> Snapshot {
        let rest = "13 8 : tunables 0 0 0 : slabdata 2 2 0";
        let slabinfo = format!(
            "slabinfo - version: 2.1\n\
             # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables\n\
             request_sock_TCP     132    180    320 {rest}\n\
             TCPv6                 26     26   2496 {rest}\n\
             TCP   {tcp}  9999 2368 {rest}\n\
             eventpoll_epi {watched} 9999 128 {rest}\n\
             sock_inode_cache {sockets} 9999 832 {rest}\n\
             filp {files} 9999 192 {rest}\n\
             dentry {dentries} 999999 192 {rest}\n"
        );
        let sockstat =
            format!("sockets: used 64\nTCP: inuse 7 orphan 0 tw 4 alloc 7 mem {pages}\nUDP: inuse 0 mem 9\n");
        Snapshot::parse(&slabinfo, &sockstat, Some(64), 4096).unwrap()
    }

    const SOCKET_BYTES: i64 = 2368 + 832 + 192 + 192 + 128 + 64;

    #[test]
    fn growth_is_objects_times_their_size() {
        let growth = books(230, 366, 1_042, 5_100, 305, 70).growth_since(&books(130, 266, 942, 5_000, 205, 68));
        assert_eq!(growth.bytes_by_cache["TCP"], 100 * 2368);
        assert_eq!(growth.bytes_by_cache["TCPv6"], 0);
        assert_eq!(growth.bytes_by_cache["eventpoll_epi"], 100 * 128);
        assert_eq!(growth.buffer_bytes, 2 * 4096);
        assert_eq!(growth.total_bytes, 100 * SOCKET_BYTES + 2 * 4096);
    }

    #[test]
    fn paths_looked_up_by_others_do_not_count() {
        let before = books(130, 266, 942, 260_000, 205, 68);
        let shrunk = books(230, 366, 1_042, 9_000, 305, 68).growth_since(&before);
        let grown = books(230, 366, 1_042, 990_000, 305, 68).growth_since(&before);
        assert_eq!(shrunk.bytes_by_cache["dentry"], 100 * 192);
        assert_eq!(shrunk, grown);
    }

    #[test]
    fn what_is_merged_into_the_epoll_entries_does_not_count() {
        let before = books(130, 266, 942, 5_000, 205, 68);
        let merged = books(230, 366, 1_042, 5_100, 405, 68).growth_since(&before);
        let apart = books(230, 366, 1_042, 5_100, 305, 68).growth_since(&before);
        assert_eq!(merged, apart);
        let fewer = books(230, 366, 1_042, 5_100, 255, 68).growth_since(&before);
        assert_eq!(fewer.bytes_by_cache["eventpoll_pwq"], 50 * 64);
    }

    #[test]
    fn a_cache_listed_nowhere_is_named() {
        let slabinfo =
            "TCP 7 9 2368 13 8\nsock_inode_cache 7 9 832 19 4\nfilp 7 9 192\ndentry 7 9 192\neventpoll_epi 7 9 128\n";
        let books = |waits_bytes| Snapshot::parse(slabinfo, "TCP: mem 1", waits_bytes, 4096).unwrap();
        assert_eq!(books(None).growth_since(&books(None)).absent, ["TCPv6", "eventpoll_pwq"]);
        assert_eq!(books(Some(64)).growth_since(&books(Some(64))).absent, ["TCPv6"]);
    }

    #[test]
    fn the_clients_half_is_taken_off() {
        let (before, after) = (books(0, 0, 0, 0, 0, 0), books(2_000, 2_000, 2_000, 0, 2_000, 0));
        assert_eq!(after.client_socket_bytes(), SOCKET_BYTES);
        assert_eq!(after.growth_since(&before).server_bytes(1_000), 1_000 * SOCKET_BYTES);
    }

    #[test]
    fn closed_books_are_no_zero() {
        assert_eq!(Snapshot::parse("", "TCP: inuse 7 orphan 0 tw 4 alloc 7 mem 68\n", None, 4096), None);
        assert_eq!(Snapshot::parse("sock_inode_cache 1 1 832 13 8\n", "", None, 4096), None);
    }

    #[test]
    fn this_machines_books_are_read_where_they_are_open() {
        let open = fs::read_to_string("/proc/slabinfo").is_ok();
        assert_eq!(Snapshot::take().is_some(), open);
    }
}
