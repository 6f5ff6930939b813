//! `pinwheel bench`: how fast this binary is on this machine. Figures of the engine are computed from what Postgres holds
//! afterwards; those of the data path from what its parts say they did and from the clocks of this process.

mod children;
mod data;
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
    /// Measure the data path: landing, cleaning, streaming and ingest, each as a user runs it
    Data(data::Arguments),
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::Engine(arguments) => engine::run(settings, arguments).await,
            Self::Data(arguments) => data::run(settings, arguments).await,
        }
    }
}
