//! Read-only SQL over cleaned datasets: checking a statement, running it, and showing its rows.
//!
//! What runs is one `select` (or `show tables`) over datasets that the caller names. Nothing is written, and no file, address or
//! setting can be read by SQL: table functions are refused before Polars sees the statement.

mod bind;
mod check;
mod render;
mod tables;

use std::collections::BTreeMap;

use polars::{prelude::*, sql::SQLContext};

pub use bind::Bindings;
pub use check::{Checked, check};
pub use render::{Format, Formulas, render, row_objects, text_of, value_of};
pub use tables::Tables;

use crate::{
    Failure,
    lake::Horizon,
    s3::{Location, ObjectStore},
};

/// Runs one statement without parameters over datasets, given by name and address. Only the datasets that it names are read.
///
/// # Errors
/// The statement is not read-only, names something that does not exist, or the store does not answer; the hint says what
/// to do.
pub async fn run(
    store: &ObjectStore,
    datasets: &BTreeMap<String, Location>,
    sql: &str,
) -> Result<DataFrame, Failure> {
    let mut tables = Tables::new(store, datasets, Horizon::Everything);
    tables.answer(sql, &Bindings::new()).await
}

/// Runs a statement that [`check`] has passed over frames by name.
fn execute(frames: Vec<(String, LazyFrame)>, sql: &str) -> Result<DataFrame, Failure> {
    let mut context = SQLContext::new();
    for (name, frame) in frames {
        context.register(&name, frame);
    }
    context
        .execute(sql)
        .and_then(LazyFrame::collect)
        .map_err(|error| explain(&error))
}

/// Polars' words without the query plan that it appends.
fn explain(error: &PolarsError) -> Failure {
    let words = error.to_string();
    let short = words.split("\n\n").next().unwrap_or_default().trim();
    let failure = Failure::permanent(format!("the query cannot be run: {short}"));
    match error {
        PolarsError::ColumnNotFound(_) => failure.with_hint("`select * from <dataset> limit 1` shows the columns; a text stands between single quotes"),
        PolarsError::SQLSyntax(_) | PolarsError::SQLInterface(_) => {
            failure.with_hint("queries are written in the SQL of Polars, which lacks some functions of other databases")
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests;
