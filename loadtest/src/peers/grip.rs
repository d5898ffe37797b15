//! The backend that Pushpin needs: it says which channels a stream holds, and takes publishes.
//!
//! ```text
//! subscriber ── GET /events?topic=a ──▶ Pushpin ── the same ──▶ Backend
//!            ◀── stream ──                      ◀── Grip-Hold: stream, Grip-Channel: a ──
//! publisher  ── POST /publish?topic=a ──▶ Backend ── ZeroMQ PUSH ──▶ Pushpin
//! ```
//!
//! Publishes pass through here because Pushpin's own HTTP control port closes the connection after
//! each of them: the publisher would be measured, not the server. Applications that publish often
//! use ZeroMQ too.
//! **What always holds:** publishes of one connection reach Pushpin in their order, and are answered
//! when they have been handed to the kernel.
//! **Overload:** while Pushpin takes nothing, the publisher gets no answer.
//! **Cost:** this process pays for it, not the server; each publish is some 50 µs under way longer.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, bail};
use socket2::{Domain, Socket, Type};

use super::zmtp::{self, Push};
use crate::target::Target;

/// A longer request is refused.
const REQUEST_LEN_MAX: usize = 1 << 20;
const BACKLOG: i32 = 4096;
const READ_LEN: usize = 64 * 1024;
const PUBLISHED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// See the module. Accepts nothing any more once dropped.
pub(super) struct Backend {
    pub(super) target: Target,
    is_over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

/// A request as it is answered.
#[derive(Debug, PartialEq, Eq)]
enum Request<'a> {
    Subscribe { topics: Vec<&'a str> },
    Publish { topic: &'a str, body: &'a [u8] },
}

impl Backend {
    /// `push`: where Pushpin's `PULL` socket will be.
    pub(super) fn start(push: SocketAddr) -> Result<Self> {
        let listener = listen()?;
        let addr = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let acceptor = thread::Builder::new().name("grip-backend".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                // Ends when the other side closes: Pushpin when it ends, a publisher when it is done.
                thread::spawn(move || {
                    if let Err(error) = serve(stream, push) {
                        eprintln!("loadtest: backend: {error:#}");
                    }
                });
            }
        })?;
        Ok(Self { target: Target { addr, authority: addr.to_string() }, is_over, acceptor: Some(acceptor) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        if TcpStream::connect(self.target.addr).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            let _ = acceptor.join();
        }
    }
}

/// On a free port, with room for a storm: the standard library's queue is 128 long.
fn listen() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Answers the requests of one connection, as many at a time as have arrived.
fn serve(mut stream: TcpStream, push_addr: SocketAddr) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut push: Option<Push> = None;
    let (mut unread, mut part) = (Vec::new(), vec![0; READ_LEN]);
    loop {
        let len = match stream.read(&mut part) {
            Ok(0) | Err(_) => return Ok(()),
            Ok(len) => len,
        };
        unread.extend_from_slice(&part[..len]);
        let (mut frames, mut answers, mut taken) = (Vec::new(), Vec::new(), 0);
        while let Some((request, len)) = parse(&unread[taken..])? {
            request.answer(&mut frames, &mut answers);
            taken += len;
        }
        unread.drain(..taken);
        if !frames.is_empty() {
            if push.is_none() {
                push = Some(Push::connect(push_addr)?);
            }
            push.as_mut().expect("it was just made").send(&frames)?;
        }
        if stream.write_all(&answers).is_err() {
            return Ok(());
        }
    }
}

impl Request<'_> {
    fn answer(&self, frames: &mut Vec<u8>, answers: &mut Vec<u8>) {
        match self {
            Self::Subscribe { topics } => answers.extend_from_slice(hold(topics).as_bytes()),
            Self::Publish { topic, body } => {
                zmtp::encode(&message(topic, &String::from_utf8_lossy(body)), frames);
                answers.extend_from_slice(PUBLISHED);
            }
        }
    }
}

/// What makes Pushpin keep a stream open and subscribe it.
fn hold(topics: &[&str]) -> String {
    let channels = topics.join(", ");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
         Grip-Hold: stream\r\nGrip-Channel: {channels}\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Pushpin's `publish` item; `J` says that it is JSON.
fn message(topic: &str, text: &str) -> Vec<u8> {
    let content = format!("data: {text}\n\n");
    let item = serde_json::json!({ "channel": topic, "formats": { "http-stream": { "content": content } } });
    format!("J{item}").into_bytes()
}

/// The first request of `bytes` and its length; `None` while it is not complete. Topics stay
/// percent-encoded, here as in both dialects: a channel may then have any topic's name.
fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head_len) = head.parse(bytes)? else {
        if bytes.len() > REQUEST_LEN_MAX {
            bail!("a request of more than {REQUEST_LEN_MAX} bytes");
        }
        return Ok(None);
    };
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let body_len = match length {
        Some(field) => std::str::from_utf8(field.value)?.trim().parse::<usize>()?,
        None => 0,
    };
    if body_len > REQUEST_LEN_MAX {
        bail!("a request of more than {REQUEST_LEN_MAX} bytes");
    }
    let Some(body) = bytes[head_len..].get(..body_len) else { return Ok(None) };
    let query = head.path.and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
    let topics: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("topic=")).collect();
    let request = match (head.method, topics.as_slice()) {
        (Some("POST"), [topic]) => Request::Publish { topic, body },
        (Some("GET"), [_, ..]) => Request::Subscribe { topics },
        _ => bail!("a request that is none of this backend: {:?} {:?}", head.method, head.path),
    };
    Ok(Some((request, head_len + body_len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_however_they_are_cut() {
        let raw = b"POST /publish?topic=a%2Fb HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /events?topic=a&topic=b HTTP/1.1\r\n\r\n";
        let end = raw.len() - b"GET /events?topic=a&topic=b HTTP/1.1\r\n\r\n".len();
        for cut in 0..end {
            assert_eq!(parse(&raw[..cut]).unwrap(), None, "{cut}");
        }
        let (request, len) = parse(raw).unwrap().unwrap();
        assert_eq!((request, len), (Request::Publish { topic: "a%2Fb", body: b"hello" }, end));
        let (request, len) = parse(&raw[end..]).unwrap().unwrap();
        assert_eq!((request, end + len), (Request::Subscribe { topics: vec!["a", "b"] }, raw.len()));
        assert!(parse(b"GET /other HTTP/1.1\r\n\r\n").is_err());
    }

    #[test]
    fn a_stream_is_held_on_all_its_channels_and_publishes_reach_the_socket() {
        let pushpin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = pushpin.local_addr().unwrap();
        let pull = thread::spawn(move || {
            let mut stream = pushpin.accept().unwrap().0;
            let mut greeting = [0; 64];
            stream.read_exact(&mut greeting).unwrap();
            stream.write_all(&greeting).unwrap();
            let mut ready = [0; 28];
            stream.read_exact(&mut ready).unwrap();
            stream.write_all(b"\x04\x06\x05READY").unwrap();
            let mut messages = Vec::new();
            stream.read_to_end(&mut messages).unwrap();
            messages
        });
        let backend = Backend::start(addr).unwrap();
        let mut client = TcpStream::connect(backend.target.addr).unwrap();
        client.write_all(b"GET /events?topic=a&topic=b HTTP/1.1\r\n\r\nPOST /publish?topic=b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        let expected = [hold(&["a", "b"]).as_bytes(), PUBLISHED].concat();
        assert!(memchr::memmem::find(&expected, b"Grip-Channel: a, b\r\n").is_some());
        let mut answers = vec![0; expected.len()];
        client.read_exact(&mut answers).unwrap();
        assert_eq!(String::from_utf8(answers).unwrap(), String::from_utf8(expected).unwrap());
        drop(client);
        let messages = String::from_utf8(pull.join().unwrap()).unwrap();
        assert!(
            messages.contains(r#"J{"channel":"b","formats":{"http-stream":{"content":"data: hi\n\n"}}}"#),
            "{messages}"
        );
    }
}
