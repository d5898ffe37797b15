//! What this machine cannot carry, said before the run instead of half way through it.

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::procfs;
use crate::swarm::WorkerPlan;

/// Descriptors of a worker that are not streams: pipes, epoll, eventfd, and some reserve.
const RESERVE: u64 = 64;

/// What bounds the number of streams.
pub(super) struct Limits {
    /// Per process.
    descriptors: u64,
    /// Per source address; `None` when the kernel does not say.
    ports: Option<u64>,
}

impl Limits {
    /// Raises the soft descriptor limit to the hard one (workers inherit it) and reads the limits.
    pub(super) fn raise_and_read() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let raised = getrlimit(Resource::Nofile).current;
        Self { descriptors: raised.unwrap_or(u64::MAX), ports: procfs::ephemeral_ports() }
    }

    /// An error names what does not suffice; the strings returned are remarks.
    pub(super) fn check(&self, workers: &[WorkerPlan], sources: usize, servers: &[u32]) -> Result<Vec<String>> {
        let streams: u64 = workers.iter().map(|w| w.streams() as u64).sum();
        let largest = workers.iter().map(|w| w.streams() as u64).max().unwrap_or(0);
        if largest + RESERVE > self.descriptors {
            bail!(
                "descriptors: a worker with {largest} streams needs {}, a process may have {}; use more --processes",
                largest + RESERVE,
                self.descriptors,
            );
        }
        let ports = self.ports.unwrap_or(u64::MAX);
        let ports_total = ports.saturating_mul(sources.max(1) as u64);
        if streams > ports_total {
            bail!(
                "ports: {streams} streams from {} source addresses with {ports} ports each (net.ipv4.ip_local_port_range)",
                sources.max(1),
            );
        }
        let mut remarks = Vec::new();
        let maxima: Result<Vec<u64>> = servers.iter().map(|&pid| procfs::open_files_max(pid)).collect();
        let server_max = maxima?.into_iter().reduce(u64::saturating_add);
        if let Some(server_max) = server_max.filter(|&max| streams >= max) {
            remarks.push(format!("the server may have {server_max} descriptors for {streams} streams"));
        }
        Ok(remarks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::target::Target;

    fn worker(readers: usize) -> WorkerPlan {
        WorkerPlan {
            target: Target { addr: ([127, 0, 0, 1], 80).into(), authority: String::new() },
            dialect: Dialect::fanwheel(),
            readers,
            slow: 0,
            stalled: 0,
            slow_bytes_per_s: 1,
            first_stream: 0,
            sources: Vec::new(),
            streams_per_source: 1,
            ramp: 1.0,
            opening_max: 1,
            run: 0,
            topics: Vec::new(),
            topics_per_stream: 0,
            publishers: 1,
            payload: 100,
            last_stride: 1,
            disturbance: None,
            reconnects: false,
            settle_ns: 0,
        }
    }

    #[test]
    fn what_does_not_suffice_is_named() {
        let limits = Limits { descriptors: 1_000, ports: Some(1_500) };
        let said = |workers: &[WorkerPlan], sources| limits.check(workers, sources, &[]).map_err(|e| e.to_string());
        assert_eq!(said(&[worker(900), worker(500)], 1), Ok(Vec::new()));
        assert!(said(&[worker(990)], 1).unwrap_err().starts_with("descriptors:"));
        assert!(said(&[worker(900), worker(900)], 1).unwrap_err().starts_with("ports:"));
        assert_eq!(said(&[worker(900), worker(900)], 2), Ok(Vec::new()));
    }
}
