//! What is set on the command line, in a variable or in the file is what the node does.

use rustix::process::Signal;

use crate::common::{Launch, Stream, TestServer, wait_until};

/// The same setting, given in each of the three ways.
fn each_way(flag: &str, key: &str, value: &str, quoted: bool) -> [Launch; 3] {
    let variable = format!("FANWHEEL_{}", flag.trim_start_matches("--").to_uppercase().replace('-', "_"));
    let quote = if quoted { "'" } else { "" };
    [
        Launch::serve().flag(flag, value),
        Launch::serve().variable(&variable, value),
        Launch::serve().config(&format!("[limits]\n{key} = {quote}{value}{quote}\n")),
    ]
}

#[test]
fn one_address_has_as_many_connections_as_it_may() {
    for launch in each_way("--connections-per-address", "connections_per_address", "2", false) {
        let server = launch.start();
        let streams = [0, 1].map(|_| Stream::open(&server, "topic=t"));
        let data = Stream::begin(server.public, "topic=t").expect_dismissal("fanwheel.drain");
        assert_eq!(data["reason"], "limit");
        drop(streams);
        wait_until("the free places to be counted off", || server.status()["connections"] == 0);
        Stream::open(&server, "topic=t");
    }
}

#[test]
fn a_node_takes_as_many_newcomers_in_a_second_as_it_may() {
    for launch in each_way("--accept-rate", "accept_rate", "1", false) {
        let server = launch.start();
        // They come faster than one in a second, so one of a few must be too many.
        let refused = || server.metric("fanwheel_connections_turned_away_total{reason=\"rate\"}") > 0.0;
        let mut streams = Vec::new();
        wait_until("one newcomer too many", || {
            streams.push(Stream::begin(server.public, "topic=t"));
            refused()
        });
    }
    // Nobody asked for a limit.
    let server = Launch::serve().start();
    let _streams = [(); 20].map(|()| Stream::open(&server, "topic=t"));
}

fn is_stopping(server: &TestServer) -> bool {
    server.log().contains("stopping")
}

#[test]
fn the_goodbye_takes_as_long_as_was_set() {
    for launch in each_way("--drain", "drain", "0s", true) {
        let server = launch.start();
        let mut stream = Stream::open(&server, "topic=t");
        server.signal(Signal::TERM);
        assert_eq!(stream.expect_dismissal("fanwheel.drain")["reason"], "shutdown");
    }
    for launch in each_way("--drain", "drain", "10m", true) {
        let server = launch.start();
        let _stream = Stream::open(&server, "topic=t");
        server.signal(Signal::TERM);
        wait_until("the goodbye to begin", || is_stopping(&server));
        assert!(server.log().contains("600s"), "{}", server.log());
        // The second signal.
        server.stop();
    }
}
