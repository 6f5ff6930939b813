//! `pinwheel secrets`: the keys that seal connections and variables.

use clap::{Args, Subcommand};
use pinwheel_scheduler::secrets::new_key;

use super::{client, output};
use crate::{failure::Result, settings::Settings};

/// `pinwheel secrets …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a new key
    Key,
    /// Seal all connections and variables with the newest key
    #[command(after_help = "\
To change the key:
  1. pinwheel secrets key                         prints a new one
  2. set secrets.key to `new,old` on every process and restart them
  3. pinwheel secrets rotate
  4. set secrets.key to the new one alone

All or nothing: when something cannot be opened with the keys there are, nothing is changed.")]
    Rotate(Rotate),
}

/// Arguments of `secrets rotate`.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::Key => output::text(&new_key()),
            Self::Rotate(arguments) => rotate(settings, &arguments).await,
        }
    }
}

async fn rotate(settings: &Settings, arguments: &Rotate) -> Result<()> {
    let rotated = client::vault(settings)
        .await?
        .rotate(&client::actor())
        .await?;
    if arguments.json {
        return output::json(&rotated);
    }
    output::text(&format!(
        "sealed with the key {}: {} connections and {} variables anew, {} were already",
        rotated.key, rotated.connections, rotated.variables, rotated.unchanged
    ))
}
