//! The dataset files of a folder, by id.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc};

use super::{Dataset, Error};

/// The datasets a process knows.
#[derive(Debug, Default)]
pub struct Catalog {
    datasets: BTreeMap<String, Arc<Dataset>>,
}

/// Why a folder of dataset files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The folder or a file in it cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// The folder or file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Files with mistakes, all of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Files(Vec<Error>),
}

impl Catalog {
    /// Reads every `*.toml` of a folder. A folder that does not exist is an empty catalog.
    ///
    /// # Errors
    /// When something cannot be read, or with the mistakes of all files at once.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, CatalogError> {
        let folder = folder.as_ref();
        let io_error = |path: &Path| {
            let path = path.display().to_string();
            move |source| CatalogError::Io { path, source }
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io_error(folder)(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_error(folder))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                paths.push(path);
            }
        }
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let bytes = fs::read(&path).map_err(io_error(&path))?;
            files.push((path.display().to_string(), bytes));
        }
        Self::from_files(
            files
                .iter()
                .map(|(name, bytes)| (name.as_str(), bytes.as_slice())),
        )
        .map_err(CatalogError::Files)
    }

    /// Builds a catalog from the contents of files.
    ///
    /// # Errors
    /// The mistakes of all files at once; two files with one id are a mistake of the later one.
    pub fn from_files<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, Vec<Error>> {
        let mut catalog = Self::default();
        let mut origins: BTreeMap<String, String> = BTreeMap::new();
        let mut errors = Vec::new();
        for (file, bytes) in files {
            let Ok(text) = std::str::from_utf8(bytes) else {
                errors.push(Error::about_file(
                    file,
                    "the file is not UTF-8",
                    Some("save it as UTF-8"),
                ));
                continue;
            };
            match Dataset::parse(file, text) {
                Err(error) => errors.push(error),
                Ok(dataset) => {
                    if let Some(other) = origins.insert(dataset.id().to_owned(), file.to_owned()) {
                        let message =
                            format!("dataset `{}` is defined in `{other}` already", dataset.id());
                        errors.push(Error::about_file(
                            file,
                            &message,
                            Some("give one of them another `id`"),
                        ));
                    } else {
                        catalog
                            .datasets
                            .insert(dataset.id().to_owned(), Arc::new(dataset));
                    }
                }
            }
        }
        if errors.is_empty() {
            Ok(catalog)
        } else {
            Err(errors)
        }
    }

    /// The dataset of that id.
    pub fn get(&self, id: &str) -> Option<Arc<Dataset>> {
        self.datasets.get(id).cloned()
    }

    /// All datasets, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Dataset>> {
        self.datasets.values()
    }

    /// All ids, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.datasets.keys().map(String::as_str)
    }
}
