//! A node that runs out of descriptors: it says no quickly, rests in between, and comes back.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::common::{Launch, Node, PATIENCE, Stream, Wire, wait_until};

/// Changes the server's soft limit; the hard one stays as it is.
fn set_limit(node: &Node, current: u64) {
    let pid = Pid::from_raw(node.server.pid().cast_signed());
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
}

/// Seconds of CPU the server has used.
fn cpu(node: &Node) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", node.server.pid())).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

#[test]
fn without_descriptors_it_refuses_quickly_rests_and_comes_back() {
    let node = Node::on_redis_as(Launch::serve().flag("--shards", "2"));
    let mut streams: Vec<Stream> = (0..20).map(|_| Stream::open(&node.server, "topic=t")).collect();
    let open = std::fs::read_dir(format!("/proc/{}/fd", node.server.pid())).unwrap();
    let highest = open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).max();
    set_limit(&node, highest.map_or(0, |highest: u64| highest + 3));
    // Whoever comes takes what is left below the limit.
    let mut held = Vec::new();
    wait_until("the descriptors to be used up", || {
        let mut wire = Wire::connect(node.server.public);
        wire.send(b"GET /events?topic=t HTTP/1.1\r\nhost: test\r\n\r\n");
        let refused = wire.fill(Instant::now() + PATIENCE) == Some(false);
        held.push(wire);
        refused
    });
    let (since, used) = (Instant::now(), cpu(&node));
    let mut refused = 0;
    while since.elapsed() < Duration::from_secs(2) {
        let mut wire = Wire::connect(node.server.public);
        assert_eq!(wire.fill(Instant::now() + PATIENCE), Some(false), "it is closed, not left to wait");
        refused += 1;
    }
    let share = (cpu(&node) - used) / since.elapsed().as_secs_f64();
    assert!(share < 0.1, "{share:.3} of a core while {refused} connections were refused");
    assert!(refused >= 3, "only {refused} connections were refused in two seconds");
    // Over a connection of Redis's, which is open already.
    node.publish("t", "still here");
    for stream in &mut streams {
        assert_eq!(stream.next_data(), "still here");
    }
    set_limit(&node, 4_096);
    let since = Instant::now();
    wait_until("a stream to be opened again", || {
        let mut wire = Wire::connect(node.server.public);
        wire.send(b"GET /events?topic=t HTTP/1.1\r\nhost: test\r\n\r\n");
        wire.fill(Instant::now() + PATIENCE) == Some(true)
    });
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    // A line when it begins and one when it is over, of each shard that was concerned.
    wait_until("every shard to accept, and to say so", || {
        drop(Wire::connect(node.server.public));
        let log = node.server.log();
        let lines = |text: &str| log.matches(text).count();
        lines("cannot accept connections") > 0
            && lines("cannot accept connections") == lines("accepting connections again")
    });
}
