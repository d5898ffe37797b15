//! `fanwheel serve`: a node.

use crate::config::Config;
use crate::server::{self, ServerError};

/// Runs until a signal.
pub(super) fn run(config: Config) -> Result<(), ServerError> {
    server::run(config, false, super::print)
}
