//! `fanwheel serve`: a node.

use crate::config::Config;
use crate::server::{self, ServerError};

/// Runs until a signal.
pub(super) fn run(config: Config, give_back_memory: fn()) -> Result<(), ServerError> {
    server::run(config, false, give_back_memory, super::print)
}
