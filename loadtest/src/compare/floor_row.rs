//! A scenario as the floor can do it, and its figures under the names that servers' have.

use anyhow::Result;
use serde_json::{Value, json};

use crate::floor::{self, FloorPlan};
use crate::run::Flags;
use crate::schedule::Schedule;

/// Why comparing with it is fair.
pub(super) const NOTE: &str = "Bare send() calls over an array of sockets: nothing is parsed, looked up or decided. \
    What it costs, the kernel costs, for everybody. Bursts go out in one send; where more than 120,000 deliveries a \
    second are offered it has as many of them to do, and in a saturation search it sends one event at a time as fast as \
    it goes. Streams that come and go or read slowly are left out: it is the floor of the undisturbed run";

/// Deliveries a second at which the cost of a send is taken: single sends reach twice as many on a core.
const OFFERED_MAX: f64 = 120_000.0;

/// Measures the floor in the scenario's place.
pub(super) fn measure(flags: &Flags) -> Result<Value> {
    let report = floor::measure(&FloorPlan::parse(arguments(flags).iter().map(String::as_str))?)?;
    let mut value = serde_json::to_value(report)?;
    let leaf = |value: &Value, group: &str, name: &str| value[group][name].clone();
    let rate = leaf(&value, "floor", "deliveries_per_s");
    let server = json!({
        "server_cpu_us_per_delivery": leaf(&value, "floor", "floor_cpu_us_per_delivery"),
        "server_open_us": leaf(&value, "opening", "floor_accept_us"),
    });
    if flags.search.is_some() {
        value["search"] = json!({ "held_deliveries_per_s": rate });
    }
    value["server"] = server;
    Ok(value)
}

fn arguments(flags: &Flags) -> Vec<String> {
    let seconds = |duration: std::time::Duration| format!("{}s", duration.as_secs_f64());
    let mut arguments = vec![
        format!("--streams={}", flags.streams),
        format!("--hold={}", seconds(flags.hold)),
        format!("--settle={}", seconds(flags.settle)),
        format!("--ramp={}", flags.ramp),
        format!("--opening-max={}", flags.opening_max),
    ];
    if flags.rate == 0.0 {
        arguments.push("--accept".to_owned());
        return arguments;
    }
    let topics = flags.topic_count.unwrap_or(1);
    let groups = (topics / flags.topics_per_stream.unwrap_or(topics)).max(1);
    let rate_max = OFFERED_MAX * groups as f64 / flags.streams as f64;
    let rate = match flags.schedule {
        _ if flags.search.is_some() => 0.0,
        Schedule::Bursts(_) => flags.rate,
        _ => flags.rate.min(rate_max),
    };
    arguments.push(format!("--rate={rate}"));
    arguments.push(format!("--duration={}", seconds(flags.duration)));
    arguments.push(format!("--payload={}", flags.payload));
    arguments.push(format!("--groups={groups}"));
    if let Schedule::Bursts(size) = flags.schedule {
        arguments.push(format!("--coalesce={size}"));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Scenario;

    fn arguments_of(scenario: &str) -> Vec<String> {
        arguments(&Scenario::load(scenario).unwrap().to_flags(scenario, &[]).unwrap())
    }

    #[test]
    fn where_nothing_is_sent_streams_are_accepted_and_held_as_long_as_servers_hold_them() {
        assert_eq!(
            arguments_of("idle"),
            ["--streams=18000", "--hold=10s", "--settle=3s", "--ramp=5000", "--opening-max=512", "--accept"]
        );
        let storm = arguments_of("connect-storm");
        assert!(storm.contains(&"--ramp=1000000".to_owned()) && storm.contains(&"--accept".to_owned()), "{storm:?}");
    }

    #[test]
    fn no_more_is_offered_than_sends_reach_and_a_calm_phase_is_left_out() {
        // 10,000 streams: 12 events a second are 120,000 deliveries.
        let overload = arguments_of("overload");
        assert!(overload.contains(&"--rate=12".to_owned()), "{overload:?}");
        assert!(overload.contains(&"--duration=30s".to_owned()), "{overload:?}");
    }
}
