//! `durable-streams-server`, the server of the crate durable-streams.
//!
//! A stream of events is created by PUT, appended to by POST and followed by GET with `live=sse`.
//! Streams of JSON are used: the protocol keeps their messages apart, and several appends that are
//! read at once become one event whose data is an array of them. (Streams of text run together,
//! others are base64.) One connection follows one stream of events.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::process::Process;
use super::{Running, Setup, install, ports};
use crate::dialect::{Dialect, OpenOn, PublishRequest, Transport};
use crate::http::{HEAD_LEN_MAX, Head};
use crate::target::{Target, percent_encode};

pub(super) const NOTE: &str = "The crate's release build. Changed: --durability memory, its mode without a disk write per \
     append (as shipped an append waits for fdatasync, which none of the others does); one worker thread per core. \
     One topic per stream, and it ends every stream after 60 s: shorter runs only.";

/// Its own constant.
pub(super) const STREAM_DURATION_MAX: Duration = Duration::from_secs(60);

const CRATE: &str = "durable-streams";
const VERSION: &str = "0.1.5";

/// It cannot say its version; the folder is named after the one that was installed.
pub(super) fn version() -> Option<String> {
    program().ok().filter(|program| program.is_file()).map(|_| format!("durable-streams-server {VERSION}"))
}

pub(super) fn install() -> Result<()> {
    install::cargo_program(CRATE, VERSION)
}

pub(super) fn start(setup: &Setup) -> Result<Running> {
    let target = ports::target(ports::free()?);
    let mut command = Command::new(program()?);
    command.args(["--port", &target.addr.port().to_string(), "--data-dir"]).arg(setup.dir.join("data"));
    command.args(["--durability", "memory", "--worker-threads", &setup.cores.to_string()]);
    let mut server = Process::start("durable-streams", &command, &setup.dir)?;
    server.wait_for(&target)?;
    create(&target, &setup.topics)?;
    Ok(Running::by_http(dialect(), target, server))
}

fn dialect() -> Dialect {
    Dialect {
        subscribe_path: "/topics/{topics}?offset=now&live=sse".to_owned(),
        topic_separator: ",".to_owned(),
        open_on: OpenOn::Head,
        transport: Transport::Sse,
        publish: PublishRequest {
            method: "POST".to_owned(),
            path: "/topics/{topic}".to_owned(),
            headers: vec!["Content-Type: application/json".to_owned()],
            body: "\"{payload}\"".to_owned(),
        },
    }
}

/// Creates the stream of each topic, over one connection.
fn create(target: &Target, topics: &[String]) -> Result<()> {
    let mut connection = TcpStream::connect(target.addr)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    for topic in topics {
        let request = format!(
            "PUT /topics/{} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
            percent_encode(topic),
            target.authority,
        );
        connection.write_all(request.as_bytes())?;
        let status = read_status(&mut connection).with_context(|| format!("create topic {topic}"))?;
        ensure!((200..300).contains(&status), "create topic {topic}: status {status}");
    }
    Ok(())
}

/// The status of an answer and nothing after it.
fn read_status(connection: &mut TcpStream) -> Result<u16> {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        let len = connection.read(&mut part)?;
        ensure!(len > 0 && answer.len() <= HEAD_LEN_MAX, "no answer");
        answer.extend_from_slice(&part[..len]);
        if let Some(head) = Head::parse(&answer)? {
            let mut body = head.body;
            body.decode_in_place(&mut answer[head.len..])?;
            if body.is_done() {
                return Ok(head.status);
            }
            answer.truncate(head.len);
        }
    }
}

fn program() -> Result<PathBuf> {
    Ok(install::cargo_root(CRATE, VERSION)?.join("bin/durable-streams-server"))
}
