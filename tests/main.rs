//! Everything that needs more than one module: one binary, a module per promise.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod simulation;
