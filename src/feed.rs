//! The demo's feed: prices of fifty stocks that wander about, one after another, for ever.
//!
//! It makes text; publishing it, and when, is the server's business. Time and chance are arguments.

use std::fmt::Write as _;

/// How often a symbol is quoted. "At least twice a second" with room for a busy machine.
pub const ROUND_MS: u64 = 400;

/// Symbols and the price each opens at, in US dollars.
const OPENING: [(&str, f64); 50] = [
    ("AAPL", 228.5),
    ("ABBV", 189.3),
    ("ABT", 117.6),
    ("ADBE", 498.1),
    ("AMD", 141.9),
    ("AMZN", 204.6),
    ("AVGO", 167.2),
    ("AXP", 288.4),
    ("BA", 149.8),
    ("BAC", 46.3),
    ("BLK", 1029.7),
    ("C", 69.5),
    ("CAT", 383.1),
    ("COST", 918.4),
    ("CRM", 331.2),
    ("CSCO", 57.9),
    ("CVX", 159.6),
    ("DIS", 113.9),
    ("GE", 181.3),
    ("GOOGL", 169.4),
    ("GS", 581.6),
    ("HD", 408.7),
    ("IBM", 210.8),
    ("INTC", 24.6),
    ("JNJ", 153.2),
    ("JPM", 243.5),
    ("KO", 62.4),
    ("LLY", 752.9),
    ("MA", 521.3),
    ("MCD", 294.1),
    ("META", 561.8),
    ("MRK", 97.3),
    ("MS", 132.7),
    ("MSFT", 417.2),
    ("NFLX", 872.6),
    ("NKE", 75.1),
    ("NVDA", 141.7),
    ("ORCL", 188.9),
    ("PEP", 158.3),
    ("PFE", 25.1),
    ("PG", 170.5),
    ("QCOM", 158.4),
    ("T", 22.8),
    ("TMO", 512.6),
    ("TSLA", 339.6),
    ("UNH", 590.2),
    ("V", 309.7),
    ("VZ", 42.1),
    ("WMT", 86.9),
    ("XOM", 120.3),
];

/// Largest step of a price, as a share of it.
const STEP: f64 = 0.0008;
/// How strongly a price is drawn back to its opening, so that it neither vanishes nor explodes.
const PULL: f64 = 0.002;

/// See the module.
#[derive(Debug)]
pub struct Feed {
    prices: [f64; OPENING.len()],
    next: usize,
    rng: fastrand::Rng,
}

/// One quote: `{"symbol","price","change","ts"}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Quote {
    /// `ticker.SYMBOL`.
    pub topic: String,
    /// JSON. `change` is in percent since the opening, `ts` in ms since 1970.
    pub data: String,
}

impl Feed {
    /// Every price at its opening.
    #[must_use]
    pub fn new(seed: u64) -> Feed {
        Feed { prices: OPENING.map(|(_, price)| price), next: 0, rng: fastrand::Rng::with_seed(seed) }
    }

    /// The symbols, in the order of quotes.
    pub fn symbols() -> impl ExactSizeIterator<Item = &'static str> {
        OPENING.iter().map(|(symbol, _)| *symbol)
    }

    /// The next symbol's next quote.
    pub fn next_quote(&mut self, unix_ms: u64) -> Quote {
        let (symbol, opening) = OPENING[self.next];
        let price = &mut self.prices[self.next];
        let chance = 2.0 * self.rng.f64() - 1.0;
        *price *= 1.0 + STEP * chance;
        *price += PULL * (opening - *price);
        let change = 100.0 * (*price / opening - 1.0);
        let mut data = String::with_capacity(80);
        let _ = write!(data, r#"{{"symbol":"{symbol}","price":{price:.2},"change":{change:.2},"ts":{unix_ms}}}"#);
        self.next = (self.next + 1) % OPENING.len();
        Quote { topic: format!("ticker.{symbol}"), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_is_quoted_once_a_round() {
        let mut feed = Feed::new(1);
        let round: Vec<Quote> = (0..50).map(|_| feed.next_quote(7)).collect();
        let mut topics: Vec<&str> = round.iter().map(|quote| quote.topic.as_str()).collect();
        topics.sort_unstable();
        topics.dedup();
        assert_eq!(topics.len(), 50);
        assert!(topics.contains(&"ticker.AAPL") && topics.contains(&"ticker.MSFT"));
        let data: serde_json::Value = serde_json::from_str(&round[0].data).expect("JSON");
        assert_eq!(data["symbol"], "AAPL");
        assert_eq!(data["ts"], 7);
        assert!(data["price"].is_number() && data["change"].is_number());
    }

    #[test]
    fn prices_stay_near_their_opening_for_days() {
        let mut feed = Feed::new(2);
        for _ in 0..2_000_000 {
            feed.next_quote(0);
        }
        for (price, (symbol, opening)) in feed.prices.iter().zip(OPENING) {
            assert!((price / opening - 1.0).abs() < 0.2, "{symbol} at {price}");
        }
    }
}
