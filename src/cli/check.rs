//! Checks DAG files without anything running: every error of every file.

use std::{
    io::{self, IsTerminal},
    path::Path,
    sync::Arc,
};

use pinwheel_scheduler::{
    engine::dag_folder::{self, BadFile, Loaded, LoadedFile},
    model::{
        Dag,
        dag_file::{self, Colour},
    },
};
use serde_json::{Value, json};

use super::{dags::when_it_runs, output};
use crate::{
    failure::{Failure, Result},
    registry,
};

/// What a check found.
pub(crate) struct Checked {
    good: Vec<LoadedFile>,
    bad: Vec<BadFile>,
}

/// Checks a file, or every DAG file of a folder.
pub(crate) async fn check(path: &Path, dags_folder: &Path) -> Result<Checked> {
    let registry = registry::for_checks(surroundings(path, dags_folder)).await?;
    let loaded = if path.is_dir() {
        dag_folder::load_folder(path, &registry)
    } else {
        dag_folder::load_file(path, &registry)
    };
    let Loaded { good, bad } = loaded.map_err(|error| {
        Failure::invalid(format!("cannot read `{}`", path.display()))
            .because(error)
            .hint("name a DAG file or a folder of them: `pinwheel dags check dags/`")
    })?;
    Ok(Checked { good, bad })
}

/// Reads one file that has to be good; prints every error of one that is not.
pub(crate) async fn load_one(path: &Path, dags_folder: &Path) -> Result<Arc<Dag>> {
    if path.is_dir() {
        return Err(
            Failure::invalid(format!("`{}` is a folder", path.display())).hint("name one DAG file"),
        );
    }
    let mut checked = check(path, dags_folder).await?;
    match (checked.bad.is_empty(), checked.good.pop()) {
        (true, Some(good)) => Ok(good.dag),
        (true, None) => Err(Failure::invalid(format!(
            "`{}` is no DAG file",
            path.display()
        ))),
        (false, _) => {
            checked.report()?;
            Err(checked
                .verdict()
                .err()
                .unwrap_or_else(|| Failure::invalid("the file has errors")))
        }
    }
}

/// Where the datasets are that the files may name: beside them, or else in the DAG folder.
fn surroundings<'a>(path: &'a Path, dags_folder: &'a Path) -> &'a Path {
    let beside = if path.is_dir() {
        path
    } else {
        path.parent().unwrap_or(path)
    };
    if beside.join("datasets").is_dir() {
        beside
    } else {
        dags_folder
    }
}

impl Checked {
    /// Prints what people read.
    pub(crate) fn report(&self) -> Result<()> {
        let colour = if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            Colour::Always
        } else {
            Colour::Never
        };
        for bad in &self.bad {
            output::text(&dag_file::render(
                &bad.diagnostics,
                &bad.file,
                &bad.source,
                colour,
            ))?;
        }
        for LoadedFile { file, dag, .. } in &self.good {
            output::text(&format!(
                "{file}: `{}` is good, {}, {}",
                dag.id,
                counted(dag.tasks.len(), "task"),
                when_it_runs(dag)
            ))?;
        }
        if self.good.is_empty() && self.bad.is_empty() {
            output::text("there are no DAG files here")?;
        }
        Ok(())
    }

    /// What programs read.
    pub(crate) fn as_json(&self) -> Value {
        let good = self
            .good
            .iter()
            .map(|good| json!({ "file": good.file, "dag_id": good.dag.id, "errors": [] }));
        let bad = self.bad.iter().map(
            |bad| json!({ "file": bad.file, "dag_id": bad.dag_id, "errors": bad.diagnostics }),
        );
        json!({ "files": bad.chain(good).collect::<Vec<_>>(), "errors": self.errors() })
    }

    /// Fails when a file has errors.
    pub(crate) fn verdict(&self) -> Result<()> {
        if self.bad.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "{} in {}",
            counted(self.errors(), "error"),
            counted(self.bad.len(), "file")
        )))
    }

    fn errors(&self) -> usize {
        self.bad.iter().map(|bad| bad.diagnostics.len()).sum()
    }
}

fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}
