//! The subscribers: worker processes with thousands of streams each, and the parent's side of them.
//!
//! `crew` starts workers and speaks to them in the words of `protocol`. A `worker` is one epoll loop;
//! `conn` parses each of its streams, `seen` is what arrived on
//! them, and `lives` holds that against what was published. Where topics are durable, `record` is what each
//! stream was told over all its connections.
//! `spread` shares streams out over workers and addresses, `choice` says which topics each follows.

mod choice;
mod conn;
mod crew;
mod frames;
mod lives;
mod protocol;
mod record;
mod seen;
pub(crate) mod spread;
mod worker;

pub(crate) use self::crew::Crew;
pub(crate) use self::protocol::{Command, Disturbance, Done, Judgement, Progress, Slot, WorkerPlan};
pub(crate) use self::record::{EVENT_BYTES, ITEM_BYTES, MARK_BYTES, RECORD_BYTES_MAX, Record, wall_ms};
pub(crate) use self::worker::run as run_worker;
