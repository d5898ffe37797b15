//! How long a resume takes, in a long history and in a short one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use checker::history::{Id, Report};
use serde_json::json;

use super::super::decode::{Block, Decoder};
use super::super::{Case, Outcome};
use super::cluster::Cluster;
use crate::common::fetch::raw;
use crate::common::{PATIENCE, Wire};

/// Events of a page of `POST /publish`.
const PAGE: u64 = 1_000;
/// Resumes that a latency is the median of.
const RESUMES: usize = 21;

/// What a resume costs does not depend on how much history lies before it.
pub fn depth(cluster: &Cluster, case: &Case) -> Outcome {
    let shallow = resume_latency(cluster, "d.shallow", PAGE);
    let deep = resume_latency(cluster, "d.deep", case.count.max(PAGE));
    let ratio = deep.as_secs_f64() / shallow.as_secs_f64();
    let figures = format!(
        "resume {} us of {PAGE}, {} us of {}: ratio {ratio:.2}",
        shallow.as_micros(),
        deep.as_micros(),
        case.count
    );
    Outcome { figures, ..Outcome::of(Report::default()) }
}

fn resume_latency(cluster: &Cluster, topic: &str, count: u64) -> Duration {
    let address = cluster.node(0).public;
    let mut wire = Wire::connect(address);
    let mut last_page = Vec::new();
    for page in 0..count.div_ceil(PAGE) {
        let event = |number: u64| json!({"topic": topic, "data": format!("{page} {number}")});
        let body = json!((0..PAGE).map(event).collect::<Vec<_>>()).to_string();
        let answer = wire.ask("POST", "/publish", &[], body.as_bytes());
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let ids = answer.json();
        last_page = ids.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    }
    let after = &last_page[last_page.len() - 11];
    let mut times: Vec<Duration> = (0..RESUMES).map(|_| time_to_resume(address, topic, after)).collect();
    times.sort_unstable();
    times[RESUMES / 2]
}

/// From the request to the ten events that are missing.
fn time_to_resume(address: SocketAddr, topic: &str, after: &str) -> Duration {
    let mut wire = Wire::connect(address);
    let begun = Instant::now();
    wire.send(&raw("GET", &format!("/events?topic={topic}"), &[("last-event-id", after)], b""));
    let (mut decoder, mut events, mut last) = (Decoder::default(), 0, Id::parse(after));
    while events < 10 {
        assert_eq!(wire.fill(begun + PATIENCE), Some(true), "{events} of 10 events came");
        let bytes = wire.take(wire.unread().len());
        let hear = |block: Block<'_>| {
            if block.name == "message" {
                let id = block.id.and_then(Id::parse);
                assert!(id.map(|id| id.stamp) > last.map(|id| id.stamp), "{block:?} after {last:?}");
                (events, last) = (events + 1, id);
            }
        };
        decoder.decode(&bytes, hear).unwrap();
    }
    begun.elapsed()
}
