//! The real program, as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, get, wait_for, wait_until};

/// How a server is to be started.
#[derive(Debug)]
pub struct Launch {
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    config: Option<String>,
}

/// What a program that did not run has left.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A server that listens. Killed when dropped.
#[derive(Debug)]
pub struct TestServer {
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// What it printed at its start.
    pub banner: String,
    child: Child,
    log: Arc<Mutex<String>>,
    _files: TempDir,
}

impl Launch {
    pub fn verb(verb: &str) -> Launch {
        Launch { arguments: vec![verb.into()], variables: Vec::new(), config: None }
    }

    /// `serve` on ports of the kernel's choice.
    pub fn serve() -> Launch {
        Launch::verb("serve").on_any_port()
    }

    /// `demo` on ports of the kernel's choice.
    pub fn demo() -> Launch {
        Launch::verb("demo").on_any_port()
    }

    fn on_any_port(self) -> Launch {
        self.flag("--listen", "127.0.0.1:0").flag("--admin-listen", "127.0.0.1:0")
    }

    pub fn flag(mut self, name: &str, value: &str) -> Launch {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// A word that stands alone.
    pub fn word(mut self, word: &str) -> Launch {
        self.arguments.push(word.into());
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Launch {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// The text of the configuration file.
    pub fn config(mut self, text: &str) -> Launch {
        self.config = Some(text.into());
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> TestServer {
        let server = self.start_unready();
        server.wait_ready();
        server
    }

    /// Starts it and waits until it listens.
    pub fn start_unready(self) -> TestServer {
        let (mut child, files) = self.spawn();
        let log = Arc::default();
        let stderr = child.stderr.take().unwrap();
        let kept = Arc::clone(&log);
        thread::spawn(move || keep(stderr, &kept));
        let lines = lines(child.stdout.take().unwrap());
        let mut banner = String::new();
        // The banner's last line is the one about descriptors.
        while !banner.contains("descriptors") {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => banner.push_str(&format!("{line}\n")),
                Err(_) => panic!("the server does not start: {:?} {}", child.try_wait(), log.lock().unwrap()),
            }
        }
        let address = |name: &str| -> SocketAddr {
            let line = banner.lines().find(|line| line.trim_start().starts_with(name)).expect("the banner names it");
            line.split("http://").nth(1).unwrap().parse().unwrap()
        };
        TestServer { public: address("listening"), admin: address("admin"), banner, child, log, _files: files }
    }

    /// Runs it to its end, which must come by itself.
    pub fn run(self) -> Ended {
        let (mut child, _files) = self.spawn();
        let ended = wait_for_exit(&mut child);
        if ended.is_none() {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(ended.is_some(), "the program runs on: {stdout}{stderr}");
        Ended { code: output.status.code(), stdout, stderr }
    }

    fn spawn(mut self) -> (Child, TempDir) {
        let files = TempDir::new().unwrap();
        if let Some(config) = &self.config {
            let path: PathBuf = files.path().join("fanwheel.toml");
            std::fs::write(&path, config).unwrap();
            self.arguments.extend(["--config".into(), path.to_str().unwrap().into()]);
        }
        let child = Command::new(env!("CARGO_BIN_EXE_fanwheel"))
            .args(&self.arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        (child.unwrap(), files)
    }
}

impl TestServer {
    pub fn wait_ready(&self) {
        wait_until("the server's readiness", || get(self.admin, "/readyz").status() == 200);
    }

    /// Waits until readiness is red, and gives the reasons.
    pub fn wait_not_ready(&self) -> Vec<String> {
        wait_for("readiness to turn red", || {
            let answer = get(self.admin, "/readyz");
            (answer.status() == 503).then(|| super::sse::names(&answer.json()["reasons"]))
        })
    }

    /// One sample of `/metrics`, by its name with labels.
    pub fn metric(&self, name: &str) -> f64 {
        let answer = get(self.admin, "/metrics");
        let sample = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        sample.unwrap_or_else(|| panic!("no {name} in\n{}", answer.text()))
    }

    /// Waits until a sample has this value.
    pub fn wait_metric(&self, name: &str, value: f64) {
        let mut last = f64::NAN;
        wait_until(&format!("{name} to become {value}"), || {
            last = self.metric(name);
            // A counter that has passed the value will not come back.
            assert!(!(name.contains("_total") && last > value), "{name} is {last}, more than {value}");
            (last - value).abs() < f64::EPSILON
        });
    }

    /// Streams closed for this reason.
    pub fn wait_closed(&self, reason: &str, count: f64) {
        self.wait_metric(&format!("fanwheel_connections_closed_total{{reason=\"{reason}\"}}"), count);
    }

    pub fn status(&self) -> Value {
        get(self.admin, "/status").json()
    }

    /// Memory it occupies: pages of its own, and its part of those it shares.
    pub fn pss_bytes(&self) -> usize {
        self.memory("Pss:")
    }

    /// The same without files: what others share of the program does not count.
    pub fn anonymous_bytes(&self) -> usize {
        self.memory("Pss_Anon:")
    }

    fn memory(&self, name: &str) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let kib = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        kib.expect("Linux tells it").trim().parse::<usize>().unwrap() << 10
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended, which it must do with success.
    pub fn wait_exit(&mut self) {
        let ended = wait_for_exit(&mut self.child).expect("it was asked to end");
        assert_eq!(ended.code(), Some(0), "{}", self.log());
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) {
        self.terminate();
        self.wait_exit();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the server said:\n{}---", self.log());
        }
    }
}

fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(super::LOOK_AGAIN);
    }
    None
}

/// Keeps a pipe from filling up.
fn keep(mut pipe: impl Read, into: &Mutex<String>) {
    let mut piece = [0; 4 << 10];
    while let Ok(count @ 1..) = pipe.read(&mut piece) {
        into.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
    }
}

/// What a program says, line by line.
pub fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Nobody may listen any more; the pipe is read on all the same.
            let _ = sender.send(line);
        }
    });
    receiver
}
