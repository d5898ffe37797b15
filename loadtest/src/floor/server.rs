//! The floor server: a process that takes streams in and sends to them as its parent says.
//!
//! One thread: `door` first, `sender` then. It reads orders from stdin and answers on stdout.

use std::io::{self, BufRead as _, Write as _};

use anyhow::{Context as _, Result};

use super::door::Door;
use super::protocol::{Order, ServerPlan, Told};
use super::sender::Sender;

/// Reads the plan from stdin and does what the parent says until stdin ends.
pub(crate) fn run() -> Result<()> {
    let stdin = io::stdin();
    let mut line = String::new();
    stdin.read_line(&mut line)?;
    let plan: ServerPlan = serde_json::from_str(&line).context("the plan")?;
    let mut door = Door::open(plan.listen, plan.groups, &stdin)?;
    say(&Told::Listening(door.addr()?))?;
    loop {
        door.accept_until_order()?;
        line.clear();
        if stdin.lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let told = match serde_json::from_str(&line).context("an order")? {
            Order::Count => Told::Accepted(door.accepted()),
            Order::Publish(start_ns) => {
                Told::Published(Box::new(Sender::new(&plan, door.groups())?.publish(start_ns)?))
            }
        };
        say(&told)?;
    }
}

fn say(told: &Told) -> Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}
