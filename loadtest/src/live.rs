//! What is going on, for whoever watches: a line that changes on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where nobody watches (a log), a line so often.
const LOG_PERIOD: Duration = Duration::from_secs(5);
/// On a terminal the line is renewed so often.
const DRAW_PERIOD: Duration = Duration::from_millis(200);

/// The line. Dropping it takes it away.
pub(crate) struct Live {
    bar: ProgressBar,
    is_terminal: bool,
    shown: Instant,
    /// Deliveries when the line was last renewed.
    received: u64,
}

impl Live {
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{spinner:.cyan} {elapsed:>4} {wide_msg}");
        bar.set_style(style.expect("the template is a valid constant"));
        Self { bar, is_terminal, shown: Instant::now(), received: 0 }
    }

    /// Renews the line if it is time. `line` is told how many deliveries a second there were since.
    pub(crate) fn show(&mut self, received: u64, line: impl FnOnce(f64) -> String) {
        let elapsed = self.shown.elapsed();
        if elapsed < if self.is_terminal { DRAW_PERIOD } else { LOG_PERIOD } {
            return;
        }
        let rate = received.saturating_sub(self.received) as f64 / elapsed.as_secs_f64();
        (self.shown, self.received) = (Instant::now(), received);
        let text = line(rate);
        if self.is_terminal {
            self.bar.set_message(text);
            self.bar.tick();
        } else {
            eprintln!("… {text}");
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
