//! The command line: one file per verb. Exit codes: 0, 1 failed, 2 usage or configuration.

mod client;
mod config;
mod demo;
mod failure;
mod publish;
mod serve;
mod sse;
mod subscribe;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Flags};

/// Fans events out from Redis or HTTP to very many event streams.
#[derive(Debug, Parser)]
#[command(name = "fanwheel", version = env!("VERSION_WITH_COMMIT"), about, arg_required_else_help = true)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node
    Serve(Flags),
    /// Run a node with a built-in stock ticker and a page to look at
    Demo(Flags),
    // What these say about themselves stands with their flags.
    Publish(publish::Flags),
    Subscribe(subscribe::Flags),
    /// Check settings, or tell which there are
    #[command(subcommand)]
    Config(config::Question),
}

/// Wrong usage or configuration.
const EXIT_USAGE: u8 = 2;

/// Runs what the command line says. `give_back_memory` is called by the threads of a node when they have time.
#[must_use]
pub fn run(give_back_memory: fn()) -> ExitCode {
    let (flags, demo) = match Command::parse().verb {
        Verb::Serve(flags) => (flags, false),
        Verb::Demo(flags) => (flags, true),
        Verb::Publish(flags) => {
            return publish::run(flags).map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS);
        }
        Verb::Subscribe(flags) => return subscribe::run(flags).unwrap_or_else(|failure| failure.report()),
        Verb::Config(question) => return config::run(question),
    };
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(errors) if errors.is_about_redis_alone() => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
        Err(errors) => return wrong_configuration(&errors),
    };
    start_logging(&config);
    warn_of_unknown_variables();
    let ended = if demo { demo::run(config, give_back_memory) } else { serve::run(config, give_back_memory) };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanwheel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wrong_configuration(errors: &ConfigErrors) -> ExitCode {
    eprintln!("{errors}");
    ExitCode::from(EXIT_USAGE)
}

/// Prints lines; nobody may be there to read them, and the node runs all the same.
fn print(lines: &str) {
    let _ = writeln!(std::io::stdout(), "{lines}");
}

/// One thread is enough for the verbs that are clients.
fn runtime() -> Result<tokio::runtime::LocalRuntime, failure::Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.map_err(|error| failure::Failure::Failed(format!("cannot start: {error}")))
}

fn start_logging(config: &Config) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(config.log_level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match config.log_format {
        crate::config::LogFormat::Text => builder.init(),
        crate::config::LogFormat::Json => builder.json().init(),
    }
}

/// A misspelt variable would otherwise be a setting that silently does nothing.
fn warn_of_unknown_variables() {
    for variable in unknown_variables() {
        tracing::warn!(%variable, "unknown variable");
    }
}

/// Variables that look like ours and are not.
fn unknown_variables() -> Vec<String> {
    let mut known = vec![BUILD_VARIABLE.to_owned()];
    collect_variables(&Command::command(), &mut known);
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let ours = |name: &String| name.starts_with("FANWHEEL_") && !name.starts_with("FANWHEEL_TEST_");
    let mut unknown: Vec<String> = names.filter(|name| ours(name) && !known.contains(name)).collect();
    unknown.sort();
    unknown
}

fn collect_variables(command: &clap::Command, known: &mut Vec<String>) {
    known.extend(command.get_arguments().filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned)));
    command.get_subcommands().for_each(|verb| collect_variables(verb, known));
}

/// Read when the program is built; an image's build may leave it in the environment.
const BUILD_VARIABLE: &str = "FANWHEEL_COMMIT";
