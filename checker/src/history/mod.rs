//! Did every reader of durable topics see their history, whole, once and in order, over all its connections?
//!
//! ```text
//!   publisher: what was acknowledged ──┐
//!   faults: what may have been lost ───┤►  Log  ── judge ──►  Report: sums, and each broken promise
//!   readers: what each connection said ┘
//! ```
//!
//! A *reader* is a person with many connections: it remembers the last `id:` it was given, on an event or a control
//! block, and presents it when it comes back. A harness feeds a [`Log`] while it runs; [`Log::judge`] reads it all at
//! the end, when it is known what was published. In reading order: [`Id`]; [`Log`]; the truth (which events there
//! were, in which order); the judge, one connection at a time; the [`Report`].
//!
//! **What is held against a connection.** It covers everything of its topics between the position it began with and
//! the last id it was given (for a reader that was run dry: the end). Each event in there that was acknowledged, or
//! that anybody saw, must have come, once and in the order of the ids; or a reset that names the topic and is itself
//! justified stands in its place. Nothing else may have come. Since a connection must present the id the one before
//! it ended with, what holds for each holds for all of them together. A topic of which nothing came is judged like
//! any other: a stream from the oldest begins with what cannot have left when its first block came, at the latest.
//!
//! **Order.** Numbers alone order the events of a *generation*; a tag that follows another without a loss does not
//! begin one. A generation begins with the first tag seen after a fault that may have lost something
//! ([`Cause::Loss`]). Times are milliseconds since 1970 of the machine on which harness and history run: ids carry
//! the same clock.
//!
//! **Size.** Each delivery costs four bytes, each distinct event about two hundred, each connection and each control
//! block about a hundred: 2,000 readers that each see 50 of 500 events a second for five minutes are 120 MB.
//!
//! **Not chosen:** judging as the events come. A publisher learns an id after readers do, an unknown outcome may be
//! settled by a reader that comes last, and a rule that knows all is a rule one can read.
//!
//! **Not seen:** a position beyond what a loss left that is honoured although it should not be, by a reader that
//! misses nothing; events dropped together with a loss that a reset then tells of; at the beginning of a stream from
//! the oldest or the newest few, events that may have left when its first block came: of a topic that is trimmed by
//! age or by hand all that were stored before, of one of which some are kept those before these, of any topic those
//! of a history that is over.

mod id;
mod judge;
mod log;
mod report;
mod truth;
mod visit;

pub use id::{Id, Stamp};
pub use log::{Cause, End, Fault, Log, Open, Outcome, Position, Publication, Reader, Reason, Reset, Topic};
pub use report::{Kind, Report, Violation};
