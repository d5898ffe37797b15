//! How streams are spread over processes and source addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;

use anyhow::{Result, bail};

use super::protocol::WorkerPlan;

/// Streams of one worker at most: 20,000 descriptors are a common hard limit, less some reserve.
const STREAMS_PER_PROCESS_MAX: usize = 15_000;
/// Below that a process of its own is not worth it.
const STREAMS_PER_PROCESS_MIN: usize = 2_000;
/// Streams per source address: far from the 28,232 ports an address has by default, so that runs
/// can follow each other while the ports of the last one are still in TIME_WAIT.
pub(crate) const STREAMS_PER_SOURCE: usize = 5_000;
/// 127.0.0.2 … 127.0.0.250.
const SOURCES_MAX: usize = 249;

/// A number, or `auto`: as many as the descriptors demand, and one per core where there is enough to share.
pub(crate) fn processes(text: &str, streams: usize) -> Result<usize> {
    if text == "auto" {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let wanted = cores.min(streams.div_ceil(STREAMS_PER_PROCESS_MIN));
        return Ok(streams.div_ceil(STREAMS_PER_PROCESS_MAX).max(wanted));
    }
    match text.parse() {
        Ok(processes) if processes > 0 => Ok(streams.min(processes)),
        _ => bail!("--processes: a number or `auto`"),
    }
}

/// The `index`-th of `of` parts of `total`, none more than one larger than another.
pub(crate) fn share(total: usize, index: usize, of: usize) -> usize {
    total / of + usize::from(index < total % of)
}

/// Numbers the streams of all workers and gives each worker addresses of its own to connect from.
pub(crate) fn number_and_place(workers: &mut [WorkerPlan]) {
    let (mut next_source, mut next_stream) = (0, 0);
    for worker in workers {
        let is_local = matches!(worker.target.addr.ip(), IpAddr::V4(ip) if ip.is_loopback());
        let sources = if is_local { worker.streams().div_ceil(STREAMS_PER_SOURCE) } else { 0 };
        worker.sources = (next_source..next_source + sources).map(loopback_source).collect();
        worker.first_stream = next_stream;
        next_source += sources;
        next_stream += worker.streams();
    }
}

fn loopback_source(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + (index % SOURCES_MAX) as u8)
}
