//! Every stream sees every event once, and all streams of the node see one order.

use std::net::Ipv4Addr;
use std::thread;

use checker::{OrderHash, OrderSurvey, StreamCheck};

use crate::common::{Launch, Node, RedisServer, Stream, Wire};

const STREAMS: u8 = 40;
const PUBLISHERS: usize = 4;
const EVENTS: u64 = 150;

/// How one of several publishers is to publish.
#[derive(Clone, Copy)]
enum Way {
    Http,
    Redis,
}

#[test]
fn streams_of_two_shards_see_one_order_of_several_publishers() {
    let launch = || Launch::serve().flag("--shards", "2");
    one_order(&Node::embedded_as(launch()), [Way::Http; PUBLISHERS]);
    one_order(&Node::on_redis_as(launch()), [Way::Redis; PUBLISHERS]);
    one_order(&Node::on_redis_as(launch()), [Way::Http, Way::Redis, Way::Http, Way::Redis]);
}

fn one_order(node: &Node, ways: [Way; PUBLISHERS]) {
    let mut streams: Vec<Stream> = (0..STREAMS)
        .map(|at| {
            let wire = Wire::connect_from(Ipv4Addr::new(127, 0, 0, 2 + at), node.server.public);
            // Some follow a second topic, so that they are served in the other way.
            Stream::open_on(wire, if at % 3 == 0 { "topic=t&topic=u" } else { "topic=t" })
        })
        .collect();
    let topics = node.server.status()["topics"].as_u64();
    assert_eq!(topics, Some(4), "both shards have streams of both topics");
    thread::scope(|scope| {
        for (publisher, way) in ways.into_iter().enumerate() {
            scope.spawn(move || publish(node, publisher, way));
        }
    });
    let mut survey = OrderSurvey::default();
    for stream in &mut streams {
        let mut checks = vec![StreamCheck::default(); PUBLISHERS];
        let mut order = OrderHash::default();
        for _ in 0..PUBLISHERS as u64 * EVENTS {
            let data = stream.next_data();
            let (publisher, number) = data.split_once(':').unwrap();
            let (publisher, number) = (publisher.parse::<usize>().unwrap(), number.parse().unwrap());
            checks[publisher].handle_event(number);
            order.handle_event(publisher as u64, number);
        }
        for check in checks {
            let verdict = check.finish(0..EVENTS);
            assert!(verdict.is_clean() && verdict.received == EVENTS, "{verdict:?}");
        }
        survey.add(order.count(), order.digest(), 1);
    }
    assert_eq!(survey.orders_seen(), 1);
    let deliveries = u32::from(STREAMS) * PUBLISHERS as u32 * EVENTS as u32;
    node.server.wait_metric("fanwheel_deliveries_total", f64::from(deliveries));
}

fn publish(node: &Node, publisher: usize, way: Way) {
    let mut wire = Wire::connect(node.server.public);
    let mut redis = node.redis.as_ref().map(RedisServer::client);
    for number in 0..EVENTS {
        let data = format!("{publisher}:{number}");
        match (way, &mut redis) {
            (Way::Redis, Some(redis)) => drop(redis.publish("fanwheel:t", data.as_bytes())),
            _ => assert_eq!(wire.ask("POST", "/topics/t", &[], data.as_bytes()).status(), 202),
        }
    }
}
