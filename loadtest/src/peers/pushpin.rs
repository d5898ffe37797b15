//! Pushpin: a runner with four programs, and the backend that says what a stream subscribes to.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::grip::Backend;
use super::process::Process;
use super::{Running, Setup, install, ports};
use crate::dialect::Dialect;
use crate::publisher::Via;
use crate::target::Target;

pub(super) const NOTE: &str = "Debian's package. Changed: message_rate and message_hwm, because as shipped it delivers 2,500 \
     events per second to all streams together, the number of channels on a stream (20), no log line per request. \
     Its connection manager has 2 threads, its proxy and its handler one each, whatever the cores: it offers no \
     setting. Published to by ZeroMQ: its HTTP port closes the connection after each publish. Its backend runs in the \
     load test and is not counted.";

pub(super) const TOPICS_PER_STREAM_MAX: usize = 1000;

/// Of 3,000 streams none was refused or cut at 16, some 25 were cut at 32, and 18 refused (status 502)
/// at 128: its programs drop messages to each other that come too fast.
pub(super) const OPENING_MAX: usize = 16;

const CONFIG: &str = include_str!("../../peers/pushpin.conf");
/// What its programs tell each other, beside the main configuration: Debian's and upstream's place.
const INTERNAL: [&str; 2] = ["/usr/lib/pushpin/internal.conf", "/usr/local/lib/pushpin/internal.conf"];
/// As shipped.
const CONNECTIONS_MAX: usize = 50_000;
/// Streams that must carry events: the connection manager's threads take turns.
const PROBES: usize = 8;
/// Bytes of an event that is tried, and how many: more than the buffer of 8,192 bytes that a stream
/// begins with, so that "there is room again" must have come through too.
const PROBE_LEN: usize = 6_000;
const PROBE_EVENTS: usize = 3;
/// For one step of it, which takes 2 ms or for ever.
const PROBE_WAIT: Duration = Duration::from_millis(500);
/// The runner, connection manager, client, proxy and handler.
const PROGRAMS: usize = 5;

pub(super) fn version() -> Option<String> {
    internal()?;
    for helper in ["condure", "zurl"] {
        install::output(Command::new(helper).arg("--version"))?;
    }
    install::output(Command::new("pushpin").arg("--version")).map(|line| line.trim().to_owned())
}

pub(super) fn install() -> Result<()> {
    install::packages(&["pushpin", "zurl"])
}

pub(super) fn start(setup: &Setup) -> Result<Running> {
    let target = ports::target(ports::free()?);
    let push = ports::target(ports::free()?);
    let backend = Backend::start(push.addr)?;
    for folder in ["run", "log"] {
        fs::create_dir_all(setup.dir.join(folder))?;
    }
    fs::write(setup.dir.join("routes"), format!("* {}\n", backend.target.authority))?;
    let config = setup.dir.join("pushpin.conf");
    let filled = CONFIG
        .replace("{{internal}}", internal().context("Pushpin's internal.conf is not there")?)
        .replace("{{dir}}", &setup.dir.to_string_lossy())
        .replace("{{connections}}", &setup.streams_max.max(CONNECTIONS_MAX).to_string())
        .replace("{{port}}", &target.addr.port().to_string())
        .replace("{{push_port}}", &push.addr.port().to_string())
        .replace("{{sub_port}}", &ports::free()?.to_string())
        .replace("{{control_port}}", &ports::free()?.to_string())
        .replace("{{command_port}}", &ports::free()?.to_string());
    fs::write(&config, filled)?;
    let mut server = Process::start("pushpin", Command::new("pushpin").arg("--config").arg(&config), &setup.dir)?;
    server.wait_for_family(PROGRAMS)?;
    server.wait_for(&push)?;
    server.wait_until("streams", || carries(&target, &backend.target).is_ok())?;
    let publish = Via::Http { target: backend.target.clone(), request: Dialect::by_query().publish };
    Ok(Running {
        dialect: Dialect::by_query(),
        subscribe: target,
        publish,
        server,
        broker: None,
        _backend: Some(backend),
    })
}

/// Opens streams and has events delivered on them. Pushpin's programs find each other while it
/// already accepts connections: what one of them tells another before that is lost, and with it a
/// request, an event, or all that a stream would ever have got.
fn carries(target: &Target, backend: &Target) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..PROBES {
        let mut stream = connect(target)?;
        stream.write_all(Dialect::by_query().subscribe_request(target, ["ready"].into_iter(), None).as_bytes())?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        ensure!(start == *b"HTTP/1.1 200", "a stream was refused");
        streams.push(stream);
    }
    let mut publisher = connect(backend)?;
    let (before, after) = Dialect::by_query().publish.around(backend, "ready", PROBE_LEN)?;
    for _ in 0..PROBE_EVENTS {
        publisher.write_all(format!("{before}{}{after}", "x".repeat(PROBE_LEN)).as_bytes())?;
        // With its frame each event is longer than this; what is left over is the next one's.
        streams.iter_mut().try_for_each(|stream| stream.read_exact(&mut [0; PROBE_LEN]))?;
    }
    Ok(())
}

fn connect(target: &Target) -> Result<TcpStream> {
    let stream = TcpStream::connect(target.addr)?;
    stream.set_read_timeout(Some(PROBE_WAIT))?;
    Ok(stream)
}

fn internal() -> Option<&'static str> {
    INTERNAL.into_iter().find(|path| Path::new(path).is_file())
}
