//! `pinwheel query`: read-only SQL over the cleaned datasets, by name.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use pinwheel_tasks::{
    self as tasks, FailureClass, S3Settings,
    lake::Lake,
    query::{self, Format, Formulas},
    s3::{Location, ObjectStore},
};

use super::{client, output};
use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// Arguments of `query`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinwheel query \"show tables\"
  pinwheel query \"select category, count(*) as posts from pins group by category order by posts desc\"
  pinwheel query \"select * from pins\" --format csv > pins.csv

It reads what `clean` tasks have written: every dataset once, each key in its newest version. Nothing is changed.")]
pub(crate) struct Arguments {
    /// One select statement over datasets such as `pins`
    sql: String,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t = Shape::Table)]
    format: Shape,
}

/// A format as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shape {
    Table,
    Csv,
    Json,
}

impl From<Shape> for Format {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Table => Self::Table,
            Shape::Csv => Self::Csv(Formulas::AsTheyAre),
            Shape::Json => Self::Json,
        }
    }
}

/// Runs the statement.
pub(crate) async fn run(settings: &Settings, arguments: &Arguments) -> Result<()> {
    let (store, datasets) = datasets(settings).await?;
    let rows = query::run(&store, &datasets, &arguments.sql).await?;
    let text = query::render(&rows, arguments.format.into()).map_err(|error| {
        Failure::failed("the rows cannot be printed").because(error.to_string())
    })?;
    output::text(text.trim_end_matches('\n'))
}

/// How many rows a dataset has.
pub(crate) async fn count(settings: &Settings, dataset: &str) -> Result<i64> {
    let (store, datasets) = datasets(settings).await?;
    let rows = query::run(
        &store,
        &datasets,
        &format!("select count(*) as \"rows\" from {dataset}"),
    )
    .await?;
    let objects = query::row_objects(&rows)
        .map_err(|error| Failure::failed("the rows cannot be read").because(error.to_string()))?;
    let count = objects
        .first()
        .and_then(|row| row.get("rows"))
        .and_then(serde_json::Value::as_i64);
    count.ok_or_else(|| Failure::failed(format!("the dataset `{dataset}` cannot be counted")))
}

/// Every dataset below `lake.clean_prefix` with its place.
async fn datasets(settings: &Settings) -> Result<(ObjectStore, BTreeMap<String, Location>)> {
    let store = ObjectStore::connect(&object_store(settings)?).await;
    let lake = Lake::new(store.clone(), settings.clean_prefix.clone());
    let names = lake.datasets().await?;
    let datasets = names
        .into_iter()
        .map(|name| (name.clone(), lake.location(&name)))
        .collect();
    Ok((store, datasets))
}

/// The object store that the settings name, or else that of the standalone running on the data directory.
pub(crate) fn object_store(settings: &Settings) -> Result<S3Settings> {
    match &settings.s3 {
        Some(s3) => Ok(s3.clone()),
        None => Ok(client::running(settings)?.s3),
    }
}

/// What a task would be failed with is what a person is told here.
impl From<tasks::Failure> for Failure {
    fn from(failure: tasks::Failure) -> Self {
        let told = match failure.class {
            FailureClass::Retryable | FailureClass::Timeout | FailureClass::Lost => {
                Self::unreachable(failure.message)
            }
            FailureClass::Permanent => Self::invalid(failure.message),
            FailureClass::Panic | FailureClass::Killed | FailureClass::Cancelled => {
                Self::failed(failure.message)
            }
        };
        match failure.hint {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}
