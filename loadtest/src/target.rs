//! Where a server is.

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// A server's address, from a URL without path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    /// As written, for `Host:`.
    pub(crate) authority: String,
}

impl Target {
    /// Reads `<scheme>://host:port[/]` and resolves the host.
    pub(crate) fn parse(url: &str, scheme: &str, default_port: u16) -> Result<Self> {
        let Some(rest) = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) else {
            bail!("{url}: expected {scheme}://host:port");
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            bail!("{url}: expected {scheme}://host:port, without path or user");
        }
        let has_port = authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:{default_port}") };
        let mut addrs = with_port.to_socket_addrs().with_context(|| format!("{url}: cannot resolve"))?;
        let addr = addrs.next().with_context(|| format!("{url}: no address"))?;
        Ok(Self { addr, authority: authority.to_owned() })
    }
}

/// `text` as one path segment or query value: all but RFC 3986's unreserved characters encoded.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_one_segment_whatever_it_contains() {
        assert_eq!(percent_encode("a/b?ü c"), "a%2Fb%3F%C3%BC%20c");
    }

    #[test]
    fn urls_that_are_not_understood_are_refused() {
        for url in ["https://127.0.0.1", "127.0.0.1:80", "http://", "http://127.0.0.1:80/path", "http://u@127.0.0.1"] {
            assert!(Target::parse(url, "http", 80).is_err(), "{url}");
        }
        assert_eq!(Target::parse("http://127.0.0.1/", "http", 80).unwrap().addr.port(), 80);
    }
}
