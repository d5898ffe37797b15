//! What the kernel says about processes and sockets.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// CPU time of a process, all its threads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) user_s: f64,
    pub(crate) system_s: f64,
}

impl Cpu {
    /// Of another process. The split in user and system is sampled and told in clock ticks (10 ms);
    /// the sum is exact where the scheduler's own count of each thread can be read and no thread has ended.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        let ticks = Self::parse(&stat, rustix::param::clock_ticks_per_second());
        let ticks = ticks.with_context(|| format!("{path}: not understood"))?;
        Ok(ticks.refined_by(scheduled_s(pid)))
    }

    /// Ticks lag behind what was scheduled, by a tick for each kind of time. A sum that is further off
    /// lacks threads that have ended.
    fn refined_by(self, scheduled_s: Option<f64>) -> Self {
        let total_s = self.total_s();
        match scheduled_s.filter(|s| (s - total_s).abs() <= 0.05 && total_s > 0.0) {
            Some(s) => Self { user_s: self.user_s * s / total_s, system_s: self.system_s * s / total_s },
            None => self,
        }
    }

    /// Of this process, to a microsecond.
    pub(crate) fn own() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
            return Self::default();
        };
        let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        Self { user_s: seconds(usage.user_time()), system_s: seconds(usage.system_time()) }
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { user_s: self.user_s - earlier.user_s, system_s: self.system_s - earlier.system_s }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { user_s: self.user_s + other.user_s, system_s: self.system_s + other.system_s }
    }

    pub(crate) fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }

    /// The command name may contain spaces and parentheses: fields are counted from its last `)`.
    /// utime and stime are fields 14 and 15 of the line, so 11 and 12 after that.
    fn parse(stat: &str, ticks_per_second: u64) -> Option<Self> {
        let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
        let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / ticks_per_second as f64);
        Some(Self { user_s: seconds()?, system_s: seconds()? })
    }
}

/// How long the threads of a process have run: `run-ns wait-ns slices` of each.
fn scheduled_s(pid: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut total_ns = 0;
    for thread in threads {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        total_ns += text.split(' ').next()?.parse::<u64>().ok()?;
    }
    (total_ns > 0).then_some(total_ns as f64 / 1e9)
}

/// Proportional set size of a process: its own memory and its share of what it shares.
pub(crate) fn pss_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_pss(&rollup).with_context(|| format!("{path}: no line Pss"))
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Lets this process, and those it starts, have as many descriptors as it may.
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Descriptors a process may have open.
pub(crate) fn open_files_max(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/limits");
    let limits = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_open_files(&limits).with_context(|| format!("{path}: no line 'Max open files'"))
}

fn parse_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

/// States of TCP sockets in the tables of /proc/net, as the kernel numbers them.
pub(crate) const TCP_ESTABLISHED: u8 = 1;
/// The peer has sent FIN, this side has not closed.
pub(crate) const TCP_CLOSE_WAIT: u8 = 8;

/// The states of a local server's sockets, by the client's address (IPv4, mapped or not).
pub(crate) fn server_socket_states(server_port: u16) -> HashMap<SocketAddrV4, u8> {
    let mut states = HashMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = fs::read_to_string(table).unwrap_or_default();
        states.extend(table.lines().skip(1).filter_map(|line| parse_tcp_line(line, server_port)));
    }
    states
}

/// `sl: LOCAL:PORT REMOTE:PORT STATE …`, in hex; an IPv4 address is the last four bytes of its
/// column as the machine stores it.
fn parse_tcp_line(line: &str, local_port: u16) -> Option<(SocketAddrV4, u8)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, port) = fields.next()?.split_once(':')?;
    if u16::from_str_radix(port, 16).ok()? != local_port {
        return None;
    }
    let (address, port) = fields.next()?.split_once(':')?;
    let address = u32::from_str_radix(address.get(address.len().checked_sub(8)?..)?, 16).ok()?;
    let remote = SocketAddrV4::new(Ipv4Addr::from(address.to_ne_bytes()), u16::from_str_radix(port, 16).ok()?);
    Some((remote, u8::from_str_radix(fields.next()?, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_command_name() {
        let stat = "4242 (a) b (c) S 1 4242 4242 0 -1 4194304 500 0 0 0 1234 567 0 0 20 0 5 0 99 1000 200";
        assert_eq!(Cpu::parse(stat, 100), Some(Cpu { user_s: 12.34, system_s: 5.67 }));
        assert_eq!(Cpu::parse("4242 (x) S 1", 100), None);
    }

    #[test]
    fn what_the_scheduler_counted_refines_the_ticks_unless_threads_have_ended() {
        let ticks = Cpu { user_s: 1.0, system_s: 3.0 };
        assert!((ticks.refined_by(Some(4.02)).total_s() - 4.02).abs() < 1e-9);
        assert_eq!(ticks.refined_by(Some(2.0)), ticks);
        assert_eq!(ticks.refined_by(None), ticks);
        assert!(scheduled_s(std::process::id()).is_some());
    }

    #[test]
    fn pss_and_limits_are_read() {
        let rollup = "5580-7ffc ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:  1234 kB\nPss_Anon: 1 kB\n";
        assert_eq!(parse_pss(rollup), Some(1234 * 1024));
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 20000                files\n";
        assert_eq!(parse_open_files(limits), Some(1024));
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let pid = std::process::id();
        assert!(pss_bytes(pid).unwrap() > 100_000);
        assert!(open_files_max(pid).unwrap() > 0);
        assert!(Cpu::of(pid).unwrap().total_s() >= 0.0);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn socket_states_are_found_in_both_tables() {
        let v4 = "   0: 0100007F:1F90 0200007F:9C40 04 00000000:00000000 00:00000000 00000000     0";
        let client = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 40000);
        assert_eq!(parse_tcp_line(v4, 8080), Some((client, 4)));
        assert_eq!(parse_tcp_line(v4, 8081), None);
        let v6 = "   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200007F:9C40 01 00000000";
        assert_eq!(parse_tcp_line(v6, 8080), Some((client, TCP_ESTABLISHED)));
    }
}
