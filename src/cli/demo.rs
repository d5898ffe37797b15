//! `fanwheel demo`: a node with a feed of its own and a page to look at.

use crate::config::Config;
use crate::server::{self, ServerError};

/// Runs until a signal.
pub(super) fn run(config: Config, give_back_memory: fn()) -> Result<(), ServerError> {
    server::run(config, true, give_back_memory, |banner| {
        let page = "Open the `listening` address in a browser: fifty stocks, each quoted more than twice a second.";
        super::print(&format!("{banner}\n\n{page}"));
    })
}
