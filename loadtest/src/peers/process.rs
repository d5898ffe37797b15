//! A process that was started here, and its descendants, until they are gone.
//!
//! **For:** servers that are one process (Fanwheel), a master with workers (nginx, Node) or a runner
//! with several programs (Pushpin), treated alike.
//! **What always holds:** nothing is signalled that is not a descendant of what was started here: a
//! process is known by its id *and* the time it began, so a reused id is never hit.
//! **Overload:** who does not end within [`END_WAIT`] of SIGTERM is killed.
//! If this program is killed, so that it can end nothing, the kernel sends SIGTERM to what it
//! started (where util-linux' `setpriv` is there to ask for it).
//! **Not chosen:** process groups of their own. In this one, Ctrl-C reaches the servers too.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};

use super::install;
use crate::target::Target;

/// A server that does not accept connections for so long will not.
const START_WAIT: Duration = Duration::from_secs(20);
/// Time to end after SIGTERM. Nothing of what a server could still save is wanted.
const END_WAIT: Duration = Duration::from_secs(3);
const POLL_WAIT: Duration = Duration::from_millis(10);
/// Bytes of a log that are shown when a server does not start.
const LOG_TAIL_LEN: u64 = 2000;

/// See the module. Ended when dropped.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    /// Its standard output and error.
    log: PathBuf,
    /// (id, began) of those that were seen to belong to it: they are ended even if it ends before.
    known: RefCell<HashSet<(u32, u64)>>,
}

/// A process as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    pid: u32,
    parent: u32,
    /// In clock ticks since the machine started.
    began: u64,
    /// True exactly when it has ended and only waits to be collected.
    is_zombie: bool,
}

impl Process {
    /// Starts it; what it prints goes to `<dir>/<name>.log`. It must not outlive the calling thread.
    pub(super) fn start(name: &'static str, command: &Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).with_context(|| format!("{}", log.display()))?;
        let mut command = bound_to_this_thread(command);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("{name}: cannot start {:?}", command.get_program()))?;
        Ok(Self { name, child, log, known: RefCell::default() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It and its descendants as they are now.
    pub(super) fn pids(&self) -> Vec<u32> {
        let members = family(self.pid(), &entries());
        self.known.borrow_mut().extend(members.iter().map(|entry| (entry.pid, entry.began)));
        members.iter().map(|entry| entry.pid).collect()
    }

    /// Waits until it accepts connections at `target`.
    pub(super) fn wait_for(&mut self, target: &Target) -> Result<()> {
        self.wait_until(&target.authority, || TcpStream::connect(target.addr).is_ok())
    }

    /// Waits until it has `len` processes, itself included.
    pub(super) fn wait_for_family(&mut self, len: usize) -> Result<()> {
        let root = self.pid();
        self.wait_until("its workers", || family(root, &entries()).len() >= len)?;
        self.pids();
        Ok(())
    }

    /// Waits until `is_ready`; an error with the end of its log when it ended or takes too long.
    pub(super) fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_WAIT;
        while !is_ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready ({what}):\n{}", self.name, self.log_tail());
            }
            // Polls: a server has no way to say that it listens.
            thread::sleep(POLL_WAIT);
        }
        // Somebody else may be listening there.
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log_tail()),
            None => Ok(()),
        }
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn log_tail(&self) -> String {
        let tail = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let len = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_LEN)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(tail)
        };
        String::from_utf8_lossy(&tail().unwrap_or_default()).into_owned()
    }

    /// Asks it to end, then kills what is left of it and its descendants.
    fn end(&mut self) {
        // `child` has not been waited for, so its id is still its own.
        let root = self.pid();
        let mut known = self.known.take();
        let mut note_left = || {
            let entries = entries();
            known.extend(family(root, &entries).iter().map(|entry| (entry.pid, entry.began)));
            left_of(&known, &entries)
        };
        if note_left().contains(&root) {
            signal(root, Signal::TERM);
        }
        wait_until_empty(note_left);
        kill_all(&known);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match self.child.try_wait() {
            Ok(None) => self.end(),
            // Already collected: its id may be somebody else's by now. Those it left behind are known
            // by their ids and when they began.
            _ => kill_all(&self.known.take()),
        }
    }
}

/// Kills those of `known` that are left, and waits until the kernel has done so.
fn kill_all(known: &HashSet<(u32, u64)>) {
    left_of(known, &entries()).iter().for_each(|&pid| signal(pid, Signal::KILL));
    wait_until_empty(|| left_of(known, &entries()));
}

/// Waits until `left` gives nobody, for [`END_WAIT`] at most.
fn wait_until_empty(mut left: impl FnMut() -> Vec<u32>) {
    let deadline = Instant::now() + END_WAIT;
    while !left().is_empty() && Instant::now() < deadline {
        // Polls: they are not this program's own children.
        thread::sleep(POLL_WAIT);
    }
}

/// The ids of those of `known` that have not ended.
fn left_of(known: &HashSet<(u32, u64)>, entries: &[Entry]) -> Vec<u32> {
    let is_left = |entry: &&Entry| !entry.is_zombie && known.contains(&(entry.pid, entry.began));
    entries.iter().filter(is_left).map(|entry| entry.pid).collect()
}

/// The same command, sent SIGTERM by the kernel when the thread that starts it ends. `setpriv`
/// becomes the command, so the id stays the same. (Asking for it here would need `unsafe`.)
fn bound_to_this_thread(command: &Command) -> Command {
    static HAS_SETPRIV: LazyLock<bool> =
        LazyLock::new(|| install::output(Command::new("setpriv").arg("--version")).is_some());
    let mut bound = if *HAS_SETPRIV {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program());
        setpriv
    } else {
        Command::new(command.get_program())
    };
    bound.args(command.get_args());
    bound.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bound
}

/// Descriptors a process may have.
pub(super) fn descriptors_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// All processes of the machine.
fn entries() -> Vec<Entry> {
    let Ok(folders) = fs::read_dir("/proc") else { return Vec::new() };
    let names = folders.filter_map(|folder| folder.ok()?.file_name().into_string().ok());
    let pids = names.filter_map(|name| name.parse::<u32>().ok());
    pids.filter_map(|pid| parse_entry(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// `pid (name) state ppid …`, the time it began as field 22. The name may contain anything, so
/// fields are counted from its last `)`.
fn parse_entry(stat: &str) -> Option<Entry> {
    let pid = stat.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let is_zombie = matches!(*fields.first()?, "Z" | "X");
    Some(Entry { pid, parent: fields.get(1)?.parse().ok()?, began: fields.get(19)?.parse().ok()?, is_zombie })
}

/// `root` and its descendants, those first that are nearer to it.
fn family(root: u32, entries: &[Entry]) -> Vec<Entry> {
    let mut members: Vec<Entry> =
        entries.iter().filter(|entry| entry.pid == root && !entry.is_zombie).copied().collect();
    let mut at = 0;
    while at < members.len() {
        let parent = members[at].pid;
        members.extend(entries.iter().filter(|entry| entry.parent == parent && !entry.is_zombie));
        at += 1;
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: u32, parent: u32) -> Entry {
        Entry { pid, parent, began: 1, is_zombie: false }
    }

    #[test]
    fn an_entry_is_read_behind_any_name() {
        let stat = "77 (a) b (c) S 12 77 77 0 -1 4194304 500 0 0 0 1 2 0 0 20 0 5 0 991234 200 300";
        assert_eq!(parse_entry(stat), Some(Entry { pid: 77, parent: 12, began: 991_234, is_zombie: false }));
        assert!(parse_entry(&stat.replace(") S ", ") Z ")).unwrap().is_zombie);
        assert_eq!(parse_entry("77 (x) S 1"), None);
    }

    #[test]
    fn a_family_is_found_in_any_order_and_nobody_else() {
        let mut all = vec![entry(9, 3), entry(4, 3), entry(3, 1), entry(5, 4), entry(6, 1), entry(7, 6)];
        all.push(Entry { is_zombie: true, ..entry(8, 3) });
        let pids: Vec<u32> = family(3, &all).iter().map(|entry| entry.pid).collect();
        assert_eq!(pids, [3, 9, 4, 5]);
        assert!(family(2, &all).is_empty());
    }

    #[test]
    fn descendants_that_ignore_the_signal_are_ended_too() {
        let dir = tempfile::tempdir().unwrap();
        // The inner shell ignores SIGTERM and outlives its parent.
        let script = "sh -c 'trap \"\" TERM; echo ready; for i in $(seq 60); do sleep 1; done' & wait";
        let mut process = Process::start("shell", Command::new("sh").args(["-c", script]), dir.path()).unwrap();
        let log = process.log.clone();
        process
            .wait_until("the inner shell", || fs::read_to_string(&log).is_ok_and(|log| log.contains("ready")))
            .unwrap();
        let pids = process.pids();
        assert!(pids.len() >= 2, "{pids:?}");
        drop(process);
        let left: Vec<Entry> = entries().into_iter().filter(|e| pids.contains(&e.pid) && !e.is_zombie).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn those_whose_parent_crashed_are_ended_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut process =
            Process::start("shell", Command::new("sh").args(["-c", "sleep 60 & sleep 60 & wait"]), dir.path()).unwrap();
        process.wait_for_family(3).unwrap();
        let pids = process.pids();
        process.kill().unwrap();
        drop(process);
        let left: Vec<Entry> = entries().into_iter().filter(|e| pids.contains(&e.pid) && !e.is_zombie).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_process_does_not_outlive_who_started_it_and_could_not_end_it() {
        if install::output(Command::new("setpriv").arg("--version")).is_none() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let start = move || Process::start("sleep", Command::new("sleep").arg("60"), &path).unwrap();
        let orphan = thread::spawn(move || {
            let mut process = start();
            // Until then it is still `setpriv`.
            let name = format!("/proc/{}/comm", process.pid());
            process.wait_until("exec", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n")).unwrap();
            process
        });
        let mut orphan = orphan.join().unwrap();
        let status = orphan.child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    }

    #[test]
    fn a_process_that_ends_instead_of_starting_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut process =
            Process::start("shell", Command::new("sh").args(["-c", "echo alas; exit 3"]), dir.path()).unwrap();
        let error = process.wait_until("never", || false).unwrap_err().to_string();
        assert!(error.contains("alas") && error.contains('3'), "{error}");
    }
}
