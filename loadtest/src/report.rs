//! The figures of a run: as JSON for programs, as a table for people.
//!
//! In the JSON no two leaves have the same name, so that a figure can be named without its group.
//! What was not measured is `null`, never 0.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::latency::Latencies;

/// Everything `--json` writes.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) loadtest_version: &'static str,
    /// True exactly when `faults` is empty; decides the exit code.
    pub(crate) passed: bool,
    /// What was wrong, in words.
    pub(crate) faults: Vec<String>,
    /// What may have disturbed the measurement, in words.
    pub(crate) remarks: Vec<String>,
    pub(crate) setup: Setup,
    pub(crate) opening: Opening,
    pub(crate) publishing: Option<Publishing>,
    pub(crate) deliveries: Deliveries,
    pub(crate) latency: Option<Latency>,
    pub(crate) server: Option<Server>,
    /// What the server's own counters grew by while publishing.
    pub(crate) server_metrics: Option<BTreeMap<String, f64>>,
    pub(crate) client: Client,
    pub(crate) stalled: Option<Stalled>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Setup {
    pub(crate) url: String,
    pub(crate) streams: usize,
    pub(crate) topics: usize,
    pub(crate) processes: usize,
    pub(crate) publishers: usize,
    pub(crate) rate_per_s: f64,
    pub(crate) payload_bytes: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Opening {
    pub(crate) opened: usize,
    /// Streams that never opened.
    pub(crate) failed: usize,
    /// Streams the server ended before the end of the run.
    pub(crate) closed_early: usize,
    pub(crate) opening_s: f64,
    /// From connect to open.
    pub(crate) open_p50_ms: Option<f64>,
    pub(crate) open_p99_ms: Option<f64>,
    pub(crate) open_max_ms: Option<f64>,
    pub(crate) stream_error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Publishing {
    pub(crate) planned: u64,
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
    pub(crate) publishing_s: f64,
    pub(crate) sent_per_s: f64,
    /// Sent − intended.
    pub(crate) late_p50_ms: f64,
    pub(crate) late_p99_ms: f64,
    pub(crate) late_max_ms: f64,
    pub(crate) publish_error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Deliveries {
    pub(crate) expected: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Not received, but told by a reset.
    pub(crate) told: u64,
    pub(crate) doubled: u64,
    pub(crate) out_of_order: u64,
    pub(crate) phantoms: u64,
    pub(crate) malformed: u64,
    /// Events of others on the same topics.
    pub(crate) foreign: u64,
    /// Published after the server had ended the stream.
    pub(crate) missed_after_close: u64,
    /// Orders of a topic among streams with equally many events: 1 when all agree.
    pub(crate) orders_seen: u64,
    /// From the first publish to the last delivery.
    pub(crate) deliveries_per_s: Option<f64>,
    pub(crate) events_per_read: Option<f64>,
    /// Blocks `fanwheel.reset`.
    pub(crate) resets: u64,
    pub(crate) resets_by_reason: BTreeMap<String, u64>,
    pub(crate) drains: u64,
    pub(crate) unavailable: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    /// From the publisher's write to the end of the subscriber's read.
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) mean_ms: f64,
    /// The same from the time the schedule intended.
    pub(crate) intended_p50_ms: f64,
    pub(crate) intended_p90_ms: f64,
    pub(crate) intended_p99_ms: f64,
    pub(crate) intended_p999_ms: f64,
    pub(crate) intended_max_ms: f64,
    pub(crate) intended_mean_ms: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) server_pid: u32,
    /// Between the first publish and the last delivery.
    pub(crate) server_user_s: Option<f64>,
    pub(crate) server_system_s: Option<f64>,
    pub(crate) server_cpu_us_per_delivery: Option<f64>,
    pub(crate) pss_before_bytes: Option<u64>,
    /// All streams open, nothing published yet.
    pub(crate) pss_idle_bytes: Option<u64>,
    pub(crate) pss_per_stream_bytes: Option<f64>,
    /// After publishing, all streams still open.
    pub(crate) pss_loaded_bytes: Option<u64>,
    /// After the streams were closed (`--linger`).
    pub(crate) pss_after_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Client {
    pub(crate) subscribers_user_s: f64,
    pub(crate) subscribers_system_s: f64,
    pub(crate) subscribers_us_per_delivery: Option<f64>,
    pub(crate) publishers_cpu_s: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stalled {
    pub(crate) stalled_streams: usize,
    pub(crate) stalled_opened: usize,
    pub(crate) stalled_closed: usize,
    /// From the first publish.
    pub(crate) stalled_close_min_s: Option<f64>,
    pub(crate) stalled_close_median_s: Option<f64>,
    pub(crate) stalled_close_max_s: Option<f64>,
}

impl Latency {
    pub(crate) fn of(publish: &Latencies, intended: &Latencies) -> Option<Self> {
        (!publish.is_empty()).then(|| Self {
            p50_ms: publish.ms_at(0.5),
            p90_ms: publish.ms_at(0.9),
            p99_ms: publish.ms_at(0.99),
            p999_ms: publish.ms_at(0.999),
            max_ms: publish.max_ms(),
            mean_ms: publish.mean_ms(),
            intended_p50_ms: intended.ms_at(0.5),
            intended_p90_ms: intended.ms_at(0.9),
            intended_p99_ms: intended.ms_at(0.99),
            intended_p999_ms: intended.ms_at(0.999),
            intended_max_ms: intended.max_ms(),
            intended_mean_ms: intended.mean_ms(),
        })
    }
}

impl Report {
    /// What makes a run fail.
    pub(crate) fn find_faults(&mut self) {
        let d = &self.deliveries;
        let mut faults = Vec::new();
        let mut count = |n: u64, what: &str| {
            if n > 0 {
                faults.push(format!("{n} {what}"));
            }
        };
        count(d.lost, "deliveries lost");
        count(d.doubled, "deliveries doubled");
        count(d.out_of_order, "deliveries out of order");
        count(d.phantoms, "events delivered that were never published");
        count(d.malformed, "events altered on the way");
        count(self.opening.failed as u64, "streams did not open");
        count(self.opening.closed_early as u64, "streams ended by the server");
        if d.orders_seen > 1 {
            faults.push(format!("{} different orders of the same events", d.orders_seen));
        }
        if self.publishing.as_ref().is_some_and(|publishing| publishing.accepted == 0) {
            faults.push("no publish was accepted".to_owned());
        }
        self.passed = faults.is_empty();
        self.faults = faults;
    }
}

/// The table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table(f);
        self.write_streams(&mut table)?;
        self.write_deliveries(&mut table)?;
        self.write_costs(&mut table)?;
        for remark in &self.remarks {
            writeln!(table.0, "note: {remark}")?;
        }
        for fault in &self.faults {
            writeln!(table.0, "FAULT: {fault}")?;
        }
        writeln!(table.0, "{}", if self.passed { "passed" } else { "FAILED" })
    }
}

impl Report {
    fn write_streams(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        let (s, o) = (&self.setup, &self.opening);
        table.line(
            "streams",
            &format!("{} on {} topic(s), {} process(es), {}", grouped(s.streams), s.topics, s.processes, s.url),
        )?;
        table.line(
            "opened",
            &format!(
                "{} in {:.2} s, {} failed, {} closed early",
                grouped(o.opened),
                o.opening_s,
                o.failed,
                o.closed_early
            ),
        )?;
        if let (Some(p50), Some(p99), Some(max)) = (o.open_p50_ms, o.open_p99_ms, o.open_max_ms) {
            table.line("connect → open", &format!("p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms"))?;
        }
        if let Some(error) = &o.stream_error {
            table.line("first stream error", error)?;
        }
        let Some(p) = &self.publishing else {
            return table.line("published", "nothing (--rate 0)");
        };
        table.line(
            "published",
            &format!(
                "{} of {} in {:.2} s ({:.1}/s), {} accepted, {} refused, {} unanswered",
                grouped(p.sent),
                grouped(p.planned),
                p.publishing_s,
                p.sent_per_s,
                grouped(p.accepted),
                p.refused,
                p.unanswered,
            ),
        )?;
        table.line(
            "sent late by",
            &format!("p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms", p.late_p50_ms, p.late_p99_ms, p.late_max_ms),
        )?;
        p.publish_error.as_ref().map_or(Ok(()), |error| table.line("first publish error", error))
    }

    fn write_deliveries(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        let d = &self.deliveries;
        let rate =
            d.deliveries_per_s.map_or(String::new(), |rate| format!(", {} per second", grouped(rate.round() as u64)));
        table.line("deliveries", &format!("{} of {} expected{rate}", grouped(d.received), grouped(d.expected)))?;
        table.line("lost", &grouped(d.lost))?;
        table.line("doubled", &grouped(d.doubled))?;
        table.line("out of order", &grouped(d.out_of_order))?;
        table.line("orders seen", &grouped(d.orders_seen))?;
        table
            .line("told by resets", &format!("{} (resets: {} {:?})", grouped(d.told), d.resets, d.resets_by_reason))?;
        for (name, count) in [
            ("phantoms", d.phantoms),
            ("malformed", d.malformed),
            ("foreign events", d.foreign),
            ("missed after close", d.missed_after_close),
            ("drains", d.drains),
            ("unavailable", d.unavailable),
        ] {
            if count > 0 {
                table.line(name, &grouped(count))?;
            }
        }
        let Some(l) = &self.latency else {
            return Ok(());
        };
        let row = |p50, p90, p99, p999, max| {
            format!("p50 {p50:.3}  p90 {p90:.3}  p99 {p99:.3}  p99.9 {p999:.3}  max {max:.3} ms")
        };
        table.line("publish → receive", &row(l.p50_ms, l.p90_ms, l.p99_ms, l.p999_ms, l.max_ms))?;
        table.line(
            "intended → receive",
            &row(l.intended_p50_ms, l.intended_p90_ms, l.intended_p99_ms, l.intended_p999_ms, l.intended_max_ms),
        )
    }

    fn write_costs(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        if let Some(s) = &self.server {
            let cpu = s.server_user_s.zip(s.server_system_s);
            let cpu = cpu.map(|(user, system)| format!("{user:.2} s user, {system:.2} s system"));
            let each = s.server_cpu_us_per_delivery.map(|us| format!(", {us:.2} µs per delivery"));
            table.line("server CPU", &format!("{}{}", or_unmeasured(cpu), each.unwrap_or_default()))?;
            let kib = |bytes: Option<u64>| or_unmeasured(bytes.map(|bytes| format!("{} KiB", grouped(bytes / 1024))));
            let growth = s.pss_per_stream_bytes.map(|bytes| format!(" ({bytes:.0} bytes per stream)"));
            table.line(
                "server PSS",
                &format!(
                    "before {}, idle {}{}, loaded {}",
                    kib(s.pss_before_bytes),
                    kib(s.pss_idle_bytes),
                    growth.unwrap_or_default(),
                    kib(s.pss_loaded_bytes)
                ),
            )?;
            if s.pss_after_bytes.is_some() {
                table.line("server PSS, streams closed", &kib(s.pss_after_bytes))?;
            }
        } else {
            table.line("server CPU and PSS", "not measured (--server-pid)")?;
        }
        for (name, grown) in self.server_metrics.iter().flatten() {
            table.line(name, &grouped(grown.round() as u64))?;
        }
        let c = &self.client;
        let each = c.subscribers_us_per_delivery.map(|us| format!(", {us:.3} µs per delivery"));
        let batch = self.deliveries.events_per_read.map(|events| format!(", {events:.1} events per read"));
        table.line(
            "client CPU",
            &format!(
                "{:.2} s user, {:.2} s system{}{}; publishers {:.2} s",
                c.subscribers_user_s,
                c.subscribers_system_s,
                each.unwrap_or_default(),
                batch.unwrap_or_default(),
                c.publishers_cpu_s,
            ),
        )?;
        let Some(s) = &self.stalled else {
            return Ok(());
        };
        let times = s.stalled_close_min_s.zip(s.stalled_close_median_s).zip(s.stalled_close_max_s);
        let times = times.map(|((min, median), max)| {
            format!(" after {min:.2} / {median:.2} / {max:.2} s (min / median / max from the first publish)")
        });
        table.line(
            "stalled",
            &format!(
                "{} opened, {} closed by the server{}",
                s.stalled_opened,
                s.stalled_closed,
                times.unwrap_or_default()
            ),
        )
    }
}

struct Table<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Table<'_, '_> {
    fn line(&mut self, name: &str, value: &str) -> fmt::Result {
        writeln!(self.0, "{name:<26}  {value}")
    }
}

fn or_unmeasured(figure: Option<String>) -> String {
    figure.unwrap_or_else(|| "not measured".to_owned())
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        let _ = text.write_char(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let said: Vec<String> = [0_u64, 999, 1_000, 1_234_567].map(grouped).to_vec();
        assert_eq!(said, ["0", "999", "1,000", "1,234,567"]);
    }
}
