//! What statements read: datasets, each fetched once, and views, each computed once, when the first statement names them.

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::*;

use super::{Bindings, Checked, bind, check, execute, explain};
use crate::{
    Failure, blocking,
    lake::{self, Horizon},
    s3::{Location, ObjectStore},
};

/// The tables of one task. A view is a statement with a name, which the statements after it may read as a table.
pub struct Tables<'s> {
    store: &'s ObjectStore,
    datasets: &'s BTreeMap<String, Location>,
    horizon: Horizon,
    views: Vec<View>,
    read: BTreeMap<String, LazyFrame>,
}

/// A checked statement under a name.
struct View {
    name: String,
    sql: String,
    tables: BTreeSet<String>,
}

impl<'s> Tables<'s> {
    /// Tables over datasets by name and address, as far as `horizon` reaches. Nothing is read yet.
    pub fn new(
        store: &'s ObjectStore,
        datasets: &'s BTreeMap<String, Location>,
        horizon: Horizon,
    ) -> Self {
        Self {
            store,
            datasets,
            horizon,
            views: Vec::new(),
            read: BTreeMap::new(),
        }
    }

    /// Adds a view over the datasets and the views before it.
    ///
    /// # Errors
    /// The name is taken, or the statement is not a query over what there is.
    pub fn define(&mut self, name: &str, sql: &str, bindings: &Bindings) -> Result<(), Failure> {
        if self.names().any(|taken| taken == name) {
            return Err(Failure::permanent(format!(
                "there is a dataset or a view `{name}` already"
            )));
        }
        let sql = bind::bind(sql, bindings)?;
        match check(&sql, self.names())? {
            Checked::Query { tables } => {
                self.views.push(View {
                    name: name.to_owned(),
                    sql,
                    tables,
                });
                Ok(())
            }
            Checked::ShowTables => Err(Failure::permanent("a view is a query")),
        }
    }

    /// Runs one statement; `$name` in it stands for the value that `bindings` give it.
    ///
    /// # Errors
    /// The statement is not read-only, names something that does not exist or a parameter that is not given, or the store does not
    /// answer.
    pub async fn answer(&mut self, sql: &str, bindings: &Bindings) -> Result<DataFrame, Failure> {
        let sql = bind::bind(sql, bindings)?;
        match check(&sql, self.names())? {
            Checked::Query { tables } => {
                self.fetch(&tables).await?;
                self.execute(&tables, sql).await
            }
            Checked::ShowTables => {
                let names: Vec<&str> = self.names().collect();
                DataFrame::new(names.len(), vec![Column::new("name".into(), names)])
                    .map_err(|error| explain(&error))
            }
        }
    }

    /// Puts rows in the place of a dataset, so that a test needs no store.
    #[cfg(test)]
    pub(crate) fn given(mut self, dataset: &str, rows: DataFrame) -> Self {
        self.read.insert(dataset.to_owned(), rows.lazy());
        self
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let views = self.views.iter().map(|view| view.name.as_str());
        self.datasets.keys().map(String::as_str).chain(views)
    }

    /// Reads what is named and was not read before, and computes the views on the way.
    async fn fetch(&mut self, wanted: &BTreeSet<String>) -> Result<(), Failure> {
        let mut needed = wanted.clone();
        let mut missing = Vec::new();
        // A view reads only what was there before it, so one pass from the last to the first finds everything.
        for (index, view) in self.views.iter().enumerate().rev() {
            if needed.contains(&view.name) && !self.read.contains_key(&view.name) {
                needed.extend(view.tables.iter().cloned());
                missing.push(index);
            }
        }
        for (name, at) in self.datasets {
            if needed.contains(name) && !self.read.contains_key(name) {
                let frame = lake::scan_up_to(self.store, at, self.horizon).await?;
                self.read.insert(name.clone(), frame);
            }
        }
        for index in missing.into_iter().rev() {
            let View { name, sql, tables } = &self.views[index];
            let rows = self
                .execute(tables, sql.clone())
                .await
                .map_err(|failure| Failure {
                    message: format!("view `{name}`: {}", failure.message),
                    ..failure
                })?;
            self.read.insert(name.clone(), rows.lazy());
        }
        Ok(())
    }

    async fn execute(&self, tables: &BTreeSet<String>, sql: String) -> Result<DataFrame, Failure> {
        let frames: Vec<(String, LazyFrame)> = tables
            .iter()
            .filter_map(|name| Some((name.clone(), self.read.get(name)?.clone())))
            .collect();
        blocking::run(move || execute(frames, &sql)).await?
    }
}
