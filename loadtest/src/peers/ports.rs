//! Free ports of 127.0.0.1 for servers.
//!
//! Taken below those from which the kernel takes client ports: of many thousand clients one could
//! otherwise hold the port of a broker that is being restarted.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::target::Target;

const FIRST: u16 = 20_000;
const COUNT: u32 = 12_000;

/// How many were tried by this process.
static TRIED: AtomicU32 = AtomicU32::new(0);

/// A port that nobody listened on a moment ago, and that this process has not given away before.
pub(super) fn free() -> Result<u16> {
    // Two programs that run at once begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    (0..COUNT)
        .map(|_| FIRST + (begin.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % COUNT) as u16)
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .context("no port of 127.0.0.1 is free")
}

/// The address of a server on `port`.
pub(super) fn target(port: u16) -> Target {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Target { addr, authority: addr.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_away_twice_nor_while_somebody_listens() {
        let first = free().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        TRIED.fetch_sub(1, Ordering::Relaxed);
        let second = free().unwrap();
        let third = free().unwrap();
        assert!(first != second && second != third, "{first} {second} {third}");
    }
}
