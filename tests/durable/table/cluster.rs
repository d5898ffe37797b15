//! Real nodes, and the Redis they share; or one node with the embedded broker.

use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use super::super::rows::{KEPT, KEPT_MS};
use super::super::swarm::Nodes;
use crate::common::{Launch, RedisServer, TestServer};

/// Durable topics: `d.**` keeps all of a test, `kept.**` the newest few, `aged.**` what is young. A node's own log is
/// shorter than all of them: readers that were away are served from the history, and miss what is gone there.
const CONFIG: &str = r#"
[[class]]
pattern = "kept.**"
kind = "durable"
history_events = KEPT
log_events = 16

[[class]]
pattern = "aged.**"
kind = "durable"
history_age = "KEPT_MSms"
log_events = 16

[[class]]
pattern = "d.**"
kind = "durable"
history_events = 2000000
log_events = 32
"#;

/// See the module. Nodes end before their Redis.
pub struct Cluster {
    servers: Vec<Option<TestServer>>,
    pub nodes: Nodes,
    redis: Option<RedisServer>,
    /// Planted in each node (`src/mutant.rs`); `None` in sound ones.
    fault: Option<String>,
}

impl Cluster {
    /// So many nodes on a Redis that keeps what it has acknowledged.
    pub fn on_redis(count: usize, fault: Option<&str>) -> Cluster {
        let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
        Cluster::start(count, Some(redis), fault)
    }

    /// So many nodes on a Redis that keeps what it is told to save.
    pub fn on_forgetful_redis(count: usize, fault: Option<&str>) -> Cluster {
        Cluster::start(count, Some(RedisServer::start()), fault)
    }

    /// One node, without a Redis.
    pub fn embedded(fault: Option<&str>) -> Cluster {
        Cluster::start(1, None, fault)
    }

    fn start(count: usize, redis: Option<RedisServer>, fault: Option<&str>) -> Cluster {
        let nodes = Arc::new(Mutex::new(vec![None; count]));
        let servers = (0..count).map(|_| None).collect();
        let mut cluster = Cluster { servers, nodes, redis, fault: fault.map(str::to_owned) };
        (0..count).for_each(|node| cluster.start_node(node));
        cluster
    }

    pub fn redis(&mut self) -> &mut RedisServer {
        self.redis.as_mut().expect("this cluster has a Redis")
    }

    pub fn len(&self) -> usize {
        self.servers.len()
    }

    pub fn node(&self, node: usize) -> &TestServer {
        self.servers[node].as_ref().expect("the node runs")
    }

    /// Connections to Redis that all nodes had to make again.
    pub fn reconnects(&self) -> u64 {
        self.servers.iter().flatten().map(|server| server.metric("fanwheel_redis_reconnects_total") as u64).sum()
    }

    pub fn start_node(&mut self, node: usize) {
        let launch = Launch::serve()
            .config(&CONFIG.replace("KEPT_MS", &KEPT_MS.to_string()).replace("KEPT", &KEPT.to_string()))
            .flag("--shards", "2");
        let launch = match &self.redis {
            Some(redis) => launch.flag("--redis", &redis.url()),
            None => launch,
        };
        let launch = match &self.fault {
            Some(fault) => launch.variable("FANWHEEL_MUTANT", fault),
            None => launch,
        };
        let server = launch.start();
        self.nodes.lock().unwrap()[node] = Some(server.public);
        self.servers[node] = Some(server);
    }

    /// Stops a node in its tracks. Nobody connects to it any more; the kernel goes on answering for it.
    pub fn pause_node(&mut self, node: usize) {
        self.nodes.lock().unwrap()[node] = None;
        self.node(node).signal(Signal::STOP);
    }

    /// Lets clients connect to a node that stands still.
    pub fn show_node(&mut self, node: usize) {
        self.nodes.lock().unwrap()[node] = Some(self.node(node).public);
    }

    /// Ends `pause_node`.
    pub fn unpause_node(&mut self, node: usize) {
        self.show_node(node);
        self.node(node).signal(Signal::CONT);
    }

    /// Ends a node as a crash would.
    pub fn kill_node(&mut self, node: usize) {
        self.nodes.lock().unwrap()[node] = None;
        self.servers[node] = None;
    }
}
