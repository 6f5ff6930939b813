//! `pinwheel bench`: how fast this binary is on this machine. Every figure is computed from what Postgres holds afterwards.

mod database;
mod engine;
mod workload;

use clap::Subcommand;

use crate::{failure::Result, settings::Settings};

/// `pinwheel bench …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure the engine: tasks per second, and the hop from a task's end to the next one's start
    Engine(engine::Arguments),
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::Engine(arguments) => engine::run(settings, arguments).await,
        }
    }
}
