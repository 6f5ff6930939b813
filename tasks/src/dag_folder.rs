//! Files beside the DAG files that tasks may name, such as scripts and SQL. A worker reads them from its own copy of the folder.

use std::path::{Component, Path, PathBuf};

use crate::Failure;

/// Larger files are refused.
const MOST_BYTES: u64 = 1024 * 1024;

/// The DAG folder, as kinds see it.
#[derive(Debug, Clone)]
pub(crate) struct DagFolder {
    path: PathBuf,
}

impl DagFolder {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where a file is; it must be there and lie below the folder.
    pub(crate) async fn find(&self, file: &str) -> Result<PathBuf, Failure> {
        check_path(file).map_err(Failure::permanent)?;
        let path = std::path::absolute(self.path.join(file)).map_err(|error| {
            Failure::retryable(format!("the DAG folder cannot be found: {error}"))
        })?;
        let cannot = |why: String| {
            Failure::permanent(format!("the file `{file}` cannot be read: {why}")).with_hint(
                format!(
                    "it is looked for below the DAG folder `{}` of the worker",
                    self.path.display()
                ),
            )
        };
        let metadata = tokio::fs::metadata(&path)
            .await
            .map_err(|error| cannot(error.to_string()))?;
        if !metadata.is_file() {
            return Err(cannot("it is no file".to_owned()));
        }
        if metadata.len() > MOST_BYTES {
            return Err(cannot(format!(
                "it has {} bytes, at most {MOST_BYTES} are read",
                metadata.len()
            )));
        }
        Ok(path)
    }
}

/// Checks that a path stays below the DAG folder.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    let stays_inside = !path.is_empty()
        && !path.contains('\\')
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if stays_inside {
        return Ok(());
    }
    Err(format!(
        "`{}` must be a path below the DAG folder, without `..` and not absolute",
        path.escape_debug()
    ))
}
