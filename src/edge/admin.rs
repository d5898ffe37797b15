//! The admin listener: `/metrics`, `/healthz`, `/readyz`, `/status`, and a dashboard at `/`.
//!
//! It runs on a thread of its own, so that it can say that a shard does not turn. Every answer asks
//! all shards; health that cannot fail would be no health.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::warn;

use crate::clock::Clock;
use crate::edge::HEAD_TIMEOUT;
use crate::edge::admission::{Admissions, Surplus};
use crate::edge::calls::{Peers, Report};
use crate::edge::desk::OUTCOMES;
use crate::edge::http::answer::{Answer, Problem, json};
use crate::edge::http::fixed;
use crate::engine::wheel::TICK_MS;
use crate::engine::{CloseReason, Counters};
use crate::frame::control::ResetReason;
use crate::metrics::{Page, SourceCounters, Told};
use crate::shutdown::Stop;

/// Connections served at once; an operator's tools need few.
const CONNECTIONS_MAX: usize = 64;
/// A refused subscription turns readiness red for this long.
const REFUSAL_RED_MS: u64 = 30_000;

/// What the admin listener tells about.
#[derive(Debug)]
pub struct Admin {
    /// All shards.
    pub peers: Peers,
    /// What each shard's source counts.
    pub sources: Vec<Arc<SourceCounters>>,
    /// Connections of the node.
    pub admissions: Arc<Admissions>,
    /// Whether the node stops.
    pub stop: Stop,
    /// The node's clock.
    pub clock: Clock,
    /// What feeds the node, as operators call it.
    pub source: String,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    uptime_s: u64,
    shards: usize,
    connections: usize,
    topics: usize,
    redis: Redis<'a>,
    memory_bytes: u64,
    events: u64,
    deliveries: u64,
}

#[derive(Serialize)]
struct Redis<'a> {
    source: &'a str,
    connected: bool,
    reconnects: u64,
    /// `null` for the embedded broker, and while nothing is known.
    version: Option<String>,
    role: Option<String>,
    last_error: Option<String>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let admin = Arc::clone(&admin);
                tokio::task::spawn_local(async move {
                    let service =
                        service_fn(async |request| Ok::<_, Infallible>(answer(request, &admin).await.map(Full::new)));
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(socket), service);
                    // A scraper that went away needs no answer.
                    let _ = connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "the admin listener cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }
}

async fn answer(request: Request<Incoming>, admin: &Admin) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Problem::method_not_allowed("GET, HEAD").into_answer();
    }
    let path = request.uri().path();
    if path == "/" {
        return fixed("text/html; charset=utf-8", include_str!("http/pages/dashboard.html"));
    }
    if !["/metrics", "/healthz", "/readyz", "/status"].contains(&path) {
        return Problem::not_found().into_answer();
    }
    let reports = admin.peers.reports().await;
    match path {
        "/metrics" => admin.metrics(&reports),
        "/healthz" => health(&reports),
        "/readyz" => readiness(admin.objections(&reports)),
        _ => admin.status(&reports),
    }
}

/// 200 while every shard turns.
fn health(reports: &[Option<Box<Report>>]) -> Answer {
    let still: Vec<usize> = (0..reports.len()).filter(|&shard| reports[shard].is_none()).collect();
    if still.is_empty() {
        return json(StatusCode::OK, &serde_json::json!({"healthy": true}));
    }
    json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({"healthy": false, "shards_not_turning": still}))
}

/// Why streams cannot be opened, or would not be fed; nothing when they can and will.
fn objections(reports: &[Option<Box<Report>>], sources: &[Arc<SourceCounters>], stops: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if stops {
        reasons.push("the node is stopping".to_owned());
    }
    for (shard, (report, source)) in reports.iter().zip(sources).enumerate() {
        match report {
            None => reasons.push(format!("shard {shard} does not turn")),
            Some(report) => match (source.told().trouble, report.gauges.source_connected) {
                (Some(trouble), _) => reasons.push(format!("shard {shard} is not fed by its source: {trouble}")),
                (None, false) => reasons.push(format!("shard {shard} is not fed by its source")),
                (None, true) => {}
            },
        }
        if let Some(report) = report {
            let refused_ms = report.gauges.refused_ticks.map(|ticks| u64::from(ticks) * TICK_MS);
            if refused_ms.is_some_and(|ms| ms < REFUSAL_RED_MS) {
                reasons.push(format!("the source refused shard {shard} a subscription"));
            }
        }
    }
    reasons
}

/// 200 when streams can be opened and will be fed.
fn readiness(reasons: Vec<String>) -> Answer {
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &Readiness { ready, reasons })
}

impl Admin {
    fn objections(&self, reports: &[Option<Box<Report>>]) -> Vec<String> {
        objections(reports, &self.sources, self.stop.is_set())
    }

    fn status(&self, reports: &[Option<Box<Report>>]) -> Answer {
        let present = || reports.iter().flatten();
        let told: Vec<Told> = self.sources.iter().map(|source| source.told()).collect();
        let connected = present().count() == reports.len()
            && present().all(|report| report.gauges.source_connected)
            && told.iter().all(|told| told.trouble.is_none());
        let reconnects = self.sources.iter().map(|source| source.reconnects.load(Ordering::Relaxed)).sum();
        let status = Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.clock.uptime_s(),
            shards: reports.len(),
            connections: self.admissions.len(),
            topics: present().map(|report| report.gauges.topics).sum(),
            redis: Redis {
                source: &self.source,
                connected,
                reconnects,
                version: told.iter().find_map(|told| told.version.clone()),
                role: told.iter().find_map(|told| told.role.clone()),
                last_error: told.iter().find_map(|told| told.trouble.clone().or(told.last_error.clone())),
            },
            memory_bytes: resident_bytes(),
            events: present().map(|report| report.counters.events).sum(),
            deliveries: present().map(|report| report.counters.deliveries).sum(),
        };
        json(StatusCode::OK, &status)
    }

    fn metrics(&self, reports: &[Option<Box<Report>>]) -> Answer {
        let text = self.page(reports).into_text();
        let mut answer = Answer::new(bytes::Bytes::from(text));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Page::CONTENT_TYPE));
        answer
    }

    /// Everything an operator may ask for. Shards are summed here; none of them shares a counter.
    fn page(&self, reports: &[Option<Box<Report>>]) -> Page {
        let present: Vec<&Report> = reports.iter().flatten().map(AsRef::as_ref).collect();
        let sum = |of: &dyn Fn(&Counters) -> u64| present.iter().map(|report| of(&report.counters)).sum::<u64>();
        let held = |of: &dyn Fn(&Report) -> usize| present.iter().map(|report| of(report)).sum::<usize>() as f64;
        let source = |of: &dyn Fn(&SourceCounters) -> u64| self.sources.iter().map(|one| of(one)).sum::<u64>();
        let loaded = Ordering::Relaxed;
        let mut page = Page::default();

        let websockets = held(&|report| report.gauges.websockets);
        let streams = held(&|report| report.gauges.connections);
        let heads = (self.admissions.len() as f64 - streams).max(0.0);
        page.gauges(
            "fanwheel_connections",
            "Connections on the public listener: event streams, WebSockets, and HTTP connections that are none (yet)",
            [("sse", streams - websockets), ("websocket", websockets), ("http", heads)]
                .map(|(transport, count)| (vec![("transport", transport)], count)),
        );
        page.counters(
            "fanwheel_connections_closed",
            "Streams closed, by reason",
            CloseReason::ALL
                .map(|reason| (vec![("reason", reason.label())], sum(&|counters| counters.closed[reason as usize]))),
        );
        page.counters(
            "fanwheel_connections_turned_away",
            "Connections that found no place, by the limit that was reached",
            Surplus::ALL.map(|why| (vec![("reason", why.label())], self.admissions.surplus(why))),
        );
        page.gauge("fanwheel_connections_limit", "Connections there may be at once", self.admissions.max() as f64);
        page.counters(
            "fanwheel_publishes",
            "Events published over HTTP, by outcome: taken by the source, certainly not, or not known",
            OUTCOMES.iter().enumerate().map(|(index, &outcome)| {
                (vec![("outcome", outcome)], present.iter().map(|report| report.published[index]).sum())
            }),
        );
        page.counter("fanwheel_streams_opened", "Streams opened", sum(&|counters| counters.opened));
        page.counter(
            "fanwheel_events_received",
            "Events taken from the source; one that several shards follow counts once for each",
            source(&|source| source.events.load(loaded)),
        );
        page.counter(
            "fanwheel_events_unwanted",
            "Events nobody follows any more",
            sum(&|counters| counters.events_unwanted),
        );
        page.counter(
            "fanwheel_events_strange",
            "Events of durable topics whose tag their history does not know",
            sum(&|counters| counters.events_strange),
        );
        page.counter("fanwheel_deliveries", "Events handed to sockets", sum(&|counters| counters.deliveries));
        page.counter("fanwheel_sends", "Calls of send()", sum(&|counters| counters.sends));
        page.counter("fanwheel_sent_bytes", "Bytes accepted by sockets", sum(&|counters| counters.bytes_sent));
        page.counter("fanwheel_heartbeats", "Heartbeats sent", sum(&|counters| counters.heartbeats));
        let merged = |of: &dyn Fn(&Counters) -> &crate::metrics::Histogram| {
            let mut all = crate::metrics::Histogram::default();
            present.iter().for_each(|report| all.merge(of(&report.counters)));
            all
        };
        page.histogram(
            "fanwheel_publish_to_write_seconds",
            "From an event's arrival at the node until the last ready reader of a shard was handed it",
            merged(&|counters| &counters.publish_to_write_us),
            1e-6,
        );
        page.histogram("fanwheel_batch_events", "Events per write", merged(&|counters| &counters.batch_events), 1.0);

        page.gauge("fanwheel_readers_blocked", "Streams whose socket is full", held(&|report| report.gauges.blocked));
        page.counter(
            "fanwheel_reader_blocks",
            "Times a socket took less than it was given",
            sum(&|counters| counters.blocked),
        );
        page.counters(
            "fanwheel_resets",
            "Streams told of a loss, by reason",
            ResetReason::ALL
                .map(|reason| (vec![("reason", reason.label())], sum(&|counters| counters.resets[reason as usize]))),
        );
        page.counter(
            "fanwheel_replays",
            "Times a stream was served from a position in the history",
            sum(&|counters| counters.replays),
        );
        page.counter("fanwheel_history_reads", "Reads of the history", sum(&|counters| counters.reads));
        page.counter(
            "fanwheel_repairs",
            "Times a shard caught up from the history with what it had missed",
            sum(&|counters| counters.repairs),
        );
        page.gauge(
            "fanwheel_log_bytes",
            "Bytes of logs and of unfinished writes",
            held(&|report| report.gauges.log_bytes),
        );
        page.counter("fanwheel_log_evictions", "Events that left a log", sum(&|counters| counters.evictions));
        page.counter("fanwheel_log_full", "Times an event waited for a sweep", sum(&|counters| counters.log_full));
        page.gauge("fanwheel_topics", "Topics followed, per shard", held(&|report| report.gauges.topics));
        page.gauge(
            "fanwheel_topics_unconfirmed",
            "Topics whose subscription the source has not confirmed",
            held(&|report| report.gauges.topics_unconfirmed),
        );
        page.gauge("fanwheel_timers", "Timers on the wheels", held(&|report| report.gauges.timers));
        page.gauge(
            "fanwheel_run_queue",
            "Topics and readers waiting to be served",
            held(&|report| report.gauges.run_queue),
        );
        page.gauge(
            "fanwheel_inbox_messages",
            "Messages waiting between source and shards",
            held(&|report| report.inbox_len),
        );
        page.counter(
            "fanwheel_inbox_dropped",
            "Messages dropped because an inbox was full",
            present.iter().map(|report| report.inbox_dropped).sum(),
        );
        page.counter("fanwheel_turns", "Turns of the shards' loops", present.iter().map(|report| report.turns).sum());

        let connected = present.iter().filter(|report| report.gauges.source_connected).count();
        page.gauge("fanwheel_source_connected", "Shards connected to their source", connected as f64);
        page.counter(
            "fanwheel_redis_reconnects",
            "Subscriber connections lost and made again",
            source(&|source| source.reconnects.load(loaded)),
        );
        page.counter("fanwheel_source_not_utf8", "Payloads mended", source(&|source| source.not_utf8.load(loaded)));
        page.counter("fanwheel_source_too_large", "Payloads dropped", source(&|source| source.too_large.load(loaded)));
        page.counter(
            "fanwheel_source_malformed",
            "Envelopes not understood",
            source(&|source| source.malformed.load(loaded)),
        );
        page.counter(
            "fanwheel_source_foreign",
            "Messages on durable topics that are none of Fanwheel's and were not delivered",
            source(&|source| source.foreign.load(loaded)),
        );
        page.gauge("fanwheel_shards", "Shards", reports.len() as f64);
        page.gauge("fanwheel_shards_turning", "Shards that answered this scrape", present.len() as f64);
        let ready = self.objections(reports).is_empty();
        page.gauge("fanwheel_ready", "1 when `/readyz` answers 200, else 0", f64::from(u8::from(ready)));
        page.gauges(
            "fanwheel_build_info",
            "1, with the version as label",
            [(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        );
        page.gauge("fanwheel_descriptors_open", "Open descriptors of the process", open_descriptors() as f64);
        page.gauge("fanwheel_uptime_seconds", "Since the start", self.clock.uptime_s() as f64);
        page.gauge("fanwheel_memory_resident_bytes", "Resident memory of the process", resident_bytes() as f64);
        page
    }
}

/// Open descriptors of this process; 0 where `/proc` is not mounted.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Resident memory of this process; 0 where `/proc` is not mounted.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| {
        let field = text.split_whitespace().nth(1)?;
        field.parse::<u64>().ok()
    });
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
