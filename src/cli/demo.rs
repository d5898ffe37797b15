//! `fanwheel demo`: a node with a feed of its own and a page to look at.

use crate::config::Config;
use crate::engine::policy::{Class, Classes, Kind, Overflow, Retention};
use crate::server::{self, ServerError};
use crate::topic::Pattern;

/// Ten minutes of a symbol's quotes are 1,500: longer than anybody looks at the page without its stream.
const QUOTES: Retention = Retention { events_max: 2_000, age_ms: 600_000, idempotency_ms: 120_000 };

/// Runs until a signal.
pub(super) fn run(mut config: Config, give_back_memory: fn()) -> Result<(), ServerError> {
    keep_quotes(&mut config.limits.classes);
    server::run(config, true, give_back_memory, |banner| {
        let page = "Open the `listening` address in a browser: fifty stocks, each quoted more than twice a second.";
        super::print(&format!("{banner}\n\n{page}"));
    })
}

/// Makes the feed's topics durable, so that the page can show that a cut loses nothing; unless somebody has said what
/// classes there are.
fn keep_quotes(classes: &mut Classes) {
    if classes.0.is_empty() {
        let pattern = Pattern::parse("ticker.*").expect("a pattern");
        let class = Class { kind: Kind::Durable(QUOTES), overflow: Overflow::Disconnect, ..Class::default() };
        classes.0.push((pattern, class));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topic;

    #[test]
    fn quotes_are_kept_unless_somebody_says_otherwise() {
        let topic = |name| Topic::parse(name).expect("a topic");
        let mut classes = Classes::default();
        keep_quotes(&mut classes);
        assert_eq!(classes.class_of(&topic("ticker.AAPL")).retention(), Some(QUOTES));
        assert_eq!(classes.class_of(&topic("chat")), Class::default());
        let mut classes = Classes(vec![(Pattern::parse("chat").expect("a pattern"), Class::default())]);
        keep_quotes(&mut classes);
        assert_eq!(classes.class_of(&topic("ticker.AAPL")).retention(), None);
    }
}
