//! The figures of the floor as a table for people.

use std::fmt;

use super::SendBy;
use super::report::{Floor, FloorReport};
use crate::report::{Table, grouped};

impl fmt::Display for FloorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table(f);
        self.write_streams(&mut table)?;
        if let Some(floor) = &self.floor {
            self.write_sending(&mut table, floor)?;
            self.write_receiving(&mut table)?;
        }
        self.write_rounds(&mut table)?;
        for remark in &self.remarks {
            writeln!(table.0, "note: {remark}")?;
        }
        for fault in &self.faults {
            writeln!(table.0, "FAULT: {fault}")?;
        }
        writeln!(table.0, "{}", if self.passed { "passed" } else { "FAILED" })
    }
}

impl FloorReport {
    fn write_streams(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        let (s, o) = (&self.setup, &self.opening);
        table.line(
            "streams",
            &format!("{} in {} group(s), {} process(es)", grouped(s.streams), grouped(s.groups), s.processes),
        )?;
        table.line(
            "opened",
            &format!(
                "{} in {:.2} s ({} per second), {} failed, {} closed early",
                grouped(o.opened),
                o.opening_s,
                grouped(o.opened_per_s.round() as u64),
                o.failed,
                o.closed_early
            ),
        )?;
        table.line(
            "accepted",
            &format!(
                "{} per second, {:.2} µs CPU each ({:.2} µs user); subscribers {:.2} µs each",
                grouped(o.accepted_per_s.round() as u64),
                o.floor_accept_us,
                o.floor_accept_user_us,
                o.subscribers_open_us
            ),
        )?;
        if let (Some(p50), Some(p99), Some(max)) = (o.open_p50_ms, o.open_p99_ms, o.open_max_ms) {
            table.line("connect → open", &format!("p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms"))?;
        }
        table.kernel(self.kernel.as_ref())?;
        o.stream_error.as_ref().map_or(Ok(()), |error| table.line("first stream error", error))
    }

    fn write_sending(&self, table: &mut Table<'_, '_>, floor: &Floor) -> fmt::Result {
        let way = match self.setup.send_by {
            SendBy::Send => "send",
            SendBy::Uring => "io_uring",
        };
        table.line(
            "sent",
            &format!(
                "{} events to {} deliveries in {} sends of {} bytes by {way}, {} blocked",
                grouped(floor.events),
                grouped(floor.sent),
                grouped(floor.sends),
                grouped(floor.frame_bytes),
                grouped(floor.blocked)
            ),
        )?;
        table.line(
            "deliveries per second",
            &format!(
                "{} over {:.2} s, {:.0} % of a core, sent late by up to {:.2} ms",
                grouped(floor.deliveries_per_s.round() as u64),
                floor.sending_s,
                floor.floor_busy_share * 100.0,
                floor.late_max_ms
            ),
        )?;
        table.line(
            "floor CPU",
            &format!(
                "{:.3} µs per delivery, {:.3} µs per send ({:.2} s user, {:.2} s system)",
                floor.floor_cpu_us_per_delivery, floor.floor_cpu_us_per_send, floor.floor_user_s, floor.floor_system_s
            ),
        )?;
        table.line(
            "user-space share",
            &format!("{:.2} % ± {:.2} % (sampled)", floor.user_share * 100.0, floor.user_share_error * 100.0),
        )
    }

    fn write_receiving(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        let (d, c) = (&self.deliveries, &self.client);
        table.line("deliveries", &format!("{} of {} expected", grouped(d.received), grouped(d.expected)))?;
        for (name, count) in [
            ("lost", d.lost),
            ("doubled", d.doubled),
            ("out of order", d.out_of_order),
            ("phantoms", d.phantoms),
            ("malformed", d.malformed),
            ("foreign events", d.foreign),
        ] {
            if count > 0 || name == "lost" {
                table.line(name, &grouped(count))?;
            }
        }
        if let Some(l) = &self.latency {
            table.line(
                "send → receive",
                &format!("p50 {:.3}  p90 {:.3}  p99 {:.3}  max {:.3} ms", l.p50_ms, l.p90_ms, l.p99_ms, l.max_ms),
            )?;
            if let Some(((p50, p99), max)) = l.last_p50_ms.zip(l.last_p99_ms).zip(l.last_max_ms) {
                table.line("send → last receive", &format!("p50 {p50:.3}  p99 {p99:.3}  max {max:.3} ms"))?;
            }
        }
        let each = c.subscribers_us_per_delivery.zip(c.client_to_floor);
        let each = each.map(|(us, ratio)| format!(", {us:.3} µs per delivery, {ratio:.2} × the floor's"));
        let batch = d.events_per_read.map(|events| format!(", {events:.1} events per read"));
        table.line(
            "client CPU",
            &format!(
                "{:.2} s user, {:.2} s system{}{}",
                c.subscribers_user_s,
                c.subscribers_system_s,
                each.unwrap_or_default(),
                batch.unwrap_or_default()
            ),
        )
    }

    fn write_rounds(&self, table: &mut Table<'_, '_>) -> fmt::Result {
        if self.cost_us_by_round.len() < 2 {
            return Ok(());
        }
        let costs: Vec<String> = self.cost_us_by_round.iter().map(|cost| format!("{cost:.3}")).collect();
        table.line(
            "rounds",
            &format!(
                "{} µs: they agree within {:.1} %; shown above: the median",
                costs.join(", "),
                self.cost_spread * 100.0
            ),
        )
    }
}
