//! When events are due, whatever the server does: an open loop.
//!
//! ```text
//! constant   │  │  │  │  │  │  │  │  │     every 1/rate
//! poisson    │ ││    │ │    │││   │        gaps drawn at random, 1/rate on average: independent senders
//! bursts:3   │││      │││      │││          three at once, every 3/rate
//! ```

use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The shape of a schedule; its rate is given apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Schedule {
    Constant,
    /// Exponentially distributed gaps from a generator with this seed.
    Poisson,
    /// So many events at once.
    Bursts(u64),
}

impl FromStr for Schedule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "constant" => Ok(Self::Constant),
            None if text == "poisson" => Ok(Self::Poisson),
            Some(("bursts", size)) => {
                let size = size.parse::<u64>()?;
                ensure!(size > 0, "a burst has at least one event");
                Ok(Self::Bursts(size))
            }
            _ => bail!("`constant`, `poisson` or `bursts:N`"),
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Poisson => f.write_str("poisson"),
            Self::Bursts(size) => write!(f, "bursts:{size}"),
        }
    }
}

/// What follows the schedule: the same on the same connections, at another rate.
///
/// ```text
///   start          start + after_ns     + CALM_WAIT_NS          end
///   ──┤ rate ──────────┤ calm rate ───────────┤ measured ─────────┤──
///                      late? the rest is given up
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct CalmPhase {
    /// From the start to the end of the first phase, whether all of it was sent or not.
    pub(crate) after_ns: u64,
    /// Events per second of all publishers. Above 0.
    pub(crate) rate: f64,
    /// Events. At least 1.
    pub(crate) total: u64,
}

/// So long after the end of the first phase everything is to be as usual again.
const CALM_WAIT_NS: u64 = 2_000_000_000;

impl CalmPhase {
    /// From the start to the first event whose delivery is judged as a calm one.
    pub(crate) fn measured_after_ns(&self) -> u64 {
        self.after_ns + CALM_WAIT_NS
    }

    /// From the start to the end of the schedule.
    pub(crate) fn length_ns(&self) -> u64 {
        self.after_ns + length_ns(self.total, self.rate)
    }
}

/// How long a schedule of so many events is.
pub(crate) fn length_ns(events: u64, rate: f64) -> u64 {
    (events as f64 * 1e9 / rate) as u64
}

/// One publisher's times. It sends event k of all when `k mod publishers` is its index.
#[derive(Debug)]
pub(crate) struct Timetable {
    schedule: Schedule,
    /// When the phase that it is in begins, and with which of its events.
    start_ns: u64,
    first: u64,
    /// Events per second of all publishers.
    rate: f64,
    publishers: u64,
    index: u64,
    /// Of the Poisson schedule: the generator, and the time since the phase's start of its next event.
    random: u64,
    elapsed_ns: f64,
}

impl Timetable {
    pub(crate) fn new(
        schedule: Schedule,
        start_ns: u64,
        rate: f64,
        publishers: usize,
        index: usize,
        seed: u64,
    ) -> Self {
        let (publishers, index) = (publishers as u64, index as u64);
        let random = seed ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut table = Self { schedule, start_ns, first: 0, rate, publishers, index, random, elapsed_ns: 0.0 };
        if schedule == Schedule::Poisson {
            table.draw();
        }
        table
    }

    /// Another phase: from `start_ns` on its event `first` and those after it are due, `rate` a second.
    pub(crate) fn begin_phase(&mut self, start_ns: u64, first: u64, rate: f64) {
        (self.start_ns, self.first, self.rate, self.elapsed_ns) = (start_ns, first, rate, 0.0);
        if self.schedule == Schedule::Poisson {
            self.draw();
        }
    }

    /// When this publisher's event `number` is due, counted from 0 over its own. At least the phase's first.
    pub(crate) fn due_ns(&self, number: u64) -> u64 {
        let all = (number - self.first) * self.publishers + self.index;
        let elapsed_ns = match self.schedule {
            Schedule::Constant => all as f64 * 1e9 / self.rate,
            Schedule::Poisson => self.elapsed_ns,
            Schedule::Bursts(size) => (all / size * size) as f64 * 1e9 / self.rate,
        };
        self.start_ns + elapsed_ns as u64
    }

    /// The event that was next has been sent.
    pub(crate) fn advance(&mut self) {
        if self.schedule == Schedule::Poisson {
            self.draw();
        }
    }

    /// A gap of a Poisson process is exponentially distributed: −ln(u) · mean, u uniform in (0, 1].
    fn draw(&mut self) {
        // splitmix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let uniform = ((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        let mean_ns = 1e9 * self.publishers as f64 / self.rate;
        self.elapsed_ns += -uniform.ln() * mean_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_constant_schedule_is_shared_out_among_the_publishers() {
        let due = |index, number| Timetable::new(Schedule::Constant, 5, 10.0, 2, index, 1).due_ns(number);
        assert_eq!([due(0, 0), due(1, 0), due(0, 1), due(1, 1)], [5, 100_000_005, 200_000_005, 300_000_005]);
    }

    #[test]
    fn a_second_phase_begins_when_it_is_due_whatever_was_sent_of_the_first() {
        for (schedule, due_ms) in [(Schedule::Constant, [0, 100, 200, 300]), (Schedule::Bursts(2), [0, 0, 200, 200])] {
            let due = |index, number| {
                let mut table = Timetable::new(schedule, 5, 1_000.0, 2, index, 1);
                table.begin_phase(SECOND, 7, 10.0);
                (table.due_ns(number) - SECOND) / 1_000_000
            };
            assert_eq!([due(0, 7), due(1, 7), due(0, 8), due(1, 8)], due_ms, "{schedule}");
        }
    }

    #[test]
    fn a_second_phase_has_its_own_poisson_gaps() {
        let mut table = Timetable::new(Schedule::Poisson, 0, 10.0, 1, 0, 7);
        table.begin_phase(SECOND, 3, 1_000.0);
        let mut due = Vec::new();
        for number in 3..2_003 {
            due.push(table.due_ns(number));
            table.advance();
        }
        assert!(due[0] > SECOND && due.is_sorted());
        // 2,000 gaps of 1 ms, ± 2 %.
        let mean_ms = (due[1_999] - SECOND) as f64 / 2e9;
        assert!((0.9..1.1).contains(&mean_ms), "{mean_ms}");
    }

    #[test]
    fn bursts_are_due_together() {
        let table = Timetable::new(Schedule::Bursts(3), 0, 3.0, 1, 0, 1);
        let due: Vec<u64> = (0..7).map(|number| table.due_ns(number)).collect();
        assert_eq!(due, [0, 0, 0, SECOND, SECOND, SECOND, 2 * SECOND]);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential_distribution() {
        let mut table = Timetable::new(Schedule::Poisson, 0, 2_000.0, 2, 1, 7);
        let (mut last, mut gaps) = (0, Vec::new());
        for number in 0..20_000 {
            let due = table.due_ns(number);
            gaps.push((due - last) as f64 / 1e6);
            last = due;
            table.advance();
        }
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // 1 ms each; the standard deviation of an exponential distribution is its mean.
        assert!((0.97..1.03).contains(&mean), "{mean}");
        assert!((0.95..1.05).contains(&variance.sqrt()), "{}", variance.sqrt());
    }

    #[test]
    fn schedules_are_read_as_they_are_written() {
        for text in ["constant", "poisson", "bursts:100"] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
        }
        for text in ["bursts", "bursts:0", "bursts:x", "linear", "poisson:2"] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
