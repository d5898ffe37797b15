//! Section 4.2: the opening handshake. Heads as they are sent, and what they must be answered.

use fanwheel::edge::http::answer::Problem;
use fanwheel::edge::http::cors::Origins;
use fanwheel::edge::ws::handshake::Handshake;
use http::{HeaderMap, Request, Response, StatusCode, Version};

/// What a server is to this table.
pub trait Doorman {
    /// Reads a head and answers.
    fn answer(&mut self, head: &str) -> Response<()>;
}

/// The checks alone. `https://a.example` is on the list.
pub struct WithoutSockets;

impl Doorman for WithoutSockets {
    fn answer(&mut self, head: &str) -> Response<()> {
        let origins = Origins(vec!["https://a.example".into()]);
        match Handshake::of(&request(head), &origins) {
            Ok(handshake) => response(&String::from_utf8(handshake.head("now")).unwrap()),
            Err(refusal) => Problem::from(refusal).into_answer().map(|_| ()),
        }
    }
}

fn request(head: &str) -> Request<()> {
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut parts = line.split(' ');
    let mut request = Request::builder().method(parts.next().unwrap()).uri(parts.next().unwrap()).version(match parts
        .next()
        .unwrap()
    {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/2.0" => Version::HTTP_2,
        _ => Version::HTTP_11,
    });
    request.headers_mut().unwrap().extend(fields(headers));
    request.body(()).unwrap()
}

pub fn response(head: &str) -> Response<()> {
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut response = Response::builder().status(line.split(' ').nth(1).unwrap());
    response.headers_mut().unwrap().extend(fields(headers));
    response.body(()).unwrap()
}

fn fields(text: &str) -> HeaderMap {
    let lines = text.split_terminator("\r\n").filter(|line| !line.is_empty());
    let mut fields = HeaderMap::new();
    for (name, value) in lines.map(|line| line.split_once(':').unwrap()) {
        let name = http::HeaderName::try_from(name).unwrap();
        fields.append(name, http::HeaderValue::from_bytes(value.trim().as_bytes()).unwrap());
    }
    fields
}

/// The request of section 1.2, with lines changed.
struct Head {
    first: String,
    lines: Vec<(String, String)>,
}

impl Head {
    fn new() -> Head {
        let lines = [
            ("Host", "b.example"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ];
        let lines = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Head { first: "GET /ws?topic=a HTTP/1.1".into(), lines }
    }

    fn first(first: &str) -> Head {
        Head { first: first.into(), ..Head::new() }
    }

    fn without(name: &str) -> Head {
        let mut head = Head::new();
        head.lines.retain(|(known, _)| known != name);
        head
    }

    fn with(mut self, name: &str, value: &str) -> Head {
        self.lines.push((name.into(), value.into()));
        self
    }

    fn set(name: &str, value: &str) -> Head {
        Head::without(name).with(name, value)
    }

    fn text(&self) -> String {
        let lines: String = self.lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{lines}\r\n", self.first)
    }
}

const UPGRADE: &str = "Upgrade";
const CONNECTION: &str = "Connection";
const KEY: &str = "Sec-WebSocket-Key";
const VERSION: &str = "Sec-WebSocket-Version";
const PROTOCOL: &str = "Sec-WebSocket-Protocol";
const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
const ORIGIN: &str = "Origin";
const OURS: &str = "fanwheel.v1.json";

/// What is asked, and the status of the answer.
fn rows() -> Vec<(&'static str, &'static str, Head, u16)> {
    let new = Head::new;
    vec![
        ("4.2.1", "all that is needed, and nothing else", new(), 101),
        ("4.2.1", "GET alone: POST", Head::first("POST /ws HTTP/1.1"), 405),
        ("4.2.1", "GET alone: HEAD", Head::first("HEAD /ws HTTP/1.1"), 405),
        ("4.2.1", "GET alone: methods are told apart by case", Head::first("get /ws HTTP/1.1"), 405),
        ("4.2.1", "HTTP/1.0 is too old", Head::first("GET /ws HTTP/1.0"), 400),
        ("4.2.1", "HTTP/2 has another way", Head::first("GET /ws HTTP/2.0"), 400),
        ("4.2.1", "no Upgrade", Head::without(UPGRADE), 426),
        ("4.2.1", "an empty Upgrade", Head::set(UPGRADE, ""), 426),
        ("4.2.1", "an Upgrade to something else", Head::set(UPGRADE, "h2c"), 426),
        ("4.2.1", "an Upgrade whose name only begins so", Head::set(UPGRADE, "websockets"), 426),
        ("4.2.1", "an Upgrade to a version of the protocol that is none", Head::set(UPGRADE, "websocket/13"), 426),
        ("4.2.1", "Upgrade in letters of any case", Head::set(UPGRADE, "WebSocket"), 101),
        ("4.2.1", "Upgrade as a list", Head::set(UPGRADE, "h2c, websocket"), 101),
        ("4.2.1", "Upgrade in two lines", Head::set(UPGRADE, "h2c").with(UPGRADE, "websocket"), 101),
        ("4.2.1", "no Connection", Head::without(CONNECTION), 400),
        ("4.2.1", "a Connection that names something else", Head::set(CONNECTION, "keep-alive"), 400),
        ("4.2.1", "a Connection whose token only contains it", Head::set(CONNECTION, "Upgraded"), 400),
        (
            "4.2.1",
            "a Connection whose token is not separated by a comma",
            { Head::set(CONNECTION, "keep-alive Upgrade") },
            400,
        ),
        ("4.2.1", "Connection in letters of any case", Head::set(CONNECTION, "upgrade"), 101),
        ("4.2.1", "Connection as a list", Head::set(CONNECTION, "keep-alive, Upgrade"), 101),
        ("4.2.1", "Connection as a list without spaces", Head::set(CONNECTION, "Upgrade,keep-alive"), 101),
        ("4.2.1", "Connection as a list with empty elements", Head::set(CONNECTION, ", ,Upgrade,"), 101),
        ("4.2.1", "Connection in two lines", Head::set(CONNECTION, "keep-alive").with(CONNECTION, "Upgrade"), 101),
        ("4.2.1", "no key", Head::without(KEY), 400),
        ("4.2.1", "an empty key", Head::set(KEY, ""), 400),
        ("11.3.1", "two keys", new().with(KEY, "AAAAAAAAAAAAAAAAAAAAAA=="), 400),
        ("11.3.1", "the same key twice", new().with(KEY, "dGhlIHNhbXBsZSBub25jZQ=="), 400),
        ("4.2.1", "a key of 15 bytes", Head::set(KEY, "AAAAAAAAAAAAAAAAAAAA"), 400),
        ("4.2.1", "a key of 17 bytes", Head::set(KEY, "AAAAAAAAAAAAAAAAAAAAAAA="), 400),
        ("4.2.1", "a key that is no base64", Head::set(KEY, "dGhlIHNhbXBsZSBub25jZ!=="), 400),
        ("4.2.1", "a key without its padding", Head::set(KEY, "dGhlIHNhbXBsZSBub25jZQ"), 400),
        ("4.2.1", "a key in the other alphabet of base64", Head::set(KEY, "__________________8-_Q=="), 400),
        ("4.2.1", "a key whose last bits are no bytes", Head::set(KEY, "AAAAAAAAAAAAAAAAAAAAAB=="), 400),
        ("4.2.1", "a key of 16 bytes that are not decoded", Head::set(KEY, "0123456789abcdef"), 400),
        ("4.2.1", "a key of zeros", Head::set(KEY, "AAAAAAAAAAAAAAAAAAAAAA=="), 101),
        ("4.2.1", "no version", Head::without(VERSION), 400),
        ("11.3.5", "two versions", new().with(VERSION, "13"), 400),
        ("4.4", "a version that is older", Head::set(VERSION, "8"), 426),
        ("4.4", "a version that does not exist", Head::set(VERSION, "14"), 426),
        ("4.4", "a version that is no number", Head::set(VERSION, "thirteen"), 426),
        ("4.4", "a version with a zero before it", Head::set(VERSION, "013"), 426),
        ("4.4", "a list of versions is none", Head::set(VERSION, "13, 8"), 426),
        (
            "4.4",
            "the version comes before the key, which others may have otherwise",
            {
                let mut head = Head::set(VERSION, "0");
                head.lines.retain(|(name, _)| name != KEY);
                head
            },
            426,
        ),
        ("4.2.1", "no subprotocol", new(), 101),
        ("4.2.1", "our subprotocol", new().with(PROTOCOL, OURS), 101),
        ("4.2.2", "a subprotocol that is not ours is not agreed to", new().with(PROTOCOL, "mqtt"), 101),
        ("4.2.2", "a subprotocol in other letters is another", new().with(PROTOCOL, "Fanwheel.V1.JSON"), 101),
        ("4.2.2", "ours among others", new().with(PROTOCOL, "mqtt, fanwheel.v1.json, x"), 101),
        ("11.3.4", "ours in the second of two lines", new().with(PROTOCOL, "mqtt").with(PROTOCOL, OURS), 101),
        ("11.3.4", "an empty list of subprotocols", new().with(PROTOCOL, ""), 400),
        ("11.3.4", "a list of nothing but commas", new().with(PROTOCOL, ",,"), 400),
        ("11.3.4", "a subprotocol that is no token", new().with(PROTOCOL, "a/b"), 400),
        ("11.3.4", "subprotocols that are not separated by commas", new().with(PROTOCOL, "mqtt fanwheel.v1.json"), 400),
        ("11.3.4", "a subprotocol that is not ASCII", new().with(PROTOCOL, "é"), 400),
        ("9.1", "an extension is not agreed to", new().with(EXTENSIONS, "permessage-deflate"), 101),
        (
            "9.1",
            "an extension with parameters",
            { new().with(EXTENSIONS, "permessage-deflate; client_max_window_bits; server_max_window_bits=10") },
            101,
        ),
        ("9.1", "an extension with a quoted value", new().with(EXTENSIONS, "x; y=\"10\""), 101),
        ("9.1", "extensions in two lines", new().with(EXTENSIONS, "x").with(EXTENSIONS, "y"), 101),
        ("9.1", "an empty list of extensions", new().with(EXTENSIONS, ""), 400),
        ("9.1", "an extension without a name", new().with(EXTENSIONS, "; x"), 400),
        ("9.1", "a parameter without a value behind its sign", new().with(EXTENSIONS, "x; y="), 400),
        ("9.1", "a quoted value that does not end", new().with(EXTENSIONS, "x; y=\"1"), 400),
        ("9.1", "a quoted value that is no token", new().with(EXTENSIONS, "x; y=\"1 2\""), 400),
        ("4.2.2", "no Origin: no browser", new(), 101),
        ("4.2.2", "an Origin on the list", new().with(ORIGIN, "https://a.example"), 101),
        ("4.2.2", "an Origin on the list with another scheme", new().with(ORIGIN, "http://a.example"), 403),
        (
            "4.2.2",
            "an Origin that only begins like one on the list",
            { new().with(ORIGIN, "https://a.example.evil") },
            403,
        ),
        ("4.2.2", "our own Origin", new().with(ORIGIN, "http://b.example"), 101),
        ("4.2.2", "our own Origin behind a proxy with TLS", new().with(ORIGIN, "https://b.example"), 101),
        ("4.2.2", "our own host on another port", new().with(ORIGIN, "http://b.example:81"), 403),
        ("4.2.2", "an Origin that is foreign", new().with(ORIGIN, "http://c.example"), 403),
        ("4.2.2", "an Origin that is hidden", new().with(ORIGIN, "null"), 403),
        ("4.2.2", "an empty Origin", new().with(ORIGIN, ""), 403),
        ("4.2.2", "two Origins", { new().with(ORIGIN, "https://a.example").with(ORIGIN, "https://a.example") }, 403),
        ("4.2.2", "a body would be taken for frames", new().with("Content-Length", "5"), 400),
        ("4.2.2", "a body in chunks would be taken for frames", new().with("Transfer-Encoding", "chunked"), 400),
        ("4.2.2", "a body of nothing", new().with("Content-Length", "0"), 101),
        ("4.2.2", "headers that nobody knows", new().with("X-Unknown", "1").with("Cookie", "a=b"), 101),
    ]
}

pub fn play_all(doorman: &mut impl Doorman) {
    let rows = rows();
    let mut wrong = Vec::new();
    for (section, rule, head, status) in &rows {
        let answer = doorman.answer(&head.text());
        if answer.status().as_u16() != *status {
            wrong.push(format!("{section}, {rule}: expected {status}, saw {}", answer.status()));
        }
        let value = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let is = |name: &str, expected: &str| value(name).is_some_and(|value| value.eq_ignore_ascii_case(expected));
        let fits = match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                is("upgrade", "websocket")
                    && is("connection", "upgrade")
                    && value("sec-websocket-extensions").is_none()
                    && value("content-length").is_none()
            }
            StatusCode::UPGRADE_REQUIRED => {
                is("upgrade", "websocket") && is("connection", "upgrade") && is("sec-websocket-version", "13")
            }
            StatusCode::METHOD_NOT_ALLOWED => value("allow").is_some_and(|allow| allow.contains("GET")),
            _ => true,
        };
        if !fits {
            wrong.push(format!("{section}, {rule}: the headers are wrong: {:?}", answer.headers()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} heads:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert!(rows.len() >= 70);
}

#[test]
fn every_head_is_answered_as_it_must_be() {
    play_all(&mut WithoutSockets);
}

#[test]
fn the_key_is_answered_and_ours_is_the_subprotocol_agreed_to() {
    let agreed = |head: Head| {
        let answer = WithoutSockets.answer(&head.text());
        answer.headers().get(PROTOCOL).map(|value| value.to_str().unwrap().to_owned())
    };
    let answer = WithoutSockets.answer(&Head::new().text());
    assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(agreed(Head::new()), None);
    for offered in [OURS, "mqtt, fanwheel.v1.json", "fanwheel.v1.json,mqtt", ",fanwheel.v1.json"] {
        assert_eq!(agreed(Head::new().with(PROTOCOL, offered)).as_deref(), Some(OURS), "{offered}");
    }
    for offered in ["mqtt", "Fanwheel.V1.JSON", "fanwheel.v1.json2"] {
        assert_eq!(agreed(Head::new().with(PROTOCOL, offered)), None, "{offered}");
    }
    assert_eq!(agreed(Head::new().with(PROTOCOL, "mqtt").with(PROTOCOL, OURS)).as_deref(), Some(OURS));
}

#[test]
fn a_refusal_says_the_rule_and_its_section() {
    let origins = Origins::default();
    let refusal = Handshake::of(&request(&Head::without(KEY).text()), &origins).unwrap_err();
    let answer = String::from_utf8(Problem::from(refusal).into_last_bytes("now")).unwrap();
    assert!(answer.contains("there must be one `Sec-WebSocket-Key` (RFC 6455, section 4.2.1)"), "{answer}");
}
