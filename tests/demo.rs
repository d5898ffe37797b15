//! `demo`: a page that needs nothing else, and a feed that never rests.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::common::sse::names;
use crate::common::{Item, Launch, Stream, get, request};

#[test]
fn the_page_is_a_whole_document_without_outside_assets() {
    let server = Launch::demo().start();
    let answer = get(server.public, "/");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let page = answer.text().to_ascii_lowercase();
    assert!(page.trim_start().starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("<title>") && page.contains("name=\"viewport\""));
    for outside in [
        "src=\"http",
        "src='http",
        "src=\"//",
        "href=\"http",
        "href='http",
        "href=\"//",
        "url(http",
        "url(//",
        "@import",
        "<script src",
        "rel=\"stylesheet\"",
    ] {
        assert!(!page.contains(outside), "the page fetches {outside}…");
    }
    assert_eq!(request(server.public, "POST", "/", &[], b"").header("allow"), Some("GET, HEAD"));
    get(server.public, "/demo/other").problem(404);
}

#[test]
fn fifty_stocks_are_each_quoted_at_least_twice_a_second() {
    let server = Launch::demo().start();
    let node = get(server.public, "/demo/node").json();
    let symbols = names(&node["symbols"]);
    assert_eq!(symbols.len(), 50);
    assert!(["AAPL", "MSFT"].iter().all(|symbol| symbols.iter().any(|one| one == symbol)));
    let query: Vec<String> = symbols.iter().map(|symbol| format!("topic=ticker.{symbol}")).collect();
    let mut stream = Stream::open(&server, &query.join("&"));
    let mut single = Stream::open(&server, "topic=ticker.AAPL");
    let mut quotes: HashMap<String, u32> = HashMap::new();
    // A little more than two seconds, so that the last round is not cut by a late wake-up.
    for item in stream.items_until(Instant::now() + Duration::from_millis(2_200)) {
        let Item::Event(event) = item else { continue };
        let quote = event.json();
        let fields = quote.as_object().unwrap();
        assert_eq!(fields.len(), 4, "{quote}");
        assert!(quote["price"].as_f64().is_some_and(|price| price > 0.0), "{quote}");
        assert!(
            quote["change"].is_number() && quote["ts"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000),
            "{quote}"
        );
        *quotes.entry(quote["symbol"].as_str().unwrap().into()).or_default() += 1;
    }
    for symbol in &symbols {
        assert!(quotes.get(symbol).is_some_and(|&count| count >= 4), "{symbol}: {:?}", quotes.get(symbol));
    }
    assert_eq!(single.next().json()["symbol"], "AAPL");
}

#[test]
fn serve_has_the_pages_only_when_asked_and_never_a_feed() {
    let server = Launch::serve().start();
    get(server.public, "/").problem(404);
    get(server.public, "/demo/node").problem(404);
    let server = Launch::serve().flag("--demo-pages", "true").start();
    assert_eq!(get(server.public, "/").status(), 200);
    assert_eq!(get(server.public, "/demo/node").json()["symbols"], serde_json::json!([]));
}
