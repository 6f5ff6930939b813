//! `pinwheel db`: looking after the database.

use clap::Subcommand;
use pinwheel_scheduler::store::Store;

use super::output;
use crate::{failure::Result, roles, settings::Settings};

/// `pinwheel db …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring the database to the schema of this version; does nothing when it is there already
    Migrate,
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        let Self::Migrate = self;
        let url = settings.require_database("db migrate")?;
        Store::connect(url).await?.migrate().await?;
        roles::migrate_live(url).await?;
        output::text("the database has the schema of this version")
    }
}
