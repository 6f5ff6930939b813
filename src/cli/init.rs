//! `pinwheel init` lays out a new project, `pinwheel dags new` adds a DAG to one. Nothing that exists is overwritten.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use pinwheel_scheduler::model::{DagId, dag_file};

use super::{client, output};
use crate::{
    failure::{Failure, Result},
    registry,
    settings::Settings,
};

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to; made if it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Arguments of `dags new`.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// Its id; the file is called like it
    #[arg(value_parser = client::dag_id, value_name = "ID")]
    dag: DagId,
}

const SETTINGS: &str = include_str!("init/pinwheel.toml");
const DAG: &str = include_str!("init/hello.toml");
const NEW_DAG: &str = include_str!("init/new.toml");
const DATASET: &str = include_str!("init/dataset.toml");
const READ_ME: &str = include_str!("init/README.md");
const TAPLO: &str = include_str!("init/taplo.toml");
const VSCODE: &str = include_str!("init/vscode.json");
/// Beside the DAG files, so that an editor finds it whatever folder it has opened.
const SCHEMA: &str = "dag.schema.json";

/// Lays out a project.
pub(crate) async fn init(arguments: &Init) -> Result<()> {
    let directory = &arguments.directory;
    let schema = schema(directory).await?;
    let files: [(&str, &str); 8] = [
        ("pinwheel.toml", SETTINGS),
        ("README.md", READ_ME),
        ("dags/hello.toml", DAG),
        ("dags/datasets/greetings.toml", DATASET),
        (SCHEMA, &schema),
        (".taplo.toml", TAPLO),
        (".vscode/settings.json", VSCODE),
        (".gitignore", "/.pinwheel/\n"),
    ];
    let taken: Vec<&str> = files
        .iter()
        .map(|(file, _)| *file)
        .filter(|file| directory.join(file).exists())
        .collect();
    if !taken.is_empty() {
        return Err(Failure::invalid(format!(
            "`{}` has {} already; nothing was written",
            directory.display(),
            taken.join(", ")
        ))
        .hint("name a new folder, or add a DAG with `pinwheel dags new ID`"));
    }
    for (file, text) in files {
        write_new(&directory.join(file), text)?;
    }
    let shown = directory.display();
    output::text(&format!(
        "{shown} is ready. Next:\n  cd {shown}\n  pinwheel dags test dags/hello.toml    run its DAG once, without a server\n  \
         pinwheel standalone                   everything in one process; pages on http://127.0.0.1:8080"
    ))
}

/// Adds a DAG file to the DAG folder.
pub(crate) async fn new_dag(settings: &Settings, arguments: &New) -> Result<()> {
    let path = settings.dags_folder.join(format!("{}.toml", arguments.dag));
    let text = NEW_DAG.replace("my_dag", arguments.dag.as_str());
    write_new(&path, &text)?;
    let shown = path.display();
    output::text(&format!(
        "{shown} is ready. Next:\n  pinwheel dags test {shown}    run it once, without a server\n  \
         pinwheel dags check {shown}   find what is wrong in it"
    ))
}

async fn schema(directory: &Path) -> Result<String> {
    let schema = dag_file::schema(&registry::for_checks(directory).await?);
    let text = serde_json::to_string_pretty(&schema)
        .map_err(|error| Failure::failed("the schema cannot be written").because(error))?;
    Ok(text + "\n")
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let refuse = |error: std::io::Error| {
        let failure = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::invalid(format!("`{}` exists already", path.display()))
                    .hint("choose another name; nothing was changed")
            }
            _other => Failure::invalid(format!("`{}` cannot be written", path.display())),
        };
        failure.because(error)
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(refuse)?;
    }
    let mut file = fs::File::create_new(path).map_err(refuse)?;
    file.write_all(text.as_bytes()).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_laid_out_is_good() {
        let folder = tempfile::tempdir().expect("a folder");
        let project = folder.path().join("new/project");
        let arguments = Init {
            directory: project.clone(),
        };
        init(&arguments).await.expect("it is laid out");
        let registry = registry::for_checks(&project.join("dags"))
            .await
            .expect("the dataset is good");
        for file in ["hello", "new"] {
            let text = match file {
                "new" => NEW_DAG.to_owned(),
                _hello => fs::read_to_string(project.join("dags/hello.toml")).expect("a file"),
            };
            if let Err(found) = dag_file::load(file, text.as_bytes(), &registry) {
                panic!("{found:?}");
            }
        }
        let schema = fs::read_to_string(project.join(SCHEMA)).expect("a file");
        let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
        assert_eq!(schema["title"], "Pinwheel DAG file");
        let again = init(&arguments).await.expect_err("nothing is overwritten");
        assert!(again.to_string().contains("pinwheel.toml"), "{again}");
    }
}
