//! The two pages in a real browser, by mouse and keys: they show what the node does, say what goes wrong, and get
//! over it without a reload.

use serde_json::json;

use crate::common::redis::free_port;
use crate::common::{Complaint, Launch, Page, RedisServer, TestServer, post, wait_until};

const STATE: &str = "[data-testid=state]";
const NOTICE: &str = "[data-testid=notice]";
const SYMBOLS: &str = "[data-testid=rows] tr th";
const PRICES: &str = "[data-testid=rows] tr .price";

/// A small telephone, a telephone and a desktop: width, height.
const SIZES: [(u32, u32); 3] = [(320, 568), (390, 844), (1440, 900)];
/// Changes of prices must not push anything about. 0.1 is what is widely held to be good.
const SHIFT_MAX: f64 = 0.02;

/// Texts that lie over each other, stick out of the window or of their own box: a list of sentences.
const MISPLACED: &str = r"(() => {
    const boxes = [], faults = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    scrollTo(0, 0);
    while (walker.nextNode()) {
        const text = walker.currentNode, range = document.createRange();
        if (!text.data.trim() || !text.parentElement.checkVisibility() || text.parentElement.closest('.vh, noscript, script')) continue;
        range.selectNodeContents(text);
        for (const box of range.getClientRects()) boxes.push([text.data.trim(), box]);
    }
    const page = document.scrollingElement;
    if (page.scrollWidth > innerWidth) faults.push(`the page is ${page.scrollWidth} wide in a window of ${innerWidth}`);
    for (const [text, box] of boxes) if (box.left < 0 || box.right > page.clientWidth) faults.push(`'${text}' sticks out`);
    for (let i = 0; i < boxes.length; i++) for (let k = i + 1; k < boxes.length; k++) {
        const [a, b] = [boxes[i][1], boxes[k][1]];
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left), high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 4) faults.push(`'${boxes[i][0]}' and '${boxes[k][0]}' overlap`);
    }
    for (const e of document.querySelectorAll('button, code, dd, td, th, .state'))
        if (e.checkVisibility() && !e.closest('.vh') && e.scrollWidth > e.clientWidth + 1 && e.clientWidth) faults.push(`'${e.innerText}' is cut`);
    return faults;
})()";

#[test]
fn the_ticker_is_live_and_obeys_mouse_and_keys() {
    let server = Launch::demo().start();
    let mut page = open(&server);
    page.resize(1440, 900);
    live(&mut page);
    assert_eq!(page.texts(SYMBOLS).len(), 50);
    wait_until("every price", || page.texts(PRICES).iter().all(|price| price.parse::<f64>().is_ok()));
    let before = page.texts(PRICES);
    wait_until("most prices to change", || differences(&before, &page.texts(PRICES)) > 40);
    for (rate, least) in [("events", 20.0), ("deliveries", 20.0), ("connections", 1.0)] {
        let selector = format!("[data-testid=rate-{rate}]");
        page.wait_text(&selector, "a rate", |text| text.parse::<f64>().is_ok_and(|rate| rate >= least));
    }

    // The feed overwrites this within half a second, which on a busy machine may be before it is drawn: it is said
    // again. An observer sees what eyes may miss.
    page.value(
        "new MutationObserver(() => { if (document.querySelector('[data-symbol=KO] .price').textContent === '4242.42') seen = true })
            .observe(document.querySelector('[data-symbol=KO]'), {subtree: true, childList: true, characterData: true}), seen = false",
    );
    let quote = json!({"symbol": "KO", "price": 4242.42, "change": 0}).to_string();
    wait_until("a quote published over HTTP", || {
        post(server.public, "/topics/ticker.KO", quote.as_bytes());
        page.value("seen") == true
    });

    page.click("[data-sort=price]");
    wait_ends(&mut page, "BLK", "T");
    page.click("[data-sort=price]");
    wait_ends(&mut page, "T", "BLK");
    page.click("[data-sort=symbol]");
    wait_ends(&mut page, "AAPL", "XOM");

    page.click("[data-testid=filter]");
    page.press("am");
    wait_symbols(&mut page, |symbols| symbols == ["AMD", "AMZN"]);
    page.press("q");
    page.wait_text("[data-testid=empty]", "about no match", |text| text.contains("No symbol"));
    wait_symbols(&mut page, <[String]>::is_empty);
    page.erase(3);
    wait_symbols(&mut page, |symbols| symbols.len() == 50);

    page.click("[data-testid=pause]");
    page.wait_text("[data-testid=pause]", "the way back", |text| text == "Resume");
    let (still, deliveries) = (page.texts(PRICES), server.status()["deliveries"].as_u64());
    wait_until("two more rounds of quotes", || server.status()["deliveries"].as_u64() > deliveries.map(|n| n + 100));
    assert_eq!(page.texts(PRICES), still, "prices move in spite of the pause");
    assert_eq!(page.text(STATE).as_deref(), Some("Live"), "a pause does not end the stream");
    page.click("[data-testid=pause]");
    wait_until("prices to move again", || differences(&still, &page.texts(PRICES)) > 40);

    for (width, height) in SIZES {
        page.resize(width, height);
        assert_eq!(page.value(MISPLACED), json!([]), "at {width} x {height}");
    }
    let shift = watch_shift(&mut page);
    assert!(shift <= SHIFT_MAX, "changing prices move the page about: {shift}");
    page.assert_quiet(Complaint::Any);
}

#[test]
fn the_ticker_tells_of_a_node_that_went_away_and_goes_on_when_it_is_back() {
    let address = format!("127.0.0.1:{}", free_port());
    let launch = || Launch::verb("demo").flag("--listen", &address).flag("--admin-listen", "127.0.0.1:0");
    let server = launch().start();
    let mut page = open(&server);
    live(&mut page);
    page.wait_text("[data-testid=rate-events]", "a rate", |text| text != "–");
    page.value("notReloaded = true");
    drop(server);
    page.wait_text(STATE, "something else than live", |text| text == "Reconnecting" || text == "Offline");
    page.wait_text("[data-testid=rate-events]", "unknown", |text| text == "–");
    let server = launch().start();
    live(&mut page);
    assert_eq!(page.text("[data-testid=reconnects]").as_deref(), Some("1"));
    let before = page.texts(PRICES);
    wait_until("prices to change", || differences(&before, &page.texts(PRICES)) > 40);
    page.wait_text("[data-testid=rate-events]", "a rate", |text| text != "–");
    assert_eq!(page.value("notReloaded"), true);
    page.assert_quiet(Complaint::OfScripts);
    drop(server);
}

#[test]
fn the_ticker_says_in_words_what_the_stream_tells() {
    let mut redis = RedisServer::absent();
    let config = "[limits]\nopen = \"300ms\"\n";
    let server = Launch::demo().flag("--redis", &redis.url()).config(config).start_unready();
    let mut page = open(&server);
    page.wait_text(NOTICE, "about quotes that cannot be had", |text| {
        text.starts_with("The node cannot get these quotes now. Trying again in ")
    });
    assert_ne!(page.text(STATE).as_deref(), Some("Live"));
    assert_eq!(page.text("[data-testid=source]").as_deref(), Some("redis, lost"));

    redis.resume();
    live(&mut page);
    page.wait_text("[data-testid=source]", "connected", |text| text == "redis");
    redis.kill();
    page.wait_text("[data-testid=source]", "lost", |text| text == "redis, lost");
    redis.resume();
    page.wait_text(NOTICE, "about a loss", |text| {
        text == "The history has begun anew: quotes were missed. Going on behind them."
    });
    assert_eq!(page.text("[data-testid=losses]").as_deref(), Some("1"));
    let before = page.texts(PRICES);
    wait_until("prices to change", || differences(&before, &page.texts(PRICES)) > 40);
    assert_eq!(page.text(STATE).as_deref(), Some("Live"));

    // Fewer topics than the page follows: it is sent away each time it comes.
    let server = Launch::demo().config("[limits]\ntopics = 10\n").start();
    page.go_to(&format!("http://{}/", server.public));
    page.wait_text(NOTICE, "about a full node", |text| text.starts_with("The node is full. Trying again in "));
    page.wait_text(STATE, "reconnecting", |text| text == "Reconnecting");
    // A node without a feed has nothing to wait for.
    let server = Launch::serve().flag("--demo-pages", "true").start();
    page.go_to(&format!("http://{}/", server.public));
    page.wait_text("[data-testid=empty]", "about no feed", |text| text.contains("runs no feed"));
    page.assert_quiet(Complaint::Any);
}

#[test]
fn the_dashboard_shows_what_the_node_does_and_says_when_it_is_gone() {
    let server = Launch::demo().start();
    let mut page = Page::open(&format!("http://{}/", server.admin));
    page.wait_text(STATE, "ready", |text| text == "Ready");
    let figure = |page: &mut Page, id: &str, what: &str, wanted: &dyn Fn(f64) -> bool| {
        let number = |text: &str| text.split_whitespace().next().and_then(|text| text.parse::<f64>().ok());
        page.wait_text(&format!("#c-{id} .now"), what, |text| number(text).is_some_and(wanted))
    };
    figure(&mut page, "events", "the feed's rate", &|rate| rate > 20.0);
    figure(&mut page, "streams", "0", &|streams| streams == 0.0);
    figure(&mut page, "deliveries", "0", &|rate| rate == 0.0);
    let _stream = crate::common::Stream::open(&server, "topic=ticker.AAPL&topic=ticker.MSFT");
    figure(&mut page, "streams", "1", &|streams| streams == 1.0);
    figure(&mut page, "deliveries", "the stream's rate", &|rate| rate > 1.0);
    for (width, height) in SIZES {
        page.resize(width, height);
        assert_eq!(page.value(MISPLACED), json!([]), "at {width} x {height}");
    }
    page.assert_quiet(Complaint::Any);
    drop(server);
    page.wait_text(STATE, "about the node's absence", |text| text == "Not reachable");
    page.wait_text("[data-testid=reasons]", "in words", |text| {
        text.starts_with("The node does not answer; this page keeps asking. The figures below are from ")
    });
    page.assert_quiet(Complaint::OfScripts);
}

fn open(server: &TestServer) -> Page {
    Page::open(&format!("http://{}/", server.public))
}

fn live(page: &mut Page) {
    page.wait_text(STATE, "live", |text| text == "Live");
}

fn wait_symbols(page: &mut Page, wanted: impl Fn(&[String]) -> bool) {
    wait_until("other rows", || wanted(&page.texts(SYMBOLS)));
}

/// Prices move on between two rounds of sorting: the ends are what can be relied upon.
fn wait_ends(page: &mut Page, first: &str, last: &str) {
    wait_symbols(page, |symbols| {
        symbols.first().map(String::as_str) == Some(first) && symbols.last().map(String::as_str) == Some(last)
    });
}

fn differences(before: &[String], now: &[String]) -> usize {
    before.iter().zip(now).filter(|(before, now)| before != now).count()
}

/// How far prices that change move the page about, over a few rounds of quotes.
fn watch_shift(page: &mut Page) -> f64 {
    page.value(
        "shift = 0, new PerformanceObserver(list => { for (const entry of list.getEntries()) shift += entry.value })
            .observe({type: 'layout-shift'})",
    );
    let before = page.texts(PRICES);
    wait_until("prices to change", || differences(&before, &page.texts(PRICES)) > 40);
    page.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(shift))))")
        .as_f64()
        .unwrap()
}
