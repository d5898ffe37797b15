//! The parent's side of the floor server: starts it, orders, ends it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::protocol::{Accepted, Order, ServerPlan, Told};

const ANSWER_WAIT: Duration = Duration::from_secs(10);
const EXIT_WAIT: Duration = Duration::from_secs(5);

/// A floor server that runs. Dropping it ends it.
pub(super) struct ServerProcess {
    child: Child,
    /// `None` once it has been closed to end the server.
    stdin: Option<ChildStdin>,
    answers: Receiver<Told>,
    pub(super) addr: SocketAddr,
}

impl ServerProcess {
    /// Starts this program again.
    pub(super) fn start(plan: &ServerPlan) -> Result<Self> {
        let program = std::env::current_exe().context("where is this program")?;
        let mut child = Process::new(program)
            .arg("floor-server")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the floor server")?;
        let (stdin, answers) = (child.stdin.take(), listen(&mut child));
        let mut process = Self { child, stdin, answers, addr: plan.listen };
        process.write(&serde_json::to_string(plan)?)?;
        match process.take_told(ANSWER_WAIT)? {
            Some(Told::Listening(addr)) => process.addr = addr,
            _ => bail!("the floor server does not listen"),
        }
        Ok(process)
    }

    pub(super) fn count(&mut self) -> Result<Accepted> {
        self.order(&Order::Count)?;
        match self.take_told(ANSWER_WAIT)? {
            Some(Told::Accepted(accepted)) => Ok(accepted),
            _ => bail!("the floor server does not answer"),
        }
    }

    pub(super) fn order(&mut self, order: &Order) -> Result<()> {
        self.write(&serde_json::to_string(order)?)
    }

    /// What the server says within `wait`.
    pub(super) fn take_told(&mut self, wait: Duration) -> Result<Option<Told>> {
        match self.answers.recv_timeout(wait) {
            Ok(told) => Ok(Some(told)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the floor server ended early"),
        }
    }

    fn write(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the floor server was ended already")?;
        // One write for the line and its end: the server reads once per order.
        stdin.write_all(format!("{line}\n").as_bytes()).context("the floor server ended early")
    }
}

/// A thread reads its lines; the channel closes with its stdout.
fn listen(child: &mut Child) -> Receiver<Told> {
    let (sender, answers) = mpsc::channel();
    let stdout = child.stdout.take();
    thread::spawn(move || {
        for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
            let Some(told) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
                return;
            };
            if sender.send(told).is_err() {
                return;
            }
        }
    });
    answers
}

impl Drop for ServerProcess {
    /// The end of its stdin ends it; if it does not listen it is killed.
    fn drop(&mut self) {
        self.stdin = None;
        let deadline = Instant::now() + EXIT_WAIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
