//! A verb of the real program that is a client: what it prints as it prints it, and its end.

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::server::{Ended, lines};
use super::{PATIENCE, wait_for};

/// See the module. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    lines: Option<Receiver<String>>,
    notes: Receiver<String>,
}

impl Program {
    /// Starts it with nothing to read.
    pub fn start(arguments: &[&str]) -> Program {
        let mut program = Program::start_unread(arguments);
        program.lines = Some(lines(program.output()));
        program
    }

    /// Starts it and leaves what it prints in the pipe: see [`Program::output`].
    pub fn start_unread(arguments: &[&str]) -> Program {
        let mut child = command(arguments).stdin(Stdio::null()).spawn().unwrap();
        let notes = lines(child.stderr.take().unwrap());
        Program { child, lines: None, notes }
    }

    /// The pipe it prints into, once.
    pub fn output(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// Runs it to its end, which must come by itself.
    pub fn run(arguments: &[&str], variables: &[(&str, &str)], input: &[u8]) -> Ended {
        let mut child = command(arguments).envs(variables.iter().copied()).stdin(Stdio::piped()).spawn().unwrap();
        // A program that does not read all of it has its reasons.
        let _ = child.stdin.take().unwrap().write_all(input);
        let text = |mut pipe: Box<dyn Read + Send>| {
            thread::spawn(move || {
                let mut text = String::new();
                pipe.read_to_string(&mut text).map(|_| text)
            })
        };
        let stdout = text(Box::new(child.stdout.take().unwrap()));
        let stderr = text(Box::new(child.stderr.take().unwrap()));
        let code = wait_for("the program to end", || child.try_wait().unwrap()).code();
        Ended { code, stdout: stdout.join().unwrap().unwrap(), stderr: stderr.join().unwrap().unwrap() }
    }

    /// The next line on standard output.
    #[track_caller]
    pub fn next_line(&self) -> String {
        self.lines.as_ref().expect("it is read here").recv_timeout(PATIENCE).expect("a line on standard output")
    }

    /// The next line on standard error.
    #[track_caller]
    pub fn next_note(&self) -> String {
        self.notes.recv_timeout(PATIENCE).expect("a line on standard error")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; gives its code, and the lines on standard error that were not taken.
    pub fn end(mut self) -> (Option<i32>, Vec<String>) {
        let code = wait_for("the program to end", || self.child.try_wait().unwrap()).code();
        (code, self.notes.iter().collect())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanwheel"));
    command.args(arguments).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
