//! Those who take their time: 10 s for a head, 30 s for a body.

use std::time::Duration;

use super::Then::{Closed, GoesOn};
use super::{Case, Said};

const LATE_HEAD: &str = "head was not complete after 10 s";
const LATE_BODY: &str = "body was not complete after 30 s";

pub fn heads() -> Vec<Case> {
    let late = || Said::Sentence(408, LATE_HEAD);
    let fine = || Said::Body(200, "\"topic\":\"t\"");
    let get = "GET /topics/t HTTP/1.1\r\nhost: test\r\n\r\n";
    let trickled = Case {
        pieces: "GET /topics".bytes().map(|byte| vec![byte]).collect(),
        pause: Duration::from_millis(800),
        ..Case::new("a byte now and then", "", vec![late()], Closed)
    };
    let in_time = Case {
        pieces: get.as_bytes().chunks(8).map(<[u8]>::to_vec).collect(),
        pause: Duration::from_millis(200),
        ..Case::new("slow, and in time", "", vec![fine()], GoesOn)
    };
    vec![
        Case::new("one byte", "G", vec![late()], Closed),
        Case::new("a line without its end", "GET /topics/t HTTP/1.1", vec![late()], Closed),
        Case::new("headers without an end", "GET /topics/t HTTP/1.1\r\nhost: test\r\n", vec![late()], Closed),
        Case::new("a stream's", "GET /events?topic=t HTTP/1.1\r\nhost: test\r\n\r", vec![late()], Closed),
        Case::new("the second head", format!("{get}GET /top"), vec![fine(), late()], Closed),
        trickled,
        in_time,
        Case::new("nothing at all", "", vec![], Closed),
        Case::new("empty lines are no request (RFC 9112, 2.2)", "\r\n\r\n", vec![], Closed),
        Case::new("idle after an answer", get, vec![fine()], Closed),
        Case::new("empty lines after an answer", format!("{get}\r\n"), vec![fine()], Closed),
    ]
}

pub fn bodies() -> Vec<Case> {
    let post =
        |headers: &str, body: &str| format!("POST /topics/smuggled HTTP/1.1\r\nhost: test\r\n{headers}\r\n\r\n{body}");
    let late = || Said::Sentence(408, LATE_BODY);
    let case = |name, bytes: String| Case::new(name, bytes, vec![late()], Closed);
    let trickled = Case {
        pieces: std::iter::once(post("content-length: 1000", "").into_bytes()).chain(vec![b"x".to_vec(); 14]).collect(),
        pause: Duration::from_secs(2),
        ..case("a byte now and then", String::new())
    };
    vec![
        case("none of it", post("content-length: 5", "")),
        case("half of it", post("content-length: 10", "hello")),
        case("chunks without the last", post("transfer-encoding: chunked", "5\r\nhello\r\n")),
        case("half a chunk", post("transfer-encoding: chunked", "5\r\nhe")),
        case(
            "many events",
            "POST /publish HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n[{\"topic\":\"smuggled\",".into(),
        ),
        case("before a stream", "GET /events?topic=t HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhe".into()),
        trickled,
    ]
}
