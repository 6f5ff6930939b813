//! `pinwheel lake`: looks after what tasks have written to the object store.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use clap::{Args, Subcommand};
use pinwheel_tasks::{
    duration,
    lake::gc,
    s3::{Location, ObjectStore},
};
use serde_json::json;

use super::{output, query};
use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// `pinwheel lake …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List objects of landings and cleaned datasets that no manifest names, and delete them
    #[command(after_help = "\
Examples:
  pinwheel lake gc s3://lake/landing/pins
  pinwheel lake gc s3://lake/ --older-than 30d --delete

A task that dies before its manifest is written leaves such orphans; nobody reads them. Without --delete nothing is changed.
What a running task has written is young: objects of the last two days are never touched.")]
    Gc(Gc),
}

/// Arguments of `lake gc`.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// The prefix of a landing or of a cleaned dataset, or one above
    #[arg(value_parser = address, value_name = "s3://BUCKET/PREFIX")]
    at: Location,
    /// Leave alone what was written since
    #[arg(long, value_parser = duration::parse, value_name = "DURATION", default_value = "7d")]
    older_than: Duration,
    /// Delete what is found
    #[arg(long)]
    delete: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings) -> Result<()> {
        match self {
            Self::Gc(arguments) => arguments.run(settings).await,
        }
    }
}

impl Gc {
    async fn run(&self, settings: &Settings) -> Result<()> {
        let age = TimeDelta::from_std(self.older_than)
            .ok()
            .filter(|age| *age < TimeDelta::days(36_500))
            .ok_or_else(|| Failure::invalid("`--older-than` is longer than a century"))?;
        let store = ObjectStore::connect(&query::object_store(settings)?).await;
        let found = gc::find(&store, &self.at, Utc::now() - age).await?;
        let (objects, bytes) = if self.delete {
            gc::delete(&store, &self.at.bucket, &found.orphans).await?
        } else {
            (0, 0)
        };
        if self.json {
            let orphans: Vec<_> = found
                .orphans
                .iter()
                .map(|orphan| json!({ "key": orphan.key, "bytes": orphan.bytes, "modified": orphan.modified }))
                .collect();
            return output::json(&json!({
                "bucket": self.at.bucket,
                "folders": found.folders,
                "named": found.named,
                "young": found.young,
                "orphans": orphans,
                "deleted": { "objects": objects, "bytes": bytes },
            }));
        }
        if !found.orphans.is_empty() {
            let rows = found.orphans.iter().map(|orphan| {
                [
                    output::time(orphan.modified),
                    orphan.bytes.to_string(),
                    output::name(&orphan.key),
                ]
            });
            output::text(&output::columns(["written", "bytes", "orphan"], rows))?;
        }
        output::text(&format!(
            "{} orphans ({} bytes); {} objects are named by {} manifests, {} are too young to tell",
            found.orphans.len(),
            found.bytes(),
            found.named,
            found.folders.values().sum::<usize>(),
            found.young,
        ))?;
        if self.delete {
            return output::text(&format!("deleted {objects} objects ({bytes} bytes)"));
        }
        if found.orphans.is_empty() {
            return Ok(());
        }
        output::text("nothing was deleted; --delete deletes them")
    }
}

/// A bucket, or a prefix in one.
fn address(text: &str) -> std::result::Result<Location, String> {
    let whole = match text.strip_prefix("s3://") {
        Some(bucket) if !bucket.contains('/') => format!("{text}/"),
        _ => text.to_owned(),
    };
    whole
        .parse()
        .map_err(|_| format!("expected `s3://bucket/prefix`, found `{text}`"))
}
