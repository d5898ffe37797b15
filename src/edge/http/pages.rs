//! The demo's pages: one document each, without outside assets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;

use crate::edge::desk::Desk;
use crate::edge::http::answer::{Answer, Problem, json};
use crate::edge::http::fixed;
use crate::metrics::SourceCounters;

/// What the pages tell about the node.
#[derive(Debug, Clone)]
pub struct Pages {
    /// The feed's symbols; empty where no feed runs.
    pub symbols: Vec<&'static str>,
    /// What feeds the node.
    pub source: &'static str,
    /// What each shard's source counts.
    pub counters: Vec<Arc<SourceCounters>>,
}

#[derive(Serialize)]
struct Node<'a> {
    symbols: &'a [&'static str],
    version: &'static str,
    source: &'static str,
    source_connected: bool,
    shards: usize,
    uptime_s: u64,
    connections: usize,
    events_received: u64,
    deliveries: u64,
}

impl Pages {
    /// Answers what is asked of the pages' paths.
    pub async fn answer(&self, request: &Request<Incoming>, desk: &Desk) -> Result<Answer, Problem> {
        let path = request.uri().path();
        if !matches!(path, "/" | "/demo/node") {
            return Err(Problem::not_found());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Problem::method_not_allowed("GET, HEAD"));
        }
        if path == "/" {
            return Ok(fixed("text/html; charset=utf-8", include_str!("pages/ticker.html")));
        }
        Ok(json(StatusCode::OK, &self.node(desk).await))
    }

    async fn node(&self, desk: &Desk) -> Node<'_> {
        let reports = desk.node.peers.reports().await;
        Node {
            symbols: &self.symbols,
            version: env!("CARGO_PKG_VERSION"),
            source: self.source,
            // A shard that does not answer cannot be said to be connected.
            source_connected: reports
                .iter()
                .all(|one| one.as_ref().is_some_and(|report| report.gauges.source_connected)),
            shards: reports.len(),
            uptime_s: desk.node.clock.uptime_s(),
            connections: desk.node.admissions.len(),
            events_received: self.counters.iter().map(|one| one.events.load(Ordering::Relaxed)).sum(),
            deliveries: reports.iter().flatten().map(|report| report.counters.deliveries).sum(),
        }
    }
}
