//! A server together with what feeds it, so that one test can be run against both sources.

use serde_json::json;

use super::{Launch, RedisServer, TestServer, post};

/// See the module. The server ends before its Redis.
#[derive(Debug)]
pub struct Node {
    pub server: TestServer,
    /// `None` is the embedded broker.
    pub redis: Option<RedisServer>,
}

impl Node {
    pub fn embedded() -> Node {
        Node::embedded_as(Launch::serve())
    }

    pub fn embedded_as(launch: Launch) -> Node {
        Node { server: launch.start(), redis: None }
    }

    pub fn on_redis() -> Node {
        Node::on_redis_as(Launch::serve())
    }

    pub fn on_redis_as(launch: Launch) -> Node {
        let redis = RedisServer::start();
        Node { server: launch.flag("--redis", &redis.url()).start(), redis: Some(redis) }
    }

    /// Runs a test against each source.
    pub fn each(test: impl Fn(&Node)) {
        Node::each_as(Launch::serve, test);
    }

    /// As `each`, with servers started in a particular way.
    pub fn each_as(launch: impl Fn() -> Launch, test: impl Fn(&Node)) {
        test(&Node::embedded_as(launch()));
        test(&Node::on_redis_as(launch()));
    }

    pub fn redis(&self) -> &RedisServer {
        self.redis.as_ref().expect("this node has a Redis")
    }

    pub fn redis_mut(&mut self) -> &mut RedisServer {
        self.redis.as_mut().expect("this node has a Redis")
    }

    /// Publishes the way a program beside this source would: over HTTP, or with PUBLISH.
    #[track_caller]
    pub fn publish(&self, topic: &str, data: impl AsRef<[u8]>) {
        match &self.redis {
            None => self.post(topic, data),
            Some(redis) => drop(redis.publish(&format!("fanwheel:{topic}"), data.as_ref())),
        }
    }

    /// Publishes over HTTP. The topic must need no escaping.
    #[track_caller]
    pub fn post(&self, topic: &str, data: impl AsRef<[u8]>) {
        let answer = post(self.server.public, &format!("/topics/{topic}"), data.as_ref());
        assert_eq!(answer.status(), 202, "{answer:?}");
        assert_eq!(answer.json(), json!({"topic": topic, "id": null}));
    }
}
