//! The figures of a run as a table for people.

use std::fmt::{self, Write as _};

use super::{Bottleneck, Kernel, Report};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table(f);
        self.write_streams(&mut table)?;
        self.write_deliveries(&mut table)?;
        self.write_history(&mut table)?;
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
            &format!(
                "{} on {} topic(s), {} each, {} process(es), {}",
                grouped(s.streams),
                grouped(s.topics),
                s.topics_per_stream,
                s.processes,
                s.url
            ),
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
        if let Some(share) = d.least_stream_share.filter(|share| *share < 1.0) {
            table.line("least on a stream", &format!("{:.1} % of what the median stream got", share * 100.0))?;
        }
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
            ("censored latencies", d.censored),
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
        )?;
        if let Some(((p50, p99), max)) = l.last_p50_ms.zip(l.last_p99_ms).zip(l.last_max_ms) {
            table.line("publish → last receive", &format!("p50 {p50:.3}  p99 {p99:.3}  max {max:.3} ms"))?;
        }
        self.write_calm(table)
    }

    fn write_history(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        let Some(h) = &self.history else {
            return Ok(());
        };
        let connections = format!(
            "{} connections, {} after the last id, {} resumed; {} events, {} told by resets {:?}",
            grouped(h.connections),
            grouped(h.continued),
            grouped(h.resumed),
            grouped(h.history_events),
            grouped(h.history_told),
            h.history_resets
        );
        table.line("histories", &connections)?;
        let of = format!("{} publications, {} acknowledged", grouped(h.publications), grouped(h.acknowledged));
        table.line("promises broken", &format!("{} {:?} of {of}", grouped(h.violations), h.violations_by_kind))?;
        h.first_violation.as_ref().map_or(Ok(()), |first| table.line("first broken promise", first))
    }

    fn write_calm(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        let Some(c) = &self.calm else {
            return Ok(());
        };
        let each_second =
            |rate: Option<f64>| or_unmeasured(rate.map(|rate| format!("{} per second", grouped(rate.round() as u64))));
        table.line("deliveries under load", &each_second(c.loaded_deliveries_per_s))?;
        table.line("deliveries in the calm", &each_second(c.calm_deliveries_per_s))?;
        let Some(((p50, p99), max)) = c.calm_p50_ms.zip(c.calm_p99_ms).zip(c.calm_max_ms) else {
            return Ok(());
        };
        table.line("→ receive in the calm", &format!("p50 {p50:.3}  p99 {p99:.3}  max {max:.3} ms"))
    }

    fn write_costs(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        if let Some(s) = &self.server {
            let cpu = s.server_user_s.zip(s.server_system_s);
            let cpu = cpu.map(|(user, system)| format!("{user:.2} s user, {system:.2} s system"));
            let each = s.server_cpu_us_per_delivery.map(|us| format!(", {us:.2} µs per delivery"));
            table.line("server CPU", &format!("{}{}", or_unmeasured(cpu), each.unwrap_or_default()))?;
            let kib = |bytes: Option<u64>| or_unmeasured(bytes.map(|bytes| format!("{} KiB", grouped(bytes / 1024))));
            let growth = s.pss_per_stream_bytes.map(|bytes| format!(" ({bytes:.0} bytes per stream)"));
            let peak = s.pss_peak_bytes.map(|bytes| format!(", peak {}", kib(Some(bytes))));
            table.line(
                "server PSS",
                &format!(
                    "before {}, idle {}{}, loaded {}{}",
                    kib(s.pss_before_bytes),
                    kib(s.pss_idle_bytes),
                    growth.unwrap_or_default(),
                    kib(s.pss_loaded_bytes),
                    peak.unwrap_or_default()
                ),
            )?;
            if s.pss_after_bytes.is_some() {
                table.line("server PSS, streams closed", &kib(s.pss_after_bytes))?;
            }
        } else {
            table.line("server CPU and PSS", "not measured (--server-pid)")?;
        }
        table.kernel(self.kernel.as_ref())?;
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
        if self.bottleneck != Bottleneck::None {
            table.line("bottleneck", &format!("{:?}, not the server", self.bottleneck).to_lowercase())?;
        }
        self.write_disturbances(table)
    }

    fn write_disturbances(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        if let Some(d) = &self.disturbance {
            let took = d.reopen_p50_ms.zip(d.reopen_p99_ms).zip(d.reopen_max_ms);
            let took = took.map(|((p50, p99), max)| format!(", p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms"));
            let over = d.storm_over_s.map(|over_s| format!(", all within {over_s:.2} s"));
            table.line(
                "opened again",
                &format!(
                    "{} (cut {}, ended by the server {}, not open again {}){}{}",
                    grouped(d.reopened),
                    grouped(d.cut),
                    grouped(d.ended_by_server),
                    grouped(d.not_reopened),
                    took.unwrap_or_default(),
                    over.unwrap_or_default()
                ),
            )?;
        }
        if let Some(s) = &self.slow {
            table.line(
                "slow streams",
                &format!(
                    "{} opened, {} closed, {} received, {} lost, {} told by {} resets",
                    grouped(s.slow_opened),
                    grouped(s.slow_closed),
                    grouped(s.slow_received),
                    grouped(s.slow_lost),
                    grouped(s.slow_told),
                    grouped(s.slow_resets)
                ),
            )?;
        }
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

/// Lines of a name and a figure, one under the other.
pub(crate) struct Table<'a, 'f>(pub(crate) &'a mut fmt::Formatter<'f>);

impl Table<'_, '_> {
    pub(crate) fn line(&mut self, name: &str, value: &str) -> fmt::Result {
        writeln!(self.0, "{name:<26}  {value}")
    }

    /// Nothing where it was not measured.
    pub(crate) fn kernel(&mut self, kernel: Option<&Kernel>) -> fmt::Result {
        let Some(kernel) = kernel else {
            return Ok(());
        };
        let bytes = kernel.kernel_per_stream_bytes;
        self.line("kernel memory", &format!("{bytes:.0} bytes per stream on the server's side"))
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
