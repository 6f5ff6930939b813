//! The DAG folder: read at the start, looked at every few seconds without parsing what has not changed. A broken file
//! keeps its last good version running.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use pinwheel_tasks::Registry;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Clock, Error, Reloaded, bell::Bell, outage::Outage};
use crate::{
    model::{
        Dag, DagId,
        dag_file::{self, Colour, Diagnostic, Named},
    },
    store::{FileErrorRow, Published, Store, ToPublish, content_hash},
};

/// Larger files are refused without being parsed.
const LARGEST_FILE: u64 = 1024 * 1024;

/// A DAG folder as it was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Files without errors, by name.
    pub good: Vec<LoadedFile>,
    /// Files with errors, by name.
    pub bad: Vec<BadFile>,
}

/// A DAG file without errors.
#[derive(Debug, Clone)]
pub struct LoadedFile {
    /// Its name, relative to the folder.
    pub file: String,
    /// Its text.
    pub source: String,
    /// SHA-256 of its bytes, in hex.
    pub hash: String,
    /// What it says.
    pub dag: Arc<Dag>,
}

/// A DAG file with errors.
#[derive(Debug, Clone)]
pub struct BadFile {
    /// Its name, relative to the folder.
    pub file: String,
    /// Its text, as far as it is text.
    pub source: String,
    /// Everything that is wrong with it.
    pub diagnostics: Vec<Diagnostic>,
    /// Its DAG, if that much can be told.
    pub dag_id: Option<DagId>,
}

/// Reads every `*.toml` file of a folder; folders in it hold other things and are left alone.
///
/// # Errors
/// The folder cannot be read. A file that cannot be read is a bad file.
pub fn load_folder(path: &Path, registry: &Registry) -> io::Result<Loaded> {
    let files = list(path)?;
    let parsed = files
        .keys()
        .map(|file| parse(path, file, registry))
        .collect();
    Ok(check_unique(parsed))
}

/// Reads one DAG file.
///
/// # Errors
/// The file cannot be read.
pub fn load_file(path: &Path, registry: &Registry) -> io::Result<Loaded> {
    let bytes = fs::read(path)?;
    Ok(check_unique(vec![parse_bytes(
        path.display().to_string(),
        &bytes,
        registry,
    )]))
}

/// What tells that a file has changed without reading it.
type Stamp = (Option<SystemTime>, u64);

#[derive(Debug, Clone)]
enum Parsed {
    Good(LoadedFile),
    Bad(BadFile),
}

fn list(path: &Path) -> io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Links are followed: a mounted folder may consist of them.
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        if name.ends_with(".toml") && !name.starts_with('.') && metadata.is_file() {
            files.insert(name, (metadata.modified().ok(), metadata.len()));
        }
    }
    Ok(files)
}

fn parse(folder: &Path, file: &str, registry: &Registry) -> Parsed {
    let path = folder.join(file);
    let too_large = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LARGEST_FILE);
    if too_large {
        return Parsed::Bad(unreadable(
            file,
            format!("the file is larger than {LARGEST_FILE} bytes"),
        ));
    }
    match fs::read(&path) {
        Ok(bytes) => parse_bytes(file.to_owned(), &bytes, registry),
        Err(error) => Parsed::Bad(unreadable(
            file,
            format!("the file cannot be read: {error}"),
        )),
    }
}

fn unreadable(file: &str, message: String) -> BadFile {
    let diagnostic = Diagnostic {
        file: file.to_owned(),
        line: 1,
        column: 1,
        span: 0..0,
        message,
        label: String::new(),
        hint: None,
    };
    BadFile {
        file: file.to_owned(),
        source: String::new(),
        diagnostics: vec![diagnostic],
        dag_id: None,
    }
}

fn parse_bytes(file: String, bytes: &[u8], registry: &Registry) -> Parsed {
    let loaded = dag_file::load(&file, bytes, registry);
    match (loaded, std::str::from_utf8(bytes)) {
        (Ok(dag), Ok(source)) => Parsed::Good(LoadedFile {
            hash: content_hash(source),
            source: source.to_owned(),
            dag: Arc::new(dag),
            file,
        }),
        (Ok(_), Err(error)) => {
            Parsed::Bad(unreadable(&file, format!("the file is not UTF-8: {error}")))
        }
        (Err(diagnostics), _) => Parsed::Bad(BadFile {
            source: String::from_utf8_lossy(bytes).into_owned(),
            dag_id: dag_file::peek_id(bytes),
            diagnostics,
            file,
        }),
    }
}

fn check_unique(parsed: Vec<Parsed>) -> Loaded {
    let mut loaded = Loaded::default();
    for one in parsed {
        match one {
            Parsed::Good(file) => loaded.good.push(file),
            Parsed::Bad(file) => loaded.bad.push(file),
        }
    }
    let mut twice: HashMap<String, Vec<Diagnostic>> = HashMap::new();
    for diagnostic in dag_file::check_unique(loaded.good.iter().map(|file| Named {
        file: &file.file,
        source: &file.source,
        dag_id: &file.dag.id,
    })) {
        twice
            .entry(diagnostic.file.clone())
            .or_default()
            .push(diagnostic);
    }
    if !twice.is_empty() {
        let (bad, good) = loaded
            .good
            .into_iter()
            .partition(|file| twice.contains_key(&file.file));
        loaded.good = good;
        loaded
            .bad
            .extend(Vec::<LoadedFile>::into_iter(bad).map(|file| BadFile {
                diagnostics: twice.remove(&file.file).unwrap_or_default(),
                // The id belongs to the file that had it first.
                dag_id: None,
                source: file.source,
                file: file.file,
            }));
        loaded.bad.sort_by(|one, other| one.file.cmp(&other.file));
    }
    loaded
}

/// A watched DAG folder.
pub(super) struct DagFolder {
    path: PathBuf,
    registry: Registry,
    store: Store,
    bell: Bell,
    outage: Outage,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    files: HashMap<String, (Stamp, Parsed)>,
    /// The last reading did not reach the store.
    unsaved: bool,
    /// The folder itself could not be read; said once.
    missing: bool,
}

impl DagFolder {
    pub(super) fn new(
        path: PathBuf,
        registry: Registry,
        store: Store,
        bell: Bell,
        outage: Outage,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            path,
            registry,
            store,
            bell,
            outage,
            clock,
            known: Mutex::default(),
        }
    }

    /// Looks at the folder every `period`, until the process stops.
    pub(super) async fn watch(&self, period: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(period) => {}
            }
            let question = self.outage.asking();
            match self.look(Force::No).await {
                Ok(_) => {}
                Err(Error::Store(error)) => {
                    question.failed(&error);
                    if !error.is_unavailable() {
                        tracing::error!(%error, "the DAG folder could not be published; it is tried again");
                    }
                }
                Err(error) => {
                    let mut known = self.known.lock().await;
                    if !known.missing {
                        known.missing = true;
                        tracing::error!(%error, "the DAGs that are known go on");
                    }
                }
            }
        }
    }

    /// Reads the folder now and publishes what it says.
    pub(super) async fn reload(&self) -> Result<Reloaded, Error> {
        self.look(Force::Yes).await
    }

    async fn look(&self, force: Force) -> Result<Reloaded, Error> {
        let mut known = self.known.lock().await;
        let path = self.path.clone();
        let before: HashMap<String, Stamp> = known
            .files
            .iter()
            .map(|(file, (stamp, _))| (file.clone(), *stamp))
            .collect();
        let registry = self.registry.clone();
        let read = tokio::task::spawn_blocking(move || read_changes(&path, &before, &registry))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| Error::DagFolder {
                path: self.path.clone(),
                source,
            })?;
        known.missing = false;
        let is_changed = !read.changed.is_empty() || known.files.len() != read.present.len();
        if !is_changed && !known.unsaved && force == Force::No {
            return Ok(Reloaded::default());
        }
        known.files.retain(|file, _| read.present.contains(file));
        known.files.extend(read.changed);
        known.unsaved = true;
        let mut parsed: Vec<Parsed> = known
            .files
            .values()
            .map(|(_, parsed)| parsed.clone())
            .collect();
        parsed.sort_by(|one, other| one.file().cmp(other.file()));
        let question = self.outage.asking();
        let reloaded = self.save(&check_unique(parsed)).await?;
        known.unsaved = false;
        question.answered();
        Ok(reloaded)
    }

    async fn save(&self, loaded: &Loaded) -> Result<Reloaded, Error> {
        let published = self.store.published().await?;
        let current: HashMap<_, _> = published.iter().map(|row| (&row.dag_id, row)).collect();
        let shift = *self.clock.shift().borrow();
        let changed: Vec<ToPublish<'_>> = loaded
            .good
            .iter()
            .filter(|file| {
                current.get(&file.dag.id).is_none_or(|row| {
                    !row.present || row.file != file.file || row.content_hash != file.hash
                })
            })
            .map(|file| ToPublish {
                file: &file.file,
                source: &file.source,
                dag: &file.dag,
            })
            .collect();
        let mut new_versions = 0;
        for (file, published) in changed
            .iter()
            .zip(self.store.publish_all(&changed, shift).await?)
        {
            if let Published::NewVersion(version) = published {
                new_versions += 1;
                tracing::info!(dag_id = %file.dag.id, file = file.file, version_id = version.0, "a DAG has a new version");
            }
        }
        let errors: Vec<FileErrorRow> = loaded
            .bad
            .iter()
            .map(|file| FileErrorRow {
                file: file.file.clone(),
                report: dag_file::render(
                    &file.diagnostics,
                    &file.file,
                    &file.source,
                    Colour::Never,
                ),
                error_count: i32::try_from(file.diagnostics.len()).unwrap_or(i32::MAX),
            })
            .collect();
        self.store.record_file_errors(&errors).await?;
        let broken: HashSet<&str> = loaded.bad.iter().map(|file| file.file.as_str()).collect();
        let mut present: Vec<DagId> = loaded.good.iter().map(|file| file.dag.id.clone()).collect();
        present.extend(loaded.bad.iter().filter_map(|file| file.dag_id.clone()));
        present.extend(
            published
                .iter()
                .filter(|row| row.present && broken.contains(row.file.as_str()))
                .map(|row| row.dag_id.clone()),
        );
        self.store.retire_missing(&present).await?;
        self.bell.ring();
        Ok(Reloaded {
            good: loaded.good.len(),
            bad: loaded.bad.len(),
            new_versions,
        })
    }
}

impl Parsed {
    fn file(&self) -> &str {
        match self {
            Self::Good(file) => &file.file,
            Self::Bad(file) => &file.file,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Force {
    Yes,
    No,
}

struct Changes {
    present: HashSet<String>,
    changed: Vec<(String, (Stamp, Parsed))>,
}

fn read_changes(
    path: &Path,
    before: &HashMap<String, Stamp>,
    registry: &Registry,
) -> io::Result<Changes> {
    let files = list(path)?;
    let changed = files
        .iter()
        .filter(|(file, stamp)| before.get(*file) != Some(*stamp))
        .map(|(file, stamp)| (file.clone(), (*stamp, parse(path, file, registry))))
        .collect();
    Ok(Changes {
        present: files.into_keys().collect(),
        changed,
    })
}
