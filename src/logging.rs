//! What the process tells about itself on standard error. Standard output belongs to results.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Flags about the log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log (on standard error)")]
pub(crate) struct Logging {
    /// What to tell: error, warn, info, debug, or a filter such as `warn,pinwheel_streaming=debug`; RUST_LOG works too
    #[arg(
        long,
        global = true,
        env = "PINWHEEL_LOG_LEVEL",
        value_name = "FILTER",
        hide_short_help = true
    )]
    log_level: Option<String>,
    /// How to tell it
    #[arg(long, global = true, env = "PINWHEEL_LOG_FORMAT", value_enum, default_value_t = Format::Text, hide_short_help = true)]
    log_format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// One line a message, for people
    Text,
    /// One JSON object a message, for programs
    Json,
}

/// Roles that run for long say what they do at `info` when asked; by default only what needs attention is told, and each
/// command has its own words for its progress.
const DEFAULT: &str = "warn";

impl Logging {
    /// Sends every later message to standard error.
    pub(crate) fn install(&self) {
        let filter = match &self.log_level {
            Some(filter) => EnvFilter::new(filter),
            None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT)),
        };
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr);
        match self.log_format {
            Format::Text => builder
                .with_ansi(io::stderr().is_terminal())
                .with_target(false)
                .init(),
            Format::Json => builder.json().flatten_event(true).init(),
        }
    }
}
