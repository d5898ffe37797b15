//! The table. Sections are of RFC 9112, where no other is named.

use super::Said::{Body, Head, Sentence, Stream};
use super::Then::{Closed, GoesOn, Streams};
use super::{Case, Said, Then};

/// What is smuggled: to a topic at which a witness looks.
const SMUGGLED: &str = "POST /topics/smuggled HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\n\r\nsmuggled";
const MIB: usize = 1 << 20;
const HEAD_MAX: usize = 32 << 10;

type Class = (&'static str, Vec<Case>);

pub fn classes() -> Vec<Class> {
    vec![
        ("topics", topics()),
        ("event names", event_names()),
        ("heads", heads()),
        ("bodies", bodies()),
        ("pipelining", pipelining()),
        ("chunks", chunks()),
        ("HTTP/1.0", http_1_0()),
        ("HEAD", head()),
        ("targets", targets()),
        ("hosts", hosts()),
        ("smuggling", smuggling()),
        ("many events", many_events()),
    ]
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: test\r\n\r\n")
}

fn post(target: &str, body: &str) -> String {
    with_headers(target, &format!("content-length: {}\r\n", body.len()), body)
}

fn with_headers(target: &str, headers: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nhost: test\r\n{headers}\r\n{body}")
}

fn one(name: &str, bytes: impl Into<Vec<u8>>, said: Said, then: Then) -> Case {
    Case::new(name, bytes, vec![said], then)
}

fn fine() -> Said {
    Body(200, "\"topic\":")
}

fn taken() -> Said {
    Body(202, "\"topic\":")
}

/// In a stream's query and in a path. A refusal found in the head leaves the connection as it is.
fn topics() -> Vec<Case> {
    let too_long = "x".repeat(256);
    let rows: &[(&str, &str, &'static str)] = &[
        ("empty", "", "must not be empty"),
        ("too long by one", &too_long, "at most 255 bytes"),
        ("a line feed", "a%0Ab", "control characters"),
        ("NUL", "%00", "control characters"),
        ("DEL", "a%7F", "control characters"),
        ("a control character of C1", "%C2%85", "control characters"),
        ("reserved", "$presence", "are reserved"),
        ("reserved, escaped", "%24presence", "are reserved"),
        ("not UTF-8", "%ff", "valid UTF-8"),
        ("an overlong slash", "%C0%AF", "valid UTF-8"),
        ("an overlong NUL", "%E0%80%80", "valid UTF-8"),
        ("a surrogate", "%ED%A0%80", "valid UTF-8"),
        ("half a character", "%E2%82", "valid UTF-8"),
    ];
    let broken: &[(&str, &str)] =
        &[("an escape without digits", "%zz"), ("half an escape", "a%4"), ("a bare percent sign", "100%")];
    let mut cases = Vec::new();
    for (name, topic, sentence) in rows {
        cases.push(one(
            &format!("{name} (stream)"),
            get(&format!("/events?topic={topic}")),
            Sentence(400, sentence),
            GoesOn,
        ));
        cases.push(one(&format!("{name} (path)"), get(&format!("/topics/{topic}")), Sentence(400, sentence), GoesOn));
        cases.push(one(
            &format!("{name} (post)"),
            post(&format!("/topics/{topic}"), "x"),
            Sentence(400, sentence),
            Closed,
        ));
    }
    for (name, topic) in broken {
        for target in [format!("/events?topic={topic}"), format!("/topics/{topic}")] {
            cases.push(one(&format!("{name} {target}"), get(&target), Sentence(400, "two hexadecimal digits"), Closed));
        }
    }
    cases.extend([
        one("a pattern (stream)", get("/events?topic=a.*"), Sentence(400, "pattern subscriptions"), GoesOn),
        one("a pattern behind a topic", get("/events?topic=a&topic=**"), Sentence(400, "pattern"), GoesOn),
        one("a pattern (path)", get("/topics/a%2F**"), Sentence(400, "segment `*`"), GoesOn),
        one("a slash in a path", get("/topics/a/b"), Sentence(404, "nothing at this path"), GoesOn),
        one("dots in a path", get("/topics/../publish"), Sentence(404, "nothing at this path"), GoesOn),
        one("a slash, escaped", get("/topics/a%2Fb"), Body(200, "a/b"), GoesOn),
        one("the longest", get(&format!("/topics/{}", "x".repeat(255))), Body(200, "xxx"), GoesOn),
    ]);
    cases
}

/// U+2028 and U+2029 end lines in JavaScript, not in an event stream: they are letters like others.
fn event_names() -> Vec<Case> {
    let too_long = "n".repeat(129);
    let rows: &[(&str, &str, &'static str)] = &[
        ("CR", "a%0Ddata: x", "control characters"),
        ("LF", "a%0Adata:+x", "control characters"),
        ("CR LF CR LF", "%0D%0A%0D%0A", "control characters"),
        ("NUL", "a%00b", "control characters"),
        ("U+0085", "a%C2%85b", "control characters"),
        ("escape", "%1B[2J", "control characters"),
        ("reserved", "fanwheel.open", "reserved"),
        ("the prefix alone", "fanwheel.", "reserved"),
        ("too long by one", &too_long, "at most 128 bytes"),
        ("not UTF-8", "%ff", "valid UTF-8"),
    ];
    let mut cases: Vec<Case> = rows
        .iter()
        .map(|(name, event, sentence)| {
            let target = format!("/topics/smuggled?event={}", event.replace(' ', "%20"));
            one(name, post(&target, "x"), Sentence(400, sentence), Closed)
        })
        .collect();
    cases.extend([
        one("two names", post("/topics/smuggled?event=a&event=b", "x"), Sentence(400, "`event` is given more"), Closed),
        one(
            "the same name twice",
            post("/topics/smuggled?event=a&event=a", "x"),
            Sentence(400, "more than once"),
            Closed,
        ),
        one("two keys", post("/topics/smuggled?key=a&key=b", "x"), Sentence(400, "`key` is given more"), Closed),
        one(
            "a key too long by one",
            post(&format!("/topics/smuggled?key={}", "k".repeat(256)), "x"),
            Sentence(400, "at most 255"),
            Closed,
        ),
        one("U+2028 is a letter", post("/topics/t?event=a%E2%80%A8b", "x"), taken(), GoesOn),
        one("the longest", post(&format!("/topics/t?event={}", "n".repeat(128)), "x"), taken(), GoesOn),
    ]);
    cases
}

fn heads() -> Vec<Case> {
    let filled = |bytes: usize| {
        let rest = "GET /topics/t HTTP/1.1\r\nhost: test\r\nx: \r\n\r\n".len();
        format!("GET /topics/t HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "x".repeat(bytes - rest))
    };
    let with_uri = |bytes: usize| get(&format!("/topics/t?{}", "x".repeat(bytes - get("/topics/t?").len())));
    let numbered = |count: usize| {
        let lines: String = (1..count).map(|number| format!("x{number}: y\r\n")).collect();
        format!("GET /topics/t HTTP/1.1\r\nhost: test\r\n{lines}\r\n")
    };
    let large = |name: &str, bytes: String| one(name, bytes, Sentence(431, "32768 bytes and 100 headers"), Closed);
    vec![
        one("exactly as large as may be", filled(HEAD_MAX), fine(), GoesOn),
        large("one byte more", filled(HEAD_MAX + 1)),
        large("one long header", filled(100 << 10)),
        large("a megabyte without an end", "GET /topics/t HTTP/1.1\r\nx: ".to_owned() + &"x".repeat(MIB)),
        one("a target as long as may be", with_uri(HEAD_MAX), fine(), GoesOn),
        large("a target too long by one", with_uri(HEAD_MAX + 1)),
        large("a target of 100 KiB", with_uri(100 << 10)),
        one("as many headers as may be", numbered(100), fine(), GoesOn),
        large("one header more", numbered(101)),
        large("thousands of headers", numbered(5_000)),
        large("a method without an end", "G".repeat(HEAD_MAX + 1)),
        one("no HTTP", "hello\r\n\r\n", Sentence(400, "malformed"), Closed),
        one(
            "the greeting of TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            Sentence(400, "method"),
            Closed,
        ),
        one("no version (HTTP/0.9)", "GET /\r\n\r\n", Sentence(400, "malformed"), Closed),
        one("HTTP/2.0 in words", "GET / HTTP/2.0\r\nhost: test\r\n\r\n", Sentence(505, "HTTP/1.1"), Closed),
        one("HTTP/3.1", "GET / HTTP/3.1\r\nhost: test\r\n\r\n", Sentence(505, "HTTP/1.1"), Closed),
        one("HTTP/11", "GET / HTTP/11\r\nhost: test\r\n\r\n", Sentence(400, "version"), Closed),
        one("a method that is no token", "G@T / HTTP/1.1\r\nhost: test\r\n\r\n", Sentence(400, "method"), Closed),
        one(
            "a method in small letters",
            "get /topics/t HTTP/1.1\r\nhost: test\r\n\r\n",
            Sentence(405, "answers GET"),
            GoesOn,
        ),
        one("a header without a colon", "GET / HTTP/1.1\r\nhost: test\r\nx\r\n\r\n", Sentence(400, "header"), Closed),
        one("a header without a name", "GET / HTTP/1.1\r\nhost: test\r\n: x\r\n\r\n", Sentence(400, "header"), Closed),
        one("an early end", "GET / HTTP/1.1\r\nhost", Sentence(400, "ended early"), Closed).with_fin(),
        Case::new("an end without a request", "", vec![], Closed).with_fin(),
    ]
}

fn bodies() -> Vec<Case> {
    let chunked = |bytes: usize| {
        let body = format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes));
        with_headers("/topics/large", "transfer-encoding: chunked\r\n", &body)
    };
    let large = |name: &str, bytes: String| one(name, bytes, Sentence(413, "at most 1048576 bytes"), Closed);
    vec![
        one("exactly 1 MiB", post("/topics/large", &"x".repeat(MIB)), taken(), GoesOn),
        one("exactly 1 MiB in a chunk", chunked(MIB), taken(), GoesOn),
        large("one byte more", post("/topics/large", &"x".repeat(MIB + 1))),
        large("one byte more in a chunk", chunked(MIB + 1)),
        large("announced, not sent", with_headers("/topics/large", "content-length: 1048577\r\n", "")),
        large(
            "announced beyond all numbers",
            with_headers("/topics/large", "content-length: 9223372036854775807\r\n", ""),
        ),
        one(
            "asked before it is sent",
            with_headers("/topics/large", "expect: 100-continue\r\ncontent-length: 1048577\r\n", ""),
            Sentence(413, "at most"),
            Closed,
        ),
        one(
            "on a stream",
            with_headers("/events?topic=t", "content-length: 32769\r\n", "").replace("POST", "GET"),
            Sentence(413, "at most 32768 bytes"),
            Closed,
        ),
        one(
            "on /publish",
            with_headers("/publish", "content-length: 8388609\r\n", ""),
            Sentence(413, "at most 8388608 bytes"),
            Closed,
        ),
        one("on a path that takes none", post("/nowhere", SMUGGLED), Sentence(404, "nothing"), Closed),
        one("with GET", post("/topics/t", SMUGGLED).replacen("POST", "GET", 1), fine(), Closed),
        one("with OPTIONS", post("/topics/t", SMUGGLED).replacen("POST", "OPTIONS", 1), Body(204, ""), Closed),
        one(
            "cut short",
            with_headers("/topics/smuggled", "content-length: 10\r\n", "hello"),
            Sentence(400, "ended early"),
            Closed,
        )
        .with_fin(),
        one("complete, and then the end", post("/topics/t", "hello"), taken(), Closed).with_fin(),
        one(
            "not UTF-8",
            [with_headers("/topics/smuggled", "content-length: 1\r\n", "").as_bytes(), b"\xff"].concat(),
            Sentence(400, "byte 0 is not"),
            GoesOn,
        ),
    ]
}

fn pipelining() -> Vec<Case> {
    let t = || get("/topics/t");
    let times = |count: usize, said: fn() -> Said| (0..count).map(|_| said()).collect::<Vec<_>>();
    let then = |mut said: Vec<Said>, last: Said| {
        said.push(last);
        said
    };
    let stream = get("/events?topic=t");
    vec![
        Case::new("two posts in a packet", post("/topics/t", "a") + &post("/topics/t", "b"), times(2, taken), GoesOn),
        Case::new("a hundred", t().repeat(100), times(100, fine), GoesOn),
        Case::new("bytes behind a stream", stream.clone() + SMUGGLED, vec![Stream], Streams),
        Case::new("garbage behind a stream", stream.clone() + "\0\0\0", vec![Stream], Streams),
        Case::new("a stream behind a post", post("/topics/t", "a") + &stream, vec![taken(), Stream], Streams),
        Case::new("a stream behind 50", t().repeat(50) + &stream, then(times(50, fine), Stream), Streams),
        Case::new(
            "garbage behind a post",
            post("/topics/t", "a") + "garbage\r\n\r\n",
            vec![taken(), Sentence(400, "malformed")],
            Closed,
        ),
        Case {
            pieces: vec![
                b"POST /topics/t HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\na".to_vec(),
                format!("b{stream}").into_bytes(),
            ],
            pause: std::time::Duration::from_millis(50),
            ..Case::new("a stream behind a post that is not complete", "", vec![taken(), Stream], Streams)
        },
        Case::new(
            "garbage behind a refusal",
            get("/nowhere") + "\0",
            vec![Sentence(404, "nothing"), Sentence(400, "method")],
            Closed,
        ),
        Case::new(
            "HTTP/2.0 behind 20",
            t().repeat(20) + "GET / HTTP/2.0\r\n\r\n",
            then(times(20, fine), Sentence(505, "HTTP/1.1")),
            Closed,
        ),
        Case::new(
            "no Host behind 20",
            t().repeat(20) + "GET / HTTP/1.1\r\n\r\n" + SMUGGLED,
            then(times(20, fine), Sentence(400, "Host")),
            Closed,
        ),
        Case::new(
            "a large head behind 20",
            t().repeat(20) + &"x".repeat(HEAD_MAX + 1),
            then(times(20, fine), Sentence(431, "32768")),
            Closed,
        ),
        Case::new(
            "behind a body nobody reads",
            post("/topics/$x", "x") + SMUGGLED,
            vec![Sentence(400, "reserved")],
            Closed,
        ),
        Case::new(
            "behind a close (9.6)",
            t().replace("host", "connection: close\r\nhost") + SMUGGLED,
            vec![fine()],
            Closed,
        ),
        Case::new("empty lines between (2.2)", t() + "\r\n\r\n" + &t(), times(2, fine), GoesOn),
    ]
}

/// All of them are posted to the topic that must stay silent.
fn chunks() -> Vec<Case> {
    let chunked = |body: &str| with_headers("/topics/smuggled", "transfer-encoding: chunked\r\n", body);
    let broken =
        |name: &str, body: &str| one(name, chunked(body), Sentence(400, "ended early or is malformed"), Closed);
    let extensions = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20 << 10));
    let trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(200));
    let long_trailer = format!("0\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    vec![
        broken("a size that is no number", "zz\r\nhello\r\n0\r\n\r\n"),
        broken("no size", "\r\nhello\r\n0\r\n\r\n"),
        broken("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
        broken("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        broken("a size beyond all numbers", "fffffffffffffffff\r\nhello"),
        broken("a size that ends in LF alone", "5\nhello\r\n0\r\n\r\n"),
        broken("no line end behind a chunk", "5\r\nhello0\r\n\r\n"),
        broken("a chunk longer than its size", "3\r\nhello\r\n0\r\n\r\n"),
        broken("LF alone behind a chunk", "5\r\nhello\n0\r\n\r\n"),
        broken("CR alone in a size", "5\rhello\r\n0\r\n\r\n"),
        broken("a flood of extensions", &extensions),
        broken("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        broken("a flood of trailers", &trailers),
        broken("a long trailer", &long_trailer),
        broken("an end in a chunk", "5\r\nhe").with_fin(),
        broken("an end in a size", "5").with_fin(),
        broken("an end behind a chunk", "5\r\nhello\r\n").with_fin(),
        broken("an end before the last line", "5\r\nhello\r\n0\r\n").with_fin(),
        one("the largest size", chunked("fffffffffffffff0\r\nhello"), Sentence(400, "ended early"), Closed).with_fin(),
        one(
            "a mebibyte of announced chunk",
            chunked("100001\r\n") + &"x".repeat(MIB + 1),
            Sentence(413, "at most 1048576"),
            Closed,
        ),
        one(
            "extensions and trailers",
            with_headers("/topics/t", "transfer-encoding: chunked\r\n", "5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n"),
            taken(),
            GoesOn,
        ),
    ]
}

fn http_1_0() -> Vec<Case> {
    let plain = |target: &str| format!("GET {target} HTTP/1.0\r\n\r\n");
    let kept = "GET /topics/t HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
    let chunked = "POST /topics/smuggled HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    vec![
        one("no Host is asked for", plain("/topics/t"), fine(), Closed),
        one("a stream", plain("/events?topic=t"), Stream, Streams),
        one("a post", "POST /topics/t HTTP/1.0\r\ncontent-length: 1\r\n\r\nx", taken(), Closed),
        one("a post without a length", "POST /topics/t HTTP/1.0\r\n\r\n", taken(), Closed),
        one("keep-alive", kept, fine(), GoesOn),
        Case::new(
            "keep-alive twice, then not",
            kept.repeat(2) + &plain("/topics/t"),
            vec![fine(), fine(), fine()],
            Closed,
        ),
        one("what follows is not read", plain("/topics/t") + SMUGGLED, fine(), Closed),
        one("chunks (6.1)", chunked, Sentence(400, "transfer-encoding"), Closed),
        one("a refusal", plain("/nowhere"), Sentence(404, "nothing"), Closed),
        one("two Hosts", "GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", Sentence(400, "one `Host`"), Closed),
    ]
}

fn head() -> Vec<Case> {
    let rows = [
        ("/events?topic=t", 200),
        ("/events", 400),
        ("/events?topic=$x", 400),
        ("/topics/t", 200),
        ("/topics/$x", 400),
        ("/publish", 405),
        ("/nowhere", 404),
        ("/", 404),
    ];
    let request = |target: &str| get(target).replace("GET", "HEAD");
    let mut cases: Vec<Case> =
        rows.iter().map(|(target, status)| one(target, request(target), Head(*status), GoesOn)).collect();
    let all: String = rows.iter().map(|(target, _)| request(target)).collect();
    cases.push(Case::new("all in a packet", all, rows.iter().map(|(_, status)| Head(*status)).collect(), GoesOn));
    cases.push(one("without Host", "HEAD /topics/t HTTP/1.1\r\n\r\n", Head(400), Closed));
    cases
}

fn targets() -> Vec<Case> {
    let of = |method: &str, target: &str| format!("{method} {target} HTTP/1.1\r\nhost: test\r\n\r\n");
    let raw = |target: &[u8]| [b"GET ", target, b" HTTP/1.1\r\nhost: test\r\n\r\n"].concat();
    vec![
        one("absolute (3.2.2)", get("http://test/topics/t"), fine(), GoesOn),
        one("absolute, with another host than Host's (3.2.2)", get("http://other:80/topics/t"), fine(), GoesOn),
        one("absolute, of TLS", get("https://test/topics/t"), fine(), GoesOn),
        one("an absolute stream", get("http://test/events?topic=t"), Stream, Streams),
        one("absolute, of another scheme", get("ftp://test/topics/t"), Sentence(400, "http://"), Closed),
        one("OPTIONS * (3.2.4)", of("OPTIONS", "*"), Body(204, ""), GoesOn),
        one("GET * (3.2.4)", get("*"), Sentence(400, "must be a path"), Closed),
        one("CONNECT", of("CONNECT", "test:443") + SMUGGLED, Sentence(501, "no proxy"), Closed),
        one("an authority", get("test:443"), Sentence(400, "must be a path"), Closed),
        one("no slash", get("topics/t"), Sentence(400, "malformed"), Closed),
        one("a space", get("/topics/a b"), Sentence(400, "malformed"), Closed),
        one("NUL", raw(b"/topics/a\0b"), Sentence(400, "malformed"), Closed),
        one("bytes that are not UTF-8 in a path", raw(b"/topics/\xff"), Sentence(400, "malformed"), Closed),
        one("bytes that are not UTF-8 in a query", raw(b"/events?topic=\xff"), Sentence(400, "malformed"), Closed),
        one("not UTF-8 in another parameter", get("/events?topic=t&x=%ff"), Sentence(400, "valid UTF-8"), GoesOn),
        one("TRACE", of("TRACE", "/topics/t"), Sentence(405, "answers"), GoesOn),
        one(
            "an upgrade nobody knows",
            get("/topics/t").replace("host", "connection: upgrade\r\nupgrade: x\r\nhost"),
            fine(),
            GoesOn,
        ),
    ]
}

/// Section 3.2.
fn hosts() -> Vec<Case> {
    let with = |headers: &str| format!("GET /topics/t HTTP/1.1\r\n{headers}\r\n{SMUGGLED}");
    vec![
        one("none", with(""), Sentence(400, "must have a `Host`"), Closed),
        one("two", with("host: a\r\nhost: b\r\n"), Sentence(400, "one `Host`"), Closed),
        one("twice the same", with("host: a\r\nhost: a\r\n"), Sentence(400, "one `Host`"), Closed),
        one("with a path", with("host: a/b\r\n"), Sentence(400, "no host and port"), Closed),
        one("with a user", with("host: u@a\r\n"), Sentence(400, "no host and port"), Closed),
        one("with a space", with("host: a b\r\n"), Sentence(400, "no host and port"), Closed),
        one("before a stream", "GET /events?topic=t HTTP/1.1\r\n\r\n", Sentence(400, "must have a `Host`"), Closed),
        one("empty", "GET /topics/t HTTP/1.1\r\nhost:\r\n\r\n", fine(), GoesOn),
        one("IPv6", "GET /topics/t HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n", fine(), GoesOn),
    ]
}

/// Where two readers could see two ends of a request. What follows must never be executed.
fn smuggling() -> Vec<Case> {
    let with = |headers: &str, body: &str| with_headers("/topics/smuggled", headers, body) + SMUGGLED;
    let refused = |name: &str, headers: &str, sentence: &'static str| {
        one(name, with(headers, "0\r\n\r\n"), Sentence(400, sentence), Closed)
    };
    let both = |headers: &str| with_headers("/topics/t", headers, "0\r\n\r\n") + SMUGGLED;
    vec![
        // 6.1: processed by its transfer-encoding alone, and the connection closed.
        one("length and chunks (6.1)", both("content-length: 5\r\ntransfer-encoding: chunked\r\n"), taken(), Closed),
        one("chunks and length (6.1)", both("transfer-encoding: chunked\r\ncontent-length: 200\r\n"), taken(), Closed),
        refused("two lengths (6.3)", "content-length: 5\r\ncontent-length: 6\r\n", "content-length"),
        refused("a list of lengths (6.3)", "content-length: 5, 5\r\n", "content-length"),
        refused("a length with a sign", "content-length: +5\r\n", "content-length"),
        refused("a negative length", "content-length: -1\r\n", "content-length"),
        refused("a length with an exponent", "content-length: 1e3\r\n", "content-length"),
        refused("a length in hexadecimal", "content-length: 0x5\r\n", "content-length"),
        refused("an empty length", "content-length: \r\n", "content-length"),
        refused("a length beyond all numbers", "content-length: 99999999999999999999\r\n", "content-length"),
        refused("chunked is not the last (6.3)", "transfer-encoding: chunked, identity\r\n", "transfer-encoding"),
        refused(
            "chunked, then another line (6.3)",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
            "transfer-encoding",
        ),
        refused("xchunked", "transfer-encoding: xchunked\r\n", "transfer-encoding"),
        refused("a coding in quotes", "transfer-encoding: \"chunked\"\r\n", "transfer-encoding"),
        refused("a space before the colon (5.1)", "Transfer-Encoding : chunked\r\n", "header"),
        refused("a tab before the colon (5.1)", "transfer-encoding\t: chunked\r\n", "header"),
        refused("a folded line (5.2)", "transfer-encoding:\r\n chunked\r\n", "header"),
        refused("a folded line with a tab (5.2)", "x: a\r\n\tb\r\ncontent-length: 5\r\n", "header"),
        refused("a line that begins with a space (2.2)", " content-length: 5\r\n", "header"),
        refused("CR alone in a value (2.2)", "x: a\rcontent-length: 5\r\n", "header"),
        refused("NUL in a value", "x: a\0b\r\n", "header"),
        refused("NUL in a name", "content-length\0: 5\r\n", "header"),
        refused("vertical tab before chunked", "transfer-encoding: \x0bchunked\r\n", "header"),
        one(
            "gzip, chunked (6.1)",
            with("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            Sentence(501, "`chunked`, once"),
            Closed,
        ),
        one(
            "identity, chunked",
            with("transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            Sentence(501, "`chunked`, once"),
            Closed,
        ),
        one(
            "chunked twice (6.1)",
            with("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"),
            Sentence(501, "`chunked`, once"),
            Closed,
        ),
        // 6.3: equal ones may be taken for one.
        one(
            "twice the same length (6.3)",
            with_headers("/topics/t", "content-length: 1\r\ncontent-length: 1\r\n", "x"),
            taken(),
            GoesOn,
        ),
        one("a body with GET", post("/topics/t", SMUGGLED).replacen("POST", "GET", 1), fine(), Closed),
        one("a body with HEAD", post("/topics/t", SMUGGLED).replacen("POST", "HEAD", 1), Head(200), Closed),
        one(
            "chunks with a stream",
            post("/events?topic=t", "")
                .replacen("POST", "GET", 1)
                .replace("content-length: 0", "transfer-encoding: chunked")
                + "0\r\n\r\n"
                + SMUGGLED,
            Stream,
            Streams,
        ),
        // 2.2: one LF may end a line. It ends it for every reader that lets it pass.
        one("LF alone (2.2)", "GET /topics/t HTTP/1.1\nhost: test\n\n", fine(), GoesOn),
    ]
}

fn many_events() -> Vec<Case> {
    let deep = "[".repeat(1 << 20);
    let rows: &[(&str, &str, &'static str)] = &[
        ("nothing", "", "not JSON"),
        ("no JSON", "hello", "not JSON"),
        ("no array", r#"{"topic":"smuggled","data":"x"}"#, "must be an array"),
        ("deep", &deep, "event 0 must be an object"),
        ("deep data", r#"[{"topic":"smuggled","data":[[[["x"]]]]}]"#, "`data` must be a string"),
        ("the last is bad", r#"[{"topic":"smuggled","data":"x"},{"topic":"smuggled"}]"#, "event 1: `data` is missing"),
        ("not closed", r#"[{"topic":"smuggled","data":"x"}"#, "not JSON"),
        ("a comma too much", r#"[{"topic":"smuggled","data":"x"},]"#, "event 1"),
        ("something behind it", r#"[{"topic":"smuggled","data":"x"}]x"#, "not JSON"),
        ("two topics", r#"[{"topic":"t","topic":"smuggled","data":"x"}]"#, "more than once"),
        ("two topics, one escaped", r#"[{"topic":"t","\u0074opic":"smuggled","data":"x"}]"#, "more than once"),
        ("a bad name", r#"[{"topic":"smuggled","data":"x","event":"a\u000ab"}]"#, "`event`: an event name must not"),
        ("half a character", r#"[{"topic":"smuggled","data":"\ud800"}]"#, "event 0, `data`"),
        ("a key for once", r#"[{"topic":"smuggled","data":"x","idempotency_key":"a"}]"#, "durable"),
        ("null", r#"[{"topic":"smuggled","data":null}]"#, "`data` must be a string"),
        ("a number", r#"[{"topic":"smuggled","data":1e999}]"#, "event 0, `data`"),
    ];
    let mut cases: Vec<Case> = rows
        .iter()
        .map(|(name, body, sentence)| one(name, post("/publish", body), Sentence(400, sentence), GoesOn))
        .collect();
    let body = b"[{\"topic\":\"smuggled\",\"data\":\"\xff\"}]";
    let head = with_headers("/publish", &format!("content-length: {}\r\n", body.len()), "");
    let bytes = [head.as_bytes(), body].concat();
    cases.push(one("not UTF-8", bytes, Sentence(400, "event 0, `data`"), GoesOn));
    cases.push(one("with GET", get("/publish"), Sentence(405, "POST, OPTIONS"), GoesOn));
    cases
}
