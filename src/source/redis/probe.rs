//! When to probe a subscriber connection, when to doubt it, and when to give it up. Pure: time and
//! signs come in.
//!
//! A probe is a number, published over the publisher's link on a channel of this shard's own, that
//! must come back as a push on the subscriber connection.
//!
//! ```text
//!  probe back ──interval──► next sent ──patience / 2──► again, over a new link ──patience / 2──► given up,
//!                                                        or doubted, while other pushes come
//! ```
//!
//! What always holds: when nothing comes back on a connection, it is given up [`IDLE_BOUND`] after the
//! fault began, or [`ACTIVE_BOUND`] when the shard published or received an event in the
//! [`ACTIVE_BEFORE`] before; an answer that takes half a second changes nothing; a link that breaks
//! costs no connection. Any push proves that the connection is alive: while they come it is kept and
//! its streams are fed, and only readiness says that the probe is away.
//!
//! Under overload: time is counted only while the thread was there to listen (`HELD_UP`). A starved
//! machine, or a node that was stopped, does not hold its own silence against Redis. A probe waits
//! behind all that was published before it; as long as that comes, nobody is in a hurry.
//!
//! Not chosen: PING on the publisher's link (a subscriber connection can be deaf while it is
//! answered), and a probe published on the subscriber connection itself (after a failover behind
//! one name the old server may be alive, answer, and hear nothing of the new one's events).

use std::time::Duration;

/// How often [`Probe::handle_tick`] is to be called.
pub const TICK: Duration = Duration::from_millis(100);
/// The longest time between two ticks that counts: beyond it the thread itself was held up.
const HELD_UP: Duration = TICK.saturating_mul(2);

/// From one probe to the next, and how long one may be away.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    interval: Duration,
    patience: Duration,
}

/// Nobody needs the connection just now.
const IDLE: Schedule = Schedule { interval: Duration::from_millis(2_000), patience: Duration::from_millis(2_500) };
/// Somebody would miss something. Two and a half probes a second cost nothing beside the events.
const ACTIVE: Schedule = Schedule { interval: Duration::from_millis(400), patience: Duration::from_millis(1_300) };
/// Pushes come, Redis has taken the probe on a new link, and it does not come: the subscriber connection
/// leads to another server than the URL does now. Long, because the probe may wait behind a backlog.
const ASTRAY: Duration = Duration::from_secs(10);

/// A fault on an idle shard is noticed within this: 2 s + 2.5 s + two ticks = 4.7 s.
pub const IDLE_BOUND: Duration = Duration::from_secs(5);
/// A fault on an active shard is noticed within this: 0.4 s + 1.3 s + two ticks = 1.9 s.
pub const ACTIVE_BOUND: Duration = Duration::from_secs(2);
/// A shard that has seen an event no longer ago than this, when the fault begins, is active.
pub const ACTIVE_BEFORE: Duration = Duration::from_secs(3);
/// It is so from its last event on for this long: until the fault has been noticed.
const ACTIVE_FOR: Duration = Duration::from_secs(5);
/// A Redis that pauses for this long is slow, not away.
const SLOW: Duration = Duration::from_millis(500);

// One tick until the interval is seen to be over, one until the patience is.
const _: () = assert!(fits(IDLE, IDLE_BOUND) && fits(ACTIVE, ACTIVE_BOUND));
// A pause of Redis neither ends the connection nor costs the publisher its link.
const _: () = assert!(SLOW.as_millis() < ACTIVE.patience.as_millis() / 2);
const _: () = assert!(ACTIVE_BEFORE.as_millis() + ACTIVE_BOUND.as_millis() <= ACTIVE_FOR.as_millis());
const _: () = assert!(ASTRAY.as_millis() > IDLE.patience.as_millis());

const fn fits(schedule: Schedule, bound: Duration) -> bool {
    schedule.interval.as_millis() + schedule.patience.as_millis() + 2 * TICK.as_millis() <= bound.as_millis()
}

/// The probes of one connection. See the module.
#[derive(Debug)]
pub struct Probe {
    /// Time since the connection was proven, as far as it counts.
    now: Duration,
    /// When the latest push was seen. `heard <= now`
    heard: Duration,
    /// When the shard's latest event was seen, in or out.
    active: Option<Duration>,
    /// When the latest probe was sent for the first time.
    sent: Duration,
    /// The latest probe's number.
    number: u64,
    /// The latest probe, while it has not come back.
    away: Option<Away>,
}

#[derive(Debug)]
struct Away {
    since: Duration,
    /// True exactly when it was sent again, over a new link.
    repeated: bool,
    /// True exactly when the operator was told.
    doubted: bool,
}

/// What was seen since the tick before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs {
    /// A push came, whichever.
    pub pushed: bool,
    /// The shard published or received an event.
    pub active: bool,
    /// The highest probe that has come back on this connection.
    pub returned: u64,
    /// Redis has answered the latest sending of a probe.
    pub answered: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Send the probe with this number.
    Send(u64),
    /// Send it again, over a new link.
    Repeat(u64),
    /// Say that the probe has been away for this long, though pushes come.
    Doubt(Duration),
    /// Say that it is back after all.
    Trust,
    /// Give the connection up: the probe was away for this long.
    GiveUp(Duration),
}

impl Probe {
    /// Begins with a connection on which the probe `number` has just come back.
    #[must_use]
    pub fn after(number: u64) -> Probe {
        let zero = Duration::ZERO;
        Probe { now: zero, heard: zero, active: None, sent: zero, number, away: None }
    }

    /// `elapsed` since the tick before.
    pub fn handle_tick(&mut self, elapsed: Duration, signs: Signs) -> Step {
        self.now += elapsed.min(HELD_UP);
        if signs.pushed {
            self.heard = self.now;
        }
        if signs.active {
            self.active = Some(self.now);
        }
        let active = self.active.is_some_and(|active| self.now - active < ACTIVE_FOR);
        let schedule = if active { ACTIVE } else { IDLE };
        match self.away.take() {
            Some(away) if signs.returned < self.number => self.wait_for(away, schedule, signs.answered),
            Some(Away { doubted: true, .. }) => Step::Trust,
            _ if self.now - self.sent < schedule.interval => Step::Wait,
            _ => {
                self.number += 1;
                self.sent = self.now;
                self.away = Some(Away { since: self.now, repeated: false, doubted: false });
                Step::Send(self.number)
            }
        }
    }

    fn wait_for(&mut self, mut away: Away, schedule: Schedule, answered: bool) -> Step {
        let waited = self.now - away.since;
        let silent = self.now - self.heard.max(away.since);
        let step = if silent >= schedule.patience || (waited >= ASTRAY && away.repeated && answered) {
            Step::GiveUp(waited)
        } else if waited >= schedule.patience / 2 && !away.repeated {
            away.repeated = true;
            Step::Repeat(self.number)
        } else if waited >= schedule.patience && !away.doubted {
            away.doubted = true;
            Step::Doubt(waited)
        } else {
            Step::Wait
        };
        self.away = Some(away);
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks until something is to be done: when, and what. `signs` is given the time.
    fn next(probe: &mut Probe, mut signs: impl FnMut(Duration) -> Signs) -> (Duration, Step) {
        let begun = probe.now;
        loop {
            let seen = signs(probe.now + TICK);
            let step = probe.handle_tick(TICK, seen);
            assert!(probe.now - begun < Duration::from_secs(60), "nothing happens");
            if step != Step::Wait {
                return (probe.now - begun, step);
            }
        }
    }

    fn quiet(_: Duration) -> Signs {
        Signs::default()
    }

    #[test]
    fn an_idle_connection_that_falls_silent_is_probed_twice_and_given_up_in_time() {
        let mut probe = Probe::after(7);
        let (sent, first) = next(&mut probe, quiet);
        let (repeated, second) = next(&mut probe, quiet);
        let (ended, third) = next(&mut probe, quiet);
        assert_eq!((first, second), (Step::Send(8), Step::Repeat(8)));
        assert_eq!(third, Step::GiveUp(IDLE.patience));
        assert!(sent + repeated + ended <= IDLE_BOUND);
    }

    #[test]
    fn an_active_one_is_given_up_sooner_also_when_the_last_event_was_a_while_ago() {
        for before in [Duration::ZERO, ACTIVE_BEFORE] {
            let mut probe = Probe::after(1);
            probe.handle_tick(TICK, Signs { active: true, ..Signs::default() });
            while probe.now < before + TICK {
                probe.handle_tick(TICK, Signs { pushed: true, returned: u64::MAX, ..Signs::default() });
            }
            let begun = probe.now;
            while !matches!(next(&mut probe, quiet).1, Step::GiveUp(_)) {}
            assert!(probe.now - begun <= ACTIVE_BOUND, "{:?}", probe.now - begun);
        }
    }

    #[test]
    fn a_probe_that_comes_back_keeps_the_connection_and_the_next_is_another() {
        let mut probe = Probe::after(1);
        for number in 2..50 {
            assert_eq!(next(&mut probe, quiet).1, Step::Send(number));
            let step = probe.handle_tick(TICK, Signs { pushed: true, returned: number, ..Signs::default() });
            assert_eq!(step, Step::Wait);
        }
    }

    #[test]
    fn a_redis_that_is_slow_is_left_in_peace() {
        let mut probe = Probe::after(1);
        let busy = |number| move |_| Signs { active: true, returned: number, ..Signs::default() };
        assert_eq!(next(&mut probe, busy(1)).1, Step::Send(2));
        for _ in 0..SLOW.as_millis() / TICK.as_millis() {
            assert_eq!(probe.handle_tick(TICK, Signs { active: true, ..Signs::default() }), Step::Wait);
        }
        assert_eq!(next(&mut probe, busy(2)).1, Step::Send(3));
    }

    #[test]
    fn while_pushes_come_a_probe_that_does_not_is_doubted_in_time_and_costs_nothing() {
        let mut probe = Probe::after(1);
        let pushed = |returned| move |_| Signs { pushed: true, active: true, returned, answered: false };
        assert_eq!(next(&mut probe, pushed(1)), (ACTIVE.interval, Step::Send(2)));
        let (repeated, step) = next(&mut probe, pushed(1));
        assert_eq!(step, Step::Repeat(2));
        let (doubted, step) = next(&mut probe, pushed(1));
        assert_eq!(step, Step::Doubt(ACTIVE.patience));
        assert!(ACTIVE.interval + repeated + doubted <= ACTIVE_BOUND);
        for _ in 0..1_000 {
            assert_eq!(probe.handle_tick(TICK, pushed(1)(TICK)), Step::Wait, "the link may be broken");
        }
        assert_eq!(probe.handle_tick(TICK, pushed(2)(TICK)), Step::Trust);
        assert_eq!(next(&mut probe, pushed(2)).1, Step::Send(3));
    }

    #[test]
    fn a_probe_that_redis_took_and_that_does_not_come_means_that_it_was_another_redis() {
        let mut probe = Probe::after(1);
        let astray = |_| Signs { pushed: true, answered: true, ..Signs::default() };
        let steps = [0; 4].map(|_| next(&mut probe, astray).1);
        assert_eq!(steps, [Step::Send(2), Step::Repeat(2), Step::Doubt(IDLE.patience), Step::GiveUp(ASTRAY)]);
    }

    #[test]
    fn time_in_which_the_thread_was_held_up_does_not_count() {
        let mut probe = Probe::after(1);
        assert_eq!(next(&mut probe, quiet).1, Step::Send(2));
        assert_eq!(probe.handle_tick(Duration::from_secs(3_600), Signs::default()), Step::Wait);
    }
}
