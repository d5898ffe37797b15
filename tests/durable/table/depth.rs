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
/// Events that are missed: more than a node has in its log and of its tail, so that the history is asked.
const MISSED: usize = 200;
/// Resumes that a latency is the median of.
const RESUMES: usize = 101;

/// What a resume costs does not depend on how much history lies before it.
pub fn depth(cluster: &Cluster, case: &Case) -> Outcome {
    let address = cluster.node(0).public;
    let histories = [("d.shallow", PAGE), ("d.deep", case.count.max(PAGE))];
    let newest = histories.map(|(topic, count)| fill(address, topic, count));
    let mut times = [const { Vec::new() }; 2];
    // In turn, so that what else the machine does slows down both; each at a place of its own.
    for resume in 0..RESUMES {
        for (which, (topic, _)) in histories.iter().enumerate() {
            let after = &newest[which][newest[which].len() - 1 - MISSED - resume];
            times[which].push(time_to_resume(address, topic, after));
        }
    }
    let [shallow, deep] = times.map(|mut times| {
        times.sort_unstable();
        times[RESUMES / 2]
    });
    let ratio = deep.as_secs_f64() / shallow.as_secs_f64();
    let (shallow, deep) = (shallow.as_micros(), deep.as_micros());
    let figures = format!("resume {shallow} us of {PAGE}, {deep} us of {}: ratio {ratio:.2}", case.count);
    // A look-up that walks the history takes thousands of times as long: an ordinary run finds that too.
    let most = if case.full { 1.5 } else { 5.0 };
    Outcome { figures, missed_targets: u64::from(ratio > most), ..Outcome::of(Report::default()) }
}

/// Publishes so many events. The ids of the newest page, oldest first.
fn fill(address: SocketAddr, topic: &str, count: u64) -> Vec<String> {
    let mut wire = Wire::connect(address);
    let mut newest = Vec::new();
    for page in 0..count.div_ceil(PAGE) {
        let event = |number: u64| json!({"topic": topic, "data": format!("{page} {number}")});
        let body = json!((0..PAGE).map(event).collect::<Vec<_>>()).to_string();
        let answer = wire.ask("POST", "/publish", &[], body.as_bytes());
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let ids = answer.json();
        newest = ids.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    }
    newest
}

/// From the request to the last of so many events that were missed.
fn time_to_resume(address: SocketAddr, topic: &str, after: &str) -> Duration {
    let mut wire = Wire::connect(address);
    let begun = Instant::now();
    wire.send(&raw("GET", &format!("/events?topic={topic}"), &[("last-event-id", after)], b""));
    let (mut decoder, mut events, mut last) = (Decoder::default(), 0, Id::parse(after));
    while events < MISSED {
        assert_eq!(wire.fill(begun + PATIENCE), Some(true), "{events} of {MISSED} events came");
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
