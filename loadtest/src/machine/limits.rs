//! What the machine can carry, in sentences, before a run finds out half way through.
//!
//! Each limit says what it bounds and what it is based on. Some are hard (a descriptor too many is an
//! error), others only a mark from which figures say more about the machine than about the server:
//! `Weight` tells them apart. What the kernel did not tell is left out.

use super::environment::Environment;
use crate::report::grouped;

/// Descriptors of a subscriber process that are not streams: pipes, epoll, eventfd, some reserve.
const DESCRIPTORS_RESERVED: u64 = 64;
/// Pages of TCP buffers per stream while an event is under way to everyone. Both sockets are on this
/// machine, and buffers are charged in whole pages: one at the server until the event is acknowledged, one at
/// the subscriber until it is read. An idle stream has none.
const BUFFER_PAGES_PER_STREAM: u64 = 2;

/// What a run wants to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    pub(crate) streams: u64,
    /// Subscriber processes.
    pub(crate) processes: u64,
    /// Addresses the subscribers connect from.
    pub(crate) sources: u64,
    /// Connects under way at one time.
    pub(crate) opening_max: u64,
}

/// One bound.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limit {
    /// As in `ports`.
    pub(crate) what: &'static str,
    pub(crate) weight: Weight,
    /// True exactly when the demand is above it.
    pub(crate) exceeded: bool,
    /// Begins with `what`.
    pub(crate) sentence: String,
}

/// What happens beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The run cannot be.
    Hard,
    /// The run can be, and its figures are in doubt.
    Soft,
    /// To be known when any figure of this machine is read.
    Note,
}

/// Every limit this machine tells of, exceeded or not.
pub(crate) fn limits(machine: &Environment, demand: &Demand) -> Vec<Limit> {
    let all = [descriptors(machine, demand), ports(machine, demand), buffers(machine, demand), queue(machine, demand)];
    all.into_iter().flatten().chain([cores(machine, demand)]).collect()
}

fn descriptors(machine: &Environment, demand: &Demand) -> Option<Limit> {
    let max = machine.descriptors_max?;
    let streams_max = max.saturating_sub(DESCRIPTORS_RESERVED).saturating_mul(demand.processes);
    let sentence = format!(
        "descriptors: a process may hold {}, so {} subscriber process(es) hold at most {} streams (ulimit -Hn); \
         the server needs one per stream as well",
        grouped(max),
        demand.processes,
        grouped(streams_max),
    );
    Some(Limit { what: "descriptors", weight: Weight::Hard, exceeded: demand.streams > streams_max, sentence })
}

fn ports(machine: &Environment, demand: &Demand) -> Option<Limit> {
    let ports = machine.ports()?;
    let streams_max = ports.saturating_mul(demand.sources);
    let sentence = format!(
        "ports: an address has {} source ports, so {} address(es) carry at most {} streams to one server \
         (net.ipv4.ip_local_port_range)",
        grouped(ports),
        demand.sources,
        grouped(streams_max),
    );
    Some(Limit { what: "ports", weight: Weight::Hard, exceeded: demand.streams > streams_max, sentence })
}

fn buffers(machine: &Environment, demand: &Demand) -> Option<Limit> {
    let [_, pressed, _] = machine.tcp_mem_pages?;
    let streams_max = pressed / BUFFER_PAGES_PER_STREAM;
    let sentence = format!(
        "tcp_mem: from {} pages of socket buffers on, the kernel shrinks them (net.ipv4.tcp_mem); with one event \
         under way to everyone, a page at either end, that is {} streams; slow readers take more",
        grouped(pressed),
        grouped(streams_max),
    );
    Some(Limit { what: "tcp_mem", weight: Weight::Soft, exceeded: demand.streams > streams_max, sentence })
}

fn queue(machine: &Environment, demand: &Demand) -> Option<Limit> {
    let longest = machine.somaxconn?;
    let sentence = format!(
        "somaxconn: a listener queues at most {} connections (net.core.somaxconn), and {} open at a time; \
         what does not fit waits a second for its next SYN",
        grouped(longest),
        grouped(demand.opening_max),
    );
    Some(Limit { what: "somaxconn", weight: Weight::Soft, exceeded: demand.opening_max > longest, sentence })
}

/// A process of subscribers, the server and the publisher each can fill a core.
fn cores(machine: &Environment, demand: &Demand) -> Limit {
    let busy = demand.processes + 2;
    let sentence = format!(
        "cores: {} for {} subscriber process(es), the server and the publisher; at full load they take the \
         processor from each other, so compare CPU per delivery before rates",
        machine.cores, demand.processes,
    );
    Limit { what: "cores", weight: Weight::Note, exceeded: busy > machine.cores, sentence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Environment {
        Environment {
            cores: 2,
            descriptors_max: Some(20_000),
            tcp_mem_pages: Some([287_901, 383_868, 575_802]),
            somaxconn: Some(4_096),
            port_range: Some((32_768, 60_999)),
            ..Environment::default()
        }
    }

    fn exceeded(demand: Demand) -> Vec<&'static str> {
        limits(&machine(), &demand).into_iter().filter(|limit| limit.exceeded).map(|limit| limit.what).collect()
    }

    #[test]
    fn each_limit_is_exceeded_by_the_first_stream_too_many() {
        let enough = Demand { streams: 19_936, processes: 1, sources: 1, opening_max: 4_096 };
        assert_eq!(exceeded(enough), ["cores"]);
        assert_eq!(exceeded(Demand { streams: 19_937, ..enough }), ["descriptors", "cores"]);
        assert_eq!(exceeded(Demand { streams: 28_232, processes: 2, ..enough }), ["cores"]);
        assert_eq!(exceeded(Demand { streams: 28_233, processes: 2, ..enough }), ["ports", "cores"]);
        assert_eq!(exceeded(Demand { opening_max: 4_097, ..enough }), ["somaxconn", "cores"]);
        let very_many = Demand { streams: 191_934, processes: 10, sources: 7, opening_max: 256 };
        assert_eq!(exceeded(very_many), ["cores"]);
        assert_eq!(exceeded(Demand { streams: 191_935, ..very_many }), ["tcp_mem", "cores"]);
    }

    #[test]
    fn a_limit_says_how_many_streams_and_where_it_is_set() {
        let said = limits(&machine(), &Demand { streams: 1, processes: 4, sources: 4, opening_max: 1 });
        let sentence = |what| &said.iter().find(|limit| limit.what == what).unwrap().sentence;
        assert!(sentence("descriptors").contains("at most 79,744 streams"));
        assert!(sentence("ports").contains("at most 112,928 streams"));
        assert!(sentence("tcp_mem").contains("191,934 streams"));
        assert!(said.iter().all(|limit| limit.sentence.starts_with(limit.what)));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_left_out() {
        let said = limits(&Environment::default(), &Demand { streams: 1, processes: 1, sources: 1, opening_max: 1 });
        assert_eq!(said.iter().map(|limit| limit.what).collect::<Vec<_>>(), ["cores"]);
    }
}
