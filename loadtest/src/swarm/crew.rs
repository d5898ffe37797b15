//! The parent's side of its workers: starts them, speaks over their pipes, ends them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::protocol::{Answer, Command, Done, Progress, Slot, WorkerPlan};

/// How long a worker may take to judge, and to exit.
const FINISH_WAIT: Duration = Duration::from_secs(60);
const EXIT_WAIT: Duration = Duration::from_secs(5);

/// All workers of a run. Dropping it ends them.
pub(crate) struct Crew {
    members: Vec<Member>,
    /// (worker, what it said); `None` when its stdout ended.
    answers: Receiver<(usize, Option<Answer>)>,
}

struct Member {
    child: Child,
    /// `None` once it has been closed to end the worker.
    stdin: Option<ChildStdin>,
    progress: Progress,
    done: Option<Done>,
}

impl Crew {
    /// Starts this program again, once per plan.
    pub(crate) fn start(plans: &[WorkerPlan]) -> Result<Self> {
        let program = std::env::current_exe().context("where is this program")?;
        let (sender, answers) = mpsc::channel();
        let mut crew = Self { members: Vec::new(), answers };
        for (index, plan) in plans.iter().enumerate() {
            let mut child = Process::new(&program)
                .arg("swarm-worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("start a worker")?;
            let stdin = child.stdin.take();
            listen(index, &mut child, sender.clone());
            crew.members.push(Member { child, stdin, progress: Progress::default(), done: None });
            crew.members[index].send(&serde_json::to_string(plan)?)?;
        }
        Ok(crew)
    }

    /// Sum of what the workers last said.
    pub(crate) fn progress(&self) -> Progress {
        let mut total = Progress::default();
        self.members.iter().for_each(|member| total += member.progress);
        total
    }

    pub(crate) fn tell(&mut self, command: &Command) -> Result<()> {
        let line = serde_json::to_string(command)?;
        self.members.iter_mut().try_for_each(|member| member.send(&line))
    }

    /// Takes what workers say for `wait`.
    pub(crate) fn take_answers(&mut self, wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        loop {
            match self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((index, Some(Answer::Progress(progress)))) => self.members[index].progress = progress,
                Ok((index, Some(Answer::Done(done)))) => {
                    self.members[index].progress = done.progress;
                    self.members[index].done = Some(*done);
                }
                Ok((index, None)) if self.members[index].done.is_none() => bail!("worker {index} ended early"),
                Ok((_, None)) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => bail!("all workers ended"),
            }
            if self.members.iter().all(|member| member.done.is_some()) {
                return Ok(());
            }
        }
    }

    /// Has every worker judge what it saw against what was published.
    pub(crate) fn finish(&mut self, slots: &[Slot]) -> Result<Vec<Done>> {
        self.tell(&Command::Finish(slots.to_vec()))?;
        self.take_answers(FINISH_WAIT)?;
        let dones = self.members.iter_mut().map(|member| member.done.take());
        dones.collect::<Option<Vec<_>>>().context("a worker gave no result in time")
    }
}

impl Member {
    fn send(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("a worker was ended already")?;
        writeln!(stdin, "{line}").context("a worker ended early")
    }
}

/// One thread per worker reads its lines.
fn listen(index: usize, child: &mut Child, sender: Sender<(usize, Option<Answer>)>) {
    let Some(stdout) = child.stdout.take() else {
        return;
    };
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Some(answer) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
                break;
            };
            if sender.send((index, Some(answer))).is_err() {
                return;
            }
        }
        let _ = sender.send((index, None));
    });
}

impl Drop for Crew {
    /// The end of its stdin ends a worker; one that does not listen is killed.
    fn drop(&mut self) {
        for member in &mut self.members {
            member.stdin = None;
        }
        let deadline = Instant::now() + EXIT_WAIT;
        for member in &mut self.members {
            while matches!(member.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            if matches!(member.child.try_wait(), Ok(None)) {
                let _ = member.child.kill();
                let _ = member.child.wait();
            }
        }
    }
}
